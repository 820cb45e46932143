"""The command ``rank`` from outside: its answer, its refusals, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

HELDOUT = "sim-heldout-0"


def command(*arguments):
    return [sys.executable, "-m", "sessionwise", *map(str, arguments)]


def sessionwise(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def short(toy_settings):
    return [part for name, value in toy_settings.items() for part in ("--set", f"{name}={value}")]


def ranking_files(study):
    (folder,) = study.glob("rankings/*/full-*")
    return {name: (folder / name).read_bytes() for name in ("ranking.json", "ranking.csv")}


@pytest.fixture(scope="module")
def uninterrupted(toy_store, short, tmp_path_factory):
    study = tmp_path_factory.mktemp("whole") / "study"
    done = sessionwise(
        "rank", toy_store, "--heldout", HELDOUT, "--preset", "tiny", "--seeds", "10,20", *short, "--to", study
    )
    return study, done


@pytest.mark.slow
def test_rank_prints_the_answer_and_writes_ranking_and_report(uninterrupted):
    study, done = uninterrupted
    assert done.returncode == 0, done.stderr
    assert "Ranking for sim-heldout-0" in done.stdout and "baseline (from scratch)" in done.stdout
    assert (study / "report" / "index.html").stat().st_size > 10_000
    document = json.loads(ranking_files(study)["ranking.json"])
    assert [row["rank"] for row in document["rows"]] == [1, 2, 3, 4]
    for row in document["rows"]:
        assert f"{row['score']:.4f}" in done.stdout
    assert "pretrain 8/8" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_twice_it_goes_on_to_the_same_bytes(uninterrupted, toy_store, short, tmp_path):
    """P1: SIGKILL of the driver (its workers die with it), then of a worker; the same command, no flag."""
    study = tmp_path / "study"
    arguments = ("rank", toy_store, "--heldout", HELDOUT, "--preset", "tiny", "--seeds", "10,20", *short, "--to", study)
    driver = start_and_wait_for_runs(arguments, study, 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = committed(study)
    driver = start_and_wait_for_runs(arguments, study, len(before) + 3)
    os.kill(worker_of(driver.pid), signal.SIGKILL)
    assert driver.wait(timeout=300) == 0
    assert ranking_files(study) == ranking_files(uninterrupted[0])
    assert all((study / "runs" / key / "manifest.json").stat().st_mtime_ns == when for key, when in before.items())
    again = sessionwise(*arguments)
    assert again.returncode == 0 and ranking_files(study) == ranking_files(uninterrupted[0])


@pytest.mark.slow
def test_asked_to_stop_it_says_how_to_go_on(toy_store, toy_settings, tmp_path):
    longer = {**toy_settings, **{f"{kind}.steps": 4000 for kind in ("train", "finetune", "baseline")}}
    settings = [part for name, value in longer.items() for part in ("--set", f"{name}={value}")]
    study = tmp_path / "study"
    driver = subprocess.Popen(
        command("rank", toy_store, "--heldout", HELDOUT, "--preset", "tiny", *settings, "--to", study),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(study.glob("runs/*.work")))
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 75 and "same command" in errors and "Traceback" not in errors
    assert list(study.glob("runs/*.work/step-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--heldout", HELDOUT, "--pool", f"sim-00,{HELDOUT}"], 6, "LEAK"),
        (["--heldout", "sim-heldout-1"], 2, "Did you mean 'sim-heldout-0'"),
        (["--heldout", HELDOUT, "--preset", "smal"], 2, "Did you mean 'small'"),
        (["--heldout", HELDOUT, "--set", "train.leraning_rate=1"], 2, "unknown key"),
        (["--heldout", HELDOUT, "--set", "train.lr=-1"], 2, "greater than 0"),
        (["--heldout", HELDOUT, "--seeds", "10,ten"], 2, "whole numbers"),
        (["--heldout", HELDOUT, "--seeds", "10,10"], 2, "distinct"),
        (["--heldout", HELDOUT, "--pool", "subject == nobody"], 2, "no session is left"),
        (["--heldout", HELDOUT, "--on", "moon"], 2, "moon"),
        (["--heldout", HELDOUT, "--budget", "lots"], 2, "For example --budget 30%"),
        (["--heldout", HELDOUT, "--preset", "tiny", "--budget", "3%"], 2, "full takes"),
        (["--heldout", ","], 2, "--heldout"),
        (["--heldout", HELDOUT, "--pool", f"sim-00,{HELDOUT}", "--set", "train.lr=-1"], 6, "LEAK"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_any_training(toy_store, tmp_path, arguments, code, says, capsys):
    from sessionwise.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["rank", str(toy_store), *arguments, "--to", str(tmp_path / "study")])
    errors = capsys.readouterr().err
    assert stop.value.code == code and says in errors and "Traceback" not in errors
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    assert not list(tmp_path.glob("study/runs/*"))


@pytest.mark.parametrize("inside", ["", "study"])
def test_runs_do_not_go_into_the_store(toy_store, inside, capsys):
    """D51."""
    from sessionwise.cli import main

    before = sorted(toy_store.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["rank", str(toy_store), "--heldout", HELDOUT, "--to", str(toy_store / inside)])
    assert stop.value.code == 2 and "store of sessions" in capsys.readouterr().err
    assert sorted(toy_store.rglob("*")) == before


def test_help_has_an_example(capsys):
    from sessionwise.cli import main

    for name in ("rank", "demo", "report"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"Example: sessionwise {name}" in capsys.readouterr().out


def test_report_of_an_empty_study_is_a_typed_error(tmp_path, capsys):
    from sessionwise.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2 and "ranking" in capsys.readouterr().err


def committed(study):
    return {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/manifest.json")}


def start_and_wait_for_runs(arguments, study, n):
    driver = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(committed(study)) >= n)
    return driver


def worker_of(driver):
    """A worker process of a driver."""
    for path in os.listdir("/proc"):
        if path.isdecimal() and int(path) != driver:
            try:
                with open(f"/proc/{path}/stat") as stream:
                    parent = int(stream.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == driver:
                return int(path)
    raise AssertionError("no worker")


def wait_until(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_real_recordings_from_file_to_ranking(real_data, tmp_path):
    """Three recordings and trainings of a dozen steps, from files to a ranking."""
    files = sorted((real_data / "steinmetz").glob("0[123]_*.npz"))
    assert sessionwise("data", "import", *files, "--to", tmp_path / "store").returncode == 0
    steps = [part for kind in ("train", "finetune", "baseline") for part in ("--set", f"{kind}.steps=12")]
    heldout = "03_Cori_2016-12-18"
    done = sessionwise(
        "rank",
        tmp_path / "store",
        "--heldout",
        heldout,
        "--preset",
        "tiny",
        "--seeds",
        "10",
        *steps,
        "--to",
        tmp_path / "s",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(ranking_files(tmp_path / "s")["ranking.json"])
    assert {row["session"] for row in document["rows"]} == {"01_Cori_2016-12-14", "02_Cori_2016-12-17"}
    for row in document["rows"]:
        assert -1 < row["score"] < 1 and row["n_units"] > 500 and row["subject"] == "Cori"
    assert document["n_validation_trials"] == 23 and document["truth"] is None
