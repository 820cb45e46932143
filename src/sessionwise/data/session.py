"""A session: spike counts of one recording, checked once at the border and frozen from there on.

Axes: K trials, T bins, N units. Counts are spikes per bin, times are seconds relative to the alignment event.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np

from sessionwise.errors import DataError, SessionwiseWarning
from sessionwise.io.files import canonical_json

MIN_TRIALS = 10  # an 8:1:1 split of fewer leaves a part without a trial
MAX_MEAN_HZ = 500.0
SHORTEST_INTERVAL_S = 0.0005  # no unit fires twice within half a millisecond
MIN_SHARED_SPIKES = 5  # trials or units with fewer spikes can be equal by chance
MAX_ID_CHARACTERS = 1000
_HASHERS = 2  # threads
_HASHED_TOGETHER = 2**15  # counts, widened in a buffer that stays in the cache
_REMAKE = "Check how the file was made"


@dataclass(frozen=True, eq=False)
class Session:
    """Spike counts of one recording and what is known about it. Build it with ``make_session``, which checks.

    Attributes
    ----------
    counts: (K trials, T bins, N units) uint8 or uint16, C order, read-only, possibly memory-mapped.
    bin_s: length of a bin in seconds; window_s: (start, stop) of the trial window in seconds.
    align: the event that time 0 stands for. unit_ids, areas: one text a unit.
    trial_columns: name -> (K,) values. trial_ids: (K,) int64, ascending: each trial's number in the source.
    source: file name, SHA-256, filters. notes: what was converted or looked odd.
    """

    id: str
    counts: np.ndarray
    bin_s: float
    window_s: tuple[float, float]
    align: str | None = None
    unit_ids: tuple[str, ...] | None = None
    areas: tuple[str, ...] | None = None
    subject: str | None = None
    lab: str | None = None
    date: str | None = None
    trial_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    trial_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_trials(self) -> int:
        """K."""
        return int(self.counts.shape[0])

    @property
    def n_bins(self) -> int:
        """T."""
        return int(self.counts.shape[1])

    @property
    def n_units(self) -> int:
        """N."""
        return int(self.counts.shape[2])

    @property
    def spikes(self) -> int:
        """Number of spikes in all trials."""
        return int(self.trial_spikes.sum())

    @cached_property
    def trial_spikes(self) -> np.ndarray:
        """(K,) int64: number of spikes in each trial."""
        return _bin_sums(self.counts).sum(axis=1, dtype=np.int64)

    @cached_property
    def trial_hashes(self) -> tuple[str, ...]:
        """Content of each trial, see the function ``trial_hashes``; computed once."""
        return tuple(trial_hashes(self.counts))

    def __repr__(self) -> str:
        shape = f"{self.n_trials} trials x {self.n_bins} bins x {self.n_units} units"
        return f"Session({self.id!r}, {shape}, {window_text(self.bin_s, self.window_s)})"


def make_session(
    id: str,
    counts: Any,
    bin_s: float,
    window_s: tuple[float, float] | None = None,
    *,
    start_s: float = 0.0,
    align: str | None = None,
    unit_ids: Sequence[Any] | None = None,
    areas: Sequence[Any] | None = None,
    subject: str | None = None,
    lab: str | None = None,
    date: str | None = None,
    trial_columns: Mapping[str, Any] | None = None,
    trial_ids: Sequence[int] | np.ndarray | None = None,
    source: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Session:
    """Check foreign arrays and freeze them as a Session: the one border between recordings and the rest.

    Parameters
    ----------
    counts: (K trials, T bins, N units) spike counts of any integer type; whole floats are converted, and noted.
    bin_s: length of a bin in seconds. window_s: (start, stop) in seconds; without it the window begins at ``start_s``.
    trial_ids: number of each trial in its source, default 0..K-1; trials are put into ascending order.

    Raises
    ------
    DataError: what cannot be spike counts of at least 10 trials; the message says where, and the remedy.

    Warns
    -----
    SessionwiseWarning: odd but usable data (silent, constant or duplicated units, duplicated trials, 255 in uint8);
        the same texts stand in ``notes``.
    """
    where = f"session {id!r}" if isinstance(id, str) else "session"
    _check_id(id)
    _check_source(where, source)
    array, remarks = np.asarray(counts), list(notes)
    _check_kind(where, array)
    given_as = array.dtype
    bin_s, length = _bin_length(where, bin_s), None if window_s is None else _window_bins(where, window_s, bin_s)
    columns = {str(k): _column(where, str(k), v) for k, v in (trial_columns or {}).items()}
    known_trials = [len(v) for v in columns.values()] + ([] if trial_ids is None else [len(trial_ids)])
    known_units = [len(v) for v in (unit_ids, areas) if v is not None]
    _check_axes(where, array.shape, (known_trials, [] if length is None else [length], known_units))
    _check_sizes(where, array)
    array = _whole_numbers(where, array, remarks)
    _check_range(where, array, bin_s)
    numbers, order = _trial_order(where, trial_ids, array.shape[0], remarks)
    array = _frozen(array if order is None else array[order])
    sums = _bin_sums(array)
    odd = oddities(array, given_as, sums)
    start = round(float(start_s if window_s is None else window_s[0]), 9)
    session = Session(
        id=id,
        counts=array,
        bin_s=bin_s,
        window_s=(start, round(start + array.shape[1] * bin_s, 9)),
        align=_text(align),
        unit_ids=_unit_ids(where, unit_ids),
        areas=None if areas is None else tuple(str(a) for a in areas),
        subject=_text(subject),
        lab=_text(lab),
        date=_text(date),
        trial_columns={k: _frozen_column(v, order) for k, v in columns.items()},
        trial_ids=numbers,
        source=dict(source or {}),
        notes=tuple(dict.fromkeys([*remarks, *odd])),
    )
    vars(session)["trial_spikes"] = sums.sum(axis=1, dtype=np.int64)  # a frozen class takes its cached property so
    for text in odd:
        if text not in notes:
            warnings.warn(f"{where}: {text}", SessionwiseWarning, stacklevel=2)
    return session


def crop(session: Session, start_s: float, stop_s: float) -> Session:
    """The same session in a shorter window; both ends must lie on the session's grid of bins."""
    where, bin_s = f"session {session.id!r}", session.bin_s
    own = window_text(bin_s, session.window_s)
    first = _steps(start_s - session.window_s[0], bin_s)
    last = _steps(stop_s - session.window_s[0], bin_s)
    if first is None or last is None:
        found = f"a window {start_s:g}..{stop_s:g} s cuts through bins ({own})"
        raise DataError(where, found, "edges on the grid of bins", "Choose edges that are whole bins from the start")
    if not 0 <= first < last <= session.n_bins:
        needed = f"a window inside {session.window_s[0]:g}..{session.window_s[1]:g} s"
        raise DataError(where, f"a window {start_s:g}..{stop_s:g} s was asked for", needed, "Name a shorter --window")
    if (first, last) == (0, session.n_bins):
        return session
    return _remade(session, session.counts[:, first:last], bin_s, start_s, f"cropped from {own}")


