"""Memory that ends under a training (P7): a lost run with its cause, and the same command finishes it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_concurrency import workers

from sessionwise.runs.verify import verify_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux to limit another process"),
]
HELDOUT = "sim-heldout-0"


@pytest.fixture(scope="module")
def command(toy_store: Path, toy_settings: dict[str, int]) -> list[str]:
    changes = [part for name, value in toy_settings.items() for part in ("--set", f"{name}={value}")]
    ranked = [sys.executable, "-m", "sessionwise.cli", "rank", str(toy_store), "--heldout", HELDOUT]
    return [*ranked, "--preset", "tiny", "--seeds", "10,20", "--on", "processes:1", *changes, "--to"]


def start(command: list[str], study: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*command, str(study)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def ranking_of(study: Path) -> bytes:
    (file,) = study.glob("rankings/*/*/ranking.json")
    return file.read_bytes()


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    study = tmp_path_factory.mktemp("whole") / "study"
    code, errors = ended(start(command, study))
    assert code == 0, errors
    return ranking_of(study)


def limit(pid: int, more: int) -> None:
    """From now on the process may map only so many bytes more than it has (RLIMIT_AS)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))


@pytest.mark.parametrize("stored_before", [1, 9])
def test_a_worker_without_memory(command, whole, tmp_path, stored_before):
    study = tmp_path / "study"
    process, end = start(command, study), time.monotonic() + 120
    while len(list(study.glob("runs/*/manifest.json"))) < stored_before or not workers(process.pid):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    limit(workers(process.pid)[0], 0)
    code, errors = ended(process)
    assert code == 0 and "lost (out of memory" in errors and "Traceback" not in errors, errors
    assert ranking_of(study) == whole
    assert verify_study(study).findings == []
