"""From a prepared store to files that others read: torch_brain's HDF5, or npz, one file a session.

A store holds counts, no spike times. So a count of c becomes c spikes spread evenly inside its bin, and the windows
of the trials stand on a clock: at their recorded times when those are known and the windows lie apart, else one after
another. Imported again, an exported file gives the same counts, trials, bins and window.

Axes: K trials, T bins, N units, S spikes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.hdf5 import ALIGN_TIME, OWN, TRIAL_ID
from sessionwise.data.session import Session
from sessionwise.data.store import SessionStore
from sessionwise.errors import UsageError
from sessionwise.io.files import canonical_json, disk_problem, folder_name, write_bytes
from sessionwise.io.hdf5 import Tree, hdf5_bytes

FORMATS = ("hdf5", "npz")
GAP_S = 1.0  # between windows that are laid one after another
_SUFFIX = {"hdf5": ".h5", "npz": ".npz"}
_TEXTS = ("subject", "lab", "date", "align")
_NPZ_NAMES = {"counts", "bin_ms", "bin_s", "id", "eid", "t0_ms", "trial_ids", "area", "areas", "unit_ids", *_TEXTS}
_TOUCHING_S = 1e-9
_METHODS = {  # of torch_brain's Interval: data sets of these names would hide them
    *("add_split_mask", "allow_split_mask_overlap", "arange", "coalesce", "difference", "dilate", "from_dataframe"),
    *("from_hdf5", "from_list", "is_disjoint", "is_sorted", "keys", "linspace", "materialize", "register_timekey"),
    *("select_by_interval", "select_by_mask", "slice", "sort", "split", "subdivide", "timekeys", "to_hdf5"),
}
_ALIGN_COLUMN = "align_time_s"


def export_store(
    store: SessionStore,
    to: str | Path,
    *,
    format: str = "hdf5",
    ids: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write one file a session (all, or ``ids``) into the folder ``to``; returns their paths.

    A file is there whole or not at all. One that is there with the same content stays; with another content it is
    refused (UsageError). The same session gives the same bytes. ``say`` gets one line a file.
    """
    if format not in FORMATS:
        raise UsageError("--format", f"{format!r} cannot be written", " | ".join(FORMATS))
    to, chosen = Path(to), list(store if ids is None else dict.fromkeys(ids))
    infos = [store.info(session_id) for session_id in chosen]  # an unknown id is refused before anything is written
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_problem(to, error) from error
    paths = []
    for number, info in enumerate(infos, 1):
        path = to / f"{_file_name(info.id)}{_SUFFIX[format]}"
        data, about = _WRITERS[format](store.session(info.id))
        is_new = _write_once(path, data)
        say(f"[{number}/{len(infos)}] {path.name}: {about if is_new else 'is there already with the same content'}")
        paths.append(path)
    return paths


def hdf5_of(session: Session) -> tuple[bytes, str]:
    """The HDF5 file of a session, and a line about it for people."""
    align_s, laid = _on_a_clock(session)
    start_s, stop_s = align_s + session.window_s[0], align_s + session.window_s[1]
    stop_s[:-1] = np.minimum(stop_s[:-1], start_s[1:])  # windows that touch overlap by rounding at most
    times, units = _spikes(session.counts, start_s, session.bin_s)
    columns, names = _trial_columns(session, laid)
    domain = _interval({"start": start_s, "end": stop_s})
    ticks = np.arange(start_s[0], stop_s[-1] + 1.0, 1.0)
    trials = {"start": start_s, "end": stop_s, ALIGN_TIME: align_s, TRIAL_ID: session.trial_ids, **columns}
    spikes = Tree(
        {
            "object": "IrregularTimeSeries",
            "timekeys": np.array(["timestamps"], "S"),
            "_unicode_keys": np.array([], "S"),
        },
        {
            "timestamps": times,
            "unit_index": units,
            "timestamp_indices_1s": np.searchsorted(times, ticks),
            "domain": domain,
        },
    )
    items: dict[str, np.ndarray | Tree] = {
        "spikes": spikes,
        "units": _array_dict("ArrayDict", _unit_columns(session)),
        "trials": _interval(trials, ("start", "end", ALIGN_TIME)),
        "domain": domain,
        "brainset": _described(id="sessionwise"),
        "session": _described(id=session.id, recording_date=session.date, lab=session.lab),
        OWN: _counted(session, names, laid),
    }
    if session.subject is not None:
        items["subject"] = _described(id=session.subject)
    where = "one after another (no recorded times, or windows that overlap)" if laid else "at their recorded times"
    about = f"{len(times)} spikes, {session.n_units} units, {session.n_trials} trials {where}"
    return hdf5_bytes(Tree({"object": "Data", "absolute_start": 0.0}, items)), about


