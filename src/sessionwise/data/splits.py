"""Train, validation and test trials of a session, and the seal in front of the test trials (protocol B12).

A trial's part depends on the session's id, the trial's number in its source, the split seed and the numbers of the
other trials; on no content, no file order, no other session. Axes: K trials, T bins, N units.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.info import SessionInfo
from sessionwise.data.session import MIN_SHARED_SPIKES, exact, oddities
from sessionwise.errors import DataError, EnvironmentProblem, LeakageError, UsageError
from sessionwise.io.files import canonical_json, disk_problem, read_json, sha256_bytes, write_json

PARTS = ("train", "validation", "test")
ALIGN_TIME_COLUMNS = ("align_time_s", "trial_start_s", "stim_on_time", "stimOn_times")


@dataclass(frozen=True, eq=False)
class Split:
    """Positions along the first axis of the counts, ascending: 8:1:1 into train, validation and test."""

    session: str
    seed: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def part(self, name: str) -> np.ndarray:
        """Positions of one part by its name."""
        if name not in PARTS:
            raise UsageError("split", f"no part {name!r}", " | ".join(PARTS))
        positions: np.ndarray = getattr(self, name)
        return positions


def make_split(session_id: str, trial_ids: Sequence[int] | np.ndarray, seed: int = 0) -> Split:
    """Order the trials by SHA-256 of (session id, trial id, split seed) and cut at 8n//10 and 9n//10."""
    keys = [hashlib.sha256(canonical_json([session_id, int(trial), int(seed)])).digest() for trial in trial_ids]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    n = len(order)
    parts = np.split(order, [8 * n // 10, 9 * n // 10])
    return Split(session_id, int(seed), *(np.sort(part) for part in parts))


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
    event_s = np.asarray(event_s, np.float64)
    train = np.sort(event_s[split.train][np.isfinite(event_s[split.train])])
    scored = event_s[split.part(part)][np.isfinite(event_s[split.part(part)])]
    if not len(train) or not len(scored):
        return None
    length, bins = window_s[1] - window_s[0], round((window_s[1] - window_s[0]) / bin_s)
    begins = scored[:, None] + bin_s * np.arange(bins)  # relative to each window's start, which cancels
    slack = bin_s * 1e-6  # windows that only touch share no bin
    last = np.searchsorted(train, begins + bin_s - slack, side="left") - 1
    shared = (last >= 0) & (train[np.maximum(last, 0)] + length > begins + slack)
    return float(shared.mean())


def overlap_of(info: SessionInfo, split: Split, part: str = "test") -> float | None:
    """``overlap_share`` of a stored session, from the first of its columns that holds event times."""
    for name in ALIGN_TIME_COLUMNS:
        if name in info.columns and info.columns[name].dtype.kind in "fiu":
            return overlap_share(info.columns[name], info.window_s, info.bin_s, split, part)
    return None


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
