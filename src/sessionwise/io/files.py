"""Files that are whole or absent: atomic writes, canonical JSON, SHA-256, committed folders.

The commit recipe: write under a unique temporary name in the same folder, flush, fsync, rename, fsync the folder.
A folder is committed by one rename of a folder whose manifest was written last; so a folder that exists under its
final name is complete, and a crash leaves only names that start with ``.tmp-``, which nothing reads.
Files that later commands replace one by one (tables, reports) are sealed: their folder has a manifest as well, which
says while they are written that they are. What a disk refuses for a moment is tried again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import unicodedata
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError, SessionwiseWarning
from sessionwise.io.process import lives, this_process

TMP_PREFIX = ".tmp-"
MANIFEST = "manifest.json"
_TEMPORARY = re.compile(
    r"\.tmp-.+-(?P<pid>[0-9]{1,10})-(?P<started>[0-9]{1,19})-(?P<place>[0-9a-f]{8})-[0-9a-f]{32}", re.S
)
RETRY_AFTER_S = (1.0, 5.0, 25.0)
_T = TypeVar("_T")
_TRANSIENT = {errno.ESTALE, errno.EIO, errno.EINTR}
_sleep = time.sleep


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def pretty_json(value: Any) -> bytes:
    """The same value for people: sorted keys, indented, one trailing newline."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True) + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of a byte string."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_name(identifier: str) -> str:
    """A safe folder name for any id: a slug for people and 12 hex of the SHA-256 of the id (NFC) for identity."""
    normal = unicodedata.normalize("NFC", identifier)
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", normal).strip("-")[:40] or "session"
    return f"{slug}-{sha256_bytes(identifier.encode('utf-8', 'surrogatepass'))[:12]}"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; an existing file is replaced in one step."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """``write_bytes`` of parts that lie one after the other in the file."""
    path, parts = Path(path), list(parts)
    try:
        retried(lambda: _write_whole(path, parts))
    except OSError as error:
        raise disk_problem(path, error) from error
    if recorder := _recorder.get():
        recorder.note(path, parts)


def _write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    tmp = path.parent / temporary_name()
    try:
        with open(tmp, "wb") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(tmp, path)
        sync_folder(path.parent)
    finally:
        _forget(tmp)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all. NaN is refused: use None for what is missing."""
    write_bytes(path, pretty_json(value))


def read_json(path: Path) -> Any:
    """Read JSON written by anybody; a missing, empty or broken file is a typed error."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "a JSON file", "Check the path") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        found = "is empty (0 bytes)" if not text else f"is no JSON ({error})"
        raise DataError(str(path), found, "a complete JSON file", "Make the file again") from error


def temporary_name() -> str:
    """A name that no other process on any host will choose, and that tells whose it is."""
    own = this_process()
    return f"{TMP_PREFIX}{own.host}-{own.pid}-{own.started or 0}-{own.place}-{uuid.uuid4().hex}"


def temporary_owner_lives(name: str) -> bool | None:
    """Whether the process that chose a temporary name still runs; None for another host, boot or container."""
    parts = _TEMPORARY.fullmatch(name)
    if parts is None or parts["place"] != this_process().place:
        return None
    return lives(int(parts["pid"]), int(parts["started"]) or None) is not False


def is_temporary_name(name: str) -> bool:
    """Whether `temporary_name` chose this name, in whatever process."""
    return _TEMPORARY.fullmatch(name) is not None


def retried(action: Callable[[], _T]) -> _T:
    """What an action returns; what a disk or a file server refuses for a moment is tried again, three times.

    The action must be one that can be repeated. Raises its last OSError; a full or read-only disk is one at once.
    """
    for wait_s in RETRY_AFTER_S:
        try:
            return action()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            text = f"{error.filename or 'disk'}: {error.strerror or error}; trying again in {wait_s:g} s"
            warnings.warn(text, SessionwiseWarning, stacklevel=3)
            _sleep(wait_s)
    return action()


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_folder(
    final: Path, about: dict[str, Any] | None = None, hashes: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Build a folder under a temporary name and commit it with one rename.

    Yields the temporary folder; on leaving without an error its files are synced, ``manifest.json`` (size and
    SHA-256 of every file, plus ``about``) is written last, and the folder takes its final name. If another process
    committed the same name first, ours is thrown away: the content of a name is determined by the name.
    ``hashes``: SHA-256 by name, filled in by the block, of files whose bytes it hashed itself; others are read again.
    """
    final = Path(final)
    tmp = final.parent / temporary_name()
    try:
        retried(lambda: _make_new(tmp))
        yield tmp
        _write_manifest(tmp, about or {}, hashes or {})
        commit_folder(tmp, final)
    except OSError as error:
        raise disk_problem(final, error) from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def commit_folder(tmp: Path, final: Path) -> None:
    """Rename a finished folder into place; a folder that is already there wins."""
    retried(lambda: _rename_new(tmp, final))
    retried(lambda: sync_folder(final.parent))


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it is ever seen under its name; best effort, one that is gone is fine."""
    away = folder.with_name(temporary_name())
    try:
        os.rename(folder, away)
    except OSError:
        return
    shutil.rmtree(away, ignore_errors=True)


def _make_new(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)  # nobody else has its name: it is there when the answer to a first try was lost


def _rename_new(tmp: Path, final: Path) -> None:
    try:
        os.rename(tmp, final)
    except FileNotFoundError:
        if not final.is_dir():  # else the answer to a first try was lost
            raise
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _write_manifest(folder: Path, about: dict[str, Any], hashes: Mapping[str, str]) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _make_durable(path)
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": hashes.get(name) or retried(_hashing(path))}
    for sub in [p for p in folder.rglob("*") if p.is_dir()]:
        retried(_syncing(sub))
    write_json(folder / MANIFEST, {**about, "files": files})


def _make_durable(path: Path) -> None:
    """Flush a file; one that the disk failed to take is written again, for a second flush would say all is well."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _TRANSIENT:
            raise
        write_bytes(path, retried(path.read_bytes))


