"""Recommendations of a study as answers to the questions that its rankings answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis.bench_rankers import Question, question_key, shares_no_seed
from sessionwise.analysis.recommendation import JSON_FILE, check_recommendation
from sessionwise.io.files import read_sealed

Document = Mapping[str, Any]
TOP_K = "top_k"


def label(document: Document) -> str:
    """``recommend --budget 15% --k 5``: what was asked, in the words of the command.

    Documents of the first days lack some of it; they could be asked for the best k alone.
    """
    chosen, sizes = document.get("choose") or TOP_K, document["sizes"] or {}
    k = sizes.get("asked") or sizes.get("k") or document["answer"]["k"]
    choose = "" if chosen == TOP_K else f" --choose {chosen}"
    return f"recommend --budget {(document['budget'] or {}).get('asked')} --k {k}{choose}"


def recommendations(study: Path, asked: Sequence[Question]) -> dict[str, tuple[dict[str, Document], list[str]]]:
    """Question key -> recommendations without the reference's seeds, by label, and the labels of those with.

    Of several that were asked for in the same words it is the one with most seeds.
    """
    paths = sorted(study.glob(f"recommendations/*/*/{JSON_FILE}"))
    documents = [check_recommendation(read_sealed(path), str(path)) for path in paths]
    documents.sort(key=lambda document: (len(document["seeds"]), document["seeds"]))
    found: dict[str, tuple[dict[str, Document], list[str]]] = {}
    for question in asked:
        mine = [document for document in documents if question_key(document) == question.key]
        apart = {label(d): d for d in mine if shares_no_seed(d, question.reference)}
        found[question.key] = apart, [label(d) for d in mine if not shares_no_seed(d, question.reference)]
    return found
