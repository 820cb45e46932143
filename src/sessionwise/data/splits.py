"""Train, validation and test trials of a session, and the seal in front of the test trials (protocol B12).

A trial's part depends on the session's id, the split seed, the numbers of its trials in their source, and in blocks on
their times; on no content, no file order, no other session. A recorded split is the file's own. Axes: K trials, T bins,
N units.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sessionwise.data.info import SessionInfo
from sessionwise.data.session import MIN_SHARED_SPIKES, MIN_TRIALS, exact, oddities
from sessionwise.errors import DataError, EnvironmentProblem, LeakageError, UsageError
from sessionwise.io.files import canonical_json, disk_problem, read_json, sha256_bytes, write_json

SplitKind = Literal["random", "blocked", "recorded"]
SPLITS: tuple[SplitKind, ...] = get_args(SplitKind)
PARTS = ("train", "validation", "test")
ALIGN_TIME_COLUMNS = ("align_time_s", "trial_start_s", "stim_on_time", "stimOn_times")
RECORDED_COLUMN = "recorded_split"
MAX_BLOCKS, TRIALS_A_BLOCK = 5, 5  # of validation and of test each: more blocks follow drift, and purge more


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Positions along the first axis of the counts, ascending: 8:1:1 into train, validation and test.

    purged: trials in no part, since their window overlaps one of another part (``"blocked"`` only).
    """

    session: str
    seed: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    kind: SplitKind = "random"
    purged: np.ndarray = field(default_factory=_none)

    def part(self, name: str) -> np.ndarray:
        """Positions of one part by its name."""
        if name not in PARTS:
            raise UsageError("split", f"no part {name!r}", " | ".join(PARTS))
        positions: np.ndarray = getattr(self, name)
        return positions

    @property
    def sizes(self) -> dict[str, int]:
        """Number of trials of each part, and of those purged where there are any."""
        purged = {"purged": len(self.purged)} if len(self.purged) else {}
        return {**{name: len(self.part(name)) for name in PARTS}, **purged}


@dataclass(frozen=True, eq=False)
class Windows:
    """When trials were recorded: (K,) times of their events in seconds (NaN: unknown), window around them, bin size."""

    event_s: np.ndarray
    window_s: tuple[float, float]
    bin_s: float


