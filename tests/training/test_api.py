"""The functions for Python users: stored runs, and the leaks they refuse."""

import numpy as np
import pytest

import sessionwise as sw
from sessionwise.errors import LeakageError, UsageError

HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def trained(toy_store, toy_settings, tmp_path_factory):
    sessions, study = sw.open_store(toy_store), tmp_path_factory.mktemp("library")
    some = {"preset": "tiny", "overrides": toy_settings, "to": study}
    model = sw.pretrain(sessions.subset(["sim-00", "sim-01"]), seed=10, **some)
    return sessions, some, model


def test_pretrain_finetune_evaluate(trained):
    sessions, some, model = trained
    assert sorted(model.load().session_ids) == ["sim-00", "sim-01"]
    tuned = sw.finetune(model, HELDOUT)
    assert tuned.load().core_hash() == model.load().core_hash() and tuned.spec.seed == 10
    validation, test = (sw.evaluate(tuned, HELDOUT, split=split) for split in ("validation", "test"))
    assert validation.cross_fitted and validation.bps == tuned.result["bps"] != test.bps
    alone = sw.train_baseline(sessions, HELDOUT, seed=10, **some)
    assert np.isfinite(sw.evaluate(alone, sessions.subset([HELDOUT]), split="test").bps)
    assert sw.pretrain(sessions.subset(["sim-01", "sim-00"]), seed=10, **some).folder == model.folder


def test_a_session_of_pretraining_is_no_held_out_session(trained):
    _, _, model = trained
    with pytest.raises(LeakageError, match="sim-00: LEAK: it is also in the pool"):
        sw.finetune(model, "sim-00")


def test_a_copy_under_another_id_is_a_leak(trained, tmp_path):
    """Also when the copy was imported after the first training of this process."""
    sessions, some, _ = trained
    store = sw.create_store(tmp_path / "store")
    for name in ("sim-00", HELDOUT):
        store.add(sessions.session(name))
    sw.pretrain(store.subset(["sim-00"]), **some)
    session = sessions.session(HELDOUT)
    store.add(sw.make_session("innocent", np.array(session.counts), session.bin_s, session.window_s))
    model = sw.pretrain(store.subset(["innocent"]), **some)
    with pytest.raises(LeakageError, match="pool session innocent holds"):
        sw.finetune(model, HELDOUT)


def test_another_recording_under_the_same_id_is_not_scored(trained, tmp_path):
    sessions, _, model = trained
    tuned, session = sw.finetune(model, HELDOUT), sessions.session(HELDOUT)
    other = sw.create_store(tmp_path / "store")
    counts = np.random.default_rng(0).poisson(1.0, session.counts.shape)
    other.add(sw.make_session(HELDOUT, counts, session.bin_s, session.window_s))
    with pytest.raises(UsageError, match="is another recording here"):
        sw.evaluate(tuned, other, split="test")


@pytest.mark.parametrize("target", ["sim-03", "nowhere"])
def test_a_model_is_scored_on_its_own_session_only(trained, target):
    _, _, model = trained
    with pytest.raises(UsageError, match=r"stitchers are for|holds no session"):
        sw.evaluate(sw.finetune(model, HELDOUT), target)


def test_shuffled_spikes_leave_nothing_to_predict(trained, toy_settings, tmp_path):
    """S5: spikes of each unit shuffled over trials and bins: a trained model is no better than the null model."""
    sessions, _, _ = trained
    session, scores = sessions.session(HELDOUT), []
    for i in range(6):
        rng, counts = np.random.default_rng(i), np.array(session.counts)
        flat = rng.permuted(counts.reshape(-1, counts.shape[-1]), axis=0)
        store = sw.create_store(tmp_path / str(i))
        store.add(sw.make_session("shuffled", flat.reshape(counts.shape), session.bin_s, session.window_s))
        model = sw.train_baseline(store, "shuffled", preset="tiny", overrides=toy_settings, to=tmp_path / "study")
        scores.append(sw.evaluate(model, "shuffled", split="test").bps)
    assert np.mean(scores) <= 2 * np.std(scores, ddof=1) / np.sqrt(len(scores))
