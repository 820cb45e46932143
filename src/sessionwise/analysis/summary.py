"""What a ranking says, as plain values: the numbers and words that the report shows and that are not in the ranking.

Everything here is computed from ``ranking.json`` alone and is itself JSON, so that the page can carry every number
that it shows. A missing result is None with a reason, never a zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sessionwise.analysis.checks import require_parts
from sessionwise.analysis.statistics import partial_correlation, spearman, spearman_interval, top_k_overlap
from sessionwise.analysis.trial_splits import ranking_split
from sessionwise.errors import DataError

Ranking = Mapping[str, Any]
Row = Mapping[str, Any]

SCHEMA = 1
_PARTS = {"schema", "heldout", "method", "preset", "score_kind", "seeds", "split_seed", "settings", "rows"}
_PARTS |= {"baseline", "random_core", "differences", "noise", "cost", "truth", "verdict", "provenance"}
_ROW = {"session", "state", "score", "rank", "reason", "seed_scores", "p_top", "n_trials", "n_units"}

# What one seed allows to say.
NOT_JUDGED = "not judged: one seed"
ONE_SEED = "one seed: intervals count trials only; the noise between trainings is unknown, use two or more seeds"
GUESSED = "one seed: the noise between trainings is unknown, and in the intervals as a guess; use two or more seeds"
# Of the band by chance; its own generator, so that the same rankings give the same band.
_BAND_SEED = 0

# The comparisons that open the page: what the best core is compared with, and where its own result stands.
_AGAINST: tuple[tuple[str, str, str | None], ...] = (
    ("the median core", "median core", None),
    ("the baseline", "baseline", "baseline"),
    ("a random frozen core", "random core", "random_core"),
)


def check_ranking(document: Any, where: str) -> Ranking:
    """The document, if it has what a ``ranking.json`` of ours has at its top and in its rows; DataError otherwise."""
    needed, remedy = "a ranking.json written by sessionwise", "Run the same rank command again"
    require_parts(document, _PARTS, SCHEMA, where, needed, remedy)
    rows = document["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and row.keys() >= _ROW for row in rows):
        raise DataError(where, "has rows that are no rows of a ranking", needed, remedy)
    return document


def summarise(ranking: Ranking) -> dict[str, Any]:
    """Counts, the best core, its differences in words, and correlations with what is known about the sessions."""
    done = done_rows(ranking)
    return {
        "heldout": ranking["heldout"],
        "n_candidates": len(ranking["rows"]),
        "n_done": len(done),
        "n_diverged": sum(row["state"] == "diverged" for row in ranking["rows"]),
        "n_failed": sum(row["state"] not in ("done", "diverged") for row in ranking["rows"]),
        "best": best_core(done),
        "one_seed": one_seed_words(ranking) if has_one_seed(ranking) else None,
        "split": ranking_split(ranking),
        "controls_without_score": _controls_without_score(ranking),
        "against": [_against(ranking, *names) for names in _AGAINST],
        "trials": _correlation(done, "n_trials"),
        "units": _correlation(done, "n_units"),
        "trials_given_units": _partial(done, "n_trials", "n_units"),
        "units_given_trials": _partial(done, "n_units", "n_trials"),
    }


def done_rows(ranking: Ranking) -> list[Row]:
    """The rows with a score, best first."""
    return [row for row in ranking["rows"] if row["state"] == "done" and row["score"] is not None]


def missing_rows(ranking: Ranking) -> list[Row]:
    """The rows without a score: diverged, failed or not run."""
    done = {id(row) for row in done_rows(ranking)}
    return [row for row in ranking["rows"] if id(row) not in done]


def has_one_seed(ranking: Ranking) -> bool:
    """Whether the noise between trainings is unknown, so that no difference may be called one."""
    return len(ranking["seeds"]) == 1


def one_seed_words(document: Mapping[str, Any]) -> str:
    """What intervals of one seed leave out, for a ranking or a recommendation."""
    return GUESSED if document.get("noise_guessed") else ONE_SEED


def best_core(done: Sequence[Row]) -> dict[str, Any] | None:
    """The first row, and how many sessions could also be the best (80 % rank interval that begins at 1)."""
    if not done:
        return None
    keys = ("session", "score", "sd", "rank_low", "rank_high", "p_top", "seed_scores", "n_trials", "n_units")
    rivals = sum(row["rank_low"] == 1 for row in done)
    return {**{key: done[0].get(key) for key in keys}, "n_could_be_best": rivals}


def agreement_between_heldout(rankings: Sequence[Ranking]) -> dict[str, Any] | None:
    """Mean Spearman correlation between the scores of the same sessions for different held-out sessions.

    High: the ranking is about quality that every held-out session shares; low: it is specific (or noise).
    """
    scores = [{row["session"]: row["score"] for row in done_rows(ranking)} for ranking in rankings]
    pairs: list[dict[str, Any]] = []
    for i, a in enumerate(scores):
        for j, b in enumerate(scores[:i]):
            if rankings[i]["heldout"] == rankings[j]["heldout"]:
                continue
            common = sorted(a.keys() & b.keys())
            rho = spearman([a[s] for s in common], [b[s] for s in common])
            if rho is not None:
                pairs.append(
                    {"heldout": [rankings[j]["heldout"], rankings[i]["heldout"]], "rho": rho, "n": len(common)}
                )
    return {"mean": math.fsum(pair["rho"] for pair in pairs) / len(pairs), "pairs": pairs} if pairs else None


def overlap_between_heldout(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Fig. A2 of the paper: how many sessions are in the top k for every held-out session, against chance.

    One entry for each way of ranking (method, preset, settings and seeds alike) that was used for two or more held-out
    sessions; of several rankings for one held-out session that with the most scores counts. Only sessions with a score
    for every held-out session enter; ``n_left_out`` counts the others. With fewer than 3 ``curve`` is None.
    """
    alike: dict[str, dict[str, Ranking]] = {}
    for ranking in rankings:
        way = json.dumps([ranking[name] for name in ("method", "preset", "settings", "seeds")], sort_keys=True)
        group = alike.setdefault(way, {})
        known = group.get(ranking["heldout"])
        if known is None or len(done_rows(ranking)) > len(done_rows(known)):
            group[ranking["heldout"]] = ranking
    return [_overlap(list(group.values())) for group in alike.values() if len(group) > 1]


