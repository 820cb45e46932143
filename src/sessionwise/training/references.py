"""Reference predictors: what simpler models than the NDT reach on the same masks and trials.

    psth   each unit's mean count per bin over the training trials, smoothed over bins, shrunk toward the unit's mean
    glm    the same times an exponential of what was seen before: Poisson regression on past population activity

Both see what the NDT sees: training trials for their values, validation trials for a few choices, no test trial.
Axes: K trials, T bins, N units, P principal components, L lags, F covariates, R rows (bins of trials) of a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter1d
from torch import Generator, Tensor
from torch.nn import functional as F

from sessionwise.errors import UsageError
from sessionwise.io.files import read_json, write_json
from sessionwise.io.tensors import read_tensors, write_tensors
from sessionwise.model.masking import training_mask
from sessionwise.scoring.likelihood import RATE_FLOOR

_CHUNK = 4096  # rows, or bins of trials, held as 32-bit floats at once
_LARGEST = 10.0  # log of the largest factor by which the past may change a rate
_CLOSE = 0.3  # gradient, in posterior standard deviations, at which a unit's fit has arrived
_TRAIN_FOLDS = 10

Smoothing = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Annotated[float, Field(gt=0, le=1e12)]


class PSTHSettings(BaseModel):
    """The grid that validation trials choose from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smoothing: tuple[Smoothing, ...] = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), min_length=1, description="SD of the Gaussian in bins; 0 does not smooth"
    )
    shrinkage: tuple[Share, ...] = Field(
        (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0), min_length=1, description="weight of the unit's mean rate"
    )


class GLMSettings(BaseModel):
    """A Poisson regression on past activity around a PSTH. ``smoothing`` and ``shrinkage`` are the PSTH's grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lags: int = Field(10, ge=1, le=1000, description="bins of the past; at most T - 1 are used")
    components: int = Field(10, ge=1, le=1000, description="principal components of the population; at most N")
    l2: tuple[Precision, ...] = Field(
        (1e4, 1e3, 300.0, 100.0, 30.0), min_length=1, description="grid of penalties: precisions of a Gaussian prior"
    )
    mask_ratio: float = Field(0.3, gt=0, lt=1)
    draws: int = Field(8, ge=1, le=100, description="draws of masks of every training trial, fewer where ``rows`` are")
    rows: int = Field(40_000, ge=1, description="masked bins that are enough: no further draw once they are there")
    iterations: int = Field(30, ge=1, le=10_000, description="at most, for each penalty")
    smoothing: tuple[Smoothing, ...] = Field(PSTHSettings().smoothing, min_length=1)
    shrinkage: tuple[Share, ...] = Field(PSTHSettings().shrinkage, min_length=1)


def candidates_of(settings: PSTHSettings | GLMSettings) -> int:
    """How many fits validation trials choose between."""
    if isinstance(settings, GLMSettings):
        return len(settings.l2)
    return len(settings.smoothing) * len(settings.shrinkage)


# Predictors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PSTH:
    """The same rates in every trial. log_rates: (T, N) log expected counts per bin."""

    session_id: str
    log_rates: Tensor
    objective: str = "masked_causal"

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.log_rates.device

    def log_rates_at(self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str) -> Tensor:
        """Log rates (M, N) of ``bins`` (K, T) bool; counts and masks do not matter."""
        _same_session(self.session_id, session_id)
        return self.log_rates[bins.nonzero(as_tuple=True)[1]]


@dataclass(frozen=True, eq=False)
class GLM:
    """A PSTH times the exponential of a linear function of visible past bins: the population's and the unit's own.

    log_rates: (T, N) of the PSTH; loadings: (N, P) counts to components; centre: (T, P) the components of the PSTH;
    weights: (F + 1, N), F = (P + 1) L + 1 covariates (``history``) and the unit's own past (``own_history``).
    """

    session_id: str
    log_rates: Tensor
    loadings: Tensor
    centre: Tensor
    weights: Tensor
    lags: int
    objective: str = "masked_causal"

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.log_rates.device

    def log_rates_at(self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str) -> Tensor:
        """Log rates (M, N) of ``bins`` (K, T) bool, from unmasked bins of ``counts`` (K, T, N) before each."""
        _same_session(self.session_id, session_id)
        past = history(components(counts, self.loadings, self.centre), masked, self.lags)[bins]
        own = own_history(counts, masked, self.log_rates.exp())[bins]
        change = past @ self.weights[:-1] + own * self.weights[-1]
        return self.log_rates[bins.nonzero(as_tuple=True)[1]] + change.clamp(max=_LARGEST)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fit that validation trials may choose: what it was fitted with, and what that cost."""

    choice: dict[str, float]
    predictor: PSTH | GLM
    steps: int
    tokens: int


