"""The figures of a ranking, each a function of ``ranking.json``; None where there is nothing to draw.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; line styles and markers differ too, so
that a grey print can be read. Session ids are drawn as plain text: mathtext is off. The same input gives the same
bytes: no dates, a fixed salt for SVG ids, matplotlib's own font and defaults.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sessionwise.analysis.summary import best_core, done_rows, has_one_seed, missing_rows

Ranking = Mapping[str, Any]
Row = Mapping[str, Any]

BLUE, SKY, ORANGE, GREEN, RED = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00"
INK, GREY, PALE = "#1f2328", "#6e7781", "#d8dee4"
MARKERS = ("o", "s", "^", "D", "v", "P")
SCORE = "bits per spike"
# Above this number of sessions a row each no longer fits one screen: ranks along the x axis, as in the paper.
MOST_ROWS = 40

_STYLE = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "sessionwise",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.4,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults and ours, whatever the user's matplotlibrc says; put back on leaving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[call-overload,arg-type,unused-ignore]
        yield


def render(figure: Figure, form: str) -> bytes:
    """The figure as ``svg``, ``pdf`` or ``png``: the same bytes for the same figure."""
    out = io.BytesIO()
    with style():
        figure.savefig(out, format=form, metadata=_NO_DATES[form])
    return out.getvalue()


def draw(name: str, result: Mapping[str, Any]) -> Figure | None:
    """Draw one of ``FIGURES`` from a ranking, ``comparison`` from a comparison, ``overlap`` from an overlap."""
    with style():
        return {**FIGURES, "comparison": comparison, "overlap": overlap}[name](result)


def label(identifier: str, longest: int = 26) -> str:
    """An id as a label: characters without a glyph as escapes, the middle of long ids as an ellipsis."""
    text = "".join(c if _has_glyph(c) else c.encode("unicode_escape").decode() for c in identifier)
    if len(text) <= longest:
        return text
    front = (longest - 1) * 2 // 3
    return f"{text[:front]}…{text[-(longest - 1 - front) :]}"


def scores(ranking: Ranking) -> Figure | None:
    """Fig. A1: scores in order, their intervals, each seed, the baseline and the random frozen core."""
    done, missing = done_rows(ranking), missing_rows(ranking)
    if not done:
        return None
    if len(done) + len(missing) > MOST_ROWS:
        return _scores_along_x(ranking, done)
    figure, axes = new_figure(6.0, 1.35 + 0.25 * (len(done) + len(missing)))
    for y, row in enumerate(done):
        _score_and_interval(axes, row, y, across=True)
    for y, row in enumerate(missing, start=len(done)):
        place: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "va": "center",
            "bbox": {"color": "white", "pad": 1.5},
        }
        axes.text(0.015, y, f"{row['state']}: no score", color=RED, zorder=5, **place)
    _control_lines(axes, ranking, axes.axvline, axes.axvspan)
    names = [f"{label(row['session'])}  {row['rank']:>2}" for row in done]
    names += [f"{label(row['session'])}   –" for row in missing]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel(_what(ranking, ", validation trials of the held-out session"))
    _score_legend(figure, ranking, done)
    return figure


def _scores_along_x(ranking: Ranking, done: Sequence[Row]) -> Figure:
    figure, axes = new_figure(6.0, 4.3)
    for row in done:
        _score_and_interval(axes, row, row["rank"], across=False)
    _control_lines(axes, ranking, axes.axhline, axes.axhspan)
    axes.set_xlim(0, len(done) + 1)
    axes.set_xticks([1, *range(10, len(done) + 1, 10)])
    axes.grid(axis="y")
    axes.set_xlabel("rank of the session")
    axes.set_ylabel(_what(ranking, ", validation trials"))
    _score_legend(figure, ranking, done)
    return figure


def differences(ranking: Ranking) -> Figure | None:
    """Paired differences between cores and controls with their intervals, against zero; filled where told apart."""
    rows = ranking.get("differences") or []
    if not rows:
        return None
    figure, axes = new_figure(4.6, 0.75 + 0.34 * len(rows))
    axes.axvline(0, color=INK, lw=0.9)
    judged = not has_one_seed(ranking)
    for y, row in enumerate(rows):
        clear = judged and (row["low"] > 0 or row["high"] < 0)
        axes.plot([row["low"], row["high"]], [y, y], color=BLUE if clear else GREY, lw=1.8, solid_capstyle="butt")
        axes.plot(row["mean"], y, "o", ms=5.5, color=BLUE if clear else GREY, mfc=BLUE if clear else "white")
    axes.set_yticks(range(len(rows)), [row["name"].replace(" - ", " − ") for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel(f"difference, {SCORE}")
    return figure


def trials(ranking: Ranking) -> Figure | None:
    """Score against the number of trials of the session."""
    return _against(ranking, "n_trials", "trials in the session")


def units(ranking: Ranking) -> Figure | None:
    """Score against the number of units of the session."""
    return _against(ranking, "n_units", "units in the session")


def truth(ranking: Ranking) -> Figure | None:
    """Score against the true closeness, known for simulated sessions only."""
    known = (ranking.get("truth") or {}).get("closeness") or {}
    rows = [{**row, "closeness": known.get(row["session"])} for row in done_rows(ranking)]
    return _against({**ranking, "rows": rows}, "closeness", "true closeness to the held-out session")


def seeds(ranking: Ranking) -> Figure | None:
    """Scores with one seed against scores with another."""
    names, done = ranking.get("seeds") or [], done_rows(ranking)
    if len(names) < 2 or len(done) < 2 or not all(row["seed_scores"] for row in done):
        return None
    figure, axes = new_figure(4.2, 3.6)
    values = np.array([row["seed_scores"] for row in done], dtype=float)
    axes.axline((values.mean(),) * 2, slope=1, color=GREY, lw=0.9, ls=":", zorder=1)
    pairs = list(combinations(range(len(names)), 2))[: len(MARKERS)]
    for (i, j), marker, color in zip(pairs, MARKERS, (BLUE, RED, GREEN, ORANGE, SKY, INK), strict=False):
        look: dict[str, Any] = {"ls": "none", "marker": marker, "ms": 5, "mec": "white", "mew": 0.6, "color": color}
        axes.plot(values[:, i], values[:, j], label=f"seeds {names[i]} and {names[j]}", **look)
    nice_margins(axes)
    axes.grid()
    axes.set_xlabel(f"{SCORE}, seed {names[0]}" if len(pairs) == 1 else f"{SCORE}, first seed")
    axes.set_ylabel(f"{SCORE}, seed {names[1]}" if len(pairs) == 1 else f"{SCORE}, second seed")
    if len(pairs) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(pairs)), handlelength=1)
    return figure


def horizon(ranking: Ranking) -> Figure | None:
    """Score against the number of bins predicted ahead."""
    known = ranking.get("horizon") or {}
    steps = known.get("steps_ahead") or []
    lines = [(n, t, s) for n, t, s in _HORIZON if n in known and len(known[n]) == len(steps) and some(known[n])]
    if not lines:
        return None
    figure, axes = new_figure(4.2, 3.4)
    for name, text, look in lines:
        axes.plot(steps, gaps(known[name]), label=text, ms=4.5, **look)
    axes.axhline(0, color=GREY, lw=0.7)
    axes.set_xticks(steps if len(steps) <= 12 else steps[:: len(steps) // 10])
    axes.grid(axis="y")
    axes.set_xlabel("bins ahead")
    axes.set_ylabel(SCORE)
    figure.legend(loc="outside lower center", ncols=len(lines))
    return figure


_HORIZON: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("best", "best core", {"color": BLUE, "marker": "o"}),
    ("baseline", "baseline", {"color": INK, "marker": "s", "ls": "--"}),
    ("random_core", "random core", {"color": ORANGE, "marker": "^", "ls": "-."}),
)


def curves(ranking: Ranking) -> Figure | None:
    """Validation curves: pretraining of each core on its own session; everything trained on the held-out session."""
    known = [curve for curve in ranking.get("curves") or [] if some(curve["bps"])]
    own = [curve for curve in known if curve["kind"] == "pretrain"]
    heldout = [curve for curve in known if curve["kind"] != "pretrain"]
    panels = [(t, part) for t, part in (("pretraining, own session", own), ("held-out session", heldout)) if part]
    if not panels:
        return None
    figure = Figure(figsize=(3.0 * len(panels), 3.4) if len(panels) > 1 else (4.2, 3.4), layout="constrained")
    best = best_core(done_rows(ranking))
    for axes, (title, part) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for curve in sorted(part, key=lambda c: curve_look(c, best)["zorder"]):
            axes.plot(curve["step"], gaps(curve["bps"]), **curve_look(curve, best))
        axes.set_title(title, fontsize=8.5, loc="left")
        axes.set_ylim(bottom=low_end([curve["bps"] for curve in part]))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
        axes.set_xlabel("optimiser step")
    figure.axes[0].set_ylabel(f"{SCORE}, validation")
    _curve_legend(figure, known, best)
    return figure


def comparison(result: Mapping[str, Any]) -> Figure | None:
    """Test scores of the compared sets: mean, SD over seeds, each seed; the baseline as a line."""
    arms = [arm for arm in result.get("arms") or [] if arm.get("bps") is not None]
    if not arms:
        return None
    figure, axes = new_figure(4.6, 1.15 + 0.36 * len(arms))
    for y, arm in enumerate(arms):
        color = INK if arm["name"] == "baseline" else BLUE
        if arm.get("sd") is not None:
            axes.plot([arm["bps"] - arm["sd"], arm["bps"] + arm["sd"]], [y, y], color=color, lw=1.8)
        axes.plot(arm["bps"], y, "o", ms=6, color=color)
        each = [score for score in arm["seed_scores"] if score is not None]
        axes.plot(each, [y + 0.24] * len(each), "o", ms=3.4, mfc="white", mec=color, mew=0.8)
        if arm["name"] == "baseline":
            axes.axvline(arm["bps"], color=INK, ls="--", lw=1, zorder=1)
    axes.set_yticks(range(len(arms)), [label(arm["name"]) for arm in arms])
    axes.set_ylim(len(arms) - 0.45, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel(f"{SCORE}, test trials")
    return figure


def overlap(result: Mapping[str, Any]) -> Figure | None:
    """Fig. A2: sessions in the top k of every held-out session against k, and what lists in random order give.

    result: one entry of ``summary.overlap_between_heldout``.
    """
    return None if result["curve"] is None else overlap_curve(result["curve"], len(result["heldout"]))


def overlap_curve(curve: Mapping[str, Any], n_heldout: int) -> Figure:
    """Fig. A2 from its curve; with ``quality_low`` and ``quality_high`` the band under a shared quality too."""
    figure, axes = new_figure(4.2, 3.6 if curve.get("quality_low") else 3.4)
    k = curve["k"]
    axes.fill_between(k, curve["low"], curve["high"], color=PALE, lw=0, label="95 % band by chance")
    if curve.get("quality_low"):
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": SKY, "hatch": "////", "lw": 0}
        band = curve["quality_low"], curve["quality_high"]
        axes.fill_between(k, *band, label="95 % band, shared quality + noise", **look)
    axes.plot(k, curve["expected"], color=GREY, ls="--", label="expected by chance")
    axes.plot(k, k, color=GREY, lw=0.9, ls=":", label="identical orders")
    axes.plot(k, curve["size"], color=BLUE, marker="o", ms=4.5 if len(k) <= MOST_ROWS else 2.5, label="found")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid()
    axes.set_xlabel("k")
    axes.set_ylabel(f"sessions in all {n_heldout} top-k lists")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


FIGURES: dict[str, Callable[[Ranking], Figure | None]] = {
    "scores": scores,
    "differences": differences,
    "seeds": seeds,
    "trials": trials,
    "units": units,
    "truth": truth,
    "horizon": horizon,
    "curves": curves,
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches that stays readable when shrunk to a telephone's width."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _score_and_interval(axes: Axes, row: Row, at: float, *, across: bool) -> None:
    """One session: thin 95 %, thick 80 % interval, the mean, and each seed beside it."""

    def line(values: Sequence[float], shift: float = 0.0, **look: Any) -> None:
        place = [at + shift] * len(values)
        axes.plot(*((values, place) if across else (place, values)), **look)

    dense = 1.0 if across else 0.6
    if row.get("low95") is not None:
        line([row["low95"], row["high95"]], color=SKY, lw=1.1 * dense, solid_capstyle="butt", zorder=2)
        line([row["low80"], row["high80"]], color=SKY, lw=3.4 * dense, solid_capstyle="butt", zorder=2)
    elif row.get("sd") is not None:
        line([row["score"] - row["sd"], row["score"] + row["sd"]], color=SKY, lw=3.4 * dense, zorder=2)
    each = [score for score in row.get("seed_scores") or () if score is not None]
    if len(each) > 1:
        line(each, 0.28, ls="none", marker="o", ms=3.2 * dense, mfc="white", mec=BLUE, mew=0.7 * dense, zorder=3)
    line([row["score"]], ls="none", marker="o", ms=5.2 * dense, color=BLUE, zorder=4)


def _control_lines(axes: Axes, ranking: Ranking, line: Callable[..., Any], span: Callable[..., Any]) -> None:
    for key, color, dashes in (("baseline", INK, "--"), ("random_core", ORANGE, "-.")):
        result = ranking.get(key) or {}
        if result.get("score") is None:
            continue
        each = [score for score in result.get("seed_scores") or () if score is not None]
        if len(each) > 1:
            span(min(each), max(each), color=color, alpha=0.13, lw=0, zorder=0)
        line(result["score"], color=color, ls=dashes, lw=1.3, zorder=1)


def _score_legend(figure: Figure, ranking: Ranking, done: Sequence[Row]) -> None:
    entries = [Line2D([], [], color=BLUE, marker="o", ls="none", ms=5.2, label="mean over seeds")]
    if ranking.get("score_label"):
        entries[0].set_label("score")
    elif any(len(row.get("seed_scores") or ()) > 1 for row in done):
        entries.append(Line2D([], [], ls="none", marker="o", ms=3.4, mfc="white", mec=BLUE, label="one seed"))
    else:
        entries[0].set_label("one seed")
    if any(row.get("low95") is not None for row in done):
        entries.append(Line2D([], [], color=SKY, lw=3.4, label="80 % interval"))
        entries.append(Line2D([], [], color=SKY, lw=1.1, label="95 % interval"))
    elif any(row.get("sd") is not None for row in done):
        entries.append(Line2D([], [], color=SKY, lw=3.4, label="SD over seeds"))
    if (ranking.get("baseline") or {}).get("score") is not None:
        entries.append(Line2D([], [], color=INK, ls="--", lw=1.3, label="baseline"))
    if (ranking.get("random_core") or {}).get("score") is not None:
        entries.append(Line2D([], [], color=ORANGE, ls="-.", lw=1.3, label="random frozen core"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, columnspacing=1.8)


def _against(ranking: Ranking, key: str, text: str) -> Figure | None:
    rows = [row for row in done_rows(ranking) if row.get(key) is not None]
    if len(rows) < 2:
        return None
    figure, axes = new_figure(4.2, 3.4)
    for row in rows:
        if row.get("low80") is not None:
            axes.plot([row[key]] * 2, [row["low80"], row["high80"]], color=SKY, lw=1.1, zorder=1)
    x, y = [row[key] for row in rows], [row["score"] for row in rows]
    axes.plot(x, y, "o", ms=5, color=BLUE, mec="white", mew=0.6, zorder=2)
    nice_margins(axes)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid()
    axes.set_xlabel(text)
    axes.set_ylabel(_what(ranking))
    return figure


def _what(ranking: Ranking, measured: str = "") -> str:
    """What the scores are: bits per spike, measured on something, or the number of another ranker."""
    return str(ranking.get("score_label") or f"{SCORE}{measured}")


def curve_look(curve: Mapping[str, Any], best: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a training curve is drawn: baseline, random core, the best core and the others; also its z-order."""
    if curve["kind"] == "baseline":
        return {"color": INK, "ls": "--", "lw": 1.4, "zorder": 4}
    if curve["kind"] == "finetune" and curve.get("session") is None:
        return {"color": ORANGE, "ls": "-.", "lw": 1.4, "zorder": 3}
    if _is_of_best(curve, best):
        return {"color": BLUE, "ls": "-", "lw": 1.6, "zorder": 5}
    return {"color": SKY, "ls": "-", "lw": 0.8, "alpha": 0.55, "zorder": 2}


