"""The one optimisation loop: AdamW, OneCycle, clipping, best on validation, divergence as an outcome, exact resume.

The loop knows a model, a stream of batches and how to validate; what is trained (a whole model, or stitchers around a
frozen core) is the caller's list of parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from sessionwise.errors import UsageError
from sessionwise.io.files import read_json, write_json
from sessionwise.io.tensors import read_tensors, write_tensors
from sessionwise.model.checkpoint import arrays
from sessionwise.model.ndt import NDT, Rng, positions_of, rows_of
from sessionwise.model.streams import stream
from sessionwise.runs.checkpoints import latest_checkpoint, save_checkpoint
from sessionwise.runs.worker import Reporter
from sessionwise.scoring.evaluate import Evaluation
from sessionwise.scoring.likelihood import pooled_bits
from sessionwise.training.batches import Batch, Batches
from sessionwise.training.graphs import Graphs

Validate = Callable[[NDT], list[Evaluation]]
MIN_STEPS = 10
# After how many steps loss and gradient are looked at: on a GPU each look waits for everything that was launched.
CHECK_EVERY = {"cpu": 1, "cuda": 50}


class TrainSettings(BaseModel):
    """How weights are trained. The defaults are Table A1 of the paper, and MtM's where it is silent (protocol A9)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1000, ge=1, description="passes over all training trials of the selected sessions")
    steps: int | None = Field(None, ge=MIN_STEPS, description="optimiser steps instead of epochs")
    batch_size: int = Field(16, ge=1)
    lr: float = Field(1e-4, gt=0, description="peak learning rate of OneCycle")
    weight_decay: float = Field(0.01, ge=0)
    pct_start: float = Field(0.15, gt=0, lt=1)
    div_factor: float = Field(10.0, ge=1)
    final_div_factor: float = Field(1e4, ge=1)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    mask_ratio: float = Field(0.3, gt=0, lt=1)
    loss: Literal["mean", "sum"] = Field("mean", description="over masked entries; MtM back-propagates the sum")
    keep: Literal["best", "last"] = Field("best", description="checkpoint: best on validation, or the last")
    validations: int = Field(25, ge=1, description="validations during a training, evenly spaced, the last at its end")
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of matrix products; auto: bf16 where hardware and width make it faster"
    )
    compile: bool = Field(False, description="compile the core's blocks (minutes at the start; eager where it fails)")


class FinetuneSettings(TrainSettings):
    """How new stitchers are trained on a held-out session (protocol A14, B7)."""

    freeze_core: bool = True
    session_embedding: Literal["mean", "fresh", "trained"] = "mean"


@dataclass
class History:
    """What validation saw: one row a validation. gain: (E, K) by trial of all sessions; bps: (E,) pooled."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    gain: list[np.ndarray] = field(default_factory=list)

    def add(self, step: int, loss: float, evaluations: Sequence[Evaluation]) -> None:
        """Append one validation."""
        self.step.append(step)
        self.loss.append(loss)
        self.gain.append(np.concatenate([evaluation.gain for evaluation in evaluations]))


@dataclass
class CrossFit:
    """For each half of the validation trials: the step chosen on it, and the units' gains on the *other* half then."""

    bps: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    step: list[int] = field(default_factory=lambda: [-1, -1])
    unit_gain: list[np.ndarray | None] = field(default_factory=lambda: [None, None])

    def offer(self, step: int, evaluation: Evaluation) -> None:
        """Let a validation of one session compete in each half."""
        for half in (0, 1):
            bps = pooled_bits(float(evaluation.gain[half::2].sum()), float(evaluation.spikes[half::2].sum()))
            if bps > self.bps[half]:
                self.bps[half], self.step[half] = bps, step
                self.unit_gain[half] = evaluation.unit_gain[1 - half].copy()


@dataclass
class Trained:
    """How a training ended. ``reason`` is set when it diverged; the model then holds no usable weights."""

    steps: int
    tokens: int
    best_step: int
    best_bps: float
    history: History
    crossfit: CrossFit
    spikes: np.ndarray
    reason: str | None = None


