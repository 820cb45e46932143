"""Kill a study again and again, and see whether anything is lost.

    python benchmarks/soak.py FOLDER [--kills 100] [--seed 0] [--json FILE]

A small study on simulated sessions (rankings, baselines, sets in three orders, final evaluations, report) is run once
without a disturbance. Then the same command is started, the driver or (one time in four) one of its workers is killed
with SIGKILL after a time drawn uniformly from the wall time of the undisturbed run, and it is started again, until it
ends by itself; then the next study begins. Checkpoints are written every 0.3 s instead of every 30 s, so that there are
some. After each kill and at each end this is counted:

    computed again   a run that was committed has another folder than before
    steps lost       a run under way has an older checkpoint than it had before, or more than three generations
    not verified     `sessionwise verify` finds something missing, extra or corrupt
    not ended        the same command ended with another exit code than 0
    other bytes      a ranking, a table, the report or a committed run differs from that of the undisturbed study

FOLDER keeps the undisturbed study, the study under way and, after every kill, the counts: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sessionwise.io.files import read_json, sha256_file, write_json
from sessionwise.runs.checkpoints import checkpoint_step, generations
from sessionwise.runs.spec import is_key
from sessionwise.runs.store import RunStore
from sessionwise.runs.verify import verify_study

RECIPE = """
name = "soak"
preset = "tiny"

[data.simulate]
n_sessions = 3
n_heldout = 1
n_trials = [60, 90]
n_units = [20, 30]
n_bins = 20

[study]
seeds = [10, 20]
sizes = [1, 2, "all"]
top = 2

[train]
epochs = 12

[finetune]
epochs = 12

