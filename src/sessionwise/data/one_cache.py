"""IBL's archive through ONE: the few files that a session's counts need, online or from a cache on disk, verified.

ONE lists the datasets of a session with size and hash. Of them are chosen, by the same rule as ``formats.alf`` chooses
among files on disk: the trials, and of one insertion spikes, clusters and where its channels lie, in one revision.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from uuid import UUID

from sessionwise.data.formats.alf_clusters import needed_of_clusters, needed_of_sites
from sessionwise.data.formats.alf_files import ITSELF, AlfFile, files_listed, latest
from sessionwise.data.formats.alf_units import last_revision
from sessionwise.data.repeated_site import SORTER, Entry
from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError
from sessionwise.io.arrays import human_bytes, open_regular
from sessionwise.io.files import disk_problem

HOST = "https://openalyx.internationalbrainlab.org"
_PUBLIC = {"username": "intbrainlab", "password": "international"}  # the account that IBL published for everybody
_HASHES = {32: "md5", 40: "sha1", 64: "sha256"}  # by their number of hexadecimal digits
_CHUNK = 1 << 20
_OFFLINE = "Connect to the network, or read what is on disk: --offline --cache DIR"


@dataclass(frozen=True)
class Listed:
    """A file that ONE lists: path below the session, size and hash, None where ONE does not know them."""

    path: str
    size: int | None
    hash: str | None


@dataclass(frozen=True)
class Located:
    """A session on disk: its folder, the sorter to read, the files that ONE lists (none without its tables)."""

    root: Path
    sorter: str | None
    listed: tuple[Listed, ...]

    def require(self, names: Sequence[str]) -> None:
        """DataError for the first of these files that is not on disk: an older revision is no substitute."""
        for name in names:
            if not (self.root / name).exists():
                raise DataError(str(self.root / name), "is not in the cache", "the file", "Fetch it without --offline")

    def verify(self, names: Sequence[str]) -> None:
        """IntegrityError for the first of these files whose size or hash is not the listed one."""
        for file in self.listed:
            if file.path in names and (self.root / file.path).exists():
                _verify(self.root / file.path, file)


class OneCache:
    """A folder of ONE's downloads, and the archive behind it unless ``offline``.

    Raises
    ------
    EnvironmentProblem: ONE is not installed, no network, no account; a cache that is not there.
    """

    def __init__(self, cache: Path | None, offline: bool) -> None:
        self._offline = offline
        self._one = _local(cache) if offline else _online(cache)
        self.path = Path(self._one.cache_dir)

    def take(self, entry: Entry, revision: str | None, sorter: str | None) -> Located:
        """The session on disk with all files that are needed of it, downloaded where they are missing, verified.

        Raises
        ------
        DataError: a session, file or revision that is not there. IntegrityError: a file that is not the listed one.
        EnvironmentProblem: the network or the disk fails.
        """
        with _quiet(), _problems(entry, self.path):
            eid = self._known_as(entry)
            if eid is None:
                return Located(self._in_tree(entry), sorter, ())
            frame = self._one.list_datasets(eid, details=True)
            listed = tuple(_listed(row) for row in frame.to_dict("records"))
            if not listed:
                raise DataError(entry.eid, "has no files in ONE", "trials and spikes", "Try another --cache")
            sorter, wanted = _wanted(entry, [file.path for file in listed], revision, sorter)
            if not self._offline:
                self._one.load_datasets(eid, frame[frame["rel_path"].isin(wanted)], download_only=True)
                self._one.save_cache()  # so that --offline knows sizes and hashes later
            found = Located(self.path / Path(self._one.eid2path(eid)), sorter, listed)
        found.require([name for name in wanted if Path(name).name.startswith(("spikes.", "_ibl_trials."))])
        found.verify(wanted)
        return found

    def _known_as(self, entry: Entry) -> Any:
        """The session's id in ONE: the eid; tables that were built on a disk have ids of their own."""
        if not self._offline or self._one.eid2path(UUID(entry.eid)) is not None:
            return UUID(entry.eid)
        eids, details = self._one.search(subject=entry.subject, date_range=[entry.date, entry.date], details=True)
        same = [
            eid
            for eid, about in zip(eids, details or (), strict=True)
            if about["subject"] == entry.subject and str(about["date"])[:10] == entry.date
        ]
        if len(same) > 1:
            same = [eid for eid in same if self._has_spikes(eid, entry)]
        if len(same) > 1:
            found = f"{len(same)} sessions of {entry.subject} on {entry.date} have spikes of {entry.probe}"
            raise DataError(str(self.path), found, "one", "Use a cache that ONE made: it knows the eid")
        return same[0] if same else None

    def _has_spikes(self, eid: Any, entry: Entry) -> bool:
        return any(f"alf/{entry.probe}/" in path for path in self._one.list_datasets(eid, filename="spikes.times.npy"))

    def _in_tree(self, entry: Entry) -> Path:
        """A session that no table lists, by its folder: lab/Subjects/subject/date/number."""
        pattern = f"{entry.lab}/Subjects/{entry.subject}/{entry.date}/[0-9][0-9][0-9]/alf/{entry.probe}"
        found = sorted(self.path.glob(pattern))
        if not found:
            needed = f"{entry.lab}/Subjects/{entry.subject}/{entry.date}/001"
            raise DataError(entry.eid, f"is not in the cache {self.path}", needed, "Download it without --offline")
        if len(found) > 1:
            what = f"is one of {len(found)} sessions of {entry.subject} on {entry.date}"
            raise DataError(entry.eid, what, "tables of ONE that tell which", "Download it without --offline")
        return found[0].parents[1]


