"""Uncertainty of scores, ranks and differences; correlations between rankings.

Legend: C candidates (cores), S seeds, K validation trials, B bootstrap draws.

A score is pooled bits per spike. With ``g[c, s, k]`` the gain in log likelihood (nats) over the null rates of trial k
and ``n[k]`` its spikes::

    score[c] = mean over s of ( sum_k g[c, s, k] / (ln 2 * sum_k n[k]) )

Two things make it uncertain: which trials it was measured on, and which seeds the models were trained with. Trials are
resampled with replacement, the same trials for every candidate, so that what all candidates share cancels in their
order. The few seeds are not resampled (two seeds have three resamples); their variance is pooled over all candidates
and added as noise. What a seed does to all candidates alike (they share its random numbers: batches, masks, first
weights of the stitchers) cancels between them and is in none of their intervals: those are for comparing candidates
with each other. A control has a seed effect of its own: compare it by ``paired_difference``, which counts both. With
one seed the noise between trainings is unknown: intervals count trials only, and nothing may be concluded from them.
A value that is not finite is refused everywhere: a diverged candidate is no number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Decimals (bits per spike) that count: coarser than the rounding of a matrix product, whose last bits depend on the
# number of threads, and finer than anything that could matter. Makes ties ties, and results the same everywhere.
_DECIMALS = 12


@dataclass(frozen=True, eq=False)
class RankUncertainty:
    """Scores and ranks of C candidates, in the order in which they were given.

    ``score`` (C,) bits per spike; ``seed_scores`` (C, S); ``sd`` (C,) over seeds, None with one seed;
    ``rank`` (C,) 1 = best, ties by position; ``rank_low``, ``rank_high`` (C,) 80 % interval of the rank, and
    ``rank_chance`` (C,) the probability that the rank lies in it: ranks are whole, so it is 0.8 or more;
    ``low80``, ``high80``, ``low95``, ``high95`` (C,) intervals of the score, for comparing candidates with each other:
    the seed effect that all candidates share is not in them; ``p_top`` {k: (C,)} probability of being among the k
    best; ``seed_variance`` of one training (candidate x seed interaction), None when it is unknown (one seed or one
    candidate) and therefore in no interval; ``p_equal`` probability of a gap between best and median candidate as
    large as the one found if all candidates were equally good (accounts for choosing the best). It is None with one
    candidate, and with one seed: trial noise alone would call equal cores different, since trainings differ by seed.
    """

    score: Floats
    seed_scores: Floats
    sd: Floats | None
    rank: Ints
    rank_low: Ints
    rank_high: Ints
    rank_chance: Floats
    low80: Floats
    high80: Floats
    low95: Floats
    high95: Floats
    p_top: dict[int, Floats]
    seed_variance: float | None
    p_equal: float | None

    def row(self, candidate: int) -> dict[str, Any]:
        """What a ranking stores about one candidate (its position as given), as plain JSON values."""
        c = candidate
        return {
            "rank": int(self.rank[c]),
            "score": float(self.score[c]),
            "sd": None if self.sd is None else float(self.sd[c]),
            "seed_scores": [float(value) for value in self.seed_scores[c]],
            "rank_low": int(self.rank_low[c]),
            "rank_high": int(self.rank_high[c]),
            "rank_chance": float(self.rank_chance[c]),
            "low80": float(self.low80[c]),
            "high80": float(self.high80[c]),
            "low95": float(self.low95[c]),
            "high95": float(self.high95[c]),
            "p_top": {str(k): float(p[c]) for k, p in self.p_top.items()},
        }


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, bits per spike; ``seed_variance`` is None where seeds could not be counted."""

    mean: float
    low: float
    high: float
    level: float = 0.95
    seed_variance: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def bits_per_spike(ll_gain: ArrayLike, spikes: ArrayLike) -> Floats:
    """Pooled bits per spike (...,) of gains in nats (..., K) and spikes (K,)."""
    gain, n = _checked(ll_gain, spikes)
    return gain.sum(axis=-1) / (n.sum() * math.log(2))


