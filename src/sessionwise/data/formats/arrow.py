"""Format ``arrow``: Hugging Face data sets of binned trials, as IBL-MtM and NEDS publish them, one data set a session.

A row is a trial: one CSR matrix (T bins, N units) in ``spikes_sparse_data``, ``_indices``, ``_indptr`` and ``_shape``;
``binsize`` and ``interval_len`` in seconds, ``eid``, ``cluster_regions`` and ``cluster_uuids`` (one a unit). Read are a
saved ``Dataset`` or ``DatasetDict`` folder, a folder of ``train-00000-of-00001.parquet`` as the Hub stores it, and
single ``.arrow`` and ``.parquet`` files. They are decoded in a process of its own. Axes: K trials, T bins, N units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked
from sessionwise.data.session import Session, make_session
from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError
from sessionwise.io.arrays import (
    human_bytes,
    kind_of_file,
    open_regular,
    unchanged_source,
)
from sessionwise.io.files import canonical_json, read_json, sha256_bytes
from sessionwise.io.isolated import call_isolated
from sessionwise.io.parquet import bounded, read_bounded

_SPARSE = tuple(f"spikes_sparse_{part}" for part in ("data", "indices", "indptr", "shape"))
_SPLITS = {
    **{"train": "train", "test": "test"},
    **{"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"},
}
_ORDER = ("train", "validation", "test")  # others come after them, by name
_REGIONS, _UNIT_IDS, _GOOD = "cluster_regions", "cluster_uuids", "good_clusters"
_SAME_IN_ALL = ("eid", "subject", "lab", "date", "probe_name", "sampling_freq")
_USED = {*_SPARSE, _REGIONS, _UNIT_IDS, _GOOD, "binsize", "interval_len", "intervals"}
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(arrow|parquet)")
_START, _END = b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow messages
_MAX_HEADER_BYTES, _MAX_JSON_BYTES = 4 * 2**20, 32 * 2**20
_MAX_CELLS, _FEW_CELLS, _CELLS_A_SPIKE = 16 * 2**30, 10**8, 10_000  # beyond: no recording, but a false shape
_LONGEST_TEXT = 1000
_HIGHEST = int(np.iinfo(np.uint16).max)
_AGAIN = "Write or download it again"


@dataclass(frozen=True)
class _Part:
    """One file of a data set, and the predefined split that its trials belong to."""

    file: Path
    split: str | None = None


def _claims(path: Path) -> bool:
    try:
        if not path.is_dir():
            return _has_columns(path)
        return _is_saved(path) or any(_has_columns(part.file) for part in _shards(path)[:1])
    except (SessionwiseError, OSError, ValueError):
        return False


def _read(path: Path, asked: Asked) -> Session:
    parts = _parts(path)
    with ExitStack() as reading:
        hashes = [reading.enter_context(unchanged_source(part.file)) for part in parts]
        seconds = 60 + sum(part.file.stat().st_size for part in parts) / 10e6
        plan = [[str(part.file), part.split] for part in parts]
        found = call_isolated("sessionwise.data.formats.arrow:read_trials", path, plan, timeout_s=seconds)
    root = path if path.is_dir() else path.parent
    files = {part.file.relative_to(root).as_posix(): sha for part, sha in zip(parts, hashes, strict=True)}
    return _session(path, found, files, asked)


FORMAT = Format("arrow", "Hugging Face data sets of sparse binned trials (IBL-MtM, NEDS)", _claims, _read)


def read_trials(path: str, parts: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Counts and columns of the files of one data set, in the order given; runs in the child process.

    ``parts``: file and split of each. Returns counts (K, T, N) uint8 or uint16, ``bin_s``, ``columns`` of K values,
    ``areas`` and ``unit_ids`` of N texts or None, ``interval_start_s`` (K,) or None, ``about``, ``notes``.

    Raises
    ------
    DataError: damaged files, matrices that are none, several sessions. EnvironmentProblem: pyarrow is missing.
    """
    with _pyarrow(path):
        tables = [_table(file) for file, _ in parts]
        table = _joined(path, tables)
        notes: list[str] = []
        counts = _counts(path, table, notes)
        bin_s = _bin_s(path, table, counts.shape[1])
        areas, unit_ids = (_of_units(path, table, name, counts.shape[2]) for name in (_REGIONS, _UNIT_IDS))
        columns, about = _columns(path, table, notes)
        start = _interval_starts(table, notes)
    if len({split for _, split in parts}) > 1:
        splits = np.array([split or "" for _, split in parts])
        columns["recorded_split"] = np.repeat(splits, [one.num_rows for one in tables])
    unknown = sum(not area.strip() for area in areas or [])
    if unknown:
        notes.append(f"{unknown} of {counts.shape[2]} units have no region")
    return {
        **{"counts": counts, "bin_s": bin_s, "columns": columns, "areas": areas, "unit_ids": unit_ids},
        **{"interval_start_s": start, "about": about, "notes": notes},
    }


