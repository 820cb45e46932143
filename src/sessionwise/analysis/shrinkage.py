"""Noisy scores of a pool, shrunk towards what facts about its sessions predict, as far as their noise demands.

Legend: C sessions, F facts, S seeds, B draws.

A measured score is a true one and noise, and true scores follow facts that cost nothing to know (trials, quality,
likeness ...), loosely:

    score[c] = true[c] + trials[c] + training[c]            trials: known covariance (C, C); training: variance w / S
    true[c]  = level + sum_f beta[f] fact[c, f] + own[c]    beta: variance a / F; own: variance b

All Gaussian, the level free. What is wanted is E[true | score]: where scores spread far more than noise, nearly the
scores themselves; where noise is as large as the spread, nearly what the facts predict. The facts earn their weight
from these very scores: where they do not go with them, ``a`` is small and they say nothing (Efron and Morris, 1975; as
small area estimation has done since Fay and Herriot, 1979).

The variances are not chosen but averaged over a fixed grid, each point weighted by its likelihood: that of the scores
about a free level (restricted likelihood), times that of what seeds show of ``w``: its estimate from f degrees of
freedom, f w' / w being chi-squared. With one seed nothing is shown, and the whole range of UNKNOWN counts alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from sessionwise.analysis.checks import finite
from sessionwise.analysis.rung_scores import Noise
from sessionwise.errors import DataError

Floats = NDArray[np.float64]

# Variances of the grid: of facts and own, in units of the spread of the scores, all but zero to several times it; of
# training, in units of its estimate.
PARTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TRAINING = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)
# With one seed, in units of the variance that trials give a score. What was found of it (`rung_scores`).
UNKNOWN = (0.3, 0.6, 1.2, 2.5, 5.0, 10.0)


LEAST = 3  # sessions


@dataclass(frozen=True, eq=False)
class Shrunk:
    """``mean`` (C,) and ``draws`` (B, C) of the true scores, bits per spike. ``kept``: share of the variance of a score
    that is true, by the model: 1 where nothing was shrunk. ``by_facts``: share of the true variance that facts explain.
    """

    mean: Floats
    draws: Floats
    kept: float
    by_facts: float


def shrink(
    score: Floats,
    trial_draws: Floats,
    noise: Noise | None,
    n_seeds: int,
    facts: Mapping[str, Floats],
    n_draws: int,
    *,
    rng: np.random.Generator,
) -> Shrunk:
    """The true scores behind scores (C,), means over ``n_seeds``.

    trial_draws: (B', C) of the scores, trials resampled jointly. noise: of one training; None: unknown. facts: name ->
    (C,), of any unit; those that do not vary say nothing.

    Raises DataError for fewer than three sessions, or values that are not finite.
    """
    columns = [_standard(finite(name, column, 1)) for name, column in facts.items()]
    finite("scores", score, 1), finite("draws of scores", trial_draws, 2)
    if len(score) < LEAST:
        raise DataError("shrinkage", f"{len(score)} scores", f"{LEAST} or more: of fewer there is no spread")
    model = _Model.of(score, trial_draws, noise, n_seeds, [c for c in columns if c.any()])
    found = [model.posterior(*point) for point in model.grid]
    weight = np.exp(np.array([one.log_likelihood for one in found]) - max(one.log_likelihood for one in found))
    weight /= weight.sum()
    drawn = rng.choice(len(found), n_draws, p=weight)
    normal = rng.standard_normal((n_draws, len(score)))
    draws = np.empty_like(normal)
    for at in np.unique(drawn):
        draws[drawn == at] = found[at].mean + normal[drawn == at] @ found[at].root.T
    parts = weight @ np.array([one.parts for one in found])
    true = parts[0] + parts[1]
    mean = weight @ np.array([one.mean for one in found])
    return Shrunk(mean, draws, float(true / parts.sum()), float(parts[0] / true))


@dataclass(frozen=True, eq=False)
class _Point:
    """The posterior at one point of the grid: ``mean`` (C,), a ``root`` (C, C) of its covariance, and ``parts``: the
    variances of facts, own and noise."""

    log_likelihood: float
    mean: Floats
    root: Floats
    parts: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Model:
    """Scores, the covariance of trials, the kernel of the facts (C, C), and the grid: (a, b, noise of the mean over
    seeds, log likelihood of that noise by what seeds show)."""

    score: Floats
    trials: Floats
    kernel: Floats
    grid: list[tuple[float, float, float, float]]

    @classmethod
    def of(cls, score: Floats, trial_draws: Floats, noise: Noise | None, n_seeds: int, columns: list[Floats]) -> _Model:
        """The model of these scores."""
        n = len(score)
        own = trial_draws - trial_draws.mean(axis=1, keepdims=True)  # what all share moves the level alone
        trials = np.cov(own.T)
        spread = max(float(score.var(ddof=1)), 1e-18)
        known = noise is not None and noise.variance > 0 and noise.freedom > 0
        if noise is not None and known:
            training = [(noise.variance * times / n_seeds, _log_chance(noise, times)) for times in TRAINING]
        elif noise is not None:
            training = [(0.0, 0.0)]  # seeds that agree exactly
        else:
            training = [(float(np.trace(trials)) / n * times, 0.0) for times in UNKNOWN]
        facts = np.array(columns).T if columns else np.zeros((n, 1))
        grid = [(a * spread, b * spread, w, chance) for a in PARTS for b in PARTS for w, chance in training]
        return cls(score, trials, facts @ facts.T / facts.shape[1], grid)

    def posterior(self, facts: float, own: float, training: float, log_chance: float) -> _Point:
        """Of the true scores at one point of the grid, the level integrated out."""
        n = len(self.score)
        prior = facts * self.kernel + own * np.eye(n)
        noise = self.trials + training * np.eye(n)
        factor = cho_factor(prior + noise, lower=True)
        inverse = cho_solve(factor, np.eye(n))
        ones = inverse.sum(axis=1)
        precision = float(ones.sum())
        level = np.outer(np.ones(n), ones / precision)  # (C, C): takes scores to their level, by least squares
        rest = self.score - level @ self.score
        half = 0.5 * float(rest @ inverse @ rest) + float(np.log(np.diag(factor[0])).sum()) + 0.5 * math.log(precision)
        gain = level + prior @ inverse @ (np.eye(n) - level)  # the posterior mean is gain @ score, for any level
        missed = np.eye(n) - gain
        covariance = missed @ prior @ missed.T + gain @ noise @ gain.T
        size, axes = np.linalg.eigh((covariance + covariance.T) / 2)
        root = (axes * np.sqrt(np.maximum(size, 0.0))) @ axes.T  # the one symmetric root, whatever signs axes have
        parts = facts, own, float(np.trace(noise)) / n
        return _Point(log_chance - half, gain @ self.score, root, parts)


def _log_chance(noise: Noise, times: float) -> float:
    """Log likelihood of the estimate ``noise.variance`` where the variance is ``times`` it, but for a constant."""
    return -0.5 * noise.freedom * (math.log(times) + 1 / times)


def _standard(column: Floats) -> Floats:
    spread = column.std()
    return (column - column.mean()) / spread if spread > 0 else np.zeros_like(column)
