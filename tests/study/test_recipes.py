"""The recipes that come with the project: each loads, lays out and plans, and says what it is meant to say."""

import tomllib
from pathlib import Path

import pytest

from sessionwise.data.repeated_site import manifest
from sessionwise.data.store import open_store
from sessionwise.errors import Problems
from sessionwise.study import dry_run
from sessionwise.study.cells import ranking_jobs
from sessionwise.study.layout import lay_out, lay_out_manifest
from sessionwise.study.plan import plan
from sessionwise.study.recipe import load_recipe, make_recipe
from sessionwise.study.scaling import study_sessions
from sessionwise.study.timing import Timing
from sessionwise.training.presets import PAPER, PRESETS

FOLDER = Path(__file__).parents[2] / "recipes"
STUDIES = [path for path in sorted(FOLDER.glob("*.toml")) if "tuning" not in tomllib.loads(path.read_text())]
SIMULATED = ("demo", "control-no-closeness")
TIMING = Timing(step=0.01, frozen_step=0.008, trial=0.0008, workers=2, n_bins=40, n_units=60)


def recipe(name, *changes):
    return load_recipe(FOLDER / f"{name}.toml", changes)


def test_the_recipes_are_here():
    assert {path.stem for path in STUDIES} >= {"demo", "small", "paper", "control-no-closeness"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_recipe_holds_differences_from_the_defaults_only(path):
    value, defaults = tomllib.loads(path.read_text()), make_recipe({}).model_dump(mode="json")
    for section in ("study", "controls"):
        for key, found in value.get(section, {}).items():
            assert found != defaults[section][key], f"{section}.{key} is the default"
    settings = PRESETS[value["preset"]].model_dump(mode="json")
    for section in ("model", "train", "finetune", "baseline", "evaluation"):
        for key, found in value.get(section, {}).items():
            assert found != settings[section][key], f"{section}.{key} is the preset's"


def test_the_paper_to_the_letter():
    asked = recipe("paper")
    layout = lay_out_manifest(asked)
    assert (len(layout.pool), len(layout.heldout)) == (84, 5) and not set(layout.pool) & set(layout.heldout)
    assert layout.seeds == (10, 20, 42) and layout.split_seeds == (0,)
    assert layout.sizes == (1, 2, 3, 4, 5, 10, 20, 30, 40, 84) and asked.study.top == 5
    assert asked.study.orders == ("ranked", "reverse_ranked", "random") and asked.study.shuffles == 3
    assert asked.settings == PAPER.settled() and asked.study.references == ()
    assert not any(asked.controls.model_dump().values())


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_study_lays_out_and_is_small(name, tmp_path):
    sessions, asked = study_sessions(recipe(name), tmp_path, None)
    layout = lay_out(asked, sessions)
    assert (len(layout.pool), len(layout.heldout), layout.sizes, layout.seeds) == (10, 2, (1, 2, 3, 5, 10), (10, 20))
    trials = [layout.trials[i][0] for i in layout.pool]
    assert max(trials) > 2 * min(trials)  # so that large sessions can be told from close ones
    made = plan(layout, timing=TIMING)
    assert len(ranking_jobs(layout)["single-session models"]) == 20
    assert made.total.hours_here < 0.2  # six of these within an hour, on two cores that take 10 ms a step


def test_the_control_is_the_demo_without_closeness():
    ours, control = (tomllib.loads((FOLDER / f"{name}.toml").read_text()) for name in SIMULATED)
    assert ours["data"]["simulate"].pop("shift") == 5.0 and control["data"]["simulate"].pop("shift") == 0.0
    assert ours.pop("name") != control.pop("name") and ours == control


@pytest.mark.parametrize("name", SIMULATED)
def test_other_generator_seeds_come_from_the_command_line(name):
    assert recipe(name).data.simulate.seed == 0
    assert recipe(name, "data.simulate.seed=2").data.simulate.seed == 2


def test_small_takes_any_store(toy_store, monkeypatch):
    monkeypatch.setattr(dry_run, "measure", lambda *_args, **_more: TIMING)
    asked = recipe("small", "data.heldout=['sim-heldout-0']", "study.sizes=[1, 2, 3, 'all']")
    assert asked.data.store == "my-store" and asked.settings == PRESETS["small"].settled()
    made = dry_run.plan_recipe(asked, store=toy_store)
    assert made.row("single-session models").most == 4 * 2 and made.row("psth").most == made.row("glm").most == 1
    assert "not timed" in made.notes[-3]


def test_a_manifest_names_the_sessions_of_a_store_too(toy_store):
    from sessionwise.errors import Problems

    with pytest.raises(Problems) as refused:  # a store that holds other sessions: each of the 89 is missing
        lay_out(recipe("paper"), open_store(toy_store))
    missing = [str(problem) for problem in refused.value.problems if "is not in the store" in str(problem)]
    assert len(missing) == 89 and any("5dcee0eb-b34d-4652-acc3-d10afc6eae68" in line for line in missing)
    assert not any("38d95489-2e82-412a-8c1a-c5377b5f1555" in line for line in missing)


def test_a_plan_names_leakage_and_repeats_before_anything_else():
    one, two, three = [entry.eid for entry in manifest() if entry.usable][:3]
    data = {"manifest": "repeated_site", "heldout": [one, one], "pool": [one, two, three, three]}
    asked = make_recipe({"preset": "tiny", "data": data, "study": {"sizes": [1, "all"], "top": 1, "seeds": [1, 2]}})
    with pytest.raises(Problems) as refused:
        lay_out_manifest(asked)
    lines = [str(problem) for problem in refused.value.problems]
    assert refused.value.exit_code == 6 and lines[0].startswith(f"session {one!r}: LEAK: is held out and in the pool")
    assert any(f"data.heldout: session {one!r} is named twice" in line for line in lines)
    assert any(f"data.pool: session {three!r} is named twice" in line for line in lines)
