"""Guarded readers of ``.npy`` and ``.npz``: a file is believed only after its header agrees with its bytes.

Nothing is allocated before the declared size was compared with what is stored, no Python object is ever unpickled,
and only regular files are opened. Every refusal is a DataError that says what the file is instead.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

import numpy as np

from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError
from sessionwise.io.files import sha256_file, write_parts

BOMB_FLOOR_BYTES = 256 * 10**6  # below this any compression ratio is harmless
BOMB_RATIO = 100
MAX_ARCHIVE_BYTES = 16 * 2**30
MAX_MEMBERS = 10_000
_CHUNK = 16 * 2**20
_READ_TOGETHER = 2**22
_CACHED = 2**20  # bytes that stay in a core's cache between two looks at them
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
_BAD_HEADER = (
    *(ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError, MemoryError, OverflowError),
    tokenize.TokenError,  # numpy's second try at a header that is no literal
)
_NPY, _ZIP = b"\x93NUMPY", b"PK"


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def items(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.items * self.dtype.itemsize


@dataclass(frozen=True)
class Snapshot:
    """A file's bytes as they were read, once: what is hashed is what is parsed. ``unchanged_snapshot`` makes it."""

    path: Path
    data: np.ndarray
    _sha256: Future[str]

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the bytes; waits for the thread that computes it."""
        return self._sha256.result()

    def __str__(self) -> str:
        return str(self.path)


def read_npy(path: str | Path, *, mmap: bool = False) -> np.ndarray:
    """Read one ``.npy`` file; with ``mmap`` as a read-only memory map. Objects and false sizes are refused."""
    with open_regular(path) as stream:
        _require_signature(path, stream, _NPY, "an npy file")
        header = _read_header(stream, str(path))
        offset = stream.tell()
        _require_bytes(str(path), header, os.fstat(stream.fileno()).st_size - offset)
        if mmap and header.bytes:
            order = "F" if header.fortran else "C"
            mapped = np.memmap(stream, header.dtype, "r", offset, header.shape, order)  # type: ignore[call-overload]
            return mapped.view(np.ndarray)
        return _fill(stream, header, str(path))


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write one array, whole or not at all; the same array gives the same bytes."""
    write_parts(Path(path), _npy_parts(np.asarray(array)))


def npy_sha256(array: np.ndarray) -> str:
    """Hexadecimal SHA-256 of the file that ``write_npy`` makes of an array."""
    digest = hashlib.sha256()
    for part in _npy_parts(np.asarray(array)):
        digest.update(part)
    return digest.hexdigest()


def npz_names(path: str | Path) -> list[str]:
    """Names of the arrays in an ``.npz`` file, sorted; the archive is checked, no array is read."""
    with open_regular(path) as stream, _archive(path, stream) as archive:
        return sorted(_checked_members(path, stream, archive))


