"""The search for settings (the paper's A.2): pretrainings on sessions of the pool, scored on their validation trials.

    variants x (single-session models + one set) x seeds  -->  runs  -->  tuning.csv, tuning.json, tuning.md

Held-out sessions take no part, and no test trial is opened: all runs are pretrainings. What is stored is not computed
again, and a folder holds one search.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.results import STUDY_FILE
from sessionwise.data.store import open_store
from sessionwise.errors import Problems, SessionwiseError, raise_all
from sessionwise.io.code import code_version
from sessionwise.io.files import canonical_json, read_sealed, sealed_files, write_bytes, write_json
from sessionwise.runs.launch import Outcome, execute, pending
from sessionwise.runs.progress import Progress
from sessionwise.runs.store import RunStore
from sessionwise.selection.ranking import cost
from sessionwise.study.folder import beside, refuse_other_content
from sessionwise.study.recipe import changed, read_recipe_file
from sessionwise.study.tuning_page import JSON_FILE, SCHEMA, page, runs_csv, tuning_failures, tuning_table
from sessionwise.study.tuning_plan import plan_tuning
from sessionwise.study.tuning_recipe import Tuning, is_tuning, make_tuning, nested_grid, try_tuning
from sessionwise.study.tuning_scores import Fit, choose, compare, fitted, row_of, score_variant
from sessionwise.study.tuning_sessions import (
    Prepared,
    choose_sessions,
    lay_out_tuning,
    search_identity,
    search_refusals,
)
from sessionwise.training.jobs import WORK, environment
from sessionwise.training.precision import say_precision
from sessionwise.training.resources import needs, refuse_what_cannot_fit, shape_of

__all__ = [
    "Tuning",
    "is_tuning",
    "load_tuning",
    "make_tuning",
    "plan_tuning",
    "run_tuning",
    "tuning_failures",
    "tuning_table",
]

CSV_FILE, PAGE_FILE, TIMING_FILE = "tuning.csv", "tuning.md", "timing.json"
SCORE = (
    "Bits per spike on validation trials of pool sessions, mean over the sessions of a scope and over the scopes; "
    "the checkpoint is cross-fitted (chosen on one half of the trials, scored on the other). The settings are chosen "
    "on these same trials, so the score of the best one is optimistic."
)


def load_tuning(path: str | Path, changes: Sequence[str] = (), store: str | Path | None = None) -> Tuning:
    """Read a search for settings; everything that is wrong is named in one answer, leakage first.

    changes: ``section.key=value`` as TOML writes the value, for example ``tuning.grid.train.lr=[1e-3, 2e-3]``. store:
    the folder of the sessions, instead of the recipe's; it is looked at when the recipe has other problems.
    """
    value, where = read_recipe_file(path), str(path)
    tuning, problems = try_tuning(changed({**value, **nested_grid(value, where)}, changes), where)
    place = store or (tuning.data.store if tuning else None)
    if problems and tuning and place and tuning.data.simulate is None:
        try:
            choose_sessions(tuning, open_store(place))
        except Problems as error:
            problems += error.problems
        except SessionwiseError as error:
            problems.append(error)
    raise_all(problems)
    assert tuning is not None
    return tuning


def run_tuning(
    tuning: Tuning,
    to: str | Path,
    *,
    store: str | Path | None = None,
    on: str = "processes",
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Path:
    """Run a search in the folder ``to``, or go on with it; returns the folder when its results are written.

    store: the folder of the sessions, instead of the recipe's. The other parameters are those of ``rank_many``.
    Raises every problem of the sessions at once, LeakageError before others, and UsageError for a folder that holds
    another search (D50) or something else (D51).
    """
    folder, started = Path(to), time.monotonic()
    search = prepare(tuning, folder, store)
    fits, runs = search.fits(), RunStore(folder / "runs")
    specs = list({fit.spec.key: fit.spec for fit in fits}.values())
    missing = pending(specs, runs, retry_failed)
    infos = {i: search.sessions.info(i) for i in search.chosen.used}
    refuse_what_cannot_fit(needs(shape_of(spec, infos) for spec in missing), folder, on)
    say_precision(specs, progress)
    outcomes = execute(specs, runs, WORK, on=on, progress=progress, retry_failed=retry_failed)
    with sealed_files(folder, keep=True):
        write_tuning(search, fits, folder, runs, outcomes)
    about = {
        "added": cost(missing, runs, search.sessions),
        "collected_by": environment(),
        "seconds": time.monotonic() - started,
    }
    write_json(folder / TIMING_FILE, about)
    return folder


def prepare(tuning: Tuning, folder: Path, store: str | Path | None = None) -> Prepared:
    """The search on its sessions, with ``study.json`` written; everything that can be refused is refused here."""
    problems = search_refusals(tuning, folder)
    if tuning.data.simulate is not None:
        raise_all(problems)  # before sessions are made in the folder
    with beside(problems):
        search = lay_out_tuning(tuning, folder, store)
    known = read_sealed(folder / STUDY_FILE) if (folder / STUDY_FILE).exists() else None
    document = _document(search, search_identity(tuning))
    if known is not None:
        refuse_other_content(folder, known["sessions"], document["sessions"])
    else:
        with sealed_files(folder, keep=True):
            write_json(folder / STUDY_FILE, document)
    return search


def _document(search: Prepared, identity: Mapping[str, Any]) -> dict[str, Any]:
    tuning, chosen = search.tuning, search.chosen
    data = {i: search.sessions.load(i, tuning.split_seed, tuning.split) for i in chosen.used}
    return {
        "schema": SCHEMA,
        "kind": "tuning",
        "name": tuning.name,
        "identity": dict(identity),
        "code": code_version(),
        "heldout": list(chosen.heldout),
        "pool": list(chosen.pool),
        "n_pool": len(chosen.pool),
        "single": list(chosen.single),
        "set": list(chosen.together),
        "seeds": list(tuning.tuning.seeds),
        "split_seed": tuning.split_seed,
        "split": tuning.split,
        "preset": tuning.preset,
        "settings": tuning.settings.model_dump(mode="json"),
        "search": tuning.tuning.search,
        "n_variants": len(search.variants),
        "sessions": {
            i: {"n_trials": d.meta.n_trials, "n_units": d.n_units, "trainval_hash": d.trainval_hash}
            for i, d in data.items()
        },
        "splits": {i: {name: len(getattr(d.split, name)) for name in ("train", "validation")} for i, d in data.items()},
    }


# Results --------------------------------------------------------------------------------------------------------------


def write_tuning(
    search: Prepared, fits: Sequence[Fit], folder: Path, store: RunStore, outcomes: Mapping[str, Outcome]
) -> None:
    """Write tuning.csv, tuning.json and tuning.md: a pure function of stored runs, so the same runs, the same bytes."""
    tuning, seeds = search.tuning, list(search.tuning.tuning.seeds)
    used = search.chosen.used
    sizes = {i: len(search.sessions.load(i, tuning.split_seed, tuning.split).split.validation) for i in used}
    n_bins = search.sessions.info(search.chosen.used[0]).n_bins
    found = [fitted(fit, outcomes[fit.spec.key], store, sizes) for fit in fits]
    scored = {
        v.name: score_variant(v, [one for one in found if one.fit.variant.name == v.name], seeds, sizes, n_bins)
        for v in search.variants
    }
    compare(scored, tuning.split_seed)
    n_trials = sum(sizes.values())
    choices = [choose(axis, scored, len(seeds), n_trials) for axis in search.axes]
    results = [store.result(fit.spec.key) for fit in fits if outcomes[fit.spec.key].state in ("done", "diverged")]
    environments = {canonical_json(r["environment"]): r["environment"] for r in results}
    document = {
        "schema": SCHEMA,
        "name": tuning.name,
        "preset": tuning.preset,
        "score": SCORE,
        "seeds": seeds,
        "single": list(search.chosen.single),
        "set": list(search.chosen.together),
        "n_validation_trials": n_trials,
        "base": tuning.settings.model_dump(mode="json"),
        "variants": [scored[v.name].entry for v in search.variants],
        "choices": choices,
        "cost": cost([fit.spec for fit in fits], store, search.sessions),
        "environments": [environments[name] for name in sorted(environments)],
    }
    write_json(folder / JSON_FILE, document)
    write_bytes(folder / CSV_FILE, runs_csv([row_of(one, n_bins) for one in found]))
    write_bytes(folder / PAGE_FILE, page(document).encode())