def _wanted(entry: Entry, paths: Sequence[str], revision: str | None, sorter: str | None) -> tuple[str, list[str]]:
    """The sorter and the files to read of one insertion, by the rule of ``formats.alf``; trials as one table if any."""
    upto = last_revision(revision)
    probe = f"alf/{entry.probe}"
    sorters = _sorters(paths, probe)
    chosen = sorter or (SORTER if SORTER in sorters else next(iter(sorters), ""))
    if chosen not in sorters or (sorter is None and SORTER not in sorters and len(sorters) > 1):
        found = f"has spikes of {entry.probe} by {', '.join(sorters) or 'no sorter'}"
        raise DataError(entry.eid, found, f"sorter {sorter or SORTER}", "Name another with sorter=")
    files = sorters[chosen]
    times = latest([file for file in files if file.name == "spikes.times"], upto)
    if times is None:
        names = ", ".join(sorted(file.revision for file in files if file.name == "spikes.times"))
        raise DataError(entry.eid, f"has spikes of revision {names} only", f"one up to {revision}", "Ask for that one")
    of_spikes = [f for f in files if f.name in ("spikes.times", "spikes.clusters") and f.revision == times.revision]
    beside = files if chosen == ITSELF else files_listed(paths, probe)
    clusters = [f for f in files if needed_of_clusters(f) and f.revision == times.revision]
    sites = [f for f in [*files, *beside] if needed_of_sites(f)]
    wanted = [*of_spikes, *_latest_each(clusters, times.revision), *_latest_each(sites, upto), *_trials(paths, upto)]
    return chosen, sorted({file.path.as_posix() for file in wanted})


def _sorters(paths: Sequence[str], probe: str) -> dict[str, list[AlfFile]]:
    """sorter -> its files, of those that have spikes of the probe."""
    below = {path.split("/")[2] for path in paths if path.startswith(f"{probe}/") and path.count("/") > 2}
    names = {ITSELF: probe} | {name: f"{probe}/{name}" for name in sorted(below) if not name.startswith("#")}
    found = {name: files_listed(paths, collection) for name, collection in names.items()}
    return {name: files for name, files in found.items() if any(file.name == "spikes.times" for file in files)}


def _trials(paths: Sequence[str], upto: str | None) -> list[AlfFile]:
    trials = [file for file in files_listed(paths, "alf") if file.object == "trials"]
    if trials and latest(trials, upto) is None:  # as formats.alf does: a revision names the spike sorting
        upto = min(file.revision for file in trials)
    table = latest([file for file in trials if file.attribute == "table"], upto)
    return [table] if table else _latest_each([file for file in trials if file.extension == "npy"], upto)


def _latest_each(files: Sequence[AlfFile], upto: str | None) -> list[AlfFile]:
    names = {(file.path.name, file.name) for file in files}
    found = (latest([file for file in files if file.path.name == name], upto) for name, _ in sorted(names))
    return [file for file in found if file is not None]


# Verification ---------------------------------------------------------------------------------------------------------


def _listed(row: dict[str, Any]) -> Listed:
    size, hash_ = row.get("file_size"), row.get("hash")
    known = isinstance(hash_, str) and len(hash_) in _HASHES
    return Listed(str(row["rel_path"]), _number(size), str(hash_).lower() if known else None)


