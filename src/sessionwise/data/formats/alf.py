"""Format ``alf``: session folders of the International Brain Laboratory, ``lab/Subjects/subject/date/number``.

Trials stand in ``alf/_ibl_trials.*``, spikes and clusters in ``alf/probe00/<sorter>/``, both perhaps in ``#revision#``
folders. Several probes become one recording, a unit is ``probe00:17``. Nothing is unpickled; tables are read in a
process of their own; links out of the folder are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from sessionwise.data.formats.alf_files import SessionFolder, files_of, session_root
from sessionwise.data.formats.alf_trials import MASK, read_trials
from sessionwise.data.formats.alf_units import (
    Insertion,
    last_revision,
    probes_with_spikes,
    probes_without_times,
    read_insertion,
)
from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError, SessionwiseError
from sessionwise.io.files import canonical_json, sha256_bytes

DEFAULT_ALIGN = "stimOn_times"
DEFAULT_WINDOW_S = (-0.5, 2.5)
_TAKES = ("sorter", "revision")
_SESSION = re.compile(r"(?:(?P<lab>[^/]+)/Subjects/)?(?P<subject>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<number>\d{1,4})")


def _claims(path: Path) -> bool:
    try:
        alf = session_root(path) / "alf"
        if not (path.is_dir() and alf.is_dir()):
            return False
        return any(file.object == "trials" for file in files_of(alf)) or bool(probes_with_spikes(alf))
    except (SessionwiseError, OSError):
        return False


def _read(path: Path, asked: Asked) -> Recording:
    return read_session(path, asked)


FORMAT = Format("alf", "IBL session folders: alf/_ibl_trials.*, alf/probe*/<sorter>/spikes.*", _claims, _read, _TAKES)


def read_session(path: Path, asked: Asked, probes: Collection[str] | None = None) -> Recording:
    """The recording of a session folder, or of its folder ``alf``.

    probes: these insertions only; others are left out, and noted. The id is ``asked.session_id``, or
    ``lab/subject/date/number`` of the path.

    Raises
    ------
    DataError: no spikes, an undecided sorter or revision, files that are damaged or do not belong together.
    EnvironmentProblem: a table is there, but pyarrow is not. IntegrityError: a file changed while it was read.
    """
    root = session_root(Path(path))
    if not (root / "alf").is_dir():
        raise DataError(str(path), "has no folder alf", "an IBL session folder", "Name the folder that holds alf")
    with ExitStack() as reading:
        folder = SessionFolder(root, reading)
        insertions = _insertions(folder, asked, probes)
        trials = read_trials(folder, last_revision(asked.revision))
    about = _about(root)
    spike_s, spike_unit = _merged(insertions)
    source = {
        **{"format": "alf", "file": about["path"], "sha256": sha256_bytes(canonical_json(folder.used))},
        "files": dict(sorted(folder.used.items())),
        "probes": {one.probe: _chosen(one) for one in insertions},
        "trials_revision": trials.revision,
    }
    return Recording(
        id=asked.session_id or about["id"],
        spike_s=spike_s,
        spike_unit=spike_unit,
        unit_ids=tuple(f"{one.probe}:{cluster}" for one in insertions for cluster in one.clusters.tolist()),
        areas=_areas(insertions, folder.notes),
        good=_good(insertions, folder.notes),
        events=trials.events,
        default_align=DEFAULT_ALIGN,
        default_window_s=DEFAULT_WINDOW_S,
        trial_columns={**trials.columns, **trials.events},  # times too: of a trial's movement, say, after alignment
        trial_mask=trials.mask,
        mask_name=MASK,
        subject=about["subject"] or None,
        lab=about["lab"] or None,
        date=about["date"] or None,
        source=source,
        notes=tuple(folder.notes),
    )


def _insertions(folder: SessionFolder, asked: Asked, probes: Collection[str] | None) -> list[Insertion]:
    found = probes_with_spikes(folder.alf)
    for name, file in probes_without_times(folder.alf).items():
        if file.startswith("spikes.") and (probes is None or name in probes):
            where, needed = str(folder.alf / name), "spikes.times.npy beside it"
            raise DataError(where, f"has {file} but no spikes.times", needed, "Was the download interrupted? Repeat it")
        folder.notes.append(f"{name} has {file} but no spikes: left out")
    wanted = [name for name in found if probes is None or name in probes]
    missing = sorted(set(probes or ()) - set(found))
    if missing or not wanted:
        needed = f"alf/{missing[0] if missing else 'probe*'}/<sorter>/spikes.times.npy"
        raise DataError(str(folder.root), "has no spike times", needed, "Download the spikes of the session")
    others = sorted(set(found) - set(wanted))
    if others:
        folder.notes.append(f"other insertions of the session were left out: {', '.join(others)}")
    return [read_insertion(folder, name, found[name], asked) for name in wanted]


def _chosen(one: Insertion) -> dict[str, str | int]:
    counts = {"units": len(one.clusters), "clusters_without_spikes": one.left_out}
    return {"sorter": one.sorter, "revision": one.revision, **counts}


def _about(root: Path) -> dict[str, str]:
    """Lab, subject, date and number by the path of the session; its id and its path below the folder of all data."""
    real = root.absolute().as_posix()
    match = re.search(rf"(?:^|/){_SESSION.pattern}$", real)
    if match is None:
        return {"id": root.absolute().name, "path": root.absolute().name, "lab": "", "subject": "", "date": ""}
    parts = {name: value or "" for name, value in match.groupdict().items()}
    id_ = "/".join(filter(None, (parts["lab"], parts["subject"], parts["date"], parts["number"])))
    return {**parts, "id": id_, "path": match[0].strip("/")}


def _merged(insertions: Sequence[Insertion]) -> tuple[np.ndarray, np.ndarray]:
    """Spikes of all probes (S,), in order of time if each probe's are; else binning notes the disorder."""
    spike_s, spike_unit = _joined([one.spike_s for one in insertions]), _units_joined(insertions)
    if len(insertions) < 2 or any((np.diff(one.spike_s) < 0).any() for one in insertions):
        return spike_s, spike_unit
    order = np.argsort(spike_s, kind="stable")
    return spike_s[order], spike_unit[order]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _units_joined(insertions: Sequence[Insertion]) -> np.ndarray:
    first = np.cumsum([0, *(len(one.clusters) for one in insertions)])
    return _joined([one.spike_unit + np.int32(at) for one, at in zip(insertions, first, strict=False)])


def _areas(insertions: Sequence[Insertion], notes: list[str]) -> tuple[str, ...] | None:
    known = [one for one in insertions if one.areas is not None]
    if known and len(known) < len(insertions):
        notes.append(f"regions are known of {', '.join(one.probe for one in known)} only")
    return tuple(a for one in insertions for a in one.areas or [""] * len(one.clusters)) if known else None


def _good(insertions: Sequence[Insertion], notes: list[str]) -> np.ndarray | None:
    known = [one for one in insertions if one.good is not None]
    if known and len(known) < len(insertions):
        notes.append(f"quality labels are known of {', '.join(one.probe for one in known)} only: no others are good")
    if not known:
        return None
    return np.concatenate([np.zeros(len(i.clusters), bool) if i.good is None else i.good for i in insertions])
