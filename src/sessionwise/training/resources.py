"""What runs will need on disk and in memory, estimated before anything is trained, against what is free (D67).

The estimate counts what is stored and held: artefacts, two generations of checkpoints of each run under way and the one
being written, weights with gradients and optimiser state, and what the backward pass keeps of a batch. Counts are
memory-mapped and shared. Files come out within a few percent, memory within a factor of two (measured in the tests);
so only what cannot fit is refused, and what is tight is said.

Axes and widths as in `model/ndt.py`: K trials, T bins, N units, S spike-token width, D embedding width, L = T + 2.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sessionwise.data.info import SessionInfo
from sessionwise.errors import EnvironmentProblem, SessionwiseWarning
from sessionwise.io.machine import free_disk, free_memory
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.spec import RunSpec

MB, GB = 10**6, 10**9
PROCESS = 370 * MB  # a worker that has imported torch and trained its first step, whatever the model
REPORT = 5 * MB  # report of a study: one page with its pictures and data
PICTURE = 400_000  # a ranking beside its curves: rows, table, picture of the recording
CARD = 600 * MB  # of a GPU, for each process that uses it
GENERATIONS = 3  # of a run's checkpoint at once: two kept, one being written
TIGHT = 0.8  # share of what is free from which it is said
_BLOCK = 4096
_FLOAT = 4
_THIS_MACHINE = ("here", "processes")


class Shape(NamedTuple):
    """What matters of a run for what it needs; equal shapes need the same.

    model: S, embedder factor, D, feedforward width, heads, blocks; None for a run that trains none. core: whether the
    core is stored with it; whole: whether all weights are trained. units: (N of each session); trials: of validation,
    or of test for an evaluation, in all.
    """

    kind: str
    model: tuple[int, ...] | None
    units: tuple[int, ...]
    bins: int
    trials: int
    batch: int = 0
    validations: int = 0
    core: bool = True
    whole: bool = True
    cuda: bool = False


@dataclass(frozen=True)
class Needs:
    """Bytes, but for runs: how many.

    artefacts: on disk, of all runs; checkpoint: of the largest run under way, all its generations; reports: beside the
    runs; worker: memory of the largest run's process; card: of a GPU, for a process.
    """

    runs: int = 0
    artefacts: int = 0
    checkpoint: int = 0
    reports: int = 0
    worker: int = 0
    card: int = 0

    def disk(self, workers: int) -> int:
        """Everything on disk when ``workers`` runs are under way at a time."""
        return self.artefacts + min(workers, self.runs) * self.checkpoint + (self.reports if self.runs else 0)


def needs(shapes: Iterable[Shape], rankings: int = 0) -> Needs:
    """What runs of these shapes need, and the reports on so many rankings."""
    counted = Counter(shapes)
    return Needs(
        runs=counted.total(),
        artefacts=sum(n * artefacts_of(shape) for shape, n in counted.items()),
        checkpoint=max((GENERATIONS * checkpoint_of(shape) for shape in counted), default=0),
        reports=REPORT + rankings * PICTURE + sum(n * _curve(shape) for shape, n in counted.items()),
        worker=max((memory_of(shape) for shape in counted), default=0),
        card=max((card_of(shape) for shape in counted if shape.cuda), default=0),
    )


def shape_of(spec: RunSpec, infos: Mapping[str, SessionInfo]) -> Shape:
    """The shape of a run; ``infos`` knows its sessions."""
    sessions = [infos[name] for name in spec.sessions]
    units = tuple(sorted(info.n_units for info in sessions))
    bins, trials = sessions[0].n_bins, sum(_tenth(info.n_trials) for info in sessions)
    if "model" not in spec.settings:
        return Shape(spec.kind, None, units, bins, trials)
    return training_shape(
        spec.kind, spec.settings["model"], spec.settings["train"], units, bins, trials, has_core="core" in spec.inputs
    )


def training_shape(
    kind: str,
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    units: tuple[int, ...],
    bins: int,
    trials: int,
    has_core: bool = False,
) -> Shape:
    """The shape of a training from dumped settings; has_core: it is built around the core of another run."""
    widths = tuple(int(model[name]) for name in ("token_width", "embedder_factor", "width", "feedforward"))
    whole = kind != "finetune" or not train["freeze_core"]
    return Shape(
        kind,
        (*widths, int(model["heads"]), int(model["blocks"])),
        units,
        bins,
        trials,
        batch=int(train["batch_size"]),
        validations=int(train["validations"]),
        core=whole or not has_core,
        whole=whole,
        cuda=train["device"] == "cuda",
    )


# What a run needs -----------------------------------------------------------------------------------------------------


def artefacts_of(shape: Shape) -> int:
    """Bytes on disk of a committed run, in whole blocks."""
    small = [600 + 120 * len(shape.units), 1200 + 300 * (shape.kind in ("finetune", "baseline"))]  # spec, result
    if shape.model is None:
        sizes = [*small, 500, 300 + 16 * shape.trials, *_reference(shape)]
        return sum(_on_disk(size) for size in sizes) + _BLOCK
    stitchers = [400 + _FLOAT * stitcher_weights(shape.model, units) for units in shape.units]
    tensors = 12 * shape.model[5] + 10
    core = (_FLOAT * core_weights(shape.model, shape.bins) + 100 * tensors) * shape.core
    core += (_FLOAT * shape.model[2] + 120) * len(stitchers)
    scores = 300 + 8 * shape.trials * (shape.validations + 2)
    manifest, about, history = 700 + 180 * len(stitchers), 300 + 40 * len(stitchers), 100 + _curve(shape)
    sizes = [*small, manifest, about, history, scores, core, *stitchers]
    return sum(_on_disk(size) for size in sizes) + 2 * _BLOCK  # two folders


def checkpoint_of(shape: Shape) -> int:
    """Bytes on disk of one generation: trained weights now and at their best, and two optimiser moments."""
    if shape.model is None:
        return 0
    rest = 12_000 + 16 * sum(shape.units) + 8 * shape.trials * (shape.validations + 1)  # random streams, scores
    return _on_disk(4 * _FLOAT * _trained(shape) + rest) + 3 * _BLOCK


def memory_of(shape: Shape) -> int:
    """Peak bytes of the process of a run, without the memory-mapped counts."""
    read = _counts(shape)
    if shape.model is None:
        return PROCESS + read
    weights, trained = _FLOAT * _all(shape), _FLOAT * _trained(shape)
    state = weights + 4 * trained  # gradients, the best so far, two moments
    saving = 8 * trained  # a checkpoint is twice whole in memory before it is written
    return PROCESS + state + saving + _activations(shape) + read


def card_of(shape: Shape) -> int:
    """Bytes on a GPU: state and activations; dense steps keep those of all bins."""
    if shape.model is None:
        return 0
    counts = 9 * shape.trials * shape.bins * sum(shape.units) // len(shape.units)  # of all training trials, too
    return CARD + _FLOAT * (_all(shape) + 4 * _trained(shape)) + _activations(shape) + counts


def core_weights(model: tuple[int, ...], bins: int) -> int:
    """Shared parameters of an NDT."""
    tokens, factor, width, feedforward, _, blocks = model
    hidden = factor * tokens
    embedder = tokens * hidden + hidden + hidden * width + width
    block = 4 * width * width + 4 * width + 2 * width * feedforward + feedforward + width + 4 * width
    return embedder + (bins + 1) * width + blocks * block + 2 * width


def stitcher_weights(model: tuple[int, ...], units: int) -> int:
    """Parameters of one session's stitchers."""
    tokens, width = model[0], model[2]
    return units * tokens + tokens + width * units + units


