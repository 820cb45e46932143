"""Climb from cheap trainings to dear ones: on each rung sessions leave where noise allows it, the others go on.

A rung is the procedure (pretrain on each session, finetune around the frozen core) with settings and seeds of its own:
shorter trainings, a smaller core, the whole thing. What the rungs share in runs is trained once. Which sessions leave,
and how scores of different rungs come to one scale, is in `analysis.rung_scores`.

A session that left can end above one that climbed: it left because it is hardly among the best, and so are some that
stayed. Its interval says how little is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sessionwise.analysis.rung_scores import IN, Judged, Noise, judge, leaving, merge, shifted, training_noise
from sessionwise.errors import UsageError
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Plan, Ranking, cost, gains_of, make_plan, missing
from sessionwise.selection.scored import Scores, generator, ranking_by
from sessionwise.training.presets import Settings

DRAWS = 2000
LEAST = 2  # sessions: one alone is compared with nobody
PROBED = 4  # sessions with a second seed where the others have one
STAY = 0.5  # of a rung's sessions at least: how differently longer trainings order them is not known there


@dataclass(frozen=True)
class Rung:
    """A way to train: ``name`` in words, ``settings`` and ``seeds`` of its trainings.

    second: where ``seeds`` is one, a second one that a few sessions (``probe_plan``) are trained with too. Scores stay
    those of the first seed, alike for all; the second tells the noise of a training.
    """

    name: str
    settings: Settings
    seeds: tuple[int, ...]
    second: int | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """What happened on a rung.

    sessions: who was trained. on: who went on to the next rung. settled: who is clearly among the best and was not
    trained again. left: why the others did not go on; on the last rung, who failed. p_top: probability of being among
    the best, by session; p_equal: that of a spread as large as theirs without any difference. specs: the trainings that
    no earlier rung had; operations: their estimated cost from scratch. stop: why no further rung was climbed.
    probe: how the noise of a training was measured where it was (``_Ladder.probe``).
    """

    name: str
    sessions: tuple[str, ...]
    on: tuple[str, ...]
    settled: tuple[str, ...]
    left: Mapping[str, str]
    p_top: Mapping[str, float]
    p_equal: float | None
    specs: tuple[RunSpec, ...]
    operations: int
    stop: str | None = None
    probe: Mapping[str, Any] | None = None

    def entry(self, context: Context) -> dict[str, Any]:
        """The stage as a document holds it, with the cost from scratch of its finished runs."""
        return {
            "name": self.name,
            "n_in": len(self.sessions),
            "n_on": len(self.on),
            "settled": list(self.settled),
            "left": [{"session": name, "reason": why} for name, why in self.left.items()],
            "p_top": dict(self.p_top),
            "p_equal": self.p_equal,
            "stop": self.stop,
            "probe": self.probe and dict(self.probe),
            "cost": cost(self.specs, context.store, context.sessions),
        }


@dataclass(frozen=True, eq=False)
class Climb:
    """What came out.

    stages: one a rung that was climbed. values: bits per spike of every session of the pool on the scale of the last
    rung, None where a training failed. draws: (B, C) of those with a value, in their order; None if there is none.
    reasons: state and cause of those without. rung: name of the last rung with a score of the session. runs: keys of
    the finetunings there. seeds: of all rungs. gains: of each rung that has any, session -> (S, K) in nats, and
    spikes (K,) of the validation trials. noise_known: whether the noise of trainings is in the draws.
    """

    stages: tuple[Stage, ...]
    values: Mapping[str, float | None]
    draws: np.ndarray | None
    reasons: Mapping[str, tuple[str, str]]
    rung: Mapping[str, str]
    runs: Mapping[str, list[str]]
    seeds: tuple[int, ...]
    gains: tuple[Mapping[str, np.ndarray], ...]
    spikes: np.ndarray
    noise_known: bool

    def on(self, trials: np.ndarray) -> dict[str, float]:
        """Scores on some of the validation trials, (K,) bool: of each session with a value, on the same scale."""
        parts = [{name: gains[:, trials] for name, gains in rung.items()} for rung in self.gains]
        found = shifted(parts, self.spikes[trials]) if parts else {}
        return {name: found[name] for name, value in self.values.items() if value is not None}


def climb(
    target: str,
    pool: Sequence[str],
    rungs: Sequence[Rung],
    context: Context,
    *,
    top: int,
    budget: int | None,
    method: str,
    stay: float = STAY,
    settled_in: bool = False,
) -> Climb:
    """Train the pool on the first rung, and on each further one those who may be among the ``top`` best.

    Parameters
    ----------
    rungs: from the cheapest to the dearest, one at least.
    budget: estimated operations from scratch, of all rungs together; None: no limit. Those most probably among the
        best go on first, until the next would exceed it; where two do not fit, the climb ends.
    method: names the random numbers, and the runs' plans.
    stay: share of a rung's sessions that stays at least, whatever the noise allows.
    settled_in: sessions that are among the best with a probability above 0.95 are not trained again; their places are
        then taken, and the others compete for the rest.

    Raises UsageError if the budget does not pay for the first rung.
    """
    first_runs(target, pool, rungs[0], context, budget=budget, method=method)
    ladder = _Ladder(target, context, method, budget)
    inside, settled, stages = tuple(pool), 0, list[Stage]()
    for at, rung in enumerate(rungs):
        tried = ladder.train(rung, inside)
        slots = max(1, top - settled)
        following = rungs[at + 1] if at + 1 < len(rungs) else None
        stage = ladder.decide(tried, slots, following, stay=stay, settled_in=settled_in)
        stages.append(stage)
        inside, settled = stage.on, settled + len(stage.settled)
        if not inside:
            break
    return ladder.climb(pool, tuple(stages))


def first_runs(
    target: str, pool: Sequence[str], rung: Rung, context: Context, *, budget: int | None, method: str
) -> list[RunSpec]:
    """The trainings of the first rung, which everybody takes; UsageError if the budget does not pay for them."""
    specs = _plan(target, pool, rung, context, method).specs
    price = context.price(specs)
    if budget is not None and price > budget:
        raise UsageError(
            f"--method {method}",
            f"a budget of {budget:.3g} operations",
            f"{price:.3g} for the first rung ({rung.name}, {len(pool)} sessions)",
            "Raise the budget, or rank fewer sessions with --pool",
        )
    return specs


def probe_plan(target: str, pool: Sequence[str], rung: Rung, context: Context, method: str) -> Plan:
    """The trainings of a few sessions with both seeds of a rung, at even steps through the pool.

    Their scores have no say: the best and the worst are so by luck as well, and would overstate the noise.
    """
    some = [pool[round(at)] for at in np.linspace(0, len(pool) - 1, min(PROBED, len(pool)))]
    seeds = rung.seeds if rung.second is None else (*rung.seeds, rung.second)
    return _plan(target, some, replace(rung, seeds=seeds), context, method)


def ranking_of(method: str, target: str, found: Climb, context: Context, label: str, what: str) -> Ranking:
    """The ranking by a climb's scores; ``what`` they are, in words.

    Beside what every ranking holds, its rows name the rung (``stage``) and the finetunings that they come from, and
    ``stages`` tells who left where, why, and at what cost.
    """
    kind = f"{what}; {_reached(found)}"
    scores = Scores(found.values, label, kind, found.draws, found.reasons, _note(found))
    document = dict(ranking_by(method, target, scores, context, found.seeds).document)
    rows = [
        {**row, "stage": found.rung.get(row["session"]), "runs": found.runs.get(row["session"], [])}
        for row in document["rows"]
    ]
    stages = [stage.entry(context) for stage in found.stages]
    return Ranking({**document, "rows": rows, "stages": stages})


@dataclass(frozen=True, eq=False)
class _Tried:
    """A rung with what its trainings gave: gains (C, S, K) of the sessions that finished, spikes (K,)."""

    rung: Rung
    plan: Plan
    new: tuple[RunSpec, ...]
    done: list[str]
    gains: np.ndarray
    spikes: np.ndarray
    failed: dict[str, tuple[str, str]]
    probe: dict[str, Any] | None


class _Ladder:
    """The runs so far: what they cost, what they gave, and who failed."""

    def __init__(self, target: str, context: Context, method: str, budget: int | None) -> None:
        self.target, self.context, self.method, self.budget = target, context, method, budget
        self.known: dict[str, RunSpec] = {}
        self.tried: list[_Tried] = []
        self.noise: Noise | None = None

    def train(self, rung: Rung, sessions: Sequence[str]) -> _Tried:
        """Train these sessions as the rung says."""
        before = set(self.known)
        plan = _plan(self.target, sessions, rung, self.context, self.method)
        failed = {name: (state, f"{rung.name}: {why}") for name, (state, why) in self._missing(plan).items()}
        done = [name for name in plan.pool if name not in failed]
        gains, spikes = gains_of(plan, self.context.store, done)
        probe = self._probe(rung, done)
        new = tuple(spec for key, spec in self.known.items() if key not in before)
        self.tried.append(_Tried(rung, plan, new, done, gains, spikes, failed, probe))
        return self.tried[-1]

    def _missing(self, plan: Plan) -> dict[str, tuple[str, str]]:
        """Train; state and cause of those that failed."""
        self.known |= {spec.key: spec for spec in plan.specs if spec.key not in self.known}
        return missing(plan, self.context.compute(plan.specs))

    def _probe(self, rung: Rung, done: Sequence[str]) -> dict[str, Any] | None:
        """Measure the noise of a training on a few sessions; what it was, or why it is not known."""
        if rung.second is None or len(done) < LEAST:
            return None
        plan = probe_plan(self.target, done, rung, self.context, self.method)
        about: dict[str, Any] = {"seed": rung.second, "sessions": [], "failed": {}, "variance": None, "freedom": None}
        if self._rest() < self._price_of_new(plan):
            return {**about, "reason": "the budget does not pay for it"}
        failed = {name: why for name, (_, why) in self._missing(plan).items()}
        both = [name for name in plan.pool if name not in failed]
        about |= {"sessions": both, "failed": failed}
        if len(both) < LEAST:
            return {**about, "reason": "too few of its trainings ended"}
        self.noise = training_noise(*gains_of(plan, self.context.store, both))
        return {**about, **(asdict(self.noise) if self.noise else {}), "reason": None}

    def _rest(self) -> float:
        """What is left of the budget."""
        return math.inf if self.budget is None else self.budget - self.context.price(self.known.values())

    def _price_of_new(self, plan: Plan) -> int:
        return self.context.price(spec for spec in plan.specs if spec.key not in self.known)

    def decide(self, tried: _Tried, slots: int, following: Rung | None, *, stay: float, settled_in: bool) -> Stage:
        """Who goes on to the following rung; nobody when there is none."""
        stage = Stage(
            name=tried.rung.name,
            sessions=tried.plan.pool,
            on=(),
            settled=(),
            left={name: why for name, (_, why) in tried.failed.items()},
            p_top={},
            p_equal=None,
            specs=tried.new,
            operations=self.context.price(tried.new),
            probe=tried.probe,
        )
        if not tried.done:
            return replace(stage, stop="no training ended")
        rng = self._generator(tried.rung.name)
        judged = judge(tried.gains, tried.spikes, slots, DRAWS, rng=rng, noise=self.noise)
        p_top = dict(zip(tried.done, map(float, judged.p_top), strict=True))
        stage = replace(stage, p_top=p_top, p_equal=judged.p_equal)
        if following is None:
            return stage
        out = leaving(judged, math.ceil(stay * len(tried.done)))
        left = {name: _noise_reason(p_top[name], slots) for name, gone in zip(tried.done, out, strict=True) if gone}
        sure = judged.p_top > IN if settled_in and judged.different else np.zeros_like(out)
        settled = tuple(name for name, is_sure in zip(tried.done, sure, strict=True) if is_sure)
        contested = [at for at, gone in enumerate(out | sure) if not gone]
        stage = replace(stage, settled=settled, left={**stage.left, **left})
        return self._admitted(stage, tried.done, contested, judged, following)

    def _admitted(
        self, stage: Stage, done: Sequence[str], contested: Sequence[int], judged: Judged, following: Rung
    ) -> Stage:
        """The contested whom the budget pays for, most probable first."""
        if len(contested) < LEAST:
            return replace(stage, stop=f"{len(contested)} contested: nothing more to compare")
        order = sorted(contested, key=lambda at: (-judged.p_top[at], -judged.score[at], done[at]))
        paid = self._paid([done[at] for at in order], following)
        if len(paid) < LEAST:
            return replace(
                stage,
                stop=f"budget: it pays for {len(paid)} of {len(order)} contested on the next rung ({following.name})",
            )
        unpaid = {done[at]: "budget" for at in contested if done[at] not in paid}
        on = tuple(done[at] for at in contested if done[at] in paid)
        return replace(stage, on=on, left={**stage.left, **unpaid})

    def _paid(self, order: Sequence[str], following: Rung) -> set[str]:
        """The first sessions of an order whose missing trainings the rest of the budget pays for."""
        rest, paid = self._rest(), set[str]()
        for name in order:
            rest -= self._price_of_new(_plan(self.target, [name], following, self.context, self.method))
            if rest < 0:
                break
            paid.add(name)
        return paid

    def climb(self, pool: Sequence[str], stages: tuple[Stage, ...]) -> Climb:
        """All scores on the scale of the last rung that has any."""
        reasons = {name: why for tried in self.tried for name, why in tried.failed.items()}
        with_scores = [tried for tried in self.tried if tried.done]
        rung = {name: tried.rung.name for tried in with_scores for name in tried.done if name not in reasons}
        runs = {
            name: [tried.plan.finetune[name, seed].key for seed in tried.rung.seeds]
            for tried in with_scores
            for name in tried.done
            if name not in reasons
        }
        values: dict[str, float | None] = dict.fromkeys(pool)
        draws = None
        seeds = tuple(sorted({seed for tried in self.tried for seed in tried.rung.seeds}))
        table = tuple(dict(zip(tried.done, tried.gains, strict=True)) for tried in with_scores)
        spikes = with_scores[0].spikes if with_scores else np.zeros(0)
        if rung:
            merged = merge(table, spikes, DRAWS, rng=self._generator("scale"), noise=self.noise)
            at = {name: i for i, name in enumerate(merged.values)}
            scored = [name for name in pool if name in rung]
            values |= {name: merged.values[name] for name in scored}
            draws = merged.draws[:, [at[name] for name in scored]]
        known = len(seeds) > 1 or self.noise is not None
        return Climb(stages, values, draws, reasons, rung, runs, seeds, table, spikes, known)

    def _generator(self, what: str) -> np.random.Generator:
        return generator(f"{self.method} {what}", self.target, self.context)


def _plan(target: str, pool: Sequence[str], rung: Rung, context: Context, method: str) -> Plan:
    return make_plan(context.sessions, target, pool, rung.settings, rung.seeds, method, controls=False)


def _noise_reason(p_top: float, slots: int) -> str:
    chance = "less than 0.001" if p_top < 0.001 else f"{p_top:.3f}"
    return f"among the {slots} best with probability {chance}"


def _reached(found: Climb) -> str:
    """How many scores are of the last rung, and where the others come from."""
    names = [stage.name for stage in found.stages]
    reached = {name: sum(rung == name for rung in found.rung.values()) for name in names}
    counted = {name: n for name, n in reached.items() if n}
    if len(counted) < 2:
        return "; ".join(f"all scores are of '{name}'" for name in counted) or "no training ended"
    *earlier, last = counted.items()
    others = " and ".join(f"{n} of '{name}'" for name, n in earlier)
    return f"{last[1]} scores of '{last[0]}'; {others}, moved to that scale by the mean difference of those with both"


def _note(found: Climb) -> str:
    stops = "".join(f"The climb ended there: {stage.stop}. " for stage in found.stages if stage.stop)
    return f"{stops}No baseline was trained: how much pretraining helps, the full procedure tells (--method full)."