def read_npz(source: str | Path | Snapshot, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file (only ``names``, if given). A missing name is a DataError.

    Arrays of a snapshot are read-only, and views into it where it holds them uncompressed.
    """
    path = source.path if isinstance(source, Snapshot) else source
    held = source.data if isinstance(source, Snapshot) else None
    with open_regular(path) as stream, _archive(path, stream) as archive:
        members = _checked_members(path, stream, archive)
        wanted = sorted(members if names is None else names)
        for name in wanted:
            if name not in members:
                found = f"has no array {name!r} (it has {', '.join(sorted(members)) or 'none'})"
                raise DataError(str(path), found, f"an array {name!r}")
        arrays = {name: _read_member(path, archive, members[name], held) for name in wanted}
    for array in arrays.values():
        array.setflags(write=held is None)
    return arrays


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular, non-empty file for reading; folders, pipes, devices, broken links are a DataError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    stream = os.fdopen(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if stream is None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        remedy = f"Name the files in it, for example {path}/*.npz" if folder else "Copy the data into a plain file"
        raise DataError(str(path), "is a folder" if folder else "is not a regular file", "a regular file", remedy)
    if os.fstat(descriptor).st_size == 0:
        stream.close()
        raise DataError(str(path), "is empty (0 bytes): interrupted download?", "a complete file", "Download it again")
    return stream


@contextmanager
def unchanged_source(path: str | Path) -> Iterator[str]:
    """Yield the SHA-256 of a file and raise IntegrityError if the file is another one when the block ends."""
    open_regular(path).close()
    before = sha256_file(Path(path))
    yield before
    try:
        after = sha256_file(Path(path))
    except OSError:
        after = "missing"
    if after != before:
        raise _changed(path, before, after)


@contextmanager
def unchanged_snapshot(path: str | Path) -> Iterator[Snapshot]:
    """Read a file once and raise IntegrityError if it holds other bytes when the block ends; hashes it meanwhile."""
    with open_regular(path) as stream, ThreadPoolExecutor(1) as beside:  # SHA-256 needs no interpreter's lock
        source = _snapshot(Path(path), stream, beside)
        yield source
        if not _still_holds(source):
            try:
                after = sha256_file(source.path)
            except OSError:
                after = "missing"
            raise _changed(path, source.sha256, after)


def human_bytes(n: int) -> str:
    """A size for people: ``191 bytes``, ``1.2 MB``, ``9.0 PB``."""
    if n < 1000:
        return f"{n} bytes"
    power = min((len(str(n)) - 1) // 3, 6)
    return f"{n / 1000**power:.3g} {['', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB'][power]}"


def kind_of_file(path: str | Path) -> str:
    """What a file is by its first bytes, for a message: ``an HTML page``. DataError for what is no regular file."""
    with open_regular(path) as stream:
        return _kind_of(stream.read(512))[0]


def _changed(path: str | Path, before: str, after: str) -> IntegrityError:
    found = f"changed while being read (SHA-256 {before[:12]}.. became {after[:12]}..)"
    return IntegrityError(str(path), found, "a file that nobody writes to", "Wait until it is complete, then retry")


def _snapshot(path: Path, stream: IO[bytes], beside: Executor) -> Snapshot:
    """A file's bytes; each block of them is hashed while the next one is read."""
    data, at, digest = _room_for(path, stream), 0, hashlib.sha256()
    try:
        while n := stream.readinto(data[at : at + _READ_TOGETHER]):  # type: ignore[attr-defined]
            beside.submit(digest.update, data[at : at + n].data)
            at += n
    except OSError as error:
        raise _cannot_open(path, error) from error
    data.setflags(write=False)
    return Snapshot(path, data[:at], beside.submit(digest.hexdigest))


def _room_for(path: Path, stream: IO[bytes]) -> np.ndarray:
    """Memory for a file; numpy asks for huge pages, which the bytes of ``read()`` do not get."""
    n_bytes = os.fstat(stream.fileno()).st_size
    if n_bytes > MAX_ARCHIVE_BYTES:
        needed = f"at most {human_bytes(MAX_ARCHIVE_BYTES)}"
        raise DataError(str(path), f"has {human_bytes(n_bytes)}", needed, "Refused; save the counts as uint8")
    try:
        return np.empty(n_bytes, np.uint8)
    except MemoryError as error:
        raise _no_memory(str(path), n_bytes) from error


def _still_holds(source: Snapshot) -> bool:
    """Whether the file has the snapshot's bytes: compared, which costs a third of hashing them again."""
    at, block = 0, np.empty(_CACHED, np.uint8)
    try:
        with open(source.path, "rb", buffering=0) as stream:
            while n := stream.readinto(block):  # type: ignore[arg-type]
                if not np.array_equal(block[:n], source.data[at : at + n]):
                    return False
                at += n
    except OSError:
        return False
    return at == source.data.size


def _npy_parts(array: np.ndarray) -> list[bytes | memoryview]:
    """The bytes that ``np.save`` writes: header and data, without a copy of an array that is contiguous."""
    if array.dtype.hasobject:
        raise ValueError("arrays of Python objects are not written")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    if not array.nbytes:
        return [header.getvalue()]
    ordered = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array
    return [header.getvalue(), np.ascontiguousarray(ordered).reshape(-1).view(np.uint8).data]


def _no_memory(where: str, n_bytes: int) -> EnvironmentProblem:
    found = f"needs {human_bytes(n_bytes)} of memory"
    return EnvironmentProblem(where, found, "that much free memory", "Store the counts as uint8")


def _cannot_open(path: str | Path, error: Exception) -> DataError:
    if os.path.lexists(str(path).replace("\0", "")) and isinstance(error, FileNotFoundError):
        return DataError(str(path), "is a broken link", "a regular file", "Restore the file that it points to")
    if isinstance(error, FileNotFoundError):
        return DataError(str(path), "does not exist", "an existing file", "Check the path")
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(str(path), f"cannot be opened ({reason})", "a readable file", "Check the path and its permissions")


def _require_signature(path: str | Path, stream: IO[bytes], signature: bytes, needed: str) -> None:
    head = stream.read(512)
    stream.seek(0)
    if not head.startswith(signature):
        kind, remedy = _kind_of(head)
        raise DataError(str(path), f"is {kind}", needed, remedy)


def _kind_of(head: bytes) -> tuple[str, str]:
    """What a file looks like by its first bytes, and what to do about it."""
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "an HTML page", "The server sent a web page: download the file again"
    known = {
        b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Run: git lfs pull"),
        b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "Name the format of the file, or export it as npz"),
        _NPY: ("a single npy array", "Save it with np.savez together with bin_ms"),
        b"PK": ("a zip archive", "Name an npy file"),
        b"\x1f\x8b": ("a gzip file", "Unpack it first"),
        b"MATLAB 5.0": ("a MATLAB file", "Export the counts with np.savez"),
        b"\x80": ("a pickle, which could run code", "Export the counts with np.savez"),
    }
    for signature, answer in known.items():
        if head.startswith(signature):
            return answer
    return f"of unknown kind (starts with {head[:8]!r})", "Check that it is the right file"


