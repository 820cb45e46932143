"""HDF5 files of unknown origin: what leads elsewhere, lies about its size or is broken is refused, the rest is read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.errors import DataError, EnvironmentProblem
from sessionwise.io.hdf5 import Tree, guarded, hdf5_bytes, is_hdf5, load, load_here, outline, read_array

h5py = pytest.importorskip("h5py")


def make(path: Path, fill: Callable[[Any], Any]) -> Path:
    """A file that h5py writes and ``fill`` fills."""
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def small(file: Any) -> None:
    file["spikes/timestamps"] = np.linspace(0, 10, 50)
    file["spikes/unit_index"] = np.arange(50) % 4
    file["units/id"] = np.array([b"a", b"b", b"c", "ä".encode()])
    file["units/waveform"] = np.zeros((4, 9))
    file.attrs.update({"object": "Data", "absolute_start": 0.5, "nan": np.nan, "rows": np.arange(3)})
    file.attrs["keys"] = np.array(["start", "end"], "S")
    file.attrs["where"] = file["spikes"].ref


def test_the_outline_holds_names_and_plain_attributes_and_follows_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.dat", small)
    found = outline(path)
    assert found.names == {
        *("spikes", "spikes/timestamps", "spikes/unit_index"),
        *("units", "units/id", "units/waveform"),
    }
    assert np.isnan(found.attrs["nan"]) and found.attrs["rows"].tolist() == [0, 1, 2]
    assert (found.attrs["object"], found.attrs["absolute_start"], found.attrs["keys"]) == (
        "Data",
        0.5,
        ["start", "end"],
    )
    assert "where" not in found.attrs and outline(path) is found
    make(path, lambda file: file.create_group("other"))
    assert outline(path).names == {"other"}


def test_arrays_are_loaded_by_name_and_by_group(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", small)
    arrays, attrs = load(path, ["spikes/unit_index", "units/*", "units/waveform", "gone", "gone/*"], ["", "no group"])
    assert set(arrays) == {"spikes/unit_index", "units/id", "units/waveform"}
    assert arrays["units/id"].tolist() == ["a", "b", "c", "ä"]
    assert np.array_equal(arrays["spikes/unit_index"], np.arange(50) % 4)
    assert set(attrs) == {""} and attrs[""]["object"] == "Data"


def test_links_inside_the_file_are_followed(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        small(file)
        file["again"] = file["spikes"]
        file["soft"] = h5py.SoftLink("/spikes/timestamps")

    path = make(tmp_path / "a.h5", fill)
    assert {"again", "soft"} <= outline(path).names
    arrays, _ = load(path, ["soft", "again/unit_index"])
    assert np.array_equal(arrays["soft"], np.linspace(0, 10, 50)) and len(arrays["again/unit_index"]) == 50


def external(file: Any) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "/y")


def external_deep(file: Any) -> None:
    file.create_group("a/b/c")["x"] = h5py.ExternalLink("other.h5", "/y")


def stored_outside(file: Any) -> None:
    file.create_dataset("x", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    file.create_virtual_dataset("x", layout)


def soft_loop(file: Any) -> None:
    file["x"], file["y"] = h5py.SoftLink("/y"), h5py.SoftLink("/x")


def soft_up(file: Any) -> None:
    file.create_group("a")["x"] = h5py.SoftLink("/a")


def hard_loop(file: Any) -> None:
    inner = file.create_group("a/b")
    inner["x"] = file["a"]


def dangling(file: Any) -> None:
    file["x"] = h5py.SoftLink("/nothing")


def deep(file: Any) -> None:
    file.create_group("/".join("g" * 100))


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (external, r"'x': is a link into another file \('/etc/passwd'\).*external data are not allowed"),
        (external_deep, r"'a/b/c/x': is a link into another file \('other\.h5'\)"),
        (stored_outside, r"'x': is stored in another file \('/etc/passwd'\)"),
        (virtual, r"'x': is a virtual data set"),
        (soft_loop, r"'[xy]': is a link to '/[xy]', which leads nowhere"),
        (soft_up, r"'a/x': leads back to a group that it stands in \(a loop\)"),
        (hard_loop, r"'a/b/x': leads back to a group that it stands in \(a loop\)"),
        (dangling, r"'x': is a link to '/nothing', which leads nowhere"),
        (deep, r"has groups 64 deep"),
    ],
)
def test_what_leads_out_of_the_file_or_in_circles_is_refused(
    tmp_path: Path, fill: Callable[[Any], Any], message: str
) -> None:
    path = make(tmp_path / "bad.h5", fill)
    with pytest.raises(DataError, match=message) as first:
        outline(path)
    with pytest.raises(DataError) as second:  # remembered
        outline(path)
    assert str(first.value) == str(second.value) and str(path) in first.value.where
    with pytest.raises(DataError, match=message):
        load(path, ["y"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is an HTML page, not HDF5.*Download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04", "is a zip archive, not HDF5"),
        (b"\x89HDF", "is of unknown kind"),
        (b"\x89HDF\r\n\x1a\n", "is damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "is (damaged|truncated)"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_hdf5_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "session.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        outline(path)
    assert is_hdf5(path) == content.startswith(b"\x89HDF\r\n\x1a\n")
    assert not is_hdf5(tmp_path) and not is_hdf5(tmp_path / "missing")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_says_how_much_is_there(tmp_path: Path, share: float) -> None:
    whole = make(tmp_path / "whole.h5", lambda file: file.create_dataset("x", data=np.arange(125_000.0))).read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"is truncated: [\d.]+ [kM]?B of 1 MB; need a complete HDF5 file"):
        outline(path)


def unknown_filter(file: Any) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((10,))
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((10,)), dcpl=made)


def huge(file: Any) -> None:
    file.create_dataset("x", (2**50,), "u1", chunks=(1024,))


def thin(file: Any) -> None:
    file.create_dataset("x", (300_000_000,), "u1", chunks=(1_000_000,), compression="gzip")[:1_000_000] = 1


def many_thin(file: Any) -> None:
    for number in range(60):
        file.create_dataset(f"x/{number}", (5_000_000,), "u1", chunks=(5_000_000,))


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (unknown_filter, r"'again': needs filter 32015 \(zstd\)"),
        (huge, r"'again' declares 1\.13 PB, 0 bytes stored.*Refused"),
        (thin, r"'again' declares 300 MB, \d+ bytes stored; need at most 100x above 256 MB"),
        (many_thin, r"what is read declares 300 MB"),
    ],
)
def test_filters_and_sizes_are_checked_of_what_is_read(
    tmp_path: Path, fill: Callable[[Any], Any], message: str
) -> None:
    def more(file: Any) -> None:
        file["good"] = np.arange(3)
        fill(file)
        file["other"] = h5py.SoftLink("/x")
        file["again"] = file["x"]  # under this name it is met first

    path = make(tmp_path / "bad.h5", more)
    assert "x" in outline(path).names  # telling what is there reads nothing
    assert load_here(str(path), ["good"], [])[0]["good"].tolist() == [0, 1, 2]
    for name in ("x", "other", "again", "x/*"):
        with pytest.raises(DataError, match=message):
            load_here(str(path), [name], [])


def test_only_numbers_and_texts_are_read(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        small(file)
        file["refs"] = np.array([file["spikes"].ref], dtype=h5py.ref_dtype)
        file.create_dataset("lists", (1,), h5py.vlen_dtype(np.int64))[0] = np.arange(2)
        file["pairs"] = np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])
        file["nothing"] = h5py.Empty("f8")
        file["long"] = np.array([b"x" * 20_000])
        file["big_endian"] = np.arange(3, dtype=">i4")

    path = make(tmp_path / "a.h5", fill)
    for name in ("refs", "lists", "pairs"):
        with pytest.raises(DataError, match=f"'{name}': has items of type"):
            load_here(str(path), [name], [])
    for name, message in (("nothing", "is empty"), ("long", "a text of 20000 characters"), ("spikes", "is a group")):
        with pytest.raises(DataError, match=message):
            load_here(str(path), [name], [])
    assert load_here(str(path), ["big_endian"], [])[0]["big_endian"].dtype == np.dtype("i4")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.h5", small)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[hdf5\]'"), guarded(path):
        pass
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sessionwise\[hdf5\]'"):
        hdf5_bytes(Tree())


def test_a_tree_is_written_as_it_is_and_as_the_same_bytes(tmp_path: Path) -> None:
    inner = Tree({"texts": np.array([], "S"), "n": 3}, {"x": np.arange(4.0), "t": np.array([b"a", b"bc"])})
    tree = Tree({"object": "Data"}, {"group": inner, "y": np.array([True, False])})
    reordered = Tree({"object": "Data"}, {"y": np.array([True, False]), "group": inner})
    data = hdf5_bytes(tree)
    assert data == hdf5_bytes(reordered)
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    with h5py.File(path, "r") as file:
        assert (
            file.attrs["object"] == "Data" and file["group"].attrs["n"] == 3 and len(file["group"].attrs["texts"]) == 0
        )
        assert file["group/x"][()].tolist() == [0, 1, 2, 3] and file["group/t"][()].tolist() == [b"a", b"bc"]
        assert file["y"][()].tolist() == [True, False]


@pytest.mark.parametrize("flip", ["type", "heap"])
def test_one_flipped_bit_that_crashes_or_hangs_libhdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: str
) -> None:
    monkeypatch.setattr("sessionwise.io.hdf5._OUTLINE_S", 2.0)
    data = hdf5_bytes(Tree({"object": "Data"}, {"g": Tree({"s": "text"}, {"w": np.array([0.0, 1.0])})}))
    if flip == "type":  # of a text of any length: SIGSEGV in HDF5 2.0
        at = data.index(b"\x19\x01\x01\x00\x10") + 1
        broken = data[:at] + b"\x09" + data[at + 1 :]
    else:  # the size of the heap of texts: an endless loop in HDF5 2.0
        at = data.index(b"GCOL") + 8
        broken = data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]
    path = tmp_path / "flipped.h5"
    path.write_bytes(broken)
    for ask in (lambda: outline(path), lambda: load(path, ["g/w"], ["g"])):
        with pytest.raises(DataError, match=r"crashes its reader|keeps its reader busy|is damaged"):
            ask()


FUZZ = """
import os, signal, sys
from pathlib import Path
import numpy as np
import h5py
from sessionwise.data.formats import hdf5 as format
from sessionwise.data.recording import Asked
from sessionwise.errors import DataError
from sessionwise.io import hdf5

