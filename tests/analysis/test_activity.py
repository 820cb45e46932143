"""Measures of activity against naive loops, planted populations, and what they must not depend on."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sessionwise.analysis.activity import Kernels, bootstrap_kernels, kernels, quality, similarity
from sessionwise.data.simulate import simulate_pool
from sessionwise.errors import DataError, UsageError

SMALL = hnp.array_shapes(min_dims=3, max_dims=3, min_side=4, max_side=7)
COUNTS = SMALL.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 6)))


def poisson(rate: Any, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rate, shape).astype(np.uint8)


def bumps(centres: tuple[float, ...], seed: int, n_trials: int = 150, n_bins: int = 30) -> np.ndarray:
    """Counts of 40 units that fire in a bump at one of the centres, its height changing from trial to trial."""
    rng = np.random.default_rng(seed)
    centre = np.resize(centres, 40)
    shape = np.exp(-((np.arange(n_bins)[:, None] - centre) ** 2) / 8)
    height = rng.lognormal(0, 0.5, (n_trials, 1, 1))
    return rng.poisson(0.1 + 0.4 * height * shape).astype(np.uint8)


def off_diagonal(kernel: np.ndarray) -> np.ndarray:
    return kernel[~np.eye(len(kernel), dtype=bool)]


def assert_same(a: Kernels, b: Kernels, factor: float = 1.0) -> None:
    for name in ("average", "single_trial"):
        x, y = getattr(a, name), factor * getattr(b, name)
        np.testing.assert_allclose(x, y, atol=3e-6 * max(np.abs(y).max(), 1e-3), err_msg=name)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def naive(counts: np.ndarray, trials: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels of a list of trials (repeats allowed; copies of a trial form no pair), entry by entry."""
    x = counts.astype(float)
    _, n_bins, n_units = x.shape
    rate = [x[:, :, n].mean() for n in range(n_units)]
    typical = np.mean([r for r in rate if r > 0])
    average, single = np.zeros((n_bins, n_bins)), np.zeros((n_bins, n_bins))
    for n in range(n_units):
        weight = 1 / (rate[n] ** 2 + typical**2)
        y = x[:, :, n] - x[:, :, n].mean(axis=1, keepdims=True)  # a trial centred over time: so is the average
        pairs = [(k, m) for k in trials for m in trials if k != m]
        z = x[:, :, n] - x[trials, :, n].mean(axis=0)
        for t in range(n_bins):
            for u in range(n_bins):
                average[t, u] += weight * np.mean([y[k, t] * y[m, u] for k, m in pairs])
                single[t, u] += weight * sum(z[k, t] * z[k, u] for k in trials) * len(trials) / len(pairs)
            single[t, t] -= weight * np.mean([x[k, t, n] for k in trials])
    return average, single


def test_kernels_equal_loops_over_pairs_of_trials() -> None:
    counts = poisson([0.0, 0.4, 1.0, 3.0], (5, 6, 4))
    average, single = naive(counts, list(range(5)))
    assert_same(kernels(counts), Kernels(average, single))


def test_the_average_kernel_is_the_mean_over_all_splits_into_halves() -> None:
    counts = poisson([0.5, 2.0], (6, 5, 2), seed=1)
    x = counts / np.sqrt(counts.mean(axis=(0, 1)) ** 2 + counts.mean() ** 2)
    x = x - x.mean(axis=1, keepdims=True)
    halves = [list(c) for c in combinations(range(6), 3)]
    products = [x[h].mean(axis=0) @ np.delete(x, h, axis=0).mean(axis=0).T for h in halves]
    np.testing.assert_allclose(kernels(counts).average, np.mean(products, axis=0), atol=1e-6)


def test_the_single_trial_kernel_is_the_covariance_less_poisson_variance() -> None:
    counts = poisson(1.3, (40, 5, 1), seed=2)
    expected = np.cov(counts[:, :, 0].T.astype(float)) - np.diag(counts[:, :, 0].mean(axis=0))
    np.testing.assert_allclose(kernels(counts).single_trial, expected / (2 * counts.mean() ** 2), atol=1e-6)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = bumps((8.0, 20.0), 0, n_trials=25)
    whole = kernels(counts)
    monkeypatch.setattr("sessionwise.analysis.activity._CHUNK_ENTRIES", 4000)
    assert_same(kernels(counts), whole)


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(0, 2**32 - 1))
def test_kernels_are_finite_symmetric_and_blind_to_the_order_of_trials_and_units(counts: np.ndarray, seed: int) -> None:
    rng, found = np.random.default_rng(seed), kernels(counts)
    for kernel in (found.average, found.single_trial):
        assert np.isfinite(kernel).all()
        assert (kernel == kernel.T).all()
    np.testing.assert_allclose(found.average.sum(axis=0), 0, atol=1e-4)
    assert_same(kernels(counts[rng.permutation(len(counts))][:, :, rng.permutation(counts.shape[2])]), found)


