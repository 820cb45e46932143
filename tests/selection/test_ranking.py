"""The paper's procedure on a toy store: identity, integrity, failures as rows, and the choice-corrected differences."""

import json
import re
from itertools import product

import numpy as np
import pytest

from sessionwise.analysis.pictures import find_picture
from sessionwise.analysis.recording_figures import picture
from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import DataError, UsageError
from sessionwise.io.tensors import read_tensors
from sessionwise.runs.launch import execute
from sessionwise.runs.store import RunStore
from sessionwise.selection import ranking as ranking_module
from sessionwise.selection.rankers import rank, rank_many
from sessionwise.selection.ranking import (
    collect,
    make_plan,
    open_ranking,
    ranking_folder,
    save_ranking,
    seed_problems,
    selected_gain,
)
from sessionwise.selection.sets import ordered
from sessionwise.training import jobs
from sessionwise.training.jobs import pretrain_spec
from sessionwise.training.operations import operations
from sessionwise.training.presets import Settings, preset

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
    infos, settings = (
        {name: sessions.info(name) for name in sessions.ids},
        Settings.model_validate(document["settings"]),
    )
    cores = [pretrain_spec(sessions, [name], settings, seed) for name in found.order for seed in document["seeds"]]
    assert document["cost"]["by_kind"]["pretrain"] == {
        "runs": 8,
        "steps": 8 * 16,
        "tokens": pytest.approx(8 * 16 * 160, rel=0.3),
        "operations": pytest.approx(sum(operations(spec, infos) for spec in cores), rel=0.05),  # as planned
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


def test_the_report_finds_a_picture_of_the_held_out_recording(ranked):
    sessions, study, found = ranked
    known = find_picture(study, found.document)
    assert known["content"] == picture(sessions.session(HELDOUT), sessions.load(HELDOUT, 0).split)


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


def changed_store(sessions, path, change):
    """A copy of the store in which ``change(name, session, counts)`` gives each session's counts."""
    store = create_store(path)
    for name in sessions:
        session = sessions.session(name)
        same = ("subject", "lab", "date", "trial_ids", "trial_columns")
        meta = {field: getattr(session, field) for field in same}
        counts = change(name, session, np.array(session.counts))
        store.add(make_session(name, counts, session.bin_s, session.window_s, **meta))
    return open_store(store.path)


def test_blocks_are_other_runs_and_another_ranking(ranked, toy_settings, tmp_path):
    """Trials close in time: the random split shares bins, the blocks share none, and neither takes the other's runs."""
    sessions, _, _ = ranked
    store = create_store(tmp_path / "store")
    for name in ("sim-00", "sim-01", HELDOUT):
        counts = np.array(sessions.session(name).counts)
        columns = {"align_time_s": np.arange(len(counts)) * 0.2}  # windows of 0.24 s
        store.add(make_session(name, counts, 0.02, trial_columns=columns))
    found = {}
    for split in ("random", "blocked"):
        overrides = {**toy_settings, "split": split}
        found[split] = rank(
            store, HELDOUT, preset="tiny", overrides=overrides, seeds=[10], to=tmp_path / "study", on="here"
        ).document
    random, blocked = found["random"], found["blocked"]
    assert (random["split"], blocked["split"]) == ("random", "blocked")
    assert "split" not in random["settings"] and blocked["settings"]["split"] == "blocked"
    assert ranking_folder(tmp_path, random) != ranking_folder(tmp_path, blocked)
    keys = [{key for row in document["rows"] for key in row["runs"]} for document in found.values()]
    assert not keys[0] & keys[1] and len(RunStore(tmp_path / "study" / "runs").keys()) == 2 * (2 + 2 + 2)
    assert random["provenance"]["overlap"]["test"] > 0.1
    assert blocked["provenance"]["overlap"] == {"validation": 0.0, "test": 0.0}
    parts = blocked["provenance"]["split"]
    assert sorted(p for part in parts.values() for p in part) == list(range(sessions.info(HELDOUT).n_trials))
    assert parts["purged"]
    assert set(random["provenance"]["split"]) == {"train", "validation", "test"}


def test_test_trials_never_reach_a_ranking_in_blocks(ranked, toy_settings, tmp_path):
    """S2 for blocks: their times decide what is purged, their content decides nothing."""
    sessions, _, _ = ranked
    documents = []
    for place in ("as they are", "garbage"):
        store = create_store(tmp_path / place)
        for name in ("sim-00", HELDOUT):
            counts = np.array(sessions.session(name).counts)
            test = make_split(name, np.arange(len(counts)), 0, "blocked").test
            if place == "garbage":
                counts[test] = np.random.default_rng(list(name.encode())).poisson(3.0, counts[test].shape)
            columns = {"align_time_s": np.arange(len(counts)) * 0.2}
            store.add(make_session(name, counts, 0.02, trial_columns=columns))
        overrides = {**toy_settings, "split": "blocked"}
        to = tmp_path / f"{place} study"
        ranking = rank(store, HELDOUT, preset="tiny", overrides=overrides, seeds=[10], to=to, on="here")
        documents.append((ranking_folder(to, ranking.document) / "ranking.json").read_bytes())
        assert not (to / "test-openings").exists()
    assert documents[0] == documents[1]


def test_a_recording_without_its_own_split_is_named(ranked, toy_settings, tmp_path):
    sessions, _, _ = ranked
    overrides = {**toy_settings, "split": "recorded"}
    with pytest.raises(DataError, match=r"session 'sim-.*has no trial column 'recorded_split'"):
        rank(sessions, HELDOUT, preset="tiny", overrides=overrides, seeds=[10], to=tmp_path / "s", on="here")
    assert not (tmp_path / "s").exists()


def test_all_cores_of_a_seed_meet_the_same_batches_masks_and_dropout(ranked, toy_settings, tmp_path, monkeypatch):
    """Protocol A12: what a finetuning draws depends on seed and held-out session, never on the core."""
    sessions, _, _ = ranked
    drawn, real = {}, jobs.train

    def watch(training, *arguments, **options):
        draw, seen = training.batches.draw, []

        def record(*args):
            batch = draw(*args)
            seen.append((batch.counts.numpy().tobytes(), batch.masked.numpy().tobytes()))
            return batch

        training.batches.draw = record
        done = real(training, *arguments, **options)
        drawn.setdefault((training.batches.role, training.batches.seed), []).append(
            (seen, training.dropout_rng.get_state().numpy().tobytes())
        )
        return done

    monkeypatch.setattr(jobs, "train", watch)
    rank(sessions, HELDOUT, preset="tiny", overrides=toy_settings, seeds=(10, 20), to=tmp_path, on="here")
    for seed in (10, 20):
        first, *others = drawn[("finetune", HELDOUT), seed]
        assert len(others) == 4 and all(other == first for other in others)  # 4 cores and the random one
    assert drawn[("finetune", HELDOUT), 10][0] != drawn[("finetune", HELDOUT), 20][0]


def test_with_few_validation_trials_nothing_is_concluded(ranked, toy_settings, tmp_path):
    """Halves of one or two trials judge nothing: the ranking is shown, without differences and without a p."""
    sessions, _, _ = ranked
    few = changed_store(sessions, tmp_path / "store", lambda name, session, counts: counts)
    session = few.session(HELDOUT)
    few.add(make_session("short", np.array(session.counts)[:12] * 2, session.bin_s, session.window_s))
    found = rank(
        few,
        "short",
        pool=["sim-00", "sim-01"],
        preset="tiny",
        overrides=toy_settings,
        seeds=(10, 20),
        to=tmp_path / "s",
        on="here",
    )
    assert found.document["n_validation_trials"] == 1 and len(found.order) == 2
    assert found.document["differences"] == [] and found.document["noise"]["p_equal"] is None
    assert not found.document["verdict"]["different"] and "Not judged" in found.document["verdict"]["text"]
    assert "not cross-fitted" in found.document["score_kind"]


def test_shuffles_are_shared_by_held_out_sessions_whatever_failed(ranked):
    """A17: who draws lots has no ranking, so a session without a score keeps its place."""
    _, _, found = ranked
    rows = [{**row, "state": "failed"} if row["session"] == "sim-02" else row for row in found.document["rows"]]
    partial = ranking_module.Ranking({**found.document, "rows": rows})
    assert "sim-02" not in ordered(partial, "ranked")
    for i in range(6):
        assert ordered(partial, "random", i) == ordered(found, "random", i)


def test_a_failed_control_is_said(ranked, toy_settings, tmp_path):
    sessions, _, _ = ranked
    overrides = {**toy_settings, "baseline.lr": 1e30}
    found = rank(sessions, HELDOUT, preset="tiny", overrides=overrides, seeds=[10, 20], to=tmp_path, on="here")
    assert len(found.order) == 4 and found.document["baseline"]["state"] == "diverged"
    assert found.document["baseline"]["score"] is None and "seed 10" in found.document["baseline"]["reason"]
    assert not [entry for entry in found.document["differences"] if "baseline" in entry["name"]]


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
    save_ranking(found, study, {})  # the same question, asked with other runs: put the good answer back


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
    assert one.document["noise"]["p_equal"] is None and not one.document["verdict"]["different"]
    assert "One seed" in one.document["verdict"]["text"]


def test_several_held_out_sessions_share_their_pretraining(ranked, toy_settings, tmp_path):
    sessions, _, _ = ranked
    two = rank_many(
        sessions, [HELDOUT, "sim-03"], preset="tiny", overrides=toy_settings, seeds=[10], to=tmp_path, on="here"
    )
    assert [r.heldout for r in two] == [HELDOUT, "sim-03"]
    assert all(sorted(r.order) == ["sim-00", "sim-01", "sim-02"] for r in two)
    assert len(RunStore(tmp_path / "runs").keys()) == 3 + 2 * (3 + 1 + 1)


def test_selected_gain_never_judges_a_choice_by_what_chose_it():
    """Against loops; and under pure noise the chosen candidate's expected score is 0, while the naive best is above."""
    rng = np.random.default_rng(0)
    gains = rng.normal(size=(6, 2, 16))
    half = (np.arange(16) // 2) % 2
    for position in (0, 2, -1):
        found = selected_gain(gains, position)
        for s, h in product((0, 1), (0, 1)):
            chosen = sorted(range(6), key=lambda c: -gains[c, 1 - s, half != h].sum())[position]
            assert (found[s, half == h] == gains[chosen, s, half == h]).all()
    noise = rng.normal(size=(2000, 6, 2, 16))
    corrected = np.mean([selected_gain(g, 0).mean() for g in noise])
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
    (problem,) = seed_problems(seeds)
    assert "--seeds" in str(problem) and not seed_problems([0, 10, 2**32 - 1])


def test_collect_is_a_pure_function_of_the_runs(ranked, toy_settings):
    sessions, study, found = ranked
    plan = make_plan(sessions, HELDOUT, sorted(found.order), preset("tiny", toy_settings), (10, 20))
    store = RunStore(study / "runs")
    outcomes = execute(plan.specs, store, on="here")
    assert collect(plan, sessions, store, outcomes).document == found.document


def entry(name, low, high):
    return {"name": f"best core - {name}", "mean": (low + high) / 2, "low": low, "high": high, "level": 0.95}


@pytest.mark.parametrize(
    ("p", "median", "baseline", "different", "says"),
    [
        (0.01, (0.01, 0.03), (0.01, 0.02), True, "differ by more than noise.*a ranks first.*above training"),
        (0.06, (0.01, 0.03), (-0.02, 0.01), False, "Undecided.*not told apart from training"),
        (0.40, (-0.01, 0.03), (-0.02, -0.01), False, "not told apart with 34 .*below training"),
        (None, (-0.01, 0.03), None, False, "Not judged"),
    ],
)
def test_the_verdict_says_what_was_found(p, median, baseline, different, says):
    differences = [entry("median core", *median)] + ([entry("baseline", *baseline)] if baseline else [])
    row = {"session": "a", "state": "done"}
    document = {"rows": [row], "noise": {"p_equal": p}, "seeds": [10, 20], "n_validation_trials": 34}
    found = ranking_module.verdict({**document, "differences": differences})
    assert found["different"] == different and re.search(says, found["text"])
