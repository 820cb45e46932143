"""Every ranker on a toy store: one document, stored runs used again, test trials sealed, and orders derived by hand."""

import inspect
import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from sessionwise import cli
from sessionwise.analysis.activity import kernels, similarity
from sessionwise.analysis.report import report_of_study, write_report
from sessionwise.analysis.summary import GUESSED, check_ranking, require_finite, summarise
from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import UsageError
from sessionwise.selection import controls, plugins, rankers, ranking
from sessionwise.selection.rankers import find_ranker, rank, rank_many
from sessionwise.selection.ranking import ranking_folder
from sessionwise.selection.sets import random_order
from sessionwise.training.presets import preset

pytestmark = pytest.mark.usefixtures("no_pictures")

HELDOUT, OTHER = "sim-heldout-0", "sim-03"
TRAINED = ("full", "short", "small_proxy", "full_shrunk", "small_shrunk")
FREE = ("latent_distance", "quality", "zero_training", "trials", "random")
METHODS = (*TRAINED, *FREE, "own_score", "other_targets")
ELSEWHERE = ("halving", "set_regression", "matrix_completion", "ensemble")  # they have tests of their own


def ask(store, study, settings, method, heldout=(HELDOUT, OTHER), seeds=(10, 20)):
    options = {"preset": "tiny", "overrides": settings, "seeds": seeds, "on": "here", "to": study}
    return rank_many(open_store(store), list(heldout), method=method, **options)


@pytest.fixture(scope="module")
def asked(toy_store, toy_settings, tmp_path_factory):
    """Every method in one study."""
    study = tmp_path_factory.mktemp("every") / "study"
    settings = {**toy_settings, "finetune.steps": 40}  # so that a quarter is enough for a training
    return study, {method: ask(toy_store, study, settings, method) for method in METHODS}


def timing(study, found):
    return json.loads((ranking_folder(study, found.document) / "timing.json").read_text())


def test_all_are_known_by_name():
    assert set(rankers.rankers()) == {*METHODS, *ELSEWHERE} and all(rankers.rankers().values())
    asked = inspect.getsource(cli.rank_command)  # the help lists them without loading any
    for method in (*METHODS, *ELSEWHERE):
        assert find_ranker(method).name == method and re.search(rf"\b{method}\b", asked)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_kind_of_document(asked, method):
    study, found = asked
    for one, heldout in zip(found[method], (HELDOUT, OTHER), strict=True):
        document = json.loads((ranking_folder(study, one.document) / "ranking.json").read_text())
        check_ranking(document, method)
        require_finite(document, method)
        assert document["method"] == method and document["heldout"] == heldout
        assert sorted(one.order) == ["sim-00", "sim-01", "sim-02"] and len(document["rows"]) == 3
        assert [row["rank"] for row in document["rows"]] == [1, 2, 3]
        scores = [row["score"] for row in document["rows"]]
        assert scores == sorted(scores, reverse=True)
        assert document["cost"]["runs"] == {"full": 16, "own_score": 6}.get(
            method, 12 if method in (*TRAINED, "other_targets") else 0
        )


def test_what_is_stored_is_not_computed_again(asked):
    study, found = asked
    added = {method: timing(study, found[method][0])["added"] for method in METHODS}
    assert added["full"]["runs"] == 16 and added["small_proxy"]["by_kind"]["pretrain"]["runs"] == 6
    assert added["short"]["by_kind"].keys() == {"finetune"}
    assert added["own_score"]["runs"] == added["other_targets"]["runs"] == added["random"]["runs"] == 0


def test_short_has_the_cores_of_full_and_a_quarter_of_the_finetuning(asked):
    _, found = asked
    full, short = found["full"][0].document, found["short"][0].document
    assert short["cost"]["by_kind"]["pretrain"] == full["cost"]["by_kind"]["pretrain"]
    assert short["settings"]["finetune"]["steps"] == 10 and full["settings"]["finetune"]["steps"] == 40
    assert short["baseline"] is None and short["verdict"]["text"]


def test_the_small_proxy_has_about_a_quarter_of_the_weights():
    settings = preset("small")
    smaller = find_ranker("small_proxy").settings(settings)
    assert (smaller.model.width, smaller.model.feedforward, smaller.model.token_width) == (48, 96, 48)
    assert smaller.train == settings.train and smaller.finetune == settings.finetune


