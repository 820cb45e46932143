"""Reference predictors against closed forms: a PSTH of known rates, a planted coupling, and what they may not see."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import xlogy

from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import UsageError
from sessionwise.io.files import read_json
from sessionwise.io.tensors import read_tensors
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer
from sessionwise.training import jobs, references
from sessionwise.training.jobs import evaluate_spec, reference_spec
from sessionwise.training.presets import preset
from sessionwise.training.references import (
    GLMSettings,
    PSTHSettings,
    crossvalidated_psth,
    glm_candidates,
    history,
    own_history,
    psth_candidates,
    psth_rates,
)

SETTINGS = preset("tiny")
FEW = GLMSettings(lags=3, components=4, l2=(300.0, 30.0, 3.0), draws=3)


def rates_of(n_bins=20, n_units=6):
    """(T, N) rates of bumps at different times."""
    time, centre = np.arange(n_bins)[:, None], np.linspace(3, n_bins - 3, n_units)
    return 0.2 + 1.5 * np.exp(-(((time - centre) / 3) ** 2))


def analytic_bps(rates):
    """Bits per spike of the true rates (T, N) over each unit's mean, in expectation."""
    mean = rates.mean(axis=0)
    gain = xlogy(rates, rates / mean) - rates + mean
    return gain.sum() / (rates.sum() * np.log(2))


