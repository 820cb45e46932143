"""A recommendation for one recording: these sessions, with what they gain and why, or that it makes no difference.

    budget --> search (small cores, then the contested) --> judgement (noise, size, likeness) --> the k best
      --> gains over the recording alone and over everything --> answer, page, and on request the model

Everything is measured on training and validation trials of the held-out session; test trials stay sealed. The k best
are the answer whatever the judgement: it says whether they are more than a guess.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.activity import Quality, quality
from sessionwise.analysis.judging import Judgement, judge
from sessionwise.analysis.pictures import find_picture, keep_picture
from sessionwise.analysis.recommendation import JSON_FILE, SCHEMA, write_recommendation
from sessionwise.data.leakage import neighbours
from sessionwise.data.store import SessionStore
from sessionwise.io.files import canonical_json, folder_name, sealed_files, sha256_bytes, write_json
from sessionwise.runs.launch import time_spent
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.pool import choose_pool
from sessionwise.selection.ranking import (
    DEFAULT_SEEDS,
    MIN_TRIALS_TO_JUDGE,
    asked_settings,
    choosing_half,
    cost,
    facts_of,
    make_plan,
    provenance_of,
    seed_problems,
    study_problems,
    truth_of,
)
from sessionwise.selection.zero_training import combined, similarities
from sessionwise.study.budget import Budget, parse_budget, settle_budget
from sessionwise.study.deliver import deliver as deliver_model
from sessionwise.study.gains import Arm, alone_arm, difference, set_arm
from sessionwise.study.search import FILTER, clearly_bad, operations_of, search, small
from sessionwise.training.jobs import environment
from sessionwise.training.presets import Settings

K, BUDGET = 5, "50%"
THESE, ALONE, EVERYTHING = "these sessions", "the recording alone", "all of the pool"
USE = "frozen core, new stitchers"
_NOTHING = {"mean": None, "low": None, "high": None, "level": 0.95}


@dataclass(frozen=True)
class Recommendation:
    """The answer; ``document`` is what ``recommendation.json`` holds, ``folder`` where it lies with its page."""

    document: Mapping[str, Any]
    folder: Path

    @property
    def sessions(self) -> list[str]:
        """What to pretrain on, best first."""
        return list(self.document["answer"]["sessions"])

    @property
    def kind(self) -> str:
        """What the answer is worth: "sessions", "size only", "no difference" ... (see docs/recommend.md)."""
        return str(self.document["answer"]["kind"])


def recommend(
    sessions: SessionStore,
    heldout: str,
    *,
    budget: str = BUDGET,
    k: int = K,
    pool: str | Sequence[str] | None = None,
    preset: str = "small",
    seeds: Sequence[int] = DEFAULT_SEEDS,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    to: str | Path = "sessionwise-study",
    deliver: bool = False,
    on: str = "processes",
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Recommendation:
    """Recommend sessions of the pool to pretrain on for one held-out session.

    budget: ``"50%"`` of the full procedure's operations, ``"5000-steps"`` or ``"2h"``. k: how many sessions to choose.
    deliver: also train and keep the model that validation prefers, outside the budget. The other parameters, and what
    is raised, are those of ``rank_many``; UsageError also when the budget does not pay small cores for every session.
    """
    parse_budget(budget)
    study, started = Path(to), time.monotonic()
    settings, problems = asked_settings(preset, overrides)
    problems += seed_problems(seeds) + study_problems(study, sessions)
    chosen_pool = choose_pool(sessions, [heldout], pool, problems)
    context = Context(sessions, settings, tuple(sorted(seeds)), (heldout,), study, on, progress, retry_failed)
    folder = recommendation_folder(context, heldout, chosen_pool, budget, k, deliver)
    full = make_plan(sessions, heldout, chosen_pool, settings, context.seeds).specs
    settled = settle_budget(budget, full, sessions, heldout, settings, folder, on)
    answer = _Answer(heldout, chosen_pool, min(k, len(chosen_pool)), settled, context)
    document = answer.document()
    with sealed_files(folder, keep=True):
        if deliver:
            document["delivered"] = deliver_model(heldout, document["answer"]["sessions"], context, folder)
        write_json(folder / JSON_FILE, document)
        data = context.load(heldout)
        keep_picture(folder, sessions.session(heldout), data.split, data.trainval_hash)
    write_recommendation(folder, document, find_picture(study, document))
    seconds = time.monotonic() - started
    added = cost([spec for key, spec in context.asked.items() if key in context.missing], context.store, sessions)
    work = time_spent(context.outcomes.values(), on, seconds)
    about = {"seconds": seconds, "added": added, "work": work, "collected_by": environment()}
    write_json(folder / "timing.json", about)
    return Recommendation(document, folder)


def recommendation_folder(
    context: Context, heldout: str, pool: Sequence[str], budget: str, k: int, deliver: bool = False
) -> Path:
    """``recommendations/<held-out>/<8 hex of what was asked>`` in a study."""
    content = {name: context.load(name).trainval_hash for name in (*pool, heldout)}
    asked: dict[str, Any] = {"settings": context.settings.model_dump(), "seeds": context.seeds, "content": content}
    asked |= {"budget": "".join(budget.lower().split()), "k": k, "deliver": deliver}
    tag = sha256_bytes(canonical_json(asked))[:8]
    return context.study / "recommendations" / folder_name(heldout) / tag


class _Answer:
    """One recommendation under way."""

    def __init__(self, target: str, pool: Sequence[str], k: int, budget: Budget, context: Context) -> None:
        self.target, self.pool, self.k, self.budget, self.context = target, pool, k, budget, context
        self.qualities: dict[str, Quality] = {name: quality(context.counts(name)) for name in pool}
        self.likeness, _ = similarities(target, pool, context)
        self.search = search(target, pool, self.qualities, k, budget.operations, context)
        self.order = self._order(self.search.scores)
        self.judgement = self._judged()
        self.gains = self._gains()

    def document(self) -> dict[str, Any]:
        """What ``recommendation.json`` holds."""
        context, found = self.context, self.search
        data, settings = context.load(self.target), context.settings
        rows = self._rows()
        specs = list(context.asked.values())
        return {
            "schema": SCHEMA,
            "heldout": self.target,
            "answer": self._answer(),
            "use": USE,
            "gains": self.gains,
            "sizes": self._sizes(),
            "judgement": self._judgement_entry(),
            "rows": rows,
            "stages": found.stages,
            "budget": self._budget_entry(),
            "delivered": None,
            "preset": settings.preset,
            "seeds": list(context.seeds[: found.n_seeds]),
            "split_seed": settings.split_seed,
            "split": settings.split,
            "n_validation_trials": len(data.split.validation),
            "settings": settings.model_dump(),
            "score_label": "bits per spike",
            "closeness": self._closeness(rows),
            "warnings": self._warnings(),
            "provenance": provenance_of(self.target, self.pool, settings, specs, context.sessions, context.store),
        }

    # What is chosen ---------------------------------------------------------------------------------------------------

    def _order(self, scores: np.ndarray) -> list[str]:
        return [self.search.names[i] for i in np.argsort(-scores, kind="stable")]

    def _judged(self) -> Judgement:
        found, context = self.search, self.context
        facts = {
            "log trials": [self.qualities[name].log_trials for name in found.names],
            "quality": combined([self.qualities[name] for name in found.names]) if found.names else [],
        }
        near = [self.likeness[name] for name in found.names]
        few = len(context.load(self.target).split.validation) < MIN_TRIALS_TO_JUDGE
        if few:
            return Judgement(
                "not judged", f"Fewer than {MIN_TRIALS_TO_JUDGE} validation trials: nothing is told apart."
            )
        return judge(found.scores, found.draws, facts, near, noise_known=found.n_seeds > 1)

    def _gains(self) -> list[dict[str, Any]]:
        """Differences to the recording alone and to everything, by full cores if that can be paid, else by small."""
        found, others = self.search, [ALONE, EVERYTHING]
        if not found.names or not self._halves_can_judge():
            why = "no core has a score" if not found.names else "too few validation trials to choose on and to judge on"
            return [{"name": f"{THESE} - {o}", **_NOTHING, "how": "not measured", "about": why} for o in others]
        seeds = self.context.seeds[: found.n_seeds]
        inner = Context(**{**vars_of(self.context), "seeds": seeds})
        why = "the rest of the budget does not pay for it"
        entries = {o: {"name": f"{THESE} - {o}", **_NOTHING, "how": "not measured", "about": why} for o in others}
        smaller = small(self.context.settings), "predicted", "from cores of half the widths"
        for (settings, how, cores), against in (
            ((self.context.settings, "measured", "full cores"), others),
            (smaller, others),
            (smaller, [ALONE]),
        ):
            arms = self._arms(settings, inner)
            runs = [spec for name in (THESE, *against) for spec in arms[name].runs]
            spent = operations_of(runs, inner)
            if found.spent + spent <= self.budget.operations:
                self._compute(runs, spent, f"{how} with {cores}: {', '.join([THESE, *against])}", inner)
                about = f"{cores}, seeds {', '.join(map(str, seeds))}; chosen on other trials than judged on"
                for other in against:
                    entry = difference(arms[THESE], arms[other], inner)
                    entries[other] = entry if entry["mean"] is None else {**entry, "how": how, "about": about}
                break
        return list(entries.values())

    def _halves_can_judge(self) -> bool:
        counts = self.context.load(self.target).counts("validation").sum(axis=(1, 2))
        half = choosing_half(len(counts))
        return len(counts) >= MIN_TRIALS_TO_JUDGE and bool(counts[half].sum() and counts[~half].sum())

    def _arms(self, settings: Settings, context: Context) -> dict[str, Arm]:
        on_first, on_second = (self._order(scores)[: self.k] for scores in self.search.halves)
        sets = {THESE: (on_second, on_first), EVERYTHING: (self.search.names, self.search.names)}
        arms = {name: set_arm(name, both, self.target, settings, context) for name, both in sets.items()}
        return {**arms, ALONE: alone_arm(ALONE, self.target, settings, context)}

    def _compute(self, runs: Sequence[RunSpec], spent: int, about: str, context: Context) -> None:
        context.compute(runs)
        for name in ("asked", "outcomes"):
            getattr(self.context, name).update(getattr(context, name))
        self.context.missing |= context.missing
        self.search.spent += spent
        paid = cost(list({spec.key: spec for spec in runs}.values()), context.store, context.sessions)
        self.search.stages.append(
            {
                "name": "gains",
                "about": about,
                "n_in": len(self.search.names),
                "n_on": self.k,
                "left": [],
                "cost": {part: paid[part] for part in ("runs", "steps", "tokens", "operations")},
            }
        )

    # What is said -----------------------------------------------------------------------------------------------------

    def _answer(self) -> dict[str, Any]:
        kind = {"close": "sessions"}.get(self.judgement.kind, self.judgement.kind)
        alone, everything = self.gains
        worse = {e["name"]: e["how"] == "measured" and e["high"] < 0 for e in (alone, everything)}
        if worse[alone["name"]]:
            kind, sessions = "alone", []
        elif worse[everything["name"]]:
            kind, sessions = "everything", self.order
        else:
            sessions = self.order[: self.k]
        return {"kind": kind, "sessions": sessions, "k": len(sessions), "text": self.judgement.text}

    def _sizes(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "how": "not measured",
            "reason": f"{self.k} sessions were asked for; other sizes than {self.k} and all were not tried.",
            "rows": [],
        }

    def _judgement_entry(self) -> dict[str, Any]:
        told = self.judgement
        return {
            "kind": told.kind,
            "p_equal": told.p_equal,
            "p_residual": told.p_residual,
            "similarity_rho": told.likeness_rho,
            "similarity_p": told.likeness_p,
            "covariates": list(told.facts),
            "text": told.text,
        }

    def _budget_entry(self) -> dict[str, Any]:
        budget, spent = self.budget, self.search.spent
        seconds = None
        if budget.operations_per_second:
            seconds = {"asked": parse_budget(budget.asked)[1], "operations_per_second": budget.operations_per_second}
        whole = budget.full_operations
        return {
            "asked": budget.asked,
            "operations": budget.operations,
            "full_operations": whole,
            "spent_operations": spent,
            "share": spent / whole if whole else None,
            "seconds": seconds,
        }

    def _rows(self) -> list[dict[str, Any]]:
        found, chosen = self.search, self._answer()["sessions"]
        rows = []
        if found.names:
            drawn = statistics.rank_draws(found.scores, found.draws, rng=np.random.default_rng(0), ks={1, 3, self.k})
            rows = [{**self._facts(name), **drawn.row(i), "state": "done"} for i, name in enumerate(found.names)]
        rows.sort(key=lambda row: row["rank"])
        bad = clearly_bad(self.pool, self.qualities)
        for name in self.pool:
            if name not in found.names:
                state, reason = found.failed.get(name, ("left out", bad.get(name, "")))
                nothing = dict.fromkeys(
                    ("rank", "score", "low80", "high80", "low95", "high95", "rank_low", "rank_high")
                )
                rows.append({**self._facts(name), **nothing, "p_top": {}, "state": state, "reason": reason})
        return [{**row, "chosen": row["session"] in chosen} for row in rows]

    def _facts(self, name: str) -> dict[str, Any]:
        return {
            **facts_of(self.context.sessions, name),
            "stage": self.search.stage.get(name, "small core" if name in self.search.failed else FILTER),
            "similarity": self.likeness[name],
            "quality": self.qualities[name].reliability,
            "reason": None,
        }

    def _closeness(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
        truth = truth_of(self.target, self.context.sessions, rows)
        return None if truth is None else dict(truth["closeness"])

    def _warnings(self) -> list[str]:
        data = {name: self.context.load(name) for name in (*self.pool, self.target)}
        found = neighbours(data[self.target].meta, {name: data[name].meta for name in self.pool})
        return found + [f"{name}: {note}" for name, one in data.items() for note in one.notes]


def vars_of(context: Context) -> dict[str, Any]:
    """The question and means of a context, without what it has computed."""
    names = ("sessions", "settings", "seeds", "heldout", "study", "on", "progress", "retry_failed", "budget")
    return {name: getattr(context, name) for name in names}


def gain_words(entry: Mapping[str, Any]) -> str:
    """A gain in a sentence."""
    what = entry["name"].partition(" - ")[2]
    if entry["mean"] is None:
        return f"Against {what}: not measured ({entry['about']})."
    span = f"{entry['mean']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}] bits per spike"
    told = "better" if entry["low"] > 0 else "worse" if entry["high"] < 0 else "not told apart"
    return f"Against {what}: {told}, {span} ({entry['how']}, {entry['about']})."