def test_shrunk_rankings_are_made_of_the_same_runs(asked):
    study, found = asked
    for method, same in (("full_shrunk", "full"), ("small_shrunk", "small_proxy")):
        one, other = found[method][0].document, found[same][0].document
        assert {row["session"]: row["measured"] for row in one["rows"]} == pytest.approx(found[same][0].scores)
        assert timing(study, found[method][0])["added"]["runs"] == 0
        assert one["cost"]["by_kind"]["pretrain"] == other["cost"]["by_kind"]["pretrain"]
        spread = [np.ptp(list(ranking.scores.values())) for ranking in (found[method][0], found[same][0])]
        assert spread[0] < spread[1]  # shrunk together, never apart
        assert "taken as true" in one["score_kind"] and one["noise_guessed"] is False


def test_with_one_seed_the_noise_of_a_shrunk_ranking_is_a_guess_and_said_to_be(toy_store, toy_settings, tmp_path):
    (found,) = ask(toy_store, tmp_path / "study", toy_settings, "small_shrunk", (HELDOUT,), seeds=(10,))
    assert found.document["noise_guessed"] is True and summarise(found.document)["one_seed"] == GUESSED


def test_pages_say_whether_a_core_was_tried(asked, tmp_path):
    _, found = asked
    for method, tried in (("quality", False), ("small_shrunk", True)):
        write_report(tmp_path / method, [found[method][0].document])
        page = (tmp_path / method / "index.html").read_text()
        assert ("No core was tried on the held-out session: there is no noise ceiling" in page) is not tried
        assert ("No noise ceiling: these scores are not the means of single seeds" in page) is tried


def test_the_scores_of_others_are_their_standardised_mean(asked):
    _, found = asked
    full, others = found["full"], found["other_targets"]
    for target, other in ((0, 1), (1, 0)):
        scores = full[other].scores
        mean, sd = np.mean(list(scores.values())), np.std(list(scores.values()))
        assert others[target].scores == pytest.approx({name: (value - mean) / sd for name, value in scores.items()})
        assert others[target].order == full[other].order
        behind = others[target].document["provenance"]["sessions"]  # which is also what the folder is named after
        assert {full[0].heldout, full[1].heldout, "sim-00"} <= behind.keys()


def test_the_own_score_is_that_of_the_core_on_its_session(asked):
    _, found = asked
    own = {row["session"]: row["own_score"] for row in found["full"][0].document["rows"]}
    assert found["own_score"][0].scores == pytest.approx(own)
    assert all(row["rank_low"] <= row["rank"] <= row["rank_high"] for row in found["own_score"][0].document["rows"])


def test_trials_and_lots(asked, toy_store):
    _, found = asked
    sessions = open_store(toy_store)
    by_trials = sorted(found["trials"][0].order, key=lambda name: -len(sessions.load(name, 0).split.train))
    assert found["trials"][0].order == by_trials
    assert found["random"][0].order == random_order(["sim-00", "sim-01", "sim-02"], 0, 0)
    for row in found["random"][0].document["rows"]:
        assert (row["rank_low"], row["rank_high"]) == (1, 3) and (row["low95"], row["high95"]) == (1.0, 3.0)
    assert found["random"][0].order == found["random"][1].order  # lots do not look at the held-out session


def test_similarity_is_of_trials_that_may_be_seen(asked, toy_store):
    _, found = asked
    sessions = open_store(toy_store)

    def seen(name):
        data = sessions.load(name, 0)
        return kernels(np.concatenate([data.counts("train"), data.counts("validation")]))

    expected = {name: similarity(seen(HELDOUT), seen(name)) for name in ("sim-00", "sim-01", "sim-02")}
    assert found["latent_distance"][0].scores == pytest.approx(expected)


def test_zero_training_weighs_both_equally(asked):
    _, found = asked
    alike, good, both = (found[name][0].scores for name in ("latent_distance", "quality", "zero_training"))

    def standard(scores):
        values = np.array([scores[name] for name in sorted(scores)])
        return (values - values.mean()) / values.std()

    expected = (standard(alike) + np.array([good[name] for name in sorted(good)])) / 2
    # The mean of four standardised measures is used as one: standardised again, so that both have one vote.
    assert [both[name] for name in sorted(both)] != pytest.approx(expected)
    expected = (standard(alike) + standard(good)) / 2
    assert [both[name] for name in sorted(both)] == pytest.approx(expected)


