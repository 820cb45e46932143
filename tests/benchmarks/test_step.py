"""The step's benchmark runs as a command, and its variants are what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from step_report import targets
from step_variants import Bench, Sessions, Variant

from sessionwise.model.ndt import NDTConfig
from sessionwise.training.loop import TrainSettings

ROOT = Path(__file__).parents[2]
CONFIG = NDTConfig(token_width=6, width=8, feedforward=16, heads=2, blocks=2)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(Sessions(tmp_path))
    yield bench
    bench.close()


def test_sessions_are_memory_maps_and_are_made_once(tmp_path):
    sessions = Sessions(tmp_path)
    first = sessions.get(8, 20, 20)
    assert sessions.get(8, 20, 20) is first and sessions.get(8, 20, 20, number=1).id != first.id
    assert (first.n_units, first.n_bins, len(first.split.train)) == (8, 20, 16)
    assert len(list(tmp_path.glob("20-bins/*/counts.npy"))) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_variant_trains_stitchers_alone(bench, precision):
    variant = Variant("ours", precision, frozen=True)
    training = bench.ours(variant, CONFIG, TrainSettings(batch_size=4), [bench.sessions.get(8, 20, 20)])
    model, core = training.model, training.model.core.blocks[0].up.weight
    before = model.stitchers_of(next(iter(model.session_ids))).encode.weight.detach().clone()
    assert core.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert training.advance() is None and core.grad is None
    assert not torch.equal(model.stitchers_of(next(iter(model.session_ids))).encode.weight, before)


def test_targets_are_judged():
    row = {"share_of_peak": 0.31, "median_s": 1.0, "full_by_this": 1.3}
    names = ("ours bf16", "ours fp32", "ours bf16 frozen", "ours fp32 frozen")
    found = {"steps": {"600": dict.fromkeys(names, row)}, "data": {"draw": {"median_s": 0.01}}}
    met = [line.rstrip(" |").rpartition("| ")[2] for line in targets(found)[2:]]
    assert met == ["yes", "no", "no", "no", "yes"]


@pytest.mark.slow
def test_a_quick_run_prints_every_table_and_writes_json(tmp_path):
    path = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "benchmarks" / "step.py", "--quick", "--json", path]
    source = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=source)
    assert done.returncode == 0, done.stderr
    titles = [line for line in done.stdout.splitlines() if line.startswith("### ")]
    assert titles == [
        "### Machine",
        "### Targets",
        "### A step, 12 units",
        "### A step, 6 units",
        "### Other models",
        "### bf16 / fp32 step time by width",
        "### Where the time goes, %",
        "### Activations kept for the backward pass",
        "### Time of a step by units",
        "### Time of a step by bins",
        "### Time of a step by sessions",
    ]
    found = json.loads(path.read_text())
    assert found["quick"] and all(row["flops"] > 0 for row in found["steps"]["12"].values())
    assert found["memory"]["ours fp32 frozen"] < found["memory"]["ours fp32"]
