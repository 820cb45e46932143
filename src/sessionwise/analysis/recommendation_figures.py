"""The figures of a recommendation, each a function of ``recommendation.json``; None where there is nothing to draw.

Colours and habits are those of ``figures``. Filled is what was measured or chosen, open what was predicted or not
chosen; grey is what is not told apart from zero, or left before the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sessionwise.analysis.figures import BLUE, GREY, INK, MOST_ROWS, RED, SCORE, SKY, label, new_figure, nice_margins
from sessionwise.analysis.figures import style as figure_style

Document = Mapping[str, Any]
Row = Mapping[str, Any]

MEASURED, PREDICTED = "measured", "predicted"
# Sessions that left early, from the latest stage backwards; further stages share the last look.
_EARLY = (("s", "#6e7781"), ("^", "#9aa4ae"), ("D", "#bcc4cc"))


def draw(name: str, document: Document) -> Figure | None:
    """Draw one of ``FIGURES`` in the style of all figures."""
    with figure_style():
        return FIGURES[name](document)


def caption(name: str, document: Document) -> str:
    """What stands below a figure: what is drawn, and what its bars are."""
    return _CAPTIONS[name](document)


def gain_labels(document: Document) -> list[str]:
    """What each gain is measured against, or its whole name where the gains are not all of the same sessions.

    ``these sessions - the recording alone`` is of these sessions, against the recording alone.
    """
    halves = [gain["name"].partition(" - ") for gain in document["gains"]]
    alike = len({of for of, _, _ in halves}) == 1 and all(against for _, _, against in halves)
    return [against if alike else gain["name"] for gain, (_, _, against) in zip(document["gains"], halves, strict=True)]


def stage_order(document: Document) -> list[str]:
    """Stages that rows name, the last one first: in the order of ``stages``, then any other."""
    listed = [stage["name"] for stage in document["stages"]]
    named = [row["stage"] for row in document["rows"] if row.get("stage")]
    known = [name for name in listed if name in named]
    return [*reversed(known), *sorted(set(named) - set(known))]


def plotted_rows(document: Document) -> list[Row]:
    """The sessions that fit one plot, in their order: chosen ones first in line, then the best, then the rest."""
    rows = document["rows"]
    turn = sorted(range(len(rows)), key=lambda i: (not rows[i].get("chosen"), rows[i]["score"] is None, i))
    return [rows[i] for i in sorted(turn[:MOST_ROWS])]


def size_value(rows: Sequence[Row]) -> str:
    """What is drawn against the number of sessions, and has the intervals: gains where any is known, else scores."""
    return "gain" if any(row.get("gain") is not None for row in rows) else "score"


def gains(document: Document) -> Figure | None:
    """A small forest plot: each gain with its interval and the line of no gain; text where nothing is known."""
    listed = document["gains"]
    if not any(gain.get("mean") is not None for gain in listed):
        return None
    figure, axes = new_figure(5.0, 1.15 + 0.42 * len(listed))
    axes.axvline(0, color=INK, lw=0.9, zorder=1)
    for y, gain in enumerate(listed):
        if gain.get("mean") is not None:
            _gain(axes, gain, y)
    _not_measured(axes, listed)
    axes.set_yticks(range(len(listed)), [label(text, 34) for text in gain_labels(document)])
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    axes.set_xlabel(f"gain over …, {SCORE}, validation trials")
    hows = {gain["how"] for gain in listed if gain.get("mean") is not None}
    looks: dict[str, dict[str, Any]] = {MEASURED: {"color": BLUE}, PREDICTED: {"mfc": "white", "mec": BLUE}}
    entries = [Line2D([], [], ls="none", marker="o", label=how, **look) for how, look in looks.items() if how in hows]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    return figure


def _gain(axes: Axes, gain: Mapping[str, Any], y: int) -> None:
    low, high = gain.get("low"), gain.get("high")
    color = GREY
    if low is not None and high is not None:
        color = BLUE if low > 0 or high < 0 else GREY
        axes.plot([low, high], [y, y], color=color, lw=1.8, solid_capstyle="butt", zorder=2)
    axes.plot(gain["mean"], y, "o", ms=6, color=color, mfc=color if gain["how"] == MEASURED else "white", zorder=3)


def _not_measured(axes: Axes, listed: Sequence[Mapping[str, Any]]) -> None:
    """Words in the empty lines, away from the line of no gain."""
    means = [gain["mean"] for gain in listed if gain.get("mean") is not None]
    place: dict[str, Any] = {"x": 0.99, "ha": "right"} if sum(means) >= 0 else {"x": 0.01, "ha": "left"}
    for y, gain in enumerate(listed):
        if gain.get("mean") is None:
            axes.text(y=y, s="not measured", color=RED, va="center", transform=axes.get_yaxis_transform(), **place)


def sessions(document: Document) -> Figure | None:
    """A dot and an 80 % interval for each session, best first; chosen ones filled, those that left early grey."""
    rows = plotted_rows(document)
    if not any(row["score"] is not None for row in rows):
        return None
    figure, axes = new_figure(6.0, 1.35 + 0.25 * len(rows))
    stages = stage_order(document)
    for y, row in enumerate(rows):
        _session(axes, row, y, _look(row, stages))
    axes.set_yticks(range(len(rows)), [f"{label(row['session'])}  {_rank(row):>3}" for row in rows])
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color(BLUE if row.get("chosen") else INK)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    axes.set_xlabel(f"{document.get('score_label') or SCORE}, validation trials of the held-out session")
    _session_legend(figure, rows, stages)
    return figure


def _session(axes: Axes, row: Row, y: int, look: Mapping[str, Any]) -> None:
    if row["score"] is None:
        text = f"{row['state']}: no score" if row["state"] != "done" else "no score"
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0.015, y, text, color=GREY, zorder=5, bbox={"color": "white", "pad": 1.5}, **place)
        return
    if row.get("low80") is not None and row.get("high80") is not None:
        ends = [row["low80"], row["high80"]]
        axes.plot(ends, [y, y], color=look["bar"], lw=3.0, solid_capstyle="butt", zorder=2)
    axes.plot(row["score"], y, ls="none", zorder=4, **look["point"])


def _rank(row: Row) -> str:
    return "–" if row.get("rank") is None else str(row["rank"])


def _look(row: Row, stages: Sequence[str]) -> dict[str, Any]:
    """How a session is drawn, and which line of the legend it belongs to: label, bar's colour, point."""
    if row.get("chosen"):
        return {"label": "chosen", "bar": SKY, "point": {"marker": "o", "ms": 6.2, "color": BLUE}}
    early = stages.index(row["stage"]) if row.get("stage") else 0
    if not early:
        point = {"marker": "o", "ms": 5.2, "mfc": "white", "mec": BLUE, "mew": 1.0}
        return {"label": "not chosen", "bar": SKY, "point": point}
    marker, color = _EARLY[min(early, len(_EARLY)) - 1]
    point = {"marker": marker, "ms": 4.6, "color": color}
    return {"label": f"left after: {row['stage']}", "bar": "#dfe3e8", "point": point}


