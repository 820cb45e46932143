"""Killed at every change of the disk, or out of space from there on, in every commit path: nothing is lost.

The same work again, with space, finishes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
POINTS = {  # of kills and of refusals, at least so many, or a change of the disk is no longer seen
    "run": (100, 100),
    "takeover": (80, 70),
    "failure": (40, 30),
    "damaged": (90, 80),
    "gc": (35, 15),
    "sessions": (40, 40),
    "ranking": (25, 25),
    "report": (50, 45),
    "results": (30, 30),
    "ledger": (8, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", POINTS)
def test_every_crash_point(tmp_path, scenario):
    both = {fault: start(scenario, tmp_path / fault, fault) for fault in ("killed", "full")}  # beside each other
    for (fault, process), least in zip(both.items(), POINTS[scenario], strict=True):
        said, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        found = json.loads(said.splitlines()[-1])
        assert found["wrong"] == {}, fault
        assert least <= found["points"] < 500, fault


def start(scenario: str, folder: Path, fault: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "crash_points.py"), scenario, str(folder), fault]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "runs")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
