"""Runs on a toy store: what each leaves behind, the frozen core, sealed test trials, and what identity depends on."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import EnvironmentProblem, IntegrityError
from sessionwise.io.files import read_json
from sessionwise.io.tensors import read_tensors
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.scoring import likelihood
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer
from sessionwise.training import jobs
from sessionwise.training.jobs import (
    baseline_spec,
    checkpoint_seconds,
    crossfit_gain,
    evaluate_spec,
    finetune_spec,
    pretrain_spec,
    reference_spec,
)
from sessionwise.training.loop import Training
from sessionwise.training.presets import preset

HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def study(toy_store, toy_settings, tmp_path_factory):
    """One of each kind of run."""
    sessions, settings = open_store(toy_store), preset("tiny", toy_settings)
    core = pretrain_spec(sessions, ["sim-00"], settings, 10)
    several = pretrain_spec(sessions, ["sim-01", "sim-00", "sim-02"], settings, 10)
    tuned = finetune_spec(sessions, HELDOUT, core, settings, 10)
    random_core = finetune_spec(sessions, HELDOUT, None, settings, 10)
    base = baseline_spec(sessions, HELDOUT, settings, 10)
    final = evaluate_spec(sessions, HELDOUT, tuned, settings)
    specs = {"core": core, "several": several, "tuned": tuned, "random": random_core, "base": base, "final": final}
    store = RunStore(tmp_path_factory.mktemp("study") / "runs")
    outcomes = execute(list(specs.values()), store, on="here")
    assert [outcome.state for outcome in outcomes.values()] == ["done"] * 6
    return sessions, settings, specs, store


def tree(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def test_finetuning_leaves_the_core_bit_identical_and_trains_the_stitchers(study):
    _, _, specs, store = study
    core, tuned = jobs.load_trained(store, specs["core"].key), jobs.load_trained(store, specs["tuned"].key)
    assert core.core_hash() == tuned.core_hash() == store.result(specs["tuned"].key)["core_hash"]
    assert list(tuned.session_ids) == [HELDOUT]
    fresh = jobs.NDT(tuned.config, tuned.n_bins, 10)
    fresh.add_session(HELDOUT, tuned.session_ids[HELDOUT], torch.ones(tuned.session_ids[HELDOUT]))
    assert not torch.equal(fresh.stitchers_of(HELDOUT).encode.weight, tuned.stitchers_of(HELDOUT).encode.weight)


def test_a_finetune_stores_stitchers_not_the_core(study):
    _, _, specs, store = study
    stored = read_tensors(store.folder(specs["tuned"].key) / "core.safetensors")
    assert all(name.startswith("session_embedding.") for name in stored)


def test_the_held_out_session_gets_the_mean_session_embedding(study, toy_settings):
    sessions, _, specs, store = study
    settings = preset("tiny", toy_settings)
    spec = finetune_spec(sessions, HELDOUT, specs["several"], settings, 10)
    execute([spec], store, on="here")
    (found,) = jobs.load_trained(store, spec.key).session_embeddings.values()
    rows = jobs.load_trained(store, specs["several"].key).session_embeddings.values()
    torch.testing.assert_close(found, torch.stack(list(rows)).mean(dim=0))


@pytest.mark.parametrize(
    ("overrides", "core_moves", "embedding_moves"),
    [
        ({"finetune.session_embedding": "fresh"}, False, False),
        ({"finetune.session_embedding": "trained"}, False, True),
        ({"finetune.freeze_core": False}, True, False),
    ],
)
def test_options_of_finetuning(study, toy_settings, overrides, core_moves, embedding_moves):
    sessions, _, specs, store = study
    spec = finetune_spec(sessions, HELDOUT, specs["core"], preset("tiny", {**toy_settings, **overrides}), 10)
    assert execute([spec], store, on="here")[spec.key].state == "done"
    core, tuned = jobs.load_trained(store, specs["core"].key), jobs.load_trained(store, spec.key)
    assert (core.core_hash() != tuned.core_hash()) == core_moves
    (row,), (mean,) = tuned.session_embeddings.values(), core.session_embeddings.values()
    assert torch.equal(row, mean) == (not embedding_moves and overrides.get("finetune.session_embedding") != "fresh")


def test_the_core_of_a_baseline_is_frozen_under_fresh_stitchers(study):
    """The control "own core": pretrained on the held-out session itself."""
    sessions, settings, specs, store = study
    own = finetune_spec(sessions, HELDOUT, specs["base"], settings, 10)
    final = evaluate_spec(sessions, HELDOUT, own, settings)
    assert {o.state for o in execute([own, final], store, on="here").values()} == {"done"}
    base, tuned = jobs.load_trained(store, specs["base"].key), jobs.load_trained(store, own.key)
    assert (
        own.inputs == {"core": specs["base"].key} and own.label == f"finetune {HELDOUT} on baseline {HELDOUT}, seed 10"
    )
    assert base.core_hash() == tuned.core_hash() == store.result(own.key)["core_hash"]
    (of_base,), (of_tuned,) = base.session_embeddings.values(), tuned.session_embeddings.values()
    assert torch.equal(of_base, of_tuned)
    assert not torch.equal(base.stitchers_of(HELDOUT).decode.weight, tuned.stitchers_of(HELDOUT).decode.weight)
    assert store.result(final.key)["bps"] == pytest.approx(bps_on_test_trials(sessions, tuned), abs=1e-9)


@pytest.mark.parametrize("core", ["core", "several", None])
def test_a_finetuning_of_all_weights_is_stored_whole_and_evaluated(study, toy_settings, core):
    """Its core is its own: neither the pretrained one nor, for an untrained one, the initial."""
    sessions, _, specs, store = study
    settings = preset("tiny", {**toy_settings, "finetune.freeze_core": False})
    spec = finetune_spec(sessions, HELDOUT, specs[core] if core else None, settings, 10)
    final = evaluate_spec(sessions, HELDOUT, spec, settings)
    assert {o.state for o in execute([spec, final], store, on="here").values()} == {"done"}
    model = jobs.load_trained(store, spec.key)
    assert list(model.session_ids) == [HELDOUT] and model.core_hash() == store.result(spec.key)["core_hash"]
    start = jobs.load_trained(store, specs[core].key) if core else jobs.NDT(model.config, model.n_bins, 10)
    assert model.core_hash() != start.core_hash()
    assert store.result(final.key)["bps"] == pytest.approx(bps_on_test_trials(sessions, model), abs=1e-9)


def test_the_last_checkpoint_after_a_number_of_steps(study, toy_settings):
    """The step-matched control: nothing is chosen on validation, so nothing is cross-fitted."""
    sessions, _, specs, store = study
    settings = preset("tiny", {**toy_settings, "finetune.keep": "last", "finetune.steps": 12})
    spec = finetune_spec(sessions, HELDOUT, specs["core"], settings, 10)
    final = evaluate_spec(sessions, HELDOUT, spec, settings)
    execute([spec, final], store, on="here")
    result, model = store.result(spec.key), jobs.load_trained(store, spec.key)
    assert (result["steps"], result["best_step"], result["cross_fitted"]) == (12, 12, False)
    found = jobs.scorer(sessions.load(HELDOUT, 0), "validation", settings.evaluation).forward_prediction(model)
    assert result["bps"] == pytest.approx(found.bps, abs=1e-9)
    assert store.result(final.key)["bps"] == pytest.approx(bps_on_test_trials(sessions, model), abs=1e-9)


def bps_on_test_trials(sessions, model):
    """Bits per spike of a model on the held-out session's test trials, scored beside the jobs."""
    data = sessions.load(HELDOUT, 0)
    counts = np.asarray(sessions.session(HELDOUT).counts)[data.split.test]
    scorer = Scorer(HELDOUT, counts, data.split.test, data.meta.n_trials, EvaluationSettings())
    return scorer.forward_prediction(model).bps


