"""IBL session folders against what was written into them, and everything that such folders get wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from alf_trees import (
    Clusters,
    Spikes,
    make_spikes,
    make_trials,
    session_folder,
    stimuli,
    write_insertion,
    write_metrics,
    write_parquet,
    write_trials,
)

from sessionwise.data.binning import session_from
from sessionwise.data.formats.alf import FORMAT, read_session
from sessionwise.data.formats.alf_trials import trial_mask
from sessionwise.data.formats.registry import find_recordings, guess_format
from sessionwise.data.importing import import_to
from sessionwise.data.recording import Asked, Recording
from sessionwise.errors import DataError, EnvironmentProblem
from sessionwise.io.files import sha256_file

TRIALS, CLUSTERS = 12, 6
OLD, NEW = "2024-03-22", "2024-05-06"
SPIKES = make_spikes(TRIALS, CLUSTERS, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session without spikes: trials as single arrays."""
    path = session_folder(tmp_path, "examplelab", "ZZ_001", "2021-05-04", 2)
    write_trials(path, make_trials(TRIALS), table=False)
    return path


@pytest.fixture
def session(folder: Path) -> Path:
    """A session with one insertion."""
    write_insertion(folder, "probe00", SPIKES)
    return folder


def read(path: Path, **asked: object) -> Recording:
    return FORMAT.read(path, Asked(**asked))  # type: ignore[return-value, arg-type]


def spikes_of(recording: Recording, unit: str) -> np.ndarray:
    return recording.spike_s[recording.spike_unit == recording.unit_ids.index(unit)]


def refused(path: Path, *words: str, **asked: object) -> DataError:
    """The one line of a refusal, which holds all the words."""
    with pytest.raises(DataError) as caught:
        read(path, **asked)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# ---- what is there -------------------------------------------------------------------------------


def test_all_that_was_written_is_read(folder: Path) -> None:
    label = [1.0, 0.667, 1.0, 0.333, 0.0, 1.0]
    names = ["CA1", "VISp", "CA1", "LP", "", "DG"]
    write_insertion(folder, "probe00", SPIKES, clusters=Clusters(range(CLUSTERS), label, names))
    recording = read(folder)
    assert recording.id == "examplelab/ZZ_001/2021-05-04/002"
    assert (recording.lab, recording.subject, recording.date) == ("examplelab", "ZZ_001", "2021-05-04")
    assert recording.unit_ids == tuple(f"probe00:{c}" for c in range(CLUSTERS))
    for c in range(CLUSTERS):
        np.testing.assert_array_equal(spikes_of(recording, f"probe00:{c}"), SPIKES.times[SPIKES.clusters == c])
    assert recording.areas == tuple(names)
    assert recording.good is not None and recording.good.tolist() == [True, False, True, False, False, True]
    assert (recording.default_align, recording.default_window_s) == ("stimOn_times", (-0.5, 2.5))
    trials = make_trials(TRIALS)
    events = {name for name in trials if name.endswith("_times")} | {"intervals_0", "intervals_1"}
    assert set(recording.events) == events and set(recording.trial_columns) == set(trials)
    for name, values in trials.items():
        np.testing.assert_array_equal(recording.trial_columns[name], values)
    assert recording.trial_mask is not None and recording.trial_mask.all() and recording.mask_name == "ibl"
    assert any("1 of 6 units have no region" in note for note in recording.notes)


def test_the_source_names_every_file_with_its_hash(session: Path) -> None:
    source = read(session).source
    assert source["file"] == "examplelab/Subjects/ZZ_001/2021-05-04/002"
    written = {p.relative_to(session).as_posix() for p in session.rglob("*.npy")}
    assert set(source["files"]) == written
    assert all(sha256_file(session / name) == found for name, found in source["files"].items())
    assert source["probes"] == {
        "probe00": {"sorter": "pykilosort", "revision": "", "units": CLUSTERS, "clusters_without_spikes": 0}
    }


