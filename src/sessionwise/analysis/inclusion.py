"""What a session adds to the sets that it is in: ridge regression of the scores of sets on inclusion.

Legend: J sets, C candidates (sessions), G groups of sets, B draws.

With ``a[j, c]`` = 1 where set j holds session c, and sets of a group (those trained with one seed) sharing a level,

    score[j] = level[group of j] + sum_c a[j, c] effect[c] + error[j],

the idea of datamodels (Ilyas et al., 2022) and RegMix (Liu et al., 2025). Effects are pulled to zero by a ridge, whose
strength has the smallest error of the sets left out one at a time, in closed form. Sets are about equally large, so
only differences between sessions can be told: effects are centred, and are what a session adds *instead of an average
one*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Strengths in units of the mean squared singular value of the inclusions; the last halves an effect. A stronger pull
# hardly changes the order, and where sets show little it would pass for certainty that there is no difference: 80 %
# intervals of weak effects then held the truth in half to three quarters of synthetic pools, instead of nine in ten.
STRENGTHS: Floats = np.logspace(-3, 0, 25)
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of C sessions in the unit of the scores: ``value`` (C,) and ``draws`` (B, C), each centred.

    strength: of the ridge, as in STRENGTHS. explained: share of the variance of the scores, within groups, that is
    predicted for sets that are left out; at or below 0 where sets tell nothing of each other.
    """

    value: Floats
    draws: Floats
    strength: float
    explained: float


def inclusion_effects(
    included: NDArray[np.bool_], score: Floats, drawn: Floats, groups: Ints, *, rng: np.random.Generator
) -> Effects:
    """Effects of sessions on the scores of sets.

    Parameters
    ----------
    included: (J, C); every session is in one set at least, and not in all sets of every group.
    score: (J,) scores of the sets.
    drawn: (B, J) the same on resampled trials, jointly for all sets.
    groups: (J,) labels of sets that share a level.

    A draw is the ridge of resampled scores with noise of the trainings, plus what the pull to zero hides: a draw of
    effects from the prior that such a ridge stands for, less what the ridge would find of it. Were all errors
    independent, that is a draw of the posterior. The noise of a training is what the residuals show beyond the trials;
    that sessions do not simply add up is in it.

    Raises DataError with fewer sets than groups and two more.
    """
    n_sets, n_groups = len(score), len(np.unique(groups))
    if n_sets < n_groups + 2:
        raise DataError("effects of inclusion", f"{n_sets} sets in {n_groups} groups", f"{n_groups + 2} sets or more")
    design = _centred(included.T.astype(np.float64), groups).T
    left, size, right = np.linalg.svd(design, full_matrices=False)
    scale = float((size**2).mean())
    errors = [_left_out(left, _shrinkage(size, s * scale), score, groups) for s in STRENGTHS]
    best = int(np.argmin([float((error**2).mean()) for error in errors]))
    strength = float(STRENGTHS[best])
    kept = _shrinkage(size, strength * scale)
    ridge = (right.T * np.divide(kept, size, out=np.zeros_like(size), where=size > _TINY)) @ left.T  # (C, J)
    draws = _draws(design, ridge, score, drawn, groups, strength * scale, rng)
    value = ridge @ _centred(score, groups)
    total = _left_out(left, np.zeros_like(size), score, groups)
    return Effects(
        value - value.mean(),
        draws - draws.mean(axis=1, keepdims=True),
        strength,
        1 - float((errors[best] ** 2).sum() / max(float((total**2).sum()), _TINY**2)),
    )


def _draws(
    design: Floats, ridge: Floats, score: Floats, drawn: Floats, groups: Ints, penalty: float, rng: np.random.Generator
) -> Floats:
    """(B, C) draws of effects, not centred."""

    def rest(values: Floats) -> Floats:
        centred = _centred(values, groups)
        return centred - centred @ (design @ ridge).T

    n_draws = len(drawn)
    freedom = max(1.0, len(score) - len(np.unique(groups)) - float(np.trace(design @ ridge)))
    variance = float((rest(score) ** 2).sum()) / freedom
    of_trials = float((rest(drawn - score) ** 2).sum(axis=1).mean()) / freedom
    unsure = np.sqrt(freedom / rng.chisquare(freedom, size=(n_draws, 1)))
    training = np.sqrt(max(0.0, variance - of_trials)) * unsure * rng.standard_normal(drawn.shape)
    prior = np.sqrt(variance / penalty) * unsure * rng.standard_normal((n_draws, len(ridge)))
    found: Floats = _centred(drawn + training, groups) @ ridge.T + prior - prior @ (ridge @ design).T
    return found


def _left_out(left: Floats, kept: Floats, score: Floats, groups: Ints) -> Floats:
    """(J',) errors of predicting each set from the others; sets alone in their group cannot be left out."""
    centred = _centred(score, groups)
    residual = centred - left @ (kept * (left.T @ centred))
    _, at, count = np.unique(groups, return_inverse=True, return_counts=True)
    leverage = 1 / count[at] + (left**2) @ kept
    free = 1 - leverage > _TINY
    errors: Floats = residual[free] / (1 - leverage[free])
    return errors


def _shrinkage(size: Floats, penalty: float) -> Floats:
    return size**2 / (size**2 + penalty)


def _centred(values: Floats, groups: Ints) -> Floats:
    """Values (..., J) less the mean of their group."""
    _, at, count = np.unique(groups, return_inverse=True, return_counts=True)
    member = np.equal.outer(at, np.arange(len(count))).astype(np.float64)
    centred: Floats = values - (values @ member / count) @ member.T
    return centred
