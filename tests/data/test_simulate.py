"""Simulated sessions: the rates are what they claim, and the closeness is really one in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sessionwise.data.session import Session
from sessionwise.data.simulate import (
    AREAS,
    CALIBRATION,
    OracleRates,
    SimulatedPool,
    calibrated_counts,
    read_truth,
    simulate_pool,
    write_truth,
)
from sessionwise.data.store import SessionStore, create_store
from sessionwise.errors import UsageError
from sessionwise.io.files import read_json, write_json

SMALL: dict[str, Any] = {"n_trials": 120, "n_units": 30, "rate_hz": 8.0}


@pytest.fixture(scope="module")
def pool() -> SimulatedPool:
    """Twelve sessions in the pool, one of five bad, and two held out."""
    return simulate_pool(12, 2, seed=3, **SMALL)


def good_ids(pool: SimulatedPool) -> list[str]:
    return [s.id for s in pool.sessions if s.id not in pool.bad and s.id not in pool.heldout]


def bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Poisson bits per spike over each unit's mean rate, from scipy's log probabilities."""
    null = np.broadcast_to(counts.mean(axis=(0, 1)), counts.shape)
    seen = np.broadcast_to(counts.any(axis=(0, 1)), counts.shape)
    gain = stats.poisson.logpmf(counts[seen], rates[seen]) - stats.poisson.logpmf(counts[seen], null[seen])
    return float(gain.sum() / counts.sum() / np.log(2))


# ---- what a session looks like


def test_sessions_carry_ids_areas_subjects_and_columns(pool: SimulatedPool) -> None:
    assert [s.id for s in pool.sessions] == [f"sim-{i:02d}" for i in range(12)] + ["sim-heldout-0", "sim-heldout-1"]
    assert pool.heldout == ("sim-heldout-0", "sim-heldout-1")
    subjects = {s.subject for s in pool.sessions if s.id not in pool.heldout}
    assert len(subjects) == 4 and subjects.isdisjoint({s.subject for s in pool.sessions if s.id in pool.heldout})
    for session in pool.sessions:
        assert session.counts.shape[1:] == (50, 30) and session.window_s == (-0.2, 0.8) and session.bin_s == 0.02
        assert session.areas is not None and set(session.areas) <= set(AREAS)
        assert set(session.trial_columns) == {"stimulus_side", "contrast", "choice", "reward", "trial_start_s"}
        assert np.diff(session.trial_columns["trial_start_s"]).min() >= 1.0  # windows of 1 s never overlap


def test_reward_means_that_choice_and_side_agree(pool: SimulatedPool) -> None:
    columns = pool.sessions[0].trial_columns
    assert np.array_equal(columns["reward"] == 1, columns["stimulus_side"] == columns["choice"])


def test_bad_sessions_have_the_share_asked_for_and_a_quarter_of_the_trials() -> None:
    pool = simulate_pool(15, 2, bad_share=0.2, **SMALL)
    assert len(pool.bad) == 3 and not set(pool.bad) & set(pool.heldout)
    assert {s.n_trials for s in pool.sessions if s.id in pool.bad} == {30}
    assert {s.n_trials for s in pool.sessions if s.id not in pool.bad} == {120}
    assert simulate_pool(5, 1, bad_share=0.0, **SMALL).bad == ()


def test_sizes_are_drawn_from_a_range() -> None:
    pool = simulate_pool(12, 0, bad_share=0.0, n_trials=(40, 60), n_units=(10, 12), rate_hz=(4.0, 8.0))
    trials, units = {s.n_trials for s in pool.sessions}, {s.n_units for s in pool.sessions}
    assert trials <= set(range(40, 61)) and len(trials) > 4
    assert units <= {10, 11, 12} and len(units) > 1


# ---- rates and counts


def test_mean_rate_is_the_one_asked_for(pool: SimulatedPool) -> None:
    rates = [s.counts.mean() / 0.02 for s in pool.sessions]
    assert np.mean(rates) == pytest.approx(8.0, rel=0.05)
    assert np.allclose(rates, 8.0, rtol=0.25)


