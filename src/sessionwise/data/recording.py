"""A recording before binning: spike times, the events that trials can be aligned to, and what is known about both.

Readers of formats with spike times return a ``Recording``; ``binning.session_from`` makes a ``Session`` of it, and
checks: nothing is checked here. Axes: S spikes, N units, K trials. Times are seconds on the recording's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WITHOUT_TRIALS = "none"  # --align none: windows at a fixed stride instead of trials
UNIT_CHOICES = ("all", "good")


@dataclass(frozen=True, eq=False)
class Recording:
    """Spike times of one recording. What is unknown is None; nothing is invented.

    Attributes
    ----------
    spike_s: (S,) times in seconds, in any order. spike_unit: (S,) integers, each a position in ``unit_ids``.
    unit_ids: one text a unit; with several probes ``probe00:17``. areas: one region a unit.
    good: (N,) bool, units that pass the source's own quality metric.
    events: name -> (K,) time of that event in each trial, NaN where it did not happen. Empty without trials.
    default_align: the event that this format's users align to; default_window_s: likewise, relative to it;
    default_bin_ms: when the spikes were made from counts, their bin size: then only whole multiples of these bins in
    the default window, around the default event, can be had. laid_out: the trials stand one after another on a made-up
    clock; what is known of their true times stands in the column ``align_time_s``. aligned_as: event -> what a session
    calls it, where that is another name or none. units_are_numbered: ``unit_ids`` only count; the session has none.
    trial_ids: (K,) number of each trial in the source. trial_columns: name -> (K,) conditions and other values.
    trial_mask: (K,) bool, trials that the field's usual filter keeps (IBL: protocol B13); mask_name: what it is called.
    span_s: (R, 2) intervals that were recorded, ascending; None when only the spikes tell.
    source: format, file, SHA-256 ... as it will stand in the session. notes: what was odd or chosen, one line each.
    """

    id: str
    spike_s: np.ndarray
    spike_unit: np.ndarray
    unit_ids: tuple[str, ...]
    areas: tuple[str, ...] | None = None
    good: np.ndarray | None = None
    events: Mapping[str, np.ndarray] = field(default_factory=dict)
    default_align: str | None = None
    default_window_s: tuple[float, float] | None = None
    default_bin_ms: float | None = None
    laid_out: bool = False
    aligned_as: Mapping[str, str | None] = field(default_factory=dict)
    units_are_numbered: bool = False
    trial_ids: np.ndarray | None = None
    trial_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    trial_mask: np.ndarray | None = None
    mask_name: str | None = None
    span_s: np.ndarray | None = None
    subject: str | None = None
    lab: str | None = None
    date: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Recording({self.id!r}, {len(self.spike_s)} spikes, {len(self.unit_ids)} units)"


@dataclass(frozen=True)
class Asked:
    """What the user asked of an import. None: the format's default, which is said aloud.

    Attributes
    ----------
    bin_ms, window_s: bin size in milliseconds; window (start, stop) in seconds around the event.
    align: name of an event, or ``"none"`` for windows cut at a fixed stride; stride_s: that stride (None: no overlap).
    units: ``"all"`` or ``"good"``. trial_mask: apply the recording's own mask (None: off).
    session_id: an id instead of the file's own. start_s: where the window of binned counts begins, for files that do
    not say. sorter, revision: of ALF folders, where there are several.
    """

    bin_ms: float | None = None
    window_s: tuple[float, float] | None = None
    align: str | None = None
    stride_s: float | None = None
    units: str = "all"
    trial_mask: bool | None = None
    session_id: str | None = None
    start_s: float | None = None
    sorter: str | None = None
    revision: str | None = None
