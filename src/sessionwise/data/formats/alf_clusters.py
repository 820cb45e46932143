"""What a sorter's files say of its clusters: which there are, how good they are, and where in the brain.

Axes: C clusters of the sorter's list, N units: the clusters that have a spike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sessionwise.data.formats.alf_files import AlfFile, SessionFolder, latest, shown
from sessionwise.data.formats.alf_tables import read_table
from sessionwise.errors import DataError
from sessionwise.io.arrays import read_npy

AGAIN = "Download all spikes.* and clusters.* of the probe again; they belong together"
_NOWHERE = ("", "nan", "none", "unknown", "void")


class Listed:
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
            raise DataError(str(self._path(next(iter(lengths)))), found, "one row a cluster in all", AGAIN)
        if not lengths:
            return None if self._metric_ids is None else np.sort(self._metric_ids)
        n_rows = next(iter(lengths.values()))
        if self._metric_ids is not None:
            beyond = self._metric_ids[(self._metric_ids < 0) | (self._metric_ids >= n_rows)]
            if len(beyond):
                found = f"clusters.metrics lists {some(beyond)}, clusters.{next(iter(lengths))} has {n_rows} rows"
                raise DataError(str(self._path("metrics")), found, "ids of the sorter's list", AGAIN)
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
            raise DataError(path, "has cluster ids that are no whole numbers", "whole numbers", AGAIN)
        ids = ids.astype(np.int64)
        unique, times = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise DataError(path, f"lists clusters twice: {some(unique[times > 1])}", "each cluster once", AGAIN)
        return ids

    def _read(self, file: AlfFile) -> np.ndarray:
        if file.extension == "npy":
            return column_of(self._folder, file)
        columns = read_table(self._folder.use(file))
        return next(iter(columns.values()), np.zeros(0))

    def _path(self, name: str) -> Path:
        file = self._files[name]
        return self._folder.alf if file is None else file.path


def areas_of(
    folder: SessionFolder, probe: str, listed: Listed, files: Sequence[AlfFile], ids: np.ndarray, upto: str | None
) -> Sequence[str] | None:
    """One region a unit: acronyms before ids of the atlas; of the clusters before those of their channels."""
    for fits, is_id in ((_is_acronym, False), (_is_atlas_id, True)):
        areas = _of_clusters(listed, ids, fits) or (None if is_id else listed.of_metrics("acronym", ids))
        areas = areas or _of_channels(folder, listed, files, ids, fits, upto)
        if areas is not None:
            if is_id:
                folder.notes.append(f"{probe}: regions are ids of the Allen atlas, not names")
            unknown = sum(area.strip().lower() in _NOWHERE for area in areas)
            if unknown:
                folder.notes.append(f"{probe}: {unknown} of {len(areas)} units have no region")
            return areas
    return None


def needed_of_clusters(file: AlfFile) -> bool:
    """Whether a file of the sorter tells which clusters there are, how good, and where."""
    return file.object == "clusters" and bool(_attributes([file]))


def needed_of_sites(file: AlfFile) -> bool:
    """Whether a file tells where channels lie in the brain."""
    if file.object not in ("channels", "electrodeSites") or file.extension != "npy":
        return False
    return file.attribute == "rawInd" or _is_acronym(file.attribute) or _is_atlas_id(file.attribute)


def column_of(folder: SessionFolder, file: AlfFile) -> np.ndarray:
    """(R,) values of an array with one value a row."""
    values = one_column(read_npy(folder.use(file)))
    if values.ndim != 1:
        raise DataError(str(file.path), f"has shape {values.shape}", "one value a row", AGAIN)
    return values


def one_column(values: np.ndarray) -> np.ndarray:
    """(R, 1) as (R,); others as they are."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def some(ids: np.ndarray) -> str:
    """The first of many, for a message."""
    return ", ".join(map(str, ids[:5].tolist())) + (", ..." if len(ids) > 5 else "")


def _attributes(files: Sequence[AlfFile]) -> list[str]:
    return sorted({file.attribute for file in files if _is_row(file.attribute) or file.attribute == "metrics"})


def _is_row(attribute: str) -> bool:
    return attribute in ("channels", "uuids") or _is_acronym(attribute) or _is_atlas_id(attribute)


def _is_acronym(attribute: str) -> bool:
    return attribute.startswith(("acronym", "brainLocationAcronyms")) or attribute == "brainLocation"


def _is_atlas_id(attribute: str) -> bool:
    return attribute.startswith(("atlas_id", "brainLocationIds"))


# Regions --------------------------------------------------------------------------------------------------------------


def _of_clusters(listed: Listed, ids: np.ndarray, fits: Callable[[str], bool]) -> list[str] | None:
    name = next(filter(fits, listed.row_names()), None)
    rows = None if name is None else listed.rows(name)
    return None if rows is None else _texts(rows[ids])


def _of_channels(
    folder: SessionFolder,
    listed: Listed,
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
        regions = column_of(folder, file)
        if kind == "electrodeSites":
            rows = _raw_rows(folder, files, rows, last)
        if rows.min() < 0 or rows.max() >= len(regions):
            odd = rows.max() if rows.min() >= 0 else rows.min()
            found = f"clusters.channels names channel {odd}, {file.name} has {len(regions)} rows"
            raise DataError(str(folder.alf), found, "channels that are there", AGAIN)
        return _texts(regions[rows])
    return None


def _raw_rows(folder: SessionFolder, files: Sequence[AlfFile], rows: np.ndarray, last: str | None) -> np.ndarray:
    """Sites of channels: the sorter may have dropped channels, ``channels.rawInd`` says which are left."""
    file = latest([f for f in files if f.name == "channels.rawInd" and f.extension == "npy"], last)
    raw = None if file is None else column_of(folder, file)
    if raw is None or raw.dtype.kind not in "iuf" or rows.min() < 0 or rows.max() >= len(raw):
        return rows
    return raw[rows].astype(np.int64)


def _texts(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    whole = values.astype(np.int64) if values.dtype.kind == "f" and np.isfinite(values).all() else values
    return [str(value) for value in whole.tolist()]