def test_keys_of_random_splits_are_those_from_before_there_were_others(tmp_path):
    """What is stored stays found: a change of these keys needs another CODE_SCHEMA."""
    store = create_store(tmp_path)
    counts = (np.arange(600) ** 3 % 1009 % 4).reshape(20, 6, 5).astype(np.uint8)
    store.add(make_session("a", counts, 0.02))
    store.add(make_session("b", counts + 1, 0.02))

    def specs(settings):
        core = pretrain_spec(store, ["a"], settings, 10)
        tuned = finetune_spec(store, "b", core, settings, 10)
        final, glm = evaluate_spec(store, "b", tuned, settings), reference_spec(store, "b", "glm", settings)
        return [core, tuned, baseline_spec(store, "b", settings, 10), final, glm]

    random, blocked = specs(preset("tiny")), specs(preset("tiny", ["split=blocked"]))
    assert [spec.key[:16] for spec in random] == [
        "b43237153ffbd091",
        "4c826fcf2e60e4ae",
        "db948ed2f3003527",
        "021333fdc8676d5c",
        "48f2a7a2ce8993fa",
    ]
    assert not {spec.key for spec in random} & {spec.key for spec in blocked}
    for one, other in zip(random, blocked, strict=True):
        assert other.settings == {**one.settings, "split": "blocked"}