def _session(path: Path, found: Mapping[str, Any], files: Mapping[str, str], asked: Asked) -> Session:
    counts, bin_s, about = found["counts"], found["bin_s"], dict(found["about"])
    start_s = asked.start_s or 0.0  # the files do not tell it
    hint = " (--start sets it)" if asked.start_s is None else ""
    note = f"no window start in the file: taken as {start_s:g} s{hint}"
    columns = dict(found["columns"])
    if found["interval_start_s"] is not None:
        columns["align_time_s"] = found["interval_start_s"] - start_s
    known = {name: about.pop(name, None) for name in ("eid", "subject", "lab", "date")}
    sha256 = next(iter(files.values())) if len(files) == 1 else sha256_bytes(canonical_json(files))
    recorded = {"bin_s": bin_s, "window_s": [start_s, round(start_s + counts.shape[1] * bin_s, 9)]}
    return make_session(
        asked.session_id or known.pop("eid") or path.stem,
        counts,
        bin_s,
        start_s=start_s,
        areas=found["areas"],
        unit_ids=found["unit_ids"],
        trial_columns=columns,
        source={
            **{"format": "arrow", "file": path.name, "sha256": sha256, "files": dict(files)},
            **{"recorded": recorded, "about": about},
        },
        notes=[note, *found["notes"]],
        subject=known["subject"],
        lab=known["lab"],
        date=known["date"],
    )


# ---- which files ---------------------------------------------------------------------------------


def _is_saved(folder: Path) -> bool:
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and "_data_files" in _json(folder / "state.json")


def _parts(path: Path) -> list[_Part]:
    """The files at a path, training trials first; DataError where one is missing or named strangely."""
    if not path.is_dir():
        return [_Part(path)]
    if not (path / "dataset_dict.json").exists():
        parts = _saved(path, None) if (path / "state.json").exists() else _shards(path)
        if not parts:
            raise DataError(str(path), "holds no Hugging Face data set", "dataset_dict.json, state.json or shards")
        return parts
    where = path / "dataset_dict.json"
    splits = _plain_names(where, _json(where).get("splits"))
    return [part for name in sorted(splits, key=_place) for part in _saved(path / name, _SPLITS.get(name, name))]


