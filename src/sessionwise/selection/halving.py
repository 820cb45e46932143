"""Successive halving: short trainings for the whole pool, longer ones for those that may be among the best.

After Jamieson and Talwalkar (2016), with two changes. No rung is shorter than a grace period: with a quarter of the
pretraining ranks agree with those of the whole by .74, with half of it by .92, while a quarter of the finetuning still
gives .90 (prototype, 20 simulated sessions). And it is not a fixed half that leaves, but those whom noise allows to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Ranking, make_plan
from sessionwise.selection.rungs import Rung, climb, first_runs, ranking_of
from sessionwise.training.loop import MIN_STEPS, TrainSettings
from sessionwise.training.presets import Settings

GRACE = 0.5  # of the pretraining, on the first rung
SHORT = 0.25  # of the finetuning, on all rungs but the last
BEST = 4  # a quarter of the pool is what is looked for

How = TypeVar("How", bound=TrainSettings)


class Halving:
    """Half of the pretraining for all, the whole for those that stay, the full procedure for the best of them.

    The two short rungs take one seed. Without a budget it may cost what the procedure costs without its controls: where
    noise lets nobody go, the most probable sessions get the last rung.
    """

    name = "halving"
    about = "short trainings for all, longer ones for those whom noise leaves among the best"

    def rungs(self, settings: Settings, seeds: Sequence[int]) -> list[Rung]:
        """Three rungs; each training has a learning-rate schedule of its own length. The last rung is ``full``."""
        short = settings.model_copy(update={"finetune": shortened(settings.finetune, SHORT)})
        shortest = short.model_copy(update={"train": shortened(settings.train, GRACE)})
        first = tuple(seeds[:1])
        return [
            Rung("half of the pretraining, a quarter of the finetuning", shortest, first),
            Rung("the whole pretraining, a quarter of the finetuning", short, first),
            Rung("the full procedure", settings, tuple(seeds)),
        ]

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """Those of the first rung; UsageError if the budget does not pay for them."""
        first, budget = self.rungs(context.settings, context.seeds)[0], self.budget(target, pool, context)
        return first_runs(target, pool, first, context, budget=budget, method=self.name)

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the scores of the last rung; of sessions that left before, by theirs, put on its scale."""
        found = climb(
            target,
            pool,
            self.rungs(context.settings, context.seeds),
            context,
            top=-(-len(pool) // BEST),
            budget=self.budget(target, pool, context),
            method=self.name,
        )
        what = "pooled bits per spike on validation trials"
        return ranking_of(self.name, target, found, context, "bits per spike", what)

    def budget(self, target: str, pool: Sequence[str], context: Context) -> int:
        """Operations: those of the context, or what the procedure costs for the whole pool without its controls."""
        if context.budget is not None:
            return context.budget
        plan = make_plan(context.sessions, target, pool, context.settings, context.seeds, self.name, controls=False)
        return context.price(plan.specs)


def shortened(how: How, share: float) -> How:
    """A training by a share of the steps or epochs: one epoch at least, and no fewer steps than a training may have."""
    if how.steps is None:
        return how.model_copy(update={"epochs": max(1, round(how.epochs * share))})
    return how.model_copy(update={"steps": min(how.steps, max(MIN_STEPS, round(how.steps * share)))})
