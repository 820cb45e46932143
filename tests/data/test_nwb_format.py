"""The nwb format: files that pynwb wrote, against the spikes and trials that went in; and files that cannot be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject

from sessionwise.data.formats.nwb import FORMAT, read_tables
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError, EnvironmentProblem, SessionwiseError
from sessionwise.io.files import sha256_file

K, N = 12, 4
START = 5.0 + 3.0 * np.arange(K)
SPIKES = [np.sort(np.random.default_rng(i).uniform(0, 45, 20 * i)) for i in range(N)]  # the first unit has none


def bare(**more: Any) -> NWBFile:
    about = {"session_id": "sess-1", "lab": "a lab", "institution": "an institute", **more}
    start = datetime(2021, 5, 4, 23, 30, tzinfo=UTC)
    return NWBFile("a test", "identifier-1", start, subject=Subject(subject_id="ZZ_1", age="P90D"), **about)


def add_trials(nwb: NWBFile, **columns: Any) -> None:
    for name in columns:
        nwb.add_trial_column(name, "a column")
    for k in range(K):
        nwb.add_trial(START[k], START[k] + 2.0, **{name: values[k] for name, values in columns.items()})


def add_units(nwb: NWBFile, columns: dict[str, Any] | None = None, **more: Any) -> None:
    columns = columns or {}
    for name in columns:
        nwb.add_unit_column(name, "a column")
    for i in range(N):
        own = {name: values[i] for name, values in {**columns, **more}.items()}
        nwb.add_unit(spike_times=SPIKES[i], **{"id": 10 + i, **own})


def add_electrodes(nwb: NWBFile) -> None:
    """Two probes of three electrodes each."""
    device = nwb.create_device("a device")
    for probe, place in (("probe00", "left"), ("probe01", "unknown")):
        group = nwb.create_electrode_group(probe, "a probe", location=place, device=device)
        for location in ("CA1", "CA1", "DG") if probe == "probe00" else ("VISp", "unknown", "unknown"):
            nwb.add_electrode(location=location, group=group)


def written(path: Path, nwb: NWBFile) -> Path:
    with NWBHDF5IO(str(path), "w") as stream:
        stream.write(nwb)
    return path


def simple(path: Path) -> Path:
    nwb = bare()
    add_trials(nwb, stim_on_time=START + 0.5)
    add_units(nwb)
    return written(path, nwb)


def read(path: Path, **asked: Any) -> Recording:
    found = FORMAT.read(path, Asked(**asked))
    assert isinstance(found, Recording)
    return found


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading without a process of its own: for the many small cases whose files crash nobody."""
    from sessionwise.data.formats import nwb

    monkeypatch.setattr(nwb, "call_isolated", lambda function, path: read_tables(str(path)))


def refused(path: Path) -> str:
    with pytest.raises(SessionwiseError) as caught:
        read(path)
    assert isinstance(caught.value, DataError) and "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- what is read --------------------------------------------------------------------------------


