"""Leases: who computes a run now, told by a file, on one machine or on many that share a folder.

The file ``<name>`` holds the holder: host, boot, process, a random token, and a beat that it raises every few seconds.
Three things decide whether a holder is alive, and no clock of a file or of another host is one of them:

- on the same kernel, the lock (flock) that the holder keeps on its file, which ends with it however it ends;
- where there are no such locks, the number and start time of its process, within the same namespace of processes;
- else the content: a file that nobody changed for `LEASE_S` seconds of the observer's own clock has no holder.

A lease appears whole, by a link to a finished file, and only its holder writes into it, in place: one that was taken
for dead and comes back writes into a file that is no more. Who replaces a dead lease needs a lease for that.
A lease saves double work; it guards no data: two processes that compute the same run commit the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sessionwise.errors import EnvironmentProblem
from sessionwise.io.files import disk_problem, retried, sha256_bytes, temporary_name
from sessionwise.io.process import Process, lives, this_process

LEASE_S = 120.0  # how long a lease of another kernel must stay unchanged before it is taken over
BEAT_S = 10.0
_LONGEST_GAP_S = LEASE_S / 4  # an observer that was suspended saw nothing meanwhile: longer gaps count as this
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
_MOST_BYTES = 4096
ALIVE, DEAD, UNKNOWN = "alive", "dead", "unknown"


class Busy(EnvironmentProblem):
    """Another process computes this run now."""


@dataclass(frozen=True)
class Seen:
    """A lease as an observer sees it: its content, who holds it in words, and "alive", "dead" or "unknown"."""

    content: bytes
    holder: str
    state: str


class Leases:
    """The leases in one folder, seen by one process. ``clock``: the observer's monotonic seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = Path(folder)
        self._clock = clock
        self._seen: dict[str, tuple[bytes, float, float]] = {}  # name -> content, last look, seconds without a change

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold a lease; Busy when another one does. It ends with the block, or with the process."""
        try:
            lease = retried(lambda: self._acquire(name))
        except OSError as error:
            raise disk_problem(self.folder / name, error) from error
        _keeper.add(lease)
        try:
            yield
        finally:
            _keeper.drop(lease)
            lease.release()

    def holder(self, name: str) -> str | None:
        """Who holds a lease ("host h, process p"), or None; one without a living holder is removed, if it may be."""
        seen = self.look(name)
        if seen is None:
            return None
        if seen.state == ALIVE:
            return seen.holder
        try:
            with self.hold(name):  # only so is it sure that nobody else takes it
                return None
        except Busy as busy:
            return busy.found
        except EnvironmentProblem:  # a study that may only be read
            return None

    def look(self, name: str) -> Seen | None:
        """The lease of that name, "alive" or "dead"; None when there is none. Unknown ones are dead after a while."""
        seen = peek(self.folder / name)
        if seen is None:
            self._seen.pop(name, None)
        elif seen.state == UNKNOWN:
            stale = self._unchanged_s(name, seen.content) >= LEASE_S
            return Seen(seen.content, seen.holder, DEAD if stale else ALIVE)
        return seen

    def _unchanged_s(self, name: str, content: bytes) -> float:
        """How long this observer saw the same content."""
        now = self._clock()
        before, last, age = self._seen.get(name, (None, now, 0.0))
        age = age + min(now - last, _LONGEST_GAP_S) if before == content else 0.0
        self._seen[name] = (content, now, age)
        return age

    def _acquire(self, name: str) -> _Lease:
        """A lease in its place, or Busy; OSError from the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lease = _Lease(self.folder / name)
        try:
            while not lease.take_free():
                seen = self.look(name)
                if seen and seen.state == ALIVE:
                    raise Busy(f"run {name[:12]}", seen.holder, "to wait for it")
                if seen and self._replace(name, seen, lease):
                    break
        except BaseException:
            lease.release()
            raise
        finally:
            lease.drop_temporary()
        return lease

    def _replace(self, name: str, seen: Seen, lease: _Lease) -> bool:
        """Put our lease in the place of a dead one; False when it is no longer the one that was seen."""
        with self.hold(f"{name}.{sha256_bytes(seen.content)[:8]}"):
            now = peek(self.folder / name)
            if now is None or now.content != seen.content:
                return False
            lease.take_over()
            return True