def _read_header(stream: IO[bytes], where: str) -> _Header:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise ValueError(f"npy version {version} is unknown")
        header = _Header(*readers[version](stream))
    except (*_DAMAGE, *_BAD_HEADER) as error:
        _refuse_header(where, error)
    if header.dtype.hasobject:
        raise DataError(where, "holds Python objects", "plain numbers or text", "Refused: reading it could run code")
    if header.dtype.fields is not None or header.dtype.kind not in "biufcSUmM":
        raise DataError(where, f"has items of type {header.dtype}", "plain numbers or text", "Save one array a column")
    return header


def _refuse_header(where: str, error: Exception) -> NoReturn:
    found = f"has a broken npy header ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
    raise DataError(where, found, "a complete npy array", "Write or download it again") from error


def _require_bytes(where: str, header: _Header, stored: int) -> None:
    absurd = any(size < 0 for size in header.shape) or (header.dtype.itemsize == 0 and header.items > 10**6)
    if absurd:
        raise DataError(where, f"declares the shape {header.shape}", "sizes that are not negative and can be stored")
    if header.bytes == stored:
        return
    found = f"declares {human_bytes(header.bytes)} (shape {header.shape}), stores {human_bytes(stored)}"
    verdict = "is truncated or damaged: " if stored < header.bytes else "has bytes that belong to no array: "
    raise DataError(where, verdict + found, "as many bytes as declared", "Write or download it again")


