"""Rankings by a number that is not the transfer score: the same document, without what was not trained.

Legend: C candidates, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.summary import SCHEMA
from sessionwise.model.streams import stream_seed
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Ranking, cost, facts_of, provenance_of, truth_of


@dataclass(frozen=True, eq=False)
class Scores:
    """Numbers for the sessions of a pool, more is better.

    values: id -> number, or None where there is none, with the cause in ``reasons`` (state and words). draws: (B, C) of
    the sessions with a number, in their order in ``values``, for intervals; None: the number is exact, or its error is
    unknown. label: what the number is, for axes and tables. kind: in a sentence. note: what
    the verdict says after who is first.
    """

    values: Mapping[str, float | None]
    label: str
    kind: str
    draws: np.ndarray | None = None
    reasons: Mapping[str, tuple[str, str]] | None = None
    note: str = (
        "No core was tried on the held-out session: nothing here says by how much pretraining on it helps. The full "
        "procedure does (--method full)."
    )


class Untrained:
    """A ranker that computes no run."""

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """None."""
        return []


def ranking_by(
    method: str,
    target: str,
    found: Scores,
    context: Context,
    seeds: Sequence[int] = (),
    others: Sequence[str] = (),
) -> Ranking:
    """The ranking by these numbers; ``seeds``: those of the runs behind them, ``others``: more sessions behind them."""
    settings, store = context.settings, context.store
    data, specs = context.load(target), list(context.asked.values())
    known = [name for name, value in found.values.items() if value is not None]
    missing = [name for name in found.values if name not in known]
    rows = [{**facts_of(context.sessions, name), **row} for name, row in zip(known, _rows(found, known), strict=True)]
    rows.sort(key=lambda row: row["rank"])
    rows += [{**facts_of(context.sessions, name), **_without(name, found)} for name in missing]
    document = {
        "schema": SCHEMA,
        "heldout": target,
        "method": method,
        "preset": settings.preset,
        "score_kind": found.kind,
        "score_label": found.label,
        "seeds": list(seeds),
        "split_seed": settings.split_seed,
        "split": settings.split,
        "n_validation_trials": len(data.split.validation),
        "n_validation_spikes": None,
        "n_units": data.n_units,
        "settings": settings.model_dump(),
        "rows": rows,
        "baseline": None,
        "random_core": None,
        "differences": [],
        "noise": {"seed_correlation": None, "seed_sd": None, "spread_sd": None, "p_equal": None},
        "horizon": {"steps_ahead": []},
        "curves": [],
        "cost": cost(specs, store, context.sessions),
        "truth": truth_of(target, context.sessions, rows),
        "provenance": provenance_of(target, [*found.values, *others], settings, specs, context.sessions, store),
        "verdict": {"text": _verdict(rows, found), "different": False},
    }
    return Ranking(document)


def standard(values: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Values (..., C) less the mean of ``reference`` (C,) (default: themselves) over its SD; 0 where all are equal."""
    reference = values if reference is None else reference
    spread = reference.std()
    return (values - reference.mean()) / spread if spread > 0 else np.zeros_like(values)


def generator(method: str, target: str, context: Context) -> np.random.Generator:
    """Random numbers of a method for a held-out session: they depend on the split seed, not on the pool."""
    return np.random.default_rng(stream_seed(context.settings.split_seed, "ranker", method, target))


def _rows(found: Scores, known: Sequence[str]) -> list[dict[str, Any]]:
    values = np.array([found.values[name] for name in known], dtype=np.float64)
    nothing: dict[str, Any] = {"sd": None, "seed_scores": [], "state": "done", "reason": None, "runs": []}
    if found.draws is not None and len(known):
        drawn = statistics.rank_draws(values, found.draws, rng=np.random.default_rng(0))
        return [{**drawn.row(i), **nothing} for i in range(len(known))]
    order = np.argsort(-values, kind="stable")
    rank = {int(position): at for at, position in enumerate(order, start=1)}
    exact: dict[str, Any] = {"rank_low": None, "rank_high": None, "rank_chance": None, "p_top": {}, **nothing}
    return [{"rank": rank[i], "score": float(value), **exact} for i, value in enumerate(values)]


def _without(name: str, found: Scores) -> dict[str, Any]:
    state, reason = (found.reasons or {}).get(name, ("failed", "no number"))
    nothing = dict.fromkeys(("rank", "score", "sd", "rank_low", "rank_high", "rank_chance"))
    return {**nothing, "p_top": {}, "seed_scores": [], "state": state, "reason": reason, "runs": []}


def _verdict(rows: Sequence[Mapping[str, Any]], found: Scores) -> str:
    if not rows or rows[0]["state"] != "done":
        return "No session could be ranked."
    return f"{rows[0]['session']} ranks first by {found.label}. {found.note}"
