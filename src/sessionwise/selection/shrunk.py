"""The procedure's scores, shrunk towards what is known of the sessions without training, as far as noise demands.

Same runs, same cost: only what is made of them differs (`analysis.shrinkage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.activity import kernels, similarity
from sessionwise.analysis.rung_scores import training_noise
from sessionwise.analysis.shrinkage import LEAST, Shrunk, shrink
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import Full, SmallProxy
from sessionwise.selection.ranking import Plan, Ranking, gains_of, missing
from sessionwise.selection.scored import Scores, generator, ranking_by
from sessionwise.selection.zero_training import combined
from sessionwise.training.presets import Settings

DRAWS = 2000


class FullShrunk(Full):
    """``full`` without its controls, its scores shrunk by their noise towards what trials, quality, the core's own
    score and likeness of activity predict."""

    name = "full_shrunk"
    about = "full, its scores shrunk by their noise towards what trials, quality, own score and likeness predict"
    controls = False

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the posterior mean; rows hold the ``measured`` score beside it, intervals are of the posterior."""
        plan = self._plan(target, pool, context)
        bad = missing(plan, context.compute(plan.specs))
        done = [name for name in pool if name not in bad]
        values: dict[str, float | None] = dict.fromkeys(pool)
        measured, draws, kind = {}, None, "no core was scored"
        if done:
            gains, spikes = gains_of(plan, context.store, done)
            scores = statistics.bits_per_spike(gains, spikes).mean(axis=1)
            measured = dict(zip(done, map(float, scores), strict=True))
            values |= measured
            kind = f"pooled bits per spike on validation trials; {len(done)} sessions are too few to shrink scores"
        if len(done) >= LEAST:
            found = self._shrunk(plan, done, gains, spikes, context)
            values |= zip(done, map(float, found.mean), strict=True)
            draws, kind = found.draws, shrunk_words(found)
        label = "bits per spike"
        told = ranking_by(
            self.name, target, Scores(values, label, kind, draws, bad, _note(plan)), context, context.seeds
        )
        rows = [{**row, "measured": measured.get(row["session"])} for row in told.document["rows"]]
        return Ranking({**told.document, "rows": rows, "noise_guessed": draws is not None and len(context.seeds) == 1})

    def _shrunk(
        self, plan: Plan, names: Sequence[str], gains: np.ndarray, spikes: np.ndarray, context: Context
    ) -> Shrunk:
        rng = generator(self.name, plan.heldout, context)
        cores = {name: [plan.pretrain[name, seed] for seed in plan.seeds] for name in names}
        return shrink(
            statistics.bits_per_spike(gains, spikes).mean(axis=1),
            statistics.score_draws(gains.mean(axis=1, keepdims=True), spikes, DRAWS, rng=rng),
            training_noise(gains, spikes),
            len(plan.seeds),
            free_facts(plan.heldout, names, cores, context),
            DRAWS,
            rng=rng,
        )


class SmallShrunk(FullShrunk):
    """``small_proxy``, its scores shrunk in the same way."""

    name = "small_shrunk"
    about = "small_proxy, its scores shrunk by their noise towards what trials, quality, own score and likeness predict"

    def settings(self, settings: Settings) -> Settings:
        """Those of ``small_proxy``."""
        return SmallProxy().settings(settings)


def free_facts(
    target: str, names: Sequence[str], cores: Mapping[str, Sequence[RunSpec]], context: Context
) -> dict[str, np.ndarray]:
    """What is known of each session without a finetuning, each (C,): log trials, quality, likeness, own score.

    cores: the pretrainings of each session; their own scores count only where every one has one. Of the held-out
    session only training trials are looked at: no trial that judges a choice takes part in it this way.
    """
    found = [context.quality(name) for name in names]
    own = kernels(context.load(target).counts("train"))
    facts = {
        "log trials": np.array([one.log_trials for one in found]),
        "quality": combined(found),
        "likeness": np.array([similarity(own, context.kernels(name)) for name in names]),
    }
    own_scores = [[context.store.result(core.key).get("bps") for core in cores[name]] for name in names]
    if all(value is not None for row in own_scores for value in row):
        facts["own score"] = np.array(own_scores, dtype=np.float64).mean(axis=1)
    return facts


def shrunk_words(found: Shrunk) -> str:
    """What was made of the scores, in a sentence."""
    return (
        f"posterior mean of bits per spike on validation trials: {found.kept:.0%} of what scores vary by is taken as "
        f"true, and {found.by_facts:.0%} of that as following trials, quality, own score and likeness of activity"
    )


def _note(plan: Plan) -> str:
    noise = " One seed: the noise of a training is a guess." if len(plan.seeds) == 1 else ""
    return f"No baseline was trained: how much pretraining helps, the full procedure tells (--method full).{noise}"
