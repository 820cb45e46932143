"""Every crash point of a commit path, by exhaustion: a process is killed just before its n-th change of the disk.

``python crash_points.py SCENARIO FOLDER killed`` (the toy modules of ``tests/runs`` on its path) imports what the
scenario needs once, then forks for each n: a child that does the work and kills itself (half of a write reaches the
disk), and a child that looks at what is left, does the same work again and compares. It prints one JSON line: the
number of points, and what was wrong at which of them. With ``full`` in place of ``killed`` the process lives, and from
the n-th change on nothing more can be written: it has to end with the error that says so.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import toy_study
from toy_committer import toy_spec

from sessionwise.errors import EnvironmentProblem, IntegrityError, SessionwiseWarning
from sessionwise.io import files
from sessionwise.runs import lease
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint, save_checkpoint
from sessionwise.runs.garbage import collect_garbage
from sessionwise.runs.store import RunStore
from sessionwise.runs.survey import is_study
from sessionwise.runs.verify import verify_study

GROWING = {"os.rename", "os.mkdir", "os.link"}  # changes that need space, as do new files, writes and flushes
CHANGES = {*GROWING, "os.rmdir", "os.remove", "os.truncate", "fcntl.flock"}
MOST = 2000


# ---- dying ---------------------------------------------------------------------------------------


class HalfWriter(io.FileIO):
    """A file that writes at once, and the half of it when the process is to die there."""

    def write(self, data: Any) -> int:
        step(lambda: super(HalfWriter, self).write(bytes(data)[: len(bytes(data)) // 2]))
        return super().write(data) or 0


count = itertools.count(1)
last = 0
full = False
refused: list[int] = []


def step(half: Callable[[], object] = lambda: None, *, grows: bool = True) -> None:
    """One change of the disk is about to happen."""
    if full and not grows:
        return
    at = next(count)
    if full and at >= last:
        if at == last:
            half()
        refused.append(at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if at == last:
        half()
        os.kill(os.getpid(), signal.SIGKILL)


def fault_at(position: int, *, fill: bool) -> None:
    """Kill this process just before its n-th change of the disk, or let the disk be full from there on."""
    global last, full
    last, full = position, fill
    real_open, real_write = io.open, os.pwrite

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            step(grows=event in GROWING)
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_TRUNC):
            step()

    def open_(path: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        return HalfWriter(path, "w") if mode == "wb" else real_open(path, mode, *more, **options)

    def sync(descriptor: int) -> None:
        step()  # the flush itself is only waited for when the power may go, which no test here can do

    def pwrite(descriptor: int, data: bytes, place: int) -> int:
        step(lambda: real_write(descriptor, data[: len(data) // 2], place))
        return real_write(descriptor, data, place)

    files.open = open_  # type: ignore[attr-defined]
    os.fsync, os.pwrite = sync, pwrite
    sys.addaudithook(audit)


def meet_fault(folder: Path, work: Callable[[Path], None], position: int, *, fill: bool) -> None:
    """Do the work up to the fault. On a full disk only a typed error may come of it; a killed process says nothing."""
    fault_at(position, fill=fill)
    try:
        work(folder)
    except EnvironmentProblem as error:
        if not refused or "space" not in str(error):
            raise
    except IntegrityError:  # what is damaged is named, and cannot be set aside
        if not refused:
            raise
    if refused:
        os.kill(os.getpid(), signal.SIGKILL)  # told apart from a work that met no fault


# ---- scenarios: prepare a folder, do the work ----------------------------------------------------


def nothing(folder: Path) -> None:
    """An empty place; nothing to check."""


def compute(folder: Path, seed: int = 0) -> None:
    """A run as a worker does it: lease, checkpoints each step, going on from the newest, commit."""
    store, spec = RunStore(folder / "runs"), toy_spec(seed)
    with store.lock(spec.key):
        if store.committed(spec.key):
            return
        work = store.work_folder(spec.key)
        newest = latest_checkpoint(work)
        for at in range(checkpoint_step(newest) + 1 if newest else 1, 5):
            save_checkpoint(work, at, lambda place, at=at: files.write_bytes(place / "state.bin", bytes([at]) * 100))
        store.commit(spec, {"state": "done", "value": seed}, lambda place: artefacts(place, seed))


def artefacts(folder: Path, seed: int) -> None:
    (folder / "weights").mkdir()
    files.write_bytes(folder / "weights" / "core.bin", bytes([seed]) * 1000)
    files.write_json(folder / "curve.json", [seed])


def failed_before(folder: Path) -> None:
    """A run with a failure on record, a lease of a dead process, and a generation."""
    store = RunStore(folder / "runs")
    store.record_failure(toy_spec(0), "lost", cause="lost")
    toy_study.forge_lease(folder, 0)
    toy_study.write_checkpoint(store, 0, 2)


def fail(folder: Path) -> None:
    """A failure recorded, and forgotten, of a run without and one with a folder."""
    store = RunStore(folder / "runs")
    for seed in (0, 1):
        store.record_failure(toy_spec(seed), "out of ideas")
    store.commit(toy_spec(2), {"state": "failed", "reason": "no data"})
    for seed in (1, 2):
        store.forget_failure(toy_spec(seed).key)


def damaged_before(folder: Path) -> None:
    """A committed run with a flipped bit, and a newest generation with one."""
    compute(folder)
    core = folder / "runs" / toy_spec(0).key / "weights" / "core.bin"
    core.write_bytes(b"\1" + core.read_bytes()[1:])
    for at in (1, 2):
        newest = toy_study.write_checkpoint(RunStore(folder / "runs"), 0, at)
    (newest / "state.bin").write_bytes(b"damaged")


def leftovers_before(folder: Path) -> None:
    """A study with leftovers of all kinds."""
    toy_study.make_study(folder)
    (folder / "runs" / ".locks").mkdir()
    for place in (folder, folder / "runs", folder / "runs" / ".locks", folder / "rankings" / "held-out"):
        half = place / toy_study.dead_name()
        half.mkdir()
        (half / "a").write_text("x")
        (place / toy_study.dead_name()).write_text("x")
    (folder / "runs" / f"{toy_spec(0).key}.work").mkdir()
    toy_study.forge_lease(folder, 6)


def collect(folder: Path) -> None:
    """Remove the leftovers."""
    list(collect_garbage(folder))


def import_sessions(folder: Path) -> None:
    """Two sessions into a new store."""
    import numpy as np

    from sessionwise.data.session import Session
    from sessionwise.data.store import create_store

    store = create_store(folder / "store")
    for seed in (0, 1):
        counts = np.random.default_rng(seed).poisson(1.0, (12, 10, 3)).astype(np.uint8)
        store.add(Session(f"s{seed}", counts, 0.02, (0.0, 0.2), trial_ids=np.arange(12)))


def check_sessions(folder: Path) -> None:
    """What is in the store is whole."""
    from sessionwise.data.store import STORE_FILE, check_store

    if (folder / "store" / STORE_FILE).exists():
        assert check_store(folder / "store") == []


def save_rankings(folder: Path) -> None:
    """A ranking with its picture's place."""
    from sessionwise.selection.ranking import Ranking, save_ranking

    save_ranking(Ranking(_document()), folder, {"seconds": 1.0})


