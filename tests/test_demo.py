"""The demo: the same bytes for the same seed, an honest account of what it found, and a folder that it owns."""

import json

import pytest

from sessionwise.errors import UsageError
from sessionwise.io.files import read_json
from sessionwise.study import demo as demo_module
from sessionwise.study.demo import demo_sessions, run_demo


@pytest.fixture
def few(monkeypatch, toy_settings):
    """A demo of seconds: four small sessions, short trainings."""
    sizes = {"n_sessions": 4, "n_trials": (60, 70), "n_units": (8, 10), "n_bins": 12, "bad_share": 0.0}
    monkeypatch.setattr(demo_module, "POOL", {**demo_module.POOL, **sizes})
    return toy_settings


def files(folder):
    """Everything that follows from the seed; timing apart."""
    kept = [
        p for p in folder.rglob("*") if p.is_file() and p.name in ("ranking.json", "ranking.csv", "comparison.json")
    ]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in kept}


@pytest.mark.slow
def test_same_seed_same_bytes_and_the_comparison_says_what_it_found(few, tmp_path):
    one, two = (run_demo(tmp_path / name, seed=4, on="here", overrides=few) for name in ("one", "two"))
    assert files(tmp_path / "one") == files(tmp_path / "two") and len(files(tmp_path / "one")) == 3
    arms = {arm["name"]: arm for arm in one.comparison["arms"]}
    assert set(arms) == {"ranked 3", "random 3", "reverse 3", "baseline"}
    assert arms["ranked 3"]["sessions"] == sorted(one.ranking.top(3))
    assert arms["reverse 3"]["sessions"] == sorted(one.ranking.bottom(3))
    found = sorted(arms, key=lambda name: -arms[name]["bps"])
    assert [one.comparison["note"].index(name) for name in found] == sorted(
        one.comparison["note"].index(n) for n in found
    )
    for name, arm in arms.items():
        if name != "baseline":
            assert arm["difference"]["mean"] == pytest.approx(arm["bps"] - arms["baseline"]["bps"], abs=1e-9)
    openings = list((tmp_path / "one" / "test-openings").glob("*.json"))
    finals = {key for arm in arms.values() for key in arm["runs"]}  # equal sets are one run
    assert {p.stem for p in openings} == finals and len(finals) >= 4
    assert all(json.loads(p.read_text())["attempts"] == 1 for p in openings)
    assert two.report.exists()


def test_the_demo_keeps_to_its_own_folder(few, tmp_path):
    demo_sessions(tmp_path / "demo", seed=0)
    assert demo_sessions(tmp_path / "demo", seed=0)[1] == "sim-heldout-0"
    with pytest.raises(UsageError, match="holds the demo of seed 0; need seed 1"):
        demo_sessions(tmp_path / "demo", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        demo_sessions(tmp_path / "mine", seed=0)


def test_an_interrupted_demo_goes_on_with_the_same_sessions(few, tmp_path):
    first, _ = demo_sessions(tmp_path / "demo", seed=0)
    manifests = {i: read_json(tmp_path / "demo" / "store" / first.info(i).folder.name / "manifest.json") for i in first}
    again, _ = demo_sessions(tmp_path / "demo", seed=0)
    assert {
        i: read_json(tmp_path / "demo" / "store" / again.info(i).folder.name / "manifest.json") for i in again
    } == manifests
