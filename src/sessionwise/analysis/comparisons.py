"""Comparisons of scores: percent, t-tests of Table A2, exact permutation, many tests at once, the best size.

Pure functions of numbers; what is undefined is None, and a value that is not finite is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.analysis.checks import Floats, finite, same_length
from sessionwise.errors import DataError

# More splits than this are not enumerated: 10 against 10 are 184,756.
MAX_SPLITS = 200_000
# Sums of the same numbers in another order differ by rounding; differences this close are equal.
_EQUAL = 1e-12


def improvement_percent(bps: float, baseline: float) -> float | None:
    """100 (bps - baseline) / baseline (protocol A19); None with a baseline of 0 or below, which has no percent."""
    value, base = (float(x) for x in finite("improvement_percent", [bps, baseline]))
    return None if base <= 0 else 100 * (value - base) / base


@dataclass(frozen=True)
class TTests:
    """Two-sided t-tests of a difference in means; a field is None where the test is not defined.

    ``t``, ``df``, ``p``: Student's, equal variances (Table A2); ``p_welch`` without that assumption; ``p_paired`` for
    pairs in the order given, None when the lengths differ. ``reason``: why fields are None.
    """

    t: float | None = None
    df: float | None = None
    p: float | None = None
    p_welch: float | None = None
    p_paired: float | None = None
    reason: str | None = None


def t_tests(a: ArrayLike, b: ArrayLike) -> TTests:
    """The t-tests of a (n,) against b (m,): positive t when a is larger.

    Not defined with fewer than two values on a side, nor when nothing varies: values that agree exactly are no proof
    of zero variance, and a p of 0 would say so.
    """
    x, y = finite("t_tests", a, 1), finite("t_tests", b, 1)
    if min(len(x), len(y)) < 2:
        return TTests(reason="fewer than two values on a side")
    gap = float(x.mean() - y.mean())
    parts = _variance_of_mean(x), _variance_of_mean(y)
    p_paired = _paired(x, y)
    freedom = len(x) + len(y) - 2
    if not any(parts):
        return TTests(df=freedom, p_paired=p_paired, reason="no value differs from the others of its side")
    pooled = sum(part * n * (n - 1) for part, n in zip(parts, (len(x), len(y)), strict=True)) / freedom
    t = gap / math.sqrt(pooled * (1 / len(x) + 1 / len(y)))
    # Welch and Satterthwaite.
    welch = sum(parts) ** 2 / (parts[0] ** 2 / (len(x) - 1) + parts[1] ** 2 / (len(y) - 1))
    return TTests(
        t=t,
        df=float(freedom),
        p=_two_sided(t, freedom),
        p_welch=_two_sided(gap / math.sqrt(sum(parts)), welch),
        p_paired=p_paired,
        reason=None if p_paired is not None else "no test by pairs: other numbers, or all differences are equal",
    )


def _variance_of_mean(x: Floats) -> float:
    """s^2 / n, zero where the values differ by rounding alone."""
    variance = float(x.var(ddof=1)) / len(x)
    return variance if variance > (_EQUAL * float(np.abs(x).max())) ** 2 else 0.0


def _paired(x: Floats, y: Floats) -> float | None:
    if len(x) != len(y):
        return None
    # Against the size of the values: the difference of two constants is not exactly constant.
    difference, size = x - y, float(max(np.abs(x).max(), np.abs(y).max()))
    error = math.sqrt(float(difference.var(ddof=1)) / len(x))
    return None if error <= _EQUAL * size else _two_sided(float(difference.mean()) / error, len(x) - 1)


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * stats.t.sf(abs(t), freedom))


def exact_permutation(a: ArrayLike, b: ArrayLike, paired: bool = False) -> float | None:
    """Two-sided exact p of the difference in means: the share of all splits with one at least as large.

    Unpaired: all ways to deal the values to the two sides (3 against 3: never below 0.1). Paired: all changes of signs
    of the differences (3 pairs: never below 0.25). None when a side is empty or there are more than 200,000 splits.

    Raises DataError for pairs of different lengths.
    """
    x, y = finite("exact_permutation", a, 1), finite("exact_permutation", b, 1)
    if paired:
        same_length("exact_permutation", x, y)
    if min(len(x), len(y)) == 0:
        return None
    n_splits = 2 ** len(x) if paired else math.comb(len(x) + len(y), len(x))
    if n_splits > MAX_SPLITS:
        return None
    gaps = np.abs(_sign_gaps(x - y) if paired else _split_gaps(x, y))
    near = _EQUAL * float(np.abs(np.concatenate([x, y])).max())
    return float((gaps >= abs(x.mean() - y.mean()) - near).mean())


def _sign_gaps(difference: Floats) -> Floats:
    """Mean difference under every change of signs, (2^n,)."""
    n = len(difference)
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return np.asarray((1 - 2 * bits) @ difference / n, dtype=np.float64)


def _split_gaps(x: Floats, y: Floats) -> Floats:
    """Difference in means under every split of all values into sides of the same sizes."""
    values, n = np.concatenate([x, y]), len(x)
    chosen = np.array(list(combinations(range(len(values)), n)), dtype=np.int64)
    first = values[chosen].sum(axis=1)
    return np.asarray(first / n - (values.sum() - first) / len(y), dtype=np.float64)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p (family-wise error); None stays None and does not count as a test."""
    known, order = _tests(p)
    steps = known[order] * (len(known) - np.arange(len(known)))
    return _back(p, order, np.minimum(1, np.maximum.accumulate(steps)))


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's adjusted p (false discovery rate); None stays None and does not count as a test."""
    known, order = _tests(p)
    steps = known[order] * len(known) / np.arange(1, len(known) + 1)
    return _back(p, order, np.minimum(1, np.minimum.accumulate(steps[::-1])[::-1]))