def save_reference(folder: Path, predictor: PSTH | GLM) -> None:
    """Write a predictor as safetensors and JSON."""
    about: dict[str, Any] = {"session": predictor.session_id, "objective": predictor.objective}
    tensors = {"log_rates": predictor.log_rates}
    if isinstance(predictor, GLM):
        about |= {"lags": predictor.lags}
        tensors |= {name: getattr(predictor, name) for name in ("loadings", "centre", "weights")}
    write_tensors(folder / "reference.safetensors", {name: tensor.numpy() for name, tensor in tensors.items()})
    write_json(folder / "reference.json", about)


def load_reference(folder: Path) -> PSTH | GLM:
    """Read a predictor of a committed run."""
    about: dict[str, Any] = read_json(folder / "reference.json")
    tensors = {
        name: torch.from_numpy(np.array(x)) for name, x in read_tensors(folder / "reference.safetensors").items()
    }
    if "lags" not in about:
        return PSTH(about["session"], tensors["log_rates"], about["objective"])
    return GLM(about["session"], **tensors, lags=about["lags"], objective=about["objective"])


# PSTH -----------------------------------------------------------------------------------------------------------------


def psth_candidates(session_id: str, counts: np.ndarray, settings: PSTHSettings) -> Iterator[Candidate]:
    """A PSTH of the training ``counts`` (K, T, N) for each smoothing and shrinkage."""
    total = counts.sum(axis=0, dtype=np.float64)
    for smoothing in settings.smoothing:
        for shrinkage in settings.shrinkage:
            rates = psth_rates(total, len(counts), smoothing, shrinkage)
            choice = {"smoothing": smoothing, "shrinkage": shrinkage}
            yield Candidate(choice, PSTH(session_id, _log(rates)), 0, counts.shape[0] * counts.shape[1])


def psth_rates(total: np.ndarray, n_trials: int, smoothing: float, shrinkage: float) -> np.ndarray:
    """(T, N) expected counts per bin from ``total`` (T, N), the counts summed over ``n_trials``.

    smoothing: SD of a Gaussian in bins, trials mirrored at their ends, so that each unit's mean stays. shrinkage:
    weight of the unit's mean, to which half a spike is added: a unit without a training spike keeps a rate above 0.
    """
    rates = total / n_trials
    if smoothing > 0:
        rates = gaussian_filter1d(rates, smoothing, axis=0, mode="reflect")
    mean = (total.sum(axis=0) + 0.5) / (n_trials * len(total))
    return (1 - shrinkage) * rates + shrinkage * mean