def make_split(
    session_id: str,
    trial_ids: Sequence[int] | np.ndarray,
    seed: int = 0,
    kind: SplitKind = "random",
    *,
    windows: Windows | None = None,
    recorded: Sequence[str] | np.ndarray | None = None,
) -> Split:
    """The parts of a session's trials.

    "random": trials in the order of SHA-256 of (session id, trial id, split seed), cut at 8n//10 and 9n//10.
    "blocked": parts of the same sizes, validation and test in contiguous blocks of time spread over the session; then,
    with ``windows``, training trials that overlap a validation or test window are purged, and so are validation trials
    that overlap a test window. "recorded": as ``recorded`` says, (K,) names of parts.

    Raises DataError where a part would be without a trial, or where nothing, or something else, is recorded.
    """
    if kind == "blocked":
        return _blocked(session_id, np.asarray(trial_ids), int(seed), windows)
    if kind == "recorded":
        return _recorded(session_id, int(seed), recorded)
    if kind != "random":
        raise UsageError("split", f"{kind!r}", " | ".join(SPLITS))
    keys = [hashlib.sha256(canonical_json([session_id, int(trial), int(seed)])).digest() for trial in trial_ids]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    n = len(order)
    train, validation, test = (np.sort(part) for part in np.split(order, [8 * n // 10, 9 * n // 10]))
    return Split(session_id, int(seed), train, validation, test)


def split_of(info: SessionInfo, seed: int = 0, kind: SplitKind = "random") -> Split:
    """``make_split`` of a stored session, with the times and the recorded split that its trial columns hold."""
    windows, recorded = windows_of(info), info.columns.get(RECORDED_COLUMN)
    return make_split(info.id, info.trial_ids, seed, kind, windows=windows, recorded=recorded)


def windows_of(info: SessionInfo) -> Windows | None:
    """The trials' windows in time, from the first of the columns that holds event times; None without one."""
    for name in ALIGN_TIME_COLUMNS:
        if name in info.columns and info.columns[name].dtype.kind in "fiu":
            return Windows(info.columns[name], info.window_s, info.bin_s)
    return None


def numbers(trial_ids: np.ndarray) -> str:
    """Trial numbers for people and files: ascending, runs of them shortened, such as ``"0-3 5 8-9"``."""
    ids = np.unique(trial_ids)
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1) if len(ids) else []
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def part_hash(
    trial_hashes: Sequence[str], trial_ids: Sequence[int] | np.ndarray, positions: np.ndarray, about: Mapping[str, Any]
) -> str:
    """Content hash of some trials: their numbers, their content, and ``about`` (a JSON value)."""
    trials = sorted([int(trial_ids[p]), trial_hashes[p]] for p in positions)
    return sha256_bytes(canonical_json({"about": dict(about), "trials": trials}))


class TestSeal:
    """Permission to open test trials for one final evaluation, written down in a ledger folder.

    Each evaluation key has one record file, ``<ledger>/<key>.json``; opening again counts up its ``attempts``.
    """

    __test__ = False  # no test class, whatever its name suggests to pytest

    def __init__(self, ledger: Path | str, key: str, purpose: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key):
            raise UsageError("test seal", f"key {key!r}", "1 to 128 letters, digits, - or _", "Use the run's key")
        self.ledger, self.key, self.purpose = Path(ledger), key, purpose

    def record(self, session_id: str, test_hash: str) -> dict[str, Any]:
        """Write the opening down before the trials are handed out; returns the record."""
        with _locked(self.ledger):
            path = self.ledger / f"{self.key}.json"
            old: dict[str, Any] = read_json(path) if path.exists() else {"attempts": 0, "sessions": {}}
            record = {
                "schema": 1,
                "key": self.key,
                "purpose": self.purpose,
                "attempts": int(old["attempts"]) + 1,
                "sessions": {**old["sessions"], session_id: test_hash},
            }
            write_json(path, record)
            return record


class SessionData:
    """What training sees of a session: its training and validation trials; test trials behind a seal.

    ``trainval_hash`` and ``test_hash`` are content hashes of the two sides of the seal. Only final evaluations may
    depend on ``test_hash`` or on what ``meta`` says about all trials (rates, notes, hash of the counts).
    """

    def __init__(self, info: SessionInfo, counts: np.ndarray, split: Split) -> None:
        self.meta, self.split, self._counts = info, split, counts
        self.id, self.n_units, self.n_bins, self.bin_s = info.id, info.n_units, info.n_bins, info.bin_s
        _refuse_shared_trials(info, split)
        for part in ("train", "validation"):
            self._require_spikes(part)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(self.split.part(part))} {part}" for part in PARTS)
        return f"SessionData({self.id!r}, {sizes}; {self.n_bins} bins x {self.n_units} units)"

    @cached_property
    def trainval_hash(self) -> str:
        """Content hash of the training and validation trials and of which is which."""
        return sha256_bytes(canonical_json([self._hash("train"), self._hash("validation")]))

    @cached_property
    def test_hash(self) -> str:
        """Content hash of the test trials."""
        return self._hash("test")

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Oddities of the training and validation trials (indices count within these); test trials have no say."""
        trials = np.sort(np.concatenate([self.split.train, self.split.validation]))
        return tuple(oddities(self._counts[trials]))

    def counts(self, part: str) -> np.ndarray:
        """Counts (K, T, N) of ``"train"`` or ``"validation"``, a fresh array; test trials are sealed."""
        if part == "test":
            found = "test trials are sealed"
            needed = "training or validation trials; final evaluations use open_test with a TestSeal"
            raise LeakageError(f"session {self.id!r}", found, needed)
        return self._counts[self.split.part(part)]

    def take(self, part: str, rows: np.ndarray) -> np.ndarray:
        """Counts (K, T, N) of some trials of a part by their place in it: a batch, without copying the rest."""
        if part == "test":
            return self.counts(part)  # says that they are sealed
        return self._counts[self.split.part(part)[rows]]

    def open_test(self, token: TestSeal) -> np.ndarray:
        """Counts (K, T, N) of the test trials, for a final evaluation only; the opening is written down first."""
        if not isinstance(token, TestSeal):
            raise LeakageError(f"session {self.id!r}", "test trials are sealed", "a TestSeal of a final evaluation")
        self._require_spikes("test")
        token.record(self.id, self.test_hash)
        return self._counts[self.split.test]

    def _hash(self, part: str) -> str:
        info = self.meta
        about = {"part": part, "grid": [str(exact(v)) for v in (info.bin_s, *info.window_s)]}
        shape = {"bins": info.n_bins, "units": info.n_units}
        return part_hash(info.trial_hashes, info.trial_ids, self.split.part(part), {**about, **shape})

    def _require_spikes(self, part: str) -> None:
        if not self.meta.trial_spikes[self.split.part(part)].any():
            found = f"0 spikes in the {part} trials: bits per spike is undefined"
            raise DataError(f"session {self.id!r}", found, "spikes in every part", "Use another split seed")


def overlap_share(
    event_s: np.ndarray, window_s: tuple[float, float], bin_s: float, split: Split, part: str = "test"
) -> float | None:
    """Share of a part's bins that also lie in the window of a training trial; None when no event time is known.

    ``event_s``: (K,) time of each trial's alignment event in the recording, in seconds; NaN is left out.
    """
    windows = Windows(np.asarray(event_s, np.float64), window_s, bin_s)
    train = np.sort(_known(windows.event_s[split.train]))
    if not len(train) or not len(_known(windows.event_s[split.part(part)])):
        return None
    ends, starts = _bin_edges(windows, split.part(part))
    last = np.searchsorted(train, ends, side="left") - 1
    shared = (last >= 0) & (train[np.maximum(last, 0)] + _length(windows) > starts)
    return float(shared.mean())


def overlap_of(info: SessionInfo, split: Split, part: str = "test") -> float | None:
    """``overlap_share`` of a stored session, from the first of its columns that holds event times."""
    windows = windows_of(info)
    return overlap_share(windows.event_s, windows.window_s, windows.bin_s, split, part) if windows else None


def shared_bins(info: SessionInfo, split: Split) -> dict[str, float | None]:
    """``overlap_of`` of the parts that are scored, by name."""
    return {part: overlap_of(info, split, part) for part in ("validation", "test")}


# Times of bins --------------------------------------------------------------------------------------------------------


def _known(times: np.ndarray) -> np.ndarray:
    return times[np.isfinite(times)]


def _length(windows: Windows) -> float:
    return windows.window_s[1] - windows.window_s[0]


def _bin_edges(windows: Windows, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends and starts of all bins of some trials, each drawn in a little: windows that only touch share no bin.

    Relative to the start of the window, which cancels in every comparison.
    """
    events = _known(np.asarray(windows.event_s, np.float64)[positions])
    begins = events[:, None] + windows.bin_s * np.arange(round(_length(windows) / windows.bin_s))
    slack = windows.bin_s * 1e-6
    return begins + windows.bin_s - slack, begins + slack


def _overlapping(windows: Windows, positions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(len(positions),) bool: whether a trial's window holds a bin of the others; the same sums as overlap_share's."""
    ends, starts = (np.sort(edges, axis=None) for edges in _bin_edges(windows, others))
    if not len(ends):
        return np.zeros(len(positions), bool)
    events = np.asarray(windows.event_s, np.float64)[positions]
    first = np.searchsorted(ends, events, side="right")  # the first bin that ends after the trial began
    return (first < len(ends)) & (starts[np.minimum(first, len(ends) - 1)] < events + _length(windows))


# Blocks and recorded splits -------------------------------------------------------------------------------------------


def _blocked(session_id: str, trial_ids: np.ndarray, seed: int, windows: Windows | None) -> Split:
    if len(trial_ids) < MIN_TRIALS:
        found, needed = f"{len(trial_ids)} trials", f"at least {MIN_TRIALS} for a split into blocks"
        raise DataError(f"session {session_id!r}", found, needed, "Leave it out")
    order = _in_time(trial_ids, windows)
    names = _block_names(session_id, seed, len(order))
    parts = {part: order[names == part] for part in PARTS}
    purged = []
    for part, others in (("validation", ["test"]), ("train", ["validation", "test"])) if windows else ():
        assert windows is not None
        bad = _overlapping(windows, parts[part], np.concatenate([parts[other] for other in others]))
        purged.append(parts[part][bad])
        parts[part] = parts[part][~bad]
    dropped = np.concatenate([_none(), *purged])
    for part in PARTS:
        if not len(parts[part]):
            found = f"no {part} trial is left: the windows of all of them overlap those of other parts"
            raise DataError(f"session {session_id!r}", found, "windows apart in time", "Use a shorter window")
    train, validation, test = (np.sort(parts[part]) for part in PARTS)
    return Split(session_id, seed, train, validation, test, "blocked", np.sort(dropped))


def _in_time(trial_ids: np.ndarray, windows: Windows | None) -> np.ndarray:
    """(K,) positions in the order of the events, or of the trials' numbers where an event time is missing."""
    if windows is None or not np.isfinite(windows.event_s).all():
        return np.argsort(trial_ids, kind="stable")
    return np.lexsort((trial_ids, windows.event_s))


def _block_names(session_id: str, seed: int, n: int) -> np.ndarray:
    """(n,) the part of each trial in order of time.

    The session is cut into equal stretches, two a block; of each pair one gets a block of validation trials and the
    other one of test trials, which is which and where in its stretch by a hash of session id and split seed.
    """
    sizes = {"validation": 9 * n // 10 - 8 * n // 10, "test": n - 9 * n // 10}
    n_blocks = min(MAX_BLOCKS, max(1, min(sizes.values()) // TRIALS_A_BLOCK))
    blocks = {part: _equal(size, n_blocks) for part, size in sizes.items()}
    stretches = _equal(n, 2 * n_blocks)
    names, start = np.full(n, "train", object), 0
    for i, stretch in enumerate(stretches):
        swapped = _drawn(2, session_id, seed, "order", i // 2)
        part = ("validation", "test")[(i + swapped) % 2]
        size = blocks[part][i // 2]
        first = start + _drawn(stretch - size + 1, session_id, seed, "place", i)
        names[first : first + size] = part
        start += stretch
    return names


def _equal(total: int, parts: int) -> list[int]:
    """``parts`` whole numbers, as equal as can be, that add up to ``total``."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _drawn(n: int, session_id: str, seed: int, *what: str | int) -> int:
    """A number below n from SHA-256 of (session id, split seed, what)."""
    digest = hashlib.sha256(canonical_json([session_id, seed, "blocked", *what])).digest()
    return int.from_bytes(digest[:8], "big") % n


def _recorded(session_id: str, seed: int, recorded: Sequence[str] | np.ndarray | None) -> Split:
    where, needed = f"session {session_id!r}", f"{', '.join(PARTS)} for each trial"
    remedy = "Use split=random or split=blocked"
    if recorded is None:
        raise DataError(where, f"has no trial column {RECORDED_COLUMN!r}", needed, remedy)
    names = np.array([str(name) for name in recorded], object)
    other = sorted({name for name in names if name not in PARTS})
    if other:
        found = f"{RECORDED_COLUMN} is {other[0]!r} in {sum(names == other[0])} of {len(names)} trials"
        raise DataError(where, found, needed, remedy)
    if empty := [part for part in PARTS if part not in names]:
        raise DataError(where, f"{RECORDED_COLUMN} names no {empty[0]} trial", "trials in every part", remedy)
    train, validation, test = (np.flatnonzero(names == part) for part in PARTS)
    return Split(session_id, seed, train, validation, test, "recorded")


# Leaks and locks ------------------------------------------------------------------------------------------------------


def _refuse_shared_trials(info: SessionInfo, split: Split) -> None:
    """The same trial in two parts would let a model see what it is scored on."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for part in PARTS:
        for p in split.part(part):
            if info.trial_spikes[p] >= MIN_SHARED_SPIKES:
                places[info.trial_hashes[p]].append((part, int(info.trial_ids[p])))
    across = [found for found in places.values() if len({part for part, _ in found}) > 1]
    if across:
        trials = " and ".join(f"{trial} ({part})" for part, trial in across[0])
        found = f"LEAK: trials {trials} are identical ({len(across)} such groups)"
        raise LeakageError(f"session {info.id!r}", found, "each trial in one part", "Remove the duplicated trials")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / ".lock", "w")
    except OSError as error:
        raise disk_problem(folder, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise EnvironmentProblem(
                str(folder), f"cannot be locked ({error.strerror})", "a lockable folder"
            ) from error
        yield
