"""The runs of a study on disk: committed folders that verify, locks that vanish with their process, failures.

Inside ``STUDY/runs``: ``<key>/`` a committed run (``spec.json``, ``result.json``, artefacts, ``manifest.json``),
``<key>.work/`` checkpoints of a run that is not committed yet, ``failures/<key>.json`` why a run failed,
``.locks/<key>`` who computes it now, ``logs/`` what workers wrote, ``.corrupt-<key>-..`` folders that did not verify.
Everything in a committed folder follows from the key, so two processes that commit the same key write the same bytes.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import shutil
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator
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
    TMP_PREFIX,
    disk_problem,
    pretty_json,
    read_json,
    staged_folder,
    temporary_name,
    verify_folder,
    write_bytes,
    write_json,
)
from sessionwise.runs.spec import RunSpec, is_key

DONE, DIVERGED, FAILED, MISSING = "done", "diverged", "failed", "missing"
COMMITTED_STATES = (DONE, DIVERGED, FAILED)
RAISED, LOST = "raised", "lost"  # why a run failed: it raised (tried again on request), its process vanished (always)
_SPEC, _RESULT = "spec.json", "result.json"
_RESERVED = (_SPEC, _RESULT, MANIFEST)


class Busy(EnvironmentProblem):
    """Another process computes this run now."""


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
        return [problem for key in self.keys() if (problem := _problem(self._path(key), key))]

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
        self._record(spec.key).unlink(missing_ok=True)
        shutil.rmtree(self._work(spec.key), ignore_errors=True)

    def work_folder(self, key: str) -> Path:
        """A folder for checkpoints, kept when the run is interrupted and removed after the commit."""
        folder = self._work(key)
        _make_folder(folder)
        return folder

    # -- failures -----------------------------------------------------------------------------------------------

    def record_failure(
        self, spec: RunSpec, reason: str, attempt: int = 1, cause: str = RAISED, trace: str = ""
    ) -> None:
        """Write down why a run failed; ``cause`` is "raised" or "lost". A later commit removes the record."""
        record = self._record(spec.key)
        _make_folder(record.parent)
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
        self._record(key).unlink(missing_ok=True)

    # -- locks --------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a run while computing it; ends with the process, however it ends. Busy when another one holds it."""
        path = self._lock_path(key)
        descriptor = _acquire(path)
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)
            path.unlink(missing_ok=True)  # while held: who waits on this file sees that it is gone, and opens anew
            os.close(descriptor)

    def holder(self, key: str) -> str | None:
        """Who computes this run now ("host h, process p"), or None."""
        path = self._lock_path(key)
        if not path.exists():
            return None
        try:
            with self.lock(key):
                return None
        except Busy as busy:
            return busy.found

    # -- cleaning -----------------------------------------------------------------------------------------------

    def collect_garbage(self) -> list[Path]:
        """Remove what dead processes of this host left: temporary names, and work folders of committed runs."""
        rubbish = [path for path in _listing(self.root) if _is_orphan(path.name)]
        rubbish += [work for key in self.keys() if (work := self._work(key)).is_dir()]
        for path in rubbish:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return rubbish

    # -- inside -------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise UsageError("run key", repr(key), "64 hexadecimal digits")
        return self.root / key

    def _work(self, key: str) -> Path:
        return self._path(key).with_name(f"{key}.work")

    def _record(self, key: str) -> Path:
        return self.root / "failures" / f"{self._path(key).name}.json"

    def _lock_path(self, key: str) -> Path:
        return self.root / ".locks" / self._path(key).name

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
    _check_readable(path)
    try:
        verify_folder(path)
        spec, result = RunSpec.from_json(read_json(path / _SPEC)), read_json(path / _RESULT)
        if spec.key != key or result["state"] not in COMMITTED_STATES:
            raise IntegrityError(str(path), "holds another run than its name says", f"run {key[:12]}")
    except (DataError, UsageError, KeyError, TypeError, AttributeError, OSError) as error:
        raise IntegrityError(str(path), f"cannot be read ({error})", "a committed run") from error
    return _Committed(spec, result)


def _check_readable(path: Path) -> None:
    """What may not be read is not damaged: nobody moves it aside."""
    try:
        with open(path / MANIFEST, "rb"):
            pass
    except PermissionError as error:
        needed = "the right to read it"
        raise EnvironmentProblem(str(path), "may not be read", needed, "Ask its owner for access") from error
    except OSError:
        return


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_problem(folder, error) from error


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _acquire(path: Path) -> int:
    """An open descriptor that holds the lock file; the file may vanish while we wait, hence the loop."""
    _make_folder(path.parent)
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise disk_problem(path, error) from error
        if _lock_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def _lock_file(descriptor: int, path: Path) -> bool:
    """Lock an open file and sign it; False when it is no longer the file of that name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino != os.stat(path).st_ino:
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise Busy(f"run {path.name[:12]}", holder or "another process", "to wait for it") from None
        raise disk_problem(path, error) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"host {socket.gethostname()}, process {os.getpid()}".encode(), 0)
    return True


def _is_orphan(name: str) -> bool:
    """Whether a temporary name belongs to a process of this host that is gone."""
    if not name.startswith(TMP_PREFIX):
        return False
    host, _, rest = name.removeprefix(TMP_PREFIX).rpartition("-")[0].rpartition("-")
    if host != socket.gethostname() or not rest.isdecimal():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
