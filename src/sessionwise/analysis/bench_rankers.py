"""Rankings of a study against the full procedure with other seeds: agreement, cost, calibration, table and figure.

A *question* is a held-out session with its pool. Its reference is the ranking by the full procedure whose seeds no
other ranking has; the others are compared with it. With final scores (``study.final_regret``) there are two more
numbers: whether rank intervals hold the rank on test trials, and what a model gains that was pretrained on the
reference's best sessions instead of a ranker's, or instead of those that ``recommend`` named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis import fidelity
from sessionwise.analysis.summary import check_ranking, done_rows
from sessionwise.errors import UsageError
from sessionwise.io.files import canonical_json, read_sealed, sha256_bytes

FOLDER, FINAL_FILE, BENCH_FILE = "bench-rankers", "final.json", "bench.json"
SCHEMA = 1
CONTROLS = ("random", "trials", "own_score", "other_targets")
PROCEDURE = "full"
Document = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A held-out session with a pool, and what was answered.

    name: the held-out session, with the size of the pool where one session has several. key: 16 hex digits of content,
    split and preset. reference: the full ranking to compare with. others: rankings that share no seed with it;
    left_out: those that do.
    """

    name: str
    key: str
    heldout: str
    reference: Document
    others: tuple[Document, ...]
    left_out: tuple[Document, ...]

    @property
    def scores(self) -> dict[str, float | None]:
        """Session -> score in the reference; None where a run of it failed."""
        return _scores(self.reference)


def questions(study: Path, reference_seeds: Sequence[int] | None = None) -> list[Question]:
    """The questions that a study has a reference and other rankings for.

    Raises UsageError when there is none, or when full rankings of one question have different settings.
    """
    found = [check_ranking(read_sealed(path), str(path)) for path in sorted(study.glob("rankings/*/*/ranking.json"))]
    groups: dict[str, list[Document]] = {}
    for document in found:
        groups.setdefault(question_key(document), []).append(document)
    several = Counter(group[0]["heldout"] for group in groups.values())
    asked = []
    for key, group in sorted(groups.items(), key=lambda item: (item[1][0]["heldout"], item[0])):
        reference = _reference(study, group, reference_seeds)
        if reference is None:
            continue
        heldout = str(group[0]["heldout"])
        name = heldout if several[heldout] == 1 else f"{heldout} (pool of {len(reference['rows'])})"
        rest = [document for document in group if document is not reference]
        apart = [document for document in rest if shares_no_seed(document, reference)]
        shared = [document for document in rest if not shares_no_seed(document, reference)]
        if apart:
            asked.append(Question(name, key, heldout, reference, tuple(apart), tuple(shared)))
    if asked:
        return asked
    seeds = f" with the seeds {', '.join(map(str, reference_seeds))}" if reference_seeds else ""
    needed = f"for one held-out session: a ranking by `full`{seeds}, and others without its seeds"
    remedy = "For example: sessionwise rank STORE --heldout ID --seeds 42,77 --to STUDY, then --method short --seeds 10"
    raise UsageError(str(study), f"holds {len(found)} rankings, none to compare with", needed, remedy)


def question_key(document: Document) -> str:
    """The question that a ranking or a recommendation answers: 16 hex digits of content, split and preset."""
    content, rows = document["provenance"]["sessions"], document["rows"]
    names = sorted([document["heldout"], *(row["session"] for row in rows)])
    asked = {name: document.get(name) for name in ("heldout", "split_seed", "split", "preset")}
    return sha256_bytes(canonical_json({**asked, "content": {name: content.get(name) for name in names}}))[:16]


def shares_no_seed(document: Document, reference: Document) -> bool:
    """Whether another answer than the reference was found without its seeds."""
    return document is not reference and not set(document["seeds"]) & set(reference["seeds"])


def rows_of(question: Question, final: Mapping[str, Any] | None, pool_name: str | None) -> list[Row]:
    """A row for each ranking: method, cost as a share of the reference's, measures, and its rank intervals.

    final: the question's part of ``final.json``. pool_name: of the pool or generator, for bootstraps over several.
    """
    everything = question.reference["cost"].get("operations")
    rows = []
    for document in question.others:
        spent = document["cost"].get("operations")
        known = everything and spent is not None
        own = final["methods"].get(label(document)) if final else None
        rows.append(
            {
                "method": label(document),
                "heldout": question.heldout,  # with several pools it is still one unit of a bootstrap
                "question": question.name,
                **({"generator": pool_name} if pool_name else {}),
                "cost_share": spent / everything if known else None,
                **fidelity.agreement(_scores(document), question.scores),
                **({"final_regret": own["regret"]} if own else {}),
                "inside_reference": _inside(document, question.scores),
                "inside_fresh": _inside(document, final["fresh"]) if final else [],
            }
        )
    return rows


