"""The command ``rank`` with short trainings: started, looked at and met at a chosen moment, compared.

A moment is known by what is stored: a lease of a run of a kind, held by a process that lives, and a checkpoint in its
work folder. Its holder is stopped (SIGSTOP) before it is looked at again, so the moment stays while a test acts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from test_concurrency import workers

from sessionwise.io.files import TMP_PREFIX, sha256_file
from sessionwise.runs.checkpoints import checkpoint_step, generations
from sessionwise.runs.garbage import collect_garbage
from sessionwise.runs.lease import ALIVE, peek
from sessionwise.runs.spec import is_key
from sessionwise.runs.store import RunStore
from sessionwise.runs.verify import verify_study

STEPS = {"train": 60, "finetune": 60, "baseline": 20}
WIDTHS = {"token_width": 8, "width": 8, "feedforward": 8, "heads": 2, "blocks": 1}
LIMIT_S = 120.0
_T = TypeVar("_T")


class SmallRank:
    """Two pool sessions, one seed: two pretrainings, three finetunes, one baseline; and the same undisturbed."""

    def __init__(self, store: Path, folder: Path) -> None:
        changes = {f"model.{name}": value for name, value in WIDTHS.items()}
        for kind, steps in STEPS.items():
            changes |= {f"{kind}.steps": steps, f"{kind}.validations": 1}
        settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
        asked = ["--heldout", "sim-heldout-0", "--pool", "sim-00,sim-01", "--preset", "tiny", "--seeds", "10"]
        self.rank = ["rank", str(store), *asked, *settings]
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    @cached_property
    def whole(self) -> Path:
        """A study that nothing disturbed."""
        study = self._folder / "whole"
        code, said = ended(self.start(study))
        assert code == 0, said
        return study

    @cached_property
    def bytes(self) -> dict[str, str]:
        """Its results: name -> SHA-256."""
        return results(self.whole)

    def start(self, study: Path, on: str = "processes:1", **environment: str) -> subprocess.Popen[str]:
        """The command, in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sessionwise", *self.rank, "--on", on, "--to", str(study)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SESSIONWISE_CHECKPOINT_SECONDS": "0", **environment},
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End the commands that a failed test left behind; their workers end with them."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@dataclass(frozen=True)
class Moment:
    """A training under way: its run, who computes it, and the step of its newest checkpoint."""

    key: str
    pid: int
    step: int


@contextmanager
def training_under_way(
    process: subprocess.Popen[str], study: Path, kind: str = "", after: dict[str, int] | None = None
) -> Iterator[Moment]:
    """A worker of the command amid a training (of a kind); it stands still within the block.

    The training has a checkpoint, a newer one than those of ``after``: key -> step.
    """
    moment = wait_for(lambda: _caught(process.pid, study, kind, after or {}), process)
    try:
        yield moment
    finally:
        with suppress(ProcessLookupError):
            os.kill(moment.pid, signal.SIGCONT)


def _caught(driver: int, study: Path, kind: str, after: dict[str, int]) -> Moment | None:
    for key in _asked_of(study, kind):
        found = _under_way(driver, study, key)
        if found is None or found.step <= after.get(key, 0):
            continue
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGSTOP)
            wait_for(lambda pid=found.pid: state_of(pid) not in "RSD", None)
            still = _under_way(driver, study, key)
            if still and still.pid == found.pid and state_of(still.pid) == "T":
                return still
            os.kill(found.pid, signal.SIGCONT)
    return None


def _asked_of(study: Path, kind: str) -> list[str]:
    leased = [path.name for path in (study / "runs" / ".locks").glob("*") if is_key(path.name)]
    asked = RunStore(study / "runs").asked() if leased else {}
    return [key for key in leased if key in asked and asked[key]["kind"].startswith(kind)]


def _under_way(driver: int, study: Path, key: str) -> Moment | None:
    runs = study / "runs"
    seen, saved = peek(runs / ".locks" / key), generations(runs / f"{key}.work")
    if seen is None or seen.state != ALIVE or not saved or (runs / key).exists():
        return None
    pid = json.loads(seen.content)["pid"]
    return Moment(key, pid, checkpoint_step(saved[-1])) if pid in workers(driver) else None


def wait_for(look: Callable[[], _T | None], process: subprocess.Popen[Any] | None) -> _T:
    """What ``look`` returns once it is something; the command must not end before."""
    end = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert process is None or process.poll() is None, ended(process)
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
    return found


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How a command ended and what it said."""
    _, said = process.communicate(timeout=LIMIT_S)
    return process.returncode, said


def python_path(*folders: Path) -> str:
    """``PYTHONPATH`` with these folders in front."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def state_of(pid: int) -> str:
    """R, S, D: alive; T: stopped; Z, X: dead; X as well for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def newest_step(study: Path, key: str) -> int:
    """The step of the newest checkpoint of a run; 0 without one."""
    saved = generations(study / "runs" / f"{key}.work")
    return checkpoint_step(saved[-1]) if saved else 0


def committed(study: Path) -> dict[str, tuple[int, int]]:
    """What a run that is computed again would not keep: inode and time of change of its manifest."""
    found = {path.parent.name: path.stat() for path in study.glob("runs/*/manifest.json") if is_key(path.parent.name)}
    return {key: (manifest.st_ino, manifest.st_ctime_ns) for key, manifest in found.items()}


def still_there(study: Path, before: dict[str, tuple[int, int]]) -> bool:
    """Whether no run that was committed was computed again."""
    now = committed(study)
    return {key: now.get(key) for key in before} == before


def is_whole(study: Path, before: dict[str, tuple[int, int]], rank: SmallRank) -> None:
    """The same bytes as undisturbed, nothing computed again that was committed, all of it verified, no lease left."""
    found = results(study)
    assert sorted(found) == sorted(rank.bytes)
    assert [name for name in found if found[name] != rank.bytes[name]] == []
    assert still_there(study, before)
    assert verify_study(study).problems == []
    list(collect_garbage(study))
    assert verify_study(study).findings == []
    assert list((study / "runs" / ".locks").iterdir()) == []


def results(study: Path) -> dict[str, str]:
    """SHA-256 of every file of every committed run, of the rankings and of the report.

    No results: what tells times, the seals, and what dead processes left.
    """
    files = [path for key in committed(study) for path in (study / "runs" / key).rglob("*")]
    tables = [path for folder in ("rankings", "report") for path in (study / folder).rglob("*")]
    files += [path for path in tables if path.name not in ("manifest.json", "timing.json")]
    named = {path.relative_to(study).as_posix(): path for path in files if path.is_file()}
    return {name: sha256_file(path) for name, path in named.items() if not path.name.startswith(TMP_PREFIX)}
