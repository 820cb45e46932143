"""The plain way of the import's benchmark does with the bytes what it says, and its parts are found in the library."""

import hashlib

import importing
import numpy as np
import pytest

from sessionwise.data.store import open_store


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(importing, "BINS", 10)
    monkeypatch.setattr(importing, "UNITS", 20)
    monkeypatch.setattr(importing, "WARM_BYTES", 1)


def test_the_plain_way_copies_whole_files_under_their_hash(tmp_path, small):
    paths = importing.recordings(tmp_path, 12)["uint8"]
    importing.plain(paths, tmp_path / "new")
    contents = [path.read_bytes() for path in paths]
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == {
        hashlib.sha256(content).hexdigest(): content for content in contents
    }


def test_both_kinds_stay_what_they_are_and_every_part_is_seen(tmp_path, small):
    for kind, paths in importing.recordings(tmp_path, 12).items():
        with importing.clocks() as clock:
            importing.imported(paths, tmp_path / f"store-{kind}")
        assert {part for part, _ in clock} == {part for part, _, _ in importing.PARTS}
        store = open_store(tmp_path / f"store-{kind}")
        assert {store.session(i).counts.dtype for i in store} == {np.dtype(kind)}


def test_the_tables_show_every_figure(tmp_path, small):
    found = importing.measure(importing.recordings(tmp_path, 12), tmp_path, 1)
    found["compressed"] = importing.compressed(tmp_path, 36)
    text = importing.tables(found)
    for kind, one in found["kinds"].items():
        assert f"| {kind} | {one['files']} | 0 |" in text and f"{one['ratio']:.2f} (" in text
    assert all(f"| {part} |" in text for part, _, _ in importing.PARTS) and "{" not in text
