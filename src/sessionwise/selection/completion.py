"""A third of the finetunings for several held-out sessions at once; the other transfer scores are predicted from them.

Each core of the procedure is finetuned for some held-out sessions only. How good a core was for those, how good others
were for this one, and how alike the recordings are complete the table (`analysis.completion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.completion import Column, Completed, complete, side_of
from sessionwise.errors import UsageError
from sessionwise.model.streams import stream_seed
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Plan, Ranking, failures, gains_of, make_plan
from sessionwise.selection.scored import Scores, generator, ranking_by
from sessionwise.selection.zero_training import likeness_matrix, qualities

MIN_TARGETS = 4  # with fewer, a third leaves cores that no two held-out sessions share
ONE_IN = 3  # the share of cells that is measured
LEAST = 3  # measured cells of a held-out session: fewer show no spread
DRAWS = 2000


class MatrixCompletion:
    """Measure a third of pool x held-out sessions, with all seeds, and predict the rest from it and from activity.

    One set of runs serves all held-out sessions of the question, and each ranking states the cost of all of them. The
    question is part of the answer: with other held-out sessions the scores are others.
    """

    name = "matrix_completion"
    about = "a third of the finetunings of several held-out sessions, the rest predicted (name four or more)"

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """All cores, and the finetunings that are measured, for every held-out session."""
        return [spec for plan in self._plans(pool, context) for spec in plan.specs]

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the posterior mean of the transfer score; intervals are draws from the posterior."""
        plans = self._plans(pool, context)
        outcomes = context.compute(spec for plan in plans for spec in plan.specs)
        table = _Table.of(target, pool, plans, outcomes)
        values: dict[str, float | None] = dict.fromkeys(pool)
        kind, draws = "no score was measured for this held-out session", None
        if table.whole:
            found = self._completed(target, table, plans, context)
            values |= zip(table.whole, map(float, found.mean), strict=True)
            kind, draws = _kind(found, table, plans), found.draws
        note = (
            "A third of the cores was tried on each held-out session. By how much they help, only --method full tells."
        )
        scores = Scores(values, "predicted bits per spike", kind, draws, table.reasons, note)
        others = [plan.heldout for plan in plans if plan.heldout != target]
        return ranking_by(self.name, target, scores, context, context.seeds, others)

    def _plans(self, pool: Sequence[str], context: Context) -> list[Plan]:
        """The procedure for each held-out session, in order of their ids, with the finetunings that are measured."""
        targets = sorted(context.heldout)
        if len(targets) < MIN_TARGETS:
            found = f"{len(targets)} held-out session{'s' * (len(targets) != 1)}"
            how = "Name four or more with --heldout, or use --method small_proxy"
            raise UsageError(f"--method {self.name}", found, "four or more", how)
        cells = measured_cells(pool, targets, context.settings.split_seed)
        asked = (pool, context.settings, context.seeds, self.name)
        whole = [make_plan(context.sessions, target, *asked, controls=False) for target in targets]
        return [_only(plan, cells[plan.heldout]) for plan in whole]

    def _completed(self, target: str, table: _Table, plans: Sequence[Plan], context: Context) -> Completed:
        targets = [plan.heldout for plan in plans]
        columns = [
            self._column(at, plan, table, context) for at, plan in enumerate(plans) if table.measured[plan.heldout]
        ]
        alike = likeness_matrix((*table.whole, *targets), context)
        side = side_of(alike, qualities(table.whole, context))
        rng = generator(self.name, target, context)
        return complete(columns, side, targets.index(target), DRAWS, rng=rng)

    def _column(self, at: int, plan: Plan, table: _Table, context: Context) -> Column:
        """The measured cells of one held-out session; resampled trials tell how noisy they are, and how jointly."""
        names = table.measured[plan.heldout]
        gains, spikes = gains_of(plan, context.store, names)
        rng = generator(f"{self.name} trials", plan.heldout, context)
        drawn = statistics.score_draws(gains.mean(axis=1, keepdims=True), spikes, DRAWS, rng=rng)
        return Column(
            at,
            np.array([table.whole.index(name) for name in names]),
            statistics.bits_per_spike(gains, spikes),
            np.atleast_2d(np.cov(drawn, rowvar=False)),
        )


def measured_cells(pool: Sequence[str], targets: Sequence[str], split_seed: int) -> dict[str, list[str]]:
    """The sessions of the pool to be measured for each target: a third of them, three at least, drawn by lot.

    Each target takes those that were taken least often before, ties by lot: every session is measured about as often
    as any other, and at least once. The lots depend on the sorted names and the split seed alone.
    """
    pool, targets = sorted(pool), sorted(targets)
    rng = np.random.default_rng(stream_seed(split_seed, "ranker", MatrixCompletion.name, *pool, "for", *targets))
    each = min(len(pool), max(LEAST, -(-len(pool) // ONE_IN)))
    taken, cells = np.zeros(len(pool), dtype=np.int64), {}
    for target in targets:
        chosen = np.sort(np.lexsort((rng.random(len(pool)), taken))[:each])
        taken[chosen] += 1
        cells[target] = [pool[at] for at in chosen]
    return cells


@dataclass(frozen=True)
class _Table:
    """What came of the measurements.

    whole: the candidates that can be scored. measured: those that were measured for each held-out session. lost: cells
    (candidate, held-out session) whose finetuning failed. reasons: state and cause of candidates without a score.
    """

    whole: list[str]
    measured: dict[str, list[str]]
    lost: list[tuple[str, str]]
    reasons: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, target: str, pool: Sequence[str], plans: Sequence[Plan], outcomes: Mapping[str, Outcome]) -> _Table:
        """A candidate has a score if its cores were pretrained and one cell of it was measured at least.

        Nobody has one if nothing was measured for the held-out session in question.
        """
        cores = failures(plans[0].pretrain, outcomes)
        tuned = {plan.heldout: failures(plan.finetune, outcomes) for plan in plans}
        measured = {plan.heldout: sorted({c for c, _ in plan.finetune} - tuned[plan.heldout].keys()) for plan in plans}
        lost = sorted((c, heldout) for heldout, bad in tuned.items() for c in bad if c not in cores)
        reasons = {c: cause for bad in tuned.values() for c, cause in bad.items()} | cores
        scored = {c for names in measured.values() for c in names}
        if not measured[target]:
            nothing = ("failed", f"no finetuning for {target} ended")
            return cls([], measured, lost, {c: reasons.get(c, nothing) for c in pool})
        whole = [c for c in pool if c in scored and c not in cores]
        return cls(whole, measured, lost, {c: cause for c, cause in reasons.items() if c not in whole})


def _only(plan: Plan, candidates: Sequence[str]) -> Plan:
    """The plan with the finetunings of these candidates alone."""
    return replace(plan, finetune={key: spec for key, spec in plan.finetune.items() if key[0] in candidates})


def _kind(found: Completed, table: _Table, plans: Sequence[Plan]) -> str:
    """A sentence with how much was measured, what failed, and what the predictions rest on."""
    cells = sum(len(names) for names in table.measured.values())
    parts = {"row": "rows", "side": "activity and quality", "interaction": "their interaction", "cell": "nothing known"}
    shares = ", ".join(f"{words} {found.shares[part]:.2f}" for part, words in parts.items())
    text = (
        f"bits per spike predicted from {cells} of {len(table.whole) * len(plans)} measured cells of pool x held-out "
        f"sessions, measured ones shrunk by their noise (shares of the variance: {shares})"
    )
    lost = "; ".join(f"{candidate} for {heldout}" for candidate, heldout in table.lost)
    return f"{text}; not measured because the finetuning failed: {lost}" if lost else text
