"""Rankers that train nothing: how alike two recordings unfold in time, and how much signal a recording carries.

They look at training and validation trials of the pool and of the held-out session. Their weights were fixed before any
of them was compared with transfer scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sessionwise.analysis.activity import Quality, bootstrap_kernels, similarity
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Ranking
from sessionwise.selection.scored import Scores, Untrained, generator, ranking_by, standard

DRAWS = 100  # an 80 % interval of a rank needs no more


class LatentDistance(Untrained):
    """Sessions whose population activity unfolds in time as that of the held-out session does first."""

    name = "latent_distance"
    about = "similarity of time x time kernels of activity; no training, no matching of units"

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by similarity, -1 to 1; trials of both recordings are resampled for the intervals."""
        values, draws = similarities(target, pool, context)
        kind = "similarity of activity over time, -1 to 1; intervals: trials resampled, not the method's own error"
        return ranking_by(self.name, target, Scores(values, "similarity of activity", kind, draws), context)


class QualityRanker(Untrained):
    """Sessions with many trials and units and much reproducible signal first, whatever the held-out session."""

    name = "quality"
    about = "trials, units, signal fraction and reliability; no training"

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the mean of the standardised logarithms of trials and units, signal fraction and reliability."""
        values = dict(zip(pool, map(float, qualities(pool, context)), strict=True))
        kind = "mean of log trials, log units, signal fraction and reliability, each standardised over the pool"
        return ranking_by(self.name, target, Scores(values, "quality", kind), context)


class ZeroTraining(Untrained):
    """Alike and good: similarity of activity and quality with equal weights."""

    name = "zero_training"
    about = "latent_distance and quality with equal weights"

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the mean of both, each standardised over the pool."""
        alike, draws = similarities(target, pool, context)
        column, good = np.array(list(alike.values())), standard(qualities(pool, context))  # one vote each
        values = (standard(column) + good) / 2
        kind = "mean of similarity of activity and quality, each standardised over the pool"
        found = Scores(
            dict(zip(pool, map(float, values), strict=True)),
            "similarity and quality",
            kind,
            (standard(draws, column) + good) / 2,
        )
        return ranking_by(self.name, target, found, context)


def likenesses(target: str, pool: Sequence[str], context: Context) -> dict[str, float]:
    """Similarity of each session's activity to that of the held-out one, -1 to 1."""
    own = context.kernels(target)
    return {name: similarity(own, context.kernels(name)) for name in pool}


def likeness_matrix(names: Sequence[str], context: Context) -> np.ndarray:
    """(C, C) similarity of activity of every two sessions, -1 to 1."""
    found = [context.kernels(name) for name in names]
    return np.array([[similarity(a, b) for b in found] for a in found])


def similarities(target: str, pool: Sequence[str], context: Context) -> tuple[dict[str, float], np.ndarray]:
    """Similarity of each session to the held-out one, and (B, C) draws with trials of both resampled."""
    counts = context.counts(target)
    drawn_own = bootstrap_kernels(counts, DRAWS, generator("kernels", target, context))
    values, draws = likenesses(target, pool, context), []
    for name in pool:
        drawn = bootstrap_kernels(context.counts(name), DRAWS, generator("kernels", name, context))
        draws.append([similarity(a, b) for a, b in zip(drawn_own, drawn, strict=True)])
    # Resampling trials lowers a similarity as noise does; what moves ranks is the spread about each session's mean.
    found = np.array(draws).T
    return values, found - found.mean(axis=0) + np.array(list(values.values()))


def qualities(pool: Sequence[str], context: Context) -> np.ndarray:
    """(C,) quality of each session of the pool, relative to the others."""
    return combined([context.quality(name) for name in pool])


def combined(found: Sequence[Quality]) -> np.ndarray:
    """(C,) mean of the standardised measures."""
    columns: Mapping[str, list[float]] = {
        "trials": [one.log_trials for one in found],
        "units": [float(np.log(one.n_units)) for one in found],
        "signal": [one.signal_fraction for one in found],
        "reliability": [one.reliability for one in found],
    }
    return np.mean([standard(np.array(column)) for column in columns.values()], axis=0)
