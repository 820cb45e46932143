"""From spike times to counts: exact at the edges of bins, and a session of the trials that were recorded whole.

Axes: S spikes, K windows (trials), T bins, N units. Times are seconds on the recording's clock.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from sessionwise.data.recording import UNIT_CHOICES, WITHOUT_TRIALS, Asked, Recording
from sessionwise.data.session import Session, exact, make_session, window_text
from sessionwise.errors import DataError, UsageError

DEFAULT_BIN_MS = 20.0
DEFAULT_WINDOW_S = (-0.5, 2.5)
ALIGN_TIME = "align_time_s"
MAX_SPAN_S = 7 * 86400.0  # no recording is longer; an hour is 41 days in milliseconds and 3.4 years in samples
MAX_CELLS = 2**33  # counts of 8 GiB: more is a slip in the stride or the bin size
MAX_WINDOWS = 1_000_000  # at a stride: more is a slip, too
_CELLS = 2**18  # counts made at once: 2 MiB of int64 stay in a core's cache
_TOUCHING_S = 1e-6  # intervals and windows that lie closer touch each other
_LONG_GAP = 20  # mean intervals between spikes: a gap that chance does not make
_COARSE_S = 5e-5  # steps between spike times that are worth a note: longer than a tick at 20 kHz
_HIGHEST = int(np.iinfo(np.uint16).max)


def bin_spikes(
    spike_s: np.ndarray, spike_unit: np.ndarray, n_units: int, starts_s: np.ndarray, bin_s: float, n_bins: int
) -> np.ndarray:
    """Spikes of each unit in each bin of each window: counts (K, T, N), the smaller of uint8 and uint16 that fits.

    Bins are half-open. Bin t of a window from s holds the spikes with edge(s, t) <= time < edge(s, t + 1), where
    edge(s, t) is the float64 nearest to the exact sum

        time(s) + t * exact(bin_s)

    and time(s) is the number that a float64 was written from: the decimal of at most 15 digits that it prints as, else
    the fraction ``exact(s)`` if s is the float64 nearest to it (a tick of a sample clock), else s itself. So a spike
    written as 0.3 is in the bin that begins at 0.3, though 0.1 + 2 * 0.1 is more than 0.3 in floating point. A spike
    counts in every window it lies in, and nowhere else.

    Parameters
    ----------
    spike_s: (S,) seconds, in any order; spike_unit: (S,) integers from 0 to n_units - 1.
    starts_s: (K,) start of each window in seconds, in any order. bin_s: seconds, at least a microsecond. n_bins: T.

    Raises
    ------
    DataError: times that are not finite, units out of range, more than 65,535 spikes in a bin, counts beyond 8 GiB.
    """
    spike_s, spike_unit = _checked_spikes("spikes", spike_s, spike_unit, n_units)
    starts_s = np.asarray(starts_s, np.float64)
    if not np.isfinite(starts_s).all():
        raise DataError("windows", f"{np.sum(~np.isfinite(starts_s))} starts are not finite", "times", "Drop them")
    if not (math.isfinite(bin_s) and exact(bin_s) > 0):
        raise DataError("windows", f"bins of {bin_s!r} s", "at least a microsecond", "Name another bin size")
    return _counts(*_ascending(spike_s, spike_unit), n_units, starts_s, exact(bin_s), n_bins)


def session_from(recording: Recording, asked: Asked) -> Session:
    """A session of a recording's trials, in counts; what was chosen, dropped or odd stands in its source and notes.

    Raises
    ------
    UsageError: an event, mask or option that this recording does not have. DataError: spike times or trials that
        cannot be meant; no unit, trial or spike left.
    """
    notes = list(recording.notes)
    spike_s, spike_unit = _checked_recording(recording, notes)
    grid = _grid(recording, asked, notes)
    trials = _trials(recording, asked, grid, (float(spike_s[0]), float(spike_s[-1])), notes)
    units = _units(recording, asked, notes)
    own_s, own_unit = _of_units(spike_s, spike_unit, units, len(recording.unit_ids))
    n_inside = _spikes_inside(own_s, trials, grid)
    if not n_inside:
        raise _no_spikes(recording, own_s, trials)
    overlap = _overlap(_true_starts(recording, trials, grid), grid)
    _note_windows(own_s, trials, grid, overlap, recording.span_s is None, notes)
    counts = _counts(own_s, own_unit, len(units), trials.start_s, grid.bin, grid.n_bins)
    counts.setflags(write=False)  # so that no copy is made
    return make_session(
        asked.session_id or recording.id,
        counts,
        grid.bin_s,
        start_s=grid.window_s[0],
        align=recording.aligned_as.get(trials.align, trials.align),
        unit_ids=None if recording.units_are_numbered else [recording.unit_ids[i] for i in units],
        areas=None if recording.areas is None else [recording.areas[i] for i in units],
        subject=recording.subject,
        lab=recording.lab,
        date=recording.date,
        trial_columns=trials.columns,
        trial_ids=trials.ids,
        source={
            **recording.source,
            **trials.chosen,
            "window_s": list(grid.window_s),
            "bin_s": grid.bin_s,
            "units": asked.units,
            **_good_units(recording, units),
            "trials": trials.counted,
            "overlap": None if overlap is None else round(overlap, 6),
            "spikes": {"in_file": len(spike_s), "of_units": len(own_s), "in_windows": n_inside},
        },
        notes=notes,
    )


# Counting -------------------------------------------------------------------------------------------------------------


def _counts(
    spike_s: np.ndarray, spike_unit: np.ndarray, n_units: int, starts_s: np.ndarray, bin: Fraction, n_bins: int
) -> np.ndarray:
    """``bin_spikes`` of spikes that are checked and ascending."""
    _refuse_large(len(starts_s), n_bins, n_units)
    starts = [_time(start) for start in starts_s.tolist()]
    counts = np.zeros((len(starts), n_bins, n_units), np.uint8)
    for windows, bins in _pieces(counts.shape):
        edges = np.searchsorted(spike_s, _edges_s(starts[windows], bin, bins))  # (windows, bins + 1) places of edges
        piece = _piece(edges, spike_unit, n_units)
        highest = piece.max(initial=0)
        if highest > _HIGHEST:
            raise _too_many(piece, windows.start, bins.start)
        if highest > np.iinfo(counts.dtype).max:
            counts = counts.astype(np.uint16)
        counts[windows, bins] = piece
    return counts


def _piece(edges: np.ndarray, spike_unit: np.ndarray, n_units: int) -> np.ndarray:
    """(windows, bins, N) int64 counts of the spikes between neighbouring edges, which are places among the spikes."""
    n_windows, n_bins = edges.shape[0], edges.shape[1] - 1
    first_cells = np.arange(n_windows * n_bins) * n_units
    cells = np.repeat(first_cells, np.diff(edges, axis=1).ravel())
    cells += np.concatenate([spike_unit[places[0] : places[-1]] for places in edges])
    return np.bincount(cells, minlength=n_windows * n_bins * n_units).reshape(n_windows, n_bins, n_units)


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Windows and bins of one piece after another: several windows, or bins of one, of about _CELLS counts."""
    n_windows, n_bins, n_units = shape
    bins = max(1, min(n_bins, _CELLS // max(1, n_units)))
    windows = max(1, _CELLS // max(1, n_bins * n_units))
    for first in range(0, n_windows, windows):
        for bin in range(0, n_bins, bins):
            yield slice(first, min(first + windows, n_windows)), slice(bin, min(bin + bins, n_bins))


def _edges_s(starts: Sequence[Fraction], bin: Fraction, bins: slice) -> np.ndarray:
    """(windows, bins + 1) edges: Python divides whole numbers to the nearest float64, whatever their size."""
    rows = []
    for start in starts:
        below = start.denominator * bin.denominator
        first, step = start.numerator * bin.denominator, bin.numerator * start.denominator
        rows.append([(first + t * step) / below for t in range(bins.start, bins.stop + 1)])
    return np.array(rows)


def _time(seconds: float) -> Fraction:
    """The number that a float64 was written from; see ``bin_spikes``."""
    decimal = f"{seconds:.15g}"
    if float(decimal) == seconds:
        return Fraction(decimal)
    tick = exact(seconds)
    return tick if float(tick) == seconds else Fraction(seconds)


def _refuse_large(n_windows: int, n_bins: int, n_units: int) -> None:
    cells = n_windows * n_bins * n_units
    if cells > MAX_CELLS:
        found = f"{n_windows} windows x {n_bins} bins x {n_units} units would take {cells / 2**30:.0f} GiB"
        remedy = "Use larger bins, shorter windows, a longer stride or fewer units"
        raise DataError("counts", found, f"at most {MAX_CELLS / 2**30:.0f} GiB", remedy)


def _too_many(piece: np.ndarray, first_window: int, first_bin: int) -> DataError:
    window, bin, unit = (int(i) for i in np.unravel_index(int(piece.argmax()), piece.shape))
    found = f"{piece.max()} spikes of unit {unit} in bin {first_bin + bin} of window {first_window + window}"
    return DataError("spikes", found, f"at most {_HIGHEST} in a bin", "Check the spike times and the bin size")


# Checks of what a reader found ----------------------------------------------------------------------------------------


def _checked_spikes(
    where: str, spike_s: np.ndarray, spike_unit: np.ndarray, n_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Times (S,) float64 and units (S,), as they stand; DataError for what no spikes can be."""
    spike_s, spike_unit = np.asarray(spike_s), np.asarray(spike_unit)
    if spike_s.ndim != 1 or spike_unit.ndim != 1 or len(spike_s) != len(spike_unit):
        found = f"spike times have shape {spike_s.shape}, their units {spike_unit.shape}"
        raise DataError(where, found, "one unit for each time", "Were both written at the same time?")
    if len(spike_s) and (spike_s.dtype.kind not in "iuf" or spike_unit.dtype.kind not in "iu"):
        found = f"spike times are {spike_s.dtype}, their units {spike_unit.dtype}"
        raise DataError(where, found, "seconds, and whole numbers of units", "Convert them")
    spike_s = spike_s.astype(np.float64, copy=False)
    if spike_unit.dtype.kind != "i":  # unsigned numbers do not add up with signed ones
        spike_unit = spike_unit.astype(np.int64)
    odd = ~np.isfinite(spike_s)
    if odd.any():
        first = int(odd.argmax())
        found = f"{int(odd.sum())} spike times are not finite, first at index {first} ({spike_s[first]})"
        raise DataError(where, found, "times in seconds", "Remove these spikes")
    if len(spike_unit) and not (spike_unit.min() >= 0 and spike_unit.max() < n_units):
        bad = (spike_unit < 0) | (spike_unit >= n_units)
        first = int(bad.argmax())
        found = f"{int(bad.sum())} spikes of unknown units, first at index {first} (unit {spike_unit[first]})"
        raise DataError(where, found, f"units from 0 to {n_units - 1}", "Do spikes and units belong together?")
    return spike_s, spike_unit


def _ascending(spike_s: np.ndarray, spike_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not (spike_s[1:] < spike_s[:-1]).any():
        return spike_s, spike_unit
    order = np.argsort(spike_s, kind="stable")
    return spike_s[order], spike_unit[order]


def _checked_recording(recording: Recording, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The recording's spikes, checked and ascending, with notes of what is odd about them."""
    where, n_units = _where(recording), len(recording.unit_ids)
    if not n_units:
        raise DataError(where, "has no units", "at least 1", "Were its spikes sorted?")
    for name, values in (("areas", recording.areas), ("quality labels", recording.good)):
        if values is not None and len(values) != n_units:
            raise DataError(where, f"{len(values)} {name} of {n_units} units", "one a unit", "Check the file's units")
    spike_s, spike_unit = _checked_spikes(where, recording.spike_s, recording.spike_unit, n_units)
    if not len(spike_s):
        raise DataError(where, f"has no spikes of its {n_units} units", "spike times", "Was it written whole?")
    misplaced = spike_s[1:] < spike_s[:-1]
    if misplaced.any() and not _unit_by_unit(spike_unit, misplaced):
        notes.append(f"{int(misplaced.sum())} spike times follow a later one: the spikes were sorted")
    spike_s, spike_unit = _ascending(spike_s, spike_unit)
    _refuse_long(where, "spike", spike_s[0], spike_s[-1])
    coarse = recording.spike_s.dtype.kind == "f" and np.spacing(recording.spike_s.max())
    if coarse > _COARSE_S:
        notes.append(
            f"spike times are {recording.spike_s.dtype}: in steps of {1000 * coarse:.2g} ms at {spike_s[-1]:.6g} s"
        )
    n_negative = int(np.searchsorted(spike_s, 0.0))
    if n_negative:
        notes.append(
            f"{n_negative} spikes at negative times (from {spike_s[0]:.6g} s) were kept, as times on the clock"
        )
    return spike_s, spike_unit


def _unit_by_unit(spike_unit: np.ndarray, misplaced: np.ndarray) -> bool:
    """Whether the spikes stand in order within each unit, the units one after another: nothing odd about that."""
    before, after = spike_unit[:-1], spike_unit[1:]
    return bool((after >= before).all() and (after > before)[misplaced].all())


def _refuse_long(where: str, what: str, first_s: float, last_s: float) -> None:
    if last_s - first_s > MAX_SPAN_S:
        days = (last_s - first_s) / 86400
        length = f"{days / 365.25:.1f} years" if days > 365.25 else f"{days:.0f} days"
        found = f"last {what} at {last_s:.2g} s ({length} after the first): samples or milliseconds?"
        raise DataError(where, found, "seconds, and at most 7 days of them", "Divide the times by the clock's rate")


# What was asked -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Start of the window relative to the event, size of a bin, in seconds and exact; number of bins."""

    start: Fraction
    bin: Fraction
    n_bins: int

    @property
    def length(self) -> Fraction:
        return self.n_bins * self.bin

    @cached_property
    def bin_s(self) -> float:
        return float(self.bin)

    @cached_property
    def window_s(self) -> tuple[float, float]:
        return float(self.start), float(self.start + self.length)


@dataclass(frozen=True, eq=False)
class _Trials:
    """The trials that are kept: number, time of the event, start of the window (K,); what was chosen and dropped."""

    align: str
    ids: np.ndarray
    event_s: np.ndarray
    start_s: np.ndarray
    chosen: Mapping[str, Any]
    counted: Mapping[str, int]
    columns: Mapping[str, Any]


def _where(recording: Recording) -> str:
    return f"session {recording.id!r}"


def _grid(recording: Recording, asked: Asked, notes: list[str]) -> _Grid:
    """Window and bins as asked, or by default, which is noted with the event."""
    where = _where(recording)
    without_trials = asked.align == WITHOUT_TRIALS
    if asked.start_s is not None:
        raise UsageError(where, "--start with spike times", "counts that are binned already", "Use --window")
    if without_trials and asked.window_s is None:
        found, needed = "--align none does not say how long a window is", "a window, in seconds"
        raise UsageError(where, found, needed, "Add --window START,STOP, for example --window 0,3")
    window_s = asked.window_s or recording.default_window_s or DEFAULT_WINDOW_S
    default_ms = DEFAULT_BIN_MS if recording.default_bin_ms is None else recording.default_bin_ms
    bin_ms = default_ms if asked.bin_ms is None else asked.bin_ms
    if not 0 < bin_ms <= 1000 or not exact(bin_ms / 1000):
        raise UsageError(where, f"bins of {bin_ms:g} ms", "at least 0.001 and at most 1000 ms", "Name another --bin-ms")
    if not all(math.isfinite(edge) for edge in window_s):
        raise UsageError(where, f"a window {window_s[0]}..{window_s[1]} s", "two times in seconds", "Correct --window")
    bin, start = exact(bin_ms) / 1000, exact(window_s[0])
    steps = (exact(window_s[1]) - start) / bin
    if steps < 1 or abs(steps - round(steps)) >= Fraction(1, 1000):
        found = f"a window {window_s[0]:g}..{window_s[1]:g} s in {bin_ms:g} ms bins"
        raise UsageError(where, found, "a whole number of bins", "Correct --window or --bin-ms")
    grid = _Grid(start, bin, round(steps))
    _refuse_finer_than_counted(recording, asked, grid)
    _note_defaults(recording, asked, window_s, bin_ms, notes)
    return grid


def _refuse_finer_than_counted(recording: Recording, asked: Asked, grid: _Grid) -> None:
    """Spikes that were made from counts have no times within a bin: any other grid would be invented."""
    if recording.default_bin_ms is None or recording.default_window_s is None:
        return
    bin = exact(recording.default_bin_ms / 1000)
    first, last = (exact(edge) for edge in recording.default_window_s)
    steps = (grid.bin / bin, (grid.start - first) / bin)
    whole = all(abs(n - round(n)) < Fraction(1, 1000) for n in steps)
    inside = first <= grid.start and grid.start + grid.n_bins * grid.bin <= last + bin / 1000
    if not (whole and inside and asked.align in (None, recording.default_align)):
        own = window_text(float(bin), recording.default_window_s)
        theirs = f"{window_text(grid.bin_s, grid.window_s)} around {asked.align or recording.default_align}"
        needed = f"whole multiples of its bins inside its window around {recording.default_align}"
        remedy = "Name such --bin-ms and --window, or import the recording that it came from"
        raise DataError(_where(recording), f"holds counts ({own}), asked were {theirs}", needed, remedy)


def _note_defaults(
    recording: Recording, asked: Asked, window_s: tuple[float, float], bin_ms: float, notes: list[str]
) -> None:
    window = f"window {window_s[0]:g}..{window_s[1]:g} s" if asked.window_s is None else ""
    around = f"around {recording.default_align}" if asked.align is None and recording.default_align else ""
    event = f"{window} {around}" if window and around else window or around.replace("around", "trials aligned to")
    parts = [event, f"{bin_ms:g} ms bins" if asked.bin_ms is None else ""]
    if any(parts):
        notes.append(" and ".join(filter(None, parts)) + ": the default")


def _units(recording: Recording, asked: Asked, notes: list[str]) -> np.ndarray:
    """Positions of the units that were asked for."""
    n_units = len(recording.unit_ids)
    if asked.units not in UNIT_CHOICES:
        raise UsageError("--units", f"{asked.units!r}", " | ".join(UNIT_CHOICES))
    if asked.units == "all":
        return np.arange(n_units)
    if recording.good is None:
        raise DataError(_where(recording), "has no quality labels of its units", "labels for --units good", "Use all")
    units = np.flatnonzero(np.asarray(recording.good, bool))
    if not len(units):
        raise DataError(_where(recording), f"0 of {n_units} units are good", "at least 1", "Use --units all")
    notes.append(f"{len(units)} of {n_units} units are good by the file's own labels; the others were left out")
    return units


def _good_units(recording: Recording, units: np.ndarray) -> dict[str, list[int]]:
    """Which of the units that were taken pass the file's own quality metric, where it has one."""
    if recording.good is None:
        return {}
    return {"good_units": np.flatnonzero(np.asarray(recording.good, bool)[units]).tolist()}


def _of_units(
    spike_s: np.ndarray, spike_unit: np.ndarray, units: np.ndarray, n_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """The spikes of some units, with their places among these."""
    if len(units) == n_units:
        return spike_s, spike_unit
    place = np.full(n_units, -1, np.int32)
    place[units] = np.arange(len(units))
    own = place[spike_unit]
    return spike_s[own >= 0], own[own >= 0]


# Trials ---------------------------------------------------------------------------------------------------------------


def _trials(
    recording: Recording, asked: Asked, grid: _Grid, spikes_from_to: tuple[float, float], notes: list[str]
) -> _Trials:
    """The trials that have the event, that the mask keeps, and whose window was recorded whole."""
    if asked.align == WITHOUT_TRIALS:
        return _cut(recording, asked, grid, spikes_from_to)
    if asked.stride_s is not None:
        raise UsageError(_where(recording), "--stride with trials", "--align none", "Leave one of them out")
    align = _event(recording, asked)
    event_s, ids = _checked_trials(recording, align)
    masked = _masked(recording, asked)
    start_s = np.array([float(_time(t) + grid.start) if math.isfinite(t) else t for t in event_s.tolist()])
    happened = np.isfinite(event_s)
    inside = _recorded(start_s, grid, _spans(recording)) if recording.span_s is not None else happened
    dropped = {
        "no_event": (~happened, f"have no {align}"),
        "masked": (happened & masked, f"are not in the mask {recording.mask_name or 'of the file'}"),
        "outside": (happened & ~masked & ~inside, f"reach beyond what was recorded{_span_text(recording)}"),
    }
    kept = happened & ~masked & inside
    for gone, why in dropped.values():
        if gone.any():
            notes.append(f"{gone.sum()} of {len(ids)} trials {why} and were dropped: {_listed(ids[gone])}")
    counted = {name: int(gone.sum()) for name, (gone, _) in dropped.items()}
    if not kept.any():
        found = "; ".join(f"{gone.sum()} {why}" for gone, why in dropped.values() if gone.any())
        remedy = "Are the clocks aligned?" if counted["outside"] else "Name another event, or leave the mask out"
        raise DataError(_where(recording), f"none of {len(ids)} trials is left: {found}", "trials", remedy)
    columns = {name: np.asarray(values)[kept] for name, values in recording.trial_columns.items()}
    chosen = {"align": align, **({"trial_mask": recording.mask_name or "yes"} if asked.trial_mask else {})}
    counted = {"in_file": len(ids), **counted, "kept": int(kept.sum())}
    if not recording.laid_out:
        columns[ALIGN_TIME] = event_s[kept]
    return _Trials(align, ids[kept], event_s[kept], start_s[kept], chosen, counted, columns)


def _event(recording: Recording, asked: Asked) -> str:
    """The event to align to."""
    where, events = _where(recording), list(recording.events)
    needed = "--align " + " | ".join([*events, WITHOUT_TRIALS])
    if asked.align is not None:
        if asked.align not in recording.events:
            near = difflib.get_close_matches(asked.align, events, 1, 0.4)
            remedy = f"Did you mean {near[0]}?" if near else ""
            raise UsageError(where, f"has no event {asked.align!r}", needed, remedy)
        return asked.align
    if not events:
        remedy = f"Cut it at a fixed stride: --align {WITHOUT_TRIALS} --window 0,3"
        raise DataError(where, "has no trials and no events", "events to align to", remedy)
    if recording.default_align not in recording.events:
        raise UsageError(where, "no event to align to is named", needed, f"For example --align {events[0]}")
    return str(recording.default_align)


def _checked_trials(recording: Recording, align: str) -> tuple[np.ndarray, np.ndarray]:
    """Times (K0,) of an event and numbers (K0,) of the trials; DataError where lengths differ or no times stand."""
    where, event_s = _where(recording), np.asarray(recording.events[align])
    if event_s.ndim != 1 or event_s.dtype.kind not in "iuf":
        found = f"event {align!r} has shape {event_s.shape} and type {event_s.dtype}"
        raise DataError(where, found, "one time a trial", "Name another --align")
    own = {"trial ids": recording.trial_ids, "trial mask": recording.trial_mask}
    if not len(event_s):
        raise DataError(where, "has no trials", "at least 1", f"Cut it at a fixed stride: --align {WITHOUT_TRIALS}")
    given: dict[str, np.ndarray | None] = {**recording.events, **recording.trial_columns, **own}
    for name, values in given.items():
        if values is not None and len(values) != len(event_s):
            found = f"{name} has {len(values)} rows, {align} {len(event_s)}"
            raise DataError(where, found, "one row a trial", "Were both written at the same time?")
    event_s = event_s.astype(np.float64)
    known = event_s[np.isfinite(event_s)]
    if len(known):
        _refuse_long(where, align, known.min(), known.max())
    return event_s, np.arange(len(event_s)) if recording.trial_ids is None else np.asarray(recording.trial_ids)


def _masked(recording: Recording, asked: Asked) -> np.ndarray:
    """(K0,) bool, or one False for all: the trials that the mask drops."""
    if not asked.trial_mask:
        return np.zeros(1, bool)
    if recording.trial_mask is None:
        raise UsageError(_where(recording), "has no trial mask", "a recording with one", "Leave --trial-mask out")
    return ~np.asarray(recording.trial_mask, bool)


def _cut(recording: Recording, asked: Asked, grid: _Grid, spikes_from_to: tuple[float, float]) -> _Trials:
    """Windows at a fixed stride over what was recorded, or from the first spike to the last; whole windows only."""
    where = _where(recording)
    if asked.trial_mask:
        raise UsageError(where, "a trial mask with --align none", "trials", "Leave --trial-mask out")
    stride = grid.length if asked.stride_s is None else exact(asked.stride_s) if 0 < asked.stride_s < math.inf else 0
    if not stride:
        raise UsageError(where, f"a stride of {asked.stride_s:g} s", "at least a microsecond", "Correct --stride")
    if recording.span_s is None:  # from a whole millisecond on: the edges are plain decimals
        spans = np.array([[math.floor(spikes_from_to[0] * 1000) / 1000, spikes_from_to[1]]])
    else:
        spans = _spans(recording)
    events: list[float] = []
    for begin, end in spans.tolist():
        first = _time(begin) + max(Fraction(0), -grid.start)
        room = _time(end) + exact(_TOUCHING_S) - first - grid.start - grid.length
        n_windows = 0 if room < 0 else math.floor(room / stride) + 1
        if len(events) + n_windows > MAX_WINDOWS:
            found = f"a stride of {float(stride):g} s makes {len(events) + n_windows} windows"
            raise UsageError(where, found, f"at most {MAX_WINDOWS}", "Use a longer --stride")
        events += [float(first + i * stride) for i in range(n_windows)]
    if not events:
        found = f"no window of {float(grid.length):g} s fits into what was recorded"
        raise DataError(where, found, "a recording longer than the window", "Use a shorter --window")
    event_s = np.array(events)
    start_s = np.array([float(_time(event) + grid.start) for event in events])
    counted = {"in_file": len(events), "no_event": 0, "masked": 0, "outside": 0, "kept": len(events)}
    chosen = {"align": WITHOUT_TRIALS, "stride_s": float(stride)}
    ids = np.arange(len(events))
    return _Trials(WITHOUT_TRIALS, ids, event_s, start_s, chosen, counted, {ALIGN_TIME: event_s})


# What was recorded ----------------------------------------------------------------------------------------------------


def _spans(recording: Recording) -> np.ndarray:
    """(R, 2) intervals that were recorded, ascending, those that touch or overlap as one."""
    spans = np.asarray(recording.span_s, np.float64)
    if spans.ndim != 2 or spans.shape[1] != 2 or not _ascend(spans):
        found = f"recorded intervals of shape {spans.shape}, or one that is not finite or ends before it starts"
        raise DataError(_where(recording), found, "(intervals, 2): start and end in seconds", "Correct the file")
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    is_first = np.append(True, spans[1:, 0] > reach[:-1] + _TOUCHING_S)
    return np.stack([spans[is_first, 0], reach[np.append(is_first[1:], True)]], axis=1)


def _ascend(spans: np.ndarray) -> bool:
    return bool(len(spans) and np.isfinite(spans).all() and (spans[:, 1] >= spans[:, 0]).all())


def _recorded(start_s: np.ndarray, grid: _Grid, spans: np.ndarray) -> np.ndarray:
    """(K,) bool: windows that lie whole in one interval; a window that starts at NaN lies in none."""
    place = np.searchsorted(spans[:, 0], start_s + _TOUCHING_S, side="right") - 1
    stop_s = start_s + float(grid.length)
    inside: np.ndarray = (place >= 0) & (stop_s <= spans[np.maximum(place, 0), 1] + _TOUCHING_S)
    return inside


def _span_text(recording: Recording) -> str:
    if recording.span_s is None:
        return ""
    spans = _spans(recording)
    gaps = f" in {len(spans)} intervals" if len(spans) > 1 else ""
    return f" ({spans[0, 0]:.6g}..{spans[-1, 1]:.6g} s{gaps})"


def _stops_s(trials: _Trials, grid: _Grid) -> np.ndarray:
    """(K,) end of each window: the last edge of its bins."""
    return np.array([float(_time(start) + grid.length) for start in trials.start_s.tolist()])


def _spikes_inside(spike_s: np.ndarray, trials: _Trials, grid: _Grid) -> int:
    """Number of spikes that lie in a window, each once however many windows it lies in."""
    order = np.argsort(trials.start_s, kind="stable")
    first = np.searchsorted(spike_s, trials.start_s[order])
    last = np.searchsorted(spike_s, _stops_s(trials, grid)[order])
    counted_to = np.maximum.accumulate(np.append(0, last[:-1]))
    return int(np.maximum(0, last - np.maximum(first, counted_to)).sum())


def _true_starts(recording: Recording, trials: _Trials, grid: _Grid) -> np.ndarray | None:
    """(K,) when each window began in the recording; None where only a made-up clock is left."""
    if not recording.laid_out:
        return trials.start_s
    known = trials.columns.get(ALIGN_TIME)
    return None if known is None or known.dtype.kind not in "iuf" else known + float(grid.start)


def _overlap(start_s: np.ndarray | None, grid: _Grid) -> float | None:
    """Share of the windows that overlap another one; windows that only touch do not, nor those without a time."""
    if start_s is None:
        return None
    ascending = np.sort(start_s[np.isfinite(start_s)])
    meets = np.diff(ascending) < float(grid.length) - grid.bin_s * 1e-6
    n_meeting = (np.append(meets, False) | np.append(False, meets))[: len(ascending)].sum()
    return float(n_meeting / len(start_s))


def _note_windows(
    spike_s: np.ndarray, trials: _Trials, grid: _Grid, overlap: float | None, guessing: bool, notes: list[str]
) -> None:
    """Notes of windows that overlap, and of those in which nothing was recorded, by all that the spikes tell."""
    if overlap:
        shared = "random splits share bins between training and test; consider --set split=blocked"
        notes.append(f"{100 * overlap:.1f} % of windows overlap another: {shared}")
    order, n = np.argsort(trials.start_s, kind="stable"), len(trials.start_s)
    starts, stops, ids = trials.start_s[order], _stops_s(trials, grid)[order], trials.ids[order]
    first, last = spike_s[0], spike_s[-1]
    n_after, n_before = int((starts > last).sum()), int((stops <= first).sum())
    if n_after:
        whether = "did the recording stop early?"
        notes.append(f"no spike after {last:.6g} s: 0 from trial {ids[n - n_after]} on ({n_after} of {n}): {whether}")
    if n_before:
        whether = "did the recording start late?"
        notes.append(f"no spike before {first:.6g} s: 0 up to trial {ids[n_before - 1]} ({n_before} of {n}): {whether}")
    gap = max(1.0, _LONG_GAP * (last - first) / len(spike_s))
    beyond = ((stops > last + gap) & (starts <= last)) | ((starts < first - gap) & (stops > first))
    if guessing and beyond.any():
        found = f"windows of {beyond.sum()} trials reach more than {gap:.3g} s beyond the first or last spike"
        notes.append(f"{found} ({first:.6g}..{last:.6g} s); the file does not say how long was recorded: kept")
    if last > 100 * max(abs(starts[-1]), stops[-1]):
        notes.append(f"the last spike is at {last:.4g} s, the last window ends at {stops[-1]:.4g} s: samples or ms?")


def _no_spikes(recording: Recording, spike_s: np.ndarray, trials: _Trials) -> DataError:
    spikes = f"spikes {spike_s[0]:.6g}..{spike_s[-1]:.6g} s" if len(spike_s) else "no spikes of these units"
    windows = f"windows {trials.start_s.min():.6g}..{trials.start_s.max():.6g} s"
    found = f"0 spikes in {len(trials.start_s)} trials ({spikes}, {windows})"
    return DataError(_where(recording), found, "spikes in the windows", "Are the clocks of both the same?")


def _listed(ids: np.ndarray) -> str:
    return ", ".join(str(i) for i in ids[:10].tolist()) + (", ..." if len(ids) > 10 else "")
