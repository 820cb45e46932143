"""The core's blocks compiled by torch, where that works. It takes minutes at the start of a training.

Random bytes are drawn outside of what is compiled: they come from a generator of ours.
"""

from __future__ import annotations

import warnings

import torch

from sessionwise.errors import SessionwiseWarning
from sessionwise.model import dropout
from sessionwise.model.ndt import NDT, PREFIX, run_block
from sessionwise.model.streams import stream


def compile_core(model: NDT) -> bool:
    """Compile the core's blocks; whether it worked. Where it did not, a warning says why and the core is as it was."""
    try:
        if not hasattr(dropout.random_bytes, "_torchdynamo_disable"):
            dropout.random_bytes = torch.compiler.disable(dropout.random_bytes)
        model.core.run = torch.compile(run_block)
        _try_out(model)
    except Exception as error:  # no compiler, no memory, an unknown processor: torch has no one type for it
        model.core.run = run_block
        found = " ".join(str(error).split())[:200]
        warnings.warn(f"compiling failed, training goes on without it: {found}", SessionwiseWarning, stacklevel=2)
        return False
    return True


def _try_out(model: NDT) -> None:
    """A step and a prediction of two empty trials, before anything depends on it."""
    core = model.core
    x = torch.zeros(2, PREFIX + model.n_bins, model.config.width, device=model.device, requires_grad=True)
    rng = stream(0, "compiling", device=model.device)
    with model.arithmetic():
        every = torch.arange(2 * x.shape[1], device=model.device)
        for tokens in (None, every[::2], every[::3]):
            for block in (core.blocks[0], core.blocks[-1]):
                torch.autograd.grad(core.run(block, x, core.hidden, rng, tokens).float().sum(), x)
    with torch.no_grad(), model.arithmetic():
        core.run(core.blocks[0], x, core.hidden, None)
