"""The command ``study`` from outside: a whole miniature study, killed at the barrier; its refusals; its plan."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

HELD = ("sim-heldout-0", "sim-03")
FILES = ("study.json", "results.csv", "results.safetensors", "results.json", "report/report.json", "report/index.html")

RECIPE = """
name = "miniature"
preset = "tiny"

[data]
heldout = ["sim-heldout-0", "sim-03"]

[study]
seeds = [10, 20]
sizes = [1, 2, "all"]
top = 2
references = ["psth", "glm"]

[controls]
own_core = true
step_matched = true
trial_matched = [2]
other_targets = [2]
many_shuffles = { size = 2, n = 4 }
fresh_seeds = [30]
full_finetune = [2]
"""


def command(*arguments):
    return [sys.executable, "-m", "sessionwise", *map(str, arguments)]


def sessionwise(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, toy_settings):
    sections = {}
    for key, value in toy_settings.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    text = RECIPE + "".join(f"\n[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    path = tmp_path_factory.mktemp("recipe") / "miniature.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def whole(recipe, toy_store, tmp_path_factory):
    study = tmp_path_factory.mktemp("whole") / "study"
    return study, sessionwise("study", recipe, "--store", toy_store, "--to", study)


def outputs(study):
    return {name: (study / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_a_study_prints_its_answer_and_writes_everything(whole):
    study, done = whole
    assert done.returncode == 0, done.stderr
    document = json.loads((study / "report" / "report.json").read_text())
    for sentence in document["answer"]["text"]:
        assert sentence in done.stdout
    for claim in document["claims"]:
        assert claim["text"] in done.stdout and claim["verdict"] in done.stdout
    assert str(study / "report" / "index.html") in done.stdout and "Traceback" not in done.stderr
    assert list((study / "report" / "figures").glob("*.pdf")) and list((study / "report" / "tables").glob("*.tex"))


@pytest.mark.slow
def test_report_again_gives_the_same_bytes(whole):
    study, _ = whole
    before = {p: p.read_bytes() for p in sorted((study / "report").rglob("*")) if p.is_file()}
    for path in before:
        path.unlink()
    done = sessionwise("report", study)
    assert done.returncode == 0, done.stderr
    assert {p: p.read_bytes() for p in sorted((study / "report").rglob("*")) if p.is_file()} == before


@pytest.mark.slow
def test_killed_at_the_barrier_it_goes_on_to_the_same_bytes(whole, recipe, toy_store, tmp_path):
    """P1: killed when the rankings are written and the ranked prefixes begin; the same command, no flag."""
    study = tmp_path / "study"
    arguments = ("study", recipe, "--store", toy_store, "--to", study)
    driver = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while len(list(study.glob("rankings/*/*/ranking.json"))) < 2:
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (study / "results.csv").exists()
    before = {p.name: (p / "manifest.json").stat().st_mtime_ns for p in study.glob("runs/*") if len(p.name) == 64}
    refused = sessionwise("report", study)
    done = sessionwise(*arguments)
    assert done.returncode == 0, done.stderr
    assert outputs(study) == outputs(whole[0])
    assert all((study / "runs" / key / "manifest.json").stat().st_mtime_ns == when for key, when in before.items())
    assert refused.returncode in (0, 2) and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_plan_trains_nothing_and_knows_what_is_there(whole, recipe, toy_store, tmp_path):
    study, _ = whole
    fresh = sessionwise("study", recipe, "--store", toy_store, "--dry-run", "--to", tmp_path / "none")
    assert fresh.returncode == 0, fresh.stderr
    assert "single-session models" in fresh.stdout and not (tmp_path / "none").exists()
    known = sessionwise("study", recipe, "--store", toy_store, "--dry-run", "--to", study)
    assert known.returncode == 0 and known.stdout != fresh.stdout


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        (["data.heldout=['sim-heldout-0', 'sim-03']", "data.pool=['sim-00', 'sim-01', 'sim-03']"], 6, ["LEAK"]),
        (["data.pool=['sim-00', 'sim-03']", "study.seds=[1]", "study.sizes=[1, 9]"], 6, ["LEAK", "seeds", "k=9"]),
        (["study.sizes=[1, 2, 40]"], 2, ["k=40 but 3 candidates"]),
        (["study.seds=[1, 2]"], 2, ["Did you mean 'seeds'"]),
        (["train.lr='fast'"], 2, ["train.lr"]),
        (["data.heldout=['sim-03', 'sim-03']"], 2, ["named twice"]),
        (["data.heldout=['sim-3']"], 2, ["Did you mean 'sim-03'"]),
        (["controls.other_targets=[2]", "data.heldout=['sim-03']"], 2, ["at least two"]),
    ],
)
def test_what_cannot_be_meant_is_said_before_any_training(recipe, toy_store, tmp_path, changes, code, says, capsys):
    from sessionwise.cli import main

    settings = [part for change in changes for part in ("--set", change)]
    with pytest.raises(SystemExit) as stop:
        main(["study", str(recipe), "--store", str(toy_store), *settings, "--to", str(tmp_path / "study")])
    errors = capsys.readouterr().err
    assert stop.value.code == code and all(part in errors for part in says), errors
    assert "LEAK" not in errors or errors.splitlines()[0].count("LEAK") == 1
    assert "Traceback" not in errors and not (tmp_path / "study").exists()


def test_a_missing_folder_and_a_missing_recipe_are_one_line(recipe, toy_store, tmp_path, capsys):
    from sessionwise.cli import main

    for arguments in (["study", str(recipe)], ["study", str(tmp_path / "none.toml"), "--to", str(tmp_path / "s")]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.startswith("error: ") and len(errors.splitlines()) == 1
