"""Set regression on a toy store: which sets, at what cost, what is used again, and what failed sets leave."""

import itertools
import json
import shutil
from collections import Counter

import numpy as np
import pytest

from sessionwise.analysis.statistics import bits_per_spike
from sessionwise.analysis.summary import check_ranking, require_finite
from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.runs.store import RunStore
from sessionwise.selection import set_regression
from sessionwise.selection.context import Context
from sessionwise.selection.procedure import SmallProxy
from sessionwise.selection.rankers import rank_many
from sessionwise.selection.ranking import gain_of, ranking_folder
from sessionwise.selection.set_regression import MODELS, MOST, SetRegression, divisions
from sessionwise.training.jobs import pretrain_spec
from sessionwise.training.presets import preset

pytestmark = pytest.mark.usefixtures("no_pictures")

TARGETS = ["sim-heldout-0", "sim-heldout-1"]
POOL = [f"sim-0{i}" for i in range(4)]
SEEDS = (10, 20)


@pytest.fixture(scope="module")
def store(make_pool):
    """Four sessions and two held-out ones."""
    return make_pool(4, 2, n_trials=(40, 90))


# Sets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_pool", [4, 5, 7, 8, 14, 20, 73])
def test_each_session_is_in_one_set_of_a_division(n_pool):
    pool = [f"p{i:02}" for i in range(n_pool)]
    found = list(itertools.islice(divisions(pool, SEEDS, 0), 6))
    quarter = max(2, -(-n_pool // 4))
    assert [seed for _, seed in found] == [10, 20, 10, 20, 10, 20]
    for sets, _ in found:
        assert sorted(name for one in sets for name in one) == pool
        assert all(quarter <= len(one) <= 2 * quarter for one in sets)
    assert len({(one, seed) for sets, seed in found for one in sets}) == sum(len(sets) for sets, _ in found)
    assert found == list(itertools.islice(divisions(pool[::-1], SEEDS, 0), 6))  # names count, not their order
    assert n_pool < 6 or found != list(itertools.islice(divisions(pool, SEEDS, 1), 6))


def test_a_small_pool_has_few_divisions_and_each_comes_once_with_a_seed():
    found = list(divisions(["a", "b", "c", "d"], (10,), 0))
    assert {frozenset(sets) for sets, _ in found} == {
        frozenset(sets) for sets in ([("a", "b"), ("c", "d")], [("a", "c"), ("b", "d")], [("a", "d"), ("b", "c")])
    }
    assert len(found) == 3 and len(list(divisions(["a", "b", "c", "d"], SEEDS, 0))) == 6


def test_where_sets_must_repeat_they_are_trained_once():
    """28 pairs of eight sessions: seven divisions if they fit together, and more where they do not."""
    found = list(divisions([f"p{i}" for i in range(8)], (10,), 0))
    pairs = Counter(one for sets, _ in found for one in sets)
    assert set(pairs.values()) == {1} and 24 <= len(pairs) <= 28 and all(sets for sets, _ in found)


@pytest.fixture
def context(store, toy_settings, tmp_path):
    return Context(open_store(store), preset("tiny", toy_settings), SEEDS, tuple(TARGETS), tmp_path, on="here")


def test_a_set_is_trained_for_the_steps_of_an_average_session(store, tmp_path):
    sessions, epochs = open_store(store), preset("tiny")
    context = Context(sessions, epochs, SEEDS, tuple(TARGETS), tmp_path, on="here")
    small = SmallProxy().settings(epochs)
    alone = [pretrain_spec(sessions, [name], small, 10).steps for name in POOL]
    found = SetRegression().settings(POOL, context)
    assert len(set(alone)) > 1 and found.train.steps == round(np.mean(alone))
    assert found.model == small.model and found.finetune == epochs.finetune
    runs = SetRegression().runs(TARGETS[0], POOL, context)
    cores = [spec for spec in runs if spec.kind == "pretrain"]
    assert {spec.steps for spec in cores} == {found.train.steps} and {len(spec.sessions) for spec in cores} == {2}
    assert all(name not in spec.sessions for spec in cores for name in TARGETS)


def test_the_number_of_models_is_fixed_by_the_pool_or_by_the_budget(context):
    ranker = SetRegression()
    default = ranker.runs(TARGETS[0], POOL, context)
    assert len(default) == 2 * MODELS * len(POOL)
    counts = Counter(name for spec in default if spec.kind == "pretrain" for name in spec.sessions)
    assert set(counts.values()) == {6}
    one = context.price(default[:4])  # two sets: a division
    context.budget = round(2.2 * one)
    some = ranker.runs(TARGETS[0], POOL, context)
    assert [spec.key for spec in some] == [spec.key for spec in default[:8]]
    assert context.price(some) <= context.budget
    context.budget = round(1.5 * one)
    with pytest.raises(UsageError, match=r"which pays for 2 models; need as many as sessions, 4, or more"):
        ranker.runs(TARGETS[0], POOL, context)


def test_the_largest_budget_does_not_train_without_end(context, monkeypatch):
    context.budget = 10**30
    monkeypatch.setattr(set_regression, "divisions", lambda *_: itertools.repeat(([("sim-00", "sim-01")] * 2, 10)))
    assert len(SetRegression().runs(TARGETS[0], POOL, context)) == 2 * MOST * len(POOL)


def test_a_pool_of_three_is_refused(context):
    with pytest.raises(UsageError, match=r"a pool of 3 sessions; need 4 or more"):
        SetRegression().runs(TARGETS[0], POOL[:3], context)


# Trained --------------------------------------------------------------------------------------------------------------


def ask(store, study, settings, heldout=TARGETS[:1]):
    options = {"preset": "tiny", "overrides": settings, "seeds": SEEDS, "on": "here", "to": study}
    return rank_many(open_store(store), list(heldout), method="set_regression", **options, pool=POOL)


@pytest.fixture(scope="module")
def asked(store, toy_settings, tmp_path_factory):
    study = tmp_path_factory.mktemp("regressed") / "study"
    return study, ask(store, study, toy_settings, TARGETS)


def test_the_document_and_its_cost(asked):
    study, found = asked
    for one in found:
        document = json.loads((ranking_folder(study, one.document) / "ranking.json").read_text())
        check_ranking(document, "set_regression")
        require_finite(document, "set_regression")
        assert sorted(one.order) == POOL and document["cost"]["runs"] == 24 and document["seeds"] == list(SEEDS)
        assert sum(one.scores.values()) == pytest.approx(0, abs=1e-9)
        assert all(row["low95"] < row["score"] < row["high95"] for row in document["rows"])
        assert "from 12 sets" in document["score_kind"] and "left out, " not in document["score_kind"]
        assert document["verdict"]["text"].startswith(f"{one.order[0]} ranks first")


def test_one_set_of_cores_serves_every_held_out_session(asked):
    study, (first, second) = asked
    added = [json.loads((ranking_folder(study, one.document) / "timing.json").read_text()) for one in (first, second)]
    assert all(one["added"]["by_kind"]["pretrain"]["runs"] == 12 for one in added)  # asked by both, and trained once
    kept = RunStore(study / "runs")
    assert Counter(kept.spec(key).kind for key in kept.keys()) == {"pretrain": 12, "finetune": 24}


def test_the_order_is_that_of_means_over_the_sets_that_hold_a_session(asked, store, toy_settings):
    """All six pairs, each with both seeds: inclusion is balanced, and a ridge only shrinks the plain means."""
    study, found = asked
    context = Context(open_store(store), preset("tiny", toy_settings), SEEDS, tuple(TARGETS), study, on="here")
    models = SetRegression()._models(TARGETS[0], POOL, context)
    score = [float(bits_per_spike(*gain_of(model.finetune, context.store))) for model in models]
    mean = {name: np.mean([s for s, m in zip(score, models, strict=True) if name in m.sessions]) for name in POOL}
    assert found[0].order == sorted(POOL, key=lambda name: -mean[name])


def test_stored_runs_are_used_and_the_bytes_are_the_same(asked, store, toy_settings):
    study, found = asked
    folder = ranking_folder(study, found[0].document)
    before = (folder / "ranking.json").read_bytes()
    (again,) = ask(store, study, toy_settings)
    assert json.loads((folder / "timing.json").read_text())["added"]["runs"] == 0
    assert again.document is not found[0].document and (folder / "ranking.json").read_bytes() == before


@pytest.fixture
def study(asked, tmp_path):
    """A copy of the study: what fails in a test is trained there, and nothing else."""
    return shutil.copytree(asked[0], tmp_path / "study")


def poison(monkeypatch, bad):
    """Make the pretrainings on these sets diverge."""
    real = set_regression.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if bad(ids) and len(ids) > 1:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e12})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(set_regression, "pretrain_spec", poisoned)


