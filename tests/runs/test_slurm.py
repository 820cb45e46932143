"""The driver's side of Slurm against commands that play every way a job can end; the real one: ``tests/cluster``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_slurm_path
import pytest
from test_launch import WORK, Study, wait_until

from sessionwise.errors import EnvironmentProblem, IntegrityError, Stopped, UsageError
from sessionwise.errors import SessionwiseWarning as Warned
from sessionwise.io.files import read_json, write_json
from sessionwise.runs import executors, launch, slurm, slurm_task
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.launch import execute
from sessionwise.runs.profile import Profile
from sessionwise.runs.progress import Progress
from sessionwise.runs.slurm import SlurmPool
from sessionwise.runs.store import RunStore
from sessionwise.runs.survey import is_our_run_name

pytest.importorskip("submitit", reason="the extra 'slurm' is not installed")
Plan = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Slurm's commands on the path, with a plan; quick, as far as we wait."""
    home = fake_slurm_path.install(tmp_path, monkeypatch)
    for name, value in {"LOOK_S": 0.0, "SETTLE_S": 0.05, "GONE_S": 0.4, "_AGAIN_S": 0.05}.items():
        monkeypatch.setattr(slurm, name, value)
    monkeypatch.setattr(launch, "_POLL_S", 0.02)
    use(monkeypatch)

    def set_plan(**cases: Any) -> Path:
        (home / "plan.json").write_text(json.dumps({name.removeprefix("job"): case for name, case in cases.items()}))
        return home

    set_plan()
    return set_plan


