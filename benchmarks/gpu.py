"""What training gets out of a GPU, as Markdown: `python benchmarks/gpu.py [--json PATH] [--quick]`.

The fastest matrix products of the card in fp32, TF32 and bf16; steps of the presets, sparse and dense, from CUDA
graphs and compiled, with their share of the bf16 peak, memory, epochs an hour, and how often the host waits; frozen
finetunes computed together. Steps are timed by CUDA events, variants in turn, and medians are told.
Without a GPU, ``--device cpu --quick`` runs the same code in seconds; recorded steps are then run again instead of
replayed, and the figures say nothing about GPUs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from step_measures import executed_flops
from step_variants import MEAN_COUNT, Sessions

from sessionwise.data.splits import SessionData
from sessionwise.model.frozen import frozen_core
from sessionwise.model.ndt import NDT, NDTConfig, run_block
from sessionwise.training.batches import Batches
from sessionwise.training.graphs import Graphs
from sessionwise.training.loop import Training, TrainSettings
from sessionwise.training.presets import PRESETS
from sessionwise.training.together import Together

Step = Callable[[], object]
WARM_UP = 6  # steps before anything is timed: graphs are recorded at the third
EPOCH = 25  # batches in an epoch of one session of 400 training trials


@dataclass(frozen=True)
class Plan:
    """What is measured. gemm: sizes of the square products; steps: in a timed stretch; rounds: stretches of each."""

    presets: tuple[str, ...] = ("paper", "small", "tiny")
    together: tuple[int, ...] = (1, 2, 4, 8, 16)
    units: int = 600
    bins: int = 150
    trials: int = 120  # four fifths are trained on: six full batches of 16
    gemm: tuple[int, ...] = (4096, 8192)
    steps: int = 50
    rounds: int = 7
    compiled: bool = True


QUICK = Plan(("tiny",), (1, 2), units=12, bins=20, trials=40, gemm=(128,), steps=2, rounds=2, compiled=False)


def run_again(work: Step, rngs: object, pool: object) -> Step:
    """Stands for a recording where there is no CUDA."""
    return work


def training(
    config: NDTConfig, data: SessionData, device: str, precision: str, how: str, core_of: NDT | None = None
) -> Training:
    """One training; how: "sparse", "dense", "graphs", "compiled", or "frozen" (around ``core_of``, or a core)."""
    model = NDT(config, data.n_bins, 0)
    model.add_session(data.id, data.n_units, torch.full((data.n_units,), MEAN_COUNT))
    model.core = core_of.core if core_of else model.core
    model.to(device)
    model.precision = "bf16" if precision == "bf16" else "fp32"
    parameters = list(model.stitcher_parameters() if how == "frozen" else model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is chosen for chosen in parameters))
    settings = TrainSettings.model_validate({"steps": 10**6, "device": device, "precision": precision})
    state = Training(model, parameters, Batches([data], settings.batch_size, 0, device=device), settings, 0)
    state.dense = how != "sparse"
    state.graphs = graphs(state._losses, state, device) if how == "graphs" else None
    if how == "compiled":
        model.core.run = torch.compile(run_block, mode="reduce-overhead")
    return state


def graphs(losses: Any, owner: Training | Together, device: str) -> Graphs:
    """What records steps, or stands for it."""
    return Graphs(losses, owner.parameters, None if device == "cuda" else run_again)


def timed(step: Step, steps: int, device: str) -> float:
    """Milliseconds of a step, a mean over ``steps``."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / steps
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    return 1e3 * (time.perf_counter() - begun) / steps


def waits(step: Step, device: str, steps: int = 10) -> float | None:
    """How often the host waits for the card in a step; losses are looked at every 50 steps, so not in these."""
    if device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(entry.message) for entry in caught) / steps


def memory(step: Step, device: str) -> float | None:
    """Most MiB that are allocated while a step runs, all variants' weights and the recorded steps' pools included."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def peaks(plan: Plan, device: str) -> dict[str, float]:
    """FLOP/s of the fastest square product by precision; on a CPU TF32 is fp32."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("TF32", torch.float32), ("bf16", torch.bfloat16)):
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        found[name] = max(_gemm(n, dtype, device) for n in plan.gemm)
    torch.set_float32_matmul_precision("highest")
    return found


def _gemm(n: int, dtype: torch.dtype, device: str) -> float:
    a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
    timed(lambda: a @ b, 3, device)
    return 2 * n**3 / (1e-3 * min(timed(lambda: a @ b, 10, device) for _ in range(5)))


def in_turn(steps: dict[str, Step], plan: Plan, device: str) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(plan.rounds):
        for name, step in steps.items():
            times[name].append(timed(step, plan.steps, device))
    return {name: statistics.median(found) for name, found in times.items()}


