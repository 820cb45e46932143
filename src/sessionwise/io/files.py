"""Files that are whole or absent: atomic writes, canonical JSON, SHA-256, committed folders.

The commit recipe: write under a unique temporary name in the same folder, flush, fsync, rename, fsync the folder.
A folder is committed by one rename of a folder whose manifest was written last; so a folder that exists under its
final name is complete, and a crash leaves only names that start with ``.tmp-``, which nothing reads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError

TMP_PREFIX = ".tmp-"
MANIFEST = "manifest.json"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT}


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
    path = Path(path)
    tmp = path.parent / temporary_name()
    try:
        with open(tmp, "wb") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(tmp, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_problem(path, error) from error
    finally:
        tmp.unlink(missing_ok=True)


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
    """A name that no other process on any host will choose."""
    return f"{TMP_PREFIX}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"


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
        final.parent.mkdir(parents=True, exist_ok=True)
        tmp.mkdir()
        yield tmp
        _write_manifest(tmp, about or {}, hashes or {})
        commit_folder(tmp, final)
    except OSError as error:
        raise disk_problem(final, error) from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def commit_folder(tmp: Path, final: Path) -> None:
    """Rename a finished folder into place; a folder that is already there wins."""
    try:
        os.rename(tmp, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync_folder(final.parent)


def _write_manifest(folder: Path, about: dict[str, Any], hashes: Mapping[str, str]) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync_file(path)
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": hashes.get(name) or sha256_file(path)}
    for sub in [p for p in folder.rglob("*") if p.is_dir()]:
        sync_folder(sub)
    write_json(folder / MANIFEST, {**about, "files": files})


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote to the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


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
