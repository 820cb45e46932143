"""The plan of a study: what it consists of and what that costs, before anything is trained.

Runs are counted as jobs, which are equal when their content is. Sets of sessions that wait for a ranking are counted
twice: as if no two of them were equal ("at most"), and in the case of fewest runs ("at least"): the rankings of all
held-out sessions agree, and their first and last sessions are random sets that are trained anyway. ``docs/plan.md``
derives the numbers of the paper's study by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sessionwise.study.cells import (
    UNKNOWN,
    Cell,
    Job,
    Orders,
    cells,
    expected_steps,
    ranking_jobs,
    transfer_jobs,
    unknown_orders,
)
from sessionwise.study.layout import Layout
from sessionwise.study.timing import RUN_SECONDS, Timing

# The paper's unit costs on one A40 or L40, hours (protocol A11): a training per session of its set (84 are 3.5 days),
# a finetuning of stitchers. Finetuning the core too makes the same passes with all weights trained: a training.
TRAINING_HOURS = 1.0
FINETUNING_HOURS = 20 / 60

ALL = "all sessions"
FINALS = "final evaluations"
_BEST = f"{UNKNOWN}best"  # the session at a place of the one order that all rankings have in the case of fewest runs
MATCHED_BY_TRIALS = f"{UNKNOWN}matched "
_HEADER = ("what", "asked", "at most", "at least", "there", "steps", "h here", "h paper")


@dataclass(frozen=True)
class PlanRow:
    """One purpose of a plan.

    asked: cells that need such a run (of the ranking: its jobs). most, least: distinct runs that no earlier purpose
    has. there: of these, stored already. steps, hours_here, hours_paper: of what is not there, at most; hours_here is
    None without a timing.
    """

    purpose: str
    asked: int
    most: int
    least: int
    there: int
    steps: float
    hours_here: float | None
    hours_paper: float


@dataclass(frozen=True)
class Plan:
    """Rows by purpose, their sum, and lines to read below the table."""

    rows: tuple[PlanRow, ...]
    total: PlanRow
    notes: tuple[str, ...]
    columns: tuple[str, ...] = _HEADER
    right: tuple[str, ...] = _HEADER[1:]

    def row(self, purpose: str) -> PlanRow:
        """The row of a purpose."""
        return {row.purpose: row for row in self.rows}[purpose]

    def table(self) -> list[list[str]]:
        """Cells of the table for ``columns``, the sum last."""
        return [_cells_of(row) for row in (*self.rows, self.total)]


def plan(
    layout: Layout,
    orders: Orders | None = None,
    stored: Callable[[Job], bool] | None = None,
    timing: Timing | None = None,
) -> Plan:
    """The plan of a study.

    Parameters
    ----------
    layout: the recipe with its sessions.
    orders: (split seed, held-out) -> ranking, of those that are known; with all of them the numbers are exact.
    stored: whether the run of a job is there; by default none is.
    timing: what a step takes on this machine; by default hours here are left out.
    """
    known = {**unknown_orders(layout), **(orders or {})}
    asked = _asked(layout, known)
    owner = _owners(layout, asked)
    fewest = _fewest(layout, known, owner)
    rows, saved = [], [0.0, 0.0]
    for purpose, jobs in asked.items():
        own = [job for job in dict.fromkeys(jobs) if owner.get(job) == purpose]
        there = {job for job in own if stored is not None and job.known and stored(job)}
        row = _row(layout, purpose, len(jobs), [job for job in own if job not in there], timing)
        rows.append(replace(row, most=len(own), least=sum(job in fewest for job in own), there=len(there)))
        spared = _row(layout, purpose, 0, [job for job in own if job not in fewest], timing)
        saved = [saved[0] + (spared.hours_here or 0), saved[1] + spared.hours_paper]
    total = _total(rows)
    return Plan(tuple(rows), total, tuple(_notes(layout, rows, total, saved, timing)))


def distinct_jobs(layout: Layout, orders: Orders | None = None) -> list[Job]:
    """All runs of a study, each once, at most: with ``orders`` (the rankings that are known) fewer are unknown."""
    return list(_owners(layout, _asked(layout, {**unknown_orders(layout), **(orders or {})})))


# Purposes -------------------------------------------------------------------------------------------------------------


def _asked(layout: Layout, orders: Orders) -> dict[str, list[Job]]:
    """Every job that the study asks for, by purpose, as often as it asks."""
    asked: dict[str, list[Job]] = defaultdict(list, ranking_jobs(layout))
    for what in (*layout.recipe.study.orders, ALL):
        asked[f"multi-session models, {what}"], asked[f"finetunes, {what}"] = [], []
    finals = []
    for cell in cells(layout, orders):
        if cell.final is not None:
            *models, final = _simplified(layout, cell.final).chain
            finals.append(final)
            for job in models:
                asked[_purpose(layout, cell, job)].append(job)
    asked["transfer matrix"] += transfer_jobs(layout)
    return {purpose: jobs for purpose, jobs in {**asked, FINALS: finals}.items() if jobs}


def _simplified(layout: Layout, job: Job) -> Job:
    """A job without what changes nothing under the recipe's settings, so that equal runs are equal jobs."""
    settings = layout.recipe.settings
    return replace(
        job,
        like=None if settings.train.steps else job.like,
        last=job.last and settings.train.keep != "last",
        full=job.full and settings.finetune.freeze_core,
        input=_simplified(layout, job.input) if job.input else None,
    )