def npz_of(session: Session) -> tuple[bytes, str]:
    """The npz file of a session, and a line about it for people."""
    texts = {name: getattr(session, name) for name in _TEXTS}
    arrays: dict[str, Any] = {
        "counts": session.counts,
        "bin_s": session.bin_s,
        "id": session.id,
        "t0_ms": session.window_s[0] * 1000,
        "trial_ids": session.trial_ids,
        **{name: text for name, text in texts.items() if text is not None},
    }
    if session.areas is not None:
        arrays["area"] = np.array(session.areas, dtype=str)
    if session.unit_ids is not None:
        arrays["unit_ids"] = np.array(session.unit_ids, dtype=str)
    for name, values in session.trial_columns.items():
        arrays[_free_name(name, {*_NPZ_NAMES, *arrays})] = values
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue(), f"{session.n_trials} trials, {session.n_bins} bins, {session.n_units} units"


_WRITERS: Mapping[str, Callable[[Session], tuple[bytes, str]]] = {"hdf5": hdf5_of, "npz": npz_of}


def _on_a_clock(session: Session) -> tuple[np.ndarray, bool]:
    """(K,) time of the event in each trial, and whether the trials had to be laid one after another."""
    start, stop = session.window_s
    recorded = session.trial_columns.get(_ALIGN_COLUMN)
    if recorded is not None and recorded.dtype.kind == "f" and np.isfinite(recorded).all():
        if (np.diff(recorded) >= stop - start - _TOUCHING_S).all():
            return np.asarray(recorded, dtype=np.float64), False
    step = math.ceil(stop - start) + GAP_S
    return step * np.arange(session.n_trials) - start, True


def _spikes(counts: np.ndarray, start_s: np.ndarray, bin_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(S,) times, ascending, and units of the spikes: spike j of c stands at (j + 1/2) / c of its bin."""
    trial, bin_, unit = np.nonzero(counts)
    n = counts[trial, bin_, unit].astype(np.int64)
    nth = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    times = np.repeat(start_s[trial], n) + (np.repeat(bin_, n) + (nth + 0.5) / np.repeat(n, n)) * bin_s
    order = np.argsort(times, kind="stable")
    return times[order], np.repeat(unit, n)[order]


def _trial_columns(session: Session, laid: bool) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """The columns as data sets, and [name of the data set, own name] of each."""
    columns: dict[str, np.ndarray] = {}
    names = []
    for name, values in sorted(session.trial_columns.items()):
        if name == _ALIGN_COLUMN and not laid:
            continue  # it is the event itself
        taken = {"", "start", "end", ALIGN_TIME, TRIAL_ID, *_METHODS, *columns}
        stored = _free_name(re.sub(r"\W", "_", name, flags=re.ASCII), taken)
        columns[stored] = values
        names.append([stored, name])
    return columns, names


def _unit_columns(session: Session) -> dict[str, np.ndarray]:
    ids = session.unit_ids or tuple(str(unit) for unit in range(session.n_units))
    columns = {"id": np.array(ids, dtype=str)}
    if session.areas is not None:
        columns["brain_region"] = np.array(session.areas, dtype=str)
    return columns


def _counted(session: Session, names: list[list[str]], laid: bool) -> Tree:
    about: dict[str, Any] = {
        "bin_s": session.bin_s,
        "window_s": np.array(session.window_s),
        "align": session.align or "",
        "laid_one_after_another": laid,
        "units_are_numbered": session.unit_ids is None,
        "columns": canonical_json(names).decode(),
        "source": canonical_json(dict(session.source)).decode(),
    }
    return _described(**about)


def _described(**about: Any) -> Tree:
    """A ``Data`` of torch_brain that only has attributes."""
    known = {name: value for name, value in about.items() if value is not None}
    return Tree({"object": "Data", "absolute_start": 0.0, **known})


def _interval(columns: Mapping[str, np.ndarray], times: tuple[str, ...] = ("start", "end")) -> Tree:
    return _array_dict("Interval", columns, timekeys=np.array(times, "S"))


def _array_dict(kind: str, columns: Mapping[str, np.ndarray], **attrs: np.ndarray) -> Tree:
    """Arrays of one length; texts are stored as torch_brain stores them, as bytes that are decoded if ASCII."""
    stored, decoded = {}, []
    for name, values in columns.items():
        is_text = values.dtype.kind == "U"
        stored[name] = np.char.encode(values, "utf-8") if is_text else values
        if is_text and all(text.isascii() for text in values.tolist()):
            decoded.append(name)
    return Tree({"object": kind, "_unicode_keys": np.array(decoded, "S"), **attrs}, stored)


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"column_{name}"
    return name


def _file_name(session_id: str) -> str:
    """The id itself where every file system takes it, else a name made of it."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", session_id)
    return session_id if plain else folder_name(session_id)


def _write_once(path: Path, data: bytes) -> bool:
    """Whether the file was written: False when it is there with the same content."""
    if path.exists() or path.is_symlink():
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
        raise UsageError(str(path), "is there with other content", "a new name", "Name another folder: --to")
    write_bytes(path, data)
    return True
