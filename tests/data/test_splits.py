"""Splits depend on ids, in blocks on times, on no content; test trials are sealed, every opening is written down."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionwise.data.session import make_session
from sessionwise.data.splits import (
    PARTS,
    SessionData,
    Split,
    TestSeal,
    Windows,
    make_split,
    numbers,
    overlap_of,
    overlap_share,
    part_hash,
)
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


# Blocks of time -------------------------------------------------------------------------------------------------------


WINDOW, BIN_S = (-0.5, 2.5), 0.02


@st.composite
def recordings(draw: st.DrawFn) -> np.ndarray:
    """Event times of a session of 10 to 300 trials; gaps from far shorter to longer than the window of 3 s."""
    n, seed = draw(st.integers(10, 300)), draw(st.integers(0, 2**32 - 1))
    shortest, longest = draw(st.sampled_from([(0.6, 2.0), (1.5, 4.0), (2.9, 3.1), (3.0, 3.0), (2.0, 30.0)]))
    start = draw(st.sampled_from([0.0, -7.3, 1e4, 1.7e9]))
    return start + np.cumsum(np.random.default_rng(seed).uniform(shortest, longest, n))


def in_blocks(event_s: np.ndarray | None, seed: int = 0, n: int = 0, session: str = "S") -> Split:
    windows = None if event_s is None else Windows(event_s, WINDOW, BIN_S)
    return make_split(session, np.arange(n if event_s is None else len(event_s)), seed, "blocked", windows=windows)


@given(st.integers(10, 1000), st.integers(0, 3))
def test_blocks_have_the_sizes_of_the_random_split(n: int, seed: int) -> None:
    split, random = in_blocks(None, seed, n), make_split("S", np.arange(n), seed)
    assert split.sizes == random.sizes and len(split.purged) == 0 and split.kind == "blocked"
    assert sorted(np.concatenate([split.part(p) for p in PARTS]).tolist()) == list(range(n))
    n_blocks = min(5, max(1, len(split.validation) // 5))
    for part in ("validation", "test"):
        equal = len(split.part(part)) / n_blocks
        for i in range(n_blocks):  # one block in each equal stretch of the session
            inside = split.part(part)[
                (split.part(part) >= n * i // n_blocks) & (split.part(part) < n * (i + 1) // n_blocks)
            ]
            assert abs(len(inside) - equal) < 1 and np.ptp(inside) == len(inside) - 1


def test_blocks_are_spread_over_the_session() -> None:
    """Each fifth of a long session has trials of every part: a drift does not divide them."""
    for seed in range(20):
        split = in_blocks(None, seed, 400)
        for part in PARTS:
            assert np.histogram(split.part(part), 5, (0, 400))[0].min() > 0
    assert len({tuple(in_blocks(None, seed, 400).test) for seed in range(20)}) == 20
    assert not np.array_equal(in_blocks(None, 0, 400).test, in_blocks(None, 0, 400, session="T").test)


@given(recordings(), st.integers(0, 5))
def test_purged_blocks_share_no_bin_with_training(event_s: np.ndarray, seed: int) -> None:
    try:
        split = in_blocks(event_s, seed)
    except DataError as error:
        assert "no " in str(error) and len(event_s) < 30, "only short sessions of short gaps can lose a whole part"
        return
    for part in ("validation", "test"):
        assert overlap_share(event_s, WINDOW, BIN_S, split, part) == 0.0
    seen = replace(split, train=split.validation)
    assert overlap_share(event_s, WINDOW, BIN_S, seen, "test") == 0.0


@given(recordings(), st.integers(0, 5))
def test_only_what_overlaps_is_purged(event_s: np.ndarray, seed: int) -> None:
    """Against pairs of trials; a trial is in one part or purged, and purged only for a trial that is scored."""
    plain = in_blocks(None, seed, len(event_s))
    try:
        split = in_blocks(event_s, seed)
    except DataError:
        return
    assert sorted(np.concatenate([*(split.part(p) for p in PARTS), split.purged]).tolist()) == list(range(len(event_s)))
    assert split.test.tolist() == plain.test.tolist(), "no test trial is purged"
    near = np.abs(event_s[:, None] - event_s[None, :]) < 3.0 - 1e-6
    for part, others in (("validation", (split.test,)), ("train", (split.test, split.validation))):
        dropped = np.setdiff1d(plain.part(part), split.part(part))
        assert near[np.ix_(dropped, np.concatenate(others))].any(axis=1).all()
    assert split.sizes.get("purged", 0) == len(split.purged)


@given(recordings(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_in_blocks(event_s: np.ndarray, random: Random) -> None:
    order = random.sample(range(len(event_s)), len(event_s))
    mixed_windows = Windows(event_s[order], WINDOW, BIN_S)
    try:
        straight = in_blocks(event_s)
    except DataError:
        with pytest.raises(DataError):
            make_split("S", order, 0, "blocked", windows=mixed_windows)
        return
    mixed = make_split("S", order, 0, "blocked", windows=mixed_windows)
    for name in (*PARTS, "purged"):
        assert sorted(order[p] for p in getattr(mixed, name)) == getattr(straight, name).tolist()


def test_blocks_follow_time_where_it_is_known_and_numbers_elsewhere() -> None:
    event_s = np.arange(100)[::-1] * 10.0  # trial 0 came last
    late = in_blocks(event_s)
    assert sorted(99 - late.test) == in_blocks(None, 0, 100).test.tolist()
    event_s[3] = np.nan
    assert in_blocks(event_s).test.tolist() == in_blocks(None, 0, 100).test.tolist()


def test_trials_without_a_time_are_not_purged() -> None:
    event_s = np.arange(100) * 2.0
    before = in_blocks(event_s)
    assert len(before.purged) > 2
    event_s[before.purged[0]] = np.nan
    after = in_blocks(event_s)
    assert after.purged.tolist() == before.purged[1:].tolist()
    assert overlap_share(event_s, WINDOW, BIN_S, after) == 0.0


def test_windows_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(DataError, match=r"session 'S': no (train|validation) trial is left.*Use a shorter window"):
        in_blocks(np.arange(40) * 0.01)
    with pytest.raises(DataError, match="9 trials; need at least 10"):
        in_blocks(None, 0, 9)


def test_blocks_of_a_stored_session_are_purged_and_hashed_apart(tmp_path: Path) -> None:
    """The times come from the trial columns; content of trials and other sessions have no say."""
    columns = {"align_time_s": np.arange(60) * 0.05}  # windows of 0.08 s
    data, _ = both(tmp_path, counts_of(60), trial_columns=columns)
    assert data.split.kind == "blocked" and len(data.split.purged) > 0
    assert overlap_of(data.meta, data.split) == 0.0 != overlap_of(data.meta, make_split("S", np.arange(60)))
    other, random = both(tmp_path / "other", counts_of(60, seed=3), trial_columns=columns)
    for name in (*PARTS, "purged"):
        assert (getattr(other.split, name) == getattr(data.split, name)).all()
    assert other.trainval_hash != random.trainval_hash and other.test_hash != random.test_hash
    assert len(data.counts("train")) == len(data.split.train) < 48


def test_a_purged_trial_may_equal_a_test_trial(tmp_path: Path) -> None:
    """It is in no part, so nothing leaks; in training the same trial is refused."""
    columns = {"align_time_s": np.arange(60) * 0.05}
    data, _ = both(tmp_path / "a", counts_of(60), trial_columns=columns)
    for position, refused in ((data.split.purged[0], False), (data.split.train[0], True)):
        counts = counts_of(60)
        counts[position] = counts[data.split.test[0]]
        with pytest.warns(UserWarning, match="duplicated trial"):
            session = make_session("S", counts, 0.02, trial_columns=columns)
        store = create_store(tmp_path / str(position))
        store.add(session)
        if refused:
            with pytest.raises(LeakageError, match="LEAK"):
                store.load("S", 0, "blocked")
        else:
            store.load("S", 0, "blocked")


def both(folder: Path, counts: np.ndarray, **more: Any) -> tuple[SessionData, SessionData]:
    """One session in blocks and at random, from one store, that must not mistake one for the other."""
    store = create_store(folder)
    store.add(make_session("S", counts, 0.02, **more))
    store.add(make_session("other", counts_of(20, seed=8), 0.02))
    blocked, random = store.load("S", 0, "blocked"), store.load("S")
    assert store.load("S", 0, "blocked") is blocked and store.load("S", 0) is random
    assert random.split.kind == "random" and random.split.purged.size == 0
    return blocked, random


# Recorded splits ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(PARTS), min_size=3, max_size=50), st.integers(0, 3))
def test_a_recorded_split_is_the_column(names: list[str], seed: int) -> None:
    if missing := [part for part in PARTS if part not in names]:
        with pytest.raises(DataError, match=f"session 'S': recorded_split names no {missing[0]} trial"):
            make_split("S", np.arange(len(names)), seed, "recorded", recorded=names)
        return
    split = make_split("S", np.arange(len(names)), seed, "recorded", recorded=np.array(names))
    assert (split.kind, len(split.purged)) == ("recorded", 0)
    for part in PARTS:
        assert split.part(part).tolist() == [i for i, name in enumerate(names) if name == part]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (None, "has no trial column 'recorded_split'"),
        (["train"] * 20 + ["val"] * 4 + ["test"] * 6, "recorded_split is 'val' in 4 of 30 trials"),
        (["train"] * 29 + [""], "recorded_split is '' in 1 of 30 trials"),
        ([0] * 24 + [1] * 3 + [2] * 3, "recorded_split is '0' in 24 of 30 trials"),
        (["train"] * 24 + ["test"] * 6, "names no validation trial"),
    ],
)
def test_what_is_no_recorded_split_is_refused_by_name(tmp_path: Path, column: list[Any] | None, says: str) -> None:
    more: dict[str, Any] = {} if column is None else {"trial_columns": {"recorded_split": np.array(column)}}
    store = create_store(tmp_path)
    store.add(make_session("S", counts_of(), 0.02, **more))
    assert len(store.load("S").split.train) == 24, "the random split does not ask for it"
    with pytest.raises(DataError, match=f"session 'S'.*{says}.*Use split=random or split=blocked"):
        store.load("S", 0, "recorded")


def test_a_recorded_split_of_a_stored_session(tmp_path: Path) -> None:
    names = np.random.default_rng(0).permutation(["train"] * 20 + ["validation"] * 4 + ["test"] * 6)
    store = create_store(tmp_path)
    store.add(make_session("S", counts_of(), 0.02, trial_columns={"recorded_split": names}))
    data = store.load("S", 5, "recorded")
    assert (data.counts("validation") == counts_of()[names == "validation"]).all()
    assert data.trainval_hash == store.load("S", 0, "recorded").trainval_hash != store.load("S").trainval_hash


def test_another_kind_of_split_is_refused() -> None:
    with pytest.raises(UsageError, match=r"split: 'sorted'; need random \| blocked \| recorded"):
        make_split("S", np.arange(20), 0, "sorted")  # type: ignore[arg-type]


@given(st.sets(st.integers(0, 40)))
def test_trial_numbers_can_be_read_again(ids):
    runs = [[int(end) for end in run.split("-")] for run in numbers(np.array(sorted(ids), dtype=int)).split()]
    assert [i for run in runs for i in range(run[0], run[-1] + 1)] == sorted(ids)
    assert all(b[0] > a[-1] + 1 for a, b in pairwise(runs))
