"""The page of a study: inert for any id, answer first, nothing left out, every number in its JSON, the same bytes."""

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from study_documents import HOSTILE_HELDOUT, HOSTILE_POOL, made

from sessionwise.analysis import pages, study_figures
from sessionwise.analysis.study_report import facts, write_study_report
from sessionwise.analysis.trial_splits import study_split
from sessionwise.errors import DataError


class Parsed(HTMLParser):
    """Tags with attributes, the text of the page, and that of its table cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.cells, self._cell = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "dd"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "dd") and self._cell is not None:
            self.cells.append(self._cell)
            self._cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self._cell is not None:
            self._cell += data


@pytest.fixture(autouse=True)
def svg_alone(monkeypatch):
    """The page needs the SVG only; PDF and PNG take most of the time."""
    monkeypatch.setattr(pages, "FORMS", ("svg",))


@pytest.fixture
def few_figures(monkeypatch):
    """Two figures are enough where files are looked at."""
    few = {name: study_figures.FIGURES[name] for name in ("overlap", "transfer")}
    every = {**dict.fromkeys(study_figures.FIGURES, lambda document: None), **few}
    monkeypatch.setattr(study_figures, "FIGURES", every)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "FORMS", ("svg",))
        document, _ = made("hostile")
        return folder, write_study_report(folder, document, []).read_text(), document


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "FORMS", ("svg",))
        document, rankings = made("whole")
        return folder, write_study_report(folder, document, rankings[:1]).read_text(), document


def test_ids_are_data_never_markup(hostile):
    _, page, _ = hostile
    parsed = Parsed(page)
    assert [attrs for tag, attrs in parsed.tags if tag == "script"] == [{"type": "application/json", "id": "data"}]
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for tag, attrs in parsed.tags if tag == "img")
    text = "".join(parsed.text)
    for name in (*HOSTILE_HELDOUT, *HOSTILE_POOL):
        assert name.replace("\u202e", "\\u202e") in text
    assert "\u202e" not in page.split("<script")[0]


def test_the_page_loads_nothing_and_links_only_beside_itself(hostile):
    folder, page, _ = hostile
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "@import" not in page and "url(" not in page
    links = {attrs["href"] for tag, attrs in Parsed(page).tags if tag == "a"}
    files = {link for link in links if not link.startswith("#")}
    assert files and all(re.fullmatch(r"(figures|tables)/[a-z0-9-]+\.[a-z]+", link) for link in files)
    for link in files:
        assert (folder / link).exists() or link.endswith((".pdf", ".png"))
    ids = {attrs.get("id") for _, attrs in Parsed(page).tags}
    assert {link[1:] for link in links if link.startswith("#")} <= ids


def test_hostile_ids_in_tables_are_inert(hostile):
    folder, _, _ = hostile
    for path in (folder / "tables").glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text())):
            assert not [c for c in row if c.startswith(("=", "@", "+")) or (c.startswith("-") and not _is_number(c))]
    for path in (folder / "tables").glob("*.md"):
        assert "<script" not in path.read_text() and "{{" not in path.read_text()
    for path in (folder / "tables").glob("*.tex"):
        assert "\\input{/etc" not in path.read_text()


def _is_number(text):
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) is not None


def numbers_in(value):
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers_in(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def strings_in(value):
    if isinstance(value, dict):
        return [s for key, item in value.items() for s in (str(key), *strings_in(item))]
    if isinstance(value, list):
        return [s for item in value for s in strings_in(item)]
    return [value] if isinstance(value, str) else []


def test_every_number_of_the_page_is_in_the_json(whole):
    """S11: of its tables and of its sentences."""
    folder, page, _ = whole
    document = json.loads((folder / "report.json").read_text())
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert json.loads(block) == document
    words = " ".join(strings_in(document)).replace("-", "−")
    known = numbers_in(document)
    rounded = {f"{value:.{digits}f}" for value in known for digits in range(5)}
    # Chances are shown as percentages.
    rounded |= {f"{100 * value:.{digits}f}" for value in known for digits in (0, 1)}
    checked = 0
    visible = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    for cell in Parsed(visible).text:
        plain = cell.replace("\u202f", "").replace("< 0.001", "")
        for token in re.findall(r"(?<![\w.])[+−]?\d+(?:\.\d+)?(?![\w.]*\w)", plain):
            checked += 1
            bare = token.lstrip("+").replace("−", "-")
            assert bare in rounded or f"-{bare}" in rounded or token in words, (token, cell)
    assert checked > 3000


def test_the_answer_comes_first_then_claims_figures_tables_controls_and_the_rest(whole):
    _, page, document = whole
    body = page.split("<body>")[1]
    marks = ["top 3", 'id="claims"', 'id="figure-claims"', 'id="scaling"', 'id="figure-scaling"', 'id="tables"']
    marks += ['id="controls"', 'id="sessions"', 'id="missing"', 'id="cost"', 'id="provenance"']
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)
    text = "".join(Parsed(page).text)
    assert all(sentence in text for sentence in document["answer"]["text"])


def test_every_claim_has_verdict_number_and_the_paper_s_words(whole):
    _, page, document = whole
    table = page.split('<table class="claims">')[1].split('<h2 id="scaling">')[0]
    text = "".join(Parsed(table).text)
    assert table.count('class="verdict ') == len(document["claims"]) == 12
    for claim in document["claims"]:
        assert claim["text"] in text and claim["paper"] in text and claim["rule"] in text
        if claim["value"] and claim["value"]["unit"] == "bps":
            assert f"{claim['value']['mean']:+.4f}".replace("-", "−") in text
        if claim["note"]:
            assert claim["note"] in text


def test_what_failed_is_counted_and_named(whole):
    """S9: no survivorship."""
    _, page, document = whole
    text = "".join(Parsed(page).text)
    counts = document["counts"]
    assert counts["diverged"] == 2 and f"{counts['done']} done, 2 diverged, 1 failed" in " ".join(text.split())
    for row in document["failed"]:
        assert row["what"] in text and row["reason"] in text


def test_rankings_have_their_own_page(whole, tmp_path, few_figures):
    folder, page, document = whole
    assert 'href="rankings/index.html"' in page and "Ranking" in (folder / "rankings" / "index.html").read_text()
    first = made("whole")[1][0]
    other = {**first, "split_seed": 7}
    two = write_study_report(tmp_path, document, [other, first]).read_text()
    assert 'href="rankings/split-7/index.html"' in two and 'href="rankings/index.html"' in two
    assert json.loads((tmp_path / "rankings" / "split-7" / "report.json").read_text())["rankings"] == [
        json.loads(json.dumps(other))
    ]
    write_study_report(tmp_path, document, [first])
    assert not (tmp_path / "rankings" / "split-7").exists() and (tmp_path / "rankings" / "index.html").exists()
    alone = write_study_report(tmp_path, document, []).read_text()
    assert "rankings/index.html" not in alone and not (tmp_path / "rankings").exists()


def test_the_same_document_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "FORMS", ("svg", "pdf", "png"))
    trees = []
    for name in ("one", "two"):
        write_study_report(tmp_path / name, *made("bare"))
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        trees.append({p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in files})
    assert trees[0].keys() == trees[1].keys() and len(trees[0]) > 30
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []


def test_nothing_of_an_earlier_report_stays(tmp_path, few_figures):
    write_study_report(tmp_path, made("whole")[0], [])
    assert (tmp_path / "figures" / "transfer.svg").exists() and (tmp_path / "tables" / "controls.tex").exists()
    (tmp_path / "tables" / "notes.txt").write_text("mine")
    write_study_report(tmp_path, *made("bare"))
    assert not (tmp_path / "figures" / "transfer.svg").exists()
    assert not list((tmp_path / "tables").glob("controls.*")) and (tmp_path / "tables" / "notes.txt").exists()


@pytest.mark.parametrize("name", ["one seed", "bare"])
def test_small_studies_have_a_page_that_says_what_it_lacks(name, tmp_path):
    page = write_study_report(tmp_path, *made(name)).read_text()
    text = "".join(Parsed(page.split("<script")[0]).text)
    assert "None" not in text and "nan" not in re.findall(r"\w+", text.lower())
    assert "average of 1" not in text and "is not drawn: " in text


def test_a_study_in_which_everything_failed_has_a_page(tmp_path, nothing):
    page = write_study_report(tmp_path, nothing, []).read_text()
    text = " ".join("".join(Parsed(page.split("<script")[0]).text).split())
    assert "<img" not in page and text.count("is not drawn: ") == 12
    assert "loss <is> not finite at step 41" in text and "not measured" in text and "None" not in text


def test_the_ways_from_results_to_page_say_what_is_wrong(tmp_path):
    document = copy.deepcopy(made("bare")[0])
    with pytest.raises(DataError, match="lacks claims"):
        write_study_report(tmp_path, {k: v for k, v in document.items() if k != "claims"}, [])
    document["curves"][0]["points"][0]["mean"] = float("inf")
    with pytest.raises(DataError, match="is inf"):
        write_study_report(tmp_path, document, [])


def test_the_head_names_the_split_shared_test_bins_and_the_remedy(tmp_path, few_figures):
    first, *others = made("whole")[0]["heldout"]
    shared = {first: {"validation": 0.0, "test": 0.25}, made("whole")[0]["pool"][0]: {"validation": 0.5, "test": None}}
    for name, shares, found in (("some", shared, True), ("none", {first: {"validation": 0.0, "test": 0.0}}, False)):
        study = study_split(
            {"heldout": [first, *others], "pool": list(shared), "split_seeds": [3], "shared_bins": shares}, []
        )
        page = write_study_report(tmp_path / name, {**made("whole")[0], "trial_split": study}, []).read_text()
        text = " ".join("".join(Parsed(page.split("<script")[0]).text).split())
        head = text.split("The paper's claims")[0]
        assert "Trials split at random, split seed 3. Share of test bins that also lie in training windows: " in head
        assert f"{first} {'25.0 %' if found else '0 %'} (all sessions" in head
        assert ("--set split=blocked" in head) == found
        assert ("bins in training windows: validation 50.0 %, test unknown (no trial times)" in text) == found


def test_a_study_from_before_has_the_shares_of_its_rankings():
    study = {"heldout": ["a", "b"], "pool": ["c"], "split_seeds": [0]}
    ranking = {"heldout": "a", "split_seed": 0, "provenance": {"overlap": {"validation": 0.0, "test": 0.2}}}
    found = study_split(study, [ranking, {"heldout": "b", "split_seed": 0, "provenance": {}}])
    assert found["shared_bins"] == {"a": {"validation": 0.0, "test": 0.2}} and found["kind"] == "random"
    assert found["remedy"] == "--set split=blocked"


def test_nested_results_become_lines():
    found = {"verdict": "size", "rho": {"mean": 0.4, "low": 0.2, "high": 0.6}, "n_sessions": 1200, "missing": None}
    found["each"] = [{"heldout": "a", "rho": 0.25}]
    assert facts(found) == [
        ("verdict", "size"),
        ("rho", "+0.4000 [+0.2000, +0.6000]"),
        ("n sessions", "1\u202f200"),
        ("missing", "–"),
        ("each, a, rho", "0.2500"),
    ]
