"""What runs inside a Slurm task: the runs of a bundle, one after the other, in one process with one thread.

A bundle is a folder in the study: ``bundle.json`` (the runs), ``now.json`` (the run in hand and how far it is),
``said/<key>.json`` (how a run ended), ``stop`` (a command asked to end it). A task that is told that its time is over
saves, and asks Slurm to queue it again: that needs no living command. It does so only if it came further since it
began, so that what can never finish does not go round for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from sessionwise.errors import SessionwiseError, SessionwiseWarning
from sessionwise.io.files import make_folder, read_json, write_json
from sessionwise.runs.checkpoints import generations
from sessionwise.runs.lease import ALIVE, LEASE_S, peek
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import STOP_SIGNALS, Reporter, _answer, _use_one_thread

EVENT_S = 3.0  # at most one note in this time on how far a run is
FINAL = ("done", "stored", "raised", "refused", "lost", "busy")  # else a run goes on when its task starts again
_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)  # Slurm sends one before the time is over; SIGTERM means that it decides
_MOST_CRASHES = 2
_LOOK_S = 5.0


class Bundle:
    """What is handed to Slurm: the name of a folder; everything else is read there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> str:
        return serve(Path(self.folder))


def serve(folder: Path) -> str:
    """Do the runs of a bundle; returns a word on how it ended, for the log of the job."""
    bundle = read_json(folder / "bundle.json")
    sys.path += [path for path in bundle["path"] if path not in sys.path]
    task = _Task(folder, bundle)
    for number in STOP_SIGNALS:
        signal.signal(number, task.told)
    warnings.simplefilter("always", SessionwiseWarning)
    warnings.showwarning = task.warned(warnings.showwarning)
    return task.do_all()


def marks(store: RunStore, folder: Path, keys: list[str]) -> dict[str, str]:
    """How far each run of a bundle is: what was said of it, or its newest checkpoint."""
    found = {}
    for key in keys:
        said = reply_of(folder, key)
        newest = generations(store.root / f"{key}.work")[-1:]
        found[key] = said["reply"] if said and said["reply"] in FINAL else newest[0].name if newest else ""
    return found


def reply_of(folder: Path, key: str) -> dict[str, Any] | None:
    """How a run ended, as far as its task said; None when it did not, or not readably."""
    return _read(folder / "said" / f"{key}.json", "reply")


def in_hand(folder: Path) -> dict[str, Any]:
    """The run in hand (``run``, its key), its last ``event``, and ``job``; empty when none was ever begun."""
    return _read(folder / "now.json", "run") or {}


