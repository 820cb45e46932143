"""Stores give back what they got, notice every change, refuse what does not fit, and are whole at any time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionwise.data import store as store_module
from sessionwise.data.session import Session, make_session
from sessionwise.data.store import SessionStore, check_store, create_store, open_store, shared_trials
from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError, SessionwiseError, UsageError


def session(id: str = "S", seed: int = 0, trials: int = 12, **more: Any) -> Session:
    counts = more.pop("counts", np.random.default_rng(seed).poisson(1.0, (trials, 4, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_session(id, counts, more.pop("bin_s", 0.02), **more)


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    made = create_store(tmp_path / "store")
    for seed, (id, subject) in enumerate({"b": "Cori", "a": "Hench", "c": None}.items()):
        made.add(session(id, seed, 12 + seed, subject=subject, date=f"2017-0{seed + 1}-01"))
    return made


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.02, 1 / 60, 0.05]), st.integers(-5, 5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int, bin_s: float, start: int) -> None:
    rng = np.random.default_rng(seed)
    made = session(
        "S",
        bin_s=bin_s,
        counts=rng.integers(0, 2, (rng.integers(10, 20), rng.integers(1, 6), rng.integers(1, 6)))
        + np.eye(1, dtype=int),
        window_s=None,
        subject="Süß",
        notes=["a note"],
        source={"file": "x.npz", "sha256": "00"},
    )
    folder = tmp_path_factory.mktemp("store")
    create_store(folder).add(made)
    back = open_store(folder).session("S")
    assert (back.counts == made.counts).all() and back.counts.dtype == made.counts.dtype
    for name in ("id", "bin_s", "window_s", "align", "unit_ids", "areas", "subject", "lab", "date", "notes", "source"):
        assert getattr(back, name) == getattr(made, name), name


def test_columns_and_metadata_come_back(tmp_path: Path) -> None:
    columns = {
        "speed": np.array([np.nan, np.inf, -np.inf, *np.linspace(0, 1 / 3, 9)], np.float32),
        "choice": np.arange(12, dtype=np.int8) - 5,
        "right": np.arange(12) % 2 == 0,
        "name": np.array(["x", "yé"] * 6),
    }
    made = session(
        trial_columns=columns, areas=["VISp", "CA1"] * 2 + ["x"], unit_ids=range(5), trial_ids=np.arange(12) * 3
    )
    create_store(tmp_path / "s").add(made)
    back = open_store(tmp_path / "s").session("S")
    for name, values in columns.items():
        assert back.trial_columns[name].dtype == values.dtype
        np.testing.assert_array_equal(back.trial_columns[name], values)
    assert back.areas == ("VISp", "CA1", "VISp", "CA1", "x") and back.unit_ids == ("0", "1", "2", "3", "4")
    assert back.trial_ids.tolist() == [3 * i for i in range(12)]


def test_counts_are_mapped_and_read_only(store: SessionStore) -> None:
    counts = store.session("a").counts
    assert isinstance(counts.base, np.memmap) and not counts.flags.writeable


def test_info_says_what_the_counts_say(store: SessionStore) -> None:
    info, counts = store.info("c"), store.session("c").counts
    assert (info.n_trials, info.n_bins, info.n_units) == counts.shape == (14, 4, 5)
    assert info.spikes == counts.sum() and info.trial_spikes.tolist() == counts.sum(axis=(1, 2)).tolist()
    assert info.mean_rate_hz == pytest.approx(counts.mean() / 0.02)


def test_a_store_is_a_sorted_collection(store: SessionStore) -> None:
    assert list(store) == ["a", "b", "c"] == list(store.ids) and len(store) == 3 and "a" in store and "x" not in store
    assert open_store(store.path).ids == store.ids and "3 sessions, 20 ms bins, 0..0.08 s" in repr(store)
    with pytest.raises(UsageError, match=r"holds no session 'aa'.*Did you mean 'a'\?"):
        store.info("aa")


def test_subset_and_filter_are_views(store: SessionStore) -> None:
    assert store.subset(["c", "a"]).ids == ("a", "c") and len(store) == 3
    with pytest.raises(UsageError, match="holds no session 'x'"):
        store.subset(["x"])
    assert store.subset(["c"]).filter("n_trials > 1").ids == ("c",)


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("subject = Cori", "b"),
        ("subject == 'Cori'", "b"),
        ("subject != Hench", "bc"),
        ("subject in Cori, Hench", "ab"),
        ("subject not in [Cori]", "ac"),
        ("n_trials >= 13", "ac"),
        ("n_trials>=13 and subject = Hench", "a"),
        ("n_trials < 13.5 and n_units = 5 and id != a", "b"),
        ("date >= 2017-02-01", "ac"),
        ("subject > A", "ab"),
        ('subject = "x and y"', ""),
        ("id != 'and' and n_bins = 5", ""),
    ],
)
def test_filters(store: SessionStore, expression: str, ids: str) -> None:
    assert store.filter(expression).ids == tuple(ids)


@pytest.mark.parametrize(
    "expression", ["", "subject", "subject =", "= x", "weight > 3", "n_trials > many", "a b c", "n_trials > 3 and"]
)
def test_filters_that_mean_nothing(store: SessionStore, expression: str) -> None:
    with pytest.raises(UsageError, match="filter"):
        store.filter(expression)


def test_the_same_session_again_changes_nothing(store: SessionStore) -> None:
    before = tree(store.path)
    store.add(session("b", 0, 12, subject="Cori", date="2017-01-01"))
    assert tree(store.path) == before


def test_a_known_id_with_other_content_is_refused(store: SessionStore) -> None:
    before = tree(store.path)
    with pytest.raises(DataError, match="session 'b': another recording has this id already"):
        store.add(session("b", 99, 12))
    with pytest.raises(DataError, match="the same counts are stored with another subject"):
        store.add(session("b", 0, 12, subject="Corinna", date="2017-01-01"))
    with pytest.raises(DataError, match="another recording has this id already"):
        store.subset(["a"]).add(session("b", 99, 12))
    assert tree(store.path) == before


def options_of(error: DataError) -> list[str]:
    return shlex.split(error.remedy.split(": ", 1)[1])


def test_d15_d16_unequal_sessions_get_the_command_that_makes_them_equal(store: SessionStore) -> None:
    counts = np.random.default_rng(5).poisson(0.5, (12, 20, 5))
    with pytest.raises(DataError) as caught:
        store.add(session("d", counts=counts, bin_s=0.01, window_s=(-0.1, 0.1), source={"file": "my d.npz"}))
    assert "10 ms bins, -0.1..0.1 s; need 20 ms bins, 0..0.08 s as in session" in str(caught.value)
    assert options_of(caught.value)[2:] == f"import|my d.npz|--to|{store.path}|--bin-ms|20|--window|0,0.08".split("|")


def test_unequal_sessions_that_only_a_new_store_can_hold(store: SessionStore) -> None:
    counts = np.random.default_rng(5).poisson(0.5, (12, 2, 5))
    with pytest.raises(DataError, match=r"Run for all recordings: .* --to NEW_STORE --bin-ms 40 --window 0,0.08$"):
        store.add(session("d", counts=counts, bin_s=0.04))
    with pytest.raises(DataError, match="export the recording again"):
        store.add(session("d", counts=counts, bin_s=0.02, window_s=(1.0, 1.04)))
    with pytest.raises(DataError, match="export the recording again"):
        store.add(session("d", counts=counts, bin_s=0.02, window_s=(0.01, 0.05)))


def test_equal_up_to_rounding_is_equal(tmp_path: Path) -> None:
    store = create_store(tmp_path)
    store.add(session("a", window_s=(0.1 + 0.2, 0.38)))
    store.add(session("b", 1, window_s=(0.3, 0.38)))
    assert len(store) == 2


@pytest.mark.parametrize("name", ["counts.npy", "session.json", "manifest.json"])
def test_no_flipped_bit_is_silent(store: SessionStore, name: str) -> None:
    path = store.info("a").folder / name
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    truth = store.session("a").counts.copy()
    for at in rng.integers(0, 8 * len(whole), 40):
        data = bytearray(whole)
        data[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(data))
        try:
            back = open_store(store.path).session("a").counts
        except IntegrityError as error:
            assert "a-" in str(error)
            continue
        assert name == "manifest.json" and (back == truth).all(), "only a harmless part of the manifest may pass"


@pytest.mark.parametrize("name", ["counts.npy", "session.json", "manifest.json"])
def test_missing_and_truncated_files(store: SessionStore, name: str) -> None:
    path = store.info("a").folder / name
    whole = path.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 2):  # the very last byte of JSON is a line end
        path.write_bytes(whole[:size])
        with pytest.raises(IntegrityError):
            open_store(store.path).session("a")
        assert any(isinstance(e, IntegrityError) for e in check_store(store.path))
    path.unlink()
    with pytest.raises(IntegrityError):
        open_store(store.path).load("a")


def test_the_message_names_file_found_and_expected(store: SessionStore) -> None:
    path = store.info("a").folder / "counts.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(
        IntegrityError, match=r"counts\.npy: SHA-256 is [0-9a-f]{12}\.\.; need [0-9a-f]{12}\.\. as recorded"
    ):
        store.load("a")


def test_counts_are_hashed_once_a_process(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = store_module.sha256_file
    monkeypatch.setattr(store_module, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    for _ in range(3):
        store.load("a")
    assert hashed == ["counts.npy"]


def test_what_is_known_is_taken_over_while_the_files_are_the_same(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = open_store(store.path)
    loaded = {i: known.load(i) for i in known}
    read: list[str] = []
    real = store_module.read_info
    monkeypatch.setattr(store_module, "read_info", lambda folder: read.append(folder.name) or real(folder))
    again = open_store(store.path, known)
    assert read == [] and all(again.load(i) is loaded[i] for i in known)
    rewritten = store.info("b").folder / "session.json"
    rewritten.write_bytes(rewritten.read_bytes())  # the same bytes at another time are read again
    again = open_store(store.path, again)
    assert read == [rewritten.parent.name] and again.load("a") is loaded["a"] and again.load("b") is not loaded["b"]
    assert again.load("b").trainval_hash == loaded["b"].trainval_hash
    assert (again.load("b").counts("train") == loaded["b"].counts("train")).all()


@pytest.mark.parametrize("name", ["counts.npy", "session.json", "manifest.json"])
def test_a_file_that_changed_is_noticed_by_who_knew_the_store(store: SessionStore, name: str) -> None:
    known = open_store(store.path)
    known.load("a")
    path = store.info("a").folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        open_store(store.path, known).load("a")


def test_sessions_come_and_go_also_for_who_knew_the_store(store: SessionStore) -> None:
    known = open_store(store.path)
    known.load("a")
    store.add(session("z", 9))
    assert open_store(store.path, known).ids == (*known.ids, "z")
    shutil.rmtree(store.info("a").folder)
    later = open_store(store.path, known)
    assert later.ids == (*known.ids[1:], "z")
    with pytest.raises(UsageError):
        later.load("a")


def test_check_lists_every_problem(store: SessionStore) -> None:
    assert store.check() == []
    for id in "ab":
        with open(store.info(id).folder / "counts.npy", "ab") as stream:
            stream.write(b"x")
    (store.info("c").folder / "extra").touch()
    lines: list[str] = []
    problems = check_store(store.path, lines.append)
    assert len(problems) == 3 == len(lines) and all(p.exit_code == 5 for p in problems)


def test_a_swapped_folder_is_noticed(store: SessionStore) -> None:
    a, b = store.info("a").folder, store.info("b").folder
    a.rename(a.parent / "tmp")
    b.rename(a)
    with pytest.raises(SessionwiseError, match="holds the parts of session 'b'") as caught:
        open_store(store.path)
    assert caught.value.exit_code == 5


def test_reading_writes_nothing(store: SessionStore) -> None:
    before = tree(store.path)
    again = open_store(store.path)
    for id in again:
        again.load(id).counts("train")
        again.session(id)
    assert again.check() == [] and tree(store.path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_read_only_stores_are_read_and_not_written(store: SessionStore) -> None:
    for path in [store.path, *store.path.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert len(open_store(store.path).load("a").counts("train"))
        with pytest.raises(EnvironmentProblem, match="cannot be written"):
            store.add(session("d"))
    finally:
        for path in [store.path, *store.path.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def test_a_failed_write_leaves_nothing(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(store.path)

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_json", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        store.add(session("d"))
    assert tree(store.path) == before and sorted(p.name[:4] for p in store.path.iterdir() if p.is_dir()) == [
        "a-ca",
        "b-3e",
        "c-2e",
    ]


def test_left_over_temporary_folders_are_never_read(store: SessionStore) -> None:
    (store.path / ".tmp-host-1-abc").mkdir()
    (store.path / ".tmp-host-1-abc" / "session.json").write_text("{")
    (store.path / "truth.json").write_text("{}")
    assert len(open_store(store.path)) == 3 and store.check() == []


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist.*sessionwise data import"):
        open_store(tmp_path / "none")
    with pytest.raises(UsageError, match="is no prepared store"):
        open_store(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        create_store(tmp_path / "file")
    with pytest.raises(UsageError, match=r"holds other files \(file\)"):
        create_store(tmp_path)


def test_a_newer_store_is_refused_and_not_rewritten(store: SessionStore) -> None:
    path = store.path / "store.json"
    path.write_text(json.dumps({"schema": 2}))
    with pytest.raises(UsageError, match="another schema"):
        open_store(store.path)
    assert json.loads(path.read_text()) == {"schema": 2}


def test_create_store_opens_the_one_that_is_there(store: SessionStore) -> None:
    assert create_store(store.path).ids == store.ids


def test_shared_trials_find_the_same_recording(tmp_path: Path) -> None:
    store = create_store(tmp_path)
    first = session("a", trials=20)
    copy, partly = first.counts[::-1].astype(">i4"), first.counts.copy()
    partly[5:] = np.random.default_rng(7).poisson(1.0, partly[5:].shape)
    for id, counts in (("copy", copy), ("partly", partly), ("other", session(seed=3, trials=20).counts)):
        store.add(session(id, counts=counts))
    store.add(first)
    info = store.info
    assert [shared_trials(info("a"), info(x)) for x in ("a", "copy", "partly", "other")] == [20, 20, 5, 0]


def test_silent_trials_are_not_shared(tmp_path: Path) -> None:
    store = create_store(tmp_path)
    for seed, id in enumerate("ab"):
        counts = np.random.default_rng(seed).poisson(1.0, (12, 4, 5))
        counts[:6] = 0
        counts[:3, 0, 0] = 1
        store.add(session(id, counts=counts))
    assert shared_trials(store.info("a"), store.info("b")) == 0
