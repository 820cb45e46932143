"""The data commands as a user meets them: results, progress, one line a problem, exit codes, no torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sessionwise
from sessionwise.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    import warnings

    monkeypatch.chdir(tmp_path)  # pictures go into the current folder

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def saved(folder: Path, name: str, seed: int = 0, **arrays: Any) -> Path:
    counts = np.random.default_rng(seed).poisson(1.0, (20, 10, 3)).astype(np.uint8)
    path = folder / f"{name}.npz"
    np.savez(
        path, **{"counts": counts, "bin_ms": 20, "t0_ms": 0, "subject": "Cori", "area": ["CA1", "x", "x"], **arrays}
    )
    return path


@pytest.fixture
def store(tmp_path: Path, run: Any) -> Path:
    run("data", "import", *[saved(tmp_path, f"s{i}", i) for i in range(3)], "--to", tmp_path / "store")
    return tmp_path / "store"


def test_import_list_show_check(tmp_path: Path, run: Any) -> None:
    files = [saved(tmp_path, f"s{i}", i) for i in range(3)]
    code, out, err = run("data", "import", *files, "--to", tmp_path / "new" / "store")
    assert code == 0 and out == f"3 added, 0 already there, 0 left out; {tmp_path}/new/store now holds 3 sessions\n"
    assert "[3/3] s2.npz: session 's2', 20 trials, 10 bins, 3 units, 20 ms bins, 0..0.2 s" in err
    code, out, _ = run("data", "list", tmp_path / "new" / "store")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["session", "s0", "s1", "s2"]
    code, out, _ = run("data", "show", tmp_path / "new" / "store", "s1")
    assert code == 0
    for text in ("20 trials x 10 bins x 3 units", "16 train, 2 validation, 2 test", "x 2, CA1 1", "s1.npz"):
        assert text in out
    code, out, err = run("data", "check", tmp_path / "new" / "store")
    assert (code, out) == (0, "3 sessions checked: all files are as recorded\n") and err.count("ok ") == 3


def test_show_draws_into_the_current_folder(store: Path, tmp_path: Path, run: Any) -> None:
    code, out, _ = run("data", "show", store, "s1", "--split", "blocked")
    [picture] = tmp_path.glob("*.png")
    assert code == 0 and f"picture: {picture.name}" in out and "blocked: 16 train" in out
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    picture.unlink()
    assert run("data", "show", store, "s1", "--no-picture")[0] == 0 and not list(tmp_path.glob("*.png"))
    code, _, err = run("data", "show", store, "s1", "--split", "blokced")
    assert code == 2 and "--split: 'blokced'; need random | blocked | recorded" in err


@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_what_is_exported_is_imported_again_as_the_same(store: Path, tmp_path: Path, run: Any, format: str) -> None:
    code, out, _ = run("data", "export", store, "--format", format, "--to", tmp_path / "out", "--only", "s0,s2")
    assert code == 0 and out == f"2 files in {tmp_path}/out\n"
    code, _, err = run("data", "import", tmp_path / "out", "--to", tmp_path / "again")
    assert code == 0 and f"format {format}, by content: 2 recordings" in err
    ours, theirs = sessionwise.open_store(store), sessionwise.open_store(tmp_path / "again")
    assert theirs.ids == ("s0", "s2") and all(ours.info(i).content == theirs.info(i).content for i in theirs)
    code, _, err = run("data", "export", store, "--format", "hdf6", "--to", tmp_path / "out")
    assert code == 2 and "hdf6" in err


def test_import_crops_and_rebins(tmp_path: Path, run: Any) -> None:
    file = saved(tmp_path, "s", t0_ms=-100)
    code, _, _ = run("data", "import", file, "--to", tmp_path / "st", "--window", "-0.04,0.08", "--bin-ms", "40")
    assert code == 0
    info = sessionwise.open_store(tmp_path / "st").info("s")
    assert (info.n_bins, info.bin_s, info.window_s) == (3, 0.04, (-0.04, 0.08))


def test_tables_are_whole_in_a_pipe(tmp_path: Path, run: Any) -> None:
    name = "a-very-long-id-" * 20
    run("data", "import", saved(tmp_path, "s", id=name), "--to", tmp_path / "st")
    _, out, _ = run("data", "list", tmp_path / "st")
    assert name in out and len(out.splitlines()) == 2


def test_odd_ids_are_shown_escaped(tmp_path: Path, run: Any) -> None:
    run("data", "import", saved(tmp_path, "s", id="[red]\u202eevil\x9b"[:10]), "--to", tmp_path / "st")
    code, out, _ = run("data", "list", tmp_path / "st")
    assert code == 0 and "[red]\\u202eevil"[:10] in out and "\u202e" not in out


def test_list_can_filter(store: Path, run: Any) -> None:
    assert len(run("data", "list", store, "--where", "id != s1 and n_trials >= 20")[1].splitlines()) == 3
    code, _, err = run("data", "list", store, "--where", "weight > 3")
    assert code == 2 and "field 'weight'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["data", "list", "none"], 2, "none: does not exist; need a folder with store.json. Make one:"),
        (["data", "check", "none"], 2, "does not exist"),
        (["data", "import", "none.npz", "--to", "st"], 3, "none.npz: does not exist"),
        (["data", "import", "s.npz", "--to", "st", "--window", "1"], 2, "--window: '1'; need START,STOP in seconds"),
        (["data", "import", "s.npz", "--to", "st", "--format", "mat"], 2, "--format: 'mat' is unknown; need npz"),
        (["data", "import", "s.npz", "--to", "s.npz"], 2, "s.npz: is a file"),
        (["data", "import", "s.npz", "--to", "."], 2, "holds other files"),
        (["data", "import", "empty.npz", "--to", "st"], 3, "empty.npz: is empty (0 bytes)"),
        (["data", "import", "s.npz"], 2, "--to"),
        (["data", "lst"], 2, "lst"),
    ],
)
def test_wrong_use(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, "s")
    (tmp_path / "empty.npz").touch()
    found, out, err = run(*arguments)
    assert found == code and says in err and out == "" and "Traceback" not in err
    assert sum(line.startswith("error:") for line in err.splitlines()) <= 1 and not (tmp_path / "st").exists()


def test_an_unknown_session_gets_a_suggestion(store: Path, run: Any) -> None:
    code, _, err = run("data", "show", store, "s11")
    assert code == 2 and "holds no session 's11'" in err and "Did you mean" in err


def test_debug_shows_the_traceback_wherever_it_stands(run: Any) -> None:
    for arguments in (["--debug", "data", "list", "none"], ["data", "list", "none", "--debug"]):
        code, _, err = run(*arguments)
        assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: none")


def test_many_problems_are_cut_and_counted(tmp_path: Path, run: Any) -> None:
    code, _, err = run("data", "import", *[f"none{i}.npz" for i in range(25)], "--to", tmp_path / "st")
    assert code == 3 and err.count("error: ") == 20 and err.endswith("... and 5 more problems\n")


def test_skip_bad_lists_what_is_left_out(tmp_path: Path, run: Any) -> None:
    code, out, err = run("data", "import", saved(tmp_path, "s"), "none.npz", "--to", tmp_path / "st", "--skip-bad")
    assert code == 0 and out.startswith("1 added, 0 already there, 1 left out")
    assert "left out: none.npz: does not exist" in err


def test_a_changed_file_is_exit_5(store: Path, run: Any) -> None:
    path = next(store.glob("s1-*")) / "counts.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    code, out, err = run("data", "check", store)
    assert code == 5 and out == "" and "PROBLEM  s1-" in err and "SHA-256 is" in err


@pytest.mark.parametrize(
    "command",
    [[], ["data"], *(["data", name] for name in ("import", "fetch", "list", "show", "check", "export", "formats"))],
)
def test_help_has_an_example_for_each_command(run: Any, command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0 and "Usage: sessionwise" in out
    if len(command) == 2:
        assert f"Example: sessionwise {' '.join(command)}" in out


def test_an_interrupt_is_exit_75(store: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sessionwise.data.store.check_store", interrupted)
    code, _, err = run("data", "check", store)
    assert code == 75 and "again" in err


DATA_COMMANDS = """
import sys
from sessionwise.cli import main
sys.argv[1:]
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code, arguments
import sessionwise
sessionwise.open_store({store!r}).load("s")
heavy = sorted({{"torch", "pandas", "matplotlib", "h5py"}} & set(sys.modules))
assert not heavy, heavy
"""


def test_data_commands_never_import_torch(tmp_path: Path) -> None:
    store, file = str(tmp_path / "st"), str(saved(tmp_path, "s"))
    commands = [
        ["data", "import", file, "--to", store],
        ["data", "list", store],
        ["data", "show", store, "s", "--no-picture"],
    ]
    commands += [["data", "check", store], ["--help"], ["--version"]]
    script = DATA_COMMANDS.format(commands=commands, store=store)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    assert {"open_store", "create_store", "Session", "make_session", "__version__"} <= set(dir(sessionwise))
    for name in sessionwise.__all__:
        if name in {"open_store", "create_store", "Session", "make_session", "__version__"}:
            assert getattr(sessionwise, name)
    with pytest.raises(AttributeError, match="no attribute 'opn_store'"):
        sessionwise.opn_store  # noqa: B018
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert sessionwise.__version__ == project["version"]


def test_the_real_recordings(real_data: Path, tmp_path: Path, run: Any) -> None:
    files = sorted(real_data.glob("steinmetz/*.npz"))[:3]
    other = next(real_data.glob("ibl_single/*.npz"))
    code, out, err = run("data", "import", *files, "--to", tmp_path / "st")
    assert code == 0 and "3 added" in out and "note for 3 files: no t0_ms" in err
    code, _, err = run("data", "import", other, "--to", tmp_path / "st")
    assert code == 3
    command = err.strip().rsplit("Run: sessionwise ", 1)[1].split()
    code, out, _ = run(*command)
    assert code == 0 and "now holds 4 sessions" in out
    assert run("data", "check", tmp_path / "st")[0] == 0
