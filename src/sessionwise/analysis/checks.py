"""What the statistics refuse, and how they say it: values that are not finite, lengths that disagree.

An interval is plain: ``{"mean", "low", "high"}``, rounded so that results are the same with any number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.errors import DataError

Floats = NDArray[np.float64]

# Finer than anything that matters, coarser than the rounding of a matrix product.
DECIMALS = 12


def finite(where: str, values: ArrayLike, ndim: int | None = None) -> Floats:
    """The values as an array of floats; DataError for NaN, infinities or another number of dimensions."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(where, f"no array of numbers ({error})", "numbers") from None
    if ndim is not None and array.ndim != ndim:
        raise DataError(where, f"an array of {array.ndim} dimensions", f"{ndim}")
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise DataError(where, f"{bad} of {array.size} values are not finite", "numbers", "Leave diverged runs out")
    return array


def same_length(where: str, *arrays: Sized) -> None:
    """DataError unless all have the same length."""
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise DataError(where, f"lengths {lengths}", "equal lengths")


def rounded(value: float | None) -> float | None:
    """A result as it is stored: None stays None, what is not finite becomes None."""
    return None if value is None or not np.isfinite(value) else round(float(value), DECIMALS)


def limits(draws: Floats, level: float) -> tuple[float, float]:
    """The middle ``level`` of draws (B,); NaN where the limit is not defined.

    A draw that is not a number counts as being beyond both ends: a few of them widen the interval, many undo it.
    """
    tails = (1 - level) / 2, (1 + level) / 2
    unknown = np.isnan(draws)
    if not unknown.any():
        low, high = np.quantile(draws, tails)
        return float(low), float(high)
    low = np.quantile(np.where(unknown, -np.inf, draws), tails[0], method="lower")
    high = np.quantile(np.where(unknown, np.inf, draws), tails[1], method="higher")
    return (float(low) if np.isfinite(low) else np.nan, float(high) if np.isfinite(high) else np.nan)


def require_parts(document: Any, parts: AbstractSet[str], schema: int, where: str, needed: str, remedy: str) -> None:
    """DataError unless a document is a JSON object with these parts and of this schema."""
    if not isinstance(document, Mapping) or (missing := sorted(parts - document.keys())):
        found = f"lacks {', '.join(missing[:5])}" if isinstance(document, Mapping) else "is no JSON object"
        raise DataError(where, found, needed, remedy)
    if document["schema"] != schema:
        found = f"has schema {document['schema']!r}"
        raise DataError(where, found, f"schema {schema}", "Use the sessionwise that wrote it")


def interval(mean: float | None, draws: Floats, level: float) -> dict[str, Any]:
    """``{"mean", "low", "high"}`` of an estimate and its draws (B,); None where something is not defined."""
    low, high = limits(draws, level)
    return {"mean": rounded(mean), "low": rounded(low), "high": rounded(high)}


def student_scale(freedom: float, chance: Floats) -> Floats:
    """What turns Gaussian noise (B,) into Student's t noise: sqrt(freedom / chi-squared), from uniform numbers (B,).

    From uniform numbers, so that the same chances give a scale that changes smoothly with the degrees of freedom.
    """
    if not np.isfinite(freedom):
        return np.ones_like(chance)
    return np.asarray(np.sqrt(freedom / stats.chi2.ppf(1 - chance, freedom)), dtype=np.float64)