def _hashing(path: Path) -> Callable[[], str]:
    return lambda: sha256_file(path)


def _syncing(folder: Path) -> Callable[[], None]:
    return lambda: sync_folder(folder)


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote to the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def sealed_files(folder: Path, keep: bool = False) -> Iterator[None]:
    """Seal what the block writes (with the functions of this module) into a folder: its manifest lists it afterwards.

    The manifest says ``"state": "writing"`` until the block has ended without an error. keep: what it listed before
    stays listed; else the block has written all that there is. Inside the block of a parent folder this one adds to
    that. Files that are not the same whenever they are made anew (times, hosts) are written outside.
    """
    folder, outer = Path(folder).absolute(), _recorder.get()
    if outer is not None and folder.is_relative_to(outer.folder):
        yield
        return
    make_folder(folder)
    known = sealed_manifest(folder) or {}
    files = known.get("files", {})
    write_json(folder / MANIFEST, {"files": files, "state": "writing"})
    recorder = _Recorder(folder)
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)
    files = {**(files if keep else {}), **recorder.files}
    write_json(folder / MANIFEST, {"files": files, "state": "whole"})


def drop_sealed(path: Path) -> None:
    """Remove a file, and first what the manifest of its folder says about it."""
    path = Path(path)
    known = sealed_manifest(path.parent)
    if known and path.name in known["files"]:
        files = {name: entry for name, entry in known["files"].items() if name != path.name}
        write_json(path.parent / MANIFEST, {**known, "files": files})
    path.unlink(missing_ok=True)


def check_sealed(path: Path) -> Path:
    """The path of a sealed file that is as it was written; IntegrityError for another one.

    A file that its folder's manifest does not list, or that a command is writing, has no hash to be compared with.
    """
    path = Path(path)
    known = sealed_manifest(path.parent)
    entry = known["files"].get(path.name) if known and known["state"] == "whole" else None
    if entry and path.is_file() and (found := sha256_file(path)) != entry["sha256"]:
        remedy = "Run the command that made it again; if that stops here too, remove the file first"
        raise IntegrityError(str(path), f"SHA-256 is {found[:12]}..", f"{entry['sha256'][:12]}.. as recorded", remedy)
    return path


def read_sealed(path: Path) -> Any:
    """``read_json`` of a sealed file that is as it was written."""
    return read_json(check_sealed(path))


def sealed_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of sealed files: ``files`` and ``state`` ("writing" or "whole"); None when there is none."""
    try:
        found = read_json(Path(folder) / MANIFEST)
        entries = found["files"].values()
        whole = found["state"] in ("writing", "whole") and all({"bytes", "sha256"} <= e.keys() for e in entries)
    except (DataError, KeyError, TypeError, AttributeError):
        return None
    return dict(found) if whole else None


class _Recorder:
    """Size and hash of what is written below a folder, while it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    def note(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        path = path.absolute()
        if not path.is_relative_to(self.folder) or path.name == MANIFEST:
            return
        digest, size = hashlib.sha256(), 0
        for part in parts:
            digest.update(part)
            size += len(part) if isinstance(part, bytes) else part.nbytes
        self.files[path.relative_to(self.folder).as_posix()] = {"bytes": size, "sha256": digest.hexdigest()}


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


def make_folder(folder: Path) -> None:
    """Make a folder and those around it, or raise EnvironmentProblem; one that is there is fine."""
    try:
        retried(lambda: folder.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise disk_problem(folder, error) from error


def _forget(tmp: Path) -> None:
    """Remove a temporary name; the error that matters is another one."""
    try:
        tmp.unlink(missing_ok=True)
    except OSError:
        pass


def verify_folder(folder: Path) -> dict[str, Any]:
    """Hash every file of a committed folder again; returns the manifest or raises IntegrityError.

    Extra files are an error too: nothing writes into a committed folder.
    """
    folder = Path(folder)
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        listed = dict(manifest["files"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(str(folder), f"has no readable {MANIFEST}", "a committed folder", "") from error
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    if present != set(listed):
        odd = sorted(present ^ set(listed))
        raise IntegrityError(str(folder), f"files missing or extra: {', '.join(odd[:5])}", "what the manifest lists")
    for name, entry in listed.items():
        found = sha256_file(folder / name)
        if found != entry["sha256"]:
            raise IntegrityError(
                str(folder / name), f"SHA-256 is {found[:12]}..", f"{entry['sha256'][:12]}..", "The file was changed"
            )
    return manifest


def disk_problem(path: Path, error: OSError) -> EnvironmentProblem:
    """A failed write as one line that names the path and the free space."""
    try:
        free = f", {shutil.disk_usage(_existing_parent(Path(path))).free / 1e6:.0f} MB free"
    except OSError:
        free = ""
    found = f"cannot be written ({error.strerror or error}{free})"
    return EnvironmentProblem(str(path), found, "a writable folder with space", "Make space or name another folder")


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
