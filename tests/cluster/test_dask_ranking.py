"""The ranking of real recordings on a Dask cluster that loses a worker: to the byte the one of ``--on here``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

HELDOUT = "08_Hench_2017-06-15"
FEW = [
    part
    for key in ("train", "finetune", "baseline")
    for setting in ("epochs=2", "validations=4")
    for part in ("--set", f"{key}.{setting}")
]


@pytest.fixture(scope="module")
def store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of one mouse for the pool, one of another held out."""
    path = tmp_path_factory.mktemp("real") / "store"
    files = sorted((real_data / "steinmetz").glob("0[45678]_*.npz"))
    done = sessionwise("data", "import", *files, "--to", path).communicate(timeout=120)
    assert path.exists() and len(files) == 5, done
    return path


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def sessionwise(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sessionwise", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rank(store: Path, study: Path, on: str) -> subprocess.Popen[str]:
    options = ("--heldout", HELDOUT, "--preset", "tiny", "--seeds", "10", *FEW, "--to", study, "--on", on)
    return sessionwise("rank", store, *options)


def committed(study: Path) -> list[Path]:
    return [path for path in (study / "runs").glob("*") if len(path.name) == 64] if study.exists() else []


def both_at_work(study: Path) -> bool:
    """Whether some runs are done and both workers are in the middle of one."""
    return len(committed(study)) >= 3 and len(list((study / "runs").glob("*.work"))) == 2


@pytest.mark.slow
def test_a_ranking_of_real_recordings_whose_dask_worker_is_killed(store, cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    alone = rank(store, here, "here")
    assert alone.wait(timeout=200) == 0, alone.communicate()
    driver, end, killed = rank(store, there, f"dask:{cluster.scheduler_address}"), time.monotonic() + 100, None
    with distributed.Client(cluster, set_as_default=False) as client:
        workers = list(client.run(os.getpid).values())
    while killed is None and driver.poll() is None and time.monotonic() < end:
        if both_at_work(there):
            killed = workers[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.01)
    said = driver.communicate(timeout=200)
    assert killed is not None and driver.returncode == 0, said
    (expected,), (found,) = (list(study.glob("rankings/*/*/ranking.json")) for study in (here, there))
    assert found.read_bytes() == expected.read_bytes() and found.parent.name == expected.parent.name
    runs = [{path.name: (path / "manifest.json").read_bytes() for path in committed(study)} for study in (here, there)]
    assert runs[0] == runs[1] and len(runs[0]) == 4 + 4 + 2
    assert "Traceback" not in said[1] and "distributed" not in said[1], said[1]
