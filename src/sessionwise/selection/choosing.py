"""Ways to choose a set of sessions from their scores: the best, or the best that are not all alike.

A chooser puts sessions in an order whose first k are the set of k, so sets are nested and it can be asked how many are
enough (`how_many`). Others than ours are found by the entry point group ``sessionwise.choosers``: its entries name such
classes, which take no argument.

Legend: C sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sessionwise.errors import UsageError
from sessionwise.selection.context import Context
from sessionwise.selection.plugins import find_named, known_names
from sessionwise.selection.zero_training import likeness_matrix

GROUP = "sessionwise.choosers"
SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 55)  # sizes that are tried


class Chooser(Protocol):
    """A way to choose sets. name: of ``--choose``; about: a line for people."""

    name: str
    about: str

    def order(self, scores: Mapping[str, float], context: Context) -> list[str]:
        """All sessions that have a score; the first k are the set of k. Computes no run."""


class TopK:
    """The sessions with the highest scores."""

    name = "top_k"
    about = "the sessions with the highest scores"

    def order(self, scores: Mapping[str, float], context: Context) -> list[str]:
        """By score, equal ones by name."""
        return sorted(scores, key=lambda name: (-scores[name], name))


class Diverse:
    """Sessions that stand for all good ones, rather than several of one kind (facility location).

    A set covers each session j as well as its most similar member i does; the chosen set covers the pool best, where
    session j counts by how far its score lies above the lowest: sum_j (score_j - lowest) max_i similarity_ij. Greedy
    choice, which comes within 1 - 1/e of the best set (Nemhauser, Wolsey and Fisher, 1978). Similarity is that of
    activity (`analysis.activity.similarity`), negative values as 0.
    """

    name = "diverse"
    about = "sessions that stand for all good ones, by similarity of activity (facility location)"

    def order(self, scores: Mapping[str, float], context: Context) -> list[str]:
        """By what each adds to those before it; what adds equally, by score."""
        names = TopK().order(scores, context)
        if len(names) < 2:
            return names
        values = np.array([scores[name] for name in names])
        alike = np.maximum(likeness_matrix(names, context), 0)
        return [names[at] for at in facility_location(alike, values - values.min())]


def order_of(chooser: Chooser, scores: Mapping[str, float], context: Context) -> list[str]:
    """The chooser's order; UsageError when it is not one of all sessions with a score, each once."""
    order = list(chooser.order(scores, context))
    if sorted(order) != sorted(scores):
        found = f"gave {len(order)} sessions ({len(set(order) & set(scores))} of those asked for)"
        raise UsageError(f"--choose {chooser.name}", found, f"all {len(scores)} that have a score, each once")
    return order


def facility_location(alike: np.ndarray, weights: np.ndarray) -> list[int]:
    """Greedy order of C by what each adds to the cover of ``weights`` (C,) by ``alike`` (C, C), both not negative.

    ``alike[i, j]`` says how well i covers j. Among equal additions the lowest index comes first.
    """
    order, left = list[int](), list(range(len(weights)))
    covered = np.zeros(len(weights))
    while left:
        adds = [float(np.round(np.maximum(alike[i] - covered, 0) @ weights, 12)) for i in left]
        order.append(left.pop(int(np.argmax(adds))))
        covered = np.maximum(covered, alike[order[-1]])
    return order


def sizes_below(n: int) -> list[int]:
    """The sizes tried in a pool of n, without all of them: every one trains a model or two."""
    return [size for size in SIZES if size < n]


def how_many(sizes: Sequence[int], differ: Callable[[int, int], Mapping[str, Any]]) -> int:
    """The smallest size that no larger one beats by more than the intervals say.

    differ: for sizes (larger, smaller), an entry whose ``low`` is the lower end of the interval of the larger one's
    gain, or None where it has none; what is not known to gain is not worth its cost. With intervals of one standard
    error it is the rule of Breiman et al. (1984): the simplest model within a standard error of the best.
    """
    ordered = sorted(sizes)
    for at, size in enumerate(ordered):
        lows = [differ(larger, size)["low"] for larger in ordered[at + 1 :]]
        if not any(low is not None and low > 0 for low in lows):
            return size
    raise ValueError("no sizes")


_OURS: tuple[type[Chooser], ...] = (TopK, Diverse)


def choosers() -> dict[str, str]:
    """Every way's name and what it does; those of other packages come last."""
    return known_names(_OURS, GROUP)


def find_chooser(name: str) -> Chooser:
    """The chooser of a name; UsageError when there is none, or when another package's cannot be loaded."""
    found: Chooser = find_named(name, _OURS, GROUP, "--choose", "chooser")
    return found
