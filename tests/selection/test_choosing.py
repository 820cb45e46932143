"""Choosing sets: the best, the best that are not all alike, and how many are enough."""

import re
from importlib.metadata import EntryPoint
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionwise.analysis.activity import kernels
from sessionwise.errors import UsageError
from sessionwise.selection import choosing, plugins
from sessionwise.selection.choosing import (
    Diverse,
    TopK,
    choosers,
    facility_location,
    find_chooser,
    how_many,
    order_of,
    sizes_below,
)


class Recordings:
    """A context that holds counts alone."""

    def __init__(self, counts):
        self.known = counts

    def kernels(self, name):
        return kernels(self.known[name])


def bump(at, seed, trials=60, bins=30, units=12):
    """Trials whose units all answer at one time."""
    rate = 0.5 + 4.0 * np.exp(-0.5 * ((np.arange(bins) - at) / 1.5) ** 2)
    return np.random.default_rng(seed).poisson(rate[None, :, None], (trials, bins, units)).astype(np.uint8)


def test_top_k_is_by_score_and_equal_scores_by_name():
    assert TopK().order({"b": 0.2, "a": 0.2, "c": 0.3}, None) == ["c", "a", "b"]


def test_diverse_takes_one_of_each_kind_before_a_second_of_the_best_kind():
    context = Recordings({"a0": bump(8, 0), "a1": bump(8, 1), "b": bump(21, 2), "bad": bump(14, 3)})
    scores = {"a0": 0.30, "a1": 0.29, "b": 0.25, "bad": 0.0}
    assert TopK().order(scores, context)[:2] == ["a0", "a1"]
    order = Diverse().order(scores, context)
    assert {name[0] for name in order[:2]} == {"a", "b"} and "bad" not in order[:2] and sorted(order) == sorted(scores)


def test_diverse_without_anything_alike_is_by_score():
    assert facility_location(np.eye(4), np.array([3.0, 2.0, 1.0, 0.0])) == [0, 1, 2, 3]
    assert Diverse().order({"only": 1.0}, None) == ["only"] and Diverse().order({}, None) == []


@given(st.integers(2, 7), st.integers(0, 10_000))
def test_greedy_cover_is_within_its_bound_of_the_best_set(n, seed):
    rng = np.random.default_rng(seed)
    alike, weights = rng.random((n, n)), rng.random(n)
    np.fill_diagonal(alike, 1.0)
    order = facility_location(alike, weights)
    assert sorted(order) == list(range(n))

    def cover(chosen):
        return alike[list(chosen)].max(axis=0) @ weights

    for k in range(1, n + 1):
        best = max(cover(chosen) for chosen in combinations(range(n), k))
        assert cover(order[:k]) >= (1 - 1 / np.e) * best - 1e-9


def gains(table):
    """A comparison of sizes from scores with intervals of +-0.1; a size with score None has no interval."""

    def differ(larger, smaller):
        a, b = table[larger], table[smaller]
        return {"low": None if a is None or b is None else a - b - 0.1}

    return differ


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({1: 0.0, 2: 0.05, 3: 0.08}, 1),  # nothing told apart: the smallest
        ({1: 0.0, 2: 0.2, 3: 0.25}, 2),
        ({1: 0.0, 2: 0.05, 3: 0.15, 5: 0.3}, 5),  # each step is inside the noise, all of them are not
        ({1: 0.5, 2: 0.2, 3: 0.1}, 1),
        ({1: 0.0, 2: None, 3: 0.2}, 2),  # what failed is beaten by nobody that is known
    ],
)
def test_as_many_as_are_known_to_help(table, expected):
    assert how_many(list(table), gains(table)) == expected


def test_an_order_that_loses_or_repeats_a_session_is_refused():
    class First:
        name, about = "first", "the best alone"

        def __init__(self, times):
            self.times = times

        def order(self, scores, context):
            return [max(scores, key=scores.get)] * self.times

    for times in (1, 2):
        with pytest.raises(UsageError, match=r"--choose first: gave .* need all 2 that have a score, each once"):
            order_of(First(times), {"a": 0.1, "b": 0.2}, None)
    assert order_of(First(1), {"a": 0.1}, None) == ["a"] and order_of(TopK(), {}, None) == []


def test_sizes_leave_out_all_of_the_pool():
    assert sizes_below(8) == [1, 2, 3, 5] and sizes_below(1) == []


def test_choosers_of_other_packages_are_found_by_entry_point(monkeypatch):
    found = [
        EntryPoint("worst", "sessionwise.selection.choosing:TopK", choosing.GROUP),
        EntryPoint("broken", "no_such_module:Chooser", choosing.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == "sessionwise.choosers" else [])
    assert list(choosers()) == ["top_k", "diverse", "broken", "worst"]
    assert isinstance(find_chooser("worst"), TopK)
    with pytest.raises(UsageError, match=r"--choose broken.*cannot be loaded"):
        find_chooser("broken")
    with pytest.raises(UsageError, match=r"--choose.*unknown chooser 'top-k'.*top_k, diverse"):
        find_chooser("top-k")


def test_the_chooser_of_the_docs_runs():
    page = Path(__file__).parents[2] / "docs" / "recommend.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    found: dict = {}
    exec(code, found)
    dates = {"a": "2016-12-14", "b": None, "c": "2017-06-18"}
    sessions = SimpleNamespace(info=lambda name: SimpleNamespace(date=dates[name]))
    order = order_of(found["Newest"](), dict.fromkeys(dates, 0.1), SimpleNamespace(sessions=sessions))
    assert order == ["c", "a", "b"]
