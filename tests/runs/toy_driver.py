"""A driver process for tests: executes a plan and exits as the command line does.

``python toy_driver.py PLAN.json`` with ``{"root", "on", "work", "specs": [..]}``; prints one JSON line of states.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sessionwise.errors import SessionwiseError
from sessionwise.runs.launch import execute
from sessionwise.runs.progress import make_progress
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore


def main() -> int:
    """Execute the plan; the exit code of a typed error is its own."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    specs = [RunSpec.from_json(spec) for spec in plan["specs"]]
    try:
        outcomes = execute(specs, RunStore(Path(plan["root"])), plan["work"], plan["on"], make_progress())
    except SessionwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({key: [outcome.state, outcome.computed] for key, outcome in outcomes.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