def _session_legend(figure: Figure, rows: Sequence[Row], stages: Sequence[str]) -> None:
    scored = [row for row in rows if row["score"] is not None]
    looks = {look["label"]: look["point"] for look in (_look(row, stages) for row in scored)}
    entries = [Line2D([], [], ls="none", label=label(text, 34), **point) for text, point in looks.items()]
    if any(row.get("low80") is not None for row in scored):
        entries.append(Line2D([], [], color=SKY, lw=3.0, label="80 % interval"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, columnspacing=1.8)


def sizes(document: Document) -> Figure | None:
    """Gain (or score, where no gain is known) against the number of sessions, the recommended number marked."""
    known = document["sizes"] or {"rows": (), "how": None}
    value = size_value(known["rows"] or ())
    rows = [row for row in known["rows"] or () if row.get(value) is not None]
    if len(rows) < 2 or known["how"] not in (MEASURED, PREDICTED):
        return None
    rows.sort(key=lambda row: row["k"])
    figure, axes = new_figure(4.6, 3.3)
    for row in rows:
        if row.get("low") is not None and row.get("high") is not None:
            axes.plot([row["k"]] * 2, [row["low"], row["high"]], color=SKY, lw=2.4, solid_capstyle="butt", zorder=2)
    k, y = [row["k"] for row in rows], [row[value] for row in rows]
    look: dict[str, Any] = {} if known["how"] == MEASURED else {"mfc": "white"}
    axes.plot(k, y, color=BLUE, marker="o", ms=5, lw=1.0, zorder=3, label=known["how"], **look)
    if known.get("k") is not None:
        axes.axvline(known["k"], color=GREY, ls="--", lw=1, zorder=1, label=f"recommended: {known['k']}")
    if value == "gain":
        axes.axhline(0, color=INK, lw=0.9, zorder=1)
    nice_margins(axes)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y")
    axes.set_xlabel("sessions pretrained on, best first")
    axes.set_ylabel(f"{value}, {SCORE}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def closeness(document: Document) -> Figure | None:
    """Score against the true closeness, known for simulated sessions only."""
    known = document.get("closeness") or {}
    rows = [r for r in document["rows"] if r["score"] is not None and known.get(r["session"]) is not None]
    if len(rows) < 2:
        return None
    figure, axes = new_figure(4.6, 3.3)
    looks = [(row, _look(row, stage_order(document))) for row in rows]
    for row, look in looks:
        x = known[row["session"]]
        if row.get("low80") is not None and row.get("high80") is not None:
            axes.plot([x, x], [row["low80"], row["high80"]], color=look["bar"], lw=1.1, zorder=1)
        axes.plot(x, row["score"], ls="none", zorder=3 if row.get("chosen") else 2, **look["point"])
    nice_margins(axes)
    axes.grid()
    axes.set_xlabel("true closeness to the held-out session")
    axes.set_ylabel(document.get("score_label") or SCORE)
    points = {look["label"]: look["point"] for _, look in looks}
    entries = [Line2D([], [], ls="none", label=label(text, 34), **point) for text, point in points.items()]
    figure.legend(handles=entries, loc="outside lower center", ncols=2)
    return figure


FIGURES: dict[str, Callable[[Document], Figure | None]] = {
    "gains": gains,
    "sessions": sessions,
    "sizes": sizes,
    "closeness": closeness,
}


def _gains_caption(document: Document) -> str:
    levels = sorted({gain["level"] for gain in document["gains"] if gain.get("level") and gain.get("low") is not None})
    bars = f" Bars: {' or '.join(f'{100 * level:.3g} %' for level in levels)} intervals." if levels else ""
    return (
        f"What pretraining on the sessions ranked first gains over each alternative; the line is no gain.{bars} "
        f"Filled: measured, the interval {_over(document)}. Open: predicted, the interval is that of the prediction. "
        "Blue: it leaves out zero."
    )


def _sessions_caption(document: Document) -> str:
    rows = plotted_rows(document)
    shown = {id(row) for row in rows}
    hidden = [row for row in document["rows"] if id(row) not in shown]
    words = [
        "Score of each session, the best first, with its rank. Bars: 80 % intervals. They compare sessions with each "
        "other. Filled and named in blue: chosen.",
    ]
    if len({row.get("stage") for row in rows if row["score"] is not None}) > 1:
        words.append("Grey: left before the last stage; its score is of the training of that stage.")
    if hidden:
        words.append(f"{len(rows)} of {len(document['rows'])} sessions are drawn; the table has all.")
    return " ".join(words)


def _sizes_caption(document: Document) -> str:
    known = document["sizes"]
    level = f"{100 * known['level']:.3g} % " if known.get("level") else ""
    what = f"{level}intervals {_over(document) if known['how'] == MEASURED else 'of the prediction'}"
    bars = f"Bars: {what}." if any(row.get("low") is not None for row in known["rows"]) else "No intervals."
    return f"How good the best k sessions are together, against k. {bars}"


def _over(document: Document) -> str:
    return "over validation trials and seeds" if len(document["seeds"]) > 1 else "over validation trials (one seed)"


_CAPTIONS: dict[str, Callable[[Document], str]] = {
    "gains": _gains_caption,
    "sessions": _sessions_caption,
    "sizes": _sizes_caption,
    "closeness": lambda document: (
        "Score against the true closeness in bins of latency (0 = the same; simulated sessions). Bars: 80 % intervals."
    ),
}
