"""Trials of an IBL session: events, values a trial, and the trial mask that IBL-MtM applies. Axis: K trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sessionwise.data.formats.alf_files import AlfFile, SessionFolder, files_of, latest, shown
from sessionwise.data.formats.alf_tables import read_table
from sessionwise.errors import DataError
from sessionwise.io.arrays import read_npy

MASK = "ibl"
REACTION_S = (0.08, 2.0)  # from stimulus onset to the first movement, both ends kept
_NEEDED = ("stimOn_times", "choice", "feedback_times", "feedbackType", "probabilityLeft", "firstMovement_times")


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials as the folder has them: events and columns of K values; the mask, True where a trial is kept, or None."""

    events: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    revision: str | None = None


def read_trials(folder: SessionFolder, upto: str | None) -> Trials:
    """The trials of a session, each attribute in its latest revision up to ``upto``.

    Where all are later than that the first of them counts, since a revision names the spike sorting first of all.
    Raises DataError for attributes of different lengths.
    """
    files = [file for file in files_of(folder.alf) if file.object == "trials"]
    if not files:
        folder.notes.append("no _ibl_trials.* in alf: no trials, no events")
        return Trials()
    if latest(files, upto) is None:
        upto = min(file.revision for file in files)
        folder.notes.append(f"trials are there in revision {upto} only, later than what was asked for: taken")
    table = latest([file for file in files if file.attribute == "table"], upto)
    own = {} if table is None else {name: (table, v) for name, v in read_table(folder.use(table)).items()}
    own |= _singles(folder, files, own, upto)
    values = _of_one_length(folder, own)
    used = sorted({file.revision for file, _ in own.values()})
    if len({file.revision for file in files}) > 1:
        folder.notes.append(f"trials are of revision {', '.join(map(shown, used))}")
    events = {name: v.astype(np.float64) for name, v in values.items() if _is_event(name, v)}
    columns = {name: v for name, v in values.items() if name not in events}
    return Trials(events, columns, trial_mask(values, folder.notes), ", ".join(used))


def trial_mask(values: Mapping[str, np.ndarray], notes: list[str]) -> np.ndarray | None:
    """(K,) bool, the trials of IBL-MtM: a choice, no missing event, a reaction time of 0.08 to 2 s.

    None, with a note, where an attribute that it needs is missing.
    """
    missing = [name for name in _NEEDED if name not in values or values[name].dtype.kind not in "biuf"]
    if missing:
        notes.append(f"no trial mask: {', '.join(missing)} missing")
        return None
    known = np.all([np.isfinite(values[name].astype(np.float64)) for name in _NEEDED], axis=0)
    reaction_s = values["firstMovement_times"] - values["stimOn_times"]
    in_time = (reaction_s >= REACTION_S[0]) & (reaction_s <= REACTION_S[1])
    mask: np.ndarray = known & in_time & (values["choice"] != 0)
    return mask


def _singles(
    folder: SessionFolder, files: list[AlfFile], in_table: Mapping[str, tuple[AlfFile, np.ndarray]], upto: str | None
) -> dict[str, tuple[AlfFile, np.ndarray]]:
    """Attributes in files of their own, without those of which the table is as new; intervals as start and end."""
    found: dict[str, tuple[AlfFile, np.ndarray]] = {}
    left = []
    for name in sorted({file.attribute for file in files} - {"table"}):
        file = latest([file for file in files if file.attribute == name and file.extension == "npy"], upto)
        parts = (f"{name}_0", f"{name}_1") if name == "intervals" else (name,)
        if file is None or all(part in in_table and file.revision <= in_table[part][0].revision for part in parts):
            continue
        values = read_npy(folder.use(file))
        if values.ndim == 2 and values.shape[1] == len(parts):
            found |= {part: (file, values[:, place]) for place, part in enumerate(parts)}
        elif values.ndim == 1 and len(parts) == 1 and values.dtype.kind in "biufU":
            found[name] = (file, values)
        else:
            left.append(name)
    if left:
        folder.notes.append(f"left out, as they are no single value a trial: {', '.join(left)}")
    return found


def _of_one_length(folder: SessionFolder, own: Mapping[str, tuple[AlfFile, np.ndarray]]) -> dict[str, np.ndarray]:
    lengths = {name: len(values) for name, (_, values) in own.items()}
    if not lengths:
        raise DataError(str(folder.alf), "has trials without one attribute that can be read", "_ibl_trials.*.npy")
    usual = max(lengths.values(), key=list(lengths.values()).count)
    odd = [name for name, length in lengths.items() if length != usual]
    if odd:
        found = f"trials.{odd[0]} has {lengths[odd[0]]} rows, " + (
            f"{len(lengths) - len(odd)} others {usual}" if len(lengths) > 2 else f"the other {usual}"
        )
        remedy = "Download all of _ibl_trials again; they belong together"
        raise DataError(str(own[odd[0]][0].path), found, "one row a trial in all of them", remedy)
    return {name: values for name, (_, values) in own.items()}


def _is_event(name: str, values: np.ndarray) -> bool:
    named = name.endswith("_times") or name in ("intervals_0", "intervals_1")
    return named and values.dtype.kind in "iuf"
