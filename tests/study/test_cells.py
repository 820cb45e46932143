"""Cells and jobs: what a study consists of, counted by hand."""

import pytest

from sessionwise.study.cells import (
    cells,
    expected_steps,
    matched_set,
    others_order,
    ranking_jobs,
    transfer_jobs,
    unknown_orders,
)
from sessionwise.study.layout import Layout
from sessionwise.study.recipe import make_recipe

POOL = tuple("abcdefgh")
HELD = ("x", "y")
TRIALS = {name: (100 + 10 * i, 80 + 8 * i) for i, name in enumerate((*POOL, *HELD))}


def layout(controls=None, **study):
    study = {"seeds": [1, 2], "sizes": [1, 2, 3, "all"], "top": 2, "shuffles": 3, **study}
    off = {"random_core": False, **(controls or {})}
    recipe = make_recipe({"preset": "tiny", "study": study, "controls": off})
    sizes = tuple(len(POOL) if s == "all" else s for s in recipe.study.sizes)
    return Layout(recipe, HELD, POOL, sizes, TRIALS)


ORDERS = {(0, "x"): list("abcdefgh"), (0, "y"): list("hgfedcba")}


def test_the_paper_s_cells_counted_by_hand():
    found = cells(layout(), ORDERS)
    by_arm = {arm: [c for c in found if c.arm == arm] for arm in ("ranked", "reverse_ranked", "random", "baseline")}
    assert {arm: len(group) for arm, group in by_arm.items()} == {
        "ranked": 2 * 4 * 2,  # held-out sessions x sizes x seeds
        "reverse_ranked": 2 * 4 * 2,
        "random": 2 * 4 * 3,  # held-out sessions x sizes x shuffles
        "baseline": 2 * 2,
    }
    assert len(found) == 16 + 16 + 24 + 4


def test_prefixes_are_nested_and_follow_the_order():
    for c in cells(layout(), ORDERS):
        order = ORDERS[0, c.heldout]
        if c.arm == "ranked":
            assert set(c.sessions) == set(order[: c.size])
        if c.arm == "reverse_ranked":
            assert set(c.sessions) == set(order[::-1][: c.size])
    draws = {(c.draw, c.size): set(c.sessions) for c in cells(layout(), ORDERS) if c.arm == "random"}
    for draw in range(3):
        assert draws[draw, 1] < draws[draw, 2] < draws[draw, 3] < draws[draw, 8] == set(POOL)


def test_one_session_models_are_ranking_runs_and_all_is_one_model():
    ranking = {job for jobs in ranking_jobs(layout()).values() for job in jobs}
    for c in cells(layout(), ORDERS):
        if c.size == 1:
            assert c.final.input in ranking and c.final.input.input in ranking
    cores = {c.final.input.input for c in cells(layout(), ORDERS) if c.size == 8}
    assert len(cores) == 2  # one a seed, whatever the order and the held-out session


def test_shuffles_are_shared_by_held_out_sessions_and_use_the_seeds_in_turn():
    random = [c for c in cells(layout(), ORDERS) if c.arm == "random" and c.size == 3]
    x, y = ([(c.draw, c.seed, c.sessions) for c in random if c.heldout == h] for h in HELD)
    assert x == y and [(d, s) for d, s, _ in x] == [(0, 1), (1, 2), (2, 1)]
    assert len({sessions for _, _, sessions in x}) > 1


def test_before_the_rankings_only_ranked_sets_are_unknown():
    lay = layout({"step_matched": True, "other_targets": [2], "trial_matched": [2], "fresh_seeds": [7]})
    found = cells(lay, unknown_orders(lay))
    unknown = {c.arm for c in found if not c.final.known}
    known = {c.arm for c in found if c.final.known}
    assert unknown == {
        "ranked",
        "reverse_ranked",
        "step_matched",
        "other_targets",
        "trial_matched",
        "fresh_seeds",
    }
    assert known >= {"random", "baseline", "ranked"}  # all sessions are known in every order
    assert {c.size for c in found if c.arm == "ranked" and c.final.known} == {8}
    assert len(found) == len(cells(lay, ORDERS))


def test_a_session_without_a_rank_makes_the_longest_prefixes_missing_with_a_reason():
    orders = {**ORDERS, (0, "x"): list("ab")}
    lay = layout({"step_matched": True}, top=3)
    lost = [c for c in cells(lay, orders) if c.missing]
    assert {(c.heldout, c.arm, c.size) for c in lost} >= {("x", "ranked", 3), ("x", "reverse_ranked", 3)}
    assert all(c.final is None for c in lost) and "only 2 of 8 sessions have a rank" in lost[0].missing
    assert {c.size for c in lost if c.arm == "step_matched"} == {3, 8}  # all with the steps of a set that is not there
    assert not [c for c in lost if c.arm in ("random", "baseline") or (c.arm == "ranked" and c.size == 8)]


