"""Toy runs on a real Slurm: the same bytes, killed tasks, requeues, time limits, drivers that die or are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_launch import WORK, Study, two_floors, wait_until

from sessionwise.errors import EXIT_STOPPED, EnvironmentProblem
from sessionwise.runs.launch import execute
from sessionwise.runs.progress import make_progress
from sessionwise.runs.store import RunStore

pytestmark = pytest.mark.usefixtures("slurm")
PROFILE = "time = 1\nsignal_s = 20\npoll_s = 1\nbundle_runs = 3\ntasks = 3\nmemory = '300M'\n"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def on(tmp_path: Path) -> str:
    (tmp_path / "site.toml").write_text(PROFILE)
    return f"slurm:{tmp_path / 'site.toml'}"


def chains(store: RunStore) -> dict[str, dict[str, bytes]]:
    """Every byte of every committed run."""
    return {key: {path.name: path.read_bytes() for path in sorted(store.folder(key).iterdir())} for key in store.keys()}


def jobs(states: str = "PENDING,RUNNING") -> list[str]:
    """Ids of tasks in Slurm's queue."""
    command = ["squeue", "-h", "-r", "-o", "%i", f"--states={states}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def nothing_queued() -> bool:
    return not jobs("PENDING,RUNNING,COMPLETING")


def meanwhile(act: Any) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def process_of(study: Study, step: str) -> int:
    """The process that did a step, when it has."""
    wait_until(lambda: study.events(step), 60)  # importing takes a task a while
    return int(next(path.name.split("-")[3] for path in study.log.glob(f"*-{step}-*")))


def steps_done_twice(study: Study) -> int:
    """How many steps of runs of one study were done more than once."""
    done = Counter(tuple(path.name.split("-")[1:3]) for path in study.log.glob("*-step*"))
    return sum(count - 1 for count in done.values())


def test_the_same_bytes_as_here_and_nothing_left_behind(on, tmp_path):
    here, there = Study(tmp_path / "here"), Study(tmp_path / "there")
    execute(two_floors(here, 4), here.store, WORK, "here")
    outcomes = execute(two_floors(there, 4), there.store, WORK, on)
    assert chains(RunStore(there.store.root)) == chains(here.store)
    assert {(outcome.state, outcome.attempts) for outcome in outcomes.values()} == {("done", 1)}
    assert set(Counter(there.events("begun")).values()) == {1} and 2 <= len(there.workers()) <= 6
    assert not list((there.store.root / ".slurm").iterdir())


def test_a_task_has_one_thread(on, study):
    outcome = execute([study.spec()], study.store, "toy_work:environment", on)
    assert study.store.result(next(iter(outcome)))["threads"] == "1"


def test_a_killed_task_costs_its_run_one_interval_and_the_others_nothing(on, study):
    long, others = study.spec("steps", 1, steps=200), [study.spec(seed=seed, steps=1) for seed in range(2, 8)]
    killer = meanwhile(lambda: os.kill(process_of(study, "step0055"), signal.SIGKILL))
    outcomes = execute([long, *others], study.store, WORK, on)
    killer.join()
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    assert outcomes[long.key].attempts == 2 and {outcomes[spec.key].attempts for spec in others} == {1}
    assert 0 < steps_done_twice(study) <= 11 and set(Counter(study.events("ended")).values()) == {1}


def test_a_run_that_always_kills_its_task_fails_as_lost_and_alone(on, study):
    bad, good = study.spec("die", 1, deaths=9), [study.spec(seed=seed) for seed in range(2, 5)]
    outcomes = execute([bad, *good], study.store, WORK, on)
    assert (outcomes[bad.key].cause, outcomes[bad.key].attempts) == ("lost", 3)
    assert "the last words of a worker" in str(outcomes[bad.key].reason)
    assert {outcomes[spec.key].state for spec in good} == {"done"} and len(study.events("begun")) == 3 + 3


@pytest.mark.parametrize("command", [["scontrol", "requeue"], ["scancel", "--signal=USR1"]])
def test_a_task_that_is_queued_again_goes_on(on, study, command):
    spec = study.spec("steps", 1, steps=300)

    def act() -> None:
        process_of(study, "step0055")
        (job,) = jobs("RUNNING")
        subprocess.run([*command, job], check=True)

    acting = meanwhile(act)
    outcome = execute([spec], study.store, WORK, on)[spec.key]
    acting.join()
    assert (outcome.state, outcome.attempts) == ("done", 1)
    assert len(study.events("begun")) == 2 and steps_done_twice(study) <= (1 if "scancel" in command else 11)


def test_a_run_longer_than_the_time_of_a_task_goes_on_in_the_next(on, study):
    spec = study.spec("steps", 1, steps=3600)
    outcome = execute([spec], study.store, WORK, on, make_progress())[spec.key]  # its notes say why a task was lost
    assert (outcome.state, outcome.attempts) == ("done", 1)
    assert len(study.events("begun")) >= 2 and steps_done_twice(study) <= len(study.events("stopped"))


def test_a_killed_driver_leaves_tasks_that_the_next_one_finds_again(on, study):
    specs = [study.spec("steps", seed, steps=400) for seed in range(3)] + [study.spec(seed=9)]
    first = study.driver(specs, on)
    wait_until(lambda: len(study.events("step0020")) == 2, 60)
    first.kill()
    first.wait()
    submitted = len(jobs())
    outcomes = execute(specs, study.store, WORK, on)
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and submitted >= 2
    assert set(Counter(study.events("begun")).values()) == {1} and steps_done_twice(study) == 0


def test_without_any_driver_a_signalled_task_still_ends_its_runs(on, study):
    specs = [study.spec("steps", 1, steps=300), study.spec(seed=2)]
    driver = study.driver(specs, on)
    process_of(study, "step0055")
    driver.kill()
    driver.wait()
    subprocess.run(["scancel", "--signal=USR1", *jobs("RUNNING")], check=True)
    wait_until(lambda: len(RunStore(study.store.root).keys()) == 2, 250)
    outcomes = execute(specs, study.store, WORK, on)
    assert not any(outcome.computed for outcome in outcomes.values()) and steps_done_twice(study) <= 1
    wait_until(nothing_queued)


def test_a_stopped_driver_lets_its_tasks_save_and_takes_them_back(on, study):
    specs = [study.spec("steps", seed, steps=500) for seed in range(4)]
    driver = study.driver(specs, on)
    process_of(study, "step0030")
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)
    assert driver.returncode == EXIT_STOPPED and "Run the same command again" in said[1], said
    assert "Traceback" not in said[1]
    wait_until(nothing_queued)
    outcomes = execute(specs, study.store, WORK, on)
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and steps_done_twice(study) <= 4


def test_a_cancelled_job_ends_the_command(on, study):
    specs = [study.spec("steps", seed, steps=400) for seed in range(2)]
    driver = study.driver(specs, on)
    process_of(study, "step0030")
    subprocess.run(["scancel", *jobs()], check=True)
    said = driver.communicate(timeout=60)
    assert driver.returncode == EXIT_STOPPED and "was cancelled; nothing is lost" in said[1], said
    wait_until(nothing_queued)


def test_what_the_site_does_not_have_is_refused_before_anything_is_submitted(study, tmp_path):
    site = tmp_path / "other.toml"
    site.write_text(PROFILE + "partition = 'nowhere'\n")
    begun = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="Invalid partition"):
        execute([study.spec()], study.store, WORK, f"slurm:{site}")
    assert time.monotonic() - begun < 10 and not jobs() and not (study.store.root / ".slurm").exists()