def coupled(n_trials, seed, n_bins=20, strength=0.8):
    """Unit 1 fires at exp(strength) times its rate after each spike of unit 0; units 2 to 5 are unrelated."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.3, (n_trials, n_bins, 6)).astype(np.uint8)
    rate = np.full((n_trials, n_bins), 0.2)
    rate[:, 1:] *= np.exp(strength * counts[:, :-1, 0])
    counts[..., 1] = rng.poisson(rate)
    return counts, rate


def store_of(folder, counts, name="a"):
    store = create_store(folder)
    store.add(make_session(name, counts, 0.02, (0.0, counts.shape[1] * 0.02)))
    return open_store(folder)


def fitted(counts, settings=FEW, objective="masked_causal", seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [c.predictor for c in glm_candidates("a", counts, settings, objective, rng)]


def score(predictor, counts):
    return Scorer("a", counts, np.arange(len(counts)), len(counts), EvaluationSettings()).forward_prediction(predictor)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Both references on a Poisson process whose rates are known, run as jobs and scored on test trials."""
    rates = rates_of()
    counts = np.random.default_rng(0).poisson(rates, (1500, *rates.shape)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("known")
    sessions, store = store_of(folder / "store", counts), RunStore(folder / "runs")
    specs = {"psth": reference_spec(sessions, "a", "psth", SETTINGS)}
    specs["glm"] = reference_spec(sessions, "a", "glm", SETTINGS, options=FEW)
    finals = {f"{name} final": evaluate_spec(sessions, "a", spec, SETTINGS) for name, spec in specs.items()}
    outcomes = execute([*specs.values(), *finals.values()], store, on="here")
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    return rates, counts, sessions, store, {**specs, **finals}


# PSTH -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["psth", "glm"])
def test_a_poisson_process_of_known_rates_scores_its_information(known, name):
    """S1: nothing but the rates can be predicted, so both come close to the analytic value, and neither beats it."""
    rates, _, _, store, specs = known
    expected = analytic_bps(rates)
    for key in (specs[name].key, specs[f"{name} final"].key):
        assert store.result(key)["bps"] == pytest.approx(expected, abs=0.015)


def test_psth_rates_by_hand():
    total = np.array([[4.0, 0.0], [8.0, 0.0]])
    np.testing.assert_allclose(psth_rates(total, 4, 0, 0), [[1, 0], [2, 0]])
    mean = np.array([12.5, 0.5]) / 8
    np.testing.assert_allclose(psth_rates(total, 4, 0, 0.25), 0.75 * np.array([[1, 0], [2, 0]]) + 0.25 * mean)
    np.testing.assert_allclose(psth_rates(total, 4, 0, 1), [mean, mean])


def test_smoothing_keeps_each_units_mean_and_spreads_a_pulse_as_a_gaussian():
    pulse = np.zeros((101, 1))
    pulse[50] = 1
    smooth = psth_rates(pulse, 1, 4.0, 0)[:, 0]
    expected = np.exp(-0.5 * ((np.arange(101) - 50) / 4.0) ** 2)
    np.testing.assert_allclose(smooth, expected / expected.sum(), atol=2e-5)
    edge = psth_rates(pulse[49:], 1, 4.0, 0)
    assert edge.sum() == pytest.approx(1) and psth_rates(pulse, 1, 1000.0, 0).std() < 1e-3


def test_few_trials_want_smoothing_and_shrinkage():
    """With 12 trials of slowly changing rates the raw PSTH is far too rough; with none of either it wins only late."""
    rates = rates_of(40, 30)
    rng = np.random.default_rng(2)
    few, many = (rng.poisson(rates, (n, *rates.shape)) for n in (12, 4000))
    for counts, rough in ((few, False), (many, True)):
        scores = {tuple(c.choice.values()): score(c.predictor, rng.poisson(rates, (60, *rates.shape)).astype(np.uint8))
                  for c in psth_candidates("a", counts, PSTHSettings())}  # fmt: skip
        best = max(scores, key=lambda choice: scores[choice].bps)
        assert (best[0] < 1) == rough and scores[0.0, 1.0].bps < scores[best].bps
    chosen = crossvalidated_psth(few, PSTHSettings())
    error = [np.square(r - rates).mean() for r in (chosen, psth_rates(few.sum(axis=0, dtype=float), 12, 0, 0))]
    assert error[0] < error[1] / 2


def test_a_unit_silent_in_training_keeps_a_rate_above_zero():
    counts = np.zeros((10, 5, 2), np.uint8)
    counts[..., 0] = 1
    (shrunk,) = psth_candidates("a", counts, PSTHSettings(smoothing=(0,), shrinkage=(1,)))
    assert shrunk.predictor.log_rates[:, 1].exp().tolist() == pytest.approx([0.01] * 5)
    assert all(bool(torch.isfinite(c.predictor.log_rates).all()) for c in psth_candidates("a", counts, PSTHSettings()))


# GLM ------------------------------------------------------------------------------------------------------------------


def test_the_glm_finds_a_planted_coupling():
    """It beats the PSTH, comes close to the true rates, and gives unit 1 alone a large answer to unit 0."""
    counts, _ = coupled(1200, seed=0)
    test, rate = coupled(300, seed=1)
    settings = GLMSettings(lags=3, components=6, l2=(10.0,), draws=4)
    (glm,) = fitted(counts, settings, "next_step")
    (psth,) = psth_candidates("a", counts, PSTHSettings(smoothing=(2,), shrinkage=(1,)))
    everything = torch.ones(300, 20, dtype=torch.bool)
    log_rates = glm.log_rates_at(everything, torch.from_numpy(test), ~everything, "a").view(300, 20, 6).double()
    correlation = np.corrcoef(log_rates[..., 1].ravel(), np.log(rate).ravel())[0, 1]
    assert correlation > 0.95
    slope = np.polyfit(np.log(rate).ravel(), log_rates[..., 1].numpy().ravel(), 1)[0]
    assert slope == pytest.approx(1, abs=0.15)
    gain = score(glm, test).unit_gain.sum(axis=0) - score(psth.predictor, test).unit_gain.sum(axis=0)
    assert gain[1] > 60 and np.abs(np.delete(gain, 1)).max() < 15
    true = (test[..., 1] * np.log(rate / rate.mean()) - rate + rate.mean()).sum()
    assert score(glm, test).unit_gain[:, 1].sum() == pytest.approx(true, rel=0.1)


def test_the_coupling_is_found_through_masks_and_scored_better_than_the_psth(tmp_path):
    counts, _ = coupled(600, seed=0)
    sessions, store = store_of(tmp_path / "store", counts), RunStore(tmp_path / "runs")
    specs = [reference_spec(sessions, "a", "psth", SETTINGS)]
    specs.append(reference_spec(sessions, "a", "glm", SETTINGS, options=FEW.model_copy(update={"components": 6})))
    finals = [evaluate_spec(sessions, "a", spec, SETTINGS) for spec in specs]
    execute([*specs, *finals], store, on="here")
    validation, test = ([store.result(spec.key)["bps"] for spec in these] for these in (specs, finals))
    assert validation[1] > validation[0] + 0.01 and test[1] > test[0] + 0.01


def test_own_past_finds_the_gain_of_a_trial():
    """Each unit's rate is a gain of the trial drawn from a gamma distribution: the best prediction is the posterior."""
    rng = np.random.default_rng(0)
    counts, test = (rng.poisson(0.4 * rng.gamma(1.0, 1.0, (n, 1, 5)), (n, 20, 5)).astype(np.uint8) for n in (800, 200))
    (glm,) = fitted(counts, GLMSettings(lags=1, components=1, l2=(10.0,)), "next_step")
    everything = torch.ones(200, 20, dtype=torch.bool)
    found = glm.log_rates_at(everything, torch.from_numpy(test), ~everything, "a").view(200, 20, 5)
    before = np.pad(test.cumsum(axis=1)[:, :-1], ((0, 0), (1, 0), (0, 0)))
    posterior = 0.4 * (before + 1) / (0.4 * np.arange(20)[:, None] + 1)
    for t in (5, 19):
        slope, _ = np.polyfit(np.log(posterior[:, t]).ravel(), found[:, t].double().numpy().ravel(), 1)
        assert slope == pytest.approx(1, abs=0.15)


def test_the_fit_is_a_stationary_point_of_the_penalised_likelihood(monkeypatch):
    """Gradient by torch's automatic differentiation of the likelihood as written down, at the answer."""
    monkeypatch.setattr(references, "_CLOSE", 0.01)
    counts, _ = coupled(200, seed=3)
    settings = GLMSettings(lags=2, components=3, l2=(20.0,), draws=1, iterations=500)
    rng = torch.Generator().manual_seed(5)
    masked = references.training_mask(200, 20, settings.mask_ratio, torch.Generator().manual_seed(5))
    (found,) = glm_candidates("a", counts, settings, "masked_causal", rng)
    weights = found.predictor.weights.clone().requires_grad_()
    glm = references.GLM(**{**vars(found.predictor), "weights": weights})
    log_rates = glm.log_rates_at(masked, torch.from_numpy(counts), masked, "a").double()
    x = torch.from_numpy(counts)[masked].double()
    share = masked.double().mean()
    loss = (log_rates.exp() - x * log_rates).sum() / share + 0.5 * 20.0 * weights.double().square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    start = references.GLM(**{**vars(found.predictor), "weights": torch.zeros_like(weights).requires_grad_()})
    log_rates = start.log_rates_at(masked, torch.from_numpy(counts), masked, "a").double()
    (at_zero,) = torch.autograd.grad((log_rates.exp() - x * log_rates).sum() / share, start.weights)
    assert gradient.norm() < 0.001 * at_zero.norm()


def test_a_strong_penalty_leaves_the_psth():
    counts, _ = coupled(100, seed=4)
    (glm,) = fitted(counts, FEW.model_copy(update={"l2": (1e9,)}))
    everything = torch.ones(100, 20, dtype=torch.bool)
    found = glm.log_rates_at(everything, torch.from_numpy(counts), ~everything, "a").view(100, 20, 6).exp()
    offset = torch.from_numpy(crossvalidated_psth(counts, FEW)).float().expand(100, 20, 6)
    np.testing.assert_allclose(found, offset, rtol=1e-3)


def test_history_by_hand():
    values = torch.tensor([[[1.0], [2.0], [3.0]]])
    masked = torch.tensor([[False, True, False]])
    expected = [[0, 0, 0, 0, 1], [0, 1, 0, 0, 1], [1, 0, 0, 1, 1]]  # component two and one bins ago; flags; 1
    assert history(values, masked, 2)[0].tolist() == expected


def test_own_history_by_hand():
    counts = torch.tensor([[[3], [7], [0]]], dtype=torch.uint8)
    rates = torch.tensor([[1.0], [5.0], [1.0]])
    seen = own_history(counts, torch.tensor([[False, True, False]]), rates)[0, :, 0]
    np.testing.assert_allclose(seen, np.log([1, 4 / 2, 4 / 2]), rtol=1e-6)
    seen = own_history(counts, torch.zeros(1, 3, dtype=torch.bool), rates)[0, :, 0]
    np.testing.assert_allclose(seen, np.log([1, 4 / 2, 11 / 7]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bins_that_are_hidden_or_to_come_change_no_prediction(dtype):
    """Protocol B6, and what masked means: other counts there, the same bits."""
    counts = coupled(60, seed=5)[0].astype(dtype)
    glm = fitted(counts)[-1]
    masked = torch.from_numpy(np.random.default_rng(0).random((60, 20)) < 0.3)
    for t in (0, 1, 7, 19):
        bins = torch.zeros(60, 20, dtype=torch.bool)
        bins[:, t] = True
        before = glm.log_rates_at(bins, torch.from_numpy(counts), masked, "a")
        other = counts.copy()
        other[:, t:] = 9
        other[masked.numpy()] = 5
        assert torch.equal(glm.log_rates_at(bins, torch.from_numpy(other), masked, "a"), before)
        if t:
            other[:, t - 1] = 9
            seen = masked.clone()
            seen[:, t - 1] = False
            assert not torch.equal(glm.log_rates_at(bins, torch.from_numpy(other), seen, "a"), before)


def test_log_rates_come_in_the_order_of_the_bins(known):
    _, counts, _, store, specs = known
    x = torch.from_numpy(counts[:3])
    masked = torch.zeros(3, 20, dtype=torch.bool)
    bins = torch.from_numpy(np.random.default_rng(0).random((3, 20)) < 0.4)
    for name in ("psth", "glm"):
        predictor = jobs.load_predictor(store, specs[name].key)
        whole = predictor.log_rates_at(~masked, x, masked, "a").view(3, 20, -1)
        np.testing.assert_allclose(predictor.log_rates_at(bins, x, masked, "a"), whole[bins], rtol=1e-4)
        with pytest.raises(UsageError, match="session b: has no rates in this predictor"):
            predictor.log_rates_at(bins, x, masked, "b")


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_result_holds_the_scores_of_a_baseline(known):
    _, _, sessions, store, specs = known
    for name in ("psth", "glm"):
        result, folder = store.result(specs[name].key), store.folder(specs[name].key)
        wanted = {"bps", "bps_unit_mean", "units_left_out", "bps_tail", "bps_tail_unit_mean", "tail_bins", "horizon"}
        wanted |= {"cross_fitted", "best_bps", "steps", "tokens", "train_trials", "environment", "state", "reason"}
        assert wanted <= set(result) and result["cross_fitted"] and result["train_trials"] == 1200
        found = read_tensors(folder / "validation.safetensors")
        total = found["spikes"].sum() * np.log(2)
        candidates = read_json(folder / "candidates.json")
        assert [entry["bps"] for entry in candidates] == pytest.approx(found["gain"].sum(axis=1) / total)
        assert result["best_bps"] == max(entry["bps"] for entry in candidates) >= result["bps"]
        assert result["bps"] == pytest.approx(found["crossfit_gain"].sum() / total)
        data = sessions.load("a", 0)
        kept = jobs.load_predictor(store, specs[name].key)
        scorer = jobs.scorer(data, "validation", EvaluationSettings())
        assert scorer.forward_prediction(kept).bps == pytest.approx(result["best_bps"], abs=1e-12)
        assert scorer.tail(kept).bps == pytest.approx(result["bps_tail"], abs=1e-12)
        with pytest.raises(UsageError, match="is a reference predictor"):
            jobs.load_trained(store, specs[name].key)


def test_the_penalty_of_a_trial_is_chosen_on_the_other_half(known):
    _, _, _, store, specs = known
    found = read_tensors(store.folder(specs["psth"].key) / "validation.safetensors")
    for half in (0, 1):
        best = found["gain"][:, half::2].sum(axis=1).argmax()
        assert found["crossfit_gain"][1 - half :: 2].tolist() == found["gain"][best, 1 - half :: 2].tolist()


def test_other_test_trials_the_same_run_and_bytes_and_twice_the_same(known, tmp_path):
    """S2: garbage in the test trials changes neither key nor bytes of a reference; nor does doing it again."""
    _, counts, sessions, store, specs = known
    garbage, rows = counts.copy(), make_split("a", sessions.session("a").trial_ids, 0).test
    garbage[rows] = np.random.default_rng(9).poisson(3.0, garbage[rows].shape)
    changed, other = store_of(tmp_path / "store", garbage), RunStore(tmp_path / "runs")
    for name, options in (("psth", None), ("glm", FEW)):
        spec = reference_spec(changed, "a", name, SETTINGS, options=options)
        assert spec.key == specs[name].key
        execute([spec], other, on="here")
        assert read_json(other.folder(spec.key) / "result.json") == store.result(spec.key)
        for path in store.folder(spec.key).glob("*.*"):
            assert (other.folder(spec.key) / path.name).read_bytes() == path.read_bytes(), path.name
        assert evaluate_spec(changed, "a", spec, SETTINGS).key != specs[f"{name} final"].key


def test_the_key_holds_what_matters_and_nothing_of_the_ndt(known):
    _, _, sessions, _, specs = known
    wide = preset("tiny", {"model.width": 64, "train.lr": 1e-3, "finetune.epochs": 3})
    assert reference_spec(sessions, "a", "psth", wide).key == specs["psth"].key
    assert reference_spec(sessions, "a", "glm", wide, options=FEW).key == specs["glm"].key
    for name, overrides in (("psth", {"evaluation.tail": 3}), ("glm", {"train.mask_ratio": 0.5}),
                            ("glm", {"model.objective": "next_step"}), ("psth", {"split_seed": 1})):  # fmt: skip
        other = reference_spec(sessions, "a", name, preset("tiny", overrides))
        assert other.key != reference_spec(sessions, "a", name, SETTINGS).key
    assert reference_spec(sessions, "a", "glm", SETTINGS, seed=1).key != reference_spec(sessions, "a", "glm", wide).key


def test_next_step_sees_every_bin_before(tmp_path):
    counts, _ = coupled(300, seed=6)
    sessions, store = store_of(tmp_path / "store", counts), RunStore(tmp_path / "runs")
    settings = preset("tiny", {"model.objective": "next_step"})
    specs = [reference_spec(sessions, "a", "glm", s, options=FEW) for s in (settings, SETTINGS)]
    outcomes = execute(specs, store, on="here")
    assert [outcomes[spec.key].state for spec in specs] == ["done", "done"]
    assert store.result(specs[0].key)["bps"] > store.result(specs[1].key)["bps"]


def test_unknown_references_and_settings_out_of_range_are_refused(known):
    _, _, sessions, _, _ = known
    with pytest.raises(UsageError, match="'mean'"):
        reference_spec(sessions, "a", "mean", SETTINGS)
    with pytest.raises(UsageError, match="options of psth"):
        reference_spec(sessions, "a", "psth", SETTINGS, options=FEW)
    for wrong in ({"l2": (0.0,)}, {"l2": ()}, {"lags": 0}, {"shrinkage": (1.5,)}, {"width": 3}):
        with pytest.raises(ValidationError):
            GLMSettings(**wrong)


def test_a_trial_of_two_bins_and_a_single_unit_are_enough():
    counts = np.random.default_rng(0).poisson(1.0, (30, 2, 1)).astype(np.uint8)
    glm = fitted(counts, GLMSettings())[-1]
    assert glm.lags == 1 and glm.loadings.shape == (1, 1) and np.isfinite(score(glm, counts).bps)


def test_a_fit_that_is_no_number_is_an_outcome_with_a_reason(known, tmp_path, monkeypatch):
    _, _, sessions, _, _ = known

    def broken(session_id, counts, settings):
        yield references.Candidate(
            {"smoothing": 1.0}, references.PSTH(session_id, torch.full((20, 6), torch.nan)), 0, 0
        )

    monkeypatch.setattr(jobs, "psth_candidates", broken)
    spec, store = reference_spec(sessions, "a", "psth", SETTINGS), RunStore(tmp_path / "runs")
    outcome = execute([spec], store, on="here")[spec.key]
    assert outcome.state == "diverged" and "validation score nan" in outcome.reason
    assert store.result(spec.key)["best_bps"] is None and not (store.folder(spec.key) / "reference.json").exists()
