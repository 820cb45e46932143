"""What a GPU runs, tested on a CPU: dense steps, seldom looks at losses, resident batches, no waiting for a value."""

import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import CONFIG, TOYS, Toy, TrainSettings, training, validator

from sessionwise.io.tensors import read_tensors
from sessionwise.model.streams import stream
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint
from sessionwise.runs.worker import Reporter
from sessionwise.training.batches import Batches
from sessionwise.training.loop import batch_loss, train

SILENT = Reporter(lambda event: None)
SETTINGS = TrainSettings(epochs=4, lr=1e-2, validations=5)  # 40 steps; validations at 8, 16, 24, 32 and 40


# Dense and sparse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("chunks", [False, True])  # attention without and with a generator, which draws nothing here
def test_dense_and_sparse_are_one_loss_with_one_gradient(objective, how, chunks):
    config = CONFIG.model_copy(update={"objective": objective, "dropout": 0.0})
    settings = SETTINGS.model_copy(update={"loss": how})
    state = training(settings, config=config)
    for _ in range(6):
        batch = state.batches.draw(0.3, state.mask_rng)
        found = []
        for dense in (True, False):
            state.model.zero_grad()
            loss = batch_loss(state.model, batch, settings, state.dropout_rng if chunks else None, dense)
            loss.backward()
            found.append((loss, [p.grad for p in state.parameters]))
        (loss, gradients), (expected, wanted) = found
        torch.testing.assert_close(loss, expected)
        assert [g is None for g in gradients] == [g is None for g in wanted] and any(g is None for g in gradients)
        for one, two in zip(gradients, wanted, strict=True):
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


# Seldom looks ---------------------------------------------------------------------------------------------------------


def spoiled(state, at, where):
    """Make loss or gradient of step ``at`` (from 0) not finite."""
    update = state.update

    def spoil(loss, tokens):
        if state.step == at:
            loss = loss * math.nan if where == "loss" else loss
            for parameter in state.parameters:
                if parameter.grad is not None:
                    parameter.grad.fill_(math.nan if where == "loss" else math.inf)
        return update(loss, tokens)

    state.update = spoil
    return state


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("at", [0, 13, 15, 39])  # after 16 and 40 steps there is a validation
def test_seldom_looks_see_the_same_divergence(tmp_path, at, where):
    outcomes = []
    for every in (1, 7, 50):
        state, work = spoiled(training(SETTINGS), at, where), tmp_path / str(every)
        state.check_every = every
        trained = train(state, validator(), SILENT, work, checkpoint_steps=3)
        history = (trained.history.step, trained.history.loss, [gain.tolist() for gain in trained.history.gain])
        outcomes.append((trained.reason, trained.steps, trained.tokens, trained.best_step, trained.best_bps, history))
        assert f"at step {at + 1} of 40" in trained.reason and trained.steps == at
        assert np.isfinite(trained.history.loss).all() and trained.history.step == [
            s for s in (8, 16, 24, 32) if s <= at
        ]
        assert all(tensor.isfinite().all() for tensor in state.best.values())
        newest = latest_checkpoint(work)
        assert checkpoint_step(newest) == at // 3 * 3 if at >= 3 else newest is None
        for folder in work.glob("step-*"):
            stored = read_tensors(folder / "state.safetensors")
            assert all(np.isfinite(value).all() for name, value in stored.items() if not name.startswith("rng"))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_seldom_looks_change_nothing_where_all_is_well():
    found = []
    for every in (1, 7, 50):
        state = training(SETTINGS)
        state.check_every = every
        trained = train(state, validator(), SILENT)
        weights = [p.detach().numpy().tobytes() for p in state.parameters]
        found.append((trained.reason, trained.steps, trained.tokens, trained.history.loss, trained.best_bps, weights))
    assert found[0] == found[1] == found[2] and found[0][0] is None


# Resident batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "largest", "resident"),
    [
        (np.uint8, 255, torch.uint8),
        (np.uint16, 2**15 - 1, torch.int16),
        (np.uint16, 2**15, torch.int32),
        (np.uint16, 2**16 - 1, torch.int32),
    ],
)
def test_resident_batches_are_those_of_the_memory_map(dtype, largest, resident):
    toys = [Toy("a", 21, 5, dtype), Toy("b", 13, 3, dtype)]
    for toy in toys:
        toy._counts[3, 2, 1] = largest
    usual, there = (Batches(toys, 8, 3, ("pretrain",)) for _ in range(2))
    there._reside()  # as a device other than the CPU has it done
    rngs = stream(3, "masks"), stream(3, "masks")
    for number in range(23):
        if number == 12:  # in the middle of an epoch
            there.restore(usual.state())
        one, two = usual.draw(0.3, rngs[0]), there.draw(0.3, rngs[1])
        assert one.session_id == two.session_id and two.counts.dtype == resident
        assert torch.equal(one.counts.int(), two.counts.int()) and torch.equal(one.masked, two.masked)
        assert usual.state() == there.state()


def test_on_another_device_counts_are_put_there(monkeypatch):
    """What ``device`` decides; "meta" stands for a GPU, which has no values on the host either."""
    batches = Batches(list(TOYS), 8, 3, device="meta")
    assert {counts.device.type for counts in batches._resident.values()} == {"meta"}
    batch = batches.draw(0.3, stream(3, "masks"))
    assert batch.counts.device.type == "meta" and len(batch.counts) <= 8


# Waiting --------------------------------------------------------------------------------------------------------------

WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "equal",
    "is_nonzero",
    "nonzero_numpy",
}
HOST = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero"}


class NoWaiting(TorchDispatchMode):
    """Operations whose result, or the shape of it, the host has to know: on a GPU each waits for all before it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean_index = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        if name in WAITS or boolean_index:
            raise AssertionError(f"{func} waits for a value")
        return func(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Methods that read values on the host, also those that a CPU tensor answers without an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in HOST:
            raise AssertionError(f"{func.__name__} reads a value on the host")
        return func(*args, **(kwargs or {}))


def steps_without_waiting(state, number):
    state.check_every = 10**9
    with NoReading(), NoWaiting():
        for _ in range(number):
            assert state.advance() is None


@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_a_dense_step_waits_for_no_value(objective, how):
    """Draw, loss, gradients, clipping, optimiser, schedule, over the border of an epoch; batches are resident."""
    state = training(
        SETTINGS.model_copy(update={"loss": how}), config=CONFIG.model_copy(update={"objective": objective})
    )
    state.batches._reside()
    steps_without_waiting(state, 13)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: x.reshape(1).tolist(),
        lambda x: bool(x > 0),
        lambda x: float(x),
        lambda x: x.reshape(1).nonzero(),
        lambda x: x.reshape(1)[x.reshape(1) > 0],
        lambda x: x.cpu(),
        lambda x: x.numpy(),
    ],
)
def test_waiting_is_noticed(wait):
    state = training(SETTINGS)
    state._note = lambda loss, norm, tokens: wait(loss)
    with pytest.raises(AssertionError, match=r"waits for a value|reads a value"):
        steps_without_waiting(state, 1)


def test_a_sparse_step_waits_and_that_is_noticed():
    with pytest.raises(AssertionError, match="nonzero"):
        steps_without_waiting(training(SETTINGS, dense=False), 1)
