"""The paper's whole experiment: rankings, then every order, size and control, then the table of results.

    rankings and everything that needs none  -->  barrier: all rankings are written  -->  ranked prefixes and controls
    -->  results.csv, results.safetensors, transfer.csv, results.json  -->  report

Every training is a stored run, so the same call goes on after any interruption, beside any number of others.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis.results import (
    ABOUT_FILE,
    GAINS_FILE,
    SCHEMA,
    STUDY_FILE,
    TABLE_FILE,
    TRANSFER_FILE,
    Row,
    write_gains,
    write_rows,
    write_transfer,
)
from sessionwise.data.metadata import read_metadata
from sessionwise.data.simulate import read_truth, simulate_pool, write_truth
from sessionwise.data.splits import PARTS, numbers, shared_bins
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.errors import Problems, SessionwiseError, UsageError, raise_all
from sessionwise.io.code import code_version
from sessionwise.io.files import canonical_json, drop_sealed, read_json, read_sealed, sealed_files, write_json
from sessionwise.io.tensors import read_tensors
from sessionwise.runs.launch import Outcome, execute, pending
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import CODE_SCHEMA, RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.selection.ranking import (
    Plan,
    Ranking,
    collect,
    cost,
    make_plan,
    ranking_folder,
    save_picture,
    save_ranking,
    study_problems,
)
from sessionwise.study.cells import Cell, Job, Orders, cells, transfer_jobs, unknown_orders
from sessionwise.study.folder import beside, folder_problems, refuse_other_content, refuse_other_metadata
from sessionwise.study.layout import Layout, design_problems, lay_out
from sessionwise.study.needs import unknown_shapes
from sessionwise.study.recipe import Recipe, changed, read_recipe_file, try_recipe
from sessionwise.training.jobs import (
    WORK,
    baseline_spec,
    environment,
    evaluate_spec,
    finetune_spec,
    ledger_folder,
    pretrain_spec,
    reference_spec,
)
from sessionwise.training.precision import say_precision
from sessionwise.training.presets import Settings
from sessionwise.training.resources import Needs, needs, refuse_what_cannot_fit, shape_of

_HASHES = ("trainval_hash", "test_hash")
_FACTS = ("n_trials", "n_units", "n_units_good", "n_bins", "subject", "lab", "date", "mean_rate_hz")
METRICS = ("bps", "bps_unit_mean", "bps_tail")
_OURS = {"study.json", "results.csv", "results.safetensors", "results.json", "transfer.csv", "timing.json", "store"}
_OURS |= {"runs", "rankings", "report", "test-openings", "comparison.json", "demo.json", "manifest.json"}


@dataclass(frozen=True)
class Study:
    """A study on its sessions, with the run behind each of its jobs."""

    layout: Layout
    sessions: SessionStore
    specs: dict[Job, RunSpec]

    def spec(self, job: Job) -> RunSpec:
        """The run of a job; its sessions must be known."""
        if job not in self.specs:
            self.specs[job] = self._make(job)
        return self.specs[job]

    def chain(self, job: Job) -> list[RunSpec]:
        """The runs that a job needs, inputs first, its own last."""
        return [self.spec(part) for part in job.chain]

    def plan(self, split: int, heldout: str) -> Plan:
        """The ranking of the pool for a held-out session, under one split."""
        layout = self.layout
        return make_plan(self.sessions, heldout, layout.pool, self.settings(split), sorted(layout.seeds))

    def settings(self, split: int) -> Settings:
        """The settings under one split."""
        return self.layout.recipe.settings.model_copy(update={"split_seed": split})

    def _make(self, job: Job) -> RunSpec:
        settings = self._settings_of(job)
        if job.kind == "pretrain":
            return pretrain_spec(self.sessions, job.sessions, settings, job.seed)
        (heldout,) = job.sessions
        if job.kind == "baseline":
            return baseline_spec(self.sessions, heldout, settings, job.seed)
        if job.kind == "finetune":
            core = self.spec(job.input) if job.input else None
            return finetune_spec(self.sessions, heldout, core, settings, job.seed)
        if job.kind == "evaluate":
            assert job.input is not None
            return evaluate_spec(self.sessions, heldout, self.spec(job.input), settings)
        return reference_spec(self.sessions, heldout, job.kind, settings, job.seed)

    def _settings_of(self, job: Job) -> Settings:
        """The settings of a job: a control changes the number of steps, the checkpoint kept, or what is trained."""
        settings = self.settings(job.split_seed)
        if job.like is not None:
            steps = pretrain_spec(self.sessions, job.like, settings, job.seed).steps
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"steps": steps})})
        if job.last:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"keep": "last"})})
        if job.doubled:
            how = settings.baseline
            twice = {"steps": 2 * how.steps} if how.steps else {"epochs": 2 * how.epochs}
            settings = settings.model_copy(update={"baseline": how.model_copy(update=twice)})
        if job.full:
            thawed = settings.finetune.model_copy(update={"freeze_core": False})
            settings = settings.model_copy(update={"finetune": thawed})
        return settings


def run_study(
    recipe: Recipe,
    to: str | Path,
    *,
    store: str | Path | None = None,
    on: str = "processes",
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Path:
    """Run a scaling study in the folder ``to``, or go on with it; returns the folder when its results are written.

    store: the folder of the sessions, instead of the recipe's. The other parameters are those of ``rank_many``.
    Raises every problem of the recipe at once, LeakageError before others, and UsageError for a folder that holds
    another study (D50) or something else (D51).
    """
    folder, started = Path(to), time.monotonic()
    study = prepare(recipe, folder, store)
    runs = RunStore(folder / "runs")
    plans = {(s, h): study.plan(s, h) for s in study.layout.split_seeds for h in study.layout.heldout}
    first = [spec for plan in plans.values() for spec in plan.specs] + _ready(study, unknown_orders(study.layout))
    missing = {spec.key for spec in pending(first, runs, retry_failed)}
    if missing:  # new rankings never stand beside the results of old ones
        drop_sealed(folder / ABOUT_FILE)
    need = _needs(study, first, missing, rankings=len(plans))
    refuse_what_cannot_fit(need, folder, on)
    say_precision(first, progress)
    outcomes = execute(first, runs, WORK, on=on, progress=progress, retry_failed=retry_failed)
    rankings = {asked: collect(plan, study.sessions, runs, outcomes) for asked, plan in plans.items()}
    for asked, ranking in rankings.items():
        added = cost([spec for spec in plans[asked].specs if spec.key in missing], runs, study.sessions)
        save_ranking(ranking, folder, {"added": added, "collected_by": environment()})
        save_picture(plans[asked].settings, ranking, study.sessions, folder)
    orders = {asked: ranking.order for asked, ranking in rankings.items()}
    second = _ready(study, orders)
    missing |= {spec.key for spec in pending(second, runs, retry_failed)}
    refuse_what_cannot_fit(_needs(study, second, missing), folder, on)
    outcomes |= execute(second, runs, WORK, on=on, progress=progress, retry_failed=retry_failed)
    specs = list({spec.key: spec for spec in [*first, *second]}.values())
    with sealed_files(folder, keep=True):
        write_results(study, folder, rankings, runs, outcomes, cost(specs, runs, study.sessions))
    added = cost([spec for spec in specs if spec.key in missing], runs, study.sessions)
    _write_timing(folder, runs, added, time.monotonic() - started)
    return folder


def open_recipe(path: str | Path, changes: Sequence[str] = (), store: str | Path | None = None) -> Recipe:
    """Read a recipe and name everything that is wrong with it and with its sessions in one answer, leakage first."""
    recipe, problems = try_recipe(changed(read_recipe_file(path), changes), str(path))
    place = store or (recipe.data.store if recipe else None)
    if problems and recipe and place and recipe.data.simulate is None:
        try:
            lay_out(recipe, open_store(place))
        except Problems as error:
            problems += error.problems
        except SessionwiseError as error:
            problems.append(error)
    raise_all(problems)
    assert recipe is not None
    return recipe


def prepare(recipe: Recipe, folder: Path, store: str | Path | None = None) -> Study:
    """The study on its sessions, with ``study.json`` written; everything that can be refused is refused here."""
    problems, asked = refusals(recipe, folder), _identity(recipe)
    if recipe.data.simulate is not None:
        raise_all(problems)  # before sessions are made in the folder
    with beside(problems):
        sessions, recipe = study_sessions(recipe, folder, store)
        study = Study(lay_out(recipe, sessions), sessions, {})
    known = read_sealed(folder / STUDY_FILE) if (folder / STUDY_FILE).exists() else None
    document = _document(study, asked)
    if known is not None:
        refuse_other_content(folder, known["sessions"], document["sessions"], _HASHES)
        refuse_other_metadata(folder, known["sessions"], document["sessions"], (*_HASHES, *_FACTS))
    if known is None:
        with sealed_files(folder, keep=True):
            write_json(folder / STUDY_FILE, document)
    return study


def refusals(recipe: Recipe, folder: Path) -> list[SessionwiseError]:
    """Why the study of a recipe cannot be in a folder: another study (D50), foreign files (D51); reads only."""
    return folder_problems(folder, _identity(recipe), _OURS)


def study_sessions(recipe: Recipe, folder: Path, store: str | Path | None) -> tuple[SessionStore, Recipe]:
    """The store of a study, simulated at the first call if the recipe says so, and the recipe with its held-out ids."""
    if recipe.data.simulate is None:
        place = store or recipe.data.store
        if place is None:
            raise UsageError("recipe: data.store", "is missing", "the folder of a prepared store", "Or use --store")
        sessions = open_store(place)
        for problem in study_problems(folder, sessions):
            raise problem
        return sessions, recipe
    if store or recipe.data.store:
        raise UsageError("recipe: data", "a store and simulated sessions", "one of the two")
    asked = recipe.data.simulate
    if recipe.data.pool is None:  # what the sizes refuse is known before anything is simulated
        raise_all(design_problems(recipe, len(recipe.data.heldout) or asked.n_heldout, asked.n_sessions))
    pool = simulate_pool(**asked.model_dump())
    target = folder / "store"
    folder.mkdir(parents=True, exist_ok=True)
    made = create_store(target)
    for session in pool.sessions:
        made.add(session)
    write_truth(target, pool)
    if not recipe.data.heldout:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"heldout": pool.heldout})})
    # An earlier call that was refused may have left more sessions there: the recipe's own are the study's.
    return open_store(target).subset(session.id for session in pool.sessions), recipe


# What was asked -------------------------------------------------------------------------------------------------------


def _identity(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.identity(), "code_schema": CODE_SCHEMA}


def _document(study: Study, identity: Mapping[str, Any]) -> dict[str, Any]:
    layout, recipe = study.layout, study.layout.recipe
    ids = (*layout.heldout, *layout.pool)
    more = read_metadata(recipe.data.metadata, ids) if recipe.data.metadata else {}
    data = {i: study.sessions.load(i, recipe.split_seed, recipe.split) for i in ids}
    truth = read_truth(study.sessions.path)
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        "identity": dict(identity),
        "code": code_version(),
        "heldout": list(layout.heldout),
        "pool": list(layout.pool),
        "n_pool": len(layout.pool),
        "seeds": list(layout.seeds),
        "split": recipe.split,
        "split_seeds": list(layout.split_seeds),
        "orders": list(recipe.study.orders),
        "shuffles": recipe.study.shuffles,
        "sizes": list(layout.sizes),
        "top": recipe.study.top,
        "preset": recipe.preset,
        "settings": recipe.settings.model_dump(mode="json"),
        "controls": recipe.controls.model_dump(mode="json"),
        "sessions": {
            i: {
                **{name: getattr(d.meta, name) for name in _FACTS},
                **more.get(i, {}),
                "trainval_hash": d.trainval_hash,
                "test_hash": d.test_hash,
            }
            for i, d in data.items()
        },
        "sources": {i: dict(d.meta.source) for i, d in data.items()},
        "splits": {i: d.split.sizes for i, d in data.items()},
        "trials": {str(seed): _trials(study, ids, seed) for seed in layout.split_seeds},
        "shared_bins": {i: shared_bins(d.meta, d.split) for i, d in data.items()},
        "truth": truth and {"closeness": truth["closeness"], "bad": truth["bad"]},
    }


def _trials(study: Study, ids: Sequence[str], seed: int) -> dict[str, dict[str, str]]:
    """Which trials of each session are in which part, by their numbers in the recording."""
    data = {i: study.sessions.load(i, seed, study.layout.recipe.split) for i in ids}
    return {
        i: {part: numbers(np.asarray(d.meta.trial_ids)[d.split.part(part)]) for part in PARTS} for i, d in data.items()
    }


def _needs(study: Study, specs: Sequence[RunSpec], missing: Collection[str], rankings: int = 0) -> Needs:
    """What the missing runs need; with ``rankings`` to come, also those that wait for them."""
    layout = study.layout
    infos = {i: study.sessions.info(i) for i in (*layout.heldout, *layout.pool)}
    shapes = [shape_of(spec, infos) for spec in {spec.key: spec for spec in specs}.values() if spec.key in missing]
    if shapes and rankings:
        units = {i: info.n_units for i, info in infos.items()}
        shapes += unknown_shapes(layout, units, next(iter(infos.values())).n_bins)
    return needs(shapes, rankings)


# Runs to results ------------------------------------------------------------------------------------------------------


def _ready(study: Study, orders: Orders) -> list[RunSpec]:
    """The runs of all cells whose sessions are known, each once."""
    finals = [cell.final for cell in cells(study.layout, orders) if cell.final is not None and cell.final.known]
    wanted = [*finals, *transfer_jobs(study.layout)]
    return list({spec.key: spec for job in wanted for spec in study.chain(job)}.values())


def write_results(
    study: Study,
    folder: Path,
    rankings: Mapping[tuple[int, str], Ranking],
    store: RunStore,
    outcomes: Mapping[str, Outcome],
    whole_cost: Mapping[str, Any],
) -> None:
    """Write the tables from stored runs: a pure function of them, so the same runs give the same bytes."""
    orders = {asked: ranking.order for asked, ranking in rankings.items()}
    every = cells(study.layout, orders)
    write_rows(folder / TABLE_FILE, (row for cell in every for row in _rows(study, cell, store, outcomes)))
    finals = {study.spec(cell.final).key for cell in every if cell.final is not None}
    done = sorted(key for key in finals if outcomes[key].state == "done")
    write_gains(folder / GAINS_FILE, {key: _gains(store, key) for key in done})
    if study.layout.recipe.controls.transfer_matrix:
        write_transfer(folder / TRANSFER_FILE, _transfer_rows(study, store, outcomes))
    keys = sorted(outcomes)
    environments = {
        canonical_json(e): e for e in (store.result(k)["environment"] for k in keys if _has_result(outcomes[k]))
    }
    write_json(
        folder / ABOUT_FILE,
        {
            "schema": SCHEMA,
            "rankings": [ranking_folder(Path(), ranking.document).as_posix() for ranking in rankings.values()],
            "openings": len([key for key in finals if (ledger_folder(store) / f"{key}.json").exists()]),
            "final_evaluations": len(finals),
            "cost": whole_cost,
            "environments": [environments[name] for name in sorted(environments)],
        },
    )


def _has_result(outcome: Outcome) -> bool:
    return outcome.state in ("done", "diverged")


def _rows(study: Study, cell: Cell, store: RunStore, outcomes: Mapping[str, Outcome]) -> Iterable[Row]:
    """A row for each metric on test and on validation trials."""
    chain = study.chain(cell.final) if cell.final else []
    bad = next((outcomes[spec.key] for spec in chain if outcomes[spec.key].state != "done"), None)
    state, reason = (bad.state, bad.reason) if bad else ("missing" if cell.missing else "done", cell.missing)
    results = [store.result(spec.key) if _has_result(outcomes[spec.key]) else {} for spec in chain]
    steps = {spec.kind: result.get("steps") for spec, result in zip(chain, results, strict=True)}
    tokens = [result["tokens"] for result in results if result]
    for part, at in (("test", -1), ("validation", -2)):
        for metric in METRICS:
            yield Row(
                split_seed=cell.split_seed,
                heldout=cell.heldout,
                arm=cell.arm,
                variant=cell.variant,
                size=cell.size,
                draw=cell.draw,
                seed=cell.seed,
                part=part,
                metric=metric,
                value=results[at].get(metric) if state == "done" else None,
                state=state,
                reason=reason,
                n_sessions=len(cell.sessions),
                trials=sum(study.layout.trials[i][0] for i in cell.sessions) if cell.sessions else None,
                pretrain_steps=steps.get("pretrain"),
                finetune_steps=steps.get("finetune", steps.get("baseline")),
                tokens=sum(tokens) if state == "done" else None,
                sessions=cell.sessions,
                run=chain[-1].key if chain else None,
                model=chain[-2].key if chain else None,
            )


def _gains(store: RunStore, key: str) -> tuple[np.ndarray, np.ndarray]:
    store.result(key)  # verifies the folder
    stored = read_tensors(store.folder(key) / "test.safetensors")
    return stored["gain"], stored["spikes"]


def _transfer_rows(study: Study, store: RunStore, outcomes: Mapping[str, Outcome]) -> Iterable[dict[str, Any]]:
    """Validation scores of every core on every other session, held-out ones included."""
    layout = study.layout
    split = layout.recipe.split_seed
    ranked = [
        Job("finetune", (h,), seed, split, Job("pretrain", (source,), seed, split))
        for h in layout.heldout
        for source in layout.pool
        for seed in layout.seeds
    ]
    for job in [*transfer_jobs(layout), *ranked]:
        assert job.input is not None
        chain = study.chain(job)
        bad = next((outcomes[spec.key] for spec in chain if outcomes[spec.key].state != "done"), None)
        yield {
            "source": job.input.sessions[0],
            "target": job.sessions[0],
            "seed": job.seed,
            "value": None if bad else float(store.result(chain[-1].key)["bps"]),
            "state": bad.state if bad else "done",
            "reason": bad.reason if bad else None,
        }


def _write_timing(folder: Path, store: RunStore, added: Mapping[str, Any], seconds: float) -> None:
    """What depends on this command rather than on the study: seconds, runs it added, test trials opened again."""
    ledger = sorted(ledger_folder(store).glob("*.json"))
    repeated = {path.stem: record["attempts"] for path in ledger if (record := read_json(path))["attempts"] > 1}
    about = {"seconds": seconds, "added": added, "collected_by": environment(), "repeated_openings": repeated}
    write_json(folder / "timing.json", about)
