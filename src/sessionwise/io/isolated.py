"""Reading hostile files in a process of its own: a library that crashes takes that process down and nothing else.

The parent sends the name of a function and its arguments as JSON; the child writes what the function returns into a
temporary folder, arrays as ``.npy``, the rest as JSON. Typed errors come back as themselves. Nothing is pickled.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise import errors
from sessionwise.errors import DataError, EnvironmentProblem, Problems, SessionwiseError
from sessionwise.io.arrays import human_bytes, read_npy, write_npy
from sessionwise.io.files import read_json, write_json

_ANSWER = "answer.json"
_PREFIX = "sessionwise-"
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies
_BYTES_A_SECOND = 10e6  # far below what any disk and library reach
_SHORTEST_S = 60.0
_MEMORY_SHARE = 0.9  # of the machine's, at most
_MEMORY_FLOOR, _MEMORY_RATIO = 4 * 2**30, 20  # address space for libraries, and for each byte of the file


def call_isolated(function: str, path: str | Path, *more: Any, timeout_s: float | None = None) -> Any:
    """``module:name(path, *more)`` in a process of its own; returns what it returns.

    Arguments are JSON values; the answer is made of dicts, lists, texts, numbers, None and arrays without objects.
    Arrays come back as read-only memory maps.

    Raises
    ------
    DataError: the reader crashed, hung or ran out of memory on this file. Typed errors of the function as themselves.
    """
    limit = timeout_s if timeout_s is not None else _SHORTEST_S + _size_of(Path(path)) / _BYTES_A_SECOND
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        request = {"function": function, "arguments": [str(path), *more], "folder": str(folder), "parent": os.getpid()}
        _run(request, str(path), limit)
        answer = read_json(folder / _ANSWER)
        if "error" in answer:
            raise _error_in(answer["error"])
        return _unpacked(answer["value"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # memory maps of its files stay valid


@cache
def _sweep() -> None:
    """Remove what killed processes of this user left in the temporary folder; once a process is enough."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):
            if owner.isdecimal() and folder.stat().st_uid == os.getuid() and not _is_alive(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _size_of(path: Path) -> int:
    """Bytes of a file, or of the files in and below a folder."""
    try:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _memory_for(size: int) -> tuple[int, bool]:
    """Most bytes of address space for a reader, and whether the file sets that limit and not the machine."""
    machine = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _MEMORY_SHARE)
    own = _MEMORY_FLOOR + _MEMORY_RATIO * size
    return min(own, machine), own < machine


def _run(request: dict[str, Any], where: str, limit: float) -> None:
    command = [sys.executable, "-P", "-m", "sessionwise.io.isolated"]
    dropped = ("HDF5_PLUGIN_PATH", "HDF5_USE_FILE_LOCKING")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    # "::" turns dynamic filter plugins off; recordings lie on read-only and networked disks, where locking fails.
    environment |= {"HDF5_PLUGIN_PRELOAD": "::", "HDF5_USE_FILE_LOCKING": "FALSE"}
    environment |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}  # each reserves memory
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, env=environment, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        found = f"keeps its reader busy for more than {limit:.0f} s"
        raise DataError(where, found, "a file that can be read", "Refused; write or download it again") from error
    if done.returncode == -signal.SIGKILL:  # nobody but the system's memory guard does this
        found = "is too much for this machine: its reader was killed (SIGKILL)"
        raise EnvironmentProblem(where, found, "a smaller recording or more memory")
    if done.returncode < 0:
        found = f"crashes its reader ({_signal_name(-done.returncode)})"
        raise DataError(where, found, "a file that its library can read", "Refused; write or download it again")
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise DataError(where, f"cannot be read ({last[0][:200]})", "a complete file", "Write or download it again")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _error_in(value: dict[str, str]) -> SessionwiseError:
    kind = getattr(errors, value["type"])
    problem: SessionwiseError = kind(value["where"], value["found"], value["needed"], value["remedy"])
    return problem


def _packed(value: Any, folder: Path) -> Any:
    """A JSON value; arrays become files of the folder."""
    if isinstance(value, np.ndarray):
        name = f"{len(list(folder.iterdir()))}.npy"
        write_npy(folder / name, value)
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": [[str(key), _packed(item, folder)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_packed(item, folder) for item in value]}
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):  # JSON knows no NaN and no infinity
        return {"float": repr(plain)}
    return {"plain": plain}


def _unpacked(value: Any, folder: Path) -> Any:
    [(kind, content)] = value.items()
    if kind == "array":
        return read_npy(folder / content, mmap=True)
    if kind == "dict":
        return {key: _unpacked(item, folder) for key, item in content}
    if kind == "float":
        return float(content)
    return [_unpacked(item, folder) for item in content] if kind == "list" else content


def _answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    module, _, name = request["function"].partition(":")
    arguments: Sequence[Any] = request["arguments"]
    try:
        return {"value": _packed(getattr(import_module(module), name)(*arguments), folder)}
    except MemoryError:
        size = _size_of(Path(arguments[0]))
        if _memory_for(size)[1]:
            found = f"unpacks into gigabytes, stores {human_bytes(size)}"
            return _told(DataError(arguments[0], found, "a file that holds what it declares", "Refused"))
        found = "needs more memory than this machine has"
        return _told(EnvironmentProblem(arguments[0], found, "a smaller recording or more memory"))
    except SessionwiseError as problem:
        return _told(problem)


def _told(problem: SessionwiseError) -> dict[str, Any]:
    if isinstance(problem, Problems):
        problem = problem.problems[0]
    parts = {part: getattr(problem, part) for part in ("where", "found", "needed", "remedy")}
    return {"error": {"type": type(problem).__name__, **parts}}


def main() -> None:
    """The child: one request from standard input, one answer into the folder that it names."""
    _die_with_parent()
    request = json.load(sys.stdin)
    if os.getppid() != request["parent"]:  # it died before the line above
        return
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _memory_for(_size_of(Path(request["arguments"][0])))[0])
    folder = Path(request["folder"])
    write_json(folder / _ANSWER, _answer(request, folder))


def _die_with_parent() -> None:
    """A killed import leaves no reader behind; where the system has no such call, the reader ends by itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(resource_: int, most: int) -> None:
    """Lower a limit of this process; one that is lower already stays, one that the system does not know is left."""
    _, hard = resource.getrlimit(resource_)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource_, (most, most))


if __name__ == "__main__":
    main()
