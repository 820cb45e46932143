"""The evaluation of a model against likelihoods computed from its own rates, entry by entry."""

import math

import numpy as np
import pytest
import torch

from sessionwise.errors import DataError
from sessionwise.model.masking import fold_of_bins, tail_mask
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.scoring import evaluate
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
    np.testing.assert_allclose(both.gain, (one.gain + two.gain) / 2, atol=1e-5)  # the batches are others
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
    """A predictor that is no NDT: it knows the rates (K, T, N) of every trial, by its counts."""

    device = torch.device("cpu")

    def __init__(self, rates, counts, objective="masked_causal"):
        self.rates, self.objective = torch.from_numpy(rates), objective
        self.trial = {trial.tobytes(): k for k, trial in enumerate(counts)}
        assert len(self.trial) == len(counts)
        self.asked = np.zeros(counts.shape[:2], int)
        self.calls = 0

    def log_rates_at(self, bins, counts, masked, session_id):
        assert session_id == "a" and masked.shape == bins.shape == counts.shape[:2]
        assert torch.equal(masked, bins if self.objective == "masked_causal" else torch.zeros_like(bins))
        trials = [self.trial[trial.numpy().tobytes()] for trial in counts]
        np.add.at(self.asked, trials, bins.numpy())
        self.calls += 1
        return self.rates[trials][bins].log().float()


def known(shape=(61, 8, 5), objective="masked_causal", dtype=np.uint8):
    rng = np.random.default_rng(3)
    rates = rng.gamma(2.0, 0.4, shape)
    rates[1, 2, 3] = 0.0
    counts = rng.poisson(rates).astype(dtype)
    counts[:, :, -1] = 0  # a silent unit; the model still gives it a rate
    return Known(rates, counts, objective), counts


def plain_score(log_rates, counts, times, null, draws):
    """Every sum of an evaluation, one trial, bin and unit after another, by the definition of the gain.

    times: (K, T) how often each bin is scored.
    """
    K, T, N = counts.shape
    sums = {"": np.zeros((2, K)), "unit_": np.zeros((2, 2, N)), "bin_": np.zeros((2, T))}
    for k in range(K):
        for t in range(T):
            for n in range(N):
                log_rate, floor = max(log_rates[k, t, n], math.log(1e-9)), max(null[n], 1e-9)
                x = float(counts[k, t, n])
                gain = x * (log_rate - math.log(floor)) - (math.exp(log_rate) - floor)
                share = np.array([gain, x]) * times[k, t] / draws
                sums[""][:, k] += share
                sums["unit_"][:, k % 2, n] += share
                sums["bin_"][:, t] += share
    return {f"{by}{name}": sums[by][i] for by in sums for i, name in enumerate(("gain", "spikes"))}


def assert_equal_sums(found, expected, rtol=1e-6):
    for name, value in expected.items():
        if name.endswith("spikes"):
            np.testing.assert_array_equal(getattr(found, name), value)
        else:  # single terms are of 32 bits, sums of 64
            np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=rtol * np.abs(value).max())


@pytest.mark.parametrize("at_once", [(1, 10**6, 1), (7, 10**6, 33), (10**6, 8 * 5 * 4, 10**6), (32, 2**22, 2**17)])
@pytest.mark.parametrize("given", [None, np.array([0.7, 0.2, 0.0, 1.5, 0.01])])
@pytest.mark.parametrize("what", ["folds", "draws", "next_step", "tail"])
def test_every_sum_is_that_of_a_plain_loop(monkeypatch, what, given, at_once):
    """However many pairs, counts and terms are handled at once; no such number divides the 61 trials."""
    monkeypatch.setattr(evaluate, "_ON_CPU", evaluate._AtOnce(*at_once))
    predictor, counts = known(objective="next_step" if what == "next_step" else "masked_causal")
    draws = 2 if what == "draws" else 1
    scorer = Scorer("a", counts, np.arange(61), 61, EvaluationSettings(tail=3, fold_draws=draws), given)
    found = scorer.tail(predictor) if what == "tail" else scorer.forward_prediction(predictor)
    times = np.full(counts.shape[:2], draws)
    if what == "tail":
        times[:, :-3] = 0
    assert (predictor.asked == times).all()
    null = lik.null_rates(counts[:, -3:] if what == "tail" else counts) if given is None else given
    log_rates = predictor.rates.log().float().double().numpy()
    assert_equal_sums(found, plain_score(log_rates, counts, times, null, draws))


