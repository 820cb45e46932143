"""How far a study is: its runs by kind and state, what is under way and how far, what it takes on the disk.

Read from the folder alone. Runs that nobody has begun are those that the last command was to compute; what else a
command would ask for, and what waits for a ranking, is known to that command only (its ``--dry-run`` tells).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sessionwise.errors import DataError
from sessionwise.io.files import is_temporary_name, read_json
from sessionwise.runs import survey
from sessionwise.runs.checkpoints import checkpoint_step, generations
from sessionwise.runs.lease import ALIVE, UNKNOWN, peek
from sessionwise.runs.spec import is_key
from sessionwise.runs.store import DIVERGED, DONE, FAILED, LOST, RunStore

RUNNING, INTERRUPTED, DAMAGED, WAITING = "running", "interrupted", "damaged", "waiting"
STATES = (DONE, DIVERGED, FAILED, RUNNING, INTERRUPTED, DAMAGED, WAITING)
NEXT = {
    DONE: "is not computed again",
    DIVERGED: "is not computed again",
    FAILED: "is tried again with --retry-failed",
    LOST: "is tried again",
    RUNNING: "is left to its process",
    UNKNOWN: "goes on when its lease has not changed for two minutes",
    INTERRUPTED: "goes on",
    DAMAGED: "is computed again",
    WAITING: "is computed",
}


@dataclass(frozen=True)
class RunStatus:
    """One run: its state, why it is not done, who computes it, the step of its newest checkpoint, what comes next.

    kind, name: None where nothing here tells.
    """

    key: str
    kind: str | None
    state: str
    reason: str | None = None
    holder: str | None = None
    step: int | None = None
    next: str = ""
    name: str | None = None


@dataclass(frozen=True)
class StudyStatus:
    """All runs of a study that left a trace, and bytes on the disk by part of the study."""

    study: Path
    runs: tuple[RunStatus, ...]
    bytes: Mapping[str, int]
    results: tuple[str, ...]

    def counts(self) -> dict[str, Counter[str]]:
        """Kind -> number of runs by state; kind "?" for runs that are not told by what is here."""
        table: dict[str, Counter[str]] = {}
        for run in self.runs:
            table.setdefault(run.kind or "?", Counter())[run.state] += 1
        return dict(sorted(table.items()))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        counts = {kind: dict(states) for kind, states in self.counts().items()}
        again = Counter(run.next for run in self.runs)
        facts = {"study": str(self.study), "counts": counts, "bytes": dict(self.bytes), "results": list(self.results)}
        return {**facts, "rerun": dict(again), "runs": [asdict(run) for run in self.runs if run.state != DONE]}


def study_status(study: Path) -> StudyStatus:
    """Look at a study; writes nothing, hashes nothing. UsageError when the folder is none."""
    study = Path(study)
    survey.require_study(study)
    store = RunStore(study / survey.RUNS)
    found = {key: _committed(store, key) for key in store.keys()}
    found |= {key: _failed(store, key) for key in store.failed_keys() if key not in found}
    for key in _begun(store):
        if key not in found or found[key].state == FAILED:
            found[key] = _under_way(store, key, found.get(key))
    for key, asked in store.asked().items():
        known = found.get(key) or RunStatus(key, None, WAITING, next=NEXT[WAITING])
        found[key] = replace(known, kind=known.kind or asked["kind"], name=asked["name"])
    runs = tuple(found[key] for key in sorted(found))
    names = [path for path in survey.entries(study) if not is_temporary_name(path.name)]
    results = sorted(path.parent.relative_to(study).as_posix() for path in study.glob("rankings/*/*/ranking.json"))
    results += [name for name in ("results.json", "tuning.json", "report/index.html") if (study / name).exists()]
    return StudyStatus(study, runs, {path.name: survey.bytes_in(path) for path in names}, tuple(results))


def _committed(store: RunStore, key: str) -> RunStatus:
    """What a committed folder says of itself; whether that is true is the question of ``verify``."""
    try:
        spec, result = (read_json(store.root / key / name) for name in ("spec.json", "result.json"))
        state, kind = str(result["state"]), str(spec["kind"])
        if state not in (DONE, DIVERGED, FAILED):
            raise KeyError(state)
    except (DataError, KeyError, TypeError):
        return RunStatus(key, None, DAMAGED, "cannot be read", next=NEXT[DAMAGED])
    reason = None if state == DONE else str(result.get("reason") or state)
    return RunStatus(key, kind, state, reason, next=NEXT[state])


def _failed(store: RunStore, key: str) -> RunStatus:
    failure = store.failure(key)
    if failure is None:
        return RunStatus(key, None, DAMAGED, "its record of a failure cannot be read", next=NEXT[DAMAGED])
    lost = failure.get("cause") == LOST
    kind, reason = str(failure["spec"]["kind"]), str(failure.get("reason") or FAILED)
    return RunStatus(key, kind, FAILED, reason, next=NEXT[LOST if lost else FAILED])


def _begun(store: RunStore) -> list[str]:
    """Keys with a work folder or a lease."""
    works = [path.name.removesuffix(".work") for path in survey.entries(store.root) if path.name.endswith(".work")]
    leases = [path.name for path in survey.entries(store.root / survey.LOCKS)]
    return sorted({key for key in [*works, *leases] if is_key(key)})


def _under_way(store: RunStore, key: str, failed: RunStatus | None) -> RunStatus:
    """A run that somebody computes, or that was interrupted."""
    seen, work = peek(store.root / survey.LOCKS / key), store.root / f"{key}.work"
    saved = generations(work)
    step = checkpoint_step(saved[-1]) if saved else None
    kind = failed.kind if failed else None
    if seen and seen.state in (ALIVE, UNKNOWN):
        coming = NEXT[RUNNING if seen.state == ALIVE else UNKNOWN]
        return RunStatus(key, kind, RUNNING, None, seen.holder, step, coming)
    if failed:
        return RunStatus(key, failed.kind, FAILED, failed.reason, step=step, next=failed.next)
    return RunStatus(key, kind, INTERRUPTED, None, None, step, NEXT[INTERRUPTED])
