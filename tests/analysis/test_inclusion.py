"""Effects of inclusion against brute force, and on hundreds of synthetic pools whose effects are known."""

import numpy as np
import pytest

from sessionwise.analysis.inclusion import STRENGTHS, inclusion_effects
from sessionwise.analysis.statistics import spearman
from sessionwise.errors import DataError


def sets_of(n_pool, n_divisions, rng, n_groups=2):
    """(J, C) inclusion by repeated divisions of the pool, about a quarter of it a set, and the group of each."""
    n_sets = n_pool // max(2, -(-n_pool // 4))
    rows, groups = [], []
    for at in range(n_divisions):
        for part in np.array_split(rng.permutation(n_pool), n_sets):
            rows.append(np.isin(np.arange(n_pool), part))
            groups.append(at % n_groups)
    return np.array(rows), np.array(groups)


def by_hand(included, score, groups, penalty):
    """The penalised least squares with its levels unpenalised: effects, and the prediction of any set."""
    levels = np.equal.outer(groups, np.unique(groups)).astype(float)
    design = np.hstack([levels, included.astype(float)])
    ridge = np.diag([0.0] * levels.shape[1] + [penalty] * included.shape[1])
    found = np.linalg.solve(design.T @ design + ridge, design.T @ score)
    return found[levels.shape[1] :], design @ found


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    included, groups = sets_of(9, 10, rng)
    effect = rng.normal(0, 1, 9)
    score = included @ effect + np.array([5.0, -3.0])[groups] + rng.normal(0, 0.7, len(groups))
    return included, score, groups, effect


def scale_of(included, groups):
    centred = included - np.array([included[groups == g].mean(axis=0) for g in groups])
    return (centred**2).sum() / min(centred.shape)


def test_the_strength_is_that_of_the_smallest_error_left_out_by_refitting(problem):
    included, score, groups, _ = problem
    errors = []
    for strength in STRENGTHS:
        wrong = []
        for j in range(len(score)):
            rest = np.arange(len(score)) != j
            effects, _ = by_hand(included[rest], score[rest], groups[rest], strength * scale_of(included, groups))
            levels = {g: (score[rest] - included[rest] @ effects)[groups[rest] == g].mean() for g in (0, 1)}
            wrong.append(score[j] - levels[groups[j]] - included[j] @ effects)
        errors.append(np.mean(np.square(wrong)))
    found = inclusion_effects(included, score, score[None], groups, rng=np.random.default_rng(0))
    assert found.strength == STRENGTHS[np.argmin(errors)]
    wrong = [score[j] - np.mean(np.delete(score, j)[np.delete(groups, j) == groups[j]]) for j in range(len(score))]
    assert found.explained == pytest.approx(1 - min(errors) / np.mean(np.square(wrong)))


def test_the_effects_are_those_of_the_ridge_by_hand(problem):
    included, score, groups, _ = problem
    found = inclusion_effects(included, score, score[None], groups, rng=np.random.default_rng(0))
    effects, _ = by_hand(included, score, groups, found.strength * scale_of(included, groups))
    assert found.value == pytest.approx(effects - effects.mean())


def test_a_level_of_a_group_moves_nothing(problem):
    included, score, groups, _ = problem
    moved = score + np.array([100.0, -7.0])[groups]
    one, two = (inclusion_effects(included, s, s[None], groups, rng=np.random.default_rng(0)) for s in (score, moved))
    assert one.value == pytest.approx(two.value) and one.draws == pytest.approx(two.draws)


