"""The forward-prediction score of a model on some trials of one session.

Masks are fixed and seeded, so a score is a deterministic function of weights and trials. What is kept is the gain in
log likelihood over the null model, trial by trial (for paired bootstraps and cross-fitting) and unit by unit.

Axes: K trials, T bins, N units; the trials alternate between two halves (even and odd rows) for cross-fitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sessionwise.errors import DataError
from sessionwise.model.masking import fold_of_bins, tail_mask
from sessionwise.scoring.likelihood import RATE_FLOOR, mean_over_units, null_rates, pooled_bits, unit_bits

_TRIALS_AT_ONCE = 64


class Predictor(Protocol):
    """What can be scored: an NDT, or a reference predictor."""

    @property
    def objective(self) -> str:
        """``"masked_causal"``: the scored bins are hidden; ``"next_step"``: bin t is predicted from all before it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where counts and masks have to be."""
        ...

    def log_rates_at(
        self, bins: torch.Tensor, counts: torch.Tensor, masked: torch.Tensor, session_id: str
    ) -> torch.Tensor:
        """Log rates (M, N) of ``bins`` (K, T) bool, in row order; counts (K, T, N), masked (K, T) bool.

        The counts of masked bins and of bins after the predicted one must not matter.
        """
        ...


class EvaluationSettings(BaseModel):
    """How a model is scored (protocol B2-B4)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(3, ge=2, description="folds of masked bins; together they cover every bin once")
    fold_seed: int = Field(0, ge=0)
    fold_draws: int = Field(1, ge=1, description="independent draws of the folds; their gains are averaged")
    tail: int = Field(10, ge=1, description="bins masked at once for the tail score (at most T - 1 are)")
    null: Literal["evaluated", "train"] = Field("evaluated", description="data that the null rates are means of")


@dataclass(frozen=True)
class Evaluation:
    """Gains in log likelihood (nats) over the null model, and the spikes they are shared between.

    gain, spikes: (K,) by trial, over scored bins and all units.
    unit_gain, unit_spikes: (2, N) by half of the trials and unit.
    bin_gain, bin_spikes: (T,) by bin, over trials and units; 0 where a bin was not scored.
    """

    gain: np.ndarray
    spikes: np.ndarray
    unit_gain: np.ndarray
    unit_spikes: np.ndarray
    bin_gain: np.ndarray
    bin_spikes: np.ndarray

    @property
    def bps(self) -> float:
        """Pooled bits per spike (Eq. 1)."""
        return pooled_bits(float(self.gain.sum()), float(self.spikes.sum()))

    @property
    def bps_unit_mean(self) -> float:
        """Mean over units with spikes of their bits per spike."""
        return mean_over_units(self.unit_bits)[0]

    @property
    def units_left_out(self) -> int:
        """Silent units that the unit mean leaves out."""
        return mean_over_units(self.unit_bits)[1]

    @property
    def unit_bits(self) -> np.ndarray:
        """(N,) bits per spike of each unit, NaN for a silent one."""
        return unit_bits(self.unit_gain.sum(axis=0), self.unit_spikes.sum(axis=0))


