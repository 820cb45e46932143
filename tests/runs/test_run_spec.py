"""The identity of a run: what is in the key and what is not."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionwise.errors import UsageError
from sessionwise.runs.spec import RunSpec, is_key

NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
SETTINGS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
TEXTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=4)
KEYS = st.dictionaries(st.text(max_size=4), st.text("0123456789abcdef", min_size=64, max_size=64), max_size=3)
FIELDS = st.fixed_dictionaries({"settings": SETTINGS, "sessions": TEXTS, "inputs": KEYS, "seed": st.integers(0, 99)})


def spec(**changes: Any) -> RunSpec:
    fields = {"settings": {"lr": 1e-3}, "sessions": {"a": "h1"}, "inputs": {"core": "a" * 64}, "seed": 10}
    return RunSpec("finetune", **{**fields, **changes})


def backwards(value: Any) -> Any:
    """The same value with every mapping in the opposite order and every list as a tuple."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return tuple(backwards(item) for item in value) if isinstance(value, list) else value


def test_the_key_is_the_hash_of_the_identity_and_never_changes():
    one = RunSpec("pretrain", {"lr": 1e-3, "steps": 5.0}, {"a": "h1"}, {}, 10, schema=1)
    text = (
        '{"inputs":{},"kind":"pretrain","schema":1,"seed":10,"sessions":{"a":"h1"},"settings":{"lr":0.001,"steps":5}}'
    )
    assert one.key == hashlib.sha256(text.encode()).hexdigest()
    assert is_key(one.key) and not is_key(one.key[:-1]) and not is_key("../" + one.key[3:])


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_order_and_what_does_not_matter_leave_the_key(fields):
    one = RunSpec("pretrain", **fields)
    other = RunSpec("pretrain", **backwards(fields), where={"store": "/elsewhere"}, label="another", steps=7)
    assert one.key == other.key and one == other and hash(one) == hash(other)
    assert json.dumps(one.identity(), sort_keys=True) == json.dumps(other.identity(), sort_keys=True)


@settings(max_examples=60, deadline=None)
@given(SETTINGS, SETTINGS)
def test_other_settings_are_another_run(one, other):
    same = json.dumps(RunSpec("a", one).settings, sort_keys=True) == json.dumps(
        RunSpec("a", other).settings, sort_keys=True
    )
    assert (RunSpec("a", one).key == RunSpec("a", other).key) == same


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"lr": 2e-3}},
        {"settings": {"lr": 1e-3, "wd": 0}},
        {"settings": {"lr": "0.001"}},
        {"settings": {"lr": None}},
        {"sessions": {"a": "h2"}},
        {"sessions": {"b": "h1"}},
        {"sessions": {"a": "h1", "b": "h1"}},
        {"inputs": {"core": "b" * 64}},
        {"inputs": {"stitcher": "a" * 64}},
        {"inputs": {}},
        {"seed": 11},
        {"schema": 99},
    ],
)
def test_each_field_that_matters_changes_the_key(changes):
    assert spec(**changes).key != spec().key
    assert RunSpec("pretrain", spec().settings).key != RunSpec("finetune", spec().settings).key


def test_equal_numbers_have_one_form_and_true_is_not_one():
    assert spec(settings={"x": 2.0}).key == spec(settings={"x": 2}).key
    assert spec(settings={"x": -0.0}).key == spec(settings={"x": 0}).key
    assert spec(settings={"x": 0.1 + 0.2}).key != spec(settings={"x": 0.3}).key
    assert spec(settings={"x": True}).key != spec(settings={"x": 1}).key
    assert spec(settings={"x": 1e300}).settings["x"] == 1e300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", object(), {1: "a"}, [1, {"a": {2}}]])
def test_what_json_cannot_hold_is_refused_by_name(value):
    with pytest.raises(UsageError, match="lr"):
        spec(settings={"lr": value})


@pytest.mark.parametrize(
    "changes",
    [{"seed": -1}, {"seed": True}, {"seed": 1.0}, {"steps": -1}, {"inputs": {"core": "x"}}, {"sessions": {"a": 3}}],
)
def test_wrong_types_are_refused(changes):
    with pytest.raises(UsageError):
        spec(**changes)
    with pytest.raises(UsageError):
        RunSpec("two words", {})


def test_values_are_copies_and_survive_json():
    mine = {"layers": [1, 2], "deep": {"x": (1, 2)}}
    where = {"store": "/data"}
    one = spec(settings=mine, where=where, label="text", steps=5)
    mine["layers"].append(3)
    where["store"] = "/other"
    assert one.settings == {"layers": [1, 2], "deep": {"x": [1, 2]}}
    again = RunSpec.from_json(json.loads(json.dumps(one.to_json())))
    assert again.key == one.key and (again.where, again.label, again.steps) == ({"store": "/data"}, "text", 5)
    with pytest.raises(UsageError, match="other fields"):
        RunSpec.from_json({**one.to_json(), "colour": 1})
