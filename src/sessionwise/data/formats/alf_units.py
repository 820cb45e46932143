"""Spikes and units of one insertion of an IBL session: sorter and revision, the clusters with spikes, their regions.

Axes: S spikes, C clusters of the sorter's list, N units: the clusters that have a spike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sessionwise.data.formats.alf_files import (
    ITSELF,
    UNREVISED,
    AlfFile,
    SessionFolder,
    files_of,
    folders_of,
    latest,
    shown,
)
from sessionwise.data.formats.alf_tables import read_table
from sessionwise.data.recording import Asked
from sessionwise.errors import DataError
from sessionwise.io.arrays import read_npy

_MOST_IDS = 2**24  # above it, cluster ids are no places in a list
_NOWHERE = ("", "nan", "none", "unknown", "void")
_AGAIN = "Download all spikes.* and clusters.* of the probe again; they belong together"


@dataclass(frozen=True, eq=False)
class Insertion:
    """One probe: (S,) times in seconds and units, each a place in the (N,) cluster ids; regions and quality, if known.

    ``left_out``: clusters of the sorter's list without a spike.
    """

    probe: str
    sorter: str
    revision: str
    spike_s: np.ndarray
    spike_unit: np.ndarray
    clusters: np.ndarray
    areas: Sequence[str] | None
    good: np.ndarray | None
    left_out: int


def probes_with_spikes(alf: Path) -> dict[str, dict[str, list[AlfFile]]]:
    """probe -> sorter -> its files, of the folders ``alf/probe*`` that hold ``spikes.times``."""
    found = {}
    for probe in folders_of(alf):
        if probe.name.startswith("probe"):
            sorters = {ITSELF: files_of(probe)} | {folder.name: files_of(folder) for folder in folders_of(probe)}
            sorted_ = {name: files for name, files in sorters.items() if any(map(_is_times, files))}
            if sorted_:
                found[probe.name] = sorted_
    return found


def read_insertion(folder: SessionFolder, probe: str, sorters: Mapping[str, list[AlfFile]], asked: Asked) -> Insertion:
    """The spikes and units of one probe.

    Raises
    ------
    DataError: an undecided sorter or revision, files that do not belong together, clusters that nobody lists.
    """
    sorter = _chosen_sorter(folder.alf / probe, list(sorters), asked.sorter)
    files = sorters[sorter]
    times, clusters = _spike_files(folder.alf / probe / sorter, files, asked.revision)
    if asked.revision is not None and times.revision != last_revision(asked.revision):
        folder.notes.append(f"{probe}: spikes are of revision {shown(times.revision)}, the last up to {asked.revision}")
    spike_s, cluster = _spikes(folder, times, clusters)
    ids, spike_unit = _places(clusters.path, cluster)
    listed = _Listed(folder, files, times.revision)
    known = listed.ids()
    if known is None:
        folder.notes.append(f"{probe}: no clusters.*: neither quality nor regions of its units are known")
    else:
        _refuse_unlisted(clusters.path, ids, known)
    areas = _areas(folder, probe, listed, [*files, *sorters.get(ITSELF, files_of(folder.alf / probe))], ids, asked)
    left_out = 0 if known is None else len(known) - len(ids)
    if left_out:
        folder.notes.append(f"{probe}: {left_out} of {left_out + len(ids)} clusters have no spike and were left out")
    good = listed.good(probe, ids)
    return Insertion(probe, sorter, times.revision, spike_s, spike_unit, ids, areas, good, left_out)


def last_revision(asked: str | None) -> str | None:
    """The last revision that may count; '' for the files outside of revisions, None for all."""
    return "" if asked == UNREVISED else asked


def needed_of_clusters(file: AlfFile) -> bool:
    """Whether a file of the sorter tells which clusters there are, how good, and where."""
    return file.object == "clusters" and bool(_attributes([file]))


def needed_of_sites(file: AlfFile) -> bool:
    """Whether a file tells where channels lie in the brain."""
    if file.object not in ("channels", "electrodeSites") or file.extension != "npy":
        return False
    return file.attribute == "rawInd" or _is_acronym(file.attribute) or _is_atlas_id(file.attribute)


# Which files ----------------------------------------------------------------------------------------------------------


def _is_times(file: AlfFile) -> bool:
    return (file.name, file.extension) == ("spikes.times", "npy")


def _chosen_sorter(probe: Path, sorters: Sequence[str], asked: str | None) -> str:
    needed = " | ".join(f"--sorter {name}" for name in sorters)
    if asked is not None and asked not in sorters:
        raise DataError(str(probe), f"has no spikes of sorter {asked!r}", needed, "Name a sorter that is there")
    if asked is None and len(sorters) > 1:
        found = f"{len(sorters)} sorters: {', '.join(sorters)}"
        raise DataError(str(probe), found, "one sorter", f"Name one: --sorter {sorters[-1]}")
    return sorters[0] if asked is None else asked


def _spike_files(where: Path, files: Sequence[AlfFile], revision: str | None) -> tuple[AlfFile, AlfFile]:
    """spikes.times and spikes.clusters of one revision: the one that is there, or the last up to what was asked."""
    times = {file.revision: file for file in files if _is_times(file)}
    names = ", ".join(shown(name) for name in sorted(times))
    if revision is None and len(times) > 1:
        remedy = f"Name one: --revision {max(times)} (--revision {UNREVISED}: the files outside of revisions)"
        raise DataError(str(where), f"{len(times)} revisions of spikes.times: {names}", "one revision", remedy)
    own = latest(times.values(), last_revision(revision))
    if own is None:
        remedy = f"Name one of them: --revision {max(times)}"
        raise DataError(str(where), f"no spikes up to revision {revision} (there: {names})", "spikes.times", remedy)
    clusters = [file for file in files if file.name == "spikes.clusters" and file.extension == "npy"]
    same = [file for file in clusters if file.revision == own.revision]
    if not same:
        others = ", ".join(shown(file.revision) for file in clusters)
        found = f"has spikes.times of revision {shown(own.revision)}, spikes.clusters of {others}"
        found = found if clusters else "has spikes.times, but no spikes.clusters.npy"
        raise DataError(str(where), found, "both of one revision", _AGAIN)
    return own, same[0]


# Spikes ---------------------------------------------------------------------------------------------------------------


def _spikes(folder: SessionFolder, times: AlfFile, clusters: AlfFile) -> tuple[np.ndarray, np.ndarray]:
    spike_s, cluster = (_column(read_npy(folder.use(file))) for file in (times, clusters))
    if spike_s.ndim != 1 or cluster.ndim != 1 or len(spike_s) != len(cluster):
        found = f"spikes.times has {_size(spike_s)} spikes, spikes.clusters {_size(cluster)}"
        raise DataError(str(times.path), found, "one cluster for each spike", _AGAIN)
    if spike_s.dtype.kind not in "iuf":
        raise DataError(str(times.path), f"holds {spike_s.dtype}", "times in seconds", _AGAIN)
    if cluster.dtype.kind == "f":
        odd = ~(np.isfinite(cluster) & (cluster == np.floor(cluster)) & (np.abs(cluster) < 2**53))
        if odd.any():
            found = f"{int(odd.sum())} cluster ids are no whole numbers, first {cluster[odd.argmax()]:g}"
            raise DataError(str(clusters.path), found, "whole numbers", _AGAIN)
        cluster = cluster.astype(np.int64)
    if cluster.dtype.kind not in "iu":
        raise DataError(str(clusters.path), f"holds {cluster.dtype}", "whole numbers", _AGAIN)
    if len(cluster) and cluster.min() < 0:
        found = f"{int((cluster < 0).sum())} cluster ids are negative, first {cluster[(cluster < 0).argmax()]}"
        raise DataError(str(clusters.path), found, "ids from 0 on", _AGAIN)
    return spike_s, cluster


def _column(values: np.ndarray) -> np.ndarray:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _size(values: np.ndarray) -> str:
    return str(len(values)) if values.ndim == 1 else f"shape {values.shape}"


def _places(path: Path, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (N,) ids that have spikes, ascending, and each spike's place (S,) among them."""
    if not len(cluster):
        raise DataError(str(path), "has no spikes", "at least 1", "Was the recording sorted?")
    if cluster.max() >= _MOST_IDS:
        ids, places = np.unique(cluster, return_inverse=True)
        return ids.astype(np.int64), places.astype(np.int32)
    ids = np.flatnonzero(np.bincount(cluster.astype(np.intp, copy=False)))
    place = np.zeros(ids[-1] + 1, np.int32)
    place[ids] = np.arange(len(ids))
    return ids, place[cluster]


