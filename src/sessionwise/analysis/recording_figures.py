"""One picture of a recording: raster, rates by condition, units, areas, drift, and the split of its trials.

Everything is drawn from training and validation trials: counts of test trials are sealed, also for the eye, so the
picture is the same whatever they hold. Of a test trial only its place is drawn. The looks are those of ``figures``.

Legend: K trials, T bins, N units; S trials seen (training and validation), P points
of time.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sessionwise.analysis.figures import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED, SKY, label, render, style
from sessionwise.data.recording import WITHOUT_TRIALS
from sessionwise.data.session import Session
from sessionwise.data.splits import ALIGN_TIME_COLUMNS, PARTS, RECORDED_COLUMN, Split, overlap_share
from sessionwise.io.files import write_bytes

SIZE = (11.0, 8.0)
_LEFT, _RIGHT = 0.085, 0.978
_TITLE = 9.0
_GAP = 0.04  # beside each trial of the raster, where a trial is 1
_PART_COLORS = {"train": BLUE, "validation": ORANGE, "test": GREY, "purged": RED}
# More units or bins in the raster would be thinner than what a screen shows.
_MOST_ROWS, _MOST_COLUMNS, _MOST_POINTS = 400, 900, 150
_MOST_CONDITIONS, _MOST_AREAS, _MOST_AREA_LINES = 6, 12, 4
_MOST_VALUES, _FEWEST_TRIALS = 12, 3  # of a condition, and of each of its values that is drawn
_BEHIND: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none", "borderpad": 0.2}
_COUNTS = LinearSegmentedColormap.from_list("counts", ["#ffffff", "#9ecae8", BLUE, "#0b2545"])
_UNORDERED = (BLUE, ORANGE, GREEN, "#CC79A7", SKY, INK)  # red is the line at time 0
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
# What was shown comes first; then what the animal did, then what came of it.
_CONDITIONS = (
    ("contrast", "coherence", "stim", "orient", "direction", "angle", "target", "condition", "cue", "image", "odor"),
    ("choice", "response", "decision"),
    ("reward", "feedback", "outcome", "correct", "hit", "probability", "block"),
)
_NO_CONDITIONS = ("time", "_id", "index", "number", "start", "stop", "duration", "interval", "latency", "file")


def draw_session(session: Session, split: Split) -> Figure:
    """The picture of a session, 11 x 8 inches; what its test trials hold has no say in it."""
    seen = _Seen(session, split)
    with style():
        figure = Figure(figsize=SIZE)
        above = GridSpec(2, 2, figure, left=_LEFT, right=_RIGHT, top=0.865, bottom=0.385, width_ratios=(1.42, 1))
        above.update(hspace=0.5, wspace=0.12)
        below = GridSpec(2, 1, figure, left=_LEFT, right=_RIGHT, top=0.29, bottom=0.105, hspace=0.12)
        _heading(figure, session)
        _raster(figure.add_subplot(above[:, 0]), seen)
        _psth(figure.add_subplot(above[0, 1]), seen)
        if session.areas:
            beside = above[1, 1].subgridspec(1, 2, wspace=0.52)
            _rates(figure.add_subplot(beside[0]), seen)
            _areas(figure.add_subplot(beside[1]), session.areas)
        else:
            _rates(figure.add_subplot(above[1, 1]), seen)
        course = figure.add_subplot(below[0])
        _course(course, seen)
        _parts(figure.add_subplot(below[1], sharex=course), seen)
        text = textwrap.fill(caption(session, split), 175)
        figure.text(0.012, 0.01, text, fontsize=8, color=GREY, va="bottom", linespacing=1.3)
    return figure


def picture(session: Session, split: Split) -> bytes:
    """The picture as PNG: the same bytes for the same session and split."""
    return render(draw_session(session, split), "png")


def write_session_picture(session: Session, split: Split, path: Path | str) -> Path:
    """Write the picture as PNG; returns its path."""
    write_bytes(Path(path), picture(session, split))
    return Path(path)


def caption(session: Session, split: Split) -> str:
    """What one has to know to read the picture: plain text, without a word from the recording."""
    text = f"Drawn from training and validation trials. Test trials ({len(split.test)}) are sealed: "
    text += "of them only the place is shown. Rates are spikes a second and unit."
    return text if session.areas else f"{text} There are no areas in the file."


# What is drawn --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Seen:
    """Sums over the training and validation trials of a session."""

    session: Session
    split: Split

    @cached_property
    def trials(self) -> np.ndarray:
        """(S,) positions of the training and validation trials, ascending."""
        return np.sort(np.concatenate([self.split.train, self.split.validation]))

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(T, N) spikes over these trials, and (S, T) spikes over units; trial by trial, so that few are in memory."""
        by_unit = np.zeros(self.session.counts.shape[1:], np.int64)
        by_trial = np.empty((len(self.trials), self.session.n_bins), np.int64)
        for row, trial in enumerate(self.trials):
            counts = self.session.counts[trial]
            by_unit += counts
            by_trial[row] = counts.sum(axis=1, dtype=np.int64)
        return by_unit, by_trial

    @cached_property
    def unit_hz(self) -> np.ndarray:
        """(N,) mean rate of each unit."""
        seconds = len(self.trials) * self.session.n_bins * self.session.bin_s
        return np.asarray(self.sums[0].sum(axis=0) / seconds)

    @cached_property
    def trial_hz(self) -> np.ndarray:
        """(S, P) mean rate over units, in points of time that can be told apart."""
        return np.asarray(self.in_points(self.sums[1]) / (self.session.n_units * self.session.bin_s))

    @cached_property
    def factor(self) -> int:
        """Bins a point of time."""
        return math.ceil(self.session.n_bins / _MOST_POINTS)

    def in_points(self, values: np.ndarray) -> np.ndarray:
        """(..., T) values as (..., P) means over the bins of each point; the last one may have fewer."""
        starts = np.arange(0, self.session.n_bins, self.factor)
        sizes = np.diff([*starts, self.session.n_bins])
        return np.asarray(np.add.reduceat(values, starts, axis=-1) / sizes)

    @cached_property
    def time_s(self) -> np.ndarray:
        """(P,) middles of the points."""
        bins = np.arange(self.session.n_bins) + 0.5
        return self.session.window_s[0] + self.session.bin_s * self.in_points(bins)

    @cached_property
    def event_s(self) -> np.ndarray | None:
        """(K,) time of each trial's event; None where the recording has none, the column that the split would use."""
        columns = self.session.trial_columns
        names = [name for name in ALIGN_TIME_COLUMNS if name in columns and columns[name].dtype.kind in "fiu"]
        return np.asarray(columns[names[0]], np.float64) if names else None

    @cached_property
    def place(self) -> tuple[np.ndarray, str]:
        """(K,) where each trial lies along the recording, and what that is."""
        events = self.event_s
        if events is not None and np.isfinite(events).all() and np.ptp(events) > 0:
            return (events - events.min()) / 60, "minutes since the first trial"
        return np.arange(self.session.n_trials, dtype=float), "trials in order"


