"""What a worker does apart from being launched: reporting, typed errors over a pipe, its protocol."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from sessionwise.errors import EXIT_STOPPED, EnvironmentProblem, IntegrityError, LeakageError, Stopped, UsageError
from sessionwise.runs import worker
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.runs.worker import Reporter, pack_error, perform, unpack_error

SPEC = RunSpec("toy", {}, {}, {}, 0)


def test_reports_are_throttled_but_scores_always_pass():
    sent: list[dict] = []
    report = Reporter(sent.append)
    for step in range(1000):
        report({"step": step, "bps": 0.1 if step == 500 else None})
    assert 2 <= len(sent) < 20 and sent[0]["step"] == 0
    assert 500 in [event["step"] for event in sent]


def test_the_parts_of_a_run_follow_from_its_reports(monkeypatch):
    times = iter([0.0, 10.0, 13.0, 14.0, 15.0, 15.5])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(times))
    report = Reporter(lambda event: None)  # made at 0, begun at 10, three steps of 1 second each, the end
    report.begin()
    for step in range(3):
        report({"step": step})
    assert report.parts() == {"load": 2.0, "steps": 3.0, "commit": 0.5}


def test_a_run_that_reports_once_has_no_steps(monkeypatch):
    times = iter([0.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(times))
    report = Reporter(lambda event: None)
    report.begin()
    report({"step": 1})
    assert report.parts() == {"load": 4.0, "steps": 0.0, "commit": 0.0}


def test_a_report_raises_when_a_stop_was_asked_for():
    asked = [False]
    report = Reporter(lambda event: None, lambda: asked[0])
    report({"step": 1})
    asked[0] = True
    with pytest.raises(Stopped):
        report({"step": 2})


def test_a_stop_between_the_look_and_the_report_waits_for_the_next_look():
    asked = [False]
    report = Reporter(lambda event: None, lambda: asked[0])
    assert not report.stopping
    asked[0] = True
    report({"step": 1})
    assert report.stopping
    with pytest.raises(Stopped):
        report({"step": 2})


@pytest.mark.parametrize("kind", [EnvironmentProblem, IntegrityError, LeakageError, UsageError])
def test_typed_errors_survive_the_pipe(kind):
    error = unpack_error(json.loads(json.dumps(pack_error(kind("file", "is gone", "a file", "Make it")))))
    assert type(error) is kind and str(error) == "file: is gone; need a file. Make it"


@pytest.mark.parametrize(
    ("raised", "reply"),
    [
        (ValueError("no"), "raised"),
        (UsageError("a", "b"), "raised"),
        (FileNotFoundError(errno.ENOENT, "gone"), "raised"),
        (OSError(errno.ENOSPC, "full"), "refused"),
        (IntegrityError("a", "b"), "refused"),
        (LeakageError("a", "b"), "refused"),
        (MemoryError(), "lost"),
        (OSError(errno.ENOMEM, "no memory"), "lost"),
        (Stopped("a", "b"), "stopped"),
    ],
)
def test_how_a_run_ended_is_told_by_what_it_raised(tmp_path, raised, reply):
    def work(*_: object) -> None:
        raise raised

    assert perform(SPEC, RunStore(tmp_path), work, Reporter(print))["reply"] == reply


def test_a_run_is_not_computed_when_it_is_stored_or_locked(tmp_path):
    def work(*_: object) -> None:
        raise AssertionError("computed")

    store = RunStore(tmp_path)
    with store.lock(SPEC.key):
        assert perform(SPEC, RunStore(tmp_path), work, Reporter(print))["reply"] == "busy"
    store.commit(SPEC, {"state": "done"})
    assert perform(SPEC, store, work, Reporter(print))["reply"] == "stored"


def test_a_worker_ends_when_its_launcher_closes_the_pipe():
    command = [sys.executable, "-P", "-m", "sessionwise.runs.worker"]
    ended = subprocess.run(command, input=b"", capture_output=True, timeout=20)
    assert ended.returncode == EXIT_STOPPED and ended.stdout == b""


def test_neither_torch_nor_numpy_is_imported():
    """A worker or a status command must start in a moment."""
    code = "import sys, sessionwise.runs.launch; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
