"""Checkpoints of a run in its work folder: generations that are whole or absent, the newest two kept.

A generation is a committed folder ``step-000000120/`` (manifest last, one rename). A newest one that does not verify
is removed with a warning and the one before it is used: what is lost is one interval of steps, never the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from sessionwise.errors import IntegrityError, SessionwiseWarning
from sessionwise.io.files import remove_folder, staged_folder, verify_folder

KEPT = 2
_PREFIX = "step-"


def save_checkpoint(work: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Commit what ``write(folder)`` puts into a new generation for ``step``; older ones than the newest two go."""
    final = Path(work) / f"{_PREFIX}{step:012d}"
    with staged_folder(final, {"step": step}) as folder:
        write(folder)
    for old in generations(work)[:-KEPT]:
        remove_folder(old)
    return final


def latest_checkpoint(work: Path) -> Path | None:
    """The newest generation that verifies, or None; damaged ones are removed with a warning."""
    for folder in reversed(generations(work)):
        problem = _damage(folder)
        if problem is None:
            return folder
        remove_folder(folder)
        text = f"{problem}; the checkpoint is removed, the one before it is used"
        warnings.warn(text, SessionwiseWarning, stacklevel=2)
    return None


def checkpoint_step(checkpoint: Path) -> int:
    """The optimiser step that a generation belongs to."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def generations(work: Path) -> list[Path]:
    """All generations that were committed, oldest first; not verified."""
    found = [path for path in Path(work).glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=checkpoint_step)


def _damage(folder: Path) -> Exception | None:
    try:
        verify_folder(folder)
    except (IntegrityError, KeyError, TypeError, AttributeError, OSError) as problem:
        return problem
    return None
