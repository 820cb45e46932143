"""The wall clock changes no result, no key, no order, and nobody's judgement of who is alive (P13).

Clocks a day back and ahead, one that jumps amid a run, and one at a hundredth of the speed are given to commands and
their workers in two ways. ``sitecustomize.py``, which Python imports first, replaces the functions of ``time`` that
read the wall clock: that works everywhere, but ``datetime.now`` reads it in C and stays right (the last tests here
forbid it). libfaketime, where it is installed, moves that one as well. The monotonic clock, which leases, waits and
checkpoints go by, is left alone by both, as by whoever sets a clock.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import cache
from glob import glob
from pathlib import Path

import pytest
import toy_committer
from small_rank import committed, ended, is_whole, python_path, wait_for

from sessionwise.io.files import sha256_file
from sessionwise.runs.lease import ALIVE, DEAD, LEASE_S, Busy, Leases, peek
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.verify import verify_study

SOURCE = Path(__file__).parents[2] / "src" / "sessionwise"
TOYS = Path(__file__).parents[1] / "runs"
DAY_S = 86400.0
CLOCKS = {"a day back": (-DAY_S, 1.0), "a day ahead": (DAY_S, 1.0), "slow": (0.0, 0.01)}  # shift in s, speed
RIGHT, AHEAD, BACK = (0.0, 1.0), CLOCKS["a day ahead"], CLOCKS["a day back"]

PATCH = """
import os, time

_time_ns, _folder, _begun = time.time_ns, os.environ["CLOCK"], time.time_ns()

def _now_ns():
    with open(os.path.join(_folder, "set")) as stream:
        shift, speed = map(float, stream.read().split())
    return int(_begun + (_time_ns() - _begun) * speed + shift * 1e9)

def _of_now(function):
    return lambda seconds=None: function(_now_ns() / 1e9 if seconds is None else seconds)

_local, _strftime = time.localtime, time.strftime
time.time_ns, time.time = _now_ns, lambda: _now_ns() / 1e9
time.localtime, time.gmtime, time.ctime = _of_now(_local), _of_now(time.gmtime), _of_now(time.ctime)
time.strftime = lambda form, when=None: _strftime(form, time.localtime() if when is None else when)

with open(os.path.join(_folder, f"seen-{os.getpid()}"), "w") as stream:
    stream.write(str(time.time()))
