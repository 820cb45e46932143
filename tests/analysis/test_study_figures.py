"""Figures of a study: they show the document's numbers, every run, and nothing where nothing is known."""

import copy

import numpy as np
import pytest
from study_documents import made

from sessionwise.analysis import study_figures
from sessionwise.analysis.figures import render
from sessionwise.analysis.panels import log_axis
from sessionwise.analysis.study_captions import absent, bars, caption
from sessionwise.analysis.study_figures import FIGURES, draw, sd_about_line


def lines_of(axes):
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in axes.lines]


def points_of(axes):
    return {round(y, 9) for _, ys in lines_of(axes) for y in ys if np.isfinite(y)}


def curve_of(document, heldout, arm):
    return next(c for c in document["curves"] if c["heldout"] == heldout and c["arm"] == arm)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_panels_and_a_caption(document, name):
    assert draw(name, document).axes and len(caption(name, document)) > 40


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("study", ["hostile", "one seed", "bare"])
def test_odd_studies_give_a_figure_or_a_reason(name, study):
    document, _ = made(study)
    figure = draw(name, document)
    if figure is None:
        assert "is not drawn: " in absent(name, document)
    else:
        assert render(figure, "svg").startswith(b"<?xml")


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_in_which_everything_failed_draws_nothing(name, nothing):
    assert draw(name, nothing) is None and absent(name, nothing).endswith(".")


def test_fig_3a_shows_every_mean_and_every_run(document):
    figure = draw("scaling", document)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*document["heldout"], "average of 3"]
    for axes, heldout in zip(figure.axes, [*document["heldout"], None], strict=True):
        shown = points_of(axes)
        for curve in (c for c in document["curves"] if c["heldout"] == heldout):
            for point in curve["points"]:
                wanted = [*point["values"], *([point["mean"]] if point["mean"] is not None else [])]
                assert {round(value, 9) for value in wanted} <= shown


def test_a_refused_mean_is_a_gap_and_a_cross(document):
    heldout = document["heldout"][1]
    axes = draw("scaling", document).axes[1]
    ranked = curve_of(document, heldout, "ranked")
    assert ranked["points"][1]["mean"] is None
    gap = [ys for _, ys in lines_of(axes) if len(ys) == len(ranked["points"]) - 1 and not np.isfinite(ys[1])]
    assert len(gap) == 1 and any(line.get_marker() == "x" for line in axes.lines)
    assert "refused" in caption("scaling", document)


def test_bars_of_fig_3a_are_the_standard_deviation_of_the_document(document):
    axes = draw("scaling", document).axes[0]
    point = curve_of(document, document["heldout"][0], "random")["points"][0]
    vertical = [ys for xs, ys in lines_of(axes) if len(xs) == 2 and xs[0] == xs[1]]
    wanted = [point["mean"] - point["sd"], point["mean"] + point["sd"]]
    assert any(np.allclose(ys, wanted) for ys in vertical)


def test_captions_name_the_source_of_the_bars(document):
    assert "SD over seeds (ranked and reverse-ranked, all sessions; n = 2)" in bars(document)
    assert "SD over shuffles (random; n = 3" in bars(document)
    one, _ = made("one seed")
    assert bars(one) == "One run a point: no SD." and "SD over seeds" not in caption("scaling", one)


def test_fig_3b_puts_the_prediction_beside_the_measured_score(document):
    axes = draw("trials", document).axes[0]
    fit = next(f for f in document["fits"] if f["heldout"] == document["heldout"][0] and f["arm"] == "random")
    shown = points_of(axes)
    assert {round(fit["predicted_all"]["mean"], 9), round(fit["measured_all"]["mean"], 9)} <= shown
    assert {round(y, 9) for _, y in fit["points"]} <= shown
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert star.get_xdata()[0] == fit["trials_all"]


def test_the_band_of_fig_3b_is_the_scatter_about_the_line():
    rng = np.random.default_rng(0)
    x = rng.uniform(100, 3000, 12)
    y = 0.1 + 0.02 * np.log(x) + rng.normal(0, 0.01, 12)
    slope, intercept = np.polyfit(np.log(x), y, 1)
    fit = {"line": [[1, 1]], "slope": {"mean": slope}, "intercept": {"mean": intercept}}
    fit["points"] = [[float(a), float(b)] for a, b in zip(x, y, strict=True)]
    rest = np.polyfit(np.log(x), y, 1, full=True)[1][0]
    assert sd_about_line(fit) == pytest.approx(np.sqrt(rest / 10))
    assert sd_about_line({**fit, "points": fit["points"][:2]}) is None


