"""Every bad npy and npz file is refused with what it is instead (bad inputs D19-D25, D33, D34)."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sessionwise.errors import DataError, IntegrityError, SessionwiseError
from sessionwise.io import arrays
from sessionwise.io.arrays import (
    human_bytes,
    npy_sha256,
    npz_names,
    read_npy,
    read_npz,
    unchanged_snapshot,
    unchanged_source,
    write_npy,
)
from sessionwise.io.files import sha256_bytes

COUNTS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def npy_header(text: str) -> bytes:
    body = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names are meant
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
    return path


def refused(path: Path, *words: str, read=read_npz) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mmap", [False, True])
def test_npy_round_trip(tmp_path: Path, mmap: bool) -> None:
    write_npy(tmp_path / "a.npy", COUNTS)
    back = read_npy(tmp_path / "a.npy", mmap=mmap)
    assert type(back) is np.ndarray
    assert back.dtype == COUNTS.dtype and (back == COUNTS).all()
    assert not mmap or not back.flags.writeable


def test_what_is_mapped_is_not_loaded(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", COUNTS)
    base = read_npy(tmp_path / "a.npy", mmap=True)
    assert isinstance(base.base, np.memmap)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", ">u2", "<i8", ">f4", "f2", "?", "<U3"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_any_plain_array_survives_npz(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, fortran: bool
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    array = np.asfortranarray(array) if fortran else array
    np.savez_compressed(path, x=array)
    back = read_npz(path)["x"]
    assert back.shape == array.shape and back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_only_named_arrays_are_read(tmp_path: Path) -> None:
    bad = np.array([{}], dtype=object)
    np.savez(tmp_path / "a.npz", counts=COUNTS, bad=bad)
    assert list(read_npz(tmp_path / "a.npz", ["counts"])) == ["counts"]
    assert npz_names(tmp_path / "a.npz") == ["bad", "counts"]
    with pytest.raises(DataError, match=r"has no array 'rates'.*bad, counts"):
        read_npz(tmp_path / "a.npz", ["rates"])


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_missing_folder_and_empty_files(tmp_path: Path, read) -> None:
    refused(tmp_path / "none.npz", "does not exist", read=read)
    refused(tmp_path, "is a folder", "*.npz", read=read)
    (tmp_path / "empty.npz").touch()
    refused(tmp_path / "empty.npz", "is empty (0 bytes)", "download", read=read)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone")
    refused(tmp_path / "link.npz", "broken link")
    with pytest.raises(DataError, match="null"):
        read_npz("a\0b.npz")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_permission_denied(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", COUNTS)
    (tmp_path / "a.npz").chmod(0)
    refused(tmp_path / "a.npz", "Permission denied")


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    for name, read, save in (("a.npz", read_npz, np.savez), ("a.npy", read_npy, np.save)):
        path = tmp_path / name
        save(path, np.arange(1000))
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])
        refused(path, "truncated", read=read)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"\n <HTML>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\x80\x04K\x01.", "a pickle, which could run code"),
        (b"MATLAB 5.0 MAT-file", "a MATLAB file"),
        (b"nonsense", "of unknown kind"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, head: bytes, says: str) -> None:
    (tmp_path / "a.npz").write_bytes(head)
    refused(tmp_path / "a.npz", says, "need an npz file")
    refused(tmp_path / "a.npz", says, "need an npy file", read=read_npy)


def test_npy_and_npz_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npy_bytes(COUNTS))
    refused(tmp_path / "a.npz", "a single npy array")
    zipped(tmp_path / "b.npy", [("x.npy", npy_bytes(COUNTS))])
    refused(tmp_path / "b.npy", "a zip archive", read=read_npy)


def test_object_arrays_never_run_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    array = np.array([Hostile()], dtype=object)
    np.savez(tmp_path / "a.npz", counts=array)
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npz", "holds Python objects", "could run code", "'counts'")
    refused(tmp_path / "a.npy", "holds Python objects", read=read_npy)
    assert not canary.exists()


def test_structured_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(2, [("a", "i4"), ("b", "f8")]))
    refused(tmp_path / "a.npy", "one array a column", read=read_npy)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("(1125899906842624,)", "declares 9.01 PB"),
        ("(4611686018427387904, 4)", "declares"),
        ("(-1, 8)", "declares the shape (-1, 8)"),
        ("(2, 3)", "stores"),
        ("(1000,)", "truncated"),
        ("'many'", "broken npy header"),
        ("(True + 1,)", "broken npy header"),
    ],
)
def test_absurd_shapes_are_refused_before_anything_is_allocated(tmp_path: Path, shape: str, says: str) -> None:
    data = npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}") + bytes(64)
    (tmp_path / "a.npy").write_bytes(data)
    zipped(tmp_path / "a.npz", [("counts.npy", data)])
    refused(tmp_path / "a.npy", says, read=read_npy)
    refused(tmp_path / "a.npy", says, read=lambda path: read_npy(path, mmap=True))
    refused(tmp_path / "a.npz", says, "'counts'")


def test_endless_empty_text_is_refused(tmp_path: Path) -> None:
    data = npy_header("{'descr': '<U0', 'fortran_order': False, 'shape': (4611686018427387904,), }")
    (tmp_path / "a.npy").write_bytes(data)
    refused(tmp_path / "a.npy", "declares the shape", read=read_npy)


def test_header_that_would_run_code_is_only_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header("__import__('os').abort()"))
    refused(tmp_path / "a.npy", "broken npy header", read=read_npy)


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BOMB_FLOOR_BYTES", 10_000)
    zipped(tmp_path / "a.npz", [("counts.npy", npy_bytes(np.zeros(100_000, np.uint8)))])
    refused(tmp_path / "a.npz", "member 'counts.npy' declares 100 kB", "stored", "at most 100x above 10 kB")
    monkeypatch.setattr(arrays, "BOMB_FLOOR_BYTES", 10**6)
    assert read_npz(tmp_path / "a.npz")["counts"].shape == (100_000,)
    monkeypatch.setattr(arrays, "MAX_ARCHIVE_BYTES", 50_000)
    refused(tmp_path / "a.npz", "declares 100 kB")


def test_many_small_members_are_a_bomb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BOMB_FLOOR_BYTES", 30_000)
    member = npy_bytes(np.zeros(20_000, np.uint8))
    zipped(tmp_path / "a.npz", [(f"m{i}.npy", member) for i in range(2)])
    monkeypatch.setattr(arrays, "BOMB_RATIO", 40)
    refused(tmp_path / "a.npz", "all members together")


def test_sizes_that_the_archive_lies_about(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", [("counts.npy", npy_bytes(np.zeros(1000, np.uint8)))])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    data[at : at + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(bytes(data))
    refused(path)


def test_duplicate_members(tmp_path: Path) -> None:
    member = npy_bytes(COUNTS)
    zipped(tmp_path / "a.npz", [("counts.npy", member), ("counts.npy", member)])
    refused(tmp_path / "a.npz", "two members 'counts'")


def test_nested_and_foreign_members(tmp_path: Path) -> None:
    zipped(tmp_path / "a.npz", [("inner.npz", b"PK\x03\x04")])
    refused(tmp_path / "a.npz", "'inner.npz'", "is no npy array")
    zipped(tmp_path / "b.npz", [("counts.npy", npy_bytes(COUNTS))], zipfile.ZIP_LZMA)
    refused(tmp_path / "b.npz", "compressed by method 14")


def test_encrypted_members(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", [("counts.npy", npy_bytes(COUNTS))])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    refused(path, "is encrypted")


def test_flipped_bits_are_never_silent(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez_compressed(path, counts=rng.poisson(1.0, (20, 20)).astype(np.uint8))
    whole, want = path.read_bytes(), read_npz(path)["counts"]
    for at in rng.integers(0, len(whole) * 8, 200):
        data = bytearray(whole)
        data[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(data))
        try:
            found = read_npz(path)
        except SessionwiseError:
            continue
        assert "counts" not in found or np.array_equal(found["counts"], want)


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, counts=COUNTS)
    with unchanged_source(path) as sha256:
        assert len(sha256) == 64
    with pytest.raises(IntegrityError, match="changed while being read"), unchanged_source(path):
        np.savez(path, counts=COUNTS + 1)
    with pytest.raises(IntegrityError, match="became missing"), unchanged_source(path):
        path.unlink()


# ---- one reading of a file: what is hashed is what is parsed


@pytest.mark.parametrize(
    "array",
    [
        COUNTS,
        COUNTS.T,
        COUNTS[:, ::2],
        np.asfortranarray(COUNTS),
        np.float64(0.5),
        np.zeros((0, 3)),
        np.array([], "U0"),
        np.array(["CA1", "VISp"]),
        np.arange(3, dtype=">i4"),
        np.array([True, False]),
        np.array(["2017-01-01"], "M8[D]"),
    ],
)
def test_written_and_hashed_as_numpy_writes(tmp_path: Path, array: np.ndarray) -> None:
    write_npy(tmp_path / "a.npy", array)
    want = npy_bytes(array)
    assert (tmp_path / "a.npy").read_bytes() == want and npy_sha256(array) == sha256_bytes(want)


def test_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objects"):
        write_npy(tmp_path / "a.npy", np.array([None]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_snapshot_reads_as_the_file(tmp_path: Path, save: Any) -> None:
    odd_names = {"n" * n: np.arange(n, dtype="f8") for n in range(1, 9)}  # members begin at places of any alignment
    given = {"counts": COUNTS, "fortran": np.asfortranarray(COUNTS), "empty": np.zeros((0, 2)), **odd_names}
    save(tmp_path / "a.npz", **given, text=np.array("x"))
    with unchanged_snapshot(tmp_path / "a.npz") as source:
        found = read_npz(source)
        assert str(source) == str(tmp_path / "a.npz")
    assert source.sha256 == sha256_bytes((tmp_path / "a.npz").read_bytes())
    want = read_npz(tmp_path / "a.npz")
    assert set(found) == set(want) and np.shares_memory(found["counts"], source.data) == (save is np.savez)
    for name, array in found.items():
        assert array.dtype == want[name].dtype and np.array_equal(array, want[name]), name
        assert array.flags.aligned and not array.flags.writeable and want[name].flags.writeable


def test_flipped_bits_of_a_snapshot_are_never_silent(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez(path, counts=rng.poisson(1.0, (20, 20)).astype(np.uint8))
    whole, want, refusals = path.read_bytes(), read_npz(path)["counts"], 0
    for at in rng.integers(0, len(whole) * 8, 200):
        data = bytearray(whole)
        data[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(data))
        try:
            with unchanged_snapshot(path) as source:
                found = read_npz(source)
        except SessionwiseError:
            refusals += 1
            continue
        assert "counts" not in found or np.array_equal(found["counts"], want)
    assert refusals > 100


def test_damage_is_named_alike_with_and_without_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    counts = np.random.default_rng(0).poisson(1.0, (20, 20, 50)).astype(np.uint8)
    np.savez(path, counts=counts)
    data = bytearray(path.read_bytes())
    data[data.find(counts.tobytes()) + 10_000] ^= 1
    path.write_bytes(bytes(data))
    told = refused(path, "is damaged", "Bad CRC-32 for file 'counts.npy'")
    with pytest.raises(DataError) as caught, unchanged_snapshot(path) as source:
        read_npz(source)
    assert str(caught.value) == told


@pytest.mark.parametrize("where", [0, 2**20 - 1, 2**20, 3 * 2**20 + 4])
def test_every_byte_of_a_snapshot_is_looked_at_again(tmp_path: Path, where: int) -> None:
    path = tmp_path / "a.bin"
    content = bytearray(np.random.default_rng(0).bytes(3 * 2**20 + 5))
    path.write_bytes(bytes(content))
    with unchanged_snapshot(path) as source:
        assert source.sha256 == sha256_bytes(bytes(content)) and source.data.tobytes() == content
    before = path.stat()
    with pytest.raises(IntegrityError, match="changed while being read"), unchanged_snapshot(path):
        content[where] ^= 1
        path.write_bytes(bytes(content))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_snapshot_that_grows_shrinks_or_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for change in (lambda: path.write_bytes(b"ab"), lambda: path.write_bytes(b"abcd")):
        path.write_bytes(b"abc")
        with pytest.raises(IntegrityError, match="changed while being read"), unchanged_snapshot(path):
            change()
    with pytest.raises(IntegrityError, match="became missing"), unchanged_snapshot(path):
        path.unlink()


def test_a_snapshot_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, counts=COUNTS)
    monkeypatch.setattr(arrays, "MAX_ARCHIVE_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"a\.npz: has \d+ bytes; need at most"), unchanged_snapshot(path):
        pass


def test_sizes_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 61_980_000, 8 * 2**50)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "62 MB",
        "9.01 PB",
    ]