def _fill(stream: IO[bytes], header: _Header, where: str) -> np.ndarray:
    try:
        buffer = np.empty(header.bytes, np.uint8)
        at = 0
        while at < header.bytes:
            block = stream.read(min(_CHUNK, header.bytes - at))
            if not block:
                raise EOFError("the data end early")
            buffer[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
        if header.dtype.itemsize == 0:
            return np.empty(header.shape, header.dtype)
        return np.ndarray(header.shape, header.dtype, buffer, order="F" if header.fortran else "C")
    except MemoryError as error:
        raise _no_memory(where, header.bytes) from error
    except _DAMAGE as error:
        raise DataError(where, f"is damaged ({error})", "a complete array", "Write or download it again") from error


@contextmanager
def _archive(path: str | Path, stream: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    _require_signature(path, stream, _ZIP, "an npz file")
    size = os.fstat(stream.fileno()).st_size
    try:
        archive = zipfile.ZipFile(stream)
    except _DAMAGE as error:
        found = f"is truncated or damaged: {human_bytes(size)}, the table at its end is missing or broken ({error})"
        raise DataError(str(path), found, "a complete npz file", "Download or write it again") from error
    with archive:
        yield archive


def _checked_members(path: str | Path, stream: IO[bytes], archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Array name -> archive member; refuses what no npz writer makes before anything is unpacked."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise DataError(str(path), f"has {len(infos)} members", f"at most {MAX_MEMBERS}", "Refused")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        _require_plain_member(path, info)
        if name in members:
            raise DataError(str(path), f"has two members {name!r}", "each name once", "Refused: which one is meant?")
        members[name] = info
    _refuse_bomb(path, infos, os.fstat(stream.fileno()).st_size)
    return members


def _require_plain_member(path: str | Path, info: zipfile.ZipInfo) -> None:
    where = f"{path}, member {info.filename!r}"
    if info.flag_bits & 0x1:
        raise DataError(where, "is encrypted", "a plain npz file", "Save it without a password")
    if not info.filename.endswith(".npy"):
        raise DataError(where, "is no npy array", "an npz file holds .npy members only", "Save it with np.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = f"is compressed by method {info.compress_type}"
        raise DataError(where, found, "stored or deflated members", "Save it with np.savez_compressed")


def _refuse_bomb(path: str | Path, infos: list[zipfile.ZipInfo], size: int) -> None:
    for info in [*infos, None]:
        declared = info.file_size if info else sum(i.file_size for i in infos)
        stored = min(info.compress_size, size) if info else size
        if declared > MAX_ARCHIVE_BYTES or declared > max(BOMB_FLOOR_BYTES, BOMB_RATIO * stored):
            what = f"member {info.filename!r}" if info else "all members together"
            found = f"{what} declares {human_bytes(declared)}, {human_bytes(stored)} stored"
            needed = (
                f"at most {BOMB_RATIO}x above {human_bytes(BOMB_FLOOR_BYTES)}, never {human_bytes(MAX_ARCHIVE_BYTES)}"
            )
            raise DataError(str(path), found, needed, "Refused; save the counts as uint8")
    if sum(info.compress_size for info in infos) > size:
        raise DataError(str(path), "has members that overlap", "members side by side", "Refused")


def _read_member(
    path: str | Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, held: np.ndarray | None
) -> np.ndarray:
    """One array; where the archive's bytes are ``held`` and the member is stored as it is, a view into them."""
    where = f"{path}, array {info.filename.removesuffix('.npy')!r}"
    try:
        member = archive.open(info)
    except _DAMAGE as error:
        raise DataError(where, f"is damaged ({error})", "a complete npz file", "Download or write it again") from error
    with member:
        header = _read_header(member, where)
        _require_bytes(where, header, info.file_size - member.tell())
        if held is None or not _is_stored(info) or not header.bytes:
            return _fill(member, header, where)
        return _view(held, info, header, where)


def _is_stored(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size


def _view(held: np.ndarray, info: zipfile.ZipInfo, header: _Header, where: str) -> np.ndarray:
    """The array at its place in the archive's bytes, after the check of the member's CRC-32."""
    head = held[info.header_offset : info.header_offset + 30].tobytes()
    start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:].ljust(4, b"\0")))  # its name and extra field
    stored = held[start : start + info.file_size]
    if stored.size != info.file_size or zlib.crc32(stored.data) != info.CRC:
        found = f"is damaged (Bad CRC-32 for file {info.filename!r})"
        raise DataError(where, found, "a complete array", "Write or download it again")
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    array = np.ndarray(header.shape, header.dtype, stored, stored.size - header.bytes, order=order)
    return array if array.flags.aligned else array.copy(order)
