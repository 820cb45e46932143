"""Runs on a Dask cluster (``--on dask:ADDRESS``), through its own client: the driver's side.

One Dask task is one run, and there are as many places as the cluster has threads, which may come and go. A Dask worker
that dies takes its child with it, and Dask hands the task to another worker, where the run goes on from its checkpoint.
What Dask says of a run counts as far as the store confirms it; Dask keeps nothing that matters.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sessionwise.errors import EnvironmentProblem, SessionwiseWarning, UsageError
from sessionwise.io.files import disk_problem, temporary_name
from sessionwise.runs.dask_task import TOPIC, about, compute, differences, look, misfit, stop_runs
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

CONNECT_S = 10.0
WATCH_S = 2.0
_FETCH_S = 20.0  # for the reply of a run, which is small
_MAX_EARLY_DEATHS = 3
_AGAIN = "Run the same command again when the cluster is back: it goes on"
_known_threads: dict[str, int] = {}  # address -> threads of the cluster, as last heard


def dask_address(on: str) -> str:
    """The address in ``dask:ADDRESS``: a scheduler's, or the absolute path of a scheduler file. UsageError for others.

    Nothing is connected.
    """
    address = on.partition(":")[2]
    if re.fullmatch(r"[a-z]+://\S+", address):
        return address
    if address and Path(address).is_file():
        return str(Path(address).absolute())
    needed = "dask:tcp://HOST:PORT or dask:SCHEDULER_FILE"
    raise UsageError("--on", repr(on), needed, "The scheduler prints its address when it starts: dask scheduler")


def threads(address: str) -> int:
    """Threads of a cluster, at least 1: as last heard, else asked now."""
    if address not in _known_threads:
        client = _connect(address)
        _known_threads[address] = sum(client.nthreads().values())
        client.close(timeout=WATCH_S)
        _quiet(False)
    return max(1, _known_threads[address])


def known_threads(address: str) -> int:
    """``threads`` of a cluster that this process worked with, without asking; 1 for another."""
    return max(1, _known_threads.get(address, 1))


class DaskPlace:
    """A place for one run on the cluster, and the Dask task that computes it."""

    def __init__(self, pool: DaskPool) -> None:
        self.spec: RunSpec | None = None
        self.ready = False
        self.key, self.started = "", 0.0
        self.future: Any = None
        self._pool = pool

    def give(self, spec: RunSpec) -> None:
        """Submit a run."""
        self.spec, self.started, self.ready = spec, time.monotonic(), False
        self.key, self.future = self._pool.submit(spec)

    def take(self) -> tuple[RunSpec, float]:
        """The run that was in hand and the seconds since it was submitted; the place is free."""
        assert self.spec is not None
        spec, self.spec, self.future = self.spec, None, None
        return spec, time.monotonic() - self.started


class DaskPool:
    """Places on the cluster at ``address``, to which it connects when there is a run for it."""

    def __init__(self, address: str, store: RunStore, work: str) -> None:
        self.address, self.store, self.work = address, store, work
        self._places: list[DaskPlace] = []
        self._cluster: _Cluster | None = None
        self._early_deaths = 0

    @property
    def at_work(self) -> list[DaskPlace]:
        """Places with a run in hand."""
        return [place for place in self._places if place.spec is not None]

    def free_worker(self) -> DaskPlace | None:
        """A place while there are more threads than runs in hand; without any thread one, for the cluster to grow."""
        if self._cluster is None:
            self._cluster = _Cluster(self.address, self.store)
        if len(self.at_work) >= max(1, self._cluster.threads):
            return None
        for place in self._places:
            if place.spec is None:
                return place
        self._places.append(DaskPlace(self))
        return self._places[-1]

    def submit(self, spec: RunSpec) -> tuple[str, Any]:
        """Hand a run to the cluster; key and future of its task."""
        assert self._cluster is not None
        return self._cluster.submit(spec, self.work)

    def messages(self, timeout_s: float) -> Iterator[tuple[DaskPlace, dict[str, Any]]]:
        """What arrives within the time; EnvironmentProblem when the scheduler is lost."""
        if self._cluster is None:
            return
        for key, said in self._cluster.arrived(timeout_s):
            place = next((place for place in self._places if place.key == key and place.spec is not None), None)
            if place is None:  # late news of a run that has ended
                continue
            message = said if isinstance(said, dict) else self._outcome(said)
            if "event" in message:
                place.ready = True
                yield place, {"event": message["event"]}
                continue
            for text in message.pop("warnings", ()):
                yield place, {"warning": text}
            if last := message.pop("last", None):
                yield place, {"event": last}
            place.ready = place.ready or message.pop("ready", True)
            self._count_early_deaths(place, message)
            yield place, message
        if self._cluster.alone:
            self._cluster.alone = False
            text = f"Dask scheduler {self.address}: has no workers now; waiting for some"
            yield DaskPlace(self), {"warning": text}

    def stop(self, grace_s: float) -> Iterator[tuple[DaskPlace, dict[str, Any]]]:
        """Ask the runs under way to save their work; what is only queued is taken back."""
        if self._cluster is None or self._cluster.lost or not self.at_work:
            return
        under_way = self._cluster.ask_to_stop()
        for place in self.at_work:
            if place.key not in under_way and place.future.status == "pending":
                self._cluster.cancel([place.future])
                place.take()
        end = time.monotonic() + grace_s
        while self.at_work and time.monotonic() < end:
            for place, message in self.messages(0.1):
                yield place, message
                if place.spec is not None and ("reply" in message or "died" in message):
                    place.take()

    def close(self) -> None:
        """Take back what is queued and leave the cluster; what is under way there ends harmlessly in the store."""
        if self._cluster is not None:
            self._cluster.cancel([place.future for place in self.at_work])
            self._cluster.leave()

    def _outcome(self, future: Any) -> dict[str, Any]:
        """How a task ended, as a message."""
        assert self._cluster is not None
        if future.status == "finished":
            try:
                return dict(future.result(timeout=_FETCH_S))
            except Exception as error:  # its worker died with the reply: the store knows how it ended
                return {"died": f"its reply was lost ({_line(error)})"}
        if future.status == "cancelled":
            self._cluster.refuse_when_lost(wait_s=WATCH_S)  # a lost connection cancels all
            return {"died": "cancelled in the cluster by somebody else"}
        problem = future.exception(timeout=_FETCH_S)
        if type(problem).__name__ == "KilledWorker":
            return {"died": f"{problem.allowed_failures + 1} Dask workers died with it in hand"}
        return {"died": f"Dask task ended with {_line(problem)}"}

    def _count_early_deaths(self, place: DaskPlace, message: dict[str, Any]) -> None:
        """Processes that die at the very start again and again end the command."""
        self._early_deaths = self._early_deaths + 1 if "died" in message and not place.ready else 0
        if self._early_deaths > _MAX_EARLY_DEATHS:
            place.take()
            needed = "Dask workers that can run python -m sessionwise.runs.worker"
            raise EnvironmentProblem("workers", f"do not start: {message['died']}", needed, "Try --on here")


class _Cluster:
    """A connection to a scheduler: what arrives from it, and how many threads it has."""

    def __init__(self, address: str, store: RunStore) -> None:
        self.address, self.store, self.token = address, store, uuid.uuid4().hex
        self.threads, self.lost, self.alone = 0, "", False
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._numbers, self._told_alone = 0, False
        self._client = _connect(address)
        self._marker = store.root / temporary_name()
        try:
            self._mark()
            self._greet()
        except BaseException:
            self.leave()
            raise
        self._client.subscribe_topic(TOPIC, self._event)
        self._left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, spec: RunSpec, work: str) -> tuple[str, Any]:
        """A task for a run under a key that no other has: Dask must not take one run for another."""
        self._numbers += 1
        key = f"{TOPIC}-{self.token}-{self._numbers}"
        task = {"key": key, "token": self.token, "run": spec.to_json(), "root": str(self.store.root), "work": work}
        task |= {"about": about(), "marker": str(self._marker)}
        try:
            future = self._client.submit(compute, task, key=key, pure=False, retries=0)
        except Exception as error:
            raise self._lost(_line(error)) from error
        future.add_done_callback(lambda ended: self._inbox.put((key, ended)))
        return key, future

    def arrived(self, timeout_s: float) -> Iterator[tuple[str, Any]]:
        """(key of the task, message or ended future) of what arrives within the time."""
        self.refuse_when_lost()
        with suppress(queue.Empty):
            yield self._inbox.get(timeout=timeout_s)
            while True:
                yield self._inbox.get_nowait()

    def refuse_when_lost(self, wait_s: float = 0.0) -> None:
        """EnvironmentProblem when the scheduler is gone; within ``wait_s`` if there are signs of it."""
        end = time.monotonic() + wait_s
        while not self.lost and self._client.status == "running" and time.monotonic() < end:
            time.sleep(0.05)
        if self.lost or self._client.status != "running":
            self.lost = self.lost or "connection closed"
            raise self._lost(self.lost)

    def ask_to_stop(self) -> set[str]:
        """Ask all workers to stop the runs of this driver; the keys of those that will answer."""
        answers = _within(CONNECT_S, lambda: self._client.run(stop_runs, self.token, on_error="ignore")) or {}
        return {key for keys in answers.values() for key in keys}

    def cancel(self, futures: list[Any]) -> None:
        """Take tasks back."""
        if futures and not self.lost:
            _within(CONNECT_S, lambda: self._client.cancel(futures))

    def leave(self) -> None:
        """Close the connection."""
        if hasattr(self, "_left"):
            self._left.set()
        with suppress(OSError):
            self._marker.unlink(missing_ok=True)
        with suppress(Exception):
            self._client.close(timeout=WATCH_S)
        _quiet(False)

    def _mark(self) -> None:
        """A file by which workers are known to see the same folder."""
        try:
            self.store.root.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        except OSError as error:
            raise disk_problem(self._marker, error) from error

    def _greet(self) -> None:
        """Refuse workers that would compute something else, or somewhere else; say what differs otherwise."""
        self._count(self._client.nthreads())
        answers = self._client.run(look, str(self._marker), on_error="return")
        odd: dict[str, list[str]] = {}
        for address, answer in sorted(answers.items()):
            where = f"Dask worker {address}"
            if not isinstance(answer, dict):
                found, remedy = f"cannot run sessionwise ({_line(answer)})", "Install it in the workers' environment"
                raise EnvironmentProblem(where, found, f"sessionwise {about()['sessionwise']}", remedy)
            if problem := misfit(where, str(self._marker), about(), answer):
                raise problem
            for difference in differences(about(), answer["about"]):
                odd.setdefault(difference, []).append(address)
        for difference, addresses in odd.items():
            text = f"{len(addresses)} Dask workers have {difference}: bytes of results may differ"
            warnings.warn(text, SessionwiseWarning, stacklevel=2)

    def _event(self, event: tuple[Any, Any]) -> None:
        """Called in the client's own thread."""
        message = event[1]
        if message["token"] == self.token:
            self._inbox.put((message["key"], {"event": message["event"]}))

    def _watch(self) -> None:
        """Follow workers that come and go, and notice when the scheduler is gone: in a thread of its own."""
        failures = 0
        while not self._left.wait(WATCH_S):
            try:
                self._count(self._client.nthreads())
                failures = 0
            except Exception as error:
                failures += 1
                if failures == 3 or not isinstance(error, TimeoutError):  # a scheduler may be busy for a while
                    self.lost = _line(error)
                    return

    def _count(self, threads_of: dict[str, int]) -> None:
        self.threads = _known_threads[self.address] = sum(threads_of.values())
        self.alone = self.threads == 0 and not self._told_alone
        self._told_alone = self.threads == 0

    def _lost(self, why: str) -> EnvironmentProblem:
        found = f"connection lost ({why}); nothing that was stored is lost"
        return EnvironmentProblem(f"Dask scheduler {self.address}", found, "", _AGAIN)


def _connect(address: str) -> Any:
    """A client; EnvironmentProblem where there is no package or no scheduler."""
    try:
        import distributed
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[dask]'"
        raise EnvironmentProblem("--on dask", f"distributed cannot be imported ({error})", "it", remedy) from error
    where = {"address": address} if "://" in address else {"scheduler_file": address}
    _quiet(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared by us
            return distributed.Client(**where, timeout=CONNECT_S, set_as_default=False, name=TOPIC)
    except Exception as error:  # its addresses, files and networks fail with all kinds of errors
        _quiet(False)
        found, remedy = f"cannot be reached ({_line(error)})", "Start one: dask scheduler"
        raise EnvironmentProblem(f"Dask scheduler {address}", found, "a scheduler there", remedy) from error


def _quiet(on: bool) -> None:
    """Whether Dask's own words about lost connections are held back: ours are one line."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("distributed") and isinstance(logger, logging.Logger):
            logger.disabled = on


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The answer of a call, or None when it fails or takes longer; then it goes on in a thread that nobody awaits."""
    answers: list[Any] = []

    def ask() -> None:
        with suppress(Exception):
            answers.append(call())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _line(error: object) -> str:
    """An error in a short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
