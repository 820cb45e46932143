"""The runs of a study on disk: committed folders that verify, leases on those under way, failures.

Inside ``STUDY/runs``: ``<key>/`` a committed run (``spec.json``, ``result.json``, artefacts, ``manifest.json``),
``<key>.work/`` checkpoints of a run that is not committed yet, ``failures/<key>.json`` why a run failed,
``.locks/<key>`` who computes it now, ``logs/`` what workers wrote, ``.corrupt-<key>-..`` folders that did not verify,
``asked.json`` the runs of the last command.
Everything in a committed folder follows from the key, so two processes that commit the same key write the same bytes.
"""

from __future__ import annotations

import copy
import errno
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessionwise.errors import (
    DataError,
    EnvironmentProblem,
    IntegrityError,
    SessionwiseError,
    SessionwiseWarning,
    UsageError,
)
from sessionwise.io.files import (
    MANIFEST,
    disk_problem,
    make_folder,
    pretty_json,
    read_json,
    remove_folder,
    retried,
    staged_folder,
    temporary_name,
    verify_folder,
    write_bytes,
    write_json,
)
from sessionwise.runs.lease import Busy, Leases
from sessionwise.runs.spec import RunSpec, is_key

DONE, DIVERGED, FAILED, MISSING = "done", "diverged", "failed", "missing"
COMMITTED_STATES = (DONE, DIVERGED, FAILED)
RAISED, LOST = "raised", "lost"  # why a run failed: it raised (tried again on request), its process vanished (always)
ASKED = "asked.json"
_SPEC, _RESULT = "spec.json", "result.json"
_RESERVED = (_SPEC, _RESULT, MANIFEST)
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}  # others say nothing about the bytes


@dataclass(frozen=True)
class _Committed:
    spec: RunSpec
    result: dict[str, Any]


