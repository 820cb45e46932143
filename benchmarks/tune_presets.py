"""Check a preset on sessions that are never held out in a reported result, and compare it with its neighbours.

Each of the sessions is held out in turn, the others are its pool; scores are cross-fitted bits per spike on validation
trials. The rule against under-training: doubling the epochs (with a new schedule) changes the mean best validation
score by less than the seed-to-seed SD, for single-session training, finetuning and baseline each.

    sessionwise data import 01_*.npz 02_*.npz 03_*.npz --to tuning-store
    python benchmarks/tune_presets.py tuning-store --preset tiny --to tuning-study
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.store import SessionStore, open_store
from sessionwise.runs.launch import execute
from sessionwise.runs.progress import make_progress
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.selection.ranking import Plan, make_plan
from sessionwise.training.jobs import WORK
from sessionwise.training.presets import Settings, preset

ARMS = ("pretrain", "finetune", "baseline", "random_core")


def variants(settings: Settings) -> dict[str, dict[str, Any]]:
    """The preset, the doublings of the rule, and one step in each direction of what is tuned."""
    train, finetune, baseline = settings.train, settings.finetune, settings.baseline
    rates = {"lr / 2": 0.5, "lr x 2": 2.0}
    changed: dict[str, dict[str, Any]] = {
        "as it is": {},
        "epochs x 2": {
            "train.epochs": 2 * train.epochs,
            "finetune.epochs": 2 * finetune.epochs,
            "baseline.epochs": 2 * baseline.epochs,
        },
        "finetune epochs x 2": {"finetune.epochs": 2 * finetune.epochs},
    }
    for name, factor in rates.items():
        changed[name] = {f"{arm}.lr": factor * getattr(settings, arm).lr for arm in ("train", "finetune", "baseline")}
    changed["dropout 0.1"] = {"model.dropout": 0.1}
    changed["weight decay 0.1"] = {f"{arm}.weight_decay": 0.1 for arm in ("train", "finetune", "baseline")}
    return changed


def plans_of(sessions: SessionStore, settings: Settings, seeds: Sequence[int]) -> list[Plan]:
    """Each session held out in turn."""
    ids = sessions.ids
    return [make_plan(sessions, heldout, [i for i in ids if i != heldout], settings, seeds) for heldout in ids]


def scores(specs: Mapping[Any, RunSpec], store: RunStore, name: str) -> list[float]:
    """One score of each run; NaN for one that diverged."""
    results = [store.result(spec.key) for spec in specs.values()]
    return [result[name] if result["state"] == "done" else np.nan for result in results]


def by_arm(plans: Sequence[Plan], store: RunStore, name: str, seeds: int) -> dict[str, np.ndarray]:
    """(runs, seeds) scores of each arm over all held-out sessions."""
    return {
        arm: np.array([s for p in plans for s in scores(getattr(p, arm), store, name)]).reshape(-1, seeds)
        for arm in ARMS
    }


def main() -> None:
    """Run all variants, print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the preset, section.key=value")
    options = parser.parse_args()
    sessions, store = open_store(options.store), RunStore(options.to / "runs")
    base = preset(options.preset, options.set)
    print("| variant | " + " | ".join(f"{arm}, best / cross-fitted" for arm in ARMS) + " | seed SD |")
    print("|---|" + "---|" * (len(ARMS) + 1))
    for name, changes in variants(base).items():
        if options.only and name not in options.only:
            continue
        settings = preset(options.preset, {**dict(pair.split("=") for pair in options.set), **changes})
        plans = plans_of(sessions, settings, options.seeds)
        execute([spec for plan in plans for spec in plan.specs], store, WORK, progress=make_progress())
        best, crossed = (by_arm(plans, store, score, len(options.seeds)) for score in ("best_bps", "bps"))
        cells = [f"{best[arm].mean():.4f} / {crossed[arm].mean():.4f}" for arm in ARMS]
        sds = [np.sqrt(best[arm].var(axis=1, ddof=1).mean()) for arm in ARMS]
        print(f"| {name} | " + " | ".join(cells) + " | " + ", ".join(f"{sd:.4f}" for sd in sds) + " |", flush=True)


if __name__ == "__main__":
    main()
