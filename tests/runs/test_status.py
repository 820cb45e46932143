"""How far a study is, from its folder alone."""

from __future__ import annotations

import json
import shutil

import pytest
import toy_study
from toy_committer import toy_spec
from toy_study import make_study, tree

from sessionwise.errors import UsageError
from sessionwise.runs.schedule import Schedule
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.status import study_status
from sessionwise.runs.verify import verify_study


def states(study):
    before = tree(study)
    found = study_status(study)
    assert tree(study) == before and json.loads(json.dumps(found.to_json()))
    return {run.key: run for run in found.runs}


def test_states_of_all_runs(tmp_path):
    store = make_study(tmp_path)
    store.commit(toy_spec(7), {"state": "diverged", "reason": "loss is NaN at step 3"})
    store.record_failure(toy_spec(8), "killed", cause="lost")
    toy_study.forge_lease(tmp_path, 9, boot="another", host="elsewhere")
    toy_study.forge_lease(tmp_path, 3)
    (tmp_path / "runs" / toy_spec(1).key / "result.json").write_text("{")
    found = states(tmp_path)
    run = {seed: found[toy_spec(seed).key] for seed in (0, 1, 3, 4, 7, 8, 9)}
    assert [run[seed].state for seed in (0, 1, 7)] == ["done", "damaged", "diverged"]
    assert run[7].reason == "loss is NaN at step 3" and run[0].kind == "toy"
    assert (run[4].state, run[4].reason, run[4].next) == (
        "failed",
        "out of ideas",
        "is tried again with --retry-failed",
    )
    assert (run[8].state, run[8].next) == ("failed", "is tried again")
    assert (run[3].state, run[3].step, run[3].next) == ("interrupted", 20, "goes on")
    assert (run[9].state, run[9].holder.split(",")[0]) == ("running", "host elsewhere")
    assert study_status(tmp_path).counts()["toy"] == {"done": 2, "diverged": 1, "failed": 2}
    assert study_status(tmp_path).results == ("rankings/held-out/full-12345678", "results.json", "report/index.html")


def test_what_the_last_command_was_to_compute_waits(tmp_path):
    store = make_study(tmp_path)
    named = [
        RunSpec(spec.kind, spec.settings, seed=spec.seed, label=f"run {spec.seed}") for spec in map(toy_spec, range(8))
    ]
    Schedule(named, store)
    found = states(tmp_path)
    waiting = [found[toy_spec(seed).key] for seed in (5, 6, 7)]
    assert {(run.kind, run.state, run.next) for run in waiting} == {("toy", "waiting", "is computed")}
    run = found[toy_spec(3).key]
    assert (run.state, run.kind, run.name) == ("interrupted", "toy", "run 3")
    assert states(tmp_path)[toy_spec(0).key].name == "run 0"
    Schedule(named[:2], store)  # nothing of it is missing
    assert toy_spec(5).key in states(tmp_path)
    for damaged in ("", "[]", '{"runs": {"x": 1}}', '{"runs": 1}'):
        (tmp_path / "runs" / "asked.json").write_text(damaged)
        assert toy_spec(5).key not in states(tmp_path)
    assert verify_study(tmp_path).findings == []


def test_a_run_that_is_held_is_running_even_after_a_failure(tmp_path):
    store = make_study(tmp_path)
    with store.lock(toy_spec(3).key), store.lock(toy_spec(4).key):
        found = states(tmp_path)
        for seed, step in ((3, 20), (4, None)):
            run = found[toy_spec(seed).key]
            assert (run.state, run.step) == ("running", step) and "process" in run.holder
    assert states(tmp_path)[toy_spec(4).key].state == "failed"


def test_sizes_are_those_of_the_files(tmp_path):
    make_study(tmp_path)
    found = study_status(tmp_path).bytes
    assert sum(found.values()) == sum(len(data) for data in tree(tmp_path).values() if data is not None)


def test_what_is_no_study_is_refused_and_an_empty_one_is_fine(tmp_path):
    with pytest.raises(UsageError):
        study_status(tmp_path)
    (tmp_path / "runs").mkdir()
    assert study_status(tmp_path).runs == ()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "study.json").write_text("{}")
    assert study_status(tmp_path).runs == ()
