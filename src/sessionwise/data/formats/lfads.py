"""Format ``lfads``: the binned counts of lfads-torch, one HDF5 file a session.

Needed: ``train_encod_data`` and ``valid_encod_data``, each (trials, bins, units). Read when present:
``test_encod_data``, ``train_inds``, ``valid_inds`` and ``test_inds`` (each trial's place in the recording, which puts
the parts into order again), ``bin_s`` or ``bin_ms`` (attributes or data sets). Files of lfads-torch do not say how long
a bin is: then ``--bin-ms`` must. The window starts at 0 s unless asked for otherwise. Which part a trial was in becomes
the column ``recorded_split``. Units and bins held out from the encoder (``*_recon_data``) are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked
from sessionwise.data.session import Session, make_session
from sessionwise.errors import DataError, SessionwiseError, UsageError
from sessionwise.io.arrays import unchanged_source
from sessionwise.io.hdf5 import is_hdf5, load, outline

_PARTS = {"train": "train", "valid": "validation", "test": "test"}  # as the file says it, as the column says it
_NEEDED = ("train", "valid")
_WHOLE = "train_recon_data"
_CHECK = "Check how the file was made"


def _claims(path: Path) -> bool:
    if not is_hdf5(path):
        return False
    try:
        names = outline(path).names
    except SessionwiseError:  # damaged: the format hdf5 reports it
        return False
    return all(f"{part}_encod_data" in names for part in _NEEDED)


def _read(path: Path, asked: Asked) -> Session:
    names = [f"{part}_{what}" for part in _PARTS for what in ("encod_data", "inds")]
    with unchanged_source(path) as sha256:
        arrays, attrs = load(path, [*names, _WHOLE, "bin_s", "bin_ms"], [""])
    parts = _parts(path, arrays)
    notes = _left_out(arrays)
    bin_s = _bin_s(path, {**attrs[""], **arrays}, asked, notes)
    start_s = asked.start_s
    if start_s is None:
        start_s = 0.0
        notes.append("the file does not say when its window starts: taken as 0 s")
    counts = np.concatenate([arrays[f"{part}_encod_data"] for part in parts])
    split = np.repeat([_PARTS[part] for part in parts], [len(arrays[f"{part}_encod_data"]) for part in parts])
    stop_s = round(start_s + bin_s * counts.shape[1], 9)
    recorded = {"bin_s": bin_s, "window_s": [start_s, stop_s]}
    return make_session(
        asked.session_id or path.stem,
        counts,
        bin_s,
        start_s=start_s,
        trial_ids=_trial_ids(path, arrays, parts, notes),
        trial_columns={"recorded_split": split},
        source={"format": "lfads", "file": path.name, "sha256": sha256, "recorded": recorded},
        notes=notes,
    )


def _parts(path: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The parts that the file has; their counts are of one shape but for the trials."""
    missing = [f"{part}_encod_data" for part in _NEEDED if f"{part}_encod_data" not in arrays]
    if missing:
        there = ", ".join(sorted(arrays)) or "nothing of lfads-torch"
        found, needed = f"has no data set {missing[0]!r} (it has {there})", "train_encod_data and valid_encod_data"
        raise DataError(str(path), found, needed, _CHECK)
    parts = [part for part in _PARTS if f"{part}_encod_data" in arrays]
    shapes = {part: arrays[f"{part}_encod_data"].shape for part in parts}
    for part, shape in shapes.items():
        if len(shape) != 3:
            found = f"{part}_encod_data has shape {shape}"
            raise DataError(str(path), found, "(trials, bins, units)", _CHECK)
    if len({shape[1:] for shape in shapes.values()}) > 1:
        found = ", ".join(f"{part}_encod_data {shape}" for part, shape in shapes.items())
        raise DataError(str(path), found, "the same bins and units in every part", _CHECK)
    return parts


def _left_out(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """A note if the file holds units or bins that were held out from the encoder."""
    encoded, whole = arrays["train_encod_data"], arrays.get(_WHOLE)
    if whole is None or whole.shape == encoded.shape:
        return []
    return [f"{_WHOLE} has shape {whole.shape}, train_encod_data {encoded.shape}: what only the first has is not read"]


def _bin_s(path: Path, known: Mapping[str, Any], asked: Asked, notes: list[str]) -> float:
    own = _number(path, known, "bin_s")
    if own is None:
        milliseconds = _number(path, known, "bin_ms")
        own = None if milliseconds is None else milliseconds / 1000
    if own is not None:
        return own
    if asked.bin_ms is None:
        found = "holds binned counts, and nothing in it says how long a bin is"
        raise UsageError(str(path), found, "the size of a bin", "Name it: --bin-ms 5")
    notes.append(f"bins of {asked.bin_ms:g} ms, as asked: the file does not say")
    return asked.bin_ms / 1000


def _number(path: Path, known: Mapping[str, Any], name: str) -> float | None:
    value = known.get(name)
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or not math.isfinite(array.item()):
        raise DataError(str(path), f"{name!r} is {str(array)[:60]}", "one finite number", f"Correct {name!r}")
    return float(array.item())


def _trial_ids(path: Path, arrays: Mapping[str, np.ndarray], parts: list[str], notes: list[str]) -> np.ndarray | None:
    """Each trial's place in the recording; None when the file does not tell for all of them."""
    known = {part: arrays.get(f"{part}_inds") for part in parts}
    found = [values for values in known.values() if values is not None]
    if len(found) < len(parts):
        notes.append("no train_inds, valid_inds: trials are numbered part after part, not in recorded order")
        return None
    for part, values in known.items():
        n = len(arrays[f"{part}_encod_data"])
        if values is not None and (values.shape != (n,) or values.dtype.kind not in "iuf" or (values % 1).any()):
            what = f"{part}_inds has shape {values.shape} and type {values.dtype}"
            raise DataError(str(path), what, f"{n} whole numbers, one a trial", _CHECK)
    return np.concatenate(found).astype(np.int64)


FORMAT = Format(
    "lfads", "binned counts of lfads-torch (train_encod_data, valid_encod_data), one HDF5 file", _claims, _read
)
