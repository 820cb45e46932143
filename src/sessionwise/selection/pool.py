"""Who may be compared with whom: the pool of a held-out session, and the leaks that are refused (exit 6)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from sessionwise.data.store import SessionStore, shared_trials
from sessionwise.errors import LeakageError, SessionwiseError, UsageError, raise_all
from sessionwise.training.presets import nearest

_SUFFIXES = ("_aligned",)  # the inherited pipeline's name for the same recording


def choose_pool(sessions: SessionStore, heldout: Sequence[str], pool: str | Sequence[str] | None) -> list[str]:
    """The ids of the pool, sorted: the named ones, those a filter keeps, or all that are not held out.

    All problems come in one answer, leakage first: a held-out session that the pool names, or a pool session that is
    the same recording under another id (equal ids after case, Unicode form and known suffixes, or equal trials).
    """
    problems = unknown_or_repeated(sessions, heldout, "--heldout")
    if isinstance(pool, str) and not is_filter(pool):
        pool = [name.strip() for name in pool.split(",") if name.strip()]
    if isinstance(pool, str):
        ids = [i for i in sessions.filter(pool).ids if i not in heldout]
    elif pool is None:
        ids = [i for i in sessions.ids if i not in heldout]
    else:
        ids = list(pool)
        problems += unknown_or_repeated(sessions, ids, "--pool")
    problems += leaks(sessions, [h for h in heldout if h in sessions], [i for i in ids if i in sessions])
    if not ids:
        problems.append(UsageError("--pool", "no session is left to rank", "at least one", "Import more sessions"))
    raise_all(problems)
    return sorted(ids)


def is_filter(pool: str) -> bool:
    """Whether a pool is an expression over session metadata rather than a list of ids."""
    return bool(re.search(r"\s(==|!=|<=|>=|<|>|in)\s|[<>=!]=", f" {pool} "))


def unknown_or_repeated(sessions: SessionStore, ids: Sequence[str], option: str) -> list[SessionwiseError]:
    """One problem for each id that the store does not hold or that is named twice."""
    problems: list[SessionwiseError] = []
    if not ids:
        problems.append(UsageError(option, "names no session", "at least one id", "See: sessionwise data list STORE"))
    for name in dict.fromkeys(ids):
        if name not in sessions:
            hint = nearest(name, sessions.ids) or "See: sessionwise data list STORE"
            problems.append(UsageError(option, f"session {name!r} is not in the store", "an id of the store", hint))
        if list(ids).count(name) > 1:
            problems.append(UsageError(option, f"session {name!r} is named twice", "each id once", "Name it once"))
    return problems


def leaks(sessions: SessionStore, heldout: Iterable[str], pool: Sequence[str]) -> list[SessionwiseError]:
    """A LeakageError for each pair of a held-out and a pool session that are, or share, the same recording."""
    problems: list[SessionwiseError] = []
    for target in heldout:
        for candidate in pool:
            if found := _same_recording(sessions, target, candidate):
                problems.append(
                    LeakageError(f"held-out session {target}", f"LEAK: {found}", "a pool without it", "Leave it out")
                )
    return problems


def _same_recording(sessions: SessionStore, target: str, candidate: str) -> str | None:
    if target == candidate:
        return "it is also in the pool"
    if _bare(target) == _bare(candidate):
        return f"pool session {candidate} has the same id but for case, Unicode form or suffix"
    if shared := shared_trials(sessions.info(target), sessions.info(candidate)):
        return f"pool session {candidate} holds {shared} identical trials (the same recording under another id)"
    return None


def _bare(session_id: str) -> str:
    bare = unicodedata.normalize("NFC", session_id).casefold().strip()
    for suffix in _SUFFIXES:
        bare = bare.removesuffix(suffix)
    return bare
