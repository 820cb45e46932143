"""The evaluation of a model against likelihoods computed from its own rates, entry by entry."""

import numpy as np
import pytest
import torch

from sessionwise.errors import DataError
from sessionwise.model.masking import fold_of_bins, tail_mask
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.scoring import likelihood as lik
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer, horizon

TOY = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=2)
SETTINGS = EvaluationSettings(folds=3, tail=3)


@pytest.fixture
def case():
    model = NDT(TOY, 8, seed=0)
    model.add_session("a", 5)
    counts = np.random.default_rng(1).poisson(0.7, (70, 8, 5)).astype(np.uint8)
    rows = np.arange(3, 73)
    return model, counts, rows


def rates_under(model, counts, masked):
    with torch.no_grad():
        return model(torch.from_numpy(counts), torch.from_numpy(masked), "a").exp().double().numpy()


def test_kfold_scores_each_bin_where_it_was_masked(case):
    model, counts, rows = case
    fold = fold_of_bins("a", 100, 8, 3, 0)[rows]
    rates = np.zeros(counts.shape)
    for f in range(3):
        rates[fold == f] = rates_under(model, counts, fold == f)[fold == f]
    found = Scorer("a", counts, rows, 100, SETTINGS).forward_prediction(model)
    assert found.bps == pytest.approx(lik.bits_per_spike(rates, counts), abs=1e-5)
    assert found.bps_unit_mean == pytest.approx(lik.bits_per_spike_unit_mean(rates, counts)[0], abs=1e-5)
    null = np.broadcast_to(lik.null_rates(counts), counts.shape)
    gain = lik.poisson_log_likelihood(rates, counts) - lik.poisson_log_likelihood(null, counts)
    np.testing.assert_allclose(found.gain, gain.sum(axis=(1, 2)), atol=1e-3)
    np.testing.assert_allclose(found.unit_gain, [gain[0::2].sum((0, 1)), gain[1::2].sum((0, 1))], atol=1e-3)
    np.testing.assert_allclose(found.bin_gain, gain.sum(axis=(0, 2)), atol=1e-3)
    assert found.spikes.tolist() == counts.sum(axis=(1, 2)).tolist()


def test_tail_scores_the_last_bins_only(case):
    model, counts, rows = case
    rates = rates_under(model, counts, tail_mask(70, 8, 3))
    null = lik.null_rates(counts[:, -3:])  # of the evaluated bins (B4)
    found = Scorer("a", counts, rows, 100, SETTINGS).tail(model)
    assert found.bps == pytest.approx(lik.bits_per_spike(rates[:, -3:], counts[:, -3:], null), abs=1e-5)
    assert (found.bin_gain[:-3] == 0).all()
    ahead = [lik.bits_per_spike(rates[:, [t]], counts[:, [t]], null) for t in (5, 6, 7)]
    assert horizon(found, 3) == pytest.approx(ahead, abs=1e-5)


def test_the_tails_own_mean_is_its_null_model(case):
    """A constant prediction at the mean of the scored bins gains nothing, whatever came before them."""
    model, counts, rows = case
    late = counts.copy()
    late[:, -3:] += 2
    decode = model.stitchers_of("a").decode
    torch.nn.init.zeros_(decode.weight)
    decode.bias.data = torch.from_numpy(lik.null_rates(late[:, -3:])).float().log()
    assert Scorer("a", late, rows, 100, SETTINGS).tail(model).bps == pytest.approx(0, abs=1e-6)


def test_next_step_scores_every_bin_in_one_pass(case):
    _, counts, rows = case
    model = NDT(TOY.model_copy(update={"objective": "next_step"}), 8, seed=0)
    model.add_session("a", 5)
    rates = rates_under(model, counts, np.zeros((70, 8), bool))
    found = Scorer("a", counts, rows, 100, SETTINGS).forward_prediction(model)
    assert found.bps == pytest.approx(lik.bits_per_spike(rates, counts), abs=1e-5)


def test_more_draws_of_folds_average(case):
    model, counts, rows = case
    one, two, both = (
        Scorer("a", counts, rows, 100, EvaluationSettings(fold_seed=s, fold_draws=d)).forward_prediction(model)
        for s, d in ((0, 1), (1, 1), (0, 2))
    )
    np.testing.assert_allclose(both.gain, (one.gain + two.gain) / 2, atol=1e-9)
    np.testing.assert_allclose(both.spikes, one.spikes)


def test_training_null_is_an_option(case):
    model, counts, rows = case
    null = np.full(5, 0.4)
    found = Scorer("a", counts, rows, 100, SETTINGS, null).tail(model)
    rates = rates_under(model, counts, tail_mask(70, 8, 3))
    assert found.bps == pytest.approx(lik.bits_per_spike(rates[:, -3:], counts[:, -3:], null), abs=1e-5)


def test_evaluated_trials_without_spikes_are_refused():
    with pytest.raises(DataError, match="no spike in the evaluated trials"):
        Scorer("a", np.zeros((3, 8, 5), np.uint8), np.arange(3), 10, SETTINGS)


class Known:
    """A predictor that is no NDT: it knows the rates (K, T, N) of every trial."""

    objective, device = "masked_causal", torch.device("cpu")

    def __init__(self, rates):
        self.rates, self.seen = torch.from_numpy(rates), []

    def log_rates_at(self, bins, counts, masked, session_id):
        self.seen.append((session_id, torch.equal(bins, masked)))
        return self.rates[bins].log().float()


def test_anything_that_gives_log_rates_is_scored():
    """Known rates score what the likelihood says, in one chunk of trials and, asked for, with training's null rates."""
    rng = np.random.default_rng(3)
    rates = rng.gamma(2.0, 0.4, (60, 8, 5))
    counts, null = rng.poisson(rates).astype(np.uint8), np.full(5, 0.7)
    known = Known(rates)
    for baseline in (None, null):
        scorer = Scorer("a", counts, np.arange(60), 60, SETTINGS, baseline)
        found = scorer.forward_prediction(known)
        assert found.bps == pytest.approx(lik.bits_per_spike(rates, counts, baseline), abs=1e-5)
    assert known.seen == [("a", True)] * 6  # three folds, twice; what is scored was hidden
