"""The tables of a study, each a function of its document, as CSV (every number in full), Markdown and LaTeX.

Text from recordings is inert in each: no formula in a spreadsheet, no markup, no command. An empty cell or a dash is a
missing number; the reason stands beside it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sessionwise.analysis.pages import grouped, number, shown, signed, visible
from sessionwise.analysis.study_words import (
    ARMS,
    arm_name,
    compared,
    heldout_name,
    unit_name,
    with_interval,
)
from sessionwise.analysis.tables import safe_cell

Document = Mapping[str, Any]
Line = Sequence[Any]

FORMS = ("csv", "md", "tex")
_PAIRS = {"random": "random", "ranked": "ranked", "reverse_ranked": "reverse-ranked"}


@dataclass(frozen=True)
class Table:
    """A table twice: for people (``header``, ``groups`` of lines under a heading) and for machines (``tidy``).

    n_text: how many columns from the left are text (aligned left); wide: text in the last column, which may wrap;
    notes: sentences below the table, such as why a number is missing.
    """

    name: str
    caption: str
    header: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]]
    tidy: Sequence[Line]
    n_text: int = 1
    wide: bool = False
    notes: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        return not any(lines for _, lines in self.groups)


def tables(document: Document) -> dict[str, Table]:
    """Every table that has a line, by name."""
    made = (make(document) for make in TABLES)
    return {table.name: table for table in made if not table.is_empty}


def _printed(heldout: str | None, document: Document) -> bool:
    """Whether a line is for people too: the average of one held-out session says nothing new."""
    return heldout not in (None, "mean") or len(document["heldout"]) > 1


def render(table: Table, form: str) -> bytes:
    """A table as ``csv``, ``md`` or ``tex``: the same bytes for the same table."""
    text = {"csv": _csv, "md": _markdown, "tex": _latex}[form](table)
    return text.encode("utf-8", "backslashreplace")


# Table 1 --------------------------------------------------------------------------------------------------------------

_COLUMNS = ("random", "ranked", "reverse_ranked", "top")


def table1(document: Document) -> Table:
    """Improvement over the baseline at each order's best size, and of the ranked top."""
    known = document["table1"] or {"top": document["top"], "rows": []}
    tidy: list[Line] = [["heldout", "choice", "unit", "order", "value", "low", "high", "size", "n_heldout", "reason"]]
    groups: dict[str, list[list[str]]] = {}
    for row in known["rows"]:
        entries = {order: row[order] for order in _COLUMNS if row.get(order)}
        for order, entry in entries.items():
            numbers = [entry[name] for name in ("value", "low", "high", "size")]
            front = [row["heldout"], row["choice"], row["unit"], order]
            tidy.append([*front, *numbers, entry.get("n_heldout"), entry["reason"]])
        title = f"{_UNIT[row['unit']]}, best size chosen on {row['choice']} trials"
        title += " (as in the paper)" if (row["choice"], row["unit"]) == ("test", "%") else ""
        cells = [_best(entries.get(order), row["unit"], order != "top") for order in _COLUMNS]
        name = heldout_name(None, document) if row["heldout"] == "mean" else row["heldout"]
        if _printed(row["heldout"], document):
            groups.setdefault(title, []).append([name, *cells])
    reasons = dict.fromkeys(row[o]["reason"] for row in known["rows"] for o in _COLUMNS if row.get(o))
    notes = [f"–: {reason}." for reason in reasons if reason]
    header = ["held-out session", "random", "ranked", "reverse-ranked", f"ranked top {known['top']}"]
    text = (
        "Improvement over the baseline at each order's best size below all sessions (Table 1 of the paper), the size "
        "in brackets; 95 % intervals for the size as chosen. Chosen on test trials the best size is optimistic."
    )
    return Table("table1", text, header, list(groups.items()), tidy, notes=notes)


_UNIT = {"%": "Percent over the baseline", "bps": "Difference in bits per spike"}


