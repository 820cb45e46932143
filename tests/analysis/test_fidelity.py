"""Agreement of rankers with a reference: against plain loops, scipy, closed forms and simulated seeds."""

from __future__ import annotations

import csv
import io
import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis.fidelity import (
    agreement,
    attenuated,
    calibration,
    ceiling,
    fidelity_csv,
    fidelity_table,
    mean_line,
    measures,
    random_line,
    summarise,
)
from sessionwise.errors import DataError


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def named(values) -> dict[str, float]:
    return {f"s{i:02d}": float(value) for i, value in enumerate(values)}


def two_lists(seed: int, n: int = 9, ties: bool = True):
    """Scores and reference of the same sessions, several of them tied."""
    rng = generator(seed)
    x, y = rng.normal(size=n), rng.normal(size=n)
    return (np.round(x, 0), np.round(y, 0)) if ties else (x, y)


def orders(x):
    """Every order, best first, that breaks the ties of x."""
    return [o for o in permutations(range(len(x))) if all(x[a] >= x[b] for a, b in pairwise(o))]


# agreement ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(seed, ties):
    x, y = two_lists(seed, 12, ties)
    found = agreement(named(x), named(y))
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-10)
    assert found["kendall"] == pytest.approx(stats.kendalltau(x, y, variant="b").statistic, abs=1e-10)
    assert found["reason"] is None and found["n"] == 12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_pairs_are_counted_one_by_one(seed, ties):
    x, y = two_lists(seed, 9, ties)
    alike, judged = 0.0, 0
    for i, j in combinations(range(9), 2):
        if y[i] != y[j]:
            judged += 1
            alike += 0.5 if x[i] == x[j] else float((x[i] > x[j]) == (y[i] > y[j]))
    assert agreement(named(x), named(y))["pairwise"] == pytest.approx(alike / judged, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_broken_in_every_way(seed):
    """Overlap and regret are means over all pairs of orders that the scores allow."""
    x, y = two_lists(seed, 6)
    mine, theirs = orders(x), orders(y)
    assert len(mine) > 1 and len(theirs) > 1
    found = agreement(named(x), named(y), ks=(1, 2, 3))
    for k in (1, 2, 3):
        wanted = np.mean([len(set(a[:k]) & set(b[:k])) for a in mine for b in theirs])
        assert found[f"top{k}"] == pytest.approx(wanted, abs=1e-12)
    regret = np.mean([max(y) - y[a[0]] for a in mine])
    assert found["regret1"] == pytest.approx(regret, abs=1e-12)
    assert found["regret1_relative"] == pytest.approx(regret / (max(y) - np.mean(y)), abs=1e-12)


def test_only_sessions_of_both_count_and_the_others_are_counted():
    reference = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0, "gone": None, "best": 9.0}
    scores = {"a": 10.0, "b": None, "c": 8.0, "d": 9.0, "extra": 99.0, "more": 98.0}
    found = agreement(scores, reference, ks=(1,))
    assert (found["n"], found["missing_in_scores"], found["missing_in_reference"]) == (3, 2, 2)
    alone = agreement({n: scores[n] for n in "acd"}, {n: reference[n] for n in "acd"}, ks=(1,))
    assert {n: found[n] for n in measures([found])} == {n: alone[n] for n in measures([alone])}
    assert found["spearman"] == pytest.approx(0.5) and found["regret1"] == 0


def test_scores_are_better_when_higher_and_their_unit_is_free():
    y = named([0.1, 0.3, 0.2, 0.5])
    same = agreement({n: 100 * v - 7 for n, v in y.items()}, y, ks=(1, 2))
    assert [same[n] for n in ("spearman", "kendall", "pairwise", "top1", "top2", "regret1")] == [1, 1, 1, 1, 2, 0]
    turned = agreement({n: -v for n, v in y.items()}, y, ks=(1, 2))
    assert [turned[n] for n in ("spearman", "kendall", "pairwise", "top1", "top2")] == [-1, -1, 0, 0, 0]
    assert turned["regret1"] == pytest.approx(0.4) and turned["regret1_relative"] == pytest.approx(0.4 / 0.225)


