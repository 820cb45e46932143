"""Which sessions may leave after a cheap training, and one scale for scores of trainings of different lengths.

Legend: C candidates (sessions), S seeds, K validation trials, B bootstrap draws, r a rung, R the last one.

A candidate leaves a rung only where noise allows it: when it is among the best with a probability below ``OUT``, and
never when the scores spread no more than noise alone would make them. Trials are resampled jointly for all
candidates; the noise of a training is pooled over candidates and needs two seeds. A few candidates with a second seed
tell it, if less surely (``Noise``). With one seed for everybody it is unknown, and is taken as ``UNKNOWN_SEED`` times
the variance that the trials give: over 40 rankings of 8 real recordings (25 to 45 validation trials, 7 to 10 cores,
whole, short and small trainings) it was 1.2 to 12 times that, 3.7 in the median, and less than 6 in four of five; over
48 of simulated ones 0.2 to 5.6 times. So one seed makes leaving harder, not easier.

Scores of rung r are brought to the scale of R by the mean difference of those that have both,

    score[c] = x_r[c] + mean over b of (x_R[b] - x_r[b]).

A regression of x_R on x_r would also know how the spread changes, but is learned on the few best, which differ
little, and used on the others, which differ much: on synthetic pools the order of its scores was never nearer to the
truth, and far from it with four or five pairs (``test_a_shift_is_better_than_a_regression``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sessionwise.analysis import statistics
from sessionwise.analysis.judging import chance_of_spread

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

OUT, IN = 0.05, 0.95  # probabilities of being among the best, below and above which nothing is contested
NO_SPREAD = 0.05  # a spread that noise alone exceeds with a higher probability shows no difference
UNKNOWN_SEED = 6.0


@dataclass(frozen=True)
class Noise:
    """Variance of one training, bits per spike squared, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: int


@dataclass(frozen=True, eq=False)
class Judged:
    """What a rung says of its candidates: ``score`` (C,) bits per spike, ``p_top`` (C,) the probability of being among
    the best, and ``p_equal``, that of a spread as large as theirs if they were equally good (None with one)."""

    score: Floats
    p_top: Floats
    p_equal: float | None

    @property
    def different(self) -> bool:
        """Whether the candidates differ by more than noise, so that anything may be concluded from their order."""
        return self.p_equal is not None and self.p_equal < NO_SPREAD


@dataclass(frozen=True, eq=False)
class Merged:
    """Scores on the scale of the last rung, bits per spike: ``values`` by session, ``draws`` (B, C) in their order."""

    values: dict[str, float]
    draws: Floats


def training_noise(gains: Floats, spikes: Floats) -> Noise | None:
    """The noise of a training from gains (C, S, K) in nats and spikes (K,); None with one seed or one candidate."""
    scores = statistics.bits_per_spike(gains, spikes)
    variance = statistics.interaction_variance(scores)
    return None if variance is None else Noise(variance, (scores.shape[0] - 1) * (scores.shape[1] - 1))


def judge(
    gains: Floats,
    spikes: Floats,
    top: int,
    n_boot: int,
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
) -> Judged:
    """Probability of being among the ``top`` best, from gains (C, S, K) in nats and spikes (K,).

    noise: of a training, for gains of one seed; None if it is unknown.
    Raises DataError for values that are not finite.
    """
    seed_scores = statistics.bits_per_spike(gains, spikes)
    score = seed_scores.mean(axis=1)
    draws = statistics.score_draws(gains.mean(axis=1, keepdims=True), spikes, n_boot, rng=rng)
    if seed_scores.shape[1] > 1:
        draws = draws + statistics.seed_noise_draws(seed_scores, n_boot, rng=rng)
    elif noise is not None:
        draws = draws + _noise(noise.variance, noise.freedom, draws.shape, rng)
    else:
        draws = draws + math.sqrt(UNKNOWN_SEED * _variance_between(draws)) * rng.standard_normal(draws.shape)
    p_top = statistics.rank_draws(score, draws, rng=rng, ks=[min(top, len(score))]).p_top[min(top, len(score))]
    return Judged(score, p_top, p_equal(score, draws))


def p_equal(score: Floats, draws: Floats) -> float | None:
    """Chance that equal candidates spread as much as the scores (C,) do; draws (B, C), centred, are the noise alone.

    The variance of all candidates is compared, not the gap between best and median (``RankUncertainty.p_equal``): that
    a few are bad is a reason to let them go.
    """
    if len(score) < 2:
        return None
    return chance_of_spread(score, draws - draws.mean(axis=0), np.ones((len(score), 1)))


def leaving(judged: Judged, stay: int) -> Bools:
    """(C,) who leaves: nobody if there is no difference, else the least probable below ``OUT``; ``stay`` stay at least.

    Probabilities that are equal (0, mostly) are told apart by the score, equal scores by position.
    """
    out = np.zeros(len(judged.score), dtype=bool)
    if judged.different:
        order = np.lexsort((judged.score, judged.p_top))[: max(0, len(out) - stay)]
        out[order] = judged.p_top[order] < OUT
    return out


