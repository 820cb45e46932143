"""Figures of a study about the sessions of its pool: their scores, overlap, metadata, transfer, training.

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
from sessionwise.analysis.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    RED,
    SCORE,
    SKY,
    curve_look,
    gaps,
    label,
    low_end,
    nice_margins,
    overlap_curve,
    some,
)
from sessionwise.analysis.pages import number

Document = Mapping[str, Any]

PINK = "#CC79A7"
# More predictors than these: the table has them all.
MOST_PREDICTORS = 9
# From here on lines are drawn as pixels inside the vector figure, which would grow to many megabytes.
MOST_VECTOR_LINES = 80
_MOST_NAMES, _MOST_VALUES = 30, 12


# Fig. A1: single sessions ---------------------------------------------------------------------------------------------


def single_scores(document: Document) -> Figure | None:
    """Sorted single-session scores on validation trials with the baseline, for each held-out session."""
    x, y = "rank of the session", f"{SCORE}, validation"
    figure = panels.small_multiples(document, _single_panel, x, y, average=False)
    if figure is None:
        return None
    entries = [
        Line2D([], [], ls="none", marker="s", color=GREEN, ms=4.6, label=f"top {document['top']}"),
        Line2D([], [], ls="none", marker="o", color=BLUE, ms=4.6, label="other sessions"),
        Line2D([], [], ls="none", marker="o", ms=3.2, mfc="white", mec=GREY, label="single run"),
        Line2D([], [], color=SKY, lw=2.4, label="80 % interval"),
        Line2D([], [], label="baseline", **panels.BASELINE),
    ]
    if any((entry.get("random_core") or {}).get("mean") is not None for entry in document["single_scores"]):
        entries.append(Line2D([], [], color=ORANGE, ls="-.", lw=1.2, label="random frozen core"))
    panels.legend(figure, entries)
    return figure


def _single_panel(axes: Axes, document: Document, heldout: str | None) -> bool:
    entry = next((e for e in document["single_scores"] if e["heldout"] == heldout), None)
    if entry is None:
        return False
    done = [row for row in entry["rows"] if row["score"] is not None]
    done.sort(key=lambda row: -row["score"])
    small = 1.0 if len(done) <= 25 else 0.6
    for rank, row in enumerate(done, start=1):
        _session(axes, rank, row, rank <= document["top"], small)
    if done:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(0, len(done) + 1)
        panels.y_ticks(axes)
        panels.level(axes, entry["baseline"], INK, "--")
        if entry.get("random_core"):
            panels.level(axes, entry["random_core"], ORANGE, "-.")
    if missing := len(entry["rows"]) - len(done):
        words = f"{missing} without a score"
        axes.text(0.98, 0.96, words, transform=axes.transAxes, ha="right", va="top", color=RED, fontsize=7.5)
    return bool(done)


def _session(axes: Axes, rank: int, row: Document, is_top: bool, small: float) -> None:
    color = GREEN if is_top else BLUE
    if row.get("low80") is not None:
        ends = [row["low80"], row["high80"]]
        axes.plot([rank, rank], ends, color=SKY, lw=2.4 * small, solid_capstyle="butt", zorder=2)
    each = [value for value in row.get("seed_scores") or () if value is not None]
    if len(each) > 1:
        panels.runs(axes, rank + 0.35, each, color, "s" if is_top else "o")
    axes.plot(rank, row["score"], "s" if is_top else "o", ms=4.6 * small, color=color, zorder=4)


# Fig. A2 --------------------------------------------------------------------------------------------------------------


def overlap(document: Document) -> Figure | None:
    """Sessions in the top k of every held-out session, with both bands."""
    known = document["overlap"]
    return overlap_curve(known, len(known["heldout"])) if known else None


# Metadata -------------------------------------------------------------------------------------------------------------


def metadata(document: Document) -> Figure | None:
    """Score, less the mean of its held-out session, against each predictor."""
    known = document["metadata"] or {}
    columns = _strongest(known)
    points = [point for point in document["metadata_points"] if point["score"] is not None]
    if not columns or len(points) < 2:
        return None
    means = {h: np.mean([p["score"] for p in points if p["heldout"] == h]) for h in {p["heldout"] for p in points}}
    figure, axes_of = panels.grid_of_panels(len(columns), height=2.4)
    for axes, name in zip(axes_of, columns, strict=True):
        for i, heldout in enumerate(document["heldout"]):
            mine = [point for point in points if point["heldout"] == heldout and point.get(name) is not None]
            dense: dict[str, Any] = {"ms": 4.4 if len(mine) <= 30 else 3, "mew": 0.5, "mec": "white"}
            look = {"ls": "none", "marker": MARKERS[i % 6], "color": _COLORS[i % 7], "alpha": 0.85, **dense}
            axes.plot([p[name] for p in mine], [p["score"] - means[heldout] for p in mine], **look)
        axes.axhline(0, color=GREY, lw=0.7, zorder=1)
        panels.title(axes, _rho(known, name))
        nice_margins(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        panels.y_ticks(axes)
        axes.set_xlabel(label(name.removeprefix("n_").replace("_", " "), 34))
    for axes in axes_of[:: axes_of[0].get_subplotspec().get_gridspec().ncols]:  # type: ignore[union-attr]
        axes.set_ylabel("score − mean")
    entries = []
    for i, heldout in enumerate(document["heldout"]):
        look = {"ls": "none", "marker": MARKERS[i % 6], "color": _COLORS[i % 7], "ms": 4.6}
        entries.append(Line2D([], [], label=label(heldout, 20), **look))
    panels.legend(figure, entries, max(1, int(figure.get_size_inches()[0] / 1.9)))
    return figure


_COLORS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, INK)


def _strongest(known: Document) -> list[str]:
    """The predictors, the strongest correlations first when not all have room."""
    columns = list(known.get("columns") or ())
    if len(columns) <= MOST_PREDICTORS:
        return columns
    strength = {row["name"]: abs(row["rho"] or 0.0) for row in known["screen"] if row["heldout"] is None}
    return sorted(columns, key=lambda name: (-strength.get(name, 0.0), name))[:MOST_PREDICTORS]


def _rho(known: Document, name: str) -> str:
    rows = [row for row in known["screen"] if row["name"] == name]
    averages = [row for row in rows if row["heldout"] is None]
    row = (averages or rows or [None])[0]
    return "" if row is None or row["rho"] is None else f"ρ = {number(row['rho'], 2)}"


# All to all -----------------------------------------------------------------------------------------------------------


def transfer(document: Document) -> Figure | None:
    """Transfer score from every session to every other one."""
    known = document["transfer"]
    if not known or not any(some(row) for row in known["matrix"]):
        return None
    matrix = np.array([gaps(row) for row in known["matrix"]])
    n_sources, n_targets = matrix.shape
    cell = 0.36 if max(matrix.shape) <= _MOST_VALUES else 0.2 if max(matrix.shape) <= _MOST_NAMES else 0.075
    names_width = 1.5 if max(matrix.shape) <= _MOST_NAMES else 0.5
    size = (max(3.4, names_width + 1.1 + cell * n_targets), max(2.6, names_width + 0.4 + cell * n_sources))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#eceff2")
    image = axes.imshow(matrix, cmap="cividis", aspect="auto", interpolation="nearest")
    _names(axes, known["sources"], known["targets"])
    if max(matrix.shape) <= _MOST_VALUES:
        _values(axes, matrix)
    axes.set_xlabel("held-out session (target)")
    axes.set_ylabel("pretrained on (source)")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label(f"{SCORE}, validation")
    bar.outline.set_visible(False)
    return figure


def _names(axes: Axes, sources: Sequence[str], targets: Sequence[str]) -> None:
    if max(len(sources), len(targets)) > _MOST_NAMES:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        return
    axes.set_xticks(range(len(targets)), [label(target, 16) for target in targets], rotation=90, fontsize=7)
    axes.set_yticks(range(len(sources)), [label(source, 16) for source in sources], fontsize=7)
    axes.tick_params(length=0)


def _values(axes: Axes, matrix: np.ndarray) -> None:
    middle = (np.nanmin(matrix) + np.nanmax(matrix)) / 2
    for (i, j), value in np.ndenumerate(matrix):
        text = "–" if np.isnan(value) else number(float(value), 2).removeprefix("0")
        ink = GREY if np.isnan(value) else "white" if value < middle else INK
        axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)


# Training -------------------------------------------------------------------------------------------------------------


def curves(document: Document) -> Figure | None:
    """Validation score during training: pretraining on the own session; finetuning and baseline, per held-out one."""
    known = [curve for curve in document["training_curves"] if some(curve["bps"])]
    parts: list[tuple[str, list[Document], str | None]] = []
    if own := [curve for curve in known if curve["kind"] == "pretrain"]:
        parts.append(("pretraining, own session", own, None))
    for heldout in document["heldout"]:
        mine = [curve for curve in known if curve["kind"] != "pretrain" and curve["heldout"] == heldout]
        if mine:
            parts.append((heldout, mine, next(iter(document["answer"]["ranked_top"].get(heldout, ())), None)))
    if not parts:
        return None
    figure, axes_of = panels.grid_of_panels(len(parts))
    looks: dict[int, dict[str, Any]] = {}
    for axes, (name, some_curves, best) in zip(axes_of, parts, strict=True):
        looks |= _curve_panel(axes, some_curves, best)
        panels.title(axes, name)
    panels.outer_labels(axes_of, "optimiser step", f"{SCORE}, validation")
    names = {5: "top session", 2: "other sessions", 4: "baseline", 3: "random frozen core"}
    panels.legend(figure, [Line2D([], [], label=names[order], **looks[order]) for order in names if order in looks])
    return figure


def _curve_panel(axes: Axes, known: Sequence[Document], best: str | None) -> dict[int, dict[str, Any]]:
    """Draw the curves; the looks that were used by their z-order."""
    top = {"session": best} if best is not None else None
    looks: dict[int, dict[str, Any]] = {}
    for curve in sorted(known, key=lambda c: curve_look(c, top)["zorder"]):
        look = curve_look(curve, top)
        looks[look["zorder"]] = look
        axes.plot(curve["step"], gaps(curve["bps"]), rasterized=len(known) > MOST_VECTOR_LINES, **look)
    axes.set_ylim(bottom=low_end([curve["bps"] for curve in known]))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels.y_ticks(axes)
    return looks
