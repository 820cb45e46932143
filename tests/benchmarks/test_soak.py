"""The soak sees what it is there to see: each violation is planted once. No study is run."""

import os
import shutil

import pytest
import soak
from soak import Soak, differences

from sessionwise.runs.checkpoints import save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

SPEC, OPEN = (RunSpec("toy", seed=seed) for seed in (0, 1))


def commit(study, text="whole"):
    store = RunStore(study / "runs")
    store.commit(SPEC, {"state": "done"}, lambda folder: (folder / "out.txt").write_text(text) and None)
    (study / "report").mkdir(exist_ok=True)
    (study / "report" / "report.json").write_text(text)


def save(study, step):
    save_checkpoint(RunStore(study / "runs").work_folder(OPEN.key), step, lambda folder: (folder / "state").touch())


@pytest.fixture
def killed(tmp_path):
    """A soak after a kill at which one run was stored and one was at step 20."""
    trial = Soak(tmp_path, seed=0)
    trial.state["reference_s"] = 10.0
    for study in (trial.reference, trial.study):
        commit(study)
    save(trial.study, 20)
    trial.look(0)
    assert trial.state["violations"] == []
    return trial


def found(trial):
    return [violation["what"] for violation in trial.state["violations"]]


def test_nothing_is_found_where_nothing_was_lost(killed):
    save(killed.study, 30)
    killed.look(1)
    killed.end(1, 0, 9.0)
    assert found(killed) == [] and killed.state["reference_s"] == 9.0 and not killed.study.exists()


def test_a_run_that_was_computed_again(killed):
    shutil.rmtree(killed.study / "runs" / SPEC.key)
    commit(killed.study)
    killed.look(1)
    assert found(killed) == ["computed again"]


def test_steps_that_were_lost(killed):
    work = killed.study / "runs" / f"{OPEN.key}.work"
    shutil.rmtree(work)
    save(killed.study, 10)
    killed.look(1)
    assert found(killed) == ["steps lost"]


def test_a_file_that_does_not_verify(killed):
    (killed.study / "runs" / SPEC.key / "out.txt").write_text("other")
    killed.look(1)
    assert found(killed) == ["not verified"]


def test_a_command_that_ends_badly_and_one_with_other_bytes(killed):
    killed.end(1, 1, 9.0)
    commit(killed.study, "other")
    killed.end(2, 0, 9.0)
    assert found(killed) == ["not ended", "other bytes", "other bytes", "other bytes"]


def test_what_is_compared(tmp_path):
    for name in ("a", "b"):
        commit(tmp_path / name)
    (tmp_path / "b" / "runs" / "logs").mkdir()
    (tmp_path / "b" / "runs" / "logs" / "worker.log").touch()
    (tmp_path / "b" / "timing.json").touch()
    assert differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "report" / "more.html").touch()
    assert differences(tmp_path / "a", tmp_path / "b") == ["report/more.html"]


def test_children_are_found():
    assert os.getpid() in soak.children(os.getppid())
