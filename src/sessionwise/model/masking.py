"""Which bins are hidden from the model: at random in training, in fixed folds or at the tail in evaluation.

A mask is bool (K, T), K trials and T bins; a masked bin hides all its units (protocol B1, B2).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from sessionwise.model.streams import stream_seed


def training_mask(n_trials: int, n_bins: int, ratio: float, rng: Generator) -> Tensor:
    """(K, T) bool on the generator's device: each bin masked with probability ``ratio``, at least one in a batch."""
    masked = torch.rand(n_trials, n_bins, generator=rng, device=rng.device) < ratio
    masked[-1, -1] |= ~masked.any()  # a batch of one short trial can draw no bin at all: its loss would be 0 / 0
    return masked


def fold_of_bins(session_id: str, n_trials: int, n_bins: int, folds: int, seed: int) -> np.ndarray:
    """(K, T) uint8: in which fold each bin is masked. Every bin is in one fold, folds differ by at most one bin.

    K counts *all* trials of the session: the folds of a trial depend on nothing but session, seed and its position.
    """
    rng = np.random.default_rng(stream_seed(seed, "folds", session_id))
    order = rng.random((n_trials, n_bins)).argsort(axis=1).argsort(axis=1)
    return (order % folds).astype(np.uint8)


def tail_mask(n_trials: int, n_bins: int, k: int) -> np.ndarray:
    """(K, T) bool: the last k bins masked at once (MtM and the Neural Latents Benchmark: 10 bins = 200 ms)."""
    masked = np.zeros((n_trials, n_bins), dtype=bool)
    masked[:, n_bins - k :] = True
    return masked
