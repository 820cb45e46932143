"""Statistics against brute-force loops, closed forms, scipy, and planted data."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis.statistics import (
    bits_per_spike,
    interaction_variance,
    paired_difference,
    partial_correlation,
    rank_bootstrap,
    seed_to_seed_correlation,
    spearman,
    spearman_interval,
    top_k_overlap,
)
from sessionwise.errors import DataError

LN2 = math.log(2)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gains(n_candidates: int = 5, n_seeds: int = 2, n_trials: int = 30, seed: int = 3, gap: float = 2.0):
    """Gains (C, S, K) in nats and spikes (K,): candidate c is better by ``gap`` nats a trial than c + 1."""
    rng = generator(seed)
    base = -gap * np.arange(n_candidates)[:, None, None]
    x = base + rng.normal(0, 5, (1, 1, n_trials)) + rng.normal(0, 3, (n_candidates, n_seeds, n_trials))
    return x + rng.normal(0, 0.5, (n_candidates, n_seeds, 1)), rng.integers(0, 60, n_trials)


def test_scores_are_the_definition():
    x, n = gains()
    by_hand = [[sum(x[c, s]) / (sum(n) * LN2) for s in range(2)] for c in range(5)]
    u = rank_bootstrap(x, n, 50, rng=generator())
    np.testing.assert_allclose(u.seed_scores, by_hand, rtol=1e-12)
    np.testing.assert_allclose(u.score, np.mean(by_hand, axis=1), atol=1e-12)
    np.testing.assert_allclose(u.sd, np.std(by_hand, axis=1, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(bits_per_spike([1.0, 2.0], [1, 2]), 1 / LN2)


def brute_force(x, n, n_boot, rng):
    """The same bootstrap with plain loops, one draw, one candidate, one trial at a time."""
    n_candidates, n_seeds, n_trials = x.shape
    score = [[sum(x[c, s]) / (sum(n) * LN2) for s in range(n_seeds)] for c in range(n_candidates)]
    grand = np.mean(score)
    rows, columns = [np.mean(r) for r in score], [np.mean([r[s] for r in score]) for s in range(n_seeds)]
    total = sum((score[c][s] - rows[c] - columns[s] + grand) ** 2 for c in range(n_candidates) for s in range(n_seeds))
    freedom = (n_candidates - 1) * (n_seeds - 1)
    variance = total / freedom
    counts = rng.multinomial(n_trials, [1 / n_trials] * n_trials, size=n_boot)
    spread = variance * freedom / rng.chisquare(freedom, size=n_boot)
    noise = rng.standard_normal((n_boot, n_candidates))
    drawn = np.zeros((n_boot, n_candidates))
    for b in range(n_boot):
        trials = [k for k in range(n_trials) for _ in range(counts[b, k])]
        spikes = sum(n[k] for k in trials)
        for c in range(n_candidates):
            gain = sum(sum(x[c, s, k] for s in range(n_seeds)) / n_seeds for k in trials)
            drawn[b, c] = gain / (spikes * LN2) + noise[b, c] * math.sqrt(spread[b] / n_seeds)
    return variance, drawn


def test_bootstrap_equals_plain_loops():
    x, n = gains(4, 3, 12)
    variance, drawn = brute_force(x, n, 60, generator(7))
    u = rank_bootstrap(x, n, 60, rng=generator(7), ks=(1, 2))
    assert u.seed_variance == pytest.approx(variance, rel=1e-9)
    np.testing.assert_allclose(u.low80, np.quantile(drawn, 0.1, axis=0), atol=1e-10)
    np.testing.assert_allclose(u.high95, np.quantile(drawn, 0.975, axis=0), atol=1e-10)
    ranks = np.array([[1 + sum(other > row[c] for other in row) for c in range(4)] for row in drawn])
    for k in (1, 2):
        np.testing.assert_allclose(u.p_top[k], (ranks <= k).mean(axis=0))
    ordered = np.sort(ranks, axis=0)
    assert list(u.rank_low) == [min(r, v) for r, v in zip(u.rank, ordered[int(0.1 * 59)], strict=True)]
    assert list(u.rank_high) == [max(r, v) for r, v in zip(u.rank, ordered[math.ceil(0.9 * 59)], strict=True)]
    inside = [[low <= r <= high for r, low, high in zip(row, u.rank_low, u.rank_high, strict=True)] for row in ranks]
    np.testing.assert_allclose(u.rank_chance, np.mean(inside, axis=0))
    assert (u.rank_chance >= 0.8).all()


def test_same_generator_state_same_result_and_other_seed_other_draws():
    x, n = gains(gap=0.3)
    first, second = (rank_bootstrap(x, n, 200, rng=generator(1)) for _ in range(2))
    other = rank_bootstrap(x, n, 200, rng=generator(2))
    for name in ("score", "rank", "rank_low", "rank_high", "low80", "high95"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.low80, other.low80)


def test_probabilities_add_up_to_k_and_grow_with_k():
    x, n = gains(12, gap=0.2)
    u = rank_bootstrap(x, n, 500, rng=generator())
    assert list(u.p_top) == [1, 3, 5, 10]
    for k, p in u.p_top.items():
        assert p.sum() == pytest.approx(k)
    assert (np.diff(np.stack(list(u.p_top.values())), axis=0) >= 0).all()


def test_sizes_beyond_the_pool_are_left_out():
    x, n = gains(4)
    assert list(rank_bootstrap(x, n, 50, rng=generator()).p_top) == [1, 3]


def test_clear_differences_give_narrow_ranks_and_order_of_candidates_does_not_matter():
    x, n = gains(6, gap=40.0)
    u = rank_bootstrap(x[::-1], n, 300, rng=generator())
    assert list(u.rank) == list(u.rank_low) == list(u.rank_high) == [6, 5, 4, 3, 2, 1]
    assert u.p_top[1][-1] == 1.0 and u.p_equal < 0.01


def test_what_all_candidates_share_does_not_blur_ranks():
    x, n = gains(5, gap=10.0)
    shared = 1e4 * generator(9).normal(size=(1, 1, x.shape[2]))
    clear = rank_bootstrap(x + shared - shared.mean(), n, 400, rng=generator())
    assert (clear.rank_high - clear.rank_low).max() <= 1
    assert (clear.high80 - clear.low80).min() > 10 * (clear.score.max() - clear.score.min())


def test_identical_candidates_share_the_probability():
    x, n = gains(1, 2, 25)
    u = rank_bootstrap(np.repeat(x, 4, axis=0), n, 4000, rng=generator())
    assert list(u.rank) == [1, 2, 3, 4]
    np.testing.assert_allclose(u.p_top[1], 0.25, atol=0.04)
    assert list(u.rank_low) == [1, 1, 1, 1] and list(u.rank_high) == [4, 4, 4, 4]
    assert u.p_equal == 1.0


def test_one_seed_says_that_seeds_are_not_counted():
    x, n = gains(n_seeds=1)
    u = rank_bootstrap(x, n, 100, rng=generator())
    assert u.seed_variance is None and u.sd is None and u.row(0)["sd"] is None
    assert len(u.row(0)["seed_scores"]) == 1
    assert (u.low95 < u.score).all() and (u.score < u.high95).all()


def test_one_seed_gives_no_p_however_large_the_gap():
    x, n = gains(6, 1, gap=40.0)
    assert rank_bootstrap(x, n, 100, rng=generator()).p_equal is None
    assert rank_bootstrap(np.repeat(x, 2, axis=1), n, 100, rng=generator()).p_equal < 0.05


def test_one_candidate_has_rank_one():
    x, n = gains(1)
    u = rank_bootstrap(x, n, 100, rng=generator())
    assert u.row(0)["rank"] == u.row(0)["rank_low"] == u.row(0)["rank_high"] == 1
    assert u.p_top == {1: pytest.approx(1.0)} and u.p_equal is None and u.seed_variance is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused_everywhere(bad):
    x, n = gains()
    x[1, 0, 3] = bad
    for call in (
        lambda: rank_bootstrap(x, n, 10, rng=generator()),
        lambda: paired_difference(x[0], x[1], n, rng=generator()),
        lambda: spearman([1, 2, bad], [1, 2, 3]),
        lambda: seed_to_seed_correlation([[1, bad], [2, 3], [4, 5]]),
        lambda: partial_correlation([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, bad]),
        lambda: interaction_variance([[1, bad], [2, 3]]),
    ):
        with pytest.raises(DataError, match="not finite"):
            call()


@pytest.mark.parametrize(
    ("gain", "spikes", "words"),
    [
        (np.ones((2, 1, 3)), [1, 1], "one number a trial"),
        (np.ones((2, 1, 3)), [0, 0, 0], "at least one spike"),
        (np.ones((2, 1, 3)), [3, -1, 1], "at least one spike"),
        (np.ones((2, 3)), [1, 1, 1], "candidates, seeds, trials"),
        (np.ones((0, 1, 3)), [1, 1, 1], "candidates, seeds, trials"),
    ],
)
def test_wrong_shapes_and_silent_trials_are_refused(gain, spikes, words):
    with pytest.raises(DataError, match=words):
        rank_bootstrap(gain, spikes, 10, rng=generator())


def test_draws_without_spikes_are_drawn_again():
    x = np.arange(12.0).reshape(2, 1, 6)
    u = rank_bootstrap(x, [0, 0, 5, 0, 0, 0], 500, rng=generator())
    assert np.isfinite(u.low95).all() and np.isfinite(u.high95).all()


def planted(rng, n_candidates, n_seeds, n_trials, spread):
    """True scores and gains with trial noise .1, seed noise .02 and noise shared by all candidates, bits per spike."""
    truth = rng.normal(0, spread, n_candidates)
    x = truth[:, None, None] + rng.normal(0, 0.2, (1, 1, n_trials)) + rng.normal(0, 0.1, (n_candidates, 1, n_trials))
    return truth, (x + rng.normal(0, 0.02, (n_candidates, n_seeds, 1))) * 300 * LN2


def test_intervals_cover_what_was_planted():
    """Rank and score intervals of 80 %, spread of the candidates about twice the noise of one score (.021).

    Ranks are whole numbers, so that intervals of well separated candidates cover more than 80 %; never markedly less.
    """
    rng = generator(11)
    rank_hits, score_hits = [], []
    for _ in range(120):
        truth, x = planted(rng, 10, 2, 40, 0.021)
        u = rank_bootstrap(x, np.full(40, 300), 300, rng=rng)
        true_rank = stats.rankdata(-truth)
        rank_hits.append((u.rank_low <= true_rank) & (true_rank <= u.rank_high))
        score_hits.append((u.low80 <= truth) & (truth <= u.high80))
    # 120 repetitions of 10 correlated candidates: a standard error of about 1.5 (ranks) and 2.5 points (scores).
    assert 0.77 < np.mean(rank_hits) < 0.90
    assert 0.72 < np.mean(score_hits) < 0.88


def test_p_equal_is_uniform_enough_when_all_are_equal():
    rng = generator(5)
    p = []
    for _ in range(200):
        _, x = planted(rng, 8, 2, 40, 0.0)
        p.append(rank_bootstrap(x, np.full(40, 300), 200, rng=rng).p_equal)
    assert np.mean(np.array(p) < 0.1) < 0.1 + 3 * math.sqrt(0.09 / 200)
    assert 0.35 < np.mean(p) < 0.65


def test_a_seed_effect_that_all_candidates_share_is_in_no_rank():
    x, n = gains(6, 2, gap=1.0)
    shift = np.array([0.3, -0.1])
    plain = rank_bootstrap(x, n, 300, rng=generator())
    moved = rank_bootstrap(x + shift[None, :, None] * n * LN2, n, 300, rng=generator())
    for name in ("rank", "rank_low", "rank_high"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(moved, name))
    for k, p in plain.p_top.items():
        np.testing.assert_array_equal(p, moved.p_top[k])
    assert moved.p_equal == plain.p_equal
    # Nor in the width of the score intervals, which therefore are for comparing candidates only.
    for name in ("score", "low80", "high80", "low95", "high95"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name) + shift.mean(), atol=1e-9)


def test_difference_to_a_baseline_with_its_own_seed_effect_covers():
    """Seed effects of .02 shared by all cores, .02 of the baseline's own; a core's own .005; trial noise .003.

    The cores' pooled variance knows nothing of the shared effect: with it the interval would miss.
    """
    rng = generator(21)
    n, hits, narrow = np.full(30, 100), [], []
    for _ in range(300):
        x = rng.normal(0, 0.02, (1, 2, 1)) + rng.normal(0, 0.005, (6, 2, 1)) + rng.normal(0, 0.016, (6, 2, 30))
        base = -0.05 + rng.normal(0, 0.02, (2, 1)) + rng.normal(0, 0.016, (2, 30))
        pooled = interaction_variance(x.mean(axis=2))
        for found, variance in ((hits, None), (narrow, pooled)):
            d = paired_difference(x[0] * 100 * LN2, base * 100 * LN2, n, rng=rng, n_boot=400, seed_variance=variance)
            found.append(d.low <= 0.05 <= d.high)
    assert 0.92 < np.mean(hits) < 0.985
    assert np.mean(narrow) < 0.7


def test_paired_difference_mean_and_shared_trials():
    x, n = gains(2, 3, 40)
    found = paired_difference(x[0], x[1], n, rng=generator())
    by_hand = (x[0].mean(0) - x[1].mean(0)).sum() / (n.sum() * LN2)
    assert found.mean == pytest.approx(by_hand, abs=1e-11)
    assert found.low < found.mean < found.high and found.level == 0.95
    same = paired_difference(x[0], x[0], n, rng=generator(), seed_variance=0.0)
    assert (same.mean, same.low, same.high) == (0, 0, 0) and not same.excludes_zero


def test_paired_difference_matches_the_normal_closed_form():
    """Many trials of equal spikes, one seed each: mean +- 1.96 standard errors of the paired difference."""
    rng = generator(2)
    a, b = rng.normal(1, 1, 400), rng.normal(0.8, 1, 400)
    found = paired_difference(a[None], b[None], np.full(400, 10), rng=rng, n_boot=20000)
    error = (a - b).std() / math.sqrt(400) / (10 * LN2)
    assert found.seed_variance is None
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.06 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.06 * error)


def test_few_seeds_give_students_t():
    """No trial noise: the interval is that of a two-sample t test."""
    a, b = np.array([0.30, 0.34, 0.29]), np.array([0.25, 0.28])
    n = np.full(5, 7)
    gain = [np.repeat(side[:, None], 5, axis=1) * 7 * LN2 for side in (a, b)]
    found = paired_difference(*gain, n, rng=generator(), n_boot=40000)
    exact = stats.ttest_ind(a, b).confidence_interval(0.95)
    assert found.low == pytest.approx(exact.low, abs=0.004)
    assert found.high == pytest.approx(exact.high, abs=0.004)
    known = paired_difference(*gain, n, rng=generator(), n_boot=40000, seed_variance=0.01**2)
    assert known.high - known.mean == pytest.approx(1.96 * 0.01 * math.sqrt(1 / 3 + 1 / 2), rel=0.03)


def test_interaction_variance_ignores_what_moves_everyone():
    x = generator(1).normal(size=(6, 3))
    moved = x + 100 * np.arange(3) + 7 * np.arange(6)[:, None]
    assert interaction_variance(moved) == pytest.approx(interaction_variance(x), rel=1e-9)
    # Two candidates, two seeds: half the squared difference of differences over two, by hand.
    assert interaction_variance([[1.0, 2.0], [3.0, 8.0]]) == pytest.approx(4 * 1.0**2)
    assert interaction_variance([[1.0], [2.0]]) is None and interaction_variance([[1.0, 2.0]]) is None


def test_spearman_is_scipys():
    rng = generator(4)
    a, b = rng.integers(0, 5, 20), rng.normal(size=20)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman([1, 2], [1, 2]) is None and spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    with pytest.raises(DataError, match="equal lengths"):
        spearman([1, 2, 3], [1, 2])


def test_spearman_interval_is_fisher_z_and_covers():
    low, high = spearman_interval(0.5, 30)
    error = math.sqrt(1.125 / 27)
    assert math.atanh(high) - math.atanh(0.5) == pytest.approx(1.959964 * error, rel=1e-6)
    assert math.atanh(0.5) - math.atanh(low) == pytest.approx(1.959964 * error, rel=1e-6)
    assert spearman_interval(None, 30) is None and spearman_interval(0.3, 3) is None
    assert spearman_interval(1.0, 9) is None


def test_seed_correlation_is_the_mean_over_pairs():
    x = generator(6).normal(size=(7, 3))
    pairs = [stats.spearmanr(x[:, i], x[:, j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert seed_to_seed_correlation(x) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert seed_to_seed_correlation(x[:, :1]) is None
    assert seed_to_seed_correlation(x[:2]) is None
    assert seed_to_seed_correlation(np.ones((5, 2))) is None


def test_partial_correlation_closed_form_and_two_controls():
    x, y, z, w = generator(8).normal(size=(4, 40))
    x, y = x + z, y + z
    r = lambda a, b: stats.spearmanr(a, b).statistic  # noqa: E731
    closed = (r(x, y) - r(x, z) * r(y, z)) / math.sqrt((1 - r(x, z) ** 2) * (1 - r(y, z) ** 2))
    assert partial_correlation(x, y, z) == pytest.approx(closed, abs=1e-12)
    inverse = np.linalg.inv(np.corrcoef([stats.rankdata(v) for v in (x, y, z, w)]))
    expected = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_correlation(x, y, np.column_stack([z, w])) == pytest.approx(expected, abs=1e-12)
    assert partial_correlation(z, y, z) is None
    assert partial_correlation(x[:3], y[:3], z[:3]) is None


def test_overlap_is_the_intersection_counted_by_hand():
    rng = generator(12)
    names = [f"s{i}" for i in range(9)]
    orders = [list(rng.permutation(names)) for _ in range(3)]
    found = top_k_overlap(orders, generator(), n_draws=50)
    assert list(found.k) == list(range(1, 10))
    assert list(found.size) == [len(set.intersection(*(set(o[:k]) for o in orders))) for k in range(1, 10)]


def test_overlap_by_chance_is_that_of_all_permutations():
    """Four items, three lists: one fixed, all 24 x 24 orders of the others."""
    sizes = [
        [len(set(range(k)) & set(a[:k]) & set(b[:k])) for k in range(1, 5)]
        for a in permutations(range(4))
        for b in permutations(range(4))
    ]
    found = top_k_overlap(["abcd"] * 3, generator(), n_draws=20000)
    np.testing.assert_allclose(found.expected, np.mean(sizes, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.low, np.quantile(sizes, 0.025, axis=0, method="lower"))
    np.testing.assert_array_equal(found.high, np.quantile(sizes, 0.975, axis=0, method="higher"))


def test_overlap_by_chance_is_the_papers():
    """Fig. A2: 84 sessions ranked for 5 held-out sessions."""
    names = [str(i) for i in range(84)]
    found = top_k_overlap([names] * 5, generator(), n_draws=400)
    assert f"{found.expected[4]:.5f} {found.expected[22]:.2f} {found.expected[52]:.1f}" == "0.00006 0.13 8.4"
    assert found.low[52] < 8.4 < found.high[52] and found.high[4] == 0 and found.low[83] == 84


def test_identical_orders_overlap_fully():
    found = top_k_overlap(["abcde", "abcde"], generator())
    assert list(found.size) == [1, 2, 3, 4, 5] and (found.size >= found.expected).all()


@pytest.mark.parametrize("orders", [[], ["abc"], ["abc", "abd"], ["aab", "aab"], ["abc", "ab"], ["", ""]])
def test_orders_of_other_items_are_refused(orders):
    with pytest.raises(DataError, match="same distinct items"):
        top_k_overlap(orders, generator())