def test_oracle_rates_explain_the_counts_as_poisson(pool: SimulatedPool) -> None:
    for session in pool.sessions[:4]:
        rates = pool.oracle[session.id]
        assert rates.shape == session.counts.shape and rates.dtype == np.float32
        pearson = (session.counts - rates) / np.sqrt(rates)
        n = pearson.size
        assert abs(pearson.mean()) < 4 / np.sqrt(n)
        assert abs((pearson**2).mean() - 1) < 4 * np.sqrt((2 + (1 / rates).mean()) / n)


def test_oracle_bits_per_spike_are_the_analytic_expectation(pool: SimulatedPool) -> None:
    """E[sum(y log(r / r0) - (r - r0))] = sum(r log(r / r0) - r + r0), with variance sum(r log(r / r0)^2)."""
    session = pool.sessions[0]
    rates = pool.oracle[session.id].astype(float)
    null = rates.mean(axis=(0, 1))
    expected = (rates * np.log(rates / null)).sum()
    sd = np.sqrt((rates * np.log(rates / null) ** 2).sum())
    counts = session.counts.astype(float)
    fixed = np.broadcast_to(null, counts.shape)
    measured = (stats.poisson.logpmf(counts, rates) - stats.poisson.logpmf(counts, fixed)).sum()
    assert abs(measured - expected) < 4 * sd
    assert expected > 20 * sd
    analytic = expected / rates.sum() / np.log(2)
    assert bits_per_spike(session.counts, rates) == pytest.approx(analytic, abs=0.02)


def test_bad_sessions_are_unmodulated(pool: SimulatedPool) -> None:
    assert pool.bad
    for name in pool.bad:
        rates = pool.oracle[name]
        assert np.array_equal(rates, np.broadcast_to(rates[0, 0], rates.shape))
    good = pool.oracle[good_ids(pool)[0]]
    assert good.std(axis=(0, 1)).min() > 0


def test_oracle_of_some_trials_is_a_part_of_the_whole(pool: SimulatedPool) -> None:
    assert isinstance(pool.oracle, OracleRates) and len(pool.oracle) == 14
    assert np.array_equal(pool.oracle.trials("sim-00", slice(5, 9)), pool.oracle["sim-00"][5:9])


def test_the_past_of_a_trial_predicts_its_future(pool: SimulatedPool) -> None:
    """The true rates, which know each trial's amplitudes, beat the trial average by far."""
    session = next(s for s in pool.sessions if s.id == pool.heldout[0])
    counts = session.counts.astype(float)
    train, test = np.arange(120) % 4 > 0, np.arange(120) % 4 == 0
    average = np.broadcast_to(counts[train].mean(axis=0) + 1e-3, counts.shape)
    true_rates = pool.oracle[session.id].astype(float)
    assert bits_per_spike(counts[test], true_rates[test]) > bits_per_spike(counts[test], average[test]) + 0.15


def test_a_ridge_on_past_counts_predicts_the_hidden_amplitudes_ahead() -> None:
    (session,) = simulate_pool(1, 0, seed=1, bad_share=0.0, n_trials=600, n_units=60, rate_hz=8.0).sessions
    counts = session.counts.astype(float)
    past = counts[:, :30].reshape(600, 6, 5, 60).sum(axis=2).reshape(600, -1)
    future = counts[:, 34:].sum(axis=1)  # four bins later, so that no bump covers both
    shuffled = past[np.random.default_rng(0).permutation(600)]
    assert explained(past, future) > 0.1
    assert abs(explained(shuffled, future)) < 0.05


def explained(x: np.ndarray, y: np.ndarray, penalty: float = 2000.0) -> float:
    """Share of the variance of y's first principal component explained by x with ridge, on the last third of trials."""
    train, test = slice(0, 400), slice(400, None)
    x, y = x - x[train].mean(axis=0), y - y[train].mean(axis=0)
    first = np.linalg.svd(y[train], full_matrices=False)[2][0]
    target = y @ first
    weights = np.linalg.solve(x[train].T @ x[train] + penalty * np.eye(x.shape[1]), x[train].T @ target[train])
    return float(1 - ((target[test] - x[test] @ weights) ** 2).sum() / (target[test] ** 2).sum())


def test_little_autocorrelation_without_the_task(pool: SimulatedPool) -> None:
    counts = next(s for s in pool.sessions if s.id in pool.bad).counts.astype(float)
    centred = counts - counts.mean(axis=(0, 1))
    lagged = (centred[:, 1:] * centred[:, :-1]).mean() / centred.var()
    assert abs(lagged) < 4 / np.sqrt(counts.size)