def _saved(folder: Path, split: str | None) -> list[_Part]:
    """Files of a folder that ``Dataset.save_to_disk`` made."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        found = "keeps its rows in another order (an indices mapping)"
        raise DataError(str(folder), found, "rows in place", "Save it with dataset.flatten_indices()")
    listed = state.get("_data_files")
    names = [item.get("filename") if isinstance(item, dict) else None for item in listed or ()]
    return [_Part(folder / name, split) for name in _plain_names(folder / "state.json", names)]


def _shards(folder: Path) -> list[_Part]:
    """Files ``<split>-00000-of-00002.parquet`` of a folder, or of its ``data``, as the Hub and its cache keep them."""
    below = folder / "data"
    named = [(file, match) for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))]
    if not named and below.is_dir():
        return _shards_of([(f, match) for f in sorted(below.iterdir()) if (match := _SHARD.fullmatch(f.name))])
    return _shards_of(named)


def _shards_of(named: Sequence[tuple[Path, re.Match[str]]]) -> list[_Part]:
    sets: dict[tuple[str, str, str], list[int]] = {}
    for _, match in named:
        sets.setdefault((match[1], match[3], match[4]), []).append(int(match[2]))
    for (prefix, of, suffix), numbers in sets.items():
        missing = sorted(set(range(int(of))) - set(numbers)) if int(of) < 10_000 else [0]
        if missing:
            name = f"{prefix}-{missing[0]:05d}-of-{of}.{suffix}"
            raise DataError(str(named[0][0].parent), f"lacks {name}", "all parts of the data set", "Download it again")
    prefixes = sorted({prefix for prefix, _, _ in sets}, key=lambda prefix: _place(prefix.rpartition("-")[2]))
    if len(sets) > len(prefixes):
        raise DataError(str(named[0][0].parent), "holds the same split twice", "one set of parts", "Keep one of them")
    split = {p: _SPLITS.get(p.rpartition("-")[2], p) if len(prefixes) > 1 else None for p in prefixes}
    return [_Part(file, split[prefix]) for prefix in prefixes for file, match in named if match[1] == prefix]


def _place(split: str) -> tuple[int, str]:
    known = _SPLITS.get(split)
    return (_ORDER.index(known) if known else len(_ORDER), split)


def _json(path: Path) -> dict[str, Any]:
    with open_regular(path) as stream:
        too_big = len(stream.read(_MAX_JSON_BYTES + 1)) > _MAX_JSON_BYTES
    content = None if too_big else read_json(path)
    if not isinstance(content, dict):
        found = f"is larger than {human_bytes(_MAX_JSON_BYTES)}" if too_big else "is no JSON object"
        raise DataError(str(path), found, "the description of a data set", _AGAIN)
    return content


def _plain_names(where: Path, names: Any) -> list[str]:
    """Names that stay inside their folder; what another machine wrote is never a path."""
    if not isinstance(names, list) or not names:
        raise DataError(str(where), "lists no files or splits", "at least one", "Save the data set again")
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or "\0" in name or Path(name).name != name:
            raise DataError(str(where), f"lists {str(name)[:100]!r}", "names inside the folder", "Refused")
    if len(set(names)) < len(names):
        raise DataError(str(where), "lists a name twice", "each once", "Save the data set again")
    return names


def _has_columns(file: Path) -> bool:
    """Whether an Arrow or Parquet file has the sparse columns: their names stand in its head or its foot as text."""
    with open_regular(file) as stream:
        head = stream.read(8)
        if head.startswith(b"PAR1"):
            size = stream.seek(0, 2)
            stream.seek(max(size - 8, 0))
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(max(size - 8 - min(length, _MAX_HEADER_BYTES), 0))
            schema = stream.read(_MAX_HEADER_BYTES)
        elif head.startswith(b"ARROW1"):
            schema = stream.read(_MAX_HEADER_BYTES)
        else:
            length = int.from_bytes(head[4:] if head.startswith(_START) else head[:4], "little")
            schema = stream.read(min(length, _MAX_HEADER_BYTES))
    return all(name.encode() in schema for name in _SPARSE)


# ---- in the child: from files to one table -------------------------------------------------------


@contextmanager
def _pyarrow(path: str) -> Iterator[None]:
    try:
        import pyarrow as pa
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[arrow]'"
        raise EnvironmentProblem(path, "reading Arrow and Parquet files needs pyarrow", "pyarrow", remedy) from error
    try:
        yield
    except pa.ArrowMemoryError as error:
        raise DataError(path, "declares more than fits into memory", "a complete file", _AGAIN) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be decoded ({_first_line(error)})", "a data set", _AGAIN) from error


def _table(file: str) -> Any:
    """The table of one file, every offset and text in it checked; nothing is taken from the schema's metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    with open_regular(file) as stream:
        head = stream.read(8)
    try:
        if head.startswith(b"PAR1"):
            table = read_bounded(parquet.ParquetFile(file), file)
        elif head.startswith(b"ARROW1"):
            source = pa.ipc.open_file(pa.OSFile(file))
            batches = (source.get_batch(i) for i in range(source.num_record_batches))
            table = pa.Table.from_batches(bounded(batches, file), schema=source.schema)
        else:
            _require_stream(file, head)
            stream = pa.ipc.open_stream(pa.OSFile(file))
            table = pa.Table.from_batches(bounded(stream, file), schema=stream.schema)
        table.validate(full=True)
        names = table.column_names
    except pa.ArrowMemoryError as error:
        raise DataError(file, "declares more than fits into memory", "a complete file", _AGAIN) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        found = f"is truncated or damaged ({_first_line(error)})"
        raise DataError(file, found, "a complete Arrow or Parquet file", _AGAIN) from error
    lacking = [name for name in _SPARSE if name not in names]
    if lacking or len(set(names)) < len(names):
        what = f"has no column {lacking[0]!r}" if lacking else "has two columns of one name"
        found = f"{what} (it has {', '.join(names)[:200] or 'none'})"
        raise DataError(file, found, "one sparse matrix a trial", "Is this the data set of binned spikes?")
    return table.replace_schema_metadata(None)


