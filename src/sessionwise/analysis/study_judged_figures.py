"""Figures of a study about what was judged: claims at a glance, controls as paired differences, many random sets.

Each is a function of the study's document; None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sessionwise.analysis import panels
from sessionwise.analysis.figures import BLUE, GREEN, GREY, INK, PALE, RED, SCORE, SKY, label, new_figure
from sessionwise.analysis.pages import number
from sessionwise.analysis.study_words import claim_name, clear, compared, heldout_name, unit_name, with_interval

Document = Mapping[str, Any]

VERDICTS: dict[str, dict[str, Any]] = {
    "supported": {"marker": "o", "ms": 8, "color": GREEN},
    "not supported": {"marker": "X", "ms": 8, "color": RED, "mec": "white", "mew": 0.6},
    "undecided": {"marker": "o", "ms": 7, "mfc": "white", "mec": GREY, "mew": 1.3},
    "not measured": {"marker": "_", "ms": 7, "color": GREY, "mew": 1.3},
}


# Claims ---------------------------------------------------------------------------------------------------------------


def claims(document: Document) -> Figure | None:
    """The verdict on every claim, on average and for each held-out session, and the number behind it."""
    rows = document["claims"]
    if all(entry["verdict"] == "not measured" for claim in rows for entry in (claim, *claim["per_heldout"])):
        return None
    heldouts = list(document["heldout"])
    several = len(heldouts) > 1 or not heldouts
    columns: list[str | None] = [None, *heldouts] if several else heldouts
    head = 1.15 if several else 0.5
    figure, axes = new_figure(4.6 + 0.3 * len(columns), 0.7 + head + 0.27 * len(rows))
    for y, claim in enumerate(rows):
        _claim(axes, claim, y, columns)
    axes.set_xlim(-0.6, len(columns) + 6.2)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_yticks(range(len(rows)), [label(claim_name(claim, document), 32) for claim in rows])
    names = [label(heldout_name(h, document), 20) for h in columns]
    axes.set_xticks(range(len(columns)), names, rotation=55, ha="left", rotation_mode="anchor", fontsize=7.5)
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.hlines(np.arange(len(rows) - 1) + 0.5, -0.6, len(columns) + 6.2, color=PALE, lw=0.6)
    present = {e["verdict"] for claim in rows for e in (claim, *claim["per_heldout"])}
    entries = [Line2D([], [], ls="none", label=name, **look) for name, look in VERDICTS.items() if name in present]
    panels.legend(figure, entries, 4)
    return figure


def _claim(axes: Axes, claim: Document, y: int, columns: Sequence[str | None]) -> None:
    each = {entry["heldout"]: entry["verdict"] for entry in claim["per_heldout"]}
    for x, heldout in enumerate(columns):
        verdict = claim["verdict"] if heldout is None or len(columns) == 1 else each.get(heldout)
        if verdict in VERDICTS:
            axes.plot(x, y, ls="none", clip_on=False, **VERDICTS[verdict])
    value = claim["value"]
    words = f"{with_interval(value, value['unit'])} {unit_name(value['unit'])}" if value else "not measured"
    axes.text(len(columns) - 0.35, y, words, va="center", fontsize=7.5, color=INK if value else GREY)


# Controls -------------------------------------------------------------------------------------------------------------


def controls(document: Document) -> Figure | None:
    """Every control as a paired difference: the average with its interval, each held-out session as a point."""
    lines = _lines(document)
    if not any(row["difference"] for _, rows in lines for row in rows):
        return None
    height = 1.0 + sum(0.36 if rows else 0.3 for _, rows in lines)
    figure, axes = new_figure(6.6, height)
    axes.axvline(0, color=INK, lw=0.9, zorder=1)
    limit = _limit(lines)
    y, ticks, below_title = 0.0, [], False
    for _, rows in lines:
        y += 0.8 if below_title else 1.05
        ticks.append(y)
        below_title = not rows
        if rows:
            _difference(axes, y, rows, limit)
    axes.set_yticks(ticks, [text for text, _ in lines], fontsize=7.5)
    for tick, (_, rows) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if rows else "bold")
    axes.set_ylim(y + 0.7, 0.3)
    axes.set_xlim(-1.08 * limit, 1.08 * limit)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    axes.set_xlabel(f"difference, {SCORE}, test")
    look: dict[str, Any] = {"marker": "D", "ms": 5, "lw": 2.2}
    entries = [Line2D([], [], color=BLUE, label="interval without zero", **look)]
    entries += [Line2D([], [], color=GREY, mfc="white", label="interval with zero", **look)]
    if len(document["heldout"]) > 1:
        entries += [Line2D([], [], ls="none", marker="o", ms=3.4, mfc="white", mec=GREY, label="one held-out session")]
    panels.legend(figure, entries, 3)
    return figure


def _lines(document: Document) -> list[tuple[str, list[Document]]]:
    """(title of a control, []) and (what is compared, its rows) from top to bottom."""
    lines: list[tuple[str, list[Document]]] = []
    for control in document["controls"]:
        groups: dict[tuple[Any, ...], list[Document]] = {}
        for row in control["rows"]:
            groups.setdefault((row["arm"], row["variant"], row["size"], row["against"]), []).append(row)
        if groups:
            lines.append((label(control["title"], 44), []))
        lines += [(_comparison(rows[0], document), rows) for rows in groups.values()]
    return lines


def _comparison(row: Document, document: Document) -> str:
    own, against = label(compared(row, document), 52), label(f"− {row['against']}", 52)
    return f"{own} {against}" if len(own) + len(against) < 44 else f"{own}\n{against}"


def _average(rows: Sequence[Document]) -> Document:
    """The row that is drawn with its interval: the average, or the only held-out session."""
    own = [row for row in rows if row["heldout"] is not None]
    average = next((row for row in rows if row["heldout"] is None), None)
    return own[0] if len(own) == 1 or average is None else average


def _reach(row: Document) -> float:
    found = row["difference"] or {}
    return max((abs(found[name]) for name in ("mean", "low", "high") if found.get(name) is not None), default=0.0)


def _limit(lines: Sequence[tuple[str, Sequence[Document]]]) -> float:
    """Half the width of the x axis: a control far from all others does not flatten them."""
    reaches = sorted(_reach(_average(rows)) for _, rows in lines if rows)
    middle = reaches[len(reaches) // 2]
    near = [reach for reach in reaches if reach <= 4 * middle]
    return max(near, default=0.0) or 1.0


def _difference(axes: Axes, y: float, rows: Sequence[Document], limit: float) -> None:
    average = _average(rows)
    if average["heldout"] is None:
        each = [row["difference"]["mean"] for row in rows if row["heldout"] is not None and row["difference"]]
        inside = [value for value in each if abs(value) <= 1.08 * limit]
        axes.plot(inside, [y + 0.34] * len(inside), "o", ms=3.4, mfc="white", mec=GREY, mew=0.8, zorder=2)
    found = average["difference"]
    if not found:
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
        axes.text(0.01, y, "not measured", color=RED, **place)
        return
    judged = clear(found)
    color = BLUE if judged else GREY
    if _reach(average) > 1.08 * limit:
        side = 1 if found["mean"] > 0 else -1
        axes.plot(side * limit * 1.04, y, ">" if side > 0 else "<", ms=5, color=color, zorder=4)
        text: dict[str, Any] = {"va": "center", "ha": "right" if side > 0 else "left", "fontsize": 7.5}
        axes.text(side * limit * 0.99, y, with_interval(found), color=color, **text)
        return
    if found["low"] is not None and found["high"] is not None:
        axes.plot([found["low"], found["high"]], [y, y], color=color, lw=2.2, solid_capstyle="butt", zorder=3)
    axes.plot(found["mean"], y, "D", ms=5, color=color, mfc=color if judged else "white", zorder=4)


# Many random sets -----------------------------------------------------------------------------------------------------


def many_shuffles(document: Document) -> Figure | None:
    """How many random sets reach which score, and where the ranked set of the same size stands."""
    rows = [row for row in document["many_shuffles"] if row["others"]]
    if not rows:
        return None
    several = len({row["size"] for row in rows}) > 1
    if len(document["heldout"]) < 2:
        rows = [row for row in rows if row["heldout"] is not None]
    figure, axes_of = panels.grid_of_panels(len(rows), height=2.0)
    for axes, row in zip(axes_of, rows, strict=True):
        _histogram(axes, row)
        name = heldout_name(row["heldout"], document)
        panels.title(axes, f"{label(name, 18)}, {row['size']}" if several else name, bold=row["heldout"] is None)
    panels.outer_labels(axes_of, f"{SCORE}, test", "random sets")
    entries = [
        Line2D([], [], color=SKY, lw=7, label="random sets"),
        Line2D([], [], color=BLUE, marker="|", ls="none", ms=6, label="single set"),
        Line2D([], [], color=GREEN, lw=1.8, label="ranked set, mean"),
        Line2D([], [], color=GREEN, marker="s", ls="none", ms=3.4, mfc="white", label="its single runs"),
    ]
    panels.legend(figure, entries)
    return figure


def _histogram(axes: Axes, row: Document) -> None:
    others = np.array(row["others"], dtype=float)
    bins = max(5, min(20, int(2 * np.sqrt(len(others)))))
    counts, edges = np.histogram(others, bins=bins)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=SKY, ec="white", lw=0.6, zorder=2)
    top = max(int(counts.max()), 1)
    axes.plot(others, np.full(len(others), -0.06 * top), "|", color=BLUE, ms=5, mew=0.8, zorder=3)
    if row["value"] is not None:
        axes.axvline(row["value"], color=GREEN, lw=1.8, zorder=4)
        axes.plot(row["values"], [top * 1.12] * len(row["values"]), "s", ms=3.4, mfc="white", mec=GREEN, zorder=5)
    if row["p"] is not None:
        words = f"p = {number(row['p'], 3)}"
        axes.text(0.02, 0.97, words, transform=axes.transAxes, va="top", fontsize=7.5)
    axes.set_ylim(-0.14 * top, 1.42 * top)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
