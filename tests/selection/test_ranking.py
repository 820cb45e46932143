"""The paper's procedure on a toy store: identity, integrity, failures as rows, and the choice-corrected differences."""

import json
from itertools import product

import numpy as np
import pytest

from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import UsageError
from sessionwise.io.tensors import read_tensors
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.selection import ranking as ranking_module
from sessionwise.selection.ranking import (
    check_seeds,
    collect,
    make_plan,
    open_ranking,
    rank,
    ranking_folder,
    save_ranking,
    selected_gain,
)
from sessionwise.selection.sets import ordered
from sessionwise.training.presets import preset

HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def ranked(toy_store, toy_settings, tmp_path_factory):
    sessions, study = open_store(toy_store), tmp_path_factory.mktemp("study")
    found = rank(sessions, HELDOUT, preset="tiny", overrides=toy_settings, seeds=(10, 20), to=study, on="here")
    return sessions, study, found


def files(study, ranking):
    folder = ranking_folder(study, ranking.document)
    return (folder / "ranking.json").read_bytes(), (folder / "ranking.csv").read_bytes()


def test_score_is_the_mean_over_seeds_of_pooled_validation_bps(ranked):
    _, study, found = ranked
    store = RunStore(study / "runs")
    for row in found.document["rows"]:
        scores = []
        for key in row["runs"]:
            stored = read_tensors(store.folder(key) / "validation.safetensors")
            scores.append(stored["crossfit_gain"].sum() / (stored["spikes"].sum() * np.log(2)))
            assert scores[-1] == pytest.approx(store.result(key)["bps"])
        assert row["seed_scores"] == pytest.approx(scores)
        assert row["score"] == pytest.approx(np.mean(scores)) and row["sd"] == pytest.approx(np.std(scores, ddof=1))
    scores = [row["score"] for row in found.document["rows"]]
    assert scores == sorted(scores, reverse=True) and [row["rank"] for row in found.document["rows"]] == [1, 2, 3, 4]


def test_document_states_cost_seeds_controls_truth_and_provenance(ranked):
    sessions, study, found = ranked
    document = found.document
    assert document["cost"]["by_kind"]["pretrain"] == {
        "runs": 8,
        "steps": 8 * 16,
        "tokens": pytest.approx(8 * 16 * 160, rel=0.3),
    }
    assert document["cost"]["runs"] == 8 + 8 + 2 + 2
    for arm in ("baseline", "random_core"):
        assert document[arm]["state"] == "done" and len(document[arm]["seed_scores"]) == 2
    assert set(document["truth"]["closeness"]) == set(found.order)
    assert document["provenance"]["sessions"][HELDOUT] == sessions.load(HELDOUT, 0).trainval_hash
    assert set(document["provenance"]["split"]["validation"]) == set(
        sessions.load(HELDOUT, 0).split.validation.tolist()
    )
    names = [entry["name"] for entry in document["differences"]]
    assert "best core - baseline" in names and "median core - random core" in names
    assert document["noise"]["seed_correlation"] is not None
    assert len(document["curves"]) == 20 and len(document["horizon"]["best"]) == 10
    assert open_ranking(ranking_folder(study, document)).document == json.loads(json.dumps(document))


def test_the_same_command_again_computes_nothing_and_gives_the_same_bytes(ranked, toy_settings, monkeypatch):
    sessions, study, found = ranked
    before = files(study, found)
    monkeypatch.setattr("sessionwise.training.jobs.train", None)  # any training would raise
    again = rank(sessions, HELDOUT, preset="tiny", overrides=toy_settings, seeds=(10, 20), to=study, on="here")
    assert files(study, again) == before
    timing = json.loads((ranking_folder(study, again.document) / "timing.json").read_text())
    assert timing["added"]["steps"] == 0


def test_candidates_are_independent_of_each_other(ranked, toy_settings):
    """S3: a smaller pool is ranked without a single new training, with byte-identical scores."""
    sessions, study, found = ranked
    few = rank(
        sessions,
        HELDOUT,
        pool="sim-03,sim-01",
        preset="tiny",
        overrides=toy_settings,
        seeds=(10, 20),
        to=study,
        on="here",
    )
    scores = {row["session"]: row["seed_scores"] for row in found.document["rows"]}
    assert {row["session"]: row["seed_scores"] for row in few.document["rows"]} == {
        k: scores[k] for k in ("sim-01", "sim-03")
    }
    assert ranking_folder(study, few.document) != ranking_folder(study, found.document)


def test_test_trials_never_reach_the_ranking(ranked, toy_settings, tmp_path):
    """S2: with garbage in every session's test trials ranking.json is byte-identical."""
    sessions, study, found = ranked
    changed = create_store(tmp_path / "store")
    for name in sessions:
        session = sessions.session(name)
        counts = np.array(session.counts)
        test = make_split(name, session.trial_ids, 0).test
        counts[test] = np.random.default_rng(list(name.encode())).poisson(3.0, counts[test].shape)
        meta = {"subject": session.subject, "lab": session.lab, "date": session.date, "trial_ids": session.trial_ids}
        changed.add(make_session(name, counts, session.bin_s, session.window_s, **meta))
    other = rank(
        open_store(changed.path), HELDOUT, preset="tiny", overrides=toy_settings, seeds=(10, 20), to=study, on="here"
    )
    trimmed = [{**document.document, "truth": None} for document in (found, other)]  # the truth knows the old content
    assert json.dumps(trimmed[0], sort_keys=True) == json.dumps(trimmed[1], sort_keys=True)
    assert not (study / "test-openings").exists()


