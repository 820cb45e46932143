"""Compiled blocks answer what the others do; where compiling fails, the training goes on without it."""

from functools import partial

import pytest
import torch

from sessionwise.errors import SessionwiseWarning
from sessionwise.model import dropout
from sessionwise.model.compiling import compile_core
from sessionwise.model.ndt import NDT, NDTConfig, run_block
from sessionwise.model.streams import stream

CONFIG = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=2)


def toy():
    model = NDT(CONFIG, 7, seed=2)
    model.add_session("a", 5)
    return model


def loss_and_gradients(model, trials=3):
    counts = torch.poisson(torch.full((trials, 7, 5), 1.5), generator=stream(1, "counts")).to(torch.uint8)
    masked = torch.rand(trials, 7, generator=stream(1, "mask")) < 0.5
    loss = model.log_rates_at(masked, counts, masked, "a", stream(1, "dropout")).exp().mean()
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.slow
def test_compiled_blocks_give_the_same_loss_and_gradients(monkeypatch):
    """Traced and differentiated by torch.compile; generating code takes minutes and is left to benchmarks/step.py."""
    monkeypatch.setattr(dropout, "random_bytes", dropout.random_bytes)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = toy()
    expected = [loss_and_gradients(model, trials) for trials in (3, 4)]
    assert compile_core(model) and model.core.run is not run_block
    for trials, usual in zip((3, 4), expected, strict=True):
        for one, other in zip(loss_and_gradients(model, trials), usual, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_failure_is_told_once_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(dropout, "random_bytes", dropout.random_bytes)

    def broken(function):
        def fail(*arguments):
            raise RuntimeError("no compiler\nhere")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = toy()
    expected = loss_and_gradients(model)
    with pytest.warns(SessionwiseWarning, match="compiling failed, training goes on without it: no compiler here"):
        assert not compile_core(model)
    assert model.core.run is run_block
    assert all(torch.equal(one, other) for one, other in zip(loss_and_gradients(model), expected, strict=True))
