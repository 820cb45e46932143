"""Imports are all or nothing, say what they do, and do it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.data import importing
from sessionwise.data.importing import import_files, import_to
from sessionwise.data.session import Session
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.errors import DataError, EnvironmentProblem, Problems, UsageError


def saved(folder: Path, name: str, seed: int = 0, **arrays: Any) -> Path:
    counts = np.random.default_rng(seed).poisson(1.0, (12, 10, 3)).astype(np.uint8)
    np.savez(folder / f"{name}.npz", **{"counts": counts, "bin_ms": 20, "t0_ms": 0, **arrays})
    return folder / f"{name}.npz"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [saved(tmp_path, name, seed) for seed, name in enumerate("abc")]


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return create_store(tmp_path / "store")


def test_files_become_sessions(files: list[Path], store: SessionStore) -> None:
    lines: list[str] = []
    summary = import_files(files, store, say=lines.append)
    assert summary.added == ("a", "b", "c") == store.ids == open_store(store.path).ids
    assert lines[0] == "format npz, by content: 3 recordings"
    assert len(lines) == 4 and lines[2].startswith("[2/3] b.npz: session 'b', 12 trials, 10 bins, 3 units")
    source = open_store(store.path).info("a").source
    assert source["file"] == "a.npz" and len(source["sha256"]) == 64


def test_importing_again_changes_nothing_and_says_so(files: list[Path], store: SessionStore) -> None:
    import_files(files[:2], store)
    before = {p: p.stat().st_mtime_ns for p in store.path.rglob("*")}
    lines: list[str] = []
    summary = import_files([files[0], files[0]], store, say=lines.append)
    assert summary.added == () and summary.unchanged == ("a", "a")
    assert all("already there with the same content" in line for line in lines[1:])
    assert {p: p.stat().st_mtime_ns for p in store.path.rglob("*")} == before
    assert import_files(files, store).added == ("c",)


def test_the_same_file_twice_in_one_import(files: list[Path], store: SessionStore) -> None:
    summary = import_files([files[0], files[0]], store)
    assert (summary.added, summary.unchanged) == (("a",), ("a",))


def test_one_bad_file_and_nothing_is_imported(files: list[Path], store: SessionStore, tmp_path: Path) -> None:
    bad = saved(tmp_path, "bad", counts=-np.ones((12, 10, 3)))
    (tmp_path / "empty.npz").touch()
    with pytest.raises(Problems) as caught:
        import_files([files[0], bad, tmp_path / "empty.npz", files[1]], store)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and caught.value.exit_code == 3
    assert (
        lines[0].startswith(f"{bad}, session 'bad': 360 negative counts, first at trial 0") and "is empty" in lines[1]
    )
    assert [p.name for p in store.path.iterdir()] == ["store.json"] and len(store) == 0


def test_bad_files_are_left_out_when_asked(files: list[Path], store: SessionStore, tmp_path: Path) -> None:
    summary = import_files([files[0], tmp_path / "none.npz", files[1]], store, skip_bad=True)
    assert summary.added == ("a", "b")
    ((path, problem),) = summary.skipped
    assert path.endswith("none.npz") and "does not exist" in str(problem)
    with pytest.raises(DataError, match="does not exist"):
        import_files([tmp_path / "none.npz"], store, skip_bad=True)


def test_d37_one_id_for_two_recordings(tmp_path: Path, store: SessionStore) -> None:
    first, second = saved(tmp_path, "x", 1, id="S"), saved(tmp_path, "y", 2, id="S")
    with pytest.raises(DataError, match=r"y\.npz, session 'S': another recording has this id already \(x\.npz in"):
        import_files([first, second], store)
    import_files([first], store)
    with pytest.raises(DataError, match=r"y\.npz, session 'S': another recording has this id already \(x\.npz in"):
        import_files([second], store)


def test_d36_one_recording_under_two_ids_is_named(tmp_path: Path, store: SessionStore) -> None:
    lines: list[str] = []
    import_files([saved(tmp_path, "x", 1), saved(tmp_path, "x_aligned", 1)], store, say=lines.append)
    text = "12 of 12 trials are identical to trials of session 'x': the same recording under another id?"
    assert sum(text in line for line in lines) == 1
    again: list[str] = []
    import_files([saved(tmp_path, "third", 1)], store, say=again.append)
    assert sum("12 of 12 trials" in line for line in again) == 2


def test_sessions_of_one_import_share_bins_and_window(files: list[Path], store: SessionStore, tmp_path: Path) -> None:
    fine = saved(tmp_path, "fine", 9, bin_ms=10, counts=np.random.default_rng(1).poisson(1, (12, 30, 3)), t0_ms=-100)
    with pytest.raises(DataError) as caught:
        import_files([files[0], fine], store)
    assert caught.value.remedy.endswith(f"import {fine} --to {store.path} --bin-ms 20 --window 0,0.2")
    assert import_files([files[0], fine], store, bin_ms=20, window_s=(0, 0.2)).added == ("a", "fine")


def test_the_command_for_unequal_sessions_starts_from_the_file(files: list[Path], store: SessionStore) -> None:
    import_files(files[:1], store)
    with pytest.raises(DataError) as caught:
        import_files(files[1:2], store, window_s=(0, 0.1))
    assert caught.value.remedy.endswith("--bin-ms 20 --window 0,0.2")


def test_notes_that_repeat_are_said_once_and_counted(tmp_path: Path, store: SessionStore) -> None:
    paths = []
    for seed, name in enumerate("abc"):
        np.savez(tmp_path / name, counts=np.random.default_rng(seed).poisson(1.0, (12, 4, 3)), bin_ms=20)
        paths.append(tmp_path / f"{name}.npz")
    lines: list[str] = []
    import_files(paths, store, say=lines.append)
    about = [line for line in lines if "t0_ms" in line]
    assert len(about) == 2 and about[1].startswith("note for 3 files:")


def test_a_full_disk_stops_the_import_and_leaves_nothing(
    files: list[Path], store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = importing.staged_session, []

    def full(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise EnvironmentProblem("disk", "is full")
        return real(*arguments)

    monkeypatch.setattr(importing, "staged_session", full)
    with pytest.raises(EnvironmentProblem, match="is full"):
        import_files(files, store, skip_bad=True)
    assert [p.name for p in store.path.iterdir()] == ["store.json"]


def test_a_disk_that_is_full_while_the_next_file_is_read(
    files: list[Path], store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importing.staged_session

    @contextmanager
    def full(session: Session, final: Path) -> Iterator[None]:
        with real(session, final):
            if session.id == "b":
                raise EnvironmentProblem("disk", "is full")
            yield

    monkeypatch.setattr(importing, "staged_session", full)
    for last in ([files[2]], [files[0].parent / "none.npz"], []):
        with pytest.raises(EnvironmentProblem, match="is full"):
            import_files([*files[:2], *last], store, skip_bad=True)
        assert [p.name for p in store.path.iterdir()] == ["store.json"] and store.ids == ()


def test_what_is_said_is_in_the_order_of_the_files(files: list[Path], store: SessionStore, tmp_path: Path) -> None:
    bad = saved(tmp_path, "bad", counts=-np.ones((12, 10, 3)))
    lines: list[str] = []
    import_files([files[0], bad, files[0], files[1]], store, skip_bad=True, say=lines.append)
    assert [line.split(":")[0] for line in lines[1:]] == ["[1/4] a.npz", "[2/4] bad.npz", "[3/4] a.npz", "[4/4] b.npz"]


def test_an_import_that_fails_leaves_no_new_store(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(DataError):
        import_to(tmp_path / "new", [files[0], tmp_path / "none.npz"])
    assert not (tmp_path / "new").exists()
    store, summary = import_to(tmp_path / "new", files)
    assert summary.added == store.ids
    with pytest.raises(DataError):
        import_to(tmp_path / "new", [tmp_path / "none.npz"])
    assert open_store(tmp_path / "new").ids == store.ids


def test_wrong_arguments(store: SessionStore, files: list[Path]) -> None:
    with pytest.raises(UsageError, match="no files are named"):
        import_files([], store)
    with pytest.raises(UsageError, match="'mwb' is unknown; need npz"):
        import_files(files, store, format="mwb")
    with pytest.raises(DataError, match="cannot be joined to 30 ms"):
        import_files(files[:1], store, bin_ms=30)


def test_hostile_ids_stay_inside_the_store(tmp_path: Path, store: SessionStore) -> None:
    ids = ["../../x", "/abs", "\u202egnp", "<script>", "a\u0301", "\u00e1", "A", "a", "a "]
    paths = [saved(tmp_path, f"f{i}", i, id=np.array([id])) for i, id in enumerate(ids)]
    outside = sorted(p for p in tmp_path.rglob("*") if store.path not in p.parents)
    import_files(paths, store)
    assert sorted(p for p in tmp_path.rglob("*") if store.path not in p.parents) == outside
    assert set(open_store(store.path).ids) == set(ids)