def _number(size: Any) -> int | None:
    try:
        return int(size) or None  # Alyx writes 0 for a size that it does not know
    except (TypeError, ValueError):
        return None


def _verify(path: Path, listed: Listed) -> None:
    remedy = "Delete the file and fetch it again"
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        if listed.size is not None and size != listed.size:
            found, needed = f"has {size} bytes", f"{listed.size} as ONE lists ({human_bytes(listed.size)})"
            raise IntegrityError(str(path), found, needed, remedy)
        if listed.hash is None:
            return
        kind = _HASHES[len(listed.hash)]
        digest = hashlib.new(kind, usedforsecurity=False)
        stream.seek(0)
        while block := stream.read(_CHUNK):
            digest.update(block)
    if digest.hexdigest() != listed.hash:
        raise IntegrityError(str(path), f"{kind} is {digest.hexdigest()}", f"{listed.hash} as ONE lists", remedy)


# ONE ------------------------------------------------------------------------------------------------------------------


def _local(cache: Path | None) -> Any:
    api = _api()
    if cache is None:
        from one import params

        try:
            cache = params.get_cache_dir(client=HOST)
        except (KeyError, AttributeError, OSError) as error:
            raise EnvironmentProblem("--offline", "ONE has no cache on this machine", "--cache DIR") from error
    if not Path(cache).is_dir():
        raise EnvironmentProblem(str(cache), "is no folder", "a cache of ONE: lab/Subjects/subject/date/001/alf")
    with _quiet():  # about a folder without tables: then the tree of folders tells
        try:
            return api.One(cache_dir=Path(cache), mode="local")
        except Exception as error:  # whatever ONE, pandas and pyarrow raise on tables that are broken
            found = f"has tables (*.pqt) that ONE cannot read ({_first_line(error)})"
            raise DataError(str(cache), found, "a cache of ONE", "Delete the tables and fetch again") from error


def _online(cache: Path | None) -> Any:
    """ONE with the account that this machine has, else with the public one."""
    place = {} if cache is None else {"cache_dir": Path(cache)}
    last: Exception | None = None
    with _quiet():
        try:
            one = _api().ONE(base_url=HOST, silent=True, **place)
        except OSError as error:  # it writes its parameters to ~/.one
            found = f"cannot be set up ({_first_line(error)})"
            raise EnvironmentProblem("ONE", found, "a home folder and a cache that can be written") from error
        for account in ({}, _PUBLIC):
            try:
                one.alyx.authenticate(**account)
                return one
            except (ValueError, OSError, AssertionError) as error:  # no account; no network; no token in the answer
                if _is_network(error):
                    raise _no_network(error) from error
                last = error
    remedy = f"Sign up at {HOST}/signup, then once: python -c 'from one.api import ONE; ONE.setup(base_url=\"{HOST}\")'"
    raise EnvironmentProblem(HOST, f"lets nobody in ({_first_line(last)})", "an account", remedy) from last


def _api() -> Any:
    try:
        from one import api
    except ImportError as error:
        remedy = "Install it: pip install 'sessionwise[ibl]'"
        raise EnvironmentProblem("data fetch", "needs ONE-api", "ONE-api", remedy) from error
    return api


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _problems(entry: Entry, cache: Path) -> Iterator[None]:
    """What ONE raises, as what it means for the user."""
    from one.alf.exceptions import ALFError

    try:
        yield
    except ALFError as error:
        raise DataError(entry.eid, f"cannot be had from ONE ({_first_line(error)})", "its files") from error
    except OSError as error:
        if _is_network(error):
            raise _no_network(error) from error
        if error.errno is not None and not isinstance(error, HTTPError):
            raise disk_problem(cache, error) from error
        found = f"cannot be downloaded ({_first_line(error)})"
        raise DataError(entry.eid, found, "its files", "Run the same command again") from error


def _is_network(error: BaseException) -> bool:
    """Whether a host could not be reached at all; an answer with an error status is not that."""
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import Timeout

    refused = isinstance(error, URLError) and not isinstance(error, HTTPError)
    return refused or isinstance(error, (ConnectionError, TimeoutError, Unreachable, Timeout))


def _no_network(error: BaseException) -> EnvironmentProblem:
    return EnvironmentProblem(HOST, f"cannot be reached ({_first_line(error)})", "a network", _OFFLINE)


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
