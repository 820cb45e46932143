"""The page of a recommendation: which sessions to pretrain on for one recording, how sure, why, and at what cost.

    FOLDER/recommendation.json    written by whoever recommends; every number of the page is in it or follows from it
    FOLDER/index.html             the page, which loads nothing
    FOLDER/recommendation.csv     one line a session
    FOLDER/figures/               SVG, PDF and PNG

Layout of the document (schema 1): ``answer`` (kind, sessions, k, text), ``gains``, ``sizes``, ``judgement``, ``rows``
(one a session of the pool, best first), ``stages`` with their costs, ``budget``, ``delivered``. Scores are bits per
spike on validation trials of the held-out session. What is unknown is None with a reason, never a zero.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionwise.analysis import pages, recommendation_figures
from sessionwise.analysis.checks import require_parts
from sessionwise.analysis.pages import drop_old_files, environments, flat, write_figure, write_page
from sessionwise.analysis.recommendation_figures import MEASURED, PREDICTED, gain_labels
from sessionwise.analysis.summary import NOT_JUDGED, has_one_seed, one_seed_words, require_finite
from sessionwise.analysis.tables import safe_cell
from sessionwise.analysis.trial_splits import WORDS, ranking_split
from sessionwise.errors import DataError
from sessionwise.io.files import MANIFEST, make_folder, sealed_files, sealed_manifest, write_bytes, write_json

Recommendation = Mapping[str, Any]

SCHEMA = 1
JSON_FILE, CSV_FILE, PAGE_FILE = "recommendation.json", "recommendation.csv", "index.html"
NOT_MEASURED = "not measured"

# What the first words of the page are for each kind of answer, with ``these 5 sessions`` and the size of the pool.
_HEADLINES = {
    "sessions": "Pretrain on {these}.",
    "unexplained": "Pretrain on {these}. They differ from the others, but neither size, quality nor similarity of "
    "activity explains it.",
    "size only": "Size only: {these} {be} large or good for any recording. Nothing shows that {they} {be} close to "
    "this one.",
    "no difference": "No difference: sessions of the pool are not told apart. Any do as well as far as is known; "
    "{these} {be} the best guess.",
    "not judged": "Not judged: the order is a guess, and {these} {be} its first.",
    "alone": "Alone: train on this recording alone, which is better than pretraining on any set of sessions that was "
    "measured.",
    "everything": "Everything: pretrain on all {pool} sessions of the pool, which is better than on the best of them.",
}
_NOTHING_CHOSEN = {
    "no difference": "No difference: sessions of the pool are not told apart, and none is named.",
    "not judged": "Not judged: no session could be chosen.",
}
_THESE, _NOT_THESE = "these sessions", ("alone", "everything")

_PARTS = {"schema", "heldout", "answer", "use", "gains", "sizes", "judgement", "rows", "stages", "budget", "delivered"}
_PARTS |= {"preset", "seeds", "settings", "warnings", "provenance"}
_ANSWER = {"kind", "sessions", "k", "text"}
_ROW = {"session", "state", "score", "rank", "reason", "stage", "chosen"}
_GAIN = {"name", "mean", "low", "high", "how", "about"}
_STAGE = {"name", "cost", "left"}

# Everything the page reads from a part; what an entry lacks is unknown, as if it were None.
_ROW_FIELDS = ("rank", "session", "chosen", "score", "low80", "high80", "rank_low", "rank_high")
_ROW_FACTS = (
    "measured",
    "n_trials",
    "n_units",
    "similarity",
    "quality",
    "stage",
    "state",
    "reason",
    "subject",
    "lab",
    "date",
)
_COST = ("runs", "steps", "tokens", "operations")
_BUDGET = ("asked", "operations", "full_operations", "spent_operations", "share", "seconds")
_JUDGEMENT = ("kind", "p_equal", "p_residual", "similarity_rho", "similarity_p", "covariates", "text")
_DELIVERED = ("folder", "trained", "seed", "scores", "text", "cost")
_LONGEST_LIST = 12


def check_recommendation(document: Any, where: str) -> Recommendation:
    """The document, if it has what a ``recommendation.json`` of ours has; DataError otherwise.

    Checked are the schema, the parts at the top, the kind of the answer, and the entries of rows, gains and stages.
    """
    needed, remedy = "a recommendation.json written by sessionwise", "Run the same recommend command again"
    require_parts(document, _PARTS, SCHEMA, where, needed, remedy)
    for name, keys in (("rows", _ROW), ("gains", _GAIN), ("stages", _STAGE)):
        if not _entries(document[name], keys):
            raise DataError(where, f"has {name} that are not those of a recommendation", needed, remedy)
    answer = document["answer"]
    if not isinstance(answer, Mapping) or not answer.keys() >= _ANSWER or answer["kind"] not in _HEADLINES:
        found = f"has no answer that is one of: {', '.join(_HEADLINES)}"
        raise DataError(where, found, needed, remedy)
    if (document.get("split") or "random") not in WORDS:
        raise DataError(where, f"has split {document['split']!r}", f"one of: {', '.join(WORDS)}", remedy)
    return document


def _entries(value: Any, keys: set[str]) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) and entry.keys() >= keys for entry in value)


def write_recommendation(folder: Path, document: Any, picture: Mapping[str, Any] | None = None) -> Path:
    """Write ``index.html``, ``recommendation.csv`` and ``figures/`` into a folder; returns the page's path.

    document: what ``recommendation.json`` holds, which the caller writes. picture: what ``pictures.find_picture``
    gives for the held-out recording. Other files that the folder's manifest lists stay listed.
    Raises DataError when parts are missing or a number anywhere is not finite.
    """
    folder = Path(folder)
    check_recommendation(document, str(folder / JSON_FILE))
    require_finite(document, f"recommendation for {document['heldout']}")
    make_folder(folder / "figures")
    _unlist_figures(folder)
    with sealed_files(folder, keep=True):
        return _write(folder, document, picture)


def recommendation_csv(document: Recommendation) -> str:
    """One line a session in the order of the rows, those without a score included; empty = missing.

    Scores are in bits per spike. Text that a spreadsheet would take for a formula gets a leading ``'``.
    """
    tops = _tops(document["rows"])
    header = [*_ROW_FIELDS, *(f"p_top{k}" for k in tops), *_ROW_FACTS]
    lines = [header, *(_line(row, tops) for row in _rows(document))]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[safe_cell(cell) for cell in line] for line in lines])
    return out.getvalue()


def _line(row: Mapping[str, Any], tops: Sequence[str]) -> list[Any]:
    front = {**row, "chosen": "yes" if row["chosen"] else "no"}
    return [*(front[name] for name in _ROW_FIELDS), *(row["p_top"].get(k) for k in tops), *(row[n] for n in _ROW_FACTS)]


def _unlist_figures(folder: Path) -> None:
    """Take the figures of an earlier page out of the manifest: those that are not drawn again are removed."""
    known = sealed_manifest(folder)
    if known:
        files = {name: entry for name, entry in known["files"].items() if not name.startswith("figures/")}
        write_json(folder / MANIFEST, {**known, "files": files, "state": "writing"})


def _write(folder: Path, document: Recommendation, picture: Mapping[str, Any] | None) -> Path:
    drawn = {name: _figure(folder, name, document) for name in recommendation_figures.FIGURES}
    written = [f"{name}.{form}" for name, figure in drawn.items() if figure for form in pages.FORMS]
    if picture:
        write_bytes(folder / "figures" / "recording.png", picture["content"])
        written.append("recording.png")
    drop_old_files(folder / "figures", written, {*pages.FORMS, "png"})
    write_bytes(folder / CSV_FILE, recommendation_csv(document).encode())
    derived = _derived(document)
    shown = {
        "document": document,
        "drawn": drawn,
        "picture": picture,
        **derived,
        "rows": _rows(document),
        "tops": _shown_tops(document),
        "judgement": _filled(document["judgement"], _JUDGEMENT),
        "budget": _filled(document["budget"], _BUDGET),
        "delivered": _filled(document["delivered"], _DELIVERED),
        "one_seed": _one_seed(document) if has_one_seed(document) else None,
        **_details(document),
    }
    return write_page(folder / PAGE_FILE, "recommendation.html.j2", shown, {"recommendation": document, **derived})


def _derived(document: Recommendation) -> dict[str, Any]:
    """The words and numbers of the page that the document does not hold but that follow from it."""
    return {
        "headline": headline(document["answer"], len(document["rows"])),
        "gains": [_gain(*pair, document) for pair in zip(document["gains"], gain_labels(document), strict=True)],
        "sizes": _sizes(document["sizes"]),
        "costs": stage_costs(document),
    }


def headline(answer: Mapping[str, Any], n_pool: int) -> str:
    """The first words of the page: what to do, or plainly why nothing can be said."""
    n, kind = len(answer["sessions"] or ()), answer["kind"]
    if not n and kind in _NOTHING_CHOSEN:
        return _NOTHING_CHOSEN[kind]
    these = "this session" if n == 1 else f"these {n} sessions"
    words = {"these": these, "they": "it" if n == 1 else "they", "be": "is" if n == 1 else "are", "pool": n_pool}
    return _HEADLINES[kind].format(**words)


def stage_costs(document: Recommendation) -> dict[str, Any]:
    """What each stage cost, all of them, and their shares of the budget (of all that was spent where none was set).

    A sum is None when one of its parts is not known.
    """
    listed = [_filled(stage["cost"], _COST) or dict.fromkeys(_COST) for stage in document["stages"]]
    every = {name: _sum(cost[name] for cost in listed) for name in _COST}
    budget = (document["budget"] or {}).get("operations")
    whole = budget or every["operations"]
    entries = [
        {**_named(stage, ("about", "n_in", "n_on")), "n_left": len(stage["left"] or ()), "cost": _share(cost, whole)}
        for stage, cost in zip(document["stages"], listed, strict=True)
    ]
    return {"stages": entries, "all": _share(every, whole), "of": "of the budget" if budget else "of all spent"}


def _one_seed(document: Recommendation) -> str:
    """What intervals leave out; a few sessions with a second seed tell the noise of scores, not that of gains."""
    probes = [stage.get("probe") or {} for stage in document["stages"]]
    measured = [len(probe["sessions"]) for probe in probes if probe.get("variance") is not None]
    if not measured:
        return one_seed_words(document)
    return (
        f"one seed: the noise between trainings was measured on {measured[0]} sessions, which intervals of scores and "
        f"ranks count; those of gains count trials only"
    )


def _named(stage: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {"name": stage["name"], **{name: stage.get(name) for name in names}}


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _share(cost: Mapping[str, Any], whole: float | None) -> dict[str, Any]:
    known = whole and cost["operations"] is not None
    return {**{name: cost[name] for name in _COST}, "share": cost["operations"] / whole if known else None}


def _gain(gain: Mapping[str, Any], label: str, document: Recommendation) -> dict[str, Any]:
    """A gain with what it is of and against, its label beside the others, and what was found in a word.

    Where the answer is to train alone or on everything, "these sessions" are not those that the answer names.
    """
    known = gain["mean"] is not None
    of, _, against = gain["name"].rpartition(" - ")
    of = of or _THESE
    if of == _THESE and document["answer"]["kind"] in _NOT_THESE:
        of = "the sessions ranked first"
    return {
        "of": of,
        **{name: gain[name] for name in ("name", "mean", "low", "high", "about")},
        "level": gain.get("level"),
        "against": against,
        "label": label,
        "how": gain["how"] if known else NOT_MEASURED,
        "found": _found(gain, has_one_seed(document)) if known else NOT_MEASURED,
    }


def _found(gain: Mapping[str, Any], one_seed: bool) -> str:
    if gain["how"] != MEASURED:
        return PREDICTED
    if gain["low"] is None or gain["high"] is None:
        return "not judged: no interval"
    if one_seed:
        return NOT_JUDGED
    return "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "not distinguishable"


def _sizes(sizes: Mapping[str, Any] | None) -> dict[str, Any]:
    known = _filled(sizes, ("k", "how", "reason", "rows")) or {"k": None, "how": None, "reason": None, "rows": None}
    rows = [{**dict.fromkeys(("k", "score", "gain", "low", "high")), **row} for row in known["rows"] or ()]
    has_gains = any(row["gain"] is not None for row in rows)
    return {**known, "how": known["how"] or NOT_MEASURED, "rows": rows, "has_gains": has_gains}


def _rows(document: Recommendation) -> list[dict[str, Any]]:
    """Rows with every field; a session that a stage sent away has that stage's reason where it gave none itself."""
    sent = {e["session"]: e.get("reason") for stage in document["stages"] for e in stage["left"] or ()}
    rows = [{**dict.fromkeys((*_ROW_FIELDS, *_ROW_FACTS)), **row} for row in document["rows"]]
    return [
        {**row, "p_top": row.get("p_top") or {}, "reason": row["reason"] or sent.get(row["session"])} for row in rows
    ]


