"""The page "your data": its commands, one a format, fill one store from many sources, and a ranking runs on it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sessionwise.data.store import open_store
from sessionwise.io.files import read_json

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "data"))
from files_of_all_formats import WRITERS, make_counts  # noqa: E402

# Format -> what its command needs so that all sessions have the same window and bins.
OPTIONS = {
    "npz": [],
    "alf": ["--align", "stimOn_times"],
    "nwb": ["--align", "stim_on_time"],
    "hdf5": ["--align", "start"],
    "arrow": ["--start", "-0.1"],
    "lfads": ["--bin-ms", "20", "--start", "-0.1"],
}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sessionwise", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_option_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    helps = "".join(
        run(*words, "--help").stdout for words in (["data", "import"], ["data", "fetch"], ["data", "export"])
    )
    ranking = run("rank", "--help").stdout
    assert named and not {option for option in named if option not in helps and option not in ranking}
    formats = run("data", "formats").stdout
    assert all(name in formats for name in WRITERS)


@pytest.mark.slow
def test_a_store_of_six_sources_is_ranked(tmp_path: Path, toy_settings: dict[str, int]) -> None:
    store = tmp_path / "store"
    for seed, (name, write) in enumerate(WRITERS.items()):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, make_counts(seed, trials=40 + seed))
        done = run("data", "import", path, "--to", store, "--id", name, *OPTIONS[name])
        assert done.returncode == 0, done.stderr
    sessions = open_store(store)
    assert set(sessions.ids) == set(WRITERS)
    assert {sessions.info(name).source["format"] for name in sessions} == set(WRITERS)
    settings = [word for key, value in toy_settings.items() for word in ("--set", f"{key}={value}")]
    done = run(
        "rank", store, "--heldout", "nwb", "--preset", "tiny", "--seeds", "1,2", "--to", tmp_path / "study", *settings
    )
    assert done.returncode == 0, done.stderr
    [ranking] = (tmp_path / "study" / "rankings").glob("*/*/ranking.json")
    assert {row["session"] for row in read_json(ranking)["rows"]} == set(WRITERS) - {"nwb"}


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    WRITERS["nwb"](tmp_path, make_counts(5)).rename(tmp_path / "sub-01.nwb")
    rng, onsets = np.random.default_rng(0), 5.0 + 3.5 * np.arange(20)
    known = {
        "counts": rng.poisson(0.5, (20, 150, 3)),
        "times": np.sort(rng.uniform(0, 80, 4000)),
        "units": rng.integers(0, 3, 4000),
        "names": ("a", "b", "c"),
        "onsets": onsets,
    }
    (tmp_path / "page.py").write_text(
        "import numpy as np\nknown = np.load('known.npz')\nglobals().update(known)\n" + code
    )
    np.savez(tmp_path / "known.npz", **known)
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert open_store(tmp_path / "my-store").ids == ("day-1", "day-2", "recording")
    assert len(list((tmp_path / "my-folder").glob("*.h5"))) == 3