def label(document: Document) -> str:
    """``short ×2``, ``halving ×2 30%``: a method, how many seeds its runs have, and its budget."""
    n, budget = len(document["seeds"]), document.get("budget")
    return str(document["method"]) + (f" ×{n}" if n else "") + (f" {budget['asked']}" if budget else "")


def bench_document(
    studies: Sequence[Path], reference_seeds: Sequence[int] | None = None, *, n_draws: int = 2000
) -> dict[str, Any]:
    """Everything that ``bench-rankers`` says about one or several studies, as JSON values.

    With several studies intervals are over studies (generators), with one over held-out sessions.
    """
    several = len(studies) > 1
    asked = [(study, question) for study in studies for question in questions(study, reference_seeds)]
    finals = {study: read_final(study) for study in studies}
    rows, ceilings, left_out = [], [], []
    for study, question in asked:
        final = finals[study].get(question.key)
        rows += rows_of(question, final, study.name if several else None)
        ceilings.append(_ceiling(question))
        left_out += [
            {"study": study.name, "heldout": question.name, "method": name}
            for name in (*map(label, question.left_out), *((final or {}).get("left_out", ())))
        ]
    summary = fidelity.summarise([_without_lists(row) for row in rows])
    agnostic = [entry for entry in summary if entry["method"].startswith("other_targets")]
    references = [question.scores for _, question in asked]
    return {
        "schema": SCHEMA,
        "studies": [study.name for study in studies],
        "questions": [_about(study, question) for study, question in asked],
        "summary": summary,
        "ceiling": fidelity.mean_line(ceilings),
        "random": fidelity.random_line(references, np.random.default_rng(0), n_draws),
        "target_agnostic": _level(agnostic[0]) if agnostic else None,
        "calibration": {
            name: _calibration(rows, f"inside_{name}") for name in ("reference", "fresh") if _any(rows, name)
        },
        "final": _final_summary([final for found in finals.values() for final in found.values()]),
        "recommended": _recommended({study.name if several else None: found for study, found in finals.items()}),
        "left_out": left_out,
        "rows": rows,
    }


def read_final(study: Path) -> dict[str, Any]:
    """Final scores by question key; nothing where there are none."""
    path = study / FOLDER / FINAL_FILE
    return dict(read_sealed(path)["questions"]) if path.exists() else {}


def promising(rows: Iterable[Row], n: int) -> list[str]:
    """The ``n`` methods, neither control nor full procedure, that agree best (mean rho), each at its best."""
    best: dict[str, tuple[float, str]] = {}
    for entry in fidelity.summarise([_without_lists(row) for row in rows]):
        name, rho = entry["method"].partition(" ")[0], entry["spearman"]["mean"]
        if rho is not None and name not in (*CONTROLS, PROCEDURE):
            best[name] = max(best.get(name, (-2.0, "")), (rho, entry["method"]))
    return [method for _, method in sorted(best.values(), reverse=True)[:n]]


# Parts ----------------------------------------------------------------------------------------------------------------


def _reference(study: Path, group: Sequence[Document], seeds: Sequence[int] | None) -> Document | None:
    """The full ranking that most others share no seed with; of several the one with most seeds."""
    full = [d for d in group if d["method"] == PROCEDURE and (seeds is None or set(d["seeds"]) == set(seeds))]
    if len({canonical_json(d["settings"]) for d in full}) > 1:
        found = f"full rankings for {group[0]['heldout']} with different settings"
        raise UsageError(str(study), found, "one setting to compare with", "Rank with each into a study of its own")
    if not full:
        return None
    return max(full, key=lambda d: (sum(shares_no_seed(o, d) for o in group), len(d["seeds"]), d["seeds"]))


def _scores(document: Document) -> dict[str, float | None]:
    return {row["session"]: row["score"] if row["state"] == "done" else None for row in document["rows"]}


