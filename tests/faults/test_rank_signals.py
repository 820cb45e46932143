"""Four signals against a whole ranking with workers (P2): saved, exit 75, one line, and the same bytes in the end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from small_rank import (
    committed,
    ended,
    is_whole,
    newest_step,
    state_of,
    still_there,
    training_under_way,
)
from test_concurrency import workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers"),
]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def test_each_signal_amid_a_training_and_the_same_bytes_in_the_end(small_rank, tmp_path):
    """Four commands on one study, each stopped by another signal; the fifth one ends."""
    study = tmp_path / "study"
    steps: dict[str, int] = {}
    before: dict[str, tuple[int, int]] = {}
    for number in SIGNALS:
        on = "processes:2" if number == signal.SIGTERM else "processes:1"
        stop_amid_a_training(small_rank.start(study, on), study, number, steps)
        assert still_there(study, before), number.name
        before = committed(study)
    assert len(before) < 6 and not (study / "rankings").exists()
    code, said = ended(small_rank.start(study))
    assert code == 0 and "Traceback" not in said, said
    is_whole(study, before, small_rank)


def stop_amid_a_training(
    process: subprocess.Popen[str], study: Path, number: signal.Signals, steps: dict[str, int]
) -> None:
    """One command and one signal; ``steps``: the newest checkpoints of trainings that were stopped before."""
    with training_under_way(process, study, after=steps) as moment:
        children = workers(process.pid)
        assert moment.pid in children
        send(process, number)
    code, said = ended(process)
    assert code == 75 and "Traceback" not in said, (number.name, said)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert line == said.splitlines()[-1] and number.name in line and "same command again" in line
    assert [pid for pid in children if state_of(pid) not in "ZX"] == [], number.name
    assert list((study / "runs" / ".locks").iterdir()) == []
    saved = newest_step(study, moment.key)
    assert saved > moment.step or moment.key in committed(study), number.name  # at the step of the stop, not before
    steps[moment.key] = saved


def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Ctrl-C reaches the workers as well, as from a terminal; the others come from somebody who knows the driver."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