def test_a_table_says_the_same_as_single_arrays(session: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    other = session_folder(tmp_path / "other", "examplelab", "ZZ_001", "2021-05-04", 2)
    trials = make_trials(TRIALS) | {"included": np.arange(TRIALS) % 2 == 0, "phase": np.array(["a", "b"] * 6)}
    write_trials(other, trials)
    write_insertion(other, "probe00", SPIKES)
    single, table = read(session), read(other)
    assert set(table.trial_columns) == set(single.trial_columns) | {"included", "phase"}
    for name in single.trial_columns:
        np.testing.assert_array_equal(single.trial_columns[name], table.trial_columns[name])
    assert table.trial_columns["included"].tolist() == [True, False] * 6
    assert table.trial_columns["phase"].tolist() == ["a", "b"] * 6
    assert set(single.events) == set(table.events)
    np.testing.assert_array_equal(single.trial_mask, table.trial_mask)


def test_an_array_beside_the_table_adds_to_it_and_a_newer_one_supersedes(session: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for file in (session / "alf").glob("_ibl_trials.*"):
        file.unlink()
    trials = make_trials(TRIALS)
    write_trials(session, trials)
    np.save(session / "alf" / "_ibl_trials.quiescencePeriod.npy", np.arange(TRIALS) / 10)
    np.save(session / "alf" / "_ibl_trials.choice.npy", np.zeros(TRIALS))  # as old as the table, which counts
    (session / "alf" / f"#{NEW}#").mkdir()
    np.save(session / "alf" / f"#{NEW}#" / "_ibl_trials.probabilityLeft.npy", np.full(TRIALS, 0.8))
    recording = read(session)
    assert recording.trial_columns["quiescencePeriod"].tolist() == (np.arange(TRIALS) / 10).tolist()
    np.testing.assert_array_equal(recording.trial_columns["choice"], trials["choice"])
    assert set(recording.trial_columns["probabilityLeft"]) == {0.8}
    assert any("trials are of revision" in note and NEW in note for note in recording.notes)


def test_the_folder_alf_stands_for_its_session(session: Path) -> None:
    assert FORMAT.claims(session) and FORMAT.claims(session / "alf")
    own, alf = read(session), read(session / "alf")
    assert own.id == alf.id and own.source == alf.source
    assert read(session, session_id="mine").id == "mine"


def test_a_folder_with_another_name_is_its_own_id(session: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a recording"
    shutil.move(session, moved)
    recording = read(moved)
    assert (recording.id, recording.subject, recording.lab, recording.date) == ("a recording", None, None, None)


def test_probes_are_merged_and_their_units_kept_apart(folder: Path) -> None:
    second = make_spikes(TRIALS, 4, seed=8)
    write_insertion(folder, "probe00", SPIKES, clusters=Clusters(range(CLUSTERS), [1.0] * CLUSTERS, ["CA1"] * CLUSTERS))
    write_insertion(folder, "probe01", second)
    recording = read(folder)
    assert recording.unit_ids == tuple([f"probe00:{c}" for c in range(6)] + [f"probe01:{c}" for c in range(4)])
    for probe, spikes in (("probe00", SPIKES), ("probe01", second)):
        for c in range(spikes.n_clusters):
            np.testing.assert_array_equal(spikes_of(recording, f"{probe}:{c}"), spikes.times[spikes.clusters == c])
    assert recording.areas == ("CA1",) * 6 + ("",) * 4
    assert recording.good is not None and recording.good.tolist() == [True] * 6 + [False] * 4
    assert sum("probe00 only" in note for note in recording.notes) == 2
    assert (np.diff(recording.spike_s) >= 0).all() and len(recording.spike_s) == len(SPIKES.times) + len(second.times)
    binned = session_from(recording, Asked(window_s=(-0.1, 0.3)))
    assert not any("sorted" in note for note in binned.notes)
    one = read_session(folder, Asked(), ["probe01"])
    assert one.unit_ids == tuple(f"probe01:{c}" for c in range(4)) and one.good is None and one.areas is None
    assert "other insertions of the session were left out: probe00" in one.notes
    with pytest.raises(DataError, match="probe02"):
        read_session(folder, Asked(), ["probe02"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    clusters=st.lists(st.one_of(st.integers(0, 9), st.sampled_from([2**24 + 1, 2**31])), min_size=1, max_size=40),
    kind=st.sampled_from([np.int64, np.uint32, np.float64]),
    column=st.booleans(),
)
def test_each_spike_belongs_to_its_cluster(folder: Path, clusters: list[int], kind: type, column: bool) -> None:
    times = np.random.default_rng(len(clusters)).permutation(len(clusters)) / 7
    shape = (-1, 1) if column else (-1,)
    spikes = Spikes(times.reshape(shape), np.array(clusters, kind).reshape(shape), 0)
    write_insertion(folder, "probe00", spikes, clusters=Clusters())
    recording = read(folder)
    assert recording.unit_ids == tuple(f"probe00:{c}" for c in sorted(set(clusters)))
    found = [recording.unit_ids[unit] for unit in recording.spike_unit]
    assert found == [f"probe00:{c}" for c in clusters]
    assert recording.spike_s.tolist() == times.tolist()
    assert any("no clusters.*" in note for note in recording.notes)


def test_counts_are_those_of_a_brute_force(session: Path) -> None:
    binned = session_from(read(session), Asked(window_s=(-0.1, 0.3), bin_ms=100))
    for trial, onset in enumerate(stimuli(TRIALS)):
        for t in range(4):
            low, high = onset - 0.1 + 0.1 * t, onset + 0.1 * t
            inside = SPIKES.clusters[(SPIKES.times >= low) & (SPIKES.times < high)]
            assert binned.counts[trial, t].tolist() == np.bincount(inside, minlength=CLUSTERS).tolist()


# ---- the trial mask ------------------------------------------------------------------------------


def test_the_mask_keeps_what_mtm_keeps() -> None:
    nan = np.nan
    cases = [  # stimOn, firstMovement, choice, feedback, feedbackType, probabilityLeft, kept
        (0.0, 0.5, 1.0, 1.0, 1.0, 0.5, True),
        (0.0, 0.5, -1.0, 1.0, -1.0, 0.2, True),
        (0.0, 0.08, 1.0, 1.0, 1.0, 0.5, True),
        (0.0, 0.0799, 1.0, 1.0, 1.0, 0.5, False),
        (0.0, 2.0, 1.0, 3.0, 1.0, 0.5, True),
        (0.0, 2.0001, 1.0, 3.0, 1.0, 0.5, False),
        (1.0, 0.5, 1.0, 1.0, 1.0, 0.5, False),  # moved before the stimulus
        (0.0, 0.5, 0.0, 1.0, 1.0, 0.5, False),  # no choice
        (nan, 0.5, 1.0, 1.0, 1.0, 0.5, False),
        (0.0, nan, 1.0, 1.0, 1.0, 0.5, False),
        (0.0, 0.5, nan, 1.0, 1.0, 0.5, False),
        (0.0, 0.5, 1.0, nan, 1.0, 0.5, False),
        (0.0, 0.5, 1.0, 1.0, nan, 0.5, False),
        (0.0, 0.5, 1.0, 1.0, 1.0, nan, False),
    ]
    names = ["stimOn_times", "firstMovement_times", "choice", "feedback_times", "feedbackType", "probabilityLeft"]
    values = {name: np.array([case[i] for case in cases], float) for i, name in enumerate(names)}
    mask = trial_mask(values, [])
    assert mask is not None and mask.tolist() == [case[-1] for case in cases]


def test_the_mask_drops_trials_and_says_how_many(session: Path) -> None:
    choice = np.ones(TRIALS)
    choice[[2, 5]] = 0
    np.save(session / "alf" / "_ibl_trials.choice.npy", choice)
    recording = read(session)
    masked = session_from(recording, Asked(trial_mask=True, window_s=(0.0, 0.4)))
    assert masked.trial_ids.tolist() == [k for k in range(TRIALS) if k not in (2, 5)]
    assert masked.source["trials"]["masked"] == 2
    assert session_from(recording, Asked(window_s=(0.0, 0.4))).n_trials == TRIALS


def test_without_an_attribute_there_is_no_mask(session: Path) -> None:
    (session / "alf" / "_ibl_trials.firstMovement_times.npy").unlink()
    recording = read(session)
    assert recording.trial_mask is None and "no trial mask: firstMovement_times missing" in recording.notes


# ---- sorters and revisions -----------------------------------------------------------------------


def test_of_two_sorters_none_is_taken_by_chance(session: Path) -> None:
    other = make_spikes(TRIALS, 3, seed=9)
    write_insertion(session, "probe00", other, sorter="iblsorter")
    refused(session, "2 sorters: iblsorter, pykilosort", "--sorter pykilosort")
    recording = read(session, sorter="iblsorter")
    assert len(recording.unit_ids) == 3 and recording.source["probes"]["probe00"]["sorter"] == "iblsorter"
    assert len(read(session, sorter="pykilosort").unit_ids) == CLUSTERS
    refused(session, "no spikes of sorter 'kilosort4'", "--sorter iblsorter", sorter="kilosort4")


def test_spikes_beside_the_sorters_folders(folder: Path) -> None:
    write_insertion(folder, "probe00", SPIKES, sorter=".")
    assert read(folder).source["probes"]["probe00"]["sorter"] == "."
    write_insertion(folder, "probe00", make_spikes(TRIALS, 3, seed=9))
    refused(folder, "2 sorters: ., pykilosort")
    assert len(read(folder, sorter=".").unit_ids) == CLUSTERS


def revised(folder: Path) -> dict[str, Spikes]:
    """Three revisions of the spikes: 2, 3 and 4 clusters."""
    found = {name: make_spikes(TRIALS, 2 + i, seed=20 + i) for i, name in enumerate(("", OLD, NEW))}
    for name, spikes in found.items():
        write_insertion(folder, "probe00", spikes, revision=name)
    return found


def test_of_three_revisions_none_is_taken_by_chance(folder: Path) -> None:
    revised(folder)
    refused(folder, f"3 revisions of spikes.times: unrevised, {OLD}, {NEW}", f"--revision {NEW}")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [(NEW, NEW), (OLD, OLD), ("2024-04-01", OLD), ("2030-01-01", NEW), ("2020-01-01", ""), ("none", "")],
)
def test_the_last_revision_up_to_the_one_asked_for(folder: Path, asked: str, chosen: str) -> None:
    spikes = revised(folder)[chosen]
    recording = read(folder, revision=asked)
    assert recording.source["probes"]["probe00"]["revision"] == chosen
    assert recording.spike_s.tolist() == spikes.times.tolist()
    files = [name for name in recording.source["files"] if "probe00" in name]
    assert len(files) == 3 and all((f"#{chosen}#" in name) == bool(chosen) for name in files)
    said = any(f"the last up to {asked}" in note for note in recording.notes)
    assert said == (asked not in (chosen, "none"))


def test_one_revision_needs_no_name(folder: Path) -> None:
    write_insertion(folder, "probe00", SPIKES, revision=NEW)
    recording = read(folder)
    assert recording.source["probes"]["probe00"]["revision"] == NEW
    refused(folder, f"no spikes up to revision {OLD}", NEW, revision=OLD)


def test_spikes_of_two_revisions_are_never_mixed(folder: Path) -> None:
    place = write_insertion(folder, "probe00", SPIKES, revision=NEW)
    shutil.move(place / "spikes.clusters.npy", place.parent / "spikes.clusters.npy")
    refused(folder, f"spikes.times of revision {NEW}, spikes.clusters of unrevised")
    (place.parent / "spikes.clusters.npy").unlink()
    refused(folder, "no spikes.clusters.npy")


def test_another_revision_than_the_spikes_does_not_describe_them(session: Path) -> None:
    sorter = session / "alf" / "probe00" / "pykilosort"
    write_metrics(sorter, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    (sorter / f"#{NEW}#").mkdir()
    write_metrics(sorter / f"#{NEW}#", [1.0] * CLUSTERS)
    good = read(session).good
    assert good is not None and good.tolist() == [True] + [False] * 5
    (sorter / "clusters.metrics.csv").unlink()
    recording = read(session)
    assert recording.good is None and any("clusters.metrics not of the spikes' revision" in n for n in recording.notes)
    write_metrics(sorter, [1.0] * CLUSTERS)
    write_insertion(session, "probe00", SPIKES, revision=OLD)  # an older list does not fit newer spikes either
    recording = read(session, revision=OLD)
    assert recording.good is None and len(recording.unit_ids) == CLUSTERS


def test_trials_follow_the_revision_or_are_said(session: Path) -> None:
    later = make_trials(TRIALS, seed=1)
    write_trials(session, later, table=False, revision="2025-03-03")
    assert read(session).trial_columns["choice"].tolist() == later["choice"].tolist()
    first = make_trials(TRIALS)
    assert read(session, revision=OLD).trial_columns["choice"].tolist() == first["choice"].tolist()
    for file in (session / "alf").glob("_ibl_trials.*"):
        file.unlink()
    write_trials(session, first, table=False, revision="2026-01-01")
    recording = read(session, revision=OLD)
    assert recording.trial_columns["choice"].tolist() == later["choice"].tolist()
    assert any("revision 2025-03-03 only" in note for note in recording.notes)


# ---- clusters, quality, regions ------------------------------------------------------------------


def test_slots_without_a_spike_are_left_out_and_counted(folder: Path) -> None:
    spikes = Spikes(SPIKES.times, SPIKES.clusters * 2, 2 * CLUSTERS + 3)  # clusters 0, 2, ... 10 of 15
    label = [1.0 if c % 4 == 0 else 0.5 for c in range(15)]
    write_insertion(folder, "probe00", spikes, clusters=Clusters(range(15), label))
    recording = read(folder)
    assert recording.unit_ids == tuple(f"probe00:{c}" for c in range(0, 12, 2))
    assert recording.good is not None and recording.good.tolist() == [True, False] * 3
    assert "probe00: 9 of 15 clusters have no spike and were left out" in recording.notes
    assert recording.source["probes"]["probe00"]["clusters_without_spikes"] == 9


def test_clusters_that_nobody_lists_are_refused(folder: Path) -> None:
    write_insertion(folder, "probe00", SPIKES, clusters=Clusters(range(4)))
    refused(folder, "2 clusters with spikes that clusters.* does not list: 4, 5")


def test_metrics_in_parquet_and_in_another_order(session: Path) -> None:
    pytest.importorskip("pyarrow")
    place = session / "alf" / "probe00" / "pykilosort"
    write_metrics(place, [1.0, 0.5, 1.0], "pqt", ids=[4, 0, 2])
    recording = read(session)
    assert recording.good is not None and recording.good.tolist() == [False, False, True, False, True, False]
    assert "probe00: 3 of 6 units are not in clusters.metrics: not good" in recording.notes


@pytest.mark.parametrize(
    ("ids", "words"),
    [([0, 1, 1, 2, 3, 4], "lists clusters twice: 1"), ([0, 1, 2, 3, 4, 17], "clusters.metrics lists 17")],
)
def test_metrics_that_contradict_are_refused(session: Path, ids: list[int], words: str) -> None:
    write_metrics(session / "alf" / "probe00" / "pykilosort", [1.0] * 6, ids=ids)
    refused(session, words, "clusters.metrics.csv")


def test_rows_of_clusters_must_be_as_many_everywhere(session: Path) -> None:
    place = session / "alf" / "probe00" / "pykilosort"
    (place / "clusters.uuids.csv").write_text("uuids\n" + "\n".join(f"id-{i}" for i in range(5)) + "\n")
    refused(session, "clusters.channels has 6 rows", "clusters.uuids has 5 rows")


@pytest.mark.parametrize("shape", [(), (6, 2)])
def test_channels_that_are_no_column_are_refused(session: Path, shape: tuple[int, ...]) -> None:
    np.save(session / "alf" / "probe00" / "pykilosort" / "clusters.channels.npy", np.zeros(shape))
    refused(session, f"clusters.channels.npy: has shape {shape}")


def test_regions_by_the_channel_of_a_cluster(folder: Path) -> None:
    channels = [3, 0, 3, 1, 2, 2]
    extra = {"channels.brainLocationIds_ccf_2017": np.array([10, 20, 30, 40])}
    place = write_insertion(folder, "probe00", SPIKES, clusters=Clusters(channels, extra=extra))
    recording = read(folder)
    assert recording.areas == ("40", "10", "40", "20", "30", "30")
    assert "probe00: regions are ids of the Allen atlas, not names" in recording.notes
    np.save(place / "channels.brainLocationAcronyms_ccf_2017.npy", np.array(["a", "b", "c", "d"]))
    assert read(folder).areas == ("d", "a", "d", "b", "c", "c")
    np.save(place / "channels.brainLocationAcronyms_ccf_2017.npy", np.array(["a", "b", "c"]))
    refused(folder, "clusters.channels names channel 3", "has 3 rows")


def test_regions_by_the_sites_of_the_probe(folder: Path) -> None:
    extra = {"channels.rawInd": np.array([5, 4, 1, 0])}  # the sorter dropped two of six sites
    write_insertion(folder, "probe00", SPIKES, clusters=Clusters([3, 0, 3, 1, 2, 2], extra=extra))
    sites = np.array([100, 101, 102, 103, 104, 105])
    np.save(folder / "alf" / "probe00" / "electrodeSites.brainLocationIds_ccf_2017.npy", sites)
    assert read(folder).areas == ("100", "105", "100", "104", "101", "101")


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        (SPIKES.clusters[:-3], f"spikes.times has {len(SPIKES.times)} spikes, spikes.clusters {len(SPIKES.times) - 3}"),
        (SPIKES.clusters + 0.5, "cluster ids are no whole numbers, first 0.5"),
        (np.where(SPIKES.clusters == 0, -1, SPIKES.clusters), "cluster ids are negative, first -1"),
        (SPIKES.clusters.astype(str), "holds <U"),
        (np.stack([SPIKES.clusters] * 2, 1), "shape"),
    ],
)
def test_spikes_without_a_cluster_each_are_refused(folder: Path, clusters: np.ndarray, words: str) -> None:
    write_insertion(folder, "probe00", Spikes(SPIKES.times, clusters, CLUSTERS))
    refused(folder, words)


def test_no_spikes_at_all(folder: Path) -> None:
    refused(folder, "has no spike times", "alf/probe*/<sorter>/spikes.times.npy")
    write_insertion(folder, "probe00", Spikes(np.zeros(0), np.zeros(0, np.int32), CLUSTERS))
    refused(folder, "has no spikes")


# ---- broken and hostile files --------------------------------------------------------------------


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps([1.0, 2.0]))


def objects(path: Path) -> None:
    np.save(path, np.array([1.0, "two"], object), allow_pickle=True)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-11])


