"""Files: transient errors of a disk, whose temporary names are, sealed files and what their manifest says."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import pytest

from sessionwise.errors import EXIT_ENVIRONMENT, DataError, EnvironmentProblem, IntegrityError, SessionwiseWarning
from sessionwise.io import files
from sessionwise.io.files import (
    drop_sealed,
    read_sealed,
    sealed_files,
    sealed_manifest,
    sha256_bytes,
    staged_folder,
    temporary_name,
    temporary_owner_lives,
    verify_folder,
    write_bytes,
    write_json,
)
from sessionwise.io.process import lives, start_time, this_process


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries, without waiting."""
    found: list[float] = []
    monkeypatch.setattr(files, "_sleep", found.append)
    return found


def fail(monkeypatch: pytest.MonkeyPatch, name: str, code: int, times: int, at: int = 1) -> None:
    """Make the calls of ``os.name`` fail, ``times`` of them from the ``at``-th on."""
    real, calls = getattr(os, name), [0]

    def function(*arguments: object, **options: object) -> object:
        calls[0] += 1
        if at <= calls[0] < at + times:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(files.os, name, function)


def commit(final: Path) -> None:
    with staged_folder(final, {"run": "x"}) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "plain.bin").write_bytes(b"plain")
        write_bytes(folder / "whole.bin", b"whole")


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EINTR])
@pytest.mark.parametrize(("name", "count"), [("fsync", 10), ("replace", 2), ("rename", 1)])
def test_a_commit_survives_any_one_transient_error(tmp_path, monkeypatch, waits, code, name, count):
    for at in range(1, count + 1):
        with monkeypatch.context() as patch:
            fail(patch, name, code, times=1, at=at)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                commit(tmp_path / str(at))
        assert verify_folder(tmp_path / str(at))["files"].keys() == {"inner/plain.bin", "whole.bin"}
        again = [one for one in said if issubclass(one.category, SessionwiseWarning)]
        assert len(again) == len(waits) <= 1
        waits.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(1, count + 1)))


@pytest.mark.parametrize("name", ["fsync", "replace", "rename"])
def test_a_lasting_error_is_one_line_after_three_more_tries(tmp_path, monkeypatch, waits, name):
    fail(monkeypatch, name, errno.EIO, times=10**6)
    with pytest.warns(SessionwiseWarning, match="trying again"), pytest.raises(EnvironmentProblem) as caught:
        commit(tmp_path / "final")
    assert caught.value.exit_code == EXIT_ENVIRONMENT and "\n" not in str(caught.value)
    assert waits == [1.0, 5.0, 25.0] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("name", ["fsync", "replace", "rename"])
def test_a_full_or_forbidden_disk_is_said_at_once(tmp_path, monkeypatch, waits, name, code):
    fail(monkeypatch, name, code, times=10**6)
    with pytest.raises(EnvironmentProblem, match="free"):
        commit(tmp_path / "final")
    assert waits == [] and list(tmp_path.iterdir()) == []


def test_what_a_failed_flush_may_have_lost_is_written_again(tmp_path, monkeypatch, waits):
    """After an error the next flush of the same file says that all is well, whatever is on the disk."""
    fail(
        monkeypatch, "fsync", errno.EIO, times=1, at=3
    )  # 1, 2: of whole.bin; 3: of inner/plain.bin, which we did not write
    before: list[int] = []
    with staged_folder(tmp_path / "final") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "plain.bin").write_bytes(b"plain")
        write_bytes(folder / "whole.bin", b"whole")
        before.append((folder / "inner" / "plain.bin").stat().st_ino)
    after = tmp_path / "final" / "inner" / "plain.bin"
    assert after.read_bytes() == b"plain" and after.stat().st_ino != before[0]


def test_a_rename_whose_answer_was_lost_is_one_that_happened(tmp_path, monkeypatch, waits):
    real, calls = os.rename, []

    def rename(*arguments: object) -> None:
        calls.append(arguments)
        real(*arguments)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(files.os, "rename", rename)
    with pytest.warns(SessionwiseWarning, match="trying again"):
        commit(tmp_path / "final")
    assert len(calls) == 2 and verify_folder(tmp_path / "final")


