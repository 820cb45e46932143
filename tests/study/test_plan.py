"""The plan of a study: the paper's numbers derived by hand, bounds that no ranking breaks, costs of single jobs."""

import re
from itertools import permutations
from math import ceil
from pathlib import Path

import pytest
import torch

from sessionwise.data.repeated_site import manifest
from sessionwise.errors import EnvironmentProblem, UsageError
from sessionwise.selection.sets import random_order
from sessionwise.study import dry_run
from sessionwise.study.cells import Job, cells, ranking_jobs, transfer_jobs
from sessionwise.study.dry_run import plan_recipe
from sessionwise.study.layout import Layout, lay_out_manifest
from sessionwise.study.plan import paper_hours, plan, seconds
from sessionwise.study.recipe import load_recipe, make_recipe
from sessionwise.study.scaling import run_study
from sessionwise.study.timing import RUN_SECONDS, Timing, measure
from sessionwise.training.presets import preset

ROOT = Path(__file__).parents[2]
HELD = ("x", "y")
TRIALS = {name: (100 + 10 * i, 80 + 8 * i) for i, name in enumerate("abcdefghxy")}
TIMING = Timing(step=1.0, frozen_step=0.1, trial=0.01, workers=2, n_bins=10, n_units=10)


def layout(pool="abcdefgh", controls=None, preset="tiny", sections=None, **study):
    study = {"seeds": [1, 2], "sizes": [1, 2, "all"], "top": 2, "shuffles": 3, **study}
    controls = {"random_core": False, **(controls or {})}
    recipe = make_recipe({"preset": preset, "study": study, "controls": controls, **(sections or {})})
    sizes = tuple(len(pool) if size == "all" else size for size in recipe.study.sizes)
    return Layout(recipe, HELD, tuple(pool), sizes, TRIALS)


@pytest.fixture(scope="module")
def paper():
    return lay_out_manifest(load_recipe(ROOT / "recipes" / "paper.toml"))


@pytest.fixture(scope="module")
def paper_plan(paper):
    return plan(paper)


# The paper's study ----------------------------------------------------------------------------------------------------


def test_the_paper_s_runs_by_hand(paper_plan):
    # 5 held-out sessions, 84 in the pool, 3 seeds; between 1 and all sessions there are 8 sizes; 3 shuffles
    most = {row.purpose: row.most for row in paper_plan.rows}
    assert most == {
        "single-session models": 84 * 3,
        "ranking finetunes": 84 * 3 * 5,
        "baselines": 3 * 5,
        "random frozen cores": 3 * 5,
        "multi-session models, ranked": 8 * 3 * 5,
        "finetunes, ranked": 8 * 3 * 5,
        "multi-session models, reverse_ranked": 8 * 3 * 5,
        "finetunes, reverse_ranked": 8 * 3 * 5,
        "multi-session models, random": 8 * 3,
        "finetunes, random": 8 * 3 * 5,
        "multi-session models, all sessions": 3,
        "finetunes, all sessions": 3 * 5,
        "final evaluations": 3 * 9 * 3 * 5 + 3 * 5 + 3 * 5,  # orders below all, all sessions, baselines
    }
    assert (most["single-session models"], most["ranking finetunes"], most["baselines"]) == (252, 1260, 15)
    assert most["multi-session models, ranked"] == 120 and paper_plan.total.most == sum(most.values()) == 2619


