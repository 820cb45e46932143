"""Toy work functions without torch: small runs that count how often they are executed.

Each execution leaves one file in ``where["log"]``; ``settings["do"]`` says how the run behaves.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sessionwise.errors import DataError, IntegrityError, Stopped
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint, save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

Report = Callable[[dict[str, Any]], None]


def run(spec: RunSpec, store: RunStore, report: Report) -> None:
    """Do what ``settings["do"]`` says, then commit one artefact that depends on the inputs' artefacts."""
    count(spec, "begun")
    report({"step": 1, "steps": spec.steps, "loss": 0.5, "bps": None})
    _BEHAVIOURS[spec.settings.get("do", "work")](spec, store, report)
    state = "diverged" if spec.settings.get("do") == "diverge" else "done"
    reason = {"reason": "loss is NaN at step 1"} if state == "diverged" else {}
    commit(spec, store, {"state": state, "value": spec.seed, **reason})
    count(spec, "ended")


def commit(spec: RunSpec, store: RunStore, result: dict[str, Any]) -> None:
    """One artefact: the inputs' artefacts, then this run's seed."""
    parts = [(store.folder(key) / "chain.txt").read_text() for _, key in sorted(spec.inputs.items())]
    store.commit(spec, result, lambda folder: put(folder / "chain.txt", "".join([*parts, f"{spec.seed}\n"])))


def put(path: Path, text: str) -> None:
    """Write a small text."""
    path.write_text(text)


def count(spec: RunSpec, what: str) -> None:
    """Leave a file that says that something happened to this run."""
    folder = Path(spec.where["log"])
    folder.mkdir(parents=True, exist_ok=True)
    stamp = f"{time.monotonic_ns():020d}-{what}-{spec.key}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    (folder / stamp).touch()


def _work(spec: RunSpec, store: RunStore, report: Report) -> None:
    time.sleep(spec.where.get("seconds", 0.0))


def _die(spec: RunSpec, store: RunStore, report: Report) -> None:
    """Die until the run was begun ``deaths`` times, by SIGKILL or with a code."""
    begun = len(list(Path(spec.where["log"]).glob(f"*-begun-{spec.key}-*")))
    if begun > spec.settings["deaths"]:
        return
    print("the last words of a worker", file=sys.stderr, flush=True)
    if spec.settings.get("how") == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(spec: RunSpec, store: RunStore, report: Report) -> None:
    if not Path(spec.where["log"], "repaired").exists():
        raise DataError("toy", "raised on purpose")


def _integrity(spec: RunSpec, store: RunStore, report: Report) -> None:
    raise IntegrityError("toy data", "was changed")


def _print(spec: RunSpec, store: RunStore, report: Report) -> None:
    print('{"reply": "raised"}')
    os.system("echo noise")


def _nothing(spec: RunSpec, store: RunStore, report: Report) -> None:
    return


def _steps(spec: RunSpec, store: RunStore, report: Any) -> None:
    """A training: ``spec.steps`` steps, a checkpoint each tenth and when a stop is asked for."""
    work = store.work_folder(spec.key)
    last = latest_checkpoint(work)
    start = checkpoint_step(last) if last else 0
    for step in range(start + 1, spec.steps + 1):
        time.sleep(0.01)
        count(spec, f"step{step:04d}")
        if report.stopping or step % 10 == 0:
            save_checkpoint(work, step, lambda folder, step=step: put(folder / "state.txt", str(step)))
        try:
            report({"step": step, "steps": spec.steps, "loss": 1.0 / step})
        except Stopped:
            count(spec, "stopped")
            raise


_BEHAVIOURS: dict[str, Callable[[RunSpec, RunStore, Any], None]] = {
    "work": _work,
    "diverge": _nothing,
    "die": _die,
    "raise": _raise,
    "integrity": _integrity,
    "print": _print,
    "steps": _steps,
}


def no_commit(spec: RunSpec, store: RunStore, report: Report) -> None:
    """Forget to commit."""
    count(spec, "begun")


def environment(spec: RunSpec, store: RunStore, report: Report) -> None:
    """Commit what a worker looks like from inside."""
    main = sys.modules["__main__"].__spec__
    threads = os.environ.get("OMP_NUM_THREADS")
    store.commit(spec, {"state": "done", "threads": threads, "main": main.name if main else None})
