"""Operations of a training, against a count by hand, and what must follow when one thing is changed."""

from dataclasses import replace

import pytest
import torch

from sessionwise.data.store import open_store
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.training.jobs import baseline_spec, evaluate_spec, finetune_spec, pretrain_spec
from sessionwise.training.operations import operations, operations_per_token, tokens_of
from sessionwise.training.presets import preset


@pytest.fixture(scope="module")
def sessions(toy_store):
    return open_store(toy_store)


def infos(sessions):
    return {name: sessions.info(name) for name in sessions.ids}


def weights(spec, sessions):
    """(core, stitchers) parameters of the model itself, by making it."""
    (name,) = spec.sessions
    model = NDT(NDTConfig.model_validate(spec.settings["model"]), sessions.info(name).n_bins, 0)
    model.add_session(name, sessions.info(name).n_units, torch.ones(sessions.info(name).n_units))
    stitchers = sum(p.numel() for p in model.stitcher_parameters())
    return sum(p.numel() for p in model.core.parameters()), stitchers


def test_six_operations_a_trained_weight_and_token_four_in_a_frozen_core(sessions):
    settings = preset("tiny", {"train.epochs": 3, "finetune.epochs": 5})
    core = pretrain_spec(sessions, ["sim-00"], settings, 1)
    tuned = finetune_spec(sessions, "sim-heldout-0", core, settings, 1)
    for spec, epochs, per_core in ((core, 3, 6), (tuned, 5, 4)):
        (name,) = spec.sessions
        tokens = epochs * len(sessions.load(name).split.train) * sessions.info(name).n_bins
        shared, own = weights(spec, sessions)
        assert tokens_of(spec, infos(sessions)) == tokens
        assert operations(spec, infos(sessions)) == pytest.approx(tokens * (per_core * shared + 6 * own), rel=0.01)


def test_operations_grow_with_steps_and_sessions(sessions):
    settings, known = preset("tiny", {"train.epochs": 4}), infos(sessions)
    one, other = (pretrain_spec(sessions, [name], settings, 1) for name in ("sim-00", "sim-01"))
    both = pretrain_spec(sessions, ["sim-00", "sim-01"], settings, 1)
    assert operations(both, known) == pytest.approx(operations(one, known) + operations(other, known), rel=1e-6)
    assert operations(replace(one, steps=one.steps // 4), known) == pytest.approx(operations(one, known) / 4, rel=1e-6)


def test_a_core_of_half_the_widths_costs_less_than_half_a_token(sessions):
    settings, known = preset("small"), infos(sessions)
    model = settings.model.model_copy(update={"token_width": 48, "width": 48, "feedforward": 96})
    large = baseline_spec(sessions, "sim-heldout-0", settings, 1)
    small = baseline_spec(sessions, "sim-heldout-0", settings.model_copy(update={"model": model}), 1)
    assert 0.25 < operations_per_token(small, known) / operations_per_token(large, known) < 0.5


def test_a_final_evaluation_trains_nothing(sessions):
    settings = preset("tiny")
    model = baseline_spec(sessions, "sim-heldout-0", settings, 1)
    assert operations(evaluate_spec(sessions, "sim-heldout-0", model, settings), infos(sessions)) == 0