def test_a_whole_file_through_the_process(tmp_path: Path) -> None:
    nwb = bare()
    onset = START + 0.5
    onset[3] = np.nan
    add_trials(
        nwb,
        stimOn_times=onset,
        reaction_time=np.full(K, 0.3),
        contrast=np.linspace(0, 1, K),
        choice=["left", "right"] * 6,
        rewarded=[True, False, False] * 4,
    )
    nwb.add_trial_column("licks", "ragged", index=True, data=[[0.1] * (k % 3) for k in range(K)])
    regions = ["CA1", "", "DG", "VISp"]
    add_units(nwb, {"quality": ["good", "mua", "good", "noise"], "brain_area": regions, "depth": [1.0, 2, 3, 4]})
    path = written(tmp_path / "a.nwb", nwb)
    assert FORMAT.claims(path)
    found = read(path)
    assert np.array_equal(found.spike_s, np.concatenate(SPIKES))
    assert np.array_equal(found.spike_unit, np.repeat(np.arange(N), [len(s) for s in SPIKES]))
    assert found.unit_ids == ("10", "11", "12", "13") and found.areas == tuple(regions)
    assert found.good is not None and found.good.tolist() == [True, False, True, False]
    assert list(found.events) == ["start_time", "stop_time", "stimOn_times"] and found.default_align == "stimOn_times"
    assert np.array_equal(found.events["start_time"], START) and np.array_equal(found.events["stop_time"], START + 2)
    assert np.array_equal(found.events["stimOn_times"], onset, equal_nan=True)
    assert found.trial_ids is not None and found.trial_ids.tolist() == list(range(K))
    assert sorted(found.trial_columns) == ["choice", "contrast", "reaction_time", "rewarded"]
    assert found.trial_columns["choice"].tolist() == ["left", "right"] * 6
    assert found.trial_columns["rewarded"].tolist() == [True, False, False] * 4
    assert (found.id, found.subject, found.lab, found.date) == ("sess-1", "ZZ_1", "a lab", "2021-05-04")
    assert found.source["sha256"] == sha256_file(path) and found.source["file"] == "a.nwb"
    assert found.source["about"]["identifier"] == "identifier-1" and str(tmp_path) not in str(found.source)
    assert found.notes == (
        "left out, as they are no single value a trial: licks",
        "1 of 4 units have no region (a column of units)",
        "good units: 2 of 4, whose quality is good",
        "no events, as these times lie elsewhere than their trials: reaction_time",
        "events to --align to: start_time, stop_time, stimOn_times",
    )


def test_what_was_asked(tmp_path: Path, here: None) -> None:
    found = read(simple(tmp_path / "a.nwb"), session_id="mine", align="start_time")
    assert found.id == "mine" and found.default_align == "stim_on_time" and found.notes == ()


@pytest.mark.parametrize(
    ("columns", "default"),
    [
        (("response_time",), "start_time"),
        (("go_cue", "visual_stimulus_time"), "visual_stimulus_time"),
        (("response_time", "go_cue_time"), "go_cue_time"),
        (("go_cue", "response_time"), "go_cue"),
        (("stimulus_time", "stim_on_time"), "stim_on_time"),
        (("feedback_time", "stimOn_times"), "stimOn_times"),
        (("auditory_cue_time", "gabor_stimulus_onset_time"), "gabor_stimulus_onset_time"),
    ],
)
def test_which_event_is_the_default(tmp_path: Path, here: None, columns: tuple[str, ...], default: str) -> None:
    nwb = bare()
    add_trials(nwb, **dict.fromkeys(columns, START + 1.0))
    add_units(nwb)
    found = read(written(tmp_path / "a.nwb", nwb))
    assert found.default_align == default and sorted(found.events) == sorted([*columns, "start_time", "stop_time"])


def test_ids_without_a_session_id(tmp_path: Path, here: None) -> None:
    nwb = bare(session_id=None, lab=None)
    add_units(nwb)
    found = read(written(tmp_path / "a.nwb", nwb))
    assert found.id == "identifier-1" and found.lab is None