def test_chance_is_that_of_all_orders():
    found = agreement(named(range(6)), named(range(6)), ks=(1, 3))["chance"]
    for k in (1, 3):
        sizes = np.array([len(set(o[:k]) & set(range(k))) for o in permutations(range(6))])
        assert found[f"top{k}"]["mean"] == pytest.approx(sizes.mean())
        at_most = [(sizes <= s).mean() for s in range(k + 1)]
        ends = [next(s for s, p in enumerate(at_most) if p >= tail - 1e-12) for tail in (0.025, 0.975)]
        assert [found[f"top{k}"]["low"], found[f"top{k}"]["high"]] == ends


@pytest.mark.parametrize(
    ("scores", "reference", "reason"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, "2 sessions in both"),
        ({}, {}, "0 sessions in both"),
        (named([1, 1, 1, 1]), named(range(4)), "all scores of the ranker are equal"),
        (named([1, 1 + 1e-15, 1]), named(range(3)), "all scores of the ranker are equal"),
        (named(range(4)), named([2, 2, 2, 2]), "all scores of the reference are equal"),
    ],
)
def test_what_cannot_be_judged_is_none_with_a_reason(scores, reference, reason):
    found = agreement(scores, reference)
    assert reason in found["reason"]
    assert {found[name] for name in measures([found])} == {None}


def test_a_top_larger_than_the_pool_is_none_with_a_reason_and_nothing_else_is():
    found = agreement(named(range(4)), named(range(4)), ks=(1, 4, 5))
    assert found["top5"] is None and found["chance"]["top5"] is None and "top 5" in found["reason"]
    assert (found["spearman"], found["top4"]) == (1, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(DataError, match="not finite"):
        agreement({"a": bad, "b": 1.0, "c": 2.0}, named(range(3)) | {"a": 1.0})
    with pytest.raises(DataError, match="k = 0"):
        agreement(named(range(3)), named(range(3)), ks=(0,))


# ceiling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_reference", "n_method", "noise"), [(1, 1, 0.7), (3, 1, 0.7), (2, 2, 1.0), (3, 2, 1.2)])
def test_the_formula_predicts_what_other_seeds_do(n_reference, n_method, noise):
    """Reference seeds alone promise what means over new seeds of the same sessions then reach."""
    rng, promised, reached = generator(n_reference), [], []
    for _ in range(60):
        truth = rng.normal(size=(100, 1))
        x = truth + noise * rng.normal(size=(100, max(2, n_reference)))
        other = truth + noise * rng.normal(size=(100, n_method))
        single = stats.spearmanr(x[:, 0], x[:, 1]).statistic
        found = ceiling(x, n_method)
        promised.append(found["spearman"] if n_reference > 1 else attenuated(single, 1, n_method))
        reached.append(stats.spearmanr(x[:, :n_reference].mean(axis=1), other.mean(axis=1)).statistic)
    assert np.mean(promised) == pytest.approx(np.mean(reached), abs=0.02)
    if n_reference > 1:  # and it says more than two single seeds would
        assert np.mean(promised) > 1 / (1 + noise**2) + 0.02


def test_a_ceiling_by_hand():
    x = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [4.0, 4.0]])
    found = ceiling(x, 1, ks=(1, 2))
    r = stats.spearmanr(x[:, 0], x[:, 1]).statistic
    assert found["seed_to_seed"] == pytest.approx(r) and r == pytest.approx(0.8)
    assert found["spearman"] == pytest.approx(math.sqrt(2 * r / (1 + r) * r))
    assert (found["split_method_seeds"], found["split_reference_seeds"]) == (1, 1)
    assert found["spearman_split"] == pytest.approx(r) and found["kendall"] == pytest.approx(4 / 6)
    assert (found["top1"], found["top2"], found["regret1"], found["reason"]) == (1, 2, 0, None)


