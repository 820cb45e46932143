"""The forward-prediction score of a model on some trials of one session.

Masks are fixed and seeded, so a score is a deterministic function of weights and trials. What is kept is the gain in
log likelihood over the null model, trial by trial (for paired bootstraps and cross-fitting) and unit by unit.

A training is validated many times on the same trials: what no model changes (the null model's likelihood, the spikes,
the indices of what is scored) is computed once, and trials go through the model under all their masks side by side.

Axes: K trials, T bins, N units, F masks of every trial; a *pair* is a trial under one of its masks, pair f K + k.
The trials alternate between two halves (even and odd rows) for cross-fitting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sessionwise.errors import DataError
from sessionwise.model.masking import fold_of_bins, tail_mask
from sessionwise.scoring.likelihood import RATE_FLOOR, mean_over_units, null_rates, pooled_bits, unit_bits


class _AtOnce(NamedTuple):
    """How much is computed at once. pairs, counts: through the model, at most; terms: of the likelihood."""

    pairs: int
    counts: int
    terms: int


_ON_CPU = _AtOnce(pairs=32, counts=2**22, terms=2**17)  # 16 MB of floats are recycled by malloc, 1 MB stays in a cache
_ON_GPU = _AtOnce(pairs=512, counts=2**27, terms=2**27)  # few launches; half a GB of floats


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

    def log_rates_at(self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str) -> Tensor:
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
        self.counts = np.ascontiguousarray(counts)
        self.null = null_rates(counts) if null is None else np.asarray(null, float)
        self.tail_null = null_rates(counts[:, -self.tail_bins :]) if null is None else self.null
        draws = range(settings.fold_seed, settings.fold_seed + settings.fold_draws)
        n_bins = counts.shape[1]
        folds = [fold_of_bins(session_id, n_session_trials, n_bins, settings.folds, draw)[rows] for draw in draws]
        self.fold_masks = np.array([fold == f for fold in folds for f in range(settings.folds)])  # (F, K, T)
        self._counts_on: dict[torch.device, Tensor] = {}
        self._calls: dict[tuple[str, torch.device], list[_Call]] = {}
        self._null_models: dict[str, _Sums] = {}

    def forward_prediction(self, model: Predictor) -> Evaluation:
        """The k-fold score: every bin is scored once a draw (``next_step`` needs no mask: one pass scores all bins)."""
        if model.objective == "next_step":
            every = np.ones((1, *self.counts.shape[:2]), dtype=bool)
            return self._score(model, "all bins", ~every, every, self.null)
        return self._score(model, "folds", self.fold_masks, self.fold_masks, self.null, self.settings.fold_draws)

    def tail(self, model: Predictor) -> Evaluation:
        """The tail score: the last k bins predicted at once from the bins before them; null rates are theirs (B4)."""
        K, T, _ = self.counts.shape
        mask = tail_mask(K, T, self.tail_bins)[np.newaxis]
        return self._score(model, "tail", mask, mask, self.tail_null)

    @property
    def tail_bins(self) -> int:
        """How many bins the tail score masks: the setting, or all but the first bin of a shorter trial."""
        return min(self.settings.tail, self.counts.shape[1] - 1)

    def _score(
        self, model: Predictor, name: str, masked: np.ndarray, scored: np.ndarray, null: np.ndarray, draws: int = 1
    ) -> Evaluation:
        """The gain over ``draws``; masked, scored: (F, K, T) bool and null: (N,), always the same under a ``name``."""
        device = model.device
        if name not in self._null_models:
            self._null_models[name] = _null_model(self.counts, scored.sum(axis=0), null)
        if device not in self._counts_on:
            counts = torch.from_numpy(self.counts)
            self._counts_on[device] = counts if device.type == "cpu" else _plain_integers(counts).to(device)
        if (name, device) not in self._calls:
            self._calls[name, device] = list(_calls(masked, scored, self.counts.shape[2], device))
        found = _likelihood(model, self.session_id, self._counts_on[device], self._calls[name, device], scored.shape)
        return _gain(found, self._null_models[name], draws)


class _Sums(NamedTuple):
    """Log likelihood (without log x!) and spikes of what is scored. by_bin: (K, T); by_unit: (2, N) by half."""

    by_bin: np.ndarray
    by_unit: np.ndarray
    spikes_by_bin: np.ndarray
    spikes_by_unit: np.ndarray


@dataclass(frozen=True, eq=False)
class _Call:
    """P pairs of one half that go through the model at once, on its device.

    trial: (P,) their rows of the counts; masked, scored: (P, T) bool; rows: (M,) the scored bins, in order, in K T;
    places: (M,) in F K T, on the CPU.
    """

    half: int
    trial: Tensor
    masked: Tensor
    scored: Tensor
    rows: Tensor
    places: np.ndarray


def _calls(masked: np.ndarray, scored: np.ndarray, n_units: int, device: torch.device) -> Iterator[_Call]:
    """Every pair with a scored bin once; masked, scored: (F, K, T) bool."""
    F, K, T = scored.shape
    at_once = _at_once(device)
    limit = max(1, min(at_once.pairs, at_once.counts // (T * n_units)))
    masked, scored = masked.reshape(F * K, T), scored.reshape(F * K, T)
    for half in (0, 1):
        pairs = (np.arange(half, K, 2)[:, np.newaxis] + K * np.arange(F)).ravel()  # a trial's masks are neighbours
        pairs = pairs[scored[pairs].any(axis=1)]
        for chosen in np.array_split(pairs, math.ceil(len(pairs) / limit)) if len(pairs) else []:
            pair, time = np.nonzero(scored[chosen])
            places = chosen[pair] * T + time
            yield _Call(
                half,
                trial=torch.from_numpy(chosen % K).to(device),
                masked=torch.from_numpy(masked[chosen]).to(device),
                scored=torch.from_numpy(scored[chosen]).to(device),
                rows=torch.from_numpy(places % (K * T)).to(device),
                places=places,
            )


@torch.no_grad()
def _likelihood(
    model: Predictor, session_id: str, counts: Tensor, calls: list[_Call], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood (without log x!): (K, T) by bin, (2, N) by half and unit; counts: (K, T, N); shape: F, K, T."""
    by_unit = torch.zeros(2, counts.shape[2], dtype=torch.float64, device=counts.device)
    by_bin = []
    for call in calls:
        log_rates = model.log_rates_at(call.scored, counts.index_select(0, call.trial), call.masked, session_id)
        at_once = max(1, _at_once(counts.device).terms // counts.shape[2])
        for some, rows in zip(log_rates.split(at_once), call.rows.split(at_once), strict=True):
            terms = _terms(some, counts.flatten(0, 1).index_select(0, rows))
            by_bin.append(terms.sum(dim=1))
            by_unit[call.half] += terms.sum(dim=0)
    back = torch.cat([*by_bin, by_unit.flatten()]).cpu().numpy()  # once: a GPU is not waited for before
    placed = np.zeros(math.prod(shape))
    placed[np.concatenate([call.places for call in calls])] = back[: -by_unit.numel()]
    return placed.reshape(shape).sum(axis=0), back[-by_unit.numel() :].reshape(by_unit.shape)


def _terms(log_rates: Tensor, counts: Tensor) -> Tensor:
    """x log r - r of (M, N) entries, in 64 bits so that sums of any length and order agree."""
    log_rates = log_rates.clamp_min(math.log(RATE_FLOOR))
    terms = counts.to(log_rates.dtype).mul_(log_rates)
    return terms.sub_(log_rates.exp_()).double()


def _null_model(counts: np.ndarray, times: np.ndarray, null: np.ndarray) -> _Sums:
    """The null model's likelihood and the spikes; times: (K, T) how often each bin is scored; null: (N,) rates."""
    K, T, N = counts.shape
    rates = np.maximum(null, RATE_FLOOR)
    log_rates = np.log(rates)
    by_bin, spikes_by_bin, spikes_by_unit = np.empty((K, T)), np.empty((K, T)), np.zeros((2, N))
    for k in range(K):  # trial by trial: all counts as floats would be eight times the counts
        spikes = counts[k] * times[k, :, np.newaxis].astype(float)  # (T, N)
        spikes_by_bin[k] = spikes.sum(axis=1)
        spikes_by_unit[k % 2] += spikes.sum(axis=0)
        by_bin[k] = (spikes * log_rates).sum(axis=1) - times[k] * rates.sum()
    scored = np.array([times[half::2].sum() for half in (0, 1)])
    by_unit = spikes_by_unit * log_rates - np.outer(scored, rates)
    return _Sums(by_bin, by_unit, spikes_by_bin, spikes_by_unit)


def _gain(likelihood: tuple[np.ndarray, np.ndarray], null: _Sums, draws: int) -> Evaluation:
    """What a model gains over the null model, a draw of the folds."""
    by_bin, by_unit = (likelihood[0] - null.by_bin) / draws, (likelihood[1] - null.by_unit) / draws
    spikes, unit_spikes = null.spikes_by_bin / draws, null.spikes_by_unit / draws
    return Evaluation(
        gain=by_bin.sum(axis=1),
        spikes=spikes.sum(axis=1),
        unit_gain=by_unit,
        unit_spikes=unit_spikes,
        bin_gain=by_bin.sum(axis=0),
        bin_spikes=spikes.sum(axis=0),
    )


def _at_once(device: torch.device) -> _AtOnce:
    return _ON_CPU if device.type == "cpu" else _ON_GPU


def _plain_integers(counts: Tensor) -> Tensor:
    """Counts in a type that every device can select rows of: 16 bits without a sign are not."""
    return counts if counts.dtype == torch.uint8 else counts.int()


def horizon(tail: Evaluation, k: int) -> list[float]:
    """(k,) bits per spike of the tail's bins, 1 to k steps ahead (protocol B2)."""
    gain, spikes = tail.bin_gain[-k:], tail.bin_spikes[-k:]
    return [pooled_bits(float(g), float(n)) for g, n in zip(gain, spikes, strict=True)]
