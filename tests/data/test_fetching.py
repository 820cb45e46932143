"""RepeatedSite from real caches of ONE, built here: sessions of the manifest with two probes and two revisions."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from alf_trees import (
    Clusters,
    Spikes,
    make_spikes,
    make_trials,
    session_folder,
    stimuli,
    write_insertion,
    write_trials,
)

from sessionwise.data.fetching import fetch_repeated_site
from sessionwise.data.repeated_site import DROPPED, REVISION, Entry, manifest
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError, Problems, UsageError

pytest.importorskip("one", reason="ONE-api (extra ibl) is not installed")
pytest.importorskip("pyarrow", reason="pyarrow (extra ibl) is not installed")

NEWER = "2024-05-06"
FIRST, SECOND, SHORT = [entry for entry in manifest() if entry.usable][:3]
EXACT = next(entry for entry in manifest() if entry.eid in DROPPED)
ALL = [FIRST.eid, SECOND.eid]
TRIALS = {FIRST.eid: 104, SECOND.eid: 100, SHORT.eid: 110, EXACT.eid: 40}
MASKED = {FIRST.eid: 2, SECOND.eid: 0, SHORT.eid: 11, EXACT.eid: 0}  # trials without a choice
SMALL = {"bin_ms": 100, "window_s": (-0.5, 0.5)}


def other(probe: str) -> str:
    return "probe01" if probe == "probe00" else "probe00"


def spikes_of(entry: Entry) -> Spikes:
    """The spikes of the manifest's insertion, in the revision that is asked for."""
    return make_spikes(TRIALS[entry.eid], 5, seed=int(entry.eid[:4], 16), rate_hz=3.0)


def write_session(root: Path, entry: Entry, number: int = 1) -> Path:
    """A session as the archive has it: two insertions, the manifest's in three revisions, and what nobody needs.

    The first session has its tables in Parquet, the others in plain files, which are read sooner.
    """
    tables = entry.eid == FIRST.eid
    folder = session_folder(root, entry.lab, entry.subject, entry.date, number)
    trials = make_trials(TRIALS[entry.eid])
    trials["choice"][: MASKED[entry.eid]] = 0
    write_trials(folder, trials, table=tables)
    for revision, seed in (("", 1), (NEWER, 2)):
        write_insertion(folder, entry.probe, make_spikes(TRIALS[entry.eid], 3, seed, 1.0), revision=revision)
    extra = {"spikes.amps": np.zeros(5), "channels.brainLocationIds_ccf_2017": np.arange(5)}
    about = Clusters(range(5), [1.0, 0.5, 1.0, 0.5, 1.0], None, extra)
    write_insertion(
        folder, entry.probe, spikes_of(entry), revision=REVISION, clusters=about, metrics="pqt" if tables else "csv"
    )
    write_insertion(folder, other(entry.probe), make_spikes(TRIALS[entry.eid], 4, 3, 1.0), revision=REVISION)
    return folder


def build_tables(root: Path, hashes: bool = True) -> None:
    from one.alf import cache as tables

    with patch.object(tables, "md5", md5):
        tables.make_parquet_db(root, hash_files=hashes)


def md5(path: Path) -> str:
    """In the place of iblutil's, which clears 64 MiB of memory for every small file."""
    return hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four sessions with ONE's own tables."""
    root = tmp_path_factory.mktemp("built") / "ONE"
    for entry in (FIRST, SECOND, SHORT, EXACT):
        write_session(root, entry)
    build_tables(root)
    return root


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(built, tmp_path / "ONE"))


def folder_of(cache: Path, entry: Entry) -> Path:
    return cache / entry.lab / "Subjects" / entry.subject / entry.date / "001"


def spikes_file(cache: Path, entry: Entry) -> Path:
    return folder_of(cache, entry) / "alf" / entry.probe / "pykilosort" / f"#{REVISION}#" / "spikes.times.npy"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def fetch(store: Path, cache: Path | None, only: list[str] | None = None, **more: Any) -> tuple[SessionStore, Any]:
    return fetch_repeated_site(store, only=only or ALL, cache=cache, **{"offline": True, **SMALL, **more})


# ---- what comes into the store -------------------------------------------------------------------


