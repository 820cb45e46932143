"""Every command and every page of Python in README.md runs as it stands, on small recordings with the names it uses."""

import glob
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with recordings/: six small sessions, one of them with the id that README ranks for."""
    from sessionwise.data.simulate import simulate_pool

    place = tmp_path_factory.mktemp("readme")
    (place / "recordings").mkdir()
    pool = simulate_pool(5, 1, seed=2, bad_share=0.0, n_trials=(60, 70), n_units=(8, 10), rate_hz=15.0, n_bins=12)
    names = [*(f"0{i}_Simulated" for i in range(5)), "11_Hench_2017-06-18"]
    for name, session in zip(names, pool.sessions, strict=True):
        np.savez(place / "recordings" / f"{name}.npz", counts=session.counts, bin_ms=20, subject="simulated")
    for page in blocks("toml"):  # its first line names the file
        (place / page.splitlines()[0].removeprefix("# ")).write_text(page)
    return place


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(folder):
    ran = []
    for line in commands():
        words = [found for word in shlex.split(line) for found in (sorted(glob.glob(word, root_dir=folder)) or [word])]
        program = words.pop(0)
        if program == "make":  # what it would run: the targets' own work is the demo's and this suite's
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
        else:
            assert program == "sessionwise", f"README names a command that is not ours: {line}"
            arguments = [sys.executable, "-m", "sessionwise", *words]
            done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        ran.append(line)
    assert len(ran) >= 8
    assert (folder / "my-scaling-study" / "report" / "index.html").exists()
    assert (folder / "my-study" / "report" / "index.html").exists() and list(
        folder.glob("my-study/rankings/*/*/ranking.csv")
    )


@pytest.mark.slow
def test_the_python_of_the_readme_runs(folder):
    """After the commands, in the same folder."""
    (page,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", page], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Score(session='11_Hench_2017-06-18', split='test', bps=")


def test_what_the_readme_points_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"README points to {target}, which does not exist"


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path):
    script = ROOT / "examples" / "quickstart.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=400, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "bits per spike on test trials" in done.stdout and done.stdout.count("true closeness") == 5
