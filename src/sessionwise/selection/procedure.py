"""The paper's procedure as a ranker, and two that cut its cost: a shorter finetuning, a smaller core."""

from __future__ import annotations

from collections.abc import Sequence

from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Plan, Ranking, collect, make_plan
from sessionwise.training.presets import Settings

SHORT = 4  # a finetuning of a quarter: rankings bear it better than a shorter pretraining
SMALLER = 2  # half the width is about a quarter of the weights


class Full:
    """Pretrain on each session of the pool, finetune stitchers around each frozen core, rank by validation scores."""

    name = "full"
    about = "the paper's procedure: transfer scores of single-session cores, with baseline and random core"
    controls = True

    def settings(self, settings: Settings) -> Settings:
        """What this ranker makes of the settings that were asked for."""
        return settings

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """Every run of the procedure."""
        return self._plan(target, pool, context).specs

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the mean over seeds of validation bits per spike."""
        plan = self._plan(target, pool, context)
        return collect(plan, context.sessions, context.store, context.compute(plan.specs))

    def _plan(self, target: str, pool: Sequence[str], context: Context) -> Plan:
        settings = self.settings(context.settings)
        return make_plan(context.sessions, target, pool, settings, context.seeds, self.name, controls=self.controls)


class Short(Full):
    """The procedure with a quarter of the finetuning; its pretrained cores are those of ``full``."""

    name = "short"
    about = "the procedure with a quarter of the finetuning"
    controls = False

    def settings(self, settings: Settings) -> Settings:
        """Finetuning by a quarter of the steps or epochs, at least one, with its own learning-rate schedule."""
        how = settings.finetune
        name = "epochs" if how.steps is None else "steps"
        shorter = how.model_copy(update={name: max(1, round(getattr(how, name) / SHORT))})
        return settings.model_copy(update={"finetune": shorter})


class SmallProxy(Full):
    """The procedure with a core of a quarter of the weights (cf. DataDecide, Magnusson et al. 2025)."""

    name = "small_proxy"
    about = "the procedure with a core of a quarter of the weights"
    controls = False

    def settings(self, settings: Settings) -> Settings:
        """Half of every width, in multiples of the number of heads."""
        model = settings.model
        widths = {name: getattr(model, name) for name in ("token_width", "width", "feedforward")}
        step = 2 * model.heads
        halved = {name: max(step, width // SMALLER // step * step) for name, width in widths.items()}
        smaller = type(model).model_validate({**model.model_dump(), **halved})
        return settings.model_copy(update={"model": smaller}).settled()
