"""The compute-fidelity figure: how well each ranker agrees with the full procedure, against its cost.

One panel a measure, one point a ranker with its 95 % interval, its name beside it. Rankers that train nothing have no
place on a logarithmic axis: they stand at its left in an order without meaning. Rankers of the same cost stand side by
side, so that no interval hides another. The looks are those of ``figures``.

Legend: N labels, M things that a label must not cover. Boxes are (x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from sessionwise.analysis.fidelity import measures
from sessionwise.analysis.figures import BLUE, GREEN, GREY, INK, ORANGE, PALE, SCORE, label, style
from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Value = Mapping[str, Any]

COST = "cost / cost of the full procedure"
NO_TRAINING = "no training"
_SLOT, _MARGIN, _LEAST_TRAINED, _WIDTH, _HEIGHT = 0.5, 0.25, 4.2, 7.6, 2.35  # inches
_APART = 0.09  # least distance of two points along x, inches
_LONGEST_NAME, _NAME_SIZE = 22, 7.2
_MARKER = 5.2  # points
_LINES: dict[str, dict[str, Any]] = {
    "noise ceiling": {"color": INK, "ls": "--", "lw": 1.2},
    "target-agnostic": {"color": GREEN, "ls": (0, (1.2, 1.2)), "lw": 1.6},
    "random order": {"color": ORANGE, "ls": "-.", "lw": 1.2},
}


def fidelity_figure(
    summary: Sequence[Row],
    *,
    ceiling: Row | None = None,
    random: Row | None = None,
    target_agnostic: Row | None = None,
    final_regret: Mapping[str, Value | float] | None = None,
    k: int = 3,
) -> Figure | None:
    """Spearman's rho, top-k overlap, regret@1 and, where known, final regret against cost; None without any point.

    Parameters
    ----------
    summary: the result of ``fidelity.summarise``. A ranker of unknown cost is named below the panels, not drawn.
    ceiling, random, target_agnostic: levels to compare with, ``{measure: number or {"mean", "low", "high"}}`` with
        the keys of ``fidelity``; None, or a measure that they do not have, is no line. The interval of ``random`` is
        drawn as a band.
    final_regret: ``{method: number or {"mean", "low", "high"}}`` where ``summary`` does not have it.
    k: which overlap is drawn.

    Raises DataError where two rows have the same method.
    """
    names = [row["method"] for row in summary]
    if len(set(names)) < len(names):
        raise DataError("fidelity_figure", "a method in two rows", "one row a method", "Draw one comparison at a time")
    known = [{**row, **_final(row, final_regret or {})} for row in summary]
    drawn = [row for row in known if row["cost_share"] is not None]
    panels = [name for name in _wanted(known, k) if any(_value(row, name) for row in drawn)]
    if not panels:
        return None
    lines = {"noise ceiling": ceiling, "target-agnostic": target_agnostic, "random order": random}
    with style():
        return _Drawing(panels, drawn, {name: line for name, line in lines.items() if line}).finished(
            [row["method"] for row in known if row["cost_share"] is None]
        )


def _final(row: Row, final_regret: Mapping[str, Value | float]) -> dict[str, Any]:
    return {"final_regret": final_regret[row["method"]]} if row["method"] in final_regret else {}


def _wanted(rows: Sequence[Row], k: int) -> list[str]:
    return [name for name in measures(rows) if name in ("spearman", f"top{k}", "regret1", "final_regret")]


def _value(row: Row, measure: str) -> Value | None:
    """A measure with its interval; None where it is not known."""
    value = row.get(measure)
    if not isinstance(value, Mapping):
        value = {"mean": value}
    return value if value.get("mean") is not None else None


def _y_label(measure: str) -> str:
    if measure == "spearman":
        return "Spearman's ρ\nwith the reference"
    if measure == "regret1":
        return f"regret@1,\n{SCORE}"
    return f"final regret,\n{SCORE}" if measure == "final_regret" else f"top-{measure[3:]} overlap,\nsessions"


class _Drawing:
    """The figure while it is made: a row of axes a panel, without training on the left, trained on the right."""

    def __init__(self, panels: Sequence[str], rows: Sequence[Row], lines: Mapping[str, Row]) -> None:
        self.panels, self.lines = panels, lines
        self.free = [row for row in rows if row["cost_share"] == 0]
        self.trained = [row for row in rows if row["cost_share"] > 0]
        inches = [_SLOT * len(self.free) + _MARGIN] if self.free else []
        if self.trained:
            inches.append(max(_LEAST_TRAINED, _WIDTH - 0.8 - sum(inches)))
        self.figure = Figure(figsize=(sum(inches) + 0.8, _HEIGHT * len(panels) + 0.75), layout="constrained")
        self.axes = self.figure.subplots(
            len(panels), len(inches), sharex="col", sharey="row", squeeze=False, width_ratios=inches
        )
        self.place = {row["method"]: float(i) for i, row in enumerate(self.free)}
        self.crowded = False
        if self.trained:
            self._costs(inches[-1])

    def finished(self, without_cost: Sequence[str]) -> Figure:
        """Everything drawn, names last: they go where the layout left room."""
        for measure, axes in zip(self.panels, self.axes, strict=True):
            self._panel(measure, axes)
        self._x_axes(without_cost)
        self._legend()
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        renderer = FigureCanvasAgg(self.figure).get_renderer()
        for measure, axes in zip(self.panels, self.axes, strict=True):
            self._name_points(measure, axes, renderer)
        return self.figure

    def _costs(self, inches: float) -> None:
        """Where each trained ranker stands, and the limits of the axis of cost."""
        shares = np.log10([row["cost_share"] for row in self.trained])
        moved = shares
        # Moved points widen the axis, and a wider axis moves them further: settled after a few rounds.
        for _ in range(5):
            low, high = float(moved.min()), max(0.0, float(moved.max()))
            margin = 0.12 * max(high - low, 0.5)
            moved = spread(shares, _APART * (high - low + 2 * margin) / inches)
        low, high = float(moved.min()), max(0.0, float(moved.max()))
        self.limits = 10 ** (low - margin), 10 ** (high + margin)
        self.crowded = bool(np.abs(moved - shares).max() > 1e-9)
        self.place.update({row["method"]: float(10.0**x) for row, x in zip(self.trained, moved, strict=True)})

    def _panel(self, measure: str, axes: Sequence[Axes]) -> None:
        for part in axes:
            for name, line in self.lines.items():
                _level(part, _value(line, measure), name)
            part.grid(axis="y")
            if measure == "final_regret":
                part.axhline(0, color=GREY, lw=0.9, zorder=0.5)
            part.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        for row in self.free + self.trained:
            part, value = axes[0 if row in self.free else -1], _value(row, measure)
            if value is not None:
                self._point(part, self.place[row["method"]], value, filled=row not in self.free)
        axes[0].margins(y=0.12)
        axes[0].set_ylabel(_y_label(measure))
        if len(axes) > 1:
            axes[1].tick_params(axis="y", length=0)
            axes[1].spines["left"].set(color=PALE, linewidth=0.9)

    def _point(self, axes: Axes, x: float, value: Value, *, filled: bool) -> None:
        if value.get("low") is not None and value.get("high") is not None:
            axes.plot([x, x], [value["low"], value["high"]], color=BLUE, lw=1.0, solid_capstyle="butt", zorder=2)
        face = BLUE if filled else "white"
        axes.plot(x, value["mean"], "o", ms=_MARKER, mfc=face, mec=BLUE, mew=1.1, zorder=3)

    def _x_axes(self, without_cost: Sequence[str]) -> None:
        if self.free:
            axes = self.axes[-1][0]
            axes.set_xlim(-0.75, len(self.free) - 0.25)
            axes.xaxis.set_major_locator(FixedLocator([(len(self.free) - 1) / 2]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda _x, _i: NO_TRAINING))
            for part in self.axes[:, 0]:
                part.tick_params(axis="x", length=0)
        notes = [f"of unknown cost, not drawn: {', '.join(label(n, _LONGEST_NAME) for n in without_cost)}"]
        notes = notes if without_cost else []
        if not self.trained:
            self.axes[-1][0].set_xlabel("\n".join(notes))
            return
        axes = self.axes[-1][-1]
        axes.set_xscale("log")
        axes.set_xlim(*self.limits)
        wide = self.limits[1] / self.limits[0] > 30
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _i: f"{x:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=20) if wide else NullLocator())
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda _x, _i: ""))
        notes = (["rankers of nearly the same cost stand side by side"] if self.crowded else []) + notes
        axes.set_xlabel("\n".join([COST, *notes]))

    def _legend(self) -> None:
        entries: list[Line2D | Patch] = []
        for name, line in self.lines.items():
            known = [value for value in (_value(line, measure) for measure in self.panels) if value]
            if known:
                entries.append(Line2D([], [], label=name, **_LINES[name]))
            if name == "random order" and any(value.get("low") is not None for value in known):
                entries.append(Patch(color=PALE, lw=0, label="its 95 % band"))
        if entries:
            self.figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))

    def _name_points(self, measure: str, axes: Sequence[Axes], renderer: RendererBase) -> None:
        """Write every point's name beside it, where it covers nothing; a thin line where it had to go further."""
        boxes = [part.get_window_extent() for part in axes]
        points, frames = [], []
        for row in self.free + self.trained:
            value = _value(row, measure)
            if value is not None:
                at = 0 if row in self.free else -1
                points.append(_Point.of(axes[at], row["method"], self.place[row["method"]], value, renderer))
                # A name that reached into the neighbour would lie under its background.
                frames.append([boxes[at].x0 + 2, boxes[at].y0 + 2, boxes[at].x1 - 1, boxes[at].y1])
        levels = [v["mean"] for v in (_value(line, measure) for line in self.lines.values()) if v]
        heights = np.array([axes[0].transData.transform((0, level))[1] for level in levels])
        across = [[boxes[0].x0, y - 1, boxes[-1].x1, y + 1] for y in heights]
        between = [[a.x1, a.y0, b.x0, a.y1] for a, b in pairwise(boxes)]
        lines = np.array([*across, *between]).reshape(-1, 4)
        for point, box in zip(points, place_labels(points, np.array(frames).reshape(-1, 4), lines), strict=True):
            point.write(box, self.figure.dpi)


