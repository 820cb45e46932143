"""Presets: model and training settings as values, and overrides in the field's habit (``train.lr=3e-4``)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from sessionwise.data.splits import SplitKind
from sessionwise.errors import UsageError, raise_all
from sessionwise.model.ndt import NDTConfig
from sessionwise.scoring.evaluate import EvaluationSettings
from sessionwise.training.loop import FinetuneSettings, TrainSettings
from sessionwise.training.precision import settle


class Settings(BaseModel):
    """Everything that decides the bytes of a training, apart from data and seed.

    split: how trials are divided ("random", "blocked" or "recorded"). A dump holds it where it is not "random": keys
    and folders of runs and rankings with the random split are those from before there were others.
    ``precision`` may be "auto" in a preset; ``settled`` answers what this machine makes of it, and only settled values
    reach keys and files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "paper"
    split_seed: int = Field(0, ge=0)
    split: SplitKind = "random"
    model: NDTConfig = NDTConfig()
    train: TrainSettings = TrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    baseline: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def settled(self) -> Settings:
        """The same with ``precision = "auto"`` replaced by what is fast on this machine (``precision.settle``)."""
        changed = {}
        for name in ("train", "finetune", "baseline"):
            how: TrainSettings = getattr(self, name)
            precision = settle(how.precision, how.device, self.model.width)
            changed[name] = how.model_copy(update={"precision": precision})
        return self.model_copy(update=changed)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return without_default_split(values)


def without_default_split(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that does not say ``split`` where it is the random one."""
    return {name: value for name, value in values.items() if (name, value) != ("split", "random")}


PAPER = Settings()

SMALL = Settings(
    preset="small",
    model=NDTConfig(token_width=96, width=96, feedforward=192, heads=4, blocks=3, decoder_start="null"),
    train=TrainSettings(epochs=50, lr=1.5e-3),
    finetune=FinetuneSettings(epochs=30, lr=1.5e-3),
    baseline=TrainSettings(epochs=50, lr=1.5e-3),
)

TINY = Settings(
    preset="tiny",
    model=NDTConfig(token_width=32, width=32, feedforward=64, heads=4, blocks=2, decoder_start="null"),
    train=TrainSettings(epochs=30, lr=5e-3),
    finetune=FinetuneSettings(epochs=20, lr=5e-3),
    baseline=TrainSettings(epochs=30, lr=5e-3),
)

PRESETS: Mapping[str, Settings] = {"tiny": TINY, "small": SMALL, "paper": PAPER}


def preset(name: str, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Settings:
    """A preset's settled settings with overrides: ``preset("tiny", ["train.epochs=50"])``, ``{"train.epochs": 50}``.

    Raises UsageError for an unknown preset or key (with the nearest known one) and for a value out of range.
    """
    if name not in PRESETS:
        raise UsageError("--preset", f"unknown preset {name!r}", f"one of {', '.join(PRESETS)}", nearest(name, PRESETS))
    pairs = overrides.items() if isinstance(overrides, Mapping) else [_pair(text) for text in overrides]
    values = PRESETS[name].model_dump()
    raise_all([problem for key, value in pairs if (problem := _override(values, key, value))])
    try:
        return Settings.model_validate(values).settled()
    except ValidationError as error:
        raise_all([_setting_problem(entry) for entry in error.errors()])
        raise


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the known word closest to a misspelt one, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else ""


def known_keys() -> list[str]:
    """Every key that ``--set`` understands."""
    keys = []
    for section in Settings.model_fields:
        value = getattr(PAPER, section)
        keys += [f"{section}.{name}" for name in value.model_dump()] if isinstance(value, BaseModel) else [section]
    return [key for key in keys if key != "preset"]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError("--set", f"{text!r} has no '='", "section.key=value", "For example --set train.epochs=50")
    return key.strip(), value.strip()


def _override(values: dict[str, Any], key: str, value: Any) -> UsageError | None:
    if key not in known_keys():
        return UsageError("--set", f"unknown key {key!r}", "section.key=value", nearest(key, known_keys()))
    section, _, name = key.partition(".")
    value = None if value in ("none", "None", "") else value
    if name:
        values[section][name] = value
    else:
        values[section] = value
    return None


def _setting_problem(entry: Any) -> UsageError:
    key = ".".join(str(part) for part in entry["loc"])
    return UsageError(f"setting {key}", f"{entry['input']!r}", entry["msg"].lower().removeprefix("input should be "))
