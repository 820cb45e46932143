"""Format ``alf``: session folders of the International Brain Laboratory, trials and one or more probes.

    lab/Subjects/subject/date/001/alf/_ibl_trials.table.pqt, _ibl_trials.stimOn_times.npy, ...
                                  alf/probe00/pykilosort/[#2024-05-06#/]spikes.times.npy, spikes.clusters.npy, clusters.*

Probes are merged and a unit is ``probe00:17``. Of several sorters or revisions none is taken by chance. Axes: K trials,
N units, S spikes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.formats.registry import Format
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError
from sessionwise.io.arrays import open_regular, read_npy, unchanged_source
from sessionwise.io.isolated import call_isolated

# MtM's mask (protocol B13): trials lack none of these, and react within the limits.
_NEEDED = ("stimOn_times", "choice", "feedback_times", "probabilityLeft", "firstMovement_times", "feedbackType")
_REACTION_S = (0.08, 2.0)
_REVISION = re.compile(r"#([^#]+)#")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_REGIONS = ("clusters.acronym", "clusters.brainLocationAcronyms_ccf_2017", "channels.brainLocationAcronyms_ccf_2017")
_REGION_IDS = ("clusters.brainLocationIds_ccf_2017", "channels.brainLocationIds_ccf_2017")
_MAX_TABLE_BYTES = 200 * 10**6
_AGAIN = "Download it again"


def _claims(path: Path) -> bool:
    try:
        return path.is_dir() and path.name != "alf" and bool(list((path / "alf").glob("**/_ibl_trials.*"))[:1])
    except OSError:
        return False


def _read(path: Path, asked: Asked) -> Recording:
    folder = path.parent if path.name == "alf" else path
    return read_session(folder, asked)


FORMAT = Format("alf", "IBL session folders (ALF): trials and the spikes of each probe", _claims, _read)


def read_session(folder: Path, asked: Asked, probes: Collection[str] | None = None) -> Recording:
    """The recording of one session folder; ``probes``: only these (None: all).

    Raises
    ------
    DataError: what is missing or cannot be; several sorters or revisions and none named. IntegrityError: a file that
        changes while it is read. EnvironmentProblem: a table in parquet, without pyarrow.
    """
    with ExitStack() as reading:
        files = _Files(folder, reading)
        trials = _trials(files, asked)
        found = [_probe(files, probe, asked) for probe in _probe_folders(folder, probes)]
    notes = [*trials.notes, *(note for probe in found for note in probe.notes)]
    offsets = np.cumsum([0, *(len(probe.unit_ids) for probe in found)])
    good = None if any(probe.good is None for probe in found) else np.concatenate([probe.good for probe in found])
    areas = (
        None if any(probe.areas is None for probe in found) else tuple(a for probe in found for a in probe.areas or ())
    )
    about = _from_path(folder)
    return Recording(
        id=asked.session_id or about["id"],
        spike_s=np.concatenate([probe.spike_s for probe in found]),
        spike_unit=np.concatenate([probe.spike_unit + start for probe, start in zip(found, offsets, strict=False)]),
        unit_ids=tuple(unit for probe in found for unit in probe.unit_ids),
        areas=areas,
        good=good,
        events=trials.events,
        default_align="stimOn_times" if "stimOn_times" in trials.events else next(iter(trials.events), None),
        default_window_s=(-0.5, 2.5),
        trial_ids=np.arange(trials.n),
        trial_columns=trials.columns,
        trial_mask=trials.mask,
        mask_name="ibl",
        subject=about["subject"],
        lab=about["lab"],
        date=about["date"],
        source={
            "format": "alf",
            "file": "/".join(folder.resolve().parts[-3:]),
            "probes": {probe.name: probe.chosen for probe in found},
            "files": dict(sorted(files.hashes.items())),
        },
        notes=tuple(dict.fromkeys(notes)),
    )


def _from_path(folder: Path) -> dict[str, Any]:
    """Lab, subject, date and number, as ``lab/Subjects/subject/date/number`` tells them; no more than is there."""
    *_, lab, middle, subject, date, number = ("", "", "", "", "", *folder.resolve().parts)
    if not _DATE.fullmatch(date):
        return {"id": folder.resolve().name, "lab": None, "subject": None, "date": None}
    lab = lab if middle == "Subjects" else middle
    return {"id": f"{subject}_{date}_{number}", "lab": lab or None, "subject": subject, "date": date}


class _Files:
    """The files of a session folder that were read, by path below it, with their SHA-256."""

    def __init__(self, folder: Path, reading: ExitStack) -> None:
        self.folder, self._reading = folder, reading
        self._root = folder.resolve()
        self.hashes: dict[str, str] = {}

    def array(self, path: Path) -> np.ndarray:
        """An ``.npy`` file."""
        self._take(path)
        return read_npy(path)

    def table(self, path: Path) -> dict[str, np.ndarray]:
        """Columns of a table in parquet or CSV; columns that are no single values are left out."""
        self._take(path)
        if path.suffix == ".csv":
            return _csv_columns(path)
        found: dict[str, np.ndarray] = call_isolated("sessionwise.data.formats.alf:parquet_columns", path)
        return found

    def _take(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self._root):
            found = f"is a link that leaves the session ({path.resolve()})"
            raise DataError(str(path), found, "a file in the session's folder", "Copy the file into it")
        name = path.relative_to(self.folder).as_posix()
        if name not in self.hashes:
            self.hashes[name] = self._reading.enter_context(unchanged_source(path))


# Trials -----------------------------------------------------------------------------------------------------------


@dataclass
class _Trials:
    n: int
    events: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    mask: np.ndarray | None
    notes: list[str]


def _trials(files: _Files, asked: Asked) -> _Trials:
    where = files.folder / "alf"
    found: dict[str, np.ndarray] = {}
    candidates = [path for path in _below(where) if path.name.startswith("_ibl_trials.")]
    for name in sorted({path.name for path in candidates}):
        path = _of_revision([p for p in candidates if p.name == name], where, asked)
        attribute = name.split(".")[1]
        columns = files.table(path) if attribute == "table" else {attribute: files.array(path)}
        found.update({key: value for key, value in columns.items() if key not in found})
    if not found:
        raise DataError(str(where), "holds no _ibl_trials.* file", "trials", "Use --align none --window 0,3 elsewhere")
    lengths = {name: len(values) for name, values in found.items() if values.ndim}
    common = max(set(lengths.values()), key=list(lengths.values()).count)
    odd = {name: n for name, n in lengths.items() if n != common}
    if odd:
        parts = ", ".join(f"{name} {n} rows" for name, n in sorted(odd.items()))
        raise DataError(str(where), f"trials.{parts}, others {common}", "as many rows in each", _AGAIN)
    return _sorted_trials(found, common)


def _sorted_trials(found: Mapping[str, np.ndarray], n: int) -> _Trials:
    events, columns, left = {}, {}, []
    if "intervals" in found and found["intervals"].shape == (n, 2):
        found = {**found, "intervals_0": found["intervals"][:, 0], "intervals_1": found["intervals"][:, 1]}
    for name, values in sorted(found.items()):
        if values.shape != (n,) or values.dtype.kind not in "biufU":
            left += [] if name == "intervals" else [name]
        elif name.endswith("_times") or name.startswith("intervals_"):
            events[name] = values.astype(np.float64)
        else:
            columns[name] = values
    for name in events:  # the other events stay as columns: reaction times can be computed
        columns[name] = events[name]
    notes = [f"left out, as they are no single value a trial: {', '.join(left)}"] if left else []
    return _Trials(n, events, columns, _mask(found, n), notes)


def _mask(found: Mapping[str, np.ndarray], n: int) -> np.ndarray | None:
    """Trials that MtM keeps; None where a column that decides is not there."""
    if any(name not in found for name in ("stimOn_times", "firstMovement_times", "choice")):
        return None
    reaction = found["firstMovement_times"] - found["stimOn_times"]
    keep = (reaction >= _REACTION_S[0]) & (reaction <= _REACTION_S[1]) & (found["choice"] != 0)
    for name in _NEEDED:
        if name in found and found[name].dtype.kind == "f":
            keep &= ~np.isnan(found[name])
    return np.asarray(keep)


# Probes -----------------------------------------------------------------------------------------------------------


@dataclass
class _Probe:
    name: str
    spike_s: np.ndarray
    spike_unit: np.ndarray
    unit_ids: tuple[str, ...]
    good: Any = None
    areas: Any = None
    chosen: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _probe_folders(folder: Path, wanted: Collection[str] | None) -> list[Path]:
    holding = {path for path in _below(folder / "alf") if path.name.startswith("spikes.times.")}
    names = sorted({path.relative_to(folder / "alf").parts[0] for path in holding})
    if any(path.parent == folder / "alf" for path in holding):
        raise DataError(str(folder / "alf"), "holds spikes beside its probes", "alf/probe00/...", "Put them into one")
    if not names:
        raise DataError(str(folder / "alf"), "holds no spikes.times.npy", "alf/probe00/SORTER/spikes.times.npy", _AGAIN)
    missing = sorted(set(wanted or ()) - set(names))
    if missing:
        raise DataError(str(folder / "alf"), f"holds {', '.join(names)}", f"{', '.join(missing)}", _AGAIN)
    return [folder / "alf" / name for name in names if wanted is None or name in wanted]


def _probe(files: _Files, folder: Path, asked: Asked) -> _Probe:
    collection = _sorter(folder, asked)
    inside = [path for path in _below(collection) if path.parent == collection or _revision(path, collection)]
    chosen = {
        name: _of_revision([p for p in inside if p.name == name], collection, asked)
        for name in {p.name for p in inside}
    }
    times, clusters = (_needed(chosen, collection, name) for name in ("spikes.times.npy", "spikes.clusters.npy"))
    revisions = {_revision(path, collection) for path in (times, clusters)}
    if len(revisions) > 1:
        found = f"spikes.times and spikes.clusters are of different revisions ({', '.join(map(str, revisions))})"
        raise DataError(str(collection), found, "one revision", "Name another --revision")
    spike_s, spike_cluster = files.array(times), files.array(clusters)
    _check_spikes(collection, spike_s, spike_cluster)
    rows = _Clusters(files, collection, {name: path for name, path in chosen.items() if name not in (times, clusters)})
    revision = revisions.pop()
    probe = rows.probe(folder.name, spike_s, spike_cluster.ravel().astype(np.int64, copy=False))
    probe.chosen = {"sorter": collection.name if collection != folder else None, "revision": revision} | probe.chosen
    return probe


def _check_spikes(where: Path, spike_s: np.ndarray, spike_cluster: np.ndarray) -> None:
    for name, array, kinds in (("times", spike_s, "f"), ("clusters", spike_cluster, "iu")):
        if array.dtype.kind not in kinds or array.size != len(array.ravel()) or array.ndim not in (1, 2):
            found = f"spikes.{name} is {array.dtype} of shape {array.shape}"
            raise DataError(str(where), found, "one number a spike", _AGAIN)
    if spike_s.size != spike_cluster.size:
        found = f"spikes.times has {spike_s.size} rows, spikes.clusters {spike_cluster.size}"
        raise DataError(str(where), found, "as many in both", _AGAIN)


def _sorter(probe: Path, asked: Asked) -> Path:
    holding = {path.parent for path in _below(probe) if path.name.startswith("spikes.times.")}
    collections = sorted({p.parent if _REVISION.fullmatch(p.name) else p for p in holding})
    if asked.sorter is not None:
        collections = [path for path in collections if path.name == asked.sorter] or _no_sorter(
            probe, asked, collections
        )
    if len(collections) > 1:
        names = ", ".join(path.name for path in collections)
        raise DataError(str(probe), f"{len(collections)} sorters: {names}", "one", "Name it: --sorter NAME")
    return collections[0]


def _no_sorter(probe: Path, asked: Asked, collections: Sequence[Path]) -> list[Path]:
    names = ", ".join(path.name for path in collections)
    raise DataError(str(probe), f"has no sorter {asked.sorter!r}", names, "Name one: --sorter NAME")


def _of_revision(paths: Sequence[Path], root: Path, asked: Asked) -> Path:
    """The file of the revision that was asked for, else the latest before it; undecided where several could be meant."""
    by_revision = {_revision(path, root) or "": path for path in paths}
    if asked.revision is not None:
        reachable = [name for name in by_revision if name <= asked.revision]
        if not reachable:
            found = f"{paths[0].name} has the revisions {', '.join(sorted(by_revision))}"
            raise DataError(str(root), found, f"{asked.revision} or one before it", "Name another --revision")
        return by_revision[max(reachable)]
    if len(by_revision) > 1:
        names = ", ".join(name or "none" for name in sorted(by_revision))
        raise DataError(
            str(root), f"{len(by_revision)} revisions of {paths[0].name}: {names}", "one", "Name it: --revision"
        )
    return paths[0]


def _revision(path: Path, root: Path) -> str | None:
    found = _REVISION.fullmatch(path.parent.name)
    return found[1] if found and path.parent != root else None


def _needed(chosen: Mapping[str, Path], where: Path, name: str) -> Path:
    if name not in chosen:
        raise DataError(str(where), f"holds no {name}", f"{name}", _AGAIN)
    return chosen[name]


class _Clusters:
    """What is known about the sorter's clusters, a row each: regions, quality, channels."""

    def __init__(self, files: _Files, where: Path, chosen: Mapping[str, Path]) -> None:
        self._files, self._where, self._chosen = files, where, chosen
        self.notes: list[str] = []

    def probe(self, name: str, spike_s: np.ndarray, cluster: np.ndarray) -> _Probe:
        """The probe with units in the order of their cluster; clusters without a spike are left out and counted."""
        ids, position = np.unique(cluster, return_inverse=True)
        if len(ids) and ids[0] < 0:
            raise DataError(str(self._where), f"spikes.clusters holds {ids[0]}", "numbers of clusters", _AGAIN)
        metrics, rows = self._metrics(), self._rows()
        areas, good = self._areas(ids, rows), self._good(ids, metrics)
        if rows is not None:
            strays = ids[ids >= rows]
            if len(strays):
                found = f"{len(strays)} clusters have spikes but no row among {rows} (first: {strays[0]})"
                raise DataError(str(self._where), found, "clusters.* with a row for each", _AGAIN)
            if rows > len(ids):
                self.notes.append(f"{name}: {rows - len(ids)} of {rows} clusters have no spike and are left out")
        chosen = {"clusters": rows, "units": len(ids)}
        unit_ids = tuple(f"{name}:{i}" for i in ids.tolist())
        return _Probe(name, spike_s.ravel(), position.ravel(), unit_ids, good, areas, chosen, self.notes)

    def _metrics(self) -> Mapping[str, np.ndarray]:
        for name in ("clusters.metrics.pqt", "clusters.metrics.csv", "clusters.table.pqt"):
            if name in self._chosen:
                return self._files.table(self._chosen[name])
        return {}

    def _rows(self) -> int | None:
        """Rows of clusters.*: the same in each file, or None where there is none."""
        arrays = [n for n in sorted(self._chosen) if n.startswith("clusters.") and n.endswith(".npy")]
        per_row = [n for n in arrays if n.split(".")[1] not in ("templateDepths", "waveforms", "waveformsChannels")]
        lengths = {name: len(self._files.array(self._chosen[name])) for name in per_row}
        if len(set(lengths.values())) > 1:
            parts = ", ".join(f"{name} {n} rows" for name, n in lengths.items())
            raise DataError(str(self._where), parts, "as many rows in each", _AGAIN)
        return next(iter(lengths.values()), None)

    def _good(self, ids: np.ndarray, metrics: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """IBL's label is the share of passed metrics: good is 1."""
        if "label" not in metrics:
            return None
        label = metrics["label"]
        clusters = metrics.get("cluster_id", np.arange(len(label))).astype(np.int64)
        passing = label == 1 if label.dtype.kind in "biuf" else label == "good"
        missing = np.setdiff1d(ids, clusters)
        if len(missing):
            self.notes.append(f"{len(missing)} units have no quality metrics and count as not good")
        return np.isin(ids, clusters[passing])

    def _areas(self, ids: np.ndarray, rows: int | None) -> list[str] | None:
        for name in (*_REGIONS, *_REGION_IDS):
            path = self._chosen.get(f"{name}.npy")
            if path is None:
                continue
            values = self._files.array(path).ravel()
            where = ids if name.startswith("clusters.") else self._channels(ids)
            if where is None or (len(where) and where.max() >= len(values)):
                self.notes.append(f"{path.name} does not fit the clusters: no regions")
                return None
            if name in _REGION_IDS:
                self.notes.append("regions are ids of the Allen atlas: the files give no acronyms")
            return [str(value) for value in values[where].tolist()]
        return None

    def _channels(self, ids: np.ndarray) -> np.ndarray | None:
        path = self._chosen.get("clusters.channels.npy")
        if path is None:
            return None
        channels = self._files.array(path).ravel()
        return channels[ids].astype(np.int64) if len(ids) and ids.max() < len(channels) else None


# Files ------------------------------------------------------------------------------------------------------------


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; hidden ones and what ONE keeps beside them are left out."""
    for path in sorted(folder.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.is_dir():
            yield path


def parquet_columns(path: str) -> dict[str, np.ndarray]:
    """Columns of numbers and texts of a parquet file, K rows each; runs in a process of its own."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[arrow]'"
        raise EnvironmentProblem(path, f"pyarrow cannot be imported ({error})", "pyarrow", remedy) from error
    try:
        with pq.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > _MAX_TABLE_BYTES or file.metadata.num_rows > 10**7:
                raise DataError(path, f"declares {size} bytes", f"at most {_MAX_TABLE_BYTES}", "Refused")
            plain = [f.name for f in file.schema_arrow if pa.types.is_primitive(f.type) or pa.types.is_string(f.type)]
            table = file.read(columns=plain)
        return {name: _plain(table.column(name).to_numpy()) for name in plain}
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DataError(
            path, f"is no readable parquet file ({str(error)[:120]})", "a complete table", _AGAIN
        ) from error


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":  # texts, or whole numbers with gaps
        return np.array(["" if value is None else str(value) for value in values])
    return values.astype("int64") if values.dtype.kind in "mM" else values


def _csv_columns(path: Path) -> dict[str, np.ndarray]:
    with open_regular(path) as stream:
        text = stream.read(_MAX_TABLE_BYTES).decode("utf-8", "replace")
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
        columns = {name: np.array([line[i] for line in lines]) for i, name in enumerate(header)}
    except (csv.Error, ValueError, IndexError) as error:
        raise DataError(str(path), f"is no table in CSV ({error})", "a header and a line a row", _AGAIN) from error
    return {name: _numbers(values) for name, values in columns.items()}


def _numbers(values: np.ndarray) -> np.ndarray:
    try:
        return np.array([float(value or "nan") for value in values])
    except ValueError:
        return values