@dataclass(frozen=True, eq=False)
class Condition:
    """A column of the trials and the values that are drawn: (text, (S,) bool) each, in order."""

    name: str
    values: tuple[tuple[str, np.ndarray], ...]
    n_values: int
    ordered: bool


def choose_condition(columns: Mapping[str, np.ndarray], trials: np.ndarray) -> Condition | None:
    """The column that tells trials apart best by its name: what was shown, then choice, then outcome, then any other.

    columns: name -> (K,); trials: (S,) positions that may be looked at. A column has 2 to 12 values, two of them on 3
    trials or more; one without a value on a quarter of the trials comes after the others. None: no column is suitable.
    """
    found = []
    for name in sorted(columns):
        lower = name.lower()
        if name in (*ALIGN_TIME_COLUMNS, RECORDED_COLUMN) or any(word in lower for word in _NO_CONDITIONS):
            continue
        condition, share = _condition(name, np.asarray(columns[name])[trials])
        if condition is not None:
            kind = next((i for i, words in enumerate(_CONDITIONS) if any(word in lower for word in words)), 3)
            found.append(((share < 0.75, kind, name), condition))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _condition(name: str, column: np.ndarray) -> tuple[Condition | None, float]:
    """A column as a condition, if it can be one, and the share of trials on which it has a value."""
    if column.dtype.kind == "f":
        known = np.isfinite(column)
    elif column.dtype.kind == "U":
        known = ~np.isin(np.char.lower(np.char.strip(column)), ("", "nan", "none"))
    else:
        known = np.ones(len(column), bool)
    values, counts = np.unique(column[known], return_counts=True)
    often = [i for i in np.argsort(-counts, kind="stable")[:_MOST_CONDITIONS] if counts[i] >= _FEWEST_TRIALS]
    if len(values) > _MOST_VALUES or len(often) < 2:
        return None, 0.0
    drawn = tuple((_value(values[i]), known & (column == values[i])) for i in sorted(often))
    return Condition(name, drawn, len(values), column.dtype.kind in "iuf"), float(known.mean())