def test_splits_are_all_ways_to_choose_the_seeds():
    x = generator(5).normal(size=(8, 5)) + generator(6).normal(size=(8, 1))
    found = ceiling(x, 4, ks=(3,))
    assert (found["split_method_seeds"], found["split_reference_seeds"]) == (2, 3)
    each = []
    for first in combinations(range(5), 2):
        a, b = x[:, list(first)].mean(axis=1), np.delete(x, first, axis=1).mean(axis=1)
        each.append((b.max() - b[a.argmax()], len(set(np.argsort(a)[-3:]) & set(np.argsort(b)[-3:]))))
    assert [found["regret1"], found["top3"]] == pytest.approx(np.mean(each, axis=0).tolist())


def test_seeds_that_disagree_promise_nothing():
    x = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    assert ceiling(x, 3)["spearman"] == 0 and ceiling(x, 3)["seed_to_seed"] == -1
    assert attenuated(1.0, 3, 2) == 1


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.arange(5.0)[:, None], "one seed"),
        (np.arange(4.0).reshape(2, 2), "2 sessions"),
        (np.column_stack([np.arange(5.0), np.ones(5)]), "equal"),
    ],
)
def test_an_unknown_ceiling_is_none_with_a_reason(x, reason):
    found = ceiling(x, 2)
    assert reason in found["reason"]
    assert {found[name] for name in [*measures([found]), "seed_to_seed", "spearman_split"]} == {None}


def test_a_ceiling_refuses_what_is_no_table_of_scores():
    with pytest.raises(DataError, match="dimensions"):
        ceiling(np.arange(5.0), 1)
    with pytest.raises(DataError, match="0 seeds"):
        ceiling(np.ones((4, 2)), 0)


# random order ---------------------------------------------------------------------------------------------------------


def test_a_random_order_against_closed_forms():
    y = named(generator(1).normal(size=20))
    line = random_line(y, generator(2), 4000)
    law = stats.hypergeom(20, 3, 3)
    assert line["top3"]["mean"] == pytest.approx(law.mean(), abs=0.05)
    assert (line["top3"]["low"], line["top3"]["high"]) == (law.ppf(0.025), law.ppf(0.975))
    assert line["pairwise"]["mean"] == pytest.approx(0.5, abs=0.01)
    assert line["regret1_relative"]["mean"] == pytest.approx(1, abs=0.05)
    values = np.array(list(y.values()))
    assert line["regret1"]["mean"] == pytest.approx(values.max() - values.mean(), abs=0.06)
    for name, sd in (("spearman", 1 / math.sqrt(19)), ("kendall", math.sqrt(2 * 45 / (9 * 20 * 19)))):
        assert line[name]["mean"] == pytest.approx(0, abs=0.02)
        assert [line[name]["low"], line[name]["high"]] == pytest.approx([-1.96 * sd, 1.96 * sd], abs=0.05)


def test_a_mean_over_references_has_a_narrower_band():
    references = [named(generator(seed).normal(size=12)) for seed in range(4)]
    one, four = (random_line(r, generator(3), 3000)["spearman"] for r in (references[0], references))
    assert (four["high"] - four["low"]) / (one["high"] - one["low"]) == pytest.approx(0.5, abs=0.04)


def test_few_draws_at_a_time_are_all_draws(monkeypatch):
    y = named(generator(1).normal(size=10))
    whole = random_line(y, generator(2), 50)
    monkeypatch.setattr("sessionwise.analysis.fidelity._MOST_PAIRS", 700)  # 7 draws at a time
    assert random_line(y, generator(2), 50) == whole


def test_no_reference_no_line():
    line = random_line([named([1, 2]), named([1, 1, 1])], generator())
    assert line["spearman"] is None and line["n"] == 0 and "3 or more" in line["reason"]
    small = random_line(named(range(4)), generator(), 20)
    assert small["top5"] is None and small["top3"] is not None
    with pytest.raises(DataError, match="0 draws"):
        random_line(named(range(4)), generator(), 0)


# summary --------------------------------------------------------------------------------------------------------------


def rows_of(method, values, cost=0.1, measure="spearman", **more):
    return [
        {"method": method, "heldout": f"h{i}", "cost_share": cost, measure: v, **more} for i, v in enumerate(values)
    ]


