"""Where the trainings of a budget go: small cores on everybody, then the full procedure on the contested.

    all sessions --(no training)--> without the clearly bad --(small cores)--> order, P(top k)
      --> contested: neither clearly in nor clearly out --(full procedure)--> one order

A climb of two rungs (`selection.rungs`). All costs are from scratch: what is stored is used again, but does not buy
more, so that an answer does not depend on what was computed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sessionwise.analysis.activity import Quality
from sessionwise.errors import UsageError
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.ranking import make_plan
from sessionwise.selection.rungs import Climb, Rung, climb, probe_plan
from sessionwise.study.gains import alone_arm, price_of, set_arm
from sessionwise.training.presets import Settings

FIRST_SHARE = 0.6  # of the budget that a third seed and more may take; the rest is for the contested and the gains
UNRELIABLE, FEW = 0.3, 0.25  # clearly bad: halves of its trials hardly alike, or so few trials for this pool
FILTER, SMALL, FULL = "filter", "small core", "full procedure"
METHOD = "recommend"


def small(settings: Settings) -> Settings:
    """The settings of small cores."""
    return SmallProxy().settings(settings)


def clearly_bad(pool: Sequence[str], qualities: Mapping[str, Quality]) -> dict[str, str]:
    """Sessions to leave out before anything is trained, and why; nobody, if that were half of the pool or more."""
    usual = float(np.median([qualities[name].n_trials for name in pool]))
    found = {}
    for name in pool:
        one = qualities[name]
        if one.reliability < UNRELIABLE:
            found[name] = f"halves of its trials hardly agree (reliability {one.reliability:.2f})"
        elif one.n_trials < FEW * usual:
            found[name] = f"{one.n_trials} trials, where the median of the pool is {usual:.0f}"
    return found if 2 * len(found) < len(pool) else {}


def search(target: str, pool: Sequence[str], k: int, budget: int, context: Context, sizes: Sequence[int] = ()) -> Climb:
    """Spend the budget on the order of the pool for ``target``; UsageError when it does not pay small cores for all.

    All rungs have the seeds that the small cores have: two if the budget pays them, for without a second one nothing
    can be told from noise, and more from a part of it. Where it pays one, a few sessions have the second, if it pays
    that. sizes: of the sets that shall be compared after it.
    """
    how = small(context.settings)
    price = context.price(_small_cores(target, pool, context.seeds[:1], context))
    if price > budget:
        found = f"{budget:.2g} operations; small cores for {len(pool)} sessions with one seed take {price:.2g}"
        raise UsageError("--budget", found, "a larger budget", "Or rank without training: --method zero_training")
    seeds = context.seeds[: max(min(2, int(budget / price)), int(FIRST_SHARE * budget / price))]
    if context.price(_small_cores(target, pool, seeds, context)) > budget:  # seeds differ by a step or two
        seeds = seeds[:-1]
    lowest = Rung(SMALL, how, seeds, context.seeds[1] if len(seeds) == 1 < len(context.seeds) else None)
    specs = [*_small_cores(target, pool, seeds, context), *probe_plan(target, pool, lowest, context, METHOD).specs]
    least = context.price({spec.key: spec for spec in specs}.values())
    return climb(
        target,
        pool,
        [lowest, Rung(FULL, context.settings, seeds)],
        context,
        top=min(k, len(pool)),
        # What comes after the order wants some of it, but not what small cores take.
        budget=min(budget, max(least, budget - _reserve(target, pool, (k, *sizes), seeds, context))),
        method=METHOD,
        stay=0.0,
        settled_in=True,
    )


def _small_cores(target: str, pool: Sequence[str], seeds: Sequence[int], context: Context) -> list[RunSpec]:
    how = small(context.settings)
    return make_plan(context.sessions, target, pool, how, seeds, METHOD, controls=False).specs


def _reserve(target: str, pool: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], context: Context) -> int:
    """Operations of the gains by small cores: two sets of each size, all of the pool, the recording alone."""
    how = small(context.settings)
    sets = [*((pool[:k], pool[-k:]) for k in sizes), (pool, pool)]
    arms = [set_arm("set", both, target, how, seeds, context) for both in sets]
    return price_of([*arms, alone_arm("alone", target, how, seeds, context)], context)
