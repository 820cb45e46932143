"""The plan of a recipe on its sessions and on this machine, with what a study's folder holds already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sessionwise.errors import EnvironmentProblem
from sessionwise.io.files import folder_name
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.launch import pending
from sessionwise.runs.store import RunStore
from sessionwise.selection.ranking import open_ranking, study_problems
from sessionwise.study.cells import Job, Orders
from sessionwise.study.folder import beside
from sessionwise.study.layout import Layout, lay_out, lay_out_manifest
from sessionwise.study.needs import study_needs
from sessionwise.study.plan import Plan, plan
from sessionwise.study.recipe import Recipe
from sessionwise.study.scaling import Study, refusals, study_sessions
from sessionwise.study.timing import N_BINS, N_UNITS, measure
from sessionwise.training.resources import resource_lines


def plan_recipe(
    recipe: Recipe, to: str | Path | None = None, store: str | Path | None = None, *, on: str = "processes"
) -> Plan:
    """The plan of a recipe, with what is there in the study's folder ``to``; trains nothing, writes nothing there.

    store, on: as in ``run_study``. Sessions that are known from a manifest alone are planned by name. Raises what
    ``run_study`` would refuse about the recipe, its sessions and the folder, all of it at once; what does not fit on
    the disk or in memory is a line of the plan, for it may be meant for another machine.
    """
    where = _Where(on, runs_at_a_time(on), Path(to) if to is not None else Path())
    place = store or recipe.data.store
    problems = refusals(recipe, Path(to)) if to is not None else []
    if recipe.data.manifest is not None and not (place and Path(place).exists()):
        with beside(problems):
            layout = lay_out_manifest(recipe)
        return _timed_plan(layout, where, N_BINS, {})
    with TemporaryDirectory() as folder:  # for simulated sessions; their runs have the same keys wherever they are made
        with beside(problems):
            sessions, recipe = study_sessions(recipe, Path(folder), store)
            problems += study_problems(Path(to), sessions) if to is not None and recipe.data.simulate is None else []
            study = Study(lay_out(recipe, sessions), sessions, {})
        units = {i: sessions.info(i).n_units for i in study.layout.pool}
        n_bins = sessions.info(study.layout.pool[0]).n_bins
        if to is None or not (Path(to) / "runs").is_dir():
            return _timed_plan(study.layout, where, n_bins, units)
        runs = RunStore(Path(to) / "runs")

        def stored(job: Job) -> bool:
            return runs.committed(study.spec(job).key)

        return _timed_plan(study.layout, where, n_bins, units, known_orders(study, Path(to)), stored)


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


class _Where(NamedTuple):
    """Where a study would run: ``--on``, runs at a time, its folder."""

    on: str
    workers: int
    folder: Path


def _timed_plan(
    layout: Layout,
    where: _Where,
    n_bins: int,
    units: Mapping[str, int],
    orders: Orders | None = None,
    stored: Callable[[Job], bool] | None = None,
) -> Plan:
    """The plan with a timing of this machine, or the reason why there is none, and with disk and memory.

    units: id -> units of the pool; empty where they are not known.
    """
    usual = int(median(units.values())) if units else N_UNITS
    lines = resource_lines(
        study_needs(layout, units or {"": usual}, n_bins, orders, stored), where.folder, where.on, where.workers
    )
    try:
        timing = measure(layout.recipe.settings, n_bins, usual, workers=where.workers)
        made = plan(layout, orders, stored, timing)
    except EnvironmentProblem as error:
        made = plan(layout, orders, stored)
        lines.append(f"No hours on this machine: {error}")
    return replace(made, notes=(*made.notes, *lines))