def _best(entry: Document | None, unit: str, with_size: bool) -> str:
    if entry is None or entry["value"] is None:
        return "–"
    words = with_interval({"mean": entry["value"], "low": entry["low"], "high": entry["high"]}, unit)
    return f"{words} ({entry['size']})" if with_size and entry["size"] is not None else words


# Table A2 -------------------------------------------------------------------------------------------------------------

_TESTS = ("difference", "low", "high", "t", "df", "p", "p_welch", "p_paired", "p_exact", "p_holm", "p_bh")


def table_a2(document: Document) -> Table:
    """p values of the t-tests between orders in the paper's form: a line a pair, a column a size."""
    rows = document["table_a2"]
    sizes = sorted({row["size"] for row in rows})
    found = {(row["heldout"], tuple(row["pair"]), row["size"]): row for row in rows}
    groups = []
    for heldout in dict.fromkeys(row["heldout"] for row in rows):
        pairs = dict.fromkeys(tuple(row["pair"]) for row in rows if row["heldout"] == heldout)
        lines = []
        for pair in pairs:
            cells = [found.get((heldout, pair, size), {}).get("p") for size in sizes]
            lines.append([_pair(pair), *(_p(p) for p in cells)])
        groups.append((heldout, lines))
    tidy: list[Line] = [["heldout", "size", "pair", "p"]]
    tidy += [[row["heldout"], row["size"], _pair(row["pair"]), row["p"]] for row in rows]
    text = (
        "Table A2 of the paper: p of two-sided t-tests between orders (independent, equal variances) at each number of "
        "sessions, uncorrected. The table of tests has every other p."
    )
    return Table("table-a2", text, ["number of sessions", *(str(size) for size in sizes)], groups, tidy)


def tests(document: Document) -> Table:
    """Every test between orders: Student's, Welch's, paired by seed, exact, and corrected for all of them."""
    rows = document["table_a2"]
    header = ["pair", "sessions", "n", "difference", "t", "df", "p", "Welch", "paired", "exact", "Holm", "BH", "note"]
    groups: dict[str, list[list[str]]] = {}
    tidy: list[Line] = [["heldout", "size", "pair", "n_a", "n_b", *_TESTS, "reason"]]
    for row in rows:
        tidy.append([row["heldout"], row["size"], _pair(row["pair"]), *row["n"], *map(row.get, _TESTS), row["reason"]])
        difference = {"mean": row["difference"], "low": row["low"], "high": row["high"]}
        line = [_pair(row["pair"]), str(row["size"]), " v ".join(map(str, row["n"])), with_interval(difference)]
        line += [number(row["t"], 2), number(row["df"], 0)]
        line += [_p(row[name]) for name in ("p", "p_welch", "p_paired", "p_exact", "p_holm", "p_bh")]
        groups.setdefault(row["heldout"], []).append([*line, row["reason"] or ""])
    text = (
        "Every test between orders. Difference: first minus second in bits per spike, 95 % interval of the nested "
        "bootstrap. p: t-test; Welch: unequal variances; paired: by seed; exact: all splits of the runs; Holm and BH: "
        "corrected for all tests of this table."
    )
    return Table("tests", text, header, list(groups.items()), tidy, wide=True)


def _pair(pair: Sequence[str]) -> str:
    return " v ".join(_PAIRS.get(order, order) for order in pair)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else number(value, 3)


# Scores, references, controls -----------------------------------------------------------------------------------------

_CELL = ("n", "n_asked", "mean", "sd", "sd_source")
_END = ("trials", "steps", "finetune_steps", "tokens", "validation_mean")


