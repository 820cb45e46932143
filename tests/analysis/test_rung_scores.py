"""Leaving a rung and merging rungs on hundreds of synthetic pools whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from sessionwise.analysis import statistics
from sessionwise.analysis.rung_scores import (
    NO_SPREAD,
    OUT,
    Judged,
    Noise,
    judge,
    leaving,
    merge,
    p_equal,
    training_noise,
)

N_TRIALS = 30
SPIKES = np.full(N_TRIALS, 50.0)
UNIT = math.log(2) * 50.0  # nats of a trial for one bit per spike


def gains_of(truth, n_seeds, rng, seed_sd=0.006, trial_sd=0.02):
    """(C, S, K) gains in nats of candidates with true scores (C,), noise of trainings and of trials, bits per spike."""
    shared = rng.normal(0, 0.1, N_TRIALS)  # hard trials are hard for all
    own = rng.normal(0, trial_sd, (len(truth), 1, N_TRIALS))
    seeds = rng.normal(0, seed_sd, (len(truth), n_seeds, 1))
    return (truth[:, None, None] + shared + own + seeds) * UNIT


def left(truth, n_seeds, rng, top=3, **noise):
    judged = judge(gains_of(truth, n_seeds, rng, **noise), SPIKES, top, 300, rng=rng)
    return leaving(judged, len(truth) // 2)


def test_the_probabilities_are_those_of_draws_made_by_hand():
    """Two seeds: trials resampled jointly, seed noise pooled; here with so little of it that only trials matter."""
    rng = np.random.default_rng(0)
    truth = np.array([0.10, 0.10, 0.09, 0.02])
    gains = gains_of(truth, 2, rng, seed_sd=1e-9)
    judged = judge(gains, SPIKES, 2, 4000, rng=rng)
    mean = gains.mean(axis=1) / UNIT
    drawn = np.array([mean[:, rng.integers(N_TRIALS, size=N_TRIALS)].mean(axis=1) for _ in range(4000)])
    by_hand = (stats.rankdata(-drawn, axis=1) <= 2).mean(axis=0)
    assert judged.score == pytest.approx(mean.mean(axis=1))
    assert judged.p_top == pytest.approx(by_hand, abs=0.04) and judged.p_top.sum() == pytest.approx(2)


@pytest.mark.parametrize(("n_seeds", "seed_sd"), [(2, 0.006), (3, 0.01), (1, 0.006), (1, 0.0)])
def test_all_stay_where_nothing_differs(n_seeds, seed_sd):
    """With one seed the noise of trainings is taken as six times that of the trials: here it is 0 to 2.7 times."""
    rng = np.random.default_rng(1)
    kept = [not left(np.full(12, 0.1), n_seeds, rng, seed_sd=seed_sd).any() for _ in range(200)]
    assert np.mean(kept) >= 0.9


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_the_best_stays_and_many_leave_where_sessions_differ(n_seeds):
    rng = np.random.default_rng(2)
    best_stays, n_left = [], []
    for _ in range(200):
        truth = rng.normal(0.1, 0.03, 14)
        out = left(truth, n_seeds, rng)
        best_stays.append(not out[np.argmax(truth)])
        n_left.append(out.sum())
    assert np.mean(best_stays) >= 0.98
    assert np.mean(n_left) > 4 and max(n_left) == 7  # of 14: half stays whatever happens


def test_the_few_bad_leave_and_the_alike_good_ones_stay():
    rng = np.random.default_rng(3)
    truth = np.array([0.1] * 8 + [0.0] * 4)
    outs = np.array([left(truth, 2, rng, top=4) for _ in range(100)])
    assert outs[:, 8:].mean() > 0.95 and outs[:, :8].mean() < 0.05


def one_seed_and_a_few_twice(truth, rng, **noise):
    """Scores of one seed, and the noise of a training as four of the candidates show it with a second one."""
    gains = gains_of(truth, 2, rng, **noise)
    return gains[:, :1], training_noise(gains[::3], SPIKES)


def test_the_noise_of_trainings_is_that_of_differences_between_seeds():
    scores = np.array([[0.10, 0.14], [0.05, 0.05], [0.02, 0.04]])
    found = training_noise(scores[:, :, None] * UNIT * np.ones(N_TRIALS), SPIKES)
    assert found.freedom == 2 and found.variance == pytest.approx(np.var([0.04, 0.0, 0.02], ddof=1) / 2)
    assert (
        training_noise(np.ones((4, 1, N_TRIALS)), SPIKES) is training_noise(np.ones((1, 2, N_TRIALS)), SPIKES) is None
    )


@pytest.mark.parametrize("seed_sd", [0.002, 0.006, 0.03])
def test_a_few_second_seeds_are_enough_not_to_see_what_is_not_there(seed_sd):
    rng, found = np.random.default_rng(13), []
    for _ in range(400):
        gains, noise = one_seed_and_a_few_twice(np.full(12, 0.1), rng, seed_sd=seed_sd)
        found.append(judge(gains, SPIKES, 3, 400, rng=rng, noise=noise).p_equal)
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.09


def test_a_few_second_seeds_are_enough_to_see_what_is_large():
    """Trainings differ next to nothing; the guess without them, six times the noise of trials, hides everything."""
    rng, told, guessed = np.random.default_rng(14), [], []
    for _ in range(200):
        gains, noise = one_seed_and_a_few_twice(rng.normal(0.1, 0.006, 12), rng, seed_sd=0.001)
        told.append(judge(gains, SPIKES, 3, 400, rng=rng, noise=noise).p_equal < 0.05)
        guessed.append(judge(gains, SPIKES, 3, 400, rng=rng).p_equal < 0.05)
    assert np.mean(told) > 0.7 and np.mean(told) > np.mean(guessed) + 0.3


def test_a_known_noise_is_in_the_draws_of_every_rung_with_one_seed():
    rng = np.random.default_rng(15)
    _, rungs = rungs_of(np.linspace(0.1, 0.0, 8), [0, 1, 2], rng, seeds=(1, 1), infidelity=0.0)
    without, with_noise = (merge(rungs, SPIKES, 20000, rng=rng, noise=noise).draws for noise in (None, Noise(1e-4, 30)))
    added = with_noise.var(axis=0) - without.var(axis=0)
    expected = 1e-4 * 30 / 28  # of Student's t with 30 degrees of freedom
    assert added[:3] == pytest.approx(expected, rel=0.15)
    assert (added[3:] > expected * 0.85).all()  # and what follows for those that were moved


def test_at_least_so_many_stay_and_the_least_probable_go_first():
    judged = Judged(np.array([4.0, 3.0, 2.0, 1.0, 0.0]), np.array([1.0, 0.9, 0.0, 0.04, 0.0]), 0.001)
    assert leaving(judged, 1).tolist() == [False, False, True, True, True]
    assert leaving(judged, 3).tolist() == [False, False, True, False, True]
    assert leaving(judged, 4).tolist() == [False, False, False, False, True]  # of equal chances the lower score
    assert not leaving(judged, 5).any() and not leaving(judged, 7).any()
    undecided = Judged(judged.score, np.array([1.0, OUT, OUT, OUT, 0.0]), 0.001)
    assert leaving(undecided, 1).tolist() == [False, False, False, False, True]
    assert not leaving(Judged(judged.score, judged.p_top, NO_SPREAD), 1).any()
    assert not leaving(Judged(judged.score[:1], judged.p_top[:1], None), 0).any()


def test_the_chance_of_a_spread_is_uniform_under_equality_and_small_otherwise():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        noise = rng.normal(0, 1, 10)
        found.append(p_equal(noise, rng.normal(0, 1, (400, 10))))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert p_equal(np.arange(10.0) * 2, rng.normal(0, 1, (400, 10))) == pytest.approx(1 / 401)
    assert p_equal(np.ones(1), np.ones((5, 1))) is None


def rungs_of(truth, kept, rng, *, level=0.05, infidelity=0.004, seeds=(2, 2)):
    """Two rungs: everybody on a scale ``level`` lower, with an error of its own; ``kept`` again on the true scale."""
    names = [f"s{i:02}" for i in range(len(truth))]
    shared = rng.normal(0, 0.1, N_TRIALS)  # trials of both rungs are the same
    own = rng.normal(0, 0.02, (len(truth), 1, N_TRIALS))

    def gains(score, n_seeds):
        noise = rng.normal(0, 0.006, (len(score), n_seeds, 1))
        return (score[:, None, None] + shared + own + noise) * UNIT

    low = gains(truth - level + rng.normal(0, infidelity, len(truth)), seeds[0])
    high = gains(truth, seeds[1])
    return names, [dict(zip(names, low, strict=True)), {names[i]: high[i] for i in kept}]


def test_the_last_rung_has_its_own_scores_and_the_others_are_moved_by_the_mean_difference():
    rng = np.random.default_rng(5)
    names, rungs = rungs_of(np.linspace(0.1, 0.0, 6), [0, 2], rng)
    found = merge(rungs, SPIKES, 50, rng=rng)
    score = [{name: float(g.mean()) / UNIT for name, g in rung.items()} for rung in rungs]
    shift = np.mean([score[1][name] - score[0][name] for name in rungs[1]])
    expected = {name: score[1].get(name, score[0][name] + shift) for name in names}
    assert found.values == pytest.approx(expected) and list(found.values) == names
    alone = merge(rungs[:1], SPIKES, 50, rng=rng)
    assert alone.values == pytest.approx(score[0]) and alone.draws.shape == (50, 6)


def test_three_rungs_are_each_moved_straight_to_the_last():
    rng = np.random.default_rng(6)
    names = ["a", "b", "c", "d"]
    flat = np.ones((1, 1, N_TRIALS)) * UNIT
    one = {name: flat[0] * value for name, value in zip(names, (0.4, 0.3, 0.2, 0.1), strict=True)}
    two = {name: flat[0] * value for name, value in zip("abc", (0.6, 0.4, 0.5), strict=True)}
    three = {name: flat[0] * value for name, value in zip("ac", (1.0, 1.2), strict=True)}
    found = merge([one, two, three], SPIKES, 10, rng=rng)
    # d: 0.1 + mean(1.0 - 0.4, 1.2 - 0.2); b: 0.4 + mean(1.0 - 0.6, 1.2 - 0.5)
    assert found.values == pytest.approx({"a": 1.0, "b": 0.95, "c": 1.2, "d": 0.9})


def test_trials_are_resampled_jointly_for_all_rungs():
    """Without noise of trainings, and the same gains plus a constant on both rungs, differences do not vary."""
    rng = np.random.default_rng(7)
    gain = {name: rng.normal(0, 1, (2, N_TRIALS)).mean(axis=0, keepdims=True).repeat(2, axis=0) for name in "abcd"}
    later = {name: gain[name] + 3.0 for name in "ab"}
    drawn = merge([gain, later], SPIKES, 200, rng=rng).draws
    alone = merge([{name: gain[name] + 3.0 for name in "abcd"}], SPIKES, 200, rng=np.random.default_rng(8)).draws
    assert np.cov(drawn.T) == pytest.approx(np.cov(alone.T), rel=0.4, abs=0.4 * alone.var())
    same = merge([{**gain, "c": gain["a"]}, later], SPIKES, 200, rng=rng).draws
    assert same[:, 2] == pytest.approx(same[:, 0])  # c is a on the first rung, and moved as a was


def test_the_shift_is_resampled_with_the_trials_too():
    """c is moved by what a and b gained: on resampled trials that is the mean of one gain a trial, made by hand."""
    rng = np.random.default_rng(12)
    first = {name: rng.normal(0, 1, (2, N_TRIALS)).mean(axis=0, keepdims=True).repeat(2, axis=0) for name in "abc"}
    noise = {name: rng.normal(0, 2, N_TRIALS) for name in "ab"}
    # Both gain the same on the whole, so that sessions do not gain differently, and differently trial by trial.
    later = {name: first[name] + noise[name] - noise[name].mean() + 3.0 for name in "ab"}
    drawn = merge([first, later], SPIKES, 20000, rng=rng).draws
    moved = first["c"][0] + np.mean([later[name][0] - first[name][0] for name in "ab"], axis=0)
    assert drawn[:, 2].var() == pytest.approx(moved.var() / N_TRIALS / UNIT**2, rel=0.05)


@pytest.mark.parametrize("seeds", [(2, 2), (1, 2), (1, 3)])
@pytest.mark.parametrize("infidelity", [0.0, 0.008])
def test_draws_cover_the_truth(seeds, infidelity):
    """80 % intervals of differences from the mean, of those that were moved and of those that were not."""
    rng = np.random.default_rng(9)
    inside = {True: [], False: []}
    for _ in range(200):
        truth = rng.normal(0.1, 0.02, 12)
        kept = np.sort(np.argsort(-(truth + rng.normal(0, 0.01, 12)))[:6])
        _, rungs = rungs_of(truth, kept, rng, infidelity=infidelity, seeds=seeds)
        drawn = merge(rungs, SPIKES, 400, rng=rng).draws
        # The scores that all share (hard trials, level) are in no comparison of sessions.
        low, high = np.quantile(drawn - drawn.mean(axis=1, keepdims=True), [0.1, 0.9], axis=0)
        hit = (low <= truth - truth.mean()) & (truth - truth.mean() <= high)
        for i in range(12):
            inside[i in kept].append(hit[i])
    assert 0.74 <= np.mean(inside[True]) <= 0.88 and 0.74 <= np.mean(inside[False]) <= 0.88


def test_a_shift_is_better_than_a_regression():
    """The reason for the shift: synthetic pools with a scale and an error of the first rung, the best half goes on."""
    rng = np.random.default_rng(10)
    rho = {"shift": [], "regression": []}
    for slope in (0.7, 1.0, 1.3):
        for n_kept in (4, 7):
            for _ in range(100):
                truth = rng.normal(0, 1, 14)
                low = slope * truth + rng.normal(0, 0.4, 14)
                high = truth + rng.normal(0, 0.2, 14)
                kept = np.argsort(-low)[:n_kept]
                slope_found = stats.linregress(low[kept], high[kept]).slope
                for name, by in (("shift", 1.0), ("regression", slope_found)):
                    merged = high[kept].mean() + by * (low - low[kept].mean())
                    merged[kept] = high[kept]
                    rho[name].append(statistics.spearman(merged, truth))
    assert np.mean(rho["shift"]) > np.mean(rho["regression"]) + 0.05


def test_the_same_generator_gives_the_same():
    rng = np.random.default_rng(11)
    _, rungs = rungs_of(np.linspace(0.1, 0.0, 6), [0, 2, 3], rng, seeds=(1, 2))
    one, two = (merge(rungs, SPIKES, 20, rng=np.random.default_rng(0)) for _ in range(2))
    assert one.values == two.values and (one.draws == two.draws).all()
