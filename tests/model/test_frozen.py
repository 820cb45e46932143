"""A frozen core in the precision of its products: the same results, and back as it was."""

import pytest
import torch

from sessionwise.errors import IntegrityError
from sessionwise.model.frozen import frozen_core
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.model.streams import stream

CONFIG = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=2)


def frozen(precision):
    model = NDT(CONFIG, 7, seed=2)
    model.add_session("a", 5)
    model.core.requires_grad_(False)
    model.precision = precision
    return model


def loss_and_gradients(model):
    counts = torch.poisson(torch.full((3, 7, 5), 1.5), generator=stream(1, "counts")).to(torch.uint8)
    masked = torch.rand(3, 7, generator=stream(1, "mask")) < 0.5
    loss = model.log_rates_at(masked, counts, masked, "a", stream(1, "dropout")).exp().mean()
    return [loss, *torch.autograd.grad(loss, list(model.stitcher_parameters()))]


def test_bf16_weights_are_what_autocast_would_make_of_them():
    model = frozen("bf16")
    usual, before = loss_and_gradients(model), model.core_hash()
    with frozen_core(model):
        assert model.core.blocks[0].up.weight.dtype == torch.bfloat16
        assert model.core.positions.dtype == model.core.norm.weight.dtype == torch.float32
        held = loss_and_gradients(model)
    assert all(torch.equal(one, other) for one, other in zip(usual, held, strict=True))
    assert model.core_hash() == before and model.core.blocks[0].up.weight.dtype == torch.float32


def test_nothing_is_rounded_in_fp32_or_when_the_core_is_trained():
    for model in (frozen("fp32"), frozen("bf16").requires_grad_(True)):
        with frozen_core(model):
            assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", [lambda core: core.blocks[0].up.weight, lambda core: core.scheme])
def test_a_core_that_changed_is_told(precision, part):
    model = frozen(precision)
    with pytest.raises(IntegrityError, match="the frozen core changed"), frozen_core(model), torch.no_grad():
        part(model.core).view(-1)[0] += 1


def test_the_weights_are_back_after_an_error():
    model = frozen("bf16")
    before = model.core_hash()
    with pytest.raises(ZeroDivisionError), frozen_core(model):
        raise ZeroDivisionError
    assert model.core_hash() == before
