"""The arrow format: data sets written by pyarrow in the layout of Hugging Face's, against scipy's own matrices."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array

from sessionwise.data.formats.arrow import FORMAT, read_trials
from sessionwise.data.recording import Asked
from sessionwise.data.session import Session
from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError, SessionwiseError
from sessionwise.io.files import sha256_file

K, T, N = 24, 10, 5
COUNTS = np.random.default_rng(0).poisson(0.5, (K, T, N)).astype(np.uint8)
REGIONS = ["CA1", "CA1", "DG", "VISp", "void"]
EID = "671c7ea7-6726-4fbe-adeb-f89c2c8e489b"


def rows(counts: np.ndarray = COUNTS, **more: Any) -> dict[str, Any]:
    """Columns of the published pipeline, made by scipy; ``more`` replaces them, None drops one."""
    matrices = [csr_array(trial) for trial in counts]
    k = len(matrices)
    columns = {
        "spikes_sparse_data": [m.data.tolist() for m in matrices],
        "spikes_sparse_indices": [m.indices.tolist() for m in matrices],
        "spikes_sparse_indptr": [m.indptr.tolist() for m in matrices],
        "spikes_sparse_shape": [list(m.shape) for m in matrices],
        "binsize": [0.02] * k,
        "interval_len": [round(0.02 * counts.shape[1], 6)] * k,
        "eid": [EID] * k,
        "cluster_regions": [REGIONS] * k,
        **more,
    }
    return {name: values for name, values in columns.items() if values is not None}


def scipy_counts(columns: dict[str, Any]) -> np.ndarray:
    """(K, T, N) counts as the pipeline's own loader makes them."""
    parts = zip(*(columns[f"spikes_sparse_{p}"] for p in ("data", "indices", "indptr", "shape")), strict=True)
    return np.array([csr_array((d, i, p), shape=tuple(s)).toarray() for d, i, p, s in parts])


def stream(path: Path, columns: dict[str, Any]) -> Path:
    """One arrow stream with the metadata that Hugging Face's writer adds, in batches of ten rows."""
    table = pa.table(columns)
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": {}}}).encode()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=10):
            writer.write_batch(batch)
    return path


