"""A recipe meets its sessions: which are held out, which are the pool, how large "all" is; every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessionwise.analysis.trial_splits import WORDS
from sessionwise.data.info import SessionInfo
from sessionwise.data.repeated_site import default_heldout, manifest
from sessionwise.data.splits import SplitKind, split_of
from sessionwise.data.store import SessionStore
from sessionwise.errors import DataError, LeakageError, Problems, SessionwiseError, UsageError, raise_all
from sessionwise.selection.pool import choose_pool
from sessionwise.selection.ranking import seed_problems
from sessionwise.study.recipe import Recipe


@dataclass(frozen=True)
class Layout:
    """A recipe with its sessions.

    sizes: as numbers, ascending, "all" included; trials: id -> (all, training) trials; notes: what was left out.
    """

    recipe: Recipe
    heldout: tuple[str, ...]
    pool: tuple[str, ...]
    sizes: tuple[int, ...]
    trials: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = field(default=())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings, in the order of the recipe."""
        return self.recipe.study.seeds

    @property
    def split_seeds(self) -> tuple[int, ...]:
        """The main split first."""
        return (self.recipe.split_seed, *self.recipe.study.split_seeds)

    def mean_trials(self) -> tuple[float, float]:
        """Mean trials (all, training) of a session of the pool: what a session that is not known yet is taken for."""
        pairs = [self.trials[i] for i in self.pool]
        return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def lay_out(recipe: Recipe, sessions: SessionStore) -> Layout:
    """The layout of a study on a store.

    Raises every problem in one answer, leakage first: a held-out session in the pool, by id or by content; unknown
    or repeated ids; sizes beyond the pool; controls that need more than there is.
    """
    heldout, named = _named_sessions(recipe)
    problems: list[SessionwiseError] = []
    pool: list[str] = []
    try:
        pool = choose_pool(sessions, heldout, named)
    except Problems as error:
        problems += error.problems
    except SessionwiseError as error:
        problems.append(error)
    if not pool:  # sizes can still be judged against the pool as it was named
        pool = sorted({i for i in named if i in sessions} if isinstance(named, list) else set(sessions) - {*heldout})
    problems += design_problems(recipe, len(heldout), len(pool))
    infos = {i: sessions.info(i) for i in (*pool, *heldout) if i in sessions}
    trials = split_trials(infos, recipe.split_seed, recipe.split, problems)
    raise_all(problems)
    training, every = (sum(counts) for counts in zip(*((t, n) for n, t in trials.values()), strict=True))
    note = f"Trials are split {WORDS[recipe.split]}: {training:,} of {every:,} are for training."
    notes = () if recipe.split == "random" else (note,)
    return Layout(recipe, tuple(heldout), tuple(pool), whole_sizes(recipe, len(pool)), trials, notes)


