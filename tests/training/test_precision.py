"""What ``precision = "auto"`` becomes, and that no key is made of it."""

import pytest
import torch

from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.training import precision
from sessionwise.training.precision import WIDE, bf16_units, say_precision, settle
from sessionwise.training.presets import PAPER, TINY, Settings, preset


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_is_asked_for_is_done_on_any_hardware(asked):
    assert settle(asked, "cpu", 8) == settle(asked, "cuda", 1024) == asked


@pytest.mark.parametrize(("units", "width", "expected"), [("", WIDE, "fp32"), ("x", WIDE, "bf16"), ("x", 32, "fp32")])
def test_a_cpu_needs_units_and_a_wide_model(monkeypatch, units, width, expected):
    monkeypatch.setattr(precision, "bf16_units", lambda: units)
    assert settle("auto", "cpu", width) == expected
    assert Settings(model={"width": width, "heads": 1}).settled().finetune.precision == expected


@pytest.mark.parametrize(
    ("here", "supported", "expected"), [(False, False, "bf16"), (True, False, "fp32"), (True, True, "bf16")]
)
def test_a_gpu_that_is_not_here_is_assumed_to_be_no_old_one(monkeypatch, here, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: supported and not including_emulation
    )
    assert settle("auto", "cuda", 32) == expected


def test_the_units_are_named_by_what_torch_found(monkeypatch):
    for found, name in (({"amx_bf16": True, "avx512_bf16": True}, "amx_bf16"), ({"avx512_bf16": False}, ""), ({}, "")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert bf16_units() == name


def test_auto_is_settled_after_the_overrides():
    """A preset made wide is judged as what it is now."""
    assert TINY.train.precision == PAPER.train.precision == "auto"
    wide = preset("tiny", ["model.width=512"])
    assert wide.train.precision == settle("auto", "cpu", 512)
    assert "auto" not in {getattr(wide, part).precision for part in ("train", "finetune", "baseline")}


def test_bf16_is_said_once_and_fp32_not_at_all(monkeypatch):
    monkeypatch.setattr(precision, "bf16_units", lambda: "amx_bf16")
    progress, said = Progress(), []
    progress.note = said.append
    runs = [RunSpec(kind, {"train": {"precision": p}}) for kind, p in (("pretrain", "bf16"), ("baseline", "fp32"))]
    say_precision([*runs, RunSpec("glm", {})], progress)
    say_precision(runs[1:], progress)
    say_precision(runs, None)
    assert said == ["pretrain: matrix products in bf16 (amx_bf16); precision=fp32 asks for float32"]