class _Task:
    def __init__(self, folder: Path, bundle: dict[str, Any]) -> None:
        self.folder, self.work = folder, bundle["work"]
        self.store = RunStore(Path(bundle["root"]))
        self.specs = [RunSpec.from_json(value) for value in bundle["runs"]]
        self.keys = [spec.key for spec in self.specs]
        self.signal: int | None = None
        self._start = marks(self.store, folder, self.keys)
        self._before, self._crashes = _crashed(folder, self._start)
        self._said: list[str] = []
        self._last: dict[str, Any] | None = None
        self._now: dict[str, Any] = {}
        self._next_event = self._next_look = 0.0
        self._stop_seen = False

    def told(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: save at the next step. The first signal says why."""
        self.signal = self.signal or number

    def warned(self, usual: Any) -> Any:
        """Our own warnings go to the command with the reply, others to the log."""

        def show(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
            usual(message, category, *args, **options)
            if issubclass(category, SessionwiseWarning):
                self._said.append(str(message))

        return show

    def do_all(self) -> str:
        """All runs that were not said to have ended; those that others hold come last."""
        make_folder(self.folder / "said")
        _use_one_thread()
        held = [spec for spec in self.specs if not self._stopping() and self._do(spec) == "busy"]
        for spec in held:
            self._wait_for_holder(spec)
            if not self._stopping() and self._do(spec) == "busy":
                self._say(spec, {"reply": "busy", "holder": self.store.holder(spec.key) or "another process"})
        if self.signal is None and not self._stop_seen:
            return "ended"
        self._note(crashes=0, stopped=True)
        return self._end_early()

    def _do(self, spec: RunSpec) -> str:
        """One run; returns its reply. That another process holds it is not said yet."""
        said = reply_of(self.folder, spec.key)
        if said and said["reply"] in FINAL:
            return ""
        crashes = self._crashes if spec.key == self._before else 0
        if crashes > _MOST_CRASHES:
            reply = {"reply": "lost", "reason": f"its Slurm task ended {crashes} times without coming further"}
        else:
            self._said.clear()
            self._last = None
            about = {"run": spec.key, "name": spec.name, "job": _job(), "mark": self._start[spec.key]}
            self._note(**about, crashes=crashes, stopped=False, event=None)
            print(f"sessionwise: {spec.name} begins", flush=True)
            reporter = Reporter(self._event, self._stopping)
            reply = _answer(spec, self.store, self.work, reporter)
            _use_one_thread()  # the work function may have brought torch
        if reply["reply"] != "busy":
            self._say(spec, reply)
        return str(reply["reply"])

    def _say(self, spec: RunSpec, reply: dict[str, Any]) -> None:
        print(f"sessionwise: {spec.name} {reply['reply']}", flush=True)
        about = {"warnings": list(self._said), "last": self._last}
        with suppress(SessionwiseError, ValueError):  # a disk that is full: the store knows as well
            write_json(self.folder / "said" / f"{spec.key}.json", {**reply, **about})

    def _event(self, event: dict[str, Any]) -> None:
        self._last = event
        if time.monotonic() >= self._next_event:
            self._next_event = time.monotonic() + EVENT_S
            self._note(event=event)

    def _note(self, **changes: Any) -> None:
        self._now |= changes
        with suppress(SessionwiseError, ValueError):
            write_json(self.folder / "now.json", self._now)

    def _stopping(self) -> bool:
        if self.signal is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            self._stop_seen = (self.folder / "stop").exists()
        return self.signal is not None or self._stop_seen

    def _wait_for_holder(self, spec: RunSpec) -> None:
        """Until it is clear whether who holds a run is alive: one that is, changes its lease."""
        path, end = self.store.root / ".locks" / spec.key, time.monotonic() + 2 * LEASE_S
        first = peek(path)
        while self.store.holder(spec.key) and not self._stopping() and time.monotonic() < end:
            seen = peek(path)
            if seen and first and (seen.state == ALIVE or seen.content != first.content):
                return
            time.sleep(_LOOK_S)

    def _end_early(self) -> str:
        """After a signal: back into the queue, unless a command asked to stop or nothing came of this start."""
        if (self.folder / "stop").exists():
            return "stopped by a command"
        if self.signal not in _REQUEUE:
            return "stopped by SIGTERM"
        if marks(self.store, self.folder, self.keys) == self._start:
            return "stopped without having come further; not queued again"
        try:
            done = subprocess.run(["scontrol", "requeue", _job()], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            return f"stopped; cannot be queued again ({error})"
        return f"stopped; queued again {done.stderr.strip()}" if done.returncode == 0 else f"stopped; {done.stderr}"


def _crashed(folder: Path, marks_now: dict[str, str]) -> tuple[str, int]:
    """The run in whose middle a task of this bundle ended without a word, and how often in a row without coming on."""
    now = in_hand(folder)
    run = now.get("run", "")
    if not now or now.get("stopped") or reply_of(folder, run) or marks_now.get(run) != now.get("mark"):
        return run, 0
    return run, int(now.get("crashes", 0)) + 1


def _job() -> str:
    """The id of this task as Slurm's commands want it."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "none")


def _read(path: Path, field: str) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except (SessionwiseError, OSError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get(field), str) else None