@pytest.mark.parametrize("method", FREE)
def test_what_trains_nothing_sees_no_test_trial(toy_store, toy_settings, tmp_path, method):
    """S2: all test trials replaced by garbage, the same bytes."""
    sessions, garbage = open_store(toy_store), create_store(tmp_path / "store")
    rng = np.random.default_rng(0)
    for name in sessions.ids:
        session = sessions.session(name)
        counts = np.array(session.counts)
        test = make_split(name, session.trial_ids, 0).test
        counts[test] = rng.poisson(5.0, counts[test].shape)
        more = {"trial_ids": session.trial_ids, "subject": session.subject}
        garbage.add(make_session(name, counts, session.bin_s, session.window_s, **more))
    one = ask(toy_store, tmp_path / "one", toy_settings, method, [HELDOUT])[0]
    two = ask(tmp_path / "store", tmp_path / "two", toy_settings, method, [HELDOUT])[0]
    assert one.scores == two.scores and [row["p_top"] for row in one.document["rows"]] == [
        row["p_top"] for row in two.document["rows"]
    ]


def test_a_score_does_not_depend_on_who_else_is_in_the_pool(toy_store, toy_settings, tmp_path):
    sessions = open_store(toy_store)
    options = {"preset": "tiny", "overrides": toy_settings, "to": tmp_path, "method": "latent_distance"}
    small, large = (rank(sessions, HELDOUT, pool=pool, **options) for pool in (["sim-02", "sim-00"], None))
    assert {name: large.scores[name] for name in small.order} == small.scores


def test_the_report_shows_them_all(asked):
    study, _ = asked
    page = report_of_study(study).read_text()
    assert page.count("similarity of activity") > 2 and "None" not in page.split("<script")[0]
    assert "nothing here says by how much pretraining on it helps" in page


def test_a_page_without_bits_per_spike_does_not_speak_of_them(toy_store, toy_settings, tmp_path):
    ask(toy_store, tmp_path, toy_settings, "trials", [HELDOUT])
    page = report_of_study(tmp_path).read_text().split("<script")[0]
    assert "training trials" in page and "bits per spike" not in page


def test_a_failed_pretraining_is_a_row(toy_store, toy_settings, tmp_path, monkeypatch):
    real = ranking.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if list(ids) == ["sim-01"]:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e12})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(ranking, "pretrain_spec", poisoned)
    for method in ("own_score", "other_targets"):
        found = ask(toy_store, tmp_path, toy_settings, method)[0]
        (row,) = [row for row in found.document["rows"] if row["state"] != "done"]
        assert row["session"] == "sim-01" and row["score"] is None and row["reason"]
        assert sorted(found.order) == ["sim-00", "sim-02"]


def test_others_need_another_one(toy_store, toy_settings, tmp_path):
    with pytest.raises(UsageError, match="only held-out session; need two or more"):
        ask(toy_store, tmp_path, toy_settings, "other_targets", [HELDOUT])


def test_an_unknown_method_is_told_with_what_else_is_wrong(toy_store, toy_settings, tmp_path):
    with pytest.raises(UsageError, match=r"unknown method 'shrot'.*Did you mean 'short'"):
        ask(toy_store, tmp_path, toy_settings, "shrot", [HELDOUT])
    with pytest.raises(Exception, match=r"(?s)unknown method.*nobody"):
        ask(toy_store, tmp_path, toy_settings, "shrot", ["nobody"])


def test_the_page_names_every_method_and_its_example_works(toy_store, toy_settings, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "rankers.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [
        *(
            "full",
            "short",
            "small_proxy",
            "full_shrunk",
            "small_shrunk",
            "halving",
            "set_regression",
            "latent_distance",
            "quality",
            "zero_training",
        ),
        *("matrix_completion", "ensemble"),
        *("own_score", "other_targets", "trials", "random"),
    ]
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), names)
    monkeypatch.setattr(rankers, "_OURS", (*rankers._OURS, names["Units"]))
    found = ask(toy_store, tmp_path, toy_settings, "units", [HELDOUT])[0]
    sessions = open_store(toy_store)
    assert found.scores == {name: sessions.info(name).n_units for name in found.order}


class Mine(controls.Trials):
    """A ranker of somebody else."""

    name = "mine"


def test_a_ranker_of_another_package_is_found(toy_store, toy_settings, tmp_path, monkeypatch):
    mine = EntryPoint("mine", f"{__name__}:Mine", rankers.GROUP)
    broken = EntryPoint("broken", "no_such_module:Ranker", rankers.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [mine, broken])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Mine if self.name == "mine" else __import__("no_such_module"))
    assert "mine" in rankers.rankers()
    assert ask(toy_store, tmp_path, toy_settings, "mine", [HELDOUT])[0].document["method"] == "mine"
    with pytest.raises(UsageError, match="broken: no_such_module:Ranker cannot be loaded"):
        find_ranker("broken")


def test_the_draws_of_a_similarity_lie_around_it(asked):
    _, found = asked
    for one in found["latent_distance"]:
        assert all(row["low95"] < row["score"] < row["high95"] for row in one.document["rows"])
