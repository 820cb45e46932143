"""Fits of scores: on the number of trials (Fig. 3b), and of scores and ranks on metadata (section 3.3).

Legend: n points or rows, G groups (seeds or shuffles; sessions of the pool), p predictors, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from sessionwise.analysis.checks import Floats, finite, interval, rounded, same_length, student_scale
from sessionwise.analysis.comparisons import benjamini_hochberg, holm
from sessionwise.analysis.statistics import spearman, spearman_interval
from sessionwise.errors import DataError

# A leverage this close to 1, a singular value this far below the first, a spread this small relative to the values.
_TINY = 1e-10


# Score against the number of trials (Fig. 3b) -------------------------------------------------------------------------


@dataclass(frozen=True)
class LogFit:
    """Least squares of bps on ln(trials).

    ``slope`` (bps for e times as many trials) and ``intercept``: {mean, low, high}; ``predicted``: {at, mean, low,
    high, prediction_low, prediction_high}, the line at ``at`` trials with its interval, and the interval of one more
    run there; ``r2`` None when all scores are equal; ``n`` points in ``n_groups`` groups (0: none given). All None with
    a ``reason`` when there is no line.
    """

    slope: dict[str, Any] | None
    intercept: dict[str, Any] | None
    predicted: dict[str, Any] | None
    r2: float | None
    n: int
    n_groups: int
    level: float
    reason: str | None = None


def log_fit(
    trials: ArrayLike,
    bps: ArrayLike,
    *,
    rng: np.random.Generator,
    at: float,
    groups: Sequence[Any] | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
) -> LogFit:
    """Fit bps (n,) on ln(trials) (n,) and extrapolate to ``at`` trials.

    Two things move a line: the scatter of its points, and what moves all points of a group (a seed, a shuffle)
    together. Both are drawn by a wild bootstrap with Gaussian multipliers, scaled to Student's t: of single residuals
    (corrected for leverage; n - 2 degrees of freedom), and of whole groups (G - 1). Each limit is the outer one of the
    two: groups alone miss how sizes scatter about the line, points alone miss that points of a group go together.
    Whether the line is the right curve is in neither: see ``saturating_fit``.

    No line with fewer than three points or two different numbers of trials. Raises DataError for numbers of trials
    that are not positive.
    """
    x, y = _log_trials("log_fit", trials, bps, at)
    labels = _labels(groups, len(x))
    n_groups = 0 if groups is None else int(labels.max(initial=-1)) + 1
    chances = rng.random((2, n_boot))
    normal = rng.standard_normal((n_boot, len(x))), rng.standard_normal((n_boot, max(n_groups, 1)))
    prediction = rng.standard_normal(n_boot)
    if len(x) < 3 or np.ptp(x) <= _TINY * max(1.0, float(np.abs(x).max(initial=0.0))):
        reason = "fewer than three points" if len(x) < 3 else "one number of trials only"
        return LogFit(None, None, None, None, len(x), n_groups, level, reason)
    design = np.column_stack([np.ones_like(x), x])
    inverse = np.linalg.inv(design.T @ design)
    line = inverse @ design.T @ y
    rest, leverage = y - design @ line, np.einsum("ij,jk,ik->i", design, inverse, design)
    pulls = (design * _without_leverage(rest, leverage)[:, None]) @ inverse
    scale = student_scale(len(x) - 2, chances[0])
    draws = [line + scale[:, None] * (normal[0] @ pulls)]
    if n_groups > 1:
        whole = np.zeros((n_groups, 2))
        np.add.at(whole, labels, (design * rest[:, None]) @ inverse)
        noise = student_scale(n_groups - 1, chances[1])[:, None] * math.sqrt(n_groups / (n_groups - 1))
        draws.append(line + noise * (normal[1] @ whole))
    there = np.array([1.0, math.log(at)])
    residual = math.sqrt(float(rest @ rest) / (len(x) - 2))
    lines = [drawn @ there for drawn in draws]
    new = [drawn + residual * scale * prediction for drawn in lines]
    outer = _outer(float(line @ there), new, level)
    predicted = {"at": float(at), **_outer(float(line @ there), lines, level)}
    return LogFit(
        slope=_outer(float(line[1]), [drawn[:, 1] for drawn in draws], level),
        intercept=_outer(float(line[0]), [drawn[:, 0] for drawn in draws], level),
        predicted={**predicted, "prediction_low": outer["low"], "prediction_high": outer["high"]},
        r2=_r2(y, rest),
        n=len(x),
        n_groups=n_groups,
        level=level,
    )


def _log_trials(where: str, trials: ArrayLike, bps: ArrayLike, at: float) -> tuple[Floats, Floats]:
    x, y = finite(f"{where}: trials", trials, 1), finite(f"{where}: scores", bps, 1)
    same_length(where, x, y)
    finite(f"{where}: trials to extrapolate to", at, 0)
    if (x <= 0).any() or at <= 0:
        raise DataError(where, "a number of trials of 0 or below", "positive numbers of trials")
    return np.log(x), y


def _labels(groups: Sequence[Any] | None, n: int) -> NDArray[np.int64]:
    """Group of each row as 0, 1, ... in the order met; each row its own without groups."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError("groups", f"{len(groups)} for {n} rows", "one a row")
    place: dict[Any, int] = {}
    return np.array([place.setdefault(group, len(place)) for group in groups], dtype=np.int64)


