"""SIGKILL at each stage of a whole ranking (P1): the same command again ends with 0, with the same bytes.

Workers and drivers are met amid a pretraining and amid a finetune, the driver also between two files of the ranking and
of the report. There it kills itself: ``sitecustomize.py``, which Python imports first, ends the process when it is
about to give a file its name.
"""

from __future__ import annotations

import os
import shutil
import signal
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


def test_a_worker_and_then_the_driver_in_a_pretraining_and_in_a_finetune(small_rank, tmp_path):
    """Four kills on one study; what one of them does not lose must not be lost by the next either."""
    study = tmp_path / "study"
    before: dict[str, tuple[int, int]] = {}
    for kind in ("pretrain", "finetune"):
        process = small_rank.start(study)
        with training_under_way(process, study, kind) as first:
            assert still_there(study, before), kind
            os.kill(first.pid, signal.SIGKILL)
        with training_under_way(process, study, kind, after={first.key: first.step}) as second:
            assert second.pid != first.pid and second.key == first.key  # a new worker of the same command
            before = committed(study)
            process.kill()
            _, said = ended(process)
        assert "SIGKILL" in said and "trying again" in said and "Traceback" not in said, (kind, said)
        wait_for(lambda pid=second.pid: state_of(pid) in "ZX", None)  # a worker ends with its driver
        assert newest_step(study, second.key) >= second.step and committed(study) == before, kind
        assert not (study / "rankings").exists()
    code, said = ended(small_rank.start(study))
    assert code == 0 and "Traceback" not in said, said
    is_whole(study, before, small_rank)


def test_the_driver_while_it_writes_the_ranking(small_rank, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(small_rank.whole / "runs", study / "runs")
    before = committed(study)
    code, _ = ended(small_rank.start(study, **dies_before("ranking.csv", tmp_path)))
    assert code == -signal.SIGKILL
    written = {path.name for path in study.glob("rankings/*/*/*") if not path.name.startswith(".tmp-")}
    assert written == {"manifest.json", "ranking.json"} and not (study / "report").exists()
    code, said = ended(small_rank.start(study))
    assert code == 0, said
    is_whole(study, before, small_rank)


def test_the_driver_while_it_writes_the_report(small_rank, tmp_path):
    study = tmp_path / "study"
    for part in ("runs", "rankings"):
        shutil.copytree(small_rank.whole / part, study / part)
    before = committed(study)
    code, _ = ended(small_rank.report(study, **dies_before("report.json", tmp_path)))
    assert code == -signal.SIGKILL and list(study.glob("report/figures/*.svg"))
    assert not (study / "report" / "report.json").exists() and not (study / "report" / "index.html").exists()
    code, said = ended(small_rank.report(study))
    assert code == 0, said
    is_whole(study, before, small_rank)


def dies_before(name: str, folder: Path) -> dict[str, str]:
    """Environment of a process that ends before a file gets this name."""
    (folder / "failpoint").mkdir()
    (folder / "failpoint" / "sitecustomize.py").write_text(FAILPOINT)
    return {"PYTHONPATH": str(folder / "failpoint"), "DIE_BEFORE": name}
