"""What a search for settings found, as a table for the terminal, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.tables import safe_cell
from sessionwise.errors import DataError, UsageError
from sessionwise.io.files import read_sealed
from sessionwise.study.tuning_recipe import BASE
from sessionwise.study.tuning_scores import SET, SINGLE

SCHEMA = 1
JSON_FILE = "tuning.json"
_COLUMNS = ["setting", "value", "bits/spike", "sd", "single", "set", "difference", "95 %", "shared", "verdict"]


def tuning_table(folder: str | Path) -> tuple[list[str], list[list[str | None]]]:
    """(columns, rows) of a finished search: a row for each value of each setting, the best one of a setting marked."""
    return table_of(read_results(folder))


def tuning_failures(folder: str | Path) -> list[dict[str, Any]]:
    """Name, state and reason of each variant without a score."""
    entries = read_results(folder)["variants"]
    return [{name: e[name] for name in ("name", "state", "reason")} for e in entries if e["state"] != "done"]


def read_results(folder: str | Path) -> dict[str, Any]:
    """``tuning.json`` of a finished search; UsageError where there is none."""
    path = Path(folder) / JSON_FILE
    if not path.exists():
        remedy = "Run (or finish): sessionwise study RECIPE.toml --to FOLDER"
        raise UsageError(str(folder), f"holds no {JSON_FILE}", "the folder of a finished search", remedy)
    document: dict[str, Any] = read_sealed(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(str(path), "has another schema", f"schema {SCHEMA}", "Run the same command again")
    return document


def runs_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV: numbers in full precision, a missing value empty, no text that a spreadsheet executes."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(rows[0])
    lines.writerows([[safe_cell(cell) for cell in row.values()] for row in rows])
    return out.getvalue().encode()


def table_of(document: Mapping[str, Any]) -> tuple[list[str], list[list[str | None]]]:
    """(columns, rows) of ``tuning.json``."""
    entries = {entry["name"]: entry for entry in document["variants"]}
    rows = []
    for choice in document["choices"]:
        for member in choice["values"]:
            entry, is_base = entries[member["name"]], member["name"] == BASE
            verdict = choice["verdict"] if member["name"] == choice["best_name"] else None
            if entry["state"] != "done":
                verdict = entry["state"]
            rows.append(
                _cells(
                    choice["setting"],
                    f"{member['value']}{' (base)' if is_base and member['value'] != BASE else ''}",
                    entry,
                    verdict,
                )
            )
    return list(_COLUMNS), rows


def _cells(setting: str, value: str, entry: Mapping[str, Any], verdict: str | None) -> list[str | None]:
    scopes, d = entry["scopes"], entry["difference"]
    parts = [_number(scopes[s]["score"]) if s in scopes else None for s in (SINGLE, SET)]
    span = f"{d['low']:+.4f} to {d['high']:+.4f}" if d else None
    size = _millions(entry["core_parameters"])
    mean = f"{d['mean']:+.4f}" if d else None
    return [setting, value, _number(entry["score"]), _number(entry["sd"]), *parts, mean, span, size, verdict]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def page(document: Mapping[str, Any]) -> str:
    """The results for people, as Markdown; ids and names are code, so nothing in them is markup."""
    columns, rows = table_of(document)
    n = len(document["single"])
    lines = [
        f"# Search for settings: {_code(document['name'])}",
        "",
        document["score"],
        "",
        f"Preset {document['preset']}, seeds {', '.join(map(str, document['seeds']))}, {n} single-session models, "
        f"a set of {len(document['set'])}, {document['n_validation_trials']} validation trials. The difference is to "
        "the base, on the same trials; it is told apart when its interval, widened for the number of values of the "
        "setting (Bonferroni), lies above zero. SD: over seeds.",
        "",
        *(f"- {_escaped(choice['text'])}" for choice in document["choices"]),
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(_escaped(cell or '') for cell in row)} |" for row in rows),
    ]
    failed = [entry for entry in document["variants"] if entry["reason"]]
    if failed:
        lines += ["", "Without a score:", ""]
        lines += [f"- {_escaped(e['name'])}: {e['state']}: {_escaped(e['reason'])}" for e in failed]
    lines += ["", "Single: " + (", ".join(map(_code, document["single"])) or "none")]
    lines += ["", "Set: " + (", ".join(map(_code, document["set"])) or "none")]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    safe = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\`*_[]<>|&":
        safe = safe.replace(mark, f"\\{mark}")
    return safe


def _code(text: str) -> str:
    safe = "".join(c if c.isprintable() else " " for c in text)
    return "`" + safe.replace("`", "'").replace("|", "/") + "`"