def _without_leverage(rest: Floats, leverage: Floats) -> Floats:
    """Residuals as large as the noise that they are left from (HC2); a point that the line must meet has none."""
    room = 1 - leverage
    return np.where(room > _TINY, rest / np.sqrt(np.maximum(room, _TINY)), 0.0)


def _outer(mean: float, draws: Sequence[Floats], level: float) -> dict[str, Any]:
    """The estimate with the outer limits of several sets of draws."""
    found = [interval(mean, drawn, level) for drawn in draws]
    return {**found[0], "low": min(f["low"] for f in found), "high": max(f["high"] for f in found)}


def _r2(y: Floats, rest: Floats) -> float | None:
    total = float(((y - y.mean()) ** 2).sum())
    if total <= len(y) * (_TINY * float(np.abs(y).max())) ** 2:
        return None
    return rounded(1 - float(rest @ rest) / total)


@dataclass(frozen=True)
class SaturatingFit:
    """A curve that levels off: ``form`` "power" is c - a trials^-b, "exponential" c - a exp(-trials / b).

    ``c`` is the score with endless trials, ``predicted`` the curve at ``at``. All None with a ``reason`` when no such
    curve fits: the best one is a straight line, a logarithm or a step, or falls with trials.
    """

    form: str | None
    a: float | None
    b: float | None
    c: float | None
    at: float
    predicted: float | None
    r2: float | None
    n: int
    reason: str | None = None


def saturating_fit(trials: ArrayLike, bps: ArrayLike, at: float) -> SaturatingFit:
    """The better of a power law and an exponential that level off, by least squares, for bps (n,) on trials (n,).

    For each exponent c and a are linear, so one number is searched: on a grid, then by Brent's method. A search that
    ends at its bounds has not converged. Needs four different numbers of trials, for its three parameters.
    """
    x, y = _log_trials("saturating_fit", trials, bps, at)
    if len(np.unique(np.round(x, 9))) < 4:
        return _no_curve(at, len(x), "fewer than four different numbers of trials")
    if _r2(y, y - y.mean()) is None:
        return _no_curve(at, len(x), "all scores are equal")
    error, form, b, c, slope, converged = min(_search(form, x, y) for form in _FORMS)
    if not converged:
        return _no_curve(at, len(x), "does not level off within the numbers of trials at hand")
    if slope <= 0:
        return _no_curve(at, len(x), "falls with the number of trials")
    middle = float(x.mean())
    shape = float(_FORMS[form](np.array([math.log(at) - middle]), b)[0])
    # ``slope`` belongs to numbers of trials divided by their geometric mean.
    a, own = (slope * math.exp(b * middle), b) if form == "power" else (slope, b * math.exp(middle))
    total = float(((y - y.mean()) ** 2).sum())
    return SaturatingFit(
        form=form,
        a=rounded(a),
        b=rounded(own),
        c=rounded(c),
        at=float(at),
        predicted=rounded(c - slope * shape),
        r2=rounded(1 - error / total),
        n=len(x),
    )


