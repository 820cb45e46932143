"""The sessions of a search for settings: of the pool only, drawn before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessionwise.analysis.results import STUDY_FILE
from sessionwise.data.repeated_site import default_heldout, manifest
from sessionwise.data.store import SessionStore
from sessionwise.errors import LeakageError, Problems, SessionwiseError, UsageError, raise_all
from sessionwise.io.files import MANIFEST
from sessionwise.runs.spec import CODE_SCHEMA
from sessionwise.selection.pool import choose_pool, is_filter, unknown_or_repeated
from sessionwise.selection.sets import random_order
from sessionwise.study.folder import folder_problems
from sessionwise.study.scaling import study_sessions
from sessionwise.study.tuning_recipe import Axis, Tuning, Variant, variants_of
from sessionwise.study.tuning_scores import SET, SINGLE, Fit
from sessionwise.training.jobs import pretrain_spec
from sessionwise.training.presets import nearest

_FILES = {STUDY_FILE, "tuning.csv", "tuning.json", "tuning.md", "timing.json", "runs", "store", MANIFEST}


@dataclass(frozen=True)
class Chosen:
    """The sessions of a search: ids of held-out sessions, of the pool, of the single-session models and of the set."""

    heldout: tuple[str, ...]
    pool: tuple[str, ...]
    single: tuple[str, ...]
    together: tuple[str, ...]

    @property
    def models(self) -> list[tuple[str, tuple[str, ...]]]:
        """(scope, sessions) of each model that is trained once a seed and variant."""
        singles = [(SINGLE, (i,)) for i in self.single]
        return [*singles, (SET, self.together)] if self.together else list(singles)

    @property
    def used(self) -> list[str]:
        """All sessions that are trained on, sorted."""
        return sorted({*self.single, *self.together})


@dataclass(frozen=True)
class Prepared:
    """A search on its sessions."""

    tuning: Tuning
    sessions: SessionStore
    chosen: Chosen
    variants: tuple[Variant, ...]
    axes: tuple[Axis, ...]

    def fits(self) -> list[Fit]:
        """Every pretraining of the search."""
        return [
            Fit(v, scope, ids, seed, pretrain_spec(self.sessions, ids, v.settings, seed))
            for v in self.variants
            for scope, ids in self.chosen.models
            for seed in self.tuning.tuning.seeds
        ]


def search_identity(tuning: Tuning) -> dict[str, Any]:
    """What makes two searches the same."""
    return {"kind": "tuning", "recipe": tuning.identity(), "code_schema": CODE_SCHEMA}


def search_refusals(tuning: Tuning, folder: Path) -> list[SessionwiseError]:
    """Why a search cannot be in a folder: another search (D50), foreign files (D51); reads only."""
    return folder_problems(folder, search_identity(tuning), _FILES)


def lay_out_tuning(tuning: Tuning, folder: Path, store: str | Path | None) -> Prepared:
    """The search on its sessions; simulated ones are made in ``folder``."""
    variants, axes = variants_of(tuning)
    sessions, recipe = study_sessions(tuning.as_recipe(), folder, store)
    tuning = tuning.model_copy(update={"data": recipe.data})
    return Prepared(tuning, sessions, choose_sessions(tuning, sessions), tuple(variants), tuple(axes))


def choose_sessions(tuning: Tuning, sessions: SessionStore) -> Chosen:
    """The pool, and of it the sessions that are searched on; every problem at once, leakage first."""
    heldout, pool = tuning.data.heldout, tuning.data.pool
    if tuning.data.manifest is not None:
        heldout = heldout or default_heldout()
        if pool is None:
            pool = tuple(entry.eid for entry in manifest() if entry.usable and entry.eid not in heldout)
    asked = list(pool) if isinstance(pool, tuple) else pool
    problems: list[SessionwiseError] = []
    ids: list[str] = []
    try:
        ids = choose_pool(sessions, heldout, asked) if heldout else _whole_pool(sessions, asked)
    except Problems as error:
        problems += error.problems
    except SessionwiseError as error:
        problems.append(error)
    known = ids or sorted({*sessions.ids} - {*heldout})  # what is asked can be judged although the pool cannot
    chosen = draw_sessions(tuning, heldout, known, problems)
    raise_all(problems)
    return chosen


def draw_sessions(
    tuning: Tuning, heldout: Sequence[str], pool: Sequence[str], problems: list[SessionwiseError]
) -> Chosen:
    """The first sessions of the pool's random order for the set, and of these the first ones for single models."""
    search = tuning.tuning
    order = random_order(pool, tuning.split_seed, 0)
    if isinstance(search.single, int):
        single = tuple(order[: search.single])
        asked = {"tuning.single": search.single, "tuning.set_size": search.set_size}
    else:
        single = search.single
        asked = {"tuning.set_size": search.set_size}
        problems += _named_problems(single, heldout, pool)
    for where, n in asked.items():
        if n > len(pool):
            problems.append(UsageError(f"recipe: {where}", f"{n} of {len(pool)} sessions", f"0 to {len(pool)}"))
    return Chosen(tuple(heldout), tuple(pool), single, tuple(sorted(order[: search.set_size])))


def _named_problems(single: Sequence[str], heldout: Sequence[str], pool: Sequence[str]) -> list[SessionwiseError]:
    problems: list[SessionwiseError] = []
    for i in dict.fromkeys(single):
        if i in heldout:
            found, needed = f"LEAK: held-out session {i} is searched on", "sessions of the pool"
            problems.append(LeakageError("recipe: tuning.single", found, needed, "Leave it out"))
        elif i not in pool:
            found = f"session {i!r} is not in the pool"
            problems.append(UsageError("recipe: tuning.single", found, "ids of the pool", nearest(i, pool)))
        if single.count(i) > 1:
            problems.append(UsageError("recipe: tuning.single", f"session {i!r} is named twice", "each id once"))
    return problems


def _whole_pool(sessions: SessionStore, asked: str | list[str] | None) -> list[str]:
    """The pool when nothing is held out."""
    if asked is None:
        return sorted(sessions.ids)
    if isinstance(asked, str) and is_filter(asked):
        return sorted(sessions.filter(asked).ids)
    names = [name.strip() for name in asked.split(",") if name.strip()] if isinstance(asked, str) else asked
    raise_all(unknown_or_repeated(sessions, names, "recipe: data.pool"))
    return sorted(names)