def test_means_over_heldouts_cheapest_first():
    rows = [*rows_of("b", [0.1, 0.2, 0.6], 0.5), *rows_of("z", [0.3, None, 0.5], 0.0), *rows_of("a", [1.0], 0.5)]
    rows += rows_of("unknown", [0.2], None)
    summary = summarise(reversed(rows))
    assert [row["method"] for row in summary] == ["z", "a", "b", "unknown"]
    by = {row["method"]: row for row in summary}
    assert by["b"]["spearman"]["mean"] == pytest.approx(0.3) and by["z"]["spearman"]["mean"] == pytest.approx(0.4)
    assert (by["z"]["n"], by["z"]["spearman"]["n"]) == (3, 2)
    assert by["a"]["spearman"]["low"] is None and by["a"]["spearman"]["reason"] == "1 held-out session: no interval"
    assert by["b"]["spearman"]["low"] < 0.3 < by["b"]["spearman"]["high"]
    assert by["unknown"]["cost_share"] is None


def test_seeds_of_a_heldout_are_averaged_first_and_ids_may_come_again_in_another_generator():
    rows = [*rows_of("a", [0.0, 0.8]), *rows_of("a", [0.2])]  # h0 twice
    assert summarise(rows)[0]["spearman"]["mean"] == pytest.approx((0.1 + 0.8) / 2)
    rows = [*rows_of("a", [0.0, 0.8], generator="g1"), *rows_of("a", [0.2], generator="g2")]
    (row,) = summarise(rows)
    assert row["spearman"]["mean"] == pytest.approx(1 / 3) and row["spearman"]["n"] == 3
    assert row["resampled"] == "generator" and "2 generators" in row["spearman"]["reason"]


@pytest.mark.parametrize("n", [4, 8])
def test_intervals_hold_the_mean_as_often_as_they_say(n):
    rng, held = generator(n), 0
    for _ in range(400):
        value = summarise(rows_of("a", rng.normal(0.0, 0.2, n), measure="final_regret"), n_boot=400)[0]["final_regret"]
        held += value["low"] <= 0 <= value["high"]
    assert 0.915 <= held / 400 <= 0.985


def test_generators_are_resampled_whole():
    """Sessions of a generator that say the same are one fact, not four."""
    values = [0.1, 0.3, 0.2, 0.6]
    alone = summarise([row for v, g in zip(values, "abcd", strict=True) for row in rows_of("m", [v], generator=g)])
    fourfold = [row for v, g in zip(values, "abcd", strict=True) for row in rows_of("m", [v] * 4, generator=g)]
    assert summarise(fourfold)[0]["spearman"] == {**alone[0]["spearman"], "n": 16}
    spread = [{**row, "generator": None, "heldout": f"{row['heldout']}{i}"} for i, row in enumerate(fourfold)]
    loose, whole = (summarise(rows)[0]["spearman"] for rows in (spread, fourfold))
    assert loose["high"] - loose["low"] < 0.6 * (whole["high"] - whole["low"])


def test_intervals_stay_inside_what_can_be():
    rows = [
        {
            "method": "m",
            "heldout": f"h{i}",
            "cost_share": 0.1,
            "spearman": s,
            "top3": t,
            "regret1": r,
            "final_regret": r,
        }
        for i, (s, t, r) in enumerate([(1.0, 3, 0.0), (1.0, 3, 0.0), (0.2, 0, 0.4)])
    ]
    (row,) = summarise(rows)
    assert row["spearman"]["high"] == 1 and row["top3"]["high"] == 3 and row["regret1"]["low"] == 0
    assert row["final_regret"]["low"] < 0 < row["final_regret"]["high"]


def test_the_same_rows_give_the_same_summary_in_any_order_and_company():
    rows = [*rows_of("a", [0.1, 0.5, 0.3, 0.4]), *rows_of("b", [0.7, 0.2, 0.3], 0.2)]
    assert summarise(rows) == summarise(rows[::-1])
    assert summarise(rows)[0] == summarise(rows[:4])[0]
    rows = rows_of("a", generator().normal(size=9))
    assert summarise(rows, rng=generator(4)) == summarise(rows, rng=generator(4)) != summarise(rows, rng=generator(5))


