"""HDF5 files of unknown origin: what is in them, without trusting them, and writing our own.

libhdf5 follows links into other files, loads plugins and crashes on damaged files. So a file is opened in a process
of its own only (``io.isolated``), and ``guarded`` walks all its links before anything is read: nothing outside the file
is ever touched. What will be read must also have filters that are built in, and sizes that its bytes can hold.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError
from sessionwise.io.arrays import (
    BOMB_FLOOR_BYTES,
    BOMB_RATIO,
    MAX_ARCHIVE_BYTES,
    human_bytes,
    kind_of_file,
    open_regular,
)
from sessionwise.io.isolated import call_isolated

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 50_000
MAX_DEPTH = 64
MAX_TEXTS, _TEXTS_AT_ONCE = 1_000_000, 10_000
MAX_TEXT = 10_000  # characters of one text that stands in a data set
_OUTLINE_S = 20.0  # reading the table of contents takes a third of a millisecond an object
_MAGIC = b"\x89HDF\r\n\x1a\n"
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError, AttributeError)
_AGAIN = "Download or write it again"
_FILTERS = {  # the registry of the HDF Group
    305: "lzo",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32019: "jpeg",
    32026: "blosc2",
}


@dataclass(frozen=True)
class Outline:
    """What an HDF5 file holds. names: every group and data set, ``spikes/timestamps``. attrs: of the root group."""

    names: frozenset[str]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Tree:
    """A group to write: its attributes, and what is in it by name."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, np.ndarray | Tree] = field(default_factory=dict)


def is_hdf5(path: str | Path) -> bool:
    """Whether a regular file begins like HDF5; never raises."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except (SessionwiseError, OSError):
        return False


def outline(path: str | Path) -> Outline:
    """What a file holds, read in a process of its own and remembered until the file changes.

    Raises DataError for what is no HDF5 file, is damaged, or has links that lead elsewhere; EnvironmentProblem without
    h5py. Filters and sizes are checked by ``guarded``, when data are read.
    """
    _require_magic(path)
    known = os.stat(path)
    found = _outline(str(path), known.st_size, known.st_mtime_ns)
    if isinstance(found, SessionwiseError):  # raised anew, so that no traceback is kept
        raise type(found)(found.where, found.found, found.needed, found.remedy)
    return found


def outline_here(path: str) -> dict[str, Any]:
    """What ``outline`` runs in its child: the names and the plain attributes of the root."""
    with _walked(path) as walk:
        found = {str(name): _plain(walk.file.attrs, name) for name in walk.file.attrs}
        return {"names": sorted(walk.names), "attrs": {k: v for k, v in found.items() if v is not None}}


@contextmanager
def guarded(path: str | Path, reads: Collection[str] | None = None) -> Iterator[h5py.File]:
    """Yield an open ``h5py.File`` that is safe to read. Only ever call it in a child of ``call_isolated``.

    ``reads``: groups and data sets that will be read, whose filters and sizes are checked (None: all). Raises
    DataError; what h5py raises in the block becomes one too. References are not followed, and must not be.
    """
    with _walked(path) as walk:
        walk.check_data(reads)
        yield walk.file


def read_array(file: h5py.File, name: str) -> np.ndarray:
    """One data set of numbers or texts, native byte order; DataError for a group, references and anything else."""
    import h5py

    where = f"{file.filename}, {name!r}"
    if name not in file:
        raise DataError(where, "is missing", f"{name!r}", "Check how the file was made")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(where, "is a group", "a data set", "Check how the file was made")
    if dataset.shape is None:
        raise DataError(where, "is empty", "numbers or texts", "Check how the file was made")
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return _texts(where, dataset)
    if dataset.dtype.kind not in "biuf" or dataset.dtype.hasobject:
        raise DataError(where, f"has items of type {dataset.dtype}", "numbers or texts", "Refused")
    values = np.asarray(dataset[()])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def load(
    path: str | Path, names: Sequence[str], groups: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Data sets by name and attributes by group (``""`` is the root), read in a process of its own.

    ``names``: data sets, or ``group/*`` for all of a group that are one-dimensional, numbers or texts. What is missing
    is left out of the answer: say so by name. Arrays are read-only memory maps.
    """
    outline(path)  # remembered: a file that breaks or hangs libhdf5 does it once
    arrays, attrs = call_isolated("sessionwise.io.hdf5:load_here", path, list(names), list(groups))
    return arrays, attrs


