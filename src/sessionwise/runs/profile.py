"""A site profile: what a Slurm cluster wants to know of every job, as a TOML file that a lab writes once.

``--on slurm:FILE.toml`` names it; ``--on slurm`` takes ``$SESSIONWISE_SLURM``, else
``~/.config/sessionwise/slurm.toml``, else the site's own defaults. Texts reach Slurm as arguments, never a shell;
``setup`` is the user's own shell.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sessionwise.errors import SessionwiseError, UsageError, raise_all

ENVIRONMENT = "SESSIONWISE_SLURM"
_MOST_BYTES = 1 << 20
_FORMATS = "minutes, or MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS as a text"
_REMEDY = "docs/cluster.md lists the keys"


@dataclass(frozen=True)
class Profile:
    """Settings of a site; None leaves the choice to the site.

    time: longest time of a task, minutes. memory: as Slurm writes it ("8G"). gpus, cpus: of a task, which does one run
    at a time with one thread. setup: shell lines before Python starts. bundle_runs, bundle_minutes: at most so many
    runs, and about so much work, in a task. tasks: at most so many queued or running at a time. signal_s: seconds
    before the end of its time at which a task is told to save. poll_s: seconds between questions to Slurm.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    memory: str | None = None
    time: int = 240
    gpus: int = 0
    cpus: int = 1
    setup: tuple[str, ...] = ()
    bundle_runs: int = 16
    bundle_minutes: int = 60
    tasks: int = 64
    signal_s: int = 120
    poll_s: int = 10
    source: str = "the site's defaults"


_TEXTS = ("partition", "account", "qos", "constraint", "exclude", "memory")
_RANGES = {
    "gpus": (0, 64),
    "cpus": (1, 1024),
    "bundle_runs": (1, 10_000),
    "bundle_minutes": (1, 100_000),
    "tasks": (1, 10_000),
    "signal_s": (5, 3600),
    "poll_s": (1, 600),
}
KEYS = tuple(field.name for field in fields(Profile) if field.name != "source")


def find_profile(on: str) -> Profile:
    """The profile that ``slurm`` or ``slurm:FILE.toml`` means; UsageError for a file that cannot be meant."""
    _, colon, named = on.partition(":")
    if colon:
        return read_profile(Path(named), "--on")
    if (path := os.environ.get(ENVIRONMENT)) is not None:
        return read_profile(Path(path), ENVIRONMENT)
    usual = Path.home() / ".config" / "sessionwise" / "slurm.toml"
    return read_profile(usual, "profile") if usual.is_file() else Profile()


def read_profile(path: Path, asked_by: str = "profile") -> Profile:
    """A profile from a file; UsageError (or Problems, all at once) in one line each for what is wrong in it."""
    if not path.is_file():
        raise UsageError(asked_by, f"no file {str(path)!r}", "a site profile (TOML)", _REMEDY)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(str(path), "is larger than 1 MiB", "a site profile (TOML)", _REMEDY)
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "a site profile (TOML)") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, nested too deep
        raise UsageError(str(path), f"is no TOML ({error})", "a site profile", _REMEDY) from error
    return _checked(table, str(path))


def _checked(table: Mapping[str, Any], where: str) -> Profile:
    values: dict[str, Any] = {}
    problems: list[SessionwiseError] = []
    for key, value in table.items():
        try:
            values[key] = _value(key, value, where)
        except UsageError as problem:
            problems.append(problem)
    raise_all(problems)
    profile = Profile(**values, source=where)
    if profile.signal_s * 2 > profile.time * 60:
        found = f"{profile.time} min is less than twice signal_s ({profile.signal_s} s)"
        raise UsageError(f"{where}: time", found, "time to compute before it is time to save", "Raise time")
    return profile


def _value(key: str, value: Any, where: str) -> Any:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
        raise UsageError(where, f"unknown key {key!r}", "", f"Did you mean {near[0]}?" if near else _REMEDY)
    if key in _TEXTS:
        return _text(value, f"{where}: {key}")
    if key == "time":
        return _minutes(value, f"{where}: {key}")
    if key == "setup":
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise UsageError(f"{where}: {key}", repr(value), "a list of shell lines")
        return tuple(value)
    low, high = _RANGES[key]
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{where}: {key}", repr(value), f"a whole number from {low} to {high}")
    return value


def _text(value: Any, where: str) -> str:
    """A text on one line that Slurm's own reader of ``#SBATCH`` lines cannot take for something else."""
    if not isinstance(value, str) or not value or not value.isprintable() or set(value) & set("'\"\\`$;#"):
        raise UsageError(where, repr(value), "a text without quotes, $, ;, # or control characters")
    return value


def _minutes(value: Any, where: str) -> int:
    """Slurm's own formats of time; whole minutes, rounded up."""
    if type(value) is int and value > 0:
        return value
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,5})(?::(\d{1,2}))?(?::(\d{1,2}))?", value) if _is_text(value) else None
    if match is None:
        raise UsageError(where, repr(value), _FORMATS)
    days, *numbers = (None if part is None else int(part) for part in match.groups())
    first, second, third = numbers
    if days is not None or third is not None:  # hours first
        hours, minutes, seconds = first or 0, second or 0, third or 0
    else:
        hours, minutes, seconds = 0, first or 0, second or 0
    total = (days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60
    if total < 1:
        raise UsageError(where, repr(value), _FORMATS)
    return total


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
