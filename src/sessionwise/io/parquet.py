"""Arrow and Parquet tables of unknown origin, read piece by piece: what compression and dictionaries unpack into is
known only afterwards. Only for children of ``io.isolated``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sessionwise.errors import DataError
from sessionwise.io.arrays import BOMB_FLOOR_BYTES, BOMB_RATIO, human_bytes

_ROWS = 256  # at once


def read_bounded(file: Any, path: str | Path, columns: Sequence[str] | None = None) -> Any:
    """The ``pyarrow.Table`` of an open ``ParquetFile``, or of some of its columns.

    Raises DataError when the file declares, or unpacks into, more than 100 times its bytes and 256 MB.
    """
    import pyarrow as pa

    groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
    chunks = [group.column(c) for group in groups for c in range(group.num_columns)]
    _refuse_above(sum(max(c.total_uncompressed_size, 8 * c.num_values) for c in chunks), path, "declares")
    names = list(file.schema_arrow.names if columns is None else columns)
    schema = pa.schema([file.schema_arrow.field(name) for name in names])
    batches = file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False)
    return pa.Table.from_batches(bounded((batch.select(names) for batch in batches), path), schema=schema)


def bounded(batches: Iterable[Any], path: str | Path) -> list[Any]:
    """Record batches of a file, as long as they keep within its bounds together."""
    held, kept = 0, []
    for batch in batches:
        held += batch.nbytes
        _refuse_above(held, path, "unpacks into")
        kept.append(batch)
    return kept


def _refuse_above(size: int, path: str | Path, verb: str) -> None:
    stored = Path(path).stat().st_size
    if size > max(BOMB_FLOOR_BYTES, BOMB_RATIO * stored):
        found = f"{verb} {human_bytes(size)}, stores {human_bytes(stored)}"
        needed = f"at most {BOMB_RATIO}x above {human_bytes(BOMB_FLOOR_BYTES)}"
        raise DataError(str(path), found, needed, "Refused")
