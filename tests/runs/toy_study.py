"""A small study's folder for tests, without training: runs, checkpoints, rankings, a report, records, leftovers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import toy_committer
from toy_committer import toy_spec

from sessionwise.io.files import sealed_files, temporary_name, write_bytes, write_json
from sessionwise.io.process import this_process
from sessionwise.runs.checkpoints import save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

GONE = 2**22 - 1  # above the usual largest number of a process


def make_study(folder: Path) -> RunStore:
    """Committed runs 0 and 1, a run 2 made from 0, checkpoints of run 3, a failure 4, sealed results."""
    store = RunStore(folder / "runs")
    for seed in (0, 1):
        toy_committer.commit(store, seed)
    child = RunSpec("toy", {"lr": 0.5}, {}, {"core": toy_spec(0).key}, 2)
    store.commit(child, {"state": "done"}, lambda place: toy_committer.put(place / "a.bin", 2))
    for step in (10, 20):
        write_checkpoint(store, 3, step)
    store.record_failure(toy_spec(4), "out of ideas")
    ranking = folder / "rankings" / "held-out" / "full-12345678"
    with sealed_files(ranking):
        write_json(ranking / "ranking.json", {"order": [1, 0]})
        write_bytes(ranking / "ranking.csv", b"rank,session\n1,b\n")
    write_json(ranking / "timing.json", {"seconds": 1.5})
    with sealed_files(folder / "report"):
        (folder / "report" / "figures").mkdir(exist_ok=True)
        write_bytes(folder / "report" / "figures" / "a.svg", b"<svg/>" * 50)
        write_bytes(folder / "report" / "index.html", b"<html/>" * 50)
    with sealed_files(folder, keep=True):
        write_json(folder / "study.json", {"name": "toy"})
        write_bytes(folder / "results.csv", b"a,b\n1,2\n" * 20)
        write_json(folder / "results.json", {"rankings": []})
    write_json(folder / "timing.json", {"seconds": 2.5})
    (folder / "test-openings").mkdir(exist_ok=True)
    key = toy_spec(1).key
    write_json(folder / "test-openings" / f"{key}.json", {"key": key, "attempts": 1})
    return store


def write_checkpoint(store: RunStore, seed: int, step: int) -> Path:
    """A generation of a run that is not committed."""
    work = store.work_folder(toy_spec(seed).key)
    return save_checkpoint(work, step, lambda place: toy_committer.put(place / "state.bin", step))


def forge_lease(folder: Path, seed: int, **changes: object) -> Path:
    """A lease that nobody holds: of a dead process, if the changes do not say otherwise."""
    path = folder / "runs" / ".locks" / toy_spec(seed).key
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {**asdict(this_process()), "pid": GONE, "token": "0" * 32, "beat": "0" * 12, "flock": True, **changes}
    path.write_text(json.dumps(about))
    return path


def dead_name() -> str:
    """The temporary name of a process of this host that is gone."""
    return temporary_name().replace(f"-{this_process().pid}-", f"-{GONE}-")


def foreign_name() -> str:
    """The temporary name of a process of another host."""
    return temporary_name().replace(this_process().place, "00000000")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
