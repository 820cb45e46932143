"""SIGKILL at each stage of a whole ranking (P1): the same command again ends with 0, with the same bytes.

Workers and drivers are met amid a pretraining and amid a finetune, the driver also between two files of the ranking and
of the report. There it kills itself: ``sitecustomize.py``, which Python imports first, ends the process when it is
about to give a file its name.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from small_rank import (
    SmallRank,
    committed,
    ended,
    is_whole,
    newest_step,
    python_path,
    state_of,
    still_there,
    training_under_way,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers"),
]

FAILPOINT = """
import os, signal, sys

def audit(event, arguments):
    if event == "os.rename" and os.path.basename(os.fspath(arguments[1])) == os.environ["DIE_BEFORE"]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
"""


def test_a_kill_at_each_stage_and_the_same_bytes_in_the_end(small_rank, tmp_path):
    """Six kills on one study; what one of them does not lose must not be lost by a later one either."""
    study = tmp_path / "study"
    before: dict[str, tuple[int, int]] = {}
    for kind in ("pretrain", "finetune"):
        before = kill_a_worker_and_the_driver(small_rank, study, kind, before)
        assert not (study / "rankings").exists()
    end_before("ranking.csv", small_rank, study, before)
    assert "ranking.json" in names(study, "rankings") and names(study, "report") == set()
    before = committed(study)
    end_before("report.json", small_rank, study, before)
    assert "ranking.csv" in names(study, "rankings") and "index.html" not in names(study, "report")
    assert "scores.svg" in names(study, "report/figures")
    code, said = ended(small_rank.start(study))
    assert code == 0 and "Traceback" not in said, said
    assert len(before) == len(committed(study)) == 6
    is_whole(study, before, small_rank)


def kill_a_worker_and_the_driver(
    rank: SmallRank, study: Path, kind: str, before: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """In one command, both amid the same training; returns what is committed then."""
    process = rank.start(study)
    with training_under_way(process, study, kind) as first:
        os.kill(first.pid, signal.SIGKILL)
    with training_under_way(process, study, kind, after={first.key: first.step}) as second:
        assert second.pid != first.pid  # a new worker of the same command
        now = committed(study)
        process.kill()
        _, said = ended(process)
    assert "SIGKILL" in said and "trying again" in said and "Traceback" not in said, (kind, said)
    wait_for(lambda: state_of(second.pid) in "ZX", None)  # a worker ends with its driver
    assert newest_step(study, second.key) >= second.step and still_there(study, before), kind
    assert committed(study) == now, kind
    return now


def end_before(name: str, rank: SmallRank, study: Path, before: dict[str, tuple[int, int]]) -> None:
    """A command that kills itself before a file gets this name."""
    folder = study.parent / "failpoint"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(FAILPOINT)
    code, said = ended(rank.start(study, PYTHONPATH=python_path(folder), DIE_BEFORE=name))
    assert code == -signal.SIGKILL and "Traceback" not in said, said
    assert still_there(study, before) and name not in names(study, "."), name


def names(study: Path, folder: str) -> set[str]:
    """Names of all files below a folder of the study."""
    return {path.name for path in (study / folder).rglob("*") if path.is_file()}