def rank_bootstrap(
    ll_gain: ArrayLike,
    spikes: ArrayLike,
    n_boot: int = 2000,
    *,
    rng: np.random.Generator,
    ks: Collection[int] = (1, 3, 5, 10),
) -> RankUncertainty:
    """Rank candidates and say how sure the ranks are.

    Parameters
    ----------
    ll_gain: (C, S, K) gain in log likelihood over the null rates, nats.
    spikes: (K,) spikes of each trial.
    n_boot: number B of bootstrap draws.
    rng: the only source of randomness; the same state gives the same result.
    ks: sizes k for P(top k); those larger than C are left out.

    Each draw resamples trials jointly for all candidates and adds seed noise with variance ``seed_variance / S``. That
    variance is itself an estimate with (C-1)(S-1) degrees of freedom, so it is redrawn for each draw from its
    scaled inverse chi-squared distribution (the noise is then Student's t; for many candidates, Gaussian).
    Ties inside a draw are broken at random, so equal candidates get equal probabilities. Rank intervals are the 10 %
    and 90 % percentiles of the drawn ranks, widened where needed so that they hold the rank itself.

    Raises DataError for values that are not finite, shapes that disagree, or trials without any spike.
    """
    gain, n = _checked(ll_gain, spikes)
    if gain.ndim != 3 or 0 in gain.shape:
        raise DataError("rank_bootstrap", f"gains of shape {gain.shape}", "(candidates, seeds, trials), none empty")
    seed_scores = bits_per_spike(gain, n)
    score, variance = seed_scores.mean(axis=1), interaction_variance(seed_scores)
    draws = score_draws(gain, n, n_boot, rng=rng)
    return replace(
        rank_draws(score, draws, rng=rng, ks=ks),
        seed_scores=seed_scores,
        sd=seed_scores.std(axis=1, ddof=1) if seed_scores.shape[1] > 1 else None,
        seed_variance=variance,
        p_equal=None if variance is None else _p_equal(np.round(score, _DECIMALS), np.round(draws, _DECIMALS)),
    )


def score_draws(ll_gain: ArrayLike, spikes: ArrayLike, n_boot: int, *, rng: np.random.Generator) -> Floats:
    """(B, C) scores on resampled trials with seed noise, bits per spike, from gains (C, S, K) in nats and spikes (K,).

    Trials are resampled jointly for all candidates; the noise of the mean over seeds is that of ``seed_noise_draws``.
    """
    gain, n = _checked(ll_gain, spikes)
    draws = _draw_scores(gain.mean(axis=1), n, n_boot, rng)
    return draws + seed_noise_draws(bits_per_spike(gain, n), n_boot, rng=rng)


def seed_noise_draws(seed_scores: ArrayLike, n_boot: int, *, rng: np.random.Generator) -> Floats:
    """(B, C) draws of the noise of a mean over seeds, from scores (C, S); zeros where it is unknown (one seed)."""
    scores = np.asarray(seed_scores, dtype=np.float64)
    return _seed_noise(interaction_variance(scores), (scores.shape[0], scores.shape[1]), n_boot, rng)