# What is known of the clusters ----------------------------------------------------------------------------------------


class _Listed:
    """The sorter's own list of clusters: arrays and tables with one row for each.

    Only those of the spikes' own revision: another one is another sorting, whose cluster 17 is another neuron.
    """

    def __init__(self, folder: SessionFolder, files: Sequence[AlfFile], revision: str) -> None:
        self._folder = folder
        own = [file for file in files if file.object == "clusters"]
        same = [file for file in own if file.revision == revision]
        self._files = {name: latest([f for f in same if f.attribute == name], None) for name in _attributes(same)}
        others = sorted(set(_attributes(own)) - set(self._files))
        if others:
            found = f"clusters.{', '.join(others)} not of the spikes' revision ({shown(revision)})"
            folder.notes.append(f"{found}: not used")
        metrics = self._files.get("metrics")
        self.metrics = {} if metrics is None else read_table(folder.use(metrics), ("cluster_id", "label", "acronym"))
        self._rows = {name: self._read(file) for name, file in self._files.items() if file and _is_row(name)}
        self._metric_ids = self._ids_of_metrics()

    def ids(self) -> np.ndarray | None:
        """(C,) ids of the list, ascending; None when there is none."""
        lengths = {name: len(values) for name, values in self._rows.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"clusters.{name} has {length} rows" for name, length in lengths.items())
            raise DataError(str(self._path(next(iter(lengths)))), found, "one row a cluster in all", _AGAIN)
        if not lengths:
            return None if self._metric_ids is None else np.sort(self._metric_ids)
        n_rows = next(iter(lengths.values()))
        if self._metric_ids is not None:
            beyond = self._metric_ids[(self._metric_ids < 0) | (self._metric_ids >= n_rows)]
            if len(beyond):
                found = f"clusters.metrics lists {_some(beyond)}, clusters.{next(iter(lengths))} has {n_rows} rows"
                raise DataError(str(self._path("metrics")), found, "ids of the sorter's list", _AGAIN)
        return np.arange(n_rows)

    def rows(self, name: str) -> np.ndarray | None:
        """(C,) values of ``clusters.name``, in the order of the ids."""
        return self._rows.get(name)

    def row_names(self) -> list[str]:
        """Attributes with one row a cluster."""
        return list(self._rows)

    def of_metrics(self, name: str, ids: np.ndarray) -> list[str] | None:
        """Texts of a column of the metrics for the ids; '' where a cluster is not in them."""
        if name not in self.metrics or self._metric_ids is None:
            return None
        known = dict(zip(self._metric_ids.tolist(), self.metrics[name].tolist(), strict=True))
        return [str(known.get(one, "")) for one in ids.tolist()]

    def good(self, probe: str, ids: np.ndarray) -> np.ndarray | None:
        """(N,) bool: units that pass all of IBL's metrics, whose label is the share that they pass."""
        if "label" not in self.metrics or self._metric_ids is None:
            return None
        label = self.metrics["label"]
        passes = label == 1 if label.dtype.kind in "biuf" else label == "good"
        unknown = int((~np.isin(ids, self._metric_ids)).sum())
        if unknown:
            self._folder.notes.append(f"{probe}: {unknown} of {len(ids)} units are not in clusters.metrics: not good")
        return np.isin(ids, self._metric_ids[passes])

    def _ids_of_metrics(self) -> np.ndarray | None:
        if "metrics" not in self._files or self._files["metrics"] is None:
            return None
        path = str(self._path("metrics"))
        if "cluster_id" not in self.metrics:
            rows = read_table(path)
            return np.arange(max((len(values) for values in rows.values()), default=0))
        ids = self.metrics["cluster_id"]
        if ids.dtype.kind not in "iuf" or (ids != np.floor(ids)).any():
            raise DataError(path, "has cluster ids that are no whole numbers", "whole numbers", _AGAIN)
        ids = ids.astype(np.int64)
        unique, times = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise DataError(path, f"lists clusters twice: {_some(unique[times > 1])}", "each cluster once", _AGAIN)
        return ids

    def _read(self, file: AlfFile) -> np.ndarray:
        path = self._folder.use(file)
        if file.extension == "npy":
            return _column(read_npy(path))
        columns = read_table(path)
        return next(iter(columns.values()), np.zeros(0))

    def _path(self, name: str) -> Path:
        file = self._files[name]
        return self._folder.alf if file is None else file.path


