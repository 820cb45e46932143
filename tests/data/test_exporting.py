"""Export: a session that leaves a store and comes back is the same, and torch_brain reads what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.data.exporting import export_store
from sessionwise.data.formats.hdf5 import FORMAT
from sessionwise.data.importing import import_files
from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import Session, crop, make_session, rebin_session
from sessionwise.data.splits import overlap_of, split_of
from sessionwise.data.store import SessionStore, create_store
from sessionwise.errors import EnvironmentProblem, SessionwiseError, UsageError

h5py = pytest.importorskip("h5py")
K, T, N = 30, 25, 6


def a_session(session_id: str = "one", bin_s: float = 0.02, start_s: float = -0.1, **more: Any) -> Session:
    counts = np.random.default_rng(1).poisson(0.5, (K, T, N)).astype(np.uint8)
    counts[0, 0, 0] = 9  # several spikes in the first bin, and the last
    counts[-1, -1, -1] = 7
    about: dict[str, Any] = {
        "align": "stim_on",
        "areas": ["CA1", "VISp"] * (N // 2),
        "unit_ids": [f"probe00:{unit}" for unit in range(N)],
        "subject": "Zoë",
        "lab": "a lab",
        "date": "2021-05-04",
        "trial_ids": np.arange(K) * 2 + 5,
        "trial_columns": {"contrast": np.linspace(0, 1, K), "side": ["left", "rechts ä"] * (K // 2)},
        "source": {"format": "npz", "file": "x.npz"},
    }
    return make_session(session_id, counts, bin_s, start_s=start_s, **{**about, **more})


def a_store(path: Path, *sessions: Session) -> SessionStore:
    store = create_store(path)
    for session in sessions:
        store.add(session)
    return store


def spread() -> np.ndarray:
    """(K,) times of an event, no two windows of half a second together."""
    return 3.25 + np.cumsum(np.random.default_rng(2).uniform(0.6, 9.0, K))


@pytest.mark.parametrize("format", ["hdf5", "npz"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"trial_columns": {"align_time_s": spread(), "contrast": np.linspace(0, 1, K)}},
        {"trial_columns": {"align_time_s": 1.1 + 0.5 * np.arange(K)}},  # windows that touch
        {"trial_columns": {"align_time_s": 1.1 + 0.3 * np.arange(K)}},  # windows that overlap
        {"trial_columns": {"align_time_s": spread()[::-1].copy()}},  # not in the order of their numbers
        {"trial_columns": {"start": np.arange(K), "id": np.arange(K), "keys": np.arange(K), "a/b c": np.arange(K)}},
        {"bin_s": 1 / 60, "start_s": 0.5, "align": None, "areas": None, "unit_ids": None, "subject": None},
        {"align": "none", "trial_columns": {"align_time_s": 1.0 + 0.5 * np.arange(K)}, "date": None, "lab": None},
    ],
    ids=["plain", "apart", "touching", "overlapping", "backwards", "names", "little", "stride"],
)
def test_what_leaves_a_store_comes_back_the_same(tmp_path: Path, format: str, more: dict[str, Any]) -> None:
    session = a_session(**more)
    store = a_store(tmp_path / "store", session)
    [path] = export_store(store, tmp_path / "out", format=format)
    back = create_store(tmp_path / "back")
    import_files([path], back)
    here, there = store.info("one"), back.info("one")
    assert there.content == here.content and np.array_equal(back.session("one").counts, session.counts)
    assert (there.subject, there.lab, there.date, there.areas) == (here.subject, here.lab, here.date, here.areas)
    if session.unit_ids is not None:
        assert there.unit_ids == here.unit_ids
    for name, values in session.trial_columns.items():
        if name != "align_time_s" and (format == "hdf5" or name != "id"):
            assert np.array_equal(there.columns[name], values), name


def test_recorded_times_stay_where_windows_lie_apart(tmp_path: Path) -> None:
    times = spread()
    lines: list[str] = []
    store = a_store(tmp_path / "store", a_session(trial_columns={"align_time_s": times}))
    [path] = export_store(store, tmp_path / "out", say=lines.append)
    found = FORMAT.read(path, Asked())
    assert isinstance(found, Recording)
    assert np.array_equal(found.events["stim_on"], times) and found.default_align == "stim_on"
    assert found.default_window_s == (-0.1, 0.4) and found.default_bin_ms == 20
    assert found.span_s is not None and np.allclose(found.span_s, np.stack([times - 0.1, times + 0.4], axis=1))
    assert lines == [f"[1/1] one.h5: {len(found.spike_s)} spikes, 6 units, 30 trials at their recorded times"]
    assert found.source["exported_from"] == {"format": "npz", "file": "x.npz"}


def test_windows_that_overlap_are_laid_one_after_another_and_it_is_said(tmp_path: Path) -> None:
    times = 1.0 + 0.3 * np.arange(K)
    lines: list[str] = []
    store = a_store(tmp_path / "store", a_session(trial_columns={"align_time_s": times}))
    [path] = export_store(store, tmp_path / "out", say=lines.append)
    found = FORMAT.read(path, Asked())
    assert isinstance(found, Recording) and "one after another" in lines[0]
    assert np.array_equal(found.trial_columns["align_time_s"], times)
    assert (np.diff(found.events["stim_on"]) > 1).all()
    assert any("one after another" in note for note in found.notes)


def test_overlap_survives_an_export_and_so_does_its_remedy(tmp_path: Path) -> None:
    """Windows that were laid apart in the file still overlap in the recording: splits in blocks have to know."""
    times = 1.0 + 0.3 * np.arange(K)
    for known in ({"align_time_s": times}, {}):
        name = "known" if known else "unknown"
        store = a_store(tmp_path / name, a_session(trial_columns=known))
        export_store(store, tmp_path / f"{name}-out")
        again = create_store(tmp_path / f"{name}-again")
        import_files([tmp_path / f"{name}-out"], again)
        info, before = again.info("one"), store.info("one")
        assert info.content == before.content
        assert overlap_of(info, split_of(info)) == overlap_of(before, split_of(before))
        if known:
            assert np.array_equal(info.columns["align_time_s"], times) and info.source["overlap"] == 1.0
            assert any("100.0 % of windows overlap" in note for note in info.notes)
            assert len(split_of(info, kind="blocked").purged) == len(split_of(before, kind="blocked").purged) > 0
        else:
            assert "align_time_s" not in info.columns and info.source["overlap"] is None


@pytest.mark.parametrize(
    "asked",
    [
        {"bin_ms": 10},
        {"bin_ms": 30},
        {"window_s": (-0.09, 0.31)},
        {"window_s": (-0.1, 0.5)},
        {"window_s": (-0.2, 0.4)},
        {"align": "none", "window_s": (0, 0.4)},
    ],
)
def test_no_finer_or_other_bins_than_were_counted(tmp_path: Path, asked: dict[str, Any]) -> None:
    export_store(a_store(tmp_path / "store", a_session()), tmp_path / "out")
    with pytest.raises(SessionwiseError, match=r"holds counts|whole number of bins|binned already"):
        import_files([tmp_path / "out"], create_store(tmp_path / "again"), **asked)


def test_whole_multiples_inside_the_window_are_those_of_the_counts(tmp_path: Path) -> None:
    session = a_session()
    export_store(a_store(tmp_path / "store", session), tmp_path / "out")
    again = create_store(tmp_path / "again")
    import_files([tmp_path / "out"], again, bin_ms=40, window_s=(-0.06, 0.34))
    expected = rebin_session(crop(session, -0.06, 0.34), 0.04)
    assert np.array_equal(again.session("one").counts, expected.counts)


def test_every_spike_stands_inside_its_bin(tmp_path: Path) -> None:
    session = a_session()
    [path] = export_store(a_store(tmp_path / "store", session), tmp_path / "out")
    with h5py.File(path) as file:
        times, units = file["spikes/timestamps"][()], file["spikes/unit_index"][()]
        event = file["trials/align_time"][()]
    assert (np.diff(times) >= 0).all() and len(times) == session.spikes
    counted = np.zeros((K, T, N), int)
    for time, unit in zip(times, units, strict=True):  # one by one, by division
        trial = np.flatnonzero((event - 0.1 <= time) & (time < event + 0.4))
        assert len(trial) == 1
        place = (time - event[trial[0]] + 0.1) / 0.02
        assert 0.01 < place % 1 < 0.99
        counted[trial[0], int(place), unit] += 1
    assert np.array_equal(counted, session.counts)


@pytest.mark.parametrize("format", ["hdf5", "npz"])
def test_files_are_the_same_bytes_kept_and_never_replaced(tmp_path: Path, format: str) -> None:
    store = a_store(tmp_path / "store", a_session("one"), a_session("two/ä"), a_session("three"))
    paths = export_store(store, tmp_path / "a", format=format)
    assert [p.stem for p in paths][:2] == ["one", "three"] and paths[2].stem.startswith("two-")
    again = export_store(store, tmp_path / "b", format=format)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    before, lines = paths[0].stat().st_mtime_ns, list[str]()
    assert export_store(store, tmp_path / "a", format=format, ids=["one"], say=lines.append) == paths[:1]
    assert "is there already with the same content" in lines[0] and paths[0].stat().st_mtime_ns == before
    paths[0].write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there with other content"):
        export_store(store, tmp_path / "a", format=format)
    assert paths[0].read_bytes() == b"mine"
    assert not [p for p in (tmp_path / "a").iterdir() if p.name.startswith(".")]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store", a_session())
    attempts: list[tuple[Callable[[], object], type[Exception], str]] = [
        (
            lambda: export_store(store, tmp_path / "out", format="nwb"),
            UsageError,
            r"'nwb' cannot be written.*hdf5 \| npz",
        ),
        (lambda: export_store(store, tmp_path / "out", ids=["one", "oen"]), UsageError, "no session 'oen'.*'one'"),
        (lambda: export_store(store, store.path / "store.json"), EnvironmentProblem, "cannot be written"),
    ]
    for attempt, problem, message in attempts:
        with pytest.raises(problem, match=message):
            attempt()
    assert not (tmp_path / "out").exists()


def test_larger_bins_of_an_export(tmp_path: Path) -> None:
    session = a_session()
    [path] = export_store(a_store(tmp_path / "store", session), tmp_path / "out")
    back = create_store(tmp_path / "back")
    import_files([path], back, bin_ms=100)
    joined = session.counts.reshape(K, T // 5, 5, N).sum(axis=2)
    assert np.array_equal(back.session("one").counts, joined)


def test_torch_brain_reads_what_is_exported(tmp_path: Path) -> None:
    data = pytest.importorskip("torch_brain.data", reason="torch_brain is not installed")
    session = a_session(trial_columns={"align_time_s": spread(), "side": ["L", "R"] * (K // 2), "sort": np.arange(K)})
    [path] = export_store(a_store(tmp_path / "store", session), tmp_path / "out")
    for lazy in (False, True):
        with h5py.File(path, "r") as file:
            found = data.Data.from_hdf5(file, lazy=lazy)
            assert (found.session.id, found.subject.id) == ("one", "Zoë")
            assert found.units.id.tolist() == list(session.unit_ids or ())
            assert found.units.brain_region.tolist() == list(session.areas or ())
            assert np.array_equal(found.trials.trial_id, session.trial_ids)
            assert found.trials.side.tolist() == ["L", "R"] * (K // 2)
            assert found.domain.is_disjoint() and found.domain.is_sorted()
            starts = found.trials.start
            for trial in (0, 7, K - 1):
                cut = found.slice(starts[trial], starts[trial] + 0.5)
                counts = np.zeros((T, N), int)
                np.add.at(counts, ((cut.spikes.timestamps / 0.02).astype(int), cut.spikes.unit_index), 1)
                assert np.array_equal(counts, session.counts[trial])


@pytest.mark.parametrize("align", [None, "none", "stimulus", "align_time"])
def test_what_time_0_is_comes_back_and_the_session_is_the_same(tmp_path: Path, align: str | None) -> None:
    store = a_store(tmp_path / "store", a_session(align=align))
    export_store(store, tmp_path / "out")
    assert import_files([tmp_path / "out"], store).unchanged == ("one",)
    assert store.info("one").align == align


def test_units_without_names_come_back_without_names(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store", a_session(unit_ids=None))
    export_store(store, tmp_path / "out")
    assert import_files([tmp_path / "out"], store).unchanged == ("one",)