def rank_draws(
    score: ArrayLike, draws: ArrayLike, *, rng: np.random.Generator, ks: Collection[int] = (1, 3, 5, 10)
) -> RankUncertainty:
    """Ranks by scores (C,) of any unit, with the intervals that draws (B, C) of them give, as in ``rank_bootstrap``.

    ``seed_scores`` is empty, ``sd``, ``seed_variance`` and ``p_equal`` are None. Raises DataError if one is not finite.
    """
    values, drawn = _finite("score", score), _finite("draws", draws)
    if drawn.ndim != 2 or drawn.shape[1:] != values.shape:
        raise DataError("rank_draws", f"draws of shape {drawn.shape}", f"(draws, {len(values)})")
    values, drawn = np.round(values, _DECIMALS), np.round(drawn, _DECIMALS)
    rank, ranks = _ranks(values), _drawn_ranks(drawn, rng)
    low = np.minimum(rank, np.quantile(ranks, 0.1, axis=0, method="lower"))
    high = np.maximum(rank, np.quantile(ranks, 0.9, axis=0, method="higher"))
    low95, low80, high80, high95 = np.quantile(drawn, [0.025, 0.1, 0.9, 0.975], axis=0)
    return RankUncertainty(
        score=values,
        seed_scores=np.zeros((len(values), 0)),
        sd=None,
        rank=rank,
        rank_low=low,
        rank_high=high,
        rank_chance=((low <= ranks) & (ranks <= high)).mean(axis=0),
        low80=low80,
        high80=high80,
        low95=low95,
        high95=high95,
        p_top={k: (ranks <= k).mean(axis=0) for k in sorted(ks) if k <= len(values)},
        seed_variance=None,
        p_equal=None,
    )


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    spikes: ArrayLike,
    *,
    rng: np.random.Generator,
    n_boot: int = 2000,
    level: float = 0.95,
    seed_variance: float | None = None,
) -> Interval:
    """Difference in bits per spike between two models measured on the same trials, with its interval.

    Parameters
    ----------
    a, b: (S, K) and (S', K) gains in log likelihood, nats; the numbers of seeds may differ.
    spikes: (K,) spikes of each trial.
    seed_variance: variance of one training if it is known better than from these few seeds (``RankUncertainty``
        pools it over all candidates); otherwise it is pooled within ``a`` and ``b``, and the interval uses Student's
        t with S + S' - 2 degrees of freedom. With one seed each it is unknown and not in the interval.

    The mean is the plain difference of the scores; trials are resampled jointly. Seeds of ``a`` and ``b`` are taken as
    independent, so the seed effect that all candidates share counts here, as it must against a control. Between two
    candidates it cancels: pass ``seed_variance``, or the interval is too wide.
    """
    gain_a, n = _checked(np.atleast_2d(np.asarray(a, dtype=float)), spikes)
    gain_b, _ = _checked(np.atleast_2d(np.asarray(b, dtype=float)), spikes)
    scores = bits_per_spike(gain_a, n), bits_per_spike(gain_b, n)
    mean = float(scores[0].mean() - scores[1].mean())
    means = np.stack([gain_a.mean(axis=0), gain_b.mean(axis=0)])
    draws = _draw_scores(means, n, n_boot, rng) @ np.array([1.0, -1.0])
    variance, freedom = (seed_variance, math.inf) if seed_variance is not None else _within_variance(*scores)
    if variance is not None:
        noise = rng.standard_normal(n_boot) if math.isinf(freedom) else rng.standard_t(freedom, n_boot)
        draws = draws + noise * math.sqrt(variance * (1 / len(scores[0]) + 1 / len(scores[1])))
    low, high = np.round(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]), _DECIMALS)
    return Interval(round(mean, _DECIMALS), float(low), float(high), level, variance)


