"""The compute-fidelity figure: every number where it belongs, every name readable, nothing cut off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from sessionwise.analysis.fidelity import summarise
from sessionwise.analysis.fidelity_figure import fidelity_figure, spread
from sessionwise.analysis.figures import render, style
from sessionwise.errors import DataError

COSTS = {
    "random": 0.0,
    "trials": 0.0,
    "quality": 0.0,
    "latent_distance": 0.0,
    "latent+quality": 0.0,
    "own_score": 0.12,
    "set_regression": 0.12,
    "matrix_completion": 0.12,
    "halving": 0.25,
    "short": 0.3,
    "small_proxy": 0.3,
    "ensemble": 0.42,
    "other_targets": 1.0,
    "full": 1.0,
}
CEILING = {"spearman": 0.93, "top3": 2.5, "regret1": 0.001, "reason": None}
RANDOM = {
    "spearman": {"mean": 0.0, "low": -0.2, "high": 0.2},
    "top3": {"mean": 0.6, "low": 0.0, "high": 1.0},
    "regret1": {"mean": 0.02, "low": 0.01, "high": 0.03},
}
OTHERS = {"spearman": {"mean": 0.41, "low": 0.3, "high": 0.5}, "top3": {"mean": 1.2}, "regret1": {"mean": 0.012}}


FREE = dict.fromkeys(COSTS, 0.0)
SOME = {"random": 0.0, "quality": 0.0, "short": 0.3, "full": 1.0}


def summary_of(costs=COSTS, seed=0, n_heldout=4):
    rng = np.random.default_rng(seed)
    rows = []
    for method, cost in costs.items():
        good = rng.uniform(0.2, 0.9)
        rows += [
            {
                "method": method,
                "heldout": f"h{i}",
                "cost_share": cost,
                "spearman": float(np.clip(good + rng.normal(0, 0.1), -1, 1)),
                "top3": int(rng.binomial(3, good)),
                "regret1": float(rng.exponential(0.02 * (1.05 - good))),
            }
            for i in range(n_heldout)
        ]
    return summarise(rows, n_boot=200)


def drawn(*args, **more) -> Figure:
    figure = fidelity_figure(*args, **more)
    assert figure is not None
    return figure


def names_in(axes):
    return [text for text in axes.texts if text.get_text()]


def points_in(axes):
    """{name: (x, y)} of the named points; every name belongs to a marker that is there."""
    markers = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if len(line.get_xdata()) == 1
    }
    named = {text.get_text(): tuple(map(float, text.xy)) for text in names_in(axes)}
    assert set(named.values()) == markers
    return named


def boxes_of(figure):
    """Boxes of all names, and of all markers with the name they belong to, by row of panels."""
    with style():
        figure.draw_without_rendering()
    rows: dict[float, tuple[list, list]] = {}
    for axes in figure.axes:
        names, markers = rows.setdefault(round(axes.get_position().y0, 6), ([], []))
        names += [text.get_window_extent() for text in names_in(axes)]
        markers += [axes.transData.transform(text.xy) for text in names_in(axes)]
    return list(rows.values())


@pytest.mark.parametrize(
    ("costs", "seed"),
    [(COSTS, 0), (COSTS, 1), ({**COSTS, "quality": 0.001, "own_score": 0.011, "ensemble": 0.12}, 2), (FREE, 3)],
    ids=["usual", "others", "wide", "free"],
)
def test_every_name_is_readable_and_nothing_is_cut_off(costs, seed):
    figure = drawn(summary_of(costs, seed), ceiling=CEILING, random=RANDOM, target_agnostic=OTHERS)
    width, height = figure.get_size_inches() * figure.dpi
    for names, markers in boxes_of(figure):
        assert len(names) == 14
        for i, box in enumerate(names):
            assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height
            assert not any(box.overlaps(other) for other in names[:i])
            assert not any(box.x0 - 3 < x < box.x1 + 3 and box.y0 - 3 < y < box.y1 + 3 for x, y in markers)
    for axes in figure.axes:  # what reaches into a neighbour lies under its background
        own = axes.get_window_extent()
        assert all(
            own.x0 <= box.x0 and box.x1 <= own.x1 for box in (text.get_window_extent() for text in names_in(axes))
        )
    with style():
        whole = figure.get_tightbbox()
    assert whole.x0 >= 0 and whole.y0 >= 0
    assert (whole.x1, whole.y1) <= tuple(figure.get_size_inches()) and whole.y1 <= figure.get_size_inches()[1]


def test_all_of_one_cost_still_stand_inside_and_apart():
    figure = drawn(summary_of(dict.fromkeys(COSTS, 0.25)))
    axes = figure.axes[0]
    x = sorted(x for x, _ in points_in(axes).values())
    low, high = axes.get_xlim()
    assert low < x[0] and x[-1] < high
    pixels = axes.transData.transform([(value, 0.5) for value in x])[:, 0]
    assert np.diff(pixels).min() == pytest.approx(9, abs=0.2)  # 0.09 inches, on the axis as it is in the end
    assert math.log10(x[0] * x[-1]) / 2 == pytest.approx(math.log10(0.25))
    assert "side by side" in figure.axes[-1].get_xlabel()


def test_means_and_intervals_are_those_of_the_summary():
    costs = {"a": 0.0, "b": 0.01, "c": 0.1, "d": 1.0}
    summary = summary_of(costs)
    figure = drawn(summary)
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::2]] == [
        "Spearman's ρ",
        "top-3 overlap,",
        "regret@1,",
    ]
    for measure, (free, trained) in zip(
        ("spearman", "top3", "regret1"), zip(figure.axes[::2], figure.axes[1::2], strict=True), strict=True
    ):
        assert trained.get_xscale() == "log" and free.get_xscale() == "linear"
        assert list(points_in(free)) == ["a"] and list(points_in(trained)) == ["b", "c", "d"]
        for row in summary:
            axes = free if row["method"] == "a" else trained
            x, y = points_in(axes)[row["method"]]
            assert y == row[measure]["mean"] and (row["method"] == "a" or x == pytest.approx(row["cost_share"]))
            bars = [tuple(line.get_ydata()) for line in axes.lines if list(line.get_xdata()) == [x, x]]
            assert bars == [(row[measure]["low"], row[measure]["high"])]
    with style():
        figure.draw_without_rendering()
    assert [tick.get_text() for tick in figure.axes[-2].get_xticklabels()] == ["no training"]
    assert {"0.01", "0.1", "1"} <= {tick.get_text() for tick in figure.axes[-1].get_xticklabels()}
    assert figure.axes[-1].get_xlabel() == "cost / cost of the full procedure"


def test_without_training_and_trained_differ_without_colour_and_so_do_the_lines():
    figure = drawn(summary_of(SOME), ceiling=CEILING, random=RANDOM, target_agnostic=OTHERS)
    faces = [
        {line.get_markerfacecolor() for line in axes.lines if len(line.get_xdata()) == 1} for axes in figure.axes[:2]
    ]
    assert faces[0] == {"white"} and "white" not in faces[1] and len(faces[1]) == 1
    (legend,) = figure.legends
    handles = legend.legend_handles
    assert [text.get_text() for text in legend.get_texts()] == [
        "noise ceiling",
        "target-agnostic",
        "random order",
        "its 95 % band",
    ]
    assert len({str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in handles[:3]}) == 3


def levels_in(axes):
    return sorted(float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1])


def test_lines_stand_at_their_levels_and_unknown_ones_are_not_drawn():
    figure = drawn(summary_of(SOME), ceiling={**CEILING, "top3": None}, random=RANDOM, target_agnostic=OTHERS)
    for i, wanted in enumerate(([0.0, 0.41, 0.93], [0.6, 1.2], [0.001, 0.012, 0.02])):
        assert levels_in(figure.axes[2 * i]) == levels_in(figure.axes[2 * i + 1]) == wanted
    bare = drawn(summary_of({"a": 0.1}))
    assert all(levels_in(axes) == [] for axes in bare.axes) and not bare.legends


def test_an_unknown_ceiling_is_not_in_the_legend():
    figure = drawn(summary_of({"a": 0.1}), ceiling={"spearman": None, "reason": "one seed"})
    assert not figure.legends and all(levels_in(axes) == [] for axes in figure.axes)


def test_final_regret_is_a_panel_of_its_own_for_those_who_have_it():
    given = {"short": {"mean": 0.002, "low": -0.001, "high": 0.005}, "quality": -0.003}
    figure = drawn(summary_of(SOME), final_regret=given)
    assert len(figure.axes) == 8 and figure.axes[6].get_ylabel().startswith("final regret")
    free, trained = (points_in(axes) for axes in figure.axes[6:])
    assert {name: y for name, (_, y) in {**free, **trained}.items()} == {"quality": -0.003, "short": 0.002}
    assert levels_in(figure.axes[6]) == [0]


def test_final_regret_of_the_summary():
    (row,) = summary_of({"short": 0.3})
    figure = drawn([{"method": "short", "cost_share": 0.3, "final_regret": {**row["regret1"], "mean": 0.1}}])
    assert [points_in(axes)["short"][1] for axes in figure.axes] == [0.1]


def test_another_k():
    row = {"method": "a", "cost_share": 0.0, "top3": {"mean": 2.0}, "top5": {"mean": 4.0, "low": None, "high": None}}
    (axes,) = drawn([row], k=5).axes
    assert axes.get_ylabel().startswith("top-5") and points_in(axes) == {"a": (0.0, 4.0)}
    assert fidelity_figure([row], k=7) is None


def test_an_unknown_cost_is_named_and_an_unknown_value_is_no_point():
    summary = summary_of({**SOME, "dear": None})
    for row in summary:
        if row["method"] == "short":
            row["spearman"] = {"mean": None, "low": None, "high": None, "n": 0, "reason": "constant"}
    figure = drawn(summary)
    assert "of unknown cost, not drawn: dear" in figure.axes[-1].get_xlabel()
    assert "dear" not in points_in(figure.axes[1])
    assert "short" not in points_in(figure.axes[1]) and "short" in points_in(figure.axes[3])


def test_nothing_to_draw_is_no_figure_and_two_rows_of_a_method_are_refused():
    assert fidelity_figure([]) is None
    assert fidelity_figure(summary_of({"dear": None})) is None
    summary = summary_of({"a": 0.1})
    with pytest.raises(DataError, match="a method in two rows"):
        fidelity_figure([*summary, *summary])


@pytest.mark.parametrize(
    "costs",
    [{"only": 0.0}, {"only": 0.5}, {"dear": 3.0}, {"$x_1^2$ \\frac": 0.1, "very_long" * 20: 0.1, "\n\u202e\x00": 0.0}],
)
def test_odd_studies_are_drawn_inside_the_figure(costs):
    figure = drawn(summary_of(costs, n_heldout=1), ceiling=CEILING)
    assert render(figure, "svg").startswith(b"<?xml")
    with style():
        box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.get_size_inches()[0]


def test_the_same_input_gives_the_same_bytes():
    first, second = (render(drawn(summary_of({"a": 0.0, "b": 0.1}), random=RANDOM), "svg") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("seed", range(5))
def test_points_are_moved_as_little_as_needed(seed):
    """Least squares with gaps is isotonic regression of what is left when the gaps are taken off."""
    x = np.round(np.random.default_rng(seed).uniform(0, 1, 12), 1)
    moved, order = spread(x, 0.07), np.argsort(x, kind="stable")
    gaps = 0.07 * np.arange(12)
    np.testing.assert_allclose(moved[order], isotonic_regression(x[order] - gaps).x + gaps, atol=1e-9)
    assert np.diff(moved[order]).min() > 0.07 - 1e-9
    np.testing.assert_array_equal(spread(np.array([3.0, 1.0, 2.0]), 0.5), [3.0, 1.0, 2.0])
