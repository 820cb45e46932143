"""How long a step and a scored trial take on this machine, from a few seconds of training on random counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from sessionwise.errors import EnvironmentProblem
from sessionwise.model.frozen import frozen_core
from sessionwise.model.masking import training_mask
from sessionwise.model.ndt import NDT
from sessionwise.scoring.evaluate import Scorer
from sessionwise.training.batches import Batch, Batches
from sessionwise.training.loop import Training, TrainSettings
from sessionwise.training.precision import settle
from sessionwise.training.presets import Settings

N_BINS, N_UNITS = 150, 693  # the paper's bins (protocol A3); median units of the RepeatedSite sessions, at least 0.1 Hz
MEAN_COUNT = 0.1  # spikes per unit and bin of the random counts; dense arithmetic takes the same time at any rate
TRIALS = 4  # trials that are scored
WARM_UP_TRIALS = 2
RUN_SECONDS = 0.1  # beside its steps and scores a run is planned, loaded, hashed and written


@dataclass(frozen=True)
class Timing:
    """Seconds on one worker (one thread), and the number of workers.

    step: an optimiser step with all weights trained; frozen_step: of the stitchers alone; trial: the score of a trial.
    n_bins, n_units: the counts that it was measured with.
    """

    step: float
    frozen_step: float
    trial: float
    workers: int
    n_bins: int
    n_units: int


class _SameBatch(Batches):
    """One batch again and again; masks are drawn as in a training."""

    def __init__(self, counts: np.ndarray) -> None:
        super().__init__((), len(counts), 0)
        self._counts = torch.from_numpy(counts)

    @property
    def per_epoch(self) -> int:
        return 1_000_000

    def draw(self, mask_ratio: float, mask_rng: Generator) -> Batch:
        masked = training_mask(self._counts.shape[0], self._counts.shape[1], mask_ratio, mask_rng)
        return Batch("session", self._counts, masked)


def measure(
    settings: Settings, n_bins: int = N_BINS, n_units: int = N_UNITS, *, workers: int = 1, seconds: float = 1.0
) -> Timing:
    """Time single steps and scores on random counts (trials, n_bins, n_units), one thread.

    Each of the three numbers is the fastest of what fits into ``seconds``, of one at least, after a smaller step to
    warm up. On a CPU it is time of the process, so that other work on the machine does not count. Raises
    EnvironmentProblem when the settings ask for a device that is not here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rng = np.random.default_rng(0)
        step = _step_seconds(settings, settings.train, n_bins, n_units, rng, seconds, frozen=False)
        frozen = _step_seconds(settings, settings.finetune, n_bins, n_units, rng, seconds, frozen=True)
        trial = _trial_seconds(settings, n_bins, n_units, rng, seconds)
    finally:
        torch.set_num_threads(threads)
    return Timing(step, frozen, trial, workers, n_bins, n_units)


def _step_seconds(
    settings: Settings,
    how: TrainSettings,
    n_bins: int,
    n_units: int,
    rng: np.random.Generator,
    seconds: float,
    frozen: bool,
) -> float:
    model = _model(settings, how, n_bins, n_units)
    parameters = list(model.stitcher_parameters() if frozen else model.parameters())
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    small, whole = (
        Training(model, parameters, _SameBatch(_counts(rng, size, n_bins, n_units)), how, 0)
        for size in (WARM_UP_TRIALS, how.batch_size)
    )
    with frozen_core(model) if frozen else nullcontext():
        small.advance()
        return _fastest(whole.advance, seconds, how.device)


def _trial_seconds(settings: Settings, n_bins: int, n_units: int, rng: np.random.Generator, seconds: float) -> float:
    model = _model(settings, settings.train, n_bins, n_units)
    small, whole = (
        Scorer("session", _counts(rng, size, n_bins, n_units), np.arange(size), size, settings.evaluation)
        for size in (WARM_UP_TRIALS, TRIALS)
    )
    small.forward_prediction(model)
    return _fastest(lambda: whole.forward_prediction(model), seconds, settings.train.device) / TRIALS


def _model(settings: Settings, how: TrainSettings, n_bins: int, n_units: int) -> NDT:
    if how.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("device cuda", "is not here", "a GPU", "Plan on the machine that will train")
    model = NDT(settings.model, n_bins, 0)
    model.add_session("session", n_units, torch.full((n_units,), MEAN_COUNT))
    model.precision = settle(how.precision, how.device, settings.model.width)
    return model.to(how.device)


def _counts(rng: np.random.Generator, n_trials: int, n_bins: int, n_units: int) -> np.ndarray:
    return rng.poisson(MEAN_COUNT, (n_trials, n_bins, n_units)).astype(np.uint8)


def _fastest(do: Callable[[], object], seconds: float, device: str) -> float:
    """The shortest of the calls that begin within ``seconds``; the first always does."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun, times = time.perf_counter(), list[float]()
    while not times or time.perf_counter() - begun < seconds:
        start = clock()
        do()
        times.append(clock() - start)
    return min(times)
