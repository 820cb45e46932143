"""A work function that commits how many threads its process computes with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore


def run(spec: RunSpec, store: RunStore, report: Callable[[dict[str, Any]], None]) -> None:
    """The numbers of threads as torch and the environment see them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT")
    threads = {"intra": torch.get_num_threads(), "interop": torch.get_num_interop_threads()}
    store.commit(spec, {"state": "done", **threads, "environment": [os.environ.get(name) for name in names]})