def saved(folder: Path, *shards: dict[str, Any]) -> Path:
    """A folder as ``Dataset.save_to_disk`` makes it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for name, columns in zip(names, shards, strict=True):
        stream(folder / name, columns)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "a", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def saved_dict(folder: Path, splits: dict[str, dict[str, Any]]) -> Path:
    """A folder as ``DatasetDict.save_to_disk`` makes it."""
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for name, columns in splits.items():
        saved(folder / name, columns)
    return folder


def part(columns: dict[str, Any], trials: slice) -> dict[str, Any]:
    return {name: values[trials] for name, values in columns.items()}


def read(path: Path, **asked: Any) -> Session:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = FORMAT.read(path, Asked(**asked))
    assert isinstance(found, Session)
    return found


def decoded(path: Path) -> dict[str, Any]:
    """What the child answers, without a process: for the many small cases."""
    return read_trials(str(path), [(str(path), None)])


def refused(path: Path) -> str:
    with pytest.raises(SessionwiseError) as caught:
        decoded(path)
    assert isinstance(caught.value, DataError) and "\n" not in str(caught.value)
    return str(caught.value)


# ---- what is read --------------------------------------------------------------------------------


def test_a_saved_data_set(tmp_path: Path) -> None:
    columns = rows(
        choice=[-1.0, 1.0] * 12,
        reward=[[1]] * K,  # one value in a list, as some pipelines keep it
        block=[0.2] * K,
        whisker=[[0.5] * T] * K,
        cluster_depths=[[1.0] * N] * K,
        cluster_uuids=[[f"u{i}" for i in range(N)]] * K,
        good_clusters=[[1] * N] * K,
        subject=["ZZ_1"] * K,
        lab=["a lab"] * K,
        probe_name=["probe00"] * K,
    )
    path = saved(tmp_path / f"{EID}_aligned", part(columns, slice(0, 15)), part(columns, slice(15, K)))
    session = read(path)
    assert session.counts.dtype == np.uint8 and np.array_equal(session.counts, scipy_counts(columns))
    assert (session.id, session.subject, session.lab) == (EID, "ZZ_1", "a lab")
    assert (session.bin_s, session.window_s, session.align) == (0.02, (0.0, 0.2), None)
    assert session.areas == tuple(REGIONS) and session.unit_ids == ("u0", "u1", "u2", "u3", "u4")
    assert session.trial_ids.tolist() == list(range(K))
    assert sorted(session.trial_columns) == ["block", "choice", "reward"]
    assert session.trial_columns["choice"].tolist() == [-1.0, 1.0] * 12
    assert session.trial_columns["reward"].tolist() == [1] * K
    assert "no window start in the file: taken as 0 s (--start sets it)" in session.notes
    assert "left out, as they are no single value a trial: good_clusters, cluster_depths, whisker" in session.notes
    assert session.source["about"] == {"probe_name": "probe00"}
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert session.source["files"] == {name: sha256_file(path / name) for name in names}
    assert str(tmp_path) not in str(session.source), "no folder of this machine is kept"


def test_predefined_splits_are_kept_in_their_order(tmp_path: Path) -> None:
    columns = rows(choice=list(range(K)))
    splits = {"test": slice(20, K), "val": slice(16, 20), "train": slice(0, 16)}
    path = saved_dict(tmp_path / "a", {name: part(columns, trials) for name, trials in splits.items()})
    session = read(path)
    assert np.array_equal(session.counts, COUNTS) and session.trial_columns["choice"].tolist() == list(range(K))
    assert session.trial_columns["recorded_split"].tolist() == ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    assert sorted(session.source["files"])[0] == "test/data-00000-of-00001.arrow"
    alone = read(saved_dict(tmp_path / "b", {"train": columns}))
    assert "recorded_split" not in alone.trial_columns, "one split is none"


@pytest.mark.parametrize("below", ["", "data"])
def test_parquet_files_as_the_hub_stores_them(tmp_path: Path, below: str) -> None:
    columns = rows()
    folder = tmp_path / "repository" / below
    folder.mkdir(parents=True)
    for i, trials in enumerate((slice(0, 10), slice(10, 20))):
        pq.write_table(pa.table(part(columns, trials)), folder / f"train-{i:05d}-of-00002.parquet", row_group_size=4)
    pq.write_table(pa.table(part(columns, slice(20, K))), folder / "test-00000-of-00001.parquet")
    assert FORMAT.claims(tmp_path / "repository")
    session = read(tmp_path / "repository")
    assert np.array_equal(session.counts, COUNTS)
    assert session.trial_columns["recorded_split"].tolist() == ["train"] * 20 + ["test"] * 4
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks train-00000-of-00002\.parquet"):
        read(tmp_path / "repository")


def test_single_files(tmp_path: Path) -> None:
    table = pa.table(rows())
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.feather"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for path in (stream(tmp_path / "ibl-train.arrow", rows()), tmp_path / "a.parquet", tmp_path / "b.feather"):
        assert FORMAT.claims(path)
        assert np.array_equal(decoded(path)["counts"], COUNTS), path.name
    session = read(tmp_path / "a.parquet", session_id="mine", start_s=-0.1)
    assert session.id == "mine" and session.window_s == (-0.1, 0.1)
    assert session.notes == ("no window start in the file: taken as -0.1 s",)
    assert session.source["sha256"] == sha256_file(tmp_path / "a.parquet")


def test_the_id_without_an_eid_is_the_name(tmp_path: Path) -> None:
    assert read(saved(tmp_path / "name", rows(eid=None, cluster_regions=None))).id == "name"


def test_repeated_and_unsorted_entries_are_summed_as_scipy_does(tmp_path: Path) -> None:
    columns = rows()
    columns["spikes_sparse_data"][3] = [2, 3, 0, 1]
    columns["spikes_sparse_indices"][3] = [4, 4, 1, 0]
    columns["spikes_sparse_indptr"][3] = [0] * 5 + [3] + [4] * 5
    counts = decoded(stream(tmp_path / "a.arrow", columns))["counts"]
    assert counts[3, 4].tolist() == [0, 0, 0, 0, 5] and np.array_equal(counts, scipy_counts(columns))


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int16(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_types_of_counts(tmp_path: Path, kind: pa.DataType, make: Any) -> None:
    columns = rows(np.where(COUNTS == COUNTS.max(), 200, COUNTS))
    want = scipy_counts(columns)
    columns["spikes_sparse_data"] = pa.array(columns["spikes_sparse_data"], make(kind))
    columns["spikes_sparse_shape"] = pa.array(columns["spikes_sparse_shape"], pa.list_(pa.int32(), 2))
    found = decoded(stream(tmp_path / "a.arrow", columns))
    assert np.array_equal(found["counts"], want)
    assert any("whole values" in note for note in found["notes"]) is pa.types.is_floating(kind)


def test_counts_above_a_byte(tmp_path: Path) -> None:
    counts = COUNTS.astype(np.uint16)
    counts[2, 3, 4] = 300
    found = decoded(stream(tmp_path / "a.arrow", rows(counts)))["counts"]
    assert found.dtype == np.uint16 and np.array_equal(found, counts)


def test_intervals_tell_when_trials_were(tmp_path: Path) -> None:
    starts = 3.5 + 2.0 * np.arange(K)
    path = saved(tmp_path / "a", rows(intervals=np.stack([starts, starts + 0.2], 1).tolist()))
    assert np.allclose(read(path).trial_columns["align_time_s"], starts)
    assert np.allclose(read(path, start_s=-0.1).trial_columns["align_time_s"], starts + 0.1), "time 0 is 0.1 s later"
    broken = saved(tmp_path / "b", rows(intervals=[[1.0]] * K))
    assert "align_time_s" not in read(broken).trial_columns


def test_gaps_in_columns(tmp_path: Path) -> None:
    columns = rows(
        cluster_regions=[["CA1", None, "", "DG", "DG"]] * K,
        rt=[None, *range(K - 1)],
        text=pa.array([None, *"b" * (K - 1)]).dictionary_encode(),
        never=[None] * K,
        long=["x" * 5000] * K,
    )
    found = decoded(stream(tmp_path / "a.arrow", columns))
    assert found["areas"] == ["CA1", "", "", "DG", "DG"] and "2 of 5 units have no region" in found["notes"]
    assert np.isnan(found["columns"]["rt"][0]) and found["columns"]["rt"][1:].tolist() == list(range(K - 1))
    assert found["columns"]["text"].tolist() == ["", *"b" * (K - 1)]
    assert "left out, as they are no single value a trial: long, never" in found["notes"]


def test_the_size_of_a_bin(tmp_path: Path) -> None:
    assert decoded(stream(tmp_path / "a.arrow", rows(interval_len=None)))["bin_s"] == 0.02
    assert decoded(stream(tmp_path / "a.arrow", rows(binsize=None)))["bin_s"] == pytest.approx(0.02)
    assert "neither a column 'binsize'" in refused(stream(tmp_path / "a.arrow", rows(binsize=None, interval_len=None)))
    says = refused(stream(tmp_path / "a.arrow", rows(interval_len=[2.0] * K)))
    assert "10 bins of 0.02 s are 0.2 s, interval_len says 2 s" in says
    assert "holds 0.01, 0.02" in refused(stream(tmp_path / "a.arrow", rows(binsize=[0.01] + [0.02] * (K - 1))))
    assert "holds nan" in refused(stream(tmp_path / "a.arrow", rows(binsize=[float("nan")] * K)))


# ---- which paths are claimed ---------------------------------------------------------------------


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    stream(tmp_path / "other.arrow", {"a": [1]})
    (tmp_path / "page.arrow").write_text("<!DOCTYPE html><p>spikes_sparse_data</p>")
    (tmp_path / "short").write_bytes(b"PAR1")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "state.json").write_text("{")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "state.json").write_text('{"runs": 3}')
    for path in tmp_path.iterdir():
        assert FORMAT.claims(path) is False, path.name
    assert FORMAT.claims(tmp_path) is False and FORMAT.claims(tmp_path / "absent") is False


# ---- what is refused -----------------------------------------------------------------------------


def set_in(column: str, trial: int, position: int, value: Any) -> dict[str, Any]:
    columns = rows()
    columns[f"spikes_sparse_{column}"][trial][position] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (set_in("indices", 7, 0, N), "trial 7: has unit index 5 of 5 units"),
        (set_in("indices", 7, -1, -1), "trial 7: has unit index -1"),
        (set_in("data", 2, 0, -3), "trial 2: has value -3, which is no spike count"),
        (set_in("data", K - 1, -1, 70000), "trial 23: has value 70000"),
        (set_in("data", 2, 0, None), "trial 2: has an empty entry in spikes_sparse_data"),
        (set_in("indptr", 4, 0, 1), "trial 4: has row pointers that fall"),
        (set_in("indptr", 4, 5, 10**6), "trial 4: has row pointers that fall"),
        (set_in("indptr", 4, -1, 10**6), "trial 4: has row pointers that fall, or do not run"),
        (set_in("shape", 5, 1, N + 1), "trial 5: has shape (10, 6), trial 0 (10, 5)"),
        (rows(spikes_sparse_shape=[[T, N, 1]] * K), "trial 0: has no shape of two sizes"),
        (rows(spikes_sparse_shape=[[T + 1, N]] * K), "row pointers of another length than 11 bins"),
        (rows(spikes_sparse_shape=[[T, 2**50]] * K, cluster_regions=None), "declares 24 trials x 10 bins x 1125899"),
        (rows(spikes_sparse_shape=[[T, 0]] * K, cluster_regions=None), "of 0 units"),
        (rows(spikes_sparse_data=["1"] * K), "has type string"),
        (rows(spikes_sparse_indices=[[0.5]] * K), "has type list<item: double>"),
        (rows(spikes_sparse_data=[None, *rows()["spikes_sparse_data"][1:]]), "trial 0: has no spikes_sparse_data"),
        (rows(spikes_sparse_data=None), "has no column 'spikes_sparse_data' (it has spikes_sparse_indices"),
        (rows(eid=["a"] * 20 + ["b"] * 4), "holds trials of 2 sessions: a, b"),
        (rows(cluster_regions=[REGIONS] * 23 + [REGIONS[:4]]), "trial 23: has 4 cluster_regions for 5 units"),
        (rows(cluster_regions=[REGIONS] * 23 + [REGIONS[::-1]]), "trial 23: has other cluster_regions than trial 0"),
        (rows(cluster_regions=["CA1"] * K), "'cluster_regions': has type string"),
        (part(rows(), slice(0, 0)), "has no trials"),
    ],
)
def test_matrices_that_cannot_be(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    if columns.get("eid") == []:
        columns = {name: pa.array([], pa.list_(pa.int64())) for name in columns if name.startswith("spikes")}
    assert says in refused(stream(tmp_path / "a.arrow", columns))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table(rows())
    table = table.append_column("eid", table["eid"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert "has two columns of one name" in refused(tmp_path / "a.arrow")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = stream(tmp_path / "a.arrow", rows(choice=[1] * K))
    path.write_bytes(path.read_bytes().replace(b"choice", b"ch\xffice", 1))
    assert "is truncated or damaged ('utf-8' codec" in refused(path)


def test_counts_that_are_rates(tmp_path: Path) -> None:
    columns = rows()
    columns["spikes_sparse_data"] = [[0.5 * v for v in values] for values in columns["spikes_sparse_data"]]
    assert "has value 0.5, which is no spike count" in refused(stream(tmp_path / "a.arrow", columns))
    columns["spikes_sparse_data"][0][0] = float("nan")
    assert "trial 0: has value nan" in refused(stream(tmp_path / "a.arrow", columns))


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "arrow":
        stream(path, rows())
    else:
        pq.write_table(pa.table(rows()), path)
    whole = path.read_bytes()
    for size in (1, 4, 7, 8, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert str(path) in refused(path), size
    path.write_bytes(b"")
    assert "is empty" in refused(path)


def test_a_stream_cut_between_two_batches_is_not_taken_for_complete(tmp_path: Path) -> None:
    path = stream(tmp_path / "a.arrow", rows())
    path.write_bytes(path.read_bytes()[:-8])  # pyarrow itself reads this without a word
    assert pa.ipc.open_stream(path.read_bytes()).read_all().num_rows == K
    assert "without the mark at the end" in refused(path)


def test_flipped_bytes_never_crash_the_program(tmp_path: Path) -> None:
    whole, random = stream(tmp_path / "a.arrow", rows()).read_bytes(), np.random.default_rng(0)
    answers = []
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 4):
            damaged[at] ^= 1 << int(random.integers(8))
        (tmp_path / "b.arrow").write_bytes(damaged)
        try:
            answers.append(decoded(tmp_path / "b.arrow")["counts"].shape)
        except DataError as problem:
            answers.append("\n" not in str(problem))
    assert False not in answers and True in answers


def test_pages_pickles_and_pointers(tmp_path: Path) -> None:
    for content, says in [
        (b"<!DOCTYPE html><html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x80\x04\x95", "is a pickle"),
    ]:
        (tmp_path / "a.arrow").write_bytes(content)
        assert says in refused(tmp_path / "a.arrow")


def test_a_small_file_that_declares_much(tmp_path: Path) -> None:
    many = pa.array(np.zeros(17 * 10**6, np.int64))
    one = pa.ListArray.from_arrays(pa.array([0, len(many)], pa.int32()), many)
    pq.write_table(pa.table({name: one for name in rows() if name.startswith("spikes")}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10**6
    assert "declares" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("state.json", {"_data_files": [{"filename": "../data-00000-of-00001.arrow"}]}, "names inside the folder"),
        ("state.json", {"_data_files": [{"filename": "/etc/passwd"}]}, "lists '/etc/passwd'"),
        ("state.json", {"_data_files": ["a"]}, "lists 'None'"),
        ("state.json", {"_data_files": []}, "lists no files"),
        ("state.json", {"_data_files": [{"filename": "gone.arrow"}]}, "does not exist"),
        ("state.json", {"_data_files": [{"filename": "a"}], "_indices_files": [{"filename": "b"}]}, "another order"),
        ("state.json", [], "is no JSON object"),
        ("dataset_dict.json", {"splits": ["../x"]}, "lists '../x'"),
        ("dataset_dict.json", {"splits": ["train"]}, "does not exist"),
        ("dataset_dict.json", {}, "lists no files or splits"),
    ],
)
def test_descriptions_of_data_sets_are_not_trusted(tmp_path: Path, name: str, content: Any, says: str) -> None:
    path = saved(tmp_path / "a", rows())
    (path / name).write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read(path)
    assert says in str(caught.value)


def test_a_folder_without_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no Hugging Face data set"):
        read(tmp_path)


def test_parts_of_different_columns(tmp_path: Path) -> None:
    other = part(rows(cluster_regions=[[1.5] * N] * K, choice=["left"] * K), slice(0, 4))
    path = saved(tmp_path / "a", rows(choice=[1.0] * K), other)
    with pytest.raises(DataError, match="different columns"):
        read(path)


def test_a_damaged_file_is_refused_through_the_process(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", rows())
    file = path / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a/data-00000-of-00001\.arrow: is truncated"):
        read(path)


def test_d34_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sessionwise.data.formats import arrow

    path = saved(tmp_path / "a", rows())

    def meddle(function: str, path: Path, plan: Sequence[Any], **more: Any) -> Any:
        found = read_trials(str(path), plan)
        stream(path / "data-00000-of-00001.arrow", rows(choice=[1] * K))
        return found

    monkeypatch.setattr(arrow, "call_isolated", meddle)
    with pytest.raises(IntegrityError, match="changed while being read"):
        read(path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stream(tmp_path / "a.arrow", rows())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert FORMAT.claims(path), "which format it is needs no pyarrow"
    with pytest.raises(EnvironmentProblem, match=r"sessionwise\[arrow\]"):
        decoded(path)


def test_a_dictionary_that_unpacks_into_gigabytes_is_refused(tmp_path: Path) -> None:
    """One long text, stored once and named by hundreds of rows: no size in the file tells what it becomes."""
    rows = 400
    table = {
        "spikes_sparse_data": [[1.0]] * rows,
        "spikes_sparse_indices": [[0]] * rows,
        "spikes_sparse_indptr": [[0, 1]] * rows,
        "spikes_sparse_shape": [[1, 1]] * rows,
        "big": ["x" * 900_000] * rows,
    }
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(table), path, use_dictionary=True, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"bomb\.parquet: unpacks into 360 MB"):
        FORMAT.read(path, Asked())


def test_a_compressed_stream_that_unpacks_into_gigabytes_is_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"big": pa.array(np.zeros(40_000_000))})
    path = tmp_path / "bomb.arrow"
    how = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema, options=how) as out:
        out.write_batch(batch)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="unpacks into"):
        FORMAT.read(path, Asked())
