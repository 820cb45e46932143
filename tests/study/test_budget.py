"""A budget in shares, steps or time becomes operations; time is measured once and read from then on."""

import pytest

from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import make_plan
from sessionwise.study import budget
from sessionwise.study.budget import operations_per_second, parse_budget, settle_budget
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