class Training:
    """One training in progress: everything that a checkpoint must hold for a bit-identical continuation.

    ``dense``: compute all bins and weigh them, in tensors whose shapes do not depend on the mask. That is what a GPU
    wants, where shapes that depend on values make the host wait; a CPU computes the rows that matter. ``graphs``: what
    records dense steps on a GPU.
    """

    def __init__(
        self, model: NDT, parameters: Sequence[nn.Parameter], batches: Batches, settings: TrainSettings, seed: int
    ) -> None:
        self.model, self.parameters, self.batches, self.settings = model, list(parameters), batches, settings
        self.total = total_steps(settings, batches.per_epoch)
        self.step, self.tokens, self.recent_loss = 0, 0, 0.0
        device = torch.device(settings.device)
        self.dense, self.check_every = device.type != "cpu", CHECK_EVERY[device.type]
        self.graphs = Graphs(self._losses, self.parameters) if device.type == "cuda" else None
        self._seen = torch.zeros(4, dtype=torch.float64, device=device)  # step, tokens, loss, norm: last, or first bad
        self.mask_rng = stream(seed, *batches.role, "masks", device=device)
        self.dropout_rng = stream(seed, *batches.role, "dropout", device=device)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            settings.lr,
            total_steps=self.total,
            pct_start=settings.pct_start,
            div_factor=settings.div_factor,
            final_div_factor=settings.final_div_factor,
        )
        self.best_bps, self.best_step = -math.inf, -1
        self.best: dict[str, Tensor] = {}
        self.history, self.crossfit, self.spikes = History(), CrossFit(), np.zeros(0)

    def advance(self) -> str | None:
        """One optimiser step; the reason when a loss or a gradient was seen that is not finite."""
        batch = self.batches.draw(self.settings.mask_ratio, self.mask_rng)
        if self.graphs:
            (loss,) = self.graphs([batch], [self.dropout_rng])
        else:
            loss = batch_loss(self.model, batch, self.settings, self.dropout_rng, self.dense)
            loss.backward()
        return self.update(loss.detach(), batch.masked.numel())

    def update(self, loss: Tensor, tokens: int) -> str | None:
        """The second half of a step, from gradients to weights; the reason as of ``advance``."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self._note(loss, norm, tokens)
        if (self.step + 1) % self.check_every == 0 and (reason := self.check()):
            return reason
        self.optimiser.step()
        if self.step + 1 < self.total:
            self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += tokens
        return None

    def _losses(self, batches: Sequence[Batch], rngs: Sequence[Generator]) -> Tensor:
        (batch,), (rng,) = batches, rngs
        return batch_loss(self.model, batch, self.settings, rng, self.dense).unsqueeze(0)

    def _note(self, loss: Tensor, norm: Tensor, tokens: int) -> None:
        """Keep loss and norm of this step where they are computed; of the first step that is not finite for good."""
        place = torch.tensor([self.step + 1, self.tokens], dtype=torch.float64).to(self._seen.device, non_blocking=True)
        now = torch.cat([place, torch.stack([loss, norm]).double()])
        self._seen = torch.where(self._seen[2:].isfinite().all(), now, self._seen)

    def check(self) -> str | None:
        """The reason when a loss or a gradient since the last look was not finite; the training then stands there."""
        step, tokens, loss, norm = self._seen.tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self.recent_loss = loss
            return None
        self.step, self.tokens = int(step) - 1, int(tokens)
        return f"loss {loss:g}, gradient norm {norm:g} at step {int(step)} of {self.total}"

    def validate(self, evaluations: list[Evaluation]) -> str | None:
        """Record one validation and keep the weights when they are the best so far; the reason when not finite."""
        gain = float(sum(evaluation.gain.sum() for evaluation in evaluations))
        spikes = np.concatenate([evaluation.spikes for evaluation in evaluations])
        bps = pooled_bits(gain, float(spikes.sum()))
        if not math.isfinite(bps):
            return f"validation score {bps:g} at step {self.step} of {self.total}"
        self.history.add(self.step, self.recent_loss, evaluations)
        self.spikes = spikes
        if len(evaluations) == 1:
            self.crossfit.offer(self.step, evaluations[0])
        if bps > self.best_bps or self.settings.keep == "last":
            self.best_bps, self.best_step = bps, self.step
            self.best = {name: tensor.detach().clone() for name, tensor in self._trained().items()}
        return None

    def finish(self, reason: str | None = None) -> Trained:
        """Load the kept weights into the model and tell how it went."""
        if reason is None:
            self._load_trained(self.best)
        return Trained(
            self.step, self.tokens, self.best_step, self.best_bps, self.history, self.crossfit, self.spikes, reason
        )

    def save(self, folder: Path) -> None:
        """Write the whole state as safetensors and JSON."""
        tensors = {f"weights.{k}": v for k, v in self._trained().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        tensors |= {"rng.masks": self.mask_rng.get_state(), "rng.dropout": self.dropout_rng.get_state()}
        stored = arrays(tensors) | {"history.gain": np.array(self.history.gain), "spikes": self.spikes}
        for half in (0, 1):
            if (unit_gain := self.crossfit.unit_gain[half]) is not None:
                stored[f"crossfit.{half}"] = unit_gain
        write_tensors(folder / "state.safetensors", stored)
        write_json(folder / "state.json", self._scalars())

    def load(self, folder: Path) -> None:
        """Continue from a saved state; what follows is bit-identical to never having stopped (one CPU thread)."""
        about, stored = read_json(folder / "state.json"), read_tensors(folder / "state.safetensors")
        self._load_trained(_group(stored, "weights."))
        self.best = _group(stored, "best.")
        self._load_optimiser(_group(stored, "optimiser."))
        self.schedule.load_state_dict(about["schedule"])
        for group, values in zip(self.optimiser.param_groups, about["groups"], strict=True):
            group.update(lr=values["lr"], betas=tuple(values["betas"]))
        self.mask_rng.set_state(torch.from_numpy(stored["rng.masks"]))
        self.dropout_rng.set_state(torch.from_numpy(stored["rng.dropout"]))
        self.batches.restore(about["batches"])
        self.step, self.tokens, self.recent_loss = about["step"], about["tokens"], about["recent_loss"]
        self.best_bps, self.best_step = _number(about["best_bps"]), about["best_step"]
        self.history = History(about["history_step"], about["history_loss"], list(stored["history.gain"]))
        unit_gain = [stored.get(f"crossfit.{half}") for half in (0, 1)]
        self.crossfit = CrossFit([_number(x) for x in about["crossfit_bps"]], about["crossfit_step"], unit_gain)
        self.spikes = stored["spikes"]

    def _scalars(self) -> dict[str, Any]:
        groups = [{"lr": float(g["lr"]), "betas": list(g["betas"])} for g in self.optimiser.param_groups]
        return {
            "step": self.step,
            "tokens": self.tokens,
            "recent_loss": self.recent_loss,
            "best_bps": _finite(self.best_bps),
            "best_step": self.best_step,
            "batches": self.batches.state(),
            "schedule": self.schedule.state_dict(),
            "groups": groups,
            "history_step": self.history.step,
            "history_loss": self.history.loss,
            "crossfit_bps": [_finite(x) for x in self.crossfit.bps],
            "crossfit_step": self.crossfit.step,
        }

    def _trained(self) -> dict[str, Tensor]:
        wanted = {id(parameter) for parameter in self.parameters}
        return {name: p for name, p in self.model.named_parameters() if id(p) in wanted}

    @torch.no_grad()
    def _load_trained(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trained().items():
            parameter.copy_(values[name])

    def _load_optimiser(self, flat: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in flat.items():
            index, slot = name.split(".", 1)
            state.setdefault(int(index), {})[slot] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})


def train(
    training: Training,
    validate: Validate,
    report: Reporter,
    work: Path | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
) -> Trained:
    """Run a training to its end, from the newest checkpoint in ``work`` if there is one.

    Validates at evenly spaced steps and at the last; writes a checkpoint every ``checkpoint_seconds`` (or every
    ``checkpoint_steps``), less often where writing one takes long: at most 5 % of the time, at least every 10 minutes.
    When checkpoints are written changes no result.
    """
    course = Course(training, validate, report, work, checkpoint_seconds, checkpoint_steps)
    while not course.ended:
        course.follow(training.advance())
    return course.finish()


class Course:
    """What happens between the steps of a training: continuing, validations, checkpoints, reports.

    ``follow`` after each step until it ``ended``, then ``finish``. Arguments as of ``train``.
    """

    def __init__(
        self,
        training: Training,
        validate: Validate,
        report: Reporter,
        work: Path | None = None,
        checkpoint_seconds: float = 30.0,
        checkpoint_steps: int | None = None,
    ) -> None:
        self.training, self.validate, self.report, self.work = training, validate, report, work
        self.reason: str | None = None
        self._seconds, self._steps = checkpoint_seconds, checkpoint_steps
        if work is not None and (stored := latest_checkpoint(work)) is not None:
            training.load(stored)
        self._due = validation_steps(training.total, training.settings.validations)
        self._saved, self._interval = time.monotonic(), checkpoint_seconds

    @property
    def ended(self) -> bool:
        """Whether the training did its last step or diverged."""
        return self.reason is not None or self.training.step >= self.training.total

    def follow(self, reason: str | None) -> None:
        """Do what is due after a step that ended with ``reason``; raises Stopped when the command was asked to stop."""
        training = self.training
        validated = reason is None and training.step in self._due
        if validated:
            reason = training.check() or training.validate(self.validate(training.model))
        if reason is None and self.work is not None and (self.report.stopping or self._late()):
            reason = self.save()
        self.reason = reason
        if reason is None:
            self.report(_progress(training, validated))

    def finish(self) -> Trained:
        """Load the kept weights into the model and tell how it went."""
        return self.training.finish(self.reason)

    def save(self) -> str | None:
        """Write a checkpoint; the reason when there is nothing worth one."""
        if self.work is None:
            return None
        if reason := self.training.check():
            return reason
        begun = time.monotonic()
        save_checkpoint(self.work, self.training.step, self.training.save)
        self._saved = time.monotonic()
        self._interval = max(self._seconds, min(20 * (self._saved - begun), 600.0))
        return None

    def _late(self) -> bool:
        if self._steps:
            return self.training.step % self._steps == 0
        return time.monotonic() - self._saved > self._interval


def batch_loss(model: NDT, batch: Batch, settings: TrainSettings, rng: Rng | None, dense: bool = False) -> Tensor:
    """Poisson negative log likelihood (without log x!) of the masked entries; of all entries under ``next_step``.

    dense: of all entries, weighted 1 or 0, without a shape that depends on the mask.
    """
    device = model.device
    counts, masked = batch.counts.to(device), batch.masked.to(device)
    masked, scored = hidden_and_scored(model, masked)
    if dense:
        return dense_loss(model(counts, masked, batch.session_id, rng), counts, scored, settings)
    log_rates = model.log_rates_at(scored, counts, masked, batch.session_id, rng)  # (scored bins, N)
    losses = log_rates.exp() - rows_of(counts, positions_of(scored)).float() * log_rates
    return losses.mean() if settings.loss == "mean" else losses.sum()


def hidden_and_scored(model: NDT, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Which bins the model may not see and which are scored, both (K, T) bool; ``next_step`` hides none, scores all."""
    if model.config.objective == "next_step":
        return torch.zeros_like(masked), torch.ones_like(masked)
    return masked, masked