def use(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    settings = {"bundle_runs": 2, "tasks": 2, "poll_s": 0, **settings}
    monkeypatch.setattr(executors, "find_profile", lambda on: Profile(**settings))


def calls(home: Path, name: str) -> list[list[str]]:
    return [call for line in (home / "calls").read_text().splitlines() if (call := json.loads(line))[0] == name]


def submissions(home: Path) -> int:
    return len([call for call in calls(home, "sbatch") if "--test-only" not in call])


class Heard(Progress):
    """What the driver is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


# -- how jobs end ---------------------------------------------------------------------------------------------------

WAYS = {  # what becomes of the first job: attempts at its run in all, and what is said
    "node lost": ({"state": "NODE_FAIL", "begun": True}, 2, "lost its node"),
    "preempted after progress": ({"state": "PREEMPTED", "begun": True, "further": True}, 1, "was preempted"),
    "preempted at once": ({"state": "PREEMPTED", "begun": True}, 2, "was preempted"),
    "out of time after progress": ({"state": "TIMEOUT", "begun": True, "further": True}, 1, "ran out of time"),
    "out of time without progress": ({"state": "TIMEOUT", "begun": True}, 2, "ran out of time"),
    "out of memory": ({"state": "OUT_OF_MEMORY", "begun": True, "further": True}, 2, "raise memory"),
    "node did not boot": ({"state": "BOOT_FAIL", "begun": False}, 1, "lost its node"),
    "deadline": ({"state": "DEADLINE", "begun": True}, 2, "missed its deadline"),
    "killed": ({"state": "FAILED", "begun": True, "further": True}, 2, "ended as FAILED"),
    "no result": ({"state": "COMPLETED", "begun": True}, 2, "completed without a result"),
    "known to sacct only": ({"state": "NODE_FAIL", "begun": True, "seen_by": "sacct"}, 2, "lost its node"),
    "unknown to all": ({"state": "", "begun": True, "seen_by": "nobody"}, 2, "is unknown to Slurm"),
    "number used again": ({"state": "RUNNING", "begun": True, "seen_by": "sacct", "shown_as": "x"}, 2, "is unknown"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_lost_is_tried_again(plan, study, way):
    case, attempts, words = WAYS[way]
    home, spec, heard = plan(job1=case), study.spec(), Heard()
    outcome = execute([spec], study.store, WORK, "slurm", heard)[spec.key]
    assert (outcome.state, outcome.attempts, submissions(home)) == ("done", attempts, 2)
    assert len(heard.notes) == 1 and words in heard.notes[0] and "Slurm job 1 " in heard.notes[0]


def test_a_run_that_is_lost_three_times_fails_and_the_next_command_tries_again(plan, study):
    lost = {"state": "NODE_FAIL", "begun": True}
    home, spec = plan(job1=lost, job2=lost, job3=lost), study.spec()
    outcome = execute([spec], study.store, WORK, "slurm")[spec.key]
    assert (outcome.state, outcome.cause, outcome.attempts) == ("failed", "lost", 3)
    assert execute([spec], study.store, WORK, "slurm")[spec.key].state == "done" and submissions(home) == 4


def test_only_the_run_in_hand_is_charged(plan, study):
    plan(job1={"state": "NODE_FAIL", "begun": True})
    specs = [study.spec(seed=1, steps=9), study.spec(seed=2)]
    outcomes = execute([*specs, study.spec(seed=3)], study.store, WORK, "slurm")
    assert sorted(outcome.attempts for outcome in outcomes.values()) == [1, 2, 2]  # two tasks, one with two runs


def test_without_accounting_the_queue_is_enough(plan, study):
    case = {"state": "NODE_FAIL", "begun": True}
    plan(job1=case, sacct="Slurm accounting storage is disabled")
    assert study.execute([study.spec()], "slurm") == {study.spec().key: "done"}


def test_a_controller_that_does_not_answer_for_a_while_says_nothing_about_jobs(plan, study, monkeypatch):
    plan(job1={"state": "NODE_FAIL", "begun": True}, squeue="Unable to contact slurm controller", squeue_times=5)
    heard = Heard()
    outcome = execute([study.spec()], study.store, WORK, "slurm", heard)[study.spec().key]
    assert outcome.attempts == 2 and len(heard.notes) == 1


@pytest.mark.parametrize("seen_by", ["squeue", "sacct"])
def test_a_cancelled_job_ends_the_command(plan, study, seen_by):
    plan(job1={"state": "CANCELLED by 1000", "begun": True, "seen_by": seen_by})
    if seen_by == "squeue":
        plan(job1={"state": "CANCELLED", "begun": True})
    with pytest.raises(Stopped, match="Slurm job 1: was cancelled; nothing is lost"):
        execute([study.spec()], study.store, WORK, "slurm")
    assert study.store.state(study.spec().key) == "missing"


def test_tasks_that_never_start_end_the_command_with_their_last_words(plan, study):
    dead = {"state": "FAILED", "begun": False}
    home = plan(**{f"job{number}": dead for number in range(1, 9)})
    with pytest.raises(EnvironmentProblem, match="Slurm tasks: do not start: Slurm job 4 ended as FAILED"):
        execute([study.spec()], study.store, WORK, "slurm")
    assert submissions(home) == 4


def test_a_held_job_is_said_once(plan, study):
    plan(job1={"state": "PENDING", "begun": False}, reason="launch failed requeued held")
    pool = SlurmPool(Profile(poll_s=0), study.store, WORK)
    place = pool.free_worker()
    place.give(study.spec())
    said = [message for _ in range(5) for _, message in pool.messages(0.0)]
    assert len(said) == 1 and "is held" in said[0]["warning"]


# -- submitting -----------------------------------------------------------------------------------------------------


def test_runs_are_bundled_by_kind_and_length_and_spread_over_tasks(plan, study, monkeypatch):
    plan()
    use(monkeypatch, tasks=3, bundle_runs=4)
    arrays = watched(monkeypatch)
    study.execute([study.spec(seed=n, steps=10 * n) for n in range(1, 8)], "slurm")
    assert arrays == [[[70, 60, 50], [40, 30, 20], [10]]]


def test_no_more_tasks_than_the_profile_says_and_no_more_runs_than_fit(plan, study, monkeypatch):
    plan()
    use(monkeypatch, tasks=2, bundle_runs=1)
    arrays = watched(monkeypatch)
    assert set(study.execute([study.spec(seed=n) for n in range(5)], "slurm").values()) == {"done"}
    assert [len(array) for array in arrays] == [2, 2, 1] and runs_at_a_time("slurm") == 2


def test_bundles_are_filled_by_the_time_that_runs_took(study):
    pool = SlurmPool(Profile(bundle_minutes=10), study.store, WORK)
    pool._seconds["toy"] = [200.0, 100.0, 240.0]
    for seed in range(7):
        pool._collected.append(pool_place(pool, study.spec(seed=seed)))
    assert [len(bundle) for bundle in pool._bundles(room=1)] == [3]
    assert [len(bundle) for bundle in pool._bundles(room=5)] == [2, 2, 2, 1]


def pool_place(pool: SlurmPool, spec: Any) -> Any:
    place = slurm.SlurmPlace(pool)
    place.spec = spec
    return place


def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """Steps of the runs in the bundles of every array that is submitted."""
    seen: list[list[list[int]]] = []
    before = slurm._Slurm.submit

    def submit(self: Any, profile: Profile, folder: Path, name: str, bundles: list[str]) -> str:
        seen.append([[run["steps"] for run in read_json(Path(path) / "bundle.json")["runs"]] for path in bundles])
        return before(self, profile, folder, name, bundles)

    monkeypatch.setattr(slurm._Slurm, "submit", submit)
    return seen


def test_the_profile_reaches_sbatch_as_it_is(plan, study, monkeypatch):
    home = plan()
    kept: list[str] = []
    read = lambda folder, **_: kept.extend(path.read_text() for path in Path(folder).glob("jobs/[0-9]*.sh"))  # noqa: E731
    monkeypatch.setattr(slurm, "_processes_ended", lambda folder: True)
    monkeypatch.setattr(slurm.shutil, "rmtree", read)
    use(monkeypatch, partition="big mem", account="lab", time=90, gpus=1, memory="8G", setup=("module load x",))
    monkeypatch.setenv("SBATCH_QOS", "mine")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    study.execute([study.spec()], "slurm")
    (test,) = [call for call in calls(home, "sbatch") if "--test-only" in call]
    assert {"--partition=big mem", "--account=lab", "--time=90", "--gpus-per-node=1", "--mem=8G"} <= set(test)
    (script,) = kept
    for line in ("--partition='big mem'", "--account=lab", "--time=90", "--gpus-per-node=1", "--mem=8G", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --signal=USR2@120\n" in script and "\nexport OMP_NUM_THREADS=1\n" in script
    assert script.index("module load x\n") < script.index("srun ") and os.environ["SLURM_JOB_ID"] == "7"


@pytest.mark.parametrize("text", ["Socket timed out on send/recv operation", "Unable to contact slurm controller"])
def test_what_passes_is_tried_again(plan, study, text):
    home = plan(job1={"refuse": text}, job2={"refuse": text})
    with pytest.warns(Warned, match="trying again"):
        assert study.execute([study.spec()], "slurm") == {study.spec().key: "done"}
    assert submissions(home) == 3


def test_a_refused_job_ends_the_command(plan, study):
    plan(job1={"refuse": "Batch job submission failed: Invalid account"})
    with pytest.raises(EnvironmentProblem, match=r"sbatch: refused the job \(.*Invalid account\)"):
        execute([study.spec()], study.store, WORK, "slurm")
    assert not list((study.store.root / ".slurm").iterdir())


def test_a_cluster_that_cannot_be_used_is_refused_in_one_line(plan, study, monkeypatch, tmp_path):
    plan(test="sbatch: error: invalid partition specified: x")
    with pytest.raises(EnvironmentProblem, match="sbatch refuses such jobs"):
        execute([study.spec()], study.store, WORK, "slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[slurm\]'"):
        execute([study.spec()], study.store, WORK, "slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="no command sbatch here"):
        execute([study.spec()], study.store, WORK, "slurm")
    assert not (study.store.root / ".slurm").exists()


def test_a_partition_that_is_down_only_now_is_waited_for(plan, study):
    plan(test="allocation failure: Required node not available (down, drained or reserved)")
    assert study.execute([study.spec()], "slurm") == {study.spec().key: "done"}


def test_nothing_is_asked_of_slurm_when_all_is_stored(plan, study):
    study.execute([study.spec()], "here")
    home = plan()
    study.execute([study.spec()], "slurm")
    assert not (home / "calls").exists()


# -- drivers that come and go ---------------------------------------------------------------------------------------


def test_a_later_command_follows_what_is_queued_and_submits_the_rest(plan, study):
    home = plan(job1={"state": "RUNNING", "begun": True})
    first, second = study.spec(seed=1), study.spec(seed=2)
    pool = SlurmPool(Profile(poll_s=0), RunStore(study.store.root), WORK)
    pool.free_worker().give(first)
    assert not list(pool.messages(0.0)) and submissions(home) == 1
    task = next((study.store.root / ".slurm").glob("*/0"))
    del pool  # the driver is gone

    def finish() -> None:
        wait_until(lambda: submissions(home) == 2)
        run_bundle(task)

    thread = threading.Thread(target=finish)
    thread.start()
    outcomes = execute([first, second], RunStore(study.store.root), WORK, "slurm")
    thread.join()
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and submissions(home) == 2
    assert sorted(study.events("begun")) == sorted([first.key, second.key])


def run_bundle(folder: Path) -> None:
    code = f"from pathlib import Path; from sessionwise.runs.slurm_task import serve; serve(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_stopping_takes_back_what_is_queued_and_signals_what_runs(plan, study):
    home = plan(job1={"state": "RUNNING", "begun": True})
    pool = SlurmPool(Profile(poll_s=0), study.store, WORK)
    for seed in range(2):
        pool.free_worker().give(study.spec(seed=seed))
    list(pool.messages(0.0))
    assert list(pool.stop(0.3)) == [] and len(pool.at_work) == 2
    assert [call[1] for call in calls(home, "scancel")] == ["--state=PENDING", "--signal=USR1"]
    assert len(list((study.store.root / ".slurm").glob("*/*/stop"))) == len(
        list(study.store.root.glob(".slurm/*/[0-9]"))
    )
    pool.close()
    assert list((study.store.root / ".slurm").glob("*/array.json"))


def test_an_error_about_the_surroundings_ends_the_command(plan, study):
    with pytest.raises(IntegrityError, match="toy data: was changed"):
        execute([study.spec("integrity", 1)], study.store, WORK, "slurm")
    assert study.store.state(study.spec("integrity", 1).key) == "missing"


# -- inside a task --------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(plan: Plan, study: Study, tmp_path: Path) -> Callable[..., Path]:
    def make(*specs: Any) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        runs = [spec.to_json() for spec in specs]
        about = {"runs": runs, "root": str(study.store.root), "work": WORK, "path": sys.path}
        write_json(folder / "bundle.json", about)
        return folder

    return make


def signalled(study: Study, number: int, step: str) -> threading.Thread:
    def act() -> None:
        wait_until(lambda: study.events(step))
        pid = int(next(path.name.split("-")[3] for path in study.log.glob(f"*-{step}-*")))
        os.kill(pid, number)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, 1), (signal.SIGUSR2, 1), (signal.SIGTERM, 0)])
def test_a_signal_saves_and_queues_again_unless_slurm_decides(plan, study, bundle, monkeypatch, number, again):
    home, spec = plan(), study.spec("steps", 1, steps=100)
    folder = bundle(spec, study.spec(seed=2))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    acting = signalled(study, number, "step0015")
    run_bundle(folder)
    acting.join()
    requeued = calls(home, "scontrol") if (home / "calls").exists() else []
    assert requeued == [["scontrol", "requeue", "5_3"]] * again
    assert slurm_task.reply_of(folder, spec.key)["reply"] == "stopped" and len(study.store.keys()) == 0
    run_bundle(folder)  # what Slurm does with a job that is queued again
    assert len(study.store.keys()) == 2 and slurm_task.reply_of(folder, spec.key)["reply"] == "done"
    assert len(list(study.log.glob("*-step*"))) <= 101


def test_a_task_that_a_command_stopped_is_not_queued_again(plan, study, bundle):
    home, folder = plan(), bundle(study.spec("steps", 1, steps=100))
    (folder / "stop").touch()
    run_bundle(folder)
    assert not study.events("begun") and not (home / "calls").exists()


def test_a_run_that_kills_its_node_again_and_again_is_given_up_by_its_task(study, bundle):
    bad, good = study.spec("die", 1, deaths=99), study.spec(seed=2)
    folder = bundle(bad, good)
    for _ in range(3):
        with pytest.raises(Exception, match="SIGKILL"):
            run_bundle(folder)
    run_bundle(folder)
    assert slurm_task.reply_of(folder, bad.key)["reply"] == "lost"
    assert slurm_task.reply_of(folder, good.key)["reply"] == "done"


def test_replies_that_are_no_replies_are_not_believed(plan, study, bundle):
    spec = study.spec()
    folder = bundle(spec)
    (folder / "said").mkdir()
    for text in ("", "[1]", "{}", '{"reply": 7}', "\x00"):
        (folder / "said" / f"{spec.key}.json").write_text(text)
        assert slurm_task.reply_of(folder, spec.key) is None


def test_done_is_believed_only_when_the_store_says_so(plan, study, monkeypatch):
    plan(job1={"state": "RUNNING", "begun": True})
    spec, heard = study.spec(), Heard()

    def lie() -> None:
        wait_until(lambda: list(study.store.root.glob(".slurm/*/0/now.json")))
        (task,) = study.store.root.glob(".slurm/*/0")
        (task / "said").mkdir()
        write_json(task / "said" / f"{spec.key}.json", {"reply": "done", "parts": {}, "warnings": []})

    thread = threading.Thread(target=lie)
    thread.start()
    outcome = execute([spec], study.store, WORK, "slurm", heard)[spec.key]
    thread.join()
    assert outcome.state == "done" and outcome.attempts == 2 and len(heard.notes) == 1


def test_a_percent_sign_in_the_path_is_refused(plan, tmp_path):
    study = Study(tmp_path / "50%j")
    with pytest.raises(UsageError, match="has a % in its path"):
        execute([study.spec()], study.store, WORK, "slurm")


def test_what_stays_of_an_array_is_ours(plan, study):
    plan(job1={"state": "NODE_FAIL", "begun": True})
    study.execute([study.spec()], "slurm")
    kept = [path for path in (study.store.root / ".slurm").iterdir() if (path / "array.json").exists()]
    assert len(kept) == 1 and is_our_run_name(".slurm")
    study.execute([study.spec(), study.spec(seed=2)], "slurm")  # all of its runs are stored now
    assert not list((study.store.root / ".slurm").iterdir())