def test_sessions_of_the_manifest_with_their_insertion_and_revision(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    store, summary = fetch(tmp_path / "store", cache, say=said.append)
    assert summary.added == tuple(ALL) and not summary.unchanged and not summary.skipped
    assert open_store(tmp_path / "store").ids == tuple(sorted(ALL)) == store.ids
    for entry in (FIRST, SECOND):
        session, spikes = store.session(entry.eid), spikes_of(entry)
        kept = np.arange(MASKED[entry.eid], TRIALS[entry.eid])
        assert session.trial_ids.tolist() == kept.tolist()
        assert session.unit_ids == tuple(f"{entry.probe}:{c}" for c in range(5))
        assert session.areas == ("0", "1", "2", "3", "4")
        assert (session.subject, session.lab, session.date) == (entry.subject, entry.lab, entry.date)
        for row, onset in enumerate(stimuli(TRIALS[entry.eid])[kept]):  # a count by hand for every trial and unit
            inside = (spikes.times >= onset - 0.5) & (spikes.times < onset + 0.5)
            wanted = np.bincount(spikes.clusters[inside], minlength=5)
            assert session.counts[row].sum(axis=0).tolist() == wanted.tolist()
        source = session.source
        assert source["probes"][entry.probe]["revision"] == REVISION and list(source["probes"]) == [entry.probe]
        assert (source["pid"], source["trial_mask"]) == (entry.pid, "ibl")
        assert source["trials"]["masked"] == MASKED[entry.eid]
        assert any(f"left out: {other(entry.probe)}" in note for note in session.notes)
        assert not any("no hash is recorded" in note for note in session.notes)
    assert sum("[1/2]" in line or "[2/2]" in line for line in said) == 2


def test_tables_built_on_a_disk_know_other_ids(cache: Path) -> None:
    import pandas as pd

    ids = set(pd.read_parquet(cache / "sessions.pqt").index)
    assert len(ids) == 4 and not ids & {FIRST.eid, SECOND.eid, SHORT.eid, EXACT.eid}


def test_another_revision_good_units_and_no_mask_can_be_asked_for(cache: Path, tmp_path: Path) -> None:
    store, _ = fetch(tmp_path / "newer", cache, [SECOND.eid], revision=NEWER, trial_mask=False)
    info = store.info(SECOND.eid)
    assert (info.n_units, info.n_trials) == (3, TRIALS[SECOND.eid])
    assert info.source["probes"][SECOND.probe]["revision"] == NEWER
    store, _ = fetch(tmp_path / "good", cache, [SECOND.eid], units="good")
    assert store.info(SECOND.eid).unit_ids == tuple(f"{SECOND.probe}:{c}" for c in (0, 2, 4))


def test_the_defaults_are_those_of_the_paper(cache: Path, tmp_path: Path) -> None:
    store, _ = fetch_repeated_site(tmp_path / "store", only=[FIRST.eid], cache=cache, offline=True)
    info = store.info(FIRST.eid)
    assert (info.n_bins, info.bin_s, info.window_s, info.align) == (150, 0.02, (-0.5, 2.5), "stimOn_times")


def test_without_a_choice_all_but_the_dropped_are_taken(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    _, summary = fetch_repeated_site(
        tmp_path / "store", cache=cache, offline=True, skip_bad=True, say=said.append, **SMALL
    )
    assert set(summary.added) == set(ALL)
    assert len(summary.skipped) == 87 and not {eid for eid, _ in summary.skipped} & set(DROPPED)
    assert sum("is not in the cache" in str(problem) for _, problem in summary.skipped) == 86


def test_fewer_than_100_trials_after_the_mask_are_left_out(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    store, summary = fetch(tmp_path / "store", cache, [SECOND.eid, SHORT.eid], say=said.append)
    assert summary.added == (SECOND.eid,) == store.ids and store.info(SECOND.eid).n_trials == 100  # exactly 100 stays
    [(eid, problem)] = summary.skipped
    assert eid == SHORT.eid and "99 trials after the trial mask; need at least 100" in str(problem)
    assert any(SHORT.eid in line and "99 trials" in line for line in said)


def test_a_dropped_session_is_taken_when_it_is_named(cache: Path, tmp_path: Path) -> None:
    store, summary = fetch(tmp_path / "store", cache, [EXACT.eid])
    assert summary.added == (EXACT.eid,) and store.info(EXACT.eid).n_trials == 40


# ---- going on ------------------------------------------------------------------------------------


def test_what_is_there_is_not_fetched_again(cache: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "store", cache, [FIRST.eid])
    store, summary = fetch(tmp_path / "store", cache)
    assert (summary.added, summary.unchanged) == ((SECOND.eid,), (FIRST.eid,)) and len(store) == 2
    shutil.rmtree(cache)  # nothing is read any more, not even the cache
    assert fetch(tmp_path / "store", cache)[1].unchanged == tuple(ALL)


def test_a_killed_fetch_goes_on(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = SessionStore.add, []

    def killed(self: SessionStore, session: Any) -> None:
        calls.append(session.id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(self, session)

    monkeypatch.setattr(SessionStore, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "store", cache)
    assert open_store(tmp_path / "store").ids == (FIRST.eid,)
    monkeypatch.undo()
    _, summary = fetch(tmp_path / "store", cache)
    assert (summary.added, summary.unchanged) == ((SECOND.eid,), (FIRST.eid,))


def test_bins_are_those_of_the_store(cache: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "store", cache, [FIRST.eid])
    store, _ = fetch_repeated_site(tmp_path / "store", only=[SECOND.eid], cache=cache, offline=True)
    assert store.info(SECOND.eid).bin_s == 0.1 and store.info(SECOND.eid).window_s == (-0.5, 0.5)
    with pytest.raises(UsageError, match="holds sessions with"):
        fetch(tmp_path / "store", cache, [SECOND.eid], bin_ms=20)


# ---- what is wrong with a cache ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spikes.times.npy", "spikes.clusters.npy", "clusters.metrics.pqt", "trials"])
def test_a_flipped_bit_is_found_and_the_others_are_added(cache: Path, tmp_path: Path, name: str) -> None:
    path = spikes_file(cache, FIRST).with_name(name)
    if name == "trials":
        path = folder_of(cache, FIRST) / "alf" / "_ibl_trials.table.pqt"
    flip(path)
    with pytest.raises(IntegrityError, match=r"md5 is [0-9a-f]{32}; need [0-9a-f]{32} as ONE lists") as caught:
        fetch(tmp_path / "store", cache)
    assert caught.value.exit_code == 5 and FIRST.eid in str(caught.value) and path.name in str(caught.value)
    assert open_store(tmp_path / "store").ids == (SECOND.eid,)


def test_a_short_file_is_found_by_its_size(cache: Path, tmp_path: Path) -> None:
    path = spikes_file(cache, SECOND)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=f"has {size - 8} bytes; need {size} as ONE lists"):
        fetch(tmp_path / "store", cache, [SECOND.eid])
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"is empty \(0 bytes\): interrupted download"):
        fetch(tmp_path / "store", cache, [SECOND.eid])


def test_a_file_beside_the_chosen_ones_is_verified_too(cache: Path, tmp_path: Path) -> None:
    path = folder_of(cache, FIRST) / "alf" / "_ibl_trials.quiescencePeriod.npy"
    np.save(path, np.zeros(TRIALS[FIRST.eid]))
    build_tables(cache)
    flip(path)
    with pytest.raises(IntegrityError, match=r"quiescencePeriod.npy: md5 is"):
        fetch(tmp_path / "store", cache, [FIRST.eid])


def test_several_problems_are_told_at_once(cache: Path, tmp_path: Path) -> None:
    missing = next(entry for entry in manifest() if entry.eid not in TRIALS)
    flip(spikes_file(cache, FIRST))
    with pytest.raises(Problems) as caught:
        fetch(tmp_path / "store", cache, [FIRST.eid, missing.eid, SECOND.eid])
    lines = str(caught.value).splitlines()
    assert caught.value.exit_code == 5 and len(lines) == 2
    assert FIRST.eid in lines[0] and f"{missing.eid}: is not in the cache" in lines[1]
    _, summary = fetch(tmp_path / "store", cache, [FIRST.eid, missing.eid, SECOND.eid], skip_bad=True)
    assert summary.unchanged == (SECOND.eid,) and [eid for eid, _ in summary.skipped] == [FIRST.eid, missing.eid]


def test_a_new_store_without_a_session_does_not_stay(cache: Path, tmp_path: Path) -> None:
    flip(spikes_file(cache, SECOND))
    with pytest.raises(IntegrityError):
        fetch(tmp_path / "store", cache, [SECOND.eid])
    assert not (tmp_path / "store").exists()
    create_store(tmp_path / "mine")
    with pytest.raises(IntegrityError):
        fetch(tmp_path / "mine", cache, [SECOND.eid])
    assert (tmp_path / "mine").exists()


def test_files_that_are_listed_but_not_there(cache: Path, tmp_path: Path) -> None:
    spikes_file(cache, FIRST).unlink()
    with pytest.raises(DataError, match=rf"{FIRST.eid}.*#{REVISION}#/spikes.times.npy: is not in the cache"):
        fetch(tmp_path / "store", cache, [FIRST.eid])  # unrevised spikes, which are there, are another sorting


def test_without_hashes_the_files_are_read_and_that_is_said(cache: Path, tmp_path: Path) -> None:
    build_tables(cache, hashes=False)
    store, _ = fetch(tmp_path / "store", cache, [SECOND.eid])
    assert any("no hash is recorded of 17 of 17 files" in note for note in store.info(SECOND.eid).notes)


def test_without_tables_the_folders_tell(cache: Path, tmp_path: Path) -> None:
    for table in cache.glob("*.pqt"):
        table.unlink()
    store, _ = fetch(tmp_path / "store", cache, [SECOND.eid])
    info = store.info(SECOND.eid)
    assert info.source["probes"][SECOND.probe]["revision"] == REVISION
    assert any("no hash is recorded" in note for note in info.notes)
    write_session(cache, SECOND, number=2)
    with pytest.raises(DataError, match="is one of 2 sessions"):
        fetch(tmp_path / "other", cache, [SECOND.eid])


def test_of_two_sessions_on_a_day_the_one_with_the_insertion(cache: Path, tmp_path: Path) -> None:
    twin = session_folder(cache, SECOND.lab, SECOND.subject, SECOND.date, 2)
    write_trials(twin, make_trials(110))
    build_tables(cache)
    store, _ = fetch(tmp_path / "store", cache, [SECOND.eid])
    assert store.info(SECOND.eid).source["file"].endswith("/001")
    write_insertion(twin, SECOND.probe, make_spikes(110, 3, 4, 1.0))
    build_tables(cache)
    with pytest.raises(DataError, match="2 sessions of"):
        fetch(tmp_path / "other", cache, [SECOND.eid])


def test_of_two_sorters_the_one_of_the_revision(cache: Path, tmp_path: Path) -> None:
    spikes = make_spikes(TRIALS[SECOND.eid], 7, 5, 1.0)
    write_insertion(folder_of(cache, SECOND), SECOND.probe, spikes, sorter="iblsorter", revision=REVISION)
    build_tables(cache)
    store, _ = fetch(tmp_path / "store", cache, [SECOND.eid])
    assert store.info(SECOND.eid).source["probes"][SECOND.probe]["sorter"] == "pykilosort"
    store, _ = fetch(tmp_path / "other", cache, [SECOND.eid], sorter="iblsorter")
    assert store.info(SECOND.eid).n_units == 7
    with pytest.raises(DataError, match=r"by iblsorter, pykilosort; need sorter kilosort4"):
        fetch(tmp_path / "third", cache, [SECOND.eid], sorter="kilosort4")


def test_tables_that_are_broken(cache: Path, tmp_path: Path) -> None:
    (cache / "sessions.pqt").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match=r"tables .* that ONE cannot read"):
        fetch(tmp_path / "store", cache, [FIRST.eid])


def test_what_cannot_be_meant(cache: Path, tmp_path: Path) -> None:
    near = FIRST.eid[:-1] + ("0" if FIRST.eid[-1] != "0" else "1")
    with pytest.raises(UsageError, match=f"none of the 91 RepeatedSite sessions.*Did you mean {FIRST.eid}"):
        fetch(tmp_path / "store", cache, [near])
    with pytest.raises(UsageError, match="names no session"):
        fetch_repeated_site(tmp_path / "store", only=[], cache=cache, offline=True)
    with pytest.raises(UsageError, match="an id was given"):
        fetch(tmp_path / "store", cache, session_id="mine")
    with pytest.raises(EnvironmentProblem, match="is no folder"):
        fetch(tmp_path / "store", tmp_path / "nowhere")
    assert not (tmp_path / "store").exists()


def test_without_one_the_extra_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "one", None)
    monkeypatch.delitem(sys.modules, "one.api", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[ibl\]'"):
        fetch(tmp_path / "store", cache)


# ---- downloading: ONE's own machinery with a folder in the place of the archive -------------------


@dataclass
class Archive:
    """What stands for the server: its folder and tables; the account that it lets in; what happens to a file."""

    root: Path
    lets_in: str | None = None  # a user name; None: the account that is stored on the machine
    spoil: Callable[[Path], None] = lambda path: None
    sent: list[str] | None = None


@pytest.fixture
def archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive that knows the sessions by their eids."""
    from one import api
    from one.alf.cache import load_tables

    served = Archive(cache, sent=[])
    tables = load_tables(cache)
    eids = {
        own: next(UUID(e.eid) for e in manifest() if e.subject == row["subject"] and e.date == str(row["date"]))
        for own, row in tables["sessions"].iterrows()
    }
    tables["sessions"] = tables["sessions"].rename(index=eids)
    tables["datasets"] = tables["datasets"].rename(index=eids, level="eid")

    class Remote(api.One):
        """ONE in remote mode: its choice of files, its cache; the transfer is a copy."""

        def __init__(self, base_url: str, silent: bool, cache_dir: Path) -> None:
            Path(cache_dir).mkdir(exist_ok=True)
            self._web_client = True
            super().__init__(cache_dir=cache_dir, mode="remote")
            self._cache.update({name: tables[name].copy() for name in ("sessions", "datasets")})
            self.alyx = SimpleNamespace(authenticate=self.authenticate)

        def authenticate(self, username: str | None = None, password: str | None = None) -> None:
            if username != served.lets_in:
                raise ValueError("No Alyx username. Pass one to ONE")

        def _download_datasets(self, dsets: Any, **_: Any) -> list[Path]:
            out = []
            for row in dsets.to_dict("records"):
                target = Path(self.cache_dir) / row["session_path"] / row["rel_path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(served.root / row["session_path"] / row["rel_path"], target)
                served.spoil(target)
                served.sent.append(row["rel_path"])  # type: ignore[union-attr]
                out.append(target)
            return out

    monkeypatch.setattr(api, "ONE", Remote)
    monkeypatch.setattr(api.hashfile, "md5", md5)
    return served


def test_only_what_is_needed_is_downloaded(archive: Archive, tmp_path: Path) -> None:
    store, summary = fetch(tmp_path / "store", tmp_path / "mine", [FIRST.eid], offline=False)
    assert summary.added == (FIRST.eid,)
    place = f"alf/{FIRST.probe}/pykilosort/#{REVISION}#"
    needed = ["spikes.times.npy", "spikes.clusters.npy", "clusters.channels.npy", "clusters.metrics.pqt"]
    needed += ["channels.brainLocationIds_ccf_2017.npy"]
    wanted = {"alf/_ibl_trials.table.pqt", *(f"{place}/{name}" for name in needed)}
    here = folder_of(tmp_path / "mine", FIRST)
    assert {p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()} == wanted
    assert archive.sent is not None
    archive.sent.clear()
    fetch(tmp_path / "newer", tmp_path / "mine", [FIRST.eid], offline=False, revision=NEWER)
    assert {name.split("/")[3] for name in archive.sent} == {f"#{NEWER}#"}  # no labels of the other sorting
    direct, _ = fetch(tmp_path / "direct", archive.root, [FIRST.eid])
    assert direct.info(FIRST.eid).counts_sha256 == store.info(FIRST.eid).counts_sha256


def test_what_is_in_the_cache_is_not_downloaded_again_but_what_is_damaged_is(archive: Archive, tmp_path: Path) -> None:
    fetch(tmp_path / "store", tmp_path / "mine", [SECOND.eid], offline=False)
    assert archive.sent is not None and len(archive.sent) == 17
    archive.sent.clear()
    flip(spikes_file(tmp_path / "mine", SECOND))
    fetch(tmp_path / "other", tmp_path / "mine", [SECOND.eid], offline=False)
    assert [Path(name).name for name in archive.sent] == ["spikes.times.npy"]


def test_after_a_download_the_cache_is_read_and_verified_offline(archive: Archive, tmp_path: Path) -> None:
    fetch(tmp_path / "store", tmp_path / "mine", [SECOND.eid], offline=False)
    _, summary = fetch(tmp_path / "again", tmp_path / "mine", [SECOND.eid], offline=True)
    assert summary.added == (SECOND.eid,)
    flip(spikes_file(tmp_path / "mine", SECOND))
    with pytest.raises(IntegrityError, match="md5 is"):
        fetch(tmp_path / "third", tmp_path / "mine", [SECOND.eid], offline=True)


def test_a_transfer_that_damages_a_file_is_found(archive: Archive, tmp_path: Path) -> None:
    archive.spoil = lambda path: flip(path) if path.name == "spikes.times.npy" and FIRST.subject in str(path) else None
    with pytest.raises(IntegrityError, match="md5 is"):
        fetch(tmp_path / "store", tmp_path / "mine", offline=False)
    assert open_store(tmp_path / "store").ids == (SECOND.eid,)


@pytest.mark.parametrize("kind", ["builtin", "requests", "urllib"])
def test_a_network_that_fails_stops_the_fetch_and_keeps_what_is_done(
    archive: Archive, tmp_path: Path, kind: str
) -> None:
    from urllib.error import URLError

    import requests

    errors: dict[str, OSError] = {
        "builtin": ConnectionResetError("gone"),
        "requests": requests.exceptions.ConnectionError("gone"),
        "urllib": URLError("gone"),
    }

    def fail(path: Path) -> None:
        if SECOND.subject in str(path):
            raise errors[kind]

    archive.spoil = fail
    with pytest.raises(EnvironmentProblem, match=r"openalyx.*cannot be reached.*gone.*--offline --cache DIR") as caught:
        fetch(tmp_path / "store", tmp_path / "mine", offline=False)
    assert "\n" not in str(caught.value)
    assert open_store(tmp_path / "store").ids == (FIRST.eid,)
    archive.spoil = lambda path: None
    assert fetch(tmp_path / "store", tmp_path / "mine", offline=False)[1].added == (SECOND.eid,)


def test_an_answer_with_an_error_is_the_fault_of_one_session(archive: Archive, tmp_path: Path) -> None:
    import requests

    def fail(path: Path) -> None:
        if FIRST.subject in str(path):
            raise requests.exceptions.HTTPError("404 not found")

    archive.spoil = fail
    with pytest.raises(DataError, match=f"{FIRST.eid}: cannot be downloaded \\(404 not found\\)"):
        fetch(tmp_path / "store", tmp_path / "mine", offline=False)
    assert open_store(tmp_path / "store").ids == (SECOND.eid,)


def test_the_public_account_is_tried_then_one_is_asked_for(archive: Archive, tmp_path: Path) -> None:
    archive.lets_in = "intbrainlab"
    assert fetch(tmp_path / "store", tmp_path / "mine", [FIRST.eid], offline=False)[1].added == (FIRST.eid,)
    archive.lets_in = "somebody"
    with pytest.raises(EnvironmentProblem, match=r"lets nobody in .*signup"):
        fetch(tmp_path / "other", tmp_path / "mine", [FIRST.eid], offline=False)


def test_without_a_network_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from one import api

    def unreachable(**_: Any) -> Any:
        def authenticate(**_: Any) -> None:
            raise ConnectionError("Can't connect to https://openalyx.\nCheck your internet connections")

        return SimpleNamespace(alyx=SimpleNamespace(authenticate=authenticate))

    monkeypatch.setattr(api, "ONE", unreachable)
    with pytest.raises(EnvironmentProblem, match="cannot be reached") as caught:
        fetch(tmp_path / "store", tmp_path / "mine", offline=False)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_reads_a_cache_and_leaves_with_5(cache: Path, tmp_path: Path) -> None:
    flip(spikes_file(cache, FIRST))
    words = ["data", "fetch", "repeated-site", "--to", tmp_path / "store", "--only", ",".join(ALL)]
    command = [sys.executable, "-m", "sessionwise", *map(str, words), "--offline", "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr and f"{FIRST.eid}, " in done.stderr
    assert open_store(tmp_path / "store").ids == (SECOND.eid,)


def test_an_entry_without_its_insertion_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sessionwise.data import fetching

    entries = tuple(replace(e, probe="probe07") if e.eid == FIRST.eid else e for e in manifest())
    monkeypatch.setattr(fetching, "manifest", lambda: entries)
    with pytest.raises(DataError, match="has spikes of probe07 by no sorter"):
        fetch(tmp_path / "store", cache, [FIRST.eid])
