"""Format hdf5: what is read of torch_brain's files, and what is refused by name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.data.formats.hdf5 import FORMAT
from sessionwise.data.formats.registry import find_recordings
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError
from sessionwise.io.hdf5 import load_here

h5py = pytest.importorskip("h5py")

ARRAYS: dict[str, Any] = {
    "spikes/timestamps": np.array([0.1, 0.2, 1.5, 2.5, 4.0]),
    "spikes/unit_index": np.array([0, 1, 1, 2, 0]),
    "spikes/waveforms": np.zeros((5, 8)),
    "units/id": np.array([b"u0", b"u1", "ü2".encode()]),
    "units/brain_region": np.array([b"VISp", b"CA1", b"root"]),
    "units/quality": np.array([b"good", b"mua", b"good"]),
    "units/waveform_mean": np.zeros((3, 8)),
    "domain/start": np.array([0.0, 3.0]),
    "domain/end": np.array([2.0, 5.0]),
    "trials/start": np.array([0.0, 1.0, 3.0, 4.0]),
    "trials/end": np.array([1.0, 2.0, 4.0, 5.0]),
    "trials/go_cue": np.array([0.5, np.nan, 3.5, 4.5]),
    "trials/target_on_time": np.array([0.2, 1.2, 3.2, 4.2]),
    "trials/contrast": np.array([0.0, 0.5, 1.0, 0.5]),
    "trials/side": np.array([b"left", b"right", b"left", b"left"]),
    "trials/eye": np.zeros((4, 2)),
}
ATTRS: dict[str, dict[str, Any]] = {
    "": {"object": "Data", "absolute_start": 0.0},
    "trials": {"object": "Interval", "timekeys": np.array(["start", "end", "go_cue"], "S")},
    "session": {"object": "Data", "id": "monkey_1", "recording_date": "2013-11-04 00:00:00"},
    "subject": {"object": "Data", "id": "monkey", "species": "MACACA"},
    "brainset": {"object": "Data", "id": "perich_miller"},
}


def write(path: Path, attrs: dict[str, dict[str, Any]] = ATTRS, **changed: Any) -> Path:
    """The file with some data sets replaced (``spikes__timestamps=...``), or left out (None)."""
    arrays = {**ARRAYS, **{name.replace("__", "/"): value for name, value in changed.items()}}
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = value
        for group, values in attrs.items():
            file.require_group(group or "/").attrs.update(values)
    return path


def read(path: Path, **asked: Any) -> Recording:
    """What the format reads, once it has claimed the file."""
    assert [format.name for _, format in find_recordings(path)] == ["hdf5"]
    found = FORMAT.read(path, Asked(**asked))
    assert isinstance(found, Recording)
    return found


def test_everything_known_is_read(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.h5"))
    assert (found.id, found.subject, found.date, found.lab) == ("monkey_1", "monkey", "2013-11-04", None)
    assert found.spike_s.tolist() == [0.1, 0.2, 1.5, 2.5, 4.0] and found.spike_unit.tolist() == [0, 1, 1, 2, 0]
    assert found.unit_ids == ("u0", "u1", "ü2") and found.areas == ("VISp", "CA1", "root")
    assert found.good is not None and found.good.tolist() == [True, False, True]
    assert set(found.events) == {"start", "end", "go_cue", "target_on_time"} and found.default_align == "start"
    assert np.isnan(found.events["go_cue"][1]) and found.events["target_on_time"].tolist() == [0.2, 1.2, 3.2, 4.2]
    assert found.span_s is not None and found.span_s.tolist() == [[0, 2], [3, 5]]
    assert set(found.trial_columns) == {"contrast", "side"}
    assert found.trial_columns["side"].tolist() == ["left", "right", "left", "left"]
    assert (found.trial_ids, found.default_window_s, found.default_bin_ms) == (None, None, None)
    assert found.source["about"] == {"brainset": "perich_miller", "recording_date": "2013-11-04 00:00:00"}
    assert "good units: 2 of 3 by units/quality" in found.notes
    assert "events: end, go_cue, start, target_on_time" in found.notes
    assert read(write(tmp_path / "a.h5"), session_id="mine").id == "mine"


def test_little_is_needed(tmp_path: Path) -> None:
    absent = {name.replace("/", "__"): None for name in ARRAYS if name.startswith(("trials/", "units/"))}
    path = write(
        tmp_path / "plain.h5", {"": {"object": "Data"}}, **{**absent, "units__depth": np.array([1.0, 2.0, 3.0])}
    )
    found = read(path)
    assert (found.id, found.subject, found.areas, found.good) == ("plain", None, None, None)
    assert found.unit_ids == ("0", "1", "2") and not found.events and found.default_align is None
    assert "no units/id: units are numbered from 0" in found.notes
    assert any("--align none" in note for note in found.notes)


def test_numbers_of_trials_in_the_source_and_other_names_of_regions(tmp_path: Path) -> None:
    numbered = write(
        tmp_path / "a.h5",
        trials__trial_id=np.array([3, 5, 9, 12]),
        units__brain_region=None,
        units__acronym=np.array([b"A", b"B", b"C"]),
        units__quality=np.array([0.1, 0.2, 0.3]),
        units__good=np.array([True, True, False]),
    )
    found = read(numbered)
    assert found.trial_ids is not None and found.trial_ids.tolist() == [3, 5, 9, 12]
    assert "trial_id" not in found.trial_columns and found.areas == ("A", "B", "C")
    assert found.good is not None and found.good.tolist() == [True, True, False]
    repeated = read(write(tmp_path / "b.h5", trials__trial_id=np.array([3, 3, 9, 12])))
    assert repeated.trial_ids is None and repeated.trial_columns["trial_id"].tolist() == [3, 3, 9, 12]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spikes__timestamps": None, "spikes__unit_index": None}, "has no group 'spikes' with data"),
        ({"units__id": None, "units__brain_region": None, "units__quality": None}, "has no group 'units' with data"),
        ({"domain__start": None, "domain__end": None}, "has no group 'domain' with data"),
        ({"domain__end": None}, "has no data set 'domain/end'"),
        ({"spikes__unit_index": None}, "has no data set 'spikes/unit_index'"),
        ({"spikes__unit_index": np.array([0, 1, 3, 2, 0])}, r"unit_index 3 but 3 units \(1 such spikes, first at 2\)"),
        ({"spikes__unit_index": np.array([0, -1, -1, 2, 0])}, r"unit_index -1 but 3 units \(2 such"),
        ({"spikes__unit_index": np.array([0, 1])}, "5 spikes/timestamps, 2 spikes/unit_index"),
        ({"spikes__unit_index": np.zeros(5)}, r"'spikes/unit_index' has shape \(5,\) and type float64"),
        ({"spikes__timestamps": np.arange(5)}, r"'spikes/timestamps' has shape \(5,\) and type int64"),
        ({"spikes__timestamps": np.zeros((5, 2))}, r"'spikes/timestamps' has shape \(5, 2\)"),
        ({"units__id": np.array([b"a"])}, "units of different number: units/brain_region 3, units/id 1"),
        ({"domain__end": np.array([2.0])}, "2 domain/start, 1 domain/end"),
        ({"trials__contrast": np.zeros(7)}, "trials/contrast 7, trials/start 4"),
        ({"trials__start": np.array([b"x"] * 4)}, "'trials/start' has shape"),
        ({"trials__side": h5py.Empty("f8")}, None),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr(
        "sessionwise.data.formats.hdf5.load", lambda path, *more: load_here(str(path), *more)
    )  # quicker
    path = write(tmp_path / "bad.h5", **changed)
    if message is None:  # a data set without a value is none
        found = FORMAT.read(path, Asked())
        assert isinstance(found, Recording) and set(found.trial_columns) == {"contrast"}
        return
    with pytest.raises(DataError, match=message) as caught:
        FORMAT.read(path, Asked())
    assert str(path) in caught.value.where


def test_a_damaged_file_is_refused_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="is truncated: 3 kB of"):
        read(path)


def test_other_hdf5_files_are_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    assert not FORMAT.claims(path) and not FORMAT.claims(tmp_path)


def test_what_torch_brain_writes_is_read(tmp_path: Path) -> None:
    data = pytest.importorskip("torch_brain.data", reason="torch_brain is not installed")
    rng = np.random.default_rng(3)
    times, units = np.sort(rng.uniform(0, 60, 500)), rng.integers(0, 6, 500)
    start = np.arange(20) * 3.0
    recording = data.Data(
        session=data.SessionDescription(id="s1", recording_date=datetime(2020, 3, 4)),
        subject=data.SubjectDescription(id="mouse", species="MUS"),
        spikes=data.IrregularTimeSeries(timestamps=times, unit_index=units, domain="auto"),
        units=data.ArrayDict(id=np.array([f"u{i}" for i in range(6)]), brain_region=np.array(["CA1"] * 6)),
        trials=data.Interval(
            start=start, end=start + 2, go=start + 0.5, side=np.array(["L", "R"] * 10), timekeys=["start", "end", "go"]
        ),
        domain=data.Interval(0.0, 60.0),
    )
    path = tmp_path / "real.h5"
    with h5py.File(path, "w") as file:
        recording.to_hdf5(file)
    found = read(path)
    assert (found.id, found.subject, found.date) == ("s1", "mouse", "2020-03-04")
    assert np.array_equal(found.spike_s, times) and np.array_equal(found.spike_unit, units)
    assert found.unit_ids == tuple(f"u{i}" for i in range(6)) and found.areas == ("CA1",) * 6
    assert set(found.events) == {"start", "end", "go"} and np.array_equal(found.events["go"], start + 0.5)
    assert found.trial_columns["side"].tolist() == ["L", "R"] * 10
    assert found.span_s is not None and found.span_s.tolist() == [[0, 60]]
