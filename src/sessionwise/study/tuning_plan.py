"""The plan of a search for settings: runs, steps, hours here and in the paper's unit costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sessionwise.errors import EnvironmentProblem
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.store import RunStore
from sessionwise.study.folder import beside
from sessionwise.study.layout import lay_out_manifest, split_trials
from sessionwise.study.needs import search_needs
from sessionwise.study.plan import TRAINING_HOURS, Plan, PlanRow
from sessionwise.study.timing import N_BINS, N_UNITS, RUN_SECONDS, Timing, measure
from sessionwise.study.tuning_recipe import BASE, GRID, Tuning, Variant, variants_of
from sessionwise.study.tuning_scores import core_parameters
from sessionwise.study.tuning_sessions import Chosen, draw_sessions, lay_out_tuning, search_refusals
from sessionwise.training.jobs import pretrain_spec
from sessionwise.training.loop import total_steps
from sessionwise.training.resources import Needs, resource_lines

There = Callable[[Variant, Sequence[str], int], bool]
Trials = Mapping[str, tuple[int, int]]


def plan_tuning(
    tuning: Tuning, to: str | Path | None = None, store: str | Path | None = None, *, on: str = "processes"
) -> Plan:
    """The plan of a search, with what is there in its folder ``to``; trains nothing, writes nothing there.

    store, on: as in ``run_tuning``. Sessions that are known from a manifest alone are planned by name. Numbers of runs
    are exact.
    """
    workers, place = runs_at_a_time(on), store or tuning.data.store
    refused = search_refusals(tuning, Path(to)) if to is not None else []
    if tuning.data.manifest is not None and not (place and Path(place).exists()):
        with beside(refused):
            layout = lay_out_manifest(tuning.as_recipe())
            chosen = draw_sessions(tuning, layout.heldout, layout.pool, refused)
        timing = _timing(tuning, N_BINS, N_UNITS, workers)
        planned = _plan(tuning, chosen, layout.trials, timing, lambda *asked: False, layout.notes)
        need = search_needs(_runs(tuning, chosen), dict.fromkeys(chosen.used, N_UNITS), layout.trials, N_BINS)
        return _with_needs(planned, need, to, on, workers)
    with TemporaryDirectory() as made:
        with beside(refused):
            search = lay_out_tuning(tuning, Path(made), store)
            infos = {i: search.sessions.info(i) for i in search.chosen.used}
            trials = split_trials(infos, tuning.split_seed, tuning.split, refused)
        n_bins = next(iter(infos.values())).n_bins
        timing = _timing(tuning, n_bins, int(median(info.n_units for info in infos.values())), workers)
        runs = RunStore(Path(to) / "runs") if to is not None else None

        def there(variant: Variant, ids: Sequence[str], seed: int) -> bool:
            return runs is not None and runs.committed(pretrain_spec(search.sessions, ids, variant.settings, seed).key)

        units = {i: info.n_units for i, info in infos.items()}
        need = search_needs(_runs(tuning, search.chosen, there), units, trials, n_bins)
        return _with_needs(_plan(tuning, search.chosen, trials, timing, there, ()), need, to, on, workers)


def _runs(tuning: Tuning, chosen: Chosen, there: There | None = None) -> list[tuple[Variant, Sequence[str]]]:
    """The runs that are not there: variant and sessions of each."""
    asked = [(v, ids, seed) for v in variants_of(tuning)[0] for _, ids in chosen.models for seed in tuning.tuning.seeds]
    return [(variant, ids) for variant, ids, seed in asked if there is None or not there(variant, ids, seed)]


def _with_needs(made: Plan, need: Needs, to: str | Path | None, on: str, workers: int) -> Plan:
    lines = resource_lines(need, Path(to) if to is not None else Path(), on, workers)
    return replace(made, notes=(*made.notes, *lines))


def _timing(tuning: Tuning, n_bins: int, n_units: int, workers: int) -> Timing | EnvironmentProblem:
    """What a step and a scored trial of the base take; where that cannot be measured, the reason."""
    try:
        return measure(tuning.settings, n_bins, n_units, workers=workers)
    except EnvironmentProblem as error:
        return error


def _plan(
    tuning: Tuning,
    chosen: Chosen,
    trials: Trials,
    timing: Timing | EnvironmentProblem,
    there: There,
    notes: Sequence[str],
) -> Plan:
    variants, axes = variants_of(tuning)
    timed = timing if isinstance(timing, Timing) else None
    own = {BASE: variants[:1], **{a.name: [v for v in variants[1:] if v.axis == a.name] for a in axes}}
    compared = {BASE: 1, **{axis.name: len(axis.members) for axis in axes}}
    rows = [_row(tuning, chosen, trials, timed, there, name, own[name], compared[name]) for name in own]
    total = PlanRow(
        "total",
        sum(row.asked for row in rows),
        sum(row.most for row in rows),
        sum(row.least for row in rows),
        sum(row.there for row in rows),
        sum(row.steps for row in rows),
        sum(row.hours_here or 0 for row in rows) if timed else None,
        sum(row.hours_paper for row in rows),
    )
    return Plan(tuple(rows), total, tuple(_notes(tuning, chosen, timing, notes, len(variants))))


def _row(
    tuning: Tuning,
    chosen: Chosen,
    trials: Trials,
    timing: Timing | None,
    there: There,
    name: str,
    variants: Sequence[Variant],
    compared: int,
) -> PlanRow:
    """One axis: ``asked`` counts the base's runs too, which the axis shares with all others."""
    seeds = tuning.tuning.seeds
    runs = [(v, ids, seed) for v in variants for _, ids in chosen.models for seed in seeds]
    to_do = [run for run in runs if not there(*run)]
    steps = [expected_steps(v, ids, trials) for v, ids, _ in to_do]
    here = None
    if timing:
        times = [_seconds(tuning, v, ids, n, trials, timing) for (v, ids, _), n in zip(to_do, steps, strict=True)]
        here = sum(times) / timing.workers / 3600
    paper = TRAINING_HOURS * sum(len(ids) for _, ids, _ in to_do)
    asked = compared * len(chosen.models) * len(seeds)
    return PlanRow(name, asked, len(runs), len(runs), len(runs) - len(to_do), sum(steps), here, paper)