def scores(document: Document) -> Table:
    """Every point of Fig. 3 with its runs."""
    tidy: list[Line] = [
        [*("heldout", "arm", "size"), *_CELL, *("values", "improvement_percent", "difference", "low", "high")],
    ]
    tidy = [[*tidy[0], "over_one_percent", *_END, "reason"]]
    groups: dict[str, list[list[str]]] = {}
    for curve in document["curves"]:
        title = f"{heldout_name(curve['heldout'], document)}, {ARMS.get(curve['arm'], curve['arm'])}"
        for point in curve["points"]:
            difference = point["difference"] or {}
            ends = [difference.get(name) for name in ("mean", "low", "high")]
            line: list[Any] = [curve["heldout"] or "mean", curve["arm"], point["size"], *map(point.get, _CELL)]
            line += [" ".join(map(repr, point["values"])), point["improvement_percent"], *ends]
            tidy.append([*line, point["over_one_percent"], *map(point.get, _END), point["reason"]])
            cells = [str(point["size"]), number(point["mean"]), number(point["sd"]), _of(point)]
            cells += [with_interval(point["difference"]), signed(point["improvement_percent"], 1)]
            cells += [signed(point["over_one_percent"], 1), grouped(point["trials"]), grouped(point["steps"])]
            if _printed(curve["heldout"], document):
                groups.setdefault(title, []).append([*cells, point["reason"] or ""])
    header = ["sessions", "bits/spike", "SD", "runs", "minus baseline", "% over baseline", "% over one"]
    header += ["trials", "steps", "note"]
    text = (
        "Test scores of every order and size. SD: over seeds, in the random order over shuffles. Steps: of one "
        "pretraining."
    )
    return Table("scores", text, header, list(groups.items()), tidy, n_text=0, wide=True)


def references(document: Document) -> Table:
    """The baseline and what else the held-out session alone gives."""
    tidy: list[Line] = [
        ["heldout", "arm", *_CELL, "steps", "improvement_percent", "difference", "low", "high", "reason"]
    ]
    groups: dict[str, list[list[str]]] = {}
    for row in document["baselines"]:
        difference, percent = row["difference"] or {}, row.get("improvement_percent")
        ends = [difference.get(name) for name in ("mean", "low", "high")]
        front = [row["heldout"] or "mean", row["arm"], *map(row.get, _CELL)]
        tidy.append([*front, row["steps"], percent, *ends, row["reason"]])
        cells = [heldout_name(row["heldout"], document), number(row["mean"]), number(row["sd"]), _of(row)]
        cells += [with_interval(row["difference"]), signed(percent, 1), grouped(row["steps"]), _why(row)]
        if _printed(row["heldout"], document):
            groups.setdefault(ARMS.get(row["arm"], row["arm"]), []).append(cells)
    header = [
        "held-out session",
        "bits/spike",
        "SD seeds",
        "runs",
        "minus baseline",
        "% over baseline",
        "steps",
        "note",
    ]
    text = "The references: test scores of what is trained on the held-out session alone, or not trained at all."
    return Table("references", text, header, list(groups.items()), tidy, wide=True)


def controls(document: Document) -> Table:
    """Every row of every control."""
    tidy: list[Line] = [
        [*("control", "arm", "variant", "size", "heldout"), *_CELL, *("against", "difference", "low", "high")],
    ]
    tidy = [[*tidy[0], "trials", "steps", "reason"]]
    groups = []
    for control in document["controls"]:
        lines = []
        for row in control["rows"]:
            difference = row["difference"] or {}
            ends = [difference.get(name) for name in ("mean", "low", "high")]
            front = [control["name"], row["arm"], row["variant"], row["size"], row["heldout"] or "mean"]
            cells: list[Any] = [*front, *map(row.get, _CELL), row["against"], *ends]
            tidy.append([*cells, row["trials"], row["steps"], _why(row)])
            words = [compared(row, document), row["against"], heldout_name(row["heldout"], document)]
            words += [number(row["mean"]), number(row["sd"]), _of(row), with_interval(row["difference"])]
            if _printed(row["heldout"], document):
                lines.append([*words, grouped(row["trials"]), grouped(row["steps"]), _why(row)])
        if lines:
            groups.append((control["title"], lines))
    header = ["control", "against", "held-out session", "bits/spike", "SD", "runs", "difference", "trials", "steps"]
    text = "The controls: test scores and paired differences with 95 % intervals. Steps: of one pretraining."
    return Table("controls", text, [*header, "note"], groups, tidy, n_text=3, wide=True)