def test_a_run_in_blocks_trains_and_is_scored_on_its_own_trials(study, toy_settings, tmp_path):
    """The worker loads the run's own split; purged trials keep their place, so the folds are those of the session."""
    sessions, _, _, _ = study
    store, events = create_store(tmp_path / "sessions"), np.arange(200) * 0.2  # windows of 0.24 s
    for name in ("sim-00", HELDOUT):
        counts = np.array(sessions.session(name).counts)
        store.add(make_session(name, counts, 0.02, trial_columns={"align_time_s": events[: len(counts)]}))
    every = [store.load(HELDOUT, seed, "blocked") for seed in range(40)]
    data = next(d for d in every if d.split.test.max() >= d.meta.n_trials - len(d.split.purged))
    settings = preset("tiny", {**toy_settings, "split": "blocked", "split_seed": data.split.seed})
    base = baseline_spec(store, HELDOUT, settings, 10)
    final = evaluate_spec(store, HELDOUT, base, settings)
    runs = RunStore(tmp_path / "runs")
    assert {outcome.state for outcome in execute([base, final], runs, on="here").values()} == {"done"}
    assert runs.result(base.key)["train_trials"] == len(data.split.train)
    model = jobs.load_trained(runs, base.key)
    for part, spec, score in (("validation", base, "best_bps"), ("test", final, "bps")):
        counts, rows = np.asarray(store.session(HELDOUT).counts)[data.split.part(part)], data.split.part(part)
        scorer = Scorer(HELDOUT, counts, rows, data.meta.n_trials, EvaluationSettings())
        assert runs.result(spec.key)[score] == pytest.approx(scorer.forward_prediction(model).bps, abs=1e-9)


def test_common_random_numbers_for_all_cores_of_a_seed(study):
    """Protocol A12: fresh stitchers of a target and seed do not depend on the core."""
    _, _, specs, store = study
    start = []
    for spec in (specs["tuned"], specs["random"]):
        model, _ = jobs._core(spec, store, 12)
        model.add_session(HELDOUT, 9, torch.ones(9))
        start.append(model.stitchers_of(HELDOUT).encode.weight)
    assert torch.equal(*start)


def test_scores_are_those_of_the_stored_weights(study):
    """The stored scores are those of the stored model, and the cross-fitted one is the sum of the stored gains."""
    sessions, _, specs, store = study
    for name in ("tuned", "random", "base"):
        result, model = store.result(specs[name].key), jobs.load_trained(store, specs[name].key)
        data = sessions.load(HELDOUT, 0)
        scorer = Scorer(
            HELDOUT, data.counts("validation"), data.split.validation, data.meta.n_trials, EvaluationSettings()
        )
        assert result["bps_tail"] == pytest.approx(scorer.tail(model).bps, abs=1e-9)
        assert result["best_bps"] == pytest.approx(scorer.forward_prediction(model).bps, abs=1e-9)
        gain = read_tensors(store.folder(specs[name].key) / "validation.safetensors")
        total = gain["crossfit_gain"].sum() / (gain["spikes"].sum() * np.log(2))
        assert result["bps"] == pytest.approx(total) and result["bps"] <= result["best_bps"] + 1e-9
        assert result["cross_fitted"] and len(result["horizon"]) == 10


def test_crossfit_by_hand():
    """Even trials prefer the second of two validations, odd trials the first; each is scored by the other's choice."""
    gain = np.array([[1.0, 5.0, 1.0, 5.0], [2.0, 3.0, 2.0, 3.0]])
    assert crossfit_gain(gain, np.ones(4)).tolist() == [1.0, 3.0, 1.0, 3.0]


