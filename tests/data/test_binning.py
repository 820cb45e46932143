"""Spike times to counts: against a slow twin by long decimals, on edges, and with all that recordings get wrong."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionwise.data import binning
from sessionwise.data.binning import bin_spikes, session_from
from sessionwise.data.recording import Asked, Recording
from sessionwise.data.session import Session, exact
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import DataError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::sessionwise.errors.SessionwiseWarning")

# The slow twin --------------------------------------------------------------------------------------------------------


def slow_edge(start_s: float, t: int, bin_s: float) -> float:
    """The rule of ``bin_spikes`` by long decimals: digits of repr, a fraction, division to 400 digits, one rounding."""
    written = Decimal(repr(start_s))
    meant = Fraction(written)
    if len(written.normalize().as_tuple().digits) > 15:
        tick = exact(start_s)
        meant = tick if nearest(tick) == start_s else Fraction(start_s)
    return nearest(meant + t * exact(bin_s))


def nearest(number: Fraction) -> float:
    with localcontext(prec=400):
        return float(str(Decimal(number.numerator) / Decimal(number.denominator)))


def slow_counts(
    spikes: list[tuple[float, int]], n_units: int, starts: list[float], bin_s: float, n_bins: int
) -> list[list[list[int]]]:
    """Every spike is compared with both edges of every bin of every window."""
    counts = []
    for start in starts:
        edges = [slow_edge(start, t, bin_s) for t in range(n_bins + 1)]
        window = [[0] * n_units for _ in range(n_bins)]
        for time, unit in spikes:
            for t in range(n_bins):
                if edges[t] <= time < edges[t + 1]:
                    window[t][unit] += 1
        counts.append(window)
    return counts


BINS_S = [0.02, 0.1, 0.001, 0.025, 1 / 60, 1 / 3, 0.0125, 0.3]
written_s = st.one_of(
    st.integers(-3000, 3000).map(lambda n: n / 1000),
    st.integers(-90_000, 90_000_000).map(lambda n: n / 30_000),
    st.integers(0, 4_000_000).map(lambda n: n / 1000),
    st.integers(0, 4 * 10**12).map(lambda n: n / 10**9),
    st.floats(-10, 4000, allow_nan=False, allow_subnormal=False).filter(lambda s: s == 0 or abs(s) > 1e-9),
)


@st.composite
def hard_cases(draw: st.DrawFn) -> tuple[list[tuple[float, int]], int, list[float], float, int]:
    """Spikes on edges and a step to either side of them, twice, anywhere; windows apart, the same, overlapping."""
    n_units, n_bins, bin_s = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.sampled_from(BINS_S))
    starts = draw(st.lists(written_s, min_size=1, max_size=3))
    starts += [float(exact(starts[0]) + n * exact(bin_s)) for n in draw(st.lists(st.integers(-3, 3), max_size=2))]

    def on_edge(place: tuple[int, int, int]) -> float:
        edge = slow_edge(starts[place[0] % len(starts)], place[1] % (n_bins + 1), bin_s)
        return edge if place[2] == 0 else math.nextafter(edge, math.inf * place[2])

    edges = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 1)).map(on_edge)
    inside = st.tuples(st.integers(0, 9), st.floats(-0.5, 1.5)).map(
        lambda place: starts[place[0] % len(starts)] + place[1] * n_bins * bin_s
    )
    times = draw(st.lists(st.one_of(edges, inside, written_s), max_size=25))
    times += draw(st.lists(st.sampled_from(times), max_size=5)) if times else []
    return [(time, draw(st.integers(0, n_units - 1))) for time in times], n_units, starts, bin_s, n_bins


@settings(max_examples=400, deadline=None)
@given(hard_cases(), st.sampled_from([1, 3, 8, 2**18]))
def test_counts_are_those_of_the_slow_twin(case: Any, cells: int) -> None:
    spikes, n_units, starts, bin_s, n_bins = case
    times, units = np.array([time for time, _ in spikes]), np.array([unit for _, unit in spikes], int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binning, "_CELLS", cells)
        counts = bin_spikes(times, units, n_units, np.array(starts), bin_s, n_bins)
    assert counts.shape == (len(starts), n_bins, n_units) and counts.dtype == np.uint8
    assert counts.tolist() == slow_counts(spikes, n_units, starts, bin_s, n_bins)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**10), 5 * 10**12), st.sampled_from([1, 5, 10, 20, 25, 100]), st.integers(1, 200))
@pytest.mark.parametrize("unit", [10**9, 10**3])
def test_a_spike_written_at_a_decimal_edge_is_in_the_bin_that_begins_there(
    unit: int, start_ns: int, bin_ms: int, t: int
) -> None:
    """Times written to a nanosecond, and to a millisecond."""
    start = Decimal(start_ns // (10**9 // unit)) / unit
    spike_s = float(start + Decimal(t * bin_ms) / 1000)
    counts = bin_spikes([spike_s], [0], 1, [float(start)], bin_ms / 1000, t + 1)
    assert counts.sum() == counts[0, t, 0] == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(-90_000, 120_000_000), st.integers(1, 200))
def test_a_spike_at_a_tick_of_a_sample_clock_likewise(tick: int, t: int) -> None:
    """30 kHz: 20 ms are 600 ticks; most ticks are no short decimal."""
    counts = bin_spikes([(tick + 600 * t) / 30_000], [0], 1, [tick / 30_000], 0.02, t + 1)
    assert counts.sum() == counts[0, t, 0] == 1


def test_floating_point_sums_would_put_the_edge_elsewhere() -> None:
    assert 0.1 + 2 * 0.1 > 0.3
    assert bin_spikes([0.3, math.nextafter(0.3, 0)], [0, 0], 1, [0.1], 0.1, 3).ravel().tolist() == [0, 1, 1]
    assert bin_spikes([0.1, 0.4], [0, 0], 1, [0.1], 0.1, 3).ravel().tolist() == [1, 0, 0]  # [start, stop)


def test_a_start_close_to_a_simple_fraction_is_not_moved_onto_it() -> None:
    """No fraction of at most a million parts is 0.5000003 s: the nearest lies 0.2 us later."""
    assert exact(0.5000003) == Fraction(500_000, 999_999) > Fraction("0.5000004")
    assert bin_spikes([0.5000002, 0.5000003], [0, 1], 2, [0.5000003], 0.02, 1).tolist() == [[[0, 1]]]


def test_an_hour_of_random_spikes_against_histograms() -> None:
    random = np.random.default_rng(1)
    times, units = np.sort(random.uniform(0, 300, 60_000)), random.integers(0, 30, 60_000)
    starts = random.uniform(-2, 301, 40)
    counts = bin_spikes(times, units, 30, starts, 0.02, 150)
    for start, window in zip(starts, counts, strict=True):
        edges = [start + 0.02 * np.arange(151), np.arange(31) - 0.5]
        assert np.array_equal(window, np.histogram2d(times, units, edges)[0])


def test_order_of_spikes_does_not_matter() -> None:
    random = np.random.default_rng(2)
    times, units = np.round(random.uniform(0, 10, 2000), 2), random.integers(0, 5, 2000)
    order = random.permutation(2000)
    given = ([0.5, 4.0, 2.0], 0.02, 100)
    a, b = (bin_spikes(t, u, 5, *given) for t, u in ((times, units), (times[order], units[order])))
    assert a.any() and np.array_equal(a, b)


def test_windows_before_after_and_between_spikes_are_empty_and_never_borrow() -> None:
    times, units = np.array([5.0, 5.5, 9.0]), np.array([0, 1, 2])
    counts = bin_spikes(times, units, 3, [0.0, 6.0, 20.0, 4.999], 0.1, 5)
    assert counts.shape == (4, 5, 3)
    assert counts.sum(axis=(1, 2)).tolist() == [0, 0, 0, 1]
    assert bin_spikes([], [], 3, [0.0], 0.1, 5).sum() == 0
    assert bin_spikes(times, units, 3, [], 0.1, 5).shape == (0, 5, 3)


def test_a_spike_counts_in_every_window_it_lies_in() -> None:
    counts = bin_spikes([1.0], [0], 1, [0.5, 0.9, 0.9, 1.0, 1.1], 0.1, 6)
    assert counts[..., 0].argmax(axis=1).tolist()[:4] == [5, 1, 1, 0]
    assert counts.sum(axis=(1, 2)).tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(("n", "dtype"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16)])
def test_the_smallest_type_that_fits(n: int, dtype: type) -> None:
    times = np.concatenate([np.full(7, 0.05), np.full(n, 1.05)])
    counts = bin_spikes(times, np.zeros(n + 7, np.uint8), 1, [0.0, 1.0], 0.1, 2)
    assert counts.dtype == dtype
    assert counts[..., 0].tolist() == [[7, 0], [n, 0]]


def test_more_spikes_in_a_bin_than_a_count_can_hold_are_refused() -> None:
    times = np.append(np.full(65_536, 1.15), 0.05)
    with pytest.raises(DataError, match="65536 spikes of unit 1 in bin 1 of window 1"):
        bin_spikes(times, np.append(np.full(65_536, 1), 0), 2, [0.0, 1.0], 0.1, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int32, np.int64])
def test_units_of_any_integer_type(dtype: type) -> None:
    random = np.random.default_rng(3)
    times, units = random.uniform(0, 1, 500), random.integers(0, 100, 500)
    counts = bin_spikes(times, units.astype(dtype), 100, [0.0], 1.0, 1)
    assert np.array_equal(counts[0, 0], np.bincount(units, minlength=100))


def test_temporary_memory_is_small() -> None:
    """72 MB would be one int64 array of these counts, or 16 MB one of the spikes' places."""
    random = np.random.default_rng(4)
    times, units = np.sort(random.uniform(0, 600, 2_000_000)), random.integers(0, 300, 2_000_000).astype(np.int32)
    starts = np.arange(200) * 3.0
    tracemalloc.start()
    try:
        counts = bin_spikes(times, units, 300, starts, 0.02, 150)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts.nbytes == 9_000_000 and counts.sum() == 2_000_000
    assert peak < counts.nbytes + 16_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spike_s": [0.1, np.nan, np.inf]}, "2 spike times are not finite, first at index 1 .nan."),
        ({"spike_s": [0.1, 0.2]}, r"shape \(2,\), their units \(3,\)"),
        ({"spike_s": np.array(["a", "b", "c"])}, "spike times are <U1"),
        ({"spike_unit": [0.0, 1.0, 2.0]}, "their units float64"),
        ({"spike_unit": [0, -1, 5]}, "2 spikes of unknown units, first at index 1 .unit -1.; need units from 0 to 2"),
        ({"spike_unit": np.array([0, 3, 1], np.uint64)}, "first at index 1 .unit 3."),
        ({"starts_s": [0.0, np.nan]}, "1 starts are not finite"),
        ({"bin_s": 0.0}, "bins of 0.0 s"),
        ({"bin_s": -0.02}, "bins of -0.02 s"),
        ({"bin_s": 1e-8}, "bins of 1e-08 s"),
        ({"bin_s": math.nan}, "bins of nan s"),
        ({"n_bins": 2**33}, "would take 24 GiB"),
    ],
)
def test_what_cannot_be_binned_is_refused(change: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {"spike_s": [0.1, 0.2, 0.3], "spike_unit": [0, 1, 2], "n_units": 3, "starts_s": [0.0]}
    with pytest.raises(DataError, match=says):
        bin_spikes(**{**good, "bin_s": 0.1, "n_bins": 5, **change})


# Sessions of recordings -----------------------------------------------------------------------------------------------

K, N, LENGTH = 20, 4, 100.0
ONSET = 4.0 + 4.75 * np.arange(K)
APART = Asked(window_s=(-0.5, 2.5), bin_ms=20)


def recording(**changes: Any) -> Recording:
    """100 s of 4 units at 50 Hz each, 20 trials whose windows of -0.5..2.5 s lie apart."""
    random = np.random.default_rng(0)
    times = np.sort(random.uniform(0, LENGTH, 20_000))
    given: dict[str, Any] = {
        "id": "rec",
        "spike_s": times,
        "spike_unit": random.integers(0, N, len(times)),
        "unit_ids": tuple(f"probe00:{u}" for u in range(N)),
        "areas": ("CA1", "VISp", "CA1", "LP"),
        "events": {"stimOn_times": ONSET, "goCue_times": ONSET + 0.1},
        "default_align": "stimOn_times",
        "trial_columns": {"choice": np.arange(K) % 2, "side": np.array(["left", "right"] * (K // 2))},
        "source": {"format": "test", "sha256": "0" * 64},
        "subject": "mouse",
        "lab": "lab",
        "date": "2021-05-04",
    }
    return Recording(**{**given, **changes})


def noted(session: Session, text: str) -> str:
    """The one note that holds a text."""
    [note] = [note for note in session.notes if text in note]
    return note


def test_a_recording_becomes_a_session_with_all_that_is_known() -> None:
    rec = recording()
    session = session_from(rec, APART)
    assert np.array_equal(session.counts, bin_spikes(rec.spike_s, rec.spike_unit, N, ONSET - 0.5, 0.02, 150))
    assert (session.id, session.align, session.subject, session.lab, session.date) == (
        "rec",
        "stimOn_times",
        "mouse",
        "lab",
        "2021-05-04",
    )
    assert (session.bin_s, session.window_s, session.unit_ids) == (0.02, (-0.5, 2.5), rec.unit_ids)
    assert session.areas == rec.areas and session.trial_ids.tolist() == list(range(K))
    assert set(session.trial_columns) == {"choice", "side", "align_time_s"}
    assert session.trial_columns["align_time_s"].tolist() == ONSET.tolist()
    inside = sum(int(((rec.spike_s >= t - 0.5) & (rec.spike_s < t + 2.5)).sum()) for t in ONSET)
    assert session.source == {
        "format": "test",
        "sha256": "0" * 64,
        "align": "stimOn_times",
        "window_s": [-0.5, 2.5],
        "bin_s": 0.02,
        "units": "all",
        "trials": {"in_file": K, "no_event": 0, "masked": 0, "outside": 0, "kept": K},
        "overlap": 0.0,
        "spikes": {"in_file": 20_000, "of_units": 20_000, "in_windows": inside},
    }
    assert session_from(rec, replace(APART, session_id="other")).id == "other"


def test_the_source_survives_a_store(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rec = recording(
        trial_mask=random.random(K) < 0.8,
        mask_name="reaction times of 0.08..2 s",
        good=np.array([True, False, True, True]),
        span_s=np.array([[0.0, LENGTH - 5]]),
        events={"stimOn_times": np.where(np.arange(K) == 3, np.nan, ONSET)},
        spike_s=recording().spike_s.astype(np.float32),
    )
    for i, asked in enumerate((replace(APART, trial_mask=True, units="good"), replace(APART, align="none"))):
        session = session_from(rec, replace(asked, session_id=f"session {i}"))
        create_store(tmp_path / "store").add(session)
        back = open_store(tmp_path / "store").session(session.id)
        assert back.source == session.source == json.loads(json.dumps(session.source))
        assert np.array_equal(back.counts, session.counts)
        assert back.trial_columns["align_time_s"].tolist() == session.trial_columns["align_time_s"].tolist()


def test_defaults_are_said_and_wishes_are_not() -> None:
    rec = recording()
    assert "window -0.5..2.5 s around stimOn_times and 20 ms bins: the default" in session_from(rec, Asked()).notes
    own = replace(rec, default_window_s=(0.0, 1.0))
    session = session_from(own, Asked(bin_ms=50, align="goCue_times"))
    assert "window 0..1 s: the default" in session.notes and session.counts.shape[1] == 20
    assert session.align == "goCue_times"
    assert session.trial_columns["align_time_s"].tolist() == (ONSET + 0.1).tolist()
    assert "20 ms bins: the default" in session_from(rec, Asked(window_s=(0, 1), align="goCue_times")).notes
    assert "trials aligned to stimOn_times: the default" in session_from(rec, APART).notes
    assert not session_from(rec, replace(APART, align="stimOn_times")).notes


def test_a_window_starts_at_the_decimal_sum_of_event_and_offset() -> None:
    """1.1 - 0.2 is 0.9000000000000001 in floating point; a spike at 0.9 is in the window all the same."""
    assert 1.1 - 0.2 > 0.9
    times = np.sort(np.concatenate([[0.9], 1.1 + 2 * np.arange(1, 20), np.linspace(0.5, 60, 500)]))
    rec = recording(
        spike_s=times, spike_unit=np.zeros(len(times), int), events={"stimOn_times": 1.1 + 2 * np.arange(K)}
    )
    session = session_from(rec, Asked(window_s=(-0.2, 0.0), bin_ms=20))
    spikes_there = sum(math.isclose(time, 0.9, abs_tol=1e-12) for time in times)
    assert spikes_there == 1 and session.counts[0, 0, 0] == 1


# Trials ---------------------------------------------------------------------------------------------------------------


def test_trials_without_the_event_are_dropped_and_named() -> None:
    onset = ONSET.copy()
    onset[[4, 17]] = np.nan, np.inf
    session = session_from(recording(events={"stimOn_times": onset}), APART)
    assert session.source["trials"] == {"in_file": K, "no_event": 2, "masked": 0, "outside": 0, "kept": K - 2}
    assert noted(session, "stimOn_times and were") == ("2 of 20 trials have no stimOn_times and were dropped: 4, 17")
    kept = [i for i in range(K) if i not in (4, 17)]
    assert session.trial_ids.tolist() == kept
    assert session.trial_columns["choice"].tolist() == [i % 2 for i in kept]
    assert np.array_equal(session.counts, session_from(recording(), APART).counts[kept])


def test_trials_keep_their_numbers_whatever_else_is_dropped() -> None:
    ids = 100 + 3 * np.arange(K)
    onset = np.where(np.arange(K) % 7 == 0, np.nan, ONSET)
    session = session_from(recording(trial_ids=ids, events={"stimOn_times": onset}), APART)
    assert session.trial_ids.tolist() == [i for n, i in enumerate(ids.tolist()) if n % 7]
    assert session.source["trials"]["no_event"] == 3


def test_trials_in_any_order_come_out_by_number() -> None:
    order = np.random.default_rng(5).permutation(K)
    columns = {"choice": (np.arange(K) % 2)[order]}
    rec = recording(events={"stimOn_times": ONSET[order]}, trial_ids=order, trial_columns=columns)
    session, usual = session_from(rec, APART), session_from(recording(), APART)
    assert np.array_equal(session.counts, usual.counts) and session.trial_ids.tolist() == list(range(K))
    assert session.trial_columns["align_time_s"].tolist() == ONSET.tolist()
    assert session.trial_columns["choice"].tolist() == usual.trial_columns["choice"].tolist()


def test_the_mask_is_off_unless_asked_for() -> None:
    mask = np.arange(K) % 4 != 1
    rec = recording(trial_mask=mask, mask_name="the field's usual filter")
    assert session_from(rec, APART).n_trials == session_from(rec, replace(APART, trial_mask=False)).n_trials == K
    session = session_from(rec, replace(APART, trial_mask=True))
    assert session.trial_ids.tolist() == np.flatnonzero(mask).tolist()
    assert session.source["trials"] == {"in_file": K, "no_event": 0, "masked": 5, "outside": 0, "kept": 15}
    assert session.source["trial_mask"] == "the field's usual filter"
    assert noted(session, "5 of 20 trials are not in the mask the field's usual filter").endswith("1, 5, 9, 13, 17")
    with pytest.raises(UsageError, match="has no trial mask"):
        session_from(recording(), replace(APART, trial_mask=True))


def test_a_trial_dropped_for_several_reasons_is_counted_once() -> None:
    """Trial 0 is outside and masked, 1 has no event and is masked, 2 is masked, 19 is outside, 18 has no event."""
    onset = np.where(np.isin(np.arange(K), [1, 18]), np.nan, ONSET)
    rec = recording(events={"stimOn_times": onset}, trial_mask=np.arange(K) > 2, span_s=np.array([[5.0, 95.0]]))
    session = session_from(rec, replace(APART, trial_mask=True))
    assert session.source["trials"] == {"in_file": K, "no_event": 2, "masked": 2, "outside": 1, "kept": 15}
    assert session.trial_ids.tolist() == list(range(3, 18))
    assert [note.rpartition(": ")[2] for note in session.notes if "dropped" in note] == ["1, 18", "0, 2", "19"]


def test_windows_beyond_the_recorded_span_are_dropped() -> None:
    # trial 19 is at 94.25 s and ends at 96.75 s; trial 0 starts at 3.5 s
    session = session_from(recording(span_s=np.array([[3.6, 96.7]])), APART)
    assert session.trial_ids.tolist() == list(range(1, 19))
    assert session.source["trials"]["outside"] == 2
    assert noted(session, "reach beyond what was recorded (3.6..96.7 s) and were dropped").endswith("0, 19")
    whole = session_from(recording(span_s=np.array([[3.5, 96.75]])), APART)  # to the very edges
    assert whole.n_trials == K


def test_gaps_between_recorded_intervals_count_and_touching_ones_do_not() -> None:
    spans = np.array([[50.0, 100.0], [0.0, 20.0], [20.0, 30.0], [25.0, 40.0]])  # a gap 40..50: trials 7 to 9
    session = session_from(recording(span_s=spans), APART)
    reach = [i for i in range(K) if ONSET[i] + 2.5 > 40 and ONSET[i] - 0.5 < 50]
    assert session.trial_ids.tolist() == [i for i in range(K) if i not in reach] and reach
    nested = replace(recording(), span_s=np.array([[0.0, 40.0], [5.0, 10.0], [50.0, 100.0]]))
    assert session_from(nested, APART).trial_ids.tolist() == session.trial_ids.tolist()
    assert "in 2 intervals" in noted(session, "reach beyond")


def test_without_a_span_late_windows_are_kept_and_said() -> None:
    """The last spike is 0.1 s before the end of the last window: nothing odd; 2 s before it: a note."""
    rec = recording()

    def cut_at(end_s: float) -> Session:
        keep = rec.spike_s < end_s
        return session_from(replace(rec, spike_s=rec.spike_s[keep], spike_unit=rec.spike_unit[keep]), APART)

    assert not any("beyond" in note for note in cut_at(96.65).notes) and cut_at(96.65).n_trials == K
    late = cut_at(94.5)
    assert late.n_trials == K and "windows of 1 trials" in noted(late, "beyond the first or last spike")


def test_a_recording_that_stops_early_is_said_with_its_trial() -> None:
    rec = recording(trial_ids=np.arange(K) + 200)
    keep = rec.spike_s < 60.0
    session = session_from(replace(rec, spike_s=rec.spike_s[keep], spike_unit=rec.spike_unit[keep]), APART)
    silent = [i for i in range(K) if ONSET[i] - 0.5 > 60]
    said = noted(session, "no spike after")
    assert f"0 from trial {200 + silent[0]} on ({len(silent)} of 20): did the recording stop early?" in said
    assert session.n_trials == K and not session.counts[silent[0] :].any() and session.counts[silent[0] - 1].any()
    keep = rec.spike_s > 30.0
    session = session_from(replace(rec, spike_s=rec.spike_s[keep], spike_unit=rec.spike_unit[keep]), APART)
    silent = [i for i in range(K) if ONSET[i] + 2.5 < 30]
    assert f"0 up to trial {200 + silent[-1]} ({len(silent)} of 20)" in noted(session, "no spike before")


def test_overlapping_windows_are_measured_and_said() -> None:
    onset = ONSET.copy()
    onset[5] = onset[4] + 2.0  # 4 and 5 share a second; 5 and 6 do not
    onset[8] = onset[7] + 3.0  # 7 and 8 touch
    session = session_from(recording(events={"stimOn_times": onset}), APART)
    assert session.source["overlap"] == 0.1
    text = "random splits share bins between training and test; consider --set split=blocked"
    assert f"10.0 % of windows overlap another: {text}" in session.notes
    assert not any("overlap" in note for note in session_from(recording(), APART).notes)


def test_dropped_trials_overlap_nothing() -> None:
    onset = ONSET.copy()
    onset[5] = onset[4] + 2.0
    mask = np.arange(K) != 5
    session = session_from(recording(events={"stimOn_times": onset}, trial_mask=mask), replace(APART, trial_mask=True))
    assert session.source["overlap"] == 0.0


def test_spikes_in_several_windows_are_counted_once_in_the_source() -> None:
    rec = recording()
    wide = session_from(rec, Asked(window_s=(-3, 5), bin_ms=20))
    inside = np.zeros(len(rec.spike_s), bool)
    for t in ONSET:
        inside |= (rec.spike_s >= t - 3) & (rec.spike_s < t + 5)
    assert wide.source["spikes"]["in_windows"] == inside.sum() < wide.spikes
    assert wide.source["overlap"] == 1.0


# Without trials -------------------------------------------------------------------------------------------------------


def test_windows_at_a_stride_tile_the_recording() -> None:
    rec = recording(span_s=np.array([[0.0, LENGTH]]))
    session = session_from(rec, Asked(align="none", window_s=(0, 3)))
    assert session.align == "none" and session.n_trials == 33 and session.window_s == (0.0, 3.0)
    assert session.trial_columns["align_time_s"].tolist() == [3.0 * i for i in range(33)]
    assert set(session.trial_columns) == {"align_time_s"} and session.trial_ids.tolist() == list(range(33))
    assert session.spikes == (rec.spike_s < 99).sum() and session.source["overlap"] == 0.0
    assert session.source["trials"] == {"in_file": 33, "no_event": 0, "masked": 0, "outside": 0, "kept": 33}
    assert session.source["stride_s"] == 3.0


@pytest.mark.parametrize("begin_s", [0.1, 1 / 3, 1234.567890123456])
def test_tiles_share_no_bin_and_leave_none_out(begin_s: float) -> None:
    base = recording()
    times = begin_s + base.spike_s
    rec = replace(base, spike_s=times, span_s=np.array([[begin_s, begin_s + 30]]), events={})
    session = session_from(rec, Asked(align="none", window_s=(0, 0.3), bin_ms=100))
    assert session.n_trials == 100 and session.source["overlap"] == 0.0
    assert session.spikes == ((times >= begin_s) & (times < float(Fraction(begin_s) + 30))).sum()


def test_a_stride_an_offset_and_intervals() -> None:
    rec = recording(span_s=np.array([[0.0, 10.0], [50.0, 54.0], [60.0, 61.0]]), events={}, default_align=None)
    session = session_from(rec, Asked(align="none", window_s=(1, 3), stride_s=1.0))
    begins = [*range(1, 9), 51, 52]
    assert [t + 1 for t in session.trial_columns["align_time_s"]] == begins
    assert np.array_equal(
        session.counts, bin_spikes(rec.spike_s, rec.spike_unit, N, np.array(begins, float), 0.02, 100)
    )
    assert session.source["overlap"] == 1.0
    before = session_from(rec, Asked(align="none", window_s=(-1, 1), stride_s=1.0))
    assert [t - 1 for t in before.trial_columns["align_time_s"]] == [*range(9), 50, 51, 52]


def test_without_a_span_windows_go_from_the_first_spike_to_the_last() -> None:
    rec = recording()
    keep = (rec.spike_s > 7.0) & (rec.spike_s < 50.0)
    rec = replace(rec, spike_s=rec.spike_s[keep], spike_unit=rec.spike_unit[keep], good=np.arange(N) < 2)
    session = session_from(rec, Asked(align="none", window_s=(0, 3)))
    begins = session.trial_columns["align_time_s"]
    assert rec.spike_s[0] - 0.001 < begins[0] <= rec.spike_s[0]
    assert begins[0] == round(begins[0], 3)  # a decimal, so that windows at a stride tile
    assert begins[-1] + 3 <= rec.spike_s[-1] < begins[-1] + 6
    good = session_from(rec, Asked(align="none", window_s=(0, 3), units="good"))
    assert (
        good.trial_columns["align_time_s"].tolist() == begins.tolist()
    )  # windows do not depend on the choice of units


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (Asked(align="none"), UsageError, "--window 0,3"),
        (Asked(align="none", window_s=(0, 3), stride_s=0.0), UsageError, "a stride of 0 s"),
        (Asked(align="none", window_s=(0, 3), stride_s=math.nan), UsageError, "a stride of nan s"),
        (Asked(align="none", window_s=(0, 3), stride_s=math.inf), UsageError, "a stride of inf s"),
        (Asked(align="none", window_s=(0, 3), stride_s=1e-8), UsageError, "a stride of 1e-08 s"),
        (
            Asked(align="none", window_s=(0, 3), stride_s=1e-6),
            UsageError,
            "makes 9[0-9]{7} windows; need at most 1000000",
        ),
        (Asked(align="none", window_s=(0, 300)), DataError, "no window of 300 s fits"),
        (Asked(align="none", window_s=(0, 3), trial_mask=True), UsageError, "mask with --align none"),
        (Asked(window_s=(0, 3), stride_s=1.0), UsageError, "--stride with trials"),
    ],
)
def test_strides_that_cannot_be_meant(asked: Asked, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        session_from(recording(), asked)


# Units ----------------------------------------------------------------------------------------------------------------


def test_good_units_keep_their_ids_areas_and_counts() -> None:
    rec = recording(good=np.array([False, True, False, True]))
    session, whole = session_from(rec, replace(APART, units="good")), session_from(rec, APART)
    assert session.unit_ids == ("probe00:1", "probe00:3") and session.areas == ("VISp", "LP")
    assert np.array_equal(session.counts, whole.counts[:, :, [1, 3]])
    assert session.source["units"] == "good"
    assert session.source["spikes"]["of_units"] == np.isin(rec.spike_unit, [1, 3]).sum() < 20_000
    assert "2 of 4 units are good" in noted(session, "good")


def test_units_without_a_spike_stay() -> None:
    rec = recording()
    keep = rec.spike_unit != 2
    session = session_from(replace(rec, spike_s=rec.spike_s[keep], spike_unit=rec.spike_unit[keep]), APART)
    assert session.n_units == N and not session.counts[:, :, 2].any()
    assert "1 unit without a spike: 2" in session.notes


# What recordings get wrong --------------------------------------------------------------------------------------------


def with_bad_times(*values: float) -> dict[str, Any]:
    times = recording().spike_s.copy()
    times[[10, 30][: len(values)]] = values
    return {"spike_s": times}


def refused() -> dict[str, tuple[Callable[[], dict[str, Any]], Asked, type[Exception], str]]:
    times, units = recording().spike_s, recording().spike_unit
    good = replace(APART, units="good")
    return {
        "nan": (lambda: with_bad_times(np.nan, np.nan), APART, DataError, "2 spike times are not finite.*index 10"),
        "infinite": (lambda: with_bad_times(-np.inf), APART, DataError, "1 spike times are not finite.*index 10"),
        "lengths": (lambda: {"spike_unit": units[:-1]}, APART, DataError, r"\(20000,\), their units \(19999,\)"),
        "unknown unit": (lambda: {"spike_unit": units + 1}, APART, DataError, "units from 0 to 3"),
        "samples": (lambda: {"spike_s": times * 30_000}, APART, DataError, "last spike at 3e.06 s .35 days.*samples"),
        "years": (lambda: {"spike_s": times * 1e6}, APART, DataError, r"1e\+08 s \(3.2 years"),
        "event samples": (lambda: {"events": {"e": ONSET * 30_000}}, replace(APART, align="e"), DataError, "last e at"),
        "no units": (lambda: {"unit_ids": (), "areas": None}, APART, DataError, "has no units"),
        "no spikes": (lambda: {"spike_s": times[:0], "spike_unit": units[:0]}, APART, DataError, "has no spikes"),
        "no labels": (dict, good, DataError, "no quality labels"),
        "none good": (lambda: {"good": np.zeros(N, bool)}, good, DataError, "0 of 4 units are good"),
        "labels": (lambda: {"good": np.ones(N + 1, bool)}, APART, DataError, "5 quality labels of 4 units"),
        "areas": (lambda: {"areas": ("CA1",)}, APART, DataError, "1 areas of 4 units"),
        "units": (dict, replace(APART, units="best"), UsageError, r"all \| good"),
        "clocks": (
            lambda: {"events": {"stimOn_times": ONSET + 1000}},
            APART,
            DataError,
            "0 spikes in 20 trials.*clocks",
        ),
        "clocks and span": (
            lambda: {"events": {"stimOn_times": ONSET + 1000}, "span_s": np.array([[0.0, LENGTH]])},
            APART,
            DataError,
            "none of 20 trials is left: 20 reach beyond what was recorded .0..100 s..*clocks",
        ),
        "no event": (lambda: {"events": {"stimOn_times": ONSET * np.nan}}, APART, DataError, "20 have no stimOn_times"),
        "no trials": (lambda: {"events": {"stimOn_times": ONSET[:0]}}, APART, DataError, "has no trials"),
        "rows": (
            lambda: {"events": {"stimOn_times": ONSET, "goCue_times": ONSET[1:]}},
            APART,
            DataError,
            "goCue_times has 19 rows, stimOn_times 20",
        ),
        "columns": (lambda: {"trial_columns": {"choice": np.zeros(7)}}, APART, DataError, "choice has 7 rows"),
        "mask": (lambda: {"trial_mask": np.ones(7, bool)}, APART, DataError, "trial mask has 7 rows"),
        "ids": (lambda: {"trial_ids": np.zeros(K, int)}, APART, DataError, "trial ids are repeated"),
        "text times": (lambda: {"events": {"e": ONSET.astype(str)}}, replace(APART, align="e"), DataError, "event 'e'"),
        "span": (lambda: {"span_s": np.array([[5.0, 4.0]])}, APART, DataError, "ends before it starts"),
        "endless span": (lambda: {"span_s": np.array([[0, np.inf]])}, APART, DataError, "one that is not finite"),
        "span of one axis": (lambda: {"span_s": np.array([0.0, 9.0])}, APART, DataError, r"shape \(2,\)"),
        "all masked": (
            lambda: {"trial_mask": np.zeros(K, bool)},
            replace(APART, trial_mask=True),
            DataError,
            "20 are not in the mask of the file.*leave the mask out",
        ),
        "bins": (dict, Asked(bin_ms=20, window_s=(0, 0.05)), UsageError, "a whole number of bins"),
        "window": (dict, Asked(window_s=(1, 1)), UsageError, "a whole number of bins"),
        "backwards": (dict, Asked(window_s=(1, 0)), UsageError, "a whole number of bins"),
        "nan window": (dict, Asked(window_s=(0, math.nan)), UsageError, "two times in seconds"),
        "endless": (dict, Asked(window_s=(0, math.inf)), UsageError, "two times in seconds"),
        "bin 0": (dict, Asked(bin_ms=0), UsageError, "bins of 0 ms"),
        "bin in us": (dict, Asked(bin_ms=20_000), UsageError, "bins of 20000 ms"),
        "nan bin": (dict, Asked(bin_ms=math.nan), UsageError, "bins of nan ms"),
        "hours": (dict, Asked(window_s=(0, 1e8)), DataError, "would take"),
        "start": (dict, Asked(start_s=0.0), UsageError, "--start with spike times"),
        "event": (
            dict,
            Asked(align="stimOn"),
            UsageError,
            r"--align stimOn_times \| goCue_times \| none.*Did you mean stimOn",
        ),
        "no default": (
            lambda: {"default_align": None},
            APART,
            UsageError,
            r"--align stimOn_times \| goCue_times \| none",
        ),
        "no events": (
            lambda: {"events": {}, "default_align": None, "trial_columns": {}},
            APART,
            DataError,
            "--align none --window 0,3",
        ),
    }


@pytest.mark.parametrize("case", sorted(refused()))
def test_refused_in_one_line_that_names_the_recording(case: str) -> None:
    changes, asked, error, says = refused()[case]
    with pytest.raises(error, match=says) as caught:
        session_from(recording(**changes()), asked)
    assert type(caught.value) is error and "\n" not in str(caught.value)


def test_unsorted_spikes_are_sorted_with_a_note() -> None:
    rec, order = recording(), np.random.default_rng(6).permutation(20_000)
    session = session_from(replace(rec, spike_s=rec.spike_s[order], spike_unit=rec.spike_unit[order]), APART)
    assert np.array_equal(session.counts, session_from(rec, APART).counts)
    assert "the spikes were sorted" in noted(session, "follow a later one")
    swapped = np.arange(20_000)
    swapped[[70, 71]] = 71, 70
    session = session_from(replace(rec, spike_s=rec.spike_s[swapped]), APART)
    assert "1 spike times follow a later one: the spikes were sorted" in session.notes


def test_spikes_unit_by_unit_are_nothing_odd_unless_a_unit_is_unsorted() -> None:
    rec = recording()
    order = np.argsort(rec.spike_unit, kind="stable")
    by_unit = replace(rec, spike_s=rec.spike_s[order], spike_unit=rec.spike_unit[order])
    session = session_from(by_unit, APART)
    assert np.array_equal(session.counts, session_from(rec, APART).counts)
    assert not any("sorted" in note for note in session.notes)
    times = by_unit.spike_s.copy()
    times[[100, 101]] = times[[101, 100]]
    assert any("sorted" in note for note in session_from(replace(by_unit, spike_s=times), APART).notes)


def test_units_in_turns_with_one_out_of_order_are_noted() -> None:
    """Times fall only where the unit's number rises, but unit 0 has its spikes after 50 s first."""
    rec = recording()
    time, unit = rec.spike_s, rec.spike_unit
    turns = [(unit == 0) & (time > 50), (unit == 1) & (time < 25), (unit == 0) & (time > 25) & (time < 50)]
    order = np.concatenate([np.flatnonzero(turn) for turn in turns])
    session = session_from(replace(rec, spike_s=time[order], spike_unit=unit[order]), APART)
    assert "1 spike times follow a later one: the spikes were sorted" in session.notes


def test_negative_times_are_times() -> None:
    rec = recording()
    session = session_from(replace(rec, spike_s=rec.spike_s - 50, events={"stimOn_times": ONSET - 50}), APART)
    assert session.spikes == session_from(rec, APART).spikes
    n = int((rec.spike_s < 50).sum())
    assert noted(session, "negative").startswith(f"{n} spikes at negative times (from -49.99")


def test_coarse_times_and_short_clocks_are_said() -> None:
    rec = recording()
    late = rec.spike_s + 9000
    coarse = replace(rec, spike_s=late.astype(np.float32), events={"stimOn_times": ONSET + 9000})
    assert "spike times are float32: in steps of 0.98 ms" in noted(session_from(coarse, APART), "float32")
    fine = replace(coarse, spike_s=late)
    assert not any("steps" in note for note in session_from(fine, APART).notes)
    milliseconds = session_from(replace(rec, spike_s=rec.spike_s * 1000), APART)
    assert "samples or ms?" in noted(milliseconds, "samples")


def test_the_recording_is_not_changed() -> None:
    rec = recording(spike_s=recording().spike_s[::-1], span_s=np.array([[50.0, 100.0], [0.0, 50.0]]), notes=("odd",))
    before = [rec.spike_s.copy(), rec.spike_unit.copy(), rec.span_s.copy()]  # type: ignore[union-attr]
    session = session_from(rec, APART)
    assert all(np.array_equal(a, b) for a, b in zip(before, [rec.spike_s, rec.spike_unit, rec.span_s], strict=True))
    assert session.notes[0] == "odd" and rec.notes == ("odd",)
    assert "trials" not in rec.source


def test_quality_labels_are_kept_for_the_units_that_are_taken(tmp_path: Path) -> None:
    known = Recording(
        "a",
        np.repeat(np.arange(10.0) * 2 + 0.1, 3),
        np.tile(np.arange(3), 10),
        ("x", "y", "z"),
        good=np.array([False, True, True]),
        events={"go": np.arange(10.0) * 2},
        default_align="go",
    )
    store = create_store(tmp_path / "store")
    for id_, units, good in (("all", "all", [1, 2]), ("good", "good", [0, 1])):
        store.add(session_from(known, Asked(session_id=id_, units=units, window_s=(0, 1))))
        assert store.info(id_).source["good_units"] == good and store.info(id_).n_units_good == 2
    assert store.filter("n_units_good >= 2").ids == ("all", "good") and not store.filter("n_units_good > 2").ids
    store.add(session_from(replace(known, good=None), Asked(session_id="none", window_s=(0, 1))))
    assert store.info("none").n_units_good is None and "none" not in store.filter("n_units_good >= 0")
