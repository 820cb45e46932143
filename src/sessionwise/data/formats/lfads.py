"""Format ``lfads``: being written."""

from __future__ import annotations

from pathlib import Path

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import Session
from sessionwise.errors import UsageError


def _read(path: Path, asked: Asked) -> Session | Recording:
    raise UsageError("--format", "lfads is not readable yet")


FORMAT = Format("lfads", "being written", lambda path: False, _read)