def test_a_failed_set_is_left_out_and_said(study, store, toy_settings, monkeypatch):
    poison(monkeypatch, lambda ids: set(ids) == {"sim-00", "sim-01"})
    (found,) = ask(store, study, toy_settings)
    assert sorted(found.order) == POOL and "from 10 sets" in found.document["score_kind"]
    assert found.document["score_kind"].count("left out, diverged: set of sim-00, sim-01, seed ") == 2


def test_a_session_in_no_finished_set_has_no_number(study, store, toy_settings, monkeypatch):
    poison(monkeypatch, lambda ids: "sim-02" in ids)
    (found,) = ask(store, study, toy_settings)
    (row,) = [row for row in found.document["rows"] if row["state"] != "done"]
    assert row["session"] == "sim-02" and row["score"] is None and row["state"] == "diverged"
    assert "sim-02" in row["reason"] and sorted(found.order) == ["sim-00", "sim-01", "sim-03"]


def test_where_nothing_finishes_there_is_a_document_that_says_so(study, store, toy_settings, monkeypatch):
    poison(monkeypatch, lambda ids: True)
    (found,) = ask(store, study, toy_settings)
    check_ranking(found.document, "set_regression")
    assert found.order == [] and "could be ranked" in found.document["verdict"]["text"]
    assert all(row["state"] == "diverged" and row["reason"] for row in found.document["rows"])
