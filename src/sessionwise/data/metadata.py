"""More columns about sessions from a CSV: its first column holds ids, the others numbers or texts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection
from pathlib import Path

from sessionwise.errors import DataError

MAX_BYTES = 10_000_000
Value = float | str | None


def read_metadata(path: str | Path, ids: Collection[str]) -> dict[str, dict[str, Value]]:
    """Columns of the sessions ``ids``; a cell that is a finite number is one, an empty cell or ``nan`` is None.

    Sessions that the file does not name have no entry; lines about other sessions are skipped. Raises DataError for a
    file that is no such table, names a session or a column twice, or names none of the sessions.
    """
    path = Path(path)
    lines = _lines(path)
    header, found = lines[0], {}
    if len(header) < 2 or len(set(header)) < len(header) or not all(header):
        raise DataError(f"{path}, line 1", f"columns {header!r:.200}", "two or more named columns, each once")
    for number, line in enumerate(lines[1:], start=2):
        if not line or line[0] not in ids:
            continue
        if line[0] in found or len(line) != len(header):
            what = "names a session twice" if line[0] in found else f"has {len(line)} cells"
            raise DataError(f"{path}, line {number}", what, f"one line a session with {len(header)} cells")
        found[line[0]] = dict(zip(header[1:], map(_value, line[1:]), strict=True))
    if not found:
        raise DataError(str(path), f"names none of the {len(ids)} sessions", "their ids in the first column")
    return found


def _lines(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(str(path), "is too large", f"a table of at most {MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(str(path), f"is no CSV in UTF-8 ({error})", "a CSV file") from error
    if not lines:
        raise DataError(str(path), "is empty", "a CSV file with a header")
    return lines


def _value(text: str) -> Value:
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else None
