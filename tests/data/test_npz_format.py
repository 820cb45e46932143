"""The npz format: which keys are read, what is said aloud, and that real recordings come through unchanged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.data.formats.npz import read_npz_session
from sessionwise.data.session import Session
from sessionwise.errors import DataError, IntegrityError

COUNTS = np.random.default_rng(0).poisson(1.0, (12, 10, 3)).astype(np.uint8)


def saved(folder: Path, name: str = "rec 1.npz", **arrays: Any) -> Path:
    np.savez_compressed(folder / name, **{"counts": COUNTS, "bin_ms": 20.0, **arrays})
    return folder / name


def read(path: Path, **options: Any) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_npz_session(path, **options)


def test_everything_that_is_known(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        id="my id",
        eid="other",
        t0_ms=-100,
        area=["a", "b", "c"],
        unit_ids=[7, 8, 9],
        subject="Cori",
        date="2016-12-14",
        lab="L",
        align="stimulus",
        choice=np.arange(12),
        trial_ids=np.arange(12) + 100,
        pid="p-1",
    )
    session = read(path)
    assert session.id == "my id" and session.window_s == (-0.1, 0.1) and session.bin_s == 0.02
    assert session.areas == ("a", "b", "c") and session.unit_ids == ("7", "8", "9")
    assert (session.subject, session.date, session.lab, session.align) == ("Cori", "2016-12-14", "L", "stimulus")
    assert session.trial_columns["choice"].tolist() == list(range(12)) and session.trial_ids[0] == 100
    assert session.source["file"] == "rec 1.npz" and session.source["about"] == {"pid": "p-1"} and session.notes == ()
    assert str(tmp_path) not in str(session.source), "no folder of this machine is kept"


def test_ids_in_their_order(tmp_path: Path) -> None:
    assert read(saved(tmp_path, eid="e")).id == "e"
    assert read(saved(tmp_path)).id == "rec 1"
    assert read(saved(tmp_path, id="i"), session_id="mine").id == "mine"


def test_an_unknown_start_is_said_aloud(tmp_path: Path) -> None:
    session = read(saved(tmp_path))
    assert session.window_s == (0.0, 0.2)
    assert "no t0_ms: the window is taken to start at 0 s" in session.notes


def test_bins_in_seconds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", counts=COUNTS, bin_s=0.01)
    assert read(tmp_path / "a.npz").bin_s == 0.01
    assert read(saved(tmp_path, bin_s=0.02)).bin_s == 0.02
    with pytest.raises(DataError, match=r"bin_s says 0.01 s, bin_ms 0.02 s"):
        read(saved(tmp_path, bin_s=0.01))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"bin_ms": np.array([20.0, 20.0])}, "'bin_ms' is an array of shape (2,)"),
        ({"bin_ms": "fast"}, "'bin_ms' is 'fast'"),
        ({"t0_ms": np.nan}, "'t0_ms' is nan"),
        ({"subject": ["a", "b"]}, "'subject' is an array of shape (2,)"),
        ({"area": [["a"], ["b"], ["c"]]}, "'area' is an array of shape (3, 1)"),
        ({"area": ["a", "b"]}, "2 units"),
        ({"counts": COUNTS.transpose(0, 2, 1), "area": ["a"] * 3}, "looks like (trials, units, bins)"),
        ({"counts": COUNTS[0]}, "counts have shape (10, 3)"),
    ],
)
def test_keys_that_cannot_be_meant(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as caught:
        read(saved(tmp_path, **arrays))
    assert says in str(caught.value)


def test_missing_keys_name_what_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", spikes=COUNTS, bin_ms=20)
    with pytest.raises(DataError, match=r"has no array 'counts' \(it has bin_ms, spikes\)"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", counts=COUNTS)
    with pytest.raises(DataError, match=r"neither 'bin_ms' nor 'bin_s'.*np\.savez"):
        read(tmp_path / "a.npz")


def test_what_is_no_value_a_trial_is_named(tmp_path: Path) -> None:
    session = read(saved(tmp_path, wheel=np.zeros((12, 10)), odd=np.zeros(7), ok=np.zeros(12)))
    assert list(session.trial_columns) == ["ok"]
    assert "left out, as they are no single value a trial: odd (7,), wheel (12, 10)" in session.notes


def test_crop_and_rebin_on_reading(tmp_path: Path) -> None:
    session = read(saved(tmp_path), window_s=(0.04, 0.16), bin_ms=40)
    want = COUNTS[:, 2:8].astype(int).reshape(12, 3, 2, 3).sum(axis=2)
    assert (session.counts == want).all() and session.window_s == (0.04, 0.16) and session.bin_s == 0.04
    assert session.source["recorded"] == {"bin_s": 0.02, "window_s": [0.0, 0.2]}


def test_d34_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sessionwise.data.formats import npz

    path, real = saved(tmp_path), npz.read_npz

    def meddle(path: Path) -> Any:
        arrays = real(path)
        saved(tmp_path, extra=1)
        return arrays

    monkeypatch.setattr(npz, "read_npz", meddle)
    with pytest.raises(IntegrityError, match="changed while being read"):
        read(path)


def test_real_recordings(real_data: Path) -> None:
    paths = [*sorted(real_data.glob("steinmetz/*.npz")), *real_data.glob("ibl_single/*.npz")]
    assert len(paths) == 12
    for path in paths[::4] + paths[-1:]:
        session = read(path)
        with np.load(path, allow_pickle=False) as arrays:
            assert (session.counts == arrays["counts"]).all() and session.counts.dtype == np.uint8
            assert session.areas == tuple(arrays["area"]) and session.subject == str(arrays["subject"])
            for name, values in session.trial_columns.items():
                np.testing.assert_array_equal(values, arrays[name])
    assert session.id == "d23a44ef-1402-4ed7-97f5-47e9a7a504d9" and session.window_s == (-0.2, 0.8)
    assert any("beh_wheel_speed (367, 50)" in note for note in session.notes)
    first = read(paths[0])
    assert first.id == "01_Cori_2016-12-14" and first.window_s == (0.0, 0.4) and first.counts.shape == (214, 20, 734)
    assert "stim_on_time" in first.trial_columns and any("no t0_ms" in note for note in first.notes)
