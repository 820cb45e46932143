"""Small multiples: one panel for each held-out session and one for their average, with what all of them share.

The looks of the three orders differ in colour, marker and line style. A panel is drawn by a function that says whether
it drew anything; a figure in which none did is no figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from sessionwise.analysis.figures import BLUE, GREEN, GREY, INK, ORANGE, RED, label
from sessionwise.analysis.study_words import ARMS, heldout_name

Document = Mapping[str, Any]
DrawPanel = Callable[[Axes, Document, str | None], bool]

ORDERS: dict[str, dict[str, Any]] = {
    "ranked": {"color": GREEN, "marker": "s", "ls": "-"},
    "random": {"color": BLUE, "marker": "o", "ls": (0, (1.6, 1.1))},
    "reverse_ranked": {"color": ORANGE, "marker": "^", "ls": "-."},
}
ALL: dict[str, Any] = {"color": RED, "marker": "*", "ls": "none", "ms": 9, "mec": "white", "mew": 0.6}
BASELINE: dict[str, Any] = {"color": INK, "ls": "--", "lw": 1.2}
# With more runs in a cell, single ones are dots without an edge that add up to a cloud.
MANY_RUNS = 12
_MOST_COLUMNS = 3


def small_multiples(
    document: Document, draw: DrawPanel, x: str, y: str, *, average: bool = True, width: float = 2.6
) -> Figure | None:
    """One panel a held-out session, and their average last when there are several; None where no panel has anything."""
    heldouts: list[str | None] = list(document["heldout"])
    if average and len(heldouts) > 1:
        heldouts.append(None)
    if not heldouts:
        return None
    figure, panels = grid_of_panels(len(heldouts), width)
    drew = []
    for axes, heldout in zip(panels, heldouts, strict=True):
        drew.append(draw(axes, document, heldout))
        title(axes, heldout_name(heldout, document), bold=heldout is None)
        if not drew[-1]:
            empty(axes)
    if not any(drew):
        return None
    outer_labels(panels, x, y)
    return figure


def grid_of_panels(n: int, width: float = 2.6, height: float = 2.25) -> tuple[Figure, list[Axes]]:
    """n panels in up to three columns; a single one is larger."""
    columns = n if n <= _MOST_COLUMNS else 2 if n == 4 else _MOST_COLUMNS
    rows = math.ceil(n / columns)
    size = (max(4.4, 1.5 * width), 3.2) if n == 1 else (width * columns, height * rows + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    every = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in every[n:]:
        axes.remove()
    return figure, every[:n]


def outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    """x below the lowest panel of every column, y left of the first panel of every row."""
    spec = panels[0].get_subplotspec()
    columns = spec.get_gridspec().ncols if spec is not None else 1
    for i, axes in enumerate(panels):
        if i + columns >= len(panels):
            axes.set_xlabel(x)
        if i % columns == 0:
            axes.set_ylabel(y)


def title(axes: Axes, text: str, *, bold: bool = False) -> None:
    """What a panel is about, above its left edge."""
    axes.set_title(label(text), fontsize=8.5, loc="left", fontweight="bold" if bold else "normal")


def empty(axes: Axes) -> None:
    """A panel of something that has no score."""
    axes.text(0.5, 0.5, "no score", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def entries_of(entries: Sequence[Document], heldout: str | None) -> dict[str, Document]:
    """The entries of one held-out session (None: the average) by their arm, orders first and in a fixed order."""
    mine = {entry["arm"]: entry for entry in entries if entry["heldout"] == heldout}
    return {arm: mine[arm] for arm in (*ORDERS, *mine) if arm in mine}


def runs(axes: Axes, x: Any, values: Sequence[float], color: str, marker: str, *, of: int | None = None) -> None:
    """Single runs: open markers, or a cloud of small ones where they are many.

    x: one place or one for each; of: how many runs a cell has, where the values are those of several cells.
    """
    if not values:
        return
    many = (of or len(values)) > MANY_RUNS
    look: dict[str, Any]
    look = {"mfc": color, "mec": "none", "alpha": 0.3} if many else {"mfc": "white", "mec": color, "mew": 0.7}
    places = np.broadcast_to(np.asarray(x, dtype=float), (len(values),))
    axes.plot(places, list(values), ls="none", marker=marker, ms=2.4 if many else 3.1, zorder=3, **look)


def bar(axes: Axes, x: float, mean: float, sd: float | None, color: str) -> None:
    """Mean minus and plus one standard deviation; nothing with fewer than two runs."""
    if sd is not None:
        axes.plot([x, x], [mean - sd, mean + sd], color=color, lw=1.2, solid_capstyle="butt", zorder=4)


def baseline(axes: Axes, document: Document, heldout: str | None) -> bool:
    """The baseline's mean as a dashed line, its standard deviation as a band."""
    found = entries_of(document["baselines"], heldout).get("baseline")
    return level(axes, found, INK, "--") if found else False