def _all(shape: Shape) -> int:
    assert shape.model is not None
    own = sum(stitcher_weights(shape.model, units) + shape.model[2] for units in shape.units)
    return core_weights(shape.model, shape.bins) + own


def _trained(shape: Shape) -> int:
    assert shape.model is not None
    if shape.whole:
        return _all(shape)
    return sum(stitcher_weights(shape.model, units) for units in shape.units)


def _activations(shape: Shape) -> int:
    """What the forward pass of a batch keeps for the backward pass, and a third again for what that makes.

    A token of a block keeps about eleven vectors of width D and two of the feedforward's, and a pair of tokens three
    numbers for each head, of three quarters of the pairs.
    """
    assert shape.model is not None
    tokens, factor, width, feedforward, heads, blocks = shape.model
    K, L, units = shape.batch, shape.bins + 2, max(shape.units)
    block = K * L * (11 * width + 2 * feedforward) + 3 * 0.75 * K * heads * L * L
    ends = 0.7 * K * shape.bins * (units + tokens + 2 * factor * tokens + width) + 0.3 * K * shape.bins * 3 * units
    return int(4 / 3 * _FLOAT * (blocks * block + ends))


def _counts(shape: Shape) -> int:
    """Counts that are copied, a byte each: those that are scored, and the training trials of one session at a time."""
    n = len(shape.units)
    return shape.bins * (shape.trials * sum(shape.units) // n + 8 * shape.trials // n * max(shape.units))


def _reference(shape: Shape) -> list[int]:
    """Files of a reference predictor: rates of every bin, and of a GLM its weights on about a hundred covariates."""
    if shape.kind not in ("psth", "glm"):
        return []
    units = sum(shape.units)
    return [_FLOAT * units * (shape.bins + (130 if shape.kind == "glm" else 0)), 100, 4000, 8 * shape.trials * 40]


def _curve(shape: Shape) -> int:
    """Validations as text: step, loss, score."""
    return 56 * shape.validations


def _tenth(trials: int) -> int:
    return -(-trials // 10)


def _on_disk(size: float) -> int:
    return -(-int(size) // _BLOCK) * _BLOCK


# What is free ---------------------------------------------------------------------------------------------------------


def resource_lines(need: Needs, folder: Path, on: str, workers: int) -> list[str]:
    """Needs beside what is free, for a plan; workers: runs at a time, ``on``: where."""
    if not need.runs:
        return []
    free, memory = free_disk(folder), free_memory()
    parts = f"{size(need.artefacts)} of runs, {size(need.checkpoint)} of checkpoints for each run under way"
    lines = [f"Disk: about {size(need.disk(workers))} ({parts}); {size(free)} are free in {folder.absolute()}."]
    if _here(on):
        lines.append(
            f"Memory: about {size(need.worker)} a worker, {size(need.worker * min(workers, need.runs))} in all; "
            f"{size(memory)} are available."
        )
    problem = shortage(need, folder, workers, on)
    return [*lines, f"This would be refused: {problem}"] if problem else lines


def refuse_what_cannot_fit(need: Needs, folder: Path, on: str) -> None:
    """EnvironmentProblem when disk or memory cannot hold what will be computed; a warning when it is tight.

    on: where it is computed (``--on``). The memory of other machines than this one is not known.
    """
    if not need.runs:
        return
    workers = runs_at_a_time(on)
    if problem := shortage(need, folder, workers, on):
        raise problem
    free, memory = free_disk(folder), free_memory()
    disk, held = need.disk(workers), need.worker * min(workers, need.runs)
    if free is not None and disk > TIGHT * free:
        _say(f"disk is tight: about {size(disk)} will be written to {folder}, {size(free)} are free")
    if memory is not None and _here(on) and held > TIGHT * memory:
        fewer = _fewer(need, memory)
        text = f"memory is tight: {min(workers, need.runs)} workers take about {size(held)} of {size(memory)}"
        _say(f"{text}; --on processes:{fewer} takes less" if fewer and fewer < workers else text)


def shortage(need: Needs, folder: Path, workers: int, on: str) -> EnvironmentProblem | None:
    """What cannot fit, with numbers and the knob to turn; None when it may fit."""
    free, memory, at_once = free_disk(folder), free_memory(), min(workers, need.runs)
    disk = need.disk(workers)
    if free is not None and disk > free:
        found = f"{need.runs:,} runs, {at_once} at a time, write about {size(disk)}; {size(free)} are free"
        return EnvironmentProblem(str(folder), found, size(disk), "Make space, or name another folder with --to")
    if memory is not None and _here(on) and 0.7 * need.worker * at_once > memory:
        fewer = _fewer(need, memory)
        remedy = f"Use --on processes:{fewer}" if fewer else "Use a smaller train.batch_size or preset"
        found = f"{at_once} workers take about {size(need.worker)} each; {size(memory)} are available"
        return EnvironmentProblem("memory", found, size(need.worker * at_once), remedy)
    card = _card() if need.card and _here(on) else None
    if card is not None and need.card * at_once > 2 * card:
        found = f"{at_once} processes take about {size(need.card)} each; the GPU has {size(card)}"
        remedy = f"Use --on processes:{max(1, int(card / need.card))} or a smaller train.batch_size"
        return EnvironmentProblem("memory of the GPU", found, size(need.card * at_once), remedy)
    return None


def size(n: int | None) -> str:
    """Bytes for people."""
    if n is None:
        return "an unknown amount"
    return f"{n / GB:.1f} GB" if n >= GB else f"{max(n / MB, 0.1):.1f} MB" if n < 10 * MB else f"{n / MB:.0f} MB"


def _fewer(need: Needs, memory: int) -> int:
    """How many workers fit comfortably."""
    return int(TIGHT * memory / need.worker)


def _here(on: str) -> bool:
    return on.partition(":")[0] in _THIS_MACHINE


def _card() -> int | None:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _say(text: str) -> None:
    warnings.warn(text, SessionwiseWarning, stacklevel=3)
