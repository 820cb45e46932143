"""Disks that fill up, refuse or vanish under a ranking (P3): one line, exit 4, and the same command finishes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def options(toy_settings: dict[str, int]) -> list[str]:
    changes = [part for name, value in toy_settings.items() for part in ("--set", f"{name}={value}")]
    return ["--heldout", HELDOUT, "--preset", "tiny", "--seeds", "10,20", "--on", "processes:1", *changes]


def start(store: Path, study: Path, options: Sequence[str], **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sessionwise", "rank", str(store), *options, "--to", str(study)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **how)


def rank(store: Path, study: Path, options: Sequence[str], **how: Any) -> tuple[int, str]:
    process = start(store, study, options, **how)
    return process.wait(timeout=300) if process.stderr is None else _ended(process)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def ranking_of(study: Path) -> bytes:
    (file,) = study.glob("rankings/*/*/ranking.json")
    return file.read_bytes()


@pytest.fixture(scope="module")
def whole(toy_store: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """``ranking.json`` of an undisturbed study."""
    study = tmp_path_factory.mktemp("whole") / "study"
    code, errors = rank(toy_store, study, options)
    assert code == 0, errors
    return ranking_of(study)


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    """A file system at a folder; skipped where this user may not mount."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def wait_for_runs(study: Path, count: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while len(list(study.glob("runs/*/manifest.json"))) < count:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


def errors_in(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error:")]


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle(toy_store, options, whole, tmp_path):
    with mounted("-t", "tmpfs", "-o", "size=64m", "none", at=tmp_path / "disk") as disk:
        study = disk / "study"
        process = start(toy_store, study, options)
        wait_for_runs(study, 2, process)
        with open(disk / "ballast", "wb") as ballast:  # to the last byte, so that the next write fails
            try:
                while True:
                    ballast.write(bytes(1 << 16))
                    ballast.flush()
            except OSError:
                pass
        code, errors = _ended(process)
        (line,) = errors_in(errors)
        assert code == 4 and "No space left" in line and "MB free" in line and "Make space" in line
        before = {path.name: path.stat().st_ino for path in study.glob("runs/*") if len(path.name) == 64}
        assert len(before) >= 2
        (disk / "ballast").unlink()
        code, errors = rank(toy_store, study, options)
        assert code == 0, errors
        assert ranking_of(study) == whole
        assert all((study / "runs" / name).stat().st_ino == inode for name, inode in before.items())


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_said_before_anything_is_trained(toy_store, options, tmp_path):
    with mounted("-t", "tmpfs", "-o", "size=1m", "none", at=tmp_path / "disk") as disk:
        code, errors = rank(toy_store, disk / "study", options)
        (line,) = errors_in(errors)
        assert code == 4 and "are free" in line
        assert not list(disk.glob("study/runs/*/manifest.json"))


@pytest.mark.slow
def test_recordings_that_may_only_be_read(toy_store, options, whole, tmp_path):
    copy = tmp_path / "store"
    copy.mkdir()
    with mounted("--bind", str(toy_store), at=copy):
        done = subprocess.run(["mount", "-o", "remount,bind,ro", str(copy)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"may not mount read-only: {done.stderr.strip()}")
        with pytest.raises(OSError, match="Read-only"):
            (copy / "probe").touch()
        code, errors = rank(copy, tmp_path / "study", options)
    assert code == 0, errors
    assert ranking_of(tmp_path / "study") == whole


@pytest.mark.slow
def test_a_study_that_may_only_be_read(toy_store, options, tmp_path):
    with mounted("-t", "tmpfs", "-o", "size=8m,ro", "none", at=tmp_path / "disk") as disk:
        code, errors = rank(toy_store, disk / "study", options)
        (line,) = errors_in(errors)
        assert code == 4 and "Read-only" in line


@pytest.mark.slow
def test_a_study_that_vanishes_under_its_command(toy_store, options, whole, tmp_path):
    study = tmp_path / "study"
    process = start(toy_store, study, options)
    wait_for_runs(study, 2, process)
    os.rename(study, tmp_path / "away")
    code, errors = _ended(process)
    (line,) = errors_in(errors)
    assert code == 4 and str(study) in line
    shutil.rmtree(study, ignore_errors=True)
    os.rename(tmp_path / "away", study)
    code, errors = rank(toy_store, study, options)
    assert code == 0, errors
    assert ranking_of(study) == whole


@pytest.mark.slow
def test_files_that_may_not_grow(toy_store, options, whole, tmp_path):
    """A quota on the size of files: a few of ours are larger."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    study = tmp_path / "study"
    code, errors = rank(toy_store, study, options, preexec_fn=limited)
    (line,) = errors_in(errors)
    assert code == 4 and "File too large" in line
    code, errors = rank(toy_store, study, options)
    assert code == 0, errors
    assert ranking_of(study) == whole


@pytest.mark.slow
def test_the_surroundings_change_no_byte(toy_store, options, whole, tmp_path):
    """Hash seed, locale, time zone, umask, folder and number of workers (P9)."""
    surroundings = [
        {"PYTHONHASHSEED": "0", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "1", "TZ": "America/Los_Angeles", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8"},
    ]
    for number, (change, on) in enumerate(zip(surroundings, ("processes:2", "here"), strict=True)):
        study = tmp_path / f"a folder, {number}" / "study"
        study.parent.mkdir()
        again = [on if word == "processes:1" else word for word in options]
        how = {"env": {**os.environ, **change}, "cwd": study.parent, "umask": 0o077}
        code, errors = rank(toy_store, study, again, **how)
        assert code == 0, errors
        assert ranking_of(study) == whole
        assert study.stat().st_mode & 0o077 == 0
