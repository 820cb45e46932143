"""What a prepared session's ``session.json`` says: all that is known without opening the counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.session import Session, exact
from sessionwise.errors import IntegrityError
from sessionwise.io.files import canonical_json, sha256_bytes

SCHEMA = 1
_TEXTS = ("align", "subject", "lab", "date")


@dataclass(frozen=True, eq=False)
class SessionInfo:
    """A prepared session without its counts.

    Attributes
    ----------
    folder: the folder of the session inside its store. mean_rate_hz: spikes per second and unit, over all trials.
    counts_sha256: of ``counts.npy``. trial_hashes: content of each trial. trial_ids: (K,) numbers in the source.
    trial_spikes: (K,) spikes in each trial. columns: name -> (K,) values. Other names as in ``Session``.
    """

    id: str
    folder: Path
    n_trials: int
    n_bins: int
    n_units: int
    bin_s: float
    window_s: tuple[float, float]
    align: str | None
    subject: str | None
    lab: str | None
    date: str | None
    areas: tuple[str, ...] | None
    unit_ids: tuple[str, ...] | None
    mean_rate_hz: float
    counts_sha256: str
    trial_hashes: tuple[str, ...]
    trial_ids: np.ndarray
    trial_spikes: np.ndarray
    notes: tuple[str, ...]
    source: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]

    @property
    def spikes(self) -> int:
        """Number of spikes in all trials."""
        return int(self.trial_spikes.sum())

    @property
    def n_units_good(self) -> int | None:
        """Number of units that pass the quality metric of their source; None where it has none."""
        good = self.source.get("good_units")
        return len(good) if isinstance(good, list) else None

    @property
    def content(self) -> str:
        """One hash of the counts, the trial numbers, the window and the bin size; metadata do not matter."""
        return content_of(self)


def describe(session: Session, counts_sha256: str) -> dict[str, Any]:
    """The JSON value of a session (all but the counts)."""
    spikes = session.trial_spikes
    seconds = session.n_trials * session.n_bins * session.bin_s * session.n_units
    return {
        "schema": SCHEMA,
        "id": session.id,
        "shape": list(session.counts.shape),
        "bin_s": session.bin_s,
        "window_s": list(session.window_s),
        **{name: getattr(session, name) for name in _TEXTS},
        "areas": None if session.areas is None else list(session.areas),
        "unit_ids": None if session.unit_ids is None else list(session.unit_ids),
        "mean_rate_hz": float(spikes.sum()) / seconds,
        "counts_sha256": counts_sha256,
        "trial_hashes": list(session.trial_hashes),
        "trial_ids": session.trial_ids.tolist(),
        "trial_spikes": spikes.tolist(),
        "notes": list(session.notes),
        "source": dict(session.source),
        "columns": {name: _column_out(values) for name, values in sorted(session.trial_columns.items())},
    }


def info_from(value: Mapping[str, Any], folder: Path) -> SessionInfo:
    """The inverse of ``describe``; a value that is no session of a known schema is an IntegrityError."""
    if value.get("schema") != SCHEMA:
        found = f"has schema {value.get('schema')!r}"
        raise IntegrityError(str(folder), found, f"schema {SCHEMA}", "Open it with the release that wrote it")
    try:
        trials, bins, units = (int(size) for size in value["shape"])
        return SessionInfo(
            id=value["id"],
            folder=folder,
            n_trials=trials,
            n_bins=bins,
            n_units=units,
            bin_s=float(value["bin_s"]),
            window_s=(float(value["window_s"][0]), float(value["window_s"][1])),
            **{name: value[name] for name in _TEXTS},
            areas=None if value["areas"] is None else tuple(value["areas"]),
            unit_ids=None if value["unit_ids"] is None else tuple(value["unit_ids"]),
            mean_rate_hz=float(value["mean_rate_hz"]),
            counts_sha256=value["counts_sha256"],
            trial_hashes=tuple(value["trial_hashes"]),
            trial_ids=_numbers(value["trial_ids"]),
            trial_spikes=_numbers(value["trial_spikes"]),
            notes=tuple(value["notes"]),
            source=dict(value["source"]),
            columns={name: _column_in(column) for name, column in value["columns"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            str(folder), f"session.json lacks or distorts {error}", "a session written here"
        ) from error


def content_of(session: Session | SessionInfo) -> str:
    """``SessionInfo.content``, also of a session that is not stored yet."""
    return _content(session.bin_s, session.window_s, session.trial_ids, session.trial_hashes)


def same_grid(a: SessionInfo | Session, b: SessionInfo | Session) -> bool:
    """Whether two sessions share bin size and window."""
    return _grid(a.bin_s, a.window_s) == _grid(b.bin_s, b.window_s)


def _grid(bin_s: float, window_s: tuple[float, float]) -> list[str]:
    return [str(exact(value)) for value in (bin_s, *window_s)]


def _content(bin_s: float, window_s: tuple[float, float], trial_ids: np.ndarray, hashes: Any) -> str:
    trials = [[int(i), h] for i, h in zip(trial_ids, hashes, strict=True)]
    return sha256_bytes(canonical_json({"grid": _grid(bin_s, window_s), "trials": trials}))


def _numbers(values: list[int]) -> np.ndarray:
    array = np.array(values, np.int64)
    array.setflags(write=False)
    return array


def _column_out(values: np.ndarray) -> dict[str, Any]:
    plain = values.tolist()
    if values.dtype.kind == "f":  # JSON knows no NaN and no infinity
        plain = [v if math.isfinite(v) else None if math.isnan(v) else "inf" if v > 0 else "-inf" for v in plain]
    return {"dtype": values.dtype.newbyteorder("=").str.lstrip("<>=|"), "values": plain}


def _column_in(column: Mapping[str, Any]) -> np.ndarray:
    values = [math.nan if v is None else v for v in column["values"]]
    array = np.array(values, np.dtype(column["dtype"]))
    array.setflags(write=False)
    return array
