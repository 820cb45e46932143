"""S9, no survivorship: what diverged, failed or cannot be is a row of every table, counted in the head, and named."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sessionwise.analysis import pages, study_figures
from sessionwise.analysis.results import Row, open_results
from sessionwise.analysis.study_report import report
from sessionwise.errors import DataError
from sessionwise.io.files import read_json
from sessionwise.runs import launch
from sessionwise.selection import ranking
from sessionwise.study import scaling
from sessionwise.study.recipe import make_recipe
from sessionwise.study.scaling import run_study

HELDOUT = "sim-heldout-0"
POOL = ("sim-00", "sim-01", "sim-02", "sim-03")
_SAME = {"value", "state", "reason", "run", "model", "sessions", "trials", "n_sessions"}
_SAME |= {"pretrain_steps", "finetune_steps", "tokens"}
_WHICH = [field.name for field in fields(Row) if field.name not in _SAME]  # what was asked


@pytest.fixture(scope="module")
def studies(
    toy_store: Path, toy_settings: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A study, and the same one in which sim-01 diverges and every finetuning around sim-02 raises."""
    value: dict[str, Any] = {
        "preset": "tiny",
        "data": {"heldout": [HELDOUT]},
        "study": {"seeds": [10], "sizes": [1, 3, "all"], "top": 1, "shuffles": 1},
        "controls": {"transfer_matrix": True, "many_shuffles": {"size": 1, "n": 6}},
    }
    for key, setting in toy_settings.items():
        section, name = key.split(".")
        value.setdefault(section, {})[name] = setting
    recipe, folder = make_recipe(value), tmp_path_factory.mktemp("survivors")
    whole = run_study(recipe, folder / "whole", store=toy_store, on="here")
    with pytest.MonkeyPatch.context() as patch:
        real, real_load = scaling.pretrain_spec, launch.load_work

        def poisoned(sessions: Any, ids: Any, settings: Any, seed: int) -> Any:
            if tuple(ids) == ("sim-01",):
                settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e30})})
            return real(sessions, ids, settings, seed)

        def failing(name: str) -> Any:
            work = real_load(name)

            def run(spec: Any, store: Any, report: Any) -> None:
                if spec.kind == "finetune" and "sim-02" in spec.label and "sessions" not in spec.label:
                    raise DataError("finetune", "raised on purpose")
                work(spec, store, report)

            return run

        for module in (scaling, ranking):
            patch.setattr(module, "pretrain_spec", poisoned)
            patch.setattr(module, "save_picture", lambda *_: None)  # no number depends on it
        patch.setattr(launch, "load_work", failing)
        broken = run_study(recipe, folder / "broken", store=toy_store, on="here")
    return whole, broken


def cells(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.slow
def test_every_number_that_was_asked_for_is_a_row_with_a_state_and_a_reason(studies):
    whole, broken = (open_results(study).rows for study in studies)
    asked = [{tuple(getattr(row, name) for name in _WHICH) for row in rows} for rows in (whole, broken)]
    assert asked[0] == asked[1] and len(asked[1]) == len(broken)
    states = {row.state for row in broken}
    assert states == {"done", "diverged", "failed", "missing"} and {row.state for row in whole} == {"done"}
    assert all((row.value is None) == (row.state != "done") == bool(row.reason) for row in broken)
    reasons = " ".join({str(row.reason) for row in broken})
    assert "raised on purpose" in reasons and "loss" in reasons and "2 of 4" in reasons


@pytest.mark.slow
def test_rankings_and_the_transfer_matrix_have_all_of_their_rows(studies):
    for name in ("ranking.csv", "ranking.json"):
        assert all(len(list(study.glob(f"rankings/*/*/{name}"))) == 1 for study in studies)
    (table,) = studies[1].glob("rankings/*/*/ranking.csv")
    (found,) = studies[1].glob("rankings/*/*/ranking.json")
    assert {line[1] for line in cells(table)} >= set(POOL)
    states = {row["session"]: row["state"] for row in read_json(found)["rows"]}
    assert states == {"sim-00": "done", "sim-01": "diverged", "sim-02": "failed", "sim-03": "done"}
    whole, broken = (cells(study / "transfer.csv") for study in studies)
    assert [line[:3] for line in whole] == [line[:3] for line in broken] and len(broken) == 1 + 4 * 4
    assert sum("diverged" in line for line in broken) == 4


@pytest.mark.slow
def test_the_report_counts_and_names_all_of_it(studies, monkeypatch):
    monkeypatch.setattr(study_figures, "FIGURES", dict.fromkeys(study_figures.FIGURES, lambda document: None))
    monkeypatch.setattr(pages, "FORMS", ("svg",))
    rows = [row for row in open_results(studies[1]).rows if (row.part, row.metric) == ("test", "bps")]
    page = report(studies[1], n_boot=100)
    document = read_json(page.with_name("report.json"))
    for state, number in document["counts"].items():
        assert number == sum(row.state == state for row in rows) > 0
    without = [row for row in rows if row.state != "done"]
    named = cells(page.parent / "tables" / "missing.csv")[1:]
    assert [line[0] for line in named] == [entry["what"] for entry in document["failed"]]
    assert len(named) == len(without) + 2 + sum(line[4] != "done" for line in cells(studies[1] / "transfer.csv")[1:])
    text = page.read_text()
    words = ", ".join(f"{document['counts'][state]} {state}" for state in ("diverged", "failed", "missing"))
    assert words in text and text.index(words) < text.index('class="answer"')
    assert "without a number" not in report(studies[0], n_boot=100).read_text()
    curves = {entry["arm"]: entry["points"] for entry in document["curves"] if entry["heldout"] == HELDOUT}
    for order in ("ranked", "reverse_ranked", "random"):  # a size without a mean is a point with its reason
        assert [point["size"] for point in curves[order]] == [1, 3, 4]
        assert all((point["mean"] is None) == bool(point["reason"]) for point in curves[order])
    assert any(point["mean"] is None for point in curves["ranked"])
