"""What a study consists of: one cell a number of its results, one job a training or evaluation behind it.

Cells and jobs are plain values that can be counted before any recording is there. Equal jobs are one run: a set of
sessions has no order, a prefix of one session is a ranking run, and the set of all sessions is the same in every order.
Before the rankings are known, the session at a place of a ranked order is a placeholder such as ``?ranked heldout 3``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sessionwise.errors import UsageError
from sessionwise.selection.sets import random_order
from sessionwise.study.layout import Layout

UNKNOWN = "\0?"  # begins a placeholder; ids with a zero byte do not occur, ids that begin with "?" may
MANY = 1000  # shuffles of the control with many of them are numbered from here: other draws than the random order's
MATCHED = 2000


@dataclass(frozen=True)
class Job:
    """A training or a final evaluation.

    kind: pretrain, finetune, baseline, psth, glm or evaluate. sessions: sorted ids that it is trained or evaluated on.
    input: the core of a finetuning, the model of an evaluation. like: a set whose number of steps is used instead of
    its own. last: keep the last checkpoint. full: the core is trained too. doubled: twice the steps.
    """

    kind: str
    sessions: tuple[str, ...]
    seed: int
    split_seed: int
    input: Job | None = None
    like: tuple[str, ...] | None = None
    last: bool = False
    full: bool = False
    doubled: bool = False

    @property
    def known(self) -> bool:
        """Whether all of its sessions are known, or still stand for places in a ranking."""
        own = not any(name.startswith(UNKNOWN) for name in (*self.sessions, *(self.like or ())))
        return own and (self.input is None or self.input.known)

    @property
    def chain(self) -> tuple[Job, ...]:
        """The jobs that must be done, inputs first, this one last."""
        return (*(self.input.chain if self.input else ()), self)


@dataclass(frozen=True)
class Cell:
    """One model of a study on one held-out session: a row of the results for each metric.

    size: sessions asked for; sessions: those that it is pretrained on; final: its final evaluation, or None with
    ``missing``, the reason why there is none.
    """

    split_seed: int
    heldout: str
    arm: str
    size: int | None
    seed: int
    draw: int = 0
    variant: str = ""
    sessions: tuple[str, ...] = ()
    final: Job | None = None
    missing: str | None = None


Orders = Mapping[tuple[int, str], Sequence[str]]  # (split seed, held-out) -> ranked sessions, best first


def unknown_orders(layout: Layout) -> dict[tuple[int, str], list[str]]:
    """Placeholders for the rankings that are not there yet."""
    places = range(1, len(layout.pool) + 1)
    return {
        (split, h): [f"{UNKNOWN}ranked {split} {h} {place:04d}" for place in places]
        for split in layout.split_seeds
        for h in layout.heldout
    }


def ranking_jobs(layout: Layout) -> dict[str, list[Job]]:
    """The jobs of the rankings, by what they are for."""
    jobs: dict[str, list[Job]] = {"single-session models": [], "ranking finetunes": [], "baselines": []}
    jobs["random frozen cores"] = []
    for split in layout.split_seeds:
        for seed in layout.seeds:
            singles = [Job("pretrain", (c,), seed, split) for c in layout.pool]
            jobs["single-session models"] += singles
            for h in layout.heldout:
                jobs["ranking finetunes"] += [Job("finetune", (h,), seed, split, core) for core in singles]
                jobs["baselines"].append(Job("baseline", (h,), seed, split))
                jobs["random frozen cores"].append(Job("finetune", (h,), seed, split))
    return jobs


def transfer_jobs(layout: Layout) -> list[Job]:
    """Every core of the pool on every other session of the pool; on held-out sessions the rankings have it."""
    split = layout.recipe.split_seed
    if not layout.recipe.controls.transfer_matrix:
        return []
    return [
        Job("finetune", (target,), seed, split, Job("pretrain", (source,), seed, split))
        for target in layout.pool
        for source in layout.pool
        for seed in layout.seeds
        if source != target
    ]


def cells(layout: Layout, orders: Orders) -> list[Cell]:
    """All cells of a study, in a fixed order; ``orders`` may hold placeholders."""
    found: list[Cell] = []
    for split in layout.split_seeds:
        for h in layout.heldout:
            found += _order_cells(layout, split, h, orders[split, h])
            found += [baseline_cell(split, h, "baseline", seed) for seed in layout.seeds]
            if split == layout.recipe.split_seed:
                found += _reference_cells(layout, h)
                for control in _CONTROLS:
                    found += control(layout, h, orders)
    return found


# Orders ---------------------------------------------------------------------------------------------------------------


def _order_cells(layout: Layout, split: int, h: str, ranked: Sequence[str]) -> Iterator[Cell]:
    for order in layout.recipe.study.orders:
        for size in layout.sizes:
            for draw, seed in _draws(layout, order):
                if order == "random":
                    sequence: Sequence[str] = random_order(layout.pool, split, draw)
                else:
                    sequence = ranked if order == "ranked" else ranked[::-1]
                yield _prefix_cell(layout, split, h, order, sequence, size, seed, draw=draw)


def _draws(layout: Layout, order: str) -> list[tuple[int, int]]:
    """(draw, seed) of an order: one draw and every seed, or shuffle i with seeds[i mod n] (protocol A17)."""
    if order != "random":
        return [(0, seed) for seed in layout.seeds]
    return [(i, layout.seeds[i % len(layout.seeds)]) for i in range(layout.recipe.study.shuffles)]


def _prefix_cell(
    layout: Layout, split: int, h: str, arm: str, sequence: Sequence[str], size: int, seed: int, *, draw: int = 0
) -> Cell:
    """The first ``size`` sessions of an order; all sessions of the pool do not need one."""
    if size == len(layout.pool):
        return set_cell(split, h, arm, layout.pool, size, seed, draw=draw)
    if size > len(sequence):
        reason = f"only {len(sequence)} of {len(layout.pool)} sessions have a rank"
        return Cell(split, h, arm, size, seed, draw, missing=reason)
    return set_cell(split, h, arm, sequence[:size], size, seed, draw=draw)


def set_cell(
    split: int,
    h: str,
    arm: str,
    sessions: Sequence[str],
    size: int,
    seed: int,
    *,
    draw: int = 0,
    variant: str = "",
    change: Callable[[Job], Job] = lambda job: job,
    full: bool = False,
) -> Cell:
    """A set of sessions, pretrained, finetuned on ``h`` and evaluated there; ``change`` alters the pretraining."""
    ids = tuple(sorted(sessions))
    core = change(Job("pretrain", ids, seed, split))
    model = Job("finetune", (h,), seed, split, core, full=full)
    return Cell(split, h, arm, size, seed, draw, variant, ids, Job("evaluate", (h,), seed, split, model))


# One model a held-out session -----------------------------------------------------------------------------------------


def baseline_cell(split: int, h: str, arm: str, seed: int) -> Cell:
    """A model without pretraining: from scratch, with an untrained core, with the baseline's own core, psth or glm."""
    scratch = Job("baseline", (h,), seed, split)
    model = {
        "baseline": scratch,
        "baseline_doubled": replace(scratch, doubled=True),
        "random_core": Job("finetune", (h,), seed, split),
        "own_core": Job("finetune", (h,), seed, split, scratch),
    }.get(arm, Job(arm, (h,), seed, split))
    return Cell(split, h, arm, None, seed, final=Job("evaluate", (h,), seed, split, model))