def _level(axes: Axes, value: Value | None, name: str) -> None:
    if value is None:
        return
    if name == "random order" and value.get("low") is not None and value.get("high") is not None:
        axes.axhspan(value["low"], value["high"], color=PALE, alpha=0.55, lw=0, zorder=0)
    axes.axhline(value["mean"], zorder=1, **_LINES[name])


def spread(x: Floats, apart: float) -> Floats:
    """Places (n,) moved as little as needed until neighbours are ``apart``; equal ones stay in the order given."""
    order = np.argsort(x, kind="stable")
    groups: list[list[float]] = []  # [sum of wished places of the first member, members]
    for value in x[order]:
        groups.append([float(value), 1.0])
        while len(groups) > 1:
            (first, m), (second, n) = groups[-2:]
            if second / n - first / m >= ((m + n) / 2 - 1e-9) * apart:
                break
            groups[-2:] = [[first + second, m + n]]
    moved = np.empty(len(x))
    i = 0
    for total, m in groups:
        n = round(m)
        moved[order[i : i + n]] = total / m + (np.arange(n) - (n - 1) / 2) * apart
        i += n
    return moved


# Names beside points --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Point:
    """A point with its name: where it is, its bar, and the size of the name, in pixels."""

    axes: Axes
    text: Annotation
    at: Floats
    bar: Floats
    size: tuple[float, float]

    @classmethod
    def of(cls, axes: Axes, method: str, x: float, value: Value, renderer: RendererBase) -> _Point:
        halo = [patheffects.withStroke(linewidth=1.8, foreground="white")]
        text = axes.annotate(
            label(method, _LONGEST_NAME),
            (x, value["mean"]),
            (0, 0),
            textcoords="offset points",
            fontsize=_NAME_SIZE,
            ha="center",
            va="center",
            annotation_clip=False,
            zorder=5,
            path_effects=halo,
        )
        extent = text.get_window_extent(renderer)
        low, high = (v if v is not None else value["mean"] for v in (value.get("low"), value.get("high")))
        ends = axes.transData.transform([(x, low), (x, high), (x, value["mean"])])
        bar = np.array([ends[0, 0] - 1, ends[0, 1], ends[1, 0] + 1, ends[1, 1]])
        return cls(axes, text, ends[2], bar, (extent.width, extent.height))

    def write(self, box: Floats, dpi: float) -> None:
        """Move the name into a box; with a line to its point unless they touch."""
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        self.text.set_position(tuple((middle - self.at) * 72 / dpi))
        end = nearest(box, self.at)
        if np.hypot(*(end - self.at)) > _RADIUS + 5:
            look = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": _MARKER / 2 + 0.4}
            self.axes.annotate(
                "",
                self.text.xy,
                tuple((end - self.at) * 72 / dpi),
                textcoords="offset points",
                annotation_clip=False,
                arrowprops=look,
                zorder=1.5,
            )


