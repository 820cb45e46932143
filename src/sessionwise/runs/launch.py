"""Execute runs: what is stored is not computed, what fails fails alone, what is interrupted goes on.

``on="here"`` computes in this process, ``"processes:n"`` in n persistent workers, ``"slurm"`` in jobs of a Slurm
cluster (``"slurm:PROFILE.toml"`` names its settings), ``"dask:ADDRESS"`` on a Dask cluster; the same bytes each way,
as far as the work function itself does not depend on the number of threads of its process.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sessionwise.errors import SessionwiseWarning, Stopped, UsageError
from sessionwise.runs.executors import local_workers, make_workers, runs_at_a_time
from sessionwise.runs.pool import GRACE_S, Place, Workers, kept_workers
from sessionwise.runs.progress import Progress
from sessionwise.runs.schedule import Outcome, Schedule, reason_of, stored_outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import FAILED, LOST, RAISED, RunStore
from sessionwise.runs.worker import STOP_SIGNALS, Reporter, load_work, perform, unpack_error

__all__ = ["Outcome", "early_workers", "execute", "pending", "time_spent"]

MAX_ATTEMPTS = 3  # a run whose worker dies is retried at most twice in a command
_POLL_S = 0.25


def execute(
    specs: Sequence[RunSpec],
    store: RunStore,
    work: str = "sessionwise.training.jobs:run",
    on: str = "processes",
    progress: Progress | None = None,
    *,
    retry_failed: bool = False,
) -> dict[str, Outcome]:
    """Make sure that all runs are settled, inputs before what reads them; returns key -> Outcome in the given order.

    Parameters
    ----------
    specs: the runs; the same key twice is one run. Inputs that are not among them must be stored.
    store: where they are stored.
    work: ``"module:function"``; called as ``function(spec, store, report)`` and commits through ``store.commit``.
    on: "here", "processes" (as many as cores), "processes:n", "slurm", "slurm:PROFILE.toml" (a site profile), or
        "dask:ADDRESS" (a scheduler's, or its file).
    progress: what is shown; None shows nothing (``progress.make_progress()`` shows it on stderr).
    retry_failed: compute runs again that raised in an earlier command (runs whose process was lost always are).

    Raises UsageError for an unknown ``on`` or an input that is neither stored nor asked for; Stopped after SIGINT,
    SIGTERM, SIGUSR1 or SIGUSR2 (work is kept; the same call goes on); and whatever concerns the surroundings rather
    than one run: EnvironmentProblem, IntegrityError, LeakageError.
    """
    size = local_workers(on)
    schedule = Schedule(specs, store, retry_failed)
    command = _Command(schedule, store, work, progress or Progress())
    try:
        command.progress.begin(list(schedule.specs.values()), size or 1)
        command.show(list(schedule.outcomes.values()))
        with _stop_signals(command):
            command.run_here() if on == "here" else command.run_in(make_workers(on, store, work))
    finally:
        command.progress.end()
    return {key: schedule.outcomes[key] for key in schedule.specs}


def pending(specs: Sequence[RunSpec], store: RunStore, retry_failed: bool = False) -> list[RunSpec]:
    """The runs that ``execute`` would have to compute, in the given order, each once; reads only."""
    unique = {spec.key: spec for spec in specs}
    return [spec for key, spec in unique.items() if stored_outcome(key, store, retry_failed) is None]


def time_spent(outcomes: Iterable[Outcome], on: str, seconds: float) -> dict[str, Any]:
    """Where the workers' time went in a command that took ``seconds``: sums over its runs, and what is left of it.

    load, steps, commit: inside the runs (``Outcome.parts``); handover: between a worker being given a run and the work
    on it (in a worker's first run: its imports) and back; idle: without a run. busy: steps as a share of all.
    """
    computed = [outcome for outcome in outcomes if outcome.computed]
    workers = runs_at_a_time(on, ask=False)
    parts = {name: sum(outcome.parts.get(name, 0.0) for outcome in computed) for name in ("load", "steps", "commit")}
    in_hand, available = sum(outcome.seconds for outcome in computed), workers * seconds
    rest = {"handover": in_hand - sum(parts.values()), "idle": available - in_hand}
    share = parts["steps"] / available if available > 0 else 0.0
    return {"workers": workers, "seconds": seconds, "runs": len(computed), **parts, **rest, "busy": share}


@contextmanager
def early_workers(on: str, start: bool = True, work: str = "sessionwise.training.jobs:run") -> Iterator[None]:
    """Keep workers between the calls of ``execute`` inside the block.

    start: begin with as many as will be needed, so that they import while the caller plans. An unknown ``on`` is left
    for ``execute`` to refuse.
    """
    try:
        size = local_workers(on)
    except UsageError:
        size = 0
    with kept_workers(size, work, start):
        yield


class _Command:
    """One call of ``execute``: the schedule, what was tried, and whether a stop was asked for."""

    def __init__(self, schedule: Schedule, store: RunStore, work: str, progress: Progress) -> None:
        self.schedule, self.store, self.work, self.progress = schedule, store, work, progress
        self.attempts: Counter[str] = Counter()
        self.stop_signal: int | None = None
        self._next_recall = 0.0

    # -- in this process ----------------------------------------------------------------------------------------

    def run_here(self) -> None:
        """Compute one run after the other in this process."""
        function = load_work(self.work) if self.schedule.open else None
        while self.schedule.open:
            self._check_stop()
            self._recall()
            spec = self.schedule.next()
            if spec is None:
                self._wait()
                continue
            assert function is not None
            start = self._begin(spec)
            reply = perform(spec, self.store, function, self._reporter(spec))
            self._handle_reply(spec, reply, time.monotonic() - start)

    def _reporter(self, spec: RunSpec) -> Reporter:
        return Reporter(lambda event: self.progress.event(spec, event), lambda: self._stopping)

    # -- in workers ---------------------------------------------------------------------------------------------

    def run_in(self, pool: Workers) -> None:
        """Keep the workers busy until all runs are settled."""
        try:
            while self.schedule.open:
                self._check_stop()
                self._recall()
                self._dispatch(pool)
                for worker, message in pool.messages(_POLL_S):
                    self._handle(worker, message)
                self.progress.show()
        except BaseException:
            self._let_finish(pool)
            raise
        finally:
            pool.close()

    def _dispatch(self, pool: Workers) -> None:
        while self.schedule.n_ready and (worker := pool.free_worker()):
            spec = self.schedule.next()
            assert spec is not None
            self._begin(spec)
            worker.give(spec)

    def _handle(self, worker: Place, message: dict[str, Any]) -> None:
        if "warning" in message:
            warnings.warn(message["warning"], SessionwiseWarning, stacklevel=2)
        if worker.spec is None:
            return
        if "event" in message:
            self.progress.event(worker.spec, message["event"])
        elif "reply" in message:
            spec, seconds = worker.take()
            self._handle_reply(spec, message, seconds)
        elif "died" in message:
            self._handle_lost(*worker.take(), message["died"], started=worker.ready)

    def _let_finish(self, pool: Workers) -> None:
        """Before the command ends early: let runs in hand save their work, and take in what they finished."""
        try:
            if pool.at_work:
                self.progress.note("stopping: runs under way save their work (once more Ctrl-C: at once)")
            for worker, message in pool.stop(GRACE_S):
                if message.get("reply") == "done" and worker.spec:
                    spec, seconds = worker.take()
                    self._handle_reply(spec, message, seconds)
        except Exception as error:  # the first error is the one to tell
            self.progress.note(f"while stopping: {error}")

    # -- common -------------------------------------------------------------------------------------------------

    def _begin(self, spec: RunSpec) -> float:
        self.attempts[spec.key] += 1
        self.progress.start(spec)
        return time.monotonic()

    def _handle_reply(self, spec: RunSpec, reply: dict[str, Any], seconds: float) -> None:
        how = reply["reply"]
        if how in ("done", "stored"):
            self._settle_stored(spec, seconds, computed=how == "done", parts=reply.get("parts"))
        elif how == "busy":
            self._wait_for(spec, reply["holder"])
        elif how == "raised":
            self._settle_failed(spec, reply["reason"], RAISED, seconds, reply["traceback"])
        elif how == "refused":
            self.progress.pause(spec)
            raise unpack_error(reply["error"])
        elif how == "lost":
            self._handle_lost(spec, seconds, reply["reason"])
        else:
            self._handle_stopped(spec, seconds)

    def _settle_stored(
        self, spec: RunSpec, seconds: float, computed: bool, parts: Mapping[str, float] | None = None
    ) -> None:
        key = spec.key
        if not self.store.committed(key):
            return self._handle_lost(spec, seconds, "its folder vanished or was damaged right after the commit")
        state = self.store.state(key)
        cause = RAISED if state == FAILED else None
        seconds = seconds if computed else 0.0
        attempts = self.attempts[key]
        reason = reason_of(self.store, key)
        self._settle(Outcome(key, state, reason, cause, computed, attempts, seconds, parts or {}))
        return None

    def _wait_for(self, spec: RunSpec, holder: str) -> None:
        self.attempts[spec.key] -= 1
        self.progress.pause(spec)
        self.progress.note(f"{spec.name} is computed by {holder}; waiting for it")
        self.schedule.wait_for(spec, holder)

    def _handle_stopped(self, spec: RunSpec, seconds: float) -> None:
        """A run stopped with its work kept: because of us, or because somebody signalled its worker."""
        if self._stopping:
            self.progress.pause(spec)
            self.schedule.put_back(spec)
        else:
            self._handle_lost(spec, seconds, "its worker was asked to stop by somebody else")

    def _handle_lost(self, spec: RunSpec, seconds: float, reason: str, started: bool = True) -> None:
        if self.store.committed(spec.key):  # it died between its commit and its reply
            return self._settle_stored(spec, seconds, computed=True)
        self.progress.pause(spec)
        if not started:  # the worker never came up: no attempt at the run
            self.attempts[spec.key] -= 1
        if self.attempts[spec.key] >= MAX_ATTEMPTS:
            reason = f"lost {MAX_ATTEMPTS} times; {reason}"
            return self._settle_failed(spec, reason, LOST, seconds)
        self.progress.note(f"{spec.name} lost ({reason}); trying again")
        self.schedule.put_back(spec)
        return None

    def _settle_failed(self, spec: RunSpec, reason: str, cause: str, seconds: float, trace: str = "") -> None:
        attempts = self.attempts[spec.key]
        self.store.record_failure(spec, reason, attempts, cause, trace)
        self._settle(Outcome(spec.key, FAILED, reason, cause, True, attempts, seconds))

    def _settle(self, outcome: Outcome) -> None:
        self.show(self.schedule.settle(outcome))

    def show(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the progress which runs are settled."""
        for outcome in outcomes:
            self.progress.finish(self.schedule.specs[outcome.key], outcome)

    def _recall(self) -> None:
        if self.schedule.busy and time.monotonic() >= self._next_recall:
            self.show(self.schedule.recall())
            self._next_recall = time.monotonic() + _POLL_S

    def _wait(self) -> None:
        self.progress.show()
        time.sleep(_POLL_S)

    # -- stopping -----------------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self.stop_signal is not None

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: stop at the next step; the second signal stops at once."""
        if self._stopping:
            raise KeyboardInterrupt
        self.stop_signal = number

    def _check_stop(self) -> None:
        if self.stop_signal is not None:
            raise self._stopped()

    def _stopped(self) -> Stopped:
        name = signal.Signals(self.stop_signal).name if self.stop_signal else "request"
        done, total = len(self.schedule.outcomes), len(self.schedule.specs)
        found = f"stopped on {name} with {done} of {total} runs settled; nothing is lost"
        return Stopped(str(self.store.root), found, "", "Run the same command again: it goes on")


@contextmanager
def _stop_signals(command: _Command) -> Iterator[None]:
    """Turn stop signals into a flag while runs are computed; only the main thread may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number in STOP_SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, command.stop)
        yield
    except KeyboardInterrupt:
        raise command._stopped() from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