def test_how_much_is_done_at_once_moves_no_sum(monkeypatch):
    predictor, counts = known()
    scores = []
    for at_once in ((1, 10**6, 1), (7, 10**6, 33), (32, 2**22, 2**17)):
        monkeypatch.setattr(evaluate, "_ON_CPU", evaluate._AtOnce(*at_once))
        scores.append(Scorer("a", counts, np.arange(61), 61, SETTINGS).forward_prediction(predictor))
    for other in scores[1:]:
        np.testing.assert_allclose(other.gain, scores[0].gain, rtol=1e-12)
        np.testing.assert_allclose(other.unit_gain, scores[0].unit_gain, rtol=1e-12)


def test_a_trial_goes_through_the_model_under_all_its_masks_at_once():
    predictor, counts = known()
    Scorer("a", counts, np.arange(61), 61, SETTINGS).forward_prediction(predictor)
    assert predictor.calls == 2 * 3  # 31 and 30 trials of the halves, three masks each, at most 32 pairs a call


@pytest.mark.parametrize("shape", [(1, 8, 5), (3, 2, 5), (5, 8, 1)])
def test_the_smallest_of_everything_is_scored(shape):
    """One trial has one half; two bins leave a third fold empty."""
    K, T, _ = shape
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, shape).astype(np.uint8)
    counts[:, 0, 0] += 1 + np.arange(K, dtype=np.uint8)
    predictor = Known(rng.gamma(2.0, 0.4, shape), counts)
    found = Scorer("a", counts, np.arange(K), K, SETTINGS).forward_prediction(predictor)
    log_rates = predictor.rates.log().float().double().numpy()
    assert_equal_sums(found, plain_score(log_rates, counts, np.ones((K, T)), lik.null_rates(counts), 1))


def test_the_same_model_gives_the_same_bytes(case):
    model, counts, rows = case
    scorer = Scorer("a", counts, rows, 100, SETTINGS)
    first, tail, again = scorer.forward_prediction(model), scorer.tail(model), scorer.forward_prediction(model)
    fresh = Scorer("a", counts, rows, 100, SETTINGS).forward_prediction(model)
    assert tail.bps != first.bps
    for name in ("gain", "unit_gain", "bin_gain", "spikes", "unit_spikes", "bin_spikes"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes() == getattr(fresh, name).tobytes()


def test_both_objectives_of_one_scorer_stay_apart():
    """What is kept between validations belongs to the masks it was made for."""
    masked, counts = known()
    next_step, _ = known(objective="next_step")
    scorer = Scorer("a", counts, np.arange(61), 61, EvaluationSettings(fold_draws=2))
    first, second = scorer.forward_prediction(masked), scorer.forward_prediction(next_step)
    np.testing.assert_allclose(first.gain, second.gain, rtol=1e-9)  # the same rates, however often they are asked for
    assert (masked.asked == 2).all() and (next_step.asked == 1).all()


def test_an_infinite_rate_is_no_number_to_be_averaged_away():
    predictor, counts = known()
    predictor.rates[0, 0, 0] = np.inf
    found = Scorer("a", counts, np.arange(61), 61, SETTINGS).forward_prediction(predictor)
    assert not math.isfinite(found.bps)
    predictor.rates[0, 0, 0] = np.nan
    assert math.isnan(Scorer("a", counts, np.arange(61), 61, SETTINGS).forward_prediction(predictor).bps)


def test_predictions_are_left_as_they_are():
    """A predictor may answer with what it keeps."""
    predictor, counts = known((4, 8, 5))
    kept = torch.full((1, 5), -30.0)  # below the floor
    predictor.log_rates_at = lambda bins, counts, masked, session_id: kept.expand(int(bins.sum()), 5)
    Scorer("a", counts, np.arange(4), 4, SETTINGS).forward_prediction(predictor)
    assert (kept == -30).all()


def test_counts_of_16_bits_score_as_those_of_8():
    (predictor, small), (other, large) = known(), known(dtype=np.uint16)
    one, two = (Scorer("a", x, np.arange(61), 61, SETTINGS) for x in (small, large))
    assert one.forward_prediction(predictor).gain.tobytes() == two.forward_prediction(other).gain.tobytes()
