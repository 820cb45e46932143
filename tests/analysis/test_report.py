"""The report page: inert for any id, the same bytes for the same input, nothing left out, every number in its JSON."""

import json
import re
from html.parser import HTMLParser

import pytest

from sessionwise.analysis import figures, pages, report
from sessionwise.analysis.report import report_of_study, write_report
from sessionwise.analysis.tables import ranking_csv
from sessionwise.errors import DataError, UsageError
from sessionwise.io.files import write_json

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '=HYPERLINK("http://x")',
    "{{7*7}}{% raw %}",
    "$x^2$ \\input{/etc/passwd}",
    "\u202egnp.exe",
    "%s%n",
    "x" * 300,
]


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text of the page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(autouse=True)
def svg_alone(monkeypatch):
    """The page needs the SVG only; PDF and PNG take most of the time, and two tests look at them."""
    monkeypatch.setattr(pages, "FORMS", ("svg",))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, make_ranking, make_comparison):
    folder = tmp_path_factory.mktemp("hostile")
    ranking = make_ranking(ids=HOSTILE, heldout=HOSTILE[1], diverged=1)
    path = write_report(folder, [ranking], make_comparison(ranking))
    return folder, path.read_text(), ranking


def test_ids_are_data_never_markup(hostile):
    _, page, ranking = hostile
    parsed = Parsed(page)
    scripts = [attrs for tag, attrs in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}]
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:image/svg+xml;base64,") for tag, attrs in parsed.tags if tag == "img")
    text = "".join(parsed.text)
    for row in ranking["rows"]:
        assert row["session"].replace("\u202e", "\\u202e") in text


def test_the_page_loads_nothing(hostile):
    _, page, _ = hostile
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "@import" not in page and "url(" not in page


def test_every_number_of_the_table_is_in_the_json(hostile):
    folder, page, ranking = hostile
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert json.loads(block) == json.loads((folder / "report.json").read_text())
    assert json.loads(block)["rankings"][0]["rows"] == json.loads(json.dumps(ranking["rows"]))
    for row in ranking["rows"]:
        if row["state"] == "done":
            assert f"{row['score']:.4f}" in page and f"{row['rank_low']}–{row['rank_high']}" in page


def test_what_has_no_score_is_counted_and_has_its_reason(hostile):
    """S9: no survivorship."""
    _, page, _ = hostile
    assert "7 of 8 sessions ranked" in page and "1 diverged" in page and "loss is not finite at step 41" in page


def test_figures_come_in_three_forms(hostile):
    folder, _, _ = hostile
    for name in ("scores", "differences", "seeds", "trials", "units", "horizon", "curves", "comparison"):
        svg, pdf, png = ((folder / "figures" / f"{name}.{form}").read_bytes() for form in ("svg", "pdf", "png"))
        assert svg.startswith(b"<?xml") and pdf.startswith(b"%PDF") and png.startswith(b"\x89PNG")


def test_a_recording_is_pictured_once_and_where_it_can_be(make_ranking, tmp_path, monkeypatch):
    """Three methods, the first without a readable picture; another split is another picture."""
    first, *others = [{**make_ranking(3), "method": method} for method in ("a", "b", "c")]
    other_split = {**make_ranking(3), "split_seed": 7}
    picture = {"content": b"png", "uri": "data:,x", "width": 1, "height": 1, "caption": "the recording"}
    monkeypatch.setattr(report, "find_picture", lambda _, ranking: None if ranking["method"] == "a" else picture)
    page = write_report(tmp_path, [first, *others, other_split], study=tmp_path).read_text()
    assert page.count("<h3>The held-out recording</h3>") == 2


def test_there_is_no_horizon_where_nothing_was_ranked():
    assert figures.horizon({"horizon": {"steps_ahead": []}}) is None
    assert figures.horizon({"horizon": {"steps_ahead": [1, 2], "baseline": [0.1, 0.05]}}) is not None


def test_the_same_input_gives_the_same_bytes(make_ranking, make_comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "FORMS", ("svg", "pdf", "png"))
    trees = []
    for name in ("one", "two"):
        ranking = make_ranking(5, truth=True)
        write_report(tmp_path / name, [ranking], make_comparison(ranking))
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        trees.append({p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in files})
    assert trees[0].keys() == trees[1].keys() and len(trees[0]) > 20
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda make: [make(1, (10,), baseline=False)],
        lambda make: [make(2, (10,), diverged=2)],
        lambda make: [make(3), make(3, heldout="other", seed=1)],
    ],
)
def test_odd_rankings_have_a_page_too(make, make_ranking, tmp_path):
    page = write_report(tmp_path, make(make_ranking)).read_text()
    assert "Ranking" in page and "None" not in Parsed(page).text and "nan" not in page.split("<script")[0].lower()