# What is left to gain at ln(trials) x, relative to the middle; b is the exponent or the scale.
_FORMS = {"power": lambda x, b: np.exp(-b * x), "exponential": lambda x, b: np.exp(-np.exp(x) / b)}
_BOUNDS = {"power": (0.05, 8.0), "exponential": (0.02, 20.0)}


def _no_curve(at: float, n: int, reason: str) -> SaturatingFit:
    return SaturatingFit(None, None, None, None, float(at), None, None, n, reason)


def _search(form: str, x: Floats, y: Floats) -> tuple[float, str, float, float, float, bool]:
    """(squared error, form, b, c, a) of the best curve of a form, and whether the search ended inside its bounds."""
    centred = x - x.mean()
    low, high = (math.log(bound) for bound in _BOUNDS[form])

    def error(log_b: float) -> float:
        return _linear(form, centred, y, math.exp(log_b))[0]

    grid = np.linspace(low, high, 60)
    best = int(np.argmin([error(value) for value in grid]))
    inside = 0 < best < len(grid) - 1
    log_b = float(grid[best])
    if inside:
        bounds = (grid[best - 1], grid[best + 1])
        log_b = float(optimize.minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x)
    b = math.exp(log_b)
    squared, c, a = _linear(form, centred, y, b)
    return squared, form, b, c, a, inside


def _linear(form: str, centred: Floats, y: Floats, b: float) -> tuple[float, float, float]:
    shape = _FORMS[form](centred, b)
    own = shape - shape.mean()
    size = float(own @ own)
    a = -float(own @ (y - y.mean())) / size if size > 0 else 0.0
    c = float(y.mean() + a * shape.mean())
    return float(((y - c + a * shape) ** 2).sum()), c, a


# Scores and ranks against metadata (section 3.3) ----------------------------------------------------------------------


@dataclass(frozen=True)
class Regression:
    """Ordinary least squares of y on standardised predictors (y standardised too).

    ``coefficients``: {name, mean, low, high, p, reason} for each predictor, None with a reason for one that does not
    vary or follows from the others; ``r2``, ``r2_adjusted`` in sample; ``r2_cross_validated``: 1 - (squared error of
    left-out rows) / (their squared error about the mean of the others); it falls below 0 when the predictors do worse
    than no predictor. ``n`` rows in ``n_groups`` groups, ``n_folds`` parts left out in turn.
    """

    n: int
    n_groups: int
    n_folds: int
    coefficients: tuple[dict[str, Any], ...]
    r2: float | None
    r2_adjusted: float | None
    r2_cross_validated: float | None
    level: float
    reason: str | None = None


