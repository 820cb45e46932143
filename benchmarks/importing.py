"""Import of counts against plain reading, hashing and writing of the same bytes, side by side.

    python benchmarks/importing.py [--rounds 9] [--quick] [--json PATH] [--folder FOLDER]

Recordings of 300 trials, 150 bins and 1,000 units are saved with ``np.savez``: three in uint8 (45 MB each), one in
uint16. Each round does, one after the other in the same process, for each kind: (a) read every file in blocks of 1 MiB,
hash the blocks with SHA-256, write them to a new file, fsync, rename, fsync the folder; (b) ``import_files`` of the
same files into a new store, which is as durable. Files come from the page cache in both. Prints Markdown: medians in
MB/s and the median of the rounds' ratios, where the time of an import goes, and one import of a compressed file, in
which deflate has the say. --quick: a tenth of the trials. --folder: where to write (else the temporary folder); take
one on the disk that matters. Half a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from sessionwise.data import session as session_module
from sessionwise.data import store as store_module
from sessionwise.data.formats import npz
from sessionwise.data.importing import import_files
from sessionwise.data.store import create_store
from sessionwise.io import arrays, files

TRIALS, BINS, UNITS, HZ, BIN_MS = 300, 150, 1000, 5.0, 20
KINDS = {"uint8": 3, "uint16": 1}  # how many files
BLOCK = 2**20
WARM_BYTES = 2**29
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("read the file, hash it beside", arrays, "_snapshot"),
    ("CRC-32 of the counts", arrays, "_view"),
    ("compare with the file", arrays, "_still_holds"),
    ("checks", npz, "make_session"),
    ("SHA-256 of each trial", session_module, "trial_hashes"),
    ("SHA-256 of counts.npy", store_module, "npy_sha256"),
    ("write counts.npy and fsync", store_module, "write_npy"),
    ("all fsync", files.os, "fsync"),
    ("text of JSON", files, "pretty_json"),
)


def main() -> None:
    """Measure, print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    trials = TRIALS // 10 if options.quick else TRIALS
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found = measure(recordings(folder, trials), folder, options.rounds)
        found["compressed"] = compressed(folder, trials)
    print(tables(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def recordings(folder: Path, trials: int) -> dict[str, list[Path]]:
    """Files of each kind, with what an import likes to know; no two hold the same trials."""
    made: dict[str, list[Path]] = {}
    for kind, n in KINDS.items():
        made[kind] = [folder / f"{kind}-{i}.npz" for i in range(n)]
        for seed, path in enumerate(made[kind]):
            np.savez(path, **arrays_of(trials, seed, kind))
    return made


def arrays_of(trials: int, seed: int, kind: str) -> dict[str, Any]:
    """Poisson counts; in uint16 one bin of the first trial is too high for uint8, or they would be made smaller."""
    counts = np.random.default_rng(seed).poisson(HZ * BIN_MS / 1000, (trials, BINS, UNITS)).astype(kind)
    bin_ms = BIN_MS
    if kind == "uint16":
        counts[0, 0, 0], bin_ms = 300, 200
    area = np.array(["CA1", "VISp"])[np.arange(UNITS) % 2]
    return {"counts": counts, "bin_ms": bin_ms, "t0_ms": 0, "area": area, "choice": np.arange(trials) % 2}


def measure(recorded: dict[str, list[Path]], folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of both ways in each round, a first one left out, and the parts of one more import of each kind."""
    taken: dict[str, dict[str, list[float]]] = {kind: {"plain": [], "import": []} for kind in recorded}
    for number in range(rounds + 1):
        for kind, paths in recorded.items():
            ways = {"plain": partial(plain, paths), "import": partial(imported, paths)}
            for name in list(ways) if number % 2 else reversed(ways):
                seconds = timed(ways[name], folder / "new")
                if number:
                    taken[kind][name].append(seconds)
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "numpy": np.__version__},
        "kinds": {kind: summary(paths, taken[kind]) for kind, paths in recorded.items()},
        "parts": {kind: parts(paths, folder / "new", rounds) for kind, paths in recorded.items()},
    }


def plain(paths: Sequence[Path], new: Path) -> None:
    """(a): what must be done with the bytes, and nothing else."""
    new.mkdir()
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as source, open(new / "writing", "wb") as copy:
            while block := source.read(BLOCK):
                digest.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(new / "writing", new / digest.hexdigest())
        files.sync_folder(new)


def imported(paths: Sequence[Path], new: Path) -> None:
    """(b): the import that users call, into a store that is not there yet."""
    if len(import_files(paths, create_store(new)).added) != len(paths):
        raise SystemExit("not everything was imported")


def timed(way: Callable[[Path], None], new: Path) -> float:
    """Seconds of one way into a new folder, which is removed outside the time, and off the disk before the next.

    Memory is taken and freed first: on a virtual machine, memory that the host must find again would be measured.
    """
    np.ones(WARM_BYTES, np.uint8)
    begun = time.perf_counter()
    way(new)
    taken = time.perf_counter() - begun
    shutil.rmtree(new)
    os.sync()  # else the next one's fsync waits for what is freed here
    return taken


def summary(paths: Sequence[Path], taken: dict[str, list[float]]) -> dict[str, Any]:
    """MB/s of both ways, and what share of the plain way's speed an import has."""
    mb = sum(path.stat().st_size for path in paths) / 1e6
    ratios = [a / b for a, b in zip(taken["plain"], taken["import"], strict=True)]
    speeds = {f"{name}_mb_s": mb / median(seconds) for name, seconds in taken.items()}
    return {"files": len(paths), "mb": mb, **speeds, "ratio": median(ratios), "ratios": ratios, "seconds": taken}


def parts(paths: Sequence[Path], new: Path, rounds: int) -> dict[str, Any]:
    """Medians of milliseconds a file that each part takes, on the calling thread or beside it."""
    runs = []
    for _ in range(rounds):
        with clocks() as clock:
            total = timed(partial(imported, paths), new)
        runs.append({**clock, ("all", "main"): total})
    keys = list(dict.fromkeys(key for run in runs for key in run))
    ms = {key: 1000 * median(run.get(key, 0.0) for run in runs) / len(paths) for key in keys}
    return {f"{part}, {'beside' if thread == 'beside' else 'in turn'}": value for (part, thread), value in ms.items()}


@contextmanager
def clocks() -> Iterator[dict[tuple[str, str], float]]:
    """Seconds by (part, thread) of what runs in the block."""
    clock: dict[tuple[str, str], float] = defaultdict(float)
    with ExitStack() as patches:
        for part, module, name in PARTS:
            patches.enter_context(patch.object(module, name, clocked(getattr(module, name), part, clock)))
        yield clock


def clocked(function: Callable[..., Any], part: str, clock: dict[tuple[str, str], float]) -> Callable[..., Any]:
    """The same function, its time added up."""

    def call(*given: Any, **named: Any) -> Any:
        thread = "main" if threading.current_thread() is threading.main_thread() else "beside"
        begun = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            clock[part, thread] += time.perf_counter() - begun

    return call


def compressed(folder: Path, trials: int) -> dict[str, float]:
    """One import of a compressed file, and ``np.load`` of its counts: MB of counts a second."""
    path = folder / "compressed.npz"
    np.savez_compressed(path, **arrays_of(trials // 3, 0, "uint8"))
    mb = trials // 3 * BINS * UNITS / 1e6
    own = median(timed(partial(imported, [path]), folder / "new") for _ in range(3))
    loads = []
    for _ in range(3):
        begun = time.perf_counter()
        with np.load(path) as loaded:
            _ = loaded["counts"]
        loads.append(time.perf_counter() - begun)
    return {"mb": mb, "import_mb_s": mb / own, "np_load_mb_s": mb / median(loads)}


def tables(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| counts | files | MB | plain MB/s | import MB/s | import / plain |", "|---|---:|---:|---:|---:|---:|"]
    for kind, one in found["kinds"].items():
        spread = f"{one['ratio']:.2f} ({min(one['ratios']):.2f} to {max(one['ratios']):.2f})"
        cells = [
            kind,
            one["files"],
            f"{one['mb']:.0f}",
            f"{one['plain_mb_s']:.0f}",
            f"{one['import_mb_s']:.0f}",
            spread,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for kind, one in found["parts"].items():
        lines += ["", f"| {kind}: part, ms a file | in turn | beside |", "|---|---:|---:|"]
        for part in [*(part for part, _, _ in PARTS), "all"]:
            cells = [f"{one[key]:.1f}" if (key := f"{part}, {how}") in one else "" for how in ("in turn", "beside")]
            lines.append(f"| {part} | {cells[0]} | {cells[1]} |")
    one = found["compressed"]
    text = "Compressed: {:.0f} MB of counts at {:.0f} MB/s; np.load of them alone {:.0f} MB/s; {} cores"
    speeds = (one["mb"], one["import_mb_s"], one["np_load_mb_s"], found["machine"]["cores"])
    return "\n".join([*lines, "", text.format(*speeds)])


if __name__ == "__main__":
    main()
