"""Fits and regressions against scipy, closed forms, plain leave-one-out loops, and planted curves."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis.inference import (
    benjamini_hochberg,
    holm,
    log_fit,
    regression,
    saturating_fit,
    spearman_screen,
)
from sessionwise.errors import DataError

TRIALS = np.array([250.0, 500, 750, 1250, 2500, 5000])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Least squares on ln(trials) ------------------------------------------------------------------------------------------


def noisy(seed: int = 0, n_groups: int = 3, sd: float = 0.004, moved: float = 0.0) -> tuple[np.ndarray, ...]:
    """Points of -0.05 + 0.03 ln(trials) with noise, and the same shift for all points of a group."""
    rng = generator(seed)
    trials, groups = np.tile(TRIALS, n_groups), np.repeat(np.arange(n_groups), len(TRIALS))
    shift = rng.normal(0, moved, n_groups)[groups]
    return trials, -0.05 + 0.03 * np.log(trials) + rng.normal(0, sd, len(trials)) + shift, groups


def test_the_line_is_scipy_s():
    trials, bps, _ = noisy()
    fit, line = log_fit(trials, bps, rng=generator(), at=20_000), stats.linregress(np.log(trials), bps)
    assert fit.slope["mean"] == pytest.approx(line.slope)
    assert fit.intercept["mean"] == pytest.approx(line.intercept)
    assert fit.r2 == pytest.approx(line.rvalue**2)
    assert fit.predicted["mean"] == pytest.approx(line.intercept + line.slope * math.log(20_000))
    assert (fit.n, fit.n_groups, fit.predicted["at"]) == (18, 0, 20_000)


def test_intervals_agree_with_the_closed_form():
    """Bootstrap of single points: near Student's interval of ordinary least squares, here and at 20,000 trials."""
    trials, bps, _ = noisy(n_groups=20)
    x, at = np.log(trials), math.log(20_000)
    fit, line = log_fit(trials, bps, rng=generator(), at=20_000, n_boot=20_000), stats.linregress(np.log(trials), bps)
    t = stats.t.ppf(0.975, len(x) - 2)
    s = np.sqrt(((bps - line.intercept - line.slope * x) ** 2).sum() / (len(x) - 2))
    spread = (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum() + 1 / len(x)
    width = {name: fit.predicted[name] - fit.predicted["mean"] for name in ("low", "high", "prediction_high")}
    assert fit.slope["high"] - fit.slope["low"] == pytest.approx(2 * t * line.stderr, rel=0.15)
    assert fit.intercept["high"] - fit.intercept["low"] == pytest.approx(2 * t * line.intercept_stderr, rel=0.15)
    assert width["high"] == pytest.approx(t * s * math.sqrt(spread), rel=0.15)
    assert width["low"] == pytest.approx(-width["high"], rel=0.1)
    assert width["prediction_high"] == pytest.approx(t * s * math.sqrt(1 + spread), rel=0.1)


def test_a_far_point_does_not_hide_its_noise():
    """Residuals are divided by sqrt(1 - leverage): the far point draws the line to itself."""
    x = np.concatenate([np.linspace(5, 6, 11), [10.0]])
    y = 0.03 * x + np.concatenate([generator(1).normal(0, 0.001, 11), [0.1]])
    fit, line = log_fit(np.exp(x), y, rng=generator(), at=300, n_boot=20_000), stats.linregress(x, y)
    rest, square = y - line.intercept - line.slope * x, ((x - x.mean()) ** 2).sum()
    room = 1 - 1 / 12 - (x - x.mean()) ** 2 / square
    error = math.sqrt(((x - x.mean()) ** 2 * rest**2 / room).sum()) / square
    assert fit.slope["high"] - fit.slope["low"] == pytest.approx(2 * stats.t.ppf(0.975, 10) * error, rel=0.04)


def test_what_moves_a_whole_group_is_counted():
    """Three curves that are shifted against each other: t with 2 degrees of freedom for where the line lies."""
    trials, bps, groups = noisy(sd=1e-5, moved=0.02)
    fit = log_fit(trials, bps, rng=generator(), at=2500, groups=groups, n_boot=20_000)
    each = [stats.linregress(np.log(TRIALS), bps[groups == g]) for g in range(3)]
    heights = [line.intercept + line.slope * math.log(2500) for line in each]
    low, high = stats.ttest_1samp(heights, 0).confidence_interval()
    assert fit.predicted["high"] - fit.predicted["low"] == pytest.approx(high - low, rel=0.08)
    alone = log_fit(trials, bps, rng=generator(), at=2500, n_boot=20_000)
    assert fit.predicted["high"] - fit.predicted["low"] > 1.5 * (alone.predicted["high"] - alone.predicted["low"])
    assert fit.n_groups == 3


def test_names_of_groups_do_not_matter():
    trials, bps, groups = noisy()
    named = [f"shuffle {g}" for g in groups]
    assert log_fit(trials, bps, rng=generator(), at=9, groups=groups) == log_fit(
        trials, bps, rng=generator(), at=9, groups=named
    )


@pytest.mark.parametrize("moved", (0.0, 0.02))
def test_the_interval_holds_the_line(moved: float):
    truth = -0.05 + 0.03 * math.log(20_000)
    hits = new = 0
    for seed in range(200):
        trials, bps, groups = noisy(seed, moved=moved)
        rng = generator(seed + 1000)
        fit = log_fit(trials, bps, rng=rng, at=20_000, groups=groups, n_boot=300).predicted
        hits += fit["low"] <= truth <= fit["high"]
        point = truth + rng.normal(0, moved) + rng.normal(0, 0.004)
        new += fit["prediction_low"] <= point <= fit["prediction_high"]
    assert hits >= 0.93 * 200 and new >= 0.90 * 200


def test_a_perfect_line_has_no_width():
    fit = log_fit(TRIALS, -0.05 + 0.03 * np.log(TRIALS), rng=generator(), at=20_000)
    assert fit.r2 == 1 and fit.slope == pytest.approx({"mean": 0.03, "low": 0.03, "high": 0.03})


@pytest.mark.parametrize("trials", ([100.0, 200.0], [100.0] * 5, []))
def test_no_line_through_too_little(trials: list[float]):
    fit = log_fit(trials, [0.1] * len(trials), rng=generator(), at=300)
    assert (fit.slope, fit.intercept, fit.predicted, fit.r2) == (None,) * 4 and fit.reason


def test_a_lone_point_at_its_own_size_does_no_harm():
    fit = log_fit([100, 100, 100, 500], [0.1, 0.12, 0.11, 0.2], rng=generator(), at=1000)
    assert fit.slope["mean"] == pytest.approx((0.2 - 0.11) / math.log(5)) and fit.slope["low"] < fit.slope["mean"]


def test_equal_scores_have_no_r2():
    fit = log_fit(TRIALS, np.full(6, 0.1), rng=generator(), at=1000)
    assert fit.r2 is None and fit.slope["mean"] == pytest.approx(0, abs=1e-12)


# Curves that level off ------------------------------------------------------------------------------------------------


def test_a_planted_power_law_is_found():
    fit = saturating_fit(TRIALS, 0.3 - 4 * TRIALS**-0.6, 20_000)
    assert fit.form == "power" and fit.r2 == pytest.approx(1, abs=1e-9)
    assert (fit.a, fit.b, fit.c) == pytest.approx((4, 0.6, 0.3), rel=1e-4)
    assert fit.predicted == pytest.approx(0.3 - 4 * 20_000**-0.6, rel=1e-5)


def test_a_planted_exponential_is_found():
    fit = saturating_fit(TRIALS, 0.3 - 0.2 * np.exp(-TRIALS / 900), 20_000)
    assert fit.form == "exponential"
    assert (fit.a, fit.b, fit.c, fit.predicted) == pytest.approx((0.2, 900, 0.3, 0.3), rel=1e-4)


def test_noise_moves_it_a_little():
    trials = np.tile(TRIALS, 3)
    fit = saturating_fit(trials, 0.3 - 4 * trials**-0.6 + generator(2).normal(0, 0.001, 18), 20_000)
    assert fit.predicted == pytest.approx(0.3 - 4 * 20_000**-0.6, abs=0.01) and fit.n == 18


@pytest.mark.parametrize(
    "curve, words",
    (
        (np.log(TRIALS), "does not level off"),
        (TRIALS, "does not level off"),
        (np.full(6, 0.2), "equal"),
        (0.1 + 4 * TRIALS**-0.6, "falls"),
        (np.array([0.0, 0.3, 0.3, 0.3, 0.3, 0.3]), "does not level off"),
    ),
)
def test_what_does_not_level_off_is_none(curve: np.ndarray, words: str):
    fit = saturating_fit(TRIALS, curve, 20_000)
    assert (fit.form, fit.a, fit.b, fit.c, fit.predicted, fit.r2) == (None,) * 6
    assert fit.reason and words in fit.reason


def test_three_sizes_are_no_curve():
    assert saturating_fit(np.tile(TRIALS[:3], 4), np.tile([0.1, 0.2, 0.22], 4), 9000).reason


# Regression on metadata -----------------------------------------------------------------------------------------------


def table(seed: int = 0, n: int = 40) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = generator(seed)
    columns = {"trials": rng.uniform(200, 900, n), "units": rng.uniform(50, 900, n)}
    return 0.1 + 2e-4 * columns["trials"] + rng.normal(0, 0.03, n), columns


def test_one_predictor_is_scipy_s():
    y, columns = table()
    found, line = regression(y, {"trials": columns["trials"]}), stats.linregress(columns["trials"], y)
    row = found.coefficients[0]
    assert found.r2 == pytest.approx(line.rvalue**2)
    assert found.r2_adjusted == pytest.approx(1 - (1 - line.rvalue**2) * 39 / 38)
    assert (row["mean"], row["p"]) == pytest.approx((line.rvalue, line.pvalue))
    reach = stats.t.ppf(0.975, 38) * line.stderr * columns["trials"].std() / y.std()
    assert (row["low"], row["high"]) == pytest.approx((line.rvalue - reach, line.rvalue + reach))


def test_two_predictors_by_the_normal_equations():
    y, columns = table()
    found = regression(y, columns)
    z = [(x - x.mean()) / x.std() for x in (*columns.values(), y)]
    design = np.column_stack(z[:2])
    line = np.linalg.solve(design.T @ design, design.T @ z[2])
    rest = z[2] - design @ line
    error = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / 37)
    for i, row in enumerate(found.coefficients):
        assert (row["name"], row["mean"]) == (list(columns)[i], pytest.approx(line[i]))
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(line[i] / error[i]), 37))
    assert found.r2 == pytest.approx(1 - rest @ rest / (z[2] @ z[2]))


