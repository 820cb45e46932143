"""The scores of a climb, shrunk by their noise towards what is known of the sessions without a finetuning.

A small budget pays one small core a session, whose noise is as large as what sessions differ by on the real recordings
tried (`docs/results/rankers.md`); what is chosen by such scores alone is chosen by luck.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sessionwise.analysis.rung_scores import Noise
from sessionwise.analysis.shrinkage import LEAST, Shrunk, shrink
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.rungs import Climb
from sessionwise.selection.scored import generator
from sessionwise.selection.shrunk import DRAWS, free_facts


class ShrunkScores:
    """A climb's scores: ``measured`` and, by ``scores``, shrunk.

    whole: what was made of the scores on all trials, with draws; None where fewer than three sessions have one.
    """

    def __init__(self, target: str, climb: Climb, context: Context) -> None:
        self.target, self.climb, self.context = target, climb, context
        self.measured = {name: value for name, value in climb.values.items() if value is not None}
        names, enough = list(self.measured), len(self.measured) >= LEAST
        self.facts = free_facts(target, names, _first_cores(climb), context) if enough else {}
        self.whole = self._shrunk(self.measured, 1.0)

    @property
    def scores(self) -> dict[str, float]:
        """Session -> score, bits per spike, of those that have one."""
        return _means(self.measured, self.whole)

    @property
    def draws(self) -> np.ndarray | None:
        """(B, C) of these scores, in their order; None if there is none."""
        return self.climb.draws if self.whole is None else self.whole.draws

    def on(self, trials: np.ndarray) -> dict[str, float]:
        """The scores on half of the validation trials, (K,) bool, whose noise counts as twice that of all."""
        measured = self.climb.on(trials)
        return _means(measured, self._shrunk(measured, 2.0))

    def _shrunk(self, measured: Mapping[str, float], times: float) -> Shrunk | None:
        """times: the variance of the noise, in units of that of scores on all trials."""
        draws, values = self.climb.draws, np.array(list(measured.values()))
        if draws is None or len(values) < LEAST:
            return None
        noise = Noise(0.0, 0) if self.climb.noise_known else None  # where it is known, the draws have it
        noisy = values + np.sqrt(times) * (draws - draws.mean(axis=0))
        rng = generator("recommend shrunk", self.target, self.context)
        return shrink(values, noisy, noise, 1, self.facts, DRAWS, rng=rng)


def _first_cores(climb: Climb) -> dict[str, list[RunSpec]]:
    """The pretrainings of the first stage by session, of the seeds that every session has."""
    cores: dict[str, list[RunSpec]] = {}
    for spec in climb.stages[0].specs:
        if spec.kind == "pretrain" and spec.seed in climb.seeds:
            (name,) = spec.sessions
            cores.setdefault(name, []).append(spec)
    return cores


def _means(measured: Mapping[str, float], shrunk: Shrunk | None) -> dict[str, float]:
    return dict(measured) if shrunk is None else dict(zip(measured, map(float, shrunk.mean), strict=True))
