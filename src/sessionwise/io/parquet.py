"""Parquet tables of unknown origin, read piece by piece: what dictionaries unpack into is known only afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sessionwise.errors import DataError
from sessionwise.io.arrays import BOMB_FLOOR_BYTES, BOMB_RATIO, human_bytes

_ROWS = 256  # at once


def read_bounded(file: Any, where: str, stored: int, columns: Sequence[str] | None = None) -> Any:
    """The ``pyarrow.Table`` of an open ``ParquetFile``, or of some of its columns; only in a child process.

    ``stored``: bytes of the file. Raises DataError when the table grows beyond 100 times that and 256 MB.
    """
    import pyarrow as pa

    names = list(file.schema_arrow.names if columns is None else columns)
    schema = pa.schema([file.schema_arrow.field(name) for name in names])
    most, held, batches = max(BOMB_FLOOR_BYTES, BOMB_RATIO * stored), 0, []
    for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
        held += batch.nbytes
        if held > most:
            found = f"unpacks into more than {human_bytes(most)}, stores {human_bytes(stored)}"
            needed = f"at most {BOMB_RATIO}x above {human_bytes(BOMB_FLOOR_BYTES)}"
            raise DataError(where, found, needed, "Refused")
        batches.append(batch.select(names))
    return pa.Table.from_batches(batches, schema=schema)
