"""A core that is not trained can be held in the precision that it is multiplied in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sessionwise.errors import IntegrityError
from sessionwise.model.ndt import NDT


@contextmanager
def frozen_core(model: NDT) -> Iterator[None]:
    """While the block runs, a core without trained weights is held as its matrix products want it.

    Under ``model.precision == "bf16"`` the weights of its linear maps are bfloat16, which autocast would make of them
    at every use; results are the same bit for bit. Afterwards the float32 weights are back, untouched. Weights that
    changed meanwhile are an IntegrityError: a frozen core is the same before and after.
    """
    before = model.core_hash()
    masters = {p: p.data for part in model.core.modules() if isinstance(part, nn.Linear) for p in part.parameters()}
    if model.precision == "fp32" or any(parameter.requires_grad for parameter in model.core.parameters()):
        masters = {}
    for parameter, master in masters.items():
        parameter.data = master.bfloat16()
    try:
        yield
    finally:
        changed = [parameter for parameter, master in masters.items() if not _same(parameter.data, master.bfloat16())]
        for parameter, master in masters.items():
            parameter.data = master
    if changed or model.core_hash() != before:
        raise IntegrityError("core", "the frozen core changed in training", before[:12], "Report this as a bug")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int16), other.view(torch.int16))
