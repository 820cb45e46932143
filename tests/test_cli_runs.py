"""The commands verify, status and gc: output, exit codes, and no torch on the way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sessionwise.cli import main
from sessionwise.io.files import sealed_files, temporary_name, write_bytes, write_json
from sessionwise.io.process import this_process
from sessionwise.runs.checkpoints import save_checkpoint
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

DOCUMENTS = Path(__file__).parent / "analysis" / "conftest.py"
SPECS = [RunSpec("pretrain", {"lr": 0.5}, {}, {}, seed) for seed in range(4)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Runs done, failed and interrupted, and one result."""
    store = RunStore(tmp_path / "runs")
    for spec in SPECS[:2]:
        store.commit(spec, {"state": "done"}, lambda folder: write_bytes(folder / "core.bin", b"weights" * 100))
    store.record_failure(SPECS[2], "recording \x1b[31m is gone")
    save_checkpoint(store.work_folder(SPECS[3].key), 20, lambda folder: write_bytes(folder / "state.bin", b"x"))
    with sealed_files(tmp_path):
        write_bytes(tmp_path / "results.csv", b"a,b\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_verify_says_that_all_is_well_or_what_is_not(study, capsys):
    code, out, err = run(capsys, "verify", str(study))
    assert (code, err) == (0, "") and out.startswith("2 runs, 1 checkpoints, 1 files of results, 1 records")
    core = study / "runs" / SPECS[0].key / "core.bin"
    core.write_bytes(core.read_bytes()[:-1])
    (study / temporary_name().replace(this_process().place, "00000000")).touch()
    code, out, err = run(capsys, "verify", str(study))
    assert (code, out) == (5, "") and "Traceback" not in err
    assert f"{core}: corrupt: SHA-256 is" in err and "699 bytes instead of 700" in err and "orphaned: .tmp-" in err
    code, out, _ = run(capsys, "verify", str(study), "--json")
    assert code == 5 and json.loads(out)["whole"] is False
    assert [problem["kind"] for problem in json.loads(out)["problems"]] == ["corrupt"]


@pytest.mark.parametrize("command", ["verify", "status", "gc"])
def test_what_is_no_study_is_exit_2(tmp_path, capsys, command):
    for folder in (tmp_path, tmp_path / "nothing"):
        code, out, err = run(capsys, command, str(folder))
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_status_counts_and_explains(study, capsys):
    with RunStore(study / "runs").lock(SPECS[3].key):
        code, out, err = run(capsys, "status", str(study))
    assert (code, err) == (0, "")
    header, *rows = [line.split() for line in out.splitlines()]
    assert header == ["runs", "done", "failed", "running"] and ["pretrain", "2", "1", "-"] in rows
    assert "checkpoint at step 20; the same command again: it is left to its process" in out
    assert "recording \\x1b[31m is gone" in out and "\x1b" not in out
    code, out, _ = run(capsys, "status", str(study), "--json")
    document = json.loads(out)
    assert code == 0 and document["counts"]["pretrain"] == {"done": 2, "failed": 1}
    assert document["rerun"]["goes on"] == 1 and document["bytes"]["runs"] > 1400


def test_gc_shows_and_removes(study, capsys):
    name = temporary_name().replace(f"-{this_process().pid}-", "-4194303-")
    (study / "runs" / name).write_bytes(b"x" * 1500)
    (study / temporary_name().replace(this_process().place, "00000000")).touch()
    code, out, err = run(capsys, "gc", str(study), "--dry-run")
    assert code == 0 and f"would remove temporary runs/{name} (1.5 kB)" in out and "1 leftovers" in out
    assert "kept: .tmp-" in err and "--elsewhere" in err and (study / "runs" / name).exists()
    code, out, _ = run(capsys, "gc", str(study), "--elsewhere")
    assert code == 0 and "2 leftovers, 1.5 kB freed" in out and not list(study.rglob(".tmp-*"))
    assert run(capsys, "verify", str(study))[0] == 0


def fake_ranking() -> dict[str, Any]:
    """The document of a ranking that never ran."""
    place = importlib.util.spec_from_file_location("documents", DOCUMENTS)
    assert place and place.loader
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    document: dict[str, Any] = module.fake_ranking(4)
    return document


@pytest.mark.parametrize("name", ["ranking.json", "comparison.json"])
def test_a_changed_result_is_never_reported(tmp_path, capsys, name):
    folder = tmp_path / "rankings" / "h" / "full-1"
    with sealed_files(folder):
        write_json(folder / "ranking.json", fake_ranking())
    with sealed_files(tmp_path):
        write_json(tmp_path / "comparison.json", {"arms": []})
    path = next(tmp_path.rglob(name))
    path.write_bytes(path.read_bytes().replace(b"\n", b" ", 1))
    code, out, err = run(capsys, "report", str(tmp_path))
    assert (code, out) == (5, "") and f"{path}: SHA-256 is" in err and "as recorded" in err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["counts.npy", "session.json"])
def test_a_changed_recording_ends_a_ranking_before_any_training(toy_store, tmp_path, capsys, name):
    store = shutil.copytree(toy_store, tmp_path / "store")
    (path,) = store.glob(f"sim-01*/{name}")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    study = tmp_path / "study"
    code, out, err = run(capsys, "rank", str(store), "--heldout", "sim-heldout-0", "--to", str(study), "--on", "here")
    assert (code, out) == (5, "") and err.count("error: ") == 1
    assert f"{path}: SHA-256 is " in err and ".. as recorded" in err
    assert not (study / "runs").exists()


NO_TORCH = """
import importlib.util, json, sys
from pathlib import Path
from sessionwise import cli
from sessionwise.runs.launch import execute
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore

def work(spec, store, report):
    store.commit(spec, {"state": "done"})

study = Path(sys.argv[1])
sys.modules["toy"] = sys.modules["__main__"]
execute([RunSpec("toy", {}, {}, {}, 0)], RunStore(study / "runs"), "toy:work", "here")
place = importlib.util.spec_from_file_location("documents", sys.argv[2])
documents = importlib.util.module_from_spec(place)
place.loader.exec_module(documents)
folder = study / "rankings" / "h" / "full-1"
folder.mkdir(parents=True)
(folder / "ranking.json").write_text(json.dumps(documents.fake_ranking()))
for command in ("report", "verify", "status", "gc"):
    try:
        cli.main([command, str(study)])
    except SystemExit as stop:
        print("ended", command, stop.code, "torch" in sys.modules)
"""


@pytest.mark.slow
def test_store_launcher_verify_status_gc_and_report_do_without_torch(study):
    """Imported and at work, in a new interpreter."""
    command = [sys.executable, "-c", NO_TORCH, str(study), str(DOCUMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == [f"ended {name} 0 False" for name in ("report", "verify", "status", "gc")], done.stderr
    assert "3 runs" in done.stdout and (study / "report" / "index.html").exists()