def rebin_session(session: Session, bin_s: float) -> Session:
    """The same session in bins of ``bin_s`` seconds, an integer multiple of its own; no spike is lost."""
    factor = _steps(bin_s, session.bin_s)
    if not factor or factor < 1:
        found = f"{session.bin_s * 1000:g} ms bins cannot be joined to {bin_s * 1000:g} ms"
        raise DataError(f"session {session.id!r}", found, "a whole multiple of its bin size", "Name another --bin-ms")
    if factor == 1:
        return session
    try:
        counts = rebin(session.counts, factor)
    except DataError as error:
        raise DataError(f"session {session.id!r}", error.found, error.needed, error.remedy) from error
    note = f"rebinned from {session.bin_s * 1000:g} ms bins"
    return _remade(session, counts, session.bin_s * factor, session.window_s[0], note)


def rebin(counts: np.ndarray, factor: int) -> np.ndarray:
    """Sum ``factor`` neighbouring bins: (K, T, N) -> (K, T / factor, N), the smallest of uint8 and uint16 that fits."""
    trials, bins, units = counts.shape
    if factor < 1 or bins % factor:
        remedy = "Crop with --window to a multiple first"
        raise DataError("counts", f"{bins} bins cannot be joined by {factor}", f"a multiple of {factor} bins", remedy)
    return _frozen(counts.reshape(trials, bins // factor, factor, units).sum(axis=2, dtype=np.int64))


def trial_hashes(counts: np.ndarray) -> list[str]:
    """Content of each trial as 32 hex digits: the same for any integer type, byte order or memory layout.

    SHA-256 of the trial's shape (T, N) and its counts, both little-endian.
    """
    with ThreadPoolExecutor(_HASHERS) as pool:  # SHA-256 does without the interpreter's lock
        return [one for part in pool.map(_hashes, np.array_split(counts, _HASHERS)) for one in part]


def _hashes(counts: np.ndarray) -> list[str]:
    shape, wide = np.array(counts.shape[1:], "<i8").tobytes(), np.empty(_HASHED_TOGETHER, "<u2")
    hashes = []
    for trial in counts:
        digest, flat = hashlib.sha256(shape), trial.reshape(-1)
        for at in range(0, flat.size, wide.size):
            part = flat[at : at + wide.size]
            np.copyto(wide[: part.size], part, casting="unsafe")
            digest.update(wide[: part.size].data)
        hashes.append(digest.hexdigest()[:32])
    return hashes


def exact(seconds: float) -> Fraction:
    """A time as the simple fraction that was meant: 0.1 + 0.2 equals 0.3, and 1/60 stays 1/60."""
    return Fraction(seconds).limit_denominator(1_000_000)


def window_text(bin_s: float, window_s: tuple[float, float]) -> str:
    """``20 ms bins, -0.2..0.8 s``."""
    return f"{bin_s * 1000:g} ms bins, {window_s[0]:g}..{window_s[1]:g} s"


def oddities(counts: np.ndarray, stored_as: np.dtype | None = None, sums: np.ndarray | None = None) -> list[str]:
    """What is usable but worth a warning: 255 in uint8, silent, constant or duplicated units, duplicated trials.

    counts: (K, T, N) uint8 or uint16; ``sums``: (K, N) sums over their bins, where known.
    """
    notes = []
    if (stored_as or counts.dtype) == np.uint8 and counts.max() == 255:
        notes.append("max count 255 in uint8: possibly wrapped or saturated")
    sums = _bin_sums(counts) if sums is None else sums
    of_unit, of_trial = sums.sum(axis=0, dtype=np.int64), sums.sum(axis=1, dtype=np.int64)
    constant = _constant(counts, of_unit)
    notes += _listed("unit", "without a spike", np.flatnonzero(of_unit == 0))
    notes += _listed("unit", "with the same count in every bin", constant)
    few = np.flatnonzero(of_unit < MIN_SHARED_SPIKES)
    notes += _pairs("unit", np.moveaxis(counts, 2, 0), sums.T, {*few.tolist(), *constant.tolist()})
    notes += _listed("trial", "without a spike", np.flatnonzero(of_trial == 0))
    notes += _pairs("trial", counts, sums, set(np.flatnonzero(of_trial < MIN_SHARED_SPIKES).tolist()))
    return notes


def _remade(session: Session, counts: np.ndarray, bin_s: float, start_s: float, note: str) -> Session:
    outdated = set(oddities(session.counts))
    own = {name: getattr(session, name) for name in ("align", "unit_ids", "areas", "subject", "lab", "date")}
    return make_session(
        session.id,
        counts,
        bin_s,
        (start_s, start_s + counts.shape[1] * bin_s),
        trial_columns=session.trial_columns,
        trial_ids=session.trial_ids,
        source=session.source,
        notes=[*(n for n in session.notes if n not in outdated), note],
        **own,
    )


def _check_id(id: Any) -> None:
    if not isinstance(id, str) or not id.strip():
        raise DataError(f"session id {id!r}", "is empty or no text", "a text with at least one character", "Name it")
    odd = [c for c in id if unicodedata.category(c) in ("Cc", "Cs")]
    if odd or len(id) > MAX_ID_CHARACTERS:
        found = f"holds the character {odd[0]!r}" if odd else f"has {len(id)} characters"
        needed = f"at most {MAX_ID_CHARACTERS} characters, none of them a control character"
        raise DataError(f"session id {id[:60]!r}", found, needed, "Rename the session")


def _check_source(where: str, source: Mapping[str, Any] | None) -> None:
    """What is kept of the source is JSON, which knows no NaN and no infinity."""
    try:
        canonical_json(dict(source or {}))
    except (TypeError, ValueError, RecursionError) as error:
        found = f"what its source says cannot be stored ({str(error)[:100]})"
        raise DataError(where, found, "texts, finite numbers, lists and dicts of these", _REMAKE) from error


def _check_kind(where: str, counts: np.ndarray) -> None:
    if counts.ndim != 3:
        found = f"counts have shape {counts.shape}"
        raise DataError(where, found, "(trials, bins, units)", "Bin the spikes of every trial into one 3-D array")
    if counts.dtype.kind not in "biuf":
        found = f"counts have type {counts.dtype}"
        raise DataError(where, found, "numbers: spikes per bin", "Convert the counts to integers")


def _bin_length(where: str, bin_s: Any) -> float:
    try:
        value = float(bin_s)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value <= 1:
        remedy = "Is it in milliseconds? Divide by 1000" if value > 1 else "Give the bin size in seconds"
        raise DataError(where, f"bins of {bin_s!r} s", "a bin size above 0 and at most 1 s", remedy)
    return value


def _window_bins(where: str, window_s: tuple[float, float], bin_s: float) -> int:
    start, stop = (float(edge) for edge in window_s)
    bins = _steps(stop - start, bin_s) if math.isfinite(start) and math.isfinite(stop) else None
    if not bins or bins < 1:
        found = f"a window from {start:g} to {stop:g} s"
        raise DataError(where, found, f"a whole number of {bin_s * 1000:g} ms bins", "Correct the window or bin size")
    return bins


def _steps(length_s: float, bin_s: float) -> int | None:
    """How many bins fit a length exactly, or None."""
    if not (math.isfinite(length_s) and math.isfinite(bin_s)):
        return None
    steps = exact(length_s) / exact(bin_s) if exact(bin_s) else Fraction(-1)
    near = round(steps)
    return near if abs(steps - near) < Fraction(1, 1000) else None


def _check_axes(where: str, shape: tuple[int, ...], known: tuple[list[int], list[int], list[int]]) -> None:
    """Sizes that metadata promise against the shape; says so when another order of the axes would fit."""

    def fits(order: tuple[int, ...]) -> bool:
        return all(size == shape[axis] for axis, sizes in zip(order, known, strict=True) for size in sizes)

    if fits((0, 1, 2)):
        return
    names = ("trials", "bins", "units")
    needed = f"(trials, bins, units) with {_promised(names, known)}"
    for order in permutations(range(3)):
        if fits(order):
            looks = ", ".join(names[order.index(axis)] for axis in range(3))
            remedy = f"Use counts.transpose{order}"
            raise DataError(where, f"counts have shape {shape}, which looks like ({looks})", needed, remedy)
    raise DataError(where, f"counts have shape {shape}", needed, "Give metadata and window of these counts")


def _promised(names: tuple[str, ...], known: tuple[list[int], ...]) -> str:
    return ", ".join(f"{size} {name}" for name, sizes in zip(names, known, strict=True) for size in sorted(set(sizes)))


def _check_sizes(where: str, counts: np.ndarray) -> None:
    trials, bins, units = counts.shape
    if trials == 0:
        raise DataError(where, "has no trials", f"at least {MIN_TRIALS}", "Check the trial filter")
    if bins == 0:
        raise DataError(where, "has no time bins", "at least 1", "Check the window")
    if units == 0:
        raise DataError(where, "has no units", "at least 1", "Check the filter on units")
    if trials < MIN_TRIALS:
        validation, test = 9 * trials // 10 - 8 * trials // 10, trials - 9 * trials // 10
        found = f"{trials} trials give {validation} validation and {test} test trials"
        raise DataError(where, found, f"at least {MIN_TRIALS} trials", "Leave the session out or record more")


def _whole_numbers(where: str, counts: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Counts as integers; floats only when every value is whole."""
    if counts.dtype.kind == "b":
        remarks.append("counts were true/false, taken as 1/0")
        return counts.astype(np.uint8)
    if counts.dtype.kind != "f":
        return counts
    if not _all_whole(counts):
        _refuse_broken(where, counts)
    remarks.append(f"counts were {counts.dtype.name} with whole values, converted to integers")
    return counts


def _all_whole(counts: np.ndarray) -> bool:
    """Whether floats are finite, whole and not negative; trial by trial, so that they are read from memory once."""
    with np.errstate(invalid="ignore"):
        return all(k.min() >= 0 and k.max() < np.inf and bool((k == np.floor(k)).all()) for k in counts)


def _refuse_broken(where: str, counts: np.ndarray) -> None:
    """Say which of the floats are no counts, and how many."""
    _refuse_where(where, np.isnan(counts), counts, "NaN", "a count in every bin", "Mask or drop the trial")
    _refuse_where(where, np.isinf(counts), counts, "infinite", "finite counts", _REMAKE)
    with np.errstate(invalid="ignore"):
        _refuse_where(where, counts < 0, counts, "negative", "counts of 0 or more", _REMAKE)
    broken = counts != np.floor(counts)
    if broken.any():
        first = np.unravel_index(int(broken.argmax()), counts.shape)
        found = f"value {counts[first]:.4g} at {_place(first)} is no spike count ({int(broken.sum())} such values)"
        raise DataError(where, found, "whole numbers", "Were these smoothed, scaled or rates? Give the raw counts")


def _refuse_where(where: str, bad: np.ndarray, counts: np.ndarray, what: str, needed: str, remedy: str) -> None:
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), counts.shape)
        found = f"{int(bad.sum())} {what} counts, first at {_place(first)} ({counts[first]})"
        raise DataError(where, found, needed, remedy)


def _place(index: Sequence[Any]) -> str:
    return f"trial {int(index[0])}, bin {int(index[1])}, unit {int(index[2])}"


def _check_range(where: str, counts: np.ndarray, bin_s: float) -> None:
    if counts.dtype.kind != "u" and counts.min() < 0:
        _refuse_where(where, counts < 0, counts, "negative", "counts of 0 or more", _REMAKE)
    highest = int(counts.max())
    mean_hz = _mean(counts) / bin_s if highest / bin_s > MAX_MEAN_HZ else 0.0
    limit = min(math.ceil(bin_s / SHORTEST_INTERVAL_S), int(np.iinfo(np.uint16).max))
    if highest == 0:
        raise DataError(where, "no unit has a spike", "at least one spike", "Are the clocks aligned?")
    if mean_hz > MAX_MEAN_HZ:
        found = f"the mean rate is {mean_hz:.4g} Hz a unit"
        raise DataError(where, found, f"at most {MAX_MEAN_HZ:g} Hz", "Are counts and bin size in these units?")
    if highest > limit:
        first = np.unravel_index(int((counts > limit).argmax()), counts.shape)
        wrapped = "; 255 is the end of uint8: possibly wrapped" if highest == 255 else ""
        found = f"a count of {int(counts[first])} at {_place(first)}, highest {highest}{wrapped}"
        needed = f"at most {limit} spikes in {bin_s * 1000:g} ms"
        raise DataError(where, found, needed, "Check the type the counts were saved in, and the bin size")


def _mean(counts: np.ndarray) -> float:
    if counts.dtype.kind == "u" and counts.dtype.itemsize <= 2:
        return int(_bin_sums(counts).sum(dtype=np.int64)) / counts.size
    return float(counts.mean(dtype=np.float64))


def _bin_sums(counts: np.ndarray) -> np.ndarray:
    """(K, T, N) uint8 or uint16 -> (K, N), in the narrowest type that holds every sum: a third of int64's time."""
    return counts.sum(axis=1, dtype=np.min_scalar_type(int(counts.max(initial=0)) * counts.shape[1]))


def _trial_order(
    where: str, trial_ids: Sequence[int] | np.ndarray | None, n: int, remarks: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Trial numbers ascending and, when they were not, the order that makes them so."""
    if trial_ids is None:
        return _readonly(np.arange(n, dtype=np.int64)), None
    given = np.asarray(trial_ids)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise DataError(where, f"trial ids have type {given.dtype}", "one whole number a trial", "Number the trials")
    numbers = given.astype(np.int64)
    repeated = len(numbers) - len(np.unique(numbers))
    if repeated:
        raise DataError(where, f"{repeated} trial ids are repeated", "each trial's own number", "Number the trials")
    order = np.argsort(numbers, kind="stable")
    if (order == np.arange(n)).all():
        return _readonly(numbers), None
    remarks.append("trials were put into ascending order of their ids")
    return _readonly(numbers[order]), order


def _column(where: str, name: str, values: Any) -> np.ndarray:
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "biufUS":
        found = f"trial column {name!r} has shape {column.shape} and type {column.dtype}"
        raise DataError(where, found, "one number or text a trial", "Leave the column out")
    return column.astype(str) if column.dtype.kind == "S" else column


def _frozen_column(column: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    native = column.astype(column.dtype.newbyteorder("="), copy=True)
    return _readonly(native if order is None else native[order])


def _frozen(counts: np.ndarray) -> np.ndarray:
    """The smallest of uint8 and uint16 that holds the counts, C order, read-only; the caller's array is not touched."""
    small = np.uint8 if counts.dtype == np.uint8 or counts.max(initial=0) <= 255 else np.uint16
    if counts.dtype == small and counts.flags.c_contiguous and not counts.flags.writeable:
        return counts
    return _readonly(np.array(counts, dtype=small, order="C"))


def _readonly(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _unit_ids(where: str, unit_ids: Sequence[Any] | None) -> tuple[str, ...] | None:
    if unit_ids is None:
        return None
    ids = tuple(str(u) for u in unit_ids)
    repeated = sorted({u for u in ids if ids.count(u) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        found = f"{len(repeated)} unit ids are repeated, first {repeated[0]!r}"
        raise DataError(where, found, "one id a unit", "Put the probe's name into the unit ids")
    return ids


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value)


def _listed(what: str, how: str, indices: np.ndarray) -> list[str]:
    if not len(indices):
        return []
    shown = ", ".join(str(int(i)) for i in indices[:10]) + (", ..." if len(indices) > 10 else "")
    return [f"{len(indices)} {what}{'s' if len(indices) > 1 else ''} {how}: {shown}"]


def _constant(counts: np.ndarray, of_unit: np.ndarray) -> np.ndarray:
    """Units with one and the same count, above 0, in every bin; their spikes, (N,), leave few to look at."""
    trials, bins, _ = counts.shape
    likely = np.flatnonzero((of_unit > 0) & (of_unit == counts[0, 0].astype(np.int64) * trials * bins))
    return likely[(counts[:, :, likely] == counts[0, 0, likely]).all(axis=(0, 1))]


def _pairs(what: str, rows: np.ndarray, sums: np.ndarray, skip: set[int]) -> list[str]:
    """Rows with equal content, the first of each pair named; rows in ``skip`` say nothing about duplication.

    sums: (rows, n), equal where rows are equal: only rows with the sums of another one are hashed.
    """
    seen: dict[bytes, int] = {}
    pairs = []
    known = {i: row.tobytes() for i, row in enumerate(sums) if i not in skip}
    times = Counter(known.values())
    for i in (i for i, own in known.items() if times[own] > 1):
        row = rows[i]
        first = seen.setdefault(hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest(), i)
        if first != i:
            pairs.append(f"{first} = {i}")
    shown = ", ".join(pairs[:10]) + (", ..." if len(pairs) > 10 else "")
    return [f"{len(pairs)} duplicated {what}{'s' if len(pairs) > 1 else ''}: {shown}"] if pairs else []