def test_a_recording_without_trials(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_units(nwb, obs_intervals=[[[0.0, 20.0], [25.0, 45.0]]] * N)
    found = read(written(tmp_path / "a.nwb", nwb))
    assert found.events == {} and found.default_align is None and found.trial_ids is None
    assert found.span_s is not None and found.span_s.tolist() == [[0.0, 20.0], [25.0, 45.0]]
    assert len(found.spike_s) == 120 and found.notes == ()


def test_intervals_that_differ_between_units_are_not_used(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_units(nwb, obs_intervals=[[[0.0, 20.0]]] * 3 + [[[0.0, 21.0]]])
    found = read(written(tmp_path / "a.nwb", nwb))
    assert found.span_s is None and "obs_intervals differ between units and are not used" in found.notes


def test_regions_of_electrodes(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_electrodes(nwb)
    add_units(nwb, electrodes=[[0], [2, 1, 0], [3, 5, 4], [3]])
    found = read(written(tmp_path / "a.nwb", nwb))
    assert found.areas == ("CA1", "CA1", "unknown", "VISp"), "most electrodes decide, the first of equals"
    assert "1 of 4 units have no region (most electrodes of a unit)" in found.notes


def test_the_region_of_the_peak_electrode(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_electrodes(nwb)
    add_units(nwb, {"peak_channel_id": [2, 0, 3, 99]})
    assert read(written(tmp_path / "a.nwb", nwb)).areas == ("DG", "CA1", "VISp", "")


def test_the_place_of_the_probe(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_electrodes(nwb)
    groups = list(nwb.electrode_groups.values())
    add_units(nwb, electrode_group=[groups[0], groups[0], groups[1], groups[1]])
    assert read(written(tmp_path / "a.nwb", nwb)).areas == ("left", "left", "unknown", "unknown")


@pytest.mark.parametrize("way", ["group", "column", "electrodes"])
def test_d64_two_probes_with_the_same_ids(tmp_path: Path, here: None, way: str) -> None:
    nwb = bare()
    add_electrodes(nwb)
    groups = list(nwb.electrode_groups.values())
    same = {"id": [0, 1, 0, 1]}
    if way == "group":
        add_units(nwb, electrode_group=[groups[0], groups[0], groups[1], groups[1]], **same)
    elif way == "column":
        add_units(nwb, {"probe_name": ["probe00"] * 2 + ["probe01"] * 2}, **same)
    else:
        add_units(nwb, electrodes=[[0], [1], [4], [5]], **same)
    assert read(written(tmp_path / "a.nwb", nwb)).unit_ids == ("probe00:0", "probe00:1", "probe01:0", "probe01:1")


def test_d62_repeated_ids_without_a_probe(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_units(nwb, id=[0, 1, 1, 0])
    assert "2 ids of units are repeated: 0, 1" in refused(written(tmp_path / "a.nwb", nwb))


def test_names_of_units_come_before_ids(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_units(nwb, {"unit_name": ["a", "b", "c", "d"]})
    assert read(written(tmp_path / "a.nwb", nwb)).unit_ids == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("column", "values", "good"),
    [
        ("quality", ["good", "Good", "mua", "unsorted"], [True, True, False, False]),
        ("ibl_quality_score", [1.0, 0.33, 0.66, 1.0], [True, False, False, True]),
        ("is_good_unit", [True, False, False, False], [True, False, False, False]),
        ("KSLabel", ["mua", "good", "mua", "mua"], [False, True, False, False]),
        ("default_qc", ["pass", "fail", "pass", "fail"], [True, False, True, False]),
        ("quality", [1.0, 2.0, 3.0, 4.0], None),  # numbers that mean something else
        ("isolation", [1.0, 2.0, 3.0, 4.0], None),
    ],
)
def test_the_files_own_quality(tmp_path: Path, here: None, column: str, values: Any, good: list[bool] | None) -> None:
    nwb = bare()
    add_units(nwb, {column: values})
    found = read(written(tmp_path / "a.nwb", nwb)).good
    assert (None if found is None else found.tolist()) == good


def test_waveforms_are_not_read(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_units(nwb, waveform_mean=[np.ones((5, 2))] * N)
    path = written(tmp_path / "a.nwb", nwb)
    with h5py.File(path, "a") as file:  # more than is read from any file
        del file["units/waveform_mean"]
        file.create_dataset("units/waveform_mean", (N, 10**6, 10**4), "f8", chunks=(1, 1000, 1000))
        file["units/waveform_mean"].attrs.update({"namespace": "core", "neurodata_type": "VectorData"})
        file["units/waveform_mean"].attrs["description"] = "much"
    assert len(read(path).spike_s) == 120


# ---- which paths are claimed ---------------------------------------------------------------------


def test_claims(tmp_path: Path) -> None:
    path = simple(tmp_path / "a.nwb")
    shutil.copy(path, tmp_path / "b.h5")
    assert FORMAT.claims(path) and FORMAT.claims(tmp_path / "b.h5"), "by content"
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["spikes/timestamps"] = np.arange(3.0)
    (tmp_path / "d.txt").write_text("text")
    for name in ("c.h5", "d.txt", "absent"):
        assert FORMAT.claims(tmp_path / name) is False
    (tmp_path / "e.nwb").write_text("<!DOCTYPE html>")
    assert FORMAT.claims(tmp_path / "e.nwb"), "what was named as ours is ours to refuse"
    assert FORMAT.claims(tmp_path) is False


# ---- what is refused -----------------------------------------------------------------------------


def replaced(file: h5py.File, name: str, values: Any) -> None:
    attrs = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attrs)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[h5py.File], None]:
    return lambda file: replaced(file, name, change(file[name][()]))


def at(position: int, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[position] = value
        return values

    return change


def without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def of_version_1(file: h5py.File) -> None:
    del file.attrs["nwb_version"]
    file["nwb_version"] = "NWB-1.0.6"


def outward(file: h5py.File) -> None:
    file["acquisition/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("units"), "has no table 'units' (it has acquisition, analysis"),
        (without("units/spike_times"), "units"),
        (without("units/spike_times_index"), "units"),
        (without("units/id"), "'units' has no 'id'"),
        (changed("units/spike_times_index", at(1, 90)), "'units/spike_times_index' falls at unit 2 (to 60)"),
        (
            changed("units/spike_times_index", lambda v: at(-1, 10**6)(v.astype(int))),
            "ends at 1000000, there are 120 spike times",
        ),
        (changed("units/spike_times_index", at(-1, 119)), "ends at 119, there are 120 spike times"),
        (changed("units/spike_times_index", lambda v: v.astype(np.int64) - 1), "falls at unit 0 (to -1)"),
        (changed("units/spike_times_index", lambda v: v[:-1]), "'units' has 4 rows, but spike_times_index 3"),
        (changed("units/spike_times_index", lambda v: v.astype(float)), "(float64); need one whole number"),
        (changed("units/spike_times", lambda v: v.astype("S")), "has type |S"),
        (changed("units/id", lambda v: v[:-1]), "'units' has 3 rows"),
        (changed("intervals/trials/start_time", lambda v: v[:-1]), "'intervals/trials' has 12 rows, but start_time 11"),
        (without("intervals/trials/start_time"), "'intervals/trials' has no 'start_time'"),
        (without("session_start_time"), "cannot be read by pynwb"),
        (without("identifier"), "cannot be read by pynwb"),
        (of_version_1, "is of NWB version 1"),
        (outward, "is a link into another file"),
    ],
)
def test_d29_tables_that_cannot_be(tmp_path: Path, here: None, damage: Callable[[h5py.File], None], says: str) -> None:
    path = simple(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        damage(file)
    assert says in refused(path)


def test_electrodes_that_are_not_there(tmp_path: Path, here: None) -> None:
    nwb = bare()
    add_electrodes(nwb)
    add_units(nwb, electrodes=[[0], [1], [2], [3]])
    path = written(tmp_path / "a.nwb", nwb)
    with h5py.File(path, "a") as file:
        changed("units/electrodes", at(2, 600))(file)
    assert "'units/electrodes' names row 600 of 6 electrodes" in refused(path)


def test_an_empty_table_of_units(tmp_path: Path, here: None) -> None:
    path = simple(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        for name in ("id", "spike_times", "spike_times_index"):
            changed(f"units/{name}", lambda values: values[:0])(file)
    assert "0 units" in refused(path)


def test_truncated_pages_and_folders(tmp_path: Path) -> None:
    path = simple(tmp_path / "a.nwb")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert FORMAT.claims(path) and "is truncated" in refused(path)
    path.write_bytes(b"<!DOCTYPE html><html>")
    assert "is an HTML page, not HDF5" in refused(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in refused(path)
    folder = tmp_path / "b.nwb.zarr"
    folder.mkdir()
    assert not FORMAT.claims(folder) and "is a folder" in refused(folder)
    (folder / ".zgroup").write_text("{}")
    assert FORMAT.claims(folder) and "is a Zarr folder" in refused(folder)


def test_flipped_bytes_are_answered_in_one_line(tmp_path: Path, here: None) -> None:
    path = simple(tmp_path / "a.nwb")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(SPIKES[-1].tobytes())] ^= 0x7F  # within the data nobody can tell
    path.write_bytes(damaged)
    assert not np.array_equal(read(path).spike_s, np.concatenate(SPIKES))
    damaged[8:40] = bytes(32)  # in the superblock
    path.write_bytes(damaged)
    assert "is damaged" in refused(path) or "is truncated" in refused(path)


def test_without_pynwb(tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = simple(tmp_path / "a.nwb")
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(EnvironmentProblem, match=r"sessionwise\[nwb\]"):
        read(path)
