"""IBL's RepeatedSite from the archive into a store: one session after the other, each committed before the next."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.binning import session_from
from sessionwise.data.formats.alf import DEFAULT_WINDOW_S, read_session
from sessionwise.data.importing import ImportSummary
from sessionwise.data.one_cache import OneCache
from sessionwise.data.recording import Asked, Recording
from sessionwise.data.repeated_site import DROPPED, REVISION, Entry, manifest
from sessionwise.data.session import Session, exact, window_text
from sessionwise.data.store import SessionStore, store_or_none
from sessionwise.errors import DataError, IntegrityError, SessionwiseError, SessionwiseWarning, UsageError, raise_all

MIN_TRIALS = 100  # the paper drops sessions with fewer (protocol A1)
BIN_MS = 20.0


def fetch_repeated_site(
    store_path: str | Path,
    *,
    only: Iterable[str] | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    skip_bad: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **asked: Any,
) -> tuple[SessionStore, ImportSummary]:
    """Download sessions of the manifest, or read them from a cache of ONE, and add them to a store, made if missing.

    Each session is its manifest's insertion, with its eid as id, IBL's trial mask and one spike-sorting revision. What
    is in the store already is skipped before anything is downloaded, so a stopped fetch goes on where it was. Sessions
    with fewer than 100 trials after the mask are left out.

    Parameters
    ----------
    only: eids; None: the 89 of the paper. The two that the paper dropped are taken when they are named.
    cache: folder of ONE's downloads; None: ONE's own. offline: read it, download nothing.
    skip_bad: list the sessions that fail instead of raising at the end; the others are added in both cases.
    asked: fields of ``Asked``; by default trial_mask=True and revision="2024-03-22", bins and window as in the store,
        else 20 ms and -0.5..2.5 s.

    Raises
    ------
    UsageError: unknown eids, other bins than the store's. EnvironmentProblem: no network, no ONE-api.
    DataError, IntegrityError (a size or hash that is not the listed one), Problems: sessions that failed, at the end.
    """
    entries = _entries(only)
    with store_or_none(store_path) as store:
        fetch = _Fetch(store, _asked(store, asked), say)
        fetch.all(entries, None if cache is None else Path(cache), offline)
        if fetch.bad and not skip_bad:
            say(f"{len(fetch.added)} added, {len(fetch.bad)} failed; the same command tries these again")
            raise_all([problem for _, problem in fetch.bad])
    skipped = (*fetch.bad, *fetch.short)
    return store, ImportSummary(tuple(fetch.added), tuple(fetch.unchanged), skipped)


def _entries(only: Iterable[str] | None) -> list[Entry]:
    if only is None:
        return [entry for entry in manifest() if entry.usable]
    known = {entry.eid: entry for entry in manifest()}
    chosen = list(dict.fromkeys(eid.lower() for eid in only))
    for eid in chosen:
        if eid not in known:
            near = difflib.get_close_matches(eid, known, 1)
            remedy = f"Did you mean {near[0]}?" if near else ""
            raise UsageError("--only", f"{eid!r} is none of the {len(known)} RepeatedSite sessions", "eids", remedy)
    if not chosen:
        raise UsageError("--only", "names no session", "eids of RepeatedSite sessions", "Leave it out for all")
    return [known[eid] for eid in chosen]


def _asked(store: SessionStore, asked: dict[str, Any]) -> Asked:
    """What was asked, with RepeatedSite's defaults; UsageError for other bins than those of the store."""
    given = {name: value for name, value in asked.items() if value is not None}
    first = next((store.info(id_) for id_ in store), None)
    own = (BIN_MS, DEFAULT_WINDOW_S) if first is None else (first.bin_s * 1000, first.window_s)
    full = Asked(**{"trial_mask": True, "revision": REVISION, "bin_ms": own[0], "window_s": own[1], **given})
    if full.session_id is not None:
        raise UsageError("data fetch", "an id was given", "ids are eids", "Leave it out")
    theirs = [full.bin_ms, *(full.window_s or ())]
    if first is not None and [exact(v or 0.0) for v in theirs] != [exact(v) for v in (own[0], *own[1])]:
        found = f"holds sessions with {window_text(first.bin_s, first.window_s)}"
        raise UsageError(
            str(store.path), found, "the same for all", "Leave --bin-ms and --window out, or use a new store"
        )
    return full


