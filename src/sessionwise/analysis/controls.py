"""The controls of a study: each with its rows, what it controls for, and what was found, in one sentence.

"difference" is always the row minus what it is compared with ("against"), in bits per spike on test trials, with its
interval. "heldout": None is the average over held-out sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sessionwise.analysis import inference
from sessionwise.analysis.cells import Cell, Grid, sd_of
from sessionwise.analysis.estimates import Estimator, Found
from sessionwise.analysis.scaling import Key, difference

Document = dict[str, Any]
# A row's cell, the cell that it is compared with, and that cell in words.
Comparison = tuple[Key, Key, str]


@dataclass(frozen=True)
class Control:
    """A control arm; ``compare`` names the comparisons for one of its (variant, size)."""

    name: str
    title: str
    purpose: str
    compare: Callable[[Grid, str, int | None], Sequence[Comparison]]


def controls(grid: Grid, estimator: Estimator) -> list[Document]:
    """Every control that has a row."""
    asked = [key for key in grid.keys() if key[0] in {control.name for control in CONTROLS}]
    found = []
    for control in CONTROLS:
        mine = [(variant, size) for arm, variant, size in asked if arm == control.name]
        if mine:
            found.append(_control(control, grid, estimator, mine))
    return found


def _control(control: Control, grid: Grid, estimator: Estimator, asked: Sequence[tuple[str, int | None]]) -> Document:
    rows, words = [], []
    for variant, size in asked:
        for own, other, against in control.compare(grid, variant, size):
            for heldout in (*grid.heldout, None):
                found = difference(grid, estimator, heldout, own, other)
                rows.append(_row(grid, heldout, own, against, found))
            words.append(f"{_name(grid, own)} minus {against}: {in_words(found)}")
    text = f"{control.purpose} Found, {_average_of(grid)}: {'; '.join(words)}."
    entry = {"name": control.name, "title": control.title, "text": text, "rows": rows, "note": ""}
    return _converged(entry, grid) if control.name == "baseline_doubled" else entry


def _row(grid: Grid, heldout: str | None, own: Key, against: str, found: Found) -> Document:
    arm, size, variant = own
    return {
        "heldout": heldout,
        "arm": arm,
        "variant": variant,
        "size": size,
        **grid.cell(heldout, *own).plain(),
        "difference": found.plain,
        "difference_reason": found.doubt or found.reason,
        "against": against,
    }


def _average_of(grid: Grid) -> str:
    return "one held-out session" if len(grid.heldout) == 1 else f"average of {len(grid.heldout)} held-out sessions"


def _name(grid: Grid, key: Key) -> str:
    arm, size, variant = key
    words = {
        "step_matched": f"{'all sessions' if size == grid.n_pool else f'the top {size}'}, {variant}",
        "trial_matched": f"random sets with the trials of the ranked {size}",
        "other_targets": f"the other held-out sessions' top {size}",
        "random_core": "the untrained core",
        "own_core": "the own core, frozen",
        "baseline_doubled": "the baseline with twice the steps",
        "many_shuffles": f"{size} random sessions",
        "fresh_seeds": "the top session with fresh seeds",
        "full_finetune": f"{'all sessions' if size == grid.n_pool else f'{_order(variant)} {size}'}, core trained too",
        "minus_worst": f"all but the worst {grid.n_pool - (size or 0)}",
    }
    return words.get(arm, arm)


def _order(variant: str) -> str:
    return variant.replace("_", "-")


def in_words(found: Found, *, side: bool = True) -> str:
    """An estimate for people: number, interval, and (``side``) which side of zero it is on."""
    if found.mean is None:
        return f"not measured ({found.reason})"
    number = _signed(found.mean)
    if found.low is not None and found.high is not None:
        number += f" [{_signed(found.low)}, {_signed(found.high)}]"
    number += " bits per spike"
    if not side:
        return number
    if found.doubt:
        return f"{number}, not judged ({found.doubt})"
    return f"{number}, {('not told apart', 'above', 'below')[found.over(0.0)]}"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}".replace("-", "−")


# What each control is compared with -----------------------------------------------------------------------------------


def _steps(grid: Grid, variant: str, size: int | None) -> list[Comparison]:
    own = ("step_matched", size, variant)
    if size == grid.n_pool:
        return [(own, ("all", grid.n_pool, ""), "all sessions with their own steps, best checkpoint")]
    return [(own, ("step_matched", grid.n_pool, variant), f"all sessions, {variant}")]


def _ranked(arm: str) -> Callable[[Grid, str, int | None], list[Comparison]]:
    return lambda grid, variant, size: [((arm, size, variant), ("ranked", size, ""), f"ranked at {size}")]


def _baseline(arm: str) -> Callable[[Grid, str, int | None], list[Comparison]]:
    return lambda grid, variant, size: [((arm, size, variant), ("baseline", None, ""), "the baseline")]


def _core(arm: str) -> Callable[[Grid, str, int | None], list[Comparison]]:
    def compare(grid: Grid, variant: str, size: int | None) -> list[Comparison]:
        own = (arm, size, variant)
        found: list[Comparison] = [(own, ("baseline", None, ""), "the baseline")]
        if "ranked" in grid.orders:
            found.append((own, ("ranked", grid.top, ""), f"ranked at {grid.top}"))
        return found

    return compare


def _full(grid: Grid, variant: str, size: int | None) -> list[Comparison]:
    own = ("full_finetune", size, variant)
    frozen = "all sessions, frozen" if size == grid.n_pool else f"{_order(variant)} at {size}, frozen"
    return [(own, ("baseline", None, ""), "the baseline"), (own, (variant, size, ""), frozen)]


def _all(grid: Grid, variant: str, size: int | None) -> list[Comparison]:
    return [(("minus_worst", size, variant), ("all", grid.n_pool, ""), "all sessions")]


CONTROLS = (
    Control(
        "step_matched",
        "Equal steps",
        "More sessions also mean more optimiser steps; here the top sessions and all of them are trained equally long "
        "(last checkpoints).",
        _steps,
    ),
    Control(
        "trial_matched",
        "Equal trials",
        "A ranked set may win because its sessions have more trials; these are random sets with about as many.",
        _ranked("trial_matched"),
    ),
    Control(
        "other_targets",
        "The other held-out sessions' order",
        "Tells closeness to a held-out session from quality for all of them: sessions ranked for the others.",
        _ranked("other_targets"),
    ),
    Control(
        "many_shuffles",
        "Many random sets",
        "A few shuffles say little about random sets; these are many, each trained once.",
        _ranked("many_shuffles"),
    ),
    Control(
        "random_core",
        "Untrained core",
        "What new stitchers reach alone, around a frozen core that was never trained.",
        _core("random_core"),
    ),
    Control(
        "own_core",
        "The held-out session's own core",
        "What freezing costs: the core of the baseline itself, frozen, with new stitchers.",
        _core("own_core"),
    ),
    Control(
        "baseline_doubled",
        "Baseline with twice the steps",
        "A baseline that is stopped early flatters pretraining; this one has twice the steps.",
        _baseline("baseline_doubled"),
    ),
    Control(
        "fresh_seeds",
        "One session, fresh seeds",
        "The one-session models of the ranked order also made the ranking; these seeds took no part in it.",
        _ranked("fresh_seeds"),
    ),
    Control(
        "full_finetune",
        "Core not frozen",
        "The paper's answer is about frozen cores; here the core is trained on the held-out session too.",
        _full,
    ),
    Control(
        "minus_worst",
        "All but the worst",
        "Whether the worst sessions do harm: all sessions without them.",
        _all,
    ),
)


# Two that need more than a difference ---------------------------------------------------------------------------------


def _converged(entry: Document, grid: Grid) -> Document:
    """Was the baseline trained to its end? Yes, where twice the steps change its validation score by less than its
    standard deviation between seeds."""
    answers = {}
    for row in entry["rows"]:
        if row["heldout"] is not None:
            row |= doubling(grid.cell(row["heldout"], "baseline"), grid.cell(row["heldout"], "baseline_doubled"))
            answers[row["heldout"]] = row["converged"]
    known = [answer for answer in answers.values() if answer is not None]
    if len(known) < len(answers):
        word = "Not judged for every held-out session: it takes two seeds with validation scores."
    elif all(known):
        word = "On validation trials the change is below the SD between seeds everywhere: no sign of too few steps."
    else:
        late = [row for row in entry["rows"] if row["heldout"] is not None and row["converged"] is False]
        each = ", ".join(_change(row) for row in late)
        more = any(row["validation_change"] > 0 for row in late)
        end = "pretraining is flattered by a baseline that could gain" if more else "twice the steps make it worse"
        word = f"On validation trials the change is not below the SD between seeds for {each}: {end}."
    return {**entry, "text": f"{entry['text']} {word}", "converged": all(known) if len(known) == len(answers) else None}


def _change(row: Document) -> str:
    return f"{row['heldout']} ({_signed(row['validation_change'])}, SD {row['validation_sd']:.4f})"


def doubling(baseline: Cell, doubled: Cell) -> Document:
    """Change of the mean validation score with twice the steps, and the SD between the baseline's seeds."""
    change, sd = None, sd_of(baseline.validation_values)
    if baseline.validation is not None and doubled.validation is not None:
        change = doubled.validation - baseline.validation
    converged = None if change is None or sd is None else abs(change) < sd
    return {"validation_change": change, "validation_sd": sd, "converged": converged}


def many_shuffles(grid: Grid) -> list[Document]:
    """Where the ranked set stands among many random sets of its size.

    value: mean over the seeds of the ranked set (less noisy than a single run; ``values`` are those); others: one run a
    random set; percentile: share of them below the value; p: (r + 1) / (n + 1) with r sets at or above it.
    """
    rows = []
    for arm, variant, size in grid.keys():
        if arm != "many_shuffles":
            continue
        for heldout in (*grid.heldout, None):
            own, others = grid.cell(heldout, "ranked", size), grid.cell(heldout, arm, size, variant)
            row: Document = {"heldout": heldout, "size": size, "value": own.mean, "values": list(own.values)}
            row |= {
                "others": list(others.values),
                "n": others.n,
                "n_asked": others.asked,
                "percentile": None,
                "p": None,
            }
            row["reason"] = "; ".join(filter(None, [own.reason, others.reason])) or None
            if own.mean is not None and others.mean is not None:
                row |= inference.percentile_among(own.mean, others.values)
            rows.append(row)
    return rows