def test_cross_validation_is_the_plain_loop():
    y, columns = table(n=12)
    groups = np.repeat(np.arange(4), 3)
    design = np.column_stack([np.ones(12), *columns.values()])
    error = base = 0.0
    for g in range(4):
        inside = groups != g
        line = np.linalg.lstsq(design[inside], y[inside], rcond=None)[0]
        error += ((y[~inside] - design[~inside] @ line) ** 2).sum()
        base += ((y[~inside] - y[inside].mean()) ** 2).sum()
    found = regression(y, columns, groups=[f"session {g}" for g in groups])
    assert found.r2_cross_validated == pytest.approx(1 - error / base)
    assert (found.n, found.n_groups, found.n_folds) == (12, 4, 4)


def test_noise_predicts_nothing_out_of_sample():
    """Eight columns of noise: R2 in sample is about p / (n - 1), cross-validated at or below zero."""
    inside, outside = [], []
    for seed in range(40):
        rng = generator(seed)
        found = regression(rng.normal(size=40), {f"x{i}": rng.normal(size=40) for i in range(8)})
        inside.append(found.r2)
        outside.append(found.r2_cross_validated)
    assert np.mean(inside) == pytest.approx(8 / 39, abs=0.05)
    assert np.mean(outside) < 0 and np.mean(np.array(outside) > 0.1) <= 0.05


