"""The plan of a recipe on its sessions and on this machine, with what a study's folder holds already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sessionwise.errors import EnvironmentProblem
from sessionwise.io.files import folder_name
from sessionwise.runs.launch import pending, runs_at_a_time
from sessionwise.runs.store import RunStore
from sessionwise.selection.ranking import open_ranking
from sessionwise.study.cells import Job, Orders
from sessionwise.study.layout import Layout, lay_out, lay_out_manifest
from sessionwise.study.plan import Plan, plan
from sessionwise.study.recipe import Recipe
from sessionwise.study.scaling import Study, study_sessions
from sessionwise.study.timing import N_BINS, N_UNITS, measure


def plan_recipe(
    recipe: Recipe, to: str | Path | None = None, store: str | Path | None = None, *, on: str = "processes"
) -> Plan:
    """The plan of a recipe, with what is there in the study's folder ``to``; trains nothing, writes nothing there.

    store, on: as in ``run_study``. Sessions that are known from a manifest alone are planned by name. Raises what
    ``run_study`` would refuse about the recipe and its sessions, all of it at once.
    """
    workers = runs_at_a_time(on)
    place = store or recipe.data.store
    if recipe.data.manifest is not None and not (place and Path(place).exists()):
        return _timed_plan(lay_out_manifest(recipe), workers, N_BINS, N_UNITS)
    with TemporaryDirectory() as folder:  # for simulated sessions; their runs have the same keys wherever they are made
        sessions, recipe = study_sessions(recipe, Path(folder), store)
        study = Study(lay_out(recipe, sessions), sessions, {})
        infos = [sessions.info(i) for i in study.layout.pool]
        n_bins, n_units = infos[0].n_bins, int(median(info.n_units for info in infos))
        if to is None or not (Path(to) / "runs").is_dir():
            return _timed_plan(study.layout, workers, n_bins, n_units)
        runs = RunStore(Path(to) / "runs")

        def stored(job: Job) -> bool:
            return runs.committed(study.spec(job).key)

        return _timed_plan(study.layout, workers, n_bins, n_units, known_orders(study, Path(to)), stored)


def known_orders(study: Study, folder: Path) -> dict[tuple[int, str], list[str]]:
    """The rankings that a study's folder holds: (split seed, held-out) -> sessions, best first."""
    runs, found = RunStore(folder / "runs"), dict[tuple[int, str], list[str]]()
    for split in study.layout.split_seeds:
        for heldout in study.layout.heldout:
            asked = study.plan(split, heldout)
            if pending(asked.specs, runs):
                continue
            for path in sorted((folder / "rankings" / folder_name(heldout)).glob("*/ranking.json")):
                ranking = open_ranking(path)
                ranked = ranking.document
                same = ranked["settings"] == asked.settings.model_dump() and ranked["seeds"] == list(asked.seeds)
                if same and {row["session"] for row in ranked["rows"]} == set(asked.pool):
                    found[split, heldout] = ranking.order
    return found


def _timed_plan(
    layout: Layout,
    workers: int,
    n_bins: int,
    n_units: int,
    orders: Orders | None = None,
    stored: Callable[[Job], bool] | None = None,
) -> Plan:
    """The plan with a timing of this machine; where it cannot be taken, without one and with the reason."""
    try:
        timing = measure(layout.recipe.settings, n_bins, n_units, workers=workers)
    except EnvironmentProblem as error:
        made = plan(layout, orders, stored)
        return replace(made, notes=(*made.notes, f"No hours on this machine: {error}"))
    return plan(layout, orders, stored, timing)
