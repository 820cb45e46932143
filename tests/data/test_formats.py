"""All formats together: which one a file has, the same counts from each, and formats that other packages bring."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files_of_all_formats import ASKED, BINS, WRITERS, make_counts

from sessionwise.data.formats.registry import find_recordings, guess_format, known_formats, named_format
from sessionwise.data.importing import import_files
from sessionwise.data.session import trial_hashes
from sessionwise.data.store import create_store
from sessionwise.errors import DataError, SessionwiseError, UsageError

ROOT = Path(__file__).parents[2]
COUNTS_ONLY = ("arrow", "lfads")  # these files do not say when their window begins


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> the same recording in it."""
    counts, folder = make_counts(1), tmp_path_factory.mktemp("files")
    found = {}
    for name, write in WRITERS.items():
        (folder / name).mkdir()
        found[name] = write(folder / name, counts)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_the_format_is_guessed_from_content(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    assert guess_format(files[name]) is known_formats()[name]
    if files[name].is_file():  # whatever the file is called
        renamed = tmp_path / "something.dat"
        renamed.write_bytes(files[name].read_bytes())
        assert guess_format(renamed) is known_formats()[name]


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_recording_gives_the_same_counts_from_every_format(
    files: dict[str, Path], name: str, tmp_path: Path
) -> None:
    lines: list[str] = []
    store = create_store(tmp_path / "store")
    import_files([files[name]], store, session_id="one", say=lines.append, **ASKED[name])
    info, counts = store.info("one"), make_counts(1)
    assert info.trial_hashes == tuple(trial_hashes(counts)) and info.trial_ids.tolist() == list(range(len(counts)))
    assert np.array_equal(store.session("one").counts, counts)
    assert (info.bin_s, info.n_bins) == (0.02, BINS)
    if name not in COUNTS_ONLY:
        reference = create_store(tmp_path / "reference")
        import_files([files["npz"]], reference, session_id="one")
        assert info.content == reference.info("one").content
    assert lines[0] == f"format {name}, by content: 1 recording"
    assert info.source["format"] == name


def test_a_folder_stands_for_the_recordings_below_it(files: dict[str, Path]) -> None:
    found = find_recordings(files["npz"].parent.parent)
    assert {(path, format.name) for path, format in found} == {(path, name) for name, path in files.items()}
    only = find_recordings(files["npz"].parent.parent, named_format("nwb"))
    assert [path for path, _ in only] == [files["nwb"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x80\x04\x95", "is a pickle"),
        (b"something else", "is of unknown kind"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("suffix", ["h5", "nwb", "dat"])
def test_a_file_of_no_format_says_what_it_is(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"session.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        import_files([path], create_store(tmp_path / "store"))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_event_that_one_recording_lacks(files: dict[str, Path], tmp_path: Path) -> None:
    """It is named with the file; with skip_bad the others are imported."""
    asked = {"align": "stim_on_time", "window_s": (-0.1, 0.3)}
    both = [files["nwb"], files["hdf5"]]
    with pytest.raises(UsageError, match=r"recording.h5.*has no event 'stim_on_time'"):
        import_files(both, create_store(tmp_path / "store"), **asked)
    store = create_store(tmp_path / "some")
    summary = import_files(both, store, skip_bad=True, **asked)
    assert len(store.ids) == 1 and [Path(name).name for name, _ in summary.skipped] == ["recording.h5"]


def test_the_remedy_for_spike_times_on_another_grid_is_to_leave_it_out(files: dict[str, Path], tmp_path: Path) -> None:
    store = create_store(tmp_path / "store")
    import_files([files["npz"]], store, session_id="first")
    with pytest.raises(DataError, match="Leave --bin-ms and --window out"):
        import_files([files["nwb"]], store, session_id="second", align="stim_on_time", bin_ms=10)
    import_files([files["nwb"]], store, session_id="second", align="stim_on_time")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("name", ["b.h5", "b.hdf5", "b.nwb", "b.npz", "b.arrow", "b.parquet"])
def test_a_spoiled_file_in_a_folder_is_no_other_file(
    files: dict[str, Path], tmp_path: Path, name: str, content: bytes
) -> None:
    """All of a folder's recordings are imported, or none: also when one is what a failed download left."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npz").write_bytes(files["npz"].read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("a file that nobody means")
    lines: list[str] = []
    import_files([tmp_path / "in"], create_store(tmp_path / "fine"), say=lines.append)
    assert "1 other file was passed over: notes.txt" in lines
    (tmp_path / "in" / name).write_bytes(content)
    store = create_store(tmp_path / "store")
    with pytest.raises(DataError, match=name):
        import_files([tmp_path / "in"], store)
    assert not store.ids


def test_a_start_that_is_no_time(files: dict[str, Path], tmp_path: Path) -> None:
    for start in (float("nan"), float("inf"), 1e300):
        with pytest.raises(UsageError, match="--start"):
            import_files([files["arrow"]], create_store(tmp_path / "store"), start_s=start)


def test_a_folder_without_recordings_and_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no recording"):
        find_recordings(tmp_path)
    with pytest.raises(UsageError, match="Did you mean nwb"):
        named_format("nbw")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "npz"])
def test_options_of_the_other_kind_and_wrong_formats_are_refused(
    files: dict[str, Path], name: str, tmp_path: Path
) -> None:
    store = create_store(tmp_path / "store")
    with pytest.raises(SessionwiseError):  # the right file under the wrong name
        import_files([files[name]], store, format="npz")
    if name in COUNTS_ONLY:
        asked = {**ASKED[name], "align": "start"}
        with pytest.raises(UsageError, match="binned already"):
            import_files([files[name]], store, **asked)
    assert not store.ids


def test_options_are_never_ignored(files: dict[str, Path], tmp_path: Path) -> None:
    store = create_store(tmp_path / "store")
    for name in ("npz", "nwb", "hdf5"):
        with pytest.raises(UsageError, match=f"--sorter with the format {name}; need alf"):
            import_files([files[name]], store, sorter="kilosort")
    with pytest.raises(UsageError, match="--id: one id for 2 recordings"):
        import_files([files["npz"], files["lfads"]], store, session_id="one", bin_ms=20)
    with pytest.raises(UsageError, match=r"--start 1, but t0_ms says -100 ms"):
        import_files([files["npz"]], store, start_s=1.0)
    with pytest.raises(UsageError, match="--start with spike times"):
        import_files([files["nwb"]], store, start_s=1.0)
    assert not store.ids
    np.savez(tmp_path / "silent.npz", counts=make_counts(2), bin_ms=20)
    import_files([tmp_path / "silent.npz"], store, start_s=-0.1)
    assert store.info("silent").window_s == (-0.1, 0.3) and not store.info("silent").notes


def test_windows_at_a_stride_for_every_format_with_spike_times(files: dict[str, Path], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"align": "none", "window_s": (0, 3.0), "bin_ms": 20}
    for name in ("alf", "nwb", "hdf5"):
        store = create_store(tmp_path / name)
        import_files([files[name]], store, session_id="one", **asked)
        info = store.info("one")
        assert info.window_s == (0, 3.0) and info.n_bins == 150 and info.n_trials >= 20


def test_sessions_of_spike_times_take_the_grid_of_the_store(files: dict[str, Path], tmp_path: Path) -> None:
    store = create_store(tmp_path / "store")
    import_files([files["npz"]], store, session_id="first")
    import_files([files["nwb"]], store, session_id="second", align="stim_on_time")
    assert store.info("second").content == store.info("first").content.replace("first", "second")


FOREIGN = """
import numpy as np
from sessionwise.data.formats.registry import Format
from sessionwise.data.session import make_session

def read(path, asked):
    counts = np.loadtxt(path, dtype=int).reshape(10, 5, -1)
    return make_session(asked.session_id or path.stem, counts, 0.02)

FORMAT = Format("numbers", "rows of numbers", lambda path: path.suffix == ".numbers", read)
"""


def test_another_package_brings_a_format_by_entry_point(tmp_path: Path) -> None:
    """A package as pip leaves it: a module and a dist-info folder with entry points."""
    about = tmp_path / "site" / "brought-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "site" / "brought.py").write_text(FOREIGN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sessionwise.formats]\nnumbers = brought:FORMAT\n")
    counts = np.random.default_rng(0).integers(1, 5, (10, 5, 2))
    np.savetxt(tmp_path / "a.numbers", counts.reshape(10, -1), fmt="%d")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT / "src")])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sessionwise", "data", *words]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120
        )

    assert "rows of numbers" in run("formats").stdout
    done = run("import", str(tmp_path / "a.numbers"), "--to", str(tmp_path / "store"))
    assert done.returncode == 0 and "format numbers, by content: 1 recording" in done.stderr
    for body in ("raise RuntimeError('no')", "return None"):
        broken = FOREIGN.replace("    counts = np.loadtxt(path", f"    {body}\n    counts = np.loadtxt(path")
        (tmp_path / "site" / "brought.py").write_text(broken)
        done = run("import", str(tmp_path / "a.numbers"), "--to", str(tmp_path / "other"))
        assert done.returncode == 3 and "a.numbers: the reader brought:FORMAT" in done.stderr, done.stderr
    (tmp_path / "site" / "brought.py").write_text("FORMAT = 3\n")
    done = run("formats")
    assert (
        done.returncode == 4 and "entry point 'numbers' of sessionwise.formats: is a int; need a Format" in done.stderr
    )
