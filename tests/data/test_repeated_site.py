"""The manifest of the RepeatedSite sessions: complete, each session once, and what the paper says about them."""

import csv
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from sessionwise.data.repeated_site import DROPPED, HELDOUT, TABLE, default_heldout, manifest, read_entries
from sessionwise.errors import IntegrityError

ROOT = Path(__file__).parents[2]
TEXT = files("sessionwise.data").joinpath(TABLE).read_text(encoding="utf-8")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def test_91_sessions_of_which_89_are_left():
    entries = manifest()
    assert len(entries) == 91 and sum(entry.usable for entry in entries) == 89
    assert [entry.eid for entry in entries] == sorted({entry.eid for entry in entries})
    assert all(UUID.fullmatch(entry.eid) and UUID.fullmatch(entry.pid) for entry in entries)
    assert {entry.probe for entry in entries} == {"probe00", "probe01"}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", entry.date) for entry in entries)


def test_the_calibration_figures_of_the_sessions():
    # median 571 trials, 50 to 1146; 18, 14, 11, 8, 8, 6, 6, 5, 5, 5, 4, 1 sessions a lab; median 693 and 116 units
    trials = sorted(entry.trials for entry in manifest())
    assert (trials[0], trials[45], trials[-1]) == (50, 571, 1146)
    labs = [entry.lab for entry in manifest()]
    assert sorted((labs.count(lab) for lab in set(labs)), reverse=True) == [18, 14, 11, 8, 8, 6, 6, 5, 5, 5, 4, 1]
    units = sorted(entry.units for entry in manifest() if entry.units is not None)
    good = sorted(entry.units_good for entry in manifest() if entry.units_good is not None)
    assert len(units) == len(good) == 77 and (units[38], good[38]) == (693, 116)


def test_the_two_short_sessions_are_dropped_by_name_with_the_reason():
    short = {entry.eid: entry for entry in manifest() if not entry.usable}
    first, second = short["38d95489-2e82-412a-8c1a-c5377b5f1555"], short["57fd2325-67f4-4d45-9907-29e77d3043d7"]
    assert len(short) == 2 and first.trials == 50 and (second.trials, second.trials_masked) == (171, 90)
    assert "very probably" in second.dropped and "probably" not in first.dropped
    # nobody else is short, before the mask or, where it is known, after it
    assert min(entry.trials for entry in manifest() if entry.usable) == 195
    assert all(entry.trials_masked is None or entry.trials_masked >= 100 for entry in manifest() if entry.usable)


def test_masked_trials_are_some_of_the_trials():
    known = [(entry.trials_masked, entry.trials) for entry in manifest() if entry.trials_masked is not None]
    assert len(known) == 39 and all(0 < masked < trials for masked, trials in known)
    shares = [masked / trials for masked, trials in known]  # the figures of the docstring
    assert f"{sum(m for m, _ in known) / sum(t for _, t in known):.2f}" == "0.62"
    assert (f"{min(shares):.2f}", f"{max(shares):.2f}") == ("0.37", "0.79")


def test_five_held_out_sessions_in_the_order_of_the_paper():
    assert [eid[:8] for eid in default_heldout()] == ["5dcee0eb", "c7bf2d49", "03d9a098", "d57df551", "824cf03d"]
    usable = {entry.eid for entry in manifest() if entry.usable}
    assert usable.issuperset(HELDOUT) and not set(HELDOUT) & set(DROPPED)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda lines: lines[:-1], "90 rows"),
        (lambda lines: [*lines[:-1], lines[1]], "91 rows, 90 eids, 90 pids"),
        (lambda lines: [lines[0].replace("trials,", "tirals,", 1), *lines[1:]], "cannot be read"),
        (lambda lines: [lines[0], lines[1].replace(",415,", ",4.5,"), *lines[2:]], "cannot be read"),
        (lambda lines: [lines[0], lines[1].replace("CSH_ZAD_011", ""), *lines[2:]], "cannot be read"),
        (lambda lines: [lines[0], lines[1].rsplit(",", 2)[0], *lines[2:]], "cannot be read"),
        (lambda lines: [line.replace(HELDOUT[0], HELDOUT[0][::-1]) for line in lines], HELDOUT[0]),
    ],
)
def test_a_broken_table_is_refused(change, found):
    lines = TEXT.splitlines()
    assert change(lines) != lines
    with pytest.raises(IntegrityError, match=found):
        read_entries("\n".join(change(lines)))


def test_the_table_is_what_the_script_compiles():
    folder = os.environ.get("SESSIONWISE_DATA", "")
    source = Path(folder) / "repeated_site_metadata.csv"
    if not folder or not source.exists():
        pytest.skip("the table of metadata is not here (SESSIONWISE_DATA)")
    script = ROOT / "benchmarks" / "make_manifest.py"
    made = subprocess.run([sys.executable, str(script), str(source)], capture_output=True, check=True)
    assert made.stdout.decode() == TEXT
    with source.open(newline="") as file:
        rows = {row["eid"]: row for row in csv.DictReader(file)}
    for entry in manifest():  # and the columns are the right ones
        row = rows[entry.eid]
        assert (entry.subject, entry.lab, entry.trials) == (row["subject"], row["lab"], int(row["n_trials"]))
        assert str(entry.trials_masked or "") == row["mask_n_good"].removesuffix(".0")