def test_shuffling_each_units_trials_changes_nothing() -> None:
    counts = bumps((8.0, 20.0), 0, n_trials=30)
    shuffled = np.random.default_rng(0).permuted(np.arange(30)[:, None].repeat(40, 1), axis=0)
    assert_same(kernels(np.take_along_axis(counts, shuffled[:, None, :], axis=0)), kernels(counts))


def test_shuffling_the_trials_of_each_bin_leaves_the_average_and_ends_single_trial_structure() -> None:
    counts = bumps((15.0,), 0, n_trials=400)
    shuffled = np.random.default_rng(0).permuted(counts, axis=0)
    found, whole = kernels(shuffled), kernels(counts)
    assert np.abs(off_diagonal(found.average - whole.average)).max() < 0.01 * np.abs(whole.average).max()
    assert np.linalg.norm(off_diagonal(found.single_trial)) < 0.35 * np.linalg.norm(off_diagonal(whole.single_trial))


def test_silent_units_and_copies_of_the_population_change_scale_alone() -> None:
    counts = bumps((8.0, 20.0), 0, n_trials=30)
    silent = np.concatenate([counts, np.zeros_like(counts[:, :, :7])], axis=2)
    assert_same(kernels(silent), kernels(counts))
    assert_same(kernels(np.concatenate([counts, counts], axis=2)), kernels(counts), factor=2)


def test_a_scaled_rate_leaves_the_average_kernel_as_it_is() -> None:
    counts = bumps((8.0, 20.0), 0, n_trials=30)
    np.testing.assert_allclose(kernels(3 * counts).average, kernels(counts).average, atol=1e-5)


def test_one_unit_of_a_high_rate_does_not_decide() -> None:
    slow, fast = bumps((8.0,), 0), np.minimum(20 * bumps((22.0,), 1)[:, :, :1], 255)
    mixed = kernels(np.concatenate([slow, fast], axis=2))
    assert similarity(mixed, kernels(slow)) > 5 * similarity(mixed, kernels(bumps((22.0,), 2)))


def test_the_diagonal_is_not_noise() -> None:
    found = kernels(poisson(0.3, (200, 20, 100)))
    variance = 100 * 0.3 / (2 * 0.3**2)  # weighted, of one trial
    assert np.abs(np.diagonal(found.average)).max() < 0.5 * variance / 200  # sqrt(2 / 100) of it is its noise
    assert np.abs(np.diagonal(found.single_trial)).max() < 0.05 * variance


# ---- similarity ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(0, 2**32 - 1))
def test_similarity_is_bounded_and_symmetric(counts: np.ndarray, seed: int) -> None:
    a, b = kernels(counts), kernels(poisson(1.0, counts.shape, seed))
    assert -1 <= similarity(a, b) <= 1
    assert similarity(a, b) == similarity(b, a)
    assert similarity(a, a) in (pytest.approx(0), pytest.approx(0.5), pytest.approx(1))  # 0 for a kernel that is flat


def test_similarity_ignores_scale_diagonals_and_what_rows_and_columns_add() -> None:
    rng = np.random.default_rng(0)
    a, b = (Kernels(*(k + k.transpose(0, 2, 1))) for k in rng.normal(size=(2, 2, 9, 9)))
    row, diagonal = rng.normal(size=9), np.diag(rng.normal(size=9))
    changed = Kernels(3 * a.average + row[:, None] + row + diagonal, 0.1 * a.single_trial - 5 + diagonal)
    assert similarity(changed, b) == pytest.approx(similarity(a, b))
    assert similarity(Kernels(-a.average, -a.single_trial), a) == pytest.approx(-1)