def test_a_copied_session_is_no_new_evidence():
    """The rows of 20 sessions, each five times: in sample they fool ordinary errors, with groups they do not."""
    false = {"groups": 0, "rows": 0}
    for seed in range(150):
        rng = generator(seed)
        y, x = rng.normal(size=15), rng.normal(size=15)
        rows = np.repeat(np.arange(15), 4)
        clustered = regression(y[rows], {"x": x[rows]}, groups=rows)
        plain = regression(y[rows], {"x": x[rows]})
        false["groups"] += clustered.coefficients[0]["p"] < 0.05
        false["rows"] += plain.coefficients[0]["p"] < 0.05
        assert clustered.r2_cross_validated <= plain.r2_cross_validated + 1e-12
    assert false["groups"] <= 0.08 * 150 and false["rows"] > 0.2 * 150


def test_errors_over_groups_are_the_jackknife():
    y, columns = table(n=12)
    groups = np.repeat(np.arange(4), 3)
    found = regression(y, {"x": columns["trials"]}, groups=groups)
    z, target = ((v - v.mean()) / v.std() for v in (columns["trials"], y))
    slopes = [stats.linregress(z[groups != g], target[groups != g]).slope for g in range(4)]
    error = math.sqrt(3 / 4 * sum((slope - np.mean(slopes)) ** 2 for slope in slopes))
    row = found.coefficients[0]
    assert row["high"] - row["mean"] == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert row["p"] == pytest.approx(2 * stats.t.sf(row["mean"] / error, 2))


def test_folds_are_dealt_by_the_generator():
    y, columns = table()
    five = regression(y, columns, n_folds=5, rng=generator(1))
    assert five.n_folds == 5 and five == regression(y, columns, n_folds=5, rng=generator(1))
    assert five.r2_cross_validated != regression(y, columns, n_folds=5, rng=generator(2)).r2_cross_validated
    assert regression(y, columns, n_folds=40, rng=generator(1)).r2_cross_validated == pytest.approx(
        regression(y, columns).r2_cross_validated
    )
    for n_folds, rng in ((1, generator()), (41, generator()), (5, None)):
        with pytest.raises(DataError):
            regression(y, columns, n_folds=n_folds, rng=rng)


