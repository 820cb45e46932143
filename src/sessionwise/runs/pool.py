"""The launcher's side of the workers: start, send, listen, notice death, stop.

Each worker is a process of its own with one thread of computation; the death of one concerns only the run in its hand.
Inside `kept_workers` processes start before there is a run for them, and go from one command to the next: importing
what a training needs takes them seconds.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from sessionwise.errors import EnvironmentProblem
from sessionwise.io.files import disk_problem
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import ONE_THREAD

GRACE_S = 60.0  # how long a run in hand may take to reach its next report when the command stops
_QUOTED_LINES = 5
_MAX_EARLY_DEATHS = 3
_MAX_EARLY_STARTS = 8  # before it is known how many runs there are
_Process = subprocess.Popen[bytes]
_kept: list[_Process] | None = None  # idle processes; None where none are kept


class Place(Protocol):
    """Where one run at a time is computed: a worker process, a place in a queue.

    spec: the run in hand, None when free; ready: whether it ever answered (one that never did lost no run).
    """

    spec: RunSpec | None
    ready: bool

    def give(self, spec: RunSpec) -> None:
        """Hand a run over."""

    def take(self) -> tuple[RunSpec, float]:
        """The run that was in hand and the seconds it took; the place is free."""


class Workers(Protocol):
    """What computes runs for a command: local processes (``Pool``), or places on a cluster.

    The store is the truth: what is said here about a run counts as far as the store confirms it.
    """

    @property
    def at_work(self) -> Sequence[Place]:
        """Places with a run in hand."""

    def free_worker(self) -> Place | None:
        """A place without a run, or None when all are taken."""

    def messages(self, timeout_s: float) -> Iterator[tuple[Any, dict[str, Any]]]:
        """What arrives within the time: (place, message); messages are those of ``worker``, and ``{"died": why}``."""

    def stop(self, grace_s: float) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Ask all to save their work and stop; what they still say until the grace time is over."""

    def close(self) -> None:
        """Let go of everything."""


@contextmanager
def kept_workers(size: int, work: str, start: bool = True) -> Iterator[None]:
    """Keep idle worker processes between commands until the end of the block.

    start: begin with ``size`` of them (8 at most), which import the work function while the caller does other things.
    """
    global _kept
    if _kept is not None:  # the outer block keeps them
        yield
        return
    _kept = []
    try:
        for _ in range(min(size, _MAX_EARLY_STARTS) if start else 0):
            process = _spawn(subprocess.DEVNULL)
            _send(process, {"start": _start_message(work)})
            _kept.append(process)
        yield
    finally:
        idle, _kept = _kept, None
        for process in idle:
            _end(process)


def _start_message(work: str, store: RunStore | None = None, log: Path | None = None) -> dict[str, Any]:
    folders = [folder or os.getcwd() for folder in sys.path]
    return {"root": store and str(store.root), "work": work, "path": folders, "log": log and str(log)}