def _tops(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every k whose P(top k) a row holds."""
    return sorted({k for row in rows for k in row.get("p_top") or ()}, key=int)


def _shown_tops(document: Recommendation) -> list[str]:
    """The k of the answer where its P(top k) is known, else the smallest ones."""
    every, k = _tops(document["rows"]), str(document["answer"]["k"])
    return [k] if k in every else every[:3]


def _filled(part: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any] | None:
    return None if part is None else {**dict.fromkeys(names), **part}


def _figure(folder: Path, name: str, document: Recommendation) -> dict[str, Any] | None:
    drawn = recommendation_figures.draw(name, document)
    if drawn is None:
        return None
    return {
        "name": name,
        "caption": recommendation_figures.caption(name, document),
        **write_figure(folder, drawn, name),
    }


def _details(document: Recommendation) -> dict[str, Any]:
    """What stands at the end of the page: split, settings, environments, hashes."""
    provenance = document["provenance"] or {}
    rest = {name: value for name, value in provenance.items() if name not in ("sessions", "environments")}
    return {
        "split": _split(document, provenance) if document.get("split_seed") is not None else None,
        "settings": _short(flat(document["settings"] or {})),
        "environments": environments(provenance),
        "hashes": sorted((provenance.get("sessions") or {}).items()),
        "provenance": _short(flat(rest)),
    }


def _split(document: Recommendation, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return ranking_split({**document, "split": document.get("split") or "random", "provenance": provenance})


def _short(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Pairs without long lists, which the JSON has, and with a dash for None."""
    short = [
        (name, f"in {JSON_FILE}" if isinstance(value, list) and len(value) > _LONGEST_LIST else value)
        for name, value in pairs
    ]
    return [(name, "–" if value is None else value) for name, value in short]
