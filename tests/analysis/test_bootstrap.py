"""The nested bootstrap against closed forms and plain loops, and how often its intervals hold the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis.checks import limits
from sessionwise.analysis.inference import nested_bootstrap, per_target_bootstrap
from sessionwise.errors import DataError

LN2 = math.log(2)


def minus(scores: Any) -> Any:
    return scores["a"] - scores["b"]


def target(a: Any, b: Any, spikes: Any, families: tuple[str, str] = ("seeds", "seeds"), **more: Any) -> dict[str, Any]:
    arms = {"a": np.atleast_2d(a), "b": np.atleast_2d(b)}
    return {"spikes": spikes, "arms": arms, "families": dict(zip("ab", families, strict=True)), **more}


def gains(bits: Any, spikes: Any) -> np.ndarray:
    """Gains (U, K) without any difference between trials: every trial has the score of its unit."""
    return np.asarray(bits, dtype=float)[:, None] * np.asarray(spikes) * LN2


def steady(bits_a: Any, bits_b: Any, families: tuple[str, str] = ("seeds", "seeds"), **more: Any) -> dict[str, Any]:
    spikes = np.array([10, 20, 30, 5])
    return target(gains(bits_a, spikes), gains(bits_b, spikes), spikes, families, **more)


def bootstrap(targets: list[dict[str, Any]], statistic=minus, seed: int = 0, n_boot: int = 4000, **more: Any):
    return nested_bootstrap(targets, statistic, rng=np.random.default_rng(seed), n_boot=n_boot, **more)


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_the_mean_is_the_difference_of_pooled_scores():
    spikes = np.array([3, 5, 2])
    a, b = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[0.5, 0, 1]])
    found = bootstrap([target(a, b, spikes, ("s", "one"))])
    assert found.mean == pytest.approx((6 + 15) / 2 / (10 * LN2) - 1.5 / (10 * LN2))
    assert found.single == ("b",)
    assert (found.n_targets, found.targets_resampled, found.level, found.reason) == (1, False, 0.95, None)


@pytest.mark.parametrize("bits", ([0.10, 0.16], [0.10, 0.12, 0.17]))
def test_seeds_alone_give_the_paired_t_interval(bits: list[float]):
    """Without noise of trials the interval of one family is Student's, of the differences seed by seed."""
    base = np.linspace(0.02, 0.03, len(bits))
    found = bootstrap([steady(bits, base)], n_boot=40_000)
    low, high = stats.ttest_rel(bits, base).confidence_interval()
    assert found.freedom == pytest.approx(len(bits) - 1)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.07 * (high - low)), pytest.approx(high, rel=0.1))


def test_two_families_have_welch_s_degrees_of_freedom():
    a, b = np.array([0.10, 0.16, 0.11]), np.array([0.05, 0.06])
    found = bootstrap([steady(a, b, ("seeds", "shuffles"))], n_boot=40_000)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval()
    assert found.low == pytest.approx(interval.low, abs=0.05 * (interval.high - interval.low))


def test_families_decide_what_cancels():
    """The same seeds move both arms alike: the difference does not vary."""
    bits = np.array([0.1, 0.2, 0.3])
    together, apart = bootstrap([steady(bits, bits)]), bootstrap([steady(bits, bits, ("s", "r"))])
    assert (together.low, together.high) == (0, 0) and apart.high > 0.1


def test_trials_alone_give_the_interval_of_a_mean():
    rng = np.random.default_rng(1)
    spikes, a = np.full(200, 7), rng.normal(1, 3, 200)
    found = bootstrap([target(np.stack([a, a]), np.zeros((2, 200)), spikes)], n_boot=20_000)
    reach = 1.96 * a.std() / math.sqrt(200) / (7 * LN2)
    assert found.low == pytest.approx(a.mean() / (7 * LN2) - reach, abs=0.04 * reach)
    assert found.high == pytest.approx(a.mean() / (7 * LN2) + reach, abs=0.04 * reach)


