"""The demo: simulated sessions of known closeness, ranked; then the top 3, a random 3 and the bottom 3 compared.

Everything is a stored run, so an interrupted demo goes on, and the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessionwise.analysis.report import write_report
from sessionwise.data.simulate import simulate_pool, write_truth
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.errors import UsageError
from sessionwise.io.files import TMP_PREFIX, canonical_json, read_json, sealed_files, sha256_bytes, write_json
from sessionwise.runs.progress import Progress
from sessionwise.selection.rankers import rank
from sessionwise.selection.ranking import Ranking
from sessionwise.selection.sets import ordered
from sessionwise.study.compare import compare_sets
from sessionwise.training.presets import preset

PRESET = "tiny"
SEEDS = (10, 20)
SET_SIZE = 3
# Sizes that two cores can train on in minutes; everything else is the simulator's default.
POOL: dict[str, Any] = {
    "n_sessions": 8,
    "n_heldout": 1,
    "shift": 5.0,
    "modulation": 1.5,
    "n_trials": (150, 250),
    "n_units": (40, 80),
    "n_bins": 40,
}


@dataclass(frozen=True)
class Demo:
    """What the demo found and where it is."""

    ranking: Ranking
    comparison: dict[str, Any]
    report: Path


def run_demo(
    to: str | Path,
    *,
    seed: int = 0,
    on: str = "processes",
    progress: Progress | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Demo:
    """Simulate, rank, compare, report, all in the folder ``to``.

    seed: of the simulated sessions; overrides: changes to the preset, as in ``rank``.
    """
    folder, settings = Path(to), preset(PRESET, overrides)
    sessions, heldout = demo_sessions(folder, seed)
    ranking = rank(
        sessions, heldout, preset=PRESET, overrides=overrides, seeds=SEEDS, to=folder, on=on, progress=progress
    )
    k = min(SET_SIZE, len(ranking.order))
    sets = {
        f"ranked {k}": ranking.top(k),
        f"random {k}": ordered(ranking, "random", shuffle=seed)[:k],
        f"reverse {k}": ranking.bottom(k),
    }
    comparison = compare_sets(sessions, heldout, sets, settings, SEEDS, folder, on=on, progress=progress)
    with sealed_files(folder, keep=True):
        write_json(folder / "comparison.json", comparison)
    report = write_report(folder / "report", [dict(ranking.document)], comparison, study=folder)
    return Demo(ranking, comparison, report)


def demo_sessions(folder: Path, seed: int) -> tuple[SessionStore, str]:
    """The demo's store, simulated at the first call; a folder that holds another seed's demo is refused."""
    recipe = sha256_bytes(canonical_json([POOL, preset(PRESET).model_dump(), list(SEEDS)]))[:12]
    about = {"seed": seed, "recipe": recipe}
    marker = folder / "demo.json"
    if marker.exists():
        found = read_json(marker)
        if found.get("seed") == seed and found != about:
            raise UsageError(str(folder), "holds the demo of another version", "an empty folder", "Use another --to")
        if found != about:
            raise UsageError(
                str(folder), f"holds the demo of seed {found.get('seed')}", f"seed {seed}", "Name another folder"
            )
    elif folder.exists() and any(not path.name.startswith(TMP_PREFIX) for path in folder.iterdir()):
        raise UsageError(str(folder), "is not empty", "an empty or new folder", "Name another folder with --to")
    pool = simulate_pool(seed=seed, **POOL)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, about)
    store = create_store(folder / "store")
    for session in pool.sessions:
        store.add(session)
    write_truth(folder / "store", pool)
    return open_store(folder / "store"), pool.heldout[0]
