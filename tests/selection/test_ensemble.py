"""The ensemble: weights on synthetic scores of known make, and end to end that a session's own scores take no part."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy.optimize import minimize

from sessionwise.analysis.summary import check_ranking, require_finite
from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.selection import ensemble, rankers, ranking
from sessionwise.selection.ensemble import MEMBERS, Ensemble, Lesson, learn, residual_variance
from sessionwise.selection.rankers import rank_many
from sessionwise.selection.ranking import ranking_folder
from sessionwise.selection.scored import standard

pytestmark = pytest.mark.usefixtures("no_pictures")

POOL, TARGETS = [f"sim-0{i}" for i in range(4)], [f"sim-heldout-{i}" for i in range(3)]
M = len(MEMBERS)


def lessons(rng, weights, n_lessons=4, n_candidates=20, noise=0.5):
    """Standardised members (correlated by .3) and scores that are their weighted sum and noise."""
    found = []
    for _ in range(n_lessons):
        common = rng.standard_normal((n_candidates, 1))
        members = np.sqrt(0.3) * common + np.sqrt(0.7) * rng.standard_normal((n_candidates, M))
        members = np.apply_along_axis(standard, 0, members)
        found.append(Lesson(members, members @ np.array(weights) + noise * rng.standard_normal(n_candidates)))
    return found


# Weights --------------------------------------------------------------------------------------------------------------


def test_weights_are_the_closed_form_of_ridge_towards_equal_ones():
    found = lessons(np.random.default_rng(0), [0.4, 0.2, 0.3, 0.5])
    x, y = np.concatenate([one.members for one in found]), np.concatenate([one.score for one in found])
    pull = ensemble.PULL * 20
    expected = np.linalg.solve(x.T @ x + pull * np.eye(M), x.T @ y + pull / M)
    assert (expected > 0).all() and learn(found) == pytest.approx(expected)


def test_no_weight_is_negative_and_the_others_are_the_best_then():
    found = lessons(np.random.default_rng(1), [0.9, -0.6, 0.3, 0.0])
    x, y = np.concatenate([one.members for one in found]), np.concatenate([one.score for one in found])

    def loss(w):
        return ((y - x @ w) ** 2).sum() + ensemble.PULL * 20 * ((w - 1 / M) ** 2).sum()

    expected = minimize(loss, np.full(M, 0.5), bounds=[(0, None)] * M, tol=1e-12).x
    assert learn(found) == pytest.approx(expected, abs=1e-4) and learn(found)[1] == 0


def test_many_lessons_recover_the_weights():
    truth = [0.1, 0.0, 0.3, 0.6]
    assert learn(lessons(np.random.default_rng(2), truth, 300)) == pytest.approx(truth, abs=0.05)


def test_a_useless_member_gets_no_more_than_the_pull():
    """With n lessons a weight of nothing is pulled at most 1/(n + 1) of the way to 1/M, on average."""
    for n_lessons in (2, 4, 8):
        rng = np.random.default_rng(3)
        found = [learn(lessons(rng, [0.6, 0.0, 0.3, 0.5], n_lessons))[1] for _ in range(200)]
        assert np.mean(found) < 1.3 / (n_lessons * 0.7 + 1) / M  # correlated by .3: .7 is what a member has of its own


def test_without_anything_to_learn_weights_are_equal():
    nothing = [Lesson(np.zeros((5, M)), np.zeros(5))] * 2
    assert learn(nothing) == pytest.approx(np.full(M, 1 / M))


def test_learned_weights_beat_equal_ones_where_members_differ_and_lose_little_where_they_do_not():
    def error(truth, n_lessons):
        rng, errors = np.random.default_rng(4), []
        for _ in range(200):
            *past, new = lessons(rng, truth, n_lessons + 1)
            equal = np.full(M, np.mean(truth))  # with the best scale that equal weights can have
            errors.append([((new.score - new.members @ w) ** 2).mean() for w in (learn(past), equal)])
        return np.mean(errors, axis=0)

    learned, equal = error([0.8, 0.0, 0.0, 0.3], 2)
    assert learned < 0.8 * equal
    learned, equal = error([0.25] * 4, 2)
    assert learned < 1.1 * equal


def test_the_residual_is_that_on_sessions_that_were_left_out():
    rng = np.random.default_rng(5)
    a, b = lessons(rng, [0.5, 0.1, 0.1, 0.4], 2)
    by_hand = [((x.score - x.members @ learn([y])) ** 2).mean() for x, y in ((a, b), (b, a))]
    assert residual_variance([a, b]) == pytest.approx(np.mean(by_hand))
    found = [residual_variance(lessons(rng, [0.3] * 4, 3, noise=0.7)) for _ in range(200)]
    assert 0.49 < np.mean(found) < 0.49 * 1.3  # the noise, and something for weights from two lessons


# End to end -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(make_pool):
    return make_pool(4, 3)


def ask(store, study, settings, heldout=TARGETS, method="ensemble"):
    options = {"preset": "tiny", "overrides": settings, "seeds": (10, 20), "on": "here", "to": study}
    return rank_many(open_store(store), list(heldout), method=method, **options)


def written(study, found):
    return (ranking_folder(study, found.document) / "ranking.json").read_bytes()


@pytest.fixture(scope="module")
def asked(store, toy_settings, tmp_path_factory):
    study = tmp_path_factory.mktemp("ensemble") / "study"
    settings = {**toy_settings, "model.width": 16, "model.token_width": 16, "model.feedforward": 16}  # to be halved
    return study, settings, ask(store, study, settings)


@pytest.fixture
def study(asked, tmp_path):
    """A copy of the study, whose rankings a test may replace."""
    return shutil.copytree(asked[0], tmp_path / "study")


def test_every_session_is_ranked_with_the_weights_in_the_document(asked):
    study, settings, found = asked
    for one, target in zip(found, TARGETS, strict=True):
        document = json.loads(written(study, one))
        check_ranking(document, "ensemble")
        require_finite(document, "ensemble")
        assert sorted(one.order) == POOL and document["heldout"] == target
        assert all(row["low95"] < row["score"] < row["high95"] for row in document["rows"])
        terms = re.findall(r"(\d\.\d\d) ([a-z_ ]+?)(?: \+|,)", document["score_kind"])
        assert [member for _, member in terms] == list(MEMBERS)
        others = ", ".join(name for name in TARGETS if name != target)
        assert f"weights learned on {others} against" in document["score_kind"]
        by_kind = document["cost"]["by_kind"]  # small cores for three, the full procedure for two; seeds 10 and 20
        assert by_kind["pretrain"]["runs"] == 2 * 4 * 2 and by_kind["finetune"]["runs"] == 2 * 4 * (3 + 2)
        assert document["settings"]["model"]["width"] == settings["model.width"]


def test_the_score_is_the_weighted_sum_of_the_rankers_it_names(asked, study, store):
    """From the members' own rankings, and weights learned by hand from full's rankings of the others."""
    _, settings, found = asked
    names = ("latent_distance", "trials", "quality", "small_proxy", "full")
    scores = {name: [one.scores for one in ask(store, study, settings, method=name)] for name in names}

    def column(name, at):
        values = np.array([scores[name][at][session] for session in POOL])
        return standard(np.log(values) if name == "trials" else values)

    members = [np.stack([column(name, at) for name in names[:4]], axis=1) for at in range(3)]
    for at, one in enumerate(found):
        others = [Lesson(members[i], column("full", i)) for i in range(3) if i != at]
        expected = dict(zip(POOL, members[at] @ learn(others), strict=True))
        assert one.scores == pytest.approx(expected, abs=1e-9)


def test_own_transfer_scores_take_no_part(asked, study, store, monkeypatch):
    """Other full scores for the first held-out session: its ranking stays, those that learn from it change."""
    _, settings, found = asked
    real, asked_for = ensemble.gains_of, set()

    def changed(plan, runs, names):
        gains, spikes = real(plan, runs, names)
        if plan.settings.model.width == settings["model.width"]:
            asked_for.add(plan.heldout)
            if plan.heldout == TARGETS[0]:
                gains = gains + 10.0 * np.arange(len(gains))[:, None, None]
        return gains, spikes

    monkeypatch.setattr(ensemble, "gains_of", changed)
    again = ask(store, study, settings)
    assert asked_for == set(TARGETS)
    assert again[0].document == found[0].document
    assert again[1].scores != found[1].scores and again[2].scores != found[2].scores


def test_full_runs_of_the_held_out_session_are_not_even_asked_for(asked, store, tmp_path):
    sessions = open_store(store)
    _, settings, _ = asked
    context = rankers.Context(sessions, rankers.asked_settings("tiny", settings)[0], (10,), tuple(TARGETS), tmp_path)
    runs = Ensemble().runs(TARGETS[0], POOL, context)
    width = settings["model.width"]
    tuned = [spec for spec in runs if spec.kind == "finetune" and TARGETS[0] in spec.sessions]
    assert len(tuned) == 4 and all(spec.settings["model"]["width"] < width for spec in tuned)
    assert not any(spec.kind == "pretrain" and set(TARGETS) & spec.sessions.keys() for spec in runs)


def test_the_same_runs_give_the_same_bytes_and_nothing_is_repeated(asked, store):
    study, settings, found = asked
    before = [written(study, one) for one in found]
    again = ask(store, study, settings, TARGETS[::-1])[::-1]
    assert [written(study, one) for one in again] == before
    added = json.loads((ranking_folder(study, again[0].document) / "timing.json").read_text())["added"]
    assert added["runs"] == 0


def test_too_few_others_are_refused(store, toy_settings, tmp_path):
    with pytest.raises(UsageError, match=r"1 other held-out session to.*two or more others.*zero_training"):
        ask(store, tmp_path, toy_settings, TARGETS[:2])
    with pytest.raises(UsageError, match="0 other held-out sessions"):
        ask(store, tmp_path, toy_settings, TARGETS[:1])


def poison(monkeypatch, lost, width):
    """Pretrainings of these sessions with cores of this width diverge."""
    real = ranking.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if set(ids) & set(lost) and settings.model.width == width:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e12})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(ranking, "pretrain_spec", poisoned)


def test_a_failed_small_core_is_a_row_without_a_number(asked, study, store, monkeypatch):
    _, settings, _ = asked
    poison(monkeypatch, ["sim-01"], settings["model.width"] // 2)
    for found in ask(store, study, settings):
        (row,) = [row for row in found.document["rows"] if row["state"] != "done"]
        assert row["session"] == "sim-01" and row["score"] is None and row["reason"].startswith("seed 10: ")
        assert sorted(found.order) == ["sim-00", "sim-02", "sim-03"]


def test_a_failed_full_core_is_left_out_of_the_lessons_and_ranked(asked, study, store, monkeypatch):
    _, settings, before = asked
    poison(monkeypatch, ["sim-01"], settings["model.width"])
    found = ask(store, study, settings)
    assert all(sorted(one.order) == POOL for one in found)
    assert found[0].scores != before[0].scores


def test_without_lessons_nobody_has_a_number(asked, study, store, monkeypatch):
    _, settings, _ = asked
    poison(monkeypatch, POOL, settings["model.width"])
    for found in ask(store, study, settings):
        check_ranking(found.document, "ensemble")
        assert found.order == [] and all("0 of 2 other" in row["reason"] for row in found.document["rows"])
