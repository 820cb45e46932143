"""What is free on this machine: room on a disk, memory for processes."""

from __future__ import annotations

import shutil
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def free_disk(path: Path) -> int | None:
    """Bytes that a user may still write where ``path`` is or will be; None when the system does not say."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def free_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int | None:
    """Bytes of memory for new processes: the least of what the machine and the limits of this process leave.

    None where the system does not say (there is no /proc on macOS).
    """
    known = [value for value in (_available(proc), *_left_in_groups(proc, cgroups)) if value is not None]
    return max(0, min(known)) if known else None


def _available(proc: Path) -> int | None:
    for line in _lines(proc / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_in_groups(proc: Path, cgroups: Path) -> list[int | None]:
    """What the control groups of this process leave, each one and those around it, in both versions of their files."""
    found: list[int | None] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            names, root = ("memory.max", "memory.current", "inactive_file"), cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.strip("/")
        found += [_left(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return found


def _left(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """The limit of a group minus what it uses and cannot give back; None without a limit."""
    limits, used = _lines(group / limit), _lines(group / usage)
    if not limits or not used or not limits[0].isdecimal():  # "max"
        return None
    files = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith(f"{reclaimable} ")]
    return int(limits[0]) - int(used[0]) + sum(files)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
