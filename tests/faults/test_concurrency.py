"""Two commands on one study, both and their workers killed at random: each run is committed once, nothing is torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from sessionwise.runs.garbage import collect_garbage
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.verify import verify_study

TOYS = Path(__file__).parents[1] / "runs"
N_RUNS = 50


def plan(folder: Path) -> list[RunSpec]:
    """40 runs and 10 that read two of them each."""
    where = {"log": str(folder / "log"), "seconds": 0.1}
    first = [RunSpec("toy", {}, {}, {}, seed, where=where, steps=1) for seed in range(N_RUNS - 10)]
    pairs = [{"a": first[i].key, "b": first[i + 10].key} for i in range(10)]
    return [*first, *(RunSpec("toy", {}, {}, pair, 100 + i, where=where, steps=1) for i, pair in enumerate(pairs))]


def driver(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(TOYS / "toy_driver.py"), str(folder / "plan.json")]
    environment = {**os.environ, "PYTHONPATH": str(TOYS)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def workers(pid: int) -> list[int]:
    """The children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
@pytest.mark.parametrize("seed", range(2))
def test_two_commands_and_random_kills(tmp_path, seed):
    specs, rng, kills = plan(tmp_path), random.Random(seed), Counter[str]()
    document = {"root": str(tmp_path / "study" / "runs"), "on": "processes:2", "work": "toy_work:run"}
    (tmp_path / "plan.json").write_text(json.dumps({**document, "specs": [spec.to_json() for spec in specs]}))
    store, running, ended = RunStore(tmp_path / "study" / "runs"), [driver(tmp_path), driver(tmp_path)], 0
    order = order_of_kinds(rng)
    while running:
        time.sleep(rng.uniform(0.05, 0.4))
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            said = process.stderr.read().decode()
            if process.returncode == -signal.SIGKILL:
                running.append(driver(tmp_path))
            else:
                ended += 1
                assert process.returncode == 0 and "another result" not in said, said
        if order and len(store.keys()) < N_RUNS - 5 and (victim := victim_of(running, order[0], rng)):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                kills[order.pop(0)] += 1
    assert kills["driver"] >= 2 and kills["worker"] >= 2 and ended == 2
    assert store.keys() == sorted(spec.key for spec in specs) and store.failed_keys() == []
    for spec in specs:
        parts = [spec_of(specs, key).seed for _, key in sorted(spec.inputs.items())]
        expected = "".join(f"{number}\n" for number in [*parts, spec.seed])
        assert (store.folder(spec.key) / "chain.txt").read_text() == expected
    finished = Counter(name.name.split("-")[2] for name in (tmp_path / "log").glob("*-ended-*"))
    assert max(finished.values()) == 1  # no run was computed to its end twice
    list(collect_garbage(tmp_path / "study"))
    assert verify_study(tmp_path / "study").findings == []
    assert list((tmp_path / "study" / "runs" / ".locks").iterdir()) == []


def order_of_kinds(rng: random.Random) -> list[str]:
    """What is killed when: two of each kind first, however soon the runs are all done, then workers twice as often."""
    first, later = ["driver", "worker"] * 2, ["driver", "worker", "worker"] * 4
    rng.shuffle(first)
    rng.shuffle(later)
    return [*first, *later]


def victim_of(running: list[subprocess.Popen[bytes]], kind: str, rng: random.Random) -> int | None:
    """A driver, or a worker of one; None if there is none at this moment."""
    pids = [process.pid for process in running]
    candidates = pids if kind == "driver" else [child for pid in pids for child in workers(pid)]
    return rng.choice(candidates) if candidates else None


def spec_of(specs: list[RunSpec], key: str) -> RunSpec:
    return next(spec for spec in specs if spec.key == key)
