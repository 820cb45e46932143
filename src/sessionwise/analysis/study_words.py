"""The words of a study's report: names of arms, claims and comparisons, and numbers with their unit.

Figures, tables and the page take them from here, so that one thing has one name everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessionwise.analysis.pages import number, shown, signed

Document = Mapping[str, Any]

ARMS = {
    "ranked": "ranked",
    "random": "random",
    "reverse_ranked": "reverse-ranked",
    "all": "all sessions",
    "baseline": "baseline",
    "psth": "PSTH",
    "glm": "GLM",
    "random_core": "random frozen core",
    "own_core": "own core, frozen",
    "baseline_doubled": "baseline, twice the steps",
    "step_matched": "step-matched",
    "trial_matched": "trial-matched random",
    "other_targets": "others' ranking",
    "many_shuffles": "many shuffles",
    "fresh_seeds": "fresh seeds",
    "full_finetune": "core not frozen",
    "minus_worst": "minus the worst",
    "ranking": "ranking",
}
# Fewer words than a claim's text, for figures; {top} and {all} are the study's numbers of sessions.
_CLAIMS = {
    "ranked_above_random": "ranked > random",
    "random_above_reverse": "random > reverse-ranked",
    "top_above_best_random": "top {top} > best random",
    "top_above_all": "top {top} > all {all}",
    "best_random_above_all": "best random > all {all}",
    "points_gain": "ranked − random, % points > 0",
    "data_efficiency": "data efficiency > 1×",
    "top_share": "top {top} share of best > 50 %",
    "gaps_below_ten": "gaps larger below ten",
    "weaker_scaling_ranked": "scaling weaker when ranked",
    "extrapolation_above_measured": "extrapolation > measured",
    "session_specific": "rankings session-specific",
}
# Digits and what stands after the number.
_UNITS = {
    "bps": (4, "bits/spike"),
    "%": (1, "%"),
    "percentage points": (2, "% points"),
    "x": (1, "×"),
    "sessions": (1, "sessions"),
}
# Units in which zero is not "no difference": no sign.
_UNSIGNED = ("x", "%")


def arm_name(arm: str, variant: str = "", size: int | None = None) -> str:
    """An arm in words, with its variant and number of sessions."""
    words = [
        ARMS.get(arm, arm),
        ARMS.get(variant, variant),
        "" if size is None else f"{size} session{'s' if size != 1 else ''}",
    ]
    return ", ".join(word for word in words if word)


def claim_name(claim: Document, document: Document) -> str:
    """A claim in a few words."""
    text = _CLAIMS.get(claim["id"], str(claim["id"]).replace("{", "{{").replace("}", "}}"))
    return text.format(top=document["top"], all=document["n_pool"])


def heldout_name(heldout: str | None, document: Document) -> str:
    """A held-out session's id, or what the average is over."""
    return f"average of {len(document['heldout'])}" if heldout is None else str(heldout)


def compared(row: Document, document: Document) -> str:
    """What a row of a control is, without what it is compared with."""
    size, n_pool = row["size"], document["n_pool"]
    sessions = "" if size is None else "all sessions" if size == n_pool else f"{size} session{'s' if size != 1 else ''}"
    variant = str(row["variant"]).replace("_", "-")
    if row["arm"] == "step_matched":
        return f"{'top ' + str(size) if size != n_pool else sessions}, {variant}"
    if row["arm"] in ("full_finetune", "minus_worst"):
        return ", ".join(filter(None, [variant, sessions]))
    return ", ".join(filter(None, [ARMS.get(row["arm"], row["arm"]), sessions]))


def in_unit(value: float | None, unit: str) -> str:
    """A number with the digits of its unit; with a sign where it is a difference."""
    digits = _UNITS.get(unit, (4, ""))[0]
    return number(value, digits) if unit in _UNSIGNED else signed(value, digits)


def unit_name(unit: str) -> str:
    """What stands behind a number of this unit."""
    return _UNITS.get(unit, (4, unit))[1]


def with_interval(value: Document | None, unit: str = "bps") -> str:
    """``mean [low, high]`` in a unit; a dash where there is no value, no brackets where there is no interval."""
    if value is None or value.get("mean") is None:
        return "–"
    low, high = value.get("low"), value.get("high")
    if low is None or high is None:
        return in_unit(value["mean"], unit)
    return f"{in_unit(value['mean'], unit)} [{in_unit(low, unit)}, {in_unit(high, unit)}]"


def clear(difference: Document | None) -> bool:
    """Whether an interval leaves out zero."""
    if not difference or difference.get("low") is None or difference.get("high") is None:
        return False
    return bool(difference["low"] > 0 or difference["high"] < 0)


def listed(words: Sequence[Any], most: int = 6) -> str:
    """``a, b and 3 more``."""
    names = [shown(word) for word in words]
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"
