"""What `recommend` makes of a climb's scores: shrunk as noise demands, on halves of the trials too, or left alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from sessionwise.study import shrinking
from sessionwise.study.shrinking import ShrunkScores

NAMES = [f"s{i}" for i in range(8)]
FACT = np.linspace(-1.0, 1.0, 8)


def climb(noise_sd, *, known=True, n=8, seed=0):
    """Scores that follow the fact, with noise of this size, measured on 40 trials; halves differ by noise too."""
    rng = np.random.default_rng(seed)
    scores = 0.2 + 0.1 * FACT[:n] + noise_sd * rng.standard_normal(n)
    half = scores + noise_sd * rng.standard_normal(n)
    draws = scores + noise_sd * rng.standard_normal((3000, n))
    values = {**dict(zip(NAMES, map(float, scores), strict=False)), "failed": None}
    on = {name: float(value) for name, value in zip(NAMES, half, strict=False)}
    return SimpleNamespace(values=values, draws=draws, noise_known=known, on=lambda trials: on, stages=[None])


@pytest.fixture(autouse=True)
def one_fact(monkeypatch):
    monkeypatch.setattr(shrinking, "_first_cores", lambda found: {})
    monkeypatch.setattr(shrinking, "free_facts", lambda target, names, cores, context: {"fact": FACT[: len(names)]})


def shrunk(found):
    return ShrunkScores("held-out", found, SimpleNamespace(settings=SimpleNamespace(split_seed=0)))


def spread(scores):
    return np.std(list(scores.values()))


def test_sure_scores_stay_and_noisy_ones_follow_the_fact():
    sure = shrunk(climb(0.001))
    assert list(sure.measured) == NAMES and sure.scores == pytest.approx(sure.measured, abs=0.002)
    noisy = shrunk(climb(0.15))
    order = [sorted(scores, key=scores.get) for scores in (noisy.scores, noisy.measured)]
    assert order[0] == NAMES != order[1]
    assert spread(noisy.scores) < spread(noisy.measured)
    assert noisy.draws.shape == (2000, 8) and noisy.draws.mean(axis=0) == pytest.approx(noisy.whole.mean, abs=0.02)


def test_on_half_of_the_trials_scores_are_shrunk_harder():
    found = shrunk(climb(0.06))
    half, measured = found.on(np.arange(40) < 20), found.climb.on(None)
    assert list(half) == NAMES
    once, twice = (found._shrunk(measured, times) for times in (1.0, 2.0))
    assert half == pytest.approx(dict(zip(NAMES, twice.mean, strict=True)))
    assert twice.kept < once.kept


def test_with_one_seed_the_noise_of_a_training_is_a_guess_beyond_the_trials():
    known, unknown = shrunk(climb(0.05)), shrunk(climb(0.05, known=False))
    assert unknown.whole.kept < known.whole.kept


def test_two_sessions_are_left_as_they_are():
    found = shrunk(climb(0.15, n=2))
    assert found.whole is None and found.scores == found.measured and found.draws is found.climb.draws
    assert found.on(np.ones(40, dtype=bool)) == found.climb.on(None)