def level(axes: Axes, entry: Document, color: str, dashes: str) -> bool:
    """The mean of an entry as a line across the panel and its standard deviation as a band."""
    if entry["mean"] is None:
        return False
    if entry.get("sd") is not None:
        axes.axhspan(entry["mean"] - entry["sd"], entry["mean"] + entry["sd"], color=color, alpha=0.12, lw=0, zorder=0)
    axes.axhline(entry["mean"], color=color, ls=dashes, lw=1.2, zorder=1)
    return True


def log_axis(axes: Axes, values: Sequence[float], names: Sequence[str], room: float = 0.085) -> None:
    """A logarithmic x axis with a tick at each value and labels where they have room.

    room: least distance of two labels as a share of the axis. The first and the last value are always named.
    """
    axes.set_xscale("log")
    low, high = min(values), max(values)
    span = math.log(high / low) or 1.0
    axes.set_xlim(low * math.exp(-0.07 * span), high * math.exp(0.09 * span))
    named: dict[float, str] = {high: names[list(values).index(high)]}
    last = -math.inf
    for value, name in zip(values, names, strict=True):
        at = math.log(value / low) / span
        if value == low or (at - last >= room and 1 - at >= room and value != high):
            named[value], last = name, at
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([named.get(value, "") for value in values])


def log_step(values: Sequence[float], share: float = 0.028) -> float:
    """A small step on a logarithmic axis, so that markers at one value stand side by side and not on neighbours."""
    logs = np.log(sorted(set(values)))
    if len(logs) < 2:
        return 0.02
    return float(min(share * (logs[-1] - logs[0]), 0.24 * np.diff(logs).min()))


def legend(figure: Figure, entries: Sequence[Line2D], columns: int | None = None) -> None:
    """A legend below all panels, in as many columns as the figure's width holds."""
    width = figure.get_size_inches()[0]
    names = [str(entry.get_label()) for entry in entries]
    most = min(columns or len(names), len(names))
    fitting = [n for n in range(most, 1, -1) if _legend_width(names, n) < width]
    figure.legend(handles=entries, loc="outside lower center", ncols=fitting[0] if fitting else 1, columnspacing=1.4)


def _legend_width(names: Sequence[str], columns: int) -> float:
    """About how wide a legend is, in inches; it is filled column by column."""
    longest = [max(map(len, part)) for part in np.array_split(np.array(names, dtype=object), columns)]
    return float(sum(0.56 + 0.065 * n for n in longest))


def width_for(document: Document) -> float:
    """Width of a panel with the study's sizes along x: many of them want room."""
    return 2.6 if len(document["sizes"]) <= 6 else 3.2


def order_entries(document: Document) -> list[Line2D]:
    """Legend entries of the orders that the study has."""
    present = [arm for arm in ORDERS if any(curve["arm"] == arm for curve in document["curves"])]
    return [Line2D([], [], ms=5, label=ARMS[arm], **ORDERS[arm]) for arm in present]


def y_ticks(axes: Axes) -> None:
    """Few ticks and a light grid."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y")