def test_fig_3c_is_zero_at_one_session_and_logarithmic_outside_when_it_explodes(document):
    axes = draw("over-one", document).axes[0]
    for arm in ("ranked", "random", "reverse_ranked"):
        points = curve_of(document, document["heldout"][0], arm)["points"]
        assert points[0]["over_one_percent"] == 0
        assert {round(p["over_one_percent"], 9) for p in points} <= points_of(axes)
    assert axes.get_yscale() == "linear"
    wild = copy.deepcopy(document)
    wild["curves"][0]["points"][3]["over_one_percent"] = 1e5
    assert draw("over-one", wild).axes[0].get_yscale() == "symlog"


def test_fig_a1_counts_what_has_no_score(document):
    some = copy.deepcopy(document)
    some["single_scores"][0]["rows"][-1] |= {"score": None, "state": "diverged", "reason": "lost"}
    texts = [text.get_text() for text in draw("single-scores", some).axes[0].texts]
    assert texts == ["1 without a score"]


def test_fig_a2_draws_the_quality_band_only_where_it_is_known(document):
    k = document["overlap"]["k"]
    band = {"quality_low": [0] * len(k), "quality_high": k, "quality_expected": k, "quality_reason": None}
    known = {**document, "overlap": {**document["overlap"], **band}}
    lacking = {**document, "overlap": {**document["overlap"], "quality_low": None, "quality_high": None}}
    assert len(draw("overlap", known).axes[0].collections) == 1 + len(draw("overlap", lacking).axes[0].collections)
    assert "Hatched" in caption("overlap", known) and "missing" in caption("overlap", lacking)


def test_the_forest_plot_fills_what_leaves_out_zero(document):
    row = next(r for c in document["controls"] for r in c["rows"] if r["heldout"] is None)
    one = {**document, "controls": [{"title": "t", "rows": [row]}]}
    for low, high, filled in ((0.001, 0.01, True), (-0.001, 0.01, False), (None, None, False)):
        row["difference"] = {"mean": 0.005, "low": low, "high": high}
        diamond = next(line for line in draw("controls", one).axes[0].lines if line.get_marker() == "D")
        assert (diamond.get_markerfacecolor() != "white") == filled


def test_a_control_far_away_does_not_flatten_the_others(document):
    base = next(r for c in document["controls"] for r in c["rows"] if r["heldout"] is None)
    rows = [
        {**base, "against": str(mean), "difference": {"mean": mean, "low": mean - 0.001, "high": mean + 0.001}}
        for mean in (0.004, 0.005, -0.9)
    ]
    axes = draw("controls", {**document, "controls": [{"title": "t", "rows": rows}]}).axes[0]
    assert axes.get_xlim()[1] < 0.01
    assert ["−0.9000 [−0.9010, −0.8990]"] == [text.get_text() for text in axes.texts]


def test_verdicts_differ_in_more_than_colour(document):
    from sessionwise.analysis.study_judged_figures import VERDICTS

    looks = {(look["marker"], look.get("mfc")) for look in VERDICTS.values()}
    assert len(looks) == len(VERDICTS) == 4
    axes = draw("claims", document).axes[0]
    n = sum(1 + len(claim["per_heldout"]) for claim in document["claims"])
    assert sum(len(line.get_xdata()) for line in axes.lines) == n


def test_many_runs_are_a_cloud_and_many_curves_are_pixels(document):
    many = copy.deepcopy(document)
    many["training_curves"] = many["training_curves"][:3] * 60
    assert len(render(draw("curves", many), "svg")) < 400_000
    for curve in many["curves"]:
        for point in curve["points"]:
            point["values"] = [0.1 + 0.001 * i for i in range(100)]
    alphas = {line.get_alpha() for line in draw("scaling", many).axes[0].lines if len(line.get_xdata()) == 100}
    assert alphas == {0.3}


def test_size_labels_have_room_and_the_ends_are_named():
    from matplotlib.figure import Figure

    axes = Figure(figsize=(3, 2)).subplots()
    sizes = [1, 2, 3, 4, 5, 10, 20, 30, 40, 84]
    log_axis(axes, sizes, [str(size) for size in sizes])
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names[0] == "1" and names[-1] == "84" and "" in names


def test_the_same_document_gives_the_same_picture(document):
    one, two = (render(study_figures.draw("scaling", document), "svg") for _ in range(2))
    assert one == two
