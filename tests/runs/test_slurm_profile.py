"""Site profiles: where they are found, what is in them, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionwise.errors import Problems, UsageError
from sessionwise.runs.executors import runs_at_a_time
from sessionwise.runs.launch import execute
from sessionwise.runs.profile import Profile, find_profile, read_profile
from sessionwise.runs.store import RunStore


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SESSIONWISE_SLURM", raising=False)
    return tmp_path / "home"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_named_then_the_environment_then_the_usual_place_then_defaults(home, tmp_path, monkeypatch):
    assert find_profile("slurm") == Profile()
    written(home / ".config/sessionwise/slurm.toml", "tasks = 3")
    assert find_profile("slurm").tasks == 3 == runs_at_a_time("slurm")
    monkeypatch.setenv("SESSIONWISE_SLURM", str(written(tmp_path / "site.toml", "tasks = 4")))
    assert find_profile("slurm").tasks == 4
    assert find_profile(f"slurm:{written(tmp_path / 'mine.toml', 'tasks = 5')}").tasks == 5


def test_every_key(tmp_path):
    text = """
        partition = "gpu"
        account = "lab-7"
        qos = "normal"
        constraint = "a100|h100"
        exclude = "node[01-03]"
        memory = "8G"
        time = "12:30:00"
        gpus = 1
        cpus = 2
        setup = ["module load cuda/12", 'export X="$HOME"']
        bundle_runs = 4
        bundle_minutes = 30
        tasks = 20
        signal_s = 300
        poll_s = 30
    """
    path = written(tmp_path / "site.toml", text)
    setup = ("module load cuda/12", 'export X="$HOME"')
    parts = ("gpu", "lab-7", "normal", "a100|h100", "node[01-03]", "8G", 750, 1, 2, setup, 4, 30, 20, 300, 30)
    assert read_profile(path) == Profile(*parts, source=str(path))


@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        ("30", 30),
        ('"30"', 30),
        ('"9:30"', 10),
        ('"2:00:00"', 120),
        ('"1-00"', 1440),
        ('"1-02:03"', 1563),
        ('"2-00:00:30"', 2881),
    ],
)
def test_times_as_slurm_writes_them(tmp_path, value, minutes):
    assert read_profile(written(tmp_path / "site.toml", f"time = {value}")).time == minutes


WRONG = {
    "tsaks = 3": "unknown key 'tsaks'. Did you mean tasks?",
    "zebra = 3": "unknown key 'zebra'. docs/cluster.md lists the keys",
    "tasks = 0": "tasks: 0; need a whole number from 1 to 10000",
    "tasks = true": "tasks: True; need a whole number",
    "tasks = '3'": "tasks: '3'; need a whole number",
    "gpus = 1.0": "gpus: 1.0; need a whole number",
    "partition = 3": "partition: 3; need a text",
    "partition = ''": "partition: ''; need a text",
    'partition = "a\\nb"': "need a text without quotes",
    "account = 'a; rm -rf x'": "account: 'a; rm -rf x'; need a text without quotes",
    "account = '$(id)'": "need a text without quotes",
    "setup = 'module load x'": "setup: 'module load x'; need a list of shell lines",
    "setup = [1]": "need a list of shell lines",
    "time = 0": "time: 0; need minutes",
    "time = '1:2:3:4'": "time: '1:2:3:4'; need minutes",
    "time = '0:00'": "time: '0:00'; need minutes",
    "time = 1\nsignal_s = 60": "time: 1 min is less than twice signal_s (60 s)",
    "tasks = ": "is no TOML",
    "a = " + "[" * 3000: "is no TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        read_profile(written(tmp_path / "site.toml", text))
    assert WRONG[text] in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "site.toml") in str(caught.value)


def test_all_problems_at_once_and_before_anything_is_done(tmp_path):
    path = written(tmp_path / "site.toml", "tasks = 0\ngups = 1")
    with pytest.raises(Problems, match=r"(?s)tasks: 0.*Did you mean gpus"):
        execute([], RunStore(tmp_path / "runs"), on=f"slurm:{path}")
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_there_or_no_text(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--on: no file"):
        find_profile(f"slurm:{tmp_path / 'none.toml'}")
    with pytest.raises(UsageError, match=r"--on: no file '\.'"):
        find_profile("slurm:")
    monkeypatch.setenv("SESSIONWISE_SLURM", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="SESSIONWISE_SLURM: no file"):
        find_profile("slurm")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no TOML"):
        find_profile(f"slurm:{tmp_path / 'bytes.toml'}")
