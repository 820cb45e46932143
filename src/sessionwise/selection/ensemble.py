"""A weighted sum of cheap rankers, with weights learned on the other held-out sessions of the question.

For a held-out session the full procedure is run for the *others*; its scores there tell how much each cheap ranker is
worth. The held-out session's own transfer scores take no part in its ranking.

Legend: C candidates, M members, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from sessionwise.analysis import statistics
from sessionwise.errors import UsageError
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.ranking import Plan, Ranking, gains_of, make_plan, missing
from sessionwise.selection.scored import Scores, generator, ranking_by, standard
from sessionwise.selection.zero_training import likenesses, qualities, similarities
from sessionwise.training.presets import Settings

MEMBERS = ("latent_distance", "log trials", "quality", "small_proxy")
MIN_OTHERS = 2  # one to learn from, one to see how far off that is
PULL = 1.0  # towards equal weights, as strong as that many more held-out sessions whose members are uncorrelated
DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one held-out session teaches: standardised ``members`` (C, M) and full scores ``score`` (C,)."""

    members: np.ndarray
    score: np.ndarray


class Ensemble:
    """Similarity of activity, size, quality and a small core together, weighted as they were worth elsewhere.

    Members, pull and shape were fixed before any comparison with ``full``. The full procedure for the others uses the
    seeds of the small cores, and those that ``full`` would use for the held-out session: the noise of its trainings is
    not fresh, the scores are of other recordings.
    """

    name = "ensemble"
    about = "similarity, trials, quality and a small core, weighted by their worth for the others (name three or more)"

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """Small cores for every held-out session, and the full procedure for the others."""
        return _Plans.of(target, pool, context).specs

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the weighted sum of the members, each standardised over the pool."""
        plans = _Plans.of(target, pool, context)
        outcomes = context.compute(plans.specs)
        lost = missing(plans.proxies[target], outcomes)
        whole = [name for name in pool if name not in lost]
        lessons = _lessons(plans, outcomes, context)
        if len(lessons) < MIN_OTHERS:
            found = f"{len(lessons)} of {len(plans.full)} other held-out sessions could be scored, {MIN_OTHERS} needed"
            lost, whole = {name: ("failed", found) for name in pool} | lost, []
        values: dict[str, float | None] = dict.fromkeys(pool)
        kind, draws = "no weights could be learned, or no session scored", None
        if whole:
            weights, residual = learn(list(lessons.values())), residual_variance(list(lessons.values()))
            score, draws = _combined(plans.proxies[target], whole, weights, residual, context)
            values |= zip(whole, map(float, score), strict=True)
            kind = _kind(weights, residual, list(lessons))
        note = "Only small cores were tried on this held-out session. By how much cores help, only --method full tells."
        scores = Scores(values, "weighted members", kind, draws, lost, note)
        return ranking_by(self.name, target, scores, context, context.seeds, list(plans.full))


def learn(lessons: Sequence[Lesson]) -> np.ndarray:
    """(M,) weights >= 0 that minimise, over lessons o of C candidates each on average,

        sum_o |score_o - members_o w|^2 + PULL C |w - 1/M|^2.

    Standardised columns have squared length C, so the pull is that of PULL more lessons. A ridge towards equal weights
    instead of zero: those are what one would use without knowing anything, and hard to beat with little (Dawes, 1979).
    """
    n_members = lessons[0].members.shape[1]
    pull = np.sqrt(PULL * np.mean([len(lesson.score) for lesson in lessons]))
    design = np.concatenate([*(lesson.members for lesson in lessons), pull * np.eye(n_members)])
    aim = np.concatenate([*(lesson.score for lesson in lessons), np.full(n_members, pull / n_members)])
    weights: np.ndarray = nnls(design, aim)[0]
    return weights


def residual_variance(lessons: Sequence[Lesson]) -> float:
    """Mean squared error of each lesson's scores under the weights of the other lessons; two lessons or more.

    It holds the noise of the measured full scores too: as a measure of how wrong the combination is, it is careful.
    """
    errors = []
    for at, left_out in enumerate(lessons):
        weights = learn([lesson for i, lesson in enumerate(lessons) if i != at])
        errors.append(float(((left_out.score - left_out.members @ weights) ** 2).mean()))
    return float(np.mean(errors))


@dataclass(frozen=True)
class _Plans:
    """The runs for a held-out session: small cores for all of them (``proxies``), ``full`` for the others."""

    proxies: dict[str, Plan]
    full: dict[str, Plan]

    @classmethod
    def of(cls, target: str, pool: Sequence[str], context: Context) -> _Plans:
        """Plans by held-out session; UsageError where there are too few others to learn from."""
        others = sorted(name for name in context.heldout if name != target)
        if len(others) < MIN_OTHERS:
            found = f"{len(others)} other held-out session{'s' * (len(others) != 1)} to learn weights from"
            how = "Name three or more with --heldout, or use --method zero_training, which has fixed weights"
            raise UsageError(f"--method {Ensemble.name}", found, "two or more others", how)

        def plan(heldout: str, settings: Settings) -> Plan:
            return make_plan(context.sessions, heldout, pool, settings, context.seeds, Ensemble.name, controls=False)

        small = SmallProxy().settings(context.settings)
        proxies = {name: plan(name, small) for name in (target, *others)}
        return cls(proxies, {name: plan(name, context.settings) for name in others})

    @property
    def specs(self) -> list[RunSpec]:
        """All runs."""
        return [spec for plans in (self.proxies, self.full) for plan in plans.values() for spec in plan.specs]


def _lessons(plans: _Plans, outcomes: Mapping[str, Outcome], context: Context) -> dict[str, Lesson]:
    """What each other held-out session teaches, from the candidates with a small and a full score there."""
    lessons = {}
    for other, full in plans.full.items():
        proxy = plans.proxies[other]
        lost = missing(proxy, outcomes) | missing(full, outcomes)
        names = [name for name in full.pool if name not in lost]
        if len(names) > 1:
            alike = np.array(list(likenesses(other, names, context).values()))
            members = _members(alike, _mean_score(proxy, names, context), names, context)
            lessons[other] = Lesson(members, standard(_mean_score(full, names, context)))
    return lessons


def _members(alike: np.ndarray, small: np.ndarray, names: Sequence[str], context: Context) -> np.ndarray:
    """(C, M) MEMBERS, standardised over the candidates, from similarities (C,) and scores of small cores (C,)."""
    trials = np.log([len(context.load(name).split.train) for name in names])
    return np.stack([standard(column) for column in (alike, trials, qualities(names, context), small)], axis=1)


def _mean_score(plan: Plan, names: Sequence[str], context: Context) -> np.ndarray:
    """(C,) mean over seeds, bits per spike."""
    gains, spikes = gains_of(plan, context.store, names)
    mean: np.ndarray = statistics.bits_per_spike(gains, spikes).mean(axis=1)
    return mean


def _combined(
    proxy: Plan, names: Sequence[str], weights: np.ndarray, residual: float, context: Context
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) weighted sums for the held-out session and (B, C) draws: of similarity, of small cores, of the residual.

    Sizes and quality are taken as exact. What the first two draw is also in the residual, so intervals are careful.
    """
    rng = generator(Ensemble.name, proxy.heldout, context)
    found, alike_draws = similarities(proxy.heldout, names, context)
    alike, small = np.array(list(found.values())), _mean_score(proxy, names, context)
    members = _members(alike, small, names, context)
    small_draws = statistics.score_draws(*gains_of(proxy, context.store, names), DRAWS, rng=rng)
    again = rng.integers(len(alike_draws), size=DRAWS)
    draws = np.repeat(members[None], DRAWS, axis=0)
    draws[:, :, MEMBERS.index("latent_distance")] = standard(alike_draws[again], alike)
    draws[:, :, MEMBERS.index("small_proxy")] = standard(small_draws, small)
    error = np.sqrt(residual) * rng.standard_normal((DRAWS, len(names)))
    return members @ weights, draws @ weights + error


def _kind(weights: np.ndarray, residual: float, others: Sequence[str]) -> str:
    terms = " + ".join(f"{weight:.2f} {member}" for weight, member in zip(weights, MEMBERS, strict=True))
    return (
        f"{terms}, each standardised over the pool; weights learned on {', '.join(others)} against the full procedure "
        f"with the same seeds, from which they are off there by {np.sqrt(residual):.2f} SD"
    )
