"""Dropout whose random bits are cheap, and come from the generators it is given.

One random byte an element, cut from 64-bit draws: a fraction of the cost of a Bernoulli draw an element. A byte keeps
its element when it is at least ``threshold(p)``; p is rounded to 1/256.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor


class Streams:
    """The generators of several trainings whose trials are computed in one batch: each draws for its own trials.

    What a training draws does so not depend on which others share the batch. parts: (generator, its trials), in order.
    """

    def __init__(self, parts: Sequence[tuple[Generator, int]]) -> None:
        self.parts = list(parts)


def random_bytes(shape: Sequence[int], rng: Generator | Streams) -> Tensor:
    """uint8 tensor of independent uniform bytes; the first axis of ``shape`` counts trials when ``rng`` has parts."""
    if isinstance(rng, Streams):
        return torch.cat([random_bytes((trials, *shape[1:]), part) for part, trials in rng.parts])
    size = math.prod(shape)
    words = torch.empty((size + 7) // 8, dtype=torch.int64, device=rng.device)
    return words.random_(-(2**63), None, generator=rng).view(torch.uint8)[:size].view(*shape)


def keep_mask(shape: Sequence[int], p: float, rng: Generator | Streams, dtype: torch.dtype) -> Tensor:
    """1 where an element is kept, else 0, in the dtype it will be multiplied with.

    The comparison stays in uint8, where it is vectorised; one with a bool result takes twenty times as long on a CPU.
    """
    return random_bytes(shape, rng).ge_(threshold(p)).to(dtype)


def dropout(x: Tensor, p: float, rng: Generator | Streams | None) -> Tensor:
    """Inverted dropout; without ``rng`` nothing is dropped."""
    if rng is None or threshold(p) == 0:
        return x
    return x * keep_mask(x.shape, p, rng, x.dtype) * rescaling(p)


def add_dropped(x: Tensor, step: Tensor, p: float, rng: Generator | Streams | None) -> Tensor:
    """``x + dropout(step)``, with the rescaling done by the addition."""
    if rng is None or threshold(p) == 0:
        return x + step
    return torch.add(x, step * keep_mask(step.shape, p, rng, step.dtype), alpha=rescaling(p))


def threshold(p: float) -> int:
    """Bytes below it drop their element."""
    return round(p * 256)


def rescaling(p: float) -> float:
    """What kept elements are multiplied with, so that the mean stays."""
    return 256 / (256 - threshold(p))
