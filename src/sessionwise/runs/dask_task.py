"""What a Dask worker does for a run: it hands it to a child process of its own and passes on what that says.

The child is the process of ``worker``. It stays for the next task of the same store for a minute, so importing is paid
once. It ends with its Dask worker, however that ends: its standard input closes.
"""

from __future__ import annotations

import itertools
import platform
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sessionwise.errors import EnvironmentProblem, SessionwiseError
from sessionwise.runs.pool import Worker
from sessionwise.runs.spec import CODE_SCHEMA, RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import pack_error

TOPIC = "sessionwise"  # of the scheduler's event log: how far runs are
IDLE_S = 60.0  # how long a child without a run is kept
_EVENT_S = 1.0  # at most one event of a run in this time passes through the scheduler
_POLL_S = 0.25
_SAME = ("sessionwise", "code schema", "torch", "python")  # must agree; the rest is said


@cache
def about() -> dict[str, str]:
    """What must agree between a driver and its workers for the same bytes, as far as is known without torch."""
    named = {"code schema": str(CODE_SCHEMA), "python": platform.python_version(), "machine": platform.machine()}
    return {**{name: _version(name) for name in ("sessionwise", "torch", "numpy")}, **named}


def look(marker: str) -> dict[str, Any]:
    """What a driver asks of each worker before it hands over runs: versions, and whether it sees the driver's file."""
    return {"about": about(), "sees": Path(marker).exists()}


def misfit(where: str, marker: str, here: Mapping[str, str], there: Mapping[str, Any]) -> EnvironmentProblem | None:
    """Why a worker (``there``: its answer to ``look``) cannot compute for a driver with ``here``; None when it can."""
    for name in _SAME:
        mine, theirs = here[name], there["about"].get(name, "none")
        if _release(name, mine) != _release(name, theirs):
            found, remedy = f"has {name} {theirs}", "Start the Dask workers from the environment of this command"
            return EnvironmentProblem(where, found, f"{name} {mine} as here", remedy)
    if not there["sees"]:
        found = f"does not see {Path(marker).parent}"
        return EnvironmentProblem(where, found, "a file system shared by all", "Name a shared folder with --to")
    return None


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What differs and is no reason to refuse, for people."""
    return [f"{name} {there.get(name)} (here {value})" for name, value in here.items() if there.get(name) != value]


def compute(task: Mapping[str, Any]) -> dict[str, Any]:
    """One run, in a thread of a Dask worker; the reply of its child, with its ``warnings`` and its ``last`` event.

    task: key, token of the driver, run, root, work, and about and marker of the driver for ``misfit``.
    """
    import distributed

    host = distributed.get_worker()

    def send(event: dict[str, Any]) -> None:
        host.log_event(TOPIC, {"token": task["token"], "key": task["key"], "event": event})

    def stopping() -> bool:
        return task["token"] in _stopped or host.status.name not in ("running", "paused")

    if stopping():
        return {"reply": "stopped"}
    try:
        if problem := misfit(f"Dask worker {host.address}", task["marker"], task["about"], look(task["marker"])):
            raise problem
        _under_way[task["key"]] = task["token"]
        with _children.one(Path(task["root"]), task["work"]) as child:
            return follow(child, RunSpec.from_json(task["run"]), send, stopping)
    except SessionwiseError as error:
        return {"reply": "refused", "error": pack_error(error)}
    finally:
        _under_way.pop(task["key"], None)


def stop_runs(token: str) -> list[str]:
    """Ask the runs of a driver to save their work, here; the keys of those that will answer."""
    _stopped.add(token)
    return [key for key, owner in list(_under_way.items()) if owner == token]


def follow(
    child: Worker, spec: RunSpec, send: Callable[[dict[str, Any]], None], stopping: Callable[[], bool]
) -> dict[str, Any]:
    """Hand a run to a child and wait for its reply, or for its death: ``{"died": why, "ready": bool}``."""
    child.give(spec)
    about: dict[str, Any] = {"warnings": [], "last": None}
    next_event = 0.0
    while True:
        if stopping() and not child.told_to_stop:
            child.told_to_stop = True
            child.send({"stop": True})
        messages, closed = child.receive() if _readable(child) else ([], child.ended)
        for message in messages:
            child.ready = True
            if "warning" in message:
                about["warnings"].append(message["warning"])
            elif "event" in message:
                about["last"] = message["event"]
                if time.monotonic() >= next_event:
                    next_event = time.monotonic() + _EVENT_S
                    send(message["event"])
            elif "reply" in message:
                child.take()
                return {**message, **about}
        if closed:
            child.take()
            return {"died": child.cause_of_death(), "ready": child.ready, **about}


def _readable(child: Worker) -> bool:
    assert child.process.stdout is not None
    return bool(select.select([child.process.stdout], [], [], _POLL_S)[0])


class Children:
    """The child processes of one Dask worker that have no run in hand, for the next task of the same store."""

    def __init__(self) -> None:
        self._lock, self._slots = threading.Lock(), itertools.count()
        self._idle: list[tuple[float, tuple[Path, str], Worker]] = []

    @contextmanager
    def one(self, root: Path, work: str) -> Iterator[Worker]:
        """A child for a run; afterwards it is kept if it is well."""
        child = self._take((root, work)) or Worker(f"{socket.gethostname()}-{next(self._slots)}", RunStore(root), work)
        try:
            yield child
        finally:
            if child.spec is None and not child.told_to_stop and child.process.poll() is None:
                self._keep((root, work), child)
            else:
                child.end()

    def end_idle(self, since: float) -> None:
        """End the children that have been idle since then or longer; monotonic seconds."""
        with self._lock:
            old = [child for begun, _, child in self._idle if begun <= since]
            self._idle = [entry for entry in self._idle if entry[0] > since]
        for child in old:
            child.end()

    def _take(self, wanted: tuple[Path, str]) -> Worker | None:
        with self._lock:
            for entry in self._idle:
                if entry[1] == wanted and entry[2].process.poll() is None:
                    self._idle.remove(entry)
                    return entry[2]
        return None

    def _keep(self, of: tuple[Path, str], child: Worker) -> None:
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, of, child))
        timer = threading.Timer(IDLE_S, self.end_idle, [now])
        timer.daemon = True
        timer.start()


_children = Children()
_stopped: set[str] = set()  # tokens of drivers that asked their runs to stop
_under_way: dict[str, str] = {}  # key of a task -> token of its driver


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _release(name: str, text: str) -> str:
    """What of a version must agree: of Python the first two numbers, else all but the build (``+cpu``)."""
    return ".".join(text.split(".")[:2]) if name == "python" else text.split("+")[0]
