"""A study's results as one document: every number of the report with its uncertainty, its source, or why it is missing.

``analyse`` is a pure function of the results: the same results give the same document, byte for byte. Tables, figures
and the page read nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sessionwise.analysis.answer import answer
from sessionwise.analysis.cells import METRIC, ORDERS, SHUFFLED, Grid
from sessionwise.analysis.claims import claims, order_claims
from sessionwise.analysis.controls import controls, many_shuffles
from sessionwise.analysis.estimates import LEVEL, Estimator
from sessionwise.analysis.ranked_sessions import (
    closeness,
    main_rankings,
    metadata,
    metadata_points,
    overlap,
    single_scores,
    training_curves,
    transfer,
)
from sessionwise.analysis.results import Row, StudyResults
from sessionwise.analysis.scaling import baselines, cost, cost_vs_score, curves, fits, steps_by_arm, table1, table_a2
from sessionwise.analysis.summary import require_finite
from sessionwise.analysis.trial_splits import study_split

SCHEMA = 1
Document = dict[str, Any]


def analyse(results: StudyResults, *, allow_missing: bool = False, n_boot: int = 2000) -> Document:
    """The document of a study.

    allow_missing: means over the runs that are there; each says how many were asked for. Otherwise a mean over an
    incomplete set is refused, with the reason, and so is every claim that needs it. n_boot: draws of each bootstrap.
    """
    study, rankings = results.study, main_rankings(results.study, results.rankings)
    grid, estimator = Grid(results, allow_missing=allow_missing), Estimator(n_boot)
    document: Document = {
        "schema": SCHEMA,
        "name": study.get("name", ""),
        **{name: study[name] for name in ("heldout", "pool", "n_pool", "seeds", "sizes", "top", "orders", "shuffles")},
        "split_seed": grid.split_seed,
        "trial_split": study_split(study, rankings),
        "metric": METRIC,
        "level": LEVEL,
        "n_boot": n_boot,
        "allow_missing": allow_missing,
        "counts": counts(results.rows),
        "curves": curves(grid, estimator),
        "baselines": baselines(grid, estimator),
        "table1": table1(grid, estimator),
        "table_a2": table_a2(grid, estimator),
        "fits": fits(grid, n_boot),
        "controls": controls(grid, estimator),
        "many_shuffles": many_shuffles(grid),
        "closeness": closeness(rankings, n_boot),
        "overlap": overlap(rankings, n_boot),
        "metadata": metadata(study, rankings),
        "metadata_points": metadata_points(study, rankings),
        "transfer": transfer(results.transfer),
        "split_seeds": split_seeds(results, allow_missing, n_boot),
        "single_scores": single_scores(rankings),
        "training_curves": training_curves(rankings),
        "cost": cost(grid, rankings),
        "cost_vs_score": cost_vs_score(grid),
        "steps_by_arm": steps_by_arm(grid),
        "failed": failed(results),
        "provenance": provenance(results, n_boot),
    }
    document["claims"] = claims(grid, estimator, document["fits"], document["overlap"])
    document["answer"] = answer(document, grid, estimator, rankings)
    require_finite(document, "analysis of the study")
    return document


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many test scores were asked for, by state; runs that several arms share count in each."""
    found = Counter(row.state for row in _asked(rows))
    return {state: found.get(state, 0) for state in ("done", "diverged", "failed", "missing")}


def failed(results: StudyResults) -> list[Document]:
    """Everything that has no score, in words, with its state and reason."""
    main = results.study["split_seeds"][0]
    found = [
        {"what": _what(row, main), "state": row.state, "reason": row.reason or "no reason recorded"}
        for row in _asked(results.rows)
        if row.state != "done"
    ]
    for ranking in results.rankings:
        split = "" if ranking["split_seed"] == main else f", split seed {ranking['split_seed']}"
        named = [(f"session {row['session']}", row) for row in ranking["rows"]]
        named += [(name.replace("_", " "), ranking[name]) for name in ("baseline", "random_core") if ranking[name]]
        for what, row in named:
            if row["state"] != "done":
                reason = row.get("reason") or "no reason recorded"
                where = f"ranking for {ranking['heldout']}{split}: {what}"
                found.append({"what": where, "state": row["state"], "reason": reason})
    for cell in results.transfer:
        if cell["state"] != "done":
            what = f"transfer from {cell['source']} to {cell['target']}, seed {cell['seed']}"
            found.append({"what": what, "state": cell["state"], "reason": cell["reason"] or "no reason recorded"})
    return found


def _asked(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.metric == METRIC and row.part == "test"]


def _what(row: Row, main: int) -> str:
    words = [row.arm.replace("_", "-"), row.variant, f"at {row.size}" if row.size is not None else ""]
    run = f"shuffle {row.draw + 1}" if row.arm in SHUFFLED else f"seed {row.seed}"
    split = "" if row.split_seed == main else f", split seed {row.split_seed}"
    return f"{' '.join(filter(None, words))} for {row.heldout}, {run}{split}"


def split_seeds(results: StudyResults, allow_missing: bool, n_boot: int) -> list[Document] | None:
    """The orders and their claims under every split of trials, the main one first; None with one split."""
    seeds = results.study["split_seeds"]
    if len(seeds) < 2:
        return None
    found = []
    for i, seed in enumerate(seeds):
        grid = Grid(results, split_seed=seed, allow_missing=allow_missing)
        estimator = Estimator(n_boot, scope=("split", seed) if i else "")
        judged = order_claims(grid, estimator)
        kept = ("id", "text", "verdict", "value", "n_heldout", "note")
        points = [
            {"heldout": heldout, "arm": order, "size": size, **_short(grid, heldout, order, size)}
            for heldout in (*grid.heldout, None)
            for order in grid.orders
            for size in grid.sizes
        ]
        claims_of_split = [{name: claim[name] for name in kept} for claim in judged]
        found.append({"split_seed": seed, "main": i == 0, "claims": claims_of_split, "points": points})
    return found


def _short(grid: Grid, heldout: str | None, order: str, size: int) -> Document:
    plain = grid.cell(heldout, order, size).plain()
    return {name: plain[name] for name in ("mean", "sd", "n", "n_asked", "reason")}


def provenance(results: StudyResults, n_boot: int) -> Document:
    """What was asked, on which data, with which versions; enough to find the runs behind every number."""
    study, about = results.study, results.about
    hashes = ("trainval_hash", "test_hash")
    asked = ("recipe", "identity", "settings", "preset", "controls", "versions", "seeds", "orders", "shuffles")
    return {
        **{name: study[name] for name in (*asked, "split_seeds", "splits") if name in study},
        "sessions": {i: {name: facts.get(name) for name in hashes} for i, facts in study["sessions"].items()},
        **{name: about.get(name) for name in ("rankings", "openings", "final_evaluations", "cost", "environments")},
        "notes": [
            "Scores are pooled bits per spike on test trials, unless they are said to be on validation trials.",
            f"Intervals: 95 %, nested bootstrap, {n_boot} draws: held-out session, then seed or shuffle, then trial.",
            f"SD: over seeds; over shuffles and seeds together in the random order. Orders: {', '.join(ORDERS)}.",
            "The best size of an order is one below all sessions; for verdicts it is chosen on validation trials.",
            "Every point names its runs; a run is a final evaluation, and its test trials are opened once.",
        ],
    }
