"""Which sessions differ, and why: rates on synthetic pools, each null derived by hand, and what is refused."""

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis.judging import chance_of_spread, judge, likeness_test, p_words
from sessionwise.errors import DataError

SEED_SD, TRIAL_SD, B = 0.5, 0.5, 300


def pool(rng, n, *, size=0.0, good=0.0, near=0.0, seen=0.3):
    """Scores, draws, facts and likeness of a synthetic pool in units of the noise SD.

    size, good, near: SD of what log trials, a quality and closeness add to a score; the quality is seen with an error.
    """
    trials, quality, closeness = rng.standard_normal((3, n))
    noise_sd = np.hypot(SEED_SD, TRIAL_SD)
    truth = size * trials + good * quality + near * closeness
    scores = truth + noise_sd * rng.standard_normal(n)
    draws = scores + noise_sd * rng.standard_normal((B, n))
    facts = {"log trials": trials, "quality": quality + seen * rng.standard_normal(n)}
    return scores, draws, facts, closeness + 0.3 * rng.standard_normal(n)


def rates(n, n_pools=150, **effects):
    """Share of each kind."""
    rng = np.random.default_rng(n)
    kinds = [judge(*pool(rng, n, **effects)).kind for _ in range(n_pools)]
    return {kind: kinds.count(kind) / n_pools for kind in set(kinds)}


@pytest.mark.parametrize("n", [8, 14, 30])
def test_without_closeness_none_is_found(n):
    for effects in ({}, {"size": 3.0}, {"size": 2.0, "good": 2.0, "seen": 0.0}):
        found = rates(n, **effects)
        assert found.get("close", 0) <= 0.04
        assert found.get("no difference", 0) + found.get("size only", 0) >= 0.9


def test_a_quality_that_is_seen_badly_may_stay_unexplained_but_is_not_called_closeness():
    found = rates(14, good=3.0, seen=0.5)
    assert found.get("close", 0) <= 0.06
    assert found.get("unexplained", 0) > 0.1  # the honest word for what no fact explains


def test_nothing_is_called_a_difference_in_nineteen_of_twenty():
    assert rates(14, 300)["no difference"] == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize(("n", "least"), [(8, 0.35), (14, 0.9), (30, 0.95)])
def test_closeness_is_found_where_it_is_strong(n, least):
    assert rates(n, near=4.0, size=1.0)["close"] >= least


def test_the_chance_of_a_spread_is_that_of_an_f_test():
    """With Gaussian draws of known SD the sum of squares of the rest is chi-squared with C - q degrees of freedom."""
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(12), rng.standard_normal(12)])
    scores, noise = 1.4 * rng.standard_normal(12), rng.standard_normal((20000, 12))
    rest = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    assert chance_of_spread(scores, noise, design) == pytest.approx(stats.chi2.sf(rest @ rest, 10), abs=0.012)


def test_a_fact_that_repeats_another_takes_nothing_more():
    rng = np.random.default_rng(1)
    scores, draws, facts, near = pool(rng, 10, size=2.0)
    again = {**facts, "trials again": 3 * facts["log trials"] + 1, "constant": np.ones(10)}
    one, other = judge(scores, draws, facts, near), judge(scores, draws, again, near)
    assert one.kind == other.kind and one.p_residual == other.p_residual
    assert other.facts == ("log trials", "quality", "trials again")  # a constant explains nothing


def test_the_chance_of_likeness_is_that_of_a_rank_correlation():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 12))
    rho, p = likeness_test(a, b)
    found = stats.spearmanr(a, b, alternative="greater")
    assert (rho, p) == (pytest.approx(found.statistic), pytest.approx(found.pvalue))
    assert likeness_test(np.arange(6.0), np.arange(6.0)) == (1, 1 / 720)  # of 720 orders one is as good
    assert likeness_test(np.arange(6.0), -np.arange(6.0)) == (-1, 1)
    assert likeness_test(np.arange(4.0), np.arange(4.0)) == (None, None)
    assert likeness_test(np.ones(8), np.arange(8.0)) == (None, None)


