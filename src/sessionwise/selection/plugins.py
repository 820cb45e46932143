"""Classes found by name: ours first, then those that other packages name in an entry point group."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

from sessionwise.errors import UsageError
from sessionwise.training.presets import nearest


class Named(Protocol):
    """name: what users write; about: a line for people."""

    name: str
    about: str


def known_names(ours: Sequence[type[Named]], group: str) -> dict[str, str]:
    """Every name and what it does; those of other packages come last."""
    own = {one.name: one.about for one in ours}
    return own | {e.name: f"from {e.value}" for e in sorted(entry_points(group=group)) if e.name not in own}


def find_named(name: str, ours: Sequence[type[Named]], group: str, option: str, what: str) -> Any:
    """An instance of the class of a name; UsageError when there is none, or when another package's cannot be loaded.

    option: where the name was given, ``"--method"``. what: the classes are, ``"method"``.
    """
    for one in ours:
        if one.name == name:
            return one()
    for entry in entry_points(group=group):
        if entry.name == name:
            try:
                return entry.load()()
            except Exception as error:  # whatever another package raises
                found = f"{entry.value} cannot be loaded ({error})"
                raise UsageError(f"{option} {name}", found, f"a {what} that loads", "Update that package") from error
    known = known_names(ours, group)
    raise UsageError(option, f"unknown {what} {name!r}", f"one of {', '.join(known)}", nearest(name, known))