def expected_steps(variant: Variant, ids: Sequence[str], trials: Trials) -> int:
    """Optimiser steps of a pretraining; trials: id -> (all, training) trials."""
    how = variant.settings.train
    return total_steps(how, sum(-(-trials[i][1] // how.batch_size) for i in ids))


def _seconds(tuning: Tuning, variant: Variant, ids: Sequence[str], steps: int, trials: Trials, timing: Timing) -> float:
    """The base's times, in proportion to batch size and shared parameters."""
    base, how = tuning.settings, variant.settings.train
    larger = core_parameters(variant.settings.model, timing.n_bins) / core_parameters(base.model, timing.n_bins)
    scored = sum(whole - training for whole, training in (trials[i] for i in ids)) / 2
    step = timing.step * larger * how.batch_size / base.train.batch_size
    return RUN_SECONDS + steps * step + how.validations * scored * timing.trial * larger


def _notes(
    tuning: Tuning, chosen: Chosen, timing: Timing | EnvironmentProblem, notes: Sequence[str], n_variants: int
) -> list[str]:
    search = tuning.tuning
    how = "all combinations" if search.search == GRID else "one setting at a time around the base"
    lines = [
        f"{n_variants} settings ({how}), each {len(chosen.single)} single-session models and "
        f"{f'one of {len(chosen.together)} sessions' if chosen.together else 'no set'}, seeds "
        f"{', '.join(map(str, search.seeds))}; a pool of {len(chosen.pool)} sessions, {len(chosen.heldout)} held out.",
        *notes,
        "All sets of sessions are known: the numbers are exact. Asked: with the base's runs, which all settings share.",
        "Paper: 1 h a training for each session of its set, whatever the model and the batch.",
    ]
    if isinstance(timing, EnvironmentProblem):
        return [*lines, f"No hours on this machine: {timing}"]
    return [
        *lines,
        f"Here: {timing.step:.3g} s a step of the base, {timing.trial:.2g} s a scored trial of {timing.n_bins} bins "
        f"and {timing.n_units} units, {timing.workers} at a time; other models and batches in proportion to size.",
    ]