def _require_stream(file: str, head: bytes) -> None:
    """A stream of messages from start to end mark: one that is cut between two messages would read as complete."""
    with open_regular(file) as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - len(_END), 0))
        end = stream.read()
    if not head.startswith(_START):
        kind = kind_of_file(file)
        raise DataError(file, f"is {kind}", "an Arrow or Parquet file", "Check that it is the right file")
    if end != _END:
        found = f"is truncated: {human_bytes(size)} without the mark at the end"
        raise DataError(file, found, "a complete Arrow stream", _AGAIN)


def _joined(path: str, tables: Sequence[Any]) -> Any:
    import pyarrow as pa

    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        found = f"has parts with different columns ({_first_line(error)})"
        raise DataError(path, found, "the same columns in all parts", "Save the data set again") from error
    if not table.num_rows:
        raise DataError(path, "has no trials", "one row a trial", "Check how the data set was made")
    return table


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


# ---- in the child: from a table to counts and columns --------------------------------------------


def _counts(path: str, table: Any, notes: list[str]) -> np.ndarray:
    """(K, T, N): each trial's matrix at its place, without a loop over spikes or trials."""
    (values, n_values), (indices, n_indices), (indptr, n_indptr), (shapes, n_shapes) = (
        _ragged(path, table, name) for name in _SPARSE
    )
    _refuse(path, n_shapes != 2, "has no shape of two sizes", "(bins, units)")
    shape = shapes.reshape(-1, 2).astype(np.int64)
    differs = (shape != shape[0]).any(axis=1)
    says = f"has shape {tuple(shape[differs.argmax()].tolist())}, trial 0 {tuple(shape[0].tolist())}"
    _refuse(path, differs, says, "the same bins and units in all trials")
    trials, bins, units = len(shape), *(int(size) for size in shape[0])
    _refuse(path, n_indptr != bins + 1, f"has row pointers of another length than {bins} bins + 1", "one a bin and one")
    _refuse(path, n_values != n_indices, "has as many values as indices not", "one index a value")
    pointers = indptr.reshape(trials, bins + 1)
    wrong = (pointers[:, 0] != 0) | (pointers[:, -1] != n_values) | (pointers[:, 1:] < pointers[:, :-1]).any(axis=1)
    _refuse(path, wrong, "has row pointers that fall, or do not run from 0 to its number of values", "a CSR matrix")
    _refuse_values(
        path,
        ~((indices >= 0) & (indices < units)),
        n_values,
        indices,
        f"unit index {{}} of {units} units",
        f"0..{units - 1}",
    )
    with np.errstate(invalid="ignore"):
        is_count = (values >= 0) & (values <= _HIGHEST) & (values == np.floor(values))
    _refuse_values(
        path, ~is_count, n_values, values, "value {}, which is no spike count", f"whole numbers up to {_HIGHEST}"
    )
    _refuse_size(path, (trials, bins, units), len(values))
    if values.dtype.kind == "f":
        notes.append(f"counts were {values.dtype.name} with whole values, converted to integers")
    pointers = pointers.astype(np.int64)
    rows = np.repeat(np.arange(trials * bins), (pointers[:, 1:] - pointers[:, :-1]).ravel())
    return _dense(rows * units + indices.astype(np.int64), values, (trials, bins, units))


