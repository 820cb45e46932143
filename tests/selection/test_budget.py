"""A budget in shares, steps or time becomes operations; time is measured once and read from then on."""

import pytest

from sessionwise.data.store import open_store
from sessionwise.errors import Problems, UsageError
from sessionwise.runs.verify import verify_study
from sessionwise.selection import budget
from sessionwise.selection.budget import operations_per_second, parse_budget, settle_budget
from sessionwise.selection.context import Context
from sessionwise.selection.rankers import rank
from sessionwise.selection.ranking import make_plan, ranking_folder
from sessionwise.training.operations import operations
from sessionwise.training.presets import preset

HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def sessions(toy_store):
    return open_store(toy_store)


@pytest.fixture(scope="module")
def settings(toy_settings):
    return preset("tiny", toy_settings)


@pytest.fixture(scope="module")
def full(sessions, settings):
    return make_plan(sessions, HELDOUT, ["sim-00", "sim-01"], settings, (10, 20)).specs


def context(sessions, settings, on):
    return Context(sessions, settings, (10, 20), (HELDOUT,), sessions.path.parent / "study", on)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10%", ("share", 0.1)),
        (" 12.5 % ", ("share", 0.125)),
        ("5000-steps", ("steps", 5000)),
        ("1 step", ("steps", 1)),
        ("2h", ("seconds", 7200)),
        ("30min", ("seconds", 1800)),
        ("90s", ("seconds", 90)),
        ("1.5H", ("seconds", 5400)),
    ],
)
def test_what_is_understood(text, found):
    assert parse_budget(text) == (found[0], pytest.approx(found[1]))


@pytest.mark.parametrize("text", ["", "10", "%", "-5%", "0%", "0h", "2 fortnights", "ten%", "1e3-steps", "nan%"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"--budget.*10%.*For example"):
        parse_budget(text)


def test_shares_and_steps_are_of_the_full_procedure(sessions, settings, full, tmp_path):
    how = (full, HELDOUT, tmp_path, context(sessions, settings, "here"))
    whole = sum(operations(spec, {name: sessions.info(name) for name in spec.sessions}) for spec in full)
    half = settle_budget("50%", *how)
    assert half.full_operations == whole and half.operations == pytest.approx(whole / 2, abs=1)
    steps = sum(spec.steps for spec in full)
    assert settle_budget(f"{steps}-steps", *how).operations == pytest.approx(whole)
    assert not list(tmp_path.iterdir())  # nothing to remember


def test_time_is_measured_once(sessions, settings, full, tmp_path, monkeypatch):
    how = (full, HELDOUT, tmp_path / "answer", context(sessions, settings, "processes:2"))
    monkeypatch.setattr(budget, "operations_per_second", lambda *_: 1e6)
    first = settle_budget("1h", *how)
    assert first.operations == pytest.approx(3600 * 2 * 1e6 * budget.OVERHEAD)
    monkeypatch.setattr(budget, "operations_per_second", lambda *_: 5e6)  # another mood of the machine
    assert settle_budget("1h", *how) == first


def test_the_measurement_trains_and_leaves_nothing(sessions, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert operations_per_second(sessions, HELDOUT, settings) > 0
    assert not list(tmp_path.glob("sessionwise-*"))  # torch makes a cache of its own there


# A ranking within a budget --------------------------------------------------------------------------------------------


def asked(sessions, toy_settings, study, method, budget, **changes):
    how = {"preset": "tiny", "seeds": (10, 20), "overrides": toy_settings, "to": study, "on": "here", **changes}
    return rank(sessions, HELDOUT, method=method, budget=budget, **how).document


@pytest.mark.usefixtures("no_pictures")
def test_halving_stays_within_its_budget_and_says_what_it_spent(sessions, toy_settings, tmp_path):
    free = asked(sessions, toy_settings, tmp_path, "halving", None)
    assert "budget" not in free
    found = asked(sessions, toy_settings, tmp_path, "halving", "45%")
    spent, limit = found["cost"]["operations"], found["budget"]["operations"]
    assert spent <= limit < free["cost"]["operations"]
    assert found["budget"]["asked"] == "45%" and found["budget"]["spent_operations"] == spent
    assert found["budget"]["share"] == spent / found["budget"]["full_operations"] <= 0.45
    assert found["stages"][-1]["stop"] or any(left["reason"] == "budget" for s in found["stages"] for left in s["left"])
    assert ranking_folder(tmp_path, free) != ranking_folder(tmp_path, found)
    assert verify_study(tmp_path).problems == []


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", ["full", "small_proxy", "halving", "set_regression"])
def test_a_budget_below_the_method_is_refused_before_anything_is_trained(sessions, toy_settings, tmp_path, method):
    with pytest.raises(UsageError, match=r"operations") as refused:
        asked(sessions, toy_settings, tmp_path, method, "2%")
    assert "--budget" in str(refused.value) or "budget of" in str(refused.value)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.usefixtures("no_pictures")
def test_what_trains_nothing_fits_any_budget(sessions, toy_settings, tmp_path):
    found = asked(sessions, toy_settings, tmp_path, "quality", "1-step")
    assert found["budget"]["share"] == 0 and found["cost"]["runs"] == 0


@pytest.mark.usefixtures("no_pictures")
def test_time_is_kept_beside_the_rankings(sessions, toy_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "operations_per_second", lambda *_: 1e9)
    first = asked(sessions, toy_settings, tmp_path, "quality", "1h")["budget"]["operations"]
    monkeypatch.setattr(budget, "operations_per_second", lambda *_: 5e9)
    assert asked(sessions, toy_settings, tmp_path, "trials", "1 h")["budget"]["operations"] == first
    assert len(list(tmp_path.glob("rankings/*/budget-*/budget.json"))) == 1
    assert verify_study(tmp_path).problems == []


def test_a_budget_that_is_none_is_named_beside_other_problems(sessions, toy_settings, tmp_path):
    with pytest.raises(Problems) as refused:
        asked(sessions, toy_settings, tmp_path, "full", "ten", seeds=(10, 10))
    assert {problem.where for problem in refused.value.problems} == {"--budget", "--seeds"}
