"""One recording, written in every format that can be imported, by means other than our own readers and writers.

Spikes stand in the middle of their bins; trials lie apart on the clock, so that every format holds the same counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np

BIN_S, START_S, BINS = 0.02, -0.1, 20
WINDOW = (START_S, START_S + BINS * BIN_S)
SUBJECT, DATE, LAB = "ZZ_001", "2021-05-04", "examplelab"


def make_counts(seed: int, trials: int = 40, units: int = 8) -> np.ndarray:
    """(trials, bins, units) uint8 counts in which every unit has spikes."""
    return np.random.default_rng(seed).poisson(0.3, (trials, BINS, units)).astype(np.uint8)


def events(trials: int) -> np.ndarray:
    """(trials,) times of the stimulus in seconds."""
    return 10.0 + 2.0 * np.arange(trials)


def spikes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (S,), ascending, and units (S,) of the spikes that the counts count."""
    trial, bin_, unit = np.nonzero(counts)
    times = np.repeat(events(len(counts))[trial] + START_S + (bin_ + 0.5) * BIN_S, counts[trial, bin_, unit])
    units = np.repeat(unit, counts[trial, bin_, unit])
    order = np.argsort(times, kind="stable")
    return times[order], units[order]


def areas(units: int) -> list[str]:
    """One region a unit."""
    return ["CA1" if unit % 2 else "VISp" for unit in range(units)]


def write_npz(folder: Path, counts: np.ndarray) -> Path:
    """numpy's own archive."""
    path = folder / "recording.npz"
    np.savez(path, counts=counts, bin_ms=20, t0_ms=START_S * 1000, area=areas(counts.shape[2]))
    return path


def write_alf(folder: Path, counts: np.ndarray) -> Path:
    """An IBL session folder with one probe."""
    session = folder / LAB / "Subjects" / SUBJECT / DATE / "001"
    probe = session / "alf" / "probe00" / "pykilosort"
    probe.mkdir(parents=True)
    times, units = spikes(counts)
    onset = events(len(counts))
    trials = {
        "stimOn_times": onset,
        "intervals": np.stack([onset - 0.5, onset + 1.0], axis=1),
        "firstMovement_times": onset + 0.2,
        "feedback_times": onset + 0.5,
        "choice": np.ones(len(counts)),
        "feedbackType": np.ones(len(counts)),
        "probabilityLeft": np.full(len(counts), 0.5),
    }
    for name, values in trials.items():
        np.save(session / "alf" / f"_ibl_trials.{name}.npy", values)
    np.save(probe / "spikes.times.npy", times)
    np.save(probe / "spikes.clusters.npy", units.astype(np.int32))
    np.save(probe / "clusters.channels.npy", np.arange(counts.shape[2]))
    return session


def write_nwb(folder: Path, counts: np.ndarray) -> Path:
    """pynwb's own file."""
    from datetime import datetime

    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    path = folder / "recording.nwb"
    start = datetime.fromisoformat(f"{DATE}T12:00:00").replace(tzinfo=UTC)
    nwb = NWBFile("a recording", "recording", start, lab=LAB, subject=Subject(subject_id=SUBJECT, age="P90D"))
    nwb.add_trial_column("stim_on_time", "stimulus onset")
    for onset in events(len(counts)):
        nwb.add_trial(start_time=onset - 0.5, stop_time=onset + 1.0, stim_on_time=onset)
    times, units = spikes(counts)
    for unit in range(counts.shape[2]):
        nwb.add_unit(spike_times=times[units == unit], id=unit)
    with NWBHDF5IO(str(path), "w") as stream:
        stream.write(nwb)
    return path


def write_torch_brain(folder: Path, counts: np.ndarray) -> Path:
    """The layout of torch_brain's recordings, by h5py."""
    import h5py

    path = folder / "recording.h5"
    times, units = spikes(counts)
    onset = events(len(counts))
    with h5py.File(path, "w") as file:
        file.attrs["object"] = "Data"
        groups: list[tuple[str, str, dict[str, Any]]] = [
            ("spikes", "IrregularTimeSeries", {"timestamps": times, "unit_index": units}),
            ("units", "ArrayDict", {"id": np.array([f"u{i}".encode() for i in range(counts.shape[2])])}),
            ("trials", "Interval", {"start": onset, "end": onset + 1.0}),
            ("domain", "Interval", {"start": np.array([0.0]), "end": np.array([onset[-1] + 10.0])}),
        ]
        for name, kind, arrays in groups:
            group = file.create_group(name)
            group.attrs["object"] = kind
            if kind == "Interval":
                group.attrs["timekeys"] = np.array([b"start", b"end"])
            if kind == "IrregularTimeSeries":
                group.attrs["timekeys"] = np.array([b"timestamps"])
            for key, values in arrays.items():
                group.create_dataset(key, data=values)
    return path


def write_arrow(folder: Path, counts: np.ndarray) -> Path:
    """The published pipeline's data set: one sparse matrix a trial, as an arrow stream."""
    import pyarrow as pa
    from scipy.sparse import csr_array

    matrices = [csr_array(trial) for trial in counts]
    table = pa.table(
        {
            "spikes_sparse_data": [m.data.tolist() for m in matrices],
            "spikes_sparse_indices": [m.indices.tolist() for m in matrices],
            "spikes_sparse_indptr": [m.indptr.tolist() for m in matrices],
            "spikes_sparse_shape": [list(m.shape) for m in matrices],
            "cluster_regions": [areas(counts.shape[2])] * len(counts),
            "eid": ["recording"] * len(counts),
            "binsize": [BIN_S] * len(counts),
            "interval_len": [BINS * BIN_S] * len(counts),
        }
    )
    path = folder / "recording"
    path.mkdir()
    with pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (path / "dataset_info.json").write_text("{}")
    return path


def write_lfads(folder: Path, counts: np.ndarray) -> Path:
    """lfads-torch's file: four of five trials for training, the others for validation."""
    import h5py

    path = folder / "recording_lfads.h5"
    trials = np.arange(len(counts))
    with h5py.File(path, "w") as file:
        for part, rows in (("train", trials[trials % 5 != 4]), ("valid", trials[trials % 5 == 4])):
            file[f"{part}_encod_data"] = counts[rows].astype(np.float32)
            file[f"{part}_recon_data"] = counts[rows].astype(np.float32)
            file[f"{part}_inds"] = rows
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "npz": write_npz,
    "alf": write_alf,
    "nwb": write_nwb,
    "hdf5": write_torch_brain,
    "arrow": write_arrow,
    "lfads": write_lfads,
}
# What has to be asked so that all hold the same window: spike times around an event, or counts whose start is unsaid.
ASKED: dict[str, dict[str, Any]] = {
    "npz": {},
    "alf": {"align": "stimOn_times", "window_s": WINDOW, "bin_ms": 20},
    "nwb": {"align": "stim_on_time", "window_s": WINDOW, "bin_ms": 20},
    "hdf5": {"align": "start", "window_s": WINDOW, "bin_ms": 20},
    "arrow": {},
    "lfads": {"bin_ms": 20},
}