def test_several_held_out_sessions_say_how_much_they_agree(make_ranking, tmp_path):
    rankings = [make_ranking(6), make_ranking(6, heldout="other", seed=1)]
    page = write_report(tmp_path, rankings).read_text()
    assert "Mean rank correlation" in page and len(list((tmp_path / "figures").glob("*-scores.svg"))) == 2


def test_nan_never_reaches_a_page(make_ranking, tmp_path):
    ranking = make_ranking(3)
    ranking["rows"][0]["score"] = float("nan")
    with pytest.raises(DataError, match=r"rows\[0\].score: is nan"):
        write_report(tmp_path, [ranking])


def test_report_of_a_study_reads_what_is_stored(make_ranking, tmp_path):
    with pytest.raises(UsageError, match="holds no ranking"):
        report_of_study(tmp_path)
    folder = tmp_path / "rankings" / "a" / "full-1"
    folder.mkdir(parents=True)
    write_json(folder / "ranking.json", make_ranking(4))
    assert report_of_study(tmp_path) == tmp_path / "report" / "index.html"


def test_csv_cells_are_not_executed_by_spreadsheets(make_ranking):
    lines = ranking_csv(make_ranking(ids=HOSTILE, diverged=1)).splitlines()
    assert len(lines) == 1 + len(HOSTILE)
    assert any('"\'=HYPERLINK(""http://x"")"' in line for line in lines)
    assert next(line for line in lines if "diverged" in line).startswith(",")


def test_figures_of_an_earlier_report_do_not_stay(make_ranking, make_comparison, tmp_path):
    ranking = make_ranking(4)
    write_report(tmp_path, [ranking], make_comparison(ranking))
    (tmp_path / "figures" / "notes.txt").write_text("not a figure")
    write_report(tmp_path, [make_ranking(4, (10,))])
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "notes.txt" in names and "scores.svg" in names
    assert not {"comparison.svg", "comparison.png", "seeds.pdf"} & names


def test_one_seed_claims_nothing_about_seeds(make_ranking, tmp_path):
    page = write_report(tmp_path, [make_ranking(5, (10,))]).read_text().split("<script")[0]
    told = "One seed: intervals count trials only; the noise between trainings is unknown, use two or more seeds."
    assert page.split("<figure")[0].count(told) == 1, "in the first box"
    assert all(told in caption for caption in re.findall("<figcaption>(.*?)</figcaption>", page)[:2])
    assert page.count("not judged: one seed") == 3 and ">better<" not in page and ">worse<" not in page
    assert "the noise ceiling (agreement between seeds) is unknown" in page
    assert "variance between seeds" not in page and "trials and seeds" not in page


def test_the_table_holds_every_top_k_of_the_ranking(make_ranking, tmp_path):
    ranking = make_ranking(12)
    page = write_report(tmp_path, [ranking]).read_text()
    for k in ranking["rows"][0]["p_top"]:
        assert f"<th>P(top {k})</th>" in page
    row = "".join(f"<td>{100 * p:.0f} %</td>" for p in ranking["rows"][5]["p_top"].values())
    assert row in page.replace("\n", "")


def test_a_control_that_failed_is_in_the_first_box(make_ranking, tmp_path):
    ranking = make_ranking(4)
    ranking["random_core"] |= {"state": "diverged", "score": None, "reason": "seed 10: loss <is> not finite"}
    box = write_report(tmp_path, [ranking]).read_text().split("<figure")[0]
    assert "No comparison with a random frozen core: it diverged" in box and "loss &lt;is&gt; not finite" in box
    assert "No comparison with the baseline" not in box


def test_provenance_names_shared_bins_and_every_environment(make_ranking, tmp_path):
    ranking = make_ranking(4)
    plain = write_report(tmp_path / "versions", [ranking]).read_text()
    assert "python 3.11.2" in plain and "training windows" not in plain and "different environments" not in plain
    provenance = ranking["provenance"]
    del provenance["versions"]
    here, there = {"torch": "2.13.0", "cpu": "AVX2"}, {"torch": "2.13.0", "cpu": "AVX512"}
    provenance |= {"overlap": {"validation": 0.0213, "test": None}, "environments": [here, here]}
    assert "different environments" not in write_report(tmp_path / "one", [ranking]).read_text()
    provenance["environments"].append(there)
    page = write_report(tmp_path / "two", [ranking]).read_text()
    assert "computed in 2 different environments" in page.split("<figure")[0]
    assert "cpu AVX2, torch 2.13.0" in page and "cpu AVX512" in page
    assert "validation 2.1 %, test unknown (no trial times)" in page
    del provenance["environments"], provenance["overlap"]
    assert "Environment" not in write_report(tmp_path / "none", [ranking]).read_text()


