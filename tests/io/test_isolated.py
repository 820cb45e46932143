"""Readers in a process of their own: what comes back, and what becomes of those that crash, hang or fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sessionwise.errors import DataError, EnvironmentProblem, IntegrityError
from sessionwise.io.isolated import call_isolated

READERS = """
import os, resource, signal, sys, time
import numpy as np
from sessionwise.errors import DataError, IntegrityError, Problems

def echo(path, *more):
    return [path, *more]

def values(path):
    return {
        "array": np.arange(6.0).reshape(2, 3), "texts": np.array(["a", "\\u00e4b"]),
        "empty": np.zeros((0, 3), np.int16),
        "odd": [np.nan, -np.inf, np.float32(0.5), np.int64(3), True, None, "x"], "nested": {"a": {"b": []}},
    }

def environment(path):
    return {name: os.environ.get(name) for name in ("HDF5_PLUGIN_PATH", "HDF5_PLUGIN_PRELOAD")}

def cores(path):
    return resource.getrlimit(resource.RLIMIT_CORE)[0]

def die(path, number):
    os.kill(os.getpid(), number)

def hang(path):
    time.sleep(60)

def refuse(path):
    raise IntegrityError(path, "is another file", "the same", "Restore it")

def several(path):
    raise Problems([DataError(path, "first"), DataError(path, "second")])

def fail(path):
    raise LookupError("no such luck")

def objects(path):
    return np.array([object()], dtype=object)

def greedy(path):
    return np.ones(2**50, np.uint8)
"""


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of readers that the child can import."""
    (tmp_path / "toy_readers.py").write_text(READERS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "toy_readers"


def test_arguments_and_values_come_through_unchanged(readers: str, tmp_path: Path) -> None:
    assert call_isolated(f"{readers}:echo", tmp_path / "f", ["a"], {"b": 1.5}, None) == [
        str(tmp_path / "f"),
        ["a"],
        {"b": 1.5},
        None,
    ]
    found = call_isolated(f"{readers}:values", tmp_path / "f")
    assert np.array_equal(found["array"], np.arange(6.0).reshape(2, 3)) and not found["array"].flags.writeable
    assert found["texts"].tolist() == ["a", "äb"] and found["empty"].shape == (0, 3)
    assert found["empty"].dtype == np.int16 and found["nested"] == {"a": {"b": []}}
    assert np.isnan(found["odd"][0]) and found["odd"][1:] == [-np.inf, 0.5, 3, True, None, "x"]


def test_no_plugin_is_loaded_and_no_core_is_dumped(readers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_PLUGIN_PATH", "/tmp")
    found = call_isolated(f"{readers}:environment", "f")
    assert found == {"HDF5_PLUGIN_PATH": None, "HDF5_PLUGIN_PRELOAD": "::"}
    assert call_isolated(f"{readers}:cores", "f") == 0


@pytest.mark.parametrize(
    ("function", "more", "problem", "message"),
    [
        ("die", [11], DataError, r"^rec\.h5: crashes its reader \(SIGSEGV\)"),
        ("die", [6], DataError, r"crashes its reader \(SIGABRT\)"),
        ("die", [35], DataError, r"crashes its reader \((signal 35|SIGRTMIN\+?\d?)\)"),
        ("die", [9], EnvironmentProblem, r"its reader was killed \(SIGKILL\)"),
        ("refuse", [], IntegrityError, r"^rec\.h5: is another file; need the same\. Restore it$"),
        ("several", [], DataError, r"^rec\.h5: first$"),
        ("fail", [], DataError, r"^rec\.h5: cannot be read \(LookupError: no such luck\)"),
        ("objects", [], DataError, r"cannot be read \(ValueError: arrays of Python objects"),
        ("greedy", [], DataError, r"^rec\.h5: unpacks into gigabytes"),
    ],
)
def test_whatever_the_child_does_is_one_typed_line(
    readers: str, function: str, more: list[int], problem: type[Exception], message: str
) -> None:
    with pytest.raises(problem, match=message):
        call_isolated(f"{readers}:{function}", "rec.h5", *more)


def test_a_reader_that_hangs_is_stopped(readers: str) -> None:
    with pytest.raises(DataError, match=r"^rec\.h5: keeps its reader busy for more than 1 s"):
        call_isolated(f"{readers}:hang", "rec.h5", timeout_s=1)


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    """Folders of processes that are gone; not those of living ones, nor what others called alike."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {f"sessionwise-{gone.pid}-abc": False, f"sessionwise-{os.getpid()}-abc": True, "sessionwise-notes-1": True}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.npy").write_bytes(b"left")
    code = "from sessionwise.io.isolated import call_isolated as c; print(c('builtins:len', 'four'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout == "4\n", done.stderr
    assert {name: (tmp_path / name).exists() for name in names} == names
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_dies_with_the_process_that_asked() -> None:
    slow = "from sessionwise.io.isolated import call_isolated as c; c('subprocess:getoutput', 'sleep 40')"
    asking = subprocess.Popen([sys.executable, "-c", slow])
    deadline = time.monotonic() + 20
    while not (children := readers_of(asking.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    asking.kill()
    asking.wait()
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in children)


def is_running(pid: int) -> bool:
    """Whether a process works on: one that ended and was not waited for stays listed as a zombie."""
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) not in ("Z", "X")
    except OSError:
        return False


def readers_of(parent: int) -> list[int]:
    """Processes of ``isolated`` that another one started, as Linux lists them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == parent and b"sessionwise.io.isolated" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
