"""Scores of a search for settings, from stored pretrainings: pure functions of what the runs left.

The score of a pretraining is the mean over its sessions of bits per spike on validation trials, cross-fitted: the
checkpoint is chosen on the even trials of all its sessions and scored on the odd ones, and the other way round, so no
trial judges a checkpoint that it helped to choose (as ``training.jobs.crossfit_gain``). The settings themselves are
then chosen on these same validation trials, which the best of many profits from.

Legend: S seeds, K validation trials of all sessions of the search, E validations of a training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from sessionwise.analysis.statistics import Interval, bits_per_spike, interaction_variance, paired_difference
from sessionwise.io.files import canonical_json, read_json
from sessionwise.io.tensors import read_tensors
from sessionwise.model.ndt import Core, NDTConfig
from sessionwise.model.streams import stream_seed
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.scoring.likelihood import pooled_bits
from sessionwise.selection.ranking import MIN_TRIALS_TO_JUDGE
from sessionwise.study.tuning_recipe import BASE, Axis, Variant
from sessionwise.training.jobs import crossfit_gain

SINGLE, SET = "single", "set"
ALPHA = 0.05
Gains = dict[str, tuple[np.ndarray, np.ndarray]]  # session -> gains in nats and spikes of its validation trials


@dataclass(frozen=True)
class Fit:
    """One pretraining of a search. scope: "single" or "set"."""

    variant: Variant
    scope: str
    sessions: tuple[str, ...]
    seed: int
    spec: RunSpec


@dataclass(frozen=True)
class Fitted:
    """How a pretraining ended, with its gains by session if it is done: cross-fitted, and of the kept checkpoint."""

    fit: Fit
    outcome: Outcome
    crossed: Gains | None
    kept: Gains | None
    result: Mapping[str, Any]

    def score(self) -> float | None:
        """Cross-fitted bits per spike, mean over the sessions."""
        return None if self.crossed is None else mean_bits(self.crossed)


@cache
def core_parameters(config: NDTConfig, n_bins: int) -> int:
    """Number of parameters that all sessions share; no memory is used for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Core(config, n_bins).parameters())


def fitted(fit: Fit, outcome: Outcome, store: RunStore, sizes: Mapping[str, int]) -> Fitted:
    """A pretraining with what it left. sizes: validation trials of each session."""
    result = store.result(fit.spec.key) if outcome.state in ("done", "diverged") else {}
    if outcome.state != "done":
        return Fitted(fit, outcome, None, None, result)
    folder = store.folder(fit.spec.key)
    stored, steps = read_tensors(folder / "validation.safetensors"), read_json(folder / "history.json")["step"]
    history, spikes = stored["gain"], stored["spikes"]  # (E, trials of all sessions in the order of their ids)
    kept = history[steps.index(result["best_step"])]
    halves = min(spikes[0::2].sum(), spikes[1::2].sum())
    chosen = fit.variant.settings.train.keep == "best" and halves > 0
    crossed = crossfit_gain(history, spikes) if chosen else kept
    return Fitted(fit, outcome, by_session(fit, crossed, spikes, sizes), by_session(fit, kept, spikes, sizes), result)


def by_session(fit: Fit, gain: np.ndarray, spikes: np.ndarray, sizes: Mapping[str, int]) -> Gains:
    """Cut what is stored for all sessions of a run; sessions without a spike have no score and are left out."""
    ids = sorted(fit.sessions)
    ends = np.cumsum([sizes[i] for i in ids])
    parts = zip(ids, np.split(gain, ends[:-1]), np.split(spikes, ends[:-1]), strict=True)
    return {i: (g, n) for i, g, n in parts if n.sum() > 0}


def mean_bits(gains: Gains) -> float:
    """Mean over sessions of pooled bits per spike."""
    return float(np.mean([pooled_bits(float(g.sum()), float(n.sum())) for g, n in gains.values()]))


