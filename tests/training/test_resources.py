"""Estimates of disk and memory beside what runs really take, and what is refused because of them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sessionwise.data.session import make_session
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import EXIT_ENVIRONMENT, EnvironmentProblem, SessionwiseWarning
from sessionwise.model.ndt import NDT
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import Reporter
from sessionwise.selection.rankers import rank
from sessionwise.training import jobs, resources
from sessionwise.training.presets import preset
from sessionwise.training.resources import (
    GB,
    MB,
    Needs,
    Shape,
    artefacts_of,
    card_of,
    checkpoint_of,
    core_weights,
    memory_of,
    needs,
    refuse_what_cannot_fit,
    resource_lines,
    shape_of,
    shortage,
    stitcher_weights,
)

HELDOUT = "sim-heldout-0"


def on_disk(folder: Path) -> int:
    """Bytes in whole blocks, folders included."""
    parts = [path for path in folder.rglob("*")]
    return sum(-(-path.stat().st_size // 4096) * 4096 if path.is_file() else 4096 for path in [folder, *parts])


@pytest.fixture(scope="module")
def every_kind(toy_store, tmp_path_factory):
    """One run of each kind with the tiny preset's model, and the store that they are in."""
    sessions, store = open_store(toy_store), RunStore(tmp_path_factory.mktemp("kinds") / "runs")
    steps = {f"{kind}.steps": 10 for kind in ("train", "finetune", "baseline")}
    settings = preset("tiny", {**steps, "train.validations": 5, "finetune.validations": 5, "baseline.validations": 5})
    thawed = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"freeze_core": False})})
    core = jobs.pretrain_spec(sessions, ["sim-00", "sim-01", "sim-02"], settings, 0)
    frozen = jobs.finetune_spec(sessions, HELDOUT, core, settings, 0)
    glm = jobs.reference_spec(sessions, HELDOUT, "glm", settings)
    specs = {
        "core": core,
        "one session": jobs.pretrain_spec(sessions, ["sim-00"], settings, 0),
        "frozen": frozen,
        "full": jobs.finetune_spec(sessions, HELDOUT, core, thawed, 0),
        "random core": jobs.finetune_spec(sessions, HELDOUT, None, settings, 0),
        "baseline": jobs.baseline_spec(sessions, HELDOUT, settings, 0),
        "psth": jobs.reference_spec(sessions, HELDOUT, "psth", settings),
        "glm": glm,
        "evaluation": jobs.evaluate_spec(sessions, HELDOUT, frozen, settings),
    }
    outcomes = execute(list(specs.values()), store, on="here")
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    infos = {name: sessions.info(name) for name in sessions}
    return specs, store, {name: shape_of(spec, infos) for name, spec in specs.items()}


def test_weights_are_counted_exactly():
    for name in ("tiny", "small", "paper"):
        config = preset(name).model
        model = NDT(config, 40, 0)
        model.add_session("a", 17, model.core.positions.new_ones(17))
        widths = (config.token_width, config.embedder_factor, config.width, config.feedforward)
        shape = (*widths, config.heads, config.blocks)
        assert core_weights(shape, 40) == sum(p.numel() for p in model.core.parameters())
        assert stitcher_weights(shape, 17) == sum(p.numel() for p in model.stitcher_parameters())


def test_the_disk_of_every_kind_of_run_is_within_a_tenth(every_kind):
    specs, store, shapes = every_kind
    for name, spec in specs.items():
        found = on_disk(store.folder(spec.key))
        assert artefacts_of(shapes[name]) == pytest.approx(found, rel=0.1, abs=4096), name
    # with the core in it or without, with one session or three, a run is another size
    assert artefacts_of(shapes["frozen"]) < 0.7 * artefacts_of(shapes["full"])
    assert artefacts_of(shapes["random core"]) == artefacts_of(shapes["full"]) < artefacts_of(shapes["core"])


def test_the_disk_of_a_study_is_within_a_fifth(toy_store, toy_settings, tmp_path, monkeypatch):
    asked: list[Needs] = []
    monkeypatch.setattr("sessionwise.selection.context.refuse_what_cannot_fit", lambda need, *_: asked.append(need))
    options = {"preset": "tiny", "overrides": toy_settings, "seeds": (10,), "on": "here", "to": tmp_path}
    rank(open_store(toy_store), HELDOUT, **options)
    (need,) = asked
    runs = on_disk(tmp_path / "runs")
    assert need.runs == 10 and need.artefacts == pytest.approx(runs, rel=0.2)
    assert need.disk(1) > on_disk(tmp_path)
    rank(open_store(toy_store), HELDOUT, **options)
    assert asked[1].runs == asked[1].disk(1) == 0  # what is stored needs nothing