def crossvalidated_psth(counts: np.ndarray, settings: PSTHSettings | GLMSettings) -> np.ndarray:
    """(T, N) rates of the PSTH whose smoothing and shrinkage predict left-out *training* trials best.

    counts: (K, T, N). Trial k is in fold k mod 10. The log likelihood of Poisson counts needs sums over trials only.
    """
    total, folds = counts.sum(axis=0, dtype=np.float64), min(_TRAIN_FOLDS, len(counts))
    left_out = [(counts[i::folds].sum(axis=0, dtype=np.float64), len(counts[i::folds])) for i in range(folds)]
    best, chosen = -np.inf, (settings.smoothing[0], settings.shrinkage[0])
    for smoothing in settings.smoothing:
        for shrinkage in settings.shrinkage:
            likelihood = 0.0
            for held, n in left_out if folds > 1 else []:
                rates = psth_rates(total - held, len(counts) - n, smoothing, shrinkage)
                likelihood += float((held * np.log(np.maximum(rates, RATE_FLOOR)) - n * rates).sum())
            if likelihood > best:
                best, chosen = likelihood, (smoothing, shrinkage)
    return psth_rates(total, len(counts), *chosen)


# GLM ------------------------------------------------------------------------------------------------------------------


def glm_candidates(
    session_id: str, counts: np.ndarray, settings: GLMSettings, objective: str, rng: Generator
) -> Iterator[Candidate]:
    """A GLM fitted to the training ``counts`` (K, T, N) for each penalty, from the strongest down.

    The offset is the PSTH that predicts left-out training trials best. Under ``masked_causal`` the likelihood is that
    of bins hidden by masks drawn from ``rng``, under ``next_step`` that of all bins.
    """
    rates = torch.from_numpy(crossvalidated_psth(counts, settings)).clamp_min(RATE_FLOOR)
    trials = torch.from_numpy(np.ascontiguousarray(counts))
    loadings, centre = principal_components(trials, rates, settings.components)
    lags = min(settings.lags, counts.shape[1] - 1)
    K, T, N = counts.shape
    parts = [
        _rows(trials[chosen], components(trials[chosen], loadings, centre), rates.float(), lags, masked, scored)
        for every_masked, every_scored in _masks(K, T, settings, objective, rng)
        for chosen, masked, scored in _in_chunks(every_masked, every_scored)
    ]
    rows = Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))
    del parts
    regression = Regression(rows, rates.float(), rows_per_bin=len(rows.time) / (K * T))
    weights, steps = torch.zeros(rows.covariates.shape[1] + 1, N, dtype=torch.float64), 0
    for l2 in sorted(settings.l2, reverse=True):
        weights, taken = regression.fit(l2, weights, settings.iterations)
        steps += taken
        fitted = regression.weights(weights)
        predictor = GLM(session_id, rates.log().float(), loadings, centre, fitted, lags, objective)
        yield Candidate({"l2": l2}, predictor, steps, steps * len(rows.time))