def test_final_evaluation_scores_test_trials_and_is_written_down(study):
    sessions, _, specs, store = study
    result = store.result(specs["final"].key)
    data = sessions.load(HELDOUT, 0)
    counts = np.asarray(sessions.session(HELDOUT).counts)[data.split.test]
    model = jobs.load_trained(store, specs["tuned"].key)
    scorer = Scorer(HELDOUT, counts, data.split.test, data.meta.n_trials, EvaluationSettings())
    assert result["bps"] == pytest.approx(scorer.forward_prediction(model).bps, abs=1e-9)
    assert result["bps"] == pytest.approx(
        read_tensors(store.folder(specs["final"].key) / "test.safetensors")["gain"].sum() / (counts.sum() * np.log(2))
    )
    record = read_json(jobs.ledger_folder(store) / f"{specs['final'].key}.json")
    assert record["attempts"] == 1 and record["sessions"] == {HELDOUT: data.test_hash}
    opened = {path.stem for path in jobs.ledger_folder(store).glob("*.json")}
    assert opened == {key for key in store.keys() if store.spec(key).kind == "evaluate"}  # nothing else opened them


def test_only_final_evaluations_depend_on_test_trials(study, toy_store, tmp_path):
    """S2: garbage in the test trials of every session changes no key but that of the evaluation."""
    sessions, settings, specs, _ = study
    changed = with_other_trials(sessions, tmp_path, part="test")
    core = pretrain_spec(changed, ["sim-00"], settings, 10)
    tuned = finetune_spec(changed, HELDOUT, core, settings, 10)
    assert (core.key, tuned.key) == (specs["core"].key, specs["tuned"].key)
    assert evaluate_spec(changed, HELDOUT, tuned, settings).key != specs["final"].key


def test_keys_follow_content_and_settings_not_paths_or_order(study, tmp_path, toy_settings):
    sessions, settings, specs, _ = study
    other = with_other_trials(sessions, tmp_path, part="validation")
    assert pretrain_spec(other, ["sim-00"], settings, 10).key != specs["core"].key
    same = pretrain_spec(sessions, ["sim-02", "sim-00", "sim-01", "sim-00"], settings, 10)
    assert same.key == specs["several"].key
    assert pretrain_spec(sessions, ["sim-00"], settings, 20).key != specs["core"].key
    wider = preset("tiny", {**toy_settings, "model.width": 16})
    assert pretrain_spec(sessions, ["sim-00"], wider, 10).key != specs["core"].key
    tuned_only = preset("tiny", {**toy_settings, "finetune.lr": 1e-3})
    assert pretrain_spec(sessions, ["sim-00"], tuned_only, 10).key == specs["core"].key


def test_content_that_changed_after_planning_is_refused(study, tmp_path):
    sessions, settings, _, _ = study
    changed = with_other_trials(sessions, tmp_path, part="train")
    planned = pretrain_spec(sessions, ["sim-00"], settings, 77)
    store = RunStore(tmp_path / "runs")
    with pytest.raises(IntegrityError, match="session sim-00: changed since the plan was made"):
        execute([replace(planned, where={"store": str(changed.path)})], store, on="here")


def test_counts_that_change_between_two_runs_of_a_process_are_refused(study, tmp_path):
    sessions, settings, specs, _ = study
    own = tmp_path / "store"
    shutil.copytree(sessions.path, own)
    execute([replace(specs["core"], where={"store": str(own)})], RunStore(tmp_path / "runs"), on="here")
    counts = own / sessions.info("sim-00").folder.name / "counts.npy"
    data = bytearray(counts.read_bytes())
    data[-1] ^= 1
    counts.write_bytes(bytes(data))
    again = replace(pretrain_spec(sessions, ["sim-00"], settings, 11), where={"store": str(own)})
    with pytest.raises(IntegrityError, match=r"counts\.npy"):
        execute([again], RunStore(tmp_path / "runs"), on="here")


