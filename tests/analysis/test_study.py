"""The document of a study, from results made by hand: every expected number is in the fixture, none comes from code."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study_fixture import (
    BASELINE,
    BASELINE_STEPS,
    CORE_REACH,
    FINETUNE_STEPS,
    HELDOUT,
    LEVELS,
    SHIFT,
    SIZES,
    STEPS_A_SESSION,
    VALIDATION_SHIFT,
    level_of,
    make_results,
    n_trials,
    pool_ids,
    true_order,
)

from sessionwise.analysis.cells import Grid, best_size
from sessionwise.analysis.estimates import common_cores, target_of
from sessionwise.analysis.ranked_sessions import trial_variance
from sessionwise.analysis.results import StudyResults
from sessionwise.analysis.scaling import cost
from sessionwise.analysis.study import analyse
from sessionwise.analysis.summary import require_finite
from sessionwise.errors import DataError

N_BOOT = 200
BROKEN = {
    (HELDOUT[1], "ranked", 2, 1): ("diverged", "loss is not finite at step 41"),
    (HELDOUT[1], "glm", None, 0): ("failed", "killed"),
    (HELDOUT[0], "minus_worst", 6, 0): ("missing", None),
}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return analyse(make_results(transfer=True), n_boot=N_BOOT)


@pytest.fixture(scope="module")
def broken() -> dict[str, Any]:
    return analyse(make_results(broken=BROKEN), n_boot=N_BOOT)


def one(entries: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def point(document: dict[str, Any], heldout: str | None, arm: str, size: int) -> dict[str, Any]:
    return one(one(document["curves"], heldout=heldout, arm=arm)["points"], size=size)


# The whole document ---------------------------------------------------------------------------------------------------


def test_the_document_is_json_of_finite_numbers(whole: dict[str, Any]) -> None:
    require_finite(whole, "document")
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert (whole["heldout"], whole["pool"], whole["n_pool"]) == (list(HELDOUT), pool_ids(8), 8)
    assert (whole["metric"], whole["level"], whole["allow_missing"], whole["top"]) == ("bps", 0.95, False, 3)


def test_the_same_results_give_the_same_bytes(whole: dict[str, Any]) -> None:
    again = analyse(make_results(transfer=True), n_boot=N_BOOT)
    assert json.dumps(again) == json.dumps(whole)


def test_rows_in_another_order_give_the_same_bytes(whole: dict[str, Any]) -> None:
    results = make_results(transfer=True)
    turned = StudyResults(
        results.study,
        tuple(reversed(results.rows)),
        results.gains,
        results.spikes,
        results.rankings[::-1],
        results.transfer[::-1],
        results.about,
    )
    assert json.dumps({**analyse(turned, n_boot=N_BOOT), "failed": []}) == json.dumps({**whole, "failed": []})


def test_a_control_changes_no_other_number(whole: dict[str, Any]) -> None:
    without = analyse(make_results(controls=False), n_boot=N_BOOT)
    for name in ("curves", "table1", "table_a2", "fits", "claims", "overlap", "closeness", "metadata"):
        assert without[name] == whole[name], name
    assert without["controls"] == []


def test_counts_and_failures(whole: dict[str, Any], broken: dict[str, Any]) -> None:
    assert {state: n for state, n in whole["counts"].items() if n} == {"done": sum(broken["counts"].values())}
    assert {state: broken["counts"][state] for state in ("diverged", "failed", "missing")} == {
        "diverged": 1,
        "failed": 1,
        "missing": 1,
    }
    assert broken["failed"] == [
        {"what": "minus-worst minus 2 at 6 for 09_Moniz, seed 10", "state": "missing", "reason": "no reason recorded"},
        {
            "what": "ranked at 2 for 07_Forssmann, seed 20",
            "state": "diverged",
            "reason": "loss is not finite at step 41",
        },
        {"what": "glm for 07_Forssmann, seed 0", "state": "failed", "reason": "killed"},
    ]
    assert whole["failed"] == []


# Curves ---------------------------------------------------------------------------------------------------------------


def test_means_sds_and_improvements_are_those_of_the_fixture(whole: dict[str, Any]) -> None:
    found = point(whole, HELDOUT[2], "random", 5)
    level, base = 0.150 + SHIFT[2], BASELINE + SHIFT[2]
    assert found["mean"] == pytest.approx(level, abs=1e-12)
    assert found["values"] == pytest.approx([level - 0.004, level, level + 0.004], abs=1e-12)
    assert found["sd"] == pytest.approx(0.004, abs=1e-12)
    assert (found["sd_source"], found["n"], found["n_asked"]) == ("shuffles", 3, 3)
    assert found["improvement_percent"] == pytest.approx(100 * (level - base) / base)
    assert found["difference"]["mean"] == pytest.approx(level - base, abs=1e-12)
    assert found["difference"]["low"] < found["difference"]["mean"] < found["difference"]["high"]
    assert found["over_one_percent"] == pytest.approx(100 * (0.150 - 0.100) / (0.100 + SHIFT[2]))
    assert found["validation_mean"] == pytest.approx(level + VALIDATION_SHIFT)
    assert (found["steps"], found["finetune_steps"]) == (5 * STEPS_A_SESSION, FINETUNE_STEPS)
    assert found["reason"] is None
    assert len(found["runs"]) == 3


def test_trials_are_all_trials_of_the_pretraining_sessions(whole: dict[str, Any]) -> None:
    pool = pool_ids(8)
    order = [pool.index(session) for session in true_order(pool, 1)[:3]]
    assert point(whole, HELDOUT[1], "ranked", 3)["trials"] == sum(n_trials(i) for i in order)
    assert point(whole, HELDOUT[1], "random", 8)["trials"] == sum(n_trials(i) for i in range(8))


def test_the_average_is_over_heldout_sessions(whole: dict[str, Any]) -> None:
    found = point(whole, None, "ranked", 3)
    shifts = SHIFT[:3]
    assert found["mean"] == pytest.approx(0.165 + np.mean(shifts), abs=1e-12)
    assert found["n_heldout"] == 3
    assert found["values"] == pytest.approx([0.164 + np.mean(shifts), 0.166 + np.mean(shifts)], abs=1e-12)
    each = [100 * (0.165 - BASELINE) / (BASELINE + shift) for shift in shifts]
    assert found["improvement_percent"] == pytest.approx(np.mean(each))


def test_all_sessions_are_the_same_runs_in_every_order(whole: dict[str, Any]) -> None:
    points = [point(whole, HELDOUT[0], arm, 8) for arm in ("ranked", "random", "reverse_ranked")]
    for other in points[1:]:
        for name in ("values", "runs", "sd", "sd_source", "difference"):
            assert other[name] == points[0][name]
    assert points[0]["labels"] == ["seed 10", "seed 20"]


def test_more_shuffles_than_seeds_count_all_sessions_once() -> None:
    results = make_results(controls=False, rankings=False)
    extra = [row for row in results.rows if row.arm == "random" and row.size == 8 and row.seed == 10]
    again = tuple(type(row)(**{**vars(row), "draw": 2}) for row in extra)
    grid = Grid(StudyResults(**{**vars(results), "rows": results.rows + again}))
    cell = grid.cell(HELDOUT[0], "random", 8)
    assert (cell.n, cell.asked) == (2, 2)
    assert one(cost(grid, ()), arm="all")["tokens"] == 3 * 2 * (8 * STEPS_A_SESSION + FINETUNE_STEPS) * 160


def test_one_session_is_no_percent_over_itself(whole: dict[str, Any]) -> None:
    assert {curve["points"][0]["over_one_percent"] for curve in whole["curves"]} == {0.0}


# What is missing ------------------------------------------------------------------------------------------------------


def test_a_mean_over_an_incomplete_cell_is_refused(broken: dict[str, Any]) -> None:
    found = point(broken, HELDOUT[1], "ranked", 2)
    assert found["mean"] is None and found["sd"] is None and found["difference"] is None
    assert found["improvement_percent"] is None
    assert (found["n"], found["n_asked"], len(found["values"])) == (1, 2, 1)
    assert found["reason"] == "1 of 2 runs have a score: seed 20 diverged (loss is not finite at step 41)"
    average = point(broken, None, "ranked", 2)
    assert average["mean"] is None and HELDOUT[1] in average["reason"]
    assert point(broken, HELDOUT[0], "ranked", 2)["mean"] == pytest.approx(0.158)


def test_allowed_missing_runs_are_left_out_and_counted() -> None:
    document = analyse(make_results(broken=BROKEN), n_boot=N_BOOT, allow_missing=True)
    found = point(document, HELDOUT[1], "ranked", 2)
    assert found["mean"] == pytest.approx(0.158 + SHIFT[1] - 0.001)
    assert (found["n"], found["n_asked"]) == (1, 2)
    assert "diverged" in found["reason"]
    average = point(document, None, "ranked", 2)
    assert average["mean"] == pytest.approx(0.158 + np.mean(SHIFT[:3]) - 0.001 / 3)
    assert average["labels"] == ["seed 10"]
    glm = one(document["baselines"], heldout=None, arm="glm")
    assert glm["n_heldout"] == 2 and "killed" in glm["reason"]
    assert glm["mean"] == pytest.approx(0.100 + (SHIFT[0] + SHIFT[2]) / 2)


def test_what_needs_a_missing_run_says_so(broken: dict[str, Any]) -> None:
    rows = {(row["heldout"], row["choice"], row["unit"]): row for row in broken["table1"]["rows"]}
    assert rows[HELDOUT[1], "validation", "%"]["ranked"]["value"] is None
    assert "ranked" in rows[HELDOUT[1], "validation", "%"]["ranked"]["reason"]
    assert rows[HELDOUT[1], "validation", "%"]["random"]["value"] is not None
    assert rows["mean", "test", "bps"]["ranked"]["value"] is None
    tests = one(broken["table_a2"], heldout=HELDOUT[1], size=2, pair=["random", "ranked"])
    assert tests["p"] is None and tests["p_holm"] is None and "diverged" in tests["reason"]
    fit = one(broken["fits"], heldout=HELDOUT[1], arm="ranked")
    assert fit["slope"] is None and "diverged" in fit["reason"]
    assert any("of" in sentence and "missing" in sentence for sentence in broken["answer"]["text"])


def test_a_cell_without_any_row_was_not_run() -> None:
    results = make_results(controls=False, rankings=False)
    kept = tuple(row for row in results.rows if not (row.arm == "baseline" and row.heldout == HELDOUT[0]))
    document = analyse(StudyResults(**{**vars(results), "rows": kept}), n_boot=N_BOOT)
    found = one(document["baselines"], heldout=HELDOUT[0], arm="baseline")
    assert (found["mean"], found["reason"], found["n_asked"]) == (None, "was not run", 2)
    assert point(document, HELDOUT[0], "ranked", 1)["difference"] is None
    assert point(document, HELDOUT[0], "ranked", 1)["mean"] == pytest.approx(0.150)


def test_scores_that_disagree_with_their_trials_are_refused() -> None:
    results = make_results(controls=False, rankings=False)
    row = next(row for row in results.rows if row.part == "test" and row.metric == "bps" and row.arm == "ranked")
    rows = tuple(type(r)(**{**vars(r), "value": 0.2}) if r is row else r for r in results.rows)
    with pytest.raises(DataError, match=r"bits per spike, the table of results 0\.2"):
        analyse(StudyResults(**{**vars(results), "rows": rows}), n_boot=N_BOOT)


def test_without_stored_gains_there_is_a_mean_and_no_interval() -> None:
    results = make_results(controls=False, rankings=False)
    document = analyse(StudyResults(**{**vars(results), "gains": {}, "spikes": {}}), n_boot=N_BOOT)
    found = point(document, HELDOUT[0], "ranked", 3)
    assert found["mean"] == pytest.approx(0.165) and found["difference"] is None
    assert "not stored" in found["difference_reason"]
    assert {claim["verdict"] for claim in document["claims"] if claim["id"] != "extrapolation_above_measured"} == {
        "not measured"
    }


def test_a_baseline_below_zero_gives_differences_and_no_percentage() -> None:
    def level(h: int, arm: str, variant: str, size: int | None) -> float:
        return -0.01 if arm == "baseline" else level_of(LEVELS, SIZES)(h, arm, variant, size)

    document = analyse(make_results(level=level, controls=False, rankings=False), n_boot=N_BOOT)
    found = point(document, HELDOUT[0], "ranked", 3)
    assert found["improvement_percent"] is None
    assert found["difference"]["mean"] == pytest.approx(0.175)
    rows = {(row["heldout"], row["choice"], row["unit"]): row for row in document["table1"]["rows"]}
    assert rows["mean", "test", "%"]["ranked"]["value"] is None
    assert "not above zero" in rows["mean", "test", "%"]["ranked"]["reason"]
    assert rows[HELDOUT[0], "test", "bps"]["ranked"]["value"] == pytest.approx(0.175)


def test_what_serves_every_heldout_session_is_shared_noise() -> None:
    grid = Grid(make_results(controls=False, rankings=False))
    names = {"ranked": ("ranked", 3), "all": ("all", 8), "random": ("random", 3), "baseline": ("baseline", None)}
    cells = [{name: grid.cell(h, *asked) for name, asked in names.items()} for h in HELDOUT]
    common = common_cores(cells)
    assert common == {"all", "random"}  # ranked sets differ between the held-out sessions here
    assert common_cores([cells[0], cells[0]]) == {"all", "random", "ranked"}  # equal sets are one model
    target = target_of(cells[0], common)
    families = target["families"]
    assert families["ranked"] == families["baseline"] and families["ranked"] not in target["shared"]
    assert {families["all"], families["random"]} == set(target["shared"])
    assert len({families[name] for name in ("ranked", "all", "random")}) == 3


# Tables ---------------------------------------------------------------------------------------------------------------

# Table 1 of the paper: improvement over the baseline in %, by held-out session.
PAPER = {
    "84": {"random": 5.74, "ranked": 11.08, "reverse_ranked": 2.54, "top": 8.69},
    "85": {"random": 11.33, "ranked": 18.87, "reverse_ranked": 9.39, "top": 16.92},
    "86": {"random": 3.13, "ranked": 4.78, "reverse_ranked": 0.89, "top": 3.39},
    "87": {"random": 8.37, "ranked": 8.43, "reverse_ranked": 3.30, "top": 8.43},
    "88": {"random": 19.12, "ranked": 26.60, "reverse_ranked": 10.95, "top": 22.44},
}
PAPER_SIZES = (1, 2, 3, 4, 5, 10, 20, 30, 40, 84)
PAPER_BASELINES = (0.30, 0.25, 0.40, 0.20, 0.15)


def paper_level(h: int, arm: str, variant: str, size: int | None) -> float:
    """Scores whose best sizes and improvements are those of Table 1; random and ranked are best at 40 sessions."""
    base, row = PAPER_BASELINES[h], list(PAPER.values())[h]
    if arm == "baseline":
        return base
    if size == 84:
        percent = row["random"] - 1.0
    elif arm == "ranked":
        percent = row["top"] if size == 5 else row["ranked"] if size == 40 else row["top"] - 0.1 * (41 - int(size or 0))
    else:
        percent = row[arm] - 0.1 * (40 - int(size or 0))
    return base * (1 + percent / 100)


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    results = make_results(
        heldout=tuple(PAPER),
        n_pool=84,
        sizes=PAPER_SIZES,
        seeds=(10, 20, 42),
        top=5,
        level=paper_level,
        spread=1e-4,
        controls=False,
        rankings=False,
    )
    return analyse(results, n_boot=100)


@pytest.mark.parametrize("choice", ["test", "validation"])
def test_table_1_of_the_paper(paper: dict[str, Any], choice: str) -> None:
    for heldout, expected in PAPER.items():
        row = one(paper["table1"]["rows"], heldout=heldout, choice=choice, unit="%")
        for arm, percent in expected.items():
            assert round(row[arm]["value"], 2) == percent, (heldout, arm)
        assert (row["random"]["size"], row["top"]["size"]) == (40, 5)
    mean = one(paper["table1"]["rows"], heldout="mean", choice=choice, unit="%")
    averages = {arm: round(mean[arm]["value"], 2) for arm in ("random", "ranked", "reverse_ranked", "top")}
    assert averages == {"random": 9.54, "ranked": 13.95, "reverse_ranked": 5.41, "top": 11.97}


def test_the_paper_s_numbers_come_out(paper: dict[str, Any]) -> None:
    claims = {claim["id"]: claim for claim in paper["claims"]}
    assert round(claims["points_gain"]["value"]["mean"], 1) == 4.4
    assert round(claims["top_share"]["value"]["mean"]) == 86
    assert claims["data_efficiency"]["value"]["mean"] == 8.0
    assert claims["data_efficiency"]["paper_choice"]["curve_of_means"] == 8.0
    assert round(claims["points_gain"]["paper_choice"]["mean"], 1) == 4.4


def test_the_size_chosen_on_validation_may_be_another(whole: dict[str, Any]) -> None:
    def judged(h: int, arm: str, variant: str, size: int | None) -> float:
        return 0.3 if (arm, size) == ("random", 2) else level_of(LEVELS, SIZES)(h, arm, variant, size)

    document = analyse(make_results(validation=judged, controls=False, rankings=False), n_boot=N_BOOT)
    rows = {(row["heldout"], row["choice"], row["unit"]): row for row in document["table1"]["rows"]}
    assert rows[HELDOUT[0], "test", "bps"]["random"]["size"] == 5
    assert rows[HELDOUT[0], "test", "bps"]["random"]["value"] == pytest.approx(0.150 - BASELINE)
    assert rows[HELDOUT[0], "validation", "bps"]["random"]["size"] == 2
    assert rows[HELDOUT[0], "validation", "bps"]["random"]["value"] == pytest.approx(0.120 - BASELINE)
    assert rows["mean", "validation", "bps"]["random"]["size"] is None


def test_all_sessions_are_no_best_size() -> None:
    levels = {**LEVELS, "random": (0.1, 0.11, 0.12, 0.13, 0.9)}
    levels |= {order: (*LEVELS[order][:4], 0.9) for order in ("ranked", "reverse_ranked")}
    grid = Grid(make_results(level=level_of(levels, SIZES), controls=False, rankings=False))
    assert best_size(grid, HELDOUT[0], "random", "test") == 5
    assert best_size(grid, HELDOUT[0], "ranked", "validation") == 3


def test_table_a2_is_that_of_scipy(whole: dict[str, Any]) -> None:
    rows = whole["table_a2"]
    assert len(rows) == 3 * 4 * 3
    row = one(rows, heldout=HELDOUT[0], size=3, pair=["random", "reverse_ranked"])
    a, b = [0.131, 0.135, 0.139], [0.0915, 0.0885]
    student, welch = stats.ttest_ind(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert row["t"] == pytest.approx(student.statistic)
    assert (row["p"], row["df"], row["n"]) == (pytest.approx(student.pvalue), 3, [3, 2])
    assert row["p_welch"] == pytest.approx(welch.pvalue)
    assert row["p_paired"] is None
    assert row["p_exact"] == pytest.approx(1 / 10)
    assert row["difference"] == pytest.approx(0.045)
    assert row["low"] < 0.045 < row["high"]
    raw = [r["p"] for r in rows]
    assert [r["p_bh"] for r in rows] == pytest.approx(list(stats.false_discovery_control(raw)))
    assert min(raw) * len(raw) == pytest.approx(min(r["p_holm"] for r in rows))


def test_pairs_by_seed_are_tested_as_pairs(whole: dict[str, Any]) -> None:
    row = one(whole["table_a2"], heldout=HELDOUT[0], size=3, pair=["ranked", "reverse_ranked"])
    paired = stats.ttest_rel([0.164, 0.166], [0.0915, 0.0885])
    assert row["p_paired"] == pytest.approx(paired.pvalue)


def test_shuffles_are_no_pairs_of_seeds() -> None:
    document = analyse(make_results(shuffles=2, controls=False, rankings=False), n_boot=50)
    row = one(document["table_a2"], heldout=HELDOUT[0], size=3, pair=["random", "ranked"])
    assert row["n"] == [2, 2] and row["p"] is not None and row["p_paired"] is None


# Fits -----------------------------------------------------------------------------------------------------------------


def log_level(h: int, arm: str, variant: str, size: int | None) -> float:
    """Equal sessions: score exactly on a logarithm of the trials, but for all sessions, which fall short by 0.02."""
    if arm == "baseline":
        return 0.1
    base, slope = {"ranked": (0.02, 0.02), "random": (-0.05, 0.03), "reverse_ranked": (-0.1, 0.035)}[arm]
    found = base + slope * math.log(250 * int(size or 0))
    return -0.05 + 0.03 * math.log(2000) - 0.02 if size == 8 else found


def equal_trials(**changes: Any) -> StudyResults:
    """Results of sessions of 250 trials each."""
    results = make_results(level=log_level, spread=0.0, controls=False, rankings=False, **changes)
    rows = tuple(type(r)(**{**vars(r), "trials": 250 * r.n_sessions or None}) for r in results.rows)
    return StudyResults(**{**vars(results), "rows": rows})


def test_the_logarithm_is_found() -> None:
    document = analyse(equal_trials(), n_boot=N_BOOT)
    for heldout in (HELDOUT[0], None):
        fit = one(document["fits"], heldout=heldout, arm="random")
        assert fit["slope"]["mean"] == pytest.approx(0.03, abs=1e-9)
        assert fit["intercept"]["mean"] == pytest.approx(-0.05, abs=1e-9)
        assert fit["r2"] == pytest.approx(1.0)
        assert fit["trials_all"] == 2000
        assert fit["predicted_all"]["mean"] == pytest.approx(-0.05 + 0.03 * math.log(2000), abs=1e-9)
        assert fit["measured_all"]["mean"] == pytest.approx(-0.05 + 0.03 * math.log(2000) - 0.02, abs=1e-9)
        assert len(fit["points"]) == 4 * 3
        assert max(trials for trials, _ in fit["points"]) == 5 * 250
        for trials, score in fit["line"]:
            assert score == pytest.approx(-0.05 + 0.03 * math.log(trials), abs=1e-9)


def test_two_sizes_are_no_fit() -> None:
    results = make_results(sizes=(3, 5, 8), level=log_level, controls=False, rankings=False)
    rows = tuple(type(r)(**{**vars(r), "trials": 250 * r.n_sessions or None}) for r in results.rows)
    fit = one(analyse(StudyResults(**{**vars(results), "rows": rows}), n_boot=50)["fits"], heldout=None, arm="random")
    assert fit["slope"] is None and fit["reason"] == "fewer than three different sizes"


# Baselines, controls, cost --------------------------------------------------------------------------------------------


def test_baselines_with_their_steps(whole: dict[str, Any]) -> None:
    arms = ["baseline", "psth", "glm", "random_core", "own_core", "baseline_doubled"]
    assert [row["arm"] for row in whole["baselines"]][::4] == arms
    base = one(whole["baselines"], heldout=HELDOUT[1], arm="baseline")
    assert (base["mean"], base["steps"]) == (pytest.approx(BASELINE + SHIFT[1]), BASELINE_STEPS)
    assert base["difference"] is None
    glm = one(whole["baselines"], heldout=HELDOUT[1], arm="glm")
    assert glm["difference"]["mean"] == pytest.approx(0.100 - BASELINE)
    assert (glm["n"], glm["sd"], glm["sd_source"], glm["steps"]) == (1, None, None, None)


@pytest.mark.parametrize(
    ("name", "wanted", "difference"),
    [
        ("step_matched", {"variant": "steps of top", "size": 3}, 0.003),
        ("step_matched", {"variant": "steps of all", "size": 3}, 0.003),
        ("step_matched", {"variant": "steps of all", "size": 8}, 0.166 - 0.003 - 0.155),
        ("trial_matched", {"size": 3}, 0.140 - 0.165),
        ("other_targets", {"size": 3}, 0.148 - 0.165),
        ("many_shuffles", {"size": 3}, 0.135 - 0.165),
        ("random_core", {"against": "the baseline"}, 0.070 - BASELINE),
        ("random_core", {"against": "ranked at 3"}, 0.070 - 0.165),
        ("own_core", {"against": "the baseline"}, 0.142 - BASELINE),
        ("baseline_doubled", {}, 0.001),
        ("fresh_seeds", {"size": 1}, 0.147 - 0.150),
        ("full_finetune", {"variant": "ranked", "against": "ranked at 3, frozen"}, 0.170 - 0.165),
        ("full_finetune", {"variant": "reverse_ranked", "against": "the baseline"}, 0.160 - BASELINE),
        ("minus_worst", {"variant": "minus 2"}, 0.159 - 0.155),
    ],
)
def test_controls(whole: dict[str, Any], name: str, wanted: dict[str, Any], difference: float) -> None:
    control = one(whole["controls"], name=name)
    for heldout in (HELDOUT[1], None):
        row = one(control["rows"], heldout=heldout, **wanted)
        assert row["difference"]["mean"] == pytest.approx(difference, abs=1e-9)
        assert row["difference"]["low"] < difference < row["difference"]["high"]
        assert row["against"]
    assert f"{difference:+.4f}".replace("-", "−") in control["text"]


def test_a_doubled_baseline_within_the_seed_sd_is_converged(whole: dict[str, Any]) -> None:
    control = one(whole["controls"], name="baseline_doubled")
    row = one(control["rows"], heldout=HELDOUT[0])
    assert row["validation_change"] == pytest.approx(0.001)
    assert row["validation_sd"] == pytest.approx(0.002 / math.sqrt(2))
    assert row["converged"] is True and control["converged"] is True


def test_a_baseline_that_gains_by_doubling_is_not_converged() -> None:
    def level(h: int, arm: str, variant: str, size: int | None) -> float:
        more = 0.02 if arm == "baseline_doubled" and h == 1 else 0.0
        return level_of(LEVELS, SIZES)(h, arm, variant, size) + more

    control = one(analyse(make_results(level=level), n_boot=50)["controls"], name="baseline_doubled")
    assert [row["converged"] for row in control["rows"] if row["heldout"]] == [True, False, True]
    assert control["converged"] is False and HELDOUT[1] in control["text"].rpartition("On validation")[2]


def test_the_ranked_set_among_many(whole: dict[str, Any]) -> None:
    row = one(whole["many_shuffles"], heldout=HELDOUT[0], size=3)
    # 20 sets at 0.135 - 0.019 to 0.135 + 0.019, in steps of 0.002: all below 0.165.
    assert (row["value"], row["n"]) == (pytest.approx(0.165), 20)
    assert row["others"] == pytest.approx(list(np.arange(0.116, 0.1545, 0.002)))
    assert (row["percentile"], row["p"]) == (pytest.approx(100.0), pytest.approx(1 / 21))


def test_steps_of_every_arm(whole: dict[str, Any]) -> None:
    arms = {(row["arm"], row["variant"], row["size"]) for row in whole["steps_by_arm"]}
    assert {("all", "", 8), ("ranked", "", 3), ("step_matched", "steps of all", 3), ("baseline", "", None)} <= arms
    row = one(whole["steps_by_arm"], arm="random", size=2)
    assert (row["pretrain_steps"], row["pretrain_low"], row["pretrain_high"]) == (1200, 1200, 1200)
    assert row["finetune_steps"] == FINETUNE_STEPS


def test_cost_counts_shared_pretraining_once(whole: dict[str, Any]) -> None:
    shared = one(whole["cost"], arm="random", size=3)
    assert (shared["models"], shared["runs"]) == (3, 9)
    assert shared["pretrain_steps"] == 3 * 3 * STEPS_A_SESSION
    assert shared["finetune_steps"] == 9 * FINETUNE_STEPS
    own = one(whole["cost"], arm="ranked", size=3)
    assert (own["models"], own["runs"]) == (6, 6)
    assert [row["variant"] for row in whole["cost"] if row["arm"] == "ranking"] == list(HELDOUT)
    against = one(whole["cost_vs_score"], heldout=HELDOUT[0], arm="ranked", size=3)
    assert (against["steps"], against["mean"]) == (3 * STEPS_A_SESSION + FINETUNE_STEPS, pytest.approx(0.165))


# Sessions -------------------------------------------------------------------------------------------------------------


def test_single_scores_are_sorted_with_their_baseline(whole: dict[str, Any]) -> None:
    scores = one(whole["single_scores"], heldout=HELDOUT[1])
    assert [row["session"] for row in scores["rows"]] == true_order(pool_ids(8), 1)
    assert [row["score"] for row in scores["rows"]] == pytest.approx([0.13 - 0.01 * i for i in range(8)])
    assert scores["baseline"]["mean"] == pytest.approx(BASELINE + SHIFT[1])


def test_overlap_of_rotated_rankings(whole: dict[str, Any]) -> None:
    # Orders 0..7, 1..7 0 and 2..7 0 1: the top k share k - 2 sessions (2..k-1) until 0 and 1 come in at the end.
    assert whole["overlap"]["size"] == [0, 0, 1, 2, 3, 4, 5, 8]
    assert whole["overlap"]["expected"] == pytest.approx([8 * (k / 8) ** 3 for k in range(1, 9)])
    assert (whole["overlap"]["n_common"], whole["overlap"]["n_left_out"]) == (8, 0)


def test_the_band_of_a_shared_quality_is_at_every_k(whole: dict[str, Any]) -> None:
    found = whole["overlap"]
    for name in ("quality_expected", "quality_low", "quality_high", "low", "high"):
        assert len(found[name]) == len(found["k"]) == 8 and found[name][-1] == 8
    assert found["quality_reason"] is None
    assert all(low <= high for low, high in zip(found["quality_low"], found["quality_high"], strict=True))
    # Noise is far below the steps between sessions: one quality would put the same sessions first.
    assert found["quality_low"][2] > found["size"][2]
    assert one(whole["claims"], id="session_specific")["verdict"] == "supported"


def test_one_ranking_for_all_is_not_specific() -> None:
    document = analyse(make_results(rotate=0, controls=False), n_boot=N_BOOT)
    assert document["overlap"]["size"] == list(range(1, 9))
    assert one(document["claims"], id="session_specific")["verdict"] != "supported"
    assert document["closeness"]["verdict"] == "quality"
    assert document["closeness"]["shared"]["mean"] == pytest.approx(1.0, abs=0.03)
    assert any("mostly shared by held-out sessions" in sentence for sentence in document["answer"]["text"])


def test_noise_by_trials_is_that_of_differences_between_cores(whole: dict[str, Any]) -> None:
    # A difference of two cores has twice the variance of one; the seeds' part is taken off.
    expected = (CORE_REACH / stats.norm.ppf(0.975)) ** 2 / 2 - 0.002**2 / 2
    assert whole["overlap"]["trial_variance"] == pytest.approx([expected] * 3)
    assert whole["closeness"]["trial_variance"] == pytest.approx([expected] * 3)
    results = make_results(controls=False)
    bare = tuple({**ranking, "differences": ranking["differences"][:1]} for ranking in results.rankings)
    assert trial_variance(bare) is None


def test_one_ranking_is_no_overlap() -> None:
    document = analyse(make_results(heldout=HELDOUT[:1], controls=False), n_boot=50)
    assert document["overlap"] is None and document["closeness"] is None
    assert any("two or more held-out sessions" in sentence for sentence in document["answer"]["text"])


def test_metadata_points_and_screen(whole: dict[str, Any]) -> None:
    points = whole["metadata_points"]
    assert len(points) == 3 * 8
    first = one(points, heldout=HELDOUT[1], session=pool_ids(8)[1])
    assert (first["rank"], first["score"], first["n_trials"]) == (1, pytest.approx(0.13), n_trials(1))
    assert "trainval_hash" not in first
    assert whole["metadata"]["columns"] == ["mean_rate_hz", "n_good_units", "n_trials", "n_units"]
    row = one(whole["metadata"]["screen"], heldout=HELDOUT[0], name="n_trials")
    trials = [n_trials(i) for i in range(8)]
    assert row["rho"] == pytest.approx(stats.spearmanr(trials, range(8, 0, -1)).statistic)
    assert row["n"] == 8
    average = one(whole["metadata"]["screen"], heldout=None, name="n_trials")
    place = [np.mean([(i - h) % 8 for h in range(3)]) for i in range(8)]
    assert average["rho"] == pytest.approx(-stats.spearmanr(trials, place).statistic)
    regression = whole["metadata"]["regression"]
    assert {name: found["n"] for name, found in regression.items()} == {"score": 24, "rank": 24}


def test_a_column_that_is_not_known_of_all_is_left_out() -> None:
    results = make_results(controls=False)
    sessions = {name: dict(facts) for name, facts in results.study["sessions"].items()}
    sessions[pool_ids(8)[2]]["n_good_units"] = None
    for facts in sessions.values():
        facts |= {"constant": 3, "flag": True}
    study = {**results.study, "sessions": sessions}
    found = analyse(StudyResults(**{**vars(results), "study": study}), n_boot=50)["metadata"]
    assert found["columns"] == ["mean_rate_hz", "n_trials", "n_units"]
    assert found["left_out"] == ["constant", "n_good_units"]


def test_the_transfer_matrix(whole: dict[str, Any]) -> None:
    found = whole["transfer"]
    assert found["sources"] == found["targets"] == sorted(pool_ids(8))
    assert [found["matrix"][i][i] for i in range(8)] == [None] * 8
    assert found["matrix"][2][5] == pytest.approx(0.1 + 0.02 + 0.015)
    assert found["n"][2][5] == 2 and found["n"][3][3] == 0
    assert set(found["split"]) >= {"source", "target", "interaction", "seed"}


def test_a_missing_seed_leaves_a_hole_in_the_matrix() -> None:
    results = make_results(transfer=True, controls=False, rankings=False)
    first = {**results.transfer[0], "value": None, "state": "diverged", "reason": "loss"}
    document = analyse(StudyResults(**{**vars(results), "transfer": (first, *results.transfer[1:])}), n_boot=50)
    assert document["transfer"]["matrix"][0][1] is None and document["transfer"]["n"][0][1] == 1
    assert document["failed"] == [
        {"what": "transfer from 20_Cori to 21_Forssmann, seed 10", "state": "diverged", "reason": "loss"}
    ]


def test_other_splits_of_trials() -> None:
    document = analyse(make_results(split_seeds=(0, 7), controls=False, rankings=False), n_boot=N_BOOT)
    assert [(entry["split_seed"], entry["main"]) for entry in document["split_seeds"]] == [(0, True), (7, False)]
    ids = [claim["id"] for claim in document["split_seeds"][1]["claims"]]
    assert {"ranked_above_random", "top_above_all", "points_gain"} <= set(ids)
    main = {claim["id"]: claim for claim in document["claims"]}
    for claim in document["split_seeds"][0]["claims"]:
        assert claim["value"] == main[claim["id"]]["value"]
    other = one(document["split_seeds"][1]["points"], heldout=HELDOUT[0], arm="random", size=5)
    assert other["mean"] == pytest.approx(0.150)
    assert analyse(make_results(controls=False, rankings=False), n_boot=50)["split_seeds"] is None


def test_training_curves_hold_a_shared_pretraining_once(whole: dict[str, Any]) -> None:
    kinds = [curve["kind"] for curve in whole["training_curves"]]
    assert (kinds.count("pretrain"), kinds.count("finetune"), kinds.count("baseline")) == (16, 48, 6)


# The answer -----------------------------------------------------------------------------------------------------------


def test_the_answer_names_sessions_number_and_doubt(whole: dict[str, Any]) -> None:
    answer = whole["answer"]
    assert answer["ranked_top"] == {h: true_order(pool_ids(8), i)[:3] for i, h in enumerate(HELDOUT)}
    assert answer["how_many"] == dict.fromkeys(HELDOUT, 3)
    assert answer["verdict"] == "better" and answer["use"] == "frozen cores"
    assert answer["text"][0].startswith("Pretraining on the top 3 sessions is better than on all 8: +0.0100 [")
    assert any("frozen cores" in sentence for sentence in answer["text"])
    assert [entry["session"] for entry in answer["sure"][HELDOUT[2]]] == answer["ranked_top"][HELDOUT[2]]
    assert all(0 <= entry["p_top"] <= 1 for entries in answer["sure"].values() for entry in entries)


def test_no_difference_is_an_answer() -> None:
    def flat(h: int, arm: str, variant: str, size: int | None) -> float:
        return BASELINE + SHIFT[h]

    document = analyse(make_results(level=flat, controls=False), n_boot=N_BOOT)
    assert document["answer"]["verdict"] == "no difference"
    assert document["answer"]["text"][0].startswith("Not told apart: pretraining on the top 3 sessions and")


def test_provenance_leads_to_the_runs(whole: dict[str, Any]) -> None:
    provenance = whole["provenance"]
    assert provenance["versions"]["python"] == "3.11.2"
    assert set(provenance["sessions"]) == {*HELDOUT, *pool_ids(8)}
    runs = {run for curve in whole["curves"] for entry in curve["points"] for run in entry["runs"]}
    assert runs <= set(make_results(transfer=True).gains)
    assert len(runs) == 3 * (4 * (2 + 2 + 3) + 2)
