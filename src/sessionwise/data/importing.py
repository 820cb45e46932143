"""From recording files to a prepared store: all files are checked before the first is committed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sessionwise.data.binning import session_from
from sessionwise.data.formats.registry import Format, find_recordings, named_format, read_recording
from sessionwise.data.info import SessionInfo, describe, info_from
from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import MIN_SHARED_SPIKES, Session, window_text
from sessionwise.data.store import SessionStore, staged_session, store_or_none
from sessionwise.errors import (
    DataError,
    IntegrityError,
    SessionwiseError,
    SessionwiseWarning,
    UsageError,
    raise_all,
)
from sessionwise.io.files import folder_name


@dataclass(frozen=True)
class ImportSummary:
    """What an import did: ids added, ids that were there already, and files left out with the reason."""

    added: tuple[str, ...]
    unchanged: tuple[str, ...]
    skipped: tuple[tuple[str, SessionwiseError], ...]


def import_files(
    paths: Iterable[str | Path],
    store: SessionStore,
    *,
    format: str | None = None,
    skip_bad: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **asked: Any,
) -> ImportSummary:
    """Read files or folders, bin or rebin them, and add them to a store: all of them, or none when one is bad.

    ``format``: a name; without one it is guessed from each file's content, and said. ``asked``: fields of ``Asked``
    (``bin_ms``, ``window_s``, ``align``, ``units`` ...). A folder stands for the recordings below it. With ``skip_bad``
    the good ones are added and the bad ones listed. The same content again changes nothing. ``say`` gets one line a
    file, and one for each note.
    """
    beside = ThreadPoolExecutor(1)
    work = _Import(store, Asked(**asked), skip_bad, say, beside)
    files = work.find([Path(path) for path in paths], None if format is None else named_format(format))
    with ExitStack() as staged, beside:  # leaving without an error commits what is staged; an error drops it all
        for number, (path, kind) in enumerate(files, 1):
            work.take(path, kind, f"[{number}/{len(files)}] {path.name}", staged)
        work.settle()
        if work.bad and not (skip_bad and (work.added or work.unchanged)):
            raise_all([problem for _, problem in work.bad])
    for info in work.added:
        store.committed(info)
    work.say_repeated()
    skipped = tuple((str(path), problem) for path, problem in work.bad)
    return ImportSummary(tuple(info.id for info in work.added), tuple(work.unchanged), skipped)


def import_to(
    path: str | Path, files: Iterable[str | Path], say: Callable[[str], None] = lambda text: None, **options: Any
) -> tuple[SessionStore, ImportSummary]:
    """``import_files`` into the store at a path, made when it is not there; an import that fails leaves none behind."""
    with store_or_none(path) as store:
        return store, import_files(files, store, say=say, **options)


def _naming(path: Path, problem: SessionwiseError) -> SessionwiseError:
    """The same problem with the file in front."""
    if str(path) in problem.where:
        return problem
    return type(problem)(f"{path}, {problem.where}", problem.found, problem.needed, problem.remedy)


@dataclass
class _Import:
    """One import under way: what is staged, what was there, what is bad."""

    store: SessionStore
    asked: Asked
    skip_bad: bool
    say: Callable[[str], None]
    beside: Executor
    added: list[SessionInfo] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    bad: list[tuple[Path, SessionwiseError]] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    under_way: tuple[Future[None], Session, str] | None = None  # being staged: the session, and its label

    def find(self, paths: Sequence[Path], format: Format | None) -> list[tuple[Path, Format]]:
        """The recordings that the paths stand for, with their formats, which are said when guessed."""
        if not paths:
            remedy = "sessionwise data import FILES... --to STORE"
            raise UsageError("import", "no files are named", "at least one", remedy)
        found: list[tuple[Path, Format]] = []
        for path in paths:
            try:
                found += find_recordings(path, format, self.say)
            except DataError as problem:
                self.bad.append((path, problem))
        if len(found) > 1 and self.asked.session_id is not None:
            raise UsageError("--id", f"one id for {len(found)} recordings", "one recording", "Import them one by one")
        if format is None:
            for name, n in Counter(kind.name for _, kind in found).items():
                self.say(f"format {name}, by content: {n} {'recording' if n == 1 else 'recordings'}")
        return found

    def take(self, path: Path, format: Format, label: str, staged: ExitStack) -> None:
        """Read one recording while the one before is staged, then begin to stage it; a bad one is remembered."""
        try:
            try:
                session = self._read(path, format)
            finally:
                self.settle()
            if not self.store.admit(session, str(path), self.added):
                self.unchanged.append(session.id)
                self.say(f"{label}: session {session.id!r} is already there with the same content")
                return
            staging = staged_session(session, self.store.path / folder_name(session.id))
        except (DataError, IntegrityError) as problem:  # a full disk, say, is no fault of the file
            self.bad.append((path, _naming(path, problem)))
            self.say(f"{label}: refused")
            return
        except UsageError as problem:  # an event that this recording lacks, say: every other one may lack it too
            if not self.skip_bad:
                raise _naming(path, problem) from problem
            self.bad.append((path, _naming(path, problem)))
            self.say(f"{label}: refused")
            return
        self.under_way = self.beside.submit(staged.enter_context, staging), session, label

    def settle(self) -> None:
        """Wait until the session under way is staged, and say so; what was in the way of it is raised."""
        if self.under_way is not None:
            (staging, session, label), self.under_way = self.under_way, None
            staging.result()
            self._keep(session, label)

    def _read(self, path: Path, format: Format) -> Session:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SessionwiseWarning)  # they stand in the session's notes, which are said
            found = read_recording(path, format, self.asked)
            return session_from(found, self._on_our_grid()) if isinstance(found, Recording) else found

    def _on_our_grid(self) -> Asked:
        """Spike times fit any grid: without a wish they are binned like the sessions that are there."""
        first = next((self.store.info(i) for i in self.store), None) or next(iter(self.added), None)
        if first is None or (self.asked.bin_ms is not None and self.asked.window_s is not None):
            return self.asked
        bin_ms = first.bin_s * 1000 if self.asked.bin_ms is None else self.asked.bin_ms
        window_s = first.window_s if self.asked.window_s is None else self.asked.window_s
        return replace(self.asked, bin_ms=bin_ms, window_s=window_s)

    def _keep(self, session: Session, label: str) -> None:
        info = info_from(describe(session, ""), self.store.path / folder_name(session.id))
        shape = f"{info.n_trials} trials, {info.n_bins} bins, {info.n_units} units"
        self.say(f"{label}: session {info.id!r}, {shape}, {window_text(info.bin_s, info.window_s)}")
        for note in [*session.notes, *self._same_trials(info)]:
            self.said[note] += 1
            if self.said[note] == 1:
                self.say(f"    note: {note}")
        self.added.append(info)

    def say_repeated(self) -> None:
        """One line for a note that several files share."""
        for note, times in self.said.items():
            if times > 1:
                self.say(f"note for {times} files: {note}")

    def _same_trials(self, info: SessionInfo) -> Sequence[str]:
        """A line for every session that holds trials of this one: the same recording under another id."""
        others = [*(self.store.info(i) for i in self.store), *self.added]
        own = {h for h, n in zip(info.trial_hashes, info.trial_spikes, strict=True) if n >= MIN_SHARED_SPIKES}
        counts = [(other.id, sum(h in own for h in other.trial_hashes)) for other in others]
        text = "{} of {} trials are identical to trials of session {!r}: the same recording under another id?"
        return [text.format(n, info.n_trials, name) for name, n in counts if n]
