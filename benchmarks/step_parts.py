"""What a step's time goes into, by torch's profiler.

The library's functions are wrapped in named regions from here (the library knows nothing of it). An operator belongs
to the innermost region around it; an operator of the backward pass to the region of the forward operator whose
gradient it computes, which autograd's sequence numbers tell. What a region does not decide, the operator's name does.
Own times are summed, so nothing counts twice; time between operators (Python, dispatch, autograd) has its own line.
The profiler slows small operators down: shares are of profiled time, and small models look busier with Python than
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pkgutil import resolve_name
from typing import Any
from unittest import mock

from torch.profiler import ProfilerActivity, profile, record_function

from sessionwise.training.loop import Training

PRODUCTS, ATTENTION_PRODUCTS = "matrix products", "attention: products"
SOFTMAX, BITS, DROPPING = "attention: softmax, bias, sums", "dropout: random bits", "dropout: applying, residuals"
ELEMENTWISE, COPIES = "layer norm, GELU, elementwise", "casts and copies"
OPTIMISER, DATA, LOSS, BETWEEN = "optimiser and clipping", "data and masks", "loss", "between operators"
PARTS = (PRODUCTS, ATTENTION_PRODUCTS, SOFTMAX, BITS, DROPPING, ELEMENTWISE, COPIES, OPTIMISER, DATA, LOSS, BETWEEN)
MARK, ATTEND, ELSEWHERE = "part: ", "attention", "elsewhere"
# Where regions begin: the library's functions by the names under which its modules call them.
_REGIONS = {
    "sessionwise.model.ndt.attend": ATTEND,
    "sessionwise.model.ndt.add_dropped": DROPPING,
    "sessionwise.model.ndt.dropout": DROPPING,
    "sessionwise.model.ndt.keep_mask": BITS,
    "sessionwise.model.dropout.keep_mask": BITS,
    "sessionwise.model.ndt.NDT.log_rates_at": ELSEWHERE,
    "sessionwise.training.batches.Batches.draw": DATA,
    "sessionwise.training.loop.batch_loss": LOSS,
    "sessionwise.training.loop.Training.update": OPTIMISER,
    "sessionwise.training.loop.Training.advance": ELSEWHERE,
}
_WHOLE = (BITS, DROPPING, OPTIMISER, DATA, LOSS)  # every operator of these regions is theirs, whatever its name
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "_scaled_dot_product_flash_attention_for_cpu"}
_COPIES = {"copy_", "_to_copy", "to", "clone", "contiguous", "cat", "index_select", "index_copy", "index_add_", "stack"}
_FREE = {"view", "t", "transpose", "permute", "as_strided", "expand", "slice", "select", "reshape", "detach", "unbind"}
_FREE |= {"empty", "empty_like", "empty_strided", "linear", "matmul", "_unsafe_view", "result_type", "resolve_conj"}


def parts_of_a_step(training: Training, steps: int) -> dict[str, float]:
    """Share of each part in the profiled time of some steps; they sum to 1."""
    training.advance()
    with _regions(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(steps):
            training.advance()
    seconds = attribute(profiled.events() or [])
    total = sum(seconds.values())
    return {part: value / total for part, value in seconds.items()}


def attribute(events: Sequence[Any]) -> dict[str, float]:
    """Own time of the profiler's events by part, microseconds."""
    forward = _last_forward(events)
    seconds = dict.fromkeys(PARTS, 0.0)
    for event in events:
        seconds[_part(event.name, _region_of(event, forward))] += event.self_cpu_time_total
    return seconds


def _last_forward(events: Sequence[Any]) -> dict[int, Any]:
    """Sequence number -> the forward operator whose gradient node has it: the last that began with that number."""
    found: dict[int, Any] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not _is_backward(event) and event.name.startswith("aten::"):
            found[event.sequence_nr] = event
    return found


def _region_of(event: Any, forward: Mapping[int, Any]) -> str:
    """The innermost region around an event, or around the forward operator that it differentiates."""
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        if event.name.startswith("autograd::engine") and event.sequence_nr in forward:
            event = forward[event.sequence_nr]
        event = event.cpu_parent
    return ELSEWHERE


def _is_backward(event: Any) -> bool:
    while event is not None:
        if event.name.startswith("autograd::engine"):
            return True
        event = event.cpu_parent
    return False


def _part(name: str, region: str) -> str:
    operator = name.removeprefix("aten::")
    if name.startswith((MARK, "autograd::", "torch::autograd")) or name.endswith("Backward0") or operator in _FREE:
        return BETWEEN
    if region in _WHOLE:
        return region
    if operator in _COPIES:
        return COPIES
    if operator in _PRODUCTS:
        return ATTENTION_PRODUCTS if region == ATTEND else PRODUCTS
    if region == ATTEND:
        return DROPPING if operator == "mul" else SOFTMAX  # weights times what is kept; a scale beside it is small
    return ELEMENTWISE


@contextmanager
def _regions() -> Iterator[None]:
    """Wrap the library's functions for a while; one that has gone is an AttributeError, not a missing line."""
    with ExitStack() as stack:
        for where, region in _REGIONS.items():
            stack.enter_context(mock.patch(where, _in_region(resolve_name(where), region)))
        yield


def _in_region(function: Callable[..., Any], region: str) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + region):
            return function(*args, **kwargs)

    return wrapped
