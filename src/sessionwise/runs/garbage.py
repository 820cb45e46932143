"""Remove what nobody needs any more: only what is ours by its name, and only when its process is known to be gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sessionwise.io.files import disk_problem, is_temporary_name, temporary_name
from sessionwise.runs.lease import ALIVE, DEAD, Busy, Leases
from sessionwise.runs.store import RunStore
from sessionwise.runs.survey import LOCKS, RUNS, Leftover, bytes_in, leftovers, require_study


@dataclass(frozen=True)
class Removal:
    """Something that was removed (or would be), or why it stays."""

    kind: str
    path: Path
    bytes: int
    kept: str | None = None


def collect_garbage(
    folder: Path, *, dry_run: bool = False, corrupt: bool = False, elsewhere: bool = False
) -> Iterator[Removal]:
    """Remove leftovers of dead processes in a study or a store of sessions, one by one, and tell each.

    dry_run: only tell. corrupt: also runs that were set aside because they did not verify. elsewhere: also temporary
    names of other hosts, boots and containers; for when nothing else works on the study.
    """
    folder = Path(folder)
    require_study(folder, store_too=True)
    for leftover in list(leftovers(folder)):
        if not (leftover.path.exists() or leftover.path.is_symlink()):  # it was inside one that is gone
            continue
        size = bytes_in(leftover.path)
        kept = _reason_to_stay(folder, leftover, corrupt, elsewhere)
        if kept is None and not dry_run:
            kept = _remove(folder, leftover)
        if kept is not None and leftover.owner == ALIVE:
            continue
        yield Removal(leftover.kind, leftover.path, size, kept)


def _reason_to_stay(folder: Path, leftover: Leftover, corrupt: bool, elsewhere: bool) -> str | None:
    if leftover.owner == ALIVE:
        return "in use"
    if leftover.kind == "set aside":
        return None if corrupt else "a run that did not verify; --corrupt removes it"
    if leftover.owner != DEAD and not (elsewhere and leftover.kind == "temporary"):
        return "of another host, boot or container; " + (
            "the command that needs its run takes it over" if leftover.kind == "lease" else "--elsewhere removes it"
        )
    if leftover.kind in ("work", "record") and RunStore(folder / RUNS).problem(leftover.path.stem) is not None:
        return "its run is stored, but does not verify"
    return None


def _remove(folder: Path, leftover: Leftover) -> str | None:
    """Remove one leftover; the reason when it stays after all."""
    leases = Leases(folder / RUNS / LOCKS)
    try:
        if leftover.kind == "lease":
            return leases.holder(leftover.path.name) and "in use"
        if leftover.kind in ("work", "record"):
            with leases.hold(leftover.path.stem):
                _delete(leftover.path)
        else:
            _delete(leftover.path)
    except Busy:
        return "in use"
    except OSError as error:
        raise disk_problem(leftover.path, error) from error
    return None


def _delete(path: Path) -> None:
    """Delete a file, a link (not what it points to), or a folder; what vanished meanwhile is fine."""
    try:
        if path.is_dir() and not path.is_symlink():
            away = path if is_temporary_name(path.name) else path.with_name(temporary_name())
            os.rename(path, away)  # nobody sees half of it
            shutil.rmtree(away)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
