"""Runs on a real Dask cluster on this machine: the same bytes, lost workers, lost schedulers, several drivers."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_launch import WORK, Study, alive, two_floors, wait_until

from sessionwise.errors import EXIT_ENVIRONMENT, EXIT_STOPPED, EnvironmentProblem, IntegrityError, UsageError
from sessionwise.errors import SessionwiseWarning as Warned
from sessionwise.runs import dask, dask_task
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.launch import execute, time_spent
from sessionwise.runs.progress import Progress
from sessionwise.runs.store import RunStore

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread; a killed one is replaced."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def small() -> Iterator[Any]:
    """A scheduler and a worker of two threads in this process: there in no time, and easily ended."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def at(cluster: Any) -> str:
    return f"dask:{cluster.scheduler_address}"


class Heard(Progress):
    """What the driver is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.events: list[dict[str, Any]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def event(self, spec: Any, event: dict[str, Any]) -> None:
        self.events.append(event)
        super().event(spec, event)


def chains(store: RunStore) -> dict[str, dict[str, bytes]]:
    """Every byte of every committed run."""
    return {key: {path.name: path.read_bytes() for path in sorted(store.folder(key).iterdir())} for key in store.keys()}


# -- the same work --------------------------------------------------------------------------------------------------


def test_the_same_bytes_as_here_from_children_that_are_kept(cluster, tmp_path):
    here, there = Study(tmp_path / "here"), Study(tmp_path / "there")
    execute(two_floors(here, 4), here.store, WORK, "here")
    specs, heard = two_floors(there, 4), Heard()
    outcomes = execute(specs, there.store, WORK, at(cluster), heard)
    assert chains(RunStore(there.store.root)) == chains(here.store)
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and len(outcomes) == 8
    assert set(Counter(there.events("begun")).values()) == {1} and len(there.workers()) <= 2
    assert any(event["loss"] == 0.5 for event in heard.events) and not heard.notes
    assert not list(there.store.root.glob(".tmp-*"))
    again = execute(specs, RunStore(there.store.root), WORK, at(cluster))
    assert not any(outcome.computed for outcome in again.values())


def test_the_driver_hears_how_far_a_run_is_and_where_it_ended(cluster, study):
    heard = Heard()
    execute([study.spec("steps", 1, steps=60)], study.store, WORK, at(cluster), heard)
    steps = [event["step"] for event in heard.events]
    assert 2 <= len(steps) < 20 and steps[0] == 1 and steps[-1] > 30 and steps == sorted(steps)


def test_children_have_one_thread_and_a_process_of_their_own(cluster, study):
    outcome = execute([study.spec()], study.store, "toy_work:environment", at(cluster))
    found = study.store.result(next(iter(outcome)))
    assert found["threads"] == "1" and found["main"] == "sessionwise.runs.worker"


def test_as_many_at_a_time_as_the_cluster_has_threads(cluster, study):
    assert runs_at_a_time(at(cluster)) == 2
    specs = [study.spec(seed=seed, seconds=0.3) for seed in range(4)]
    begun = time.monotonic()
    outcomes = execute(specs, study.store, WORK, at(cluster))
    spent = time_spent(outcomes.values(), at(cluster), time.monotonic() - begun)
    assert spent["workers"] == 2 and spent["runs"] == 4
    stamps = [(int(path.name.split("-")[0]), path.name.split("-")[1]) for path in sorted(study.log.iterdir())]
    running, most = 0, 0
    for _, what in stamps:
        running += {"begun": 1, "ended": -1}[what]
        most = max(most, running)
    assert most == 2


# -- failures -------------------------------------------------------------------------------------------------------


def test_a_run_that_raises_fails_alone_and_a_child_that_dies_fails_only_its_own_run(cluster, study):
    bad, dying, lost = study.spec("raise", 1), study.spec("die", 2, deaths=1), study.spec("die", 3, deaths=9)
    good = [study.spec(seed=seed) for seed in range(4, 8)]
    outcomes = execute([bad, dying, lost, *good], study.store, WORK, at(cluster))
    assert (outcomes[bad.key].state, outcomes[bad.key].cause) == ("failed", "raised")
    assert (outcomes[dying.key].state, outcomes[dying.key].attempts) == ("done", 2)
    assert (outcomes[lost.key].state, outcomes[lost.key].cause, outcomes[lost.key].attempts) == ("failed", "lost", 3)
    assert "SIGKILL" in str(outcomes[lost.key].reason) and "the last words" in str(outcomes[lost.key].reason)
    assert {outcomes[spec.key].state for spec in good} == {"done"}
    begun = Counter(study.events("begun"))
    assert begun[dying.key] == 2 and begun[lost.key] == 3 and all(begun[spec.key] == 1 for spec in good)


def test_an_error_about_the_surroundings_ends_the_command(cluster, study):
    bad = study.spec("integrity", 1, steps=9)
    with pytest.raises(IntegrityError, match="toy data: was changed"):
        execute([bad, study.spec(seed=2)], study.store, WORK, at(cluster))
    assert study.store.state(bad.key) == "missing"


def test_a_dask_worker_killed_in_mid_run_takes_its_child_along_and_the_run_goes_on_elsewhere(cluster, study):
    spec, others = study.spec("steps", 1, steps=120), [study.spec(seed=seed) for seed in range(2, 5)]

    def kill() -> None:
        wait_until(lambda: study.events("step0035"))
        (child,) = {int(path.name.split("-")[3]) for path in study.log.glob("*-step0035-*")}
        parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: not alive(child), 5)
        ended.append(child)

    ended: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(kill)
        outcomes = execute([spec, *others], study.store, WORK, at(cluster))
        killed.result()
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and len(ended) == 1
    steps = [len(study.events(f"step{step:04d}")) for step in range(1, 121)]
    assert set(steps[:29]) == {1} and sum(steps) - 120 <= 30  # goes on from the checkpoint at step 30
    assert len(study.events("begun")) == 2 + len(others)


def test_a_worker_that_is_closed_in_order_lets_its_run_save_and_no_step_is_done_twice(study):
    specs = [study.spec("steps", seed, steps=80) for seed in range(2)]
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as two,
        distributed.Client(two, set_as_default=False) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        found = threads.submit(execute, specs, study.store, WORK, at(two))
        wait_until(lambda: len(study.events("step0015")) == 2)
        client.retire_workers([two.workers[0].address])
        outcomes = found.result()
    assert [(outcome.state, outcome.attempts) for outcome in outcomes.values()] == [("done", 1)] * 2
    assert len(study.events("stopped")) == 1
    assert [len(study.events(f"step{step:04d}")) for step in range(1, 81)] == [2] * 80


def test_two_drivers_compute_each_run_once(cluster, study):
    specs = [study.spec(seed=seed, seconds=0.02) for seed in range(16)] + two_floors(study, 2)[:2]
    specs += [study.spec(seed=seed) for seed in range(2)]
    orders = [specs, specs[::-1]]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda some: execute(some, RunStore(study.store.root), WORK, at(cluster)), orders))
    assert set(Counter(study.events("begun")).values()) == {1}
    for key in {spec.key for spec in specs}:
        assert [outcomes[key].state for outcomes in found] == ["done", "done"]
        assert sum(outcomes[key].computed for outcomes in found) == 1


# -- drivers that end -----------------------------------------------------------------------------------------------


def test_a_signal_lets_children_save_and_the_same_command_goes_on(cluster, study):
    specs = [study.spec("steps", seed, steps=80) for seed in range(3)]
    driver = study.driver(specs, at(cluster))
    wait_until(lambda: len(study.events("step0015")) == 2)
    driver.send_signal(signal.SIGINT)
    errors = driver.communicate(timeout=20)[1]
    assert driver.returncode == EXIT_STOPPED and "Run the same command again" in errors, errors
    assert len(study.events("stopped")) == 2 and "Traceback" not in errors
    outcomes = execute(specs, RunStore(study.store.root), WORK, at(cluster))
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    steps = [len(study.events(f"step{step:04d}")) for step in range(1, 81)]
    assert steps == [3] * 80


def test_kill_9_of_the_driver_leaves_runs_that_end_in_the_store(cluster, study):
    specs = [study.spec("steps", seed, steps=60) for seed in range(4)]
    driver = study.driver(specs, at(cluster))
    wait_until(lambda: len(study.events("step0015")) == 2)
    driver.kill()
    driver.communicate()
    outcomes = execute(specs, RunStore(study.store.root), WORK, at(cluster))
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    assert set(Counter(study.events("begun")).values()) == {1}


def test_a_lost_scheduler_is_one_line_and_what_was_under_way_is_saved(small, study, monkeypatch):
    monkeypatch.setattr(dask, "WATCH_S", 0.3)
    spec = study.spec("steps", 1, steps=120)

    def close() -> None:
        wait_until(lambda: study.events("step0015"))
        small.close()

    threading.Thread(target=close).start()
    begun = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"connection lost.*Run the same command again") as caught:
        execute([spec], study.store, WORK, at(small))
    assert caught.value.exit_code == EXIT_ENVIRONMENT and "\n" not in str(caught.value)
    assert time.monotonic() - begun < 10
    wait_until(lambda: study.events("stopped"), 5)
    study.execute([spec], "here")
    assert len(study.events("step0015")) == 1


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["dask", "dask:", "dask:localhost", "dask:no/such/file.json"])
def test_an_address_that_cannot_be_meant(study, on):
    with pytest.raises(UsageError, match=r"dask:tcp://HOST:PORT or dask:SCHEDULER_FILE"):
        execute([study.spec()], study.store, WORK, on)
    with pytest.raises(UsageError, match="--on"):
        runs_at_a_time(on)


def test_a_scheduler_that_is_not_there_is_one_line(study, monkeypatch):
    monkeypatch.setattr(dask, "CONNECT_S", 0.5)
    with pytest.raises(EnvironmentProblem, match=r"tcp://127\.0\.0\.1:1: cannot be reached .*dask scheduler") as caught:
        execute([study.spec()], study.store, WORK, "dask:tcp://127.0.0.1:1")
    assert "\n" not in str(caught.value) and not study.store.keys()


def test_with_everything_stored_no_scheduler_is_needed(study):
    study.execute([study.spec()], "here")
    outcomes = execute([study.spec()], study.store, WORK, "dask:tcp://127.0.0.1:1")
    assert time_spent(outcomes.values(), "dask:tcp://127.0.0.1:1", 1.0)["workers"] == 1


def test_without_the_package_the_extra_is_named(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[dask\]'"):
        execute([study.spec()], study.store, WORK, "dask:tcp://127.0.0.1:1")


def test_a_scheduler_file_is_an_address(small, study):
    file = study.folder / "scheduler.json"
    file.write_text(json.dumps({"address": small.scheduler_address}))
    assert set(study.execute([study.spec()], f"dask:{file}").values()) == {"done"}


@pytest.mark.parametrize("name", ["sessionwise", "code schema", "torch", "python"])
def test_workers_with_other_versions_are_refused(small, study, monkeypatch, name):
    real = dask_task.about()
    monkeypatch.setattr(dask, "about", lambda: {**real, name: "1.2.3"})
    with pytest.raises(EnvironmentProblem, match=f"Dask worker .* has {name} .*need {name} 1.2.3 as here"):
        study.execute([study.spec()], at(small))
    assert study.events("begun") == [] and not list(study.store.root.glob(".tmp-*"))


def test_a_worker_that_joins_later_with_another_version_is_refused_by_its_task(small, study, monkeypatch):
    real = dask_task.about()
    monkeypatch.setattr(dask._Cluster, "_greet", lambda cluster: cluster._count({"one": 1}))
    monkeypatch.setattr(dask, "about", lambda: {**real, "torch": "1.2.3"})
    with pytest.raises(EnvironmentProblem, match="has torch"):
        study.execute([study.spec()], at(small))
    assert study.events("begun") == []


def test_other_differences_are_said(small, study, monkeypatch):
    real = dask_task.about()
    monkeypatch.setattr(dask, "about", lambda: {**real, "numpy": "0.1", "torch": real["torch"] + "+other"})
    with pytest.warns(Warned, match=r"1 Dask workers have numpy .* \(here 0\.1\)"):
        assert set(study.execute([study.spec()], at(small)).values()) == {"done"}


def test_workers_that_do_not_see_the_folder_are_refused(small, study, monkeypatch):
    monkeypatch.setattr(dask._Cluster, "_mark", lambda cluster: None)
    with pytest.raises(EnvironmentProblem, match=r"does not see .*a file system shared by all"):
        study.execute([study.spec()], at(small))


def test_children_that_never_start_end_the_command(small, study, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentProblem, match="do not start"):
        study.execute([study.spec()], at(small))
    assert study.store.state(study.spec().key) == "missing"


def test_without_workers_it_is_said_and_waited(study):
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:

        def grow() -> None:
            wait_until(lambda: study.store.root.exists())
            time.sleep(0.5)
            cluster.scale(1)

        with pytest.warns(Warned, match="has no workers now"):
            threading.Thread(target=grow).start()
            assert set(study.execute([study.spec()], at(cluster)).values()) == {"done"}


# -- how tasks end --------------------------------------------------------------------------------------------------


def killed(key: str) -> Exception:
    from distributed.scheduler import KilledWorker

    return KilledWorker(key, SimpleNamespace(address="tcp://1.2.3.4:5"), 3)


@pytest.mark.parametrize(
    ("future", "says"),
    [
        (SimpleNamespace(status="error", exception=lambda timeout: killed("a")), "4 Dask workers died with it in hand"),
        (SimpleNamespace(status="error", exception=lambda timeout: OSError("no\nspace")), "OSError: no space"),
        (SimpleNamespace(status="finished", result=lambda timeout: 1 / 0), "reply was lost (ZeroDivisionError"),
        (SimpleNamespace(status="cancelled"), "cancelled in the cluster"),
    ],
)
def test_a_task_without_a_reply_is_a_lost_run(study, future, says, monkeypatch):
    monkeypatch.setattr(dask, "WATCH_S", 0.05)
    pool = dask.DaskPool("tcp://there", study.store, WORK)
    pool._cluster = object.__new__(dask._Cluster)
    pool._cluster.lost, pool._cluster._client = "", SimpleNamespace(status="running")
    message = pool._outcome(future)
    assert list(message) == ["died"] and says in message["died"]


def test_a_cancelled_task_of_a_lost_scheduler_ends_the_command(study):
    pool = dask.DaskPool("tcp://there", study.store, WORK)
    pool._cluster = object.__new__(dask._Cluster)
    pool._cluster.address, pool._cluster.lost = "tcp://there", ""
    pool._cluster._client = SimpleNamespace(status="connecting")
    with pytest.raises(EnvironmentProblem, match="tcp://there: connection lost"):
        pool._outcome(SimpleNamespace(status="cancelled"))


def test_children_are_kept_for_their_store_and_ended_when_idle(study, tmp_path):
    children = dask_task.Children()
    with children.one(study.store.root, WORK) as first:
        pass
    with children.one(study.store.root, WORK) as again, children.one(study.store.root, WORK) as second:
        assert again is first and second is not first
    with children.one(tmp_path / "other", WORK) as other:
        assert other.process.pid not in (first.process.pid, second.process.pid)
        other.told_to_stop = True
    assert not alive(other.process.pid)
    children.end_idle(time.monotonic())
    assert not alive(first.process.pid) and not alive(second.process.pid)


def test_a_child_that_died_while_idle_is_not_handed_out(study):
    children = dask_task.Children()
    with children.one(study.store.root, WORK) as first:
        pass
    first.process.kill()
    first.process.wait()
    with children.one(study.store.root, WORK) as second:
        assert second is not first
    children.end_idle(time.monotonic())