[baseline]
epochs = 12
"""
COMMAND = [sys.executable, "-c", "from sessionwise.cli import main; main()", "study"]
CHECKPOINT_S = "0.3"
KEPT = 3  # two generations, and a third between its commit and the end of the oldest
NOT_COMPARED = {"timing.json", "manifest.json"}
NO_RESULTS = {"logs", "test-openings"}
VIOLATIONS = ("computed again", "steps lost", "not verified", "not ended", "other bytes")


class Soak:
    """The trials in one folder; ``state`` is what goes on after an interruption."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.file = folder, folder / "soak.json"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(RECIPE)
        fresh = {"seed": seed, "reference_s": None, "kills": [], "ends": [], "violations": [], "study": 0}
        self.state: dict[str, Any] = read_json(self.file) if self.file.exists() else fresh
        self.committed: dict[str, tuple[int, int]] = {}
        self.steps: dict[str, int] = {}

    @property
    def reference(self) -> Path:
        """The undisturbed study."""
        return self.folder / "undisturbed"

    @property
    def study(self) -> Path:
        """The study that is being killed."""
        return self.folder / f"study-{self.state['study']}"

    def undisturbed(self) -> None:
        """Run the study once without a disturbance, unless that was done."""
        if self.state["reference_s"] is None:
            shutil.rmtree(self.reference, ignore_errors=True)
            begun = time.monotonic()
            process = self.start(self.reference)
            if process.wait():
                sys.exit((self.folder / "log.txt").read_text()[-4000:])
            self.state["reference_s"] = time.monotonic() - begun
            self.save()

    def start(self, study: Path) -> subprocess.Popen[bytes]:
        """The command, in a process group of its own."""
        environment = {**os.environ, "SESSIONWISE_CHECKPOINT_SECONDS": CHECKPOINT_S}
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [*COMMAND, str(self.folder / "recipe.toml"), "--to", str(study)],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def trial(self) -> None:
        """Start the command and kill it, or a worker of it, unless it ends before."""
        number = len(self.state["kills"]) + len(self.state["ends"])
        rng = random.Random(f"{self.state['seed']}-{number}")
        after, whom = rng.uniform(0, self.state["reference_s"]), rng.choice(("driver", "driver", "driver", "worker"))
        process, begun, stage = self.start(self.study), time.monotonic(), ""
        try:
            code: int | None = process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            code, stage = None, self.stage()
            whom = self.kill(process, whom, rng)
            if whom == "worker":  # the command goes on without it
                code = process.wait()
            else:
                process.wait()
                time.sleep(0.1)  # workers notice that the pipe is closed
        kill = (
            None
            if code is not None and not stage
            else {"study": self.state["study"], "after_s": round(after, 2), "whom": whom, "stage": stage}
        )
        if kill:
            self.state["kills"].append(kill)
        self.look(number)
        if code is not None:
            self.end(number, code, time.monotonic() - begun)
        self.save()

    def kill(self, process: subprocess.Popen[bytes], whom: str, rng: random.Random) -> str:
        """SIGKILL to the driver or to one of its children; whom it met."""
        workers = children(process.pid)
        if whom == "worker" and workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
            return "worker"
        os.kill(process.pid, signal.SIGKILL)
        return "driver"

    def stage(self) -> str:
        """Where the study is: the kinds of runs under way, or what comes before and after."""
        runs = self.study / "runs"
        asked = RunStore(runs).asked()
        works = [work.name.removesuffix(".work") for work in runs.glob("*.work")]
        if kinds := {asked[key]["kind"] for key in works if key in asked}:
            return "+".join(sorted(kinds))
        if not any(is_key(path.name) for path in runs.glob("*")):
            return "start"
        return "report, or starting again" if (self.study / "results.json").exists() else "between runs"

    def look(self, number: int) -> None:
        """Count what is not as promised, after a kill or an end."""
        runs = self.study / "runs"
        now = {path.name: identity(path) for path in runs.glob("*") if is_key(path.name)}
        for key, folder in self.committed.items():
            if now.get(key) != folder:
                self.violated(number, "computed again", key)
        self.committed = now
        before, self.steps = self.steps, {}
        for work in runs.glob("*.work"):
            key, saved = work.name.removesuffix(".work"), generations(work)
            newest = checkpoint_step(saved[-1]) if saved else 0
            if key not in now and (newest < before.get(key, 0) or len(saved) > KEPT):
                self.violated(number, "steps lost", f"{key} {before.get(key, 0)} -> {newest}, {len(saved)} generations")
            self.steps[key] = newest
        for problem in verify_study(self.study).problems if runs.exists() else []:
            self.violated(number, "not verified", f"{problem.kind} {problem.path}: {problem.text}")

    def end(self, number: int, code: int, seconds: float) -> None:
        """The command ended by itself: compare everything with the undisturbed study.

        One that met no kill and was quicker than the undisturbed study (whose machine may have been busy) is the new
        measure of what kills are drawn from; else many would come too late.
        """
        whole = not any(kill["study"] == self.state["study"] for kill in self.state["kills"])
        self.state["ends"].append({"code": code, "seconds": round(seconds, 1), "whole": whole})
        if whole and code == 0:
            self.state["reference_s"] = min(self.state["reference_s"], seconds)
        if code:
            self.violated(number, "not ended", f"exit code {code}")
        else:
            for name in differences(self.reference, self.study):
                self.violated(number, "other bytes", name)
            shutil.rmtree(self.study, ignore_errors=True)
        self.state["study"] += 1
        self.committed, self.steps = {}, {}

    def violated(self, number: int, what: str, text: str) -> None:
        """Write down a violation; the study is kept when its command did not end well."""
        self.state["violations"].append({"trial": number, "what": what, "text": text})
        print(f"VIOLATION in trial {number}: {what}: {text}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """What goes on after an interruption of this script."""
        write_json(self.file, self.state)

    def table(self) -> str:
        """The counts as Markdown."""
        kills, ends = self.state["kills"], self.state["ends"]
        stages = Counter(f"{kill['stage']} ({kill['whom']})" for kill in kills)
        found = Counter(violation["what"] for violation in self.state["violations"])
        lines = [
            f"{len(kills)} kills while the command ran (undisturbed: {self.state['reference_s']:.1f} s), "
            f"{len(ends)} studies finished.",
            "",
            "| promise violated | times |",
            "|---|---:|",
            *(f"| {what} | {found[what]} |" for what in VIOLATIONS),
            "",
            "| killed while | times |",
            "|---|---:|",
            *(f"| {stage} | {count} |" for stage, count in stages.most_common()),
        ]
        return "\n".join(lines)


def identity(folder: Path) -> tuple[int, int]:
    """What a folder that was made anew would not have: its inode, and when it was renamed into place."""
    found = folder.stat()
    return found.st_ino, found.st_ctime_ns


def children(pid: int) -> list[int]:
    """Processes whose parent has this number."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return sorted(found)


def differences(a: Path, b: Path) -> list[str]:
    """Names of files that are not in both studies, or not equal: runs, rankings, tables, results, report."""
    hashes = [hashes_of(folder) for folder in (a, b)]
    return sorted(name for name in hashes[0].keys() | hashes[1].keys() if hashes[0].get(name) != hashes[1].get(name))


def hashes_of(study: Path) -> dict[str, str]:
    """SHA-256 of every result below a study.

    No results: what tells times, what dead processes left, and the ledger of openings of test trials, which marks that
    a final evaluation was begun a second time.
    """
    found = {}
    for path in sorted(study.rglob("*")):
        name = path.relative_to(study)
        hidden = any(part.startswith(".") or part.endswith(".work") or part in NO_RESULTS for part in name.parts)
        sealed = name.parts[0] != "runs" and path.name in NOT_COMPARED
        if path.is_file() and not hidden and not sealed and path.name != "timing.json":
            found[name.as_posix()] = sha256_file(path)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, count, print; exit code 1 when a promise was violated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts to this file as well")
    asked = parser.parse_args(arguments)
    soak = Soak(asked.folder.absolute(), asked.seed)
    soak.undisturbed()
    while len(soak.state["kills"]) < asked.kills:
        soak.trial()
        print(f"\r{len(soak.state['kills'])} of {asked.kills} kills", end="", file=sys.stderr, flush=True)
    while len(soak.state["ends"]) <= soak.state["study"] and soak.study.exists():  # the last study ends undisturbed
        process, begun = soak.start(soak.study), time.monotonic()
        code = process.wait()
        soak.look(len(soak.state["kills"]))
        soak.end(len(soak.state["kills"]), code, time.monotonic() - begun)
        soak.save()
    print(f"\n{soak.table()}")
    if asked.json:
        asked.json.write_text(json.dumps(soak.state, indent=1) + "\n")
    return 1 if soak.state["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
