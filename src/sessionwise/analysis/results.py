"""The results of a study: one tidy table, the gains of single test trials beside it, and what was asked.

Everything that a study's report shows is computed from what ``open_results`` reads; no model is needed for it.
A number that is missing is a row with a state and a reason, never a zero and never left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis.summary import check_ranking
from sessionwise.analysis.tables import safe_cell
from sessionwise.errors import DataError, UsageError
from sessionwise.io.files import check_sealed, read_sealed, write_bytes
from sessionwise.io.tensors import read_tensors, write_tensors

SCHEMA = 1
STUDY_FILE, TABLE_FILE, GAINS_FILE = "study.json", "results.csv", "results.safetensors"
ABOUT_FILE, TRANSFER_FILE = "results.json", "transfer.csv"
TRANSFER_FIELDS = ("source", "target", "seed", "value", "state", "reason")
_REMEDY = "Run the same study command again"


@dataclass(frozen=True)
class Row:
    """One number of a study, or why there is none.

    arm, variant, size, draw, seed: which model (size: sessions asked for; draw: number of the shuffle). part: "test" or
    "validation"; metric: "bps", "bps_unit_mean" or "bps_tail"; value: bits per spike. n_sessions, trials: sessions in
    pretraining and all their trials together. sessions: their ids. run: key of the final evaluation; model: key of the
    training that was evaluated.
    """

    split_seed: int
    heldout: str
    arm: str
    variant: str
    size: int | None
    draw: int
    seed: int
    part: str
    metric: str
    value: float | None
    state: str
    reason: str | None
    n_sessions: int
    trials: int | None
    pretrain_steps: int | None
    finetune_steps: int | None
    tokens: int | None
    sessions: tuple[str, ...]
    run: str | None
    model: str | None


ROW_FIELDS = tuple(field.name for field in fields(Row))
_WHOLE = {
    "split_seed",
    "size",
    "draw",
    "seed",
    "n_sessions",
    "trials",
    "pretrain_steps",
    "finetune_steps",
    "tokens",
}


@dataclass(frozen=True, eq=False)
class StudyResults:
    """What a study found. gains, spikes: key of a final evaluation -> (K,) of its test trials, nats and counts."""

    study: Mapping[str, Any]
    rows: tuple[Row, ...]
    gains: Mapping[str, np.ndarray]
    spikes: Mapping[str, np.ndarray]
    rankings: tuple[Mapping[str, Any], ...]
    transfer: tuple[Mapping[str, Any], ...]
    about: Mapping[str, Any]


def open_results(folder: str | Path) -> StudyResults:
    """Read the results of a study's folder.

    Raises UsageError where no study has finished, DataError for a table that is not ours.
    """
    folder = Path(folder)
    for name in (STUDY_FILE, ABOUT_FILE, TABLE_FILE, GAINS_FILE):
        if not (folder / name).exists():
            remedy = "Run (or finish): sessionwise study RECIPE.toml --to STUDY"
            raise UsageError(str(folder), f"holds no {name}", "the folder of a finished study", remedy)
    study, about = read_sealed(folder / STUDY_FILE), read_sealed(folder / ABOUT_FILE)
    _require_schema(folder / STUDY_FILE, study)
    _require_schema(folder / ABOUT_FILE, about)
    stored = read_tensors(check_sealed(folder / GAINS_FILE))
    rankings = [folder / path / "ranking.json" for path in about["rankings"]]
    return StudyResults(
        study=study,
        rows=tuple(read_rows(folder / TABLE_FILE, (*study["heldout"], *study["pool"]))),
        gains={name.removeprefix("gain."): stored[name] for name in stored if name.startswith("gain.")},
        spikes={name.removeprefix("spikes."): stored[name] for name in stored if name.startswith("spikes.")},
        rankings=tuple(check_ranking(read_sealed(path), str(path)) for path in rankings),
        transfer=tuple(_transfer(folder / TRANSFER_FILE, (*study["heldout"], *study["pool"]))),
        about=about,
    )


def write_gains(path: Path, gains: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Store key -> (gains, spikes), each (K,), of the test trials."""
    named = {f"gain.{key}": pair[0] for key, pair in gains.items()}
    write_tensors(path, named | {f"spikes.{key}": pair[1] for key, pair in gains.items()})


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the tidy table: numbers in full precision, a missing value empty, no text that a spreadsheet executes."""
    lines = [[_cell(name, getattr(row, name)) for name in ROW_FIELDS] for row in rows]
    _write_csv(path, ROW_FIELDS, lines)


def read_rows(path: Path, ids: Sequence[str]) -> list[Row]:
    """Read what ``write_rows`` wrote; ``ids``: the sessions that may appear in it."""
    known = {safe_cell(i): i for i in ids}
    rows = []
    for number, line in enumerate(_read_csv(path, ROW_FIELDS), start=2):
        try:
            rows.append(Row(**{name: _value(name, line[name], known) for name in ROW_FIELDS}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}", f"is no row of results ({error})", "a row", _REMEDY) from error
    return rows


def write_transfer(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the transfer matrix, one line a (source, target, seed)."""
    _write_csv(path, TRANSFER_FIELDS, [[safe_cell(row[name]) for name in TRANSFER_FIELDS] for row in rows])


def _transfer(path: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    known, rows = {safe_cell(i): i for i in ids}, []
    for number, line in enumerate(_read_csv(path, TRANSFER_FIELDS), start=2):
        try:
            rows.append(_transfer_row(line, known))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}", f"is no transfer score ({error})", "a score", _REMEDY) from error
    return rows


def _transfer_row(line: Mapping[str, str], known: Mapping[str, str]) -> dict[str, Any]:
    return {
        "source": known[line["source"]],
        "target": known[line["target"]],
        "seed": int(line["seed"]),
        "value": float(line["value"]) if line["value"] else None,
        "state": line["state"],
        "reason": line["reason"] or None,
    }


def _cell(name: str, value: Any) -> str:
    return json.dumps(list(value)) if name == "sessions" else safe_cell(value)


def _value(name: str, text: str, known: Mapping[str, str]) -> Any:
    if name == "sessions":
        return tuple(json.loads(text))
    if name == "heldout":
        return known[text]
    if name in _WHOLE:
        return int(text) if text else None
    if name == "value":
        return float(text) if text else None
    return text if text or name == "variant" else None


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(header), *lines])
    write_bytes(path, out.getvalue().encode())


def _read_csv(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = check_sealed(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "a table of results", _REMEDY) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if tuple(reader.fieldnames or ()) != tuple(header):
        raise DataError(str(path), f"has the columns {reader.fieldnames}", f"{', '.join(header)}", _REMEDY)
    try:
        return list(reader)
    except csv.Error as error:
        raise DataError(str(path), f"is damaged ({error})", "a table of results", _REMEDY) from error


def _require_schema(path: Path, document: Any) -> None:
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        raise DataError(str(path), f"has schema {found!r}", f"schema {SCHEMA}", "Use the sessionwise that wrote it")