def _dense(cells: np.ndarray, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Values at their cells; where a matrix names a cell twice, their sum, as scipy has it."""
    small = np.uint8 if values.max(initial=0) <= 255 else np.uint16
    counts = np.zeros(math.prod(shape), small)
    counts[cells] = values
    if counts.sum(dtype=np.int64) != values.sum(dtype=np.int64):
        counts = np.zeros(math.prod(shape), np.int64)
        np.add.at(counts, cells, values.astype(np.int64))
    return counts.reshape(shape)


def _ragged(path: str, table: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All values of a column of lists, one after the other, and the (K,) number of each trial."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[name]
    inner = column.type.value_type if _is_list(column.type) else column.type
    numbers = pa.types.is_integer(inner) or (pa.types.is_floating(inner) and name == _SPARSE[0])
    if not _is_list(column.type) or not numbers:
        raise DataError(f"{path}, column {name!r}", f"has type {column.type}", "a list of whole numbers a trial")
    _refuse(path, column.is_null().to_numpy(), f"has no {name}", "one matrix a trial")
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    values = pc.list_flatten(column)
    if values.null_count:
        _refuse_values(path, values.is_null().to_numpy(), lengths, None, f"an empty entry in {name}", "numbers")
    return values.to_numpy(), lengths


def _refuse(path: str, bad: np.ndarray, found: str, needed: str) -> None:
    if bad.any():
        raise DataError(f"{path}, trial {int(bad.argmax())}", found, needed, "Check how the data set was made")


def _refuse_values(
    path: str, bad: np.ndarray, lengths: np.ndarray, values: np.ndarray | None, found: str, needed: str
) -> None:
    if bad.any():
        first = int(bad.argmax())
        trial = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
        text = found if values is None else found.format(f"{values[first]:.6g}")
        raise DataError(
            f"{path}, trial {trial}", f"has {text}", "spike counts of its units", "Write the data set again"
        )


def _refuse_size(path: str, shape: tuple[int, int, int], stored: int) -> None:
    cells = math.prod(shape)
    if min(shape) < 1 or cells > _MAX_CELLS or cells > max(_FEW_CELLS, _CELLS_A_SPIKE * stored):
        found = f"declares {shape[0]} trials x {shape[1]} bins x {shape[2]} units, stores {stored} counts"
        raise DataError(path, found, "a shape that fits its counts", "Check how the data set was made")


def _bin_s(path: str, table: Any, bins: int) -> float:
    """Seconds a bin: the two columns that tell it must agree."""
    size, length = (_one_number(path, table, name) for name in ("binsize", "interval_len"))
    if size is None and length is None:
        found = "has neither a column 'binsize' nor 'interval_len'"
        raise DataError(path, found, "the size of a bin in seconds", "Add a column 'binsize'")
    if size is None or length is None:
        return size if size is not None else round(float(length or 0) / bins, 12)
    if abs(size * bins - length) > 1e-3 * abs(size):
        found = f"{bins} bins of {size:g} s are {size * bins:g} s, interval_len says {length:g} s"
        raise DataError(path, found, "sizes that agree", "Check how the data set was made")
    return size


def _one_number(path: str, table: Any, name: str) -> float | None:
    """The value of a column that is the same in all trials; None without the column."""
    values = _scalars(table[name]) if name in table.column_names else None
    if name not in table.column_names:
        return None
    if values is None or values.dtype.kind not in "iuf" or not (values == values[0]).all() or not values[0] > 0:
        found = (
            f"has type {table[name].type}" if values is None else f"holds {', '.join(map(str, np.unique(values)[:5]))}"
        )
        raise DataError(f"{path}, column {name!r}", found, "one positive number, the same in all trials")
    return float(values[0])


def _of_units(path: str, table: Any, name: str, units: int) -> list[str] | None:
    """N texts that stand in every row again; DataError where rows disagree."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.column_names or pa.types.is_null(table[name].type):
        return None
    column = table[name]
    if not _is_list(column.type):
        raise DataError(f"{path}, column {name!r}", f"has type {column.type}", "a list of texts, one a unit")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    says = f"has {lengths[(lengths != units).argmax()]} {name} for {units} units"
    _refuse(path, lengths != units, says, "one a unit")
    texts = pc.fill_null(pc.cast(pc.list_flatten(column), pa.large_string()), "")
    own = texts.slice(0, units).combine_chunks()
    same = pc.equal(texts, own.take(pa.array(np.tile(np.arange(units), len(lengths))))).to_numpy()
    _refuse(path, ~same.reshape(-1, units).all(axis=1), f"has other {name} than trial 0", "one recording's units")
    return list(own.to_pylist())


def _columns(path: str, table: Any, notes: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str | float]]:
    """Values a trial; values of the whole data set; the rest is said and left out."""
    columns: dict[str, np.ndarray] = {}
    about: dict[str, str | float] = {}
    left = [_GOOD] if _GOOD in table.column_names else []
    for name in sorted(set(table.column_names) - _USED):
        values = _scalars(table[name])
        if values is None:
            left.append(name)
        elif name in _SAME_IN_ALL and (values == values[0]).all():
            about[name] = values[0].item()
        elif name == "eid":
            _refuse_several(path, values)
        else:
            columns[name] = values
    if left:
        shown = ", ".join(left[:20]) + (", ..." if len(left) > 20 else "")
        notes.append(f"left out, as they are no single value a trial: {shown}")
    for name in ("eid", "subject", "lab", "date"):
        if name in about:
            about[name] = str(about[name])
    return columns, about


