"""Steps as CUDA graphs: what a step launches is recorded once for each shape of batch, and replayed by one call.

A small model's step is a few hundred kernels of microseconds, and launching them one by one takes longer than they
run. Losses and gradients are recorded; clipping and the optimiser are not, because OneCycle changes learning rate and
momentum at every step. A replay computes what the step would compute, with the same random numbers: a graph takes the
state of its generators where it begins, and leaves them behind as the step does.

Graphs share one pool of memory, so that a graph may overwrite what another left there. Nothing is left there: batches,
losses and gradients have places of their own outside, and the gradients' places are shared by all graphs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sessionwise.errors import SessionwiseWarning
from sessionwise.training.batches import Batch

Work = Callable[[], object]
Losses = Callable[[Sequence[Batch], Sequence[Generator]], Tensor]
Capture = Callable[[Work, Sequence[Generator], Any], Work]
MOST = 256  # graphs of a training; each holds a batch and some megabytes of kernel arguments
AFTER = 2  # times that a shape is computed step by step: what comes once or twice is not worth a recording
WARM_UPS = 2  # libraries make their workspaces, and choose their kernels, at the first calls


class Graphs:
    """Losses and gradients of batches, from recordings where there are some.

    Parameters
    ----------
    losses: (n,) losses of n batches, each with its generator for dropout; gradients are those of their sum. It must
        not look at values on the host, and its shapes must follow from the sessions and numbers of trials.
    parameters: what is trained.
    capture: records what a function launches; answers what replays it.
    most, after: see ``MOST`` and ``AFTER``; beyond ``most`` graphs, other shapes are computed step by step.

    A recording that fails is one warning; from then on everything is computed step by step, with equal results.
    """

    def __init__(
        self,
        losses: Losses,
        parameters: Sequence[nn.Parameter],
        capture: Capture | None = None,
        most: int = MOST,
        after: int = AFTER,
    ) -> None:
        self.losses, self.parameters = losses, list(parameters)
        self.capture, self.most, self.after = capture or cuda_graph, most, after
        self.graphs: dict[tuple[tuple[str, int], ...], _Graph] = {}
        self._seen: Counter[tuple[tuple[str, int], ...]] = Counter()
        self._buffers = {parameter: torch.zeros_like(parameter) for parameter in self.parameters}
        self._pool: Any = None

    def __call__(self, batches: Sequence[Batch], rngs: Sequence[Generator]) -> Tensor:
        """(n,) losses; ``grad`` of each parameter is its gradient, None where no batch depends on it."""
        shape = tuple((batch.session_id, len(batch.counts)) for batch in batches)
        self._seen[shape] += 1
        if shape not in self.graphs and self._seen[shape] > self.after and len(self.graphs) < self.most:
            self._record(shape, batches, rngs)
        graph = self.graphs.get(shape)
        for parameter in self.parameters:
            parameter.grad = graph.gradients.get(parameter) if graph else None
        if graph:
            return graph(batches)
        losses = self.losses(batches, rngs)
        losses.sum().backward()
        return losses.detach()

    def _record(self, shape: tuple[tuple[str, int], ...], batches: Sequence[Batch], rngs: Sequence[Generator]) -> None:
        """Record the step of a shape; no random number is used up by it."""
        states = [rng.get_state() for rng in rngs]
        try:
            self.graphs[shape] = self._recorded(batches, rngs, states)
        except RuntimeError as error:  # torch has no narrower type for what CUDA refuses
            text = f"steps cannot be recorded as CUDA graphs ({error}); they are computed one by one, more slowly"
            warnings.warn(text, SessionwiseWarning, stacklevel=4)
            self.graphs, self.most = {}, 0
        finally:
            _restore(rngs, states)

    def _recorded(self, batches: Sequence[Batch], rngs: Sequence[Generator], states: Sequence[Tensor]) -> _Graph:
        inputs = [replace(batch, counts=batch.counts.clone(), masked=batch.masked.clone()) for batch in batches]
        losses = torch.zeros(len(inputs), device=self.parameters[0].device)
        gradients: dict[nn.Parameter, Tensor] = {}

        def work() -> None:
            computed = self.losses(inputs, rngs)
            found = torch.autograd.grad(computed.sum(), self.parameters, allow_unused=True)
            touched = {p: gradient for p, gradient in zip(self.parameters, found, strict=True) if gradient is not None}
            gradients.update({parameter: self._buffers[parameter] for parameter in touched})
            torch._foreach_copy_([gradients[parameter] for parameter in touched], list(touched.values()))
            losses.copy_(computed.detach())

        with _side_stream(losses.device):
            for _ in range(WARM_UPS):
                work()
        _restore(rngs, states)
        if losses.device.type == "cuda" and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _Graph(inputs, losses, gradients, self.capture(work, rngs, self._pool))


@dataclass(frozen=True)
class _Graph:
    """A recorded step: where it reads batches, where it leaves losses and gradients, and what replays it."""

    inputs: Sequence[Batch]
    losses: Tensor
    gradients: dict[nn.Parameter, Tensor]
    replay: Work

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """(n,) losses of batches of the recorded shape; the gradients are in their places."""
        for place, batch in zip(self.inputs, batches, strict=True):
            place.counts.copy_(batch.counts)
            place.masked.copy_(batch.masked)
        self.replay()
        return self.losses


def cuda_graph(work: Work, rngs: Sequence[Generator], pool: Any) -> Work:
    """Record what ``work`` launches, with draws from ``rngs``, in memory from ``pool``; answers what replays it."""
    graph = torch.cuda.CUDAGraph()
    for rng in rngs:
        graph.register_generator_state(rng)
    with torch.cuda.graph(graph, pool=pool):
        work()
    replay: Work = graph.replay
    return replay


def _restore(rngs: Sequence[Generator], states: Sequence[Tensor]) -> None:
    for rng, state in zip(rngs, states, strict=True):
        rng.set_state(state)


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Launch on another stream than the usual one, as recordings need it of what runs before them."""
    if device.type != "cuda":
        yield
        return
    side, usual = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    side.wait_stream(usual)
    with torch.cuda.stream(side):
        yield
    usual.wait_stream(side)
