"""Studies of simulated sessions with strong closeness and with none: the tables of docs/results/scaling.md.

    python benchmarks/closeness_studies.py FOLDER [--seeds 0 1 2]      run what is missing, print both tables
    python benchmarks/closeness_studies.py FOLDER --show STUDY ...     tables of any finished studies, as Markdown

Each is ``sessionwise study recipes/NAME.toml --set data.simulate.seed=SEED --to FOLDER/NAME-SEED``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.inference import exact_permutation
from sessionwise.analysis.study_report import report
from sessionwise.io.files import read_json
from sessionwise.runs.progress import make_progress
from sessionwise.study.recipe import load_recipe
from sessionwise.study.scaling import run_study

RECIPES = Path(__file__).parents[1] / "recipes"
KINDS = {"strong": "demo", "none": "control-no-closeness"}
Document = Mapping[str, Any]


def main() -> None:
    """Run what is missing and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--show", nargs="+", metavar="STUDY", help="names of finished studies in FOLDER")
    options = parser.parse_args()
    if options.show:
        studies = {name: document(options.folder / name) for name in options.show}
    else:
        studies = {
            f"{kind}, {seed}": run(options.folder, recipe, seed)
            for kind, recipe in KINDS.items()
            for seed in options.seeds
        }
    for table in (claims_table, closeness_table, scores_table):
        print("\n".join(table(studies)) + "\n")
    if not options.show:
        print("\n".join(across_table(studies)))


def run(folder: Path, name: str, seed: int) -> Document:
    """One study, or what is left of it."""
    recipe = load_recipe(RECIPES / f"{name}.toml", [f"data.simulate.seed={seed}"])
    place = run_study(recipe, folder / f"{name}-{seed}", progress=make_progress())
    report(place)
    return document(place)


def document(study: Path) -> Document:
    """The numbers of a study's report."""
    found: Document = read_json(study / "report" / "report.json")
    return found


def claims_table(studies: Mapping[str, Document]) -> list[str]:
    """A row a claim, a column a study: verdict, number and interval, average over held-out sessions."""
    lines = header("claim", studies)
    first = next(iter(studies.values()))
    for i, claim in enumerate(first["claims"]):
        lines.append(row(claim["text"], [claim_cell(d["claims"][i]) for d in studies.values()]))
    return lines


def claim_cell(claim: Document) -> str:
    """``supported +0.013 [+0.002, +0.020]``."""
    value = claim["value"]
    if value is None or value["mean"] is None:
        return str(claim["verdict"])
    digits = 4 if value["unit"] == "bps" else 2
    return f"{claim['verdict']}: {interval(value, digits)} {value['unit']}"


def closeness_table(studies: Mapping[str, Document]) -> list[str]:
    """What tells close from large: every number of the decomposition with its interval."""
    lines = header("closeness", studies)
    names = {name for d in studies.values() for name, value in (d["closeness"] or {}).items() if is_number(value)}
    for name in sorted(names):
        lines.append(row(name, [number_cell((d["closeness"] or {}).get(name)) for d in studies.values()]))
    lines.append(row("verdict", [str((d["closeness"] or {}).get("verdict")) for d in studies.values()]))
    return lines


def across_table(studies: Mapping[str, Document]) -> list[str]:
    """Strong closeness against none over the generator seeds: values, means, exact permutation p of the difference."""
    lines = [row("over generator seeds", ["strong", "none", "p"]), "|---|---|---|---|"]
    measures = {
        "share in common": lambda d: (d["closeness"]["shared"] or {}).get("mean"),
        "correlation of rankings": lambda d: d["closeness"]["cross_target_rho"]["mean"],
        "the same, given trials": lambda d: (d["closeness"]["partial_rho"] or {}).get("mean"),
        "own ranking minus the other's, top 3": own_minus_other,
    }
    for name, measure in measures.items():
        values = {kind: [measure(d) for n, d in studies.items() if n.startswith(kind)] for kind in KINDS}
        known = all(value is not None for group in values.values() for value in group)
        p = exact_permutation(values["strong"], values["none"]) if known else None
        cells = [", ".join(number_cell(v) for v in group) + mean_cell(group) for group in values.values()]
        lines.append(row(name, [*cells, number_cell(p, 2)]))
    return lines


def mean_cell(values: Sequence[float | None]) -> str:
    """`` (mean 0.593)``, or nothing where a value is missing."""
    known = [value for value in values if value is not None]
    return f" (mean {sum(known) / len(known):.3f})" if known and len(known) == len(values) else ""


def own_minus_other(study: Document) -> float | None:
    """Test score of the target's own top sessions minus that of the other target's top sessions, bits per spike."""
    rows = [r for c in study["controls"] if c["name"] == "other_targets" for r in c["rows"] if r["heldout"] is None]
    return -rows[0]["difference"]["mean"] if rows and rows[0]["difference"] else None


def scores_table(studies: Mapping[str, Document]) -> list[str]:
    """Mean test score of every arm and size, average over held-out sessions, bits per spike."""
    lines = header("test bits per spike", studies)
    names: dict[str, dict[str, str]] = {}
    for study, found in studies.items():
        for curve in found["curves"]:
            if curve["heldout"] is None:
                for point in curve["points"]:
                    name = f"{curve['arm']} {point['size']}"
                    names.setdefault(name, {})[study] = number_cell(point["mean"])
        for entry in found["baselines"]:
            if entry["heldout"] is None:
                names.setdefault(entry["arm"], {})[study] = number_cell(entry["mean"])
        for control in found["controls"]:
            for entry in control["rows"]:
                if entry["heldout"] is None:
                    name = f"{entry['arm']} {entry['size'] or ''} {entry['variant']}".replace("  ", " ").strip()
                    names.setdefault(name, {})[study] = number_cell(entry["mean"])
    return [*lines, *(row(name, [cells.get(study, "–") for study in studies]) for name, cells in names.items())]


def header(first: str, studies: Mapping[str, Document]) -> list[str]:
    """The head of a table of studies."""
    return [row(first, list(studies)), "|" + "---|" * (1 + len(studies))]


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {name} | " + " | ".join(cells) + " |"


def is_number(value: Any) -> bool:
    """Whether a part of the decomposition is a number, plain or with an interval."""
    return isinstance(value, (int, float)) or (isinstance(value, Mapping) and "mean" in value)


def number_cell(value: Any, digits: int = 3) -> str:
    """A number, plain or with its interval; a dash where there is none."""
    if isinstance(value, Mapping):
        return interval(value, digits)
    return "–" if value is None else f"{value:.{digits}f}"


def interval(value: Mapping[str, Any], digits: int) -> str:
    """``+0.013 [+0.002, +0.020]``."""
    if value.get("mean") is None:
        return "–"
    text = f"{value['mean']:+.{digits}f}"
    if value.get("low") is None or value.get("high") is None:
        return text
    return f"{text} [{value['low']:+.{digits}f}, {value['high']:+.{digits}f}]"


if __name__ == "__main__":
    main()
