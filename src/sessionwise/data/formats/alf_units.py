"""Spikes and units of one insertion of an IBL session: sorter and revision, the clusters with spikes, their regions.

Axes: S spikes, C clusters of the sorter's list, N units: the clusters that have a spike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sessionwise.data.formats.alf_clusters import AGAIN, Listed, areas_of, one_column, some
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
from sessionwise.data.recording import Asked
from sessionwise.errors import DataError
from sessionwise.io.arrays import read_npy

_MOST_IDS = 2**24  # above it, cluster ids are no places in a list


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


def probes_without_times(alf: Path) -> dict[str, str]:
    """probe -> a file of spikes or clusters that it holds, of the folders ``alf/probe*`` without ``spikes.times``."""
    have, found = probes_with_spikes(alf), {}
    for probe in folders_of(alf):
        if probe.name.startswith("probe") and probe.name not in have:
            files = [file for folder in (probe, *folders_of(probe)) for file in files_of(folder)]
            names = sorted((file.name for file in files if file.object in ("spikes", "clusters")), reverse=True)
            if names:
                found[probe.name] = names[0]
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
    listed = Listed(folder, files, times.revision)
    known = listed.ids()
    if known is None:
        folder.notes.append(f"{probe}: no clusters.*: neither quality nor regions of its units are known")
    else:
        _refuse_unlisted(clusters.path, ids, known)
    beside = sorters[ITSELF] if ITSELF in sorters else files_of(folder.alf / probe)
    areas = areas_of(folder, probe, listed, [*files, *beside], ids, last_revision(asked.revision))
    left_out = 0 if known is None else len(known) - len(ids)
    if left_out:
        folder.notes.append(f"{probe}: {left_out} of {left_out + len(ids)} clusters have no spike and were left out")
    good = listed.good(probe, ids)
    return Insertion(probe, sorter, times.revision, spike_s, spike_unit, ids, areas, good, left_out)


def last_revision(asked: str | None) -> str | None:
    """The last revision that may count; '' for the files outside of revisions, None for all."""
    return "" if asked == UNREVISED else asked


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
        raise DataError(str(where), found, "both of one revision", AGAIN)
    return own, same[0]


# Spikes ---------------------------------------------------------------------------------------------------------------


def _spikes(folder: SessionFolder, times: AlfFile, clusters: AlfFile) -> tuple[np.ndarray, np.ndarray]:
    spike_s, cluster = (one_column(read_npy(folder.use(file))) for file in (times, clusters))
    if spike_s.ndim != 1 or cluster.ndim != 1 or len(spike_s) != len(cluster):
        found = f"spikes.times has {_size(spike_s)} spikes, spikes.clusters {_size(cluster)}"
        raise DataError(str(times.path), found, "one cluster for each spike", AGAIN)
    if spike_s.dtype.kind not in "iuf":
        raise DataError(str(times.path), f"holds {spike_s.dtype}", "times in seconds", AGAIN)
    if cluster.dtype.kind == "f":
        odd = ~(np.isfinite(cluster) & (cluster == np.floor(cluster)) & (np.abs(cluster) < 2**53))
        if odd.any():
            found = f"{int(odd.sum())} cluster ids are no whole numbers, first {cluster[odd.argmax()]:g}"
            raise DataError(str(clusters.path), found, "whole numbers", AGAIN)
        cluster = cluster.astype(np.int64)
    if cluster.dtype.kind not in "iu":
        raise DataError(str(clusters.path), f"holds {cluster.dtype}", "whole numbers", AGAIN)
    if len(cluster) and cluster.min() < 0:
        found = f"{int((cluster < 0).sum())} cluster ids are negative, first {cluster[(cluster < 0).argmax()]}"
        raise DataError(str(clusters.path), found, "ids from 0 on", AGAIN)
    return spike_s, cluster


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


def _refuse_unlisted(path: Path, ids: np.ndarray, known: np.ndarray) -> None:
    missing = np.setdiff1d(ids, known)
    if len(missing):
        found = f"{len(missing)} clusters with spikes that clusters.* does not list: {some(missing)}"
        raise DataError(str(path), found, f"ids of the {len(known)} clusters that it lists", AGAIN)