@pytest.mark.parametrize(
    ("kind", "overlap", "says", "remedy"),
    [
        ("random", {"validation": 0.0, "test": 0.1234}, "validation 0 %, test 12.3 %", True),
        ("random", {"validation": 0.0004, "test": 0.0}, "validation less than 0.1 %, test 0 %", True),
        ("recorded", {"validation": 0.5, "test": 1.0}, "validation 50.0 %, test 100.0 %", True),
        ("blocked", {"validation": 0.0, "test": 0.0}, "validation 0 %, test 0 %", False),
        ("blocked", {"validation": None, "test": None}, "test unknown (no trial times)", False),
    ],
)
def test_the_first_box_names_the_split_shared_bins_and_the_remedy(make_ranking, tmp_path, kind, overlap, says, remedy):
    ranking = make_ranking(4) | {"split": kind}
    ranking["provenance"] |= {"overlap": overlap, "split": {"train": [0], "validation": [1], "test": [2]}}
    if kind == "blocked":
        ranking["provenance"]["split"]["purged"] = [3, 4]
    written = write_report(tmp_path, [ranking]).read_text()
    box = " ".join("".join(Parsed(written.split("<figure")[0]).text).split())
    words = {"random": "at random, split seed 0", "recorded": "as recorded in the files"}
    assert f"Trials split {words.get(kind, 'into blocks of time, split seed 0')}" in box and says in box
    assert ("--set split=blocked" in box) == ("Training has seen bins that are scored" in box) == remedy
    assert ("(2 purged: their windows overlap" in box) == (kind == "blocked")
    (summary,) = json.loads((tmp_path / "report.json").read_text())["summaries"]
    assert summary["split"]["kind"] == kind and summary["split"]["shared_bins"] == {ranking["heldout"]: overlap}


def test_rankings_of_other_splits_are_told_apart(make_ranking, tmp_path):
    page = write_report(tmp_path, [make_ranking(4), make_ranking(4) | {"split": "blocked"}]).read_text()
    assert page.count("preset tiny</span>") == 1 and page.count("preset tiny, split blocked</span>") == 1


def test_own_scores_stand_beside_the_trials(make_ranking, tmp_path):
    ranking = make_ranking(3)
    ranking["rows"][1]["own_score"] = 0.4567
    page = write_report(tmp_path, [ranking]).read_text()
    assert "<th>own score</th><th>trials</th>" in page
    assert f"<td>0.4567</td><td>{ranking['rows'][1]['n_trials']}</td>" in page
    assert f"<td>–</td><td>{ranking['rows'][0]['n_trials']}</td>" in page


def test_every_line_of_the_ranking_has_as_many_cells(make_ranking, tmp_path):
    ranking = make_ranking(4, diverged=1)
    ranking["baseline"] |= {"state": "failed", "score": None, "reason": None}
    page = write_report(tmp_path, [ranking]).read_text()
    table = page.split("<h3>Ranking</h3>")[1].split("</table>")[0]
    widths = [
        sum(int((re.search(r'colspan="(\d+)"', cell) or [0, 1])[1]) for cell in re.findall("<t[dh][^>]*>", line))
        for line in table.split("<tr")[1:]
    ]
    assert len(widths) == 7 and set(widths) == {widths[0]}


def test_what_rankings_share_is_shown_against_chance(make_ranking, tmp_path):
    rankings = [make_ranking(8), make_ranking(8, heldout="other", seed=1, diverged=1)]
    page = write_report(tmp_path, rankings).read_text()
    assert "7 sessions ranked for" in page and "1 left out" in page and "Fig. A2" in page
    (overlap,) = json.loads((tmp_path / "report.json").read_text())["overlap"]
    assert overlap["curve"]["k"] == list(range(1, 8)) and overlap["curve"]["size"][-1] == 7
    assert (tmp_path / "figures" / "overlap-1.svg").exists()
    few = write_report(tmp_path, [make_ranking(2), make_ranking(2, heldout="other")]).read_text()
    assert "at least 3 are needed" in few and not (tmp_path / "figures" / "overlap-1.svg").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("[1]", "is no JSON object"),
        ("{}", "lacks baseline, cost, differences"),
        ('{"schema": 1', "is no JSON"),
    ],
)
def test_a_broken_ranking_is_one_line(tmp_path, content, says):
    folder = tmp_path / "rankings" / "a" / "full-1"
    folder.mkdir(parents=True)
    (folder / "ranking.json").write_text(content)
    with pytest.raises(DataError, match=says):
        report_of_study(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "says"), [("schema", 2, "has schema 2"), ("rows", [{}], "no rows of a ranking")]
)
def test_a_ranking_of_another_kind_is_refused(make_ranking, tmp_path, part, value, says):
    folder = tmp_path / "rankings" / "a" / "full-1"
    folder.mkdir(parents=True)
    write_json(folder / "ranking.json", {**make_ranking(3), part: value})
    with pytest.raises(DataError, match=says):
        report_of_study(tmp_path)
