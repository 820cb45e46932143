"""The GPU's benchmark runs through the same code on a CPU, and says that its figures are not those of a GPU."""

import json

import gpu
import pytest
import torch


def test_the_quick_benchmark_runs_on_a_cpu(tmp_path, capsys):
    gpu.main(["--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json")])
    printed, document = capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())
    assert "say nothing about" in printed and "| graphs | bf16 |" in printed and "What did not work" not in printed
    steps = {(row["variant"], row["precision"]): row for row in document["steps"]}
    assert set(steps) == {(how, precision) for how in ("sparse", "dense", "graphs") for precision in ("fp32", "bf16")}
    assert all(row["ms"] > 0 and 0 < row["share"] for row in document["steps"])
    assert steps["graphs", "fp32"]["recorded"] == 1 and steps["dense", "fp32"]["recorded"] is None
    groups = [(row["together"], row["graphs"]) for row in document["together"] if row["precision"] == "fp32"]
    assert groups == [(1, False), (2, False), (1, True), (2, True)]
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_fails_is_told_beside_what_works():
    rows = [
        {"preset": "tiny", "variant": "dense", "precision": "fp32", "ms": 1.25},
        {"preset": "tiny", "variant": "compiled", "precision": "fp32", "failed": "no compiler"},
    ]
    assert "| tiny | dense | fp32 | 1.25 |" in gpu.table(rows) and "tiny compiled fp32: no compiler" in gpu.table(rows)


def test_without_a_gpu_it_says_what_can_be_done(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --quick" in capsys.readouterr().err
