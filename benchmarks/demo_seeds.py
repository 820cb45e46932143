"""What the demo finds with other seeds: the table of docs/results/demo.md.

    python benchmarks/demo_seeds.py FOLDER [--seeds 0 1 2 ...]

Each seed is a demo in FOLDER/demo-SEED; finished ones are read, not run again. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.statistics import spearman
from sessionwise.data.simulate import read_truth
from sessionwise.runs.progress import make_progress
from sessionwise.study.demo import Demo, run_demo

COLUMNS = ("seed", "ranked 3", "random 3", "reverse 3", "baseline", "rho(truth)", "rho, good", "rho(seed)", "p(equal)")


def main() -> None:
    """Run what is missing, print one row a seed and the counts below."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    arms = []
    for seed in options.seeds:
        demo = run_demo(options.folder / f"demo-{seed}", seed=seed, progress=make_progress())
        arms.append({arm["name"]: arm["bps"] for arm in demo.comparison["arms"]})
        bad = read_truth(options.folder / f"demo-{seed}" / "store")["bad"]
        print(row(seed, demo, arms[-1], bad), flush=True)
    print("\n" + counts(arms))


def row(seed: int, demo: Demo, arms: Mapping[str, float | None], bad: Sequence[str]) -> str:
    """One line of the table; a dash where something diverged or failed."""
    document = demo.ranking.document
    truth, noise = document["truth"], document["noise"]
    good = [row for row in document["rows"] if row["state"] == "done" and row["session"] not in bad]
    among = spearman([row["score"] for row in good], [truth["closeness"][row["session"]] for row in good])
    rhos = [number(value, 2) for value in (truth["spearman"], among, noise["seed_correlation"])]
    numbers = [number(arms[name], 3) for name in COLUMNS[1:5]] + rhos + [number(noise["p_equal"], 3)]
    return f"| {seed} | " + " | ".join(numbers) + " |"


def counts(arms: list[dict[str, Any]]) -> str:
    """How often each order held, over the seeds in which both arms have a score."""
    lines = []
    for better, worse in (
        ("ranked 3", "reverse 3"),
        ("ranked 3", "random 3"),
        ("random 3", "reverse 3"),
        ("ranked 3", "baseline"),
    ):
        both = [arm for arm in arms if arm[better] is not None and arm[worse] is not None]
        lines.append(f"{better} above {worse}: {sum(arm[better] > arm[worse] for arm in both)} of {len(both)}")
    return "\n".join(f"- {line}" for line in lines)


def number(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
