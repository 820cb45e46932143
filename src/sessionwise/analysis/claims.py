"""The paper's claims, each judged by itself: verdict, number and uncertainty, for each held-out session and on average.

One rule for all: a claim is about a number that should lie above a threshold (zero, unless it says otherwise). The 95 %
interval wholly above it: "supported"; wholly below: "not supported"; otherwise "undecided". Nothing is concluded, and
the verdict is "undecided" with the reason, from one seed or shuffle, from fewer than 8 test trials, or for the average
from one held-out session. What needs runs that are missing is "not measured". Intervals: nested bootstrap over held-out
sessions, seeds or shuffles, and test trials; two held-out sessions are taken as fixed (``general`` is False, and the
note says so).

"Best" is the best of the sizes without all sessions, chosen on validation scores for each held-out session; the paper
chooses it on the test scores that it then reports, and that number stands beside as ``paper_choice``. The verdicts are
not corrected for their number: of twelve claims at 95 % one may be wrong by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sessionwise.analysis import inference
from sessionwise.analysis.cells import Grid, best_size
from sessionwise.analysis.claim_judging import NOT_MEASURED, Claim, answers, combined, document, judge, paper_choice
from sessionwise.analysis.claim_questions import (
    Question,
    best_random_minus_all,
    best_random_ratio,
    gap,
    gaps_below_ten,
    no_question,
    one_session_scores_positive,
    per_size,
    points_gain,
    scaling_gap,
    share_of_best,
    top_minus_all,
    top_minus_best_random,
)
from sessionwise.analysis.estimates import Estimator, Found, doubt, joined, lacking, percent

Document = dict[str, Any]


def claims(grid: Grid, estimator: Estimator, fits: Sequence[Document], overlap: Document | None) -> list[Document]:
    """All claims of protocol A24 in the paper's order, as plain JSON values.

    fits: those of ``scaling.fits``, for the extrapolation; overlap: the curve of Fig. A2 with its band under shared
    quality, for the last claim; None where there are fewer than two rankings.
    """
    judged = {claim["id"]: claim for claim in order_claims(grid, estimator)}
    judged["data_efficiency"] = _efficiency(grid, estimator, judged["top_above_best_random"])
    judged["top_share"] = _share(grid, estimator)
    judged["weaker_scaling_ranked"] = _weaker(grid, estimator)
    judged["extrapolation_above_measured"] = extrapolation(grid, fits)
    judged["session_specific"] = session_specific(grid, overlap)
    return [judged[name] for name in ORDER]


def order_claims(grid: Grid, estimator: Estimator) -> list[Document]:
    """The claims that need nothing but the orders and the baseline: what other splits of trials are asked."""
    return [judge(claim, grid, estimator) for claim in _claims(grid)]


ORDER = (
    "ranked_above_random",
    "random_above_reverse",
    "top_above_best_random",
    "top_above_all",
    "best_random_above_all",
    "points_gain",
    "data_efficiency",
    "top_share",
    "gaps_below_ten",
    "weaker_scaling_ranked",
    "extrapolation_above_measured",
    "session_specific",
)


# The claims ----------------------------------------------------------------------------------------------------------


def _claims(grid: Grid) -> list[Claim]:
    """The claims that are one mean over held-out sessions."""
    top, every = grid.top, grid.n_pool
    above = "above 0: supported; below: not supported; else undecided"
    mean_gap = f"mean over the sizes below {every} of the difference at equal size; 95 % interval {above}"
    chosen = "the best size below all is chosen on validation for each held-out session"
    return [
        Claim(
            "ranked_above_random",
            "Sessions in ranked order give better models than as many random sessions.",
            "in all held-out sessions (Fig. 3a)",
            mean_gap,
            "bps",
            gap("ranked", "random"),
            beside=per_size("ranked", "random", grid),
        ),
        Claim(
            "random_above_reverse",
            "Random sessions give better models than as many sessions in reverse-ranked order.",
            "in all held-out sessions (Fig. 3a)",
            mean_gap,
            "bps",
            gap("random", "reverse_ranked"),
            beside=per_size("random", "reverse_ranked", grid),
        ),
        Claim(
            "top_above_best_random",
            f"The top {top} sessions give a better model than random sessions at their best size.",
            "11.97 % against 9.54 % over the baseline on average (Table 1)",
            f"ranked at {top} minus random at its best size; {chosen}; 95 % interval {above}",
            "bps",
            top_minus_best_random,
            chooses=True,
        ),
        Claim(
            "top_above_all",
            f"The top {top} sessions give a better model than all {every}.",
            "five selected sessions outperformed all 84 (abstract)",
            f"ranked at {top} minus all sessions; 95 % interval {above}",
            "bps",
            top_minus_all,
        ),
        Claim(
            "best_random_above_all",
            f"Random sessions at their best size give a better model than all {every}.",
            "40 random sessions outperformed all 84 (Fig. 3b)",
            f"random at its best size minus all sessions; {chosen}; 95 % interval {above}",
            "bps",
            best_random_minus_all,
            chooses=True,
        ),
        Claim(
            "points_gain",
            "Ranked order at its best size improves more on the baseline than random order at its best size.",
            "13.95 % - 9.54 % = 4.4 percentage points (Table 1)",
            f"difference of the improvements over the baseline in percentage points; {chosen}; 95 % interval {above}",
            "percentage points",
            points_gain,
            chooses=True,
        ),
        Claim(
            "gaps_below_ten",
            "The orders differ more below ten sessions than from ten sessions on.",
            "more pronounced with fewer than ten sessions (Fig. 3a, Table A2)",
            "mean of ranked minus reverse-ranked over the sizes below ten, minus that over the sizes from ten on, all "
            f"sessions left out; 95 % interval {above}",
            "bps",
            gaps_below_ten("ranked", "reverse_ranked"),
            beside=(("ranked minus random", gaps_below_ten("ranked", "random")),),
        ),
    ]


# Claims with a rule of their own --------------------------------------------------------------------------------------


def _efficiency(grid: Grid, estimator: Estimator, top_against_random: Document) -> Document:
    """Size at which random sessions are best, over the top k.

    Its interval is that of the size with the best test score over the draws of the bootstrap, widened to hold the size
    chosen on validation. A ratio above one says something only where the top k are better than those random sessions,
    so the verdict is that on both claims together.
    """
    top = grid.top
    claim = Claim(
        "data_efficiency",
        f"Random order needs more than {top} sessions to be at its best, and is then no better than the top {top}.",
        "over 8x: 40 random sessions against 5 (section 3.2)",
        f"size at which random is best (chosen on validation) / {top}; interval of the size that is best on test over "
        "the draws, widened to hold it. Supported: interval above 1, and the top sessions above the best random",
        "x",
        best_random_ratio,
        threshold=1.0,
    )
    tested, each, _ = answers(claim, grid, estimator, "test")
    chosen = {h: best_size(grid, h, "random", "validation") for h in grid.heldout}
    ratios = {h: None if size is None else size / top for h, size in chosen.items()}
    found = {h: _at(each[h], ratios[h]) for h in grid.heldout}
    known = [ratio for h, ratio in ratios.items() if ratio is not None and found[h].mean is not None]
    whole = bool(known) and (len(known) == len(ratios) or grid.allow_missing)
    average = _at(tested, float(np.mean(known)) if whole else None)
    sizes = {h: {"random": size} for h, size in chosen.items() if size is not None}
    paper_sizes = {h: best_size(grid, h, "random", "test") for h in grid.heldout}
    of_paper = {h: {"random": size} for h, size in paper_sizes.items() if size is not None}
    paper = paper_choice(tested, claim.unit, claim.threshold, of_paper)
    if paper is not None:
        paper["curve_of_means"] = mean_efficiency(grid)
    last = [h for h, size in chosen.items() if size is not None and size == max(grid.below_all)]
    bound = (
        f"For {', '.join(last)} random is best at the largest size below all: the ratio may be larger." if last else ""
    )
    result = document(claim, average, found, sizes, paper_choice=paper, note=bound)
    return combined(result, top_against_random, f"The top {top} against the best random sizes: {{}}.")


def mean_efficiency(grid: Grid) -> float | None:
    """The paper's number: the size at which the random curve, averaged over held-out sessions, is best, over top."""
    cells = [grid.cell(None, "random", size) for size in grid.below_all]
    known = [(size, cell.mean) for size, cell in zip(grid.below_all, cells, strict=True) if cell.mean is not None]
    if not known or (len(known) < len(cells) and not grid.allow_missing):
        return None
    return inference.data_efficiency([size for size, _ in known], [mean for _, mean in known], grid.top)