def test_a_reason_of_a_row_is_kept():
    rows = [{**row, "reason": "all scores of the ranker are equal"} for row in rows_of("a", [None, None])]
    value = summarise(rows)[0]["spearman"]
    assert value["mean"] is None and value["n"] == 0 and value["reason"] == "all scores of the ranker are equal"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"method": "", "heldout": "h"}, "method"),
        ({"method": "m"}, "heldout"),
        ({"method": "m", "heldout": "h", "cost_share": -0.1}, "cost_share -0.1"),
        ({"method": "m", "heldout": "h", "spearman": math.nan}, "not finite"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused(row, found):
    with pytest.raises(DataError, match=found):
        summarise([row])


def test_a_generator_in_some_rows_only_is_refused():
    with pytest.raises(DataError, match="some rows only"):
        summarise([*rows_of("a", [0.1], generator="g"), *rows_of("a", [0.1])])


def test_measures_come_in_one_order():
    keys = ["final_regret", "top10", "regret1", "top2", "spearman", "n", "topless", "top0", "reason", "kendall"]
    assert measures([dict.fromkeys(keys)]) == ["spearman", "kendall", "top2", "top10", "regret1", "final_regret"]


def test_a_mean_line_is_over_what_is_known():
    line = mean_line([{"spearman": 0.2, "top1": None, "reason": None}, {"spearman": 0.6, "top1": None}])
    assert line == {"spearman": 0.4, "top1": None, "n": 2}


# calibration ----------------------------------------------------------------------------------------------------------


def test_calibration_counts_both_ends_and_has_an_exact_interval():
    found = calibration([(1, 3, 1), (1, 3, 3), (2, 2, 2), (4, 6, 7), (4, 6, 3)])
    assert (found["inside"], found["n"], found["share"]) == (3, 5, 0.6)
    # Clopper and Pearson by their definition: at the ends, as many or more extreme have a chance of 2.5 %.
    assert stats.binom.sf(2, 5, found["low"]) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 5, found["high"]) == pytest.approx(0.025)


def test_what_intervals_promise_stands_beside_what_they_hold():
    cases = [(1, 3, 1), (2, 2, 3)]
    assert calibration(cases, [0.9, 0.8])["stated"] == pytest.approx(0.85)
    assert calibration(cases)["stated"] is None
    assert calibration(cases, [0.9])["stated"] is None  # known for some only: no mean of all


def test_calibration_of_nothing_and_of_nonsense():
    assert calibration([])["share"] is None and calibration([])["reason"] == "no intervals"
    with pytest.raises(DataError, match="ends before"):
        calibration([(3, 1, 2)])
    assert calibration([(1, 2, 1)] * 4)["high"] == 1


# tables ---------------------------------------------------------------------------------------------------------------


def small_summary():
    rows = [*rows_of("=cmd|bad", [0.1, 0.2, 0.6], 0.0), *rows_of("b", [0.25], 0.0123, top3=2)]
    return summarise(rows)


def test_the_table_for_people():
    text = fidelity_table(small_summary())
    head, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "cost / cost(full)" in head and "Spearman" in head and "top-3 overlap" in head
    assert len(lines) == 3 and "no training" in lines[1] and "0.30 \\[" in lines[1] and "=cmd\\|bad" in lines[1]
    assert "0.012" in lines[2] and "0.25" in lines[2] and "2.00" in lines[2]
    assert "b: 1 held-out session: no interval." in text


def test_the_table_for_machines():
    lines = list(csv.DictReader(io.StringIO(fidelity_csv(small_summary()))))
    assert [(line["method"], line["measure"]) for line in lines] == [
        ("'=cmd|bad", "spearman"),
        ("'=cmd|bad", "top3"),
        ("b", "spearman"),
        ("b", "top3"),
    ]
    assert float(lines[0]["mean"]) == pytest.approx(0.3) and float(lines[0]["low"]) < 0.3
    assert lines[1]["mean"] == "" and lines[1]["reason"] == "not measured"
    assert lines[2]["low"] == "" and lines[2]["cost_share"] == "0.0123"
