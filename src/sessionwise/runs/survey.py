"""What lies in the folder of a study: which names are ours, and which of them belong to processes that are gone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sessionwise.errors import SessionwiseError, UsageError
from sessionwise.io.files import MANIFEST, is_temporary_name, read_json, temporary_owner_lives
from sessionwise.runs.lease import ALIVE, DEAD, UNKNOWN, peek
from sessionwise.runs.spec import is_key
from sessionwise.runs.store import ASKED

ARRAYS = ".slurm"
RUNS, LOCKS, FAILURES, LEDGER, LOGS = "runs", ".locks", "failures", "test-openings", "logs"
STORE_FILE = "store.json"  # of a prepared store of sessions
_STUDY_MARKS = ("study.json", "demo.json", "rankings")
_LEASE = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8})*")
_ASIDE = re.compile(r"\.corrupt-([0-9a-f]{64})-[0-9a-f]{8}")


@dataclass(frozen=True)
class Leftover:
    """Something of ours that no command reads as a result.

    kind: "temporary", "lease", "work" and "record" (checkpoints and a failure of a run that is committed now), "tasks"
    (of a cluster, whose runs are all stored), or "set aside" (a run that did not verify).
    owner: "alive", "dead", or "unknown": of another host, boot or container.
    """

    kind: str
    path: Path
    owner: str


def require_study(folder: Path, store_too: bool = False) -> None:
    """UsageError when a folder is no study (nor, if that is allowed, a store of sessions)."""
    if is_study(folder) or (store_too and (folder / STORE_FILE).is_file()):
        return
    found = "is no study" if folder.exists() else "does not exist"
    needed = "the folder of a study" + (" or of a store" if store_too else "")
    raise UsageError(str(folder), found, needed, "Name the folder that --to named")


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study, as far as its names tell."""
    if any((folder / name).exists() for name in _STUDY_MARKS):
        return True
    runs = folder / RUNS
    return runs.is_dir() and (not any(runs.iterdir()) or any(is_our_run_name(path.name) for path in runs.iterdir()))


def is_our_run_name(name: str) -> bool:
    """Whether a name inside ``runs`` is one of ours."""
    ours = (LOCKS, FAILURES, LOGS, ASKED, ARRAYS)
    return name in ours or is_key(name.removesuffix(".work")) or bool(_ASIDE.fullmatch(name)) or is_temporary_name(name)


def leftovers(folder: Path) -> Iterator[Leftover]:
    """Everything in a study (or a store of sessions) that is no result and was not made to stay; nothing is written."""
    yield from _temporaries(folder)
    runs = folder / RUNS
    for path in entries(runs / LOCKS):
        if _LEASE.fullmatch(path.name) and (seen := peek(path)):
            yield Leftover("lease", path, seen.state)
    for path in entries(runs):
        if _ASIDE.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield Leftover("set aside", path, DEAD)
    for kind, place, ending in (("work", runs, ".work"), ("record", runs / FAILURES, ".json")):
        for path in entries(place):
            key = path.name.removesuffix(ending)
            if key != path.name and is_key(key) and (runs / key).is_dir() and not path.is_symlink():
                held = peek(runs / LOCKS / key)
                yield Leftover(kind, path, held.state if held else DEAD)
    for path in entries(runs / ARRAYS):
        if path.is_dir() and not path.is_symlink() and _tasks_ended(path, runs):
            yield Leftover("tasks", path, DEAD)


def processes_ended(array: Path, tasks: int) -> bool:
    """Whether submitit has written its last file for each task of an array."""
    return len(list((array / "jobs").glob("*_result.pkl"))) >= tasks


def _tasks_ended(array: Path, runs: Path) -> bool:
    """Whether all runs of an array of tasks are stored, and every task wrote its last file."""
    try:
        tasks = read_json(array / "array.json")["tasks"]
        stored = all((runs / key / MANIFEST).is_file() for keys in tasks for key in keys if is_key(key))
        return stored and processes_ended(array, len(tasks))
    except (SessionwiseError, KeyError, TypeError):
        return False  # half written, or not ours


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted; nothing where there is none."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def bytes_in(path: Path) -> int:
    """Bytes of all files in a folder, or of a file; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return _size(path)
    return sum(_size(Path(place) / name) for place, _, names in os.walk(path) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _temporaries(folder: Path) -> Iterator[Leftover]:
    """Temporary names at any depth, but not in one another nor in committed runs: those are one with their manifest."""
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if is_temporary_name(name):
                lives = temporary_owner_lives(name)
                yield Leftover("temporary", Path(place) / name, UNKNOWN if lives is None else ALIVE if lives else DEAD)
        folders[:] = sorted(name for name in folders if not (is_temporary_name(name) or is_key(name)))
