"""Splits depend on ids alone, test trials are sealed, every opening is written down."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionwise.data.session import make_session
from sessionwise.data.splits import PARTS, SessionData, TestSeal, make_split, overlap_share, part_hash
from sessionwise.data.store import create_store
from sessionwise.errors import DataError, LeakageError, UsageError


def counts_of(trials: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.0, (trials, 4, 5)).astype(np.uint8)


def loaded(folder: Path, counts: np.ndarray, split_seed: int = 0, **more: Any) -> SessionData:
    store = create_store(folder)
    store.add(make_session("S", counts, 0.02, **more))
    return store.load("S", split_seed)


def test_the_rule_by_hand() -> None:
    split = make_split("S", [3, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40], seed=7)
    ids = [3, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40]
    order = sorted(ids, key=lambda i: hashlib.sha256(f'["S",{i},7]'.encode()).hexdigest())
    assert [ids[p] for p in split.train] == sorted(order[:8])
    assert [ids[p] for p in split.validation] == sorted(order[8:9]) and [ids[p] for p in split.test] == sorted(
        order[9:]
    )


@given(st.integers(10, 300), st.integers(0, 5))
def test_every_trial_is_in_one_part(n: int, seed: int) -> None:
    split = make_split("S", np.arange(n), seed)
    assert sorted(np.concatenate([split.part(p) for p in PARTS]).tolist()) == list(range(n))
    assert len(split.train) == 8 * n // 10 and len(split.validation) >= 1 and len(split.test) >= 1


@given(st.permutations(list(range(40))))
def test_file_order_does_not_matter(order: list[int]) -> None:
    straight, mixed = make_split("S", np.arange(40)), make_split("S", np.array(order))
    for part in PARTS:
        assert sorted(order[p] for p in mixed.part(part)) == straight.part(part).tolist()


@given(st.sets(st.integers(0, 10_000), min_size=20, max_size=60))
def test_other_trials_do_not_reorder_a_trial(ids: set[int]) -> None:
    """Without some trials the rest keep their order, so a trial moves by at most the trials that left before it."""
    rank = {"train": 0, "validation": 1, "test": 2}

    def places(trials: list[int]) -> dict[int, int]:
        split = make_split("S", trials)
        return {trials[p]: rank[part] for part in PARTS for p in split.part(part)}

    whole = sorted(ids)
    fewer = whole[: len(whole) // 2]
    all_places, few_places = places(whole), places(fewer)
    for a in fewer:
        for b in fewer:
            assert not (all_places[a] < all_places[b] and few_places[a] > few_places[b])


def test_session_and_seed_change_the_split() -> None:
    splits = [make_split(s, np.arange(100), seed) for s, seed in (("A", 0), ("B", 0), ("A", 1))]
    assert len({tuple(s.test) for s in splits}) == 3


def test_hashes_of_the_two_sides_are_apart(tmp_path: Path) -> None:
    counts = counts_of()
    before = loaded(tmp_path / "a", counts)
    garbage = counts.copy()
    garbage[before.split.test] = np.random.default_rng(9).integers(0, 9, garbage[before.split.test].shape)
    after = loaded(tmp_path / "b", garbage)
    assert after.trainval_hash == before.trainval_hash and after.test_hash != before.test_hash
    assert after.notes == before.notes
    for part in ("train", "validation"):
        assert (after.counts(part) == before.counts(part)).all()
        changed = counts.copy()
        changed[before.split.part(part)[0], 0, 0] += 1
        third = loaded(tmp_path / part, changed)
        assert third.trainval_hash != before.trainval_hash and third.test_hash == before.test_hash


def test_hashes_know_the_split_the_window_and_nothing_else(tmp_path: Path) -> None:
    first = loaded(tmp_path / "a", counts_of())
    assert loaded(tmp_path / "b", counts_of().astype(">i8"), subject="Cori").trainval_hash == first.trainval_hash
    assert loaded(tmp_path / "c", counts_of(), split_seed=1).trainval_hash != first.trainval_hash
    assert loaded(tmp_path / "d", counts_of(), window_s=(1.0, 1.08)).trainval_hash != first.trainval_hash
    order = np.random.default_rng(1).permutation(30)
    mixed = loaded(tmp_path / "e", counts_of()[order], trial_ids=order)
    assert mixed.trainval_hash == first.trainval_hash and (mixed.counts("train") == first.counts("train")).all()


def test_part_hash_is_ordered_by_trial_id() -> None:
    hashes, ids = ["a", "b", "c"], [7, 5, 6]
    one = part_hash(hashes, ids, np.array([0, 1]), {})
    assert one == part_hash(["b", "a"], [5, 7], np.array([1, 0]), {})
    assert one != part_hash(hashes, [5, 7, 6], np.array([0, 1]), {}) != part_hash(hashes, ids, np.array([0, 2]), {})
    assert one != part_hash(hashes, ids, np.array([0, 1]), {"bins": 3})


def test_parts_are_what_the_split_says(tmp_path: Path) -> None:
    counts = counts_of()
    data = loaded(tmp_path, counts)
    for part in ("train", "validation"):
        assert (data.counts(part) == counts[data.split.part(part)]).all()
    with pytest.raises(UsageError, match="no part 'tests'"):
        data.counts("tests")


def test_test_trials_are_sealed(tmp_path: Path) -> None:
    counts = counts_of()
    data = loaded(tmp_path / "store", counts)
    with pytest.raises(LeakageError, match="test trials are sealed"):
        data.counts("test")
    with pytest.raises(LeakageError, match="a TestSeal"):
        data.open_test("please")  # type: ignore[arg-type]
    opened = data.open_test(TestSeal(tmp_path / "ledger", "key1", "final evaluation"))
    assert (opened == counts[data.split.test]).all()


def test_every_opening_is_written_down(tmp_path: Path) -> None:
    data, ledger = loaded(tmp_path / "store", counts_of()), tmp_path / "study" / "ledger"
    for key in ("key1", "key2", "key1"):
        data.open_test(TestSeal(ledger, key, "final evaluation"))
    records = {path.stem: json.loads(path.read_text()) for path in ledger.glob("*.json")}
    assert {key: record["attempts"] for key, record in records.items()} == {"key1": 2, "key2": 1}
    assert records["key1"]["purpose"] == "final evaluation" and records["key1"]["sessions"] == {"S": data.test_hash}


def test_openings_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    seal = TestSeal(tmp_path, "key", "evaluation")
    threads = [threading.Thread(target=lambda: [seal.record("S", "h") for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((tmp_path / "key.json").read_text())["attempts"] == 40


def test_what_cannot_be_written_down_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded(tmp_path / "store", counts_of())
    (tmp_path / "ledger").touch()
    with pytest.raises(Exception, match="ledger: cannot be written"):
        data.open_test(TestSeal(tmp_path / "ledger", "key", "evaluation"))


@pytest.mark.parametrize("key", ["", "../x", "a/b", "x" * 129, "a b"])
def test_a_key_is_a_plain_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match="test seal"):
        TestSeal(tmp_path, key, "evaluation")


@pytest.mark.parametrize("part", PARTS)
def test_d13_no_spikes_in_a_part(tmp_path: Path, part: str) -> None:
    counts = counts_of()
    counts[make_split("S", np.arange(30)).part(part)] = 0
    with pytest.warns(UserWarning, match="without a spike"):
        session = make_session("S", counts, 0.02)
    store = create_store(tmp_path / "s")
    store.add(session)
    with pytest.raises(DataError, match=f"0 spikes in the {part} trials: bits per spike is undefined"):
        store.load("S").open_test(TestSeal(tmp_path / "ledger", "key", "evaluation"))
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize(("a", "b"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_d36_the_same_trial_in_two_parts(tmp_path: Path, a: str, b: str) -> None:
    counts, split = counts_of(), make_split("S", np.arange(30))
    i, j = split.part(a)[0], split.part(b)[0]
    counts[i] = counts[j]
    with pytest.warns(UserWarning, match="duplicated trial"):
        session = make_session("S", counts, 0.02)
    store = create_store(tmp_path)
    store.add(session)
    with pytest.raises(LeakageError, match=rf"LEAK: trials {i} \({a}\) and {j} \({b}\) are identical \(1 such"):
        store.load("S")


def test_the_same_trial_twice_in_one_part_is_no_leak(tmp_path: Path) -> None:
    counts, split = counts_of(), make_split("S", np.arange(30))
    counts[split.train[0]] = counts[split.train[1]]
    with pytest.warns(UserWarning, match="duplicated trial"):
        data = loaded(tmp_path, counts)
    assert data.notes == ("1 duplicated trial: " + data.notes[0].split(": ")[1],)


def test_overlap_share_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    event_s = np.cumsum(rng.uniform(0.5, 4.0, 60))
    split, window, bin_s = make_split("S", np.arange(60)), (-0.5, 2.5), 0.02
    shared = 0
    for k in split.test:
        for t in range(150):
            begin = event_s[k] + window[0] + t * bin_s
            middle = begin + bin_s / 2  # a bin of any overlap also has one of its ends inside
            inside = [begin + bin_s - 1e-9, begin + 1e-9, middle]
            shared += any(event_s[j] + window[0] < x < event_s[j] + window[1] for j in split.train for x in inside)
    found = overlap_share(event_s, window, bin_s, split)
    assert found == pytest.approx(shared / (len(split.test) * 150)) and 0.1 < found < 1


def test_overlap_share_at_its_ends() -> None:
    split = make_split("S", np.arange(20))
    for length in (0.1, 0.3, 0.4, 0.7):
        events = np.cumsum(np.full(20, length))  # sums that floats miss
        assert overlap_share(events, (0.0, length), length / 10, split) == 0.0, "windows that touch share nothing"
    assert overlap_share(np.zeros(20), (0.0, 0.4), 0.02, split) == 1.0
    assert overlap_share(np.full(20, np.nan), (0.0, 0.4), 0.02, split) is None
