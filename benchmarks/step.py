"""How fast a training step is, and what of the machine it uses: `make bench`.

    python benchmarks/step.py [--minutes 7] [--compile] [--quick] [--json bench.json]

Prints Markdown and writes the same as JSON: steps of the `paper` preset in all variants, as ratios to the clean fp32
formulation (``plain_step.py``); executed operations as a share of the fastest matrix product of this process; what the
time goes into; kept activations; bf16 against fp32 by width; cost by units, bins and number of sessions. One thread,
one process, variants interleaved step by step; medians, with their spread. ``--minutes`` is what the repetitions are
fitted into; ``--compile`` adds compiled variants, which take minutes to compile before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_step import PlainTraining
from step_measures import Peak, Step, executed_flops, interleave, kept_activations, machine, max_rss, ratio, summary
from step_parts import parts_of_a_step
from step_report import report
from step_variants import Bench, Sessions, Variant

from sessionwise.data.splits import SessionData
from sessionwise.model.ndt import NDTConfig
from sessionwise.model.streams import stream
from sessionwise.training.loop import Training, TrainSettings
from sessionwise.training.precision import settle
from sessionwise.training.presets import PAPER, SMALL, TINY

CLEAN = Variant("clean")
EAGER = [
    Variant(who, precision, frozen)
    for who, frozen in (("clean", False), ("ours", False), ("ours", True))
    for precision in ("fp32", "bf16")
]
COMPILED = [Variant("ours", "bf16", frozen, compiled=True) for frozen in (False, True)]
Document = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured. ``units`` and ``bins``: the shape of the main table, then what costs are followed along."""

    models: Mapping[str, NDTConfig]  # the first is that of the main table; all together show where bf16 pays
    profiled: tuple[str, ...] = ("paper", "small", "tiny")
    units: int = 600
    bins: int = 150
    other_units: tuple[int, ...] = (200, 1000)
    cost_units: tuple[int, ...] = (200, 600, 1000, 1500)
    cost_bins: tuple[int, ...] = (50, 150, 500)
    cost_sessions: tuple[int, ...] = (1, 5, 20)
    batch_size: int = 16
    trials: int = 120  # of a session; four fifths are trained on: six full batches
    gemm_sizes: tuple[int, ...] = (1024, 2048, 3072)
    least: int = 3  # repetitions of everything, whatever the time


def between(width: int) -> NDTConfig:
    """A model between the presets in width, in the paper's proportions."""
    return NDTConfig(token_width=round(width * 668 / 512), width=width, feedforward=2 * width)


FULL = Plan(
    models={
        "paper": PAPER.model,
        "width 256": between(256),
        "width 128": between(128),
        "small": SMALL.model,
        "tiny": TINY.model,
    },
)
_TOY = NDTConfig(token_width=12, width=16, feedforward=32, heads=2, blocks=2)
QUICK = Plan(
    models={"paper": _TOY, "tiny": _TOY},
    profiled=("paper", "tiny"),
    units=12,
    bins=20,
    other_units=(6,),
    cost_units=(6, 12),
    cost_bins=(10, 20),
    cost_sessions=(1, 3),
    batch_size=4,
    trials=20,
    gemm_sizes=(128,),
    least=2,
)