def load_here(path: str, names: Sequence[str], groups: Sequence[str]) -> list[Any]:
    """What ``load`` runs in its child."""
    with guarded(path, reads=[name.removesuffix("/*") for name in names]) as file:
        wanted = [full for name in names for full in _matching(file, name)]
        about = {group: file[group or "/"].attrs for group in groups if not group or group in file}
        attrs = {group: {str(name): _plain(found, name) for name in found} for group, found in about.items()}
        return [{n: read_array(file, n) for n in wanted}, attrs]


def hdf5_bytes(tree: Tree) -> bytes:
    """The file that holds a tree: the same tree gives the same bytes (no times, names in order).

    Texts are stored as bytes of fixed length, so arrays are numbers or ``S``.
    """
    try:
        import h5py
    except ImportError as error:
        raise EnvironmentProblem(
            "HDF5", f"h5py cannot be imported ({error})", "h5py", "Install it: pip install 'sessionwise[hdf5]'"
        ) from error
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=("earliest", "v110")) as file:
        _put(file, tree)
    return stream.getvalue()


def _put(group: h5py.Group, tree: Tree) -> None:
    for name, value in sorted(tree.attrs.items()):
        group.attrs[name] = value
    for name, item in sorted(tree.items.items()):
        if isinstance(item, Tree):
            _put(group.create_group(name), item)
        else:
            group.create_dataset(name, data=item, track_times=False)


def _matching(file: h5py.File, name: str) -> list[str]:
    import h5py

    group = name.removesuffix("/*")
    if group == name:
        return [name] if name in file else []
    if not isinstance(file.get(group), h5py.Group):
        return []
    found = {f"{group}/{key}": file[group][key] for key in file[group]}
    return [key for key, item in found.items() if isinstance(item, h5py.Dataset) and item.ndim == 1 and _is_plain(item)]


def _is_plain(dataset: h5py.Dataset) -> bool:
    import h5py

    return dataset.dtype.kind in "biufS" or h5py.check_string_dtype(dataset.dtype) is not None


@lru_cache(maxsize=4096)
def _outline(path: str, size: int, mtime_ns: int) -> Outline | SessionwiseError:
    """Failures are remembered too: every format asks, and a reader that hangs should hang once."""
    try:
        found = call_isolated("sessionwise.io.hdf5:outline_here", path, timeout_s=_OUTLINE_S)
    except SessionwiseError as problem:
        return problem
    return Outline(frozenset(found["names"]), found["attrs"])