def lay_out_manifest(recipe: Recipe) -> Layout:
    """The layout of a study on sessions that are only known by name, for its plan."""
    listed = {entry.eid: entry for entry in manifest() if entry.usable}
    heldout = tuple(recipe.data.heldout) or default_heldout()
    problems: list[SessionwiseError] = [
        UsageError("data.heldout", f"session {i!r} is not in the manifest", "an eid of RepeatedSite")
        for i in heldout
        if i not in listed
    ]
    asked = recipe.data.pool
    if isinstance(asked, str):
        problems.append(UsageError("data.pool", f"filter {asked!r}", "ids, with a manifest and no store"))
        asked = None
    problems += _named_badly(heldout, asked or ())
    pool = tuple(sorted({i for i in (asked or listed) if i not in heldout}))
    problems += [
        UsageError("data.pool", f"session {i!r} is not in the manifest", "an eid of RepeatedSite")
        for i in pool
        if i not in listed
    ]
    problems += design_problems(recipe, len(heldout), len(pool))
    raise_all(problems)
    trials = {i: (listed[i].trials, 8 * listed[i].trials // 10) for i in (*pool, *heldout)}
    notes = tuple(f"Left out: {entry.eid}, {entry.dropped}" for entry in manifest() if entry.dropped)
    if recipe.split != "random":
        notes += (
            f"Trials are split {WORDS[recipe.split]}: 8 of 10 are taken to be for training, which only they tell.",
        )
    return Layout(recipe, heldout, pool, whole_sizes(recipe, len(pool)), trials, notes)


def _named_badly(heldout: Sequence[str], pool: Sequence[str]) -> list[SessionwiseError]:
    """Ids of a plan that are named twice, or as held-out session and as candidate (D35, D37, D45)."""
    problems: list[SessionwiseError] = [
        LeakageError(
            f"session {i!r}", "LEAK: is held out and in the pool", "one of the two", "Take it out of data.pool"
        )
        for i in sorted({*heldout} & {*pool})
    ]
    for where, ids in (("data.heldout", heldout), ("data.pool", pool)):
        if _repeated(ids):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            problems.append(UsageError(where, f"session {twice!r} is named twice", "each session once"))
    return problems


def split_trials(
    infos: Mapping[str, SessionInfo], seed: int, kind: SplitKind, problems: list[SessionwiseError]
) -> dict[str, tuple[int, int]]:
    """Id -> (all, training) trials; a session that cannot be split this way is a problem."""
    trials = {}
    for i, info in infos.items():
        try:
            trials[i] = (info.n_trials, len(split_of(info, seed, kind).train))
        except DataError as error:
            problems.append(error)
    return trials


def whole_sizes(recipe: Recipe, n_pool: int) -> tuple[int, ...]:
    """Sizes as numbers."""
    return tuple(n_pool if size == "all" else size for size in recipe.study.sizes)


def design_problems(recipe: Recipe, n_heldout: int, n_pool: int) -> list[SessionwiseError]:
    """What cannot be meant about orders, sizes, seeds and controls (D44, D45, D49)."""
    study, controls = recipe.study, recipe.controls
    problems = seed_problems(study.seeds) + _size_problems(recipe, n_pool)
    if n_pool < 2:
        problems.append(_problem("data.pool", f"{n_pool} sessions", "at least two to choose from"))
    if not study.orders or _repeated(study.orders):
        problems.append(_problem("study.orders", f"{list(study.orders)}", "each order once, at least one"))
    for name, values in (("references", study.references), ("split_seeds", study.split_seeds)):
        if _repeated(values):
            problems.append(_problem(f"study.{name}", f"{list(values)}", "each once"))
    if recipe.split_seed in study.split_seeds:
        problems.append(_problem("study.split_seeds", f"holds the main split {recipe.split_seed}", "other splits"))
    if study.split_seeds and recipe.split == "recorded":
        found = f"{list(study.split_seeds)} beside split = 'recorded'"
        problems.append(_problem("study.split_seeds", found, "none: the files' own split has no seed"))
    if controls.fresh_seeds and (_repeated(controls.fresh_seeds) or set(controls.fresh_seeds) & set(study.seeds)):
        found = f"{list(controls.fresh_seeds)} beside seeds {list(study.seeds)}"
        problems.append(_problem("controls.fresh_seeds", found, "distinct seeds that took no part in the ranking"))
    if controls.other_targets and n_heldout < 2:
        found = f"{n_heldout} held-out session"
        problems.append(_problem("controls.other_targets", found, "at least two", "Leave this control out"))
    return problems


def _size_problems(recipe: Recipe, n_pool: int) -> list[SessionwiseError]:
    study, controls = recipe.study, recipe.controls
    sizes = whole_sizes(recipe, n_pool)
    problems: list[SessionwiseError] = []
    if not sizes or list(sizes) != sorted(set(sizes)):
        problems.append(_problem("study.sizes", f"{list(study.sizes)}", "ascending sizes, each once"))
    asked: dict[str, Sequence[Any]] = {
        "study.sizes": study.sizes,
        "study.top": (study.top,),
        "controls.trial_matched": controls.trial_matched,
        "controls.other_targets": controls.other_targets,
        "controls.many_shuffles.size": (controls.many_shuffles.size,) if controls.many_shuffles else (),
        "controls.full_finetune": controls.full_finetune,
    }
    for where, values in asked.items():
        for size in values:
            if size != "all" and not 1 <= size <= n_pool:
                problems.append(_problem(where, f"k={size} but {n_pool} candidates", f"1 to {n_pool}"))
    for k in controls.minus_worst:
        if k >= n_pool:
            problems.append(_problem("controls.minus_worst", f"{k} of {n_pool} candidates", f"1 to {n_pool - 1}"))
    if study.top not in sizes or study.top == n_pool:
        needed = f"one of the sizes below {n_pool}: {', '.join(str(size) for size in sizes if size < n_pool)}"
        problems.append(_problem("study.top", f"{study.top}", needed, f"For example top = {_middle(sizes, n_pool)}"))
    for where, values in list(asked.items())[2:]:
        if _repeated(values):
            problems.append(_problem(where, f"{list(values)}", "each size once"))
    return problems


def _middle(sizes: Sequence[int], n_pool: int) -> int:
    below = [size for size in sizes if size < n_pool]
    return below[-1] if below else 1


def _repeated(values: Sequence[Any]) -> bool:
    return len(set(values)) < len(values)


def _problem(where: str, found: str, needed: str, remedy: str = "") -> UsageError:
    return UsageError(f"recipe: {where}", found, needed, remedy)


def _named_sessions(recipe: Recipe) -> tuple[list[str], str | list[str] | None]:
    """Held-out sessions and pool as the recipe names them; what it leaves out is its manifest's, if it has one."""
    heldout, pool = recipe.data.heldout, recipe.data.pool
    if recipe.data.manifest is not None:
        heldout = heldout or default_heldout()
        if pool is None:
            pool = tuple(entry.eid for entry in manifest() if entry.usable and entry.eid not in heldout)
    return list(heldout), list(pool) if isinstance(pool, tuple) else pool