def false_shape(path: Path) -> None:
    np.save(path, np.zeros(3))
    path.write_bytes(path.read_bytes().replace(b"(3,), }     ", b"(1 << 50,) }")[:200])


def huge(path: Path) -> None:
    np.save(path, np.zeros(3))
    path.write_bytes(path.read_bytes().replace(b"(3,), }" + b" " * 16, b"(1125899906842624,), }" + b" "))


def broken_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"False,", b"False("))


HOSTILE = {
    "header": (broken_header, ""),
    "truncated": (truncated, "truncated"),
    "pickle": (pickled, "pickle"),
    "objects": (objects, "objects"),
    "page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>"), "HTML page"),
    "pointer": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes): interrupted download?"),
    "huge": (huge, "declares"),
    "expression": (false_shape, ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["probe00/pykilosort/spikes.times.npy", "_ibl_trials.choice.npy"])
def test_a_hostile_array_is_one_line(session: Path, kind: str, name: str) -> None:
    spoil, words = HOSTILE[kind]
    spoil(session / "alf" / name)
    problem = refused(session, words, Path(name).name)
    assert problem.exit_code == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not found</html>", "is an HTML page"),
        (b"cluster_id,label\n0,1.0\n1\n", "line 3 has 1 cells, the header 2"),
        (b"cluster_id,label\n0,\xff\xfe\n", "is no CSV text"),
        (b"", "is empty"),
        (b"\n\n", "has no header"),
        (b"cluster_id,label\n0.5,1.0\n", "no whole numbers"),
        (b"cluster_id,label\n,1.0\n", "no whole numbers"),
    ],
)
def test_a_hostile_table_of_metrics_is_one_line(session: Path, content: bytes, words: str) -> None:
    (session / "alf" / "probe00" / "pykilosort" / "clusters.metrics.csv").write_bytes(content)
    refused(session, words, "clusters.metrics.csv")