def regression(
    y: ArrayLike,
    predictors: Mapping[str, ArrayLike],
    *,
    groups: Sequence[Any] | None = None,
    rng: np.random.Generator | None = None,
    n_folds: int | None = None,
    level: float = 0.95,
) -> Regression:
    """How much of y (n,) the predictors (n,) each explain.

    groups: rows that go together, such as the scores of one session of the pool for several held-out sessions. They are
    left out of the cross-validation together, and the coefficients' errors come from leaving out one group at a time
    (jackknife), with G - p - 1 degrees of freedom: a predictor that belongs to the session gives G independent rows,
    not n. Without groups the errors are the ordinary ones. n_folds: parts of a cross-validation, dealt by ``rng``; by
    default each group is left out alone.

    None with a reason: everything when y does not vary or no predictor does; errors and R2 without spare rows.
    Raises DataError for values that are not finite, lengths that disagree, or folds that cannot be dealt.
    """
    response = finite("regression", y, 1)
    columns = {name: finite(f"predictor {name}", values, 1) for name, values in predictors.items()}
    same_length("regression", response, *columns.values())
    labels = _labels(groups, len(response))
    n_groups = int(labels.max(initial=-1)) + 1
    folds = _folds(labels, n_groups, n_folds, rng)
    empty = {"mean": None, "low": None, "high": None, "p": None}
    used = {name: values for name, values in columns.items() if _varies(values)}
    rows = {name: {"name": name, **empty, "reason": "does not vary"} for name in columns}
    n_folds = int(folds.max(initial=-1)) + 1
    if not used or not _varies(response):
        reason = "no predictor varies" if _varies(response) else "all values are equal"
        found = tuple(rows.values())
        return Regression(len(response), n_groups, n_folds, found, None, None, None, level, reason)
    design = np.column_stack([np.ones(len(response)), *(_standard(values) for values in used.values())])
    target = _standard(response)
    line = np.asarray(np.linalg.lstsq(design, target, rcond=_TINY)[0], dtype=np.float64)
    rest, rank = target - design @ line, design.shape[1] - len(_still(design))
    spare = len(target) - rank
    r2 = _r2(target, rest) if spare > 0 else None
    rows |= _coefficients(list(used), design, line, target, labels if groups is not None else None, level)
    return Regression(
        n=len(response),
        n_groups=n_groups,
        n_folds=n_folds,
        coefficients=tuple(rows.values()),
        r2=r2,
        r2_adjusted=None if r2 is None else rounded(1 - (1 - r2) * (len(target) - 1) / spare),
        r2_cross_validated=_cross_validated(design, target, folds),
        level=level,
        reason=None if spare > 0 else f"{len(target)} rows for {rank} coefficients",
    )


def _varies(values: Floats) -> bool:
    return len(values) > 1 and float(np.ptp(values)) > _TINY * float(np.abs(values).max())


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float64)


