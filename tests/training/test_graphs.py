"""Recorded steps: with a stand-in for the recording, training through graphs is dense training, bit for bit."""

import warnings

import pytest
import torch
from toy_training import CONFIG, TOYS, TrainSettings, fingerprint, training, validator

from sessionwise.errors import SessionwiseWarning, Stopped
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint
from sessionwise.runs.worker import Reporter
from sessionwise.training.graphs import Graphs
from sessionwise.training.loop import train

SILENT = Reporter(lambda event: None)
SETTINGS = TrainSettings(epochs=6, lr=1e-2, validations=5)  # 10 batches an epoch: 3 of a, 5 of b, 2 of c
SHAPES = {("a", 8), ("a", 5), ("b", 8), ("c", 8), ("c", 5)}


class StandIn:
    """Where there is no CUDA: a replay runs the function again. Counts recordings and replays."""

    def __init__(self, refuse=()):
        self.recorded, self.replayed, self.refuse = 0, 0, refuse

    def __call__(self, work, rngs, pool):
        self.recorded += 1
        if self.recorded in self.refuse:
            work()  # it fails half-way, with gradients written and random numbers drawn
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        def replay():
            self.replayed += 1
            work()

        return replay


def graphed(settings=SETTINGS, stand_in=None, config=CONFIG, **options):
    state = training(settings, config=config)
    state.graphs = Graphs(state._losses, state.parameters, stand_in or StandIn(), **options)
    return state


@pytest.mark.parametrize(
    ("changes", "objective"),
    [({}, "masked_causal"), ({"loss": "sum", "weight_decay": 0.3}, "masked_causal"), ({}, "next_step")],
)
@pytest.mark.parametrize("after", [0, 2])
def test_training_through_graphs_is_dense_training(changes, objective, after):
    settings, config = SETTINGS.model_copy(update=changes), CONFIG.model_copy(update={"objective": objective})
    plain = training(settings, config=config)
    expected = fingerprint(plain, train(plain, validator(), SILENT))
    stand_in = StandIn()
    state = graphed(settings, stand_in, config, after=after)
    assert fingerprint(state, train(state, validator(), SILENT)) == expected
    assert {shape for (shape,) in state.graphs.graphs} == SHAPES and stand_in.recorded == 5
    assert stand_in.replayed == 60 - 5 * after


@pytest.mark.parametrize("step", [4, 23, 41])
def test_a_checkpoint_between_replays_continues_to_the_same_bytes(tmp_path, step):
    plain = training(SETTINGS)
    expected = fingerprint(plain, train(plain, validator(), SILENT))
    state, asked = graphed(), [False]

    def events(event):
        asked[0] = True

    with pytest.raises(Stopped):
        train(state, validator(), Reporter(events, lambda: asked[0] and state.step >= step), tmp_path)
    assert checkpoint_step(latest_checkpoint(tmp_path)) == step
    again = graphed()
    assert fingerprint(again, train(again, validator(), SILENT, tmp_path)) == expected


def test_stitchers_of_other_sessions_have_no_gradient_and_stay():
    """AdamW's weight decay would move them; a gradient left from another graph would, too."""
    state = graphed(TrainSettings(steps=60, lr=1e-2, weight_decay=0.5), after=0)
    moved = 0
    for _ in range(60):
        before = {toy.id: [p.detach().clone() for p in state.model.stitchers_of(toy.id).parameters()] for toy in TOYS}
        drawn = state.batches.state()
        assert state.advance() is None
        state_after, rng = state.batches.state(), state.mask_rng.get_state()
        state.batches.restore(drawn)
        now = state.batches.draw(0.3, state.mask_rng).session_id
        state.batches.restore(state_after)
        state.mask_rng.set_state(rng)
        for toy in TOYS:
            pairs = zip(before[toy.id], state.model.stitchers_of(toy.id).parameters(), strict=True)
            same = all(torch.equal(old, new) for old, new in pairs)
            assert same == (toy.id != now)
            moved += not same
    assert moved == 60


def test_graphs_share_the_places_of_gradients():
    state = graphed(after=0)
    train(state, validator(), SILENT)
    core = state.model.core.positions
    places = {graph.gradients[core].data_ptr() for graph in state.graphs.graphs.values()}
    assert len(places) == 1
    stitchers = [state.model.stitchers_of(toy.id).encode.weight for toy in TOYS]
    for (shape,), graph in state.graphs.graphs.items():
        assert [weight in graph.gradients for weight in stitchers] == [toy.id == shape[0] for toy in TOYS]


def test_beyond_the_most_graphs_steps_are_computed_one_by_one():
    plain = training(SETTINGS)
    expected = fingerprint(plain, train(plain, validator(), SILENT))
    stand_in = StandIn()
    state = graphed(stand_in=stand_in, most=2, after=0)
    assert fingerprint(state, train(state, validator(), SILENT)) == expected
    assert stand_in.recorded == len(state.graphs.graphs) == 2 and 2 < stand_in.replayed < 60


@pytest.mark.parametrize("refused", [1, 3])
def test_a_refused_recording_is_one_warning_and_nothing_else(refused):
    plain = training(SETTINGS)
    expected = fingerprint(plain, train(plain, validator(), SILENT))
    stand_in = StandIn(refuse=(refused,))
    state = graphed(stand_in=stand_in)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained = train(state, validator(), SILENT)
    (warning,) = [entry for entry in caught if entry.category is SessionwiseWarning]
    assert "cannot be recorded as CUDA graphs (CUDA error" in str(warning.message)
    assert fingerprint(state, trained) == expected and stand_in.recorded == refused and not state.graphs.graphs


def test_on_a_cpu_nothing_is_recorded():
    assert training(SETTINGS).graphs is None