def _value(value: Any) -> str:
    return _minus(f"{value:g}") if isinstance(value, (np.number, float, int)) else label(str(value), 14)


# Panels ---------------------------------------------------------------------------------------------------------------


def _heading(figure: Figure, session: Session) -> None:
    name = _fitting(session.id, 12, SIZE[0] - 0.4, "bold")
    figure.text(0.012, 0.985, name, fontsize=12, fontweight="bold", va="top")
    who = [
        f"subject {label(session.subject)}" if session.subject else "",
        f"lab {label(session.lab)}" if session.lab else "",
    ]
    who = [*who, label(session.date) if session.date else ""]
    shape = f"{session.n_trials} trials × {_plural(session.n_bins, 'bins')} × {_plural(session.n_units, 'units')}"
    time = f"{session.bin_s * 1000:g} ms bins, {_window(session)}; {_zero(session)}"
    lines = ["   ·   ".join(text for text in (*who, shape) if text), time]
    figure.text(0.012, 0.951, "\n".join(lines), fontsize=9, va="top", linespacing=1.4)


def _raster(axes: Axes, seen: _Seen) -> None:
    """Some trials side by side, units below each other: by area, the most active first."""
    session = seen.session
    order, areas = _unit_order(session.areas, seen.unit_hz)
    rows = np.unique(np.linspace(0, len(order) - 1, min(len(order), _MOST_ROWS)).round().astype(int))
    n = 12 if session.n_bins <= 40 else 8 if session.n_bins <= 120 else 6
    chosen = seen.trials[np.unique(np.linspace(0, len(seen.trials) - 1, n).round().astype(int))]
    factor = math.ceil(session.n_bins * len(chosen) / _MOST_COLUMNS)
    starts = np.arange(0, session.n_bins, factor)
    images = [np.add.reduceat(session.counts[k][:, order[rows]], starts, axis=0, dtype=np.int64).T for k in chosen]
    spikes = np.concatenate([image[image > 0] for image in images])
    most = max(1, math.ceil(np.percentile(spikes, 99))) if len(spikes) else 1
    begin, end = session.window_s
    for i, image in enumerate(images):
        axes.imshow(
            image,
            extent=(i + _GAP, i + 1 - _GAP, len(rows), 0),
            cmap=_COUNTS,
            norm=PowerNorm(0.6, 0, most),
            aspect="auto",
            interpolation="nearest",
        )
        if begin <= 0 <= end:
            at = i + _GAP + (1 - 2 * _GAP) * (0 - begin) / (end - begin)
            axes.plot([at, at], [0, len(rows)], color=RED, lw=1.0, zorder=3)
    for i in range(1, len(chosen)):
        axes.axvline(i, color=PALE, lw=0.8)
    axes.set_xlim(0, len(chosen))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(len(chosen)) + 0.5, [str(session.trial_ids[k]) for k in chosen])
    axes.tick_params(axis="both", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    _area_labels(axes, [areas[row] for row in rows] if areas else None)
    line = "; line: time 0" if begin <= 0 <= end else ""
    axes.set_xlabel(f"trial number (each {_window(session)}{line})")
    some = f"{len(rows)} of " if len(rows) < session.n_units else ""
    more = " or more" if len(spikes) and spikes.max() > most else ""
    dark = f"{most}{more} in {1000 * factor * session.bin_s:g} ms"
    _title(axes, f"spikes of {some}{_plural(session.n_units, 'units')} in {len(chosen)} trials; darkest: {dark}")


def _unit_order(areas: Sequence[str] | None, hz: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """(N,) units by area, the largest area first, then by rate; and the area of each in this order."""
    if not areas:
        return np.argsort(-hz, kind="stable"), None
    sizes = Counter(areas)
    place = {area: i for i, area in enumerate(sorted(sizes, key=lambda area: (-sizes[area], area)))}
    order = np.lexsort((-hz, np.array([place[area] for area in areas])))
    return order, [areas[unit] for unit in order]


def _area_labels(axes: Axes, areas: Sequence[str] | None) -> None:
    """Names of areas along the rows where there is room for them; bars in two greys tell neighbours apart."""
    if not areas:
        axes.set_yticks([])
        axes.set_ylabel("units, the most active on top")
        return
    edges = [0, *(i for i in range(1, len(areas)) if areas[i] != areas[i - 1]), len(areas)]
    height = axes.get_window_extent().height / axes.figure.dpi  # type: ignore[union-attr,unused-ignore]
    room, last, named = 0.135 * len(areas) / height, -math.inf, {}
    for i, (first, stop) in enumerate(pairwise(edges)):
        look: dict[str, Any] = {"color": (INK, "#a8b0b8")[i % 2], "lw": 2.4, "solid_capstyle": "butt", "clip_on": False}
        axes.plot([-0.008] * 2, [first, stop], transform=axes.get_yaxis_transform(), **look)
        middle = (first + stop) / 2
        if middle - last >= room and middle <= len(areas) - room * 0.3:
            named[middle], last = _fitting(areas[first] or "unnamed", 7.5, 0.68), middle
    axes.set_yticks(list(named), list(named.values()), fontsize=7.5)
    axes.tick_params(axis="y", pad=7)


def _psth(axes: Axes, seen: _Seen) -> None:
    """Rate over the trial: by condition, or of all trials and of the areas with the most spikes."""
    condition = choose_condition(seen.session.trial_columns, seen.trials)
    if condition is None:
        names = _psth_of_all(axes, seen)
        _title(axes, "rate over the trial, all trials (band: SEM)")
    else:
        names = _psth_by(axes, seen, condition)
        some = f", {len(names)} of {condition.n_values} values" if len(names) < condition.n_values else ""
        _title(axes, f"rate by {label(condition.name, 24)} (trials; band: SEM{some})")
    room = 0.22 if len(names) <= 3 else 0.36  # for the legend
    if seen.session.window_s[0] <= 0 <= seen.session.window_s[1]:
        axes.axvline(0, ymax=1 / (1 + room), color=RED, lw=1.0, zorder=1)
    axes.set_xlim(*seen.session.window_s)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), high + room * (high - low))
    columns = min(3, len(names))
    legend = axes.legend(axes.get_lines()[: len(names)], ["."] * len(names), loc="upper left", ncols=columns, **_BEHIND)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # afterwards: a label that begins with _ would be left out
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _minus(f"{value:g}")))
    axes.grid(axis="y")
    axes.set_ylabel("Hz a unit", labelpad=2)
    joined = f", in steps of {1000 * seen.factor * seen.session.bin_s:g} ms" if seen.factor > 1 else ""
    axes.set_xlabel(f"s{joined}", labelpad=1)