def damaged_table(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "truncated or damaged"),
        (damaged_table, "truncated or damaged"),
        (lambda path: path.write_bytes(b"<html></html>"), "is an HTML page"),
        (lambda path: write_parquet(path, {"choice": [[1.0]] * TRIALS}), "column 'choice': has type list<"),
        (lambda path: write_parquet(path, {"choice": [b"x"] * TRIALS}), "column 'choice': has type binary"),
        (lambda path: write_parquet(path, {"phase": ["x" * 2000] * TRIALS}), "more than 1000 characters"),
    ],
)
def test_a_hostile_table_of_trials_is_one_line(session: Path, spoil: object, words: str) -> None:
    pytest.importorskip("pyarrow")
    write_trials(session, make_trials(TRIALS))
    spoil(session / "alf" / "_ibl_trials.table.pqt")  # type: ignore[operator]
    refused(session, words, "_ibl_trials.table.pqt")


def test_a_table_that_unpacks_into_gigabytes_is_refused(session: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = pa.array(np.zeros(40_000_000))
    path = session / "alf" / "_ibl_trials.table.pqt"
    parquet.write_table(pa.table({"choice": rows}), path, compression="zstd", row_group_size=40_000_000)
    assert path.stat().st_size < 10**6
    refused(session, "declares", "at most 100x")


def test_without_pyarrow_a_table_names_the_extra(session: Path, tmp_path: Path, monkeypatch: object) -> None:
    pytest.importorskip("pyarrow")
    write_trials(session, make_trials(TRIALS))
    shim = tmp_path / "shim" / "pyarrow"
    shim.mkdir(parents=True)
    (shim / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(shim.parent))  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[ibl\]'"):
        read(session)


def test_attributes_of_different_lengths_are_refused_by_name(session: Path) -> None:
    np.save(session / "alf" / "_ibl_trials.itiDuration.npy", np.zeros(TRIALS - 2))
    refused(session, "trials.itiDuration has 10 rows", "others 12", "_ibl_trials.itiDuration.npy")


def test_what_is_no_single_value_a_trial_is_left_out_and_said(session: Path) -> None:
    np.save(session / "alf" / "_ibl_trials.wheel.npy", np.zeros((TRIALS, 5)))
    recording = read(session)
    assert "wheel" not in recording.trial_columns
    assert "left out, as they are no single value a trial: wheel" in recording.notes


@pytest.mark.parametrize("name", ["probe00/pykilosort/spikes.times.npy", "_ibl_trials.stimOn_times.npy"])
def test_a_link_out_of_the_session_is_refused(session: Path, tmp_path: Path, name: str) -> None:
    file = session / "alf" / name
    shutil.move(file, tmp_path / "elsewhere.npy")
    file.symlink_to(tmp_path / "elsewhere.npy")
    refused(session, "is a link that leads out of the session folder", name)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere.npy")
    refused(session, "is a broken link")
    file.unlink()
    os.mkfifo(file)
    refused(session, "is not a regular file")


def test_a_linked_folder_of_a_probe_is_refused_but_a_linked_session_is_read(session: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(session)
    assert read(link).spike_s.tolist() == SPIKES.times.tolist()
    shutil.move(session / "alf" / "probe00", tmp_path / "probe00")
    (session / "alf" / "probe00").symlink_to(tmp_path / "probe00")
    refused(session, "leads out of the session folder")


# ---- among the other formats ---------------------------------------------------------------------


def test_what_is_no_session_is_not_claimed(tmp_path: Path, session: Path) -> None:
    assert guess_format(session) is FORMAT
    lab = session.parents[2]
    assert not any(FORMAT.claims(p) for p in (tmp_path, lab, tmp_path / "missing", session / "alf" / "probe00"))
    (tmp_path / "alf").write_text("a file")
    (tmp_path / "empty" / "alf").mkdir(parents=True)
    assert not FORMAT.claims(tmp_path) and not FORMAT.claims(tmp_path / "empty")
    refused(tmp_path / "empty", "has no spike times")
    refused(tmp_path / "nothing", "has no folder alf")


def test_a_folder_of_sessions_is_imported(tmp_path: Path) -> None:
    root = tmp_path / "ONE"
    for number, subject in enumerate(["ZZ_001", "ZZ_002"]):
        path = session_folder(root, "examplelab", subject, "2021-05-04")
        write_trials(path, make_trials(TRIALS, number), table=False)
        write_insertion(path, "probe00", make_spikes(TRIALS, 4, seed=number))
    assert [format for _, format in find_recordings(root)] == [FORMAT, FORMAT]
    store, summary = import_to(tmp_path / "store", [root], bin_ms=20, window_s=(-0.5, 2.5))
    assert summary.added == ("examplelab/ZZ_001/2021-05-04/001", "examplelab/ZZ_002/2021-05-04/001")
    assert {(store.info(i).n_trials, store.info(i).n_bins, store.info(i).n_units) for i in store} == {(12, 150, 4)}


def test_a_session_without_trials_is_cut_at_a_stride(tmp_path: Path) -> None:
    path = session_folder(tmp_path, "examplelab", "ZZ_001", "2021-05-04")
    write_insertion(path, "probe00", SPIKES)
    recording = read(path)
    assert not recording.events and "no _ibl_trials.* in alf: no trials, no events" in recording.notes
    with pytest.raises(DataError, match="no trials"):
        session_from(recording, Asked())
    binned = session_from(recording, Asked(align="none", window_s=(0.0, 3.0)))
    assert binned.n_trials == int((SPIKES.times[-1] - SPIKES.times[0]) // 3) and binned.n_units == CLUSTERS


def test_a_probe_whose_times_are_missing_is_not_left_out_in_silence(folder: Path) -> None:
    write_insertion(folder, "probe00", SPIKES)
    write_insertion(folder, "probe01", make_spikes(TRIALS, 4, seed=8))
    [times] = (folder / "alf" / "probe01").rglob("spikes.times.npy")
    times.unlink()
    with pytest.raises(DataError, match=r"probe01: has spikes.* but no spikes.times"):
        read(folder)
    assert read_session(folder, Asked(), ["probe00"]).unit_ids == tuple(f"probe00:{c}" for c in range(CLUSTERS))
    for spikes in (folder / "alf" / "probe01").rglob("spikes.*"):
        spikes.unlink()
    np.save(times.parent / "clusters.channels.npy", np.arange(4))
    assert any("probe01 has clusters.channels but no spikes: left out" in note for note in read(folder).notes)
