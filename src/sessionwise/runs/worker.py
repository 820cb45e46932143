"""A persistent worker: ``python -m sessionwise.runs.worker``, one run at a time, JSON lines in and out.

In: ``{"start": {...}}`` from each launcher that takes it over, ``{"run": specification}``, ``{"stop": true}``. Out:
``ready``, ``event``, ``warning``, and one ``reply`` a run. The real standard output carries these lines only: whatever
a run prints goes to standard error, which the launcher keeps in a log. What a work function needs is imported at the
start, and what its module keeps is there for the next run. When standard input closes, the launcher is gone and the
process ends at once.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sessionwise.errors import (
    EXIT_STOPPED,
    EnvironmentProblem,
    IntegrityError,
    LeakageError,
    SessionwiseError,
    SessionwiseWarning,
    Stopped,
    UsageError,
)
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import Busy, RunStore

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}  # one thread of computation a worker; threads that wait beside a busy process must not spin
WorkFunction = Callable[[RunSpec, RunStore, Callable[[dict[str, Any]], None]], None]
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_EVENT_INTERVAL_S = 0.2
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
# Errors about the surroundings, not about the run: they end the command and leave nothing on record.
_SURROUNDINGS = (EnvironmentProblem, IntegrityError, LeakageError)


class Reporter:
    """What a work function calls after a step: ``report({"step": .., "steps": .., "loss": .., "bps": ..})``.

    Raises Stopped when a stop was asked for. A work function that looks at ``report.stopping`` after each step, saves a
    checkpoint when it is True, and then reports, repeats no step: a stop that arrives between the look and the report
    waits for the next look. Cheap to call at each step.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], stopping: Callable[[], bool] = lambda: False) -> None:
        self._send, self._stopping = send, stopping
        self._next = 0.0
        self._begun, self._reports, self._first, self._last = time.monotonic(), 0, 0.0, 0.0
        self._told_to_go_on = False  # whether ``stopping`` was read as False since the last report

    def begin(self) -> None:
        """A run begins: its parts count from here."""
        self._begun, self._reports = time.monotonic(), 0

    def parts(self) -> dict[str, float]:
        """Seconds until the first step, in steps (with validations and checkpoints), and after the last one.

        Steps are known by their ends: the first one is taken to be as long as the others are on average. A run that
        reports less than twice has no steps to speak of.
        """
        now, count = time.monotonic(), self._reports
        if count < 2:
            return {"load": now - self._begun, "steps": 0.0, "commit": 0.0}
        steps = min((self._last - self._first) * count / (count - 1), self._last - self._begun)
        return {"load": self._last - steps - self._begun, "steps": steps, "commit": now - self._last}

    @property
    def stopping(self) -> bool:
        """Whether the command was asked to stop: save and report."""
        stopping = self._stopping()
        self._told_to_go_on = not stopping
        return stopping

    def __call__(self, event: dict[str, Any]) -> None:
        """Show where the run stands; raises Stopped when the command was asked to stop."""
        self._last = now = time.monotonic()
        self._first = self._first if self._reports else now
        self._reports += 1
        if now >= self._next or event.get("bps") is not None:
            self._next = now + _EVENT_INTERVAL_S
            self._send(event)
        told_to_go_on, self._told_to_go_on = self._told_to_go_on, False
        if self._stopping() and not told_to_go_on:
            raise Stopped("run", "was asked to stop", "", "Run the same command again: it goes on")