def test_the_paper_s_fewest_runs_by_hand(paper, paper_plan):
    # When all rankings agree, models of ranked and reverse ranked sets are shared by the held-out sessions. Random sets
    # are trained with one seed each, so a ranked set that is one of them saves one model, as does a reverse ranked one
    # where two of the three random sets are disjoint; and for each held-out session a finetune and an evaluation.
    orders = [random_order(paper.pool, 0, i) for i in range(3)]
    pairs = sum(
        any(not set(orders[i][:k]) & set(orders[j][:k]) for i in range(3) for j in range(i))
        for k in (2, 3, 4, 5, 10, 20, 30, 40)
    )
    saved = 8 + pairs
    models = [paper_plan.row(f"multi-session models, {order}") for order in ("ranked", "reverse_ranked")]
    finetunes = [paper_plan.row(f"finetunes, {order}") for order in ("ranked", "reverse_ranked")]
    assert sum(row.least for row in models) == 2 * 8 * 3 - saved
    assert sum(row.least for row in finetunes) == 2 * 8 * 3 * 5 - 5 * saved
    evaluations = paper_plan.row("final evaluations")
    assert evaluations.most - evaluations.least == 5 * saved + 5 * 2  # a random session is first, another is last
    others = {row.purpose for row in paper_plan.rows if row not in (*models, *finetunes, evaluations)}
    assert len(others) == 8 and all(paper_plan.row(name).least == paper_plan.row(name).most for name in others)


def test_the_paper_s_hours_in_its_unit_costs(paper_plan):
    hours = {row.purpose: row.hours_paper for row in paper_plan.rows}
    sessions = 2 + 3 + 4 + 5 + 10 + 20 + 30 + 40  # of one order, trained once
    assert hours["single-session models"] == 252
    assert hours["ranking finetunes"] == pytest.approx(420)
    assert hours["multi-session models, ranked"] == hours["multi-session models, reverse_ranked"] == 15 * sessions
    assert hours["multi-session models, random"] == 3 * sessions
    assert hours["multi-session models, all sessions"] == 3 * 84  # 3.5 days each
    assert hours["final evaluations"] == 0
    finetunes = 1260 + 15 + 3 * 120 + 15
    assert paper_plan.total.hours_paper == pytest.approx(252 + 15 + 33 * sessions + 252 + finetunes / 3)