def test_step_matched_is_two_by_two_with_the_last_checkpoint():
    lay = layout({"step_matched": True})
    found = [c for c in cells(lay, ORDERS) if c.arm == "step_matched" and c.heldout == "x"]
    assert len(found) == 2 * 2 * 2
    steps = {(c.size, c.variant): expected_steps(lay, c.final.input.input) for c in found}
    assert steps[2, "steps of top"] == steps[8, "steps of top"] < steps[2, "steps of all"] == steps[8, "steps of all"]
    assert all(c.final.input.input.last for c in found)
    plain = next(c for c in cells(lay, ORDERS) if c.arm == "ranked" and c.size == 2 and c.heldout == "x")
    assert expected_steps(lay, plain.final.input.input) == steps[2, "steps of top"]


def test_trial_matched_sets_are_random_and_as_near_in_trials_as_their_order_allows():
    lay = layout({"trial_matched": [3]})
    wanted = sum(TRIALS[s][0] for s in "abc")
    for draw in range(6):
        found = matched_set(lay, "x", list("abc"), draw)
        total = sum(TRIALS[s][0] for s in found)
        without = total - TRIALS[found[-1]][0]
        assert abs(total - wanted) <= abs(without - wanted)
        assert len(set(found)) == len(found)


def test_the_order_of_other_targets_leaves_the_target_out():
    lay = layout({"other_targets": [2]})
    assert others_order(lay, "x", ORDERS) == ORDERS[0, "y"]
    assert others_order(lay, "y", ORDERS) == ORDERS[0, "x"]
    short = {**ORDERS, (0, "y"): list("hg")}  # without a rank counts as last, ties by id
    assert others_order(lay, "x", short) == list("hgabcdef")


def test_the_other_controls():
    lay = layout(
        {
            "random_core": True,
            "own_core": True,
            "baseline_doubled": True,
            "many_shuffles": {"size": 2, "n": 5},
            "fresh_seeds": [7, 8, 9],
            "full_finetune": [2, "all"],
            "minus_worst": [1, 2],
            "transfer_matrix": True,
        },
        references=["psth", "glm"],
        split_seeds=[3],
    )
    orders = {**ORDERS, (3, "x"): list("abcdefgh"), (3, "y"): list("abcdefgh")}
    found = [c for c in cells(lay, orders) if c.heldout == "x" and c.split_seed == 0]
    count = {arm: sum(c.arm == arm for c in found) for arm in {c.arm for c in found}}
    assert count["random_core"] == count["own_core"] == count["baseline_doubled"] == 2
    assert count["psth"] == count["glm"] == 1 and count["many_shuffles"] == 5 and count["fresh_seeds"] == 3
    assert count["full_finetune"] == (1 + 2) * 2  # reverse 2, ranked 2 and all, times seeds
    assert count["minus_worst"] == 4
    best = [c for c in found if c.arm == "fresh_seeds"]
    assert {c.sessions for c in best} == {("a",)} and {c.seed for c in best} == {7, 8, 9}
    worst = {c.variant: c.sessions for c in found if c.arm == "minus_worst"}
    assert worst == {"minus 1": tuple("abcdefg"), "minus 2": tuple("abcdef")}
    own = next(c for c in found if c.arm == "own_core")
    assert own.final.input.kind == "finetune" and own.final.input.input.kind == "baseline"
    assert len(transfer_jobs(lay)) == 8 * 7 * 2
    others = [c for c in cells(lay, orders) if c.split_seed == 3]
    assert {c.arm for c in others} == {"ranked", "reverse_ranked", "random", "baseline"}
    doubled = next(c for c in found if c.arm == "baseline_doubled")
    plain = next(c for c in found if c.arm == "baseline")
    assert expected_steps(lay, doubled.final.input) == 2 * expected_steps(lay, plain.final.input)


def test_expected_steps_of_a_set_by_hand():
    lay = layout()
    ranked = [c for c in cells(lay, ORDERS) if (c.arm, c.heldout, c.size, c.seed) == ("ranked", "x", 2, 1)]
    job = ranked[0].final.input.input
    assert job.sessions == ("a", "b")
    assert expected_steps(lay, job) == 30 * (5 + 6)  # 80 and 88 training trials in batches of 16, 30 epochs


@pytest.mark.parametrize("order", ["ranked", "random"])
def test_one_order_alone_is_a_study_too(order):
    found = cells(layout(orders=[order]), ORDERS)
    assert {c.arm for c in found} == {order, "baseline"}


def test_ids_that_begin_with_a_question_mark_are_sessions_and_no_placeholders():
    """Their cells are known, job by job, as those of the same study under plain names."""
    odd = tuple(f"?{name}" for name in POOL)
    plain = layout()
    strange = Layout(plain.recipe, HELD, odd, plain.sizes, {**TRIALS, **{o: TRIALS[o[1:]] for o in odd}})
    orders = {where: [f"?{name}" for name in order] for where, order in ORDERS.items()}
    found, expected = cells(strange, orders), cells(plain, ORDERS)
    assert len(found) == len(expected)
    assert all(c.final is None or c.final.known for c in found)
    named = [c for c in found if c.arm in ("ranked", "reverse_ranked")]
    assert named and all(set(c.sessions) <= set(odd) for c in named)
    unknown = [c for c in cells(strange, unknown_orders(strange)) if c.arm == "ranked" and c.size != len(POOL)]
    assert unknown and not any(c.final.known for c in unknown)