def _of(row: Document) -> str:
    n, asked = row.get("n"), row.get("n_asked")
    return "–" if n is None else f"{n} of {asked}" if n != asked else str(n)


def _why(row: Document) -> str:
    return str(row.get("reason") or row.get("difference_reason") or "")


# Claims, fits, metadata, splits, cost ---------------------------------------------------------------------------------


def claims(document: Document) -> Table:
    """Every claim with its verdict, number and uncertainty, beside the paper's words and the paper's choice of size."""
    tidy: list[Line] = [["id", "heldout", "verdict", "mean", "low", "high", "unit", "choice", "n_heldout", "note"]]
    lines = []
    for claim in document["claims"]:
        value, other = claim["value"] or {}, claim["paper_choice"]
        unit = value.get("unit") or (other or {}).get("unit", "bps")
        tidy.append(
            [
                claim["id"],
                "mean",
                claim["verdict"],
                *_ends(value),
                unit,
                "validation",
                claim["n_heldout"],
                claim["note"],
            ]
        )
        if other:
            tidy.append([claim["id"], "mean", other["verdict"], *_ends(other), unit, "test", claim["n_heldout"], ""])
        for entry in claim["per_heldout"]:
            line = [claim["id"], entry["heldout"], entry["verdict"], *_ends(entry), unit, "validation", 1]
            tidy.append([*line, entry["reason"]])
        number_of = f"{with_interval(value, unit)} {unit_name(unit)}" if value else "–"
        chosen = with_interval(other, unit) if other else "–"
        lines.append([claim["text"], claim["verdict"], number_of, chosen, claim["paper"], claim["note"]])
    header = ["claim", "verdict", "found, average", "size chosen on test", "the paper", "note"]
    text = "The paper's claims. Best sizes are chosen on validation trials for the verdict; 95 % intervals."
    return Table("claims", text, header, [("", lines)], tidy, n_text=2, wide=True)


def _ends(value: Document) -> list[Any]:
    return [value.get(name) for name in ("mean", "low", "high")]


def fits(document: Document) -> Table:
    """The logarithmic fits and what they promise for all sessions."""
    names = ("prediction_low", "prediction_high")
    tidy: list[Line] = [["heldout", "arm", "n", "slope", "slope_low", "slope_high", "intercept", "r2", "trials_all"]]
    tidy = [[*tidy[0], "predicted", "low", "high", *names, "measured", "measured_sd", "saturating", "reason"]]
    lines = []
    for fit in document["fits"]:
        slope, intercept, predicted = (fit[name] or {} for name in ("slope", "intercept", "predicted_all"))
        measured, saturating = fit["measured_all"] or {}, fit.get("saturating") or {}
        line: list[Any] = [fit["heldout"] or "mean", fit["arm"], fit.get("n"), *_ends(slope), intercept.get("mean")]
        line += [fit["r2"], fit["trials_all"], *_ends(predicted), *map(predicted.get, names), measured.get("mean")]
        tidy.append([*line, measured.get("sd"), saturating.get("predicted"), fit["reason"]])
        wide = {"mean": predicted.get("mean"), "low": predicted.get(names[0]), "high": predicted.get(names[1])}
        cells = [heldout_name(fit["heldout"], document), ARMS.get(fit["arm"], fit["arm"]), with_interval(slope)]
        cells += [number(fit["r2"], 2), grouped(fit["trials_all"]), with_interval(wide)]
        cells += [number(saturating.get("predicted")), number(measured.get("mean")), fit["reason"] or ""]
        if _printed(fit["heldout"], document):
            lines.append(cells)
    header = ["held-out session", "order", "slope per ln(trials)", "R²", "trials of all", "predicted (95 % prediction)"]
    header += ["saturating fit", "measured", "note"]
    text = "Least squares of the score on ln(trials) below all sessions, and what it predicts for all of them."
    return Table("fits", text, header, [("", lines)], tidy, n_text=2, wide=True)


