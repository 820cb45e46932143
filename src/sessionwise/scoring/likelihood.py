"""Poisson log likelihood, null rates and bits per spike (Eq. 1 of the paper): pure functions of arrays.

    bps(rates, X) = (L(X; rates) - L(X; mean rates)) / (n_sp log 2)

Every function takes numpy arrays or torch tensors, answers in kind, and never changes its input.
Axes: K trials, T bins, N units. Rates are expected counts per bin, not Hz.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.special import gammaln

Array = TypeVar("Array", np.ndarray, torch.Tensor)
RATE_FLOOR = 1e-9  # a rate of 0 is read as this one, as the Neural Latents Benchmark does


def poisson_log_likelihood(rates: Array, counts: Array) -> Array:
    """log P(counts | rates), elementwise: x log r - r - log x!."""
    if isinstance(rates, torch.Tensor):
        rates, counts = rates.double(), counts.double()
        rates = torch.where(rates == 0, RATE_FLOOR, rates)
        return counts * rates.log() - rates - torch.lgamma(counts + 1)
    rates, counts = np.asarray(rates, float), np.asarray(counts, float)
    rates = np.where(rates == 0, RATE_FLOOR, rates)
    return counts * np.log(rates) - rates - gammaln(counts + 1)


def null_rates(counts: Array) -> Array:
    """(N,) mean count per bin of each unit over trials and bins of (K, T, N): the null model of Eq. 1."""
    if isinstance(counts, torch.Tensor):
        return counts.double().mean(dim=(0, 1))
    return np.asarray(counts, float).mean(axis=(0, 1))


def training_null_rates(counts: Array, pseudocount: float = 0.5) -> Array:
    """(N,) the same from training data, with ``pseudocount`` spikes added: a silent unit keeps a rate above 0."""
    bins = counts.shape[0] * counts.shape[1]
    return null_rates(counts) + pseudocount / bins


def bits_per_spike(rates: Array, counts: Array, null: Array | None = None) -> float:
    """Pooled bits per spike of (K, T, N) rates: one sum over all trials, bins and units (Eq. 1; NLB's convention).

    ``null``: (N,) null rates, by default the units' mean over these same counts. Silent units stay in: what the model
    spends on them counts. NaN when there is no spike at all.
    """
    gain, spikes = _gain(rates, counts, null)
    return pooled_bits(float(gain.sum()), float(spikes.sum()))


def bits_per_spike_by_unit(rates: Array, counts: Array, null: Array | None = None) -> np.ndarray:
    """(N,) bits per spike of each unit; NaN for a unit without spikes."""
    gain, spikes = _gain(rates, counts, null)
    return unit_bits(_numpy(gain.sum(0).sum(0)), _numpy(spikes.sum(0).sum(0)))


def bits_per_spike_unit_mean(rates: Array, counts: Array, null: Array | None = None) -> tuple[float, int]:
    """Mean over units of their bits per spike (convention of MtM and NEDS), and how many silent units were left out."""
    return mean_over_units(bits_per_spike_by_unit(rates, counts, null))


def pooled_bits(gain: float, spikes: float) -> float:
    """A log-likelihood gain (nats) over the null model as bits per spike."""
    return gain / (spikes * math.log(2)) if spikes > 0 else math.nan


def unit_bits(gain: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """(N,) gains and spike counts as bits per spike of each unit; NaN for a unit without spikes."""
    safe = np.where(spikes > 0, spikes, 1)
    return np.where(spikes > 0, gain / (safe * math.log(2)), np.nan)


def mean_over_units(bits: np.ndarray) -> tuple[float, int]:
    """Mean of the finite entries and the number of silent units (NaN) left out."""
    silent = np.isnan(bits)
    return (float(bits[~silent].mean()) if not silent.all() else math.nan), int(silent.sum())


def _gain(rates: Array, counts: Array, null: Array | None) -> tuple[Any, Any]:
    baseline = null_rates(counts) if null is None else null
    tiled = (
        baseline.expand(counts.shape) if isinstance(baseline, torch.Tensor) else np.broadcast_to(baseline, counts.shape)
    )
    return poisson_log_likelihood(rates, counts) - poisson_log_likelihood(tiled, counts), counts


def _numpy(values: Any) -> np.ndarray:
    return (
        values.detach().cpu().numpy().astype(float) if isinstance(values, torch.Tensor) else np.asarray(values, float)
    )