def interaction_variance(seed_scores: ArrayLike) -> float | None:
    """Variance of one training that does not move all candidates alike; None with one seed or one candidate.

    ``sum_cs (x_cs - x_c. - x_.s + x_..)^2 / ((C-1)(S-1))`` of scores (C, S).
    """
    x = _finite("interaction_variance", seed_scores)
    n_candidates, n_seeds = x.shape
    if n_candidates < 2 or n_seeds < 2:
        return None
    rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0, keepdims=True) + x.mean()
    return float((rest**2).sum() / ((n_candidates - 1) * (n_seeds - 1)))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation of (n,) and (n,); None with fewer than 3 pairs or a constant side."""
    x, y = _finite("spearman", a), _finite("spearman", b)
    _same_length("spearman", x, y)
    return _pearson(stats.rankdata(x), stats.rankdata(y)) if len(x) > 2 else None


def spearman_interval(rho: float | None, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of a rank correlation from n pairs (Fisher z, standard error of Bonett and Wright, 2000)."""
    if rho is None or n < 4 or abs(rho) >= 1:
        return None
    error = math.sqrt((1 + rho**2 / 2) / (n - 3))
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def seed_to_seed_correlation(scores: ArrayLike) -> float | None:
    """Mean Spearman correlation over all pairs of seeds of scores (C, S): the noise ceiling of one seed's ranking.

    None with one seed, fewer than 3 candidates, or a seed in which all scores are equal.
    """
    x = _finite("seed_to_seed_correlation", scores)
    pairs = [spearman(x[:, i], x[:, j]) for i in range(x.shape[1]) for j in range(i)]
    known = [rho for rho in pairs if rho is not None]
    return float(np.mean(known)) if known and len(known) == len(pairs) else None