class Worker:
    """One worker process and the run in its hand."""

    def __init__(self, slot: int | str, store: RunStore, work: str) -> None:
        self.slot = slot
        self.spec: RunSpec | None = None
        self.started = 0.0
        self.ready = self.told_to_stop = False
        self.log = _log_path(store, slot)
        self._buffer = b""
        self._log_start = 0
        with open(self.log, "ab") as stream:
            self.process = _take_kept() or _spawn(stream)
        self.send({"start": _start_message(work, store, self.log)})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a worker that is gone is noticed elsewhere."""
        _send(self.process, message)

    def give(self, spec: RunSpec) -> None:
        """Hand a run over."""
        self.spec, self.started = spec, time.monotonic()
        self._log_start = self._log_size()
        self.send({"run": spec.to_json()})

    def take(self) -> tuple[RunSpec, float]:
        """The run that was in its hand and the seconds it took; the worker is free."""
        assert self.spec is not None
        spec, self.spec = self.spec, None
        return spec, time.monotonic() - self.started

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """All complete messages that arrived, and whether the pipe is closed. Call it when there is something."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    @property
    def ended(self) -> bool:
        """Whether the process is gone and all that it said was read (a child of it may keep the pipe open)."""
        assert self.process.stdout is not None
        return self.process.poll() is not None and not select.select([self.process.stdout], [], [], 0)[0]

    def cause_of_death(self) -> str:
        """How the process ended and the last lines that it wrote."""
        try:
            code = self.process.wait(2.0)
        except subprocess.TimeoutExpired:  # it closed its pipe and hangs
            self.process.kill()
            code = self.process.wait()
        how = f"signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit code {code}"
        lines = self._last_lines()
        return f"worker ended by {how}" + (f"; its last lines: {' | '.join(lines)}" if lines else "")

    def end(self, *, keep: bool = True) -> None:
        """Keep the process for the next command if that is wanted and it is idle, else end it; drop an empty log."""
        idle = keep and self.ready and self.spec is None and not self._buffer and not self.told_to_stop
        if not (idle and _keep(self.process)):
            _end(self.process)
        if self.log.exists() and self.log.stat().st_size == 0:
            self.log.unlink(missing_ok=True)

    def _log_size(self) -> int:
        """Bytes in the log; EnvironmentProblem when the study has gone from under us."""
        try:
            return self.log.stat().st_size
        except OSError as error:
            raise disk_problem(self.log, error) from error

    def _last_lines(self) -> list[str]:
        try:
            with open(self.log, "rb") as stream:
                stream.seek(max(self._log_start, self.log.stat().st_size - 4000))
                text = stream.read().decode(errors="replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()][-_QUOTED_LINES:]


class Pool:
    """Up to ``size`` workers, started when there is work and replaced when they die."""

    def __init__(self, size: int, store: RunStore, work: str) -> None:
        self.size, self.store, self.work = size, store, work
        self.workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._early_deaths = 0

    def free_worker(self) -> Worker | None:
        """A worker without a run, a new one while there is room, or None."""
        for worker in self.workers:
            if worker.spec is None:
                return worker
        return self._start() if len(self.workers) < self.size else None

    @property
    def at_work(self) -> list[Worker]:
        """Workers with a run in hand."""
        return [worker for worker in self.workers if worker.spec is not None]

    def messages(self, timeout_s: float) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """Messages that arrive within the time; the last one of a worker that died is ``{"died": reason}``."""
        for ready, _ in self._selector.select(timeout_s):
            worker: Worker = ready.data
            messages, closed = worker.receive()
            for message in messages:
                worker.ready = True
                yield worker, message
            if closed:
                yield worker, {"died": self._bury(worker)}
            elif any(message.get("reply") == "lost" for message in messages):
                self._remove(worker, keep=False)  # a process that ran out of memory: a new one has what is free
        for worker in list(self.workers):
            if worker.ended:
                yield worker, {"died": self._bury(worker)}

    def stop(self, grace_s: float = GRACE_S) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """Ask all to stop at their next step and yield what they still say, until the grace time is over."""
        for worker in self.workers:
            worker.told_to_stop = True
            worker.send({"stop": True})
        end = time.monotonic() + grace_s
        while self.workers and time.monotonic() < end:
            yield from self.messages(0.1)

    def close(self) -> None:
        """End all workers now."""
        for worker in list(self.workers):
            self._remove(worker)
        self._selector.close()

    def _start(self) -> Worker:
        slots = set(range(self.size)) - {worker.slot for worker in self.workers}
        worker = Worker(min(slots), self.store, self.work)
        self.workers.append(worker)
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        return worker

    def _bury(self, worker: Worker) -> str:
        """Remove a worker that died; dying at the very start again and again ends the command."""
        reason = worker.cause_of_death()
        self._early_deaths = 0 if worker.ready else self._early_deaths + 1
        self._remove(worker)
        if self._early_deaths > _MAX_EARLY_DEATHS:
            needed = "a Python that can run python -m sessionwise.runs.worker"
            raise EnvironmentProblem("workers", f"do not start: {reason}", needed, "Try --on here")
        return reason

    def _remove(self, worker: Worker, *, keep: bool = True) -> None:
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self.workers.remove(worker)
        worker.end(keep=keep)


def _send(process: _Process, message: dict[str, Any]) -> None:
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
    except OSError:
        pass


def _take_kept() -> _Process | None:
    """A kept process that is alive, or None."""
    while _kept:
        process = _kept.pop(0)
        if process.poll() is None:
            return process
        _end(process)
    return None


def _keep(process: _Process) -> bool:
    """Keep an idle process, unless it ended or nothing is to be kept."""
    if _kept is None or process.poll() is not None:
        return False
    _kept.append(process)
    return True


def _end(process: _Process) -> None:
    """Close the pipes (the worker then ends by itself), and make sure."""
    for pipe in (process.stdin, process.stdout):
        try:
            assert pipe is not None
            pipe.close()
        except OSError:
            pass
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _spawn(log: IO[bytes] | int) -> _Process:
    command = [
        sys.executable,
        "-P",
        "-m",
        "sessionwise.runs.worker",
    ]  # -P: a file in the current folder shadows nothing
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)


def _log_path(store: RunStore, slot: int | str) -> Path:
    folder = store.root / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_problem(folder, error) from error
    return folder / f"worker-{os.getpid()}-{slot}.log"


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return "unknown"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