def write_a_report(folder: Path) -> None:
    """The report of a stored ranking; figures were drawn before."""
    from sessionwise.analysis.report import report_of_study

    report_of_study(folder)


def reported_before(folder: Path) -> None:
    """A stored ranking, and a report of another one with more figures."""
    from sessionwise.analysis.report import write_report

    place = folder / "rankings" / "h" / "full-1"
    with files.sealed_files(place):
        files.write_json(place / "ranking.json", _document())
    write_report(folder / "report", [_document(3), _document(4)])


def write_results(folder: Path) -> None:
    """The tables of a study, after its old ones were withdrawn."""
    from sessionwise.analysis import results

    files.drop_sealed(folder / results.ABOUT_FILE)
    with files.sealed_files(folder, keep=True):
        results.write_rows(folder / results.TABLE_FILE, [])
        results.write_gains(folder / results.GAINS_FILE, {})
        results.write_transfer(folder / results.TRANSFER_FILE, [])
        files.write_json(folder / results.ABOUT_FILE, {"schema": 1, "rankings": []})


def results_before(folder: Path) -> None:
    """A study with older tables."""
    with files.sealed_files(folder):
        files.write_json(folder / "study.json", {"name": "toy"})
        for name in ("results.csv", "results.json"):
            files.write_json(folder / name, {"old": True})


def empty_study(folder: Path) -> None:
    """A study without runs."""
    (folder / "runs").mkdir()


def open_test_trials(folder: Path) -> None:
    """An entry in the ledger of openings."""
    from sessionwise.data.splits import TestSeal

    if not (folder / "test-openings" / f"{toy_spec(0).key}.json").exists():
        TestSeal(folder / "test-openings", toy_spec(0).key, "final").record("s", "0" * 64)


def _document(seed: int = 0) -> dict[str, Any]:
    from documents import fake_ranking

    found: dict[str, Any] = fake_ranking(4, (10, 20), ids=[f"session {seed} {i}" for i in range(4)])
    return found