def test_the_alignment_is_the_correlation_of_what_an_additive_model_leaves() -> None:
    rng, n = np.random.default_rng(1), 6
    a, b = (k + k.T for k in rng.normal(size=(2, n, n)))
    pairs = list(combinations(range(n), 2))
    design = np.zeros((len(pairs), n))
    for row, pair in zip(design, pairs, strict=True):
        row[list(pair)] = 1
    x, y = (np.array([kernel[pair] for pair in pairs]) for kernel in (a, b))
    rest = [side - design @ np.linalg.lstsq(design, side, rcond=None)[0] for side in (x, y)]
    flat = np.zeros((n, n))
    expected = rest[0] @ rest[1] / np.linalg.norm(rest[0]) / np.linalg.norm(rest[1])
    assert similarity(Kernels(a, flat), Kernels(b, flat)) == pytest.approx(expected / 2)


def test_two_halves_of_a_session_are_more_alike_than_sessions_of_other_latencies() -> None:
    pool = simulate_pool(5, 0, seed=1, shift=5.0, bad_share=0.0, n_trials=160, n_units=60, rate_hz=8.0)
    halves = [[kernels(np.asarray(s.counts)[start::2]) for start in (0, 1)] for s in pool.sessions]
    alike = np.array([[similarity(a[0], b[1]) for b in halves] for a in halves])
    latency = np.stack([pool.latency_bins[s.id] for s in pool.sessions])
    apart = np.sqrt(((latency[:, None] - latency) ** 2).mean(axis=-1)) > 2
    assert apart.any(axis=1).all()
    for row, far in zip(alike, apart, strict=True):
        assert np.diagonal(alike).min() > row[far].max()
    assert alike[apart].mean() < 0.7 * np.diagonal(alike).mean()


def test_a_kernel_that_rounding_alone_keeps_from_being_flat_is_like_nothing() -> None:
    counts = np.zeros((31, 9, 7), np.uint8)
    counts[:, 4] = poisson(1.0, (31, 1, 7))[:, 0]
    found = kernels(counts)
    assert np.abs(off_diagonal(found.average)).max() > 0
    assert similarity(found, found) == 0


def test_other_bins_are_refused() -> None:
    with pytest.raises(DataError, match="5 and 6 bins"):
        similarity(kernels(poisson(1.0, (4, 5, 3))), kernels(poisson(1.0, (4, 6, 3))))


# ---- bootstrap -------------------------------------------------------------------------------------------------------


def test_a_draw_equals_loops_over_the_drawn_trials() -> None:
    counts = poisson([0.4, 1.0, 3.0], (6, 5, 3), seed=3)
    draws = bootstrap_kernels(counts, 3, np.random.default_rng(5))
    times = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=3)
    for draw, row in zip(draws, times, strict=True):
        assert_same(draw, Kernels(*naive(counts, list(np.repeat(np.arange(6), row)))))


def test_the_spread_over_draws_is_that_over_fresh_recordings() -> None:
    far = kernels(bumps((10.0, 20.0), 99))
    fresh = [similarity(kernels(bumps((8.0, 18.0), seed)), far) for seed in range(30)]
    drawn = [similarity(k, far) for k in bootstrap_kernels(bumps((8.0, 18.0), 31), 60, np.random.default_rng(0))]
    assert 0.5 < np.std(drawn) / np.std(fresh) < 2


def test_draws_without_a_pair_of_trials_are_drawn_again() -> None:
    class Stuck:
        calls = 0

        def multinomial(self, n: int, chances: np.ndarray, size: int) -> np.ndarray:
            self.calls += 1
            return np.tile([n, 0, 0, 0] if self.calls == 1 else [n - 1, 1, 0, 0], (size, 1))

    rng: Any = Stuck()
    found = bootstrap_kernels(poisson(1.0, (4, 5, 3)), 2, rng)
    assert rng.calls == 2
    assert all(np.isfinite(k.average).all() for k in found)


def test_no_draw_is_refused() -> None:
    with pytest.raises(UsageError, match="0 draws"):
        bootstrap_kernels(poisson(1.0, (4, 5, 3)), 0, np.random.default_rng(0))


# ---- quality ---------------------------------------------------------------------------------------------------------


@cache
def pool_of_good_and_bad() -> Any:
    return simulate_pool(10, 0, seed=2, bad_share=0.3, n_trials=(120, 200), n_units=60)


def test_sessions_without_signal_are_last() -> None:
    pool = pool_of_good_and_bad()
    found = {s.id: quality(np.asarray(s.counts)) for s in pool.sessions}
    assert len(pool.bad) == 3
    for name in ("signal_fraction", "reliability"):
        worst_good = min(getattr(q, name) for session, q in found.items() if session not in pool.bad)
        assert worst_good > 2 * max(getattr(found[session], name) for session in pool.bad), name