def shifted(rungs: Sequence[Mapping[str, Floats]], spikes: Floats) -> dict[str, float]:
    """Scores of all sessions on the scale of the last rung; the arguments are those of ``merge``."""
    scores = [
        {name: float(statistics.bits_per_spike(gain, spikes).mean()) for name, gain in rung.items()} for rung in rungs
    ]
    values: dict[str, float] = {}
    for rung in scores:  # a later rung takes the place of an earlier one
        shift = float(np.mean([score - rung[name] for name, score in scores[-1].items()]))
        values |= {name: score + shift for name, score in rung.items()}
    return values


def merge(
    rungs: Sequence[Mapping[str, Floats]],
    spikes: Floats,
    n_boot: int,
    *,
    rng: np.random.Generator,
    noise: Noise | None = None,
) -> Merged:
    """All scores on the scale of the last rung, with joint draws.

    rungs: session -> (S, K) gains in nats, for the rungs in order; each holds sessions of the one before it, and none
    is empty. spikes: (K,). noise: of a training, if it is known from elsewhere.

    Trials are resampled jointly for all rungs. A rung with one seed has ``noise``, or else the noise of a training that
    the last rung shows; where that has one seed too, intervals count trials and what follows. That sessions gain
    differently by longer trainings (the variance of their differences between the rungs, less that of their noise) is
    part of the intervals of those that were shifted; one pair alone does not show it. Seeds of different rungs count as
    independent, though some cores are the same.
    """
    tables = [np.array(list(rung.values())) for rung in rungs]
    scores = [statistics.bits_per_spike(table, spikes).mean(axis=1) for table in tables]
    draws = _joint_draws(tables, spikes, noise or training_noise(tables[-1], spikes), n_boot, rng)
    last, values = list(rungs[-1]), shifted(rungs, spikes)
    columns = {}
    for rung, score, drawn in zip(rungs, scores, draws, strict=True):
        names = list(rung)
        both = [names.index(name) for name in last]
        difference = scores[-1] - score[both]
        drawn_difference = draws[-1] - drawn[:, both]
        error = _individual(difference, drawn_difference, len(names), rng)
        for at, name in enumerate(names):  # a later rung takes the place of an earlier one
            columns[name] = drawn[:, at] + drawn_difference.mean(axis=1) + error[:, at]
    columns |= dict(zip(last, draws[-1].T, strict=True))
    return Merged(values, np.array([columns[name] for name in values]).T)


def _joint_draws(
    tables: Sequence[Floats], spikes: Floats, noise: Noise | None, n_boot: int, rng: np.random.Generator
) -> list[Floats]:
    """(B, C_r) scores of each rung, on the same resampled trials, with the noise of their seeds (``noise`` of one)."""
    stacked = np.concatenate([table.mean(axis=1, keepdims=True) for table in tables])
    trials = statistics.score_draws(stacked, spikes, n_boot, rng=rng)
    by_rung = np.split(trials, np.cumsum([len(table) for table in tables])[:-1], axis=1)
    found = []
    for table, drawn in zip(tables, by_rung, strict=True):
        if table.shape[1] > 1:
            own = statistics.seed_noise_draws(statistics.bits_per_spike(table, spikes), n_boot, rng=rng)
        else:
            own = np.zeros(drawn.shape) if noise is None else _noise(noise.variance, noise.freedom, drawn.shape, rng)
        found.append(drawn + own)
    return found


def _individual(difference: Floats, draws: Floats, n: int, rng: np.random.Generator) -> Floats:
    """(B, n) what sessions gain by the longer training beyond the mean of those that show it, and the error of that.

    difference: (m,) between the rungs, of the sessions that have both; draws: (B, m) of it.
    """
    m = len(difference)
    if m < 2:
        return np.zeros((len(draws), n))
    noise = float((draws - difference).var(axis=1, ddof=1).mean())
    excess = max(0.0, float(difference.var(ddof=1)) - noise)
    drawn = _noise(excess, m - 1, (len(draws), n + 1), rng)
    return drawn[:, :n] + drawn[:, n:] / math.sqrt(m)


def _noise(variance: float, freedom: int, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Gaussian noise (B, n) whose variance, estimated with so many degrees of freedom, is redrawn for each draw."""
    if variance <= 0 or freedom < 1:
        return np.zeros(shape)
    drawn = variance * freedom / rng.chisquare(freedom, size=(shape[0], 1))
    noise: Floats = rng.standard_normal(shape) * np.sqrt(drawn)
    return noise


def _variance_between(draws: Floats) -> float:
    """Mean variance of draws (B, C) about what all candidates share in a draw."""
    n = draws.shape[1]
    own = draws - draws.mean(axis=1, keepdims=True)
    return float(own.var(axis=0).mean()) * n / (n - 1) if n > 1 else float(draws.var())
