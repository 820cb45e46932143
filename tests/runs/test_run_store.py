"""Committed runs: whole or absent, verified, first committer wins, locks and failures."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import toy_committer
from toy_committer import toy_spec

from sessionwise.errors import DataError, SessionwiseWarning, UsageError
from sessionwise.runs.garbage import collect_garbage
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import Busy, RunStore

COMMITTER = Path(toy_committer.__file__)


def put(text: str):
    return lambda folder: (folder / "a.txt").write_text(text)


def committer(root: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(COMMITTER), str(root), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def is_whole(store: RunStore, seed: int) -> bool:
    """The oracle: state, result and every byte are what the seed says."""
    key = toy_spec(seed).key
    expected = bytes((seed + position) % 256 for position in range(1000))
    core = store.folder(key) / "weights" / "core.bin"
    return store.result(key) == {"state": "done", "value": seed} and core.read_bytes() == expected


def test_commit_then_read(tmp_path):
    store, spec = RunStore(tmp_path), toy_spec(3)
    assert store.state(spec.key) == "missing" and store.keys() == []
    (store.work_folder(spec.key) / "half").touch()
    store.commit(spec, {"state": "done", "bps": 0.25}, put("x"))
    assert store.state(spec.key) == "done" and store.keys() == [spec.key]
    assert store.result(spec.key) == {"state": "done", "bps": 0.25} and store.spec(spec.key) == spec
    assert (store.folder(spec.key) / "a.txt").read_text() == "x"
    assert not (tmp_path / f"{spec.key}.work").exists()
    assert store.verify() == []


def test_a_result_is_a_copy(tmp_path):
    store, spec = RunStore(tmp_path), toy_spec(3)
    store.commit(spec, {"state": "diverged", "curve": [1]})
    store.result(spec.key)["curve"].append(2)
    assert store.result(spec.key)["curve"] == [1] and store.state(spec.key) == "diverged"


def test_the_committed_bytes_follow_from_the_key_alone(tmp_path):
    for name, where in (("one", {"store": "/a"}), ("two", {})):
        spec = RunSpec("toy", {"lr": 0.5}, {}, {}, 0, where=where, label=name, steps=len(name))
        RunStore(tmp_path / name).commit(spec, {"state": "done"}, put("x"))
    one, two = (sorted((tmp_path / name / toy_spec(0).key).iterdir()) for name in ("one", "two"))
    assert [(path.name, path.read_bytes()) for path in one] == [(path.name, path.read_bytes()) for path in two]


def test_what_is_not_stored_and_what_is_no_key(tmp_path):
    store = RunStore(tmp_path)
    for read in (store.folder, store.result, store.spec):
        with pytest.raises(DataError, match="not stored"):
            read("0" * 64)
        with pytest.raises(UsageError):
            read("../escape")


@pytest.mark.parametrize(
    "result", [{}, {"state": "fine"}, {"state": "done", "x": float("nan")}, {"state": "done", "x": {1}}]
)
def test_a_result_that_cannot_be_meant_is_refused(tmp_path, result):
    store = RunStore(tmp_path)
    with pytest.raises(UsageError):
        store.commit(toy_spec(0), result)
    with pytest.raises(UsageError, match=r"spec\.json"):
        store.commit(toy_spec(0), {"state": "done"}, lambda folder: (folder / "spec.json").touch())
    assert store.state(toy_spec(0).key) == "missing" and not list(tmp_path.glob(".tmp-*"))


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def write(folder: Path) -> None:
        (folder / "a").touch()
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="middle"):
        RunStore(tmp_path).commit(toy_spec(0), {"state": "done"}, write)
    assert list(tmp_path.iterdir()) == []


def test_the_second_committer_loses_quietly_and_a_difference_is_said(tmp_path):
    store = RunStore(tmp_path)
    store.commit(toy_spec(0), {"state": "done", "value": 1}, put("first"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunStore(tmp_path).commit(toy_spec(0), {"state": "done", "value": 1}, put("first"))
    with pytest.warns(SessionwiseWarning, match="another result"):
        RunStore(tmp_path).commit(toy_spec(0), {"state": "done", "value": 2}, put("second"))
    assert (RunStore(tmp_path).folder(toy_spec(0).key) / "a.txt").read_text() == "first"
    assert not list(tmp_path.glob(".tmp-*"))


def test_many_threads_commit_the_same_runs(tmp_path):
    def work() -> None:
        store = RunStore(tmp_path)
        for seed in range(10):
            write = partial(toy_committer.artefacts, seed=seed)
            store.commit(toy_spec(seed), {"state": "done", "value": seed}, write)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work) for _ in range(4)]:
            future.result()
    assert all(is_whole(RunStore(tmp_path), seed) for seed in range(10))
    assert len(list(tmp_path.iterdir())) == 10


def test_flipped_bits_and_truncations_are_noticed(tmp_path):
    """100 flips and 20 truncations: the run is missing, with a warning, or what is read is unchanged."""
    toy_committer.commit(RunStore(tmp_path / "good"), 5)
    key, rng, noticed = toy_spec(5).key, random.Random(0), 0
    for trial in range(120):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        files = sorted(path for path in (tmp_path / "bad" / key).rglob("*") if path.is_file())
        damage(rng.choice(files), rng, truncate=trial >= 100)
        store = RunStore(tmp_path / "bad")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            state = store.state(key)
        if state == "missing":
            noticed += 1
            assert any("moved aside" in str(one.message) for one in said)
            assert len(list((tmp_path / "bad").glob(f".corrupt-{key}-*"))) == 1
        else:
            assert is_whole(store, 5)
    assert noticed >= 100


def damage(path: Path, rng: random.Random, truncate: bool) -> None:
    data = bytearray(path.read_bytes())
    if truncate:
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", ["missing file", "extra file", "another run's folder"])
def test_a_folder_that_is_not_what_was_committed_is_moved_aside_and_can_be_made_again(tmp_path, harm):
    store, key = RunStore(tmp_path), toy_spec(0).key
    toy_committer.commit(store, 1 if harm.startswith("another") else 0)
    if harm == "missing file":
        (tmp_path / key / "curve.bin").unlink()
    elif harm == "extra file":
        (tmp_path / key / "extra").touch()
    else:
        os.rename(tmp_path / toy_spec(1).key, tmp_path / key)
    fresh = RunStore(tmp_path)
    assert len(fresh.verify()) == 1 and (tmp_path / key).exists()
    with pytest.warns(SessionwiseWarning, match="moved aside"):
        assert fresh.state(key) == "missing"
    toy_committer.commit(fresh, 0)
    assert is_whole(fresh, 0) and fresh.verify() == []


def test_what_is_verified_once_is_not_hashed_again_but_its_absence_is_seen(tmp_path):
    store, key = RunStore(tmp_path), toy_spec(0).key
    toy_committer.commit(store, 0)
    assert store.state(key) == "done"
    (tmp_path / key / "curve.bin").unlink()
    assert store.state(key) == "done"  # this process verified it before
    shutil.rmtree(tmp_path / key)
    assert store.state(key) == "missing"
    toy_committer.commit(RunStore(tmp_path), 0)
    (tmp_path / key / "curve.bin").write_text("damaged")
    with pytest.warns(SessionwiseWarning, match="moved aside"):
        assert store.state(key) == "missing"  # what came after the absence is verified anew


def test_failures_are_kept_until_forgotten_or_superseded(tmp_path):
    store, spec = RunStore(tmp_path), toy_spec(0)
    store.record_failure(spec, "out of ideas", attempt=2)
    assert store.state(spec.key) == "failed" and not store.committed(spec.key)
    assert store.failed_keys() == [spec.key] and store.spec(spec.key) == spec
    found = store.result(spec.key)
    assert (found["state"], found["reason"], found["attempts"], found["cause"]) == (
        "failed",
        "out of ideas",
        2,
        "raised",
    )
    store.forget_failure(spec.key)
    assert store.state(spec.key) == "missing"
    store.record_failure(spec, "again")
    store.commit(spec, {"state": "done"})
    assert store.state(spec.key) == "done" and store.failed_keys() == []
    store.forget_failure(spec.key)
    assert store.state(spec.key) == "done"


def test_a_run_committed_as_failed_can_be_forgotten(tmp_path):
    store, spec = RunStore(tmp_path), toy_spec(0)
    store.commit(spec, {"state": "failed", "reason": "no data"})
    assert store.state(spec.key) == "failed"
    store.forget_failure(spec.key)
    assert store.state(spec.key) == "missing" and store.keys() == []


def test_a_lock_excludes_others_and_names_its_holder(tmp_path):
    store, key = RunStore(tmp_path), toy_spec(0).key
    assert store.holder(key) is None
    with store.lock(key):
        with pytest.raises(Busy, match=f"process {os.getpid()}"), RunStore(tmp_path).lock(key):
            pass
        with RunStore(tmp_path).lock(toy_spec(1).key):
            pass
        assert str(os.getpid()) in str(RunStore(tmp_path).holder(key))
    with RunStore(tmp_path).lock(key):
        pass
    assert list((tmp_path / ".locks").iterdir()) == []


def test_a_lock_vanishes_with_its_process(tmp_path):
    process = committer(tmp_path, "lock")
    assert process.stdout and process.stdout.readline() == "locked\n"
    with pytest.raises(Busy, match=f"process {process.pid}"), RunStore(tmp_path).lock(toy_spec(0).key):
        pass
    process.kill()
    process.wait()
    with RunStore(tmp_path).lock(toy_spec(0).key):
        pass


def test_only_one_of_many_threads_holds_a_lock(tmp_path):
    inside, most, entered = [0], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        store = RunStore(tmp_path)
        for _ in range(100):
            try:
                with store.lock("0" * 64):
                    with guard:
                        inside[0] += 1
                        entered[0] += 1
                        most[0] = max(most[0], inside[0])
                    time.sleep(0.0005)
                    with guard:
                        inside[0] -= 1
            except Busy:
                time.sleep(0.0002)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work) for _ in range(4)]:
            future.result()
    assert most[0] == 1 and entered[0] > 20


def test_every_crash_point_of_a_commit(tmp_path):
    """Killed just before each change of the disk: absent or whole, never in between; then the same call finishes."""
    for position in range(1, 200):
        root = tmp_path / str(position) / "runs"
        process = committer(root, "crash", position)
        whole = process.communicate()[0] == "whole\n"
        store = RunStore(root)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = store.state(toy_spec(0).key)
        assert state == "missing" or is_whole(store, 0)
        if whole:
            break
        if state == "missing":
            toy_committer.commit(store, 0)
        assert is_whole(store, 0) and store.verify() == []
        list(collect_garbage(root.parent))
        assert {path.name for path in root.iterdir()} <= {toy_spec(0).key, "failures", ".locks"}
    assert 25 < position < 199


def test_thirty_random_kills_of_a_loop_of_commits(tmp_path):
    """What was said to be committed is whole after a kill at any moment, and nothing half made counts."""
    root, rng, following = tmp_path / "runs", random.Random(1), 0
    store = RunStore(root)
    for _ in range(30):
        process = committer(root, "loop", following)
        assert process.stdout
        said = [int(process.stdout.readline())]
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        said += [int(line) for line in process.stdout.read().splitlines()]
        process.wait()
        assert said == list(range(following, following + len(said)))
        following = said[-1] + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(is_whole(store, seed) for seed in range(following))
        assert store.verify() == []
    list(collect_garbage(tmp_path))
    works = {path.stem for path in root.glob("*.work")}
    assert not list(root.glob(".tmp-*")) and not works & set(store.keys())


def test_a_store_that_is_read_only_can_be_read(tmp_path):
    toy_committer.commit(RunStore(tmp_path), 0)
    before = sorted(tmp_path.rglob("*"))
    store = RunStore(tmp_path)
    assert is_whole(store, 0) and store.holder(toy_spec(0).key) is None and store.failed_keys() == []
    assert sorted(tmp_path.rglob("*")) == before
