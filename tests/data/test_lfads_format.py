"""Format lfads: the parts of lfads-torch's files become one session in recorded order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.data.formats.lfads import FORMAT
from sessionwise.data.formats.registry import find_recordings, read_recording
from sessionwise.data.recording import Asked
from sessionwise.data.session import Session
from sessionwise.errors import DataError, UsageError
from sessionwise.io.hdf5 import load_here

h5py = pytest.importorskip("h5py")

COUNTS = np.random.default_rng(0).poisson(0.4, (20, 12, 5))
PARTS = {"train": np.arange(20) % 5 < 3, "valid": np.arange(20) % 5 == 3, "test": np.arange(20) % 5 == 4}


def write(path: Path, attrs: dict[str, Any] | None = None, **changed: Any) -> Path:
    """The file with some data sets replaced, or left out (None)."""
    arrays: dict[str, Any] = {}
    for part, rows in PARTS.items():
        arrays[f"{part}_encod_data"] = COUNTS[rows].astype(np.float32)
        arrays[f"{part}_recon_data"] = np.zeros((rows.sum(), 15, 9), np.float32)
        arrays[f"{part}_inds"] = np.flatnonzero(rows)
    with h5py.File(path, "w") as file:
        for name, value in {**arrays, **changed}.items():
            if value is not None:
                file[name] = value
        file.attrs.update(attrs or {})
    return path


def read(path: Path, **asked: Any) -> Session:
    [(_, format)] = find_recordings(path)
    assert format is FORMAT
    found = read_recording(path, format, Asked(**asked))
    assert isinstance(found, Session)
    return found


def test_the_parts_are_put_into_recorded_order(tmp_path: Path) -> None:
    found = read(write(tmp_path / "mc_maze.h5"), bin_ms=5, start_s=-0.25)
    assert np.array_equal(found.counts, COUNTS) and found.trial_ids.tolist() == list(range(20))
    words = np.select(list(PARTS.values()), ["train", "validation", "test"], "")
    assert np.array_equal(found.trial_columns["recorded_split"], words)
    assert (found.id, found.bin_s, found.window_s) == ("mc_maze", 0.005, (-0.25, -0.19))
    assert found.source["recorded"] == {"bin_s": 0.005, "window_s": [-0.25, -0.19]}
    assert "bins of 5 ms, as asked: the file does not say" in found.notes


def test_without_places_trials_are_numbered_part_after_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", train_inds=None, test_encod_data=None, test_inds=None)
    found = read(path, bin_ms=5, session_id="mine")
    assert np.array_equal(found.counts, np.concatenate([COUNTS[PARTS["train"]], COUNTS[PARTS["valid"]]]))
    assert found.trial_columns["recorded_split"].tolist() == ["train"] * 12 + ["validation"] * 4
    assert found.id == "mine" and found.window_s == (0, 0.06)
    assert any("not in recorded order" in note for note in found.notes)
    assert any("taken as 0 s" in note for note in found.notes)


@pytest.mark.parametrize("said", [{"attrs": {"bin_s": 0.01}}, {"attrs": {"bin_ms": 10}}, {"bin_ms": np.array([10])}])
def test_a_bin_size_in_the_file_makes_another_one_a_wish(tmp_path: Path, said: dict[str, Any]) -> None:
    path = write(tmp_path / "a.h5", **said)
    assert read(path).bin_s == 0.01
    joined = read(path, bin_ms=20, window_s=(0.02, 0.1))
    assert joined.bin_s == 0.02
    assert np.array_equal(joined.counts, COUNTS[:, 2:10].reshape(20, 4, 2, 5).sum(axis=2))


def test_without_any_bin_size_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing in it says how long a bin is.*--bin-ms"):
        read(write(tmp_path / "a.h5"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"valid_encod_data": None}, r"has no data set 'valid_encod_data'"),
        ({"valid_encod_data": np.zeros((4, 11, 5))}, r"valid_encod_data \(4, 11, 5\).*the same bins and units"),
        ({"test_encod_data": np.zeros((4, 12))}, r"test_encod_data has shape \(4, 12\)"),
        ({"train_inds": np.arange(3)}, r"train_inds has shape \(3,\).*12 whole numbers"),
        ({"valid_inds": np.array([0.5, 1, 2, 3])}, "valid_inds has shape .* type float64"),
        ({"valid_inds": np.arange(4)}, "trial ids are repeated"),
        ({"train_encod_data": np.full((12, 12, 5), 0.3)}, "is no spike count"),
        ({"attrs": {"bin_s": np.nan}}, "'bin_s' is nan; need one finite number"),
        ({"attrs": {"bin_ms": np.array([1, 2])}}, r"'bin_ms' is \[1 2\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(
        "sessionwise.data.formats.lfads.load", lambda path, *more: load_here(str(path), *more)
    )  # quicker
    path = write(tmp_path / "bad.h5", **changed)
    with pytest.raises(DataError, match=message):
        FORMAT.read(path, Asked(bin_ms=5))


def test_units_and_bins_that_were_held_out_are_not_read_and_that_is_said(tmp_path: Path) -> None:
    said = "train_recon_data has shape (12, 15, 9), train_encod_data (12, 12, 5): what only the first has is not read"
    assert said in read(write(tmp_path / "held-out.h5"), bin_ms=5).notes
    same = write(tmp_path / "same.h5", train_recon_data=COUNTS[PARTS["train"]])
    assert not any("recon" in note for note in read(same, bin_ms=5).notes)