def _psth_by(axes: Axes, seen: _Seen, condition: Condition) -> list[str]:
    n = len(condition.values)
    ordered = condition.ordered and n > 2
    scale = matplotlib.colormaps["viridis"].reversed()
    colors = [scale(0.12 + 0.85 * i / (n - 1)) for i in range(n)] if ordered else _UNORDERED
    for (_, rows), color, dashes in zip(condition.values, colors, _DASHES, strict=False):
        _rate_line(
            axes, seen, seen.trial_hz[rows], 0.16 if n <= 4 else 0.08, color=color, ls="-" if ordered else dashes
        )
    return [f"{name} ({int(rows.sum())})" for name, rows in condition.values]


def _psth_of_all(axes: Axes, seen: _Seen) -> list[str]:
    session, names = seen.session, [f"all units ({len(seen.trials)} trials)"]
    _rate_line(axes, seen, seen.trial_hz, color=INK, ls="-", lw=2.0)
    if session.areas and len(set(session.areas)) > 1:
        spikes: Counter[str] = Counter()
        for area, n in zip(session.areas, seen.sums[0].sum(axis=0), strict=True):
            spikes[area] += int(n)
        most = sorted(spikes, key=lambda area: (-spikes[area], area))[:_MOST_AREA_LINES]
        for area, color, dashes in zip(most, _UNORDERED, _DASHES[1:], strict=False):
            units = np.array([name == area for name in session.areas])
            rate = seen.in_points(seen.sums[0][:, units].sum(axis=1)) / (units.sum() * len(seen.trials) * session.bin_s)
            _rate_line(axes, seen, rate[None], color=color, ls=dashes)
            names.append(f"{label(area or 'unnamed', 9)} ({int(units.sum())})")
    return names


