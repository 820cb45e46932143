"""A real Slurm for the tests of this folder, and the toy runs of the launcher's tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runs")]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of one node on this machine; the folder with its logs."""
    import start_slurm

    pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")
    if reason := start_slurm.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    folder.parent.chmod(0o755)
    over = threading.Event()
    try:
        os.environ["SLURM_CONF"] = str(start_slurm.start(folder))
        threading.Thread(target=hurry, args=[over], daemon=True).start()
        yield folder
    finally:
        over.set()
        start_slurm.stop(folder)
        os.environ.pop("SLURM_CONF", None)


def hurry(over: threading.Event) -> None:
    """Slurm keeps a job that was queued again for two minutes before it starts it: here for five seconds.

    Not less: a job that starts in the second in which its first start was ended is refused ("Job credential revoked").
    """
    waiting: dict[str, float] = {}  # job -> when it was first seen so
    while not over.wait(1.0):
        shown = subprocess.run(["squeue", "-h", "-r", "-t", "PD", "-o", "%i|%r"], capture_output=True, text=True).stdout
        jobs = [line.split("|")[0] for line in shown.splitlines() if line.endswith("|BeginTime")]
        waiting = {job: waiting.get(job, time.monotonic()) for job in jobs}
        for job in (job for job, since in waiting.items() if time.monotonic() - since >= 5):
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