class Scorer:
    """Scores models on fixed trials of one session; masks and null rates are made once.

    counts: (K, T, N); rows: (K,) the trials' positions in their session (they choose the folds); n_session_trials: of
    the whole session; null: (N,) null rates, by default the mean over ``counts``.
    """

    def __init__(
        self,
        session_id: str,
        counts: np.ndarray,
        rows: np.ndarray,
        n_session_trials: int,
        settings: EvaluationSettings,
        null: np.ndarray | None = None,
    ) -> None:
        if not counts.any():
            raise DataError(f"session {session_id}", "no spike in the evaluated trials", "at least one", "Leave it out")
        self.session_id, self.settings = session_id, settings
        self.counts = torch.from_numpy(np.ascontiguousarray(counts))
        self.null = null_rates(counts) if null is None else np.asarray(null, float)
        self.tail_null = null_rates(counts[:, -self.tail_bins :]) if null is None else self.null
        draws = range(settings.fold_seed, settings.fold_seed + settings.fold_draws)
        n_bins = counts.shape[1]
        folds = [fold_of_bins(session_id, n_session_trials, n_bins, settings.folds, draw)[rows] for draw in draws]
        self.fold_masks = [torch.from_numpy(fold == f) for fold in folds for f in range(settings.folds)]

    def forward_prediction(self, model: Predictor) -> Evaluation:
        """The k-fold score: every bin is scored once a draw (``next_step`` needs no mask: one pass scores all bins)."""
        if model.objective == "next_step":
            nothing = torch.zeros(self.counts.shape[:2], dtype=torch.bool)
            return self._score(model, [(nothing, ~nothing)], self.null)
        return self._score(model, [(mask, mask) for mask in self.fold_masks], self.null, self.settings.fold_draws)

    def tail(self, model: Predictor) -> Evaluation:
        """The tail score: the last k bins predicted at once from the bins before them; null rates are theirs (B4)."""
        K, T, _ = self.counts.shape
        mask = torch.from_numpy(tail_mask(K, T, self.tail_bins))
        return self._score(model, [(mask, mask)], self.tail_null)

    @property
    def tail_bins(self) -> int:
        """How many bins the tail score masks: the setting, or all but the first bin of a shorter trial."""
        return min(self.settings.tail, self.counts.shape[1] - 1)

    @torch.no_grad()
    def _score(
        self, model: Predictor, masks: Sequence[tuple[torch.Tensor, torch.Tensor]], null: np.ndarray, draws: int = 1
    ) -> Evaluation:
        K, T, N = self.counts.shape
        device = model.device
        sums = {name: np.zeros(shape) for name, shape in _shapes(K, T, N).items()}
        floor = torch.from_numpy(null).to(device)
        for start in range(0, K, _TRIALS_AT_ONCE):
            part = slice(start, min(start + _TRIALS_AT_ONCE, K))
            counts = self.counts[part].to(device)
            for masked, scored in masks:
                bins = scored[part].to(device)
                log_rates = model.log_rates_at(bins, counts, masked[part].to(device), self.session_id)
                _add(sums, part.start, bins, log_rates, counts[bins], floor)
        scale = 1 / draws
        return Evaluation(**{name: value * scale for name, value in sums.items()})


def _add(
    sums: dict[str, np.ndarray],
    first: int,
    bins: torch.Tensor,
    log_rates: torch.Tensor,
    counts: torch.Tensor,
    null: torch.Tensor,
) -> None:
    """Add M scored bins to the sums: gain = x (log r - log r0) - (r - r0).

    bins: (k, T) bool, of trials ``first`` on; log_rates, counts: (M, N) in the order of ``bins``; null: (N,).
    """
    trial, time = (index.cpu().numpy() for index in bins.nonzero(as_tuple=True))
    log_rates, floor = log_rates.clamp_min(math.log(RATE_FLOOR)), null.clamp_min(RATE_FLOOR).float()
    spikes = counts.float()
    gain = ((log_rates - floor.log()) * spikes - (log_rates.exp() - floor)).double()
    even = torch.from_numpy((first + trial) % 2 == 0).to(gain.device)
    for name, values in (("gain", gain), ("spikes", spikes.double())):
        by_bin = values.sum(dim=1).cpu().numpy()
        np.add.at(sums[name], first + trial, by_bin)
        np.add.at(sums[f"bin_{name}"], time, by_bin)
        sums[f"unit_{name}"] += torch.stack([values[even].sum(dim=0), values[~even].sum(dim=0)]).cpu().numpy()


def horizon(tail: Evaluation, k: int) -> list[float]:
    """(k,) bits per spike of the tail's bins, 1 to k steps ahead (protocol B2)."""
    gain, spikes = tail.bin_gain[-k:], tail.bin_spikes[-k:]
    return [pooled_bits(float(g), float(n)) for g, n in zip(gain, spikes, strict=True)]


def _shapes(K: int, T: int, N: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"gain": (K,), "unit_gain": (2, N), "bin_gain": (T,)}
    return {**shapes, **{name.replace("gain", "spikes"): shape for name, shape in shapes.items()}}
