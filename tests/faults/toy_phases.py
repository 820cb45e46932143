"""A toy training that waits for a signal at a chosen moment: ``settings["at"]`` names it.

Where it is asked to, it leaves the file ``here`` in its log folder and goes on when there is a file ``go``. Each step
leaves a line in ``steps.txt``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint, save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

STEPS, EVERY, WAIT_S = 30, 10, 20.0
MOMENTS = ("data load", "before the first checkpoint", "step", "evaluation", "save", "after the last step")


def run(spec: RunSpec, store: RunStore, report: Any) -> None:
    """Thirty steps with an evaluation each fifth and a checkpoint each tenth."""
    log = Path(spec.where["log"])
    _moment(spec, log, "data load")
    work = store.work_folder(spec.key)
    last = latest_checkpoint(work)
    for step in range(checkpoint_step(last) + 1 if last else 1, STEPS + 1):
        if step == 3:
            _moment(spec, log, "before the first checkpoint")
        if step == 15:
            _moment(spec, log, "step")
        with open(log / "steps.txt", "a") as stream:
            stream.write(f"{step}\n")
        if step == 25:
            _moment(spec, log, "evaluation")
        if report.stopping or step % EVERY == 0:
            save_checkpoint(work, step, lambda folder, step=step: _save(spec, log, folder, step))
        if step == STEPS:
            _moment(spec, log, "after the last step")
        report({"step": step, "steps": STEPS})
    store.commit(spec, {"state": "done", "steps": STEPS}, lambda folder: _put(folder / "out.txt", "whole"))


def _save(spec: RunSpec, log: Path, folder: Path, step: int) -> None:
    _put(folder / "state.txt", str(step))
    if step == 2 * EVERY:
        _moment(spec, log, "save")


def _put(path: Path, text: str) -> None:
    path.write_text(text)


def _moment(spec: RunSpec, log: Path, name: str) -> None:
    """Wait, the first time only, until the test has done what it wants to do now."""
    log.mkdir(parents=True, exist_ok=True)
    if spec.settings["at"] != name or (log / "here").exists():
        return
    (log / "here").touch()
    end = time.monotonic() + WAIT_S
    while not (log / "go").exists() and time.monotonic() < end:
        time.sleep(0.005)