def metadata(document: Document) -> Table:
    """Single predictors of the score: Spearman's correlations, raw and corrected."""
    names = ("rho", "low", "high", "p", "p_holm", "p_bh", "n")
    tidy: list[Line] = [["heldout", "predictor", *names]]
    groups: dict[str, list[list[str]]] = {}
    for row in (document["metadata"] or {}).get("screen") or ():
        tidy.append([row["heldout"] or "mean", row["name"], *map(row.get, names)])
        rho = number(row["rho"], 2)
        rho += f" [{number(row['low'], 2)}, {number(row['high'], 2)}]" if row.get("low") is not None else ""
        cells = [row["name"], rho, *(_p(row.get(name)) for name in ("p", "p_holm", "p_bh")), str(row["n"])]
        if _printed(row["heldout"], document):
            groups.setdefault(heldout_name(row["heldout"], document), []).append(cells)
    header = ["predictor", "Spearman's ρ", "p", "Holm", "BH", "sessions"]
    text = "Does metadata predict the score of a session? Every predictor that was tried; p raw and corrected."
    return Table("metadata", text, header, list(groups.items()), tidy)


def many_shuffles(document: Document) -> Table:
    """The ranked set among many random sets."""
    names = ("value", "n", "n_asked", "percentile", "p", "reason")
    tidy: list[Line] = [["heldout", "size", *names]]
    lines = []
    for row in document["many_shuffles"]:
        tidy.append([row["heldout"] or "mean", row["size"], *map(row.get, names)])
        cells = [heldout_name(row["heldout"], document), str(row["size"]), number(row["value"]), _of(row)]
        if _printed(row["heldout"], document):
            lines.append([*cells, number(row["percentile"], 1), _p(row["p"]), row["reason"] or ""])
    header = ["held-out session", "sessions", "ranked set, bits/spike", "random sets", "percentile", "p", "note"]
    text = "Where the ranked set stands among random sets of its size."
    return Table("many-shuffles", text, header, [("", lines)], tidy, wide=True)


def split_seeds(document: Document) -> Table:
    """The claims under every split of trials."""
    splits = document["split_seeds"] or []
    tidy: list[Line] = [["split_seed", "id", "verdict", "mean", "low", "high", "unit"]]
    lines: dict[str, list[str]] = {}
    for split in splits:
        for claim in split["claims"]:
            value = claim["value"] or {}
            tidy.append([split["split_seed"], claim["id"], claim["verdict"], *_ends(value), value.get("unit")])
            words = f"{claim['verdict']}: {with_interval(value, value['unit'])}" if value else claim["verdict"]
            lines.setdefault(claim["text"], []).append(words)
    header = ["claim", *(f"split {s['split_seed']}{' (main)' if s['main'] else ''}" for s in splits)]
    groups = [("", [[text, *words] for text, words in lines.items()])]
    return Table("split-seeds", "The same claims with other splits of the trials.", header, groups, tidy)


def cost(document: Document) -> Table:
    """Runs, steps and tokens of every arm from scratch."""
    names = ("runs", "models", "pretrain_steps", "finetune_steps", "steps", "tokens")
    tidy: list[Line] = [["arm", "variant", "size", *names]]
    lines = []
    for row in document["cost"]:
        tidy.append([row["arm"], row["variant"], row["size"], *map(row.get, names)])
        lines.append([arm_name(row["arm"], row["variant"], row["size"]), *(grouped(row.get(name)) for name in names)])
    header = ["arm", "finetunings", "pretrainings", "pretraining steps", "finetuning steps", "steps", "tokens"]
    text = "Cost from scratch. What arms share (a model of one session, all sessions) counts in each."
    return Table("cost", text, header, [("", lines)], tidy)


def steps(document: Document) -> Table:
    """How many optimiser steps a run of every arm had."""
    kinds = ("pretrain", "finetune")
    tidy: list[Line] = [["arm", "variant", "size", *(f"{k}_{end}" for k in kinds for end in ("steps", "low", "high"))]]
    lines = []
    for row in document["steps_by_arm"]:
        numbers = [[row[f"{kind}_{end}"] for end in ("steps", "low", "high")] for kind in kinds]
        tidy.append([row["arm"], row["variant"], row["size"], *numbers[0], *numbers[1]])
        lines.append([arm_name(row["arm"], row["variant"], row["size"]), *(_range(*known) for known in numbers)])
    header = ["arm", "pretraining steps", "finetuning steps"]
    text = "Optimiser steps of one run: mean, and smallest to largest where they differ."
    return Table("steps", text, header, [("", lines)], tidy)


