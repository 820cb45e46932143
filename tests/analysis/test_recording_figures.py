"""The picture of a recording: right against brute force, blind to test trials, the same bytes, inert for any text."""

import warnings
from collections import Counter

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from sessionwise.analysis import recording_figures
from sessionwise.analysis.figures import render
from sessionwise.analysis.recording_figures import caption, choose_condition, draw_session, picture
from sessionwise.data.session import make_session
from sessionwise.data.splits import Windows, make_split, overlap_share

HOSTILE = "$\\frac{1}{0}$ \u202e<script>\u732b\U0001f600 {{7*7}} %s " + "W" * 300


def session(k=40, t=10, n=12, *, id="a", seed=0, counts=None, **about):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1, 0.5, n), (k, t, n)).astype(np.uint8) if counts is None else counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_session(id, counts, 0.02, start_s=-0.1, **about)


def split_of(made, seed=0, kind="random", windows=None):
    return make_split(made.id, made.trial_ids, seed, kind, windows=windows)


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if title in axes.get_title(loc="left")]
    return axes


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def drawn_cleanly(made, split):
    """The figure, rendered with every warning as an error: glyphs, limits, empty means."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_session(made, split)
        assert render(figure, "png").startswith(b"\x89PNG")
    return figure


def seen_by(split):
    return np.sort(np.concatenate([split.train, split.validation]))


def test_test_trials_have_no_say():
    columns = {"choice": np.arange(40) % 3, "align_time_s": np.arange(40) * 3.0}
    one = session(areas=list("aabbccddeeff"), trial_columns=columns)
    split = split_of(one)
    counts, choice = np.array(one.counts), np.array(columns["choice"])
    counts[split.test], choice[split.test] = 30, 9
    other = session(counts=counts, areas=one.areas, trial_columns={**columns, "choice": choice})
    assert picture(one, split) == picture(other, split)
    counts[split.validation[0]] = 30
    assert picture(one, split) != picture(session(counts=counts, areas=one.areas, trial_columns=columns), split)


def test_the_same_bytes_whatever_the_users_settings_are():
    made = session(areas=list("aabbccddeeff"))
    first = picture(made, split_of(made))
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "image.cmap": "hot", "text.usetex": True}):
        assert picture(made, split_of(made)) == first


def test_the_raster_shows_whole_trials_with_units_by_area_and_rate():
    areas = list("bbbbbbbaaacc")
    made = session(areas=areas)
    split, figure = split_of(made), draw_session(made, split_of(made))
    raster = panel(figure, "spikes of 12 units")
    rates = made.counts[seen_by(split)].sum(axis=(0, 1))
    order = sorted(range(12), key=lambda unit: ("bac".index(areas[unit]), -int(rates[unit])))
    shown = [int(label.get_text()) for label in raster.get_xticklabels()]
    assert len(shown) == 12 and set(shown) <= set(seen_by(split)) and shown == sorted(shown)
    assert {seen_by(split)[0], seen_by(split)[-1]} <= set(shown)
    for trial, image in zip(shown, raster.images, strict=True):
        np.testing.assert_array_equal(image.get_array(), made.counts[trial][:, order].T)
    assert [label.get_text() for label in raster.get_yticklabels()] == ["b", "a", "c"]


def test_many_units_and_bins_are_thinned_out_without_losing_spikes_of_those_shown():
    made = session(10, 300, 1000, counts=np.ones((10, 300, 1000), np.uint8))
    raster = panel(draw_session(made, split_of(made)), "spikes of 400 of 1000 units")
    assert all(image.get_array().shape[0] == 400 for image in raster.images)
    assert all(image.get_array().sum() == 400 * 300 for image in raster.images)
    assert sum(image.get_array().shape[1] for image in raster.images) <= 900


def test_rates_by_condition_are_means_over_trials_and_units():
    contrast = np.array([0.0, 0.25, 1.0, np.nan])[np.arange(40) % 4]
    made = session(trial_columns={"contrast": contrast, "stim_on_time": np.arange(40.0)})
    split, seen = split_of(made), seen_by(split_of(made))
    axes = panel(draw_session(made, split), "rate by contrast")
    for line, value in zip(axes.get_lines(), (0, 0.25, 1), strict=False):
        mine = [k for k in seen if contrast[k] == value]
        np.testing.assert_allclose(line.get_ydata(), [made.counts[mine, t].mean() / 0.02 for t in range(10)])
        np.testing.assert_allclose(line.get_xdata(), [-0.1 + 0.02 * (t + 0.5) for t in range(10)], atol=1e-12)
    counted = Counter(contrast[seen])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"{value:g} ({counted[value]})" for value in (0, 0.25, 1)]


def test_without_a_condition_all_trials_and_the_areas_with_most_spikes_are_drawn():
    areas = ["quiet", *["loud"] * 5, *["middle"] * 6]
    counts = np.zeros((40, 10, 12), np.uint8)
    counts[:, :, 0], counts[:, 3:, 1:6], counts[:, :, 6:] = 1, 4, 2
    made = session(counts=counts, areas=areas)
    axes = panel(draw_session(made, split_of(made)), "all trials")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["all units (36 trials)", "loud (5)", "middle (6)", "quiet (1)"]
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [0] * 3 + [200] * 7)
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), counts[0].mean(axis=1) / 0.02)


def test_long_trials_are_drawn_in_fewer_points_with_the_same_mean():
    made = session(12, 301, 3)
    line = panel(draw_session(made, split_of(made)), "all trials").get_lines()[0]
    counts = made.counts[seen_by(split_of(made))]
    assert len(line.get_ydata()) == 101  # points of 3 bins, and the last of one
    np.testing.assert_allclose(line.get_ydata()[:2], [counts[:, :3].mean() / 0.02, counts[:, 3:6].mean() / 0.02])
    np.testing.assert_allclose(line.get_ydata()[-1], counts[:, 300].mean() / 0.02)


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({}, None),
        ({"contrast": np.zeros(30)}, None),  # one value
        ({"image": [f"{i}" for i in range(30)]}, None),  # too many
        ({"choice": [1] * 28 + [0] * 2}, None),  # one value on too few trials
        ({"contrast": np.full(30, np.nan), "word": ["", "nan"] * 15}, None),  # nothing known
        ({"align_time_s": np.arange(30) % 2, "stimOn_times": np.arange(30) % 2, "trial_id": np.arange(30) % 2}, None),
        ({"recorded_split": ["train", "test"] * 15}, None),
        ({"zebra": np.arange(30) % 2}, "zebra"),
        ({"reward": np.arange(30) % 2, "choice": np.arange(30) % 2}, "choice"),
        ({"choice": np.arange(30) % 2, "contrastLeft": np.arange(30) % 3}, "contrastLeft"),
        ({"choice": np.arange(30) % 2, "contrastLeft": [0.0, 1, *[np.nan] * 4] * 5}, "choice"),
    ],
)
def test_the_condition_is_chosen_sensibly(columns, chosen):
    columns = {name: np.asarray(values) for name, values in columns.items()}
    found = choose_condition(columns, np.arange(30))
    assert (found.name if found else None) == chosen


def test_at_most_six_values_are_drawn_and_the_picture_says_so():
    found = choose_condition({"direction": np.arange(80) % 8}, np.arange(80))
    assert (len(found.values), found.n_values) == (6, 8)
    assert choose_condition({"direction": np.arange(80) % 8}, np.arange(24, 30)) is None  # only trials that may be seen
    made = session(80, trial_columns={"direction": np.arange(80) % 8})
    assert "6 of 8 values" in panel(draw_session(made, split_of(made)), "rate by direction").get_title(loc="left")


def test_silent_units_are_counted_and_the_others_binned_by_their_rate():
    counts = np.zeros((40, 10, 12), np.uint8)
    counts[:, :, 3:] = np.random.default_rng(1).poisson(1, (40, 10, 9))
    made = session(counts=counts)
    counts[split_of(made).test, :, 0] = 3  # spikes in test trials alone
    axes = panel(draw_session(session(counts=counts), split_of(made)), "9 active units, 3 silent")
    assert sum(patch.get_height() for patch in axes.patches) == 9


def test_areas_beyond_the_largest_are_added_up():
    areas = [f"area{i:02d}" for i in range(20) for _ in range(20 - i)]
    made = session(n=len(areas), areas=areas)
    axes = panel(draw_session(made, split_of(made)), "units in 20 areas")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*(f"area{i:02d}" for i in range(12)), "8 others"]
    assert [patch.get_width() for patch in axes.patches] == [*range(20, 8, -1), sum(range(1, 9))]


def test_without_areas_the_picture_says_so():
    made = session()
    assert "no areas in the file" in caption(made, split_of(made))
    assert not [axes for axes in draw_session(made, split_of(made)).axes if "areas" in axes.get_title(loc="left")]


def test_every_trial_stands_in_the_row_of_its_part():
    times = np.arange(100) * 0.15  # windows of 0.2 s overlap
    made = session(100, trial_columns={"align_time_s": times})
    split = split_of(made, 3, "blocked", Windows(times, made.window_s, made.bin_s))
    assert len(split.purged)
    axes = draw_session(made, split).axes[-1]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{part} {n}" for part, n in split.sizes.items()] and len(labels) == 4
    for row, part in zip(axes.collections, split.sizes, strict=True):
        at = [segment[0][0] * 60 for segment in row.get_segments()]
        np.testing.assert_allclose(at, times[getattr(split, part)], atol=1e-9)
    assert "blocked split, seed 3" in axes.get_xlabel() and "training windows: 0.0 %" in axes.get_xlabel()


@pytest.mark.parametrize("known", [True, False])
def test_the_share_of_test_bins_in_training_windows_is_said(known):
    times = np.arange(100) * 0.15
    made = session(100, trial_columns={"align_time_s": times} if known else {})
    split = split_of(made)
    text = draw_session(made, split).axes[-1].get_xlabel()
    if known:
        assert f"{100 * overlap_share(times, made.window_s, made.bin_s, split):.1f} %" in text and "minutes" in text
    else:
        assert "unknown (no trial times)" in text and "trials in order" in text


def test_drift_is_the_rate_of_each_trial_and_no_test_trial_has_one():
    counts = np.ones((40, 10, 12), np.uint8)
    counts[20:] = 3
    made = session(counts=counts)
    split = split_of(made)
    axes = panel(draw_session(made, split), "along the recording")
    points = {}
    for line in axes.get_lines()[:2]:
        points |= dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert points == pytest.approx({float(k): 50.0 if k < 20 else 150.0 for k in seen_by(split)})


def test_hostile_text_is_inert():
    made = session(
        id=HOSTILE,
        align=HOSTILE,
        subject="\u200f\n\t$x$",
        lab=HOSTILE,
        date="\x00\x1b[31m",
        areas=["", "$a^2$", "_hidden", "W" * 50, "\u0627\u0644", *["b\n"] * 7],
        trial_columns={"stim$^2$\n": ["_a", "$x_1$", HOSTILE[:40], "\u202eb"] * 10},
    )
    figure = drawn_cleanly(made, split_of(made))
    assert not [text for text in figure.findobj(Text) if text.get_parse_math() or text.get_usetex()]
    body = "".join(texts(figure)).replace("\n", "")
    assert body.isprintable() and "\u202e" not in body and "\u0627" not in body
    assert any(name.startswith("_a (") for name in texts(figure)) and "_hidden" in texts(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.texts:  # the heading and the caption end inside the picture
        assert text.get_window_extent(renderer).x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("shape", "about"),
    [
        ((10, 1, 1), {}),
        ((10, 1, 2000), {"areas": [f"a{i % 300}" for i in range(2000)]}),
        ((11, 2, 3), {"areas": ["", "", ""], "trial_columns": {"choice": np.arange(11) % 2}}),
        ((30, 4, 5), {"trial_columns": {"align_time_s": np.full(30, np.nan), "reward": np.full(30, np.inf)}}),
        ((30, 4, 5), {"trial_columns": {"align_time_s": np.full(30, 7.0), "hit": np.arange(30) % 2 == 0}}),
    ],
)
def test_odd_recordings_have_a_picture(shape, about):
    made = session(*shape, **about)
    drawn_cleanly(made, split_of(made))


def test_large_counts_and_parts_without_spikes_have_a_picture():
    counts = np.zeros((20, 5, 4), np.uint16)
    split = make_split("a", range(20))
    counts[split.test] = 9
    figure = drawn_cleanly(session(counts=counts), split)
    assert "0 active units, 4 silent" in texts(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loud = make_session("a", np.full((20, 5, 4), 400, np.uint16), 0.9)
    assert "darkest: 400 in 900 ms" in panel(drawn_cleanly(loud, split), "spikes of").get_title(loc="left")


def test_the_file_is_written(tmp_path):
    made = session()
    path = recording_figures.write_session_picture(made, split_of(made), tmp_path / "a.png")
    content = path.read_bytes()
    assert path == tmp_path / "a.png" and content.startswith(b"\x89PNG")
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (2200, 1600)
