"""What every ranker works with: the recordings, the settings, and the store of runs, in which nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sessionwise.analysis.activity import Kernels, Quality, kernels, quality
from sessionwise.data.splits import SessionData
from sessionwise.data.store import SessionStore
from sessionwise.runs.launch import Outcome, execute, pending
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.training.jobs import WORK
from sessionwise.training.operations import operations
from sessionwise.training.precision import say_precision
from sessionwise.training.presets import Settings
from sessionwise.training.resources import needs, refuse_what_cannot_fit, shape_of


@dataclass
class Context:
    """The question and its means; a ranker computes runs through ``compute`` alone.

    heldout: all held-out sessions of the question. study: its folder. asked: the runs that were asked for since it was
    last emptied, by key. outcomes: of all runs asked for. missing: keys of those that were not stored before. budget:
    what a ranking may cost from scratch for one held-out session, in operations (``training.operations``), for the
    rankers that heed one; None: their own measure.
    """

    sessions: SessionStore
    settings: Settings
    seeds: tuple[int, ...]
    heldout: tuple[str, ...]
    study: Path
    on: str = "processes"
    progress: Progress | None = None
    retry_failed: bool = False
    budget: int | None = None
    asked: dict[str, RunSpec] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store = RunStore(self.study / "runs")
        self._kernels: dict[str, Kernels] = {}
        self._qualities: dict[str, Quality] = {}

    def compute(self, specs: Iterable[RunSpec]) -> Mapping[str, Outcome]:
        """Make sure that runs are settled: key -> Outcome, of these and of all before. What is stored is not repeated.

        Raises EnvironmentProblem when what is missing cannot fit on the disk or in memory.
        """
        asked = {spec.key: spec for spec in specs}
        self.asked |= asked
        new = [spec for spec in asked.values() if spec.key not in self.outcomes]
        if new:
            missing = {spec.key for spec in pending(new, self.store, self.retry_failed)}
            self.missing |= missing
            infos = {i: self.sessions.info(i) for i in sorted({i for spec in new for i in spec.sessions})}
            shapes = (shape_of(spec, infos) for spec in new if spec.key in missing)
            refuse_what_cannot_fit(needs(shapes, len(self.heldout)), self.study, self.on)
            say_precision(new, self.progress)
            self.outcomes |= execute(
                new, self.store, WORK, on=self.on, progress=self.progress, retry_failed=self.retry_failed
            )
        return self.outcomes

    def price(self, specs: Iterable[RunSpec]) -> int:
        """Operations of these trainings from scratch, each counted once, as estimated before any runs."""
        each = {spec.key: spec for spec in specs}.values()
        infos = {i: self.sessions.info(i) for i in sorted({i for spec in each for i in spec.sessions})}
        return sum(operations(spec, infos) for spec in each)

    def load(self, session: str) -> SessionData:
        """A recording behind its split; test trials stay sealed."""
        return self.sessions.load(session, self.settings.split_seed, self.settings.split)

    def counts(self, session: str) -> np.ndarray:
        """(K, T, N) counts of the training and validation trials."""
        data = self.load(session)
        return np.concatenate([data.counts("train"), data.counts("validation")])

    def kernels(self, session: str) -> Kernels:
        """How the session's activity unfolds in time, from those trials; made once for all who compare sessions."""
        if session not in self._kernels:
            self._kernels[session] = kernels(self.counts(session))
        return self._kernels[session]

    def quality(self, session: str) -> Quality:
        """How much signal the session carries, from those trials; measured once for all who ask."""
        if session not in self._qualities:
            self._qualities[session] = quality(self.counts(session))
        return self._qualities[session]
