"""The figures of a study, each a function of its document (``report.json``); None where there is nothing to draw.

Here are those of the scaling part (Fig. 3 of the paper, and cost); ``FIGURES`` names all of them. Every run is a point;
what bars and bands are is said by ``study_captions``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sessionwise.analysis import panels, study_judged_figures, study_session_figures
from sessionwise.analysis.figures import GREY, INK, SCORE, gaps, style
from sessionwise.analysis.panels import ALL, BASELINE, ORDERS

Document = Mapping[str, Any]

MOST_LINEAR_PERCENT = 1000
_SESSIONS = "sessions in pretraining"
_SINGLE: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 3.2, "mfc": "white", "mec": GREY, "mew": 0.7}
# Of the step between two orders: how far single runs stand from their mean.
_ASIDE = 0.6


def draw(name: str, document: Document) -> Figure | None:
    """Draw one of ``FIGURES``."""
    with style():
        return FIGURES[name](document)


# Fig. 3a: score against number of sessions ----------------------------------------------------------------------------


def scaling(document: Document) -> Figure | None:
    """Test score against the number of sessions for each order, every run a point, and the baseline."""
    figure = panels.small_multiples(
        document, _scaling_panel, _SESSIONS, f"{SCORE}, test", width=panels.width_for(document)
    )
    if figure is not None:
        refused = any(p["mean"] is None for curve in document["curves"] for p in curve["points"])
        _legend(figure, document, baseline=True, refused=refused)
    return figure


def _scaling_panel(axes: Axes, document: Document, heldout: str | None) -> bool:
    curves = panels.entries_of(document["curves"], heldout)
    drew = False
    for arm, below, xs, shift in _side_by_side(document, curves):
        look = ORDERS[arm]
        axes.plot(xs, gaps([point["mean"] for point in below]), ms=4.6, zorder=5, **look)
        for x, point in zip(xs, below, strict=True):
            drew |= _runs_and_sd(axes, x, x * shift, point, look)
    every = _point_of_all(document, curves)
    if every is not None:
        n_pool = document["n_pool"]
        shift = math.exp(_ASIDE * panels.log_step(document["sizes"]))
        drew |= _runs_and_sd(axes, n_pool, n_pool * shift, every, {**ALL, "marker": "o"})
        axes.plot([n_pool], gaps([every["mean"]]), zorder=6, **ALL)
    # A baseline alone is no answer to "how many sessions".
    if drew:
        panels.baseline(axes, document, heldout)
        _size_axis(axes, document)
        panels.y_ticks(axes)
    return drew


def _side_by_side(
    document: Document, curves: Mapping[str, Document]
) -> list[tuple[str, list[Document], list[float], float]]:
    """(order, points below all, their places, factor to the place of single runs): orders stand beside each other."""
    step = panels.log_step(document["sizes"])
    known = [(arm, curve) for arm, curve in curves.items() if arm in ORDERS]
    found = []
    for i, (arm, curve) in enumerate(known):
        below = [point for point in curve["points"] if point["size"] != document["n_pool"]]
        factor = math.exp(step * (i - (len(known) - 1) / 2))
        found.append((arm, below, [point["size"] * factor for point in below], math.exp(_ASIDE * step)))
    return found


def _point_of_all(document: Document, curves: Mapping[str, Document]) -> Document | None:
    """All sessions are the same runs under every order: one point."""
    every = [point for curve in curves.values() for point in curve["points"] if point["size"] == document["n_pool"]]
    return every[0] if every else None


def _runs_and_sd(axes: Axes, x: float, runs_at: float, point: Document, look: Mapping[str, Any]) -> bool:
    """Single runs, their standard deviation, and a cross at the axis where a mean is refused."""
    if len(point["values"]) > 1 or point["mean"] is None:
        panels.runs(axes, runs_at, point["values"], look["color"], look["marker"])
    if point["mean"] is None:
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 6}
        axes.plot(x, 0.02, "x", ms=4.6, mew=1.5, color=look["color"], **place)
    else:
        panels.bar(axes, x, point["mean"], point["sd"], look["color"])
    return bool(point["values"]) or point["mean"] is not None


def _size_axis(axes: Axes, document: Document) -> None:
    sizes = sorted({*document["sizes"]})
    names = [f"{size}\nall" if size == document["n_pool"] else str(size) for size in sizes]
    panels.log_axis(axes, sizes, names)


def _legend(
    figure: Figure,
    document: Document,
    *,
    baseline: bool = False,
    refused: bool = False,
    every: str = "all sessions",
    more: Sequence[Line2D] = (),
) -> None:
    entries: list[Line2D] = [*panels.order_entries(document)]
    if every and document["n_pool"] in document["sizes"]:
        entries.append(Line2D([], [], label=every, **ALL))
    if baseline and any(row["arm"] == "baseline" and row["mean"] is not None for row in document["baselines"]):
        entries.append(Line2D([], [], label="baseline", **BASELINE))
    every_point = [point for curve in document["curves"] for point in curve["points"]]
    if any(len(point["values"]) > 1 for point in every_point):
        entries.append(Line2D([], [], label="single run", **_SINGLE))
    if refused:
        entries.append(Line2D([], [], ls="none", marker="x", ms=4.6, mew=1.5, color=GREY, label="incomplete: no mean"))
    panels.legend(figure, [*entries, *more])


# Fig. 3b: score against trials ----------------------------------------------------------------------------------------


def trials(document: Document) -> Figure | None:
    """Test score against all trials of the pretraining sessions, the logarithmic fit, and how far it extrapolates."""
    figure = panels.small_multiples(document, _trials_panel, "trials in pretraining", f"{SCORE}, test")
    if figure is not None:
        lines = [Line2D([], [], color=GREY, lw=1.1, ls=":", label="extrapolated")]
        lines += [Line2D([], [], color=GREY, marker="d", mfc="white", lw=2.6, ms=5, label="predicted, with intervals")]
        fitted = any(fit["line"] for fit in document["fits"])
        _legend(figure, document, every="all sessions, measured", more=lines if fitted else ())
    return figure


def _trials_panel(axes: Axes, document: Document, heldout: str | None) -> bool:
    curves, fits = panels.entries_of(document["curves"], heldout), panels.entries_of(document["fits"], heldout)
    places: list[float] = []
    for arm, curve in curves.items():
        look = {**ORDERS.get(arm, {}), "ls": "none"}
        known = [
            p for p in curve["points"] if p["size"] != document["n_pool"] and p["trials"] and p["mean"] is not None
        ]
        axes.plot([p["trials"] for p in known], [p["mean"] for p in known], ms=4.6, zorder=5, **look)
        places += [p["trials"] for p in known]
    for arm, fit in fits.items():
        points, look = fit["points"], ORDERS[arm]
        of = max((len(point["values"]) for point in curves[arm]["points"]), default=1) if arm in curves else 1
        panels.runs(axes, [x for x, _ in points], [y for _, y in points], look["color"], look["marker"], of=of)
        places += [x for x, _ in points]
    every = _point_of_all(document, curves)
    if every is not None and every["mean"] is not None and every["trials"]:
        _runs_and_sd(axes, every["trials"], every["trials"], every, {**ALL, "marker": "o"})
        axes.plot(every["trials"], every["mean"], zorder=8, **ALL)
        places.append(every["trials"])
    core = axes.get_ylim()
    for i, (arm, fit) in enumerate(fits.items()):
        places += _fit(axes, fit, ORDERS[arm]["color"], i)
    if places:
        _keep_in_view(axes, core)
        _trials_axis(axes, places)
        panels.y_ticks(axes)
    return bool(places)


def _fit(axes: Axes, fit: Document, color: str, i: int) -> list[float]:
    """Line with the standard deviation of the points about it, extrapolation, and the prediction with its intervals."""
    if not fit["line"]:
        return []
    xs, ys = (np.array(column, dtype=float) for column in zip(*(row[:2] for row in fit["line"]), strict=True))
    sd = sd_about_line(fit)
    axes.plot(xs, ys, color=color, lw=1.1, ls=ORDERS[fit["arm"]]["ls"], zorder=2)
    if sd is not None:
        axes.fill_between(xs, ys - sd, ys + sd, color=color, alpha=0.14, lw=0, zorder=1)
    found, at = fit["predicted_all"], fit["trials_all"]
    if found is None or at is None:
        return []
    axes.plot([xs[-1], at], [ys[-1], found["mean"]], color=color, lw=1.1, ls=":", zorder=2)
    # Beside the measured score, not on it.
    place = at * math.exp((i + 1) * 0.035 * math.log(at / xs[0]))
    for names, width in ((("prediction_low", "prediction_high"), 0.9), (("low", "high"), 2.6)):
        ends = [found.get(name) for name in names]
        if None not in ends:
            axes.plot([place, place], ends, color=color, lw=width, solid_capstyle="butt", zorder=3)
    axes.plot(place, found["mean"], "d", ms=4.6, mfc="white", mec=color, mew=1.1, zorder=4)
    return [place]


def sd_about_line(fit: Document) -> float | None:
    """Standard deviation of the points about their logarithmic line (two parameters were fitted)."""
    if not fit["line"] or fit["slope"] is None or fit["intercept"] is None or len(fit["points"]) < 3:
        return None
    x, y = (np.array(column, dtype=float) for column in zip(*fit["points"], strict=True))
    rest = y - fit["intercept"]["mean"] - fit["slope"]["mean"] * np.log(x)
    return float(np.sqrt(np.sum(rest**2) / (len(x) - 2)))


def _keep_in_view(axes: Axes, core: tuple[float, float]) -> None:
    """A wide prediction interval may leave the panel; the scores stay readable."""
    low, high = axes.get_ylim()
    room = 0.8 * (core[1] - core[0])
    axes.set_ylim(max(low, core[0] - room), min(high, core[1] + room))


def _trials_axis(axes: Axes, places: Sequence[float]) -> None:
    """A logarithmic axis with round numbers at its ticks."""
    low, high = min(places), max(places)
    digits = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_ones = [m * 10.0**d for d in digits for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    if len(round_ones) < 2:
        round_ones = [low, high] if high > low else [low]
    span = math.log(high / low) or 1.0
    named = math.log(round_ones[-1] / round_ones[0]) or 1.0
    panels.log_axis(axes, round_ones, [_short(value) for value in round_ones], room=0.18 * span / named)
    axes.set_xlim(low * math.exp(-0.06 * span), high * math.exp(0.06 * span))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


# Fig. 3c: percent over one session ------------------------------------------------------------------------------------


def over_one(document: Document) -> Figure | None:
    """Percent over the same order's model of one session, every run a point."""
    width = panels.width_for(document)
    figure = panels.small_multiples(document, _over_one_panel, _SESSIONS, "% over one session", width=width)
    if figure is not None:
        _squeeze(figure, document)
        _legend(figure, document, every="")
    return figure