def test_a_temporary_name_tells_whether_its_process_lives(monkeypatch):
    mine, own = temporary_name(), this_process()
    assert temporary_owner_lives(mine) is True and temporary_name() != mine
    started = str(own.started or 0)
    assert temporary_owner_lives(mine.replace(f"-{own.pid}-", "-4194303-")) is False
    if own.started is not None:
        assert temporary_owner_lives(mine.replace(f"-{started}-", "-1-")) is False  # the number was used again
    assert temporary_owner_lives(mine.replace(own.place, "00000000")) is None
    for name in (".tmp-host-1-abc", ".tmp-", "notes", f"x{mine}"):
        assert temporary_owner_lives(name) is None
    monkeypatch.setattr("sessionwise.io.process.os.kill", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert lives(1, start_time(1)) in (True, None)


# ---- sealed files --------------------------------------------------------------------------------


def test_sealed_files_are_listed_with_size_and_hash(tmp_path):
    with sealed_files(tmp_path / "new"):
        write_bytes(tmp_path / "new" / "a", b"one")
        (tmp_path / "new" / "sub").mkdir()
        write_json(tmp_path / "new" / "sub" / "b.json", {})
        write_bytes(tmp_path / "outside", b"")
        assert sealed_manifest(tmp_path / "new") == {"files": {}, "state": "writing"}
    found = sealed_manifest(tmp_path / "new")
    assert found["state"] == "whole" and list(found["files"]) == ["a", "sub/b.json"]
    assert found["files"]["a"] == {"bytes": 3, "sha256": sha256_bytes(b"one")}


@pytest.mark.parametrize("keep", [True, False])
def test_what_was_sealed_before_stays_on_request(tmp_path, keep):
    for name in ("a", "b"):
        with sealed_files(tmp_path, keep=keep):
            write_bytes(tmp_path / name, name.encode())
    assert set(sealed_manifest(tmp_path)["files"]) == ({"a", "b"} if keep else {"b"})
    drop_sealed(tmp_path / "b")
    assert "b" not in sealed_manifest(tmp_path)["files"] and not (tmp_path / "b").exists()
    drop_sealed(tmp_path / "b")


def test_an_error_leaves_the_manifest_at_writing(tmp_path):
    with sealed_files(tmp_path):
        write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ValueError, match="middle"), sealed_files(tmp_path):
        write_bytes(tmp_path / "a", b"new")
        raise ValueError("in the middle")
    found = sealed_manifest(tmp_path)
    assert found["state"] == "writing" and found["files"]["a"]["sha256"] == sha256_bytes(b"old")
    with sealed_files(tmp_path / "other"):
        write_bytes(tmp_path / "a", b"not of this folder")
    assert sealed_manifest(tmp_path / "other")["files"] == {}


def test_a_block_inside_a_block_adds_to_the_outer_one(tmp_path):
    with sealed_files(tmp_path):
        with sealed_files(tmp_path / "inner"):
            (tmp_path / "inner").mkdir()
            write_bytes(tmp_path / "inner" / "a", b"")
    assert list(sealed_manifest(tmp_path)["files"]) == ["inner/a"] and sealed_manifest(tmp_path / "inner") is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 1, "state": "whole"}', '{"files": {"a": {}}, "state": "whole"}']
)
def test_what_is_no_manifest_is_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert sealed_manifest(tmp_path) is None
    with sealed_files(tmp_path, keep=True):
        write_bytes(tmp_path / "a", b"")
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["a"]


def test_a_sealed_file_is_compared_when_it_is_read(tmp_path):
    with sealed_files(tmp_path):
        write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "free.json", {"y": 1})
    assert read_sealed(tmp_path / "a.json") == {"x": 1} and read_sealed(tmp_path / "free.json") == {"y": 1}
    good = (tmp_path / "a.json").read_bytes()
    for damaged in (good.replace(b"1", b"3"), good[:-3], b""):
        (tmp_path / "a.json").write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"a\.json: SHA-256 is .* as recorded"):
            read_sealed(tmp_path / "a.json")
    (tmp_path / "a.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_sealed(tmp_path / "a.json")
    with pytest.raises(ValueError, match="middle"), sealed_files(tmp_path, keep=True):
        write_json(tmp_path / "a.json", {"x": 2})
        raise ValueError("in the middle")
    assert read_sealed(tmp_path / "a.json") == {"x": 2}  # old or new: the manifest does not know yet