def _purpose(layout: Layout, cell: Cell, job: Job) -> str:
    own = {"psth": "psth", "glm": "glm", "random_core": "random frozen cores", "baseline_doubled": "baselines, doubled"}
    if cell.arm in own:
        return own[cell.arm]
    if job.kind == "baseline":
        return "baselines"
    what = cell.arm
    if what in layout.recipe.study.orders and cell.size == len(layout.pool):
        what = ALL
    models = "single-session" if what == "fresh_seeds" else "multi-session"
    return f"{models} models, {what}" if job.kind == "pretrain" else f"finetunes, {what}"


# Identity -------------------------------------------------------------------------------------------------------------


def _owners(layout: Layout, asked: Mapping[str, Sequence[Job]]) -> dict[Job, str]:
    """The distinct jobs, each with the first purpose that names it.

    A set of one unknown session whose job is there for each session of the pool is none of its own: whichever session
    it turns out to be, its job is known.
    """
    owner: dict[Job, str] = {}
    for purpose, jobs in asked.items():
        for job in jobs:
            owner.setdefault(job, purpose)
    for job in [job for job in owner if len(_unknown(job)) == 1]:
        (place,) = _unknown(job)
        if all(_with_sessions(job, {place: session}) in owner for session in layout.pool):
            del owner[job]
    return owner


def _fewest(layout: Layout, orders: Orders, owner: Mapping[Job, str]) -> set[Job]:
    """Of distinct jobs, those that are left in the case of fewest runs; no rankings need fewer.

    One pair of sets is chosen for each size: the first and the last sessions of the order that all rankings share.
    The two differ, and overlap as their size demands. Sets by the order of other held-out sessions, and by numbers of
    trials, may be any other set.
    """
    names = _best_names(layout, orders)
    left = {job for job in owner if job.known}
    structures = {_structure(job, sized) for job in left for sized in (False, True)}
    shared: dict[Job, Job] = {}
    free: list[Job] = []
    for job in owner:
        if not job.known and _from_ranking(job, names):
            shared.setdefault(_with_sessions(job, names), job)
        elif not job.known:
            free.append(job)
    found = _coincidences(layout, shared, left)
    left |= {job for best, job in shared.items() if best not in found}
    structures |= {_structure(job, sized) for job in shared for sized in (False, True)}
    for job in free:
        structure = _structure(job, not any(name.startswith(MATCHED_BY_TRIALS) for name in _unknown(job)))
        if structure not in structures:
            structures.add(structure)
            left.add(job)
    return left


