"""Gains of chosen sets: every trial is judged by the model whose sessions it did not choose; a model to take along."""

import json

import numpy as np
import pytest

from sessionwise.data.store import open_store
from sessionwise.errors import RunsFailed
from sessionwise.model.checkpoint import load_model
from sessionwise.runs.schedule import Outcome
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import choosing_half, gain_of
from sessionwise.study.deliver import FROZEN, SCRATCH, THAWED, deliver
from sessionwise.study.gains import alone_arm, difference, set_arm
from sessionwise.training.presets import preset

HELDOUT, SEEDS = "sim-heldout-0", (10, 20)
SETS = (["sim-00", "sim-01"], ["sim-01", "sim-02"])


@pytest.fixture(scope="module")
def context(toy_store, toy_settings, tmp_path_factory):
    study = tmp_path_factory.mktemp("gains") / "study"
    return Context(open_store(toy_store), preset("tiny", toy_settings), SEEDS, (HELDOUT,), study, "here")


@pytest.fixture(scope="module")
def arms(context):
    chosen = set_arm("these sessions", SETS, HELDOUT, context.settings, SEEDS, context)
    alone = alone_arm("the recording alone", HELDOUT, context.settings, SEEDS, context)
    context.compute([*chosen.runs, *alone.runs])
    return chosen, alone


def test_each_half_is_judged_by_the_model_that_the_other_half_chose(context, arms):
    chosen, _ = arms
    gains, spikes = chosen.gains(context)
    first = choosing_half(len(spikes))
    assert gains.shape == (2, len(spikes)) and first.any() and not first.all()
    for i, seed in enumerate(SEEDS):
        for half, trials in zip(chosen.specs, (first, ~first), strict=True):
            assert np.array_equal(gains[i, trials], gain_of(half[seed], context.store)[0][trials])
    cores = [spec for spec in chosen.runs if spec.kind == "pretrain"]
    assert {tuple(sorted(core.sessions)) for core in cores} == {tuple(names) for names in SETS}


def test_equal_choices_are_one_model(context):
    arm = set_arm("s", (SETS[0], SETS[0][::-1]), HELDOUT, context.settings, SEEDS, context)
    assert len(arm.runs) == 2 * len(SEEDS)


def test_the_difference_is_that_of_the_scores(context, arms):
    chosen, alone = arms
    found = difference(chosen, alone, context)
    (a, spikes), (b, _) = chosen.gains(context), alone.gains(context)
    assert found["mean"] == pytest.approx((a.sum() - b.sum()) / 2 / spikes.sum() / np.log(2))
    assert found["low"] < found["mean"] < found["high"]
    assert found == difference(chosen, alone, context)


def test_a_failed_run_is_a_reason_and_no_number(context, arms, monkeypatch):
    chosen, alone = arms
    key = alone.runs[0].key
    broken = Outcome(key, "diverged", "loss is nan at step 3")
    monkeypatch.setitem(context.outcomes, key, broken)
    found = difference(chosen, alone, context)
    assert found["mean"] is None and "the recording alone: diverged: loss is nan" in found["about"]


def test_the_model_that_validation_prefers_is_delivered(context, tmp_path):
    about = deliver(HELDOUT, SETS[0], context, tmp_path)
    scores = {entry["name"]: entry["bps"] for entry in about["scores"]}
    assert scores.keys() == {FROZEN, THAWED, SCRATCH}
    assert about["trained"] == max(scores, key=scores.__getitem__) and about["trained"] in about["text"]
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["pretrained_on"] == SETS[0] and card["heldout"] == HELDOUT
    model = load_model(tmp_path / "model")
    assert list(model.session_ids) == [HELDOUT] and about["cost"]["by_kind"]["pretrain"]["runs"] == 1


def test_without_sessions_the_recording_alone_is_left(context, tmp_path):
    about = deliver(HELDOUT, [], context, tmp_path)
    assert about["trained"] == SCRATCH and len(about["scores"]) == 1


def test_nothing_is_delivered_when_nothing_trained(context, tmp_path, monkeypatch):
    monkeypatch.setattr(Context, "compute", lambda self, specs: None)
    failed = {key: Outcome(key, "failed", "no memory") for key in context.outcomes}
    monkeypatch.setattr(context, "outcomes", failed)
    with pytest.raises(RunsFailed, match="no memory"):
        deliver(HELDOUT, [], context, tmp_path)
    assert not (tmp_path / "model").exists()
