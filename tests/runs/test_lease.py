"""Leases: one holder at a time, dead ones recognised without any clock but the observer's, zombies harmless."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import toy_committer

from sessionwise.errors import EnvironmentProblem, SessionwiseWarning
from sessionwise.io.process import this_process
from sessionwise.runs import lease as module
from sessionwise.runs.lease import ALIVE, DEAD, LEASE_S, UNKNOWN, Busy, Leases, peek
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import Reporter, perform

KEY = "a" * 64
GONE = 2**22 - 1  # above the usual largest number of a process
ELSEWHERE = {"host": "elsewhere", "boot": "another boot", "flock": True}


class Clock:
    """An observer's monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of beats of its own, which beats every hundredth of a second."""
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    monkeypatch.setattr(module, "_keeper", module._Keeper())


def forge(folder: Path, **changes: object) -> Path:
    """A lease file as a holder like this process would leave it, with changes; nobody has it locked."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {**asdict(this_process()), "token": "0" * 32, "beat": "0" * 12, "flock": True, **changes}
    (folder / KEY).write_text(json.dumps(about))
    return folder / KEY


def watch(leases: Leases, clock: Clock, seconds: float, step: float = 5.0) -> str | None:
    """Look again and again while the observer's clock runs."""
    end = clock.now + seconds
    holder = leases.holder(KEY)
    while clock.now < end:
        clock.now = min(end, clock.now + step)
        holder = leases.holder(KEY)
    return holder


def test_one_holder_at_a_time_and_nothing_is_left(tmp_path):
    leases = Leases(tmp_path)
    for _ in range(3):
        with leases.hold(KEY):
            assert peek(tmp_path / KEY).state == ALIVE
            with pytest.raises(Busy, match=f"host .*, process {os.getpid()}"), Leases(tmp_path).hold(KEY):
                pass
            with leases.hold("b" * 64):
                pass
            assert [path.name for path in tmp_path.iterdir()] == [KEY]
    assert list(tmp_path.iterdir()) == [] and leases.holder(KEY) is None


@pytest.mark.parametrize("changes", [{"pid": GONE}, {"pid": GONE, "flock": False}, {"started": 1, "flock": False}, {}])
def test_a_dead_or_re_used_process_of_this_kernel_is_seen_at_once(tmp_path, changes):
    """The last one is this very process, which has not locked the file: its number was used before."""
    forge(tmp_path, **changes)
    assert peek(tmp_path / KEY).state == DEAD
    with Leases(tmp_path).hold(KEY):
        assert json.loads((tmp_path / KEY).read_text())["token"] != "0" * 32
    assert list(tmp_path.iterdir()) == []


def test_without_locks_number_and_start_of_a_living_process_count(tmp_path):
    forge(tmp_path, flock=False)
    with pytest.raises(Busy), Leases(tmp_path).hold(KEY):
        pass
    forge(tmp_path, flock=False, namespace="pid:[1]", pid=GONE)
    assert peek(tmp_path / KEY).state == UNKNOWN  # a number of another namespace says nothing here


@pytest.mark.parametrize("step", [0.25, 5.0, 30.0])
def test_another_host_is_believed_while_its_lease_changes(tmp_path, step):
    clock = Clock()
    leases = Leases(tmp_path, clock)
    for beat in range(30):
        forge(tmp_path, **ELSEWHERE, beat=f"{beat:012d}")
        assert watch(leases, clock, 10, step) == f"host elsewhere, process {os.getpid()}"
    assert watch(leases, clock, LEASE_S - 11 - step, step) is not None
    assert watch(leases, clock, 11 + 2 * step, step) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stamp", [0, 2**31 - 1])
def test_times_of_files_and_beats_of_any_size_mean_nothing(tmp_path, stamp):
    clock = Clock()
    leases = Leases(tmp_path, clock)
    os.utime(forge(tmp_path, **ELSEWHERE, beat="9" * 12), (stamp, stamp))
    assert watch(leases, clock, LEASE_S - 1) is not None
    assert watch(leases, clock, 2) is None


