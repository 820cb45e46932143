"""Leaks: a held-out session that a pool also holds, by id or by content (D35)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from sessionwise.data.info import SessionInfo
from sessionwise.data.store import shared_trials
from sessionwise.errors import LeakageError

_SUFFIXES = ("_aligned",)  # the inherited pipeline's name for the same recording


def leaks(heldout: Iterable[SessionInfo], pool: Iterable[SessionInfo]) -> list[LeakageError]:
    """A LeakageError for each pair of a held-out and a pool session that are, or share, the same recording."""
    candidates = list(pool)
    found = [(target, same_recording(target, candidate)) for target in heldout for candidate in candidates]
    return [
        LeakageError(f"held-out session {target.id}", f"LEAK: {how}", "a pool without it", "Leave it out")
        for target, how in found
        if how
    ]


def same_recording(target: SessionInfo, candidate: SessionInfo) -> str | None:
    """How two sessions are one recording: equal ids (after case, Unicode form, known suffixes) or equal trials."""
    if target.id == candidate.id:
        return "it is also in the pool"
    if _bare(target.id) == _bare(candidate.id):
        return f"pool session {candidate.id} has the same id but for case, Unicode form or suffix"
    if shared := shared_trials(target, candidate):
        return f"pool session {candidate.id} holds {shared} identical trials (the same recording under another id)"
    return None


def neighbours(target: SessionInfo, pool: Mapping[str, SessionInfo]) -> list[str]:
    """Notes on pool sessions of the same subject and day as the held-out one: allowed, and worth knowing (D36)."""
    if not (target.subject and target.date):
        return []
    same = [i for i, info in pool.items() if (info.subject, info.date) == (target.subject, target.date)]
    return [f"{i}: same subject and day as held-out session {target.id}" for i in same]


def _bare(session_id: str) -> str:
    bare = unicodedata.normalize("NFC", session_id).casefold().strip()
    for suffix in _SUFFIXES:
        bare = bare.removesuffix(suffix)
    return bare
