"""Which code this is: a release, or a commit with or without changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sessionwise import __version__
from sessionwise.io import code
from sessionwise.io.code import code_version


def git(folder: Path, *arguments: str) -> str:
    about = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *about, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_release_has_no_commit(tmp_path: Path) -> None:
    assert code_version(tmp_path / "package") == {"version": __version__, "commit": None, "dirty": None}


def test_a_checkout_has_a_commit_and_is_dirty_when_its_sources_are(tmp_path: Path) -> None:
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").write_text("not a source")
    clean = code_version(package)
    assert clean == {"version": __version__, "commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (package / "a.py").write_text("a = 2")
    code_version.cache_clear()
    assert code_version(package) == {**clean, "dirty": True}


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(code, "_git", lambda *_: None)
    assert code_version(tmp_path / "package")["commit"] is None
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert code_version(tmp_path / "other")["commit"] is None