def test_a_run_here_has_one_thread_and_the_caller_keeps_his(study, tmp_path, monkeypatch):
    _, _, specs, _ = study
    before, inside, real = torch.get_num_threads(), [], jobs.load_sessions
    monkeypatch.setattr(jobs, "load_sessions", lambda spec: inside.append(torch.get_num_threads()) or real(spec))
    torch.set_num_threads(2)
    try:
        execute([specs["core"]], RunStore(tmp_path / "runs"), on="here")
        assert (inside, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_divergence_is_committed_with_its_reason_and_without_weights(study, toy_settings, tmp_path):
    sessions, _, _, _ = study
    settings = preset("tiny", {**toy_settings, "train.lr": 1e30})
    core = pretrain_spec(sessions, ["sim-00"], settings, 10)
    tuned = finetune_spec(sessions, HELDOUT, core, settings, 10)
    store = RunStore(tmp_path / "runs")
    outcomes = execute([core, tuned], store, on="here")
    assert outcomes[core.key].state == "diverged" and "step" in (outcomes[core.key].reason or "")
    assert outcomes[tuned.key].state == "failed"
    assert not (store.folder(core.key) / "core.safetensors").exists()
    assert store.result(core.key)["best_bps"] is None


def test_same_bytes_here_and_in_workers(study, tmp_path):
    _, _, specs, store = study
    other = RunStore(tmp_path / "runs")
    execute([specs["core"], specs["tuned"]], other, on="processes:2")
    for name in ("core", "tuned"):
        assert tree(other.folder(specs[name].key)) == tree(store.folder(specs[name].key))


def test_multi_session_validation_pools_all_sessions(study):
    sessions, _, specs, store = study
    model = jobs.load_trained(store, specs["several"].key)
    gain = spikes = 0.0
    for name in ("sim-00", "sim-01", "sim-02"):
        data = sessions.load(name, 0)
        scorer = Scorer(
            name, data.counts("validation"), data.split.validation, data.meta.n_trials, EvaluationSettings()
        )
        found = scorer.forward_prediction(model)
        gain, spikes = gain + found.gain.sum(), spikes + found.spikes.sum()
    assert store.result(specs["several"].key)["best_bps"] == pytest.approx(
        likelihood.pooled_bits(gain, spikes), abs=1e-9
    )


def with_other_trials(sessions, tmp_path, part):
    """A copy of the store in which one part of every session holds other counts."""
    copy = create_store(tmp_path / "other-store")
    for name in sessions:
        session = sessions.session(name)
        counts = np.array(session.counts)
        rows = make_split(name, session.trial_ids, 0).part(part)
        counts[rows] = np.random.default_rng(0).poisson(1.0, counts[rows].shape)
        copy.add(make_session(name, counts, session.bin_s, session.window_s, trial_ids=session.trial_ids))
    return open_store(copy.path)


@pytest.mark.parametrize("name", ["several", "tuned"])
def test_an_interrupted_run_goes_on_to_the_same_folder(study, tmp_path, monkeypatch, name):
    """Several sessions in one training, and stitchers around a frozen core: stopped at step 7, resumed from step 6."""
    _, _, specs, store = study
    other, advance, steps = RunStore(tmp_path / "runs"), Training.advance, []
    execute([specs["core"]], other, on="here")
    spec = replace(specs[name], where={**specs[name].where, "checkpoint_steps": 3})

    def fail_at_seven(training):
        steps.append(training.step)
        if training.step == 7 and steps.count(7) == 1:
            raise ValueError("interrupted")
        return advance(training)

    monkeypatch.setattr(Training, "advance", fail_at_seven)
    assert execute([spec], other, on="here")[spec.key].state == "failed"
    assert execute([spec], other, on="here", retry_failed=True)[spec.key].state == "done"
    assert steps == [*range(8), *range(6, 16)]
    assert tree(other.folder(spec.key)) == tree(store.folder(spec.key))


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_an_interval_of_checkpoints_that_cannot_be_meant_ends_the_command(monkeypatch, text):
    monkeypatch.setenv("SESSIONWISE_CHECKPOINT_SECONDS", text)
    with pytest.raises(EnvironmentProblem, match="a number of seconds"):
        checkpoint_seconds()


def test_the_interval_of_checkpoints(monkeypatch):
    monkeypatch.delenv("SESSIONWISE_CHECKPOINT_SECONDS", raising=False)
    assert checkpoint_seconds() == 30
    monkeypatch.setenv("SESSIONWISE_CHECKPOINT_SECONDS", "0.5")
    assert checkpoint_seconds() == 0.5