# ---- closeness


def test_closeness_is_the_distance_of_latencies(pool: SimulatedPool) -> None:
    """It falls with the plain distance of the latencies; with equal weights it would be that distance exactly."""
    for heldout in pool.heldout:
        target = pool.latency_bins[heldout]
        distance = [np.sqrt(np.mean((pool.latency_bins[s] - target) ** 2)) for s in good_ids(pool)]
        close = [pool.closeness[heldout][s] for s in good_ids(pool)]
        assert stats.spearmanr(close, distance).statistic < -0.9
        assert np.allclose(-np.array(close), distance, rtol=0.4)


def test_bad_sessions_are_farther_than_all_others(pool: SimulatedPool) -> None:
    for row in pool.closeness.values():
        assert set(row) == {s.id for s in pool.sessions} - set(pool.heldout)
        assert max(row[s] for s in pool.bad) < min(row[s] for s in good_ids(pool))


def test_without_shift_all_good_sessions_are_equally_close() -> None:
    pool = simulate_pool(10, 2, shift=0.0, **SMALL)
    for row in pool.closeness.values():
        assert {row[s] for s in good_ids(pool)} == {0.0}
        assert {row[s] for s in pool.bad} == {-5.0}


def test_shift_scales_the_distances() -> None:
    """Twice the shift doubles each distance as long as no bump meets the border of a long window."""
    near, far = (simulate_pool(6, 1, shift=shift, bad_share=0.0, n_bins=200, **SMALL) for shift in (2.0, 4.0))
    for name, value in near.closeness[near.heldout[0]].items():
        assert far.closeness[far.heldout[0]][name] == pytest.approx(2 * value, rel=0.05)


def temporal_kernel(session: Session) -> np.ndarray:
    """Time x time second moment of the population, diagonal out, norm 1: needs no matching of units, and no linear
    stitcher that keeps distances changes it."""
    rates = session.counts.mean(axis=(0, 1))
    activity = np.moveaxis((session.counts - rates) / np.sqrt(rates + 0.01), 1, 0).reshape(session.n_bins, -1)
    kernel = activity @ activity.T
    np.fill_diagonal(kernel, 0.0)
    return kernel / np.linalg.norm(kernel)


def kernel_similarity(pool: SimulatedPool) -> np.ndarray:
    """Similarity of each pool session's kernel to the held-out session's."""
    *kernels, target = [temporal_kernel(s) for s in pool.sessions]
    return np.array([(kernel * target).sum() for kernel in kernels])


def test_closeness_is_visible_in_the_time_course_of_the_counts_only_with_shift() -> None:
    strong, weak = [], []
    for seed in range(4):
        size: dict[str, Any] = {"bad_share": 0.0, "n_trials": 200, "n_units": 60, "rate_hz": 8.0, "seed": seed}
        shifted, still = (simulate_pool(16, 1, shift=shift, **size) for shift in (5.0, 0.0))
        truth = list(shifted.closeness["sim-heldout-0"].values())
        strong.append(stats.spearmanr(kernel_similarity(shifted), truth).statistic)
        weak.append(stats.spearmanr(kernel_similarity(still), truth).statistic)
    assert min(strong) > 0.4 and np.mean(strong) > 0.6
    assert abs(np.mean(weak)) < 0.3


# ---- the same bytes


def same(a: SimulatedPool, b: SimulatedPool, ids: list[str]) -> bool:
    sessions_a, sessions_b = ({s.id: s.counts for s in pool.sessions} for pool in (a, b))
    return all(np.array_equal(sessions_a[i], sessions_b[i]) for i in ids)


def test_the_same_seed_gives_the_same_pool_and_another_seed_another() -> None:
    first, again, other = (simulate_pool(3, 1, seed=seed, **SMALL) for seed in (7, 7, 8))
    ids = [s.id for s in first.sessions]
    assert same(first, again, ids) and first.closeness == again.closeness
    assert not any(same(first, other, [i]) for i in ids)


