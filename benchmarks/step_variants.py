"""What ``step.py`` measures: simulated sessions on disk, and trainings of the library and of the clean formulation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from plain_step import PlainNDT, PlainTraining

from sessionwise.data.session import make_session
from sessionwise.data.splits import SessionData
from sessionwise.data.store import SessionStore, create_store
from sessionwise.model.compiling import compile_core
from sessionwise.model.frozen import frozen_core
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.training.batches import Batches
from sessionwise.training.loop import Training, TrainSettings

BIN_S = 0.02
MEAN_COUNT = 0.12  # spikes in a bin: 6 Hz


@dataclass(frozen=True)
class Variant:
    """One way to do a step. ``who``: "clean" or "ours"."""

    who: str
    precision: str = "fp32"
    frozen: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """For example ``ours bf16 frozen``."""
        words = [self.who, self.precision, "frozen" * self.frozen, "compiled" * self.compiled]
        return " ".join(word for word in words if word)


class Sessions:
    """Simulated sessions in prepared stores below a folder, made when first asked for, read as trainings read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stores: dict[int, SessionStore] = {}  # a store holds sessions of one number of bins

    def get(self, n_units: int, n_bins: int, n_trials: int, number: int = 0) -> SessionData:
        """A session with counts memory-mapped; ``number`` tells sessions of equal shape apart."""
        session_id = f"{n_units} units, {n_bins} bins, {n_trials} trials, {number}"
        if n_bins not in self._stores:
            self._stores[n_bins] = create_store(self.folder / f"{n_bins}-bins")
        store = self._stores[n_bins]
        if session_id not in store:
            rng = np.random.default_rng([n_units, n_bins, number])
            counts = rng.poisson(MEAN_COUNT, (n_trials, n_bins, n_units)).astype(np.uint8)
            store.add(make_session(session_id, counts, BIN_S))
        return store.load(session_id)


class Bench:
    """Makes trainings. What they hold open (frozen cores) is given back by ``close``."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self._open = sessions, ExitStack()

    def close(self) -> None:
        """Put the weights of frozen cores back."""
        self._open.close()

    def training(
        self, variant: Variant, config: NDTConfig, settings: TrainSettings, data: Sequence[SessionData]
    ) -> Training | PlainTraining:
        """A training whose ``advance()`` is one step; the clean one knows one session."""
        if variant.who == "clean":
            (session,) = data
            counts, bf16 = torch.from_numpy(session.counts("train")), variant.precision == "bf16"
            plain = PlainNDT(config, session.n_bins, session.n_units)
            return PlainTraining(plain, counts, settings.batch_size, settings.lr, settings.mask_ratio, bf16)
        return self.ours(variant, config, settings, data)

    def ours(
        self, variant: Variant, config: NDTConfig, settings: TrainSettings, data: Sequence[SessionData]
    ) -> Training:
        """A training of the library, made as jobs make it: all weights, or stitchers around a frozen core."""
        model = NDT(config, data[0].n_bins, seed=0)
        for session in data:
            model.add_session(session.id, session.n_units, torch.full((session.n_units,), MEAN_COUNT))
        parameters = list(model.stitcher_parameters() if variant.frozen else model.parameters())
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is chosen for chosen in parameters))
        model.precision = "bf16" if variant.precision == "bf16" else "fp32"
        if variant.frozen:
            self._open.enter_context(frozen_core(model))
        if variant.compiled and not compile_core(model):
            raise RuntimeError("this machine cannot compile the model: leave --compile out")
        changed = {"precision": variant.precision, "compile": variant.compiled, "steps": 1_000_000}
        how = settings.model_copy(update=changed)
        return Training(model, parameters, Batches(data, how.batch_size, seed=0), how, seed=0)