@contextmanager
def _walked(path: str | Path) -> Iterator[_Walk]:
    _require_magic(path)
    try:
        import h5py
    except ImportError as error:
        found = f"is an HDF5 file, and h5py cannot be imported ({error})"
        raise EnvironmentProblem(str(path), found, "h5py", "Install it: pip install 'sessionwise[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            walk = _Walk(path, file)
            walk.run()
            yield walk
    except _DAMAGE as error:
        raise _damaged(path, error) from error


class _Walk:
    """One walk along all links of a file, before any of them is followed out of it."""

    def __init__(self, path: str | Path, file: h5py.File) -> None:
        self.path, self.file = str(path), file
        self.names: set[str] = set()
        self.datasets: dict[str, h5py.Dataset] = {}
        self.soft: dict[str, str] = {}
        self.home: dict[tuple[int, int], str] = {_address(file): ""}  # the name under which an object was met first
        self.aliases: dict[str, str] = {}  # other names of the same objects

    def run(self) -> set[str]:
        """Names of all groups and data sets. Raises DataError for links that lead out, and for loops."""
        todo = [("", self.file, frozenset(self.home))]
        while todo:
            prefix, group, above = todo.pop()
            for name in group:
                full = f"{prefix}{name}"
                item = self._linked(full, name, group)
                if item is None:
                    continue
                address = _address(item)
                if address in above:
                    self._refuse(full, "leads back to a group that it stands in (a loop)")
                if address in self.home:
                    self.aliases[full] = self.home[address]
                    continue
                self.home[address] = full
                if self._is_group(full, item, len(above)):
                    todo.append((f"{full}/", item, above | {address}))
        for full, target in self.soft.items():
            self._resolve(full, target)
        return self.names

    def check_data(self, reads: Collection[str] | None) -> None:
        """Filters and sizes of what will be read (None: of everything)."""
        size, declared = os.path.getsize(self.path), 0
        for name, dataset in self._wanted(reads).items():
            self._check_filters(name, dataset)
            items, in_a_chunk = math.prod(dataset.shape or ()), math.prod(dataset.chunks or ())
            declared += items * dataset.dtype.itemsize
            # HDF5 unpacks whole chunks, however little of one lies inside the shape.
            most = max(items, in_a_chunk) * dataset.dtype.itemsize
            self._refuse_bomb(f"{name!r}", most, min(dataset.id.get_storage_size(), size))
        self._refuse_bomb("what is read", declared, size)

    def _wanted(self, reads: Collection[str] | None) -> dict[str, h5py.Dataset]:
        if reads is None:
            return self.datasets
        todo, names = [read.strip("/") for read in reads], set()
        while todo:  # also what goes by another name here
            name = todo.pop()
            if name not in names:
                names.add(name)
                todo += [home for alias, home in self.aliases.items() if _overlap(alias, name)]
        return {n: d for n, d in self.datasets.items() if any(n == name or n.startswith(f"{name}/") for name in names)}

    def _resolve(self, full: str, target: str) -> None:
        """Where a soft link leads: no link leaves the file any more, so it can be followed."""
        try:
            home = self.home[_address(self.file[full])]
        except _DAMAGE:
            self._refuse(full, f"is a link to {target[:80]!r}, which leads nowhere")
        if not home or full.startswith(f"{home}/"):
            self._refuse(full, "leads back to a group that it stands in (a loop)")
        self.aliases[full] = home

    def _linked(self, full: str, name: str, group: h5py.Group) -> Any:
        """The object of a hard link; None for a soft link, which is kept for later."""
        import h5py

        link = group.get(name, getlink=True)
        self.names.add(full)
        if len(self.names) > MAX_OBJECTS:
            raise DataError(self.path, f"has more than {MAX_OBJECTS} objects", "fewer", "Refused")
        if isinstance(link, h5py.ExternalLink):
            self._refuse(full, f"is a link into another file ({link.filename[:80]!r})")
        if isinstance(link, h5py.SoftLink):
            self.soft[full] = link.path
            return None
        return group[name]

    def _is_group(self, full: str, item: Any, depth: int) -> bool:
        import h5py

        if isinstance(item, h5py.Dataset):
            self._check_storage(full, item)
            self.datasets[full] = item
        elif isinstance(item, h5py.Group) and depth > MAX_DEPTH:
            raise DataError(self.path, f"has groups {MAX_DEPTH} deep", "fewer", "Refused")
        return isinstance(item, h5py.Group)

    def _check_storage(self, full: str, dataset: h5py.Dataset) -> None:
        if dataset.is_virtual:
            self._refuse(full, "is a virtual data set, put together from other files")
        if dataset.external:
            self._refuse(full, f"is stored in another file ({str(dataset.external[0][0])[:80]!r})")

    def _check_filters(self, full: str, dataset: h5py.Dataset) -> None:
        import h5py

        made = dataset.id.get_create_plist()
        for number in range(made.get_nfilters()):
            code = made.get_filter(number)[0]
            if not h5py.h5z.filter_avail(code):
                found = f"needs filter {code} ({_FILTERS.get(code, 'unknown')})"
                needed = "a filter that HDF5 brings along: gzip, shuffle, lzf"
                raise DataError(f"{self.path}, {full!r}", found, needed, "Write it again with gzip or uncompressed")

    def _refuse_bomb(self, what: str, declared: int, stored: int) -> None:
        if declared > MAX_ARCHIVE_BYTES or declared > max(BOMB_FLOOR_BYTES, BOMB_RATIO * stored):
            found = f"{what} declares {human_bytes(declared)}, {human_bytes(stored)} stored"
            most = human_bytes(MAX_ARCHIVE_BYTES)
            needed = f"at most {BOMB_RATIO}x above {human_bytes(BOMB_FLOOR_BYTES)}, never {most}"
            raise DataError(self.path, found, needed, "Refused")

    def _refuse(self, full: str, found: str) -> NoReturn:
        needed = "all data in this one file: external data are not allowed"
        raise DataError(f"{self.path}, {full[:200]!r}", found, needed, "Copy the data into one file (h5repack)")


def _require_magic(path: str | Path) -> None:
    with open_regular(path) as stream:
        head = stream.read(len(_MAGIC))
    if head != _MAGIC:
        remedy = "Name the format of the file: --format" if head.startswith((b"PK", b"\x93NUMPY")) else _AGAIN
        remedy = "Run: git lfs pull" if head.startswith(b"version ") else remedy
        raise DataError(str(path), f"is {kind_of_file(path)}, not HDF5", "an HDF5 file", remedy)


def _damaged(path: str | Path, error: Exception) -> DataError:
    text = " ".join(str(error).split()) or type(error).__name__
    cut = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text)
    if cut:
        found = f"is truncated: {human_bytes(int(cut[1]))} of {human_bytes(int(cut[2]))}"
        return DataError(str(path), found, "a complete HDF5 file", _AGAIN)
    return DataError(str(path), f"is damaged ({text[:160]})", "a complete HDF5 file", _AGAIN)


