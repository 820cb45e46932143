"""Where the trainings of a budget go: small cores on everybody, then the full procedure on the contested.

    all sessions --(no training)--> without the clearly bad --(small cores)--> order, P(top k)
      --> contested: neither clearly in nor clearly out --(full procedure)--> one order

Scores of small cores are put on the scale of the full procedure by the mean difference of the sessions that have both.
Validation trials are resampled jointly for all sessions and both stages. All costs are from scratch: what is stored is
used again, but does not buy more, so that an answer does not depend on what was computed before.

Legend: C sessions with a score, S seeds, K validation trials, B draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.activity import Quality
from sessionwise.errors import UsageError
from sessionwise.model.streams import stream_seed
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.ranking import Plan, choosing_half, cost, gains_of, make_plan
from sessionwise.study.gains import alone_arm, set_arm
from sessionwise.training.operations import operations
from sessionwise.training.presets import Settings

DRAWS = 2000
FIRST_SHARE = 0.6  # of the budget that a third seed and more may take; the rest is for the contested and the gains
OUT, IN = 0.05, 0.95  # a session is contested while P(top k) is between them
UNRELIABLE, FEW = 0.3, 0.25  # clearly bad: halves of its trials hardly alike, or so few trials for this pool
FILTER, SMALL, FULL = "filter", "small core", "full procedure"


@dataclass
class Search:
    """What the search knows.

    names: the C sessions with a score, sorted. scores: (C,) bits per spike. draws: (B, C). halves: (2, C) scores on
    each half of the trials. stage: session -> where its score is from. failed: session -> (state, reason). n_seeds: of
    the small cores. stages: what was spent on whom, as ``recommendation.json`` has it. spent: operations.
    """

    names: list[str] = field(default_factory=list)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    draws: np.ndarray = field(default_factory=lambda: np.zeros((DRAWS, 0)))
    halves: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    stage: dict[str, str] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    n_seeds: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    spent: int = 0

    def p_top(self, k: int) -> np.ndarray:
        """(C,) chance of being among the k best."""
        drawn = statistics.rank_draws(self.scores, self.draws, rng=np.random.default_rng(0), ks=[k])
        return drawn.p_top.get(k, np.ones(len(self.names)))


def operations_of(specs: Sequence[RunSpec], context: Context) -> int:
    """What runs cost from scratch, each once."""
    infos = {i: context.sessions.info(i) for i in {i for spec in specs for i in spec.sessions}}
    return sum(operations(spec, infos) for spec in {spec.key: spec for spec in specs}.values())


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


def search(
    target: str, pool: Sequence[str], qualities: Mapping[str, Quality], k: int, budget: int, context: Context
) -> Search:
    """Spend the budget on the order of the pool for ``target``; UsageError when it does not pay small cores for all."""
    found = Search()
    bad = clearly_bad(pool, qualities)
    left = [name for name in pool if name not in bad]
    _note(found, FILTER, "no training: trials and reliability of each session", pool, left, bad, [], context)
    plan = _small_plan(target, left, budget, context)
    found.n_seeds = len(plan.seeds)
    context.compute(plan.specs)
    done = _settle(found, plan, context)
    gains, spikes = gains_of(plan, context.store, done)
    _note(found, SMALL, f"cores of half the widths, {_seeds(plan)}", left, done, _reasons(found), plan.specs, context)
    if not done:
        return found
    found.names, found.stage = done, dict.fromkeys(done, SMALL)
    found.scores, found.draws, found.halves = _measured(gains, spikes, "small")
    if found.n_seeds > 1:  # with one seed the noise of trainings is unknown, and so is who is contested
        _full(found, target, k, budget, context)
    return found


def _small_plan(target: str, pool: Sequence[str], budget: int, context: Context) -> Plan:
    """Two seeds if the budget pays them, for without a second one nothing can be told from noise; more from a part."""
    how = small(context.settings)
    one = operations_of(
        make_plan(context.sessions, target, pool, how, context.seeds[:1], controls=False).specs, context
    )
    if one > budget:
        found = f"{budget:.2g} operations; small cores for {len(pool)} sessions with one seed take {one:.2g}"
        raise UsageError("--budget", found, "a larger budget", "Or rank without training: --method zero_training")
    n_seeds = max(min(2, int(budget / one)), int(FIRST_SHARE * budget / one))
    return make_plan(context.sessions, target, pool, how, context.seeds[:n_seeds], controls=False)


def _full(found: Search, target: str, k: int, budget: int, context: Context) -> None:
    """The full procedure on as many contested sessions as can be paid, the most uncertain first."""
    chance, seeds = found.p_top(min(k, len(found.names))), context.seeds[: found.n_seeds]
    contested = [i for i in np.argsort(np.abs(chance - 0.5), kind="stable") if OUT < chance[i] < IN]
    # What comes after wants some: small cores on the chosen set and on all, and the recording alone.
    remaining = budget - found.spent - reserve(target, found.names, k, context)
    admitted: list[str] = []
    for i in contested:
        one = make_plan(context.sessions, target, [found.names[i]], context.settings, seeds, controls=False)
        remaining -= operations_of(one.specs, context)
        if remaining < 0:
            break
        admitted.append(found.names[i])
    about = f"{len(contested)} contested, the budget pays {len(admitted)}"
    if len(admitted) < 2:  # one session gives no scale to compare two kinds of cores
        _note(found, FULL, f"{about}: none was tried, for two are needed", found.names, [], {}, [], context)
        return
    plan = make_plan(context.sessions, target, sorted(admitted), context.settings, seeds, controls=False)
    context.compute(plan.specs)
    before = dict(found.failed)
    done = _settle(found, plan, context)
    lost = {name: reason for name, (_, reason) in found.failed.items() if name not in before}
    found.failed = before  # their small cores have a score
    _note(found, FULL, f"{about}, {_seeds(plan)}", sorted(admitted), done, lost, plan.specs, context)
    if len(done) >= 2:
        _merge(found, done, *gains_of(plan, context.store, done))


def reserve(target: str, names: Sequence[str], k: int, context: Context) -> int:
    """Operations of the smallest set of gains: chosen sessions, everybody, the recording alone, by small cores."""
    how = small(context.settings)
    arms = [set_arm(name, (s, s), target, how, context) for name, s in (("a", names[:k]), ("b", names))]
    return operations_of([spec for arm in (*arms, alone_arm("c", target, how, context)) for spec in arm.runs], context)


def _merge(found: Search, done: Sequence[str], gains: np.ndarray, spikes: np.ndarray) -> None:
    """Full scores for those that have them; the others' are moved by the mean difference of those that have both."""
    at = np.array([found.names.index(name) for name in done])
    scores, draws, halves = _measured(gains, spikes, "full")
    for old, new in ((found.scores, scores), (found.draws, draws), (found.halves, halves)):
        old += (new - old[..., at]).mean(axis=-1, keepdims=True)
        old[..., at] = new
    found.stage |= dict.fromkeys(done, FULL)