def _attributes(files: Sequence[AlfFile]) -> list[str]:
    return sorted({file.attribute for file in files if _is_row(file.attribute) or file.attribute == "metrics"})


def _is_row(attribute: str) -> bool:
    return attribute in ("channels", "uuids") or _is_acronym(attribute) or _is_atlas_id(attribute)


def _is_acronym(attribute: str) -> bool:
    return attribute.startswith(("acronym", "brainLocationAcronyms")) or attribute == "brainLocation"


def _is_atlas_id(attribute: str) -> bool:
    return attribute.startswith(("atlas_id", "brainLocationIds"))


def _refuse_unlisted(path: Path, ids: np.ndarray, known: np.ndarray) -> None:
    missing = np.setdiff1d(ids, known)
    if len(missing):
        found = f"{len(missing)} clusters with spikes that clusters.* does not list: {_some(missing)}"
        raise DataError(str(path), found, f"ids of the {len(known)} clusters that it lists", _AGAIN)


def _some(ids: np.ndarray) -> str:
    return ", ".join(map(str, ids[:5].tolist())) + (", ..." if len(ids) > 5 else "")


# Regions --------------------------------------------------------------------------------------------------------------


def _areas(
    folder: SessionFolder, probe: str, listed: _Listed, files: Sequence[AlfFile], ids: np.ndarray, asked: Asked
) -> Sequence[str] | None:
    """One region a unit: acronyms before ids of the atlas; of the clusters before those of their channels."""
    for fits, is_id in ((_is_acronym, False), (_is_atlas_id, True)):
        areas = _of_clusters(listed, ids, fits) or (None if is_id else listed.of_metrics("acronym", ids))
        areas = areas or _of_channels(folder, listed, files, ids, fits, last_revision(asked.revision))
        if areas is not None:
            if is_id:
                folder.notes.append(f"{probe}: regions are ids of the Allen atlas, not names")
            unknown = sum(area.strip().lower() in _NOWHERE for area in areas)
            if unknown:
                folder.notes.append(f"{probe}: {unknown} of {len(areas)} units have no region")
            return areas
    return None


