"""The toy modules of ``tests/runs`` are importable, also by the processes that these tests start."""

from __future__ import annotations

import sys
from pathlib import Path

TOYS = Path(__file__).parents[1] / "runs"
sys.path.append(str(TOYS))
