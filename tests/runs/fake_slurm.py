"""Slurm's commands for tests, by the name of the link; what becomes of job n stands in ``$FAKE_SLURM/plan.json``.

A plan: ``{"1": {"state": "NODE_FAIL", "begun": true, "further": false, "seen_by": "squeue"}, "2": {"refuse": ".."}}``;
jobs that are not in it do their runs at once and end as COMPLETED.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])


def main() -> int:
    """One command."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with open(HOME / "calls", "a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    plan = json.loads((HOME / "plan.json").read_text())
    if text := plan.get(name):  # a command that fails as often as its plan says
        path = HOME / f"failed-{name}"
        times = int(path.read_text()) if path.exists() else 0
        path.write_text(str(times + 1))
        if times < plan.get(f"{name}_times", 1000):
            print(text, file=sys.stderr)
            return 1
    return {"sbatch": sbatch, "squeue": squeue, "sacct": sacct}.get(name, lambda *_: 0)(plan, arguments)


def sbatch(plan: dict, arguments: list[str]) -> int:
    if "--test-only" in arguments:
        print(plan.get("test", "sbatch: Job 1 to start at ..."), file=sys.stderr)
        return 1 if "test" in plan else 0
    jobs = HOME / "jobs"
    jobs.mkdir(exist_ok=True)
    number = len(list(jobs.iterdir())) + 1
    case = plan.get(str(number), {})
    if "refuse" in case:
        (jobs / str(number)).write_text("{}")
        print(f"sbatch: error: {case['refuse']}", file=sys.stderr)
        return 1
    script = Path(arguments[-1])
    text, array = script.read_text(), script.parents[1]
    tasks = int(found[1]) + 1 if (found := re.search(r"--array=0-(\d+)%", text)) else 1
    name = re.search(r"--job-name=(\S+)", text)[1]
    about = {"name": name, "tasks": tasks, "state": "COMPLETED", "seen_by": "squeue", **case}
    for index in range(tasks):
        task(array / str(index), about)
    (jobs / str(number)).write_text(json.dumps(about))
    print(f"Submitted batch job {number}")
    return 0


def task(folder: Path, case: dict) -> None:
    bundle = json.loads((folder / "bundle.json").read_text())
    if "begun" not in case:
        code = f"from pathlib import Path; from sessionwise.runs.slurm_task import serve; serve(Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, stdout=sys.stderr)
        (folder.parent / "jobs" / f"{folder.name}_result.pkl").touch()  # the last that submitit does
        return
    sys.path.append(os.environ["FAKE_PATH"])
    from sessionwise.runs.spec import RunSpec

    key = RunSpec.from_json(bundle["runs"][0]).key
    if case["begun"]:
        (folder / "now.json").write_text(json.dumps({"run": key, "crashes": 0}))
    if case.get("further"):
        (Path(bundle["root"]) / f"{key}.work" / "step-000000000010").mkdir(parents=True)


def shown(where: str) -> list[tuple[str, int, str, str]]:
    rows = []
    for path in sorted((HOME / "jobs").glob("*")):
        about = json.loads(path.read_text())
        if about.get("seen_by") == where:
            name = about.get("shown_as", about["name"])
            rows += [(path.name, index, about["state"], name) for index in range(about["tasks"])]
    return rows


def squeue(plan: dict, arguments: list[str]) -> int:
    names = next(argument for argument in arguments if argument.startswith("--name="))[7:].split(",")
    for job, index, state, name in shown("squeue"):
        if name in names:
            print(f"{job}|{index}|{state}|{plan.get('reason', 'None')}|{name}")
    return 0


def sacct(plan: dict, arguments: list[str]) -> int:
    for job, index, state, name in shown("sacct"):
        print(f"{job}_{index}|{state}|{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