_RADIUS = 4.6  # of a marker with its edge, pixels
_GAP = 4.0  # between two names, pixels
_ANGLES = np.radians([0, 180, 35, 145, -35, -145, 90, -90, 62, 118, -62, -118, 15, 165, -15, -165])
_REACHES = (2.0, 6.0, 11.0, 17.0, 24.0, 32.0, 42.0, 54.0, 70.0, 90.0)


def place_labels(points: Sequence[_Point], frames: Floats, lines: Floats) -> list[Floats]:
    """A box for each of N names, in its frame (N, 4), that covers no other name or marker, and few bars and lines.

    Every name takes the best of its places given where the others are, again and again until none moves: crowded
    ones first, so that those with room make way. The same points give the same boxes.
    """
    if not points:
        return []
    at = np.array([point.at for point in points])
    markers = np.column_stack([at - _RADIUS, at + _RADIUS])
    bars = np.array([point.bar for point in points])
    candidates = [_candidates(*pair) for pair in zip(points, frames, strict=True)]
    fixed = [_fixed_cost(i, candidates[i], at[i], markers, bars, lines) for i in range(len(points))]
    crowd = np.hypot(*(at[:, None] - at[None, :]).transpose(2, 0, 1) / np.array([4.0, 1.0])[:, None, None]).sum(axis=1)
    chosen: dict[int, int] = {}
    for _ in range(30):
        before = dict(chosen)
        for i in np.argsort(crowd, kind="stable"):
            others = [j for j in chosen if j != i]
            boxes = np.array([candidates[j][chosen[j]] for j in others]).reshape(-1, 4)
            cost = fixed[i] + 60 * _touches(candidates[i], boxes, _GAP).sum(axis=1)
            starts = np.array([at[j] for j in others]).reshape(-1, 2)
            ends = nearest(boxes, starts)
            mine = nearest(candidates[i], at[i])
            cost = cost + 12 * _crossings(at[i], mine, starts, ends) + 12 * _through(at[i], mine, boxes)
            cost = cost + 12 * _covered(candidates[i], starts, ends)
            chosen[int(i)] = int(np.argmin(cost))
        if chosen == before:
            break
    return [candidates[i][chosen[i]] for i in range(len(points))]