def test_the_paper_s_steps(paper, paper_plan):
    pool = [entry for entry in manifest() if entry.usable and entry.eid in paper.pool]
    held = [entry for entry in manifest() if entry.eid in paper.heldout]
    per_epoch = sum(ceil(8 * entry.trials // 10 / 16) for entry in pool)
    assert paper_plan.row("single-session models").steps == 3 * 1000 * per_epoch
    assert paper_plan.row("multi-session models, all sessions").steps == 3 * 1000 * per_epoch
    on_held = sum(ceil(8 * entry.trials // 10 / 16) for entry in held)
    assert paper_plan.row("ranking finetunes").steps == 252 * 1000 * on_held
    assert paper_plan.row("baselines").steps == 3 * 1000 * on_held


def test_the_paper_s_plan_names_what_is_left_out_and_needs_no_recordings(paper_plan):
    notes = "\n".join(paper_plan.notes)
    assert "38d95489-2e82-412a-8c1a-c5377b5f1555" in notes and "57fd2325-67f4-4d45-9907-29e77d3043d7" in notes
    saved = paper_plan.total.most - paper_plan.total.least
    assert f"At most {saved:,} of 2,619 runs" in notes and "5 held-out sessions, 84 sessions in the pool" in notes
    assert all(row.hours_here is None and row.there == 0 for row in paper_plan.rows)
    assert all(len(line) == len(paper_plan.columns) for line in paper_plan.table())


def test_known_rankings_make_the_paper_s_numbers_exact(paper):
    orders = {(0, h): random_order(paper.pool, 7, i) for i, h in enumerate(paper.heldout)}
    known = plan(paper, orders)
    assert all(row.most == row.least for row in known.rows) and "exact" in "\n".join(known.notes)
    one = plan(paper, dict(list(orders.items())[:1]))
    assert known.total.least >= one.total.least and one.total.most > one.total.least


def test_the_figures_of_the_page_are_those_of_the_code(paper_plan):
    page = (ROOT / "docs" / "plan.md").read_text()
    table = page.split("<!-- paper -->")[1].split("<!-- end -->")[0]
    told = re.findall(
        r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,.]+) \|", table, re.MULTILINE
    )
    rows = [*paper_plan.rows, paper_plan.total]
    assert [line[0].strip("* ") for line in told] == [row.purpose for row in rows]
    for line, row in zip(told, rows, strict=True):
        assert line[1:5] == tuple(f"{n:,}" for n in (row.asked, row.most, row.least, round(row.steps)))
        assert line[5] == f"{row.hours_paper:,.0f}"
    saved = paper_plan.total.most - paper_plan.total.least
    assert f"at most {saved} of {paper_plan.total.most:,} runs" in " ".join(page.split())


# Bounds ---------------------------------------------------------------------------------------------------------------

CONTROLS = {
    "random_core": True,
    "own_core": True,
    "baseline_doubled": True,
    "step_matched": True,
    "trial_matched": [2],
    "other_targets": [1, 2, 3],
    "many_shuffles": {"size": 2, "n": 3},
    "fresh_seeds": [7],
    "full_finetune": [2, "all"],
    "minus_worst": [1],
    "transfer_matrix": True,
}


def distinct(lay, orders):
    jobs = {job for group in ranking_jobs(lay).values() for job in group} | set(transfer_jobs(lay))
    return len(jobs | {job for cell in cells(lay, orders) if cell.final for job in cell.final.chain})


def counts(lay, every=5):
    """Distinct jobs for all rankings of x, each with the same one of y and with every fifth."""
    a, b = list(permutations(lay.pool)), list(permutations(lay.pool))[::every]
    return [distinct(lay, {(0, "x"): list(x), (0, "y"): list(y)}) for x in a for y in {x, *b}]


@pytest.mark.parametrize(
    ("pool", "controls", "study"),
    [
        ("abcd", {}, {}),
        ("abcd", {}, {"orders": ["ranked", "random"]}),
        ("abcd", {}, {"orders": ["reverse_ranked"]}),
        ("abcd", {}, {"sizes": [1, 2, 3]}),
        ("abcd", {}, {"shuffles": 8, "seeds": [1]}),
        ("abcd", CONTROLS, {}),
        ("abcd", CONTROLS, {"sizes": [2, 3], "shuffles": 1}),
        ("abcd", {name: value for name, value in CONTROLS.items() if name != "many_shuffles"}, {"sizes": [2, "all"]}),
        ("abc", CONTROLS, {"orders": ["random"], "seeds": [1]}),
    ],
)
def test_no_rankings_need_more_or_fewer_runs(pool, controls, study):
    lay = layout(pool, controls, **study)
    total, found = plan(lay).total, counts(lay)
    assert total.least <= min(found) and max(found) <= total.most


def test_both_bounds_are_reached():
    lay = layout("abcd", sizes=[2, "all"])
    total, found = plan(lay).total, counts(lay, every=1)
    assert (total.least, total.most) == (min(found), max(found)) and total.least < total.most


def test_what_is_random_or_all_is_known_from_the_start():
    lay = layout(orders=["random"], controls={"own_core": True, "many_shuffles": {"size": 2, "n": 5}})
    found = plan(lay)
    assert found.total.most == found.total.least == distinct(lay, {(0, "x"): [], (0, "y"): []})
    assert found.row("multi-session models, random").asked == 2 * 2 * 3  # held-out x sizes below all x shuffles


def test_exact_numbers_once_the_rankings_are_there():
    lay = layout("abcd", CONTROLS)
    for orders in ({(0, "x"): list("abcd"), (0, "y"): list("abcd")}, {(0, "x"): list("abcd"), (0, "y"): list("dbca")}):
        total = plan(lay, orders).total
        assert total.most == total.least == distinct(lay, orders)


def test_one_ranking_known_narrows_the_bounds():
    lay = layout("abcd", {"step_matched": True, "full_finetune": [2]})
    free, orders = plan(lay).total, {(0, "x"): list("cabd")}
    total = plan(lay, orders).total
    found = [distinct(lay, {**orders, (0, "y"): list(order)}) for order in permutations("abcd")]
    assert free.least <= total.least <= min(found) and max(found) <= total.most <= free.most


def test_other_splits_multiply_the_rankings():
    one, two = plan(layout()), plan(layout(split_seeds=[5]))
    for name in ("single-session models", "ranking finetunes", "multi-session models, ranked"):
        assert two.row(name).most == 2 * one.row(name).most > 0


def test_settings_that_change_nothing_make_no_other_runs():
    controls = {"step_matched": True, "full_finetune": [2]}
    # Steps are fixed, the last checkpoint is kept, the core is trained anyway: the controls are the ranked sets again.
    sections = {"train": {"steps": 20, "keep": "last"}, "finetune": {"freeze_core": False}}
    plain, with_controls = (plan(layout(controls=c, sections=sections)) for c in ({}, controls))
    assert with_controls.total.most == plain.total.most and with_controls.total.asked > plain.total.asked
    assert plan(layout(controls=controls)).total.most > plan(layout()).total.most


def test_jobs_that_are_there_cost_nothing_more():
    lay = layout()
    singles = set(ranking_jobs(lay)["single-session models"])
    free, part = plan(lay, timing=TIMING), plan(lay, stored=lambda job: job in singles, timing=TIMING)
    row = part.row("single-session models")
    assert (row.most, row.there, row.steps, row.hours_here, row.hours_paper) == (16, 16, 0, 0, 0)
    assert part.total.most == free.total.most and part.total.there == 16
    assert free.total.hours_paper - part.total.hours_paper == 16
    asked = []
    plan(lay, stored=lambda job: bool(asked.append(job)))
    assert asked and all(job.known for job in asked)  # of a placeholder nobody can know


# Costs ----------------------------------------------------------------------------------------------------------------


def test_hours_of_single_jobs_in_the_paper_s_units():
    core = Job("pretrain", ("a", "b", "c"), 1, 0)
    assert paper_hours(core) == 3 and paper_hours(Job("pretrain", ("a",), 1, 0, like=("a", "b"))) == 2
    assert paper_hours(Job("finetune", ("x",), 1, 0, core)) == pytest.approx(1 / 3)
    assert paper_hours(Job("finetune", ("x",), 1, 0, core, full=True)) == 1
    assert paper_hours(Job("baseline", ("x",), 1, 0)) == 1
    assert paper_hours(Job("baseline", ("x",), 1, 0, doubled=True)) == 2
    assert [paper_hours(Job(kind, ("x",), 1, 0)) for kind in ("evaluate", "psth", "glm")] == [0, 0, 0]


def test_seconds_of_single_jobs():
    lay = layout()  # a: 100 trials, 80 for training, 10 for validation; x: 180 and 144 and 18; tiny: 30, 20, 30 epochs
    core = Job("pretrain", ("a",), 1, 0)
    assert seconds(lay, core, TIMING) == pytest.approx(RUN_SECONDS + 30 * 5 * 1.0 + 25 * 10 * 0.01)
    tune = Job("finetune", ("x",), 1, 0, core)
    assert seconds(lay, tune, TIMING) == pytest.approx(RUN_SECONDS + 20 * 9 * 0.1 + 25 * 18 * 0.01)
    full = Job("finetune", ("x",), 1, 0, core, full=True)
    assert seconds(lay, full, TIMING) == pytest.approx(RUN_SECONDS + 20 * 9 * 1.0 + 25 * 18 * 0.01)
    doubled = Job("baseline", ("x",), 1, 0, doubled=True)
    assert seconds(lay, doubled, TIMING) == pytest.approx(RUN_SECONDS + 2 * 30 * 9 * 1.0 + 25 * 18 * 0.01)
    assert seconds(lay, Job("evaluate", ("x",), 1, 0, tune), TIMING) == pytest.approx(RUN_SECONDS + 18 * 0.01)


def test_hours_here_are_shared_by_the_workers():
    lay = layout(sizes=[1], top=1, orders=["random"])
    row = plan(lay, timing=TIMING).row("baselines")
    own = sum(seconds(lay, Job("baseline", (h,), 1, 0), TIMING) for h in HELD)
    assert row.hours_here == pytest.approx(2 * own / 2 / 3600)


def test_a_timing_is_taken_in_moments_and_leaves_the_threads_alone(toy_settings):
    threads = torch.get_num_threads()
    timing = measure(preset("tiny", toy_settings), 12, 10, workers=3, seconds=0.05)
    assert 0 < timing.trial and 0 < timing.step and 0 < timing.frozen_step and timing.workers == 3
    assert torch.get_num_threads() == threads
    slow = measure(preset("tiny", {"model.width": 256, "model.feedforward": 1024}), 60, 200, seconds=0.05)
    assert slow.step > timing.step and slow.trial > timing.trial  # over 50 times the arithmetic


def test_a_device_that_is_not_here_leaves_out_the_hours(monkeypatch, toy_store, toy_settings):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="cuda"):
        measure(preset("tiny", {"train.device": "cuda"}))
    recipe = toy_recipe(toy_settings)
    there = recipe.settings.train.model_copy(update={"device": "cuda"})
    recipe = recipe.model_copy(update={"settings": recipe.settings.model_copy(update={"train": there})})
    made = plan_recipe(recipe, store=toy_store)
    assert made.total.hours_here is None and "No hours on this machine" in made.notes[-1] and "cuda" in made.notes[-1]


# Recipes and folders --------------------------------------------------------------------------------------------------


def toy_recipe(toy_settings, **data):
    value = {
        "preset": "tiny",
        "data": data or {"heldout": ["sim-heldout-0"]},
        "study": {"seeds": [10], "sizes": [1, 2, "all"], "top": 2},
        "controls": {"fresh_seeds": [30]},
    }
    for key, number in toy_settings.items():
        section, name = key.split(".")
        value.setdefault(section, {})[name] = number
    return make_recipe(value)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dry_run, "measure", lambda *_args, **_more: TIMING)


