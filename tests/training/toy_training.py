"""Small trainings on counts without structure, several sessions of different sizes: what the tests of steps train."""

from types import SimpleNamespace

import numpy as np
import torch

from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer
from sessionwise.training.batches import Batches
from sessionwise.training.loop import Training, TrainSettings

N_BINS = 9
CONFIG = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=2, dropout=0.2)


class Toy:
    """A session of some training and 8 validation trials."""

    def __init__(self, name, trials=40, units=5, dtype=np.uint8, n_bins=N_BINS):
        self.id, self.n_units = name, units
        rng = np.random.default_rng([trials, units])
        self._counts = rng.poisson(0.6, (trials + 8, n_bins, units)).astype(dtype)
        self._trials = trials
        self.split = SimpleNamespace(train=np.arange(trials))

    def take(self, part, rows):
        return self.counts(part)[rows]

    def counts(self, part):
        return self._counts[: self._trials] if part == "train" else self._counts[self._trials :]


TOYS = (Toy("a", 21, 5), Toy("b", 40, 3), Toy("c", 13, 7))  # with batches of 8: last batches of 5, 8 and 5 trials


def training(settings, sessions=TOYS, config=CONFIG, seed=3, dense=True):
    """A training of all weights."""
    model = NDT(config, N_BINS, seed)
    for toy in sessions:
        model.add_session(toy.id, toy.n_units, torch.full((toy.n_units,), 0.6))
    state = Training(model, list(model.parameters()), Batches(list(sessions), 8, seed), settings, seed)
    state.dense = dense
    return state


def validator(sessions=TOYS):
    """How ``train`` validates on the toys."""
    scorers = [
        Scorer(toy.id, toy.counts("validation"), np.arange(8), 8, EvaluationSettings(tail=3)) for toy in sessions
    ]
    return lambda model: [scorer.forward_prediction(model) for scorer in scorers]


def fingerprint(state, trained):
    """Everything that a training leaves behind, bit for bit."""
    weights = [p.detach().numpy().tobytes() for p in state.model.parameters()]
    stored = state.optimiser.state_dict()["state"]
    slots = {(i, name): value.numpy().tobytes() for i, slot in stored.items() for name, value in slot.items()}
    rngs = [rng.get_state().numpy().tobytes() for rng in (state.mask_rng, state.dropout_rng)]
    outcome = [trained.reason, trained.best_step, trained.best_bps, trained.steps, trained.tokens]
    return weights, slots, rngs, [gain.tobytes() for gain in trained.history.gain], trained.history.loss, outcome


__all__ = ["CONFIG", "N_BINS", "TOYS", "Toy", "TrainSettings", "fingerprint", "training", "validator"]
