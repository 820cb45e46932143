"""Trainings around one core in one batch: the same draws, the same weights and scores up to rounding, own fates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_graphs import StandIn
from toy_training import CONFIG, N_BINS, Toy, TrainSettings, validator

from sessionwise.data.store import open_store
from sessionwise.errors import Stopped, UsageError
from sessionwise.io.tensors import read_tensors
from sessionwise.model.ndt import NDT
from sessionwise.runs.checkpoints import latest_checkpoint
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import Reporter
from sessionwise.training import jobs
from sessionwise.training.batches import Batches
from sessionwise.training.graphs import Graphs
from sessionwise.training.jobs import finetune_spec, pretrain_spec, run_together
from sessionwise.training.loop import Course, Training, train
from sessionwise.training.presets import preset
from sessionwise.training.together import Together, train_until_one_ends

SILENT = Reporter(lambda event: None)
TOYS = (Toy("a", 21, 5), Toy("b", 16, 3), Toy("c", 29, 7))  # 3, 2 and 4 batches of 8 an epoch: they end one by one
SETTINGS = TrainSettings(epochs=5, lr=1e-2, validations=3)


def trainings(settings=SETTINGS, config=CONFIG, dense=True, embedding=True):
    """New stitchers for each toy, around one core; with ``embedding``, its session embedding is trained too."""
    core, states = NDT(config, N_BINS, 3).core, []
    for toy in TOYS:
        model = NDT(config, N_BINS, 3)
        model.add_session(toy.id, toy.n_units)
        model.core = core
        parameters = [*model.stitcher_parameters(), *(model.session_embeddings.values() if embedding else ())]
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is chosen for chosen in parameters))
        batches = Batches([toy], 8, 3, ("finetune", toy.id))
        states.append(Training(model, parameters, batches, settings, 3))
        states[-1].dense = dense
    return states


def alone(**options):
    states = trainings(**options)
    return states, [train(state, validator([toy]), SILENT) for state, toy in zip(states, TOYS, strict=True)]


def courses_of(states, reports=None, work=None):
    reports = reports or [SILENT] * len(states)
    each = zip(states, TOYS, reports, strict=True)
    return [Course(s, validator([toy]), report, work / toy.id if work else None) for s, toy, report in each]


def to_the_end(courses):
    under_way = list(courses)
    while under_way:
        train_until_one_ends(under_way)
        under_way = [course for course in under_way if not course.ended]
    return [course.finish() for course in courses]


def assert_same(found, expected, rtol=1e-3, atol=2e-5):
    """found, expected: (states, what they ended with)."""
    for state, other, trained, wanted in zip(found[0], expected[0], found[1], expected[1], strict=True):
        for rng in ("mask_rng", "dropout_rng"):
            assert torch.equal(getattr(state, rng).get_state(), getattr(other, rng).get_state())
        assert (trained.reason, trained.steps, trained.tokens) == (wanted.reason, wanted.steps, wanted.tokens)
        assert trained.history.step == wanted.history.step
        for one, two in zip(state.parameters, other.parameters, strict=True):
            torch.testing.assert_close(one, two, rtol=rtol, atol=atol)
        np.testing.assert_allclose(trained.history.loss, wanted.history.loss, rtol=1e-4)
        np.testing.assert_allclose(trained.history.gain, wanted.history.gain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "objective", "embedding"),
    [
        ({}, "masked_causal", True),
        ({"loss": "sum"}, "masked_causal", False),
        ({}, "next_step", True),
    ],
)
def test_together_is_alone_up_to_rounding(settings, objective, embedding):
    options = {
        "settings": SETTINGS.model_copy(update=settings),
        "config": CONFIG.model_copy(update={"objective": objective}),
        "embedding": embedding,
    }
    states = trainings(**options)
    assert_same((states, to_the_end(courses_of(states))), alone(**options))


def test_gradients_of_a_step_are_those_of_each_alone():
    """Before an optimiser makes large steps of small differences."""
    side_by_side, single = trainings(), trainings()
    for state in (*side_by_side, *single):
        state.update = lambda loss, tokens: None
    Together(side_by_side).advance()
    for state, other in zip(side_by_side, single, strict=True):
        other.advance()
        for one, two in zip(state.parameters, other.parameters, strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-7)
            assert one.grad.any()
    assert all(parameter.grad is None for parameter in side_by_side[0].model.core.parameters())


def test_through_graphs_it_is_the_same_bit_for_bit(monkeypatch):
    plain, stand_ins = trainings(), []
    expected = to_the_end(courses_of(plain))
    real = Together.__init__

    def with_graphs(self, states):
        real(self, states)
        stand_ins.append(StandIn())
        self.graphs = Graphs(self.losses, self.parameters, stand_ins[-1], after=1)

    monkeypatch.setattr(Together, "__init__", with_graphs)
    states = trainings()
    found = to_the_end(courses_of(states))
    assert len(stand_ins) == 3 and sum(stand_in.replayed for stand_in in stand_ins) > 5  # a phase each time one ends
    assert_same((states, found), (plain, expected), rtol=0, atol=0)


def test_one_that_diverges_leaves_and_harms_nobody():
    expected = alone()
    states = trainings()
    with torch.no_grad():
        states[1].model.stitchers_of("b").encode.bias[0] = math.nan
    first, bad, last = courses_of(states)
    train_until_one_ends([first, bad, last])
    assert bad.ended and "nan" in bad.finish().reason and states[1].step == 0 and states[0].step == states[2].step == 1
    found = [first, last]
    while not all(course.ended for course in found):
        train_until_one_ends([course for course in found if not course.ended])
    keep = [0, 2]
    assert_same(
        ([states[i] for i in keep], [course.finish() for course in found]),
        ([expected[0][i] for i in keep], [expected[1][i] for i in keep]),
    )


@pytest.mark.parametrize("who", [0, 1, 2])
def test_asked_to_stop_all_save_the_step_that_was_done(tmp_path, who):
    """The stop may arrive between one training's look and the next one's: ``who`` is the first that sees it."""
    plain = trainings()
    expected = to_the_end(courses_of(plain))
    states, asked = trainings(), [False]

    def stopping(number):
        def look():
            asked[0] = asked[0] or (number == who and states[who].step == 7)
            return asked[0]

        return look

    reports = [Reporter(lambda event: None, stopping(number)) for number in range(3)]
    with pytest.raises(Stopped):
        train_until_one_ends(courses_of(states, reports, tmp_path))
    assert [state.step for state in states] == [7, 7, 7]
    assert all(latest_checkpoint(tmp_path / toy.id).name.endswith("007") for toy in TOYS)
    again = trainings()
    assert_same((again, to_the_end(courses_of(again, work=tmp_path))), (plain, expected), rtol=0, atol=0)


def test_what_does_not_go_together_is_refused():
    one, two, three = trainings()
    other_core = trainings()[1]
    with pytest.raises(UsageError, match="do not share one core"):
        Together([one, other_core])
    with pytest.raises(UsageError, match="in common"):
        Together([one, one])
    two.parameters += [one.model.core.scheme]
    with pytest.raises(UsageError, match="train the core"):
        Together([one, two])
    three.model.precision = "bf16"
    with pytest.raises(UsageError, match="differ in precision"):
        Together([one, three])


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(toy_store, toy_settings, tmp_path_factory):
    """A core, and finetunes of three sessions around it, one by one: (sessions, settings, core, specs, store)."""
    sessions, settings = open_store(toy_store), preset("tiny", {**toy_settings, "finetune.session_embedding": "mean"})
    core = pretrain_spec(sessions, ["sim-00", "sim-01"], settings, 10)
    specs = [finetune_spec(sessions, name, core, settings, 10) for name in ("sim-02", "sim-03", "sim-heldout-0")]
    store = RunStore(tmp_path_factory.mktemp("alone") / "runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Training, "__init__", dense_from_the_start)
        assert {outcome.state for outcome in execute([core, *specs], store, on="here").values()} == {"done"}
    return sessions, settings, core, specs, store


REAL = Training.__init__


def dense_from_the_start(self, *args, **options):
    REAL(self, *args, **options)
    self.dense = True


@pytest.fixture
def elsewhere(runs, tmp_path, monkeypatch):
    """Another store that holds the core alone."""
    _, _, core, _, _ = runs
    monkeypatch.setattr(Training, "__init__", dense_from_the_start)
    store = RunStore(tmp_path / "runs")
    execute([core], store, on="here")
    return store


def test_runs_together_store_what_runs_alone_store(runs, elsewhere):
    _, _, core, specs, store = runs
    became = run_together(specs, elsewhere, lambda spec: SILENT)
    assert became == {spec.key: "done" for spec in specs}
    for spec in specs:
        found, expected = elsewhere.result(spec.key), store.result(spec.key)
        assert found.pop("together") == 3 and found.keys() == expected.keys()
        assert {k: found[k] for k in ("core_hash", "steps", "tokens", "state", "train_trials")} == {
            k: expected[k] for k in ("core_hash", "steps", "tokens", "state", "train_trials")
        }
        assert found["core_hash"] == elsewhere.result(core.key)["core_hash"]
        assert found["bps"] == pytest.approx(expected["bps"], abs=1e-4)
        names = [{p.relative_to(s.folder(spec.key)) for p in s.folder(spec.key).rglob("*")} for s in (store, elsewhere)]
        assert names[0] == names[1]
        for name in names[0]:
            if name.parent.name == "sessions":
                one, two = (read_tensors(s.folder(spec.key) / name) for s in (store, elsewhere))
                for part in one:
                    np.testing.assert_allclose(one[part], two[part], rtol=1e-3, atol=1e-4)
        assert list(jobs.load_trained(elsewhere, spec.key).session_ids) == list(spec.sessions)


def test_stored_and_busy_runs_are_left_alone(runs, elsewhere):
    _, _, _, specs, _ = runs
    run_together(specs[:1], elsewhere, lambda spec: SILENT)
    with RunStore(elsewhere.root).lock(specs[1].key):
        became = run_together(specs, elsewhere, lambda spec: SILENT)
    assert became == {specs[0].key: "stored", specs[1].key: "busy", specs[2].key: "done"}
    assert [elsewhere.committed(spec.key) for spec in specs] == [True, False, True]
    assert all(elsewhere.holder(spec.key) is None for spec in specs)


def test_runs_that_were_stopped_together_are_finished_alone(runs, elsewhere):
    _, _, _, specs, store = runs
    steps = {spec.key: 0 for spec in specs}

    def report(spec):
        return Reporter(lambda event: steps.update({spec.key: event["step"]}), lambda: max(steps.values()) >= 8)

    with pytest.raises(Stopped):
        run_together(specs, elsewhere, report)
    assert not any(elsewhere.committed(spec.key) for spec in specs)
    outcomes = execute(specs, elsewhere, on="here")
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    for spec in specs:
        assert elsewhere.result(spec.key)["bps"] == pytest.approx(store.result(spec.key)["bps"], abs=1e-4)


def test_only_finetunes_around_one_frozen_core_go_together(runs, toy_settings, elsewhere):
    sessions, settings, core, specs, _ = runs
    all_weights = preset("tiny", {**toy_settings, "finetune.freeze_core": False})
    refused = [
        [core],
        [specs[0], replace(specs[1], seed=11)],
        [specs[0], specs[0]],
        [specs[0], finetune_spec(sessions, "sim-03", None, settings, 10)],
        [finetune_spec(sessions, "sim-03", core, all_weights, 10)],
        [specs[0], finetune_spec(sessions, "sim-03", core, preset("tiny", {**toy_settings, "finetune.lr": 0.1}), 10)],
    ]
    for some in refused:
        with pytest.raises(UsageError, match="differ in core, seed or settings"):
            run_together(some, elsewhere, lambda spec: SILENT)
    assert jobs.can_be_together(specs)
