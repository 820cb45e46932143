"""Scores shrunk towards what facts predict: against a closed form, the truth of synthetic pools, and at the ends."""

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis import shrinkage
from sessionwise.analysis.rung_scores import Noise
from sessionwise.analysis.shrinkage import shrink
from sessionwise.errors import DataError


def generator(seed=0):
    return np.random.default_rng(seed)


def shrunk(score, facts, noise, n_seeds=2, trial_sd=0.01, seed=0, n_draws=400):
    trials = score + trial_sd * generator(1).standard_normal((2000, len(score)))
    return shrink(np.asarray(score), trials, noise, n_seeds, facts, n_draws, rng=generator(seed))


def pool(rng, n, noise_sd, by_facts, own):
    """Truth, scores and two facts of a synthetic pool; the second fact says nothing."""
    facts = {"useful": rng.standard_normal(n), "idle": rng.standard_normal(n)}
    truth = 0.3 + by_facts * facts["useful"] + own * rng.standard_normal(n)
    return truth, truth + noise_sd * rng.standard_normal(n), facts


def test_at_one_point_of_the_grid_it_is_the_regression_of_textbooks(monkeypatch):
    """Known variances: E[true | score] with the level by generalised least squares, written out by joint Gaussians."""
    n = 6
    score = generator(3).standard_normal(n)
    fact = generator(4).standard_normal(n)
    spread = score.var(ddof=1)
    monkeypatch.setattr(shrinkage, "PARTS", (0.5,))
    monkeypatch.setattr(shrinkage, "TRAINING", (1.0,))
    trials = score + 0.2 * generator(5).standard_normal((4000, n))
    found = shrink(score, trials, Noise(0.6, 5), 3, {"fact": fact}, 20_000, rng=generator())
    z = (fact - fact.mean()) / fact.std()
    own = trials - trials.mean(axis=1, keepdims=True)
    noise = np.cov(own.T) + 0.6 / 3 * np.eye(n)
    prior = 0.5 * spread * (np.outer(z, z) + np.eye(n))
    # A level of enormous variance instead of a free one.
    level = 1e5 * np.ones((n, n))
    gain = (prior + level) @ np.linalg.inv(prior + level + noise)
    np.testing.assert_allclose(found.mean, gain @ score, rtol=1e-4, atol=1e-6)
    rest = np.eye(n) - gain  # by Joseph's form, which no large numbers cancel in
    left = rest @ (prior + level) @ rest.T + gain @ noise @ gain.T
    np.testing.assert_allclose(np.cov(found.draws.T), left, atol=0.03)
    np.testing.assert_allclose(found.draws.mean(axis=0), found.mean, atol=0.02)


def test_scores_that_spread_far_more_than_noise_stay_as_they_are():
    truth, score, facts = pool(generator(1), 14, 0.0, 0.0, 1.0)
    found = shrunk(score, facts, Noise(1e-4, 13))
    np.testing.assert_allclose(found.mean, truth, atol=0.02)
    assert found.kept > 0.99


def test_scores_that_are_noise_follow_the_facts_or_nothing():
    rng, spread, rho = generator(2), [], []
    for _ in range(20):
        truth, score, facts = pool(rng, 14, 1.0, 0.0, 0.0)
        found = shrunk(score, facts, Noise(2.0, 13))
        spread.append(found.mean.std() / score.std())
    assert np.mean(spread) < 0.35  # nothing to find: all sessions nearly alike
    for _ in range(20):
        truth, score, facts = pool(rng, 14, 1.0, 1.0, 0.1)
        rho.append(stats.spearmanr(shrunk(score, facts, Noise(2.0, 13)).mean, truth)[0])
    assert np.mean(rho) > 0.8  # scores alone agree with the truth by about .7


@pytest.mark.parametrize(("noise_sd", "by_facts", "own"), [(1.0, 1.0, 0.3), (1.0, 0.7, 0.7), (0.3, 0.0, 1.0)])
@pytest.mark.parametrize("n_seeds", [1, 2])
def test_it_is_nearer_to_the_truth_and_its_intervals_hold_it(noise_sd, by_facts, own, n_seeds):
    """noise_sd is of the mean over the seeds; with one its size is guessed, from trials of half the noise."""
    rng, errors, inside = generator(7), [], []
    for _ in range(60):
        truth, score, facts = pool(rng, 12, noise_sd, by_facts, own)
        freedom = 11
        noise = Noise(n_seeds * noise_sd**2 * rng.chisquare(freedom) / freedom, freedom) if n_seeds > 1 else None
        found = shrunk(score, facts, noise, n_seeds, trial_sd=noise_sd / 2 if noise is None else 1e-3)
        centred = [side - side.mean(axis=-1, keepdims=True) for side in (found.mean, score, truth, found.draws)]
        errors.append([((side - centred[2]) ** 2).mean() for side in centred[:2]])
        low, high = np.quantile(centred[3], [0.1, 0.9], axis=0)
        inside.append(np.mean((low <= centred[2]) & (centred[2] <= high)))
    ours, measured = np.mean(errors, axis=0)
    assert ours < (0.75 if noise_sd == 1.0 else 1.05) * measured
    assert 0.7 < np.mean(inside) < 0.9


def test_units_of_facts_and_what_all_sessions_share_do_not_matter():
    _, score, facts = pool(generator(9), 10, 0.5, 0.5, 0.5)
    one = shrunk(score, facts, Noise(0.3, 9))
    other = {name: 1000 * column - 7 for name, column in facts.items()}
    same = shrunk(score, {**other, "constant": np.ones(10)}, Noise(0.3, 9))
    np.testing.assert_allclose(same.mean, one.mean, atol=1e-9)
    np.testing.assert_allclose(shrunk(score + 5, facts, Noise(0.3, 9)).mean, one.mean + 5, atol=1e-6)
    np.testing.assert_array_equal(shrunk(score, facts, Noise(0.3, 9)).draws, one.draws)


def test_without_facts_without_noise_and_equal_scores_there_is_an_answer():
    score = np.linspace(0.1, 0.2, 8)
    for noise in (None, Noise(0.0, 7), Noise(1e-3, 7)):
        for facts in ({}, {"constant": np.ones(8)}):
            for values in (score, np.full(8, 0.1)):
                found = shrunk(values, facts, noise)
                assert np.isfinite(found.mean).all() and np.isfinite(found.draws).all()
                assert 0 <= found.kept <= 1 and 0 <= found.by_facts <= 1


def test_what_cannot_be_shrunk_is_refused():
    for score, facts in (
        ([0.1, 0.2], {}),
        ([0.1, np.nan, 0.3], {}),
        ([0.1, 0.2, 0.3], {"a": np.array([1, np.inf, 0])}),
    ):
        with pytest.raises(DataError):
            shrunk(np.array(score), facts, None)