def _range(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None or low == high or low is None:
        return grouped(mean)
    return f"{grouped(mean)} ({grouped(low)} to {grouped(high)})"


def failed(document: Document) -> Table:
    """Everything without a score, with its reason."""
    rows = document["failed"]
    tidy: list[Line] = [["what", "state", "reason"], *([row["what"], row["state"], row["reason"]] for row in rows)]
    text = "Runs without a score: they are missing above, never counted as a number."
    return Table("missing", text, ["what", "state", "reason"], [("", tidy[1:])], tidy, n_text=2, wide=True)


TABLES: tuple[Callable[[Document], Table], ...] = (
    claims,
    table1,
    table_a2,
    tests,
    scores,
    references,
    controls,
    many_shuffles,
    fits,
    metadata,
    split_seeds,
    cost,
    steps,
    failed,
)


# Forms ----------------------------------------------------------------------------------------------------------------


def _csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[safe_cell(cell) for cell in line] for line in table.tidy])
    return out.getvalue()


def _markdown(table: Table) -> str:
    n = len(table.header)
    lines = [f"{safe_markdown(table.caption)}", "", _row(map(safe_markdown, table.header))]
    lines.append(_row([":--" if _is_text(table, i) else "--:" for i in range(n)]))
    for title, group in table.groups:
        lines += [_row([f"**{safe_markdown(title)}**", *[""] * (n - 1)])] if title else []
        lines += [_row(map(safe_markdown, line)) for line in group]
    lines += [line for note in table.notes for line in ("", safe_markdown(note))]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def safe_markdown(text: Any) -> str:
    """Text that Markdown, HTML inside it, and templates around it take for text."""
    return "".join(_MD.get(c, c) for c in visible(text)).replace("://", "\\://").replace("www.", "www\\.")


_MD = {c: f"\\{c}" for c in "\\`*_[]|~$@"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "{": "&#123;", "}": "&#125;"}


def _latex(table: Table) -> str:
    """A tabular with booktabs' rules, ready for \\input."""
    n = len(table.header)
    columns = "".join("l" if _is_text(table, i) else "r" for i in range(n))
    if table.wide:
        columns = f"{columns[:-1]}p{{5cm}}"
    lines = [f"% {shown(table.caption)}", "% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{columns}}}"]
    lines += ["\\toprule", _tex_row(table.header), "\\midrule"]
    for i, (title, group) in enumerate(table.groups):
        lines += ["\\addlinespace"] if i else []
        lines += [f"\\multicolumn{{{n}}}{{l}}{{\\textbf{{{safe_latex(title)}}}}} \\\\"] if title else []
        lines += [_tex_row(line) for line in group]
    notes = [f"% {shown(note)}" for note in table.notes]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *notes]) + "\n"


def _tex_row(cells: Sequence[Any]) -> str:
    return f"{' & '.join(map(safe_latex, cells))} \\\\"


_TEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "$": "\\$",
    "&": "\\&",
    "#": "\\#",
    "^": "\\textasciicircum{}",
    "_": "\\_",
    "%": "\\%",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\char34{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": "{`}",
    "−": "$-$",
    "–": "--",
    "×": "$\\times$",
    "ρ": "$\\rho$",
    "²": "$^2$",
    "\u202f": "\\,",
}


def safe_latex(text: Any) -> str:
    """Text without a character that LaTeX acts on; [ and * are guarded, since a line end before them takes them."""
    return "".join(_TEX.get(character, character) for character in visible(text))


def _is_text(table: Table, i: int) -> bool:
    return i < table.n_text or (table.wide and i == len(table.header) - 1)
