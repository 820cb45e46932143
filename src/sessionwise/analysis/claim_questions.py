"""The numbers that the paper's claims are about, as questions asked of one held-out session.

A question names the cells that it needs, the statistic of their scores, and the sizes that were chosen; one that cannot
be asked says why. "Best" is the best of the sizes without all sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sessionwise.analysis.cells import Cell, Grid, best_size
from sessionwise.analysis.estimates import Draws, Floats, Statistic, percent

FEW_SESSIONS = 10  # "fewer than ten sessions", the paper's low-data regime


@dataclass(frozen=True)
class Question:
    """A number asked of one held-out session: its cells by name, the statistic, and the sizes that were chosen."""

    cells: Mapping[str, Cell] = field(default_factory=dict)
    statistic: Statistic = lambda draws: next(iter(draws.values()))
    sizes: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None


Ask = Callable[[Grid, str, str], Question]  # grid, held-out, choice of the best size


def no_question(grid: Grid, heldout: str, _: str) -> Question:
    """For claims that are judged on fits and rankings, not on cells."""
    return Question(reason="not about single cells")


def gap(a: str, b: str, sizes: Sequence[int] | None = None) -> Ask:
    """Order a minus order b at equal size, mean over the sizes below all (or those given)."""

    def ask(grid: Grid, heldout: str, _: str) -> Question:
        chosen = tuple(sizes or grid.below_all)
        if reason := _not_asked(grid, a, b) or (None if chosen else "no size below all sessions"):
            return Question(reason=reason)
        cells = {f"{order} {size}": grid.cell(heldout, order, size) for order in (a, b) for size in chosen}
        return Question(cells, lambda draws: mean_gap(draws, a, b, chosen))

    return ask


def mean_gap(draws: Draws, a: str, b: str, sizes: Sequence[int]) -> Floats:
    """Mean over sizes of a minus b."""
    return np.mean([draws[f"{a} {size}"] - draws[f"{b} {size}"] for size in sizes], axis=0)


def per_size(a: str, b: str, grid: Grid) -> tuple[tuple[str, Ask], ...]:
    """The gap at each size by itself."""
    return tuple((f"at {size} session{'s' if size > 1 else ''}", gap(a, b, (size,))) for size in grid.below_all)


def top_minus_best_random(grid: Grid, heldout: str, choice: str) -> Question:
    """Ranked at the top k minus random at its best size."""
    return _contrast(grid, heldout, choice, ("ranked", grid.top), ("random", None))


def top_minus_all(grid: Grid, heldout: str, choice: str) -> Question:
    """Ranked at the top k minus all sessions."""
    return _contrast(grid, heldout, choice, ("ranked", grid.top), ("all", grid.n_pool))


def best_random_minus_all(grid: Grid, heldout: str, choice: str) -> Question:
    """Random at its best size minus all sessions."""
    return _contrast(grid, heldout, choice, ("random", None), ("all", grid.n_pool))


def _contrast(grid: Grid, heldout: str, choice: str, a: tuple[str, int | None], b: tuple[str, int | None]) -> Question:
    """Arm a minus arm b; a size of None is the order's best."""
    if reason := _not_asked(grid, *(order for order, _ in (a, b) if order != "all")):
        return Question(reason=reason)
    chosen = [(order, size or best_size(grid, heldout, order, choice)) for order, size in (a, b)]
    if reason := _no_best(grid, heldout, chosen):
        return Question(reason=reason)
    cells = {name: grid.cell(heldout, *asked) for name, asked in zip("ab", chosen, strict=True)}
    known = {order: size for order, size in chosen if size is not None and order != "all"}
    return Question(cells, lambda draws: draws["a"] - draws["b"], known)


def points_gain(grid: Grid, heldout: str, choice: str) -> Question:
    """Improvement of ranked minus that of random, each at its best size, in percentage points."""
    found = _contrast(grid, heldout, choice, ("ranked", None), ("random", None))
    if found.reason:
        return found
    if reason := _no_percentage(grid, heldout):
        return Question(reason=reason, sizes=found.sizes)
    cells = {**found.cells, "baseline": grid.cell(heldout, "baseline")}
    statistic = lambda draws: percent(draws["a"], draws["baseline"]) - percent(draws["b"], draws["baseline"])  # noqa: E731
    return Question(cells, statistic, found.sizes)


