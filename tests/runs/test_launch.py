"""Executing runs: order, failures, lost workers, two drivers, kills and signals, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import toy_work

from sessionwise.errors import EXIT_STOPPED, EnvironmentProblem, IntegrityError, SessionwiseWarning, UsageError
from sessionwise.runs import pool
from sessionwise.runs.launch import early_workers, execute, pending, time_spent
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

DRIVER = Path(toy_work.__file__).with_name("toy_driver.py")
WORK = "toy_work:run"


class Study:
    """A store, the log of executions beside it, and runs for both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.log = folder, RunStore(folder / "runs"), folder / "log"

    def spec(self, do: str = "work", seed: int = 0, steps: int = 5, **options: Any) -> RunSpec:
        where = {"log": str(self.log), "seconds": options.pop("seconds", 0.0)}
        inputs = {role: spec.key for role, spec in options.pop("inputs", {}).items()}
        return RunSpec("toy", {"do": do, **options}, {}, inputs, seed, where=where, label=f"{do} {seed}", steps=steps)

    def execute(self, specs: list[RunSpec], on: str = "processes:2", **options: Any) -> dict[str, str]:
        outcomes = execute(specs, RunStore(self.store.root), WORK, on, **options)
        return {key: outcome.state for key, outcome in outcomes.items()}

    def events(self, what: str) -> list[str]:
        """Keys of the runs to which something happened, in the order of time."""
        names = sorted(path.name for path in self.log.glob("*-*")) if self.log.exists() else []
        return [name.split("-")[2] for name in names if name.split("-")[1] == what]

    def driver(self, specs: list[RunSpec], on: str = "processes:2") -> subprocess.Popen[str]:
        """The same call in a process of its own, in a process group of its own."""
        plan = self.folder / f"plan-{time.monotonic_ns()}.json"
        plan.write_text(
            json.dumps({"root": str(self.store.root), "on": on, "work": WORK, "specs": [s.to_json() for s in specs]})
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, str(DRIVER), str(plan)], text=True, start_new_session=True, **pipes)

    def workers(self) -> list[int]:
        """Process ids of all that executed something."""
        return sorted({int(path.name.split("-")[3]) for path in self.log.glob("*-begun-*")})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def wait_until(true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def two_floors(study: Study, count: int, **options: Any) -> list[RunSpec]:
    """``count`` runs and one that reads each of them; readers first, for the order given must not matter."""
    cores = [study.spec(seed=seed, **options) for seed in range(count)]
    return [study.spec(seed=100 + n, inputs={"core": core}, **options) for n, core in enumerate(cores)] + cores


# -- order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["here", "processes:1"])
def test_the_longest_ready_run_is_next_and_readers_do_not_wait_for_strangers(study, on):
    short, long = study.spec(seed=1, steps=2), study.spec(seed=2, steps=9)
    reader = study.spec(seed=3, steps=5, inputs={"core": long})
    study.execute([reader, short, long, short], on)
    assert study.events("begun") == [long.key, reader.key, short.key]


def test_what_others_wait_for_longest_comes_first(study):
    middle, first = study.spec(seed=1, steps=6), study.spec(seed=2, steps=3)
    second = study.spec(seed=3, steps=2, inputs={"core": first})
    third = study.spec(seed=4, steps=2, inputs={"core": second, "other": middle})
    lone = study.spec(seed=5, steps=5)
    study.execute([lone, third, second, middle, first], "processes:1")  # chains: middle 8, first 7, lone 5, second 4
    assert study.events("begun") == [spec.key for spec in (middle, first, lone, second, third)]


def test_what_is_stored_is_not_computed_and_readers_see_their_inputs(study):
    specs = two_floors(study, 3)
    assert pending(specs, study.store) == specs
    first = execute(specs, study.store, WORK, "processes:2")
    again = execute(specs, RunStore(study.store.root), WORK, "here")
    assert list(first) == list(again) == [spec.key for spec in specs]
    assert all(outcome.computed for outcome in first.values()) and {o.attempts for o in first.values()} == {1}
    assert not any(outcome.computed for outcome in again.values())
    assert max(Counter(study.events("begun")).values()) == 1 and pending(specs, study.store) == []
    assert (study.store.folder(specs[1].key) / "chain.txt").read_text() == "1\n101\n"


def test_the_same_bytes_here_in_workers_in_another_order_and_elsewhere(tmp_path):
    hashes = set()
    for name, on in (("a", "here"), ("b", "processes:2"), ("c/deep", "processes:1")):
        (tmp_path / name).mkdir(parents=True)
        study = Study(tmp_path / name)
        specs = [*two_floors(study, 3), study.spec("diverge", 7), study.spec("print", 8)]
        study.execute(specs if on == "here" else specs[::-1], on)
        hashes.add(tree_hash(study.store))
    assert len(hashes) == 1


def tree_hash(store: RunStore) -> str:
    digest = hashlib.sha256()
    for key in store.keys():
        for path in sorted((store.root / key).rglob("*")):
            digest.update(f"{key}/{path.name}".encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("on", ["there", "processes:0", "processes:-1", "processes:", "processes:two", "here:2", ""])
def test_an_unknown_executor_is_refused(study, on):
    with pytest.raises(UsageError, match="processes:n"):
        study.execute([study.spec()], on)
    assert not study.log.exists()


def test_an_input_that_is_neither_stored_nor_asked_for_is_refused(study):
    core = study.spec(seed=1)
    reader = study.spec(seed=2, inputs={"core": core})
    with pytest.raises(UsageError, match="neither"):
        study.execute([reader])
    study.execute([core])
    assert study.execute([reader]) == {reader.key: "done"}


# -- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["here", "processes:2"])
def test_a_run_that_raises_fails_alone_and_is_tried_again_only_on_request(study, on):
    bad, good = study.spec("raise", 1), study.spec(seed=2)
    reader = study.spec(seed=3, inputs={"core": bad})
    outcomes = execute([bad, good, reader], study.store, WORK, on)
    assert [outcome.state for outcome in outcomes.values()] == ["failed", "done", "failed"]
    assert outcomes[bad.key].reason == "toy: raised on purpose" and outcomes[bad.key].cause == "raised"
    assert outcomes[reader.key].cause == "input" and "core" in str(outcomes[reader.key].reason)
    assert study.store.state(reader.key) == "missing"
    assert "raised on purpose" in study.store.result(bad.key)["traceback"]
    (study.log / "repaired").touch()
    assert study.execute([bad, reader], on) == {bad.key: "failed", reader.key: "failed"}
    assert study.execute([bad, reader], on, retry_failed=True) == {bad.key: "done", reader.key: "done"}
    assert Counter(study.events("begun"))[bad.key] == 2 and study.store.failed_keys() == []


@pytest.mark.parametrize("on", ["here", "processes:2"])
def test_a_diverged_run_is_an_outcome_and_its_dependants_do_not_start(study, on):
    bad = study.spec("diverge", 1)
    reader = study.spec(seed=2, inputs={"core": bad})
    last = study.spec(seed=3, inputs={"tuned": reader})
    outcomes = execute([last, reader, bad], study.store, WORK, on)
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        bad.key: "diverged",
        reader.key: "failed",
        last.key: "failed",
    }
    assert outcomes[bad.key].reason == "loss is NaN at step 1" and "diverged" in str(outcomes[reader.key].reason)
    assert study.events("begun") == [bad.key]
    again = execute([last, reader, bad], study.store, WORK, on, retry_failed=True)
    assert [outcome.state for outcome in again.values()] == ["failed", "failed", "diverged"]
    assert study.events("begun") == [bad.key]


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_dead_worker_is_replaced_and_its_run_tried_again(study, how):
    dying, others = study.spec("die", 1, deaths=2, how=how), [study.spec(seed=seed) for seed in range(2, 6)]
    outcomes = execute([dying, *others], study.store, WORK, "processes:2")
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and outcomes[dying.key].attempts == 3
    begun = Counter(study.events("begun"))
    assert begun.pop(dying.key) == 3 and set(begun.values()) == {1}


def test_a_run_that_kills_its_workers_is_lost_and_tried_again_by_the_next_command(study):
    dying, good = study.spec("die", 1, deaths=3), study.spec(seed=2)
    outcomes = execute([dying, good], study.store, WORK, "processes:1")
    lost = outcomes[dying.key]
    assert (lost.state, lost.cause, lost.attempts) == ("failed", "lost", 3) and outcomes[good.key].state == "done"
    assert "SIGKILL" in str(lost.reason) and "the last words of a worker" in str(lost.reason)
    assert study.store.state(dying.key) == "failed"
    assert study.execute([dying]) == {dying.key: "done"}


def test_an_error_about_the_surroundings_ends_the_command_and_leaves_no_record(study):
    bad = study.spec("integrity", 1, steps=9)
    for on in ("here", "processes:2"):
        with pytest.raises(IntegrityError, match="toy data: was changed"):
            study.execute([bad, study.spec(seed=2)], on)
    assert study.store.state(bad.key) == "missing"


def test_a_work_function_that_cannot_be_imported_fails_no_run(study):
    for on in ("here", "processes:1"):
        for work, error in (("no_such_module:run", EnvironmentProblem), ("toy_work:nope", EnvironmentProblem)):
            with pytest.raises(error, match="cannot be imported"):
                execute([study.spec()], study.store, work, on)
        with pytest.raises(UsageError, match="module:function"):
            execute([study.spec()], study.store, "toy_work", on)
    assert study.store.state(study.spec().key) == "missing"


def test_a_run_that_commits_nothing_has_failed(study):
    outcome = execute([study.spec()], study.store, "toy_work:no_commit", "processes:1")[study.spec().key]
    assert outcome.state == "failed" and "without committing" in str(outcome.reason)


def test_workers_that_never_start_end_the_command(study, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentProblem, match="do not start"):
        study.execute([study.spec()], "processes:1")
    assert study.store.state(study.spec().key) == "missing"


def test_a_damaged_result_is_computed_again_and_only_that(study):
    specs = two_floors(study, 2)
    study.execute(specs)
    (study.store.root / specs[2].key / "chain.txt").write_text("damaged")
    with pytest.warns(SessionwiseWarning, match="moved aside"):
        states = study.execute(specs)
    assert set(states.values()) == {"done"} and Counter(study.events("begun"))[specs[2].key] == 2
    assert len(study.events("begun")) == 5


def test_prints_do_not_disturb_and_go_to_the_log(study):
    study.execute([study.spec("print", 1)], "processes:1")
    logs = list((study.store.root / "logs").iterdir())
    assert len(logs) == 1 and "noise" in logs[0].read_text()


def test_warnings_of_workers_reach_the_driver(study):
    spec = study.spec("steps", 1, steps=12)
    for step in (5, 6):
        toy_work.save_checkpoint(study.store.work_folder(spec.key), step, lambda folder: toy_work.put(folder / "s", ""))
    (study.store.work_folder(spec.key) / "step-000000000006" / "s").write_text("damaged")
    with pytest.warns(SessionwiseWarning, match="the one before it is used"):
        study.execute([spec], "processes:1")
    assert len(study.events("step0006")) == 1 and study.events("step0005") == []


def test_workers_have_one_thread_and_the_users_modules(study):
    study.execute([study.spec("work", 1)], "processes:1")
    outcome = execute([study.spec("work", 2)], study.store, "toy_work:environment", "processes:1")
    found = study.store.result(next(iter(outcome)))
    assert found["threads"] == "1" and found["main"] == "sessionwise.runs.worker"


def test_one_thread_is_set_inside_the_worker_as_well(study, monkeypatch):
    monkeypatch.setattr(pool, "ONE_THREAD", {"OMP_NUM_THREADS": "2"})  # what the launcher hands over is not enough
    execute([study.spec()], study.store, "toy_threads:run", "processes:1")
    found = study.store.result(study.spec().key)
    assert (found["intra"], found["interop"]) == (1, 1) and found["environment"] == ["1", "1", "1", "0"]


# -- workers that are kept ----------------------------------------------------------------------------------------


def pids(study: Study) -> list[int]:
    """The processes that began runs, in the order of time."""
    return [int(path.name.split("-")[3]) for path in sorted(study.log.glob("*-begun-*"))]


def test_workers_start_before_there_is_a_run_and_go_from_command_to_command(study):
    with early_workers("processes:2", work=WORK):
        early = [process.pid for process in pool._kept]
        study.execute([study.spec(seed=1)])
        Study(study.folder / "other").execute([study.spec(seed=1)])  # another store, the same log
        study.execute([study.spec("print", seed=2)], "processes:1")
        assert len(early) == 2 and set(pids(study)) <= set(early) and len(set(pids(study))) < 3
    assert not any(alive(pid) for pid in early) and pool._kept is None
    assert any("noise" in path.read_text() for path in (study.store.root / "logs").iterdir())
    study.execute([study.spec(seed=4)])
    assert pids(study)[-1] not in early


def test_a_kept_worker_that_died_is_replaced(study):
    with early_workers("processes:1", work=WORK):
        study.execute([study.spec(seed=1)], "processes:1")
        os.kill(pids(study)[0], signal.SIGKILL)
        assert set(study.execute([study.spec(seed=2)], "processes:1").values()) == {"done"}
        assert len(set(pids(study))) == 2


def test_workers_with_a_run_in_hand_are_not_kept_after_a_failure(study):
    with early_workers("processes:2", start=False, work=WORK):
        with pytest.raises(IntegrityError):
            study.execute([study.spec("integrity", 1), study.spec(seed=2, seconds=0.3)])
        assert pool._kept == []
        assert set(study.execute([study.spec(seed=2)]).values()) == {"done"}


def test_early_workers_leave_a_strange_executor_to_execute(study):
    with early_workers("gpu"), pytest.raises(UsageError, match="--on"):
        study.execute([study.spec()], "gpu")


# -- where the time went ------------------------------------------------------------------------------------------


def test_the_parts_of_a_run_and_of_a_command(study):
    spec = study.spec("steps", 1, steps=12)
    begun = time.monotonic()
    outcomes = execute([spec], study.store, WORK, "processes:1")
    spent = time_spent(outcomes.values(), "processes:1", time.monotonic() - begun)
    parts = outcomes[spec.key].parts
    assert set(parts) == {"load", "steps", "commit"} and min(parts.values()) >= 0 and parts["steps"] > 0
    assert sum(parts.values()) <= outcomes[spec.key].seconds
    sums = sum(spent[name] for name in ("load", "steps", "commit", "handover", "idle"))
    assert sums == pytest.approx(spent["seconds"]) and 0 < spent["busy"] < 1 and spent["runs"] == 1
    again = execute([spec], study.store, WORK, "processes:1")
    assert time_spent(again.values(), "processes:1", 1.0)["steps"] == 0


# -- several drivers, kills and signals ---------------------------------------------------------------------------


def test_two_drivers_compute_each_run_once(study):
    specs = [study.spec(seed=seed, seconds=0.01, steps=seed % 3) for seed in range(46)] + two_floors(study, 2)[:2]
    specs += [study.spec(seed=seed) for seed in range(2)]
    drivers = [study.driver(specs), study.driver(specs[::-1], "processes:1")]
    said = [json.loads(driver.communicate(timeout=60)[0]) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert set(Counter(study.events("begun")).values()) == {1}
    unique = {spec.key for spec in specs}
    for key in unique:
        assert [states[key][0] for states in said] == ["done", "done"]
        assert sorted(states[key][1] for states in said) == [False, True]
    assert min(sum(states[key][1] for key in unique) for states in said) > 3  # both took part


@pytest.mark.parametrize("on", ["here", "processes:1"])
def test_a_run_that_another_process_computes_is_waited_for_and_others_go_on(study, on):
    """The other process (here a thread with a store of its own) holds the longest run, then commits it."""
    held, free = study.spec(seed=1, steps=9), study.spec(seed=2, steps=1)
    locked = threading.Event()

    def other() -> None:
        store = RunStore(study.store.root)
        with store.lock(held.key):
            locked.set()
            wait_until(lambda: study.store.state(free.key) == "done")
            time.sleep(0.8)
            toy_work.commit(held, store, {"state": "done", "value": 1})

    class Notes(Progress):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(other)
        locked.wait()
        outcomes = execute([held, free], RunStore(study.store.root), WORK, on, Notes())
        future.result()
    assert not outcomes[held.key].computed and outcomes[held.key].state == "done" and outcomes[free.key].computed
    assert study.events("begun") == [free.key]
    assert len(said) == 1 and f"process {os.getpid()}; waiting" in said[0]


def test_kill_9_of_the_driver_loses_nothing_and_its_workers_go(study):
    rng, specs = random.Random(2), two_floors(study, 12, seconds=0.03)
    for _ in range(4):
        driver = study.driver(specs)
        before = len(study.events("begun"))
        wait_until(lambda before=before: len(study.events("begun")) > before or len(study.store.keys()) == len(specs))
        time.sleep(rng.uniform(0, 0.3))
        driver.kill()
        driver.communicate()
        wait_until(lambda: not any(alive(pid) for pid in study.workers()), 5)
        committed, begun = study.store.keys(), Counter(study.events("begun"))
        assert all(begun[key] for key in committed)
    driver = study.driver(specs)
    states = json.loads(driver.communicate(timeout=60)[0])
    assert driver.returncode == 0 and {state for state, _ in states.values()} == {"done"}
    after = Counter(study.events("begun"))
    assert all(after[key] == begun[key] for key in committed)
    assert study.store.verify() == [] and after.total() <= len(specs) + 4 * 2


@pytest.mark.parametrize("on", ["here", "processes:2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step_and_the_same_command_goes_on(study, on, number):
    """Sent to the whole process group, as a terminal does; no step is done twice."""
    specs = [study.spec("steps", seed, steps=60) for seed in range(2)]
    driver = study.driver(specs, on)
    wait_until(lambda: len(study.events("step0015")) == (1 if on == "here" else 2))
    os.killpg(driver.pid, number) if number == signal.SIGINT else driver.send_signal(number)
    errors = driver.communicate(timeout=20)[1]
    assert driver.returncode == EXIT_STOPPED
    assert number.name in errors and "Run the same command again" in errors
    assert len(study.events("stopped")) == (1 if on == "here" else 2)
    assert set(study.execute(specs).values()) == {"done"}
    steps = [len(study.events(f"step{step:04d}")) for step in range(1, 61)]
    assert steps == [2] * 60


def test_the_second_signal_stops_at_once(study):
    driver = study.driver([study.spec(seconds=60)], "processes:1")
    wait_until(lambda: study.events("begun"))
    start = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert driver.poll() is None
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=20)
    assert driver.returncode == EXIT_STOPPED and time.monotonic() - start < 15  # the run would take a minute
    wait_until(lambda: not any(alive(pid) for pid in study.workers()), 5)


def test_signal_handlers_are_put_back(study):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    study.execute([study.spec()], "here")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