def test_a_constant_or_repeated_predictor_has_no_coefficient():
    y, columns = table()
    extra = {**columns, "one": np.ones(40), "twice": 2 * columns["units"] + 3}
    found, plain = regression(y, extra), regression(y, columns)
    rows = {row["name"]: row for row in found.coefficients}
    assert list(rows) == list(extra)
    assert (rows["one"]["mean"], rows["one"]["reason"]) == (None, "does not vary")
    for name in ("units", "twice"):
        assert (rows[name]["mean"], rows[name]["reason"]) == (None, "follows from other predictors")
    assert rows["trials"]["mean"] == pytest.approx(plain.coefficients[0]["mean"])
    assert rows["trials"]["p"] == pytest.approx(plain.coefficients[0]["p"])
    assert (found.r2, found.r2_adjusted) == pytest.approx((plain.r2, plain.r2_adjusted))
    assert found.r2_cross_validated == pytest.approx(plain.r2_cross_validated)


def test_too_few_rows_explain_everything_and_nothing():
    found = regression([0.1, 0.3, 0.2], {"a": [1, 2, 4], "b": [3, 1, 1]})
    assert (found.r2, found.r2_adjusted) == (None, None) and found.reason
    assert all(row["p"] is None and row["reason"] for row in found.coefficients)


def test_as_many_predictors_as_sessions_have_no_errors():
    y, columns = table(n=9)
    found = regression(y, columns, groups=np.repeat([0, 1, 2], 3))
    assert found.r2 is not None
    assert all(row["mean"] is not None and row["p"] is None and row["reason"] for row in found.coefficients)


def test_nothing_to_explain():
    found = regression(np.full(10, 0.1), {"x": np.arange(10)})
    assert (found.r2, found.r2_cross_validated) == (None, None) and found.reason == "all values are equal"
    assert regression(np.arange(10), {"x": np.ones(10)}).reason == "no predictor varies"


# The screen of single predictors --------------------------------------------------------------------------------------


def test_the_screen_is_scipy_s():
    y, columns = table()
    columns["flat"] = np.ones(40)
    rows = spearman_screen(y, columns)
    for row in rows[:2]:
        own = stats.spearmanr(y, columns[row["name"]])
        assert (row["rho"], row["p"], row["n"]) == (pytest.approx(own.statistic), pytest.approx(own.pvalue), 40)
        assert row["low"] < row["rho"] < row["high"]
    assert (rows[2]["rho"], rows[2]["p"], rows[2]["p_holm"], rows[2]["low"]) == (None,) * 4
    raw = [row["p"] for row in rows]
    assert [row["p_holm"] for row in rows] == holm(raw)
    assert [row["p_bh"] for row in rows] == benjamini_hochberg(raw)


def test_a_perfect_order_of_four_is_no_p_of_zero():
    """Two of 24 orders of four correlate perfectly with a given one."""
    y = [1.0, 2.0, 3.0, 4.0]
    perfect = [abs(stats.spearmanr(y, order).statistic) > 1 - 1e-9 for order in permutations(y)]
    assert spearman_screen(y, {"x": [2, 4, 6, 9]})[0]["p"] == pytest.approx(np.mean(perfect))


@pytest.mark.parametrize(
    "call",
    (
        lambda bad: log_fit([100, 200, bad], [0.1, 0.2, 0.3], rng=generator(), at=300),
        lambda bad: log_fit([100, 200, 300], [0.1, 0.2, bad], rng=generator(), at=300),
        lambda bad: log_fit([100, 200, 300], [0.1, 0.2, 0.3], rng=generator(), at=bad),
        lambda bad: saturating_fit([100, 200, bad], [0.1, 0.2, 0.3], 300),
        lambda bad: regression([0.1, 0.2, bad], {"x": [1, 2, 3]}),
        lambda bad: regression([0.1, 0.2, 0.3], {"x": [1, 2, bad]}),
        lambda bad: spearman_screen([0.1, 0.2, 0.3], {"x": [1, 2, bad]}),
    ),
)
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_what_is_not_finite_is_refused(call, bad: float):
    with pytest.raises(DataError, match="not finite"):
        call(bad)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(DataError, match="positive"):
        log_fit([0, 100, 200], [0.1, 0.2, 0.3], rng=generator(), at=300)
    with pytest.raises(DataError, match="equal lengths"):
        regression([0.1, 0.2, 0.3], {"x": [1, 2]})
    with pytest.raises(DataError, match="one a row"):
        log_fit([50, 100, 200], [0.1, 0.2, 0.3], rng=generator(), at=300, groups=["a"])
