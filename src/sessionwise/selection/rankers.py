"""Rank the pool for held-out sessions by any method: the paper's procedure, cheaper ones, and controls.

A ranker is a class with ``name``, ``about``, ``runs`` and ``rank`` (`Ranker`). Others than ours are found by the entry
point group ``sessionwise.rankers``: its entries name such classes, which take no argument.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sessionwise.data.store import SessionStore
from sessionwise.errors import SessionwiseError, UsageError
from sessionwise.io.files import canonical_json, folder_name, sha256_bytes
from sessionwise.runs.launch import time_spent
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.budget import Budget, parse_budget, settle_budget
from sessionwise.selection.completion import MatrixCompletion
from sessionwise.selection.context import Context
from sessionwise.selection.controls import OtherTargets, OwnScore, Random, Trials
from sessionwise.selection.ensemble import Ensemble
from sessionwise.selection.halving import Halving
from sessionwise.selection.plugins import find_named, known_names
from sessionwise.selection.pool import choose_pool
from sessionwise.selection.procedure import Full, Short, SmallProxy
from sessionwise.selection.ranking import (
    DEFAULT_SEEDS,
    METHOD,
    Ranking,
    asked_settings,
    cost,
    make_plan,
    save_picture,
    save_ranking,
    seed_problems,
    study_problems,
)
from sessionwise.selection.set_regression import SetRegression
from sessionwise.selection.shrunk import FullShrunk, SmallShrunk
from sessionwise.selection.zero_training import LatentDistance, QualityRanker, ZeroTraining
from sessionwise.training.jobs import environment

GROUP = "sessionwise.rankers"


class Ranker(Protocol):
    """A way to rank a pool for a held-out session.

    name: of ``--method``, and of the folder of its rankings. about: a line for people. The held-out session's test
    trials are sealed for every ranker, and it reaches no pretraining. One that can do with more or less spends
    ``context.budget``; what ``runs`` gives has to fit into it, or nothing is trained.
    """

    name: str
    about: str

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """The runs that are known before any has ended: for all held-out sessions together they keep workers busy."""

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """The ranking. Every run it stands on goes through ``context.compute``; what is stored is not repeated."""


_OURS: tuple[type[Ranker], ...] = (
    Full,
    Short,
    SmallProxy,
    FullShrunk,
    SmallShrunk,
    Halving,
    SetRegression,
    LatentDistance,
    QualityRanker,
    ZeroTraining,
    MatrixCompletion,
    Ensemble,
    OwnScore,
    OtherTargets,
    Trials,
    Random,
)


def rankers() -> dict[str, str]:
    """Every method's name and what it does; those of other packages come last."""
    return known_names(_OURS, GROUP)


def find_ranker(name: str) -> Ranker:
    """The ranker of a name; UsageError when there is none, or when another package's cannot be loaded."""
    found: Ranker = find_named(name, _OURS, GROUP, "--method", "method")
    return found