def _overlap(a: str, b: str) -> bool:
    """Whether one of two names stands for a part of the other."""
    return a == b or a.startswith(f"{b}/") or b.startswith(f"{a}/")


def _address(item: Any) -> tuple[int, int]:
    import h5py

    about = h5py.h5o.get_info(item.id)
    return (about.fileno, about.addr)


def _plain(attrs: Any, name: str) -> Any:
    """An attribute as text, number or array of those; None for what is neither, or cannot be read."""
    try:
        value = attrs[name]
    except _DAMAGE:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":
        return [str(text) for text in np.char.decode(value, "utf-8", "replace").ravel()[:1000]]
    plain = isinstance(value, (str, bool, int, float, np.number, np.bool_)) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    )
    return value if plain else None


def _texts(where: str, dataset: h5py.Dataset) -> np.ndarray:
    """Texts, block by block: many rows may share one text in the file, and each unpacks into its own."""
    if dataset.ndim > 1 or dataset.size > MAX_TEXTS:
        found = f"has {dataset.size} texts in {dataset.ndim} dimensions"
        raise DataError(where, found, f"a column of at most {MAX_TEXTS}", "Refused")
    if dataset.ndim == 0:
        return _block_of_texts(where, np.asarray(dataset.asstr("utf-8", "replace")[()], dtype=object), 1)
    blocks = [
        _block_of_texts(where, np.asarray(dataset.asstr("utf-8", "replace")[at : at + _TEXTS_AT_ONCE]), dataset.size)
        for at in range(0, dataset.size, _TEXTS_AT_ONCE)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0, "U1")


def _block_of_texts(where: str, values: np.ndarray, of: int) -> np.ndarray:
    longest = max((len(text) for text in values.ravel()), default=0)
    if longest > MAX_TEXT:
        raise DataError(where, f"has a text of {longest} characters", f"at most {MAX_TEXT}", "Refused")
    if 4 * longest * of > BOMB_FLOOR_BYTES:
        found = f"has {of} texts of up to {longest} characters"
        raise DataError(where, found, f"at most {human_bytes(BOMB_FLOOR_BYTES)} of text", "Refused")
    return values.astype(str)
