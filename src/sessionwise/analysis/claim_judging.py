"""How a claim is judged: the rule, the answers for each held-out session and on average, and what the document says.

See ``claims`` for the rule in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sessionwise.analysis.cells import Grid
from sessionwise.analysis.claim_questions import Ask, Question
from sessionwise.analysis.estimates import Estimator, Found, joined, lacking

Document = dict[str, Any]

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
UNDECIDED, NOT_MEASURED = "undecided", "not measured"
THESE_ONLY = "The interval is about these held-out sessions, not about others."
ONE_TARGET = "one held-out session: nothing is known about others"


@dataclass(frozen=True)
class Claim:
    """One claim of protocol A24. ``ask`` gives its question; ``chooses``: whether a best size is chosen for it."""

    id: str
    text: str
    paper: str
    rule: str
    unit: str
    ask: Ask
    threshold: float = 0.0
    chooses: bool = False
    beside: tuple[tuple[str, Ask], ...] = ()


def verdict(found: Found, threshold: float = 0.0) -> str:
    """The rule of this module for one estimate."""
    if found.mean is None:
        return NOT_MEASURED
    if found.doubt or (side := found.over(threshold)) == 0:
        return UNDECIDED
    return SUPPORTED if side > 0 else NOT_SUPPORTED


def judge(claim: Claim, grid: Grid, estimator: Estimator) -> Document:
    average, each, sizes = answers(claim, grid, estimator, "validation")
    paper = None
    if claim.chooses:
        found, _, paper_sizes = answers(claim, grid, estimator, "test")
        paper = paper_choice(found, claim.unit, claim.threshold, paper_sizes)
    beside = []
    for name, ask in claim.beside:
        found, _, _ = answers(replace(claim, id=f"{claim.id} {name}", ask=ask), grid, estimator, "validation")
        if found.plain:
            beside.append({"name": name, "unit": claim.unit, **found.plain})
    return document(claim, average, each, sizes, paper_choice=paper, beside=beside)


def answers(
    claim: Claim, grid: Grid, estimator: Estimator, choice: str
) -> tuple[Found, dict[str, Found], dict[str, Mapping[str, int]]]:
    """The average over held-out sessions, each of them, and the sizes chosen."""
    questions = {h: claim.ask(grid, h, choice) for h in grid.heldout}
    each = {h: answer(estimator, (claim.id, choice), {h: q}, False) for h, q in questions.items()}
    average = answer(estimator, (claim.id, choice), questions, grid.allow_missing)
    return average, each, {h: q.sizes for h, q in questions.items()}


def answer(estimator: Estimator, name: Sequence[Any], questions: Mapping[str, Question], allow_missing: bool) -> Found:
    bad = {h: q.reason or lacking(q.cells.values()) for h, q in questions.items()}
    why = {h: reason for h, reason in bad.items() if reason}
    if why and (not allow_missing or len(why) == len(questions)):
        return Found(reason=joined(why))
    used = {h: q for h, q in questions.items() if h not in why}
    statistic = next(iter(used.values())).statistic
    found = estimator.over_heldout(name, {h: dict(q.cells) for h, q in used.items()}, statistic)
    return replace(found, reason=found.reason or (f"left out: {joined(why)}" if why else None))


def document(
    claim: Claim,
    average: Found,
    each: Mapping[str, Found],
    sizes: Mapping[str, Mapping[str, int]],
    *,
    paper_choice: Document | None = None,
    beside: Sequence[Document] = (),
    note: str = "",
) -> Document:
    """A judged claim as the study's document holds it."""
    if average.mean is not None and average.n_heldout < 2 and not average.doubt:
        average = replace(average, doubt=ONE_TARGET)
    why = average.doubt or average.reason
    only = THESE_ONLY if average.mean is not None and average.n_heldout > 1 and not average.general else ""
    words = " ".join(filter(None, [note, f"{why[0].upper()}{why[1:]}." if why else "", only]))
    return {
        "id": claim.id,
        "text": claim.text,
        "paper": claim.paper,
        "rule": claim.rule,
        "verdict": verdict(average, claim.threshold),
        "value": average.plain and {**average.plain, "unit": claim.unit},
        "threshold": claim.threshold,
        "n_heldout": average.n_heldout,
        "general": average.general,
        "per_heldout": [
            {
                "heldout": h,
                "verdict": verdict(found, claim.threshold),
                **(found.plain or {"mean": None, "low": None, "high": None}),
                "sizes": dict(sizes.get(h, {})),
                "reason": found.doubt or found.reason,
            }
            for h, found in each.items()
        ],
        "paper_choice": paper_choice,
        "beside": list(beside),
        "note": words,
    }


def paper_choice(found: Found, unit: str, threshold: float, sizes: Mapping[str, Mapping[str, int]]) -> Document | None:
    """The number with the best size chosen on test, as the paper does; its interval does not count the choosing."""
    if found.plain is None:
        return None
    return {
        **found.plain,
        "unit": unit,
        "verdict": verdict(found, threshold),
        "sizes": {h: dict(s) for h, s in sizes.items()},
    }


def combined(claim: Document, other: Document, words: str) -> Document:
    """A claim that holds only where another one holds too; ``words`` say in the note what the other one gave."""
    others = {entry["heldout"]: entry["verdict"] for entry in other["per_heldout"]}
    for entry in claim["per_heldout"]:
        entry["verdict"] = both(entry["verdict"], others.get(entry["heldout"], NOT_MEASURED))
    note = " ".join(filter(None, [claim["note"], words.format(other["verdict"])]))
    return {**claim, "verdict": both(claim["verdict"], other["verdict"]), "note": note}


def both(a: str, b: str) -> str:
    """The verdict on two claims together."""
    for word in (NOT_MEASURED, NOT_SUPPORTED, UNDECIDED):
        if word in (a, b):
            return word
    return SUPPORTED