def _overlap(rankings: Sequence[Ranking]) -> dict[str, Any]:
    orders = [[row["session"] for row in done_rows(ranking)] for ranking in rankings]
    common = set.intersection(*map(set, orders))
    candidates = {row["session"] for ranking in rankings for row in ranking["rows"]}
    curve = None
    if len(common) > 2:
        lists = [[session for session in order if session in common] for order in orders]
        found = vars(top_k_overlap(lists, np.random.default_rng(_BAND_SEED)))
        curve = {name: values.tolist() for name, values in found.items()}
    return {
        "heldout": [ranking["heldout"] for ranking in rankings],
        "method": rankings[0]["method"],
        "preset": rankings[0]["preset"],
        "n_common": len(common),
        "n_left_out": len(candidates) - len(common),
        "curve": curve,
    }


def require_finite(value: Any, where: str) -> None:
    """Raise DataError when a number anywhere inside is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(where, f"is {value}", "a number, or null for what is missing")
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_finite(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            require_finite(item, f"{where}[{i}]")


def _against(ranking: Ranking, words: str, name: str, control: str | None) -> dict[str, Any]:
    """One comparison of the best core in words.

    ``found`` is better, worse, not distinguishable, not measured, or with one seed not judged.
    """
    found = next((d for d in ranking.get("differences") or () if _is_best_against(d["name"], name)), None)
    if found is None:
        return {"against": words, "found": "not measured", "reason": _why_not(ranking, control)}
    word = "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "not distinguishable"
    word = NOT_JUDGED if has_one_seed(ranking) else word
    return {"against": words, "found": word, **{key: found[key] for key in ("mean", "low", "high", "level")}}


def _is_best_against(difference: str, name: str) -> bool:
    return difference.startswith("best") and difference.endswith(f"- {name}")


def _controls_without_score(ranking: Ranking) -> list[dict[str, str]]:
    """The controls that were run and failed: without them the answer lacks its yardstick."""
    found = [(words, ranking.get(key)) for words, _, key in _AGAINST if key]
    return [
        {"control": words, "state": str(result["state"]), "reason": str(result.get("reason") or "no reason recorded")}
        for words, result in found
        if result and result["state"] != "done"
    ]


def _why_not(ranking: Ranking, control: str | None) -> str:
    if not done_rows(ranking):
        return "no candidate has a score"
    if control is None:
        return "too few candidates"
    result = ranking.get(control)
    if not result:
        return "it was not run"
    return str(result.get("reason") or result.get("state") or "it has no score")


def _correlation(done: Sequence[Row], key: str) -> dict[str, Any] | None:
    known = [row for row in done if row.get(key) is not None]
    rho = spearman([row["score"] for row in known], [row[key] for row in known])
    if rho is None:
        return None
    interval = spearman_interval(rho, len(known))
    low, high = interval if interval else (None, None)
    return {"rho": rho, "low": low, "high": high, "n": len(known), "level": 0.95}


def _partial(done: Sequence[Row], key: str, given: str) -> float | None:
    known = [row for row in done if row.get(key) is not None and row.get(given) is not None]
    columns = [[row[name] for row in known] for name in ("score", key, given)]
    return partial_correlation(*columns) if known else None
