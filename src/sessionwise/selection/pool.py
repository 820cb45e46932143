"""Who may be compared with whom: the pool of a held-out session, and the leaks that are refused (exit 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sessionwise.data.leakage import leaks
from sessionwise.data.store import SessionStore
from sessionwise.errors import SessionwiseError, UsageError, raise_all
from sessionwise.training.presets import nearest


def choose_pool(
    sessions: SessionStore,
    heldout: Sequence[str],
    pool: str | Sequence[str] | None,
    others: Sequence[SessionwiseError] = (),
) -> list[str]:
    """The ids of the pool, sorted: the named ones, those a filter keeps, or all that are not held out.

    All problems come in one answer (with ``others``, found elsewhere), leakage first: a held-out session that the pool
    names, or a pool session that is the same recording under another id.
    """
    problems = [*others, *unknown_or_repeated(sessions, heldout, "--heldout")]
    if isinstance(pool, str) and not is_filter(pool):
        pool = [name.strip() for name in pool.split(",") if name.strip()]
    if isinstance(pool, str):
        ids = [i for i in sessions.filter(pool).ids if i not in heldout]
    elif pool is None:
        ids = [i for i in sessions.ids if i not in heldout]
    else:
        ids = list(pool)
        problems += unknown_or_repeated(sessions, ids, "--pool")
    known = ([sessions.info(i) for i in dict.fromkeys(names) if i in sessions] for names in (heldout, ids))
    problems += leaks(*known)
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