def _of_clusters(listed: _Listed, ids: np.ndarray, fits: Callable[[str], bool]) -> list[str] | None:
    name = next(filter(fits, listed.row_names()), None)
    rows = None if name is None else listed.rows(name)
    return None if rows is None else _texts(rows[ids])


def _of_channels(
    folder: SessionFolder,
    listed: _Listed,
    files: Sequence[AlfFile],
    ids: np.ndarray,
    fits: Callable[[str], bool],
    last: str | None,
) -> list[str] | None:
    """The region of each unit's channel: by ``channels.*``, or by ``electrodeSites.*`` that lie beside the sorters."""
    channels = listed.rows("channels")
    if channels is None or channels.dtype.kind not in "iuf":
        return None
    rows = channels[ids].astype(np.int64)
    for kind in ("channels", "electrodeSites"):
        file = latest([f for f in files if f.object == kind and fits(f.attribute) and f.extension == "npy"], last)
        if file is None:
            continue
        regions = _column(read_npy(folder.use(file)))
        if kind == "electrodeSites":
            rows = _raw_rows(folder, files, rows, last)
        if rows.min() < 0 or rows.max() >= len(regions):
            found = (
                f"names channel {rows.max() if rows.min() >= 0 else rows.min()}, {file.name} has {len(regions)} rows"
            )
            raise DataError(str(folder.alf), f"clusters.channels {found}", "channels that are there", _AGAIN)
        return _texts(regions[rows])
    return None


def _raw_rows(folder: SessionFolder, files: Sequence[AlfFile], rows: np.ndarray, last: str | None) -> np.ndarray:
    """Sites of channels: the sorter may have dropped channels, ``channels.rawInd`` says which are left."""
    file = latest([f for f in files if f.name == "channels.rawInd" and f.extension == "npy"], last)
    raw = None if file is None else _column(read_npy(folder.use(file)))
    if raw is None or raw.dtype.kind not in "iuf" or rows.min() < 0 or rows.max() >= len(raw):
        return rows
    return raw[rows].astype(np.int64)


def _texts(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    whole = values.astype(np.int64) if values.dtype.kind == "f" and np.isfinite(values).all() else values
    return [str(value) for value in whole.tolist()]