def _best_names(layout: Layout, orders: Orders) -> dict[str, str]:
    """Placeholders of single rankings -> placeholders of the order that they share."""
    return {
        name: f"{_BEST} {split} {place:04d}"
        for (split, _), order in orders.items()
        for place, name in enumerate(order, start=1)
        if name.startswith(UNKNOWN)
    }


def _coincidences(layout: Layout, shared: Iterable[Job], known: set[Job]) -> set[Job]:
    """Jobs on the first or last sessions of the shared order that are known jobs, when their sets are chosen well."""
    groups: dict[tuple[int, int], dict[tuple[str, ...], list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in shared:
        places = tuple(sorted(_unknown(job)))
        groups[job.split_seed, len(places)][places].append(job)
    trained: dict[tuple[int, int], set[tuple[str, ...]]] = defaultdict(set)
    for job in known:
        if job.kind == "pretrain":
            trained[job.split_seed, len(job.sessions)].add(job.sessions)
    found: set[Job] = set()
    for asked, by_places in groups.items():
        tables = [_matches(jobs, places, trained[asked], known) for places, jobs in sorted(by_places.items())]
        found |= _best_pair(tables, asked[1], len(layout.pool))
    return found


def _matches(
    jobs: Sequence[Job], places: Sequence[str], sets: Iterable[tuple[str, ...]], known: set[Job]
) -> dict[tuple[str, ...], set[Job]]:
    """Set of sessions -> the jobs that are known if the places hold it."""
    table: dict[tuple[str, ...], set[Job]] = {}
    for sessions in sorted(sets):
        names = dict(zip(places, sessions, strict=True))
        if matched := {job for job in jobs if _with_sessions(job, names) in known}:
            table[sessions] = matched
    return table


def _best_pair(tables: Sequence[Mapping[tuple[str, ...], set[Job]]], size: int, n_pool: int) -> set[Job]:
    """The most known jobs that the first sessions (one table), or the first and the last (two), can have at once."""
    best: set[Job] = max((found for table in tables for found in table.values()), key=len, default=set())
    if len(tables) == 2:
        overlap = max(0, 2 * size - n_pool)
        for first, a in tables[0].items():
            for last, b in tables[1].items():
                if len(a) + len(b) > len(best) and len({*first} & {*last}) == overlap:
                    best = a | b
    return best


def _unknown(job: Job) -> set[str]:
    """The placeholders of a job and of its inputs."""
    own = {name for name in (*job.sessions, *(job.like or ())) if name.startswith(UNKNOWN)}
    return own | (_unknown(job.input) if job.input else set())


def _from_ranking(job: Job, names: Mapping[str, str]) -> bool:
    return all(name in names for name in _unknown(job))


def _with_sessions(job: Job, names: Mapping[str, str]) -> Job:
    """The job with other sessions in the places of some."""

    def other(sessions: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(names.get(name, name) for name in sessions))

    return replace(
        job,
        sessions=other(job.sessions),
        like=None if job.like is None else other(job.like),
        input=_with_sessions(job.input, names) if job.input else None,
    )


def _structure(job: Job, sized: bool) -> Job:
    """What is left of a job when it does not matter which sessions its pretraining has, or not even how many."""
    if job.kind == "pretrain":
        return replace(job, sessions=(f"{UNKNOWN}any",) * (len(job.sessions) if sized else 1))
    return replace(job, input=_structure(job.input, sized) if job.input else None)


# Costs ----------------------------------------------------------------------------------------------------------------


def paper_hours(job: Job) -> float:
    """What a job costs in the paper's units; evaluations and the references are counted as nothing."""
    if job.kind == "pretrain":
        return TRAINING_HOURS * len(job.like or job.sessions)
    if job.kind == "baseline" or (job.kind == "finetune" and job.full):
        return TRAINING_HOURS * (2 if job.doubled else 1)
    return FINETUNING_HOURS if job.kind == "finetune" else 0.0


def seconds(layout: Layout, job: Job, timing: Timing) -> float:
    """What a job takes on one worker: steps, validations, and what is around them; the references are not timed."""
    if job.kind in ("psth", "glm"):
        return 0.0
    trials = [layout.trials.get(name, layout.mean_trials()) for name in job.sessions]
    scored = sum(whole - training for whole, training in trials) / 2  # validation and test trials are as many
    settings = layout.recipe.settings
    if job.kind == "evaluate":
        return RUN_SECONDS + scored * timing.trial
    how = {"pretrain": settings.train, "finetune": settings.finetune, "baseline": settings.baseline}[job.kind]
    frozen = job.kind == "finetune" and settings.finetune.freeze_core and not job.full
    step = timing.frozen_step if frozen else timing.step
    return RUN_SECONDS + expected_steps(layout, job) * step + how.validations * scored * timing.trial


def _row(layout: Layout, purpose: str, asked: int, to_do: Sequence[Job], timing: Timing | None) -> PlanRow:
    steps = sum(expected_steps(layout, job) for job in to_do)
    here = sum(seconds(layout, job, timing) for job in to_do) / timing.workers / 3600 if timing else None
    return PlanRow(purpose, asked, 0, 0, 0, steps, here, sum(paper_hours(job) for job in to_do))


def _total(rows: Sequence[PlanRow]) -> PlanRow:
    here = [row.hours_here for row in rows if row.hours_here is not None]
    return PlanRow(
        "total",
        sum(row.asked for row in rows),
        sum(row.most for row in rows),
        sum(row.least for row in rows),
        sum(row.there for row in rows),
        sum(row.steps for row in rows),
        sum(here) if here else None,
        sum(row.hours_paper for row in rows),
    )


# Words ----------------------------------------------------------------------------------------------------------------


def _notes(
    layout: Layout, rows: Sequence[PlanRow], total: PlanRow, saved: Sequence[float], timing: Timing | None
) -> Iterable[str]:
    study = layout.recipe.study
    yield (
        f"{len(layout.heldout)} held-out sessions, {len(layout.pool)} sessions in the pool, seeds "
        f"{', '.join(map(str, study.seeds))}, sizes {', '.join(map(str, layout.sizes))}, {study.shuffles} random orders"
    )
    yield from layout.notes
    if total.most > total.least:
        hours = [f"{_hours(saved[1])} h in the paper's unit costs"]
        hours += [f"{_hours(saved[0])} h here"] if timing else []
        yield (
            f"At most {total.most - total.least:,} of {total.most:,} runs ({', '.join(hours)}) can be saved by "
            "identity: equal sets of sessions are one run, and which are equal is known with the rankings."
        )
    else:
        yield "All sets of sessions are known: the numbers are exact."
    yield "Asked: cells that need such a run. Steps and hours: of what is not there, at most."
    yield (
        "Paper: 1 h a training for each session of its set, 20 min a finetuning (1 h with a trained core), "
        "0 an evaluation."
    )
    if timing:
        yield (
            f"Here: {timing.step:.3g} s a step, {timing.frozen_step:.3g} s with a frozen core, {timing.trial:.2g} s a "
            f"scored trial of {timing.n_bins} bins and {timing.n_units} units, {timing.workers} at a time."
        )
    if any(row.purpose in study.references for row in rows):
        yield "The references psth and glm are not timed."


def _cells_of(row: PlanRow) -> list[str]:
    here = "-" if row.hours_here is None else _hours(row.hours_here)
    counts = [f"{n:,}" for n in (row.asked, row.most, row.least, row.there)]
    return [row.purpose, *counts, f"{row.steps:,.0f}", here, _hours(row.hours_paper)]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