@pytest.mark.slow
def test_a_finished_study_is_there_run_for_run(quick, toy_store, toy_settings, tmp_path):
    recipe, study = toy_recipe(toy_settings), tmp_path / "study"
    fresh = plan_recipe(recipe, study, toy_store)
    assert fresh.total.there == 0 and fresh.total.most > fresh.total.least and not study.exists()
    run_study(recipe, study, store=toy_store, on="here")
    before = sorted(path for path in study.rglob("*"))
    done = plan_recipe(recipe, study, toy_store)
    assert sorted(path for path in study.rglob("*")) == before
    runs = len([path for path in (study / "runs").iterdir() if len(path.name) == 64])
    assert done.total.there == done.total.most == done.total.least == runs
    assert (done.total.steps, done.total.hours_here, done.total.hours_paper) == (0, 0, 0)
    assert fresh.total.least <= runs <= fresh.total.most
    more = recipe.model_copy(update={"study": recipe.study.model_copy(update={"seeds": (10, 20)})})
    with pytest.raises(UsageError, match=r"holds study .* study\.seeds"):
        plan_recipe(more, study, toy_store)
    (study / "study.json").unlink()
    longer = plan_recipe(more, study, toy_store)  # other rankings, so these are not known; its runs are
    assert longer.row("single-session models").there == 4 and longer.total.most > longer.total.least


def test_simulated_sessions_are_planned_without_a_trace(quick, toy_settings, tmp_path):
    small = {"n_sessions": 3, "n_heldout": 1, "n_trials": 60, "n_units": 5, "n_bins": 12, "bad_share": 0.0}
    found = plan_recipe(toy_recipe(toy_settings, simulate=small), tmp_path / "study")
    assert found.row("single-session models").most == 3 and list(tmp_path.iterdir()) == []
