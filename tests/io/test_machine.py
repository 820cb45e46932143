"""What is free: disks of folders that are not there yet, and the least of machine and control groups."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sessionwise.io.machine import free_disk, free_memory

GIB = 2**30


def test_a_disk_is_known_by_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = free_disk(tmp_path / "not" / "yet")
    assert found is not None and abs(found - shutil.disk_usage(tmp_path).free) < GIB


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write(tmp_path / "proc" / "meminfo", f"MemTotal: 999 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    return tmp_path / "proc"


def test_memory_of_a_machine_without_limits(proc: Path, tmp_path: Path) -> None:
    assert free_memory(proc, tmp_path / "none") == 8 * GIB
    write(proc / "self" / "cgroup", "0::/job\n")
    write(tmp_path / "groups" / "job" / "memory.max", "max\n")
    write(tmp_path / "groups" / "job" / "memory.current", f"{GIB}\n")
    assert free_memory(proc, tmp_path / "groups") == 8 * GIB


@pytest.mark.parametrize("limited", ["job", "job/step"])
def test_the_least_of_all_groups_counts_and_cached_files_do_not(proc: Path, tmp_path: Path, limited: str) -> None:
    """The group of the process, or the one around it, as Slurm and systemd nest them."""
    write(proc / "self" / "cgroup", "0::/job/step\n")
    group = tmp_path / "groups" / limited
    write(group / "memory.max", f"{4 * GIB}\n")
    write(group / "memory.current", f"{3 * GIB}\n")
    write(group / "memory.stat", f"anon 5\ninactive_file {GIB}\nactive_file 7\n")
    assert free_memory(proc, tmp_path / "groups") == 2 * GIB


def test_groups_of_the_first_version(proc: Path, tmp_path: Path) -> None:
    write(proc / "self" / "cgroup", "5:cpu:/a\n4:memory:/a\n")
    group = tmp_path / "groups" / "memory" / "a"
    write(group / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(group / "memory.usage_in_bytes", f"{3 * GIB}\n")
    assert free_memory(proc, tmp_path / "groups") == 0


def test_a_system_that_does_not_say_is_unknown(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "none", tmp_path / "none") is None