def peek(path: Path) -> Seen | None:
    """A lease at one look, without writing: "unknown" when only repeated looks could tell; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return _peek_outside(path)
    try:
        content = os.read(descriptor, _MOST_BYTES)
        holder = _parsed(content)
        return Seen(content, _in_words(holder), _state(holder, descriptor))
    except OSError:
        return _peek_outside(path)
    finally:
        os.close(descriptor)


class _Lease:
    """A lease of this process: first under a temporary name, then in its place; its open file is what it is."""

    def __init__(self, path: Path) -> None:
        self.path, self.tmp = path, path.parent / temporary_name()
        self._mutex, self._beat, self._closed = threading.Lock(), 0, False
        self._about: dict[str, Any] = {**asdict(this_process()), "token": uuid.uuid4().hex}
        self._open(self.tmp)

    def take_free(self) -> bool:
        """Take the place if it is free; the file is whole when it appears."""
        try:
            os.link(self.tmp, self.path)
        except FileExistsError:
            return self._is_ours()  # a link whose answer was lost on the way from a file server
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create()
        return True

    def take_over(self) -> None:
        """Take the place of a file that is there."""
        os.replace(self.tmp, self.path)

    def beat(self) -> None:
        """Show that we are alive; an error is no reason to end a run."""
        with self._mutex, suppress(OSError):
            if not self._closed:
                self._beat += 1
                self._write()

    def drop_temporary(self) -> None:
        """Remove the temporary name."""
        with suppress(OSError):
            self.tmp.unlink(missing_ok=True)

    def release(self) -> None:
        """Remove the file if it is still ours; while it is locked, so nobody takes it for dead."""
        with self._mutex:
            with suppress(OSError):
                if self._is_ours():
                    self.path.unlink(missing_ok=True)
            self._closed = True
            with suppress(OSError):
                os.close(self._descriptor)

    def _open(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            self._about["flock"] = _lock(descriptor, fcntl.LOCK_EX) is True
            self._descriptor = descriptor
            self._write()
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise

    def _create(self) -> bool:
        """Where a file system has no links: the file appears empty, and is whole a moment later."""
        before = self._descriptor
        try:
            self._open(self.path)
        except FileExistsError:
            return False
        os.close(before)
        return True

    def _write(self) -> None:
        """Always the same length, so that a reader never sees parts of two."""
        data = json.dumps({**self._about, "beat": f"{self._beat:012d}"}, sort_keys=True).encode()
        os.pwrite(self._descriptor, data, 0)
        os.fsync(self._descriptor)  # for observers on other hosts

    def _is_ours(self) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        return False


class _Keeper:
    """One thread of this process that beats for all of its leases, while there are any."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._leases: set[_Lease] = set()
        self._thread: threading.Thread | None = None

    def add(self, lease: _Lease) -> None:
        with self._mutex:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():  # in a child made by fork there is none
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()

    def drop(self, lease: _Lease) -> None:
        with self._mutex:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_S)
            with self._mutex:
                leases = list(self._leases)
                if not leases:
                    self._thread = None
                    return
            for lease in leases:
                lease.beat()


_keeper = _Keeper()


def _lock(descriptor: int, how: int) -> bool | None:
    """Whether the lock was got; None where there are no locks."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _parsed(content: bytes) -> dict[str, Any] | None:
    """What a holder wrote; None for anything else."""
    try:
        about = json.loads(content)
        known = Process(*(about[name] for name in ("host", "boot", "namespace", "pid", "started")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    numbers = type(known.pid) is int and known.pid > 0 and (known.started is None or type(known.started) is int)
    words = all(isinstance(text, str) for text in (known.host, known.boot, known.namespace))
    return {"process": known, "flock": about.get("flock") is True} if numbers and words else None


def _state(about: dict[str, Any] | None, descriptor: int) -> str:
    here = this_process()
    if about is not None and about["process"].boot != here.boot:
        return UNKNOWN
    if about is None or about["flock"]:
        free = _lock(descriptor, fcntl.LOCK_SH)  # shared: observers do not disturb each other
        if free is False:
            return ALIVE
        if about is None:
            return UNKNOWN
        if free:
            return DEAD
    process: Process = about["process"]
    if process.place == here.place:
        alive = lives(process.pid, process.started)
        return UNKNOWN if alive is None else ALIVE if alive else DEAD
    return UNKNOWN


def _in_words(about: dict[str, Any] | None) -> str:
    if about is None:
        return "another process"
    return f"host {about['process'].host:.80}, process {about['process'].pid}"


def _peek_outside(path: Path) -> Seen | None:
    """What is there but cannot be read: its state on the disk stands for its content."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return Seen(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}".encode(), "another process", UNKNOWN)
