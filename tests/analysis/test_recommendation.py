"""The page of a recommendation: the answer first, inert for any id, the same bytes twice, no number of its own."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from sessionwise.analysis import pages, recommendation_figures
from sessionwise.analysis.recommendation import check_recommendation, recommendation_csv, write_recommendation
from sessionwise.errors import DataError
from sessionwise.io.files import MANIFEST, read_json, sealed_files, sealed_manifest, sha256_file, write_json

KINDS = ("sessions", "unexplained", "size only", "no difference", "not judged", "alone", "everything")
FIRST_WORDS = {
    "sessions": "Pretrain on these 5 sessions.",
    "unexplained": "Pretrain on these 5 sessions.",
    "size only": "Size only:",
    "no difference": "No difference:",
    "not judged": "Not judged:",
    "alone": "Alone: train on this recording alone",
    "everything": "Everything: pretrain on all 14 sessions",
}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '=HYPERLINK("http://x")',
    "{{7*7}}{% raw %}",
    "$x^2$ \\input{/etc/passwd}",
    "\u202egnp.exe",
    "Mäuschen_№7_小鼠",
    "long-" * 12,
]
VOID = {"meta", "img", "br", "hr", "link", "input"}


def example_document(
    kind: str = "sessions", n: int = 14, *, ids: list[str] | None = None, heldout: str = "11_Hench_2017-06-18"
) -> dict[str, Any]:
    """A recommendation of a kind as ``recommendation.json`` holds it, from ``n`` sessions of made-up scores."""
    rng = np.random.default_rng(len(kind))
    ids = ids or [f"{i + 1:02d}_Cori_2017-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(n)]
    n = len(ids)
    k = {"alone": 0, "everything": n}.get(kind, min(5, n))
    rows = _rows(ids, k, rng)
    measured = kind not in ("not judged",)
    return {
        "schema": 1,
        "heldout": heldout,
        "answer": {"kind": kind, "sessions": ids[:k], "k": k, "text": f"What was found, of kind {kind}, in words."},
        "use": "frozen core, new stitchers",
        "gains": _gains(kind) if measured else [_gain("the recording alone", None)],
        "sizes": {
            "k": k or None,
            "how": "measured" if measured else "not measured",
            "reason": "Further sessions add less than their noise.",
            "rows": [
                {"k": i, "score": 0.151 + 0.004 * i, "gain": None, "low": 0.141 + 0.004 * i, "high": 0.163 + 0.004 * i}
                for i in (1, 2, 3, 5, 8)
            ]
            if measured
            else [],
        },
        "judgement": {
            "kind": kind,
            "p_equal": 0.0004 if kind == "sessions" else 0.412,
            "p_residual": 0.021,
            "similarity_rho": 0.62,
            "similarity_p": 0.018,
            "covariates": ["log trials", "quality"],
            "text": "They differ by more than size, and similar sessions are better.",
        },
        "rows": rows,
        "stages": _stages(rows),
        "budget": {
            "asked": "25%",
            "operations": 300000000000,
            "full_operations": 1200000000000,
            "spent_operations": 290000000000,
            "share": 0.2417,
            "seconds": {"asked": 7200, "operations_per_second": 41000000.0},
        },
        "delivered": {
            "folder": "model",
            "trained": "full finetuning",
            "seed": 10,
            "scores": [
                {"name": "frozen core", "bps": 0.1712, "state": "done", "reason": None},
                {"name": "full finetuning", "bps": 0.1833, "state": "done", "reason": None},
                {"name": "from scratch", "bps": None, "state": "diverged", "reason": "loss is not finite at step 41"},
            ],
            "text": "full finetuning is best on validation trials.",
            "cost": {"runs": 4, "steps": 4200, "tokens": 1260000, "operations": 91000000000},
        },
        "preset": "small",
        "seeds": [10, 20] if measured else [10],
        "split_seed": 0,
        "split": "random",
        "n_validation_trials": 43,
        "settings": {"model": {"width": 32, "dropout": None}, "top": 5},
        "score_label": "bits per spike (small core)",
        "closeness": {id: float(c) for id, c in zip(ids, rng.uniform(0, 2, n), strict=True)},
        "warnings": ["2 sessions have fewer than 100 trials."],
        "provenance": {
            "sessions": {id: f"{'ab' * 31}{i:02x}" for i, id in enumerate(ids)},
            "environments": [{"python": "3.11.2", "torch": "2.13.0"}],
            "overlap": {"validation": 0.0213, "test": None},
            "split": {"train": list(range(40)), "validation": [41, 42]},
        },
    }


def _rows(ids: list[str], k: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Two thirds with a score of the last stage, then some of the small core, a diverged one, the rest filtered."""
    n, rows = len(ids), []
    n_full, n_small = max(1, n // 2), max(1, (3 * n) // 4)
    for i, name in enumerate(ids):
        stage = "full procedure" if i < n_full else "small core" if i < n_small else "filter"
        score = None if stage == "filter" else 0.19 - 0.09 * i / n + float(rng.normal(0, 0.001))
        width = None if score is None else float(rng.uniform(0.008, 0.02))
        rows.append(
            {
                "session": name,
                "rank": None if score is None else i + 1,
                "score": score,
                "low80": None if score is None else score - width,
                "high80": None if score is None else score + width,
                "rank_low": None if score is None else max(1, i - 1),
                "rank_high": None if score is None else i + 4,
                "p_top": {} if score is None else {"1": 0.5 / (i + 1), "5": 0.97 - 0.8 * i / n},
                "n_trials": int(rng.integers(140, 460)),
                "n_units": int(rng.integers(200, 1200)),
                "subject": f"mouse {i % 5}",
                "lab": None,
                "date": "2017-06-18",
                "chosen": i < k,
                "stage": stage,
                "similarity": 0.9 - 0.8 * i / n,
                "quality": None,
                "state": "done" if score is not None else "left out",
                "reason": None,
            }
        )
    if n > 3:
        rows[n_small - 1] |= {"score": None, "rank": None, "low80": None, "high80": None, "p_top": {}}
        rows[n_small - 1] |= {"state": "diverged", "reason": "seed 10: loss <is> not finite at step 41"}
        rows[n_small - 1] |= {"rank_low": None, "rank_high": None}
    return rows


def _gains(kind: str) -> list[dict[str, Any]]:
    sign = -1 if kind in ("alone", "everything") else 0.2 if kind == "no difference" else 1
    return [
        _gain("the recording alone", 0.0312 * sign),
        _gain("all of the pool", 0.0153 * sign, how="predicted", about="from sizes 1 to 8"),
        _gain("sessions drawn by lot", None),
    ]


def _gain(against: str, mean: float | None, how: str = "measured", about: str = "full core, 2 seeds") -> dict[str, Any]:
    if mean is None:
        how, about = "not measured", "the budget was spent"
    ends = {"low": None, "high": None} if mean is None else {"low": mean - 0.0125, "high": mean + 0.0125}
    return {"name": f"these sessions - {against}", "mean": mean, **ends, "level": 0.95, "how": how, "about": about}


def _stages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("filter", "small core", "full procedure", "gains")
    about = ("no training: trials, units, similarity", "a small core a session", "as published", "sets of sessions")
    n, stages = len(rows), []
    for i, (name, text) in enumerate(zip(names, about, strict=True)):
        left = [{"session": r["session"], "reason": f"too far after {name}"} for r in rows if r["stage"] == name]
        last = i >= 2
        n_on = n if last else n - len(left)
        cost = {"runs": 7 * i, "steps": 2300 * i, "tokens": 690000 * i, "operations": 48000000000 * i}
        entry = {"name": name, "about": text, "n_in": n, "n_on": n_on, "left": [] if last else left}
        stages.append({**entry, "cost": cost})
        n = n_on
    return stages


class Parsed(HTMLParser):
    """Every tag with its attributes, the text outside of style and script, and whether tags close as they open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(page)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.words)).strip()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.words += [" "] if tag in ("td", "th", "li", "p") else []
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)


_templates = cache(pages._environment)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What takes most of the time is done once: PDF and PNG, which one test looks at, and reading the templates."""
    monkeypatch.setattr(pages, "FORMS", ("svg",))
    monkeypatch.setattr(pages, "_environment", _templates)


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of words alone."""
    drawn = dict.fromkeys(("gains", "sessions", "sizes", "closeness"), lambda _: None)
    monkeypatch.setattr(recommendation_figures, "FIGURES", drawn)


def page_of(document: dict[str, Any], folder, picture=None) -> str:
    return write_recommendation(folder, document, picture).read_text()


def block_of(page: str) -> dict[str, Any]:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(block)


# ---- the answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_words_are_the_answer(kind, tmp_path, no_figures):
    document = example_document(kind)
    page = page_of(document, tmp_path)
    box = Parsed(page.split('<div class="answer">')[1].split("</div>")[0])
    assert box.text.startswith(FIRST_WORDS[kind]) and document["answer"]["text"] in box.text
    assert all(session in box.text for session in document["answer"]["sessions"])
    order = [box.text.index(session) for session in document["answer"]["sessions"]]
    assert order == sorted(order), "best first"
    assert not box.open and not box.crossed and "1 warning at the end" in box.text
    assert "split seed 0" in box.text and "--set split=blocked" in box.text, "shared bins are told"


def test_gains_say_whether_they_were_measured(tmp_path, no_figures):
    page = page_of(example_document("sessions"), tmp_path)
    box = Parsed(page.split("<h2>")[0]).text
    first = "Expected gain of these sessions over the recording alone: +0.0312, 95 % interval +0.0187 to +0.0437"
    assert f"{first}: better (measured: full core, 2 seeds)" in box
    assert (
        "of these sessions over all of the pool: +0.0153, 95 % interval +0.0028 to +0.0278: predicted, not measured"
        in box
    )
    assert "Gain of these sessions over sessions drawn by lot: not measured (the budget was spent)" in box


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "better"),
        ({"low": -0.04, "high": -0.02}, "worse"),
        ({"low": -0.01}, "not distinguishable"),
        ({"low": None}, "not judged: no interval"),
        ({"how": "predicted"}, "predicted"),
        ({"mean": None, "how": "measured"}, "not measured"),
    ],
)
def test_what_a_gain_found_follows_from_its_interval(change, found, tmp_path, no_figures):
    document = example_document()
    document["gains"] = [document["gains"][0] | change]
    assert block_of(page_of(document, tmp_path))["gains"][0]["found"] == found


def test_one_seed_judges_no_gain(tmp_path, no_figures):
    document = example_document() | {"seeds": [10]}
    page = page_of(document, tmp_path)
    assert "not judged: one seed" in page and "<b>better</b>" not in page
    assert "One seed: intervals count trials only" in Parsed(page.split("<h2>")[0]).text


@pytest.mark.parametrize("kind", ["alone", "everything"])
def test_gains_are_not_of_sessions_that_the_answer_names_not(kind, tmp_path, no_figures):
    page = page_of(example_document(kind), tmp_path)
    assert "gain of the sessions ranked first over the recording alone" in page and "gain of these" not in page


@pytest.mark.parametrize(("kind", "says"), [("not judged", "no session could be chosen"), ("sessions", "this session")])
def test_none_and_one_session_are_said_so(kind, says, tmp_path, no_figures):
    document = example_document(kind)
    document["answer"]["sessions"] = document["answer"]["sessions"][: 1 if kind == "sessions" else 0]
    assert says in page_of(document, tmp_path).split("</p>")[1]


# ---- every number is in the JSON ------------------------------------------------------------------


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in (*value.keys(), *value.values()) for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def _ways(value: float) -> set[str]:
    """How a number may stand on the page."""
    ways = {f"{abs(value):.{digits}f}" for digits in range(5)} | {f"{100 * value:.0f}", f"{100 * value:.1f}"}
    return ways | {f"{value:.1e}", f"{round(value):,}".replace(",", "\u202f"), str(value)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_in_a_table_or_the_answer_is_in_the_json(kind, tmp_path, no_figures):
    """Taken away is text that stands in the JSON word for word; what numbers are left must be numbers of the JSON."""
    page = page_of(example_document(kind), tmp_path)
    leaves = _leaves(block_of(page))
    words = sorted({leaf for leaf in leaves if isinstance(leaf, str) and leaf}, key=len, reverse=True)
    allowed = set().union(*(_ways(leaf) for leaf in leaves if isinstance(leaf, (int, float))))
    box = page.split('<div class="answer">')[1].split("</div>")[0]
    cells = re.findall(r"<td[^>]*>.*?</td>", page, re.DOTALL)
    text = Parsed(" ".join([box, *cells])).text
    for word in words:
        text = text.replace(word, " ") if not word.isdigit() else text
    found = {number.rstrip(".") for number in re.findall(r"\d[\d.\u202f]*(?:e\+\d+)?", text)}
    assert len(found) > 40 and found - allowed <= {"0.001"}, "p below it are said to be"


def test_the_block_is_the_document_and_what_follows_from_it(tmp_path, no_figures):
    document = example_document()
    block = block_of(page_of(document, tmp_path))
    assert block["recommendation"] == json.loads(json.dumps(document))
    costs = block["costs"]
    assert costs["of"] == "of the budget" and costs["all"]["operations"] == 6 * 48000000000
    assert [stage["cost"]["share"] for stage in costs["stages"]] == pytest.approx([0, 0.16, 0.32, 0.48])
    assert [stage["n_left"] for stage in costs["stages"]] == [4, 3, 0, 0]


def test_shares_are_of_what_was_spent_where_no_budget_was_set(tmp_path, no_figures):
    document = example_document() | {"budget": None}
    costs = block_of(page_of(document, tmp_path))["costs"]
    assert costs["of"] == "of all spent" and costs["all"]["share"] == 1.0
    document["stages"][1]["cost"] = None
    unknown = block_of(page_of(document, tmp_path))["costs"]
    assert unknown["all"]["operations"] is None and unknown["all"]["share"] is None, "a part is not known"


def test_every_line_of_the_sessions_has_as_many_cells(tmp_path, no_figures):
    page = page_of(example_document(), tmp_path)
    table = page.split("<h2>The sessions</h2>")[1].split("</table>")[0]
    widths = {len(re.findall("<t[dh]", line)) for line in table.split("<tr")[1:]}
    assert len(widths) == 1 and "P(top 5)" in table and "P(top 1)" not in table
    assert "seed 10: loss &lt;is&gt; not finite" in table and "left out: too far after filter" in table


# ---- text of anybody ------------------------------------------------------------------------------


def test_ids_are_data_never_markup(tmp_path):
    document = example_document(ids=HOSTILE, heldout=HOSTILE[1])
    document["warnings"] = [HOSTILE[0]]
    document["provenance"]["note"] = HOSTILE[1]
    page = page_of(document, tmp_path)
    parsed = Parsed(page)
    assert not parsed.open and not parsed.crossed
    scripts = [attrs for tag, attrs in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}]
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in parsed.tags if tag == "img")
    assert sum(tag == "img" for tag, _ in parsed.tags) == 4
    text = "".join(parsed.words)
    assert all(id.replace("\u202e", "\\u202e") in text for id in HOSTILE)


def test_the_page_loads_nothing(tmp_path):
    page = page_of(example_document(ids=HOSTILE), tmp_path)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "@import" not in page and "url(" not in page


def test_csv_has_a_line_a_session_and_no_formula():
    document = example_document(ids=HOSTILE)
    lines = list(csv.DictReader(io.StringIO(recommendation_csv(document))))
    assert [line["session"].removeprefix("'") for line in lines] == HOSTILE
    assert lines[2]["session"].startswith("'=") and {line["chosen"] for line in lines} == {"yes", "no"}
    for line, row in zip(lines, document["rows"], strict=True):
        assert line["score"] == ("" if row["score"] is None else repr(row["score"]))
        assert line["p_top5"] == repr(row["p_top"]["5"]) if row["p_top"] else line["p_top5"] == ""
    assert lines[-1]["reason"] == "too far after filter", "what the stage said, where the row says nothing"


# ---- holes, sizes, diverged rows ------------------------------------------------------------------

_HOLES = [
    ("answer", "text"),
    ("answer", "sessions"),
    ("answer", "k"),
    ("use",),
    ("sizes",),
    ("sizes", "k"),
    ("sizes", "rows"),
    ("sizes", "reason"),
    ("judgement",),
    *(("judgement", n) for n in ("p_equal", "p_residual", "similarity_rho", "similarity_p", "covariates", "text")),
    ("budget",),
    *(("budget", n) for n in ("asked", "operations", "full_operations", "spent_operations", "share", "seconds")),
    ("budget", "seconds", "operations_per_second"),
    ("delivered",),
    *(("delivered", n) for n in ("folder", "trained", "seed", "scores", "text", "cost")),
    ("delivered", "scores", 0, "state"),
    ("closeness",),
    ("score_label",),
    ("split",),
    ("split_seed",),
    ("n_validation_trials",),
    ("warnings",),
    ("provenance",),
    ("provenance", "environments", 0, "torch"),
    ("provenance", "sessions", "01_Cori_2017-01-01"),
    ("preset",),
    *(("provenance", n) for n in ("sessions", "environments", "overlap")),
    ("settings",),
    *(("gains", 0, n) for n in ("mean", "low", "high", "level", "about")),
    *(("rows", 0, n) for n in ("rank", "score", "low80", "high80", "rank_low", "rank_high", "p_top", "n_trials")),
    *(("rows", 0, n) for n in ("n_units", "subject", "lab", "date", "stage", "similarity", "quality", "reason")),
    *(("sizes", "rows", 0, n) for n in ("score", "low", "high")),
    *(("stages", 0, n) for n in ("about", "n_in", "n_on", "left", "cost")),
    ("stages", 1, "cost", "operations"),
]


@pytest.mark.parametrize("path", _HOLES, ids=lambda path: ".".join(map(str, path)))
def test_what_is_not_known_leaves_a_page(path, tmp_path, monkeypatch):
    """Figures are drawn where they look at the hole, but not rendered."""
    small = {"uri": "data:image/svg+xml;base64,", "width": 1, "height": 1}
    monkeypatch.setattr("sessionwise.analysis.recommendation.write_figure", lambda *_: small)
    draw = recommendation_figures.draw
    looks = {"gains": ["gains"], "sizes": ["sizes"], "rows": ["sessions", "closeness"], "stages": ["sessions"]}
    looks |= {"closeness": ["closeness"], "score_label": ["sessions", "closeness"]}
    drawn = looks.get(path[0], [])
    monkeypatch.setattr(recommendation_figures, "draw", lambda name, d: draw(name, d) if name in drawn else None)
    document = example_document(n=6)
    place: Any = document
    for name in path[:-1]:
        place = place[name]
    assert path[-1] in place if isinstance(place, dict) else True
    place[path[-1]] = None
    parsed = Parsed(page_of(document, tmp_path))
    assert not parsed.open and not parsed.crossed
    assert not re.search(r"\b(None|nan|undefined)\b", parsed.text)


def test_parts_that_are_empty_leave_a_page(tmp_path):
    empty = {"gains": [], "rows": [], "stages": [], "warnings": [], "seeds": [], "settings": {}, "provenance": {}}
    document = example_document("not judged") | empty | {"sizes": None, "judgement": None, "delivered": None}
    document["answer"] |= {"sessions": [], "k": None}
    text = Parsed(page_of(document, tmp_path)).text
    assert (
        "No gain was measured or predicted" in text and "No session has a score" in text and "nothing trained" in text
    )
    assert not list((tmp_path / "figures").iterdir())


@pytest.mark.parametrize(("kind", "n"), [("sessions", 1), ("everything", 2), ("everything", 100)])
def test_one_session_and_a_hundred(kind, n, tmp_path):
    document = example_document(kind, n, ids=[f"{'x' * 55}{i:05d}" for i in range(n)])
    page = page_of(document, tmp_path)
    plotted = recommendation_figures.plotted_rows(document)
    assert len(plotted) == min(n, 40) and all(row in document["rows"] for row in plotted)
    assert (f"40 of {n} sessions are drawn" in page) == (n > 40)
    assert Parsed(page).text.count("x" * 55) >= n


def test_chosen_sessions_are_drawn_wherever_they_stand():
    document = example_document(n=100)
    document["rows"][60]["chosen"] = True
    plotted = [row["session"] for row in recommendation_figures.plotted_rows(document)]
    assert plotted == [row["session"] for row in [*document["rows"][:39], document["rows"][60]]]


def test_stages_are_listed_from_the_last():
    document = example_document()
    assert recommendation_figures.stage_order(document) == ["full procedure", "small core", "filter"]
    document["rows"][0]["stage"] = "activity"
    assert recommendation_figures.stage_order(document)[-1] == "activity"


def test_sizes_are_drawn_as_gains_where_there_are_any(tmp_path, no_figures):
    """Scores and gains are of other heights: one axis holds one of them, and the intervals are of that one."""
    document = example_document()
    rows = document["sizes"]["rows"]
    assert "interval of the score" in page_of(document, tmp_path)
    for row in rows[1:]:
        row["gain"] = row["score"] - 0.15
    page = page_of(document, tmp_path)
    assert "interval of the gain" in page and "<td>1</td><td>0.1550</td>\n<td>–</td><td>–</td><td>–</td>" in page


def test_one_axis_holds_scores_or_gains():
    document = example_document()
    rows = document["sizes"]["rows"]
    assert recommendation_figures.draw("sizes", document).axes[0].get_ylabel().startswith("score")
    for row in rows[1:]:
        row["gain"] = row["score"] - 0.15
    axes = recommendation_figures.draw("sizes", document).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "measured"]
    assert axes.get_ylabel().startswith("gain") and list(line.get_xdata()) == [2, 3, 5, 8]
    document["sizes"]["how"] = "not measured"
    assert recommendation_figures.draw("sizes", document) is None


def test_gains_of_other_sets_keep_their_names(tmp_path, no_figures):
    """ "Against the recording alone" is enough only where all gains are of the same sessions."""
    document = example_document()
    assert recommendation_figures.gain_labels(document)[0] == "the recording alone"
    document["gains"][1]["name"] = "the top 2 - all of the pool"
    document["gains"][2]["name"] = "no such sign"
    names = [gain["name"] for gain in document["gains"]]
    assert recommendation_figures.gain_labels(document) == names
    text = Parsed(page_of(document, tmp_path)).text
    assert "gain of the top 2 over all of the pool" in text and "Gain of these sessions over no such sign" in text
    assert "Gains of one over another" in text


def test_filled_is_measured_and_open_is_predicted():
    document = example_document()
    lines = recommendation_figures.draw("gains", document).axes[0].lines
    points = {round(float(line.get_xdata()[0]), 4): line for line in lines if line.get_marker() == "o"}
    assert points[0.0312].get_markerfacecolor() == recommendation_figures.BLUE
    assert points[0.0153].get_markerfacecolor() == "white" and len(points) == 2


def test_captions_say_what_bars_are():
    document = example_document()
    document["sizes"]["level"] = 0.8
    words = {name: recommendation_figures.caption(name, document) for name in recommendation_figures.FIGURES}
    assert "Bars: 80 % intervals over validation trials and seeds." in words["sizes"]
    assert "Bars: 95 % intervals." in words["gains"] and "Bars: 80 % intervals." in words["sessions"]
    one_seed = {**document, "seeds": [10], "sizes": {**document["sizes"], "level": None}}
    assert "Bars: intervals over validation trials (one seed)." in recommendation_figures.caption("sizes", one_seed)


# ---- files ----------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "FORMS", ("svg", "pdf", "png"))
    picture = {"content": b"png", "uri": "data:image/png;base64,eA==", "width": 1, "height": 1, "caption": "recorded"}
    trees = []
    for name in ("one", "two"):
        write_recommendation(tmp_path / name, example_document(n=4), picture)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        trees.append({p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in files})
    names = [f"figures/{name}.{form}" for name in recommendation_figures.FIGURES for form in ("pdf", "png", "svg")]
    others = ["figures/recording.png", "index.html", MANIFEST, "recommendation.csv"]
    assert sorted(trees[0]) == sorted([*names, *others])
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []
    assert b"<h2>The held-out recording</h2>" in trees[0]["index.html"]


def test_the_manifest_lists_what_is_there_after_a_second_page_with_fewer_figures(tmp_path):
    document = example_document()
    with sealed_files(tmp_path, keep=True):
        write_json(tmp_path / "recommendation.json", document)
    write_recommendation(tmp_path, document)
    (tmp_path / "figures" / "notes.txt").write_text("not a figure")
    write_recommendation(tmp_path, document | {"closeness": None, "gains": []})
    manifest = sealed_manifest(tmp_path)
    assert manifest["state"] == "whole" and "recommendation.json" in manifest["files"]
    assert {"figures/sessions.svg", "figures/sizes.svg"} == {n for n in manifest["files"] if n.startswith("figures/")}
    assert all(sha256_file(tmp_path / name) == entry["sha256"] for name, entry in manifest["files"].items())
    assert read_json(tmp_path / "recommendation.json") == json.loads(json.dumps(document))
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"notes.txt", "sessions.svg", "sizes.svg"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: [d], "is no JSON object"),
        (lambda d: {}, "lacks answer, budget, delivered"),
        (lambda d: {**d, "schema": 2}, "has schema 2"),
        (lambda d: {**d, "rows": [{}]}, "has rows that are not"),
        (lambda d: {**d, "gains": None}, "has gains that are not"),
        (lambda d: {**d, "stages": [{"name": "filter"}]}, "has stages that are not"),
        (lambda d: {**d, "answer": {"kind": "sessions", "other": 1}}, "has no answer that is one of"),
        (lambda d: {**d, "answer": d["answer"] | {"kind": "surely"}}, "has no answer that is one of"),
        (lambda d: {**d, "split": "odd"}, "has split 'odd'"),
    ],
)
def test_a_document_of_another_kind_is_refused(change, says, tmp_path):
    document = change(example_document())
    with pytest.raises(DataError, match=says) as caught:
        check_recommendation(document, "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=says):
        write_recommendation(tmp_path, document)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_document_is_what_it_was(kind):
    document = example_document(kind)
    before = copy.deepcopy(document)
    assert check_recommendation(document, "a.json") is document and document == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_never_reaches_a_page(value, tmp_path):
    document = example_document()
    document["rows"][0]["low80"] = value
    with pytest.raises(DataError, match=r"rows\[0\].low80: is (nan|inf)"):
        write_recommendation(tmp_path, document)
    assert not list(tmp_path.iterdir())