def _tests(p: Sequence[float | None]) -> tuple[Floats, NDArray[np.int64]]:
    known = finite("p-values", [value for value in p if value is not None], 1)
    if known.size and (known.min() < 0 or known.max() > 1):
        raise DataError("p-values", f"{known.min():g} to {known.max():g}", "numbers from 0 to 1")
    return known, np.argsort(known, kind="stable").astype(np.int64)


def _back(p: Sequence[float | None], order: NDArray[np.int64], adjusted: Floats) -> list[float | None]:
    """The adjusted p of the sorted tests in the order of the tests, None where there was none."""
    own = np.empty(len(order))
    own[order] = adjusted
    values = iter(own)
    return [None if value is None else float(next(values)) for value in p]


def percentile_among(value: float, others: ArrayLike) -> dict[str, Any]:
    """Where a value lies among others (n,), as the ranked set among many random ones.

    percentile: share of the others below it, in percent; p: (r + 1) / (n + 1) with r others at or above it, the chance
    of a value as high if it were one of them (one-sided; never 0). Both None without others.
    """
    own, rest = float(finite("percentile_among", value, 0)), finite("percentile_among", others, 1)
    n = len(rest)
    if n == 0:
        return {"percentile": None, "n": 0, "p": None}
    return {"percentile": 100 * float((rest < own).mean()), "n": n, "p": (int((rest >= own).sum()) + 1) / (n + 1)}


def best_over_sizes(
    sizes: Sequence[int], means: Sequence[float | None], leave_out: int | Collection[int] | None = None
) -> tuple[int, float] | None:
    """(size, mean) of the best mean, the smallest size among equals; sizes in ``leave_out`` ("all") do not count.

    None when no size is left or the mean of one that counts is missing: the missing one may be the best.
    """
    same_length("best_over_sizes", sizes, means)
    left = {leave_out} if isinstance(leave_out, int) else set(leave_out or ())
    found = [(size, mean) for size, mean in zip(sizes, means, strict=True) if size not in left]
    known = [(size, mean) for size, mean in found if mean is not None]
    if not known or len(known) < len(found):
        return None
    finite("best_over_sizes", [mean for _, mean in known])
    return min(known, key=lambda pair: (-pair[1], pair[0]))


def data_efficiency(sizes: Sequence[int], random_means: Sequence[float | None], top: int) -> float | None:
    """How many times more sessions the random order needs: its best size divided by ``top`` (the paper: 40 / 5 = 8).

    None without a best size (see ``best_over_sizes``).
    """
    if top < 1:
        raise DataError("data_efficiency", f"top {top}", "one session or more")
    best = best_over_sizes(sizes, random_means)
    return None if best is None else best[0] / top