def row_of(found: Fitted, n_bins: int) -> dict[str, Any]:
    """A row of ``tuning.csv``. bps: the score; bps_kept: of the kept checkpoint, on the trials that chose it."""
    fit, result = found.fit, found.result
    return {
        "variant": fit.variant.name,
        "setting": fit.variant.axis,
        "value": fit.variant.value,
        "scope": fit.scope,
        "n_sessions": len(fit.sessions),
        "seed": fit.seed,
        "bps": found.score(),
        "bps_kept": None if found.kept is None else mean_bits(found.kept),
        "state": found.outcome.state,
        "reason": found.outcome.reason,
        "core_parameters": core_parameters(fit.variant.settings.model, n_bins),
        "steps": result.get("steps"),
        "best_step": result.get("best_step"),
        "tokens": result.get("tokens"),
        "sessions": canonical_json(list(fit.sessions)).decode(),
        "run": fit.spec.key,
    }


# Variants -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A variant over its runs. gain: (S, K), weight: (K,), such that ``bits_per_spike(gain, weight)`` is its score."""

    entry: dict[str, Any]
    gain: np.ndarray | None
    weight: np.ndarray | None


def weighted(runs: Sequence[Fitted], seeds: Sequence[int], sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(S, K) gains and (K,) weights of all validation trials of a search, by session in the order of their ids.

    Each session of a scope counts the same in its scope, and so does each scope: what ``bits_per_spike`` makes of the
    two is the mean over scopes of the mean over sessions. All runs must be done.
    """
    ends = np.cumsum([0, *(sizes[i] for i in sorted(sizes))])
    place = {i: slice(ends[n], ends[n + 1]) for n, i in enumerate(sorted(sizes))}
    gain, weight = np.zeros((len(seeds), ends[-1])), np.zeros(ends[-1])
    scopes = sorted({run.fit.scope for run in runs})
    for scope in scopes:
        mine = [run for run in runs if run.fit.scope == scope]
        n_sessions = len({i for run in mine for i in run.crossed or ()})
        for run in mine:
            for i, (g, n) in (run.crossed or {}).items():
                share = 1 / (n.sum() * n_sessions * len(scopes))
                gain[seeds.index(run.fit.seed), place[i]] += g * share
                if run.fit.seed == seeds[0]:
                    weight[place[i]] += n * share
    return gain, weight


def score_variant(
    variant: Variant, runs: Sequence[Fitted], seeds: Sequence[int], sizes: Mapping[str, int], n_bins: int
) -> Scored:
    """Mean and SD over seeds of a variant; one run that is not done leaves the score out and says why."""
    scopes = {s: [run for run in runs if run.fit.scope == s] for s in (SINGLE, SET)}
    parts = {scope: _over_seeds(mine, seeds, sizes) for scope, mine in scopes.items() if mine}
    bad = [run for run in runs if run.outcome.state != "done"]
    reason = None
    if bad:
        first = bad[0]
        reason = f"{len(bad)} of {len(runs)} runs without a score, first {first.fit.spec.name}: {first.outcome.reason}"
    gain, weight = (None, None) if bad else weighted(runs, seeds, sizes)
    steps = [run.result["steps"] for run in runs if run.result]
    entry = {
        "name": variant.name,
        "setting": variant.axis,
        "value": variant.value,
        "state": bad[0].outcome.state if bad else "done",
        "reason": reason,
        "n_runs": len(runs),
        "n_done": len(runs) - len(bad),
        **_over_seeds(runs, seeds, sizes),
        "scopes": parts,
        "core_parameters": core_parameters(variant.settings.model, n_bins),
        "steps": sum(steps),
        "difference": None,
        "runs": [run.fit.spec.key for run in runs],
    }
    return Scored(entry, gain, weight)


def _over_seeds(runs: Sequence[Fitted], seeds: Sequence[int], sizes: Mapping[str, int]) -> dict[str, Any]:
    if any(run.outcome.state != "done" for run in runs):
        return {"score": None, "sd": None, "seed_scores": None}
    values = bits_per_spike(*weighted(runs, seeds, sizes))
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"score": float(values.mean()), "sd": sd, "seed_scores": [float(value) for value in values]}


def compare(scored: Mapping[str, Scored], split_seed: int) -> None:
    """Add to each variant its difference to the base on the same trials, with a 95 % interval.

    Variants of a seed share start, masks and order as far as their settings allow, so what counts is the variance of a
    training that does not move all of them alike, pooled over all that are done.
    """
    base = scored[BASE]
    done = [one.entry["seed_scores"] for one in scored.values() if one.gain is not None]
    variance = interaction_variance(np.array(done)) if len(done) > 1 else None
    for name, one in scored.items():
        if name == BASE or one.gain is None or base.gain is None or base.weight is None:
            continue
        rng = np.random.default_rng(stream_seed(split_seed, "tuning", name))
        found = paired_difference(one.gain, base.gain, base.weight, rng=rng, seed_variance=variance)
        one.entry["difference"] = {"mean": found.mean, "low": found.low, "high": found.high, "level": found.level}


# Choices --------------------------------------------------------------------------------------------------------------


def choose(axis: Axis, scored: Mapping[str, Scored], n_seeds: int, n_trials: int) -> dict[str, Any]:
    """The value with the best mean of one setting, and whether it is told apart from the base.

    verdict: "base" (the base is best), "chosen" (another one, and the interval of its difference, widened for as many
    comparisons as the setting has by Bonferroni, lies above zero), "not told apart", or "no score".
    """
    values = {name: value for value, name in axis.members}
    done = {name: scored[name].entry for name in values if scored[name].entry["score"] is not None}
    ranked = sorted(done, key=lambda name: (-done[name]["score"], name != BASE))
    best = ranked[0] if ranked else None
    difference = done[best]["difference"] if best else None
    enough = n_seeds > 1 and n_trials >= MIN_TRIALS_TO_JUDGE
    apart = bool(enough and difference and lower_bound(difference, len(values) - 1) > 0)
    if best is None or BASE not in done:
        verdict = "no score"
    else:
        verdict = "base" if best == BASE else "chosen" if apart else "not told apart"
    return {
        "setting": axis.name,
        "values": [{"value": value, "name": name} for value, name in axis.members],
        "base": values[BASE],
        "best": None if best is None else values[best],
        "best_name": best,
        "best_by_scope": {scope: _best_in(scope, values, scored) for scope in (SINGLE, SET)},
        "told_apart": apart,
        "verdict": verdict,
        "n_missing": len(values) - len(done),
        "text": _sentence(axis.name, values, done, best, verdict, enough),
    }


def lower_bound(difference: Mapping[str, Any] | Interval, comparisons: int) -> float:
    """Lower end of an interval of a difference, widened so that all of several hold together (Bonferroni, normal)."""
    about = vars(difference) if isinstance(difference, Interval) else difference
    half = (about["high"] - about["low"]) / 2 / NormalDist().inv_cdf((1 + about["level"]) / 2)
    return float(about["mean"] - half * NormalDist().inv_cdf(1 - ALPHA / 2 / max(1, comparisons)))


def _best_in(scope: str, values: Mapping[str, Any], scored: Mapping[str, Scored]) -> Any:
    known = {
        name: part["score"]
        for name in values
        if (part := scored[name].entry["scopes"].get(scope)) and part["score"] is not None
    }
    return values[max(known, key=lambda name: known[name])] if known else None


def _sentence(
    axis: str,
    values: Mapping[str, Any],
    done: Mapping[str, Mapping[str, Any]],
    best: str | None,
    verdict: str,
    enough: bool,
) -> str:
    if best is None:
        return f"{axis}: no value has a score."
    text = f"{axis}: {values[best]} is best ({done[best]['score']:.4f} bits per spike)"
    if verdict == "no score":
        return f"{text}; the base has no score, so nothing is compared."
    if verdict == "base":
        return f"{text}; it is the base."
    d = done[best]["difference"]
    said = f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
    said_base = "" if values[BASE] == BASE else f" {values[BASE]}"
    word = "told apart from" if verdict == "chosen" else "not told apart from"
    why = "" if enough else "; too few seeds or trials to judge"
    return f"{text}, {word} the base{said_base} ({said}{why})."
