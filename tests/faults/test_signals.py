"""Each signal at each moment of a run (P2): the work is saved, the command ends with 75, and no step is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from toy_phases import MOMENTS, STEPS

from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.verify import verify_study

HERE = Path(__file__).parent
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Command:
    """A command that computes one toy training, in a process of its own."""

    def __init__(self, folder: Path, at: str, on: str) -> None:
        self.folder, self.log = folder, folder / "log"
        self.spec = RunSpec("toy", {"at": at}, where={"log": str(self.log)}, steps=STEPS)
        self.store = RunStore(folder / "study" / "runs")
        plan = {"root": str(self.store.root), "on": on, "work": "toy_phases:run", "specs": [self.spec.to_json()]}
        (folder / "plan.json").write_text(json.dumps(plan))

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        driver = [sys.executable, str(HERE.parent / "runs" / "toy_driver.py"), str(self.folder / "plan.json")]
        return subprocess.Popen(driver, stderr=subprocess.PIPE, text=True, env=environment)

    def start_until(self, moment: str) -> subprocess.Popen[str]:
        """Started, and waiting at a moment."""
        process, end = self.start(), time.monotonic() + 30
        while not (self.log / "here").exists():
            assert time.monotonic() < end and process.poll() is None, f"never came to: {moment}"
            time.sleep(0.005)
        return process

    def go(self) -> None:
        """Let the run go on."""
        (self.log / "go").touch()

    def steps(self) -> Counter[int]:
        """How often each step was done."""
        return Counter(int(line) for line in (self.log / "steps.txt").read_text().split())

    def ends_whole(self) -> None:
        """The same command again ends, and everything is there."""
        process = self.start()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert self.store.state(self.spec.key) == "done" and sorted(self.steps()) == list(range(1, STEPS + 1))
        assert not verify_study(self.folder / "study").problems


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_any_moment(tmp_path, number, moment):
    command = Command(tmp_path, moment, "processes:1")
    process = command.start_until(moment)
    process.send_signal(number)
    time.sleep(0.3)  # for the launcher to tell its worker
    command.go()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 or command.store.committed(command.spec.key), errors
    assert process.returncode in (0, 75) and "Traceback" not in errors
    command.ends_whole()
    assert max(command.steps().values()) <= 2 and sum(command.steps().values()) <= STEPS + 1


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_a_run_in_this_process(tmp_path, moment):
    command = Command(tmp_path, moment, "here")
    process = command.start_until(moment)
    process.send_signal(signal.SIGTERM)
    command.go()
    process.communicate(timeout=60)
    assert process.returncode in (0, 75)
    command.ends_whole()
    assert sum(command.steps().values()) <= STEPS + 1


@pytest.mark.parametrize("moment", ["step", "save"])
def test_a_second_signal_leaves_at_once_and_does_no_harm(tmp_path, moment):
    command = Command(tmp_path, moment, "processes:1")
    process = command.start_until(moment)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)  # the run is waiting still: nobody waited for it
    assert process.returncode == 75 and not (command.log / "go").exists()
    command.go()
    command.ends_whole()
    assert sum(command.steps().values()) <= STEPS + 10  # what was done since the last checkpoint


@pytest.mark.parametrize("moment", ["step", "save"])
def test_a_kill_after_a_signal_does_no_harm(tmp_path, moment):
    command = Command(tmp_path, moment, "processes:1")
    process = command.start_until(moment)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.kill()
    process.communicate(timeout=15)
    command.go()
    command.ends_whole()
    assert sum(command.steps().values()) <= STEPS + 10


def test_a_run_that_nobody_stops_shows_that_the_moments_are_reached(tmp_path):
    """The tests above can fail: every moment is one that an undisturbed run comes to."""
    for number, moment in enumerate(MOMENTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = Command(folder, moment, "here")
        process = command.start_until(moment)
        command.go()
        assert process.wait(timeout=60) == 0
        assert command.steps() == Counter(range(1, STEPS + 1))
