"""Comparisons against scipy, plain enumeration, and the numbers that the paper prints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sessionwise.analysis.inference import (
    benjamini_hochberg,
    best_over_sizes,
    data_efficiency,
    exact_permutation,
    holm,
    improvement_percent,
    percentile_among,
    t_tests,
)
from sessionwise.errors import DataError

# Table 1 of the paper, % over baseline: random, ranked, reverse, ranked top 5.
TABLE_1 = {
    84: (5.74, 11.08, 2.54, 8.69),
    85: (11.33, 18.87, 9.39, 16.92),
    86: (3.13, 4.78, 0.89, 3.39),
    87: (8.37, 8.43, 3.30, 8.43),
    88: (19.12, 26.60, 10.95, 22.44),
}
BASELINES = (0.21, 0.34, 0.18, 0.09, 0.27)
scores = st.floats(-1, 1).map(lambda x: round(x, 4))


def table_1() -> np.ndarray:
    """Improvements computed from scores that have those of the paper."""
    cells = []
    for baseline, row in zip(BASELINES, TABLE_1.values(), strict=True):
        cells.append([improvement_percent(baseline * (1 + percent / 100), baseline) for percent in row])
    return np.array(cells, dtype=float)


def test_table_1_of_the_paper():
    random, ranked, reverse, top = table_1().mean(axis=0)
    assert (round(random, 2), round(ranked, 2), round(top, 2)) == (9.54, 13.95, 11.97)
    assert round(reverse, 2) == 5.41  # the paper prints 5.42, from unrounded entries
    assert round(ranked - random, 1) == 4.4
    assert round(100 * top / ranked) == 86


def test_the_paper_s_data_efficiency():
    sizes = (1, 2, 3, 4, 5, 10, 20, 30, 40)
    means = (0.20, 0.21, 0.215, 0.22, 0.225, 0.24, 0.25, 0.252, 0.253)
    assert data_efficiency(sizes, means, 5) == 8.0


def test_a_missing_mean_may_be_the_best():
    assert data_efficiency((1, 5, 10), (0.1, None, 0.2), 5) is None
    assert best_over_sizes((1, 5, 84), (0.1, 0.3, None), leave_out=84) == (5, 0.3)
    assert best_over_sizes((1, 5, 84), (0.1, 0.3, None)) is None
    assert best_over_sizes((84,), (0.1,), leave_out=(84, 85)) is None
    assert best_over_sizes((), ()) is None


def test_the_smallest_of_equal_sizes_is_best():
    assert best_over_sizes((10, 3, 5), (0.2, 0.2, 0.1)) == (3, 0.2)
    with pytest.raises(DataError):
        data_efficiency((1,), (0.1,), 0)


@pytest.mark.parametrize("baseline", (0.0, -0.1))
def test_no_percent_of_nothing(baseline: float):
    assert improvement_percent(0.1, baseline) is None


def test_improvement_can_be_a_loss():
    assert improvement_percent(-0.1, 0.2) == pytest.approx(-150)


@pytest.mark.parametrize("n, m", ((3, 3), (2, 5), (6, 4)))
def test_t_tests_are_scipy_s(n: int, m: int):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.2, 1, n), rng.normal(0, 3, m)
    found, student = t_tests(a, b), stats.ttest_ind(a, b)
    assert (found.t, found.p, found.df) == pytest.approx((student.statistic, student.pvalue, n + m - 2))
    assert found.p_welch == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    if n == m:
        assert found.p_paired == pytest.approx(stats.ttest_rel(a, b).pvalue)
    else:
        assert found.p_paired is None


def test_t_tests_by_hand():
    """Means 2 and 5, both variances 1, n = 3: t = -3 / sqrt(2/3)."""
    found = t_tests([1, 2, 3], [4, 5, 6])
    assert found.t == pytest.approx(-3 / math.sqrt(2 / 3))
    assert found.p_paired is None and found.reason  # every pair differs by exactly 3
    assert found.p_welch == pytest.approx(found.p)


def test_one_value_is_no_test():
    found = t_tests([0.1], [0.2, 0.3])
    assert (found.t, found.df, found.p, found.p_welch, found.p_paired) == (None,) * 5 and found.reason


@pytest.mark.parametrize("a", ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3], [0.1 + 0.2, 0.3, 0.3]))
def test_constants_prove_nothing(a: list[float]):
    found = t_tests(a, [0.1, 0.1, 0.1])
    assert (found.t, found.p, found.p_welch, found.p_paired) == (None,) * 4 and found.reason


@given(st.lists(scores, min_size=3, max_size=6), st.lists(scores, min_size=3, max_size=6))
@settings(max_examples=60, deadline=None)
def test_t_tests_do_not_depend_on_sides_or_scale(a: list[float], b: list[float]):
    one, other, scaled = t_tests(a, b), t_tests(b, a), t_tests(np.array(a) * 7, np.array(b) * 7)
    for name in ("p", "p_welch", "p_paired"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)
        assert getattr(one, name) == pytest.approx(getattr(scaled, name), abs=1e-9)


@pytest.mark.parametrize("n, m", ((3, 3), (5, 5)))
def test_exact_permutation_is_scipy_s(n: int, m: int):
    """With equal sides the null distribution is symmetric, and scipy's doubled tail is the same share."""
    rng = np.random.default_rng(m)
    a, b = rng.normal(0.5, 1, n), rng.normal(0, 1, m)

    def gap(x, y, axis):
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    whole = stats.permutation_test((a, b), gap, n_resamples=math.inf, vectorized=True)
    assert exact_permutation(a, b) == pytest.approx(whole.pvalue)