def _folds(
    labels: NDArray[np.int64], n_groups: int, n_folds: int | None, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """Fold of each row: its group's own, or one of ``n_folds`` that differ by one group at most."""
    if n_folds is None:
        return labels
    if rng is None or not 2 <= n_folds <= n_groups:
        found = f"{n_folds} folds of {n_groups} groups" + ("" if rng is not None else ", no generator")
        raise DataError("regression", found, "2 folds or more, no more than groups, and a generator")
    return np.asarray((rng.permutation(n_groups) % n_folds)[labels], dtype=np.int64)


def _cross_validated(design: Floats, y: Floats, folds: NDArray[np.int64]) -> float | None:
    """R2 of left-out rows; None when nothing is left to fit or the left-out rows do not vary."""
    error = base = 0.0
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        if out.all():
            return None
        line = np.linalg.lstsq(design[~out], y[~out], rcond=_TINY)[0]
        error += float(((y[out] - design[out] @ line) ** 2).sum())
        base += float(((y[out] - y[~out].mean()) ** 2).sum())
    return rounded(1 - error / base) if base > 0 else None


def _coefficients(
    names: Sequence[str],
    design: Floats,
    line: Floats,
    target: Floats,
    labels: NDArray[np.int64] | None,
    level: float,
) -> dict[str, dict[str, Any]]:
    """Each coefficient with its interval and p."""
    groups = np.arange(len(target)) if labels is None else labels
    units, rank = int(groups.max()) + 1, design.shape[1] - len(_still(design))
    freedom, followers = units - rank, _followers(design)
    errors = _errors(design, target - design @ line, freedom) if labels is None else _jackknife(design, target, groups)
    found = {}
    for i, name in enumerate(names, start=1):
        row: dict[str, Any] = {"name": name, "mean": None, "low": None, "high": None, "p": None, "reason": None}
        found[name] = row
        if i in followers:
            row["reason"] = "follows from other predictors"
            continue
        row["mean"] = rounded(line[i])
        if freedom < 1:
            row["reason"] = f"{units} independent rows for {rank} coefficients"
            continue
        error = float(errors[i])
        reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
        row |= {"low": rounded(line[i] - reach), "high": rounded(line[i] + reach)}
        row["p"] = float(2 * stats.t.sf(abs(line[i]) / error, freedom)) if error > _TINY else None
    return found


def _errors(design: Floats, rest: Floats, freedom: int) -> Floats:
    """Ordinary standard errors of the coefficients, from residuals (n,)."""
    inverse = np.linalg.pinv(design, rcond=_TINY)
    return np.asarray(np.sqrt((inverse**2).sum(axis=1) * float(rest @ rest) / max(freedom, 1)), dtype=np.float64)


def _jackknife(design: Floats, y: Floats, groups: NDArray[np.int64]) -> Floats:
    """Standard errors from leaving out one group at a time: right, or too large, with few groups of rows alike."""
    n_groups = int(groups.max()) + 1
    if n_groups < 2:
        return np.full(design.shape[1], np.nan)
    lines = np.stack([np.linalg.lstsq(design[groups != g], y[groups != g], rcond=_TINY)[0] for g in range(n_groups)])
    return np.asarray(lines.std(axis=0) * math.sqrt(n_groups - 1), dtype=np.float64)


def _still(design: Floats) -> Floats:
    """Directions (m, p + 1) in which no row of the design goes."""
    _, sizes, directions = np.linalg.svd(design, full_matrices=True)
    sizes = np.concatenate([sizes, np.zeros(design.shape[1] - len(sizes))])
    return np.asarray(directions[sizes <= 1e-8 * sizes[0]], dtype=np.float64)


def _followers(design: Floats) -> set[int]:
    """Columns that are a combination of the others: those that share a direction in which nothing varies."""
    return {int(i) for i in np.flatnonzero((np.abs(_still(design)) > 1e-6).any(axis=0))}


def spearman_screen(y: ArrayLike, predictors: Mapping[str, ArrayLike]) -> list[dict[str, Any]]:
    """Spearman's correlation of y (n,) with each predictor (n,) by itself, all that were tried.

    Each {name, rho, p, p_holm, p_bh, n, low, high}: p two-sided from Student's t (scipy's default), but not below
    2 / n!, the smallest that n values can give; corrected over the whole screen; low, high: 95 % interval (Bonett and
    Wright). rho and p are None for a predictor that does not vary or fewer than 3 rows.
    """
    response = finite("spearman_screen", y, 1)
    rows: list[dict[str, Any]] = []
    for name, values in predictors.items():
        column = finite(f"predictor {name}", values, 1)
        same_length("spearman_screen", response, column)
        rho = spearman(response, column)
        low, high = spearman_interval(rho, len(response)) or (None, None)
        rows.append({"name": name, "rho": rho, "p": spearman_p(rho, len(response)), "p_holm": None, "p_bh": None,
                     "n": len(response), "low": low, "high": high})  # fmt: skip
    raw = [row["p"] for row in rows]
    for row, step_down, discovery in zip(rows, holm(raw), benjamini_hochberg(raw), strict=True):
        row |= {"p_holm": step_down, "p_bh": discovery}
    return rows


def spearman_p(rho: float | None, n: int) -> float | None:
    """Two-sided p of a rank correlation of n pairs from Student's t, not below 2 / n!; None without one."""
    if rho is None or n < 3:
        return None
    least = 2 / math.factorial(min(n, 20))
    if abs(rho) >= 1:
        return least
    return max(least, float(2 * stats.t.sf(abs(rho) * math.sqrt((n - 2) / (1 - rho**2)), n - 2)))
