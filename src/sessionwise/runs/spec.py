"""What a run is: a frozen specification whose hash is its name.

``key = SHA-256 of the canonical JSON of {kind, schema, settings, sessions, inputs, seed}``. Paths, labels, hosts,
numbers of workers and positions in a list are never in it: the same work has the same key everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sessionwise.errors import UsageError
from sessionwise.io.files import canonical_json, sha256_bytes

CODE_SCHEMA = 2  # raise it when a change of code changes the results of runs: all keys change with it
KEY_LENGTH = 64
_EXACT = 2**53  # floats below this that are whole numbers are the integer they equal


@dataclass(frozen=True, eq=False)
class RunSpec:
    """One run: a training or an evaluation, as a value.

    Parameters
    ----------
    kind: what is done ("pretrain", "finetune", ...).
    settings: the settings that matter for the result; JSON values only, no NaN.
    sessions: session id -> hash of the content that the run sees.
    inputs: role -> key of a run whose artefacts this one reads.
    seed: seed of all its random streams.
    schema: version of the code's results.
    where: paths and the like, for the work function; not part of the identity.
    label: text for people; not part of the identity.
    steps: expected optimiser steps, for progress and scheduling; not part of the identity.

    Two specifications are equal when their keys are. Values are copied and made canonical (tuples become lists,
    2.0 becomes 2), so that equal keys mean equal bytes. UsageError names a value that JSON cannot hold.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    schema: int = CODE_SCHEMA
    where: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    steps: int = 0

    def __post_init__(self) -> None:
        for name in ("settings", "sessions", "inputs", "where"):
            object.__setattr__(self, name, _canonical(getattr(self, name), f"run {name}"))
        _check_types(self)
        self.key  # noqa: B018 - the identity is fixed now, whatever happens to the dictionaries later

    @cached_property
    def key(self) -> str:
        """64 hexadecimal digits that name this run."""
        return sha256_bytes(canonical_json(self.identity()))

    @property
    def name(self) -> str:
        """The label, or the kind and the first digits of the key."""
        return self.label or f"{self.kind} {self.key[:8]}"

    def identity(self) -> dict[str, Any]:
        """The fields that the key is made of, as JSON values."""
        names = ("kind", "schema", "settings", "sessions", "inputs", "seed")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; ``RunSpec.from_json`` is the inverse."""
        return {**self.identity(), "where": self.where, "label": self.label, "steps": self.steps}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSpec:
        """A specification from what ``to_json`` or ``identity`` gave."""
        try:
            return cls(**value)
        except TypeError as error:
            raise UsageError("run specification", f"has other fields ({error})", "the fields of RunSpec") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSpec) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


def is_key(text: str) -> bool:
    """Whether a text is a run's key, and so safe as a file name."""
    return len(text) == KEY_LENGTH and set(text) <= set("0123456789abcdef")


def _check_types(spec: RunSpec) -> None:
    if not isinstance(spec.kind, str) or not spec.kind.isidentifier():
        raise UsageError("run kind", repr(spec.kind), "a word of letters, digits and _")
    for name in ("seed", "schema", "steps"):
        value = getattr(spec, name)
        if type(value) is not int or value < 0:
            raise UsageError(f"run {name}", repr(value), "a whole number from 0")
    for name in ("sessions", "inputs"):
        _check_texts(getattr(spec, name), f"run {name}")
    for role, key in spec.inputs.items():
        if not is_key(key):
            raise UsageError(f"run inputs: {role}", repr(key), "the key of a run")


def _check_texts(table: Mapping[str, Any], where: str) -> None:
    for name, value in table.items():
        if not isinstance(value, str):
            raise UsageError(f"{where}: {name}", repr(value), "a text")


def _canonical(value: Any, where: str) -> Any:
    """A copy that JSON gives back unchanged, with one form for equal numbers."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _canonical_float(float(value), where)
    if isinstance(value, Mapping):
        return {_text_key(name, where): _canonical(item, f"{where}: {name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{position}]") for position, item in enumerate(value)]
    raise UsageError(where, f"{type(value).__name__} {value!r:.80}", "a JSON value", "Convert it to text or a number")


def _canonical_float(value: float, where: str) -> int | float:
    if not math.isfinite(value):
        raise UsageError(where, str(value), "a finite number", "Use null for what is missing")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _text_key(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise UsageError(where, f"has the key {name!r}", "texts as keys")
    return str(name)
