"""The ranking of real recordings on a real Slurm that loses a task: to the byte the one of ``--on here``."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from test_dask_ranking import committed, rank, store  # noqa: F401

PROFILE = "time = 20\nsignal_s = 30\npoll_s = 1\nbundle_runs = 3\ntasks = 2\n"


@pytest.mark.slow
def test_a_ranking_of_real_recordings_whose_slurm_task_is_killed(slurm, store, tmp_path):  # noqa: F811
    here, there = tmp_path / "here", tmp_path / "there"
    alone = rank(store, here, "here")
    assert alone.wait(timeout=200) == 0, alone.communicate()
    (tmp_path / "site.toml").write_text(PROFILE)
    driver, killed = rank(store, there, f"slurm:{tmp_path / 'site.toml'}"), 0
    end = time.monotonic() + 200
    while not killed and driver.poll() is None and time.monotonic() < end:
        if len(committed(there)) >= 3:
            killed = kill_one(there)
        time.sleep(0.02)
    said = driver.communicate(timeout=300)
    assert killed and driver.returncode == 0, said
    (expected,), (found,) = (list(study.glob("rankings/*/*/ranking.json")) for study in (here, there))
    assert found.read_bytes() == expected.read_bytes() and found.parent.name == expected.parent.name
    runs = [{path.name: (path / "manifest.json").read_bytes() for path in committed(study)} for study in (here, there)]
    assert runs[0] == runs[1] and len(runs[0]) == 4 + 4 + 2
    assert "trying again" in said[1] and "Traceback" not in said[1], said[1]
    print(f"\nkilled process {killed} in the middle of a run; the command said:\n{said[1]}")


def kill_one(study: Path) -> int:
    """Kill a process that has a run in hand which has a folder for its checkpoints; 0 when none has."""
    for lease in (study / "runs" / ".locks").glob("*"):
        try:
            pid = int(json.loads(lease.read_text())["pid"])
        except (OSError, ValueError, KeyError):
            continue
        if (study / "runs" / f"{lease.name}.work").exists():
            os.kill(pid, signal.SIGKILL)
            return pid
    return 0
