"""Controls that every ranker has to beat: chance, size, a session's own score, and the scores for somebody else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.errors import UsageError
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Plan, Ranking, failures, gain_of, gains_of, make_plan, missing
from sessionwise.selection.scored import Scores, Untrained, generator, ranking_by, standard
from sessionwise.selection.sets import random_order

DRAWS = 2000


class Random(Untrained):
    """An order drawn by lot: the first shuffle of the pool, as in studies."""

    name = "random"
    about = "drawn by lot"

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Every rank is as likely as any other, and the intervals say so."""
        order = random_order(pool, context.settings.split_seed, 0)
        values = {name: float(len(order) - order.index(name)) for name in pool}
        lots = np.tile(list(values.values()), (DRAWS, 1))
        draws = generator(self.name, target, context).permuted(lots, axis=1)
        return ranking_by(self.name, target, Scores(values, "lot", "order drawn by lot", draws), context)


class Trials(Untrained):
    """The sessions with the most trials first."""

    name = "trials"
    about = "number of trials"

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """The number is exact, so there is no interval."""
        values = {name: float(len(context.load(name).split.train)) for name in pool}
        return ranking_by(self.name, target, Scores(values, "training trials", "number of training trials"), context)


class OwnScore:
    """Cores that do well on their own session first: quality without regard to the held-out session."""

    name = "own_score"
    about = "validation score of each core on its own session"

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """The pretrainings of the full procedure."""
        return list(self._pretrainings(target, pool, context).values())

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Mean over seeds; trials of each session are resampled by themselves, seed noise is pooled over sessions."""
        specs = self._pretrainings(target, pool, context)
        outcomes = context.compute(specs.values())
        bad = failures(specs, outcomes)
        done = [name for name in pool if name not in bad]
        gains = {name: [gain_of(specs[name, s], context.store) for s in context.seeds] for name in done}
        seed_scores = {name: [float(statistics.bits_per_spike(g, n)) for g, n in gains[name]] for name in done}
        values = {name: float(np.mean(seed_scores[name])) if name in done else None for name in pool}
        draws = self._draws([gains[name] for name in done], [seed_scores[name] for name in done], target, context)
        kind = "bits per spike of each core on its own session's validation trials"
        found = Scores(values, "own bits per spike", kind, draws, bad)
        return ranking_by(self.name, target, found, context, context.seeds)

    def _pretrainings(self, target: str, pool: Sequence[str], context: Context) -> dict[tuple[str, int], RunSpec]:
        return make_plan(context.sessions, target, pool, context.settings, context.seeds).pretrain

    def _draws(
        self,
        gains: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
        seed_scores: Sequence[Sequence[float]],
        target: str,
        context: Context,
    ) -> np.ndarray | None:
        if not gains:
            return None
        rng = generator(self.name, target, context)
        each = [
            statistics.score_draws(np.array([[gain for gain, _ in seeds]]), seeds[0][1], DRAWS, rng=rng)
            for seeds in gains  # alone no candidate has seed noise: it is told from what candidates do not share
        ]
        return np.concatenate(each, axis=1) + statistics.seed_noise_draws(seed_scores, DRAWS, rng=rng)


class OtherTargets:
    """The scores for the other held-out sessions: what is left is closeness to this one."""

    name = "other_targets"
    about = "mean score for the other held-out sessions (name two or more with --heldout)"

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """The full procedure for each of the others, without its controls."""
        return [spec for plan in self._plans(target, pool, context) for spec in plan.specs]

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Scores for each other one, standardised over the pool, and their mean."""
        plans = self._plans(target, pool, context)
        outcomes = context.compute(spec for plan in plans for spec in plan.specs)
        bad = {name: cause for plan in plans for name, cause in missing(plan, outcomes).items()}
        whole = [name for name in pool if name not in bad]
        values: dict[str, float | None] = dict.fromkeys(pool)
        draws = None
        if whole:
            found = [self._standardised(plan, whole, context) for plan in plans]
            values |= zip(whole, np.mean([score for score, _ in found], axis=0).tolist(), strict=True)
            draws = np.mean([drawn for _, drawn in found], axis=0)
        others = [plan.heldout for plan in plans]
        kind = f"mean over {', '.join(others)} of the standardised transfer score for them"
        scores = Scores(values, "score for others", kind, draws, bad)
        return ranking_by(self.name, target, scores, context, context.seeds, others)

    def _plans(self, target: str, pool: Sequence[str], context: Context) -> list[Plan]:
        others = [name for name in context.heldout if name != target]
        if not others:
            raise UsageError("--method other_targets", f"{target!r} is the only held-out session", "two or more")
        how = (pool, context.settings, context.seeds)
        return [make_plan(context.sessions, other, *how, controls=False) for other in others]

    def _standardised(self, plan: Plan, whole: Sequence[str], context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(C,) scores for another held-out session and (B, C) draws of them, in units of their SD over the pool."""
        gains, spikes = gains_of(plan, context.store, whole)
        scores = statistics.bits_per_spike(gains, spikes).mean(axis=1)
        draws = statistics.score_draws(gains, spikes, DRAWS, rng=generator(self.name, plan.heldout, context))
        return standard(scores), standard(draws, scores)