def _squeeze(figure: Figure, document: Document) -> None:
    """Where one session scores next to nothing, percentages over it explode: the outer part becomes logarithmic."""
    every = [point["over_one_percent"] for curve in document["curves"] for point in curve["points"]]
    if max((abs(value) for value in every if value is not None), default=0.0) > MOST_LINEAR_PERCENT:
        for axes in figure.axes:
            axes.set_yscale("symlog", linthresh=100)


def _over_one_panel(axes: Axes, document: Document, heldout: str | None) -> bool:
    curves = panels.entries_of(document["curves"], heldout)
    step, drew = panels.log_step(document["sizes"]), False
    for i, (arm, curve) in enumerate((arm, curve) for arm, curve in curves.items() if arm in ORDERS):
        look, factor = ORDERS[arm], math.exp(step * (i - 1))
        points = [point for point in curve["points"] if point["over_one_percent"] is not None]
        axes.plot(
            [p["size"] * factor for p in points], [p["over_one_percent"] for p in points], ms=4.6, zorder=5, **look
        )
        drew |= bool(points)
        one = next((p["mean"] for p in curve["points"] if p["size"] == 1), None)
        # An average of percentages has no single runs.
        for point in points if heldout is not None and one else ():
            x = point["size"] * factor
            each = [100 * (value - one) / one for value in point["values"]]
            panels.runs(axes, x * math.exp(_ASIDE * step), each if len(each) > 1 else (), look["color"], look["marker"])
            panels.bar(axes, x, point["over_one_percent"], _share(point["sd"], one or 1.0), look["color"])
    if drew:
        axes.axhline(0, color=GREY, lw=0.8, zorder=1)
        _size_axis(axes, document)
        panels.y_ticks(axes)
    return drew