def test_an_observer_that_was_suspended_does_not_take_its_own_sleep_for_silence(tmp_path):
    clock = Clock()
    leases = Leases(tmp_path, clock)
    forge(tmp_path, **ELSEWHERE)
    assert leases.holder(KEY) is not None
    clock.now += 1e6
    assert leases.holder(KEY) is not None
    with pytest.raises(Busy, match="elsewhere"), leases.hold(KEY):
        pass


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\0" * 300, b"[]", b"[" * 5000, b'{"pid": "x"}', b'{"host": 1, "pid": -1}', b"x" * 10**6],
)
def test_what_is_no_lease_is_watched_and_then_replaced(tmp_path, content):
    clock = Clock()
    leases = Leases(tmp_path, clock)
    (tmp_path / KEY).write_bytes(content)
    with pytest.raises(Busy, match="another process"), leases.hold(KEY):
        pass
    assert watch(leases, clock, LEASE_S + 10) is None
    with leases.hold(KEY):
        pass


def test_a_link_in_the_place_of_a_lease_is_not_followed(tmp_path):
    clock = Clock()
    leases = Leases(tmp_path / "locks", clock)
    (tmp_path / "locks").mkdir()
    (tmp_path / "mine").write_text("precious")
    for target in ("mine", "nowhere"):
        (tmp_path / "locks" / KEY).symlink_to(tmp_path / target)
        assert watch(leases, clock, LEASE_S + 10) is None
    assert (tmp_path / "mine").read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_lock_held_on_what_is_no_lease_counts(tmp_path):
    (tmp_path / KEY).write_text("host h, process 5")
    with open(tmp_path / KEY) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert peek(tmp_path / KEY).state == ALIVE


@pytest.mark.parametrize("changes", [{"pid": GONE}, ELSEWHERE])
def test_exactly_one_of_many_observers_takes_over(tmp_path, changes):
    """All have watched the same dead lease long enough, and start together."""
    for attempt in range(20):
        folder, inside, most, entered = tmp_path / str(attempt), [0], [0], [0]
        forge(folder, **changes)
        clocks = [Clock() for _ in range(6)]
        crowd = [Leases(folder, clock) for clock in clocks]
        for leases, clock in zip(crowd, clocks, strict=True):
            while leases.look(KEY).state == ALIVE:
                clock.now += 30
        start, guard, done = threading.Barrier(len(crowd)), threading.Lock(), threading.Event()

        def work(leases: Leases) -> None:
            start.wait()  # noqa: B023
            try:
                with leases.hold(KEY):
                    with guard:  # noqa: B023
                        inside[0] += 1  # noqa: B023
                        entered[0] += 1  # noqa: B023
                        most[0] = max(most[0], inside[0])  # noqa: B023
                    done.wait(0.02)  # noqa: B023
                    with guard:  # noqa: B023
                        inside[0] -= 1  # noqa: B023
            except Busy:
                pass

        with ThreadPoolExecutor(len(crowd)) as threads:
            list(threads.map(work, crowd))
        assert (most[0], entered[0] >= 1) == (1, True)
        assert list(folder.iterdir()) == []


def test_a_zombie_never_touches_the_lease_of_its_successor(tmp_path, quick_beats):
    leases = Leases(tmp_path)
    with leases.hold(KEY):
        os.rename(forge(tmp_path / "other", **ELSEWHERE), tmp_path / KEY)
        successor = (tmp_path / KEY).read_bytes()
        time.sleep(0.1)
        assert (tmp_path / KEY).read_bytes() == successor
    assert (tmp_path / KEY).read_bytes() == successor


def test_beats_change_the_content_and_not_its_length(tmp_path, quick_beats):
    with Leases(tmp_path).hold(KEY):
        seen, end = set(), time.monotonic() + 5
        while len(seen) < 4 and time.monotonic() < end:
            seen.add((tmp_path / KEY).read_bytes())
            time.sleep(0.005)
    assert len(seen) >= 4 and len({len(content) for content in seen}) == 1
    end = time.monotonic() + 5
    while module._keeper._thread is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert module._keeper._thread is None


