"""Benchmarks are scripts in a folder; their modules are found there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
