"""A training step of another commit against this one's, in turn, and where its time went.

    python benchmarks/before_after.py COMMIT [--presets tiny small paper] [--units 600] [--rounds 3]

The commit's source is checked out beside this one (``git worktree``, in the temporary folder). A round is a process of
the commit and one of the current source for each preset: sessions of 150 bins, one thread, fp32 (a commit that knows
precisions is told so; "auto" adds what it would choose). Prints Markdown: the median step of each round's process, the
ratio by round, and the operators that took most of the time, by torch's profiler. Works for commits that have
``Training`` and ``Batches``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = {"tiny": 30, "small": 20, "paper": 5}
OPERATORS = 8
# What a process of either commit runs: PRESET UNITS STEPS PRECISION -> one JSON line.
CHILD = """
import json, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from torch.profiler import ProfilerActivity, profile
from sessionwise.data.session import make_session
from sessionwise.data.store import create_store
from sessionwise.model.ndt import NDT
from sessionwise.training.batches import Batches
from sessionwise.training.loop import Training
from sessionwise.training.presets import preset

torch.set_num_threads(1)
name, units, steps, precision = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
settings = preset(name)
how = settings.train.model_copy(update={"steps": 10**6})
model = NDT(settings.model, 150, seed=0)
if "precision" in type(how).model_fields:
    model.precision = how.precision if precision == "auto" else precision
    how = how.model_copy(update={"precision": model.precision})
with tempfile.TemporaryDirectory() as folder:
    store = create_store(Path(folder) / "store")
    counts = np.random.default_rng(0).poisson(0.12, (64, 150, units)).astype(np.uint8)
    store.add(make_session("a", counts, 0.02))
    data = store.load("a")
    model.add_session("a", units, torch.full((units,), 0.12))
    training = Training(model, list(model.parameters()), Batches([data], how.batch_size, 0), how, 0)
    training.advance()
    took = []
    for _ in range(steps):
        begun = time.perf_counter()
        training.advance()
        took.append(1e3 * (time.perf_counter() - begun))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(max(2, steps // 4)):
            training.advance()
averages = profiled.key_averages()
total = sum(event.self_cpu_time_total for event in averages)
shares = {event.key: event.self_cpu_time_total / total for event in averages}
print(json.dumps({"ms": float(np.median(took)), "precision": getattr(model, "precision", "fp32"), "shares": shares}))
"""


def measure(source: Path, preset: str, units: int, precision: str) -> dict[str, Any]:
    """A process of one commit: median milliseconds of a step, and shares of time by operator."""
    command = [sys.executable, "-c", CHILD, preset, str(units), str(STEPS[preset]), precision]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(preset: str, before: list[dict[str, Any]], after: list[dict[str, Any]], chosen: list[dict[str, Any]]) -> str:
    """One row: medians over the rounds, and the ratio by round."""
    ratios = sorted(b["ms"] / a["ms"] for b, a in zip(before, after, strict=True))
    ms = [f"{median(row['ms'] for row in rows):.1f}" for rows in (before, after)]
    auto = ""
    if chosen and chosen[0]["precision"] != "fp32":
        ratio = median(b["ms"] / a["ms"] for b, a in zip(before, chosen, strict=True))
        auto = f"{chosen[0]['precision']}, {median(row['ms'] for row in chosen):.1f}, {ratio:.2f}"
    return f"| {preset} | {ms[0]} | {ms[1]} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {auto} |"


def largest(rows: list[dict[str, Any]]) -> str:
    """The operators with the largest shares, in the last round."""
    shares = sorted(rows[-1]["shares"].items(), key=lambda pair: -pair[1])[:OPERATORS]
    return ", ".join(f"{name.removeprefix('aten::')} {100 * share:.0f} %" for name, share in shares)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "paper"], choices=list(STEPS))
    parser.add_argument("--units", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    lines, operators = [], []
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", other, asked.commit], check=True)
        try:
            for preset in asked.presets:
                found: dict[str, list[dict[str, Any]]] = {"before": [], "after": [], "auto": []}
                for _ in range(asked.rounds):
                    found["before"].append(measure(other / "src", preset, asked.units, "fp32"))
                    found["after"].append(measure(ROOT / "src", preset, asked.units, "fp32"))
                    if preset == "paper":
                        found["auto"].append(measure(ROOT / "src", preset, asked.units, "auto"))
                lines.append(show(preset, found["before"], found["after"], found["auto"]))
                operators += [f"| {preset}, {when} | {largest(found[when])} |" for when in ("before", "after")]
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", other], check=True)
    print("| preset | before, ms | after, ms | before / after | auto: precision, ms, before / auto |")
    print("\n".join(["|---|---:|---:|---:|---|", *lines, "", "| step | operators |", "|---|---|", *operators]))


if __name__ == "__main__":
    main()
