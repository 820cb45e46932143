"""Verification of a study: what it names, that it writes nothing, and that no flipped bit is silent."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import toy_study
from toy_committer import toy_spec
from toy_study import make_study, tree

from sessionwise.errors import UsageError
from sessionwise.io.files import sealed_files, write_bytes
from sessionwise.runs.verify import verify_study


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which nothing is wrong; tests copy it."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    make_study(folder)
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "study")


def found(study: Path) -> list[tuple[str, str]]:
    """(kind, path) of all findings; nothing was written."""
    before = tree(study)
    verification = verify_study(study)
    assert tree(study) == before
    return [(finding.kind, finding.path) for finding in verification.findings]


def test_a_whole_study_has_no_findings(study):
    verification = verify_study(study)
    assert verification.findings == []
    assert {name: verification.checked[name] for name in ("runs", "checkpoints", "results", "records")} == {
        "runs": 3,
        "checkpoints": 2,
        "results": 7,
        "records": 2,
    }
    assert json.loads(json.dumps(verification.to_json()))["whole"] is True


def hashed_files(study: Path) -> list[Path]:
    """Files whose bytes are results or checkpoints: all but records, times and the store's own notes."""
    others = ("timing.json", "demo.json")
    return [
        path
        for path in sorted(study.rglob("*"))
        if path.is_file() and path.name not in others and path.parent.name not in ("failures", "test-openings")
    ]


def test_no_flipped_bit_and_no_truncation_is_silent(study):
    """100 flips and 20 truncations in each kind of our files: named, or without any consequence for what is read."""
    rng, files = random.Random(3), hashed_files(study)
    kinds = sorted({"manifest" if path.name == "manifest.json" else path.suffix for path in files})
    assert kinds == [".bin", ".csv", ".html", ".json", ".svg", "manifest"]
    for kind in kinds:
        mine = [path for path in files if (path.name == "manifest.json") == (kind == "manifest")]
        mine = [path for path in mine if kind in ("manifest", path.suffix)]
        for trial in range(120):
            path = rng.choice(mine)
            data = path.read_bytes()
            path.write_bytes(damaged(data, rng, truncate=trial >= 100))
            problems = verify_study(study).problems
            assert problems or (kind == "manifest" and trial < 100), path
            if not problems:  # white space, or a name of no meaning: what the manifest lists is the same
                damaged_manifest, good = json.loads(path.read_bytes()), json.loads(data)
                assert damaged_manifest["files"].keys() == good["files"].keys()
                assert {n: e["sha256"] for n, e in damaged_manifest["files"].items()} == {
                    n: e["sha256"] for n, e in good["files"].items()
                }
            path.write_bytes(data)
    assert verify_study(study).findings == []


def damaged(data: bytes, rng: random.Random, truncate: bool) -> bytes:
    if truncate:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(
    "where",
    ["runs/{0}/curve.bin", "runs/{0}/manifest.json", "rankings/held-out/full-12345678/ranking.csv", "results.csv"],
)
def test_a_missing_file_is_named(study, where):
    path = where.format(toy_spec(0).key)
    (study / path).unlink()
    assert found(study) == [("missing", path)]


def test_a_run_that_others_were_made_from_is_missed(study):
    shutil.rmtree(study / "runs" / toy_spec(0).key)
    assert found(study) == [("missing", f"runs/{toy_spec(0).key}")]
    (study / "runs" / toy_spec(1).key / "extra").touch()
    assert ("extra", f"runs/{toy_spec(1).key}/extra") in found(study)


def test_another_runs_folder_under_a_runs_name_is_corrupt(study):
    one, other = (study / "runs" / toy_spec(seed).key for seed in (0, 1))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    assert found(study) == [("corrupt", f"runs/{one.name}")]


def test_records_must_be_readable(study):
    key = toy_spec(4).key
    (study / "runs" / "failures" / f"{key}.json").write_text("{")
    assert found(study) == [("corrupt", f"runs/failures/{key}.json")]


def test_what_dead_processes_left_is_orphaned_and_no_problem(study):
    names = [f"runs/{toy_study.dead_name()}", f"report/figures/{toy_study.dead_name()}", toy_study.foreign_name()]
    for name in names:
        (study / name).touch()
    lease = toy_study.forge_lease(study, 0)
    toy_study.forge_lease(study, 1, boot="another")
    (study / "runs" / f"{toy_spec(0).key}.work").mkdir()
    aside = study / "runs" / f".corrupt-{toy_spec(5).key}-12345678"
    aside.mkdir()
    kinds = dict((path, kind) for kind, path in found(study))
    assert {kinds.pop(name) for name in names} == {"orphaned"}
    assert kinds.pop(lease.relative_to(study).as_posix()) == kinds.pop(f"runs/{toy_spec(0).key}.work") == "orphaned"
    assert kinds.pop(aside.relative_to(study).as_posix()) == "set aside"
    assert list(kinds.values()) == ["orphaned"]  # the lease of another boot
    assert verify_study(study).problems == []


def test_what_living_processes_are_at_is_no_finding(study):
    store = toy_study.RunStore(study / "runs")
    (study / toy_study.temporary_name()).touch()
    with store.lock(toy_spec(3).key):
        assert found(study) == []


def test_foreign_names_are_told_and_no_problem(study):
    for name in ("notes.txt", "runs/notes.txt", "report/notes.txt"):
        (study / name).write_text("mine")
    assert sorted(found(study)) == [("foreign", name) for name in ("notes.txt", "report/notes.txt", "runs/notes.txt")]


def test_what_a_command_was_writing_is_unfinished_not_corrupt(study):
    with pytest.raises(KeyboardInterrupt), sealed_files(study / "report"):
        write_bytes(study / "report" / "index.html", b"new")
        raise KeyboardInterrupt
    assert found(study) == [("unfinished", "report/index.html")]
    make_study(study)
    assert found(study) == []


def test_results_of_an_older_version_are_told(study):
    (study / "rankings" / "held-out" / "full-12345678" / "manifest.json").unlink()
    assert found(study) == [("unfinished", "rankings/held-out/full-12345678")]


def test_what_is_no_study_is_refused(tmp_path):
    for name in ("nothing", "empty", "other"):
        if name != "nothing":
            (tmp_path / name).mkdir()
        if name == "other":
            (tmp_path / name / "runs").mkdir()
            (tmp_path / name / "runs" / "tensorboard").touch()
        with pytest.raises(UsageError, match="study"):
            verify_study(tmp_path / name)


def test_progress_is_said(study, monkeypatch):
    monkeypatch.setattr("sessionwise.runs.verify._SAY_EVERY_S", 0.0)
    said: list[str] = []
    verify_study(study, said.append)
    assert said[0].startswith("checked 1 of 3 runs") and len(said) > 5


def test_a_link_to_elsewhere_is_not_followed_out_of_the_study(study, tmp_path):
    """A file of a run that became a link is read as the file it points to, and judged by its hash."""
    target = study / "runs" / toy_spec(0).key / "curve.bin"
    os.rename(target, tmp_path / "moved.bin")
    target.symlink_to(tmp_path / "moved.bin")
    assert found(study) == []
    (tmp_path / "moved.bin").write_bytes(b"changed")
    assert [kind for kind, _ in found(study)] == ["corrupt"]