@dataclass
class _Fetch:
    """One fetch under way: what was added, was there, failed, and was left out for too few trials."""

    store: SessionStore
    asked: Asked
    say: Callable[[str], None]
    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    bad: list[tuple[str, SessionwiseError]] = field(default_factory=list)
    short: list[tuple[str, SessionwiseError]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)

    def all(self, entries: Sequence[Entry], cache: Path | None, offline: bool) -> None:
        """Take the entries that are not in the store, one by one; a bad one does not keep the others away."""
        self.unchanged += [entry.eid for entry in entries if entry.eid in self.store]
        todo = [entry for entry in entries if entry.eid not in self.store]
        if self.unchanged:
            self.say(f"{len(self.unchanged)} of {len(entries)} sessions are in the store already")
        if not todo:
            return
        one = OneCache(cache, offline)
        self.say(f"{'reading' if offline else 'downloading to'} {one.path}, revision {self.asked.revision}")
        for number, entry in enumerate(todo, 1):
            self._one(entry, one, f"[{number}/{len(todo)}] {entry.eid}")

    def _one(self, entry: Entry, one: OneCache, label: str) -> None:
        try:
            recording = self._recording(entry, one)
            n_trials = self._trials(recording)
            if n_trials < MIN_TRIALS and entry.eid not in DROPPED:  # a dropped one is here because it was named
                self._leave_out(entry, n_trials, label)
                return
            session = self._session(recording)
            self.store.add(session)
        except (DataError, IntegrityError) as problem:
            named = entry.eid in problem.where
            where = problem.where if named else f"{entry.eid}, {problem.where}"
            self.bad.append((entry.eid, type(problem)(where, problem.found, problem.needed, problem.remedy)))
            self.say(f"{label}: failed: {problem.found}")
            return
        self._keep(session, label)

    def _recording(self, entry: Entry, one: OneCache) -> Recording:
        found = one.take(entry, self.asked.revision, self.asked.sorter)
        asked = replace(self.asked, session_id=entry.eid, sorter=found.sorter)
        recording = read_session(found.root, asked, [entry.probe])
        used = recording.source["files"]
        found.verify(list(used))  # also what lay in the cache beside the chosen files
        hashed = {file.path for file in found.listed if file.hash is not None}
        unknown = len(set(used) - hashed)
        notes = [f"no hash is recorded of {unknown} of {len(used)} files: not verified"] if unknown else []
        source = {**recording.source, "pid": entry.pid, "release": entry.release}
        notes = [*recording.notes, *notes]
        known = replace(recording, lab=entry.lab, subject=entry.subject, date=entry.date)
        return replace(known, source=source, notes=tuple(notes))

    def _trials(self, recording: Recording) -> int:
        """Number of trials that the mask keeps, or of all."""
        if not self.asked.trial_mask:
            return len(next(iter(recording.events.values()), ()))
        if recording.trial_mask is None:
            missing = [note for note in recording.notes if note.startswith("no trial mask")]
            found = missing[0] if missing else "has no trials"
            raise DataError(recording.id, found, "trials with IBL's mask", "Download the trials again")
        return int(np.count_nonzero(recording.trial_mask))

    def _leave_out(self, entry: Entry, n_trials: int, label: str) -> None:
        after = " after the trial mask" if self.asked.trial_mask else ""
        found, needed = f"{n_trials} trials{after}", f"at least {MIN_TRIALS}"
        self.short.append((entry.eid, DataError(entry.eid, found, needed, "Left out, as in the paper")))
        self.say(f"{label}: left out: {found}, fewer than {MIN_TRIALS}")

    def _session(self, recording: Recording) -> Session:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SessionwiseWarning)  # they stand in the session's notes, which are said
            return session_from(recording, self.asked)  # its id is the eid

    def _keep(self, session: Session, label: str) -> None:
        self.added.append(session.id)
        self.say(f"{label}: {session.n_trials} trials, {session.n_bins} bins, {session.n_units} units")
        for note in session.notes:
            if note not in self.said:
                self.said.add(note)
                self.say(f"    note: {note}")