def _inside(document: Document, scores: Mapping[str, float | None]) -> list[list[Any]]:
    """(low, high, true rank, chance) of the sessions that both have; nothing for a ranking without intervals.

    chance: what the interval promises; None in rankings of before it was kept.
    """
    known = [row for row in done_rows(document) if scores.get(row["session"]) is not None]
    if len(known) < len(document["rows"]) or any(row["rank_low"] is None for row in known):
        return []
    by_score = sorted(known, key=lambda row: (-float(scores[row["session"]] or 0.0), row["session"]))
    true = {row["session"]: place for place, row in enumerate(by_score, start=1)}
    return [[row["rank_low"], row["rank_high"], true[row["session"]], row.get("rank_chance")] for row in known]


def _ceiling(question: Question) -> dict[str, Any]:
    rows = done_rows(question.reference)
    n_seeds = max(len(document["seeds"]) for document in question.others) or len(question.reference["seeds"])
    return fidelity.ceiling([row["seed_scores"] for row in rows], n_seeds) if rows else {}


def _about(study: Path, question: Question) -> dict[str, Any]:
    reference = question.reference
    return {
        "study": study.name,
        "name": question.name,
        "key": question.key,
        "heldout": question.heldout,
        "n_pool": len(reference["rows"]),
        "reference_seeds": reference["seeds"],
        "reference_seed_correlation": reference["noise"]["seed_correlation"],
        "n_validation_trials": reference.get("n_validation_trials"),
        "split": reference.get("split"),
    }


def _without_lists(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("inside_")}


def _level(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value["mean"] for name, value in entry.items() if isinstance(value, Mapping)}


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(row[f"inside_{name}"] for row in rows)


def _calibration(rows: Sequence[Row], column: str) -> list[dict[str, Any]]:
    methods = sorted({row["method"] for row in rows if row[column]})
    found = []
    for method in methods:
        cases = [case for row in rows if row["method"] == method for case in row[column]]
        chances = [chance for *_, chance in cases if chance is not None]
        found.append({"method": method, **fidelity.calibration([(a, b, rank) for a, b, rank, _ in cases], chances)})
    return found


def _final_summary(finals: Sequence[Document]) -> dict[str, Any] | None:
    """Mean test score of the reference's sets, and the regrets of each ranker's sets and of lots, bits per spike.

    ``lots``: mean regret of lots at the questions of the ranker, as what there is to lose differs between questions.
    """
    if not finals:
        return None
    pairs: dict[str, list[tuple[float, float | None]]] = {}
    for final in finals:
        lots = final["random"]["regret"]
        for name, entry in {**final["methods"], "random": final["random"]}.items():
            pairs.setdefault(name, [])
            pairs[name] += [(entry["regret"], lots)] if entry["regret"] is not None else []
    best = [final["reference"]["bps"] for final in finals]
    return {
        "top": finals[0]["top"],
        "seeds": finals[0]["seeds"],
        "reference_bps": _known_mean(best),
        "regrets": [
            {
                "method": name,
                "mean": _known_mean([own for own, _ in found]),
                "lots": _known_mean([lots for _, lots in found]),
                "n": len(found),
                "values": [own for own, _ in found],
            }
            for name, found in sorted(pairs.items(), key=lambda item: (item[0] == "random", item[0]))
        ],
    }


def _recommended(finals: Mapping[str | None, Mapping[str, Document]]) -> list[dict[str, Any]]:
    """What recommendations cost and lost, an entry each way to ask; ``lots``: as in ``_final_summary``."""
    found = [
        (asked, entry, final, {"generator": pool_name} if pool_name else {})
        for pool_name, questions_of in finals.items()
        for final in questions_of.values()
        for asked, entry in final.get("recommended", {}).items()
    ]
    rows = [
        {
            "method": asked,
            "heldout": final["heldout"],
            "cost_share": entry["share"],
            "final_regret": entry["regret"],
            **of,
        }
        for asked, entry, final, of in found
    ]
    return [
        _of_one_way(summary, [one[1:3] for one in found if one[0] == summary["method"]])
        for summary in fidelity.summarise(rows)
    ]


def _of_one_way(summary: Mapping[str, Any], found: Sequence[tuple[Document, Document]]) -> dict[str, Any]:
    """found: the recommendation's entry and the final scores of its question."""
    return {
        **{name: summary[name] for name in ("method", "cost_share", "n", "resampled", "level")},
        "regret": summary["final_regret"],
        "values": [entry["regret"] for entry, _ in found],
        "lots": _known_mean([final["random"]["regret"] for entry, final in found if entry["regret"] is not None]),
        "kinds": dict(sorted(Counter(entry["kind"] for entry, _ in found).items())),
    }


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
