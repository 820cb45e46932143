"""What pretraining on chosen sessions gains, on the validation trials that also chose them, corrected for the choice.

Sessions that did well on these very trials did so partly by luck, and a model pretrained on them shares some of it. So
sessions are chosen twice, each time by one half of the trials, and a model is judged on the half that had no part in
choosing its sessions: every trial is judged once (cross-fitting). Where both halves choose the same sessions it is one
model. Sets of all sessions, and training on the recording alone, involve no choice.

Legend: S seeds, K validation trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.model.streams import stream_seed
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import choosing_half, gain_of
from sessionwise.training.jobs import baseline_spec, finetune_spec, pretrain_spec
from sessionwise.training.presets import Settings

LEVEL = 0.95
ONE_ERROR = 0.6827  # level of an interval of one standard error to each side


@dataclass(frozen=True)
class Arm:
    """Runs whose scores make one number: ``specs[half][seed]`` is judged on that half of the trials (0, 1)."""

    name: str
    specs: tuple[Mapping[int, RunSpec], Mapping[int, RunSpec]]
    inputs: tuple[RunSpec, ...] = ()

    @property
    def runs(self) -> list[RunSpec]:
        """Every run of the arm, inputs first, each once."""
        every = [*self.inputs, *(spec for half in self.specs for spec in half.values())]
        return list({spec.key: spec for spec in every}.values())

    def failure(self, context: Context) -> str | None:
        """Why the arm has no score; None when it has one."""
        outcomes = (context.outcomes[spec.key] for spec in self.runs)
        return next((f"{o.state}: {o.reason}" for o in outcomes if o.state != "done"), None)

    def gains(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """(S, K) gain in log likelihood over the null rates, nats, and (K,) spikes."""
        found = [[gain_of(spec, context.store) for spec in half.values()] for half in self.specs]
        spikes = found[0][0][1]
        first = choosing_half(len(spikes))
        judged = [np.where(first, a, b) for (a, _), (b, _) in zip(*found, strict=True)]
        return np.array(judged), spikes


def set_arm(
    name: str,
    sets: tuple[Sequence[str], Sequence[str]],
    target: str,
    settings: Settings,
    seeds: Sequence[int],
    context: Context,
) -> Arm:
    """A frozen core pretrained on a set, chosen for each half of the trials by the other one."""
    pretrained = [{s: pretrain_spec(context.sessions, chosen, settings, s) for s in seeds} for chosen in sets]
    tuned = [
        {s: finetune_spec(context.sessions, target, core, settings, s) for s, core in half.items()}
        for half in pretrained
    ]
    return Arm(name, (tuned[0], tuned[1]), tuple(core for half in pretrained for core in half.values()))


def alone_arm(name: str, target: str, settings: Settings, seeds: Sequence[int], context: Context) -> Arm:
    """All weights from scratch on the held-out session."""
    specs = {s: baseline_spec(context.sessions, target, settings, s) for s in seeds}
    return Arm(name, (specs, specs))


def price_of(arms: Sequence[Arm], context: Context) -> int:
    """Operations of the runs of these arms from scratch, each counted once."""
    return context.price(spec for arm in arms for spec in arm.runs)


def difference(a: Arm, b: Arm, context: Context, level: float = LEVEL) -> dict[str, Any]:
    """Paired difference of two arms in bits per spike with its interval, or None and the reason."""
    name = f"{a.name} - {b.name}"
    nothing = {"name": name, "mean": None, "low": None, "high": None, "level": level}
    for arm in (a, b):
        if reason := arm.failure(context):
            return {**nothing, "how": "not measured", "about": f"{arm.name}: {reason}"}
    (first, spikes), (second, _) = a.gains(context), b.gains(context)
    rng = np.random.default_rng(stream_seed(0, "gain", a.name, b.name))
    interval = statistics.paired_difference(first, second, spikes, rng=rng, level=level)
    return {**nothing, "mean": interval.mean, "low": interval.low, "high": interval.high}


def size_row(size: int, arms: Mapping[int, Arm], context: Context) -> dict[str, Any]:
    """Score of a set's size and its gain over the smallest set, bits per spike; None where a training failed."""
    arm, least = arms[size], arms[min(arms)]
    nothing = {"k": size, "score": None, "gain": None, "low": None, "high": None}
    if arm.failure(context):
        return nothing
    gains, spikes = arm.gains(context)
    row = {**nothing, "score": float(statistics.bits_per_spike(gains.mean(axis=0), spikes))}
    if arm is least:
        return {**row, "gain": 0.0, "low": 0.0, "high": 0.0}
    found = difference(arm, least, context)
    return {**row, "gain": found["mean"], "low": found["low"], "high": found["high"]}