def load_work(name: str) -> WorkFunction:
    """The function behind ``"module:function"``; UsageError or EnvironmentProblem when there is none."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError("work function", repr(name), '"module:function"')
    try:
        work: WorkFunction = getattr(importlib.import_module(module), function)
    except Exception as error:
        found = f"cannot be imported ({type(error).__name__}: {error})"
        raise EnvironmentProblem(f"work function {name}", found, "an importable function") from error
    return work


def perform(spec: RunSpec, store: RunStore, work: WorkFunction, report: Reporter) -> dict[str, Any]:
    """Compute one run under its lock; the reply says how it ended and never raises for what the run did.

    ``reply`` is done (committed now), stored (it was there), busy, raised, lost (out of memory), refused (the command
    must end) or stopped.
    """
    try:
        with store.lock(spec.key):
            if store.committed(spec.key):
                return {"reply": "stored"}
            report.begin()
            work(spec, store, report)
            if not store.committed(spec.key):
                return _raised("ended without committing a result")
            return {"reply": "done", "parts": report.parts()}
    except Busy as busy:
        return {"reply": "busy", "holder": busy.found}
    except Stopped:
        return {"reply": "stopped"}
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return {"reply": "lost", "reason": f"out of memory ({error})"}
        if _is_stored(spec, store):  # another process took our lease over, and was quicker
            return {"reply": "stored"}
        return _reply_to(error)


def _is_stored(spec: RunSpec, store: RunStore) -> bool:
    with suppress(Exception):  # the first error is the one to tell
        return store.committed(spec.key)
    return False


def _reply_to(error: Exception) -> dict[str, Any]:
    traceback.print_exc()
    if isinstance(error, OSError) and error.errno in _DISK:
        error = EnvironmentProblem("run", str(error), "a disk that works", "Make space or name another folder")
    if isinstance(error, _SURROUNDINGS):
        return {"reply": "refused", "error": pack_error(error)}
    text = str(error) if isinstance(error, SessionwiseError) else f"{type(error).__name__}: {error}"
    return _raised(text, "".join(traceback.format_exception(error)))


def _raised(reason: str, trace: str = "") -> dict[str, Any]:
    return {"reply": "raised", "reason": reason, "traceback": trace}


def pack_error(error: SessionwiseError) -> dict[str, str]:
    """A typed error as JSON values."""
    kinds = (UsageError, IntegrityError, LeakageError, EnvironmentProblem)
    kind = next((kind for kind in kinds if isinstance(error, kind)), EnvironmentProblem)
    parts = {name: getattr(error, name) for name in ("where", "found", "needed", "remedy")}
    return {"type": kind.__name__, **parts}


def unpack_error(packed: dict[str, str]) -> SessionwiseError:
    """The typed error again."""
    kinds = {kind.__name__: kind for kind in (UsageError, IntegrityError, LeakageError, EnvironmentProblem)}
    return kinds[packed["type"]](packed["where"], packed["found"], packed["needed"], packed["remedy"])


class _Channel:
    """The launcher's end of the pipes: messages from a thread that ends the process when the launcher is gone."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._in = os.fdopen(os.dup(0), "r", encoding="utf-8")
        os.dup2(2, 1)  # prints, also those of C libraries, must not disturb the protocol
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        self._lock = threading.Lock()
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stopping = False
        self.working = False

    def send(self, message: dict[str, Any]) -> None:
        try:
            with self._lock:
                self._out.write(json.dumps(message) + "\n")
                self._out.flush()
        except OSError:
            os._exit(EXIT_STOPPED)

    def listen(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def stop(self, *_: object) -> None:
        """A stop was asked for: at once when idle, else at the run's next report."""
        self.stopping = True
        if not self.working:
            os._exit(EXIT_STOPPED)

    def _read(self) -> None:
        for line in self._in:
            message = json.loads(line)
            if "stop" in message:
                self.stop()
            else:
                self.inbox.put(message)
        os._exit(EXIT_STOPPED)


@contextmanager
def _at_work(channel: _Channel) -> Iterator[None]:
    channel.working = True
    try:
        yield
    finally:
        channel.working = False


def _serve(channel: _Channel) -> None:
    report = Reporter(lambda event: channel.send({"event": event}), lambda: channel.stopping)
    start: dict[str, Any] = {}
    store = None
    while not channel.stopping:
        message = channel.inbox.get()
        if "start" in message:
            start = message["start"]
            store = RunStore(Path(start["root"])) if start["root"] else None
            _start(channel, start)
            continue
        assert store is not None, "a run before its store is known"
        with _at_work(channel):
            channel.send(_answer(RunSpec.from_json(message["run"]), store, start["work"], report))


def _start(channel: _Channel, start: dict[str, Any]) -> None:
    """Serve a launcher: write into its log, see the modules that it sees, and import what the runs need.

    A worker that is started before there is a launcher (no log, no root) only imports.
    """
    if start["log"] is not None:
        log = os.open(start["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)
    sys.path += [folder for folder in start["path"] if folder not in sys.path]
    channel.send({"ready": os.getpid()})
    with suppress(SessionwiseError):  # told in answer to the first run
        load_work(start["work"])
    _use_one_thread()


def _use_one_thread() -> None:
    """Whatever the environment says; a library that is imported already reads it no more."""
    if (torch := sys.modules.get("torch")) is None:
        return
    torch.set_num_threads(1)
    with suppress(RuntimeError):  # told before, or in use
        torch.set_num_interop_threads(1)


def _answer(spec: RunSpec, store: RunStore, work_name: str, report: Reporter) -> dict[str, Any]:
    try:
        work = load_work(work_name)
    except SessionwiseError as error:
        traceback.print_exc()
        return {"reply": "refused", "error": pack_error(error)}
    return perform(spec, store, work, report)


def _forward_warnings(channel: _Channel) -> None:
    """Our own warnings go to the launcher, others to the log."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *args: Any, **options: Any) -> None:
        if issubclass(category, SessionwiseWarning):
            channel.send({"warning": str(message)})
        else:
            usual(message, category, *args, **options)

    warnings.simplefilter("always", SessionwiseWarning)
    warnings.showwarning = show


def main() -> None:
    """Serve runs until standard input closes."""
    os.environ.update(ONE_THREAD)  # before numpy or torch is imported
    channel = _Channel()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher, which asks us to stop
    for number in STOP_SIGNALS[1:]:
        signal.signal(number, channel.stop)
    _forward_warnings(channel)
    channel.listen()
    _serve(channel)
    os._exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
