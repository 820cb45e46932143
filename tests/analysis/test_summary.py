"""What a ranking says in words and numbers: nothing concluded from one seed, no failed control passed over."""

import pytest

from sessionwise.analysis.summary import agreement_between_heldout, overlap_between_heldout, summarise
from sessionwise.analysis.tables import ranking_csv


def test_one_seed_is_not_judged_and_keeps_its_numbers(make_ranking):
    one, two = (summarise(make_ranking(8, seeds, spread=0.2)) for seeds in ((10,), (10, 20)))
    assert {a["found"] for a in one["against"]} == {"not judged: one seed"}
    assert all(a["low"] <= a["mean"] <= a["high"] for a in one["against"])
    assert "use two or more seeds" in one["one_seed"] and two["one_seed"] is None
    assert two["against"][0] | {"found": "better"} == two["against"][0]


def test_a_comparison_that_was_not_run_stays_not_measured_with_one_seed(make_ranking):
    against = summarise(make_ranking(4, (10,), baseline=False))["against"]
    assert against[1] == {"against": "the baseline", "found": "not measured", "reason": "it was not run"}


@pytest.mark.parametrize(("key", "words"), [("baseline", "the baseline"), ("random_core", "a random frozen core")])
def test_a_control_that_diverged_or_failed_is_named(key, words, make_ranking):
    ranking = make_ranking(4)
    assert summarise(ranking)["controls_without_score"] == []
    ranking[key] |= {"state": "diverged", "score": None, "reason": "seed 10: loss is not finite"}
    (missing,) = summarise(ranking)["controls_without_score"]
    assert missing == {"control": words, "state": "diverged", "reason": "seed 10: loss is not finite"}


def rows_in_order(ranking, names):
    """The same ranking with these sessions in this order."""
    done = [row | {"session": name} for row, name in zip(ranking["rows"], names, strict=True)]
    return ranking | {"rows": done}


def test_overlap_counts_the_sessions_that_every_held_out_session_ranked(make_ranking):
    first = rows_in_order(make_ranking(5, heldout="x"), ["a", "b", "c", "d", "y"])
    second = rows_in_order(make_ranking(5, heldout="y", diverged=1), ["b", "a", "c", "x", "d"])
    (found,) = overlap_between_heldout([first, second])
    # d diverged for y; x and y are each held out once: a, b, c remain, in the orders abc and bac.
    assert (found["heldout"], found["n_common"], found["n_left_out"]) == (["x", "y"], 3, 3)
    assert found["curve"]["k"] == [1, 2, 3] and found["curve"]["size"] == [0, 2, 3]
    assert found["curve"]["expected"] == pytest.approx([1 / 3, 4 / 3, 3])
    (again,) = overlap_between_heldout([first, second])
    assert again == found


def test_overlap_needs_different_held_out_sessions_ranked_alike(make_ranking):
    ranking = make_ranking(4)
    assert overlap_between_heldout([ranking]) == overlap_between_heldout([ranking, make_ranking(4, seed=1)]) == []
    assert overlap_between_heldout([ranking, make_ranking(4, heldout="y") | {"method": "other"}]) == []
    assert agreement_between_heldout([ranking, make_ranking(4, seed=1)]) is None


def test_overlap_of_two_sessions_says_nothing(make_ranking):
    (found,) = overlap_between_heldout([make_ranking(2), make_ranking(2, heldout="y")])
    assert found["n_common"] == 2 and found["curve"] is None


def test_the_larger_of_two_rankings_of_one_held_out_session_counts(make_ranking):
    (found,) = overlap_between_heldout([make_ranking(3), make_ranking(6), make_ranking(6, heldout="y")])
    assert found["n_common"] == 6 and found["n_left_out"] == 0


def test_own_scores_are_in_the_csv(make_ranking):
    ranking = make_ranking(3)
    ranking["rows"][0]["own_score"] = 0.25
    header, first, second, _ = (line.split(",") for line in ranking_csv(ranking).splitlines())
    assert (first[header.index("own_score")], second[header.index("own_score")]) == ("0.25", "")