def gaps_below_ten(a: str, b: str) -> Ask:
    """The mean gap between two orders below ten sessions minus that from ten on (all sessions left out)."""

    def ask(grid: Grid, heldout: str, _: str) -> Question:
        few = [size for size in grid.below_all if size < FEW_SESSIONS]
        many = [size for size in grid.below_all if size >= FEW_SESSIONS]
        if reason := _not_asked(grid, a, b):
            return Question(reason=reason)
        if not few or not many:
            return Question(reason=f"no size {'below ten' if not few else 'from ten on below all'}")
        cells = {f"{order} {size}": grid.cell(heldout, order, size) for order in (a, b) for size in (*few, *many)}
        return Question(cells, lambda draws: mean_gap(draws, a, b, few) - mean_gap(draws, a, b, many))

    return ask


def scaling_gap(other: str, unit: str) -> Ask:
    """Gain over its own one-session model of another order minus that of the ranked order, mean over sizes above 1."""

    def ask(grid: Grid, heldout: str, _: str) -> Question:
        sizes = [size for size in grid.below_all if size > 1]
        if reason := _not_asked(grid, "ranked", other):
            return Question(reason=reason)
        if 1 not in grid.sizes or not sizes:
            return Question(reason="no size of one session" if 1 not in grid.sizes else "no size between one and all")
        cells = {f"{o} {size}": grid.cell(heldout, o, size) for o in ("ranked", other) for size in (1, *sizes)}

        def gain(draws: Draws, order: str) -> Floats:
            one = draws[f"{order} 1"]
            each = [draws[f"{order} {size}"] for size in sizes]
            return np.mean([percent(x, one) if unit != "bps" else x - one for x in each], axis=0)

        return Question(cells, lambda draws: gain(draws, other) - gain(draws, "ranked"))

    return ask


def _not_asked(grid: Grid, *orders: str) -> str | None:
    lacking_orders = [order for order in orders if order not in grid.orders]
    return f"the study has no {' and no '.join(lacking_orders)} order" if lacking_orders else None


def _no_best(grid: Grid, heldout: str, chosen: Sequence[tuple[str, int | None]]) -> str | None:
    for order, size in chosen:
        if size is None:
            whole = next((c for k in grid.below_all if (c := grid.cell(heldout, order, k)).reason), None)
            why = f"{order} at {whole.size}: {whole.reason}" if whole else "no validation score"
            return f"the best size of the {order} order cannot be chosen ({why})"
    return None


def best_random_ratio(grid: Grid, heldout: str, _: str) -> Question:
    """The size at which the random order has the best test score, over the top k."""
    if reason := _not_asked(grid, "random"):
        return Question(reason=reason)
    sizes = np.array(grid.below_all, dtype=np.float64)
    cells = {f"random {size}": grid.cell(heldout, "random", size) for size in grid.below_all}

    def statistic(draws: Draws) -> Floats:
        best = np.argmax(np.stack([draws[f"random {size}"] for size in grid.below_all]), axis=0)
        return sizes[best] / grid.top

    return Question(cells, statistic)


def share_of_best(grid: Grid, heldout: str, choice: str) -> Question:
    """Ranked at the top k, ranked at its best size, and the baseline."""
    found = _contrast(grid, heldout, choice, ("ranked", grid.top), ("ranked", None))
    if reason := found.reason or _no_percentage(grid, heldout):
        return Question(reason=reason, sizes=found.sizes)
    return Question({**found.cells, "baseline": grid.cell(heldout, "baseline")}, found.statistic, found.sizes)


def one_session_scores_positive(grid: Grid) -> bool:
    ones = [grid.cell(h, order, 1).mean for h in grid.heldout for order in grid.orders]
    return all(mean is None or mean > 0 for mean in ones)


def _no_percentage(grid: Grid, heldout: str) -> str | None:
    baseline = grid.cell(heldout, "baseline")
    low = baseline.mean is not None and baseline.mean <= 0
    return "the baseline is not above zero: no percentage" if low else None
