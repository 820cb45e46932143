"""Bits per spike against the Neural Latents Benchmark's own numbers, scipy, and properties."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sessionwise.scoring import likelihood as lik


def draw(seed=0, shape=(6, 9, 4)):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1.0, 0.5, shape)
    return rates, rng.poisson(rates).astype(np.uint8)


def independent_bps(rates, counts, null=None):
    """Eq. 1 with scipy's Poisson, one entry at a time."""
    null = counts.reshape(-1, counts.shape[-1]).mean(axis=0) if null is None else null
    total = 0.0
    for (k, t, n), x in np.ndenumerate(counts):
        total += stats.poisson.logpmf(x, max(rates[k, t, n], 1e-9)) - stats.poisson.logpmf(x, max(null[n], 1e-9))
    return total / (counts.sum() * math.log(2))


def test_golden_values_of_the_neural_latents_benchmark(real_data):
    cases = json.loads((real_data / "bits_per_spike_nlb.json").read_text())["cases"]
    assert len(cases) == 4
    for case in cases:
        rates, counts = np.array(case["rates"], float), np.array(case["counts"])
        by_unit = [np.nan if value is None else value for value in case["bps_per_unit"]]
        assert lik.bits_per_spike(rates, counts) == pytest.approx(case["bps"], abs=1e-9)
        np.testing.assert_allclose(lik.bits_per_spike_by_unit(rates, counts), by_unit, atol=1e-9)
        mean, left_out = lik.bits_per_spike_unit_mean(rates, counts)
        assert (mean, left_out) == (pytest.approx(case["bps_unit_mean"], abs=1e-9), case["units_left_out"])


def test_equals_an_independent_formula():
    rates, counts = draw()
    rates[0, 0, 0] = 0.0
    assert lik.bits_per_spike(rates, counts) == pytest.approx(independent_bps(rates, counts), abs=1e-9)
    null = np.array([0.1, 0.5, 1.0, 0.2])
    assert lik.bits_per_spike(rates, counts, null) == pytest.approx(independent_bps(rates, counts, null), abs=1e-9)


def test_numpy_and_torch_agree():
    rates, counts = draw(1)
    tensors = torch.from_numpy(rates), torch.from_numpy(counts)
    assert lik.bits_per_spike(*tensors) == pytest.approx(lik.bits_per_spike(rates, counts), abs=1e-12)
    np.testing.assert_allclose(lik.null_rates(tensors[1]).numpy(), lik.null_rates(counts))


def test_the_null_model_scores_exactly_zero():
    _, counts = draw(2)
    assert lik.bits_per_spike(np.broadcast_to(lik.null_rates(counts), counts.shape), counts) == 0.0


def test_input_is_never_changed():
    rates, counts = draw(3)
    rates[0] = 0.0
    kept = rates.copy(), counts.copy()
    lik.bits_per_spike(rates, counts)
    lik.bits_per_spike_unit_mean(rates, counts)
    assert (rates == kept[0]).all() and (counts == kept[1]).all()


def test_order_of_trials_and_units_does_not_matter():
    rates, counts = draw(4)
    trials, units = np.random.default_rng(0).permutation(6), np.random.default_rng(1).permutation(4)
    shuffled = rates[trials][:, :, units], counts[trials][:, :, units]
    assert lik.bits_per_spike(*shuffled) == pytest.approx(lik.bits_per_spike(rates, counts), abs=1e-12)


def test_silent_units_stay_in_the_pool_and_are_counted_out_of_the_mean():
    rates, counts = draw(5)
    counts[:, :, 2] = 0
    alone, n = lik.bits_per_spike_unit_mean(rates[:, :, [0, 1, 3]], counts[:, :, [0, 1, 3]])
    assert lik.bits_per_spike_unit_mean(rates, counts) == (pytest.approx(alone), 1) and n == 0
    worse = rates.copy()
    worse[:, :, 2] += 1.0  # rate given to a silent unit costs in the pooled score
    assert lik.bits_per_spike(worse, counts) < lik.bits_per_spike(rates, counts)


def test_no_spikes_at_all_is_nan_not_a_number():
    assert math.isnan(lik.bits_per_spike(np.ones((2, 3, 1)), np.zeros((2, 3, 1), int)))


def test_training_null_keeps_silent_units_above_zero():
    counts = np.zeros((4, 5, 2), int)
    counts[0, 0, 0] = 3
    np.testing.assert_allclose(lik.training_null_rates(counts), [3.5 / 20, 0.5 / 20])


def test_oracle_rates_reach_the_analytic_value():
    """For Poisson counts the expected gain of the true rates over the mean rate is sum r log(r / mean)."""
    rng = np.random.default_rng(6)
    rates = np.broadcast_to(rng.gamma(2.0, 0.3, (1, 40, 3)), (4000, 40, 3))
    counts = rng.poisson(rates)
    mean = rates.mean(axis=(0, 1))
    expected = (rates * np.log(rates / mean)).sum() / (rates.sum() * math.log(2))
    assert lik.bits_per_spike(rates, counts) == pytest.approx(expected, abs=0.004)
