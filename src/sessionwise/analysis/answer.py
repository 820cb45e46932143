"""The answer of a study in plain words: which sessions, how many, how sure, and for which use it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessionwise.analysis.cells import Grid, best_size
from sessionwise.analysis.claim_judging import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED
from sessionwise.analysis.controls import in_words
from sessionwise.analysis.estimates import Estimator, Found
from sessionwise.analysis.scaling import difference
from sessionwise.analysis.summary import done_rows

Document = dict[str, Any]

# What the headline says about the top sessions against all of them.
BETTER, WORSE, NO_DIFFERENCE, NOT_JUDGED = "better", "worse", "no difference", "not judged"
USE = "frozen cores"


def answer(
    document: Mapping[str, Any], grid: Grid, estimator: Estimator, rankings: Sequence[Mapping[str, Any]]
) -> Document:
    """The sentences that open the report, and what they are made of.

    verdict: whether the top k are "better" or "worse" than all sessions on average, "no difference" (the interval holds
    zero), "not judged" (it does not, but too few seeds or held-out sessions allow no conclusion), or "not measured".
    sure: for each of the top sessions its chance of being among
    them and its 80 % rank interval. how_many: the ranked size that is best on validation trials.
    """
    claims = {claim["id"]: claim for claim in document["claims"]}
    listed = {ranking["heldout"]: ranking for ranking in rankings}
    how_many = {h: best_size(grid, h, "ranked", "validation") for h in grid.heldout}
    tops = {h: [row["session"] for row in done_rows(r)[: grid.top]] for h, r in listed.items()}
    text = [
        _headline(claims["top_above_all"], grid),
        _against_random(claims["ranked_above_random"]),
        _against_baseline(grid, estimator),
        *[_sessions(grid, listed[h], how_many.get(h)) for h in grid.heldout if h in listed],
        _use(grid, estimator),
        _closeness(document["closeness"]),
        _missing(document["counts"], grid.allow_missing),
    ]
    return {
        "text": [sentence for sentence in text if sentence],
        "verdict": _word(claims["top_above_all"]),
        "use": USE,
        "ranked_top": tops,
        "how_many": how_many,
        "sure": {h: [_sure(row, grid.top) for row in done_rows(r)[: grid.top]] for h, r in listed.items()},
        "ranking_verdicts": {h: dict(r["verdict"]) for h, r in listed.items()},
    }


def _word(claim: Mapping[str, Any]) -> str:
    words = {SUPPORTED: BETTER, NOT_SUPPORTED: WORSE, NOT_MEASURED: NOT_MEASURED}
    return words.get(claim["verdict"]) or (NOT_JUDGED if _found(claim).over(0.0) else NO_DIFFERENCE)


def _headline(claim: Mapping[str, Any], grid: Grid) -> str:
    top, every = f"the top {grid.top} sessions", f"all {grid.n_pool}"
    number = in_words(_found(claim), side=False)
    where = _where(claim)
    if claim["verdict"] == SUPPORTED:
        return f"Pretraining on {top} is better than on {every}: {number} ({where})."
    if claim["verdict"] == NOT_SUPPORTED:
        return f"Pretraining on {every} sessions is better than on {top}: {number} ({where})."
    if claim["verdict"] == NOT_MEASURED:
        return f"Not measured: {top} against {every}. {claim['note']}".rstrip()
    return _undecided(f"pretraining on {top} and on {every}", claim, where)


def _undecided(what: str, claim: Mapping[str, Any], where: str) -> str:
    """An interval that holds zero does not tell apart; one that does not, but may not be judged, says why."""
    found = _found(claim)
    number = in_words(found, side=False)
    if found.over(0.0):
        return f"Not judged: {what}: {number} ({where}). {claim['note']}".rstrip()
    return f"Not told apart: {what}: {number} ({where})."


def _against_random(claim: Mapping[str, Any]) -> str:
    number = in_words(_found(claim), side=False)
    words = {
        SUPPORTED: f"Ranked sessions are better than as many random ones: {number} ({_where(claim)}, mean over sizes).",
        NOT_SUPPORTED: f"Random sessions are better than as many ranked: {number} ({_where(claim)}, mean over sizes).",
        NOT_MEASURED: f"Not measured: ranked against random sessions. {claim['note']}".rstrip(),
    }
    return words.get(claim["verdict"]) or _undecided("ranked and as many random sessions", claim, _where(claim))


def _found(claim: Mapping[str, Any]) -> Found:
    value = claim["value"]
    if value is None:
        return Found(reason=claim["note"])
    return Found(value["mean"], value["low"], value["high"])


def _where(claim: Mapping[str, Any]) -> str:
    n = claim["n_heldout"]
    if n == 1:
        return "one held-out session, test trials"
    each = [entry["verdict"] for entry in claim["per_heldout"]]
    above, below = each.count(SUPPORTED), each.count(NOT_SUPPORTED)
    alone = f"by themselves {above} of {len(each)} above zero, {below} below"
    return f"average of these {n} held-out sessions, test trials; {alone}"


def _against_baseline(grid: Grid, estimator: Estimator) -> str:
    if "ranked" not in grid.orders:
        return ""
    found = difference(grid, estimator, None, ("ranked", grid.top, ""), ("baseline", None, ""))
    if found.mean is None:
        return f"Not measured: the top {grid.top} sessions against the held-out session alone ({found.reason})."
    return (
        f"The top {grid.top} sessions, core frozen, against training on the held-out session alone: {in_words(found)}."
    )


def _sessions(grid: Grid, ranking: Mapping[str, Any], how_many: int | None) -> str:
    rows = done_rows(ranking)[: grid.top]
    if not rows:
        return f"For {ranking['heldout']} no session could be ranked."
    names = ", ".join(str(row["session"]) for row in rows)
    sure = [row["p_top"].get(str(grid.top)) for row in rows]
    known = [p for p in sure if p is not None]
    words = f"For {ranking['heldout']}: {names}"
    if known:
        words += f" (chance of being among the top {grid.top}: {', '.join(f'{p:.2f}' for p in known)})"
    words += "." if ranking["verdict"]["different"] else ", though their ranking is not told apart from noise."
    if how_many is not None:
        words += f" On validation trials {how_many} ranked session{'s' if how_many > 1 else ''} did best, nominally."
    return words


def _sure(row: Mapping[str, Any], top: int) -> Document:
    names = ("session", "rank", "rank_low", "rank_high", "score", "low95", "high95")
    return {**{name: row.get(name) for name in names}, "p_top": row["p_top"].get(str(top))}


def _use(grid: Grid, estimator: Estimator) -> str:
    words = "This holds for frozen cores: on the held-out session only new stitchers were trained."
    if ("full_finetune", "ranked", grid.top) not in grid.keys():
        return f"{words} Nothing is known here about cores that are trained further."
    found = difference(grid, estimator, None, ("full_finetune", grid.top, "ranked"), ("ranked", grid.top, ""))
    return f"{words} With the core trained too, the top {grid.top} give, against the frozen core: {in_words(found)}."


def _closeness(closeness: Mapping[str, Any] | None) -> str:
    if closeness is None:
        return "Closeness or quality: not judged, which takes rankings for two or more held-out sessions."
    words = {
        "closeness": "At least a quarter of the order that comes back with other seeds is specific to the held-out "
        "session (closeness)",
        "quality": "What comes back of the order with other seeds is mostly shared by held-out sessions: size or other "
        "quality, not closeness",
    }
    why = f": {closeness['reason']}" if closeness.get("reason") else ""
    undecided = f"Whether the rankings are about closeness or about shared quality is undecided{why}"
    return f"{words.get(str(closeness['verdict']), undecided)}{_in_common(closeness.get('shared'))}."


def _in_common(shared: Mapping[str, Any] | None) -> str:
    """The share in common; not without an interval, since a ratio over a ceiling near zero may be anything."""
    if not shared or shared["mean"] is None or shared["low"] is None:
        return ""
    limits = f"[{shared['low']:.2f}, {shared['high']:.2f}]"
    return f" (held-out sessions have {shared['mean']:.2f} {limits} of their reproducible order in common)"


def _missing(counts: Mapping[str, int], allow_missing: bool) -> str:
    missing = {state: n for state, n in counts.items() if state != "done" and n}
    if not missing:
        return ""
    words = ", ".join(f"{n} {state}" for state, n in missing.items())
    rule = "means are over those that are there" if allow_missing else "means that need them are left out"
    return f"{sum(missing.values())} of {sum(counts.values())} test scores are missing ({words}): {rule}."