def _reference_cells(layout: Layout, h: str) -> Iterator[Cell]:
    controls, split = layout.recipe.controls, layout.recipe.split_seed
    for arm in ("random_core", "own_core", "baseline_doubled"):
        if getattr(controls, arm):
            yield from (baseline_cell(split, h, arm, seed) for seed in layout.seeds)
    for arm in layout.recipe.study.references:
        yield baseline_cell(split, h, arm, 0)


# Controls -------------------------------------------------------------------------------------------------------------


def _step_matched(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    """Top and all, each with the steps of both; the last checkpoint is kept, since validations differ too."""
    if not layout.recipe.controls.step_matched:
        return
    split, top = layout.recipe.split_seed, layout.recipe.study.top
    best = _first(layout, orders[split, h], top)
    sets = {top: best, len(layout.pool): layout.pool}
    for size, ids in sets.items():
        for variant, like in (("steps of top", best), ("steps of all", layout.pool)):
            for seed in layout.seeds:
                if ids is None or like is None:
                    yield _no_rank(layout, h, "step_matched", size, seed, variant)
                    continue
                change = _steps_of(tuple(sorted(like)))
                yield set_cell(split, h, "step_matched", ids, size, seed, variant=variant, change=change)


def _steps_of(like: tuple[str, ...]) -> Callable[[Job], Job]:
    return lambda job: replace(job, like=like, last=True)


def _trial_matched(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    """Random sets with about the trials of the ranked set."""
    split = layout.recipe.split_seed
    for size in layout.recipe.controls.trial_matched:
        best = _first(layout, orders[split, h], size)
        for i in range(layout.recipe.study.shuffles):
            seed = layout.seeds[i % len(layout.seeds)]
            if best is None:
                yield _no_rank(layout, h, "trial_matched", size, seed, draw=i)
            else:
                ids = matched_set(layout, h, best, i)
                yield set_cell(split, h, "trial_matched", ids, size, seed, draw=i)


def matched_set(layout: Layout, h: str, ranked: Sequence[str], draw: int) -> list[str]:
    """Sessions in random order up to the number of trials nearest to that of a ranked set."""
    if any(name.startswith(UNKNOWN) for name in ranked):
        return [f"{UNKNOWN}matched {h} {len(ranked)} {draw} {place:04d}" for place in range(len(ranked))]
    wanted = sum(layout.trials[i][0] for i in ranked)
    order, total, gaps = random_order(layout.pool, layout.recipe.split_seed, MATCHED + draw), 0, []
    for name in order:
        total += layout.trials[name][0]
        gaps.append(abs(total - wanted))
    return order[: 1 + gaps.index(min(gaps))]


def _other_targets(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    """The order that the other held-out sessions' rankings give: what is good for others."""
    split = layout.recipe.split_seed
    for size in layout.recipe.controls.other_targets:
        sequence = others_order(layout, h, orders)
        for seed in layout.seeds:
            yield _prefix_cell(layout, split, h, "other_targets", sequence, size, seed)


def others_order(layout: Layout, h: str, orders: Orders) -> list[str]:
    """Sessions by their mean rank for the other held-out sessions; one without a rank counts as last; ties by id."""
    split = layout.recipe.split_seed
    others = [orders[split, other] for other in layout.heldout if other != h]
    if any(name.startswith(UNKNOWN) for order in others for name in order):
        return [f"{UNKNOWN}others {h} {place:04d}" for place in range(len(layout.pool))]
    last = len(layout.pool)
    places = {c: [list(order).index(c) if c in order else last for order in others] for c in layout.pool}
    return sorted(layout.pool, key=lambda c: (sum(places[c]), c))


def _many_shuffles(layout: Layout, h: str, _orders: Orders) -> Iterator[Cell]:
    control, split = layout.recipe.controls.many_shuffles, layout.recipe.split_seed
    for i in range(control.n if control else 0):
        assert control is not None
        sequence, seed = random_order(layout.pool, split, MANY + i), layout.seeds[i % len(layout.seeds)]
        yield _prefix_cell(layout, split, h, "many_shuffles", sequence, control.size, seed, draw=i)


def _fresh_seeds(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    """The best session, pretrained with seeds that took no part in choosing it (protocol B16)."""
    split = layout.recipe.split_seed
    for seed in layout.recipe.controls.fresh_seeds:
        yield _prefix_cell(layout, split, h, "fresh_seeds", orders[split, h], 1, seed)


def _full_finetune(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    split, n_pool = layout.recipe.split_seed, len(layout.pool)
    sizes = [n_pool if size == "all" else size for size in layout.recipe.controls.full_finetune]
    for variant in ("ranked", "reverse_ranked"):
        sequence = orders[split, h][:: 1 if variant == "ranked" else -1]
        for size in sizes:
            ids = layout.pool if size == n_pool else _first(layout, sequence, size)
            if size == n_pool and variant != "ranked":
                continue
            for seed in layout.seeds:
                if ids is None:
                    yield _no_rank(layout, h, "full_finetune", size, seed, variant)
                else:
                    yield set_cell(split, h, "full_finetune", ids, size, seed, variant=variant, full=True)


def _minus_worst(layout: Layout, h: str, orders: Orders) -> Iterator[Cell]:
    split = layout.recipe.split_seed
    for k in layout.recipe.controls.minus_worst:
        size = len(layout.pool) - k
        for seed in layout.seeds:
            cell = _prefix_cell(layout, split, h, "minus_worst", orders[split, h], size, seed)
            yield replace(cell, variant=f"minus {k}")


_CONTROLS = (
    _step_matched,
    _trial_matched,
    _other_targets,
    _many_shuffles,
    _fresh_seeds,
    _full_finetune,
    _minus_worst,
)


def _first(layout: Layout, sequence: Sequence[str], size: int) -> Sequence[str] | None:
    if size == len(layout.pool):
        return layout.pool
    return sequence[:size] if size <= len(sequence) else None


def _no_rank(layout: Layout, h: str, arm: str, size: int, seed: int, variant: str = "", draw: int = 0) -> Cell:
    reason = f"fewer sessions have a rank than the {size} asked for"
    return Cell(layout.recipe.split_seed, h, arm, size, seed, draw, variant, missing=reason)


# Steps ----------------------------------------------------------------------------------------------------------------


def expected_steps(layout: Layout, job: Job) -> float:
    """Optimiser steps of a job; of sets that are not known yet by the pool's mean session."""
    settings = layout.recipe.settings
    if job.kind in ("evaluate", "psth", "glm"):
        return 0.0
    how = {"pretrain": settings.train, "finetune": settings.finetune, "baseline": settings.baseline}[job.kind]
    mean = layout.mean_trials()[1]
    trained = [layout.trials[i][1] if i in layout.trials else mean for i in job.like or job.sessions]
    steps = how.steps or how.epochs * sum(math.ceil(n / how.batch_size) for n in trained)
    return steps * (2 if job.doubled else 1)


def require_no_placeholder(job: Job) -> None:
    """A job becomes a run only when its sessions are known."""
    if not job.known:
        raise UsageError(f"{job.kind} of {job.sessions}", "waits for a ranking", "a finished ranking")
