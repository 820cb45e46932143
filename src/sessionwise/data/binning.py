"""Spike times to counts: being written."""

from __future__ import annotations

from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import Session
from sessionwise.errors import UsageError


def session_from(recording: Recording, asked: Asked) -> Session:
    """A session of a recording's trials, in counts."""
    raise UsageError(recording.id, "cannot be binned yet")
