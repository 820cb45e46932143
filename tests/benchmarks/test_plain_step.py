"""The clean formulation is the same model, and a step of it does what a step of ours does."""

import numpy as np
import pytest
import torch
from plain_step import PlainNDT, PlainTraining
from step_measures import dense_flops, executed_flops

from sessionwise.model.masking import training_mask
from sessionwise.model.ndt import NDT, NDTConfig

CONFIG = NDTConfig(token_width=6, width=8, feedforward=16, heads=2, blocks=2)


def plain_and_ours():
    ours = NDT(CONFIG, 9, seed=3)
    ours.add_session("a", 5)
    plain = PlainNDT(CONFIG, 9, 5)
    plain.copy_from(ours, "a")
    return plain, ours


def batch():
    counts = torch.from_numpy(np.random.default_rng(0).poisson(0.5, (4, 9, 5)).astype(np.uint8))
    return counts, training_mask(4, 9, 0.3, torch.Generator().manual_seed(1))


def test_the_same_weights_give_the_same_log_rates():
    plain, ours = plain_and_ours()
    counts, masked = batch()
    torch.testing.assert_close(plain.eval()(counts, masked), ours(counts, masked, "a"))


def test_dropout_is_on_in_training():
    plain, _ = plain_and_ours()
    assert not torch.equal(plain(*batch()), plain(*batch()))


def test_the_paper_model_shares_12_million_weights():
    with torch.device("meta"):
        plain, parts = PlainNDT(NDTConfig(), 150, 1), ("encode", "decode", "session")
    shared = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith(parts))
    assert round(shared / 1e6, 1) == 12.2


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_trains(bf16):
    plain, _ = plain_and_ours()
    before = [p.detach().clone() for p in plain.parameters()]
    PlainTraining(plain, batch()[0], batch_size=4, lr=1e-2, mask_ratio=0.3, bf16=bf16).advance()
    assert all((p != old).any() for p, old in zip(plain.parameters(), before, strict=True))


def test_executed_operations_are_those_of_the_formula():
    training = PlainTraining(plain_and_ours()[0], batch()[0], batch_size=4, lr=1e-2, mask_ratio=0.3, bf16=False)
    by_hand = dense_flops(units=5, bins=9, batch=4, token=6, width=8, feedforward=16, blocks=2)
    assert executed_flops(training.advance) == sum(by_hand.values())


def test_a_full_step_of_the_paper_is_195_gflop():
    by_hand = dense_flops(units=600, bins=150, batch=16, token=668, width=512, feedforward=1024, blocks=5)
    assert {name: round(flops / 1e9, 1) for name, flops in by_hand.items()} == {
        "MLP": 76.5,
        "QKV": 57.4,
        "embedder": 22.7,
        "output projection": 19.1,
        "attention": 11.4,
        "stitchers": 8.3,
    }
    assert round(sum(by_hand.values()) / 1e9) == 195