whole, folder, times = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
format.load = lambda path, names, groups: hdf5.load_here(str(path), names, groups)
ends = {}
for number in range(times):
    data, path = bytearray(whole), folder / f"{number}.h5"
    for at in rng.integers(8, len(whole), rng.integers(1, 6)):
        data[at] = rng.integers(256) if number % 2 else data[at] ^ (1 << rng.integers(8))
    path.write_bytes(bytes(data))
    pid = os.fork()
    if not pid:
        signal.alarm(5)
        os.close(2)
        try:
            format.FORMAT.read(path, Asked())
        except DataError:
            os._exit(1)
        except BaseException as error:
            (folder / "error").write_text(f"{number}: {error!r}")
            os._exit(2)
        os._exit(0)
    end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ends.setdefault(end, []).append(str(path))
    if end in (0, 1):
        path.unlink()
print("\\n".join(f"{end} {len(paths)} {paths[0]}" for end, paths in ends.items()))
"""


def test_flipped_bytes_give_a_recording_or_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(file: Any) -> None:
        small(file)
        file["domain/start"], file["domain/end"] = np.array([0.0]), np.array([10.0])
        file["trials/start"] = np.arange(12.0)

    path = make(tmp_path / "whole.h5", fill)
    (tmp_path / "flipped").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), str(tmp_path / "flipped"), "300"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::"},
    )
    ends = {int(line.split()[0]): line for line in done.stdout.splitlines()}
    assert done.returncode == 0 and sum(int(line.split()[1]) for line in ends.values()) == 300, done.stderr
    assert 2 not in ends, (tmp_path / "flipped" / "error").read_text()
    assert {0, 1} <= set(ends)
    monkeypatch.setattr("sessionwise.io.hdf5._OUTLINE_S", 5.0)
    for end in set(ends) - {0, 1}:  # libhdf5 crashed or hung: the one who asked is told so
        with pytest.raises(DataError, match=r"crashes its reader|keeps its reader busy"):
            load(ends[end].split(maxsplit=2)[2], ["spikes/timestamps", "spikes/unit_index", "units/*", "trials/*"])


def test_a_chunk_far_larger_than_its_data_set_is_refused(tmp_path: Path) -> None:
    """HDF5 unpacks whole chunks: 30 numbers may take gigabytes."""
    path = tmp_path / "chunk.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(30.0), maxshape=(None,), chunks=(100_000_000,), compression="gzip")
    with pytest.raises(DataError, match="declares 800 MB"), guarded(path):
        pass


def test_texts_that_unpack_into_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(900_000,), dtype=h5py.string_dtype(), fillvalue="y" * 5000)
    with pytest.raises(DataError, match="texts of up to 5000 characters"), guarded(path) as file:
        read_array(file, "x")