def test_the_held_out_recording_never_reaches_pretraining(ranked, toy_settings, tmp_path):
    """S1: another recording under the held-out id leaves every pretraining as it was."""
    sessions, _, found = ranked
    changed = create_store(tmp_path / "store")
    for name in sessions:
        session = sessions.session(name)
        counts = np.random.default_rng(1).poisson(1.0, session.counts.shape) if name == HELDOUT else session.counts
        changed.add(make_session(name, counts, session.bin_s, session.window_s, trial_ids=session.trial_ids))
    settings = preset("tiny", toy_settings)
    plans = [make_plan(s, HELDOUT, found.order, settings, (10, 20)) for s in (sessions, open_store(changed.path))]
    assert {k: s.key for k, s in plans[0].pretrain.items()} == {k: s.key for k, s in plans[1].pretrain.items()}
    assert {s.key for s in plans[0].finetune.values()}.isdisjoint(s.key for s in plans[1].finetune.values())
    assert all(HELDOUT not in spec.sessions for spec in plans[0].pretrain.values())


def test_a_diverged_candidate_is_a_row_with_its_reason_and_changes_no_score(
    ranked, toy_settings, tmp_path, monkeypatch
):
    """P7: never ranked, never averaged."""
    sessions, study, found = ranked
    real = ranking_module.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if ids == ["sim-02"] and seed == 20:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e30})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(ranking_module, "pretrain_spec", poisoned)
    bad = rank(sessions, HELDOUT, preset="tiny", overrides=toy_settings, seeds=(10, 20), to=study, on="here")
    last = bad.document["rows"][-1]
    assert (last["session"], last["state"], last["rank"], last["score"]) == ("sim-02", "diverged", None, None)
    assert last["reason"].startswith("seed 20: ")
    assert bad.order == [name for name in found.order if name != "sim-02"]
    assert bad.scores == {name: score for name, score in found.scores.items() if name != "sim-02"}
    save_ranking(found, study, {})  # both share their folder's name: put the good one back


def test_all_candidates_diverged_is_said(ranked, toy_settings, tmp_path):
    sessions, _, _ = ranked
    overrides = {**toy_settings, "train.lr": 1e30, "baseline.lr": 1e30}
    found = rank(sessions, HELDOUT, preset="tiny", overrides=overrides, seeds=[10], to=tmp_path, on="here")
    assert found.order == [] and "No core could be ranked" in found.document["verdict"]["text"]
    assert found.document["baseline"]["state"] == "diverged" and found.document["baseline"]["score"] is None
    with pytest.raises(UsageError, match="k=1 of 0"):
        found.top(1)


def test_one_seed_and_one_candidate(ranked, toy_settings):
    sessions, study, _ = ranked
    one = rank(
        sessions, HELDOUT, pool=["sim-00"], preset="tiny", overrides=toy_settings, seeds=[10], to=study, on="here"
    )
    (row,) = one.document["rows"]
    assert (row["rank"], row["sd"], one.document["noise"]["seed_correlation"]) == (1, None, None)
    assert "nothing to compare" in one.document["verdict"]["text"]


def test_several_held_out_sessions_share_their_pretraining(ranked, toy_settings, tmp_path):
    sessions, _, _ = ranked
    two = rank(sessions, [HELDOUT, "sim-03"], preset="tiny", overrides=toy_settings, seeds=[10], to=tmp_path, on="here")
    assert [r.heldout for r in two] == [HELDOUT, "sim-03"]
    assert all(sorted(r.order) == ["sim-00", "sim-01", "sim-02"] for r in two)
    assert len(RunStore(tmp_path / "runs").keys()) == 3 + 2 * (3 + 1 + 1)


def test_selected_gain_never_judges_a_choice_by_what_chose_it():
    """Against loops; and under pure noise the chosen candidate's expected score is 0, while the naive best is above."""
    rng = np.random.default_rng(0)
    gains, spikes = rng.normal(size=(6, 2, 16)), np.ones(16)
    half = (np.arange(16) // 2) % 2
    for position in (0, 2, -1):
        found = selected_gain(gains, spikes, position)
        for s, h in product((0, 1), (0, 1)):
            chosen = sorted(range(6), key=lambda c: -gains[c, 1 - s, half != h].sum())[position]
            assert (found[s, half == h] == gains[chosen, s, half == h]).all()
    noise = rng.normal(size=(2000, 6, 2, 16))
    corrected = np.mean([selected_gain(g, spikes, 0).mean() for g in noise])
    naive = np.mean([g.mean(axis=(1, 2)).max() for g in noise])
    assert abs(corrected) < 0.01 < 0.15 < naive


def test_orders_are_nested_prefixes_of_the_ranked_sessions(ranked):
    _, _, found = ranked
    assert ordered(found, "ranked") == found.order == ordered(found, "reverse_ranked")[::-1]
    shuffles = [ordered(found, "random", i) for i in range(8)]
    assert all(sorted(s) == sorted(found.order) for s in shuffles) and len({tuple(s) for s in shuffles}) > 3
    assert ordered(found, "random", 3) == shuffles[3]
    assert found.top(2) == found.order[:2] and found.bottom(2) == found.order[::-1][:2]
    with pytest.raises(UsageError, match="k=5 of 4"):
        found.top(5)


@pytest.mark.parametrize("seeds", [[], [10, 10], [-1], [2**32]])
def test_seeds_that_cannot_be_meant(seeds):
    with pytest.raises(UsageError, match="--seeds"):
        check_seeds(seeds)


def test_collect_is_a_pure_function_of_the_runs(ranked, toy_settings):
    sessions, study, found = ranked
    plan = make_plan(sessions, HELDOUT, sorted(found.order), preset("tiny", toy_settings), (10, 20))
    store = RunStore(study / "runs")
    outcomes = execute(plan.specs, store, on="here")
    assert collect(plan, sessions, store, outcomes).document == found.document