def rank(
    sessions: SessionStore,
    heldout: str,
    *,
    method: str = METHOD,
    budget: str | None = None,
    pool: str | Sequence[str] | None = None,
    preset: str = "small",
    seeds: Sequence[int] = DEFAULT_SEEDS,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    to: str | Path = "sessionwise-study",
    on: str = "processes",
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Ranking:
    """Rank the pool for one held-out session, by default by the paper's procedure.

    The parameters are those of ``rank_many``; ``heldout`` is one id.
    """
    (ranking,) = rank_many(
        sessions,
        [heldout],
        method=method,
        budget=budget,
        pool=pool,
        preset=preset,
        seeds=seeds,
        overrides=overrides,
        to=to,
        on=on,
        progress=progress,
        retry_failed=retry_failed,
    )
    return ranking


def rank_many(
    sessions: SessionStore,
    heldout: Sequence[str],
    *,
    method: str = METHOD,
    budget: str | None = None,
    pool: str | Sequence[str] | None = None,
    preset: str = "small",
    seeds: Sequence[int] = DEFAULT_SEEDS,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    to: str | Path = "sessionwise-study",
    on: str = "processes",
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> list[Ranking]:
    """Rank the pool for each of several held-out sessions; they share their single-session models.

    Parameters
    ----------
    sessions: an open store.
    heldout: ids; they never reach pretraining.
    method: the name of a ranker (``rankers()``); ``"full"`` is the paper's procedure.
    budget: what a ranking for one held-out session may cost from scratch: ``"30%"`` of the full procedure's operations,
        ``"5000-steps"`` or ``"2h"``. ``halving`` and ``set_regression`` spend it; the others cost what they cost.
        None: each method's own measure.
    pool: ids, a filter such as ``"subject != Hench"``, or None for all that are not held out.
    preset, overrides: ``"tiny"``, ``"small"`` or ``"paper"``, and changes such as ``{"train.epochs": 50}``.
    seeds: one pretraining and one finetuning a seed and session; the score is their mean.
    to: the study's folder. What is stored there is not computed again; call again after any interruption.
    on: ``"processes"``, ``"processes:n"``, ``"here"``, ``"slurm"`` or ``"dask:ADDRESS"``.

    Raises LeakageError when a held-out session is in the pool by id or by content; UsageError for settings, and for a
    budget below what the method costs; EnvironmentProblem when the runs cannot fit on the disk or in memory.
    """
    names, study = list(heldout), Path(to)
    ranker, problems = _asked_ranker(method)
    settings, more = asked_settings(preset, overrides)
    problems += more + _budget_problems(budget) + seed_problems(seeds) + study_problems(study, sessions)
    chosen = choose_pool(sessions, names, pool, problems)
    assert ranker is not None
    context = Context(sessions, settings, tuple(sorted(seeds)), tuple(names), study, on, progress, retry_failed)
    started = time.monotonic()
    budgets = {name: _settled(budget, name, chosen, context) for name in names} if budget else {}
    context.compute(_first_runs(ranker, names, chosen, budgets, context))
    found, added = [], []
    for name in names:
        context.asked, context.budget = {}, _operations(budgets.get(name))
        found.append(_told(ranker.rank(name, chosen, context), budgets.get(name)))
        new = [spec for key, spec in context.asked.items() if key in context.missing]
        added.append(cost(new, context.store, sessions))
    seconds = time.monotonic() - started
    work = time_spent(context.outcomes.values(), on, seconds)
    for ranking, extra in zip(found, added, strict=True):
        about = {"seconds": seconds, "added": extra, "work": work, "collected_by": environment()}
        save_ranking(ranking, study, about)
    for ranking in found:
        save_picture(settings, ranking, sessions, study)
    return found


def _first_runs(
    ranker: Ranker, names: Sequence[str], pool: Sequence[str], budgets: Mapping[str, Budget], context: Context
) -> list[RunSpec]:
    """The runs that are known beforehand, for all held-out sessions; UsageError where the budget is smaller."""
    every = []
    for name in names:
        context.budget = _operations(budgets.get(name))
        runs = ranker.runs(name, pool, context)
        if context.budget is not None and (price := context.price(runs)) > context.budget:
            whole = budgets[name].full_operations
            raise UsageError(
                "--budget",
                f"{budgets[name].asked} is {context.budget:.3g} operations; {ranker.name} takes {price:.3g}",
                f"{100 * price / whole:.0f}% or more of the full procedure's {whole:.3g}",
                "Or fewer --seeds, or another --method: halving spends what it is given, zero_training trains nothing",
            )
        every += runs
    return every


def _settled(budget: str, heldout: str, pool: Sequence[str], context: Context) -> Budget:
    """The budget for one held-out session in operations; one of time is kept beside its rankings."""
    full = make_plan(context.sessions, heldout, pool, context.settings, context.seeds).specs
    content = {name: context.load(name).trainval_hash for name in (*pool, heldout)}
    asked = {"settings": context.settings.model_dump(), "seeds": context.seeds, "content": content}
    tag = sha256_bytes(canonical_json({**asked, "budget": "".join(budget.lower().split())}))[:8]
    folder = context.study / "rankings" / folder_name(heldout) / f"budget-{tag}"
    return settle_budget(budget, full, heldout, folder, context)


def _operations(budget: Budget | None) -> int | None:
    return None if budget is None else budget.operations


def _told(ranking: Ranking, budget: Budget | None) -> Ranking:
    """The ranking with its budget, where it had one, and which share of the full procedure's cost it took."""
    if budget is None:
        return ranking
    spent = ranking.document["cost"]["operations"]
    share = spent / budget.full_operations if budget.full_operations else None
    return Ranking({**ranking.document, "budget": {**budget.to_json(), "spent_operations": spent, "share": share}})


def _budget_problems(budget: str | None) -> list[SessionwiseError]:
    try:
        if budget is not None:
            parse_budget(budget)
    except UsageError as error:
        return [error]
    return []


def _asked_ranker(method: str) -> tuple[Ranker | None, list[SessionwiseError]]:
    try:
        return find_ranker(method), []
    except SessionwiseError as error:
        return None, [error]