def _measured(gains: np.ndarray, spikes: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(C,) scores, (B, C) draws and (2, C) scores on halves, from gains (C, S, K); equal trials in every draw b."""
    scores = statistics.bits_per_spike(gains, spikes)
    mean, first = gains.mean(axis=1, keepdims=True), choosing_half(len(spikes))
    draws = statistics.score_draws(mean, spikes, DRAWS, rng=np.random.default_rng(0))
    noise = np.random.default_rng(stream_seed(0, "seed noise", name))
    draws = draws + statistics.seed_noise_draws(scores, DRAWS, rng=noise)
    halves = [statistics.bits_per_spike(mean[:, 0, part], spikes[part]) for part in (first, ~first)]
    return scores.mean(axis=1), draws, np.array(halves)


def _settle(found: Search, plan: Plan, context: Context) -> list[str]:
    """Sessions whose runs are all done; the others are failed, with the cause."""
    done = []
    for name in plan.pool:
        ended = [context.outcomes[runs[name, s].key] for s in plan.seeds for runs in (plan.pretrain, plan.finetune)]
        bad = next((outcome for outcome in ended if outcome.state != "done"), None)
        if bad is None:
            done.append(name)
        else:
            found.failed[name] = (bad.state, str(bad.reason))
    return done


def _reasons(found: Search) -> dict[str, str]:
    return {name: f"{state}: {reason}" for name, (state, reason) in found.failed.items()}


def _seeds(plan: Plan) -> str:
    return f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"


def _note(
    found: Search,
    name: str,
    about: str,
    into: Sequence[str],
    on: Sequence[str],
    left: Mapping[str, str],
    specs: Sequence[RunSpec],
    context: Context,
) -> None:
    """Write a stage down, with its cost from scratch."""
    spent = cost(specs, context.store, context.sessions)
    found.spent += operations_of(specs, context)
    found.stages.append(
        {
            "name": name,
            "about": about,
            "n_in": len(into),
            "n_on": len(on),
            "left": [{"session": session, "reason": reason} for session, reason in sorted(left.items())],
            "cost": {part: spent[part] for part in ("runs", "steps", "tokens", "operations")},
        }
    )