@pytest.mark.parametrize("n, m", ((4, 2), (1, 5), (3, 4)))
def test_exact_permutation_counts_all_splits(n: int, m: int):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.5, 1, n), rng.normal(0, 1, m)
    gaps = [abs(sum(x) / n - (sum(a) + sum(b) - sum(x)) / m) for x in _choices([*a, *b], n)]
    assert len(gaps) == math.comb(n + m, n)
    assert exact_permutation(a, b) == np.mean([g >= abs(a.mean() - b.mean()) - 1e-12 for g in gaps])


def _choices(values: list[float], n: int) -> list[list[float]]:
    if n == 0:
        return [[]]
    if len(values) < n:
        return []
    return [[values[0], *rest] for rest in _choices(values[1:], n - 1)] + _choices(values[1:], n)


def test_paired_permutation_is_scipy_s():
    a, b = np.array([0.3, 0.5, 0.4, 0.9]), np.array([0.1, 0.6, 0.2, 0.5])
    own = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=math.inf)
    assert exact_permutation(a, b, paired=True) == pytest.approx(own.pvalue)


def test_three_against_three_cannot_go_below_a_tenth():
    assert exact_permutation([1, 2, 3], [10, 11, 12]) == pytest.approx(0.1)
    assert exact_permutation([1, 2, 3], [10, 12, 14], paired=True) == pytest.approx(0.25)


def test_ties_count_as_equal():
    assert exact_permutation([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) == 1.0
    assert exact_permutation([0.1 + 0.2], [0.3]) == 1.0


def test_what_cannot_be_enumerated_is_none():
    assert exact_permutation(range(12), range(12)) is None
    assert exact_permutation([], [1.0]) is None
    with pytest.raises(DataError):
        exact_permutation([1.0, 2.0], [1.0], paired=True)


def test_holm_and_benjamini_hochberg_by_hand():
    p = [0.01, None, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, None, 0.04, 0.04, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []
    assert holm([None]) == benjamini_hochberg([None]) == [None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_corrections_are_ordered(p: list[float]):
    adjusted, discovery = holm(p), benjamini_hochberg(p)
    np.testing.assert_allclose(discovery, stats.false_discovery_control(p), atol=1e-12)
    for raw, bh, fw in zip(p, discovery, adjusted, strict=True):
        assert raw - 1e-12 <= bh <= fw + 1e-12 and fw <= min(1, len(p) * raw) + 1e-12
    assert [x for _, x in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)


@pytest.mark.parametrize("correct", (holm, benjamini_hochberg))
def test_no_p_is_above_one(correct):
    with pytest.raises(DataError):
        correct([0.5, 1.5])
    with pytest.raises(DataError):
        correct([math.nan])


def test_percentile_among_random_sets():
    others = np.arange(20) / 100
    assert percentile_among(0.5, others) == {"percentile": 100.0, "n": 20, "p": 1 / 21}
    assert percentile_among(0.10, others) == {"percentile": 50.0, "n": 20, "p": 11 / 21}
    assert percentile_among(0.1, []) == {"percentile": None, "n": 0, "p": None}


def test_every_p_is_as_likely_among_equals():
    """Each of 20 values in turn against the others: p is 1/20, 2/20, ... once each."""
    x = np.random.default_rng(0).normal(size=20)
    found = sorted(percentile_among(x[i], np.delete(x, i))["p"] for i in range(20))
    np.testing.assert_allclose(found, np.arange(1, 21) / 20)


@pytest.mark.parametrize(
    "call",
    (
        lambda bad: improvement_percent(bad, 0.1),
        lambda bad: t_tests([bad, 1, 2], [1, 2, 3]),
        lambda bad: exact_permutation([bad, 1], [1, 2]),
        lambda bad: percentile_among(bad, [0.1]),
        lambda bad: percentile_among(0.1, [bad]),
        lambda bad: best_over_sizes((1, 2), (0.1, bad)),
    ),
)
@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_what_is_not_finite_is_refused(call, bad: float):
    with pytest.raises(DataError, match="not finite"):
        call(bad)