def test_trials_are_resampled_for_all_arms_together():
    rng = np.random.default_rng(1)
    spikes, a = rng.integers(1, 20, 50), rng.normal(0, 30, (2, 50))
    found = bootstrap([target(a, a - spikes * LN2 * 0.1, spikes)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_targets_alone_give_the_t_interval_of_their_mean():
    rng = np.random.default_rng(3)
    gaps = rng.normal(0.1, 0.05, 5)
    found = bootstrap([steady([0.2 + gap], [0.2], ("s", "r")) for gap in gaps], n_boot=40_000)
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval()
    assert found.targets_resampled and found.freedom is None
    assert (found.low, found.high) == (pytest.approx(low, abs=0.05 * (high - low)), pytest.approx(high, rel=0.05))


def test_noise_within_targets_is_not_counted_twice():
    """Five targets that differ by the noise of their trials alone: the interval is that of the noise."""
    widths = []
    for seed in range(20):
        rng = np.random.default_rng([4, seed])
        noise = [np.tile(rng.normal(0, 5, 60), (2, 1)) for _ in range(5)]
        targets = [target(a, np.zeros((2, 60)), np.full(60, 7)) for a in noise]
        found = bootstrap(targets, seed=seed, n_boot=1000)
        error = math.sqrt(sum(a[0].var() / 60 for a in noise)) / 5 / (7 * LN2)
        widths.append((found.high - found.low) / (2 * 1.96 * error))
    assert 0.97 < np.median(widths) < 1.35  # counted twice, and with Student's t: 1.6


def test_two_targets_are_fixed():
    """Two held-out sessions far apart: nothing is said about others, and the spread between them does not count."""
    found = bootstrap([steady([0.2, 0.2], [0.1, 0.1]), steady([0.9, 0.9], [0.1, 0.1])])
    assert not found.targets_resampled and found.n_targets == 2
    assert (found.mean, found.low, found.high) == pytest.approx((0.45, 0.45, 0.45))


def test_each_target_by_itself():
    targets = [steady([0.2, 0.21], [0.1, 0.1]), steady([0.9, 0.91], [0.1, 0.1])]
    each = per_target_bootstrap(targets, minus, rng=np.random.default_rng(0), n_boot=500)
    assert [e.mean for e in each] == pytest.approx([0.105, 0.805])
    assert [e.n_targets for e in each] == [1, 1]
    first = nested_bootstrap(targets[:1], minus, rng=np.random.default_rng(0), n_boot=500)
    assert each[0] == first


def test_shared_units_do_not_average_out_over_targets():
    """Five targets with the same random sets: the noise of three sets stays the noise of three sets."""
    bits = [0.1, 0.16, 0.13]
    own = [steady(bits, [0.1] * 3, ("shuffles", "seeds")) for _ in range(5)]
    shared = [{**t, "shared": ["shuffles"]} for t in own]
    narrow, wide = bootstrap(own, n_boot=20_000), bootstrap(shared, n_boot=20_000)
    low, high = stats.ttest_1samp(bits, 0).confidence_interval()
    assert wide.freedom == pytest.approx(2) and narrow.freedom == pytest.approx(10)
    assert wide.high - wide.low == pytest.approx(high - low, rel=0.08)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_bootstrap_equals_plain_loops():
    """One target, two families, with the same random numbers taken one by one."""
    rng = np.random.default_rng(5)
    spikes = rng.integers(1, 9, 6)
    a, b = rng.normal(3, 2, (3, 6)), rng.normal(1, 2, (2, 6))
    found = bootstrap([target(a, b, spikes, ("s", "r"))], seed=9, n_boot=50)
    again = np.random.default_rng(9)
    counts = again.multinomial(6, [1 / 6] * 6, size=50)
    za, zb = again.standard_normal((50, 3)), again.standard_normal((50, 2))
    chance = again.random(50)
    scores = {"a": [sum(g) / (sum(spikes) * LN2) for g in a], "b": [sum(g) / (sum(spikes) * LN2) for g in b]}
    va, vb = (np.var(scores[name], ddof=1) / len(scores[name]) for name in "ab")
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 1)
    draws = []
    for i in range(50):
        trials = [k for k in range(6) for _ in range(counts[i, k])]
        total = sum(spikes[k] for k in trials) * LN2
        scale = math.sqrt(freedom / stats.chi2.ppf(1 - chance[i], freedom))
        value = 0.0
        for sign, g, z, name in ((1, a, za[i], "a"), (-1, b, zb[i], "b")):
            n, own = len(g), scores[name]
            mean = sum(g[u][k] for u in range(n) for k in trials) / n / total
            noise = sum(z[u] * (own[u] - sum(own) / n) for u in range(n)) / math.sqrt(n * (n - 1))
            value += sign * (mean + scale * noise)
        draws.append(value)
    assert found.freedom == pytest.approx(freedom)
    np.testing.assert_allclose([found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=1e-9)


def test_two_statistics_see_the_same_draws():
    """With the same state the limits follow the statistic: twice the difference, and one more than it."""
    targets = [steady([0.2, 0.23], [0.1, 0.12], ("s", "r")) for _ in range(3)]
    plain = bootstrap(targets)
    twice, more = bootstrap(targets, lambda d: 2 * minus(d)), bootstrap(targets, lambda d: 1 + minus(d))
    assert (twice.low, twice.high) == pytest.approx((2 * plain.low, 2 * plain.high))
    assert (more.low, more.high) == pytest.approx((1 + plain.low, 1 + plain.high))


def test_limits_change_smoothly_with_the_statistic():
    """What a search for a ratio needs: a - r b has limits without jumps although its degrees of freedom change."""
    targets = [steady([0.2, 0.23], [0.1, 0.12]), steady([0.3, 0.31], [0.1, 0.15], ("s", "r"))]
    lows = [bootstrap(targets, lambda d, r=r: d["a"] - r * d["b"], n_boot=500).low for r in np.linspace(0, 4, 401)]
    assert np.abs(np.diff(lows)).max() < 0.05 * np.ptp(lows)
    assert (np.sign(lows[1:]) != np.sign(lows[:-1])).sum() == 1


def test_the_same_state_gives_the_same_interval():
    targets = [steady([0.2, 0.23], [0.1, 0.12]) for _ in range(3)]
    assert bootstrap(targets, seed=4) == bootstrap(targets, seed=4) != bootstrap(targets, seed=5)


# What is not defined --------------------------------------------------------------------------------------------------


def percent(scores: Any) -> Any:
    base = np.where(scores["b"] > 0, scores["b"], np.nan)
    return 100 * (scores["a"] - base) / base


def test_no_percent_of_a_baseline_below_zero():
    found = bootstrap([steady([0.2, 0.21], [-0.1, -0.1])], percent)
    assert math.isnan(found.mean) and math.isnan(found.low) and math.isnan(found.high) and found.reason


def test_a_draw_that_is_no_number_is_beyond_both_ends():
    draws = np.arange(1000.0)
    whole = limits(draws, 0.95)
    draws[[0, 500, 999]] = math.nan
    low, high = limits(draws, 0.95)
    assert whole[0] - 4 < low < whole[0] - 1 and whole[1] + 1 < high < whole[1] + 4
    assert all(math.isnan(end) for end in limits(np.array([math.nan] * 30 + [1.0] * 970), 0.95))


def test_draws_without_a_value_widen_the_interval():
    """A baseline that is sometimes below zero: rare draws count as beyond both ends, many leave no interval."""
    rare = bootstrap([steady([0.2, 0.2, 0.2], [0.1, 0.13, 0.07])], percent, n_boot=20_000)
    assert rare.low < 100 < rare.high and rare.reason is None
    often = bootstrap([steady([0.2, 0.2], [0.01, 0.07])], percent)
    assert math.isnan(often.low) and often.reason


def test_an_extreme_statistic_is_no_problem():
    found = bootstrap([steady([0.2, 0.23], [0.1, 0.12])], lambda d: np.maximum(d["a"], d["b"]))
    assert found.low < 0.215 < found.high


SPIKES = np.array([10, 20, 30, 5])


@pytest.mark.parametrize(
    "targets, words",
    (
        ([], "no target"),
        ([target([[math.nan] * 4], [[0.0] * 4], SPIKES)], "not finite"),
        ([target([[0.0] * 4], [[0.0] * 4], SPIKES * math.inf)], "not finite"),
        ([target([[0.0] * 4], [[0.0] * 4], SPIKES * 0)], "at least one spike"),
        ([target([[0.0] * 4], [[0.0] * 4], -SPIKES)], "at least one spike"),
        ([target([[0.0] * 3], [[0.0] * 4], SPIKES)], "one number a trial"),
        ([target(np.zeros((0, 4)), [[0.0] * 4], SPIKES)], "one or more units"),
        ([{"spikes": SPIKES, "arms": {"a": [[0.0] * 4]}, "families": {}}], "without a family"),
        ([{"spikes": SPIKES, "arms": {}, "families": {}}], "without an arm"),
        ([target([[0.0] * 4] * 2, [[0.0] * 4] * 3, SPIKES)], "equal numbers"),
    ),
)
def test_what_cannot_be_meant_is_refused(targets: list[dict[str, Any]], words: str):
    with pytest.raises(DataError, match=words):
        bootstrap(targets)


def test_draws_and_levels_are_sensible():
    with pytest.raises(DataError):
        bootstrap([steady([0.1], [0.1])], n_boot=0)
    with pytest.raises(DataError):
        bootstrap([steady([0.1], [0.1])], level=1.0)


def test_a_trial_without_spikes_may_be_drawn_alone():
    """Two trials, one silent: draws without any spike are drawn again."""
    found = bootstrap([target([[1.0, 0.0]], [[0.0, 0.0]], np.array([4, 0]))], n_boot=200)
    assert (found.low, found.high) == (pytest.approx(1 / (4 * LN2)), pytest.approx(1 / (4 * LN2)))


# How often the interval holds the truth -------------------------------------------------------------------------------


def toy_study(
    rng: np.random.Generator, n_targets: int, n_units: int, same: bool, between: float = 0.0, trial_noise: float = 1.5
):
    """Two arms that are copies: trials, trainings and (on average nothing) held-out sessions make the difference."""
    targets = []
    for _ in range(n_targets):
        spikes = rng.integers(5, 30, 30)
        shared = rng.normal(0, 20, 30)
        arms = [
            gains(0.1 + rng.normal(0, between) + rng.normal(0, 0.01, n_units), spikes)
            + shared
            + rng.normal(0, trial_noise, 30)
            for _ in "ab"
        ]
        targets.append(target(*arms, spikes, ("seeds", "seeds" if same else "shuffles")))
    return targets


@pytest.mark.parametrize(
    "n_targets, n_units, same, between",
    ((1, 2, True, 0.0), (2, 2, False, 0.0), (2, 3, True, 0.0), (3, 3, False, 0.02), (5, 3, False, 0.02)),
)
def test_the_interval_of_copies_holds_zero(n_targets: int, n_units: int, same: bool, between: float):
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng([11, seed])
        found = nested_bootstrap(toy_study(rng, n_targets, n_units, same, between), minus, rng=rng, n_boot=300)
        hits += found.low <= 0 <= found.high
    assert hits >= 0.93 * 200 - 2  # 93 % (reliability S5), less the counting error of a bootstrap of 300 draws


def test_intervals_are_not_wide_for_nothing():
    """A real difference of three standard deviations between trainings is found, five targets and three seeds."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng([12, seed])
        targets = toy_study(rng, 5, 3, False, trial_noise=0.3)
        better = [{**t, "arms": {**t["arms"], "a": t["arms"]["a"] + 0.03 * t["spikes"] * LN2}} for t in targets]
        found.append(nested_bootstrap(better, minus, rng=rng, n_boot=300).low > 0)
    assert np.mean(found) >= 0.9