def draw_once() -> None:
    """Figures are drawn before anything is forked: only their files are of interest."""
    from sessionwise.analysis import figures

    real_render, drawn = figures.render, {name: figures.draw(name, _document()) for name in ("scores", "curves")}
    rendered = {
        (name, form): real_render(figure, form) for name, figure in drawn.items() for form in ("svg", "pdf", "png")
    }
    names = {id(figure): name for name, figure in drawn.items()}
    figures.draw = lambda name, result: drawn.get(name)  # type: ignore[assignment]
    figures.render = lambda figure, form: rendered[names[id(figure)], form]  # type: ignore[assignment]


Scenario = tuple[Callable[[Path], None], Callable[[Path], None], Callable[[Path], None]]
SCENARIOS: dict[str, Scenario] = {  # name: what is there before, the work, what must hold after a crash
    "run": (nothing, compute, nothing),
    "takeover": (failed_before, compute, nothing),
    "failure": (nothing, fail, nothing),
    "damaged": (damaged_before, compute, nothing),
    "gc": (leftovers_before, collect, nothing),
    "sessions": (nothing, import_sessions, check_sessions),
    "ranking": (nothing, save_rankings, nothing),
    "report": (reported_before, write_a_report, nothing),
    "results": (results_before, write_results, nothing),
    "ledger": (empty_study, open_test_trials, nothing),
}


# ---- looking -------------------------------------------------------------------------------------


def in_child(action: Callable[[], None]) -> str:
    """Do something in a forked child: "" when it ended well, "killed", or the traceback."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            warnings.simplefilter("ignore", SessionwiseWarning)
            lease._keeper = lease._Keeper()
            os.fsync = lambda descriptor: None
            action()
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-3000:])
        os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        said = stream.read().decode()
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else said


def state(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder but what is never read and may be there or not."""
    ignored = ("runs/.locks", "runs/failures", "test-openings/.lock")
    found = toy_study.tree(folder)
    return {name: data for name, data in found.items() if name not in ignored and ".corrupt-" not in name}


def recover(folder: Path, scenario: Scenario, whole: dict[str, bytes | None], allowed: set[str]) -> None:
    """After a crash: nothing is broken; the same work again gives what an uninterrupted one gives."""
    _, work, check = scenario
    check(folder)
    if is_study(folder):
        problems = {finding.kind + " " + finding.path for finding in verify_study(folder).problems}
        assert problems <= allowed, problems - allowed
    work(folder)
    if is_study(folder):
        list(collect_garbage(folder))
        assert verify_study(folder).problems == []
    for store in folder.glob("*/store.json"):
        list(collect_garbage(store.parent))
    now = state(folder)
    assert now == whole, {name for name in {*now, *whole} if now.get(name, "-") != whole.get(name, "-")}
    assert not list(folder.rglob(".tmp-*"))


def exhaust(name: str, root: Path, *, fill: bool) -> dict[str, Any]:
    """All points of one scenario."""
    before, work, _ = scenario = SCENARIOS[name]
    template, reference = root / "template", root / "reference"
    template.mkdir(parents=True)
    assert in_child(lambda: before(template)) == ""
    problems = {f.kind + " " + f.path for f in verify_study(template).problems} if is_study(template) else set()
    shutil.copytree(template, reference)
    assert (error := in_child(lambda: recover_reference(reference, work))) == "", error
    whole, wrong = state(reference), {}
    for position in range(1, MOST):
        folder = root / str(position)
        shutil.copytree(template, folder)
        died = in_child(lambda: meet_fault(folder, work, position, fill=fill))  # noqa: B023
        if died not in ("", "killed"):
            wrong[position] = died
        if problem := in_child(lambda: recover(folder, scenario, whole, problems)):  # noqa: B023
            wrong[position] = problem
        shutil.rmtree(folder)
        if died == "":
            break
    return {"points": position - 1, "wrong": wrong}


def recover_reference(folder: Path, work: Callable[[Path], None]) -> None:
    """The work without a crash."""
    work(folder)
    if is_study(folder):
        list(collect_garbage(folder))


def warm_up(name: str, root: Path) -> None:
    """Import what the work of a scenario imports, and draw its figures, before anything is forked."""
    if name in ("ranking", "report"):
        path = Path(__file__).parents[1] / "analysis" / "conftest.py"
        place = importlib.util.spec_from_file_location("documents", path)
        assert place and place.loader
        sys.modules["documents"] = module = importlib.util.module_from_spec(place)
        place.loader.exec_module(module)
    if name == "report":
        draw_once()
    (root / "warm up").mkdir(parents=True)
    for act in SCENARIOS[name][:2]:
        act(root / "warm up")
    shutil.rmtree(root / "warm up")


def main() -> None:
    """See the module's first lines."""
    name, root, fault = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    warm_up(name, root)
    print(json.dumps(exhaust(name, root, fill=fault == "full")))


if __name__ == "__main__":
    main()
