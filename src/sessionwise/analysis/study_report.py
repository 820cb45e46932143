"""The report of a study: one offline page with its numbers beside it as JSON, its figures and tables as files.

``report/``: index.html, report.json (the document of ``study.analyse``, from which everything else is made), figures/
as SVG, PDF and PNG, tables/ as CSV, Markdown and LaTeX, rankings/ with the page of the rankings. The same document
gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis import pages, study_captions, study_figures, study_tables
from sessionwise.analysis.pages import drop_old_files, flat, write_figure, write_page
from sessionwise.analysis.report import write_report
from sessionwise.analysis.results import open_results
from sessionwise.analysis.study import analyse
from sessionwise.analysis.study_judged_figures import VERDICTS
from sessionwise.analysis.study_words import heldout_name, unit_name, with_interval
from sessionwise.analysis.summary import require_finite
from sessionwise.analysis.trial_splits import share
from sessionwise.errors import DataError
from sessionwise.io.files import sealed_files, write_bytes, write_json

Document = Mapping[str, Any]

# Without these keys a document is none of a study.
_NEEDED = {"schema", "heldout", "pool", "n_pool", "seeds", "sizes", "top", "answer", "curves", "claims", "provenance"}


def report(study: Path, *, allow_missing: bool = False, n_boot: int = 2000) -> Path:
    """Analyse a finished study and write ``STUDY/report``; returns the page's path.

    allow_missing: means over incomplete sets are shown, and say so. n_boot: draws of each bootstrap.
    """
    results = open_results(study)
    document = analyse(results, allow_missing=allow_missing, n_boot=n_boot)
    return write_study_report(Path(study) / "report", document, results.rankings, Path(study))


def write_study_report(
    folder: Path, document: dict[str, Any], rankings: Sequence[Document], study: Path | None = None
) -> Path:
    """Write the page, its JSON, figures and tables, and the page of the rankings; returns the page's path.

    study: the folder that holds pictures of the held-out recordings, for the page of the rankings.
    Files of an earlier report that this one does not have are removed. Raises DataError when the document is none of a
    study, or when a number in it or in a ranking is not finite.
    """
    if missing := sorted(_NEEDED - document.keys()):
        raise DataError("document of the study", f"lacks {', '.join(missing)}", "what sessionwise study computes")
    require_finite(document, "document of the study")
    with sealed_files(Path(folder)):
        return _write_report(Path(folder), document, rankings, study)


def _write_report(folder: Path, document: dict[str, Any], rankings: Sequence[Document], study: Path | None) -> Path:
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # What the page shows is what a reader of report.json reads.
    document = json.loads(json.dumps(document, allow_nan=False))
    drawn = {name: _figure(folder, name, document) for name in study_figures.FIGURES}
    tables = _tables(folder, document)
    linked = _rankings(folder, rankings, document.get("split_seed"), study)
    written = [f"{figure['file']}.{form}" for figure in drawn.values() if "file" in figure for form in pages.FORMS]
    drop_old_files(folder / "figures", written, pages.FORMS)
    write_json(folder / "report.json", document)
    shown = {"d": document, "figures": drawn, "tables": tables, "rankings": linked, **_words(document)}
    return write_page(folder / "index.html", "study.html.j2", shown, document)


def _figure(folder: Path, name: str, document: Document) -> dict[str, Any]:
    """A figure for the page, or only the reason why there is none."""
    figure = study_figures.draw(name, document)
    if figure is None:
        return {"name": name, "absent": study_captions.absent(name, document)}
    caption = study_captions.caption(name, document)
    return {"name": name, "caption": caption, **write_figure(folder, figure, name)}


def _tables(folder: Path, document: Document) -> dict[str, study_tables.Table]:
    made = study_tables.tables(document)
    for name, table in made.items():
        for form in study_tables.FORMS:
            write_bytes(folder / "tables" / f"{name}.{form}", study_tables.render(table, form))
    drop_old_files(
        folder / "tables", [f"{name}.{form}" for name in made for form in study_tables.FORMS], study_tables.FORMS
    )
    return made


def _rankings(
    folder: Path, rankings: Sequence[Document], main: int | None, study: Path | None
) -> list[tuple[str, str]]:
    """A page of rankings for every split of the trials, as (name, address from the report); those of old splits go."""
    splits = sorted({ranking["split_seed"] for ranking in rankings}, key=lambda seed: (seed != main, seed))
    written = []
    for seed in splits:
        place = "rankings" if seed == splits[0] else f"rankings/split-{seed}"
        mine = [ranking for ranking in rankings if ranking["split_seed"] == seed]
        write_report(folder / place, mine, study=study)
        written.append(("Rankings in full" if seed == splits[0] else f"Rankings, split {seed}", f"{place}/index.html"))
    kept = {address for _, address in written}
    for page in [folder / "rankings" / "index.html", *(folder / "rankings").glob("split-*/index.html")]:
        if page.relative_to(folder).as_posix() not in kept and page.exists():
            _remove_report(page.parent)
    return written


def _remove_report(folder: Path) -> None:
    """Remove the files of a report and what is empty then; other files stay."""
    for name in ("index.html", "report.json"):
        (folder / name).unlink(missing_ok=True)
    if (folder / "figures").is_dir():
        drop_old_files(folder / "figures", (), pages.FORMS)
    for place in (folder / "figures", folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _words(document: Document) -> dict[str, Any]:
    """What the template needs besides the document: words and lists, no new numbers."""
    provenance = document["provenance"]
    environments = [sorted(flat(e)) for e in provenance.get("environments") or [provenance.get("versions") or {}] if e]
    return {
        "claims": [_claim(claim, document) for claim in document["claims"]],
        "closeness": facts(document["closeness"]) if document["closeness"] else [],
        "regressions": _regressions(document),
        "variance": facts(document["transfer"]["split"]) if (document["transfer"] or {}).get("split") else [],
        "settings": flat(provenance.get("settings") or {}),
        "recipe": flat(provenance.get("recipe") or {}),
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "kinds": _items(provenance.get("cost") or {}, "by_kind"),
        "splits": [(i, _split_words(i, sizes, document)) for i, sizes in _items(provenance, "splits")],
    }


def _split_words(session: str, sizes: Mapping[str, int], document: Document) -> str:
    """How many trials of a session are in each part, and what of the scored bins lies in training windows."""
    text = ", ".join(f"{n} {part}" for part, n in sizes.items())
    shares = (document.get("trial_split") or {}).get("shared_bins", {}).get(session)
    if not shares:
        return text
    return f"{text}; bins in training windows: {', '.join(f'{part} {share(s)}' for part, s in shares.items())}"


def _items(provenance: Document, name: str) -> list[tuple[str, Any]]:
    return sorted((provenance.get(name) or {}).items())


def _claim(claim: Document, document: Document) -> dict[str, Any]:
    """A claim with its numbers in words."""
    value, other = claim["value"], claim["paper_choice"]
    each = [
        {
            "heldout": heldout_name(entry["heldout"], document),
            "verdict": entry["verdict"],
            "number": with_interval(entry, value["unit"] if value else "bps"),
            "sizes": ", ".join(
                f"{order.replace('_', '-')} {size}" for order, size in (entry.get("sizes") or {}).items()
            ),
            "reason": entry["reason"] or "",
        }
        for entry in claim["per_heldout"]
    ]
    return {
        **claim,
        "number": f"{with_interval(value, value['unit'])} {unit_name(value['unit'])}" if value else "–",
        "chosen": f"{with_interval(other, other['unit'])} {unit_name(other['unit'])}: {other['verdict']}"
        if other
        else "",
        "each": each,
        "extra": [(e["name"], f"{with_interval(e, e['unit'])} {unit_name(e['unit'])}") for e in claim["beside"] or ()],
        "css": claim["verdict"].replace(" ", "-") if claim["verdict"] in VERDICTS else "undecided",
    }


def _regressions(document: Document) -> list[tuple[str, list[tuple[str, str]]]]:
    known = (document["metadata"] or {}).get("regression") or {}
    return [(name, facts(found)) for name, found in known.items() if found]


def facts(found: Mapping[str, Any], front: str = "") -> list[tuple[str, str]]:
    """(name, value) of nested results in words: estimates as ``mean [low, high]``, lists of rows one by one."""
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        name = f"{front}, {_plain(key)}" if front else _plain(key)
        if isinstance(value, Mapping) and "mean" in value:
            lines.append((name, with_interval(value, "")))
        elif isinstance(value, Mapping):
            lines += facts(value, name)
        elif isinstance(value, list):
            lines += _listed(value, name)
        else:
            lines.append((name, _value(value)))
    return lines


def _listed(values: Sequence[Any], name: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for value in values:
        if isinstance(value, Mapping):
            label = value.get("name") or value.get("heldout") or ""
            rest = {key: item for key, item in value.items() if key not in ("name", "heldout")}
            lines += facts(rest, f"{name}, {label}" if label else name)
    plain = [value for value in values if not isinstance(value, (Mapping, list))]
    return [*lines, (name, ", ".join(map(_value, plain)))] if plain else lines


def _plain(key: Any) -> str:
    return str(key).replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return pages.grouped(value) if isinstance(value, int) else pages.number(value, 4)