@pytest.mark.parametrize("rate", [0.02, 0.3, 2.0])
def test_pure_noise_has_no_signal_and_no_reliability(rate: float) -> None:
    found = [quality(poisson(rate, (100, 40, 30), seed)) for seed in range(8)]
    assert np.mean([q.reliability for q in found]) < 0.03
    assert np.mean([q.signal_fraction for q in found]) < 0.003


def test_drift_from_trial_to_trial_is_no_signal() -> None:
    rng = np.random.default_rng(0)
    drifting = rng.poisson(0.5 * rng.lognormal(0, 0.5, (150, 1, 30)), (150, 40, 30)).astype(np.uint8)
    assert quality(drifting).signal_fraction < 0.003
    assert quality(drifting).reliability < 0.1


def test_the_signal_fraction_is_the_planted_share_of_variance() -> None:
    time = np.arange(40)[:, None]
    rate = 0.6 * (1 + 0.8 * np.sin(2 * math.pi * time / 40 + np.arange(50)))  # (bins, units), no change over trials
    found = quality(np.random.default_rng(0).poisson(rate, (300, 40, 50)).astype(np.uint8))
    signal = 0.36 * 0.32
    assert found.signal_fraction == pytest.approx(signal / (signal + 0.6), rel=0.05)


def test_the_signal_fraction_sees_what_no_average_shows() -> None:
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * math.pi, (300, 1, 1))
    rate = 0.6 * (1 + 0.8 * np.sin(2 * math.pi * np.arange(40)[:, None] / 40 + phase))
    found = quality(rng.poisson(rate, (300, 40, 50)).astype(np.uint8))
    signal = 0.36 * 0.32
    assert found.signal_fraction == pytest.approx(signal / (signal + 0.6), rel=0.1)
    assert found.reliability > 0.4


def test_reliability_is_that_of_all_trials() -> None:
    """Spearman-Brown from the halves of few trials, against what two recordings of that many trials have in common."""
    fresh = [kernels(bumps((8.0, 18.0), seed, n_trials=24)) for seed in range(20)]
    alike = np.mean([similarity(a, b) for a, b in combinations(fresh, 2)])
    claimed = np.mean([quality(bumps((8.0, 18.0), seed, n_trials=24)).reliability for seed in range(20)])
    assert claimed == pytest.approx(alike, abs=0.08)


def test_more_trials_are_more_reliable() -> None:
    counts = bumps((8.0, 18.0), 0, n_trials=300)
    found = [quality(counts[:n]).reliability for n in (10, 40, 300)]
    assert found == sorted(found)
    assert found[-1] > 0.9


def test_what_is_counted_is_plain() -> None:
    counts = bumps((8.0,), 0, n_trials=21)
    found = quality(counts)
    assert (found.n_trials, found.n_units) == (21, 40)
    assert found.log_trials == math.log(21)
    assert found.spikes_per_bin == pytest.approx(counts.mean())
    assert quality(counts, seed=0) == found
    assert quality(counts, seed=1) != found


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_quality_is_finite_and_in_bounds(counts: np.ndarray) -> None:
    found = quality(counts, halves=3)
    assert all(math.isfinite(getattr(found, f.name)) for f in fields(found))
    assert 0 <= found.signal_fraction <= 1
    assert 0 <= found.reliability <= 1


@pytest.mark.parametrize("value", [0, 3])
def test_counts_that_never_change_have_no_signal(value: int) -> None:
    counts = np.full((10, 6, 5), value, np.uint8)
    found = quality(counts)
    assert (found.signal_fraction, found.reliability, found.spikes_per_bin) == (0, 0, value)
    assert similarity(kernels(counts), kernels(counts)) == 0


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        (np.ones((3, 9, 9), np.uint8), "3 trials"),
        (np.ones((9, 3, 9), np.uint8), "3 bins"),
        (np.ones((9, 9, 0), np.uint8), "0 units"),
        (np.ones((9, 9), np.uint8), "shape"),
        (np.ones((9, 9, 9), np.float32), "float32"),
        (np.ones((9, 9, 9), np.int64), "int64"),
    ],
)
def test_what_cannot_be_measured_is_refused(counts: np.ndarray, found: str) -> None:
    for measure in (kernels, quality):
        with pytest.raises(DataError, match=found):
            measure(counts)


def test_no_halves_are_refused() -> None:
    with pytest.raises(UsageError, match="0 halves"):
        quality(poisson(1.0, (5, 5, 5)), halves=0)
