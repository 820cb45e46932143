"""The border: every bad array has its own answer (D1-D18), and what is accepted gives the same bytes."""

from __future__ import annotations

import hashlib
import re
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sessionwise.data.session import (
    Session,
    crop,
    exact,
    make_session,
    oddities,
    rebin,
    rebin_session,
    trial_hashes,
)
from sessionwise.errors import DataError, SessionwiseWarning
from sessionwise.io.files import folder_name


def good(trials: int = 12, bins: int = 5, units: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.0, (trials, bins, units)).astype(np.int64)


def made(counts: Any, **more: Any) -> Session:
    """A session without its warnings, which other tests look at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SessionwiseWarning)
        return make_session("S", counts, more.pop("bin_s", 0.02), **more)


def refused(counts: Any, *words: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        made(counts, **more)
    text = str(caught.value)
    assert text.startswith("session 'S'") and "; need " in text
    for word in words:
        assert word in text
    return text


def warned(counts: np.ndarray, *words: str) -> Session:
    with pytest.warns(SessionwiseWarning) as caught:
        session = make_session("S", counts, 0.02)
    texts = [str(w.message) for w in caught]
    for word in words:
        assert any(word in text for text in texts), texts
        assert any(word in note for note in session.notes)
    return session


def test_a_good_session_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = make_session("S", good(), 0.02, subject="Cori")
    assert session.counts.dtype == np.uint8 and session.counts.flags.c_contiguous
    assert (session.n_trials, session.n_bins, session.n_units) == (12, 5, 3)
    assert session.window_s == (0.0, 0.1) and session.spikes == good().sum()
    assert session.trial_ids.tolist() == list(range(12)) and session.notes == ()
    assert "12 trials x 5 bins x 3 units" in repr(session)


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 1), (12,), ()])
def test_d1_not_three_dimensional(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, int), f"counts have shape {shape}", "(trials, bins, units)", "3-D array")


@pytest.mark.parametrize("values", [np.array([[["a"]]]), np.array([[[None]]]), np.array([[[1j]]])])
def test_d1_not_numbers(values: np.ndarray) -> None:
    refused(values, f"counts have type {values.dtype}", "spikes per bin")


@pytest.mark.parametrize(("axes", "looks"), [((0, 2, 1), "trials, units, bins"), ((2, 0, 1), "units, trials, bins")])
def test_d2_swapped_axes(axes: tuple[int, ...], looks: str) -> None:
    swapped = good(12, 5, 3).transpose(axes)
    text = refused(swapped, f"looks like ({looks})", "5 bins", areas=["a"] * 3, window_s=(0, 0.1))
    order = tuple(int(i) for i in re.search(r"transpose\((\d), (\d), (\d)\)", text).groups())
    assert (swapped.transpose(order) == good(12, 5, 3)).all(), "the remedy gives the session back"


def test_d2_swapped_axes_by_trial_columns() -> None:
    refused(good(5, 12, 3), "looks like (bins, trials, units)", trial_columns={"choice": np.zeros(12)})


def test_d3_negative_counts() -> None:
    counts = good()
    counts[4, 2, 1], counts[7, 0, 0] = -1, -3
    refused(counts, "2 negative counts, first at trial 4, bin 2, unit 1 (-1)")
    refused(counts.astype(float), "2 negative counts, first at trial 4, bin 2, unit 1 (-1.0)")


def test_d4_nan() -> None:
    counts = good().astype(float)
    counts[3, 1, 2] = np.nan
    refused(counts, "1 NaN counts, first at trial 3, bin 1, unit 2", "Mask or drop the trial")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_d5_infinite(value: float) -> None:
    counts = good().astype(float)
    counts[3, 1, 2] = value
    refused(counts, "1 infinite counts, first at trial 3, bin 1, unit 2")


def test_d6_rates_are_no_counts() -> None:
    counts = good().astype(float)
    counts[2, 4, 0] = 0.37
    refused(counts, "value 0.37 at trial 2, bin 4, unit 0 is no spike count", "smoothed, scaled or rates")


def test_d7_whole_floats_are_converted_and_noted() -> None:
    session = made(good().astype(np.float32))
    assert session.counts.dtype == np.uint8 and (session.counts == good()).all()
    assert any("float32 with whole values" in note for note in session.notes)


def test_d7_true_and_false_are_noted() -> None:
    session = made(good() > 0)
    assert (session.counts == (good() > 0)).all() and "true/false" in session.notes[0]


def test_d8_saturated_uint8_is_a_warning() -> None:
    counts = good(bins=4).astype(np.uint8)
    counts[0, 0, 0] = 255
    with pytest.warns(SessionwiseWarning, match="255 in uint8: possibly wrapped"):
        make_session("S", counts, 0.2)
    assert not made(counts.astype(np.int32), bin_s=0.2).notes, "255 means nothing in int32"


def test_d8_more_spikes_than_a_bin_can_hold() -> None:
    counts = good()
    counts[1, 2, 0] = 40
    assert made(counts).counts.max() == 40
    counts[1, 2, 0] = 41
    refused(counts, "a count of 41 at trial 1, bin 2, unit 0", "at most 40 spikes in 20 ms")
    counts[1, 2, 0] = 255
    refused(counts.astype(np.uint8), "possibly wrapped")


def test_d9_no_trials() -> None:
    refused(good()[:0], "has no trials")


@pytest.mark.parametrize(("n", "says"), [(4, "0 validation and 1 test"), (9, "1 validation and 1 test")])
def test_d10_too_few_trials(n: int, says: str) -> None:
    refused(good(n), f"{n} trials give {says} trials", "at least 10 trials")
    assert made(good(10)).n_trials == 10


def test_d11_no_units() -> None:
    refused(good(units=0), "has no units", "filter")
    refused(good(bins=0), "has no time bins")


def test_d12_silent_units() -> None:
    counts = good(units=6)
    counts[:, :, [1, 4]] = 0
    warned(counts, "2 units without a spike: 1, 4")
    refused(np.zeros_like(counts), "no unit has a spike", "clocks")


def test_d12_silent_trials() -> None:
    counts = good()
    counts[3] = 0
    warned(counts, "1 trial without a spike: 3")


def test_d14_constant_and_duplicated_units() -> None:
    counts = good(units=6)
    counts[:, :, 5], counts[:, :, 3], counts[:, :, 2] = counts[:, :, 0], 1, 1
    session = warned(counts, "2 units with the same count in every bin: 2, 3", "1 duplicated unit: 0 = 5")
    assert not any("2 = 3" in note for note in session.notes), "constant units are no second warning"


def test_d14_duplicated_trials() -> None:
    counts = good()
    counts[7] = counts[2]
    warned(counts, "1 duplicated trial: 2 = 7")


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "1 NaN"), (np.inf, "1 infinite"), (-np.inf, "1 infinite"), (-1.0, "1 negative"), (0.5, "value 0.5")],
)
@pytest.mark.parametrize("place", [(0, 0, 0), (4, 2, 1), (11, 4, 2)])
def test_one_bad_float_is_found_wherever_it_is(value: float, words: str, place: tuple[int, int, int]) -> None:
    counts = good().astype(np.float32)
    counts[place] = value
    trial, bin_, unit = place
    refused(counts, words, f"trial {trial}, bin {bin_}, unit {unit}")


def plain_oddities(counts: np.ndarray) -> list[str]:
    """The texts by the shortest way: every row is compared with every other one."""

    def listed(what: str, how: str, found: list[int]) -> list[str]:
        return [f"{len(found)} {what}{'s' * (len(found) > 1)} {how}: {', '.join(map(str, found))}"] if found else []

    def pairs(what: str, rows: list[np.ndarray], skip: list[int]) -> list[str]:
        found = []
        for i in range(len(rows)):
            same = [j for j in range(i) if j not in skip and i not in skip and np.array_equal(rows[i], rows[j])]
            found += [f"{same[0]} = {i}"] if same else []
        return [f"{len(found)} duplicated {what}{'s' * (len(found) > 1)}: {', '.join(found)}"] if found else []

    units, trials = list(np.moveaxis(counts, 2, 0)), list(counts)
    silent = [i for i, unit in enumerate(units) if not unit.any()]
    constant = [i for i, unit in enumerate(units) if len(np.unique(unit)) == 1 and i not in silent]
    few = [[i for i, row in enumerate(rows) if row.sum(dtype=int) < 5] for rows in (units, trials)]
    texts = ["max count 255 in uint8: possibly wrapped or saturated"] if counts.max() == 255 else []
    texts += listed("unit", "without a spike", silent)
    texts += listed("unit", "with the same count in every bin", constant)
    texts += pairs("unit", units, few[0] + constant)
    texts += listed("trial", "without a spike", [i for i, trial in enumerate(trials) if not trial.any()])
    return texts + pairs("trial", trials, few[1])


@settings(max_examples=200)
@given(
    hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.sampled_from([0, 0, 1, 2, 3, 255])),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3),
    st.booleans(),
)
def test_oddities_are_those_of_the_plain_way(counts: np.ndarray, units: Any, trials: Any, shifted: bool) -> None:
    counts = counts.copy()
    for a, b in units:
        counts[:, :, a % counts.shape[2]] = counts[:, :, b % counts.shape[2]]
    for a, b in trials:
        counts[a % len(counts)] = counts[b % len(counts)]
    if shifted:  # the same sums over the bins, other content
        counts[0] = np.roll(counts[-1], 1, axis=0)
    assert oddities(counts) == plain_oddities(counts)


def test_sums_beyond_16_bits_are_right() -> None:
    counts = np.full((10, 300, 2), 255, np.uint8)
    counts[:, :, 1] = 1
    counts[3] = 0
    session = made(counts, bin_s=1.0)
    assert session.trial_spikes.tolist() == [300 * 256 * (k != 3) for k in range(10)]
    assert session.trial_spikes.dtype == np.int64 and session.spikes == counts.sum(dtype=int)
    assert (
        Session("T", counts.astype(np.uint16), 1.0, (0.0, 300.0)).trial_spikes.tolist() == session.trial_spikes.tolist()
    )


def test_d14_few_spikes_prove_nothing() -> None:
    counts = good()
    counts[[2, 7]] = 0
    counts[[2, 7], 0, 0] = 4
    assert made(counts).notes == ()


def test_d16_window_against_bins() -> None:
    refused(good(bins=5), "counts have shape (12, 5, 3)", "15 bins", window_s=(-0.1, 0.2))
    refused(good(bins=5), "whole number of 20 ms bins", window_s=(0, 0.11))
    refused(good(bins=5), "a window from 0.1 to 0 s", window_s=(0.1, 0.0))
    refused(good(bins=5), "a window from nan to 0 s", window_s=(float("nan"), 0.0))


@pytest.mark.parametrize("bin_s", [0, -0.02, float("nan"), float("inf"), 20, "fast", None])
def test_d15_absurd_bin_sizes(bin_s: Any) -> None:
    text = refused(good(), "at most 1 s", bin_s=bin_s)
    assert (bin_s != 20) or "milliseconds" in text


def test_d17_absurd_rates() -> None:
    refused(np.full((12, 5, 3), 620), "mean rate is 3.1e+04 Hz a unit", "at most 500 Hz", "units")
    made(good() * 0 + 9)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.astype(">i4"),
        lambda c: np.asfortranarray(c),
        lambda c: c.astype(np.float16),
        lambda c: c.astype(">u2")[:, :, ::1],
        lambda c: c[::-1][::-1],
        lambda c: c.tolist(),
    ],
)
def test_d18_layout_and_type_do_not_matter(change: Any) -> None:
    assert made(change(good())).counts.tobytes() == made(good()).counts.tobytes()


def test_d18_read_only_and_mapped_arrays(tmp_path: Any) -> None:
    counts = good().astype(np.uint8)
    counts.setflags(write=False)
    assert made(counts).counts is counts, "frozen counts are not copied"
    counts.tofile(tmp_path / "counts")
    mapped = np.memmap(tmp_path / "counts", np.uint8, "r", shape=counts.shape)
    assert (made(mapped).counts == counts).all()


def test_the_callers_array_is_left_alone() -> None:
    counts = good().astype(np.uint8)
    session = made(counts)
    counts[0, 0, 0] += 1
    assert session.counts[0, 0, 0] == counts[0, 0, 0] - 1 and not session.counts.flags.writeable


def test_more_than_255_need_uint16() -> None:
    counts = good(bins=4)
    counts[0, 0, 0] = 300
    assert made(counts, bin_s=0.2).counts.dtype == np.uint16


@pytest.mark.parametrize("id", ["", "  ", "a\nb", "a\0b", "\ud800", "x" * 1001, 7, None])
def test_d38_ids_that_are_refused(id: Any) -> None:
    with pytest.raises(DataError) as caught:
        make_session(id, good(), 0.02)
    assert str(caught.value).isprintable()


HOSTILE = [
    "../../etc/passwd",
    "/abs",
    "-rf",
    "a\\b",
    "C:x",
    "CON",
    ".",
    "..",
    "\u00e9",
    "e\u0301",
    "A",
    "a",
    "a ",
    "<script>",
]
HOSTILE += ["\u202egnp", "=HYPERLINK(1)", "%s", "x" * 300, "\U0001f9e0"]


def test_d38_d39_odd_ids_are_data_and_stay_apart() -> None:
    assert [make_session(id, good(), 0.02).id for id in HOSTILE] == HOSTILE
    folders = {folder_name(id) for id in HOSTILE}
    assert len({f.casefold() for f in folders}) == len(HOSTILE)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", f) for f in folders)


def test_d62_repeated_unit_and_trial_ids() -> None:
    refused(good(), "1 unit ids are repeated, first 'u'", unit_ids=["u", "u", "v"])
    refused(good(), "1 trial ids are repeated", trial_ids=[0, *range(11)])
    refused(good(), "trial ids have type", trial_ids=np.arange(12) / 2)


def test_trial_columns_are_one_value_a_trial() -> None:
    refused(good(), "trial column 'x' has shape (12, 2)", trial_columns={"x": np.zeros((12, 2))})
    refused(good(), "trial column 'x'", trial_columns={"x": np.array([None] * 12)})
    refused(good(), "11 trials", trial_columns={"x": np.zeros(11)})


def test_trials_are_put_in_order_with_their_columns() -> None:
    ids = np.array([5, 3, 9, 1, 0, 2, 4, 6, 7, 8, 11, 10])
    session = made(good(), trial_ids=ids, trial_columns={"id": ids})
    assert session.trial_ids.tolist() == list(range(12)) == session.trial_columns["id"].tolist()
    assert (session.counts[5] == good()[0]).all() and "ascending order" in session.notes[0]


# ---- hashes, rebinning, cropping


def test_trial_hash_is_what_it_says() -> None:
    counts = good().astype(np.uint8)
    by_hand = (5).to_bytes(8, "little") + (3).to_bytes(8, "little")
    by_hand += b"".join(int(n).to_bytes(2, "little") for n in counts[3].ravel())
    assert trial_hashes(counts)[3] == hashlib.sha256(by_hand).hexdigest()[:32]


@pytest.mark.parametrize("shape", [(0, 2, 2), (1, 1, 1), (3, 100, 1000), (5, 128, 256), (2, 1, 2**15 + 1)])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i8"])
def test_trial_hashes_of_any_size(shape: tuple[int, ...], dtype: str) -> None:
    counts = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    start = np.array(shape[1:], "<i8").tobytes()
    want = [hashlib.sha256(start + trial.astype("<u2").tobytes()).hexdigest()[:32] for trial in counts]
    assert trial_hashes(counts) == want == trial_hashes(np.asfortranarray(counts))


def test_a_session_knows_the_hashes_of_its_trials() -> None:
    session = made(good())
    assert session.trial_hashes == tuple(trial_hashes(good())) and session.trial_hashes is session.trial_hashes


small_counts = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9)
)


@given(small_counts, st.sampled_from(["u1", "<u2", ">u2", "<i8", ">i4", "f4"]), st.booleans())
def test_trial_hashes_know_no_type_and_no_layout(counts: np.ndarray, dtype: str, fortran: bool) -> None:
    same = np.asarray(counts.astype(dtype), order="F" if fortran else "C")
    assert trial_hashes(same) == trial_hashes(counts)


@given(small_counts)
def test_trial_hashes_differ_when_a_count_or_the_shape_differs(counts: np.ndarray) -> None:
    other = counts.copy()
    other[0, 0, 0] += 1
    assert trial_hashes(other)[0] != trial_hashes(counts)[0] and trial_hashes(other)[1:] == trial_hashes(counts)[1:]
    flat = counts.reshape(len(counts), 1, -1)
    assert flat.shape == counts.shape or trial_hashes(flat)[0] != trial_hashes(counts)[0]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_rebinning_keeps_every_spike(factor: int, bins: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 200, (2, bins * factor, 3)).astype(np.uint8)
    joined = rebin(counts, factor)
    brute = [
        [[sum(int(counts[k, t * factor + i, n]) for i in range(factor)) for n in range(3)] for t in range(bins)]
        for k in range(2)
    ]
    assert joined.tolist() == brute and joined.sum() == counts.sum(dtype=int)


@pytest.mark.parametrize("factor", [0, 2, 3])
def test_rebinning_needs_whole_bins(factor: int) -> None:
    with pytest.raises(DataError, match=rf"5 bins cannot be joined by {factor}"):
        rebin(good().astype(np.uint8), factor)


def test_rebin_session() -> None:
    session = made(good(bins=6), bin_s=0.01, window_s=(-0.02, 0.04))
    joined = rebin_session(session, 0.02)
    assert joined.counts.shape == (12, 3, 3) and joined.window_s == session.window_s and joined.bin_s == 0.02
    assert joined.notes[-1] == "rebinned from 10 ms bins" and rebin_session(session, 0.01) is session
    for bin_s, says in (
        (0.015, "cannot be joined to 15 ms"),
        (0.005, "cannot be joined"),
        (0.04, "6 bins cannot be joined by 4"),
    ):
        with pytest.raises(DataError, match=says):
            rebin_session(session, bin_s)


def test_crop() -> None:
    session = made(good(bins=10), window_s=(-0.1, 0.1), trial_columns={"c": np.arange(12)})
    short = crop(session, 0.0, 0.06)
    assert (short.counts == session.counts[:, 5:8]).all() and short.window_s == (0.0, 0.06)
    assert short.trial_columns["c"].tolist() == list(range(12)) and crop(session, -0.1, 0.1) is session
    for window, says in (
        ((0.01, 0.06), "cuts through bins"),
        ((0, 0.2), "inside -0.1..0.1"),
        ((0.06, 0), "was asked for"),
    ):
        with pytest.raises(DataError, match=says):
            crop(session, *window)


def test_cropping_looks_at_what_is_left() -> None:
    counts = good(bins=10)
    counts[:, :5, 1] = 0
    counts[:, :, 2] = 0
    with pytest.warns(SessionwiseWarning, match="1 unit without a spike: 2"):
        session = make_session("S", counts, 0.02)
    with pytest.warns(SessionwiseWarning, match="2 units without a spike: 1, 2"):
        short = crop(session, 0.0, 0.1)
    assert [n for n in short.notes if "without a spike" in n] == ["2 units without a spike: 1, 2"]


@settings(max_examples=20)
@given(st.integers(1, 400), st.integers(1, 1000))
def test_float_times_mean_the_simple_fraction(bins: int, per_second: int) -> None:
    assert exact(bins * (1 / per_second)) == exact(1 / per_second) * bins


def test_edges_that_floats_miss() -> None:
    session = made(good(bins=15), window_s=(-0.1, 0.1 + 0.1))
    assert crop(session, 0.1 + 0.1 - 0.2, 0.3 - 0.1).n_bins == 10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, np.arange(3)])
def test_a_source_that_json_cannot_hold_is_refused(value: object) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (12, 4, 2))
    with pytest.raises(DataError, match="what its source says cannot be stored"):
        make_session("s", counts, 0.02, source={"a": {"b": [value]}})
