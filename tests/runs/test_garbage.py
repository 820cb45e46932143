"""Removal of leftovers: only what is ours and dead, in a study full of strange files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import toy_study
from toy_committer import toy_spec
from toy_study import make_study, tree

from sessionwise.errors import UsageError
from sessionwise.io.files import temporary_owner_lives, write_json
from sessionwise.runs.garbage import collect_garbage
from sessionwise.runs.verify import verify_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study in which nothing is wrong."""
    folder = tmp_path / "study"
    make_study(folder)
    (folder / "runs" / ".locks").mkdir()
    return folder


def strangers(study: Path) -> list[Path]:
    """Names that look almost like ours, at every level."""
    key, own = toy_spec(0).key, toy_study.temporary_name()
    names = [
        ".tmp-",
        ".tmp-host-1-abc",
        ".tmp-notes.txt",
        "tmp",
        own,
        toy_study.foreign_name(),
        f"x{own}",
        ".corrupt-x",
    ]
    names += [f".corrupt-{key}", f".corrupt-{key}-1234567g", f"{key}.work.bak", f"{key[:-1]}.work", "ä\n.tmp-", "-rf"]
    places = [study, study / "runs", study / "runs" / ".locks", study / "rankings", study / "mine"]
    (study / "mine").mkdir()
    made = []
    for place in places:
        for name in names:
            (place / name).write_text("precious")
            made.append(place / name)
    (study / "link").symlink_to(study.parent / "outside")
    return [*made, study / "link"]


def leave(study: Path) -> list[Path]:
    """What dead processes of this host left."""
    dead = [study, study / "runs", study / "runs" / ".locks", study / "rankings" / "held-out", study / "report"]
    made = [place / toy_study.dead_name() for place in dead]
    for number, path in enumerate(made):
        path.mkdir() if number % 2 else path.write_text("x" * 100)
        if path.is_dir():
            (path / "half").write_text("x" * 50)
            (path / toy_study.dead_name()).touch()
    work = study / "runs" / f"{toy_spec(0).key}.work"
    work.mkdir()
    (work / "state").write_text("x" * 10)
    record = study / "runs" / "failures" / f"{toy_spec(1).key}.json"
    toy_study.RunStore(study / "runs").record_failure(toy_spec(1), "out of ideas")
    return [*made, work, record, toy_study.forge_lease(study, 6)]


def test_only_what_is_ours_and_dead_goes(study):
    outside = study.parent / "outside"
    outside.mkdir()
    (outside / toy_study.dead_name()).touch()
    strange, before = strangers(study), tree(study)
    left = leave(study)
    shown = list(collect_garbage(study, dry_run=True))
    assert tree(study).keys() > before.keys()
    removed = list(collect_garbage(study))
    assert [(one.kind, one.path, one.bytes, one.kept) for one in shown] == [
        (one.kind, one.path, one.bytes, one.kept) for one in removed
    ]
    assert sorted(one.path for one in removed if not one.kept) == sorted(left)
    assert {one.path: one.bytes for one in removed}[left[0]] == 100
    assert tree(study) == before and all(os.path.lexists(path) for path in strange)
    assert len(list(outside.iterdir())) == 1
    assert [one for one in collect_garbage(study) if not one.kept] == []
    foreign = [one.path for one in collect_garbage(study, elsewhere=True, corrupt=True) if not one.kept]
    assert len(foreign) == 5 and {temporary_owner_lives(path.name) for path in foreign} == {None}
    assert tree(study).keys() == before.keys() - {path.relative_to(study).as_posix() for path in foreign}


def test_what_stays_says_why(study):
    aside = study / "runs" / f".corrupt-{toy_spec(5).key}-12345678"
    aside.mkdir()
    (study / toy_study.foreign_name()).touch()
    lease = toy_study.forge_lease(study, 6, boot="another")
    kept = {one.path: one.kept or "" for one in collect_garbage(study)}
    assert "--corrupt" in kept[aside] and "takes it over" in kept[lease] and len(kept) == 3
    assert [one.path for one in collect_garbage(study, corrupt=True) if not one.kept] == [aside]
    (gone,) = [one.path for one in collect_garbage(study, elsewhere=True) if not one.kept]
    assert gone.name.startswith(".tmp-") and lease.exists() and not aside.exists()


def test_tasks_of_a_cluster_go_when_all_their_runs_are_stored_and_each_has_ended(study):
    def array(name: str, seeds: list[list[int]], ended: int) -> Path:
        folder = study / "runs" / ".slurm" / name
        (folder / "jobs").mkdir(parents=True)
        write_json(folder / "array.json", {"tasks": [[toy_spec(seed).key for seed in task] for task in seeds]})
        for task in range(ended):
            (folder / "jobs" / f"7_{task}_0_result.pkl").touch()
        return folder

    over = array("over", [[0], [1]], 2)
    array("ending", [[0], [1]], 1)
    array("a run is missing", [[0], [6]], 2)
    (study / "runs" / ".slurm" / "odd").mkdir()
    assert [(one.kind, one.path, one.kept) for one in collect_garbage(study)] == [("tasks", over, None)]
    assert not over.exists() and len(list((study / "runs" / ".slurm").iterdir())) == 3


def test_a_run_under_way_keeps_its_checkpoints_and_so_does_one_whose_result_is_damaged(study):
    store, key = toy_study.RunStore(study / "runs"), toy_spec(0).key
    (study / "runs" / f"{key}.work").mkdir()
    with store.lock(key):
        assert list(collect_garbage(study)) == []
    (study / "runs" / key / "curve.bin").write_bytes(b"damaged")
    (one,) = collect_garbage(study)
    assert one.kept and "does not verify" in one.kept and one.path.exists()
    assert (study / "runs" / key).exists()


def test_a_study_is_whole_before_and_after(study):
    leave(study)
    assert {finding.kind for finding in verify_study(study).findings} == {"orphaned"}
    list(collect_garbage(study))
    assert verify_study(study).findings == []


def test_a_store_of_sessions_and_other_folders(tmp_path):
    with pytest.raises(UsageError, match="store"):
        list(collect_garbage(tmp_path))
    (tmp_path / "store.json").write_text("{}")
    (tmp_path / toy_study.dead_name()).mkdir()
    assert [one.kind for one in collect_garbage(tmp_path)] == ["temporary"]
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]