def steps_of(preset: str, data: SessionData, plan: Plan, device: str, peak: float) -> list[dict[str, Any]]:
    """A row for each variant of a preset's step."""
    config, made, rows, failed = PRESETS[preset].model, {}, [], []
    hows = ("sparse", "dense", "graphs", *(("compiled",) if plan.compiled else ()))
    for how, precision in [(how, precision) for how in hows for precision in ("fp32", "bf16")]:
        try:
            state = training(config, data, device, precision, how)
            for _ in range(WARM_UP):
                state.advance()
            made[how, precision] = state
        except Exception as error:  # what torch cannot compile is a line in the table
            note = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            failed.append({"preset": preset, "variant": how, "precision": precision, "failed": note})
    counted = {key: executed_flops(state.advance, 2) for key, state in made.items() if key[0] in ("sparse", "dense")}
    times = in_turn({" ".join(key): state.advance for key, state in made.items()}, plan, device)
    for (how, precision), state in made.items():
        ms = times[f"{how} {precision}"]
        flops = counted["sparse" if how == "sparse" else "dense", precision]
        rows.append(
            {
                "preset": preset,
                "variant": how,
                "precision": precision,
                "ms": ms,
                "share": flops / (1e-3 * ms) / peak,
                "epochs_per_hour": 3.6e6 / (EPOCH * ms),
                "MiB": memory(state.advance, device),
                "waits": waits(state.advance, device),
                "recorded": len(state.graphs.graphs) if state.graphs else None,
            }
        )
    return rows + failed


def together_of(
    preset: str, data: Sequence[SessionData], plan: Plan, device: str, precision: str
) -> list[dict[str, Any]]:
    """A row for each number of frozen finetunes computed together, and for eager and recorded steps."""
    rows = []
    for recorded in (False, True):
        for n in plan.together:
            with ExitStack() as stack:
                first = training(PRESETS[preset].model, data[0], device, precision, "frozen")
                others = [
                    training(PRESETS[preset].model, d, device, precision, "frozen", first.model) for d in data[1:n]
                ]
                stack.enter_context(frozen_core(first.model))
                group = Together([first, *others])
                group.graphs = graphs(group.losses, group, device) if recorded else None
                for _ in range(WARM_UP):
                    group.advance()
                ms = statistics.median(timed(group.advance, plan.steps, device) for _ in range(plan.rounds))
                used, waited = memory(group.advance, device), waits(group.advance, device)
            row = {"preset": preset, "together": n, "precision": precision, "graphs": recorded, "ms": ms}
            rows.append({**row, "ms_each": ms / n, "MiB": used, "waits": waited})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal names as Markdown; rows that say why they failed come below."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join(["---"] * len(names))]
    lines += [" | ".join(_cell(row.get(name)) for name in names) for row in rows if "failed" not in row]
    text = "\n".join(f"| {line} |" for line in lines)
    failed = [f"- {r['preset']} {r['variant']} {r['precision']}: {r['failed']}" for r in rows if "failed" in r]
    return "\n".join([text, *(["", "What did not work:", "", *failed] if failed else [])])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def measure(plan: Plan, device: str, folder: Path) -> dict[str, Any]:
    """Everything, as a document."""
    sessions = Sessions(folder)
    data = [sessions.get(plan.units, plan.bins, plan.trials, number) for number in range(max(plan.together))]
    found = peaks(plan, device)
    steps = [row for preset in plan.presets for row in steps_of(preset, data[0], plan, device, found["bf16"])]
    pairs = [(preset, precision) for preset in plan.presets for precision in ("fp32", "bf16")]
    groups = [row for preset, precision in pairs for row in together_of(preset, data, plan, device, precision)]
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: these figures say nothing about one"
    return {"device": name, "torch": torch.__version__, "peaks": found, "steps": steps, "together": groups}


def report(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    peak = ", ".join(f"{name} {flops / 1e12:.3g} TFLOP/s" for name, flops in document["peaks"].items())
    return "\n\n".join(
        [
            f"{document['device']}; torch {document['torch']}; fastest square matrix products: {peak}.",
            "Steps of batches of 16 trials (share: of the bf16 peak, of executed matrix products):",
            table(document["steps"]),
            "Frozen finetunes together (ms: a step of all; ms_each: divided by their number):",
            table(document["together"]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--quick", action="store_true", help="small shapes and few repetitions, to see that it runs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here; --device cpu --quick runs the same code on the CPU")
    torch.set_num_threads(1)  # as trainings do
    with tempfile.TemporaryDirectory() as folder:
        document = measure(QUICK if asked.quick else Plan(), asked.device, Path(folder))
    print(report(document))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
