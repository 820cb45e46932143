"""Tables of a study: inert in every form, whole, and in the paper's form."""

import csv
import io
import re

import pytest

from sessionwise.analysis.study_tables import Table, render, safe_latex, safe_markdown, table1, table_a2, tables

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x")',
    "{{7*7}}{% raw %}",
    "\\input{/etc/passwd}",
    "%s%n",
    "a|b",
    "[x](http://evil)",
    "*b* `c` $x^2$ #1 & ~_",
    "\u202egnp.exe\nnext line",
    "@SUM(A1)",
]


def a_table(cells, **more):
    lines = [[cell, "+0.01"] for cell in cells]
    tidy = [["what", "value"], *([cell, -0.01] for cell in cells)]
    return Table("t", "A caption.", ["what", "value"], [("a | <b>", lines)], tidy, **more)


def text_of(table, form):
    return render(table, form).decode()


def test_csv_cells_are_text_to_a_spreadsheet_and_numbers_stay_numbers():
    rows = list(csv.reader(io.StringIO(text_of(a_table(HOSTILE), "csv"))))
    assert len(rows) == 1 + len(HOSTILE) and {len(row) for row in rows} == {2}
    assert not [row[0] for row in rows if row[0].lstrip().startswith(("=", "+", "-", "@"))]
    assert {row[1] for row in rows[1:]} == {"-0.01"}


def test_markdown_has_the_table_s_columns_and_no_html():
    lines = [line for line in text_of(a_table(HOSTILE), "md").splitlines() if line.startswith("|")]
    assert len(lines) == 3 + len(HOSTILE), "no id may break a line"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert not [line for line in lines if "<" in line or "{{" in line or "{%" in line]


@pytest.mark.parametrize("text", ["`a`", "*a*", "_a_", "[a](b)", "$a$", "~a~", "a|b", "\\n"])
def test_markdown_s_marks_are_escaped(text):
    assert not re.findall(r"(?<!\\)[`*_\[\]$~|]", safe_markdown(text).replace("\\\\", ""))


def test_a_markdown_id_is_no_link():
    assert "http://" not in safe_markdown("http://x.org") and "www.x" not in safe_markdown("www.x.org")


def active(latex):
    """The characters and commands of a LaTeX text that LaTeX would act on, those of ``safe_latex`` itself left out."""
    own = r"\\textbackslash\{\}|\\textasciicircum\{\}|\\textasciitilde\{\}|\\text(?:less|greater|bar)\{\}|\\char34\{\}"
    rest = re.sub(rf"{own}|\\[{{}}$&#_%,]|\{{[\[\]*`]\}}|\$-\$|\$\\times\$|\$\\rho\$|\$\^2\$", "", latex)
    return re.findall(r"[\\{}$&#^_%~]", rest)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_acts_on_nothing(text):
    assert active("\\input{x}") and active("a_b") and active("50%"), "the check itself sees commands"
    assert active(safe_latex(text)) == []


def test_latex_rows_have_the_table_s_columns():
    lines = text_of(a_table(HOSTILE), "tex").splitlines()
    rows = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 1 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {1}
    # A line end takes what follows in brackets, or a star, as its argument.
    assert not [row for row in rows if row.startswith(("[", "*"))]
    assert lines.count("\\begin{tabular}{lr}") == lines.count("\\end{tabular}") == 1


PAPER = {
    "84": (5.74, 11.08, 2.54, 8.69),
    "85": (11.33, 18.87, 9.39, 16.92),
    "mean": (9.54, 13.95, 5.42, 11.97),
}


def paper_document(reason=None):
    rows = []
    for heldout, values in PAPER.items():
        entries = {
            order: {"value": value, "low": None, "high": None, "size": 40, "n_heldout": 1, "reason": None}
            for order, value in zip(("random", "ranked", "reverse_ranked", "top"), values, strict=True)
        }
        rows.append({"heldout": heldout, "choice": "test", "unit": "%", **entries})
    if reason:
        rows[0]["random"] |= {"value": None, "size": None, "reason": reason}
    return {"heldout": ["84", "85"], "top": 5, "table1": {"top": 5, "rows": rows}}


def test_table_1_is_the_paper_s():
    table = table1(paper_document())
    assert table.header == ["held-out session", "random", "ranked", "reverse-ranked", "ranked top 5"]
    ((title, lines),) = table.groups
    assert "as in the paper" in title and [line[0] for line in lines] == ["84", "85", "average of 2"]
    assert lines[2][1:] == ["9.5 (40)", "13.9 (40)", "5.4 (40)", "12.0"]
    rows = list(csv.DictReader(io.StringIO(text_of(table, "csv"))))
    assert [float(row["value"]) for row in rows if row["heldout"] == "mean"] == list(PAPER["mean"])


def test_what_is_missing_is_a_dash_with_its_reason():
    table = table1(paper_document("84: not every size has a score"))
    assert table.groups[0][1][0][1] == "–" and table.notes == ["–: 84: not every size has a score."]
    for form in ("md", "tex"):
        assert "not every size has a score" in text_of(table, form)


def test_table_a2_has_a_line_a_pair_and_a_column_a_size():
    rows = [
        {"heldout": "84", "size": size, "pair": pair, "p": p}
        for pair, known in ((["random", "ranked"], (0.003, None)), (["ranked", "reverse_ranked"], (0.0004, 0.5)))
        for size, p in zip((1, 40), known, strict=True)
    ]
    table = table_a2({"table_a2": rows})
    assert table.header[1:] == ["1", "40"]
    assert table.groups == [
        ("84", [["random v ranked", "0.003", "–"], ["ranked v reverse-ranked", "< 0.001", "0.500"]])
    ]


def test_every_table_of_a_document_has_as_many_cells_as_columns(document):
    made = tables(document)
    assert {
        "claims",
        "table1",
        "table-a2",
        "tests",
        "scores",
        "references",
        "controls",
        "cost",
        "missing",
    } <= made.keys()
    for table in made.values():
        assert {len(line) for _, lines in table.groups for line in lines} == {len(table.header)}, table.name
        assert {len(line) for line in table.tidy} == {len(table.tidy[0])}, table.name


def test_every_seed_is_in_the_table_of_scores(document):
    rows = list(csv.DictReader(io.StringIO(text_of(tables(document)["scores"], "csv"))))
    point = next(c for c in document["curves"] if c["heldout"] is None and c["arm"] == "random")["points"][1]
    row = next(row for row in rows if row["heldout"] == "mean" and row["arm"] == "random" and row["size"] == "2")
    assert [float(value) for value in row["values"].split()] == point["values"] and len(point["values"]) == 3
    assert float(row["mean"]) == point["mean"] and float(row["sd"]) == point["sd"]


def test_an_incomplete_mean_says_how_many_runs_it_lacks(document):
    lines = [line for _, group in tables(document)["scores"].groups for line in group if line[-1]]
    assert lines and all(line[1] == "–" and "1 of 2" in line[-1] for line in lines)