def _at(found: Found, mean: float | None) -> Found:
    """The estimate moved to another mean, its interval widened to hold it."""
    if found.mean is None or found.low is None or found.high is None:
        return found
    if mean is None:
        return Found(reason="the best size of the random order cannot be chosen on validation")
    return replace(found, mean=mean, low=min(found.low, mean), high=max(found.high, mean))


def _share(grid: Grid, estimator: Estimator) -> Document:
    """The improvement of the top k as a share of the improvement at the best ranked size.

    On average the ratio of the mean improvements, as in the paper (11.97 / 13.95); its interval is that of all shares
    that the difference (top - share x best) does not exclude. Without a gain there is nothing to share: where the best
    ranked size is not above the baseline the share is not measured, where it is not told apart from it, undecided.
    """
    claim = Claim(
        "top_share",
        f"The top {grid.top} sessions reach most of the improvement of the best ranked size.",
        "86 % (11.97 / 13.95, Table 1)",
        "improvement of the ranked top divided by that of ranked at its best size below all (chosen on validation), "
        "both over the baseline; above 50 %: supported; below: not supported; else undecided",
        "%",
        share_of_best,
        threshold=50.0,
    )
    answers = {}
    for choice in ("validation", "test"):
        questions = {h: share_of_best(grid, h, choice) for h in grid.heldout}
        each = {h: _ratio(grid, estimator, (claim.id, choice), {h: q}) for h, q in questions.items()}
        average = _ratio(grid, estimator, (claim.id, choice), questions)
        sizes = {h: q.sizes for h, q in questions.items()}
        if choice == "validation":  # the paper's choice is shown as the paper makes it
            each = {h: _unless_itself(found, [sizes[h]], grid.top) for h, found in each.items()}
            average = _unless_itself(average, list(sizes.values()), grid.top)
        answers[choice] = average, each, sizes
    found, _, sizes = answers["test"]
    paper = paper_choice(found, claim.unit, claim.threshold, sizes)
    return document(claim, *answers["validation"], paper_choice=paper)


