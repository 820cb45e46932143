"""Format ``hdf5``: recordings as torch_brain keeps them, one HDF5 file a session; also what ``data export`` writes.

Needed: ``spikes/timestamps`` (S,) in seconds, ``spikes/unit_index`` (S,), a group ``units`` and ``domain/start, end``.
Read when present: ``units/id``, regions and quality of units; ``trials``, whose time columns become events (``start``
is the default) and whose other columns become columns of the trials; ``session``, ``subject`` and ``brainset``.

A file that sessionwise exported has a group ``sessionwise`` that says in which bins and which window it was counted:
imported without other wishes it gives the same counts again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import WITHOUT_TRIALS, Asked, Recording
from sessionwise.errors import DataError, SessionwiseError
from sessionwise.io.arrays import unchanged_source
from sessionwise.io.hdf5 import is_hdf5, load, outline

NEEDED = ("spikes", "units", "domain")
OWN = "sessionwise"  # the group of an exported file that says how it was counted
ALIGN_TIME = "align_time"  # the event that an exported file's windows lie around
TRIAL_ID = "trial_id"
_AREAS = ("brain_region", "brain_area", "area", "region", "acronym", "ecephys_structure_acronym", "location")
_QUALITY = ("good", "quality", "unit_quality", "group", "KSLabel")
_IS_TIME = re.compile(r"(^|_)(times?|onset|offset)(_s)?$")
_CHECK = "Check how the file was made"


@dataclass(frozen=True)
class _File:
    """What was read: arrays by full name, attributes by group."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    attrs: Mapping[str, Mapping[str, Any]]

    def columns(self, group: str) -> dict[str, np.ndarray]:
        """name -> array of a group's one-dimensional data sets."""
        prefix = f"{group}/"
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}

    def text(self, group: str, name: str) -> str | None:
        """An attribute that is a text, else None."""
        value = self.attrs.get(group, {}).get(name)
        return value if isinstance(value, str) and value.strip() else None


def _claims(path: Path) -> bool:
    if not is_hdf5(path):
        return False
    try:
        found = outline(path)
    except SessionwiseError:  # a damaged file is ours to report, whatever it was; one that is named .nwb was one
        return path.suffix != ".nwb"
    return "spikes/timestamps" in found.names or found.attrs.get("object") == "Data"


def _read(path: Path, asked: Asked) -> Recording:
    with unchanged_source(path) as sha256:
        names = ("spikes/timestamps", "spikes/unit_index", "units/*", "trials/*", "domain/start", "domain/end")
        arrays, attrs = load(path, names, ("", "trials", "session", "subject", "brainset", OWN))
    file = _File(path, arrays, attrs)
    _require_groups(file)
    notes: list[str] = []
    spike_s, spike_unit = _spikes(file)
    unit_ids, areas, good = _units(file, notes)
    _require_units(path, spike_unit, len(unit_ids))
    subject = file.text("subject", "id") or file.text("", "subject_id")
    found = Recording(
        id=asked.session_id or file.text("session", "id") or file.text("", "session_id") or path.stem,
        spike_s=spike_s,
        spike_unit=spike_unit,
        unit_ids=unit_ids,
        areas=areas,
        good=good,
        span_s=_intervals(file, "domain"),
        subject=subject,
        lab=file.text("session", "lab"),
        date=_date(file.text("session", "recording_date")),
        source={"format": "hdf5", "file": path.name, "sha256": sha256, "about": _about(file)},
        notes=tuple(notes),
    )
    trials = _trials(file, len(file.arrays["trials/start"])) if "trials/start" in file.arrays else {}
    return _as_exported(file, found, trials) if OWN in attrs and trials else _with_trials(file, found, trials)


def _require_groups(file: _File) -> None:
    for group in NEEDED:
        if not file.columns(group):
            there = ", ".join(sorted({name.split("/")[0] for name in file.arrays})) or "none of them"
            found, needed = f"has no group {group!r} with data (it has {there})", f"groups {', '.join(NEEDED)}"
            raise DataError(str(file.path), found, needed, "Write it with torch_brain's Data.to_hdf5")


def _array(file: _File, name: str, kinds: str, needed: str) -> np.ndarray:
    if name not in file.arrays:
        raise DataError(str(file.path), f"has no data set {name!r}", needed, _CHECK)
    values = file.arrays[name]
    if values.ndim != 1 or values.dtype.kind not in kinds:
        found = f"{name!r} has shape {values.shape} and type {values.dtype}"
        raise DataError(str(file.path), found, needed, _CHECK)
    return values


def _spikes(file: _File) -> tuple[np.ndarray, np.ndarray]:
    times = _array(file, "spikes/timestamps", "f", "(spikes,) times in seconds")
    units = _array(file, "spikes/unit_index", "iu", "(spikes,) positions in 'units'")
    if len(times) != len(units):
        found = f"{len(times)} spikes/timestamps, {len(units)} spikes/unit_index"
        raise DataError(str(file.path), found, "one unit a spike", _CHECK)
    return times, units


def _require_units(path: Path, spike_unit: np.ndarray, n_units: int) -> None:
    bad = np.flatnonzero((spike_unit < 0) | (spike_unit >= n_units))
    if len(bad):
        found = f"unit_index {spike_unit[bad[0]]} but {n_units} units ({len(bad)} such spikes, first at {bad[0]})"
        raise DataError(str(path), found, f"0..{n_units - 1}", "Check 'spikes/unit_index' against 'units'")


