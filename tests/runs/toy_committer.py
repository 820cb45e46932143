"""A process for store tests that commits run after run, or holds a lock, until it is killed.

``python toy_committer.py ROOT loop FIRST`` commits the seeds FIRST, FIRST+1, .. and prints each after its commit.
``python toy_committer.py ROOT crash N`` commits seed 0 and kills itself just before its N-th change of the disk.
``python toy_committer.py ROOT lock`` holds the lock of seed 0.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sessionwise.runs.checkpoints import save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore


def toy_spec(seed: int) -> RunSpec:
    """The run with this seed."""
    return RunSpec("toy", {"lr": 0.5}, {}, {}, seed)


def commit(store: RunStore, seed: int) -> None:
    """A checkpoint, then a commit with two artefacts, one in a folder."""
    spec = toy_spec(seed)
    save_checkpoint(store.work_folder(spec.key), 1, lambda folder: put(folder / "state.bin", seed))
    store.commit(spec, {"state": "done", "value": seed}, lambda folder: artefacts(folder, seed))


def artefacts(folder: Path, seed: int) -> None:
    """Two files that follow from the seed."""
    (folder / "weights").mkdir()
    put(folder / "weights" / "core.bin", seed)
    put(folder / "curve.bin", seed + 1)


def put(path: Path, seed: int) -> None:
    """A thousand bytes that follow from the seed."""
    path.write_bytes(bytes((seed + position) % 256 for position in range(1000)))


def crash_at(position: int) -> None:
    """Kill this process just before its n-th write, rename, removal or fsync."""
    changes = itertools.count(1)

    def step() -> None:
        if next(changes) == position:
            os.kill(os.getpid(), signal.SIGKILL)

    watched = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in watched or (event == "open" and str(arguments[1])[:1] in ("w", "a", "x")):
            step()

    sync: Callable[[int], None] = os.fsync

    def counted_sync(descriptor: int) -> None:
        step()
        sync(descriptor)

    os.fsync = counted_sync  # type: ignore[assignment]
    sys.addaudithook(audit)


def main() -> None:
    """See the module's first lines."""
    store, mode = RunStore(Path(sys.argv[1])), sys.argv[2]
    if mode == "loop":
        for seed in itertools.count(int(sys.argv[3])):
            commit(store, seed)
            print(seed, flush=True)
    elif mode == "crash":
        crash_at(int(sys.argv[3]))
        commit(store, 0)
        print("whole", flush=True)
    else:
        with store.lock(toy_spec(0).key):
            print("locked", flush=True)
            time.sleep(60)


if __name__ == "__main__":
    main()
