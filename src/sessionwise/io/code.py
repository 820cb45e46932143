"""Which code this is: release, and the commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_WAIT_S = 10.0


@cache
def code_version(package: Path = _PACKAGE) -> dict[str, Any]:
    """``{"version", "commit", "dirty"}``: release, and of a checkout its commit and whether its sources were changed.

    commit and dirty are None where there is no checkout, or no git to ask.
    """
    from sessionwise import __version__

    commit, changes = None, None
    if any((folder / ".git").exists() for folder in package.parents):
        commit = _git(package, "rev-parse", "HEAD")
        changes = _git(package, "status", "--porcelain", "--", str(package))
    dirty = None if commit is None or changes is None else bool(changes)
    return {"version": __version__, "commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
