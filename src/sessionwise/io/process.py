"""Which process is which: names that stay apart between hosts, boots, containers and re-used numbers."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 19  # of /proc/PID/stat, counted from behind the name in brackets


@dataclass(frozen=True)
class Process:
    """A process, told apart from every other one.

    boot: id of the boot of its kernel; namespace: within which its number counts; started: in ticks since the boot,
    None where the system does not say.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: int | None

    @property
    def place(self) -> str:
        """8 hexadecimal digits for where its number means something: host, boot and namespace."""
        return hashlib.sha256("\n".join((self.host, self.boot, self.namespace)).encode()).hexdigest()[:8]


def this_process() -> Process:
    """The process that asks; also right in a child made by fork."""
    return _process(os.getpid())


def lives(pid: int, started: int | None) -> bool | None:
    """Whether a process of this kernel and namespace is there still; None when a new one may have its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    except (OverflowError, ValueError):
        return False
    now = start_time(pid)
    if now is None or started is None:
        return None
    return now == started


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return None


@lru_cache(maxsize=2)
def _process(pid: int) -> Process:
    host = socket.gethostname()
    return Process(host, _boot() or f"unknown boot of {host}", _namespace(), pid, start_time(pid))


@lru_cache(maxsize=1)
def _boot() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
