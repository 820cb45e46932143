"""Tables of session folders: Parquet in a process of its own, CSV by the standard library. Columns of plain values."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np

from sessionwise.data.formats.alf_files import require_text
from sessionwise.errors import DataError, EnvironmentProblem
from sessionwise.io.arrays import human_bytes, kind_of_file, open_regular
from sessionwise.io.isolated import call_isolated
from sessionwise.io.parquet import read_bounded

_LONGEST_TEXT = 1000
_MAX_CSV_BYTES = 64 * 10**6
_AGAIN = "Write or download it again"


def read_table(path: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """name -> (R,) numbers, bools or texts of a ``.pqt`` or ``.csv`` table; only ``names`` that it has, if given."""
    if path.endswith(".csv"):
        return _read_csv(path, names)
    found: dict[str, np.ndarray] = call_isolated("sessionwise.data.formats.alf_tables:read_parquet", path, names)
    return found


def read_parquet(path: str, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """``read_table`` of a Parquet file; runs in the child process.

    Raises
    ------
    DataError: damaged, nested or binary columns, a declared size that is no recording's. EnvironmentProblem: pyarrow
        is missing.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[ibl]' (or sessionwise[arrow])"
        raise EnvironmentProblem(path, "reading .pqt tables needs pyarrow", "pyarrow", remedy) from error
    with open_regular(path) as stream:
        if stream.read(4) != b"PAR1":
            raise DataError(path, f"is {kind_of_file(path)}", "a Parquet table", "Download the file again")
    try:
        file = parquet.ParquetFile(path)
        own = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
        wanted = own if names is None else [name for name in names if name in own]
        _refuse_nested(path, file.schema_arrow, wanted)
        table = read_bounded(file, path, wanted)
        table.validate(full=True)
        return {name: _values(path, name, table[name]) for name in wanted}
    except pa.ArrowMemoryError as error:
        raise DataError(path, "declares more than fits into memory", "a complete file", _AGAIN) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(path, f"is truncated or damaged ({reason})", "a complete Parquet table", _AGAIN) from error


def _refuse_nested(path: str, schema: Any, wanted: Sequence[str]) -> None:
    import pyarrow.types as kinds

    plain = (kinds.is_boolean, kinds.is_integer, kinds.is_floating, kinds.is_string, kinds.is_large_string)
    for name in wanted:
        if schema.names.count(name) > 1:
            raise DataError(path, f"has two columns {name!r}", "each name once", _AGAIN)
        kind = schema.field(name).type
        kind = kind.value_type if kinds.is_dictionary(kind) else kind
        if not (kinds.is_null(kind) or any(fits(kind) for fits in plain)):
            found = f"has type {str(kind)[:60]}"
            raise DataError(f"{path}, column {name!r}", found, "numbers, bools or texts", "Refused; store plain values")


def _values(path: str, name: str, column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if len(column) and (pc.max(pc.utf8_length(column)).as_py() or 0) > _LONGEST_TEXT:
            found = f"has texts of more than {_LONGEST_TEXT} characters"
            raise DataError(f"{path}, column {name!r}", found, "short texts", "Refused")
        return np.array(pc.fill_null(column, "").to_pylist(), str)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    return np.asarray(pc.cast(column, pa.float64()) if column.null_count else column)


def _read_csv(path: str, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    require_text(path)
    with open_regular(path) as stream:
        text = stream.read(_MAX_CSV_BYTES + 1)
    if len(text) > _MAX_CSV_BYTES:
        raise DataError(path, f"is larger than {human_bytes(_MAX_CSV_BYTES)}", "one line a unit", "Refused")
    try:
        rows = list(csv.reader(text.decode("utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"is no CSV text ({str(error)[:80]})", "a CSV table", _AGAIN) from error
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(path, "has no header", "a line of names and one line a unit", _AGAIN)
    header, body = rows[0], rows[1:]
    uneven = next((number for number, row in enumerate(body, 2) if len(row) != len(header)), None)
    if uneven is not None:
        found = f"line {uneven} has {len(body[uneven - 2])} cells, the header {len(header)}"
        raise DataError(path, found, "one cell a column", _AGAIN)
    columns = {name: [row[place] for row in body] for place, name in enumerate(header)}
    return {name: _typed(cells) for name, cells in columns.items() if names is None or name in names}


def _typed(cells: list[str]) -> np.ndarray:
    """Numbers where all cells are numbers or empty, else texts."""
    try:
        numbers = np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError:
        return np.array(cells, str)
    return numbers
