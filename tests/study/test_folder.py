"""A folder of another study is refused in one answer with all else that is wrong, by plans too; nothing is written."""

import pytest

from sessionwise.errors import LeakageError, Problems, UsageError
from sessionwise.study import dry_run
from sessionwise.study.dry_run import plan_recipe
from sessionwise.study.recipe import make_recipe
from sessionwise.study.scaling import prepare
from sessionwise.study.timing import Timing
from sessionwise.study.tuning import make_tuning, plan_tuning
from sessionwise.study.tuning import prepare as prepare_tuning

HELDOUT = "sim-heldout-0"


def recipe(heldout=(HELDOUT,), **data):
    study = {"seeds": [10], "sizes": [1, "all"], "top": 1, "shuffles": 1}
    return make_recipe({"preset": "tiny", "data": {"heldout": list(heldout), **data}, "study": study})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dry_run, "measure", lambda *_args, **_more: Timing(0.01, 0.01, 0.001, 1, 12, 10))


def listing(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def used(toy_store, tmp_path):
    """The folder of a study, with a foreign file in it."""
    prepare(recipe(), tmp_path / "s", toy_store)
    (tmp_path / "s" / "thesis.txt").write_text("precious")
    return tmp_path / "s"


@pytest.mark.parametrize("how", ["run", "plan"])
def test_another_study_foreign_files_and_bad_sessions_come_in_one_answer_leakage_first(used, toy_store, how, quick):
    wrong = recipe([HELDOUT, "nobody"], pool=["sim-00", HELDOUT])
    before = listing(used)
    with pytest.raises(Problems) as caught:
        prepare(wrong, used, toy_store) if how == "run" else plan_recipe(wrong, used, toy_store)
    assert isinstance(caught.value.problems[0], LeakageError)
    for part in ("holds study", "'thesis.txt'", "'nobody' is not in the store", "LEAK"):
        assert part in str(caught.value), part
    assert listing(used) == before


def test_a_plan_for_a_folder_in_a_store_is_refused(toy_store, quick):
    with pytest.raises(UsageError, match=r"is \(in\) a store"):
        plan_recipe(recipe(), toy_store / "study", toy_store)
    assert plan_recipe(recipe(), None, toy_store).total.most > 0


def test_a_plan_from_a_manifest_is_refused_as_well(tmp_path, quick):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds 'thesis\.txt'"):
        plan_recipe(recipe([], manifest="repeated_site"), tmp_path)


def test_nothing_is_simulated_in_a_folder_of_another_study(used):
    simulated = make_recipe({"preset": "tiny", "data": {"simulate": {"n_sessions": 3}}, "study": {"sizes": [1, "all"]}})
    before = listing(used)
    with pytest.raises(Problems, match="holds study"):
        prepare(simulated, used)
    assert listing(used) == before


@pytest.mark.parametrize("how", ["run", "plan"])
def test_a_search_for_settings_says_both_too(used, toy_store, how):
    search = make_tuning(
        {
            "preset": "tiny",
            "data": {"heldout": [HELDOUT]},
            "tuning": {"seeds": [10], "single": 99, "set_size": 0, "grid": {"train.lr": [0.001, 0.002]}},
        }
    )
    with pytest.raises(Problems) as caught:
        prepare_tuning(search, used, toy_store) if how == "run" else plan_tuning(search, used, toy_store)
    for part in ("holds study", "'thesis.txt'", "99 of 4 sessions"):
        assert part in str(caught.value), part
