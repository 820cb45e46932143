"""Killed at every change of the disk, in every commit path: nothing is lost, and the same work again finishes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
POINTS = {  # at least so many, or a change of the disk is no longer seen
    "run": 100,
    "takeover": 80,
    "failure": 40,
    "damaged": 90,
    "gc": 35,
    "sessions": 40,
    "ranking": 25,
    "report": 50,
    "results": 30,
    "ledger": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", POINTS)
def test_every_crash_point(tmp_path, scenario):
    command = [sys.executable, str(HERE / "crash_points.py"), scenario, str(tmp_path / "trials")]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "runs")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == {}
    assert POINTS[scenario] <= found["points"] < 500