@pytest.mark.parametrize("name", ["core", "frozen"])
def test_the_disk_of_a_run_under_way_is_within_a_tenth(every_kind, name):
    """Stopped after three checkpoints: two generations are there."""
    specs, store, shapes = every_kind
    spec, other = specs[name], RunStore(store.root.parent / f"stopped {name}")
    if spec.inputs:
        jobs.run(specs["core"], other, Reporter(lambda event: None))
    seen = []
    reporter = Reporter(lambda event: None, stopping=lambda: len(seen) > 20)
    spec = replace(spec, where={**spec.where, "checkpoint_steps": 2})
    with pytest.raises(Exception, match="asked to stop"):
        jobs.run(spec, other, _counting(reporter, seen))
    generations = [path for path in other.work_folder(spec.key).iterdir() if path.name.startswith("step-")]
    assert len(generations) == 2
    for folder in generations:
        assert checkpoint_of(shapes[name]) == pytest.approx(on_disk(folder), rel=0.1, abs=8192)


class _counting:
    """A reporter that asks for a stop at the seventh step."""

    def __init__(self, reporter, seen):
        self.reporter, self.seen = reporter, seen

    @property
    def stopping(self):
        return self.reporter.stopping

    def begin(self):
        self.reporter.begin()

    def __call__(self, event):
        if event["step"] >= 7:
            self.seen += [event] * 21
        self.reporter(event)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), [("tiny", 16), ("small", 48)])