def test_draws_are_those_of_the_posterior_when_errors_are_independent(problem):
    """Covariance s2 (A'A + penalty)^-1 of effects with a Gaussian prior, centred; trials without noise."""
    included, score, groups, _ = problem
    drawn = np.tile(score, (60000, 1))
    found = inclusion_effects(included, score, drawn, groups, rng=np.random.default_rng(0))
    penalty = found.strength * scale_of(included, groups)
    centred = included - np.array([included[groups == g].mean(axis=0) for g in groups])
    inverse = np.linalg.inv(centred.T @ centred + penalty * np.eye(9))
    _, fitted = by_hand(included, score, groups, penalty)
    freedom = len(score) - 2 - np.trace(centred @ inverse @ centred.T)
    variance = ((score - fitted) ** 2).sum() / freedom
    centring = np.eye(9) - 1 / 9
    expected = variance * freedom / (freedom - 2) * centring @ inverse @ centring  # of Student's t
    assert np.cov(found.draws.T) == pytest.approx(expected, abs=0.03 * expected.max())
    assert found.draws.mean(axis=0) == pytest.approx(found.value, abs=0.02)


def test_noise_of_trials_goes_through_the_ridge_and_is_not_counted_twice(problem):
    included, score, groups, _ = problem
    rng = np.random.default_rng(1)
    drawn = score + rng.normal(0, 0.7, (20000, len(score)))  # all of the residual noise is the trials'
    found = inclusion_effects(included, score, drawn, groups, rng=rng)
    without = inclusion_effects(included, score, np.tile(score, (20000, 1)), groups, rng=rng)
    assert found.draws.std(axis=0) == pytest.approx(without.draws.std(axis=0), rel=0.15)


@pytest.mark.parametrize(("n_pool", "least"), [(8, 0.75), (14, 0.85), (20, 0.85)])
def test_known_effects_are_found_and_the_intervals_hold_them(n_pool, least):
    rng, rho, inside = np.random.default_rng(2), [], []
    for _ in range(100):
        included, groups = sets_of(n_pool, -(-3 * n_pool // (n_pool // -(-n_pool // 4))), rng)
        effect = rng.normal(0, 1, n_pool)
        score = included @ effect + rng.normal(0, 1.1, len(groups)) + rng.normal(0, 2, 2)[groups]
        drawn = score + rng.normal(0, 0.5, (300, len(groups)))
        found = inclusion_effects(included, score, drawn, groups, rng=rng)
        rho.append(spearman(found.value, effect))
        low, high = np.quantile(found.draws, [0.1, 0.9], axis=0)
        inside.append(np.mean((low <= effect - effect.mean()) & (effect - effect.mean() <= high)))
    assert np.mean(rho) > least and 0.7 < np.mean(inside) < 0.9


def test_where_nothing_is_added_every_interval_holds_zero_and_nothing_is_explained():
    rng, explained, inside = np.random.default_rng(3), [], []
    for _ in range(100):
        included, groups = sets_of(12, 12, rng)
        score = rng.normal(0, 1, len(groups))
        found = inclusion_effects(included, score, np.tile(score, (300, 1)), groups, rng=rng)
        low, high = np.quantile(found.draws, [0.1, 0.9], axis=0)
        inside.append(np.mean((low <= 0) & (high >= 0)))
        explained.append(found.explained)
    assert np.mean(inside) > 0.8 and np.mean(explained) < 0.1


def test_a_strong_effect_is_hardly_pulled():
    rng = np.random.default_rng(4)
    included, groups = sets_of(8, 12, rng)
    effect = np.array([10.0, 0, 0, 0, 0, 0, 0, -10.0])
    score = included @ effect + rng.normal(0, 0.1, len(groups))
    found = inclusion_effects(included, score, score[None], groups, rng=rng)
    assert found.value == pytest.approx(effect, abs=0.2) and found.explained > 0.99


def test_sets_alone_in_their_group_and_too_few_sets():
    rng = np.random.default_rng(5)
    included, _ = sets_of(6, 4, rng)
    score = rng.normal(0, 1, len(included))
    groups = np.array([0] * (len(score) - 1) + [1])
    found = inclusion_effects(included, score, score[None], groups, rng=rng)
    shorter = inclusion_effects(included[:-1], score[:-1], score[None, :-1], groups[:-1], rng=rng)
    assert found.value == pytest.approx(shorter.value) and found.explained == pytest.approx(shorter.explained)
    with pytest.raises(DataError, match="3 sets in 2 groups"):
        inclusion_effects(included[:3], score[:3], score[None, :3], np.array([0, 0, 1]), rng=rng)