@pytest.mark.parametrize("harm", ["file", "folder", "ESTALE"])
def test_a_lease_that_vanishes_ends_no_run(tmp_path, monkeypatch, quick_beats, harm):

    def stale(*_: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    with Leases(tmp_path / "locks").hold(KEY):
        if harm == "file":
            (tmp_path / "locks" / KEY).unlink()
        elif harm == "folder":
            shutil.rmtree(tmp_path / "locks")
        else:
            monkeypatch.setattr(module.os, "pwrite", stale)
        time.sleep(0.05)
    assert not (tmp_path / "locks" / KEY).exists()


@pytest.mark.parametrize("lacking", ["links", "locks", "both"])
def test_file_systems_without_links_or_locks(tmp_path, monkeypatch, lacking):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if lacking in ("links", "both"):
        monkeypatch.setattr(module.os, "link", refuse)
    if lacking in ("locks", "both"):
        monkeypatch.setattr(module.fcntl, "flock", refuse)
    leases = Leases(tmp_path)
    with leases.hold(KEY), pytest.raises(Busy), Leases(tmp_path).hold(KEY):
        pass
    forge(tmp_path, pid=GONE, flock=False)
    with leases.hold(KEY):
        assert leases.holder(KEY) == f"host {this_process().host}, process {os.getpid()}"
    assert list(tmp_path.iterdir()) == []


def test_who_died_while_taking_over_is_taken_over(tmp_path):
    """A lease for replacing the dead lease is dead as well, and so is one for replacing that."""
    leases = Leases(tmp_path)
    name = forge(tmp_path, pid=GONE)
    for _ in range(3):
        seen = peek(name)
        name = name.with_name(f"{name.name}.{module.sha256_bytes(seen.content)[:8]}")
        name.write_text(json.dumps({**json.loads(seen.content), "token": name.name[-8:]}))
    with leases.hold(KEY):
        assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_a_transient_error_of_the_disk_is_tried_again_and_a_lasting_one_is_one_line(tmp_path, monkeypatch):
    waits, real, failures = [], os.link, [1]
    monkeypatch.setattr("sessionwise.io.files._sleep", waits.append)

    def link(*arguments: object) -> None:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        real(*arguments)

    monkeypatch.setattr(module.os, "link", link)
    with pytest.warns(SessionwiseWarning, match="trying again"), Leases(tmp_path).hold(KEY):
        assert waits == [1.0]
    failures[0] = 9
    with pytest.warns(SessionwiseWarning), pytest.raises(EnvironmentProblem, match="Stale"):
        with Leases(tmp_path).hold(KEY):
            pass
    assert waits == [1.0, 1.0, 5.0, 25.0] and list(tmp_path.iterdir()) == []


def test_a_process_that_is_stopped_still_holds_its_lease_and_one_that_is_killed_does_not(tmp_path):
    command = [sys.executable, toy_committer.__file__, str(tmp_path), "lock"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "locked\n"
    key = toy_committer.toy_spec(0).key
    process.send_signal(signal.SIGSTOP)
    assert peek(tmp_path / ".locks" / key).state == ALIVE
    process.kill()
    process.communicate()
    assert peek(tmp_path / ".locks" / key).state == DEAD
    assert Leases(tmp_path / ".locks").holder(key) is None and list((tmp_path / ".locks").iterdir()) == []


def test_what_may_only_be_read_has_no_living_holder(tmp_path, monkeypatch):
    forge(tmp_path, pid=GONE)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    before, real = sorted(tmp_path.rglob("*")), os.open
    monkeypatch.setattr(module.os, "open", lambda p, flags, *more: refuse() if flags & os.O_CREAT else real(p, flags))
    assert Leases(tmp_path).holder(KEY) is None
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_its_successor_committed_first_is_stored_not_failed(tmp_path):
    """A process that was taken for dead finds its work folder gone: no failure, and the result is the successor's."""
    spec = toy_committer.toy_spec(0)

    def work(spec: RunSpec, store: RunStore, report: Reporter) -> None:
        folder = store.work_folder(spec.key)
        toy_committer.commit(RunStore(store.root), 0)
        (folder / "state").touch()  # raises: the commit removed the folder

    store = RunStore(tmp_path)
    assert perform(spec, store, work, Reporter(lambda event: None)) == {"reply": "stored"}
    assert store.failure(spec.key) is None and store.state(spec.key) == "done"