def _units(file: _File, notes: list[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None, np.ndarray | None]:
    columns = file.columns("units")
    sizes = {len(values) for values in columns.values()}
    if len(sizes) > 1:
        found = ", ".join(f"units/{name} {len(values)}" for name, values in sorted(columns.items())[:8])
        raise DataError(str(file.path), f"has units of different number: {found}", "one entry a unit", _CHECK)
    [n] = sizes
    if "id" not in columns:
        notes.append("no units/id: units are numbered from 0")
    ids = columns.get("id", np.arange(n))
    area = next((name for name in _AREAS if name in columns and columns[name].dtype.kind == "U"), None)
    if area not in (None, _AREAS[0]):
        notes.append(f"regions of units from units/{area}")
    areas = None if area is None else tuple(str(a) for a in columns[area])
    return tuple(str(unit) for unit in ids), areas, _good(columns, notes)


def _good(columns: Mapping[str, np.ndarray], notes: list[str]) -> np.ndarray | None:
    for name in _QUALITY:
        values = columns.get(name)
        if values is not None and values.dtype.kind == "b":
            good: np.ndarray = np.array(values)
        elif values is not None and values.dtype.kind == "U" and "good" in values:
            good = values == "good"
        else:
            continue
        notes.append(f"good units: {int(good.sum())} of {len(good)} by units/{name}")
        return good
    return None


def _intervals(file: _File, group: str) -> np.ndarray:
    starts = _array(file, f"{group}/start", "f", "(intervals,) seconds")
    ends = _array(file, f"{group}/end", "f", "(intervals,) seconds")
    if len(starts) != len(ends):
        raise DataError(str(file.path), f"{len(starts)} {group}/start, {len(ends)} {group}/end", "as many", _CHECK)
    order = np.argsort(starts, kind="stable")
    return np.stack([starts[order], ends[order]], axis=1)


def _trials(file: _File, n: int) -> dict[str, np.ndarray]:
    columns = file.columns("trials")
    _array(file, "trials/start", "f", "(trials,) seconds")
    odd = [f"trials/{name} {len(values)}" for name, values in sorted(columns.items()) if len(values) != n]
    if odd:
        raise DataError(str(file.path), f"{', '.join(odd[:8])}, trials/start {n}", "one entry a trial", _CHECK)
    return columns


def _with_trials(file: _File, found: Recording, columns: dict[str, np.ndarray]) -> Recording:
    """The recording with what its trials' columns are: times are events, the rest conditions."""
    if not columns:
        return replace(found, notes=(*found.notes, "no group 'trials': windows can be cut with --align none"))
    keys = file.attrs.get("trials", {}).get("timekeys")
    known = set(keys) if isinstance(keys, list) else set()
    is_time = {name: name in known | {"start", "end"} or bool(_IS_TIME.search(name)) for name in columns}
    events = {name: values for name, values in columns.items() if values.dtype.kind == "f" and is_time[name]}
    numbers = columns.get(TRIAL_ID)
    numbered = numbers is not None and numbers.dtype.kind in "iu" and len(np.unique(numbers)) == len(numbers)
    own = {TRIAL_ID} if numbered else set()
    return replace(
        found,
        events=events,
        default_align="start",
        trial_ids=numbers if numbered else None,
        trial_columns={name: values for name, values in columns.items() if name not in {*events, *own}},
        notes=(*found.notes, f"events: {', '.join(sorted(events))}"),
    )


def _as_exported(file: _File, found: Recording, columns: dict[str, np.ndarray]) -> Recording:
    """The recording with the grid, the event and the names that it had when it was exported."""
    about = file.attrs[OWN]
    try:
        window = tuple(float(edge) for edge in about["window_s"])
        names = {str(stored): str(name) for stored, name in json.loads(about["columns"])}
        align = ALIGN_TIME if about["align"] in ("", WITHOUT_TRIALS) else str(about["align"])
        laid = bool(about["laid_one_after_another"])
        note = "trials were exported one after another: when they were recorded is known only if align_time_s is there"
        return replace(
            found,
            events={align: columns[ALIGN_TIME]},
            default_align=align,
            aligned_as={align: str(about["align"]) or None},
            default_window_s=(window[0], window[1]),
            default_bin_ms=float(about["bin_s"]) * 1000,
            trial_ids=columns[TRIAL_ID],
            trial_columns={name: columns[stored] for stored, name in names.items()},
            laid_out=laid,
            units_are_numbered=bool(about.get("units_are_numbered", False)),
            notes=(*found.notes, *([note] if laid else [])),
            source={**found.source, "exported_from": json.loads(about["source"])},
        )
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise DataError(
            f"{file.path}, group {OWN!r}", f"lacks or distorts {error}", "what the export writes", "Export it again"
        ) from error


def _about(file: _File) -> dict[str, str]:
    known = {"brainset": file.text("brainset", "id"), "recording_date": file.text("session", "recording_date")}
    return {name: value for name, value in known.items() if value is not None}


def _date(text: str | None) -> str | None:
    match = re.match(r"\d{4}-\d{2}-\d{2}", text or "")
    return match[0] if match else None


FORMAT = Format("hdf5", "spike times as torch_brain keeps them, one HDF5 file a session", _claims, _read)