def _rate_line(axes: Axes, seen: _Seen, hz: np.ndarray, alpha: float = 0.16, **look: Any) -> None:
    """The mean over trials of (trials, P) rates, and the standard error as a band."""
    mean = hz.mean(axis=0)
    single = {"marker": "o", "ms": 4} if len(mean) < 3 else {}
    axes.plot(seen.time_s, mean, **{"lw": 1.3, **look, **single})
    if len(hz) > 1:
        sem = hz.std(axis=0, ddof=1) / math.sqrt(len(hz))
        if single:
            axes.vlines(seen.time_s, mean - sem, mean + sem, color=look["color"], lw=1.2)
        else:
            axes.fill_between(seen.time_s, mean - sem, mean + sem, color=look["color"], alpha=alpha, lw=0)


def _rates(axes: Axes, seen: _Seen) -> None:
    """Units by their rate on a logarithmic axis; units without a spike have none."""
    active = seen.unit_hz[seen.unit_hz > 0]
    silent = len(seen.unit_hz) - len(active)
    _title(axes, f"{_plural(len(active), 'active units')}, {silent} silent")
    axes.set_ylabel("units", labelpad=2)
    axes.set_xlabel("Hz, median as a line", labelpad=1)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if not len(active):
        axes.set_xticks([])
        return
    low, high = math.log10(active.min()), math.log10(active.max())
    room = max(0.03 * (high - low), 0.15)
    n = 1 + 2 * int(np.clip(math.sqrt(len(active)), 4, 17))  # odd: a bin in the middle
    axes.hist(active, bins=list(np.logspace(low - room, high + room, n + 1)), color=SKY, edgecolor="white", lw=0.4)
    axes.axvline(float(np.median(active)), color=INK, ls="--", lw=1.2)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - room), 10 ** (high + room))
    axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low - room, high + room)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two powers of ten."""
    whole = range(math.floor(low), math.ceil(high) + 1)
    step = math.ceil((high - low) / 5.5)
    few = range(1, 10) if high - low < 0.6 else (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [digit * 10.0**power for power in whole if power % step == 0 for digit in few]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _areas(axes: Axes, areas: Sequence[str]) -> None:
    """Units in each area: the largest areas, and all others together."""
    sizes = Counter(areas)
    ranked = sorted(sizes, key=lambda area: (-sizes[area], area))
    shown = ranked if len(ranked) <= _MOST_AREAS + 1 else ranked[:_MOST_AREAS]
    size = 8.0 if len(shown) <= 8 else 7.0
    names, counts = [_fitting(area or "unnamed", size, 0.6) for area in shown], [sizes[area] for area in shown]
    if len(shown) < len(ranked):
        names.append(f"{len(ranked) - len(shown)} others")
        counts.append(len(areas) - sum(counts))
    colors = [BLUE] * len(shown) + [GREY] * (len(names) - len(shown))
    axes.barh(range(len(names)), counts, color=colors, height=0.72)
    for y, count in enumerate(counts):
        axes.text(count + 0.02 * max(counts), y, str(count), va="center", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_ylim(max(len(names), 4) - 0.4, -0.6)
    axes.set_xlim(0, max(counts) * 1.22)
    axes.tick_params(axis="y", length=0, pad=2)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    _title(axes, f"units in {_plural(len(ranked), 'areas')}")


def _course(axes: Axes, seen: _Seen) -> None:
    """Rate of each trial along the recording: drift, and trials without a spike."""
    place = seen.place[0][seen.trials]
    hz = seen.sums[1].mean(axis=1) / (seen.session.n_units * seen.session.bin_s)
    for part in ("train", "validation"):
        mine = np.isin(seen.trials, seen.split.part(part))
        axes.plot(place[mine], hz[mine], ls="none", marker="o", ms=2.6, mec="none", color=_PART_COLORS[part])
    order = np.argsort(place, kind="stable")
    width = max(5, len(order) // 20 * 2 + 1)
    if drawn := len(order) >= 2 * width:
        middle = np.median(np.lib.stride_tricks.sliding_window_view(hz[order], width), axis=1)
        axes.plot(place[order][width // 2 : -(width // 2)], middle, color=INK, lw=1.4)
    room = 0.01 * max(float(np.ptp(seen.place[0])), 1e-9)
    axes.set_xlim(seen.place[0].min() - room, seen.place[0].max() + room)
    axes.set_ylim(0, 1.08 * float(hz.max()) or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="y")
    axes.set_ylabel("Hz a unit")
    axes.tick_params(axis="x", labelbottom=False, length=0)
    _title(axes, f"rate of each trial along the recording{' (line: running median)' if drawn else ''}")


def _parts(axes: Axes, seen: _Seen) -> None:
    """Every trial as a tick in the row of its part."""
    split, (place, where) = seen.split, seen.place
    rows = {part: split.part(part) for part in PARTS}
    if len(split.purged):
        rows["purged"] = split.purged
    width = min(1.6, max(0.5, 0.7 * 72 * 9.9 / max(len(place), 1)))
    for y, (part, trials) in enumerate(rows.items()):
        axes.vlines(place[trials], y - 0.38, y + 0.38, color=_PART_COLORS[part], lw=width)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=seen.event_s is None))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(rows)), [f"{part} {len(trials)}" for part, trials in rows.items()], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    share = None
    if seen.event_s is not None:
        share = overlap_share(seen.event_s, seen.session.window_s, seen.session.bin_s, split)
    shared = "unknown (no trial times)" if share is None else f"{100 * share:.1f} %"
    axes.set_xlabel(
        f"{where}   ·   {split.kind} split, seed {split.seed}   ·   test bins also in training windows: {shared}"
    )


# Words and sizes ------------------------------------------------------------------------------------------------------


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=_TITLE, loc="left", pad=5)


def _window(session: Session) -> str:
    return _minus(f"{session.window_s[0]:g} to {session.window_s[1]:g} s")


def _zero(session: Session) -> str:
    if session.align == WITHOUT_TRIALS:
        return "windows at a stride, without an event"
    return f"time 0 is {label(session.align, 50) if session.align else 'not named'}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _plural(n: int, things: str) -> str:
    """A number and its things: ``1 unit``, ``2 units``."""
    return f"{n} {things[:-1] if n == 1 else things}"


def _fitting(text: str, size: float, inches: float, weight: str = "normal") -> str:
    """Text as a label that is no wider than so many inches."""
    font = FontProperties(family=["DejaVu Sans"], weight=weight)
    most = math.ceil(inches * 72 / size * 2)
    for longest in (most * share // 10 for share in (10, 8, 6, 5, 4)):
        short = label(text, max(longest, 3))
        if TextPath((0, 0), short, size=size, prop=font).get_extents().width <= inches * 72:
            break
    return short
