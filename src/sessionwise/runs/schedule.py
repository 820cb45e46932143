"""Which run comes next: inputs first, the longest chain of runs first, nothing that is stored.

A chain is a run and what waits for it, in optimiser steps: so no worker is left alone at the end with a long run, or
with one that others wait for.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sessionwise.errors import UsageError
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import DIVERGED, DONE, FAILED, LOST, MISSING, RAISED, RunStore

INPUT = "input"  # why a run failed: an input of it did not succeed, so it was not started


@dataclass(frozen=True)
class Outcome:
    """How a run stands at the end of a command.

    Parameters
    ----------
    key: the run.
    state: "done", "diverged" or "failed".
    reason: why it is not done, in words; None when done.
    cause: "raised", "lost" or "input" for a failed run.
    computed: whether this command computed it (False: it was stored, or another process computed it).
    attempts: how often this command started it.
    seconds: how long this command computed it.
    parts: the seconds by what was done in them: "load", "steps" (and validations), "commit"; empty when not computed.
    """

    key: str
    state: str
    reason: str | None = None
    cause: str | None = None
    computed: bool = False
    attempts: int = 0
    seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)


class Schedule:
    """The runs of one command and how far they are: ready, under way, busy elsewhere, settled."""

    def __init__(self, specs: Sequence[RunSpec], store: RunStore, retry_failed: bool = False) -> None:
        self.specs = {spec.key: spec for spec in specs}
        self.store = store
        self.outcomes: dict[str, Outcome] = {}
        self.busy: dict[str, str] = {}
        self._order = {key: position for position, key in enumerate(self.specs)}
        self._ready: list[tuple[int, int, str]] = []
        self._unmet: dict[str, set[str]] = {}
        self._dependants: dict[str, list[str]] = {}
        self._chain: dict[str, int] = {}
        self._begin(retry_failed)

    @property
    def open(self) -> bool:
        """Whether a run is not settled yet."""
        return len(self.outcomes) < len(self.specs)

    @property
    def n_ready(self) -> int:
        """Number of runs that could start now."""
        return len(self._ready)

    def next(self) -> RunSpec | None:
        """Take the ready run with the longest chain, or None when all are under way, busy or waiting for inputs."""
        return self.specs[heapq.heappop(self._ready)[2]] if self._ready else None

    def put_back(self, spec: RunSpec) -> None:
        """A run that was taken is ready again."""
        heapq.heappush(self._ready, (-self._chain[spec.key], self._order[spec.key], spec.key))

    def wait_for(self, spec: RunSpec, holder: str) -> None:
        """Another process computes this run: ask again later (``recall``)."""
        self.busy[spec.key] = holder

    def recall(self) -> list[Outcome]:
        """Look at runs that were busy elsewhere: settled ones are returned, free ones are ready again."""
        settled: list[Outcome] = []
        for key in list(self.busy):
            if self.store.holder(key) is not None:
                continue
            del self.busy[key]
            outcome = stored_outcome(key, self.store)
            if outcome is None:
                self.put_back(self.specs[key])
            else:
                settled += self.settle(outcome)
        return settled

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """Record how a run ended; returns it and the outcomes of those that cannot start because of it."""
        settled, todo = [], [outcome]
        while todo:
            one = todo.pop()
            self.outcomes[one.key] = one
            settled.append(one)
            for key in self._dependants.pop(one.key, []):
                if key not in self.outcomes:
                    todo += self._input_settled(key, one)
        return settled

    def _input_settled(self, key: str, input_outcome: Outcome) -> list[Outcome]:
        """The dependant's outcome when it fails with its input; else it waits for one input less."""
        if input_outcome.state != DONE:
            return [_failed_with(self.specs[key], input_outcome)]
        self._unmet[key].discard(input_outcome.key)
        if not self._unmet[key]:
            self.put_back(self.specs[key])
        return []

    def _begin(self, retry_failed: bool) -> None:
        """Settle what is stored, tie the others to their inputs, and find what can start."""
        missing = []
        for key in self.specs:
            outcome = stored_outcome(key, self.store, retry_failed)
            if outcome:
                self.outcomes[key] = outcome
                continue
            missing.append(key)
            if retry_failed:
                self.store.forget_failure(key)
        if missing:
            self.store.note_asked(list(self.specs.values()))
        for key in missing:
            self._unmet[key] = set(self.specs[key].inputs.values())
            for needed in self._unmet[key]:
                self._dependants.setdefault(needed, []).append(key)
        self._chain = _chains([self.specs[key] for key in missing])
        for key in missing:
            if not self._unmet[key]:
                self.put_back(self.specs[key])
        for needed in list(self._dependants):
            self._settle_known(needed)

    def _settle_known(self, key: str) -> None:
        """An input that is settled already, here or by an earlier command, frees or fails its dependants."""
        outcome = self.outcomes.get(key)
        if outcome is None and key not in self.specs:
            outcome = self._foreign(key)
        if outcome is None:
            return
        for dependant in self._dependants.pop(key, []):
            if dependant not in self.outcomes:
                for failed in self._input_settled(dependant, outcome):
                    self.settle(failed)

    def _foreign(self, key: str) -> Outcome:
        """An input that is not among this command's runs must be stored."""
        outcome = stored_outcome(key, self.store)
        if outcome:
            return outcome
        names = [self.specs[dependant].name for dependant in self._dependants[key]]
        needed = "inputs that are stored or asked for as well"
        raise UsageError(f"run {names[0]}", f"reads run {key[:12]}, which is neither", needed)


def _chains(specs: Sequence[RunSpec]) -> dict[str, int]:
    """Key -> steps of the run and of the longest chain of runs that wait for it; two levels are the usual depth."""
    steps, chains = {spec.key: spec.steps for spec in specs}, {spec.key: spec.steps for spec in specs}
    changed = True
    while changed:  # a key is a hash over those of its inputs: there are no cycles
        changed = False
        for spec in specs:
            for needed in spec.inputs.values():
                if needed in chains and chains[needed] < steps[needed] + chains[spec.key]:
                    chains[needed], changed = steps[needed] + chains[spec.key], True
    return chains


def stored_outcome(key: str, store: RunStore, retry_failed: bool = False) -> Outcome | None:
    """The outcome that is on disk, or None when the run is to be computed.

    A run whose process was lost is always tried again, one that raised only with ``retry_failed``.
    """
    state = store.state(key)
    if state == MISSING:
        return None
    if state != FAILED:
        return Outcome(key, state, reason_of(store, key))
    if not store.committed(key) and store.result(key)["cause"] == LOST:
        return None
    return None if retry_failed else Outcome(key, FAILED, reason_of(store, key), RAISED)


def reason_of(store: RunStore, key: str) -> str | None:
    """Why a stored run is not done, in words; None when it is done."""
    result = store.result(key)
    if result["state"] == DONE:
        return None
    return str(result.get("reason") or ("diverged" if result["state"] == DIVERGED else "failed"))


def _failed_with(spec: RunSpec, bad: Outcome) -> Outcome:
    role = next(role for role, key in spec.inputs.items() if key == bad.key)
    return Outcome(spec.key, FAILED, f"input {role} (run {bad.key[:12]}) {bad.state}", INPUT)