def test_memory_is_within_a_factor_of_two(tmp_path, name, batch):
    """Of the growth of a process that trains, over one that has only imported what it needs."""
    store = create_store(tmp_path / "store")
    counts = np.random.default_rng(0).poisson(0.2, (80, 100, 300)).astype(np.uint8)
    store.add(make_session("one", counts, 0.02))
    settings = preset(name, {"train.steps": 10, "train.validations": 1, "train.batch_size": batch})
    spec = jobs.pretrain_spec(store, ["one"], settings, 0)
    spec = replace(spec, where={**spec.where, "checkpoint_steps": 3})
    program = [sys.executable, str(Path(__file__).with_name("toy_memory.py"))]
    done = subprocess.run(
        [*program, str(tmp_path / "runs"), json.dumps(spec.to_json())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    estimate = memory_of(shape_of(spec, {"one": store.info("one")}))
    assert 0.5 < (estimate - found["before"]) / (found["peak"] - found["before"]) < 2


# -- what is refused ------------------------------------------------------------------------------------------------

TINY = (32, 2, 32, 64, 4, 2)
PAPER = (668, 2, 512, 1024, 8, 5)


def training(model=PAPER, **more) -> Shape:
    return Shape("pretrain", model, (600,), 150, 60, **{"batch": 16, "validations": 25, **more})


def test_needs_grow_with_what_is_asked():
    assert memory_of(training()) > 3 * memory_of(training(TINY)) / 2
    assert memory_of(training(batch=64)) > memory_of(training()) + GB
    many = training()._replace(units=(600,) * 80, trials=4800)
    assert checkpoint_of(many) > 5 * checkpoint_of(training()) and memory_of(many) > memory_of(training()) + 2 * GB
    assert card_of(training()) > GB
    two = needs([training(), training(), training(TINY)], rankings=2)
    assert two.runs == 3 and two.artefacts == 2 * artefacts_of(training()) + artefacts_of(training(TINY))
    assert two.disk(2) - two.disk(1) == two.checkpoint == 3 * checkpoint_of(training()) and two.disk(9) == two.disk(3)
    assert needs([]).disk(4) == 0


@pytest.fixture
def machine(monkeypatch):
    """A machine with so much disk and memory."""

    def make(disk=None, memory=None, workers=4, card=None):
        monkeypatch.setattr(resources, "free_disk", lambda path: disk)
        monkeypatch.setattr(resources, "free_memory", lambda: memory)
        monkeypatch.setattr(resources, "runs_at_a_time", lambda on: workers)
        monkeypatch.setattr(resources, "_card", lambda: card)

    return make


NEED = Needs(runs=100, artefacts=8 * GB, checkpoint=GB, reports=0, worker=2 * GB)


def test_a_disk_that_is_too_small_is_refused_with_numbers_and_a_knob(machine, tmp_path):
    machine(disk=11 * GB)
    with pytest.raises(EnvironmentProblem) as caught:
        refuse_what_cannot_fit(NEED, tmp_path, "processes")
    assert caught.value.exit_code == EXIT_ENVIRONMENT
    for part in (str(tmp_path), "100 runs, 4 at a time", "12.0 GB", "11.0 GB are free", "name another folder"):
        assert part in str(caught.value)
    machine(disk=13 * GB)
    with pytest.warns(SessionwiseWarning, match=r"disk is tight: about 12\.0 GB"):
        refuse_what_cannot_fit(NEED, tmp_path, "processes")


def test_memory_that_is_too_small_is_refused_with_the_number_of_workers_that_fit(machine, tmp_path):
    machine(memory=5 * GB)
    with pytest.raises(EnvironmentProblem, match=r"4 workers take about 2\.0 GB each; 5\.0 GB.*--on processes:2"):
        refuse_what_cannot_fit(NEED, tmp_path, "processes")
    with pytest.raises(EnvironmentProblem, match=r"processes:2"):
        refuse_what_cannot_fit(NEED, tmp_path, "processes:4")
    refuse_what_cannot_fit(NEED, tmp_path, "dask:tcp://there:1")  # other machines' memory is not known
    machine(memory=GB, workers=1)
    with pytest.raises(EnvironmentProblem, match=r"smaller train\.batch_size"):
        refuse_what_cannot_fit(NEED, tmp_path, "here")
    machine(memory=9 * GB)
    with pytest.warns(SessionwiseWarning, match=r"memory is tight: 4 workers .*--on processes:3"):
        refuse_what_cannot_fit(NEED, tmp_path, "processes")
    few = Needs(runs=1, worker=2 * GB)
    machine(memory=3 * GB)
    refuse_what_cannot_fit(few, tmp_path, "processes")  # one run needs one worker


def test_a_gpu_is_refused_only_far_beyond_its_memory(machine, tmp_path):
    need = Needs(runs=8, worker=GB, card=10 * GB)
    machine(card=24 * GB)
    assert shortage(need, tmp_path, 4, "processes") is None
    machine(card=16 * GB)
    assert "memory of the GPU: 4 processes" in str(shortage(need, tmp_path, 4, "processes"))


def test_what_is_unknown_or_enough_or_nothing_is_not_refused(machine, tmp_path, recwarn):
    machine()
    refuse_what_cannot_fit(NEED, tmp_path, "processes")
    machine(disk=1000 * GB, memory=1000 * GB)
    refuse_what_cannot_fit(NEED, tmp_path, "processes")
    machine(disk=0, memory=0)
    refuse_what_cannot_fit(Needs(), tmp_path, "processes")
    assert not recwarn.list and resource_lines(Needs(), tmp_path, "here", 1) == []


def test_a_plan_says_what_would_be_refused(machine, tmp_path):
    machine(disk=11 * GB, memory=900 * MB)
    lines = resource_lines(NEED, tmp_path, "processes", 4)
    assert lines[0].startswith("Disk: about 12.0 GB (8.0 GB of runs, 1.0 GB of checkpoints")
    assert lines[1] == "Memory: about 2.0 GB a worker, 8.0 GB in all; 900 MB are available."
    assert lines[2].startswith("This would be refused: ") and "11.0 GB are free" in lines[2]
    machine(disk=None)
    assert "an unknown amount" in resource_lines(NEED, tmp_path, "processes", 4)[0]
    assert len(resource_lines(NEED, tmp_path, "dask:tcp://there:1", 4)) == 1


def test_a_ranking_that_cannot_fit_is_refused_before_a_run(toy_store, toy_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "free_disk", lambda path: 100_000)
    with pytest.raises(EnvironmentProblem, match="are free"):
        rank(open_store(toy_store), HELDOUT, preset="tiny", overrides=toy_settings, to=tmp_path / "s", on="here")
    assert not (tmp_path / "s").exists()
