"""A prepared store: a folder of sessions with one bin size and one window, memory-mapped and verified by hash.

    STORE/store.json                       schema, bin_s, window_s
    STORE/<slug and hash of the id>/       counts.npy, session.json, manifest.json (SHA-256 of both)

A session's folder takes its name in one rename, so a session is there whole or not at all. Reading writes nothing:
read-only stores work.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from sessionwise.data.filters import parse_filter
from sessionwise.data.info import SCHEMA, SessionInfo, content_of, describe, info_from, same_grid
from sessionwise.data.session import MIN_SHARED_SPIKES, Session, exact, window_text
from sessionwise.data.splits import SessionData, SplitKind, split_of
from sessionwise.errors import DataError, IntegrityError, SessionwiseError, UsageError, raise_all
from sessionwise.io.arrays import npy_sha256, read_npy, write_npy
from sessionwise.io.files import (
    MANIFEST,
    TMP_PREFIX,
    disk_problem,
    folder_name,
    read_json,
    sha256_file,
    staged_folder,
    verify_folder,
    write_json,
)

STORE_FILE = "store.json"
_AGAIN = "Restore it from a copy, or import the recording again into a new store"
_State = tuple[tuple[int, int, int], ...]
_verified: set[tuple[str, int, int, int]] = set()  # counts files whose hash this process has checked


class SessionStore:
    """Prepared sessions by id. Views made by ``subset`` and ``filter`` share the folder and see fewer ids."""

    def __init__(self, path: Path, infos: Mapping[str, SessionInfo]) -> None:
        self.path, self._infos = Path(path), dict(infos)
        self._loaded: dict[tuple[str, int, SplitKind], SessionData] = {}
        self._read: dict[Path, tuple[_State, SessionInfo]] = {}  # folder -> its small files and what they said

    @property
    def ids(self) -> tuple[str, ...]:
        """Session ids, sorted."""
        return tuple(sorted(self._infos))

    def __len__(self) -> int:
        return len(self._infos)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._infos

    def __repr__(self) -> str:
        first = next(iter(self._infos.values()), None)
        grid = f", {window_text(first.bin_s, first.window_s)}" if first else ""
        return f"SessionStore({str(self.path)!r}, {len(self)} sessions{grid})"

    def info(self, session_id: str) -> SessionInfo:
        """What is known about a session without opening its counts."""
        if session_id not in self._infos:
            near = difflib.get_close_matches(str(session_id), self.ids, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"See: sessionwise data list {self.path}"
            raise UsageError(str(self.path), f"holds no session {session_id!r}", "an id of the store", remedy)
        return self._infos[session_id]

    def session(self, session_id: str) -> Session:
        """The whole session, counts memory-mapped; the hash of the counts is checked once a process."""
        info = self.info(session_id)
        names = ("align", "unit_ids", "areas", "subject", "lab", "date", "trial_ids", "source", "notes")
        known = {name: getattr(info, name) for name in names}
        counts = verified_counts(info)
        return Session(info.id, counts, info.bin_s, info.window_s, trial_columns=info.columns, **known)

    def load(self, session_id: str, split_seed: int = 0, split: SplitKind = "random") -> SessionData:
        """A session as training sees it: split into parts, test trials sealed, counts verified once a process.

        split: "random", "blocked" or "recorded" (see ``splits.make_split``).
        """
        info = self.info(session_id)
        counts, asked = verified_counts(info), (session_id, split_seed, split)
        if asked not in self._loaded or self._loaded[asked].meta is not info:
            self._loaded[asked] = SessionData(info, counts, split_of(info, split_seed, split))
        return self._loaded[asked]

    def subset(self, ids: Iterable[str]) -> SessionStore:
        """A view that holds the named sessions only."""
        return SessionStore(self.path, {i: self.info(i) for i in ids})

    def filter(self, expression: str) -> SessionStore:
        """A view of the sessions that an expression keeps, for example ``subject != Hench and n_trials >= 100``."""
        keeps = parse_filter(expression)
        return SessionStore(self.path, {i: info for i, info in self._infos.items() if keeps(info)})

    def add(self, session: Session) -> None:
        """Commit a session to the folder, whole or not at all; the same session again changes nothing.

        Raises DataError for a known id with other content, and for another bin size or window.
        """
        if not self.admit(session):
            return
        final = self.path / folder_name(session.id)
        with staged_session(session, final):
            pass
        self.committed(session)

    def admit(self, session: Session, origin: str | None = None, others: Iterable[SessionInfo] = ()) -> bool:
        """Whether a session is new here: False for the same content again, DataError for what cannot be added.

        ``origin``: the file as the user named it, for the remedy; ``others``: sessions about to be added as well.
        """
        known = {**{info.id: info for info in others}, **self._infos}
        if session.id in known:
            _refuse_other_content(session, known[session.id], self.path)
            return False
        reference = next(iter(self._infos.values()), None) or next(iter(known.values()), None)
        if reference is not None and not same_grid(session, reference):
            raise _unequal(session, reference, self.path, origin)
        return True

    def check(self) -> list[SessionwiseError]:
        """Hash every file of every session again; the list of problems is empty when all is well."""
        return check_store(self.path)

    def committed(self, session: Session | SessionInfo) -> None:
        """Take up a session whose folder was just committed; another process may have been first."""
        info = read_info(self.path / folder_name(session.id))
        _refuse_other_content(session, info, self.path)
        self._infos[info.id] = info
        _note_grid(self.path, info)


def open_store(path: str | Path, known: SessionStore | None = None) -> SessionStore:
    """Open a prepared store; every ``session.json`` is checked against its manifest, counts when they are used.

    ``known``: the same store as it was opened before. Sessions whose files have the same size, time and inode as then
    are taken over from it, with what was loaded of them.
    """
    path = Path(path)
    _require_store(path)
    problems: list[SessionwiseError] = []
    infos: dict[str, SessionInfo] = {}
    read: dict[Path, tuple[_State, SessionInfo]] = {}
    for folder in _session_folders(path):
        state = _state_of(folder)
        before = known._read.get(folder) if known is not None else None
        try:
            info = before[1] if before and before[0] == state else read_info(folder)
            infos[info.id], read[folder] = info, (state, info)
        except (DataError, IntegrityError) as problem:
            problems.append(problem)
    raise_all(problems)
    store = SessionStore(path, infos)
    store._read = read
    if known is not None:
        store._loaded = {asked: data for asked, data in known._loaded.items() if infos.get(data.id) is data.meta}
    return store


def create_store(path: str | Path) -> SessionStore:
    """Make an empty store, or open the one that is there; a folder with other things in it is refused."""
    path = Path(path)
    if (path / STORE_FILE).is_file():
        return open_store(path)
    if path.exists() and not path.is_dir():
        raise UsageError(str(path), "is a file", "a new folder or a store", "Name another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise disk_problem(path, error) from error
    if foreign:
        found = f"holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''})"
        raise UsageError(str(path), found, "a new folder or a store", "Name another folder")
    write_json(path / STORE_FILE, {"schema": SCHEMA, "bin_s": None, "window_s": None})
    return SessionStore(path, {})


@contextmanager
def store_or_none(path: str | Path) -> Iterator[SessionStore]:
    """The store at a path, made when it is not there; a block that fails leaves no new store without a session."""
    is_new = not (Path(path) / STORE_FILE).exists()
    store = create_store(path)
    try:
        yield store
    except BaseException:
        if is_new and not open_store(path).ids:
            with suppress(OSError):
                (store.path / STORE_FILE).unlink()
                store.path.rmdir()
        raise


def check_store(path: str | Path, say: Callable[[str], None] = lambda text: None) -> list[SessionwiseError]:
    """Hash every file of a store again, also where it cannot be opened any more; ``say`` gets a line a session."""
    path = Path(path)
    _require_store(path)
    problems: list[SessionwiseError] = []
    infos: list[SessionInfo] = []
    for folder in _session_folders(path):
        try:
            verify_folder(folder)
            infos.append(read_info(folder))
            verified_counts(infos[-1])
            say(f"ok       {infos[-1].id}")
        except (DataError, IntegrityError) as problem:
            problems.append(problem)
            say(f"PROBLEM  {folder.name}")
    for info in infos[1:]:
        if not same_grid(info, infos[0]):
            problems.append(_unequal(info, infos[0], path, None))
    return problems


def shared_trials(a: SessionInfo, b: SessionInfo) -> int:
    """Number of trials of ``a`` that ``b`` holds too, by content; trials of fewer than 5 spikes prove nothing."""
    held = set(b.trial_hashes)
    return sum(h in held and n >= MIN_SHARED_SPIKES for h, n in zip(a.trial_hashes, a.trial_spikes, strict=True))


@contextmanager
def staged_session(session: Session, final: Path) -> Iterator[None]:
    """Write a session beside its final place and commit it, with one rename, on leaving without an error."""
    hashes: dict[str, str] = {}
    with staged_folder(final, hashes=hashes) as tmp:
        with ThreadPoolExecutor(2) as beside:  # neither a disk nor SHA-256 holds the interpreter's lock
            written = beside.submit(write_npy, tmp / "counts.npy", session.counts)
            hashed = beside.submit(npy_sha256, session.counts)
            about = describe(session, "")
            written.result()
        hashes["counts.npy"] = about["counts_sha256"] = hashed.result()
        write_json(tmp / "session.json", about)
        yield


def _state_of(folder: Path) -> _State:
    """Size, time and inode of the files that `read_info` reads; a missing one has none."""
    state = []
    for name in (MANIFEST, "session.json"):
        try:
            found = (folder / name).stat()
            state.append((found.st_size, found.st_mtime_ns, found.st_ino))
        except OSError:
            state.append((-1, 0, 0))
    return tuple(state)


def read_info(folder: Path) -> SessionInfo:
    """Read ``session.json``, verified against the manifest's hash, its id against the folder's name."""
    manifest, path = read_manifest(folder), folder / "session.json"
    found = sha256_file(path) if path.is_file() else "missing"
    needed = manifest.get("session.json", "unknown")
    if found != needed:
        raise _disagrees(path, found, needed)
    info = info_from(read_json(path), folder)
    if folder_name(info.id) != folder.name or manifest.get("counts.npy") != info.counts_sha256:
        raise IntegrityError(str(folder), f"holds the parts of session {info.id!r}", "the session of this folder")
    return info


def read_manifest(folder: Path) -> dict[str, str]:
    """File name -> SHA-256, as the manifest of a committed folder lists them."""
    try:
        return {name: entry["sha256"] for name, entry in read_json(folder / MANIFEST)["files"].items()}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(str(folder), f"has no readable {MANIFEST}", "a committed session", _AGAIN) from error


def verified_counts(info: SessionInfo) -> Any:
    """The counts of a session, memory-mapped (K, T, N); their SHA-256 is compared once a process and file state."""
    path = info.folder / "counts.npy"
    try:
        state = path.stat()
    except OSError as error:
        raise IntegrityError(str(path), "is missing", "the counts of a committed session", _AGAIN) from error
    seen = (str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ino)
    if seen not in _verified:
        found = sha256_file(path)
        if found != info.counts_sha256:
            raise _disagrees(path, found, info.counts_sha256)
        _verified.add(seen)
    counts = read_npy(path, mmap=True)
    if counts.shape != (info.n_trials, info.n_bins, info.n_units):
        raise IntegrityError(str(path), f"has shape {counts.shape}", "the shape that session.json names", _AGAIN)
    return counts


def _disagrees(path: Path, found: str, needed: str) -> IntegrityError:
    return IntegrityError(str(path), f"SHA-256 is {found[:12]}..", f"{needed[:12]}.. as recorded", _AGAIN)


def _require_store(path: Path) -> None:
    if not (path / STORE_FILE).is_file():
        found = "is no prepared store" if path.exists() else "does not exist"
        remedy = f"Make one: sessionwise data import FILES... --to {path}"
        raise UsageError(str(path), found, f"a folder with {STORE_FILE}", remedy)
    schema = read_json(path / STORE_FILE)
    if not isinstance(schema, dict) or schema.get("schema") != SCHEMA:
        raise UsageError(str(path), "is a store of another schema", f"schema {SCHEMA}", "Use the release that wrote it")


def _session_folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((TMP_PREFIX, ".")))
    except OSError as error:
        raise UsageError(str(path), f"cannot be read ({error.strerror})", "a readable store") from error


def _note_grid(path: Path, info: SessionInfo) -> None:
    value = {"schema": SCHEMA, "bin_s": info.bin_s, "window_s": list(info.window_s)}
    if read_json(path / STORE_FILE) != value:
        write_json(path / STORE_FILE, value)


def _refuse_other_content(session: Session | SessionInfo, known: SessionInfo, path: Path) -> None:
    where = f"session {session.id!r}"
    if content_of(session) != known.content:
        found = f"another recording has this id already ({known.source.get('file') or known.folder.name} in {path})"
        raise DataError(where, found, "one recording an id", "Give the file another id, or use another store")
    for name in ("subject", "lab", "date", "align", "areas", "unit_ids"):
        old, new = getattr(known, name), getattr(session, name)
        if old != new:
            found = f"the same counts are stored with another {name}"
            raise DataError(where, found, "the same metadata", "Import it into a new store")


def _unequal(new: Session | SessionInfo, old: SessionInfo, path: Path, origin: str | None) -> DataError:
    """Another bin size or window, with the command that makes the two equal."""
    found = window_text(new.bin_s, new.window_s)
    needed = f"{window_text(old.bin_s, old.window_s)} as in session {old.id!r}"
    file = origin or str(new.source.get("file") or "FILE")
    return DataError(f"session {new.id!r}", found, needed, _make_equal(new, old, path, file))


def _recorded(session: Session | SessionInfo) -> tuple[float, Sequence[float]]:
    """Bin size and window in the file, before any cropping and rebinning."""
    recorded = session.source.get("recorded") or {"bin_s": session.bin_s, "window_s": session.window_s}
    return recorded["bin_s"], recorded["window_s"]


def _make_equal(new: Session | SessionInfo, old: SessionInfo, path: Path, file: str) -> str:
    """The options that bring both to the coarser common bins and the shared window, as a command."""
    if "spikes" in new.source and "recorded" not in new.source:  # spike times fit any window
        return "Leave --bin-ms and --window out: spike times are then binned like the sessions that are there"
    ours, theirs = ([exact(v) for v in (b, *w)] for b, w in (_recorded(new), (old.bin_s, old.window_s)))
    common = Fraction(
        math.lcm(ours[0].numerator, theirs[0].numerator), math.gcd(ours[0].denominator, theirs[0].denominator)
    )
    start, stop = max(ours[1], theirs[1]), min(ours[2], theirs[2])
    stop = start + (stop - start) // common * common
    grids = [(start - first) % bin_s == 0 for bin_s, first, _ in (ours, theirs)]
    if stop <= start or not all(grids):
        return "No cropping or rebinning makes them equal: export the recording again with this window"
    options = f"--bin-ms {float(common * 1000):g} --window {float(start):g},{float(stop):g}"
    if [common, start, stop] == theirs:
        return f"Run: sessionwise data import {shlex.quote(file)} --to {shlex.quote(str(path))} {options}"
    return f"Run for all recordings: sessionwise data import FILES... --to NEW_STORE {options}"


__all__ = ["SessionInfo", "SessionStore", "check_store", "create_store", "open_store", "shared_trials"]
