"""How ``step.py`` measures: the machine's matrix products, interleaved steps, executed operations, kept activations."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Step = Callable[[], object]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
SHAPES = ("square", "transposed")


class Peak:
    """The fastest matrix product of this process by precision, FLOP/s; taken several times, as machines drift."""

    def __init__(self, sizes: Iterable[int], seconds: float) -> None:
        self.sizes, self.seconds = list(sizes), seconds
        self.takes: dict[str, list[float]] = {name: [] for name in DTYPES}

    def take(self) -> None:
        """Measure now: the best over sizes, layouts and repetitions."""
        for name, dtype in DTYPES.items():
            share = self.seconds / len(DTYPES) / len(self.sizes) / len(SHAPES)
            self.takes[name].append(max(_gemm(n, dtype, shape, share) for n in self.sizes for shape in SHAPES))

    def of(self, precision: str) -> float:
        """The best of all takes, FLOP/s."""
        return max(self.takes[precision])

    def document(self) -> dict[str, Any]:
        """{precision: {peak, takes, spread}}; spread: how far the worst take is below the best."""
        return {
            name: {"peak": max(takes), "takes": takes, "spread": 1 - min(takes) / max(takes)}
            for name, takes in self.takes.items()
        }


def interleave(steps: Mapping[str, Step], seconds: float, least: int = 3, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each step, one of each in turn, until the time is used and everything ran ``least`` times.

    The order turns round from round to round, so that nobody always follows the same neighbour. One round before
    is not counted (``warm``): it compiles, allocates and fills caches.
    """
    names, times = list(steps), {name: [] for name in steps}
    begun, taken = time.perf_counter(), 0.0
    for number in count(0 if warm else 1):
        if number > least and time.perf_counter() - begun + taken > seconds:
            return times
        started = time.perf_counter()
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before = time.perf_counter()
            steps[name]()
            if number:
                times[name].append(time.perf_counter() - before)
        taken = time.perf_counter() - started
    raise AssertionError("unreachable")


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, fastest, spread ((third - first quartile) / median) and number of repetitions."""
    median = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [median] * 3
    spread = (quartiles[2] - quartiles[0]) / median
    return {"median_s": median, "fastest_s": min(seconds), "spread": spread, "repetitions": len(seconds)}


def ratio(above: list[float], below: list[float]) -> float:
    """Median over rounds of one step's time by another's of the same round: drift of the machine cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def executed_flops(step: Step, repetitions: int = 1) -> float:
    """Floating point operations of the matrix products that a step executes; a mean where masks are drawn anew."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        for _ in range(repetitions):
            step()
    return counter.get_total_flops() / repetitions


def kept_activations(step: Step, parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that the forward pass of a step keeps for the backward pass, each storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(kept.values())


def dense_flops(units: int, bins: int, batch: int, token: int, width: int, feedforward: int, blocks: int) -> dict:
    """Operations of one full step that computes every bin, by hand: twice the products forward, as many twice back.

    The embedder's hidden layer is two spike tokens wide. Nothing is differentiated after the counts, so the first
    stitcher lacks one of its two products of the backward pass.
    """
    rows, tokens = batch * bins, batch * (bins + 2)
    return {
        "MLP": 6 * blocks * tokens * 2 * width * feedforward,
        "QKV": 6 * blocks * tokens * 3 * width**2,
        "embedder": 6 * rows * (2 * token**2 + 2 * token * width),
        "output projection": 6 * blocks * tokens * width**2,
        "attention": 6 * blocks * tokens * 2 * (bins + 2) * width,
        "stitchers": 4 * rows * units * token + 6 * rows * width * units,
    }


def machine() -> dict[str, Any]:
    """What decides speed here, as far as torch knows."""
    has = dict(torch.cpu.get_capabilities())
    return {
        "processor": str(has.get("cpu_name", "unknown")),
        "features": [name for name in FEATURES if has.get(name)],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def max_rss() -> int:
    """Most memory that this process had so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _gemm(n: int, dtype: torch.dtype, shape: str, seconds: float) -> float:
    """FLOP/s of the fastest product of two (n, n) matrices."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    other, out = b.t() if shape == "transposed" else b, torch.empty(n, n, dtype=dtype)
    fastest, begun = math.inf, time.perf_counter()
    for number in count():
        before = time.perf_counter()
        torch.mm(a, other, out=out)
        now = time.perf_counter()
        fastest = min(fastest, now - before)
        if number and now - begun > seconds:
            break
    return 2 * n**3 / fastest


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, q, k, v))


# torch's counter knows the kernels for attention on GPUs; the one for CPUs has another name.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
