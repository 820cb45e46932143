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
from sessionwise.analysis.activity import Quality
from sessionwise.analysis.judging import Judgement, judge
from sessionwise.analysis.pictures import find_picture, keep_picture
from sessionwise.analysis.recommendation import JSON_FILE, SCHEMA, write_recommendation
from sessionwise.data.store import SessionStore
from sessionwise.errors import UsageError
from sessionwise.io.files import canonical_json, folder_name, sealed_files, sha256_bytes, write_json
from sessionwise.runs.launch import time_spent
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.budget import Budget, parse_budget, settle_budget
from sessionwise.selection.choosing import Chooser, TopK, find_chooser, how_many, order_of, sizes_below
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
from sessionwise.selection.shrunk import shrunk_words
from sessionwise.selection.zero_training import combined, likenesses
from sessionwise.study.deliver import deliver as deliver_model
from sessionwise.study.gains import LEVEL, ONE_ERROR, Arm, alone_arm, difference, set_arm, size_row
from sessionwise.study.search import FILTER, FULL, SMALL, clearly_bad, search, small
from sessionwise.study.shrinking import ShrunkScores
from sessionwise.training.jobs import environment
from sessionwise.training.presets import Settings

K, BUDGET = 5, "50%"
AUTO = "auto"
THESE, ALONE, EVERYTHING = "these sessions", "the recording alone", "all of the pool"
OTHERS = (ALONE, EVERYTHING)
USE = "frozen core, new stitchers"
SIZING, GAINS = "how many", "gains"
MEASURED = "bits per spike on validation trials"
UNPAID = "the rest of the budget does not pay for it"


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
    k: int | str = K,
    choose: str = "top_k",
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

    budget: ``"50%"`` of the full procedure's operations, ``"5000-steps"`` or ``"2h"``. k: how many sessions to choose,
    or ``"auto"``: the smallest size that no larger one beats by more than a standard error, if the budget pays for
    trying them, else 5.
    choose: the name of a chooser (``selection.choosing``): ``"top_k"`` or ``"diverse"``.
    deliver: also train and keep the model that validation prefers, outside the budget. The other parameters, and what
    is raised, are those of ``rank_many``; UsageError also when the budget does not pay small cores for every session.
    """
    parse_budget(budget)
    chooser = find_chooser(choose)
    if k != AUTO and (not isinstance(k, int) or k < 1):
        raise UsageError("--k", f"{k!r}", "a whole number above 0, or auto", "For example --k 5")
    study, started = Path(to), time.monotonic()
    settings, problems = asked_settings(preset, overrides)
    problems += seed_problems(seeds) + study_problems(study, sessions)
    chosen_pool = choose_pool(sessions, [heldout], pool, problems)
    context = Context(sessions, settings, tuple(sorted(seeds)), (heldout,), study, on, progress, retry_failed)
    folder = recommendation_folder(context, heldout, chosen_pool, budget, k, deliver, choose)
    full = make_plan(sessions, heldout, chosen_pool, settings, context.seeds).specs
    settled = settle_budget(budget, full, heldout, folder, context)
    answer = _Answer(heldout, chosen_pool, k, settled, context, chooser)
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
    context: Context,
    heldout: str,
    pool: Sequence[str],
    budget: str,
    k: int | str,
    deliver: bool = False,
    choose: str = "top_k",
) -> Path:
    """``recommendations/<held-out>/<8 hex of what was asked>`` in a study."""
    content = {name: context.load(name).trainval_hash for name in (*pool, heldout)}
    asked: dict[str, Any] = {"settings": context.settings.model_dump(), "seeds": context.seeds, "content": content}
    asked |= {"budget": "".join(budget.lower().split()), "k": k, "deliver": deliver, "choose": choose}
    tag = sha256_bytes(canonical_json(asked))[:8]
    return context.study / "recommendations" / folder_name(heldout) / tag


class _Answer:
    """One recommendation: searched, judged and measured when it is made, then said."""

    def __init__(
        self, target: str, pool: Sequence[str], k: int | str, budget: Budget, context: Context, chooser: Chooser
    ) -> None:
        self.target, self.pool, self.budget, self.context, self.chooser = target, pool, budget, context, chooser
        self.k = min(k if isinstance(k, int) else K, len(pool))
        self.qualities: dict[str, Quality] = {name: context.quality(name) for name in pool}
        self.likeness = likenesses(target, pool, context)
        self.bad = clearly_bad(pool, self.qualities)
        left = [name for name in pool if name not in self.bad]
        sizes = sizes_below(len(left)) if k == AUTO else []
        self.climb = search(target, left, self.k, budget.operations, context, sizes)
        self.spent = sum(stage.operations for stage in self.climb.stages)
        self.known = {spec.key for stage in self.climb.stages for spec in stage.specs}
        self.shrunk = ShrunkScores(target, self.climb, context)
        self.scores = self.shrunk.scores
        self.order = order_of(chooser, self.scores, context)
        self.stages = self._searched(left)
        self.judgement = self._judged()
        self.sizes = {"asked": k, **(self._sized(sizes) if k == AUTO else _one_size(self.k))}
        self.gains = self._gains()
        self.kind, self.chosen = self._chosen()

    def document(self) -> dict[str, Any]:
        """What ``recommendation.json`` holds."""
        context, told = self.context, self.judgement
        data, settings, rows = context.load(self.target), context.settings, self._rows()
        specs = list(context.asked.values())
        return {
            "schema": SCHEMA,
            "heldout": self.target,
            "answer": {"kind": self.kind, "sessions": self.chosen, "k": len(self.chosen), "text": self._text()},
            "use": USE,
            "gains": self.gains,
            "choose": self.chooser.name,
            "sizes": self.sizes,
            "judgement": {
                "kind": told.kind,
                "p_equal": told.p_equal,
                "p_residual": told.p_residual,
                "similarity_rho": told.likeness_rho,
                "similarity_p": told.likeness_p,
                "covariates": list(told.facts),
                "text": told.text,
            },
            "rows": rows,
            "stages": self.stages,
            "budget": self._budget_entry(),
            "delivered": None,
            "preset": settings.preset,
            "seeds": list(self.climb.seeds),
            "split_seed": settings.split_seed,
            "split": settings.split,
            "n_validation_trials": len(data.split.validation),
            "settings": settings.model_dump(),
            "score_label": "bits per spike",
            "score_kind": shrunk_words(self.shrunk.whole) if self.shrunk.whole else MEASURED,
            "noise_guessed": self.shrunk.whole is not None and not self.climb.noise_known,
            "closeness": (truth_of(self.target, context.sessions, rows) or {"closeness": None})["closeness"],
            **self._origin(specs),
        }

    # Search, judgement, gains -----------------------------------------------------------------------------------------

    def _searched(self, left: Sequence[str]) -> list[dict[str, Any]]:
        """The stages so far, with their costs from scratch."""
        seeds = _seeds(self.climb.seeds)
        about = {SMALL: f"cores of half the widths, {seeds}", FULL: f"on the contested, {seeds}"}
        reasons = [{"session": name, "reason": why} for name, why in self.bad.items()]
        entries = [self._stage(FILTER, "no training: trials and reliability", self.pool, left, reasons, [])]
        for stage in self.climb.stages:
            parts = [about[stage.name], _probe_words(stage.probe), stage.stop]
            words = "; ".join(part for part in parts if part)
            entries.append({**stage.entry(self.context), "about": words})
        return entries

    def _judged(self) -> Judgement:
        names = list(self.shrunk.measured)
        facts = {"log trials": [self.qualities[name].log_trials for name in names], "quality": self._qualities(names)}
        if len(self.context.load(self.target).split.validation) < MIN_TRIALS_TO_JUDGE:
            text = f"Fewer than {MIN_TRIALS_TO_JUDGE} validation trials: nothing is told apart."
            return Judgement("not judged", text)
        draws = np.zeros((1, 0)) if self.climb.draws is None else self.climb.draws
        near = [self.likeness[name] for name in names]
        return judge(list(self.shrunk.measured.values()), draws, facts, near, noise_known=self.climb.noise_known)

    def _qualities(self, names: Sequence[str]) -> list[float]:
        return combined([self.qualities[name] for name in names]).tolist() if names else []

    def _gains(self) -> list[dict[str, Any]]:
        """Differences to the recording alone and to everything, by full cores if that can be paid, else by small."""
        if why := self._unjudged():
            return _not_measured(why)
        chosen = [order[: self.k] for order in self._crossed()]
        smaller = small(self.context.settings), "predicted", "from cores of half the widths"
        for (settings, how, cores), against in (
            ((self.context.settings, "measured", "full cores"), OTHERS),
            (smaller, OTHERS),
            (smaller, OTHERS[:1]),
        ):
            arms = self._arms(chosen, settings)
            asked = [arms[name] for name in (THESE, *against)]
            runs = self._new(asked)
            if not self._too_dear(runs):
                self._measure(
                    GAINS, f"{how}, {cores}: {', '.join(arm.name for arm in asked)}", runs, self.order[: self.k]
                )
                about = f"{cores}, {_seeds(self.climb.seeds)}; chosen on other trials than judged on"
                entries = [difference(arms[THESE], arms[other], self.context) for other in against]
                told = [e if e["mean"] is None else {**e, "how": how, "about": about} for e in entries]
                return [*told, *_not_measured(UNPAID)[len(told) :]]
        return _not_measured(UNPAID)

    def _unjudged(self) -> str | None:
        """Why nothing can be chosen on some trials and judged on others; None if it can."""
        spikes = self.context.load(self.target).counts("validation").sum(axis=(1, 2))
        first = choosing_half(len(spikes))
        if not self.scores:
            return "no core has a score"
        if len(spikes) < MIN_TRIALS_TO_JUDGE or not (spikes[first].sum() and spikes[~first].sum()):
            return "too few validation trials to choose on and to judge on"
        return None

    def _crossed(self) -> tuple[list[str], list[str]]:
        """The order for each half of the trials, chosen by the other one."""
        first = choosing_half(len(self.climb.spikes))
        a, b = (order_of(self.chooser, self.shrunk.on(half), self.context) for half in (~first, first))
        return a, b

    def _sized(self, sizes: Sequence[int]) -> dict[str, Any]:
        """How many are enough, by small cores pretrained on the first 1, 2, 3, 5 ... of the order; sets ``k``."""
        asked = sizes = [size for size in sizes if size < len(self.scores)]
        if why := self._unjudged() or (None if len(sizes) > 1 else f"{len(self.scores)} sessions are too few"):
            return _one_size(self.k, why)
        a, b = self._crossed()
        how = (self.target, small(self.context.settings), self.climb.seeds, self.context)
        arms = {size: set_arm(f"the first {size}", (a[:size], b[:size]), *how) for size in sizes}
        while len(arms) > 1 and self._too_dear(self._new(list(arms.values()))):
            del arms[max(arms)]
        if len(arms) < 2:
            return _one_size(self.k, "the budget does not pay for trying two")
        sizes, runs = list(arms), self._new(list(arms.values()))
        about = f"cores of half the widths on {', '.join(map(str, sizes))} sessions"
        self._measure(SIZING, about, runs, self.order)
        rows = [size_row(size, arms, self.context) for size in sizes]
        known = [row["k"] for row in rows if row["score"] is not None]
        if not known:
            return {**_one_size(self.k, "no training of theirs ended"), "rows": rows}
        enough = how_many(known, lambda larger, size: difference(arms[larger], arms[size], self.context, ONE_ERROR))
        return {**self._enough(enough, known, bent=enough < max(known) or enough == max(asked)), "rows": rows}

    def _enough(self, enough: int, known: Sequence[int], *, bent: bool) -> dict[str, Any]:
        """Set ``k``. bent: whether larger sizes were tried in vain, or there are none; else more would help."""
        tried = ", ".join(map(str, known))
        if bent:
            how, self.k = "predicted", enough
            found = f"no larger size of {tried} is better than {enough} by more than a standard error"
        else:
            how, self.k = "not measured", max(enough, self.k)
            why = "unpaid, or their training failed"
            found = f"{enough} sessions do better than fewer, and more could not be tried ({why})"
        reason = (
            f"By cores of half the widths, chosen on other trials than judged on, {found}. Gains are over one session."
        )
        return {"k": self.k, "how": how, "reason": reason, "level": LEVEL}

    def _arms(self, chosen: Sequence[Sequence[str]], settings: Settings) -> dict[str, Arm]:
        """Sets: ``chosen`` for each half of the trials by the other one, and everybody."""
        how, everybody = (self.target, settings, self.climb.seeds, self.context), self.order
        return {
            THESE: set_arm(THESE, (chosen[0], chosen[1]), *how),
            EVERYTHING: set_arm(EVERYTHING, (everybody, everybody), *how),
            ALONE: alone_arm(ALONE, *how),
        }

    def _new(self, arms: Sequence[Arm]) -> list[RunSpec]:
        """Runs of these arms that no stage has trained yet."""
        every = {spec.key: spec for arm in arms for spec in arm.runs}
        return [spec for key, spec in every.items() if key not in self.known]

    def _too_dear(self, runs: Sequence[RunSpec]) -> bool:
        return self.spent + self.context.price(runs) > self.budget.operations

    def _measure(self, stage: str, about: str, runs: Sequence[RunSpec], on: Sequence[str]) -> None:
        self.context.compute(runs)
        self.known |= {spec.key for spec in runs}
        self.spent += self.context.price(runs)
        self.stages.append(self._stage(stage, about, self.order, on, [], runs))

    # What is said -----------------------------------------------------------------------------------------------------

    def _text(self) -> str:
        """What the judgement says, and how the set was chosen where it is not the best ones."""
        if isinstance(self.chooser, TopK):
            return self.judgement.text
        return f"{self.judgement.text} Chosen by {self.chooser.name}: {self.chooser.about}."

    def _chosen(self) -> tuple[str, list[str]]:
        """The kind of the answer and its sessions: a measured loss against another set of sessions decides."""
        alone, everything = (entry["how"] == "measured" and entry["high"] < 0 for entry in self.gains)
        if alone:
            return "alone", []
        if everything:
            return "everything", self.order
        kind = "sessions" if self.judgement.kind == "close" else self.judgement.kind
        return kind, self.order[: self.k]

    def _stage(
        self,
        name: str,
        about: str,
        into: Sequence[str],
        on: Sequence[str],
        left: Sequence[Mapping[str, str]],
        specs: Sequence[RunSpec],
    ) -> dict[str, Any]:
        paid = cost(specs, self.context.store, self.context.sessions)
        return {"name": name, "about": about, "n_in": len(into), "n_on": len(on), "left": list(left), "cost": paid}

    def _budget_entry(self) -> dict[str, Any]:
        budget, seconds = self.budget, None
        if budget.operations_per_second:
            seconds = {"asked": parse_budget(budget.asked)[1], "operations_per_second": budget.operations_per_second}
        return {
            "asked": budget.asked,
            "operations": budget.operations,
            "full_operations": budget.full_operations,
            "spent_operations": self.spent,
            "share": self.spent / budget.full_operations if budget.full_operations else None,
            "seconds": seconds,
        }

    def _rows(self) -> list[dict[str, Any]]:
        """One a session of the pool, best first, without a score last."""
        names, rows = list(self.scores), []
        goods = dict(zip(self.pool, self._qualities(self.pool), strict=True))
        if (draws := self.shrunk.draws) is not None:
            values, rng = list(self.scores.values()), np.random.default_rng(0)
            drawn = statistics.rank_draws(values, draws, rng=rng, ks={1, 3, self.k})
            done: dict[str, Any] = {"state": "done", "reason": None}
            rows = [
                {"session": name, **drawn.row(i), **done, "measured": self.shrunk.measured[name]}
                for i, name in enumerate(names)
            ]
        rows.sort(key=lambda row: row["rank"])
        ended = {name: ("left out", why) for name, why in self.bad.items()} | dict(self.climb.reasons)
        nothing = dict.fromkeys(
            ("rank", "score", "measured", "low80", "high80", "low95", "high95", "rank_low", "rank_high", "rank_chance")
        )
        rows += [
            {"session": name, **nothing, "p_top": {}, "state": state, "reason": why}
            for name, (state, why) in sorted(ended.items())
        ]
        return [
            {
                **facts_of(self.context.sessions, row["session"]),
                **row,
                "chosen": row["session"] in self.chosen,
                "stage": self.climb.rung.get(row["session"], FILTER if row["session"] in self.bad else SMALL),
                "similarity": self.likeness[row["session"]],
                "quality": goods[row["session"]],
            }
            for row in rows
        ]

    def _origin(self, specs: Sequence[RunSpec]) -> dict[str, Any]:
        """Provenance, with the warnings in a place of their own."""
        context = self.context
        found = provenance_of(self.target, self.pool, context.settings, specs, context.sessions, context.store)
        return {"warnings": found["warnings"], "provenance": {n: v for n, v in found.items() if n != "warnings"}}


def _one_size(k: int, why: str | None = None) -> dict[str, Any]:
    """What is said of other sizes where none was tried: k was asked for, or is what is left when sizes are not paid."""
    asked = f"{k} sessions were asked for; other sizes than {k} and all were not tried."
    reason = asked if why is None else f"Other sizes than {k} and all were not tried: {why}."
    return {"k": k, "how": "not measured", "reason": reason, "rows": []}


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _probe_words(probe: Mapping[str, Any] | None) -> str | None:
    """Where the noise between trainings was measured on a few sessions, or why not."""
    if probe is None:
        return None
    if probe["reason"]:
        return f"noise between trainings unknown: {probe['reason']}"
    lost = f" ({len(probe['failed'])} more failed)" if probe["failed"] else ""
    return f"seed {probe['seed']} too on {len(probe['sessions'])} of them{lost}, for the noise between trainings"


def _not_measured(why: str) -> list[dict[str, Any]]:
    nothing = {"mean": None, "low": None, "high": None, "level": LEVEL, "how": "not measured", "about": why}
    return [{"name": f"{THESE} - {other}", **nothing} for other in OTHERS]


def gain_words(entry: Mapping[str, Any]) -> str:
    """A gain in a sentence."""
    what = entry["name"].partition(" - ")[2]
    if entry["mean"] is None:
        return f"Against {what}: not measured ({entry['about']})."
    span = f"{entry['mean']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}] bits per spike"
    told = "better" if entry["low"] > 0 else "worse" if entry["high"] < 0 else "not told apart"
    return f"Against {what}: {told}, {span} ({entry['how']}, {entry['about']})."
