"""What stands below the figures of a study: what is drawn, what bars and bands are, and why a figure is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sessionwise.analysis.study_session_figures import MOST_PREDICTORS

Document = Mapping[str, Any]

_TEXTS = {
    "claims": "The claims at a glance: on average, for each held-out session, and the number that was judged with its "
    "95 % interval. Disc: supported; cross: not supported; ring: undecided; dash: not measured.",
    "scaling": "Score on test trials against the number of sessions (Fig. 3a of the paper). {bars} {single}Dashed: "
    "baseline{band}.{refused}",
    "trials": "The same scores against all trials of the pretraining sessions (Fig. 3b of the paper). Lines: least "
    "squares on ln(trials) without all sessions; shading: SD of the runs about the line. Diamonds: the fit "
    "extrapolated to all sessions, drawn beside the star that was measured there; thick: 95 % interval of the line, "
    "thin: 95 % prediction interval (cut where it leaves the panel).",
    "over-one": "Percent over the same order's model of one session (Fig. 3c of the paper). {bars} All relative to the "
    "mean score of one session; the average is that of the percentages and has no single runs.",
    "cost": "Mean test score against the optimiser steps of one pretraining and finetuning. {bars} Along each line the "
    "number of sessions grows. Dashed: the baseline's score.",
    "controls": "Paired differences of the controls: diamonds with 95 % intervals are averages over held-out sessions "
    "(or the only one), filled where the interval leaves out zero; rings are single held-out sessions. An arrow: "
    "beyond the axis, with its number.",
    "many-shuffles": "Random sets of one size and the ranked set of the same size. p: share of the random sets, the "
    "ranked one counted in, that are as good or better.",
    "single-scores": "Validation scores of single sessions' frozen cores, sorted (Fig. A1 of the paper). Bars: 80 % "
    "intervals over validation trials and seeds. Small open markers: single runs. Bands: SD over seeds.",
    "overlap": "Sessions in the top k for every held-out session (Fig. A2 of the paper). Grey: expectation and 95 % "
    "band for lists in random order. {quality}",
    "metadata": "Validation scores of single sessions, less the mean of their held-out session, against what is known "
    "about the sessions. ρ: Spearman's correlation{averaged}. {some}",
    "transfer": "Transfer score from every session (row) to every other (column), validation trials, mean over seeds. "
    "Grey: a session to itself, or no score.",
    "curves": "Validation score during training. A curve that still climbs at its end was not trained to the end.",
}
_REFUSED = " A cross at the axis: the mean is refused because a run is missing."
_ONE_RUN = "One run a point: no SD."


def caption(name: str, document: Document) -> str:
    """What a figure shows, with the source of its error bars."""
    known = document["overlap"] or {}
    hatched = "Hatched: 95 % band when all held-out sessions share one quality and single rankings add noise."
    words = {
        "bars": bars(document),
        "single": "Small open markers: single runs. " if len(document["seeds"]) > 1 else "",
        "refused": _REFUSED if any(p["mean"] is None for curve in document["curves"] for p in curve["points"]) else "",
        "band": ", band: SD over seeds" if len(document["seeds"]) > 1 else "",
        "quality": hatched if known.get("quality_low") else "The band under a shared quality is missing.",
        "averaged": " of the mean over held-out sessions" if len(document["heldout"]) > 1 else "",
        "some": _some_predictors(document),
    }
    return _TEXTS[name].format(**words).strip()


def bars(document: Document) -> str:
    """What the bars of the scaling figures are: it differs between the orders."""
    source: dict[str, list[str]] = {"seeds": [], "shuffles": []}
    for curve in document["curves"]:
        if any(point["sd"] is not None for point in curve["points"]) and curve["arm"] not in source[curve["sd_source"]]:
            source[curve["sd_source"]].append(curve["arm"])
    names = {kind: " and ".join(arm.replace("_", "-") for arm in arms) for kind, arms in source.items()}
    parts = []
    if names["seeds"]:
        parts.append(f"SD over seeds ({names['seeds']}, all sessions; n = {len(document['seeds'])})")
    if names["shuffles"]:
        parts.append(f"SD over shuffles ({names['shuffles']}; n = {document['shuffles']}, each with one seed)")
    return f"Bars: {', '.join(parts)}." if parts else _ONE_RUN


def absent(name: str, document: Document) -> str:
    """Why a figure is not there."""
    reason = {
        "claims": "no claim could be measured",
        "scaling": _first_reason(document["curves"]) or "no order was run",
        "trials": _first_reason(document["curves"]) or "no score with a known number of trials",
        "over-one": "no model of one session, or its score is not above zero",
        "cost": "no mean score with a known number of steps",
        "controls": "no control was run, or none has a score",
        "many-shuffles": "the study has no control of many random sets, or none has a score",
        "single-scores": "no ranking has a score",
        "overlap": "it takes rankings of at least three common sessions for at least two held-out sessions",
        "metadata": "no metadata that is known of all sessions and differs between them",
        "transfer": "transfer from all to all was not asked for, or has no score",
        "curves": "no training curve is stored",
    }[name]
    return f"{TITLES[name]} is not drawn: {reason}."


TITLES = {
    "claims": "The overview of the claims",
    "scaling": "Score against number of sessions (Fig. 3a)",
    "trials": "Score against trials (Fig. 3b)",
    "over-one": "Percent over one session (Fig. 3c)",
    "cost": "Score against steps",
    "controls": "The figure of the controls",
    "many-shuffles": "The ranked set among many random sets",
    "single-scores": "Scores of single sessions (Fig. A1)",
    "overlap": "Overlap of rankings (Fig. A2)",
    "metadata": "Score against metadata",
    "transfer": "The transfer matrix",
    "curves": "The figure of training curves",
}


def _first_reason(curves: Any) -> str | None:
    reasons = [point["reason"] for curve in curves for point in curve["points"] if point["reason"]]
    return reasons[0] if reasons else None


def _some_predictors(document: Document) -> str:
    n = len((document["metadata"] or {}).get("columns") or ())
    return f"The {MOST_PREDICTORS} strongest of {n}." if n > MOST_PREDICTORS else ""
