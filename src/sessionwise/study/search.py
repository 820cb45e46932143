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
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.ranking import make_plan
from sessionwise.selection.rungs import Climb, Rung, climb
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
    can be told from noise, and more from a part of it. sizes: of the sets that shall be compared after it.
    """
    how = small(context.settings)
    first = make_plan(context.sessions, target, pool, how, context.seeds[:1], METHOD, controls=False)
    price = context.price(first.specs)
    if price > budget:
        found = f"{budget:.2g} operations; small cores for {len(pool)} sessions with one seed take {price:.2g}"
        raise UsageError("--budget", found, "a larger budget", "Or rank without training: --method zero_training")
    n_seeds = max(min(2, int(budget / price)), int(FIRST_SHARE * budget / price))
    seeds = context.seeds[:n_seeds]
    return climb(
        target,
        pool,
        [Rung(SMALL, how, seeds), Rung(FULL, context.settings, seeds)],
        context,
        top=min(k, len(pool)),
        # What comes after the order wants some of it, but not what small cores take.
        budget=max(len(seeds) * price, budget - _reserve(target, pool, (k, *sizes), seeds, context)),
        method=METHOD,
        stay=0.0,
        settled_in=True,
    )


def _reserve(target: str, pool: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], context: Context) -> int:
    """Operations of the gains by small cores: two sets of each size, all of the pool, the recording alone."""
    how = small(context.settings)
    sets = [*((pool[:k], pool[-k:]) for k in sizes), (pool, pool)]
    arms = [set_arm("set", both, target, how, seeds, context) for both in sets]
    return price_of([*arms, alone_arm("alone", target, how, seeds, context)], context)
