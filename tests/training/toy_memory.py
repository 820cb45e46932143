"""One training in a process of its own, which says how much memory it took: ``python toy_memory.py RUNS SPEC``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import Reporter
from sessionwise.training import jobs


def peak() -> int:
    """Bytes, of this process alone: resource.getrusage may tell the parent's from before it became this program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    before = peak()
    spec = RunSpec.from_json(json.loads(sys.argv[2]))
    jobs.run(spec, RunStore(Path(sys.argv[1])), Reporter(lambda event: None))
    print(json.dumps({"before": before, "peak": peak()}))