class StepBenchmark:
    """All measurements of a plan within about ``seconds``; each method answers one part of the document."""

    def __init__(self, plan: Plan, folder: Path, seconds: float, compiled: bool) -> None:
        self.plan, self.sessions, self.seconds = plan, Sessions(folder), seconds
        self.variants = EAGER + COMPILED * compiled
        self.settings = TrainSettings(batch_size=plan.batch_size)
        self.peak = Peak(plan.gemm_sizes, seconds / 100)
        self.name, self.model = next(iter(plan.models.items()))

    def document(self) -> Document:
        """Everything, with the machine's peak taken before, between and after."""
        begun, ran = time.perf_counter(), time.process_time()
        widths = {name: config.width for name, config in self.plan.models.items()}
        found: Document = {"machine": machine(), "quick": self.plan is QUICK, "widths": widths}
        for name, measure in (
            ("steps", self.steps),
            ("models", self.models),
            ("cost", self.cost),
            ("data", self.data),
            ("memory", self.memory),
            ("parts", self.parts),
        ):
            if name in ("steps", "models", "cost"):
                self.peak.take()
            found[name] = measure()
        self.peak.take()
        found["peak"] = self.peak.document()
        self._add_shares(found)
        seconds = time.perf_counter() - begun
        had_core = (time.process_time() - ran) / seconds
        return found | {"max_rss": max_rss(), "minutes": seconds / 60, "had_core": had_core}

    def steps(self) -> Document:
        """{units: {variant: seconds, ratio to clean fp32, operations}}: the main table, first its main shape."""
        shares = {self.plan.units: 0.25} | dict.fromkeys(self.plan.other_units, 0.13 / len(self.plan.other_units))
        found = {}
        for units, share in shares.items():
            variants = self.variants if units == self.plan.units else EAGER  # compiling takes minutes: once
            found[str(units)] = self._steps(variants, units, share * self.seconds)
        return found

    def data(self) -> Document:
        """Seconds to draw a batch with its mask, and to convert all of it to floats (a step converts fewer rows)."""
        with self._bench() as bench:
            batches = bench.ours(Variant("ours"), self.model, self.settings, [self._session()]).batches
            rng = stream(0, "masks")
            steps: dict[str, Step] = {
                "draw": lambda: batches.draw(0.3, rng),
                "draw and convert": lambda: batches.draw(0.3, rng).counts.float(),
            }
            times = interleave(steps, self.seconds / 100, least=5)
        return {name: summary(seconds) for name, seconds in times.items()}

    def memory(self) -> Document:
        """Bytes of activations that a step keeps for its backward pass, by variant."""
        found = {}
        for variant in EAGER:
            with self._bench() as bench:
                training = bench.training(variant, self.model, self.settings, [self._session()])
                found[variant.name] = kept_activations(training.advance, training.model.parameters())
        return found

    def parts(self) -> Document:
        """{model and variant: {part: share of the profiled time}}."""
        asked = [(self.name, Variant("ours", "bf16")), (self.name, Variant("ours", "bf16", frozen=True))]
        asked += [(name, Variant("ours")) for name in self.plan.profiled]
        found = {}
        for name, variant in asked:
            with self._bench() as bench:
                training = bench.ours(variant, self.plan.models[name], self.settings, [self._session()])
                found[f"{name}, {variant.name}"] = parts_of_a_step(training, 2 if name == self.name else 10)
        return found

    def models(self) -> Document:
        """{model: {variant: seconds, operations, ratio to fp32}} for the models other than that of the main table."""
        others = {name: config for name, config in self.plan.models.items() if name != self.name}
        return {name: self._by_precision(config, 0.15 / len(others)) for name, config in others.items()}

    def cost(self) -> Document:
        """{along: {value: {precision: seconds of a step}}} along units, bins and sessions in the set."""
        plan = self.plan
        along = {
            "units": {n: [self._session(units=n)] for n in plan.cost_units},
            "bins": {n: [self._session(bins=n)] for n in plan.cost_bins},
            "sessions": {n: self._set_of(n) for n in plan.cost_sessions},
        }
        return {name: self._costs(values) for name, values in along.items()}

    def _steps(self, variants: Sequence[Variant], units: int, seconds: float) -> Document:
        with self._bench() as bench:
            session, made, begun = self._session(units=units), {}, {}
            for variant in variants:
                before = time.perf_counter()
                made[variant.name] = bench.training(variant, self.model, self.settings, [session])
                begun[variant.name] = time.perf_counter() - before
            times = interleave({n: t.advance for n, t in made.items()}, seconds, self.plan.least)
            flops = {v.name: executed_flops(made[v.name].advance) for v in variants if not v.compiled}
        found = self._rows(variants, times, flops)
        for variant in variants:
            row = found[variant.name]
            row["clean_by_this"] = ratio(times[CLEAN.name], times[variant.name])
            row["begin_s"] = begun[variant.name]  # of compiled ones: mostly compiling
            if variant.frozen:
                row["full_by_this"] = ratio(times[replace(variant, frozen=False).name], times[variant.name])
        return found

    def _by_precision(self, config: NDTConfig, share: float) -> Document:
        """Full and frozen steps of ours in both precisions."""
        with self._bench() as bench:
            variants = [v for v in EAGER if v.who == "ours"]
            made = {v.name: bench.training(v, config, self.settings, [self._session()]) for v in variants}
            times = interleave({n: t.advance for n, t in made.items()}, share * self.seconds, 2 * self.plan.least)
            flops = {name: executed_flops(training.advance) for name, training in made.items()}
        return self._rows(variants, times, flops)

    def _rows(
        self, variants: Sequence[Variant], times: Mapping[str, list[float]], flops: Mapping[str, float]
    ) -> Document:
        """{variant: summary, precision, operations, ratio to the same in fp32}."""
        found = {}
        for variant in variants:
            eager = replace(variant, compiled=False)  # what is inside a compiled step cannot be counted
            fp32 = replace(eager, precision="fp32")
            row = {"precision": variant.precision, "flops": flops[eager.name]}
            row["of_fp32"] = ratio(times[variant.name], times[fp32.name])
            found[variant.name] = summary(times[variant.name]) | row
        return found

    def _costs(self, values: Mapping[int, list[SessionData]]) -> Document:
        """Time of a step, as a mean over one pass through the sessions of the set."""
        precisions = sorted({"fp32", settle("auto", "cpu", self.model.width)})
        passes: dict[str, Step] = {}
        with self._bench() as bench:
            for value, data in values.items():
                for precision in precisions:
                    training = bench.training(Variant("ours", precision), self.model, self.settings, data)
                    training.advance()
                    passes[f"{value} {precision}"] = partial(_steps_of, training, len(data))
            times = interleave(passes, 0.08 * self.seconds, least=1, warm=False)
        steps: Document = {}
        for value, data in values.items():
            each = {p: [seconds / len(data) for seconds in times[f"{value} {p}"]] for p in precisions}
            steps[str(value)] = {precision: summary(seconds) for precision, seconds in each.items()}
        return steps

    def _session(self, units: int | None = None, bins: int | None = None) -> SessionData:
        return self.sessions.get(units or self.plan.units, bins or self.plan.bins, self.plan.trials)

    def _set_of(self, n: int) -> list[SessionData]:
        """n sessions of two thirds to four thirds of the main number of units, which is their mean; a batch of each."""
        sizes = np.linspace(self.plan.units * 2 / 3, self.plan.units * 4 / 3, n) if n > 1 else [self.plan.units]
        trials = max(10, self.plan.batch_size * 10 // 8)
        return [self.sessions.get(round(units), self.plan.bins, trials, i) for i, units in enumerate(sizes)]

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        bench = Bench(self.sessions)
        try:
            yield bench
        finally:
            bench.close()

    def _add_shares(self, found: Document) -> None:
        """Achieved FLOP/s, and as a share of the peak of the same precision."""
        for rows in (*found["steps"].values(), *found["models"].values()):
            for row in rows.values():
                row["flops_per_s"] = row["flops"] / row["median_s"]
                row["share_of_peak"] = row["flops_per_s"] / self.peak.of(row["precision"])


def _steps_of(training: Training | PlainTraining, number: int) -> None:
    for _ in range(number):
        training.advance()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument("--compile", action="store_true", help="compiled variants too")
    parser.add_argument(
        "--quick", action="store_true", help="a toy of a model, seconds: does it run? Figures say nothing"
    )
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        seconds = 1.0 if options.quick else 60 * options.minutes
        plan = QUICK if options.quick else FULL
        found = StepBenchmark(plan, Path(folder), seconds, options.compile).document()
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