def principal_components(counts: Tensor, rates: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Loadings (N, P) of the largest ``n`` components of training counts about their PSTH, and the PSTH's own (T, P).

    counts: (K, T, N); rates: (T, N). Units are scaled to unit Poisson variance, so that the shared part of the
    variability stands out rather than the largest rates; components have unit variance, and a fixed sign.
    """
    K, T, N = counts.shape
    scale = rates.mean(dim=0).clamp_min(0.5 / (K * T)).rsqrt()  # (N,)
    covariance = torch.zeros(N, N, dtype=torch.float64)
    for trials in counts.split(max(1, _CHUNK // T)):
        rest = ((trials.double() - rates) * scale).float().flatten(0, 1)
        covariance += (rest.T @ rest).double()
    variance, vectors = torch.linalg.eigh(covariance / (K * T))
    P = min(n, N)
    variance, vectors = variance[-P:].flip(0), vectors[:, -P:].flip(1)
    largest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors[largest, torch.arange(P)].sign()
    loadings = scale[:, None] * vectors / variance.clamp_min(1e-12).sqrt()
    return loadings.float().contiguous(), (rates @ loadings).float()


def components(counts: Tensor, loadings: Tensor, centre: Tensor) -> Tensor:
    """(K, T, P) components of counts (K, T, N) about the PSTH."""
    T = counts.shape[1]
    parts = [trials.float() @ loadings - centre for trials in counts.split(max(1, _CHUNK // T))]
    return torch.cat(parts)


def history(values: Tensor, masked: Tensor, lags: int) -> Tensor:
    """(K, T, F) covariates of each bin: components of the L bins before it, 0 where masked; flags of masks; a 1.

    values: (K, T, P); masked: (K, T) bool. F = (P + 1) L + 1. Bins before a trial's first count as seen and average.
    """
    seen = torch.cat([values.masked_fill(masked[..., None], 0), masked[..., None].to(values.dtype)], dim=-1)
    past = F.pad(seen, (0, 0, lags, 0))[:, :-1].unfold(1, lags, 1)  # (K, T, P + 1, L): bin t holds t - L to t - 1
    return F.pad(past.flatten(2), (0, 1), value=1.0)


def own_history(counts: Tensor, masked: Tensor, rates: Tensor) -> Tensor:
    """(K, T, N) log of how much more each unit fired in the visible bins before each bin than its PSTH expects.

    counts: (K, T, N); masked: (K, T) bool; rates: (T, N). log((spikes + 1) / (expected spikes + 1)): the mean of a
    gain of the trial under a Gamma prior of one spike; 0 while nothing was seen.
    """
    visible = ~masked[..., None]
    spikes, expected = (counts.float() * visible).cumsum(dim=1), (rates * visible).cumsum(dim=1)
    gain = spikes.add_(1).div_(expected.add_(1)).log_()
    return F.pad(gain[:, :-1], (0, 0, 1, 0))


class Rows(NamedTuple):
    """Scored bins of training trials. covariates: (R, F); own: (R, N) own past; counts: (R, N); time: (R,) bins."""

    covariates: Tensor
    own: Tensor
    counts: Tensor
    time: Tensor


class Regression:
    """Poisson regressions of all units, each with an offset and a penalty on its squared weights.

    rates: (T, N) expected counts at the offset. rows_per_bin: rows for each bin of the training trials; the likelihood
    is divided by it, so that more masks do not weaken the penalty.

    Covariates are rotated to be uncorrelated, and each unit's weights scaled by the posterior standard deviation that
    they would have at the offset: the problem is then close to round, and plain gradient steps arrive soon.
    """

    def __init__(self, rows: Rows, rates: Tensor, rows_per_bin: float) -> None:
        R, F_ = rows.covariates.shape
        gram = torch.zeros(F_, F_, dtype=torch.float64)
        own = torch.zeros(rates.shape[1], dtype=torch.float64)
        for part in _slices(R):
            gram += (rows.covariates[part].T @ rows.covariates[part]).double()
            own += (rows.own[part].square() * rates[rows.time[part]]).sum(dim=0).double()
        variance, self.rotation = torch.linalg.eigh(gram / R)
        self.rows, self.rates, self.rows_per_bin = rows, rates, rows_per_bin
        self.covariates = rows.covariates @ self.rotation.float()
        spikes = torch.bincount(rows.time, minlength=len(rates)).double() @ rates.double()  # (N,) expected in all rows
        self.information = torch.cat([variance.clamp_min(0)[:, None] * spikes, own[None]]) / rows_per_bin  # (F + 1, N)

    def fit(self, l2: float, start: Tensor, iterations: int) -> tuple[Tensor, int]:
        """Rotated weights (F + 1, N) under one penalty, from ``start`` on, and the number of steps taken."""
        deviation = (self.information + l2).rsqrt()

        def loss(scaled: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
            weights = deviation[:, units] * scaled
            value, gradient = self._negative_gain(weights.float(), units)
            value = value / self.rows_per_bin + 0.5 * l2 * weights.square().sum(dim=0)
            return value, deviation[:, units] * (gradient / self.rows_per_bin + l2 * weights)

        scaled, steps = minimise(loss, start / deviation, iterations)
        return deviation * scaled, steps

    def weights(self, rotated: Tensor) -> Tensor:
        """(F + 1, N) weights of the covariates as they came."""
        return torch.cat([self.rotation @ rotated[:-1], rotated[-1:]]).float()

    def _negative_gain(self, weights: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) what the log likelihood of M units loses against the offset, and its gradient (F + 1, M)."""
        value, gradient = torch.zeros(len(units), dtype=torch.float64), torch.zeros_like(weights).double()
        every = len(units) == self.rates.shape[1]
        own_past, all_counts, rates = self.rows.own, self.rows.counts, self.rates if every else self.rates[:, units]
        for part in _slices(len(self.covariates)):
            covariates, own, counts = self.covariates[part], own_past[part], all_counts[part]
            if not every:
                own, counts = own[:, units], counts[:, units]
            offset, counts = rates[self.rows.time[part]], counts.float()
            change = torch.addcmul(covariates @ weights[:-1], own, weights[-1]).clamp_(max=_LARGEST)
            more = torch.expm1(change).mul_(offset)  # expected counts beyond the offset's
            value += (more - counts * change).sum(dim=0).double()
            error = more.add_(offset).sub_(counts)
            gradient[:-1] += (covariates.T @ error).double()
            gradient[-1] += (own * error).sum(dim=0).double()
        return value, gradient


def minimise(
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, iterations: int
) -> tuple[Tensor, int]:
    """Minimise separate convex losses, one a column: gradient steps of Barzilai and Borwein's length.

    loss: points (F, M) of the M columns named -> values (M,) and gradient (F, M). A step that does not lower a column's
    loss is not taken, and a quarter of it tried next; a column that arrived is left alone. Returns the point and the
    number of steps, at most ``iterations``.
    """
    at, columns = start.clone(), torch.arange(start.shape[1])
    value, gradient = loss(at, columns)
    length = torch.ones_like(value)
    for step in range(iterations):
        columns = (gradient.norm(dim=0) >= _CLOSE).nonzero(as_tuple=True)[0]
        if not len(columns):
            return at, step
        moved = -length[columns] * gradient[:, columns]
        new_value, new_gradient = loss(at[:, columns] + moved, columns)
        lower = new_value <= value[columns]  # False for NaN
        curved = (moved * (new_gradient - gradient[:, columns])).sum(dim=0)
        natural = ((moved * moved).sum(dim=0) / curved.clamp_min(1e-300)).clamp(1e-3, 1e3)
        length[columns] = torch.where(lower & (curved > 0), natural, length[columns] / 4)
        better = columns[lower]
        at[:, better] += moved[:, lower]
        value[better], gradient[:, better] = new_value[lower], new_gradient[:, lower]
    return at, iterations


def _masks(
    n_trials: int, n_bins: int, settings: GLMSettings, objective: str, rng: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws of hidden and scored bins, both (K, T) bool, of all training trials."""
    if objective == "next_step":
        nothing = torch.zeros(n_trials, n_bins, dtype=torch.bool)
        yield nothing, ~nothing
        return
    rows = draws = 0
    while draws < settings.draws and rows < settings.rows:
        masked = training_mask(n_trials, n_bins, settings.mask_ratio, rng)
        rows, draws = rows + int(masked.sum()), draws + 1
        yield masked, masked


def _in_chunks(masked: Tensor, scored: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    size = max(1, _CHUNK // masked.shape[1])
    for start in range(0, len(masked), size):
        part = slice(start, start + size)
        yield part, masked[part], scored[part]


def _rows(counts: Tensor, values: Tensor, rates: Tensor, lags: int, masked: Tensor, scored: Tensor) -> Rows:
    covariates, own = history(values, masked, lags)[scored], own_history(counts, masked, rates)[scored]
    return Rows(covariates, own, counts[scored], scored.nonzero(as_tuple=True)[1])


def _slices(n_rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK)]


def _log(rates: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(np.maximum(rates, RATE_FLOOR))).float()


def _same_session(own: str, asked: str) -> None:
    if own != asked:
        raise UsageError(f"session {asked}", "has no rates in this predictor", f"session {own}")
