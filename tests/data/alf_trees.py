"""IBL session folders for tests: trials, insertions, sorters and revisions, written with numpy and pyarrow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FIRST_S, EVERY_S = 10.0, 4.0  # stimulus of the first trial; seconds from one to the next


@dataclass
class Spikes:
    """Spikes of one insertion: (S,) times in seconds, ascending, and the cluster of each."""

    times: np.ndarray
    clusters: np.ndarray
    n_clusters: int


def session_folder(root: Path, lab: str, subject: str, date: str, number: int = 1) -> Path:
    """An empty session folder."""
    path = root / lab / "Subjects" / subject / date / f"{number:03d}"
    (path / "alf").mkdir(parents=True)
    return path


def stimuli(trials: int) -> np.ndarray:
    """(K,) times of stimulus onset in seconds."""
    return FIRST_S + EVERY_S * np.arange(trials)


def make_trials(trials: int, seed: int = 0) -> dict[str, np.ndarray]:
    """IBL's columns of trials; every trial passes the mask."""
    rng = np.random.default_rng(seed)
    onset = stimuli(trials)
    movement = onset + rng.uniform(0.1, 1.0, trials)
    side = rng.random(trials) < 0.5
    return {
        "stimOn_times": onset,
        "goCue_times": onset + 0.001,
        "firstMovement_times": movement,
        "response_times": movement + 0.1,
        "feedback_times": movement + 0.11,
        "intervals_0": onset - 0.6,
        "intervals_1": onset + 2.6,
        "choice": np.where(rng.random(trials) < 0.5, -1.0, 1.0),
        "contrastLeft": np.where(side, 0.25, np.nan),
        "contrastRight": np.where(side, np.nan, 1.0),
        "probabilityLeft": np.full(trials, 0.5),
        "feedbackType": np.ones(trials),
        "rewardVolume": np.full(trials, 1.5),
    }


def write_trials(folder: Path, columns: Mapping[str, np.ndarray], *, table: bool = True, revision: str = "") -> None:
    """As one Parquet table, or as single arrays with intervals (K, 2)."""
    place = folder / "alf" / (f"#{revision}#" if revision else "")
    place.mkdir(parents=True, exist_ok=True)
    if table:
        write_parquet(place / "_ibl_trials.table.pqt", columns)
        return
    both = np.stack([columns["intervals_0"], columns["intervals_1"]], axis=1)
    for name, values in {**columns, "intervals": both}.items():
        if name not in ("intervals_0", "intervals_1"):
            np.save(place / f"_ibl_trials.{name}.npy", values)


def write_parquet(path: Path, columns: Mapping[str, object]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(columns)), path)


def make_spikes(trials: int, clusters: int, seed: int, rate_hz: float = 8.0) -> Spikes:
    """Poisson spikes over all trials; every cluster has some."""
    rng = np.random.default_rng(seed)
    last = stimuli(trials)[-1] + 5.0
    n = rng.poisson(rate_hz * last * clusters)
    times = np.sort(rng.uniform(0.0, last, n))
    which = rng.integers(0, clusters, n)
    which[:clusters] = np.arange(clusters)
    return Spikes(times, which.astype(np.int32), clusters)


@dataclass
class Clusters:
    """What stands beside the spikes: (C,) values each; None leaves the file out."""

    channels: Sequence[int] | None = None
    label: Sequence[float] | None = None
    acronym: Sequence[str] | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_insertion(
    folder: Path,
    probe: str,
    spikes: Spikes,
    *,
    sorter: str = "pykilosort",
    revision: str = "",
    clusters: Clusters | None = None,
    metrics: str = "csv",
) -> Path:
    """Spikes and clusters of one probe; returns the folder that they are in."""
    place = folder / "alf" / probe / sorter / (f"#{revision}#" if revision else "")
    place.mkdir(parents=True, exist_ok=True)
    about = clusters or Clusters(channels=range(spikes.n_clusters))
    np.save(place / "spikes.times.npy", spikes.times)
    np.save(place / "spikes.clusters.npy", spikes.clusters)
    if about.channels is not None:
        np.save(place / "clusters.channels.npy", np.array(about.channels, np.int32))
    if about.acronym is not None:
        np.save(place / "clusters.acronym.npy", np.array(about.acronym))
    for name, values in about.extra.items():
        np.save(place / f"{name}.npy", values)
    if about.label is not None:
        write_metrics(place, about.label, metrics)
    return place


def write_metrics(place: Path, label: Sequence[float], kind: str = "csv", ids: Sequence[int] | None = None) -> None:
    """``clusters.metrics`` with the share of quality metrics that each cluster passes."""
    ids = list(range(len(label))) if ids is None else list(ids)
    if kind == "pqt":
        write_parquet(place / "clusters.metrics.pqt", {"cluster_id": ids, "label": list(label)})
        return
    lines = [f"{number},{value},mua" for number, value in zip(ids, label, strict=True)]
    (place / "clusters.metrics.csv").write_text("\n".join(["cluster_id,label,ks2_label", *lines]) + "\n")
