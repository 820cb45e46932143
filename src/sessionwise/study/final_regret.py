"""What an answer is worth in the end: test scores of models pretrained on the sessions named, and of the ranked cores.

This is final reporting, and the only place where rankers meet test trials: the runs that open them are those of
``evaluate``, logged as always, and no ranking, choice or default of a study depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis.bench_rankers import (
    FINAL_FILE,
    FOLDER,
    Question,
    label,
    promising,
    questions,
    rows_of,
)
from sessionwise.analysis.recommended import recommendations
from sessionwise.data.store import SessionStore
from sessionwise.errors import IntegrityError, UsageError
from sessionwise.io.files import sealed_files, write_json
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import Ranking, make_plan
from sessionwise.selection.sets import random_order
from sessionwise.training.jobs import baseline_spec, evaluate_spec, finetune_spec, pretrain_spec
from sessionwise.training.presets import Settings

SCHEMA = 1
RANDOM, REFERENCE = "random", "reference"


def measure_final(
    study: Path,
    sessions: SessionStore,
    *,
    top: int = 5,
    n_methods: int = 4,
    seeds: Sequence[int] = (7, 8),
    reference_seeds: Sequence[int] | None = None,
    on: str = "processes",
    progress: Progress | None = None,
) -> Path:
    """Train what the final scores of a study need, and write them to ``STUDY/bench-rankers/final.json``.

    For each question: the reference's cores on test trials, and one model for each set: the ``top`` best sessions of
    the reference, of the ``n_methods`` most promising rankers (``promising``, on all questions together), and of a
    draw by lot; and what each recommendation of the study names, however many sessions that is (none: the recording
    alone). All sets are trained with the same ``seeds``. What is stored is not computed again.
    """
    asked = questions(study, reference_seeds)
    _refuse_others(asked, sessions)
    rows = [row for question in asked for row in rows_of(question, None, None)]
    methods = promising(rows, n_methods)
    answers, trained = recommendations(study, asked), tuple(sorted(seeds))
    plans = [_Plan(question, answers[question.key], sessions, top, methods, trained) for question in asked]
    heldout = tuple(dict.fromkeys(question.heldout for question in asked))
    context = Context(sessions, plans[0].settings, plans[0].seeds, heldout, study, on, progress)
    context.compute([spec for plan in plans for spec in plan.specs()])
    measured = {plan.question.key: plan.document(context) for plan in plans}
    folder = study / FOLDER
    with sealed_files(folder, keep=True):
        write_json(folder / FINAL_FILE, {"schema": SCHEMA, "questions": measured})
    return folder / FINAL_FILE


def _refuse_others(asked: Sequence[Question], sessions: SessionStore) -> None:
    """The recordings are still those that were ranked."""
    for question in asked:
        document = question.reference
        names = [question.heldout, *question.scores]
        if absent := [name for name in names if name not in sessions]:
            raise UsageError("--store", f"lacks session {absent[0]!r}", f"the sessions ranked for {question.heldout}")
        for name in names:
            data = sessions.load(name, document["split_seed"], document["split"])
            if data.trainval_hash != document["provenance"]["sessions"][name]:
                found = "is not the recording that was ranked"
                raise IntegrityError(f"session {name!r}", found, "the content in ranking.json", "Rank it again")


class _Plan:
    """The runs of one question."""

    def __init__(
        self,
        question: Question,
        answers: tuple[Mapping[str, Mapping[str, Any]], Sequence[str]],
        sessions: SessionStore,
        top: int,
        methods: Sequence[str],
        seeds: tuple[int, ...],
    ) -> None:
        self.question, self.sessions, self.top, self.seeds = question, sessions, top, seeds
        self.recommended, self.left_out = answers
        self.settings = Settings.model_validate(question.reference["settings"])
        self.sets = self._sets(methods)
        self.cores = self._cores()
        self.chains = {(chosen, seed): self._chain(chosen, seed) for chosen in self.sets.values() for seed in seeds}

    def specs(self) -> list[RunSpec]:
        """Everything to compute."""
        chains = [spec for chain in self.chains.values() for spec in chain]
        return chains + [spec for pair in self.cores.values() for spec in pair]

    def document(self, context: Context) -> dict[str, Any]:
        """Scores of the sets and of the cores, regrets against the reference."""
        scores = {name: self._score(chosen, context) for name, chosen in self.sets.items()}
        best = scores[REFERENCE]["bps"]
        for entry in scores.values():
            entry["regret"] = None if best is None or entry["bps"] is None else best - entry["bps"]
        own = {name: scores[name] for name in scores if name not in (REFERENCE, RANDOM, *self.recommended)}
        return {
            "heldout": self.question.heldout,
            "top": self.top,
            "seeds": list(self.seeds),
            "reference": scores[REFERENCE],
            "random": scores[RANDOM],
            "methods": own,
            "recommended": {
                name: {**scores[name], "kind": document["answer"]["kind"], "share": document["budget"]["share"]}
                for name, document in self.recommended.items()
            },
            "left_out": list(self.left_out),
            "fresh": self._fresh(context),
        }

    def _sets(self, methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Who chooses -> what, sorted: equal sets are one training."""
        lots = random_order(self.question.scores, self.settings.split_seed, 0)
        found = {REFERENCE: self._best(self.question.reference), RANDOM: tuple(sorted(lots[: self.top]))}
        found |= {label(d): self._best(d) for d in self.question.others if label(d) in methods}
        return found | {name: tuple(sorted(d["answer"]["sessions"])) for name, d in self.recommended.items()}

    def _best(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(Ranking(document).order[: self.top]))

    def _chain(self, chosen: Sequence[str], seed: int) -> list[RunSpec]:
        """Pretraining on a set, new stitchers around the frozen core, evaluation; without a set the recording alone."""
        sessions, heldout = self.sessions, self.question.heldout
        if not chosen:
            alone = baseline_spec(sessions, heldout, self.settings, seed)
            return [alone, evaluate_spec(sessions, heldout, alone, self.settings)]
        core = pretrain_spec(sessions, chosen, self.settings, seed)
        tuned = finetune_spec(sessions, heldout, core, self.settings, seed)
        return [core, tuned, evaluate_spec(sessions, heldout, tuned, self.settings)]

    def _cores(self) -> dict[tuple[str, int], tuple[RunSpec, RunSpec, RunSpec]]:
        """Pretraining, finetuning and final evaluation of each core of the reference."""
        seeds, heldout, sessions = self.question.reference["seeds"], self.question.heldout, self.sessions
        plan = make_plan(sessions, heldout, sorted(self.question.scores), self.settings, seeds, controls=False)
        return {
            key: (plan.pretrain[key], tuned, evaluate_spec(sessions, heldout, tuned, self.settings))
            for key, tuned in plan.finetune.items()
        }

    def _score(self, chosen: tuple[str, ...], context: Context) -> dict[str, Any]:
        scores = [_value(self.chains[chosen, seed][-1], context) for seed in self.seeds]
        reasons = [reason for _, reason in scores if reason]
        mean = None if reasons else float(np.mean([value for value, _ in scores]))
        return {
            "sessions": list(chosen),
            "seed_scores": [value for value, _ in scores],
            "bps": mean,
            "reason": reasons[0] if reasons else None,
        }

    def _fresh(self, context: Context) -> dict[str, float | None]:
        """Session -> mean test score of its cores over the reference's seeds; None where one failed."""
        found: dict[str, list[float | None]] = {}
        for (name, _), (_, _, final) in self.cores.items():
            found.setdefault(name, []).append(_value(final, context)[0])
        return {
            n: None if None in values else float(np.mean([v for v in values if v is not None]))
            for n, values in found.items()
        }


def _value(final: RunSpec, context: Context) -> tuple[float | None, str | None]:
    outcome = context.outcomes[final.key]
    if outcome.state != "done":
        return None, f"seed {final.seed}: {outcome.reason}"
    return float(context.store.result(final.key)["bps"]), None