def test_facts_that_were_taken_out_cost_degrees_of_freedom():
    """The t test of a partial correlation: that of the coefficient in a regression on both, here of ranks."""
    a, b = np.random.default_rng(6).permuted(np.tile(np.arange(9.0), (2, 1)), axis=1)
    rho, p = likeness_test(a, b, n_facts=3)
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic)
    t = rho / np.sqrt((1 - rho**2) / (9 - 2 - 3))
    assert p == pytest.approx(stats.t.sf(t, 9 - 2 - 3))
    assert likeness_test(a, b, n_facts=5) == (None, None)


@pytest.mark.parametrize("n", [7, 8, 10, 20])
@pytest.mark.parametrize("heavy", [False, True])
def test_unrelated_pools_are_called_alike_in_one_of_twenty(n, heavy):
    """Scores and likeness that share two facts and nothing else: of 3,000 pools 5 % +- 1.2 % (3 standard errors)."""
    rng = np.random.default_rng(n)
    hits, as_if_free = 0, 0
    for _ in range(3000):
        facts = rng.standard_normal((n, 2))
        own = rng.standard_t(3, (2, n)) if heavy else rng.standard_normal((2, n))
        x, y = own + (facts @ np.array([[1.0, 1.0], [1.0, 0.5]])).T
        design = np.column_stack([np.ones(n), facts])
        x, y = (side - design @ np.linalg.lstsq(design, side, rcond=None)[0] for side in (x, y))
        hits += likeness_test(x, y, n_facts=2)[1] < 0.05
        as_if_free += likeness_test(x, y)[1] < 0.05
    assert 0.03 < hits / 3000 < 0.062
    assert n > 8 or as_if_free / 3000 > 0.075  # as if nothing had been taken out: 8 to 10 % in small pools


def test_order_and_scale_of_what_comes_in_do_not_matter():
    rng = np.random.default_rng(2)
    scores, draws, facts, near = pool(rng, 14, near=4.0)
    first = judge(scores, draws, facts, near)
    moved = judge(5 + 7 * scores, 7 * draws, {name: -3 * f for name, f in facts.items()}, 2 * near)
    assert (moved.kind, moved.p_equal, moved.p_residual) == (first.kind, first.p_equal, first.p_residual)
    order = rng.permutation(14)
    mixed = judge(scores[order], draws[:, order], {n: f[order] for n, f in facts.items()}, near[order])
    assert mixed.kind == first.kind and mixed.p_residual == pytest.approx(first.p_residual)
    assert mixed.likeness_rho == pytest.approx(first.likeness_rho)


def test_no_chance_is_written_as_zero():
    assert [p_words(p) for p in (0.0002, 0.00099, 0.001, 0.0234)] == [*["p < 0.001"] * 2, "p = 0.001", "p = 0.023"]
    scores = np.linspace(0.0, 1.0, 12)
    told = judge(scores, np.random.default_rng(4).normal(0, 0.01, (3000, 12)), {}, scores)
    assert told.kind == "close" and told.text.count("p < 0.001") == 2 and "0.000" not in told.text


def test_what_cannot_be_judged_is_said():
    rng = np.random.default_rng(3)
    scores, draws, facts, near = pool(rng, 8, near=6.0)
    assert judge(scores, draws, facts, near, noise_known=False).kind == "not judged"
    assert judge(scores[:2], draws[:, :2], {}, None).kind == "not judged"
    few = judge([0.0, 5.0, 50.0], draws[:, :3], {"a": [1.0, 2.0, 3.0], "b": [1.0, 0.0, 0.0]})
    assert few.kind == "unexplained" and few.p_residual is None and "too few" in few.text
    assert judge(scores, draws, facts).kind in ("unexplained", "size only")
    assert judge(scores, draws, facts, near).to_json()["facts"] == ["log trials", "quality"]
    for bad in ((scores, draws[:, :5], facts), (scores, draws, {"a": [1.0]}), ([np.nan] * 8, draws, facts)):
        with pytest.raises(DataError):
            judge(*bad)
