"""Format ``npz``: binned counts and what is known about them, one file a session.

Needed: ``counts`` (K trials, T bins, N units) and ``bin_ms`` or ``bin_s``. Read when present: ``id`` or ``eid`` (else
the file's name), ``t0_ms`` (start of the window, else 0), ``area`` and ``unit_ids`` (one a unit), ``trial_ids``,
``subject``, ``lab``, ``date``, ``align``; every other 1-D array of K entries becomes a column of the trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked
from sessionwise.data.session import Session, crop, make_session, rebin_session
from sessionwise.errors import DataError, SessionwiseError, UsageError
from sessionwise.io.arrays import npz_names, read_npz, unchanged_snapshot

_TEXTS = ("subject", "lab", "date", "align")
_UNITS = {"area": "areas", "areas": "areas", "unit_ids": "unit_ids"}
_USED = {"counts", "bin_ms", "bin_s", "id", "eid", "t0_ms", "trial_ids", *_TEXTS, *_UNITS}
_LONGEST_EXTRA = 200  # characters of a single value kept with the source


def read_npz_session(
    path: str | Path,
    *,
    window_s: tuple[float, float] | None = None,
    bin_ms: float | None = None,
    session_id: str | None = None,
    start_s: float | None = None,
) -> Session:
    """Read one session; crop it to ``window_s`` (seconds) and join its bins to ``bin_ms``, when given.

    ``start_s``: where its window begins, for a file that does not say.

    Raises DataError (what the file or its counts are instead), IntegrityError when the file changes while being read.
    """
    path = Path(path)
    npz_names(path)  # what is no npz file is refused before the whole of it is read
    with unchanged_snapshot(path) as content:
        arrays = read_npz(content)
    session = _session(path, arrays, content.sha256, session_id, start_s)
    if window_s is not None:
        session = crop(session, *window_s)
    return session if bin_ms is None else rebin_session(session, bin_ms / 1000)


def _session(
    path: Path, arrays: Mapping[str, np.ndarray], sha256: str, session_id: str | None, given_s: float | None
) -> Session:
    if "counts" not in arrays:
        found = f"has no array 'counts' (it has {', '.join(sorted(arrays)) or 'none'})"
        raise DataError(str(path), found, "'counts' of (trials, bins, units)", "Save the counts under this name")
    notes: list[str] = []
    counts, bin_s = arrays["counts"], _bin_s(path, arrays)
    start_s = _start_s(path, arrays, given_s, notes)
    stop_s = round(start_s + bin_s * (counts.shape[1] if counts.ndim == 3 else 0), 9)
    columns, extra = _columns(arrays, counts.shape[0] if counts.ndim == 3 else -1, notes)
    recorded = {"bin_s": bin_s, "window_s": [start_s, stop_s]}
    return make_session(
        session_id or _text(path, arrays, "id") or _text(path, arrays, "eid") or path.stem,
        counts,
        bin_s,
        start_s=start_s,
        trial_columns=columns,
        trial_ids=arrays.get("trial_ids"),
        source={"format": "npz", "file": path.name, "sha256": sha256, "recorded": recorded, "about": extra},
        notes=notes,
        **_texts(path, arrays),
        **_unit_metadata(path, arrays),
    )


def _bin_s(path: Path, arrays: Mapping[str, np.ndarray]) -> float:
    known = [_number(path, arrays, "bin_s"), _number(path, arrays, "bin_ms")]
    sizes = [value if i == 0 else value / 1000 for i, value in enumerate(known) if value is not None]
    if not sizes:
        found = f"has neither 'bin_ms' nor 'bin_s' (it has {', '.join(sorted(arrays))})"
        raise DataError(str(path), found, "the size of a bin", "Add it: np.savez(FILE, counts=counts, bin_ms=20)")
    if len(sizes) == 2 and not math.isclose(*sizes, rel_tol=1e-6):
        raise DataError(str(path), f"bin_s says {sizes[0]:g} s, bin_ms {sizes[1]:g} s", "one bin size", "Keep one")
    return sizes[0]


def _start_s(path: Path, arrays: Mapping[str, np.ndarray], given_s: float | None, notes: list[str]) -> float:
    start_ms = _number(path, arrays, "t0_ms")
    if start_ms is not None and given_s is not None:
        raise UsageError(
            str(path), f"--start {given_s:g}, but t0_ms says {start_ms:g} ms", "one of them", "Leave it out"
        )
    if start_ms is None and given_s is None:
        notes.append("no t0_ms: the window is taken to start at 0 s")
    return (given_s or 0.0) if start_ms is None else start_ms / 1000


def _number(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> float | None:
    if name not in arrays:
        return None
    value = arrays[name]
    if value.size != 1 or value.dtype.kind not in "iuf" or not math.isfinite(value.item()):
        raise DataError(str(path), f"{name!r} is {_brief(value)}", "one finite number", f"Correct {name!r}")
    return float(value.item())


def _text(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> str | None:
    if name not in arrays:
        return None
    if arrays[name].size != 1:
        raise DataError(str(path), f"{name!r} is {_brief(arrays[name])}", "one text", f"Correct {name!r}")
    value = arrays[name].item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: _text(path, arrays, name) for name in _TEXTS}


def _unit_metadata(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, argument in _UNITS.items():
        if name in arrays:
            if arrays[name].ndim != 1:
                raise DataError(
                    str(path), f"{name!r} is {_brief(arrays[name])}", "one entry a unit", f"Correct {name!r}"
                )
            found[argument] = arrays[name].tolist()
    return found


def _columns(
    arrays: Mapping[str, np.ndarray], n_trials: int, notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Per-trial columns, and single values that only describe the source; what is neither is noted and left out."""
    columns, extra, left = {}, {}, []
    for name in sorted(set(arrays) - _USED):
        value = arrays[name]
        if value.shape == (n_trials,) and value.dtype.kind in "biufUS":
            columns[name] = value
        elif value.size == 1 and value.dtype.kind in "biufUS":
            extra[name] = str(value.item())[:_LONGEST_EXTRA]
        else:
            left.append(f"{name} {value.shape}")
    if left:
        notes.append(f"left out, as they are no single value a trial: {', '.join(left)}")
    return columns, extra


def _brief(value: np.ndarray) -> str:
    return repr(value.item()) if value.size == 1 else f"an array of shape {value.shape}"


def _claims(path: Path) -> bool:
    if path.suffix == ".npz" and path.is_file():
        return True
    try:
        return "counts" in npz_names(path)
    except SessionwiseError:
        return False


def _read(path: Path, asked: Asked) -> Session:
    return read_npz_session(path, session_id=asked.session_id, start_s=asked.start_s)


FORMAT = Format("npz", "binned counts and what is known about them, one .npz a session", _claims, _read)
