"""Small models on random sets of the pool, and ridge regression of their scores on who was in the set.

The idea of datamodels and of RegMix (`analysis.inclusion`): a session is good if sets that hold it do well. Sets depend
on the pool and the split seed, not on the held-out session, so one set of pretrainings serves all of these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.inclusion import Effects, inclusion_effects
from sessionwise.errors import UsageError
from sessionwise.model.streams import stream_seed
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.ranking import Ranking, gain_of
from sessionwise.selection.scored import Scores, generator, ranking_by
from sessionwise.training.jobs import finetune_spec, pretrain_spec
from sessionwise.training.presets import Settings

MIN_POOL = 4  # with fewer there is one way to halve the pool, or none
ONE_IN = 4  # a set holds a quarter of the pool, two sessions at least
MODELS, MOST = 3, 12  # a session of the pool: where no budget says otherwise, and whatever it pays for
TRIES = 50  # lots for a division that repeats no set: small pools have few
DRAWS = 2000


@dataclass(frozen=True)
class Model:
    """A small model: the set ``sessions``, its ``seed``, the pretraining on the set and the finetuning around it."""

    sessions: tuple[str, ...]
    seed: int
    pretrain: RunSpec
    finetune: RunSpec


class SetRegression:
    """Score a session by what its inclusion adds to a set, in bits per spike on the held-out session.

    Cores are those of ``small_proxy``. Each is pretrained for as many steps as an average single session takes, however
    large its set is. The pool is divided into sets again and again, so each session is in equally many of them; each
    division takes the next seed. There are MODELS (3) models for each session of the pool, or what the budget pays.
    """

    name = "set_regression"
    about = "small cores on random sets of the pool, ridge regression on inclusion (pools of four or more)"

    def runs(self, target: str, pool: Sequence[str], context: Context) -> list[RunSpec]:
        """All pretrainings on sets, and their finetunings."""
        return _specs(self._models(target, pool, context))

    def rank(self, target: str, pool: Sequence[str], context: Context) -> Ranking:
        """Rank by the effect of inclusion; trials are resampled jointly for all sets."""
        models = self._models(target, pool, context)
        outcomes = context.compute(_specs(models))
        done = [model for model in models if outcomes[model.finetune.key].state == "done"]
        seeds = tuple(seed for seed in context.seeds if any(model.seed == seed for model in models))
        scored = [name for name in pool if any(name in model.sessions for model in done)]
        values: dict[str, float | None] = dict.fromkeys(pool)
        draws, kind, note = None, "too few models of sets finished", ""
        if len(done) >= len(seeds) + 2:
            found = self._effects(target, scored, done, context)
            values |= zip(scored, map(float, found.value), strict=True)
            draws, kind, note = found.draws, _kind(found, models, outcomes), _note(found)
        scores = Scores(values, "bits per spike added to a set", kind, draws, _reasons(pool, models, outcomes), note)
        return ranking_by(self.name, target, scores, context, seeds)

    def _models(self, target: str, pool: Sequence[str], context: Context) -> list[Model]:
        """Models of as many divisions as there shall be; UsageError if the budget pays for fewer than sessions."""
        if len(pool) < MIN_POOL:
            found = f"a pool of {len(pool)} session{'s' * (len(pool) != 1)}"
            raise UsageError(f"--method {self.name}", found, f"{MIN_POOL} or more", "Use --method small_proxy")
        settings, models, price = self.settings(pool, context), list[Model](), 0
        for sets, seed in divisions(pool, context.seeds, context.settings.split_seed):
            more = [_model(one, seed, target, settings, context) for one in sets]
            price += context.price(_specs(more))
            most = MODELS if context.budget is None else MOST
            if len(models) >= most * len(pool) or (context.budget is not None and price > context.budget):
                break
            models += more
        if context.budget is not None and len(models) < len(pool):
            raise UsageError(
                f"--method {self.name}",
                f"a budget of {context.budget:.3g} operations, which pays for {len(models)} models",
                f"as many as sessions, {len(pool)}, or more",
                "Raise the budget, or rank fewer sessions with --pool",
            )
        return models

    def settings(self, pool: Sequence[str], context: Context) -> Settings:
        """Those of ``small_proxy``, each pretraining by the mean number of steps of single-session trainings."""
        small = SmallProxy().settings(context.settings)
        steps = [pretrain_spec(context.sessions, [name], small, context.seeds[0]).steps for name in pool]
        return small.model_copy(update={"train": small.train.model_copy(update={"steps": round(np.mean(steps))})})

    def _effects(self, target: str, scored: Sequence[str], done: Sequence[Model], context: Context) -> Effects:
        pairs = [gain_of(model.finetune, context.store) for model in done]
        gains, spikes = np.array([gain for gain, _ in pairs]), pairs[0][1]
        rng = generator(self.name, target, context)
        return inclusion_effects(
            np.array([[name in model.sessions for name in scored] for model in done]),
            statistics.bits_per_spike(gains, spikes),
            statistics.score_draws(gains[:, None], spikes, DRAWS, rng=rng),
            np.array([model.seed for model in done]),
            rng=rng,
        )


def divisions(
    pool: Sequence[str], seeds: Sequence[int], split_seed: int
) -> Iterator[tuple[list[tuple[str, ...]], int]]:
    """Divisions of the pool into sets about as large as a quarter of it, by lot, with the seed of each, in turn.

    They depend on the sorted pool and the split seed. A set comes once with a seed: of TRIES lots that division is
    taken that repeats the fewest, without those it repeats. They end when a seed finds nothing new (small pools).
    """
    names = sorted(pool)
    rng = np.random.default_rng(stream_seed(split_seed, "ranker", SetRegression.name, *names))
    n_sets = len(names) // max(2, -(-len(names) // ONE_IN))
    known = set[tuple[tuple[str, ...], int]]()
    for seed in itertools.cycle(seeds):
        lots = [_lot(names, n_sets, rng) for _ in range(TRIES)]
        new = max(([one for one in lot if (one, seed) not in known] for lot in lots), key=len)
        if not new:
            return
        known |= {(one, seed) for one in new}
        yield new, seed


def _lot(names: Sequence[str], n_sets: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    parts = np.array_split(rng.permutation(len(names)), n_sets)
    return [tuple(names[at] for at in np.sort(part)) for part in parts]


def _model(sessions: tuple[str, ...], seed: int, target: str, settings: Settings, context: Context) -> Model:
    core = pretrain_spec(context.sessions, sessions, settings, seed)
    return Model(sessions, seed, core, finetune_spec(context.sessions, target, core, settings, seed))


def _specs(models: Sequence[Model]) -> list[RunSpec]:
    return [spec for model in models for spec in (model.pretrain, model.finetune)]


def _cause(model: Model, outcomes: Mapping[str, Outcome]) -> tuple[str, str]:
    """State and reason of a model that has no score: those of its pretraining, if that is what failed."""
    ended = [outcomes[spec.key] for spec in (model.pretrain, model.finetune)]
    first = next(one for one in ended if one.state != "done")
    return first.state, f"set of {', '.join(model.sessions)}, seed {model.seed}: {first.reason}"


def _reasons(
    pool: Sequence[str], models: Sequence[Model], outcomes: Mapping[str, Outcome]
) -> dict[str, tuple[str, str]]:
    """Why a session could be without a score: the first of its sets that failed, or too few sets in all."""
    bad = [model for model in models if outcomes[model.finetune.key].state != "done"]
    few = ("failed", f"{len(models) - len(bad)} of {len(models)} models of sets finished, too few for a regression")
    return {name: next((_cause(model, outcomes) for model in bad if name in model.sessions), few) for name in pool}


def _kind(found: Effects, models: Sequence[Model], outcomes: Mapping[str, Outcome]) -> str:
    """A sentence with how much was trained, how well sets are predicted from each other, and what failed."""
    lost = [_cause(model, outcomes) for model in models if outcomes[model.finetune.key].state != "done"]
    text = (
        f"bits per spike that including a session instead of an average one adds to a set of small cores' sessions, "
        f"from {len(models) - len(lost)} sets; {found.explained:.2f} of the variance between sets is predicted for "
        f"sets that are left out (ridge of strength {found.strength:.3g})"
    )
    return "; ".join([text, *(f"left out, {state}: {why}" for state, why in lost)])


def _note(found: Effects) -> str:
    nothing = "Sets tell nothing of each other: what a session adds is not told apart from noise. "
    text = nothing if found.explained <= 0 else ""
    return text + "No single-session core was tried: how much those help, the full procedure tells (--method full)."