def _is_of_best(curve: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    return best is not None and curve.get("session") == best["session"]


def _curve_legend(figure: Figure, known: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> None:
    names = {5: "best core", 2: "other cores", 4: "baseline", 3: "random frozen core"}
    looks = {look["zorder"]: look for look in (curve_look(curve, best) for curve in known)}
    entries = [Line2D([], [], label=names[order], **looks[order]) for order in names if order in looks]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))


def low_end(lines: Sequence[Sequence[float | None]]) -> float:
    """Where the y axis begins: untrained models lie far below zero and would flatten everything else."""
    values = np.array([value for line in lines for value in line if value is not None])
    lowest, top = float(values.min()), float(values.max())
    ends = [next(value for value in reversed(line) if value is not None) for line in lines]
    # All ends stay visible, with a band below them as high as that between the lowest end and the top.
    floor = min(*ends, 0.0) - max(0.25 * (top - min(ends)), 0.1 * abs(top), 0.01)
    return max(lowest - 0.02 * (top - lowest), floor)


def nice_margins(axes: Axes) -> None:
    """Room around the points and few ticks."""
    axes.margins(0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))


def gaps(values: Sequence[float | None]) -> list[float]:
    """Values as numbers; what is missing is a gap in the line."""
    return [float("nan") if value is None else value for value in values]


def some(values: Sequence[float | None]) -> bool:
    """Whether any value is there."""
    return any(value is not None for value in values)


@cache
def _has_glyph(character: str) -> bool:
    """Whether the figures' font draws this character, and draws it from left to right."""
    if not character.isprintable() or unicodedata.bidirectional(character) in ("R", "AL", "AN"):
        return False
    if unicodedata.combining(character):
        return False
    with style():
        return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))
