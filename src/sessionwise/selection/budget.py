"""A budget for an answer: a share of the full procedure, optimiser steps, or time; spent in operations.

``10%``, ``5000-steps``, ``2h``, ``30min``. Time depends on the machine and would make results depend on its mood: it is
turned into operations once, by timing a few steps, and stored; whoever goes on later spends what was stored.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sessionwise.data.store import SessionStore
from sessionwise.errors import UsageError
from sessionwise.io.files import make_folder, read_sealed, sealed_files, write_json
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.launch import execute
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.selection.context import Context
from sessionwise.training.jobs import WORK, baseline_spec
from sessionwise.training.operations import operations
from sessionwise.training.presets import Settings

BUDGET_FILE = "budget.json"
TIMED_STEPS = 40
OVERHEAD = 0.8  # of the time goes into steps; the rest into starting workers, reading, validating, committing
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NEEDED = "a share (10%), steps (5000-steps) or time (2h, 30min)"


@dataclass(frozen=True)
class Budget:
    """What an answer may cost.

    asked: as the user wrote it. operations: what may be spent, from scratch. full_operations: what the full procedure
    costs. operations_per_second: as measured where time was asked for, of all workers together.
    """

    asked: str
    operations: int
    full_operations: int
    operations_per_second: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def parse_budget(text: str) -> tuple[str, float]:
    """``("share", 0.1)``, ``("steps", 5000)`` or ``("seconds", 7200)``; UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*-?\s*(%|steps?|[a-z]+)\s*", text.lower())
    if not found or not (amount := float(found[1])):
        raise UsageError("--budget", f"{text!r}", _NEEDED, "For example --budget 30%")
    if found[2] == "%":
        return "share", amount / 100
    if found[2].startswith("step"):
        return "steps", amount
    if found[2] not in _UNITS:
        raise UsageError("--budget", f"{text!r}", _NEEDED, "For example --budget 2h")
    return "seconds", amount * _UNITS[found[2]]


def settle_budget(text: str, full: Sequence[RunSpec], heldout: str, folder: Path, context: Context) -> Budget:
    """The budget in operations; one of time is measured at the first call and read from ``folder`` at all later ones.

    full: every run of the full procedure.
    """
    kind, amount = parse_budget(text)
    whole = context.price(full)
    if kind == "share":
        return Budget(text, round(amount * whole), whole)
    if kind == "steps":
        return Budget(text, round(amount * whole / sum(spec.steps for spec in full)), whole)
    path = folder / BUDGET_FILE
    if path.exists():
        return Budget(**read_sealed(path))
    one = operations_per_second(context.sessions, heldout, context.settings)
    speed = OVERHEAD * runs_at_a_time(context.on) * one
    budget = Budget(text, round(amount * speed), whole, speed)
    make_folder(folder)
    with sealed_files(folder, keep=True):
        write_json(path, budget.to_json())
    return budget


def operations_per_second(sessions: SessionStore, heldout: str, settings: Settings) -> float:
    """Of one training in one process: a few steps of the baseline on the held-out session, thrown away."""
    how = settings.baseline.model_copy(update={"steps": TIMED_STEPS, "validations": 1})
    spec = baseline_spec(sessions, heldout, settings.model_copy(update={"baseline": how}), seed=0)
    with tempfile.TemporaryDirectory(prefix="sessionwise-") as place:
        started = time.perf_counter()
        execute([spec], RunStore(Path(place)), WORK, on="here")
        seconds = time.perf_counter() - started
    return operations(spec, {heldout: sessions.info(heldout)}) / seconds