def _refuse_several(path: str, values: np.ndarray) -> None:
    eids = [str(eid) for eid in np.unique(values)]
    shown = ", ".join(eids[:5]) + (", ..." if len(eids) > 5 else "")
    found = f"holds trials of {len(eids)} sessions: {shown}"
    raise DataError(path, found, "one session a data set", "Save each: dataset.filter(lambda row: row['eid'] == EID)")


def _scalars(column: Any) -> np.ndarray | None:
    """(K,) numbers or texts; lists of one value count as that value. None for what is neither, or has no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_list(column.type) and not column.null_count and pc.all(pc.equal(pc.list_value_length(column), 1)).as_py():
        column = pc.list_flatten(column)
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    kind = column.type
    if column.null_count == len(column):
        return None
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(pc.cast(column, pa.float64()) if column.null_count else column)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    if pc.max(pc.utf8_length(column)).as_py() > _LONGEST_TEXT:
        return None
    return np.array(pc.fill_null(column, "").to_pylist(), str)


def _interval_starts(table: Any, notes: list[str]) -> np.ndarray | None:
    """(K,) start of each trial's interval in seconds on the recording's clock, where ``intervals`` tells it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "intervals" not in table.column_names:
        return None
    column = table["intervals"]
    if _is_list(column.type) and pa.types.is_floating(column.type.value_type) and not column.null_count:
        lengths, values = pc.list_value_length(column).to_numpy(), pc.list_flatten(column)
        edges = np.asarray(values, np.float64)
        if (lengths == 2).all() and np.isfinite(edges).all():
            return edges[::2].copy()
    notes.append("left out, as they are no start and stop in seconds: intervals")
    return None


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