"""


class Clock:
    """A wall clock for other processes; ``set`` moves it in those that run as well."""

    patch = PATCH

    def __init__(self, folder: Path, shift_s: float, speed: float) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(self.patch)
        self.set(shift_s, speed)

    def set(self, shift_s: float, speed: float = 1.0) -> None:
        (self.folder / "new").write_text(self.words(shift_s, speed))
        os.replace(self.folder / "new", self.folder / "set")

    def words(self, shift_s: float, speed: float) -> str:
        return f"{shift_s} {speed}"

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": python_path(self.folder, TOYS), "CLOCK": str(self.folder)}


# A sleep that libfaketime leaves alone: while the monotonic clock is excluded it makes the usual one fail
# (https://github.com/wolfcw/libfaketime/issues/426), and a slow clock makes it last longer.
SLEEP = """
import signal, time
time.sleep = lambda seconds: signal.sigtimedwait((), seconds)
"""


class LibraryClock(Clock):
    """The same by libfaketime."""

    patch = SLEEP

    def words(self, shift_s: float, speed: float) -> str:
        return f"{shift_s:+.0f}s" + (f" x{speed}" if speed != 1 else "")

    def environment(self) -> dict[str, str]:
        how = {"FAKETIME_TIMESTAMP_FILE": str(self.folder / "set"), "FAKETIME_NO_CACHE": "1"}
        how |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": library() or ""}
        return {**super().environment(), **how}


def library() -> str | None:
    """libfaketime; ``$LIBFAKETIME`` names one that is not installed."""
    return os.environ.get("LIBFAKETIME") or next(iter(glob("/usr/lib/*/faketime/libfaketime.so.1")), None)


needs_library = pytest.mark.skipif(
    library() is None, reason="libfaketime is not installed (nor does $LIBFAKETIME name it)"
)
WAYS = [pytest.param(Clock, id="patched"), pytest.param(LibraryClock, id="libfaketime", marks=needs_library)]


# ---- a toy study -----------------------------------------------------------------------------------------------------


class ToyStudy:
    """Four runs with checkpoints and two that read two of them each, computed by one worker one after the other."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log, self.study = folder, folder / "log", folder / "study"
        where = {"log": str(self.log)}
        first = [RunSpec("toy", {"do": "steps"}, {}, {}, seed, where=where, steps=15) for seed in range(4)]
        pairs = [{"a": first[i].key, "b": first[i + 2].key} for i in range(2)]
        self.specs = [*first, *(RunSpec("toy", {}, {}, pair, 10 + i, where=where) for i, pair in enumerate(pairs))]
        plan = {"root": str(self.study / "runs"), "on": "processes:1", "work": "toy_work:run"}
        (folder / "plan.json").write_text(json.dumps({**plan, "specs": [spec.to_json() for spec in self.specs]}))

    def start(self, clock: Clock | None = None) -> subprocess.Popen[str]:
        environment = clock.environment() if clock else {"PYTHONPATH": python_path(TOYS)}
        return subprocess.Popen(
            [sys.executable, str(TOYS / "toy_driver.py"), str(self.folder / "plan.json")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def amid(self, process: subprocess.Popen[str], n_runs: int) -> None:
        """Wait until so many runs are committed and the next one has a checkpoint."""
        runs = self.study / "runs"
        wait_for(lambda: len(committed(self.study)) >= n_runs and list(runs.glob("*.work/step-*")), process)

    def nobody_left(self) -> None:
        """Wait until the worker of a killed command, which ends by itself, holds no run any more."""
        locks = self.study / "runs" / ".locks"
        wait_for(lambda: not any(seen and seen.state == ALIVE for seen in map(peek, locks.iterdir())), None)

    def bytes(self) -> dict[str, str]:
        """SHA-256 of every file of every committed run."""
        files = [path for key in committed(self.study) for path in (self.study / "runs" / key).rglob("*")]
        return {path.relative_to(self.study).as_posix(): sha256_file(path) for path in files}

    def order(self) -> list[list[str]]:
        """What the runs did one after the other: ["begun", key], ["step0001", key], ..."""
        return [path.name.split("-")[1:3] for path in sorted(self.log.iterdir())]

    def ended_once(self, of: Collection[str] = ()) -> bool:
        """Whether each run, or each of these, came to its end exactly once."""
        keys = of or [spec.key for spec in self.specs]
        ends = Counter(key for what, key in self.order() if what == "ended")
        return all(ends[key] == 1 for key in keys)

    def begun(self, keys: Collection[str]) -> set[int]:
        """How often these runs were begun."""
        begun = Counter(key for what, key in self.order() if what == "begun")
        return {begun[key] for key in keys}


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyStudy, str]:
    """The toy study under the right clock, and the outcomes that its command printed."""
    toy = ToyStudy(tmp_path_factory.mktemp("right"))
    said, errors = (process := toy.start()).communicate(timeout=60)
    assert process.returncode == 0 and toy.ended_once(), errors
    return toy, said


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shift_s, speed", CLOCKS.values(), ids=CLOCKS)
def test_a_wrong_clock_changes_no_byte_and_no_order(right, tmp_path, way, shift_s, speed):
    clock, toy = way(tmp_path / "clock", shift_s, speed), ToyStudy(tmp_path)
    said, errors = (process := toy.start(clock)).communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (said, toy.order(), toy.bytes()) == (right[1], right[0].order(), right[0].bytes())
    assert verify_study(toy.study).findings == []
    computed = {int(path.name.split("-")[3]) for path in toy.log.iterdir()}
    assert len(computed) == 1
    if way is Clock:  # the worker had the clock of its command
        seen = {int(path.name.removeprefix("seen-")): float(path.read_text()) for path in clock.folder.glob("seen-*")}
        assert computed | {process.pid} <= set(seen)
        assert all(at == pytest.approx(time.time() + shift_s, abs=60) for at in seen.values())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_clock_that_jumps_back_amid_a_run_changes_no_byte_and_no_order(right, tmp_path, way):
    clock, toy = way(tmp_path / "clock", *RIGHT), ToyStudy(tmp_path)
    process = toy.start(clock)
    toy.amid(process, 1)
    clock.set(-3600.0)
    assert len(committed(toy.study)) <= 4  # there is work left to do after the jump
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (said, toy.order(), toy.bytes()) == (right[1], right[0].order(), right[0].bytes())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("killed, going_on", [(AHEAD, BACK), (BACK, AHEAD)], ids=["ahead, back", "back, ahead"])
def test_what_was_killed_under_one_clock_goes_on_under_another(right, tmp_path, way, killed, going_on):
    """Also with all times of files a decade off, as a copied study has them."""
    toy = ToyStudy(tmp_path)
    process = toy.start(way(tmp_path / "clock", *killed))
    toy.amid(process, 2)
    process.kill()
    process.communicate(timeout=60)
    toy.nobody_left()
    before = {key: inode for key, (inode, _) in committed(toy.study).items()}
    for path in toy.study.rglob("*"):
        os.utime(path, (time.time() + 3650 * killed[0],) * 2)
    said, errors = (process := toy.start(way(tmp_path / "another", *going_on))).communicate(timeout=60)
    assert process.returncode == 0, errors
    assert toy.bytes() == right[0].bytes()
    # The kill may fall between the commit of a run and its note of having ended: it is not begun again for that.
    assert toy.begun(before) == {1} and toy.ended_once({spec.key for spec in toy.specs} - set(before))
    assert {key: inode for key, (inode, _) in committed(toy.study).items() if key in before} == before
    assert {key for key, (_, computed) in json.loads(said).items() if not computed} == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_commands_with_clocks_two_days_apart_compute_each_run_once(right, tmp_path, way):
    toy = ToyStudy(tmp_path)
    processes = [toy.start(way(tmp_path / name, *CLOCKS[name])) for name in ("a day back", "a day ahead")]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert toy.bytes() == right[0].bytes() and toy.ended_once()


# ---- a ranking and its report ----------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_library
def test_a_clock_that_jumps_back_two_days_amid_a_ranking_changes_no_byte(small_rank, tmp_path):
    """Only by the library, which other libraries (PyTorch, Matplotlib) do not escape either."""
    clock, study = LibraryClock(tmp_path / "clock", *AHEAD), tmp_path / "study"
    process = small_rank.start(study, **clock.environment())
    wait_for(lambda: committed(study), process)
    clock.set(-DAY_S)
    before = committed(study)
    assert len(before) < 6 and small_rank.whole  # computed beside it, unless it was before
    code, said = ended(process)
    assert code == 0, said
    is_whole(study, before, small_rank)


# ---- leases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds the lease of toy run 0, under a clock."""
    started = []

    def start(clock: Clock) -> subprocess.Popen[str]:
        command = [sys.executable, str(TOYS / "toy_committer.py"), str(tmp_path / "runs"), "lock"]
        environment = {**os.environ, **clock.environment()}
        started.append(process := subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of_holder, of_observer", [(RIGHT, RIGHT), (AHEAD, RIGHT), (BACK, RIGHT), (AHEAD, BACK)])
def test_a_lease_is_judged_alike_under_every_clock(tmp_path, holders, way, of_holder, of_observer):
    holder = holders(way(tmp_path / "clock", *of_holder))
    store, key = RunStore(tmp_path / "runs"), toy_committer.toy_spec(0).key
    path, observer = tmp_path / "runs" / ".locks" / key, way(tmp_path / "another", *of_observer)
    for stamp in (None, 0.0, time.time() + DAY_S):
        if stamp is not None:
            os.utime(path, (stamp, stamp))
        assert store.holder(key).endswith(f"process {holder.pid}")
        with pytest.raises(Busy), store.lock(key):
            pass
    assert seen_from(observer, path) == ALIVE
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert seen_from(observer, path) == DEAD
    with store.lock(key):  # at once
        assert json.loads(path.read_bytes())["pid"] == os.getpid()


def seen_from(clock: Clock, path: Path) -> str:
    """How a process under another clock sees a lease."""
    code = "import sys, pathlib; from sessionwise.runs.lease import peek; print(peek(pathlib.Path(sys.argv[1])).state)"
    environment = {**os.environ, **clock.environment()}
    return subprocess.check_output([sys.executable, "-c", code, str(path)], text=True, env=environment).strip()


@pytest.mark.slow
def test_a_lease_of_another_host_with_another_clock_lives_by_its_changes_alone(tmp_path, holders, monkeypatch):
    """It is believed while it changes within two minutes of the observer's monotonic clock, whatever the day."""
    holders(Clock(tmp_path / "clock", *AHEAD))
    key, elsewhere, now = toy_committer.toy_spec(0).key, tmp_path / "elsewhere", 0.0
    about = json.loads((tmp_path / "runs" / ".locks" / key).read_bytes())
    elsewhere.mkdir()
    leases = Leases(elsewhere, lambda: now)
    states = []
    for look in range(int(2 * LEASE_S) // 10):
        now, wall = 10.0 * look, DAY_S * (1 - 2 * (look % 2))  # a wall clock that jumps by two days at each look
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        beat = min(look, 6)  # its last beat is 60 s after the first look
        (elsewhere / key).write_text(json.dumps({**about, "boot": "another", "beat": f"{beat:012d}"}))
        os.utime(elsewhere / key, (1e9 + wall, 1e9 + wall))
        states.append(leases.look(key).state)
    assert states == [ALIVE] * (6 + int(LEASE_S) // 10) + [DEAD] * (len(states) - 6 - int(LEASE_S) // 10)


# ---- the clocks themselves: the tests above can fail -----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shift_s", [-DAY_S, DAY_S])
def test_the_clock_of_other_processes_is_moved(tmp_path, way, shift_s):
    code = (
        "import time, datetime; print(time.time(), time.time_ns() / 1e9, time.mktime(time.localtime()), "
        "datetime.datetime.now().timestamp(), time.monotonic())"
    )
    environment = {**os.environ, **way(tmp_path / "clock", shift_s, 1.0).environment()}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    *moved, of_datetime, monotonic = (float(word) for word in said.split())
    assert moved == pytest.approx([time.time() + shift_s] * 3, abs=60)
    assert of_datetime == pytest.approx(time.time() + (shift_s if way is LibraryClock else 0), abs=60)
    assert monotonic == pytest.approx(time.monotonic(), abs=60)


@pytest.mark.parametrize("way", WAYS)
def test_the_clock_of_other_processes_is_slow_and_jumps(tmp_path, way):
    clock = way(tmp_path / "clock", *CLOCKS["slow"])
    code = "import time\nfor _ in range(3): print(time.time(), time.monotonic(), flush=True); input()"
    environment = {**os.environ, **clock.environment()}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    read = [process.stdout.readline().split()]
    for shift_s in (0.0, -3600.0):
        time.sleep(0.2)
        clock.set(shift_s, 0.01)
        process.stdin.write("\n")
        process.stdin.flush()
        read.append(process.stdout.readline().split())
    process.communicate("\n")
    walls, monotonic = ([float(words[i]) for words in read] for i in (0, 1))
    assert 0 < walls[1] - walls[0] < 0.1 < monotonic[1] - monotonic[0]
    assert walls[2] - walls[1] == pytest.approx(-3600, abs=1)


# ---- the source ------------------------------------------------------------------------------------------------------

WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
FILE_TIMES = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "st_atime_ns", "getmtime", "getctime"}
MAY_READ_THE_WALL_CLOCK = {"runs/progress.py": "strftime: what o'clock it was, before a line of progress"}
MAY_READ_FILE_TIMES = {
    "data/store.py": "whether a file is the one that this process hashed before: compared for equality only",
    "io/hdf5.py": "whether a file is the one whose outline this process keeps: compared for equality only",
    "runs/lease.py": "stands for the content of a lease that cannot be read: compared for equality only",
}


def test_the_wall_clock_is_read_for_display_only():
    found = {path: calls for path, calls in _by_module(wall_reads).items() if calls}
    assert set(found) == set(MAY_READ_THE_WALL_CLOCK), found


def test_times_of_files_are_compared_for_equality_only():
    found = {path: names for path, names in _by_module(file_times).items() if names}
    assert set(found) == set(MAY_READ_FILE_TIMES), found


@pytest.mark.parametrize(
    "code",
    [
        "import time\nat = time.time()",
        "import time as t\nat = t.time_ns()",
        "from time import time\nat = time()",
        "from time import strftime as form\nat = form('%H')",
        "import datetime\nat = datetime.datetime.now()",
        "import datetime as dt\nat = dt.datetime.now(dt.UTC)",
        "from datetime import datetime\nat = datetime.utcnow()",
        "from datetime import date as day\nat = day.today()",
        "import time\nclock = time.time",
    ],
)
def test_every_way_to_read_the_wall_clock_is_noticed(code):
    assert len(wall_reads(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    ["import time\nat = time.monotonic()", "def f(x):\n    return x.time(), x.now()", "at = path.stat().st_size"],
)
def test_other_clocks_are_not_meant(code):
    assert wall_reads(ast.parse(code)) == file_times(ast.parse(code)) == []


def _by_module(look: Callable[[ast.AST], list[str]]) -> dict[str, list[str]]:
    return {name: look(tree) for name, tree in _trees().items()}


@cache
def _trees() -> dict[str, ast.AST]:
    trees = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}
    assert len(trees) > 50
    return trees


def wall_reads(tree: ast.AST) -> list[str]:
    """Functions that read the wall clock, by whatever name the module knows them."""
    known = {}  # local name -> the class or module that it stands for
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {name.asname or name.name: name.name for name in node.names if name.name in ("time", "datetime")}
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            taken = [name for name in node.names if node.module == "time" and name.name in WALL["time"]]
            found += [f"{name.name} (line {node.lineno})" for name in taken]
            known |= {name.asname or name.name: name.name for name in node.names if node.module == "datetime"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in WALL.get(_stands_for(node.value, known), ()):
            found.append(f"{node.attr} (line {node.lineno})")
    return found


def _stands_for(node: ast.expr, known: dict[str, str]) -> str:
    """``time``, ``datetime`` or ``date`` for a name, or for one of the classes of the module ``datetime``."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and known.get(node.value.id) == "datetime":
        return node.attr
    return ""


def file_times(tree: ast.AST) -> list[str]:
    """Times of files that a module reads."""
    names = [(node.attr, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [f"{name} (line {line})" for name, line in names if name in FILE_TIMES]