def nearest(boxes: Floats, points: Floats) -> Floats:
    """The places (..., 2) in boxes (..., 4) that are nearest to points (..., 2)."""
    return np.clip(points, boxes[..., :2], boxes[..., 2:])


def _candidates(point: _Point, frame: Floats) -> Floats:
    """Boxes around a point, near ones first, each moved into the frame."""
    half = np.array(point.size) / 2
    directions = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    reach = _RADIUS + np.repeat(np.array(_REACHES), len(_ANGLES))[:, None]
    middle = point.at + np.tile(directions, (len(_REACHES), 1)) * (reach + half)
    middle = np.clip(middle, frame[:2] + half, frame[2:] - half)
    return np.column_stack([middle - half, middle + half])


def _fixed_cost(i: int, boxes: Floats, at: Floats, markers: Floats, bars: Floats, lines: Floats) -> Floats:
    """What a place costs whatever the other names do: distance, and what it covers."""
    ends = nearest(boxes, at)
    distance = np.hypot(*(ends - at).T) - _RADIUS
    others = np.delete(markers, i, axis=0)
    cost = 0.3 * np.maximum(distance, 0) + 60 * _touches(boxes, markers, 0.5).sum(axis=1)
    cost += 10 * _touches(boxes, bars, 1.0).sum(axis=1) + 3.5 * _touches(boxes, lines, 0.0).sum(axis=1)
    cost += 20 * _through(at, ends, others)
    # A line along the point's own bar is not seen.
    cost += 6 * ((np.abs(ends - at)[:, 0] < 3) & (distance > 8))
    return np.asarray(cost + 0.01 * np.arange(len(boxes)), dtype=np.float64)


def _touches(boxes: Floats, others: Floats, gap: float) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) come closer than ``gap`` to others (M, 4), as (N, M)."""
    a, b = boxes[:, None], others[None, :]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.asarray((high - low > -gap).all(axis=-1), dtype=np.bool_)


def _through(start: Floats, ends: Floats, boxes: Floats) -> Floats:
    """Through how many boxes (M, 4) the line from a point to each end (N, 2) goes."""
    steps = np.linspace(0.0, 1.0, 25)[None, :, None]
    dots = start + (ends[:, None] - start) * steps
    inside = (dots[:, :, None] >= boxes[None, None, :, :2]) & (dots[:, :, None] <= boxes[None, None, :, 2:])
    return np.asarray(np.any(inside.all(axis=-1), axis=1).sum(axis=1), dtype=np.float64)


def _covered(boxes: Floats, starts: Floats, ends: Floats) -> Floats:
    """On how many lines (M, 2) to (M, 2) each of the boxes (N, 4) lies."""
    dots = starts[:, None] + (ends - starts)[:, None] * np.linspace(0.0, 1.0, 25)[None, :, None]
    inside = (dots[None] >= boxes[:, None, None, :2]) & (dots[None] <= boxes[:, None, None, 2:])
    return np.asarray(np.any(inside.all(axis=-1), axis=2).sum(axis=1), dtype=np.float64)


def _crossings(start: Floats, ends: Floats, starts: Floats, others: Floats) -> Floats:
    """How many lines (M, 2) to (M, 2) the line from a point to each end (N, 2) crosses."""

    def side(a: Floats, b: Floats, c: Floats) -> Floats:
        u, v = b - a, c - a
        return np.asarray(np.sign(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]), dtype=np.float64)

    p, q, r, s = start[None, None, :], ends[:, None], starts[None, :], others[None, :]
    crossed = (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)
    return np.asarray(crossed.sum(axis=1), dtype=np.float64)
