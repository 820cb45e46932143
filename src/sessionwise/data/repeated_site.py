"""IBL's RepeatedSite sessions by name: what a study of them consists of before any recording is there.

The table beside this module holds facts from IBL's public release tables; ``benchmarks/make_manifest.py`` compiles it.
One row is one session (eid) with one insertion (pid).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from sessionwise.errors import IntegrityError

N_SESSIONS = 91
TABLE = "repeated_site.csv"

# The spike sorting that is asked for where nobody names another. IBL sorted the reproducible-ephys recordings, of which
# the manifest consists, again in revision 2024-03-22, and its brain-wide map in 2024-05-06. Only some of these sessions
# belong to the latter: asking for it would mix two sortings in one study. The manifest's numbers of units are of the
# freeze of March 2024, too.
REVISION = "2024-03-22"
SORTER = "pykilosort"  # the collection that these revisions stand in, where a probe has several

# The paper drops two sessions with fewer than 100 trials and names neither (protocol A1).
DROPPED: Mapping[str, str] = MappingProxyType(
    {
        "38d95489-2e82-412a-8c1a-c5377b5f1555": "50 trials, fewer than 100",
        "57fd2325-67f4-4d45-9907-29e77d3043d7": (
            "171 trials, 90 after the trial mask, fewer than 100; very probably the second session that the paper "
            "dropped: without the mask only one session is short"
        ),
    }
)

# MtM's five test sessions, in the order of the paper's 84..88; the paper names no ids (protocol A2).
HELDOUT = (
    "5dcee0eb-b34d-4652-acc3-d10afc6eae68",
    "c7bf2d49-4937-4597-b307-9f39cb1c7b16",
    "03d9a098-07bf-4765-88b7-85f8d8f620cc",
    "d57df551-6dcb-4242-9c72-b806cff5613a",
    "824cf03d-4012-4ab1-b499-c83a92c5589e",
)


@dataclass(frozen=True)
class Entry:
    """One session of the manifest.

    trials: of the session before any mask, the one count that is known of every session, so that sessions can be
    compared and plans add up; a study with the trial mask has fewer.
    trials_masked: trials that IBL's mask keeps (reaction time, choice, missing events), known of 39 sessions: 62 % of
    theirs (37 to 79 % of one). It decides about the sessions to drop and nothing else.
    units: units of at least 0.1 Hz, known of 77 sessions; the sorter's whole list, of which the paper speaks (about
    1,015 units a session), is in none of the release tables. units_good: those that IBL's quality metrics pass.
    release: the release table that the row comes from.
    dropped: why the session is in no study, or None.
    """

    eid: str
    pid: str
    probe: str
    subject: str
    lab: str
    date: str
    release: str
    trials: int
    trials_masked: int | None
    units: int | None
    units_good: int | None
    dropped: str | None

    @property
    def usable(self) -> bool:
        """Whether the session is one of the 89 that the paper has left."""
        return self.dropped is None


@cache
def manifest() -> tuple[Entry, ...]:
    """All 91 sessions, sorted by eid, the two dropped ones among them.

    Raises IntegrityError when the packaged table is not what it should be.
    """
    text = files("sessionwise.data").joinpath(TABLE).read_text(encoding="utf-8")
    return read_entries(text)


def read_entries(text: str) -> tuple[Entry, ...]:
    """The entries of the manifest's CSV; IntegrityError for what is not 91 sessions, each once, those of this module
    among them.
    """
    try:
        entries = tuple(_entry(row) for row in csv.DictReader(text.splitlines(), strict=True))
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise _broken(f"cannot be read ({error!r:.80})") from error
    eids, pids = {entry.eid for entry in entries}, {entry.pid for entry in entries}
    if not len(entries) == len(eids) == len(pids) == N_SESSIONS:
        raise _broken(f"has {len(entries)} rows, {len(eids)} eids, {len(pids)} pids")
    if missing := {*DROPPED, *HELDOUT} - eids:
        raise _broken(f"does not hold {min(missing)}")
    return entries


def default_heldout() -> tuple[str, ...]:
    """The five held-out sessions, in the order of the paper's 84, 85, 86, 87, 88."""
    return HELDOUT


def _entry(row: Mapping[Any, Any]) -> Entry:
    if None in row or None in row.values():
        raise ValueError("a row with too few or too many cells")
    return Entry(
        **{name: _text(row[name]) for name in ("eid", "pid", "probe", "subject", "lab", "date", "release")},
        trials=int(row["trials"]),
        trials_masked=_count(row["trials_masked"]),
        units=_count(row["units"]),
        units_good=_count(row["units_good"]),
        dropped=DROPPED.get(row["eid"]),
    )


def _text(cell: str) -> str:
    if not cell:
        raise ValueError("an empty cell")
    return cell


def _count(cell: str) -> int | None:
    return int(cell) if cell else None


def _broken(found: str) -> IntegrityError:
    return IntegrityError(TABLE, found, f"{N_SESSIONS} sessions, each once", "Install the package again")
