"""The trainings as functions for Python users: pretrain, finetune, evaluate. Each is a stored run, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sessionwise.data.leakage import leaks
from sessionwise.data.store import SessionStore, open_store
from sessionwise.errors import RunsFailed, UsageError, raise_all
from sessionwise.model.ndt import NDT
from sessionwise.runs.launch import execute
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.training.jobs import WORK, baseline_spec, evaluate_spec, finetune_spec, load_trained, pretrain_spec
from sessionwise.training.presets import Settings
from sessionwise.training.presets import preset as preset_settings

DEFAULT_STUDY = "sessionwise-study"


@dataclass(frozen=True)
class TrainedModel:
    """A finished training: its specification, where it is stored, and what it was trained on."""

    spec: RunSpec
    store: RunStore
    sessions: SessionStore
    settings: Settings

    @property
    def folder(self) -> Path:
        """The committed folder with weights, validation scores and history."""
        return self.store.folder(self.spec.key)

    @property
    def result(self) -> dict[str, Any]:
        """Scores, steps and tokens of the training."""
        return self.store.result(self.spec.key)

    def load(self) -> NDT:
        """The model itself, with stitchers for the sessions it was trained on."""
        return load_trained(self.store, self.spec.key)


@dataclass(frozen=True)
class Score:
    """Bits per spike of a model on one split of a session: pooled (Eq. 1), mean over units, and the tail score."""

    session: str
    split: str
    bps: float
    bps_unit_mean: float
    units_left_out: int
    bps_tail: float | None
    cross_fitted: bool


def pretrain(
    sessions: SessionStore,
    *,
    seed: int = 10,
    preset: str = "small",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    to: str | Path = DEFAULT_STUDY,
    on: str = "here",
) -> TrainedModel:
    """Pretrain one model on all sessions of ``sessions`` (take a part with ``sessions.subset(ids)``).

    Raises RunsFailed when the training diverges or fails.
    """
    settings = preset_settings(preset, overrides)
    spec = pretrain_spec(sessions, sessions.ids, settings, seed)
    return _trained(spec, RunStore(Path(to) / "runs"), sessions, settings, on)


def finetune(
    model: TrainedModel, target: str | SessionStore, *, seed: int | None = None, on: str = "here"
) -> TrainedModel:
    """Train new stitchers for a held-out session around the model's frozen core.

    target: the session's id in the store that the model was trained from, or a one-session part of any store.
    seed: by default the model's own.
    """
    sessions, heldout = _one_session(model, target)
    everything = open_store(model.sessions.path)
    raise_all(leaks([sessions.info(heldout)], [everything.info(i) for i in model.spec.sessions]))
    spec = finetune_spec(sessions, heldout, model.spec, model.settings, model.spec.seed if seed is None else seed)
    return _trained(spec, model.store, sessions, model.settings, on)


def train_baseline(
    sessions: SessionStore,
    heldout: str,
    *,
    seed: int = 10,
    preset: str = "small",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    to: str | Path = DEFAULT_STUDY,
    on: str = "here",
) -> TrainedModel:
    """Train a model from scratch on the held-out session alone: what pretraining has to beat."""
    settings = preset_settings(preset, overrides)
    spec = baseline_spec(sessions, heldout, settings, seed)
    return _trained(spec, RunStore(Path(to) / "runs"), sessions, settings, on)


def evaluate(
    model: TrainedModel,
    target: str | SessionStore,
    *,
    split: Literal["validation", "test"] = "validation",
    on: str = "here",
) -> Score:
    """Bits per spike of a finetuned model (or baseline) on its session.

    ``"test"`` opens the sealed test trials, once for each model, and records that it did; use it for the numbers that
    you report and for nothing else.
    """
    sessions, heldout = _one_session(model, target)
    if list(model.spec.sessions) != [heldout]:
        raise UsageError(
            "evaluate", f"the model's stitchers are for {', '.join(model.spec.sessions)}", heldout, "Finetune it"
        )
    if (
        sessions.load(heldout, model.settings.split_seed, model.settings.split).trainval_hash
        != model.spec.sessions[heldout]
    ):
        raise UsageError("evaluate", f"session {heldout} is another recording here", "the one that was trained on")
    if split == "validation":
        result = model.result
    elif split == "test":
        spec = evaluate_spec(sessions, heldout, model.spec, model.settings)
        result = _trained(spec, model.store, sessions, model.settings, on).result
    else:
        raise UsageError("split", f"{split!r}", "'validation' or 'test'")
    names = ("bps", "bps_unit_mean", "units_left_out", "bps_tail")
    return Score(
        heldout, split, **{name: result[name] for name in names}, cross_fitted=result.get("cross_fitted", False)
    )


def _trained(spec: RunSpec, store: RunStore, sessions: SessionStore, settings: Settings, on: str) -> TrainedModel:
    outcome = execute([spec], store, WORK, on=on, retry_failed=True)[spec.key]
    if outcome.state != "done":
        raise RunsFailed(spec.label, f"{outcome.state}: {outcome.reason}", "a finished training", "Change the settings")
    return TrainedModel(spec, store, sessions, settings)


def _one_session(model: TrainedModel, target: str | SessionStore) -> tuple[SessionStore, str]:
    if isinstance(target, str):
        whole = model.sessions if target in model.sessions else open_store(model.sessions.path)
        return whole, target
    if len(target) != 1:
        raise UsageError("target", f"{len(target)} sessions", "one held-out session", "Use store.subset([id])")
    return target, target.ids[0]