def dense_loss(log_rates: Tensor, counts: Tensor, scored: Tensor, settings: TrainSettings) -> Tensor:
    """``batch_loss`` from log rates (K, T, N) of all bins; scored: (K, T) bool."""
    losses = (log_rates.exp() - counts.float() * log_rates) * scored.unsqueeze(-1)
    return losses.sum() / (scored.sum() * counts.shape[-1]) if settings.loss == "mean" else losses.sum()


def total_steps(settings: TrainSettings, batches_per_epoch: int) -> int:
    """Optimiser steps of a training: ``steps``, else ``epochs`` passes (protocol A11)."""
    total = settings.steps or settings.epochs * batches_per_epoch
    if total < MIN_STEPS:
        raise UsageError("train.epochs", f"gives {total} steps", f"at least {MIN_STEPS}", "Set more epochs")
    return total


def validation_steps(total: int, validations: int) -> set[int]:
    """After which steps to validate: evenly spaced, the last one included."""
    return {math.ceil(total * (i + 1) / validations) for i in range(validations)}


def _progress(training: Training, validated: bool) -> dict[str, Any]:
    event = {"step": training.step, "steps": training.total, "loss": training.recent_loss}
    if validated:
        event["bps"] = pooled_bits(float(training.history.gain[-1].sum()), float(training.spikes.sum()))
    return event


def _group(stored: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(np.array(v)) for k, v in stored.items() if k.startswith(prefix)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