def _unless_itself(found: Found, sizes: Sequence[Mapping[str, int | None]], top: int) -> Found:
    """A share of itself is 100 % and says nothing: where the top is the best size everywhere, nothing is concluded."""
    if found.mean is None or not sizes or any(each.get("ranked") != top for each in sizes):
        return found
    return replace(found, doubt=found.doubt or "The top is itself the best size chosen on validation trials.")


def _ratio(grid: Grid, estimator: Estimator, name: Sequence[Any], questions: Mapping[str, Question]) -> Found:
    bad = {h: why for h, q in questions.items() if (why := q.reason or lacking(q.cells.values()))}
    if bad and (not grid.allow_missing or len(bad) == len(questions)):
        return Found(reason=joined(bad))
    cells = {h: dict(q.cells) for h, q in questions.items() if h not in bad}
    top, best = (
        (lambda draws: percent(draws["a"], draws["baseline"])),
        (lambda draws: percent(draws["b"], draws["baseline"])),
    )
    found = estimator.ratio(name, cells, top, best)
    if found.mean is None or found.low is None or found.high is None:
        return replace(found, mean=None if found.mean is None else 100 * found.mean)
    return replace(found, mean=100 * found.mean, low=100 * found.low, high=100 * found.high)


def _weaker(grid: Grid, estimator: Estimator) -> Document:
    """Scaling weaker in ranked order than in both others (Fig. 3c): both must hold.

    In percent of the order's own one-session model, as in the paper; in bits per spike where such a model is not
    clearly above zero, so that there is no percentage.
    """
    if one_session_scores_positive(grid):
        percentage = _weaker_in(grid, estimator, "percentage points")
        if percentage["verdict"] != NOT_MEASURED:
            return percentage
    return _weaker_in(grid, estimator, "bps")


def _weaker_in(grid: Grid, estimator: Estimator, unit: str) -> Document:
    claim = Claim(
        "weaker_scaling_ranked",
        "More sessions add less in ranked order than in random and in reverse-ranked order.",
        "clearly weaker (Fig. 3c)",
        "gain over the order's own one-session model, mean over the sizes between one and all: random minus ranked, "
        "and reverse-ranked minus ranked; both intervals above 0: supported; one below: not supported; else undecided",
        unit,
        scaling_gap("random", unit),
    )
    judged = judge(claim, grid, estimator)
    reverse = judge(replace(claim, id=f"{claim.id} reverse", ask=scaling_gap("reverse_ranked", unit)), grid, estimator)
    if reverse["value"]:
        judged["beside"] = [{"name": "reverse-ranked minus ranked", **reverse["value"]}]
    if reverse["verdict"] == NOT_MEASURED != judged["verdict"]:
        judged |= {"value": None, "note": reverse["note"]}
    return combined(judged, reverse, "Against reverse-ranked order: {}.")


