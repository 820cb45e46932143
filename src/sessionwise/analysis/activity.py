"""How much signal a recording carries, and how alike two recordings unfold in time, without training anything.

Both rest on two time x time kernels that need no matching of units, K trials, T bins, N units, counts x:

    average[t, u]      = sum_n w_n  mean over pairs of different trials k, l of  x[k, t, n] x[l, u, n],
                         each unit centred over time
    single_trial[t, u] = sum_n w_n  covariance over trials of x[:, t, n] and x[:, u, n],
                         less the Poisson variance sum_n w_n mean_k x[k, t, n] on the diagonal

Pairs of *different* trials make the first an unbiased estimate on the diagonal too: it is the mean over all splits into
two equal halves of the products between the halves' trial averages, without drawing any split.

A unit of mean rate r (counts per bin) has the weight ``w = 1 / (r^2 + c^2)``, c the mean rate of the units that fire.
Relative modulation is what units have in common, and its estimate from one unit varies as ``1 / r^2`` (noise) plus a
constant (units differ); weighting by the inverse of that sum gives this form. A unit with a high rate has one vote, one
at the mean rate half a vote, and the slowest, whose kernels are noise, hardly any.

The single-trial kernel pools what each unit does: units of one area and its opposite do not cancel, but how units go
together within a trial is not seen, and bursts or refractoriness count near the diagonal.

Callers pass training and validation trials only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sessionwise.errors import DataError, UsageError

MIN_TRIALS = 4  # two in each half
MIN_BINS = 4  # centring without the diagonal leaves nothing of fewer

_CHUNK_ENTRIES = 1 << 21
_ROUNDING = 1e-6  # single precision leaves about a tenth of it; the noise of the largest recordings is 30 times it

Floats = np.ndarray


@dataclass(frozen=True)
class Quality:
    """How much a recording can tell; nothing here depends on another recording.

    Attributes
    ----------
    n_trials, n_units: K and N. log_trials: natural logarithm of K.
    signal_fraction: 0 to 1, share of the variance of counts over trials and bins, Poisson noise included, that is
        reproducible: variance over time of the trial average, plus covariance over trials of neighbouring bins beyond
        that of any two bins (which is drift of rates between trials). 0: nothing found beyond noise.
    reliability: 0 to 1, `similarity` of the kernels of two random halves of the trials, averaged over halves, stepped
        up to all trials (Spearman-Brown). 0: the halves have nothing in common.
    spikes_per_bin: mean count of a unit in a bin.

    All variances are weighted over units as the kernels are. The share is one of all variance, not of the variance
    beyond Poisson: with a few tenths of a spike in a bin that excess is a small difference of large numbers, can be
    negative, and a quotient by it is not usable. For the same reason the single-trial part is taken from neighbouring
    bins, whose noise is independent whatever its variance, and not from the diagonal.
    """

    n_trials: int
    n_units: int
    log_trials: float
    signal_fraction: float
    reliability: float
    spikes_per_bin: float


@dataclass(frozen=True, eq=False)
class Kernels:
    """Time x time kernels (T, T) float64, symmetric, of the trial average and of single trials (see the module)."""

    average: Floats
    single_trial: Floats

    @property
    def n_bins(self) -> int:
        """Number of bins T."""
        return len(self.average)


def kernels(counts: np.ndarray) -> Kernels:
    """Kernels of counts (K, T, N); no draw is involved, and the order of trials and of units plays no part.

    Raises DataError for what is no array of counts, or too few trials or bins.
    """
    return _kernels(counts, np.ones((1, len(_checked(counts)))))[0]


def similarity(a: Kernels, b: Kernels) -> float:
    """How alike two recordings unfold in time, -1 to 1: mean of the alignments of their two pairs of kernels.

    The alignment of two kernels is the cosine of their entries off the diagonal after U-centring (Szekely and Rizzo,
    2014), which is centring that never looks at the diagonal: whether counts are as variable as Poisson counts does not
    matter. The two alignments count the same, as neither kernel is known to be the better guide.

    Noise of two recordings is independent, so it adds nothing in expectation to the product, but it adds to the norms:
    a noisy recording is less similar to all. That is kept, since a division by estimated norms of the signal explodes
    where there is none; divide by ``sqrt(reliability)`` of both for the value without noise. 0 also where a kernel is
    flat, as with silent units.

    Differences that a new linear stitcher absorbs count as well, such as the share of units in each area: recordings of
    equal latencies differ in similarity by more than its sampling error. A difference is no proof of closeness.

    Raises DataError where the numbers of bins differ.
    """
    if a.n_bins != b.n_bins:
        raise DataError("similarity of activity", f"{a.n_bins} and {b.n_bins} bins", "the same bins", "Use one store")
    return (_alignment(a.average, b.average) + _alignment(a.single_trial, b.single_trial)) / 2


def bootstrap_kernels(counts: np.ndarray, n_draws: int, rng: np.random.Generator) -> list[Kernels]:
    """Kernels of ``n_draws`` resamples of the trials of counts (K, T, N), units and their weights as they are.

    Two copies of a trial never form a pair, so the kernels stay unbiased. A resample holds 63 % of the trials: its
    kernels are noisier and its similarities lower. Use the spread over draws and the orders within draws, not the mean.
    """
    n_trials = len(_checked(counts))
    if n_draws < 1:
        raise UsageError("bootstrap of kernels", f"{n_draws} draws", "at least 1")
    times = rng.multinomial(n_trials, np.full(n_trials, 1 / n_trials), size=n_draws)
    while (single := (times > 0).sum(axis=1) < 2).any():  # one trial alone has no pair
        times[single] = rng.multinomial(n_trials, np.full(n_trials, 1 / n_trials), size=int(single.sum()))
    return _kernels(counts, times.astype(np.float64))


def quality(counts: np.ndarray, *, halves: int = 20, seed: int = 0) -> Quality:
    """Measures of one recording's counts (K, T, N); ``halves`` random splits, drawn from ``seed``, for the reliability.

    Raises DataError for what is no array of counts, or too few trials or bins.
    """
    n_trials, _, n_units = _checked(counts).shape
    if halves < 1:
        raise UsageError("quality of a recording", f"{halves} halves", "at least 1")
    weights = np.concatenate([np.ones((1, n_trials)), _half_weights(n_trials, halves, np.random.default_rng(seed))])
    moments = _moments(counts, weights)
    whole, *parts = _kernels_of(moments)
    alike = float(np.mean([similarity(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]))
    return Quality(
        n_trials=n_trials,
        n_units=n_units,
        log_trials=math.log(n_trials),
        signal_fraction=_signal_fraction(whole, float(np.trace(moments.second[0])) / whole.n_bins),
        reliability=max(0.0, 2 * alike / (1 + alike)) if alike > 0 else 0.0,
        spikes_per_bin=float(moments.rate.mean()),
    )


def _checked(counts: np.ndarray) -> np.ndarray:
    array = np.asanyarray(counts)
    if array.ndim != 3 or array.dtype.kind != "u":
        found = f"an array of shape {array.shape} and type {array.dtype}"
        raise DataError("measures of activity", found, "counts (trials, bins, units) of an unsigned type")
    if array.shape[0] < MIN_TRIALS or array.shape[1] < MIN_BINS or not array.shape[2]:
        found = "{} trials, {} bins, {} units".format(*array.shape)
        raise DataError("measures of activity", found, f"{MIN_TRIALS} trials, {MIN_BINS} bins, 1 unit", "Leave it out")
    return array


def _half_weights(n_trials: int, halves: int, rng: np.random.Generator) -> Floats:
    """(2 halves, K) of 0 and 1: two random halves in rows that follow each other; of an odd number one is left out."""
    weights = np.zeros((2 * halves, n_trials))
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        order, half = rng.permutation(n_trials), n_trials // 2
        first[order[:half]] = 1
        second[order[half : 2 * half]] = 1
    return weights


# Kernels --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Moments:
    """Weighted sums over trials, D draws: ``average`` and ``second`` (D, T, T), ``poisson`` (D, T), ``rate`` (N,).

    ``average``: mean product over pairs of different trials; ``second``: mean product within a trial;
    ``covariance``: over trials, unbiased.
    """

    average: Floats
    covariance: Floats
    second: Floats
    poisson: Floats
    rate: Floats


def _kernels(counts: np.ndarray, weights: Floats) -> list[Kernels]:
    return _kernels_of(_moments(counts, weights))


def _kernels_of(moments: _Moments) -> list[Kernels]:
    found = []
    m = moments
    for average, covariance, second, poisson in zip(m.average, m.covariance, m.second, m.poisson, strict=True):
        rounding = _ROUNDING * second.diagonal().max()
        centred = average - average.mean(axis=0) - average.mean(axis=1, keepdims=True) + average.mean()
        both = [(kernel + kernel.T) / 2 for kernel in (centred, covariance - np.diag(poisson))]
        found.append(Kernels(*(np.where(np.abs(kernel) > rounding, kernel, 0) for kernel in both)))
    return found


def _moments(counts: np.ndarray, weights: Floats) -> _Moments:
    """Moments of the trials under each row of weights (D, K) >= 0, each with two trials or more."""
    counts = _checked(counts)
    (n_trials, n_bins, n_units), n_draws = counts.shape, len(weights)
    rate = counts.sum(axis=(0, 1), dtype=np.int64) / (n_trials * n_bins)
    root = _unit_weights(rate) ** 0.5
    sums = np.zeros((n_draws, n_bins * n_units))
    within, own = np.zeros((n_draws, n_bins**2)), np.zeros((n_draws, n_bins**2))
    for rows, chunk in _chunks(counts, rate, root):
        weight = weights[:, rows].astype(np.float32)
        grams = np.matmul(chunk, chunk.transpose(0, 2, 1)).reshape(len(chunk), -1)
        sums += weight @ chunk.reshape(len(chunk), -1)
        within += weight @ grams
        own += weight**2 @ grams
    total, squares = weights.sum(axis=1)[:, None], (weights**2).sum(axis=1)[:, None]
    by_unit = sums.reshape(n_draws, n_bins, n_units)
    products = np.matmul(by_unit, by_unit.transpose(0, 2, 1)).reshape(n_draws, -1)
    shape = (n_draws, n_bins, n_bins)
    return _Moments(
        average=((products - own) / (total**2 - squares)).reshape(shape),
        covariance=((within * total - products) / (total**2 - squares)).reshape(shape),
        second=(within / total).reshape(shape),
        poisson=by_unit @ root / total + root**2 @ rate,
        rate=rate,
    )


def _unit_weights(rate: Floats) -> Floats:
    """(N,) weights from mean counts per bin; silent units and units alone in firing need no special case."""
    firing = rate[rate > 0]
    return 1 / (rate**2 + firing.mean() ** 2) if len(firing) else np.zeros_like(rate)


def _chunks(counts: np.ndarray, rate: Floats, root: Floats) -> Iterator[tuple[slice, np.ndarray]]:
    """Some trials at a time, float32: each unit less its mean rate (which no kernel sees), times its weight's root."""
    n_trials, n_bins, n_units = counts.shape
    size = max(1, _CHUNK_ENTRIES // (n_bins * max(n_bins, n_units)))
    centre, scale = rate.astype(np.float32), root.astype(np.float32)
    for start in range(0, n_trials, size):
        rows = slice(start, min(start + size, n_trials))
        chunk = counts[rows].astype(np.float32, order="C")
        chunk -= centre
        chunk *= scale
        yield rows, chunk


# What is read from kernels --------------------------------------------------------------------------------------------


def _alignment(a: Floats, b: Floats) -> float:
    """Cosine of two kernels (T, T) off the diagonal after U-centring; 0 where one is flat but for rounding."""
    x, y = _u_centred(a), _u_centred(b)
    norm = math.sqrt(float(np.vdot(x, x))) * math.sqrt(float(np.vdot(y, y)))
    return min(1.0, max(-1.0, float(np.vdot(x, y)) / norm)) if norm > 0 else 0.0


def _u_centred(kernel: Floats) -> Floats:
    """What is left off the diagonal of a symmetric kernel when ``row + column`` terms are taken out; 0 on it."""
    n = len(kernel)
    off = kernel.copy()
    np.fill_diagonal(off, 0)
    size = math.sqrt(float(np.vdot(off, off)))
    rows = off.sum(axis=0)
    off += rows.sum() / ((n - 1) * (n - 2)) - (rows[:, None] + rows) / (n - 2)
    np.fill_diagonal(off, 0)
    # What rounding leaves of a flat kernel has no direction.
    return off if math.sqrt(float(np.vdot(off, off))) > _ROUNDING * size else np.zeros_like(off)


def _signal_fraction(found: Kernels, variance: float) -> float:
    """Share of the variance over trials and bins (weighted over units, as the kernels) that is no noise."""
    n, trial = found.n_bins, found.single_trial
    drift = float(trial.sum() - np.trace(trial)) / (n * (n - 1))
    neighbours = float(np.diagonal(trial, 1).mean())
    signal = float(np.trace(found.average)) / n + neighbours - drift
    return min(1.0, max(0.0, signal / variance)) if variance > 0 else 0.0