def _share(sd: float | None, one: float) -> float | None:
    return None if sd is None else 100 * sd / abs(one)


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(document: Document) -> Figure | None:
    """Mean test score against the optimiser steps of one pretraining and finetuning, and of the baseline."""
    figure = panels.small_multiples(document, _cost_panel, "optimiser steps", f"{SCORE}, test")
    if figure is not None:
        entries = panels.order_entries(document)
        entries += [Line2D([], [], label="all sessions", **ALL)] if document["n_pool"] in document["sizes"] else []
        entries += [Line2D([], [], ls="none", marker="D", color=INK, ms=4.6, label="baseline")]
        panels.legend(figure, entries)
    return figure


def _cost_panel(axes: Axes, document: Document, heldout: str | None) -> bool:
    rows = [r for r in document["cost_vs_score"] if r["heldout"] == heldout and r["mean"] is not None and r["steps"]]
    for arm, look in ORDERS.items():
        mine = [row for row in rows if row["arm"] == arm and row["size"] != document["n_pool"]]
        axes.plot([row["steps"] for row in mine], [row["mean"] for row in mine], ms=4.6, zorder=4, **look)
        for row in mine:
            panels.bar(axes, row["steps"], row["mean"], row.get("sd"), look["color"])
    for row in [row for row in rows if row["arm"] in ORDERS and row["size"] == document["n_pool"]][:1]:
        panels.bar(axes, row["steps"], row["mean"], row.get("sd"), ALL["color"])
        axes.plot(row["steps"], row["mean"], zorder=6, **ALL)
    for row in [row for row in rows if row["arm"] == "baseline"]:
        panels.bar(axes, row["steps"], row["mean"], row.get("sd"), INK)
        axes.plot(row["steps"], row["mean"], "D", color=INK, ms=4.6, zorder=5)
        axes.axhline(row["mean"], color=INK, ls="--", lw=0.9, zorder=1)
    if rows:
        _trials_axis(axes, [row["steps"] for row in rows])
        panels.y_ticks(axes)
    return bool(rows)


FIGURES: dict[str, Callable[[Document], Figure | None]] = {
    "claims": study_judged_figures.claims,
    "scaling": scaling,
    "trials": trials,
    "over-one": over_one,
    "cost": cost,
    "controls": study_judged_figures.controls,
    "many-shuffles": study_judged_figures.many_shuffles,
    "single-scores": study_session_figures.single_scores,
    "overlap": study_session_figures.overlap,
    "metadata": study_session_figures.metadata,
    "transfer": study_session_figures.transfer,
    "curves": study_session_figures.curves,
}
