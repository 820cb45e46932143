"""Which arithmetic a training uses, settled before its key is made.

bf16 means: matrix products in bfloat16 under autocast; weights, optimiser, sums, loss and scores in float32.
fp32 means float32 on GPUs, too: TF32 is not switched on. It would change numbers under the same key, for the whole
process, and who wants speed has bf16; cards without bf16 units have none for TF32 either.
bf16 pays where the hardware multiplies bfloat16 matrices faster, and the model is wide enough to spend its time there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec

Precision = Literal["fp32", "bf16"]
WIDE = 256  # embedding width from which bf16 pays on a CPU with bf16 units (benchmarks/step.py, docs/performance.md)
_CPU_UNITS = ("amx_bf16", "avx512_bf16")


def settle(asked: Literal["auto"] | Precision, device: str, width: int) -> Precision:
    """The precision of a training on ``device`` ("cpu" or "cuda") of a model of embedding width ``width``.

    For a GPU that is not in this machine (plans are made on login nodes), a card is assumed that has bf16 units.
    """
    if asked != "auto":
        return asked
    if device == "cuda":
        old = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "fp32" if old else "bf16"
    return "bf16" if width >= WIDE and bf16_units() else "fp32"


def bf16_units() -> str:
    """Name of this CPU's instructions for bfloat16 matrix products, "" where it has none."""
    has: dict[str, Any] = dict(torch.cpu.get_capabilities())
    return next((name for name in _CPU_UNITS if has.get(name)), "")


def say_precision(specs: Iterable[RunSpec], progress: Progress | None) -> None:
    """Tell once that some of the trainings multiply in bf16, and how not to."""
    lowered = sorted({spec.kind for spec in specs if spec.settings.get("train", {}).get("precision") == "bf16"})
    if progress is not None and lowered:
        units = bf16_units() or "no units of this CPU"
        progress.note(f"{', '.join(lowered)}: matrix products in bf16 ({units}); precision=fp32 asks for float32")