def test_more_sessions_leave_the_earlier_ones_unchanged() -> None:
    few, many = simulate_pool(4, 1, seed=7, n_bins=10), simulate_pool(6, 2, seed=7, n_bins=10)
    assert same(few, many, [s.id for s in few.sessions])
    row = many.closeness["sim-heldout-0"]
    assert few.closeness["sim-heldout-0"] == {name: row[name] for name in few.closeness["sim-heldout-0"]}
    assert few.bad == tuple(name for name in many.bad if name in row and name < "sim-04")


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate_pool(1, 0, **SMALL)
    monkeypatch.setattr("sessionwise.data.simulate._CHUNK_ENTRIES", 7 * 50 * 30)
    parts = simulate_pool(1, 0, **SMALL)
    assert same(whole, parts, ["sim-00"])
    assert np.array_equal(whole.oracle["sim-00"], parts.oracle["sim-00"])


# ---- calibration


def test_calibrated_draws_have_the_published_medians_spreads_and_ranges() -> None:
    draws = calibrated_counts(np.random.default_rng(0), 20_000)
    for name, tolerance in (("n_trials", 0.05), ("n_units", 0.02), ("rate_hz", 0.03)):
        values, (median, log_sd, low, high) = getattr(draws, name), CALIBRATION[name]
        assert np.median(values) == pytest.approx(median, rel=tolerance)
        assert np.log(values).std() == pytest.approx(log_sd, rel=0.15)
        assert values.min() >= low and values.max() <= high
    assert abs(stats.spearmanr(draws.n_trials, draws.n_units).statistic) < 0.03


def test_unspecified_sizes_are_calibrated_ones() -> None:
    (session,) = simulate_pool(1, 0, bad_share=0.0, n_bins=10).sessions
    assert 50 <= session.n_trials <= 1146 and 418 <= session.n_units <= 1127
    assert 1.0 <= session.counts.mean() / 0.02 <= 25.0


# ---- settings that cannot be meant


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", -1),
        ("shift", -0.5),
        ("shift", float("nan")),
        ("bad_share", 1.0),
        ("n_trials", 9),
        ("n_trials", (50, 40)),
        ("n_trials", 50.5),
        ("n_units", 0),
        ("rate_hz", 0.0),
        ("rate_hz", (1.0, float("inf"))),
        ("n_bins", 4),
        ("bin_s", 0.0),
        ("window_start_s", float("inf")),
        ("jitter_bins", -1.0),
        ("n_sessions", 0),
        ("n_heldout", -1),
    ],
)
def test_impossible_settings_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(UsageError, match=setting):
        simulate_pool(**{setting: value})  # type: ignore[arg-type]


# ---- the truth beside a store


def stored(pool: SimulatedPool, folder: Path) -> SessionStore:
    store = create_store(folder)
    for session in pool.sessions:
        store.add(session)
    return store


def test_truth_comes_back_from_a_store(tmp_path: Path) -> None:
    pool = simulate_pool(5, 1, **SMALL)
    store = stored(pool, tmp_path / "store")
    assert read_truth(store.path) is None
    write_truth(store.path, pool)
    truth = read_truth(store.path)
    assert truth == {"closeness": pool.closeness, "bad": list(pool.bad), "seed": 0, "shift": 5.0}
    assert store.check() == []


def test_truth_holds_only_for_unchanged_sessions(tmp_path: Path) -> None:
    """A store with the same ids but one session of other content keeps the truth about the others."""
    pool, other = simulate_pool(4, 1, **SMALL), simulate_pool(4, 1, seed=1, **SMALL)
    changed = replace(pool, sessions=(other.sessions[0], *pool.sessions[1:]))
    store = stored(changed, tmp_path / "store")
    write_truth(store.path, pool)
    truth = read_truth(store.path)
    assert truth is not None
    assert set(truth["closeness"]["sim-heldout-0"]) == {"sim-01", "sim-02", "sim-03"}


def test_truth_of_an_unknown_version_is_not_read(tmp_path: Path) -> None:
    pool = simulate_pool(2, 1, **SMALL)
    store = stored(pool, tmp_path / "store")
    path = write_truth(store.path, pool)
    write_json(path, {**read_json(path), "schema": 99})
    assert read_truth(store.path) is None


def test_truth_about_another_heldout_session_is_none(tmp_path: Path) -> None:
    pool, other = simulate_pool(3, 1, **SMALL), simulate_pool(3, 1, seed=1, **SMALL)
    changed = replace(pool, sessions=(*pool.sessions[:-1], other.sessions[-1]))
    store = stored(changed, tmp_path / "store")
    write_truth(store.path, pool)
    assert read_truth(store.path) is None
