"""How busy the cores are in a ranking: the real command in a fresh process, against the seconds of its steps.

    python benchmarks/ranking.py [--cases tiny,long] [--rival] [--repeat N] [--json FILE] [-- OPTIONS OF RANK]

Prints for each case the runs per hour, the share of workers x wall time that is spent in optimiser steps (with their
validations), and where the rest goes, in seconds of one worker:

    start     until the first run is handed out: imports, opening of sessions, planning
    handover  between a worker and a run: what is left of its imports, messages
    load      in a run before its first step: sessions, core, model
    commit    in a run after its last step: final scores, files
    idle      a worker without a run: inputs that are not there yet, the end of the command
    after     from the last run to the end of the process: analysis, pictures, report

"rival" repeats a case beside one process that keeps a core busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sessionwise.data.simulate import simulate_pool
from sessionwise.data.store import create_store

HELDOUT = "sim-heldout-0"
PARTS = ("start", "handover", "load", "steps", "commit", "idle", "after")
# name: sessions of the pool, options; a run of "long" takes about 20 core-seconds, longer ones are busier still
CASES: dict[str, tuple[int, list[str]]] = {
    "tiny": (8, ["--preset", "tiny", "--seeds", "10,20"]),
    "long": (2, ["--preset", "small", "--seeds", "10,20"]),
}
_COMMAND = [sys.executable, "-c", "from sessionwise.cli import main; main()", "rank"]


def simulate(n_sessions: int, folder: Path) -> Path:
    """A store of simulated sessions, one of them held out; trials of 50 bins."""
    store = create_store(folder)
    for session in simulate_pool(n_sessions, 1, seed=1, n_trials=(200, 320), n_units=(40, 90)).sessions:
        store.add(session)
    return folder


def rank(store: Path, study: Path, options: Sequence[str]) -> dict[str, Any]:
    """One ranking from the start of the process to its end; seconds by part, summed over the workers."""
    begun = time.monotonic()
    arguments = [*_COMMAND, str(store), "--heldout", HELDOUT, "--to", str(study), *options]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    before, lines = None, []
    for line in process.stderr:
        if before is None and " runs: " in line:  # the first line of the progress: the plan stands
            before = time.monotonic() - begun
        lines.append(line)
    if process.wait() or before is None:
        sys.exit("".join(lines))
    wall = time.monotonic() - begun
    (timing,) = study.glob("rankings/*/*/timing.json")
    work = json.loads(timing.read_text())["work"]
    n = work["workers"]
    after = wall - before - work["seconds"]
    spent = {name: work[name] for name in ("handover", "load", "steps", "commit", "idle")}
    spent |= {"start": n * before, "after": n * after}
    return {
        "runs": work["runs"],
        "workers": n,
        "wall_s": wall,
        "runs_per_hour": 3600 * work["runs"] / wall,
        "seconds_a_run": (spent["load"] + spent["steps"] + spent["commit"]) / work["runs"],
        "busy": spent["steps"] / (n * wall),
        "seconds": {name: spent[name] for name in PARTS},
    }


@contextmanager
def rival() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(case: str, options: Sequence[str], beside: bool, repeat: int) -> Iterator[dict[str, Any]]:
    """A case ``repeat`` times, each time in new folders; with ``beside`` each time alone and then beside a rival."""
    sessions, standard = CASES[case]
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            store = simulate(sessions, Path(folder) / "store")
            yield {"case": case, **rank(store, Path(folder) / "alone", [*standard, *options])}
            if beside:
                with rival():
                    found = rank(store, Path(folder) / "beside", [*standard, *options])
                yield {"case": f"{case} + rival", **found}


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    whole = row["workers"] * row["wall_s"]
    shares = "".join(f"{100 * row['seconds'][name] / whole:10.1f}" for name in PARTS)
    about = (
        f"{row['case']:14}{row['runs']:6}{row['seconds_a_run']:10.1f}{row['wall_s']:8.1f}{row['runs_per_hour']:11.0f}"
    )
    print(about + shares, flush=True)


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="tiny,long", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rival", action="store_true", help="each case also beside a busy process")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("options", nargs="*", help="further options of sessionwise rank, after --")
    asked = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores; parts as % of workers x wall time, busy = steps")
    titles = "".join(f"{name:>10}" for name in PARTS)
    print(f"{'case':14}{'runs':>6}{'s a run':>10}{'wall s':>8}{'runs/hour':>11}{titles}")
    rows = []
    for case in asked.cases.split(","):
        for row in measure(case, asked.options, asked.rival, asked.repeat):
            rows.append(row)
            show(row)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