class RunStore:
    """Committed runs, work in progress and failures under one folder; any number of processes may share it.

    A committed folder is verified by SHA-256 at its first use in a process. One that does not verify is moved aside
    with a warning, and its run is missing again.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self._verified: dict[str, _Committed] = {}
        self._held: set[str] = set()
        self._leases = Leases(self.root / ".locks")

    # -- reading ------------------------------------------------------------------------------------------------

    def state(self, key: str) -> str:
        """``missing``, ``done``, ``diverged`` or ``failed`` (committed as failed, or with a failure on record)."""
        committed = self._load(key)
        if committed:
            return str(committed.result["state"])
        return FAILED if self.failure(key) else MISSING

    def committed(self, key: str) -> bool:
        """Whether a folder that verifies holds this run, in whatever state."""
        return self._load(key) is not None

    def folder(self, key: str) -> Path:
        """The committed folder with the run's artefacts, verified; DataError when there is none."""
        self._need(key)
        return self._path(key)

    def result(self, key: str) -> dict[str, Any]:
        """``result.json`` of a committed run, or the failure on record; DataError when there is neither."""
        committed, failure = self._load(key), self.failure(key)
        if committed is None and failure is not None:
            return {"state": FAILED, **failure}
        return copy.deepcopy(self._need(key).result)

    def spec(self, key: str) -> RunSpec:
        """The specification of a committed or failed run (its identity: no paths, label or steps)."""
        failure = self.failure(key)
        if failure and not self._load(key):
            return RunSpec.from_json(failure["spec"])
        return self._need(key).spec

    def keys(self) -> list[str]:
        """Keys of all committed folders, sorted; not verified yet."""
        return sorted(path.name for path in _listing(self.root) if is_key(path.name))

    def failed_keys(self) -> list[str]:
        """Keys of all runs with a failure on record, sorted."""
        return sorted(path.stem for path in _listing(self.root / "failures") if is_key(path.stem))

    def verify(self) -> list[SessionwiseError]:
        """Hash every committed folder again and return what is wrong; writes nothing."""
        return [problem for key in self.keys() if (problem := self.problem(key))]

    def problem(self, key: str) -> IntegrityError | None:
        """What is wrong with one committed folder, hashed again; writes nothing."""
        return _problem(self._path(key), key)

    # -- committing ---------------------------------------------------------------------------------------------

    def commit(self, spec: RunSpec, result: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        """Commit a run: ``write(folder)`` puts the artefacts into a temporary folder, one rename makes it the run.

        ``result["state"]`` is done, diverged or failed. When another process committed the same key first, its folder
        stays and ours goes quietly; only a different result is worth a warning. Afterwards the work folder goes.
        """
        if result.get("state") not in COMMITTED_STATES:
            raise UsageError(f"run {spec.name}", f"result state {result.get('state')!r}", "done, diverged or failed")
        data = _result_bytes(spec, result)
        with staged_folder(self._path(spec.key), {"run": spec.key}) as folder:
            if write:
                write(folder)
            _refuse_reserved(folder)
            write_json(folder / _SPEC, spec.identity())
            write_bytes(folder / _RESULT, data)
        self._compare(spec, data)
        self._drop_record(spec.key)
        remove_folder(self._work(spec.key))

    def work_folder(self, key: str) -> Path:
        """A folder for checkpoints, kept when the run is interrupted and removed after the commit."""
        folder = self._work(key)
        make_folder(folder)
        return folder

    def note_asked(self, specs: Sequence[RunSpec]) -> None:
        """Write down the runs that a command makes sure of, for people who look at the study."""
        asked = {spec.key: {"kind": spec.kind, "name": spec.name, "steps": spec.steps} for spec in specs}
        make_folder(self.root)
        write_json(self.root / ASKED, {"runs": asked})

    def asked(self) -> dict[str, dict[str, Any]]:
        """Key -> kind, name and steps of the runs that the last command was to make sure of, stored ones too."""
        try:
            runs = read_json(self.root / ASKED)["runs"]
            return {key: {name: runs[key][name] for name in ("kind", "name", "steps")} for key in runs}
        except (SessionwiseError, KeyError, TypeError):
            return {}

    # -- failures -----------------------------------------------------------------------------------------------

    def record_failure(
        self, spec: RunSpec, reason: str, attempt: int = 1, cause: str = RAISED, trace: str = ""
    ) -> None:
        """Write down why a run failed; ``cause`` is "raised" or "lost". A later commit removes the record."""
        record = self._record(spec.key)
        make_folder(record.parent)
        entry = {"key": spec.key, "cause": cause, "reason": reason, "attempts": attempt, "spec": spec.identity()}
        write_json(record, {**entry, "traceback": trace})

    def failure(self, key: str) -> dict[str, Any] | None:
        """The failure on record: cause, reason, attempts, spec; None when there is none or it is unreadable."""
        record = self._record(key)
        try:
            entry: dict[str, Any] = read_json(record)
            return entry if entry["key"] == key and RunSpec.from_json(entry["spec"]).key == key else None
        except (SessionwiseError, KeyError, TypeError):
            return None

    def forget_failure(self, key: str) -> None:
        """Make a failed run missing again, so that it is computed anew; runs in other states stay."""
        committed = self._load(key)
        if committed and committed.result["state"] == FAILED:
            self._discard(self._path(key))
        self._drop_record(key)

    # -- locks --------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a run while computing it; ends with the process, however it ends. Busy when another one holds it."""
        with self._leases.hold(self._path(key).name):
            self._held.add(key)
            try:
                yield
            finally:
                self._held.discard(key)

    def holder(self, key: str) -> str | None:
        """Who computes this run now ("host h, process p"), or None; the lease of a dead process is removed."""
        return self._leases.holder(self._path(key).name)

    # -- inside -------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise UsageError("run key", repr(key), "64 hexadecimal digits")
        return self.root / key

    def _work(self, key: str) -> Path:
        return self._path(key).with_name(f"{key}.work")

    def _record(self, key: str) -> Path:
        return self.root / "failures" / f"{self._path(key).name}.json"

    def _drop_record(self, key: str) -> None:
        record = self._record(key)
        try:
            retried(lambda: record.unlink(missing_ok=True))
        except OSError as error:
            raise disk_problem(record, error) from error

    def _need(self, key: str) -> _Committed:
        committed = self._load(key)
        if committed is None:
            raise DataError(f"run {key[:12]}", "is not stored", "a committed run", "Run the command that makes it")
        return committed

    def _load(self, key: str) -> _Committed | None:
        path = self._path(key)
        if not path.is_dir():
            self._verified.pop(key, None)
            return None
        if key not in self._verified:
            try:
                self._verified[key] = _read(path, key)
            except IntegrityError as problem:
                self._set_aside(key, problem)
                return None
        return self._verified[key]

    def _set_aside(self, key: str, problem: IntegrityError) -> None:
        """Move a folder that does not verify out of the way; under the lock, for another process may do the same."""
        aside = self.root / f".corrupt-{key}-{uuid.uuid4().hex[:8]}"
        try:
            with nullcontext() if key in self._held else self.lock(key):
                if not self._path(key).is_dir() or _problem(self._path(key), key) is None:
                    return
                os.rename(self._path(key), aside)
        except Busy:
            return
        except (OSError, EnvironmentProblem):
            raise problem from None
        text = f"{problem}; moved aside to {aside.name} and computed again when needed"
        warnings.warn(text, SessionwiseWarning, stacklevel=4)

    def _compare(self, spec: RunSpec, data: bytes) -> None:
        try:
            same = (self._path(spec.key) / _RESULT).read_bytes() == data
        except OSError:
            return
        if not same:
            text = f"{spec.name}: another process committed another result under the same key; the first one stays"
            warnings.warn(text, SessionwiseWarning, stacklevel=3)

    def _discard(self, folder: Path) -> None:
        away = folder.parent / temporary_name()
        try:
            os.rename(folder, away)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_problem(folder, error) from error
        self._verified.pop(folder.name, None)
        shutil.rmtree(away, ignore_errors=True)


def _read(path: Path, key: str) -> _Committed:
    """A committed folder's specification and result after hashing everything; IntegrityError when it is damaged."""
    try:
        retried(lambda: _open_manifest(path))
        retried(lambda: verify_folder(path))
        spec, result = RunSpec.from_json(read_json(path / _SPEC)), read_json(path / _RESULT)
        if spec.key != key or result["state"] not in COMMITTED_STATES:
            raise IntegrityError(str(path), "holds another run than its name says", f"run {key[:12]}")
    except (DataError, UsageError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(str(path), f"cannot be read ({error})", "a committed run") from error
    except OSError as error:
        _raise_unless_damage(path, error)
        raise IntegrityError(str(path), f"cannot be read ({error})", "a committed run") from error
    return _Committed(spec, result)


def _open_manifest(path: Path) -> None:
    with open(path / MANIFEST, "rb"):
        pass


def _raise_unless_damage(path: Path, error: OSError) -> None:
    """What may not be read, or not now, is not damaged: nobody moves it aside."""
    if error.errno in (errno.EACCES, errno.EPERM):
        needed, remedy = "the right to read it", "Ask its owner for access"
        raise EnvironmentProblem(str(path), "may not be read", needed, remedy) from error
    if error.errno not in _DAMAGE:
        raise EnvironmentProblem(str(path), f"cannot be read now ({error.strerror})", "a disk that works") from error


def _result_bytes(spec: RunSpec, result: dict[str, Any]) -> bytes:
    try:
        return pretty_json(result)
    except (TypeError, ValueError) as error:
        raise UsageError(f"run {spec.name}", f"result is no JSON ({error})", "JSON values, no NaN") from error


def _problem(path: Path, key: str) -> IntegrityError | None:
    try:
        _read(path, key)
    except IntegrityError as problem:
        return problem
    return None


def _refuse_reserved(folder: Path) -> None:
    taken = [name for name in _RESERVED if (folder / name).exists()]
    if taken:
        raise UsageError("run artefacts", f"named {', '.join(taken)}", "other names", "Rename the artefact")


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