def extrapolation(grid: Grid, fits: Sequence[Document]) -> Document:
    """The logarithmic fit of the random order, extrapolated to all sessions, minus the score measured there.

    Random order only: the ranked order has its best sessions first, so its curve flattens whatever scaling does. The
    interval is the prediction interval of a single further run: the measured score must lie below all of it.
    """
    claim = Claim(
        "extrapolation_above_measured",
        "The logarithmic fit of the random order promises more than all sessions give.",
        "measured consistently lower than extrapolated (Fig. 3b)",
        "predicted at all sessions minus measured there, random order only; 95 % prediction interval above 0: "
        "supported; below: not supported; else undecided",
        "bps",
        no_question,
    )
    by_heldout = {fit["heldout"]: fit for fit in fits if fit["arm"] == "random"}
    each = {h: _beyond(grid, by_heldout.get(h), h) for h in grid.heldout}
    average = _beyond(grid, by_heldout.get(None), None)
    return document(claim, average, each, {})


def _beyond(grid: Grid, fit: Document | None, heldout: str | None) -> Found:
    if fit is None:
        return Found(reason="the study has no random order")
    measured, predicted = fit["measured_all"], fit["predicted_all"]
    if predicted is None or measured["mean"] is None:
        why = fit["reason"] if predicted is None else f"all sessions: {measured['reason']}"
        return Found(reason=str(why))
    at = measured["mean"]
    low, high = (_less(predicted[name], at) for name in ("prediction_low", "prediction_high"))
    names = grid.heldout if heldout is None else (heldout,)
    every = [grid.cell(h, "all", grid.n_pool) for h in names]
    cells = [grid.cell(h, "random", size) for h in names for size in grid.below_all]
    n_heldout, why = sum(cell.mean is not None for cell in every), doubt([*every, *cells])
    return Found(predicted["mean"] - at, low, high, reason=fit["reason"], doubt=why, n_heldout=n_heldout)


def _less(value: float | None, by: float) -> float | None:
    return None if value is None else value - by


def session_specific(grid: Grid, overlap: Document | None) -> Document:
    """Fewer sessions in all top-k lists than rankings share that differ by noise alone (Fig. A2), at the study's top k.

    The band is what "one quality for all held-out sessions, plus the noise of single rankings" gives; below all of it:
    supported; above all of it: not supported; inside: undecided, since noise alone would do.
    """
    top = grid.top
    claim = Claim(
        "session_specific",
        "Rankings are specific to the held-out session: their top lists share less than noise alone explains.",
        "0 of 84 in all five top 5, 3 in all top 23 (Fig. A2)",
        f"sessions in every top {top} expected under one shared quality plus noise, minus those found; 95 % band above "
        "0: supported; below: not supported; else undecided",
        "sessions",
        no_question,
    )
    found = _shortfall(top, overlap)
    return document(claim, found, {}, {}, note=_below_band(overlap))


def _shortfall(top: int, overlap: Document | None) -> Found:
    if overlap is None:
        return Found(reason="fewer than two rankings of the same sessions")
    if overlap.get("quality_low") is None:
        return Found(reason=overlap.get("quality_reason") or "no band under shared quality", n_heldout=0)
    at = overlap["k"].index(min(top, overlap["k"][-1]))
    size = overlap["size"][at]
    mean, low, high = (float(overlap[name][at] - size) for name in ("quality_expected", "quality_low", "quality_high"))
    return Found(mean, low, high, n_heldout=len(overlap["heldout"]))


def _below_band(overlap: Document | None) -> str:
    if overlap is None or overlap.get("quality_low") is None:
        return ""
    below = [
        str(k) for k, size, low in zip(overlap["k"], overlap["size"], overlap["quality_low"], strict=True) if size < low
    ]
    words = f"Below the band at k = {', '.join(below)}." if below else "Nowhere below the band."
    if overlap.get("trial_variance") is None:
        words += " The band does not know which noise comes from the choice of trials: it may be too high."
    return words