def partial_correlation(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float | None:
    """Rank correlation of x and y (n,) after removing what the ranks of ``given`` (n,) or (n, m) explain linearly.

    None when fewer than 3 + m pairs are left to judge or nothing varies.
    """
    ranks = [stats.rankdata(_finite("partial_correlation", side)) for side in (x, y)]
    other = _finite("partial_correlation", given)
    other = other[:, None] if other.ndim == 1 else other
    _same_length("partial_correlation", *ranks, other)
    if len(other) < 3 + other.shape[1]:
        return None
    design = np.column_stack([np.ones(len(other)), stats.rankdata(other, axis=0)])
    rest = [side - design @ np.linalg.lstsq(design, side, rcond=None)[0] for side in ranks]
    return _pearson(*rest)


@dataclass(frozen=True, eq=False)
class TopKOverlap:
    """How many items are in the top k of every list, (n,) each: ``k`` 1 to n, ``size`` as found, ``expected`` by
    chance, and ``low``, ``high``: the 95 % band of lists in random order."""

    k: Ints
    size: Ints
    expected: Floats
    low: Ints
    high: Ints


def top_k_overlap(orders: Sequence[Sequence[str]], rng: np.random.Generator, n_draws: int = 2000) -> TopKOverlap:
    """Size of the intersection of all top-k lists against k (Fig. A2 of the paper), and what chance gives.

    orders: two or more orders of the same n items, best first. By chance ``n * (k/n) ** len(orders)`` items are in all
    top-k lists; the band holds the middle 95 % of ``n_draws`` draws of independent random orders. It is about one k
    at a time: sizes at neighbouring k go together.

    Raises DataError for fewer than two orders, orders of other items, or an item twice.
    """
    names = sorted(orders[0]) if orders else []
    if len(orders) < 2 or not names or len(set(names)) < len(names) or any(sorted(o) != names for o in orders):
        raise DataError("top_k_overlap", f"{len(orders)} orders", "two or more orders of the same distinct items")
    n, place = len(names), {name: i for i, name in enumerate(names)}
    ranks = np.empty((len(orders), n), dtype=np.int64)
    for row, order in zip(ranks, orders, strict=True):
        row[[place[name] for name in order]] = np.arange(n)
    # An item enters the intersection at its worst rank. One list may stay in order: only the others' order counts.
    worst = np.tile(np.arange(n), (n_draws, 1))
    for _ in orders[1:]:
        worst = np.maximum(worst, rng.permuted(np.tile(np.arange(n), (n_draws, 1)), axis=1))
    drawn = np.stack([(worst <= k).sum(axis=1) for k in range(n)], axis=1)
    k = np.arange(1, n + 1)
    return TopKOverlap(
        k=k,
        size=np.cumsum(np.bincount(ranks.max(axis=0), minlength=n)),
        expected=n * (k / n) ** len(orders),
        low=np.quantile(drawn, 0.025, axis=0, method="lower"),
        high=np.quantile(drawn, 0.975, axis=0, method="higher"),
    )


def _checked(ll_gain: ArrayLike, spikes: ArrayLike) -> tuple[Floats, Floats]:
    gain, n = _finite("log-likelihood gains", ll_gain), _finite("spikes of the trials", spikes)
    if n.ndim != 1 or gain.ndim < 1 or gain.shape[-1] != len(n):
        raise DataError("bits per spike", f"gains {gain.shape} and spikes {n.shape}", "one number a trial in both")
    if n.min(initial=0.0) < 0 or n.sum() <= 0:
        raise DataError("spikes of the trials", f"sum {n.sum():g}", "counts with at least one spike", "Add trials")
    return gain, n


def _finite(where: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise DataError(where, f"{bad} of {array.size} values are not finite", "numbers", "Leave diverged runs out")
    return array


def _same_length(where: str, *arrays: Floats) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise DataError(where, f"lengths {[len(array) for array in arrays]}", "equal lengths")


def _draw_scores(gain: Floats, spikes: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    """Scores (B, C) on resampled trials, from mean gains (C, K)."""
    weights = _trial_weights(spikes, n_boot, rng)
    return (weights @ gain.T) / (weights @ spikes * math.log(2))[:, None]


def _trial_weights(spikes: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    """How often each trial is in each draw, (B, K); a draw without any spike has no score and is drawn again."""
    n_trials = len(spikes)
    chances = np.full(n_trials, 1 / n_trials)
    weights = rng.multinomial(n_trials, chances, size=n_boot).astype(np.float64)
    while (empty := weights @ spikes == 0).any():
        weights[empty] = rng.multinomial(n_trials, chances, size=int(empty.sum()))
    return weights


def _seed_noise(variance: float | None, shape: tuple[int, ...], n_boot: int, rng: np.random.Generator) -> Floats:
    """Seed noise of the mean over S seeds, (B, C)."""
    n_candidates, n_seeds = shape
    if not variance:
        return np.zeros((n_boot, n_candidates))
    freedom = (n_candidates - 1) * (n_seeds - 1)
    drawn_variance = variance * freedom / rng.chisquare(freedom, size=(n_boot, 1))
    return rng.standard_normal((n_boot, n_candidates)) * np.sqrt(drawn_variance / n_seeds)


def _ranks(score: Floats) -> Ints:
    """1 = best; equal scores in the order given."""
    rank = np.empty(len(score), dtype=np.int64)
    rank[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1)
    return rank


def _drawn_ranks(draws: Floats, rng: np.random.Generator) -> Ints:
    """Rank of each candidate in each draw, (B, C); ties broken at random."""
    order = np.lexsort((rng.random(draws.shape), -draws), axis=-1)
    ranks = np.empty(draws.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(1, draws.shape[1] + 1)[None, :], axis=1)
    return ranks


def _p_equal(score: Floats, draws: Floats) -> float:
    """Chance of the gap between best and median under equal candidates: the draws, centred, are the noise alone."""
    noise = draws - draws.mean(axis=0)
    gaps = noise.max(axis=1) - np.median(noise, axis=1)
    found = float(score.max() - np.median(score))
    return float((1 + (gaps >= found - 10.0**-_DECIMALS).sum()) / (1 + len(draws)))


def _within_variance(a: Floats, b: Floats) -> tuple[float | None, float]:
    """Variance between seeds pooled within two groups, and its degrees of freedom."""
    freedom = len(a) + len(b) - 2
    if freedom == 0:
        return None, 0.0
    return float((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / freedom), float(freedom)


def _pearson(x: Floats, y: Floats) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    # Residuals of a perfectly explained side are rounding noise, not zeros.
    flat = 1e-18 * len(x) ** 3
    if float(x @ x) <= flat or float(y @ y) <= flat:
        return None
    return min(1.0, max(-1.0, float(x @ y) / size))
