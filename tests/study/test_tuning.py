"""The search for settings: validation trials of pool sessions alone, scores that follow from stored runs."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sessionwise.analysis.statistics import bits_per_spike
from sessionwise.data.repeated_site import default_heldout, manifest
from sessionwise.data.store import open_store
from sessionwise.errors import EnvironmentProblem, LeakageError, Problems, SessionwiseError, UsageError
from sessionwise.io.files import read_json
from sessionwise.io.tensors import read_tensors
from sessionwise.model.ndt import NDTConfig
from sessionwise.runs import launch
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.study import scaling, tuning_plan
from sessionwise.study.recipe import make_recipe
from sessionwise.study.timing import Timing
from sessionwise.study.tuning import (
    is_tuning,
    load_tuning,
    make_tuning,
    plan_tuning,
    prepare,
    run_tuning,
    tuning_failures,
    tuning_table,
)
from sessionwise.study.tuning_recipe import Axis, Search, Variant, variants_of
from sessionwise.study.tuning_scores import (
    Fit,
    Fitted,
    Scored,
    choose,
    compare,
    core_parameters,
    lower_bound,
    mean_bits,
    weighted,
)
from sessionwise.training.presets import PAPER

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "tuning.toml"
HELD = "sim-heldout-0"
FILES = ("study.json", "tuning.csv", "tuning.json", "tuning.md")
SEEDS = [10, 20]


@pytest.fixture(scope="module")
def recipe(toy_settings):
    """Three learning rates, one of them absurd, and two models; two single sessions and a set of three."""

    def make(**more):
        value = {
            "name": "toy",
            "preset": "tiny",
            "data": {"heldout": [HELD]},
            "tuning": {
                "single": 2,
                "set_size": 3,
                "seeds": SEEDS,
                "grid": {"train.lr": [5e-3, 2e-2, 1e30]},
                "models": {"deep": {"blocks": 2}},
            },
        }
        for key, setting in toy_settings.items():
            section, name = key.split(".")
            value.setdefault(section, {})[name] = setting
        for key, part in more.items():
            value[key] = {**value.get(key, {}), **part} if isinstance(part, dict) else part
        return value

    return make


@pytest.fixture(scope="module")
def done(recipe, toy_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning") / "search"
    assert run_tuning(make_tuning(recipe()), folder, store=toy_store, on="here") == folder
    return folder, read_json(folder / "tuning.json")


def variant(document, name):
    return {entry["name"]: entry for entry in document["variants"]}[name]


def choice(document, setting):
    return {entry["setting"]: entry for entry in document["choices"]}[setting]


# A miniature search ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_pool_sessions_are_trained_on_and_no_test_trial_is_opened(done, toy_store):
    folder, document = done
    store, sessions = RunStore(folder / "runs"), open_store(toy_store)
    specs = [store.spec(key) for key in store.keys()]
    assert len(specs) == 4 * 3 * 2 and {spec.kind for spec in specs} == {"pretrain"}
    seen = {i for spec in specs for i in spec.sessions}
    assert HELD not in seen and seen == {*document["single"], *document["set"]}
    for spec in specs:
        assert spec.sessions == {i: sessions.load(i).trainval_hash for i in spec.sessions}
    assert not (folder / "test-openings").exists()
    assert "test" not in str(read_json(folder / "study.json")["splits"])


@pytest.mark.slow
def test_scores_recomputed_by_hand_from_the_stored_runs(done, toy_store):
    """Bits per spike of each run with plain arrays; then means over sessions, scopes and seeds."""
    folder, document = done
    store, sessions = RunStore(folder / "runs"), open_store(toy_store)
    for name in ("base", "train.lr = 0.02", "model deep"):
        by_scope = {"single": {seed: [] for seed in SEEDS}, "set": {seed: [] for seed in SEEDS}}
        for key in variant(document, name)["runs"]:
            spec = store.spec(key)
            stored = read_tensors(store.folder(key) / "validation.safetensors")
            history, spikes = stored["gain"], stored["spikes"]
            crossed = np.zeros(len(spikes))
            for half in (0, 1):
                judged = np.arange(len(spikes)) % 2 == half
                crossed[judged] = history[history[:, ~judged].sum(axis=1).argmax(), judged]
            start, bits = 0, []
            for i in sorted(spec.sessions):
                part = slice(start, start := start + len(sessions.load(i).split.validation))
                bits.append(crossed[part].sum() / spikes[part].sum() / math.log(2))
            assert start == len(spikes)
            scope = "single" if len(spec.sessions) == 1 else "set"
            by_scope[scope][spec.seed].append(np.mean(bits))
            if scope == "single":  # the job's own cross-fitted score of one session
                assert store.result(key)["cross_fitted"] and bits[0] == pytest.approx(store.result(key)["bps"])
        singles = [np.mean(by_scope["single"][seed]) for seed in SEEDS]
        sets = [np.mean(by_scope["set"][seed]) for seed in SEEDS]
        whole = [(a + b) / 2 for a, b in zip(singles, sets, strict=True)]
        entry = variant(document, name)
        assert entry["scopes"]["single"]["seed_scores"] == pytest.approx(singles)
        assert entry["scopes"]["set"]["seed_scores"] == pytest.approx(sets)
        assert entry["seed_scores"] == pytest.approx(whole)
        assert entry["score"] == pytest.approx(np.mean(whole)) and entry["sd"] == pytest.approx(np.std(whole, ddof=1))
        assert entry["core_parameters"] == core_of(store, entry["runs"][0])


def core_of(store, key):
    """Numbers in the core's file, but for the session embeddings that lie beside it (decision 0025)."""
    tensors = read_tensors(store.folder(key) / "core.safetensors")
    return sum(array.size for name, array in tensors.items() if not name.startswith("session"))


@pytest.mark.slow
def test_differences_choice_and_table_follow_from_the_scores(done):
    folder, document = done
    base = variant(document, "base")
    for name in ("train.lr = 0.02", "model deep"):
        entry = variant(document, name)
        d = entry["difference"]
        assert d["mean"] == pytest.approx(entry["score"] - base["score"], abs=1e-9)
        assert d["low"] < d["mean"] < d["high"] and d["level"] == 0.95
    rates = choice(document, "train.lr")
    assert [(m["value"], m["name"]) for m in rates["values"]] == [
        (0.005, "base"),
        (0.02, "train.lr = 0.02"),
        (1e30, "train.lr = 1e+30"),
    ]
    better = variant(document, "train.lr = 0.02")["score"] > base["score"]
    assert rates["best"] == (0.02 if better else 0.005) and rates["base"] == 0.005 and rates["n_missing"] == 1
    columns, rows = tuning_table(folder)
    assert len(rows) == 3 + 2 and {len(row) for row in rows} == {len(columns)}
    assert rows[0][:3] == ["model", "base", f"{base['score']:.4f}"]


@pytest.mark.slow
def test_a_diverged_value_is_rows_with_a_reason_and_cannot_be_chosen(done):
    folder, document = done
    bad = variant(document, "train.lr = 1e+30")
    assert (bad["state"], bad["score"], bad["difference"], bad["n_done"]) == ("diverged", None, None, 0)
    assert bad["reason"].startswith("6 of 6 runs without a score") and "step" in bad["reason"]
    assert tuning_failures(folder) == [{name: bad[name] for name in ("name", "state", "reason")}]
    with open(folder / "tuning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and len({row["run"] for row in rows}) == 24
    failed = [row for row in rows if row["state"] != "done"]
    assert {row["variant"] for row in failed} == {"train.lr = 1e+30"} and len(failed) == 6
    assert all(row["bps"] == "" and row["reason"] for row in failed)
    assert all(float(row["bps"]) <= float(row["bps_kept"]) + 0.2 for row in rows if row["state"] == "done")
    assert "diverged" in (folder / "tuning.md").read_text()


@pytest.mark.slow
def test_again_it_computes_nothing_and_writes_the_same_bytes(done, recipe, toy_store, monkeypatch):
    folder, _ = done
    before = {name: (folder / name).read_bytes() for name in FILES}
    monkeypatch.setattr(launch, "perform", lambda *a, **k: pytest.fail("computed again"))
    run_tuning(make_tuning(recipe(name="renamed")), folder, store=toy_store, on="here")
    assert {name: (folder / name).read_bytes() for name in ("study.json", "tuning.csv")} == {
        name: before[name] for name in ("study.json", "tuning.csv")
    }
    run_tuning(make_tuning(recipe()), folder, store=toy_store, on="here")
    assert {name: (folder / name).read_bytes() for name in FILES} == before


@pytest.mark.slow
def test_what_is_lost_is_computed_again_to_the_same_bytes(done, recipe, toy_store, tmp_path):
    folder, document = done
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lost = variant(document, "base")["runs"][:2]
    for key in lost:
        shutil.rmtree(copy / "runs" / key)
    plan = plan_tuning(make_tuning(recipe()), copy, toy_store)
    assert (plan.total.most, plan.total.there) == (24, 22) and plan.row("base").there == 4
    (copy / "tuning.json").unlink()
    run_tuning(make_tuning(recipe()), copy, store=toy_store, on="here")
    assert {name: (copy / name).read_bytes() for name in FILES} == {
        name: (folder / name).read_bytes() for name in FILES
    }
    assert read_json(copy / "timing.json")["added"]["runs"] == 2


@pytest.mark.slow
def test_one_seed_and_no_set_give_scores_and_judge_nothing(recipe, toy_store, tmp_path):
    value = recipe()
    value["tuning"] = {"single": 1, "set_size": 0, "seeds": [10], "grid": {"train.lr": [2e-2]}}
    run_tuning(make_tuning(value), tmp_path / "s", store=toy_store, on="here")
    document = read_json(tmp_path / "s" / "tuning.json")
    rates = choice(document, "train.lr")
    assert [m["value"] for m in rates["values"]] == [0.005, 0.02]  # the base is there although it is not listed
    assert variant(document, "base")["sd"] is None and list(variant(document, "base")["scopes"]) == ["single"]
    assert not rates["told_apart"] and rates["verdict"] in ("base", "not told apart")


# One search a folder, pool sessions only ------------------------------------------------------------------------------


def test_another_search_in_the_same_folder_is_refused_by_its_first_difference(recipe, toy_store, tmp_path):
    prepare(make_tuning(recipe()), tmp_path / "s", toy_store)
    before = (tmp_path / "s" / "study.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds study 'toy' with tuning\.seeds = .*; need tuning\.seeds = \[1, 2\]"):
        prepare(make_tuning(recipe(tuning={"seeds": [1, 2]})), tmp_path / "s", toy_store)
    with pytest.raises(UsageError, match=r"train\.epochs"):
        prepare(make_tuning(recipe(train={"epochs": 7})), tmp_path / "s", toy_store)
    prepare(make_tuning(recipe(name="other")), tmp_path / "s", toy_store)
    assert (tmp_path / "s" / "study.json").read_bytes() == before


def test_a_search_in_blocks_is_another_search(recipe, toy_store, tmp_path):
    random = prepare(make_tuning(recipe(split="random")), tmp_path / "s", toy_store)
    assert "split" not in read_json(tmp_path / "s" / "study.json")["identity"]["recipe"]
    blocked = prepare(make_tuning(recipe(split="blocked")), tmp_path / "b", toy_store)
    assert {fit.spec.settings["split"] for fit in blocked.fits()} == {"blocked"}
    assert not {fit.spec.key for fit in random.fits()} & {fit.spec.key for fit in blocked.fits()}
    assert blocked.tuning.as_recipe().split == "blocked"
    with pytest.raises(UsageError, match="split = blocked"):
        prepare(make_tuning(recipe(split="blocked")), tmp_path / "s", toy_store)


def test_a_search_and_a_scaling_study_do_not_share_a_folder(recipe, toy_store, tmp_path):
    study = make_recipe({"preset": "tiny", "data": {"heldout": [HELD]}, "study": {"sizes": [1, 2, "all"], "top": 2}})
    prepare(make_tuning(recipe()), tmp_path / "s", toy_store)
    with pytest.raises(UsageError, match="kind = tuning"):
        scaling.prepare(study, tmp_path / "s", toy_store)
    scaling.prepare(study, tmp_path / "t", toy_store)
    with pytest.raises(UsageError, match="need kind = tuning"):
        prepare(make_tuning(recipe()), tmp_path / "t", toy_store)


def test_changed_recordings_and_foreign_folders_are_refused(recipe, toy_store, tmp_path):
    prepare(make_tuning(recipe()), tmp_path / "s", toy_store)
    document = read_json(tmp_path / "s" / "study.json")
    changed = min(document["sessions"])
    document["sessions"][changed]["trainval_hash"] = "0" * 64
    (tmp_path / "s" / "study.json").write_text(json.dumps(document))
    (tmp_path / "s" / "manifest.json").unlink()  # else the edited file is refused for its hash (exit 5)
    with pytest.raises(UsageError, match=f"other content of {changed}"):
        prepare(make_tuning(recipe()), tmp_path / "s", toy_store)
    (tmp_path / "s" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds 'thesis\.txt'"):
        prepare(make_tuning(recipe()), tmp_path / "s", toy_store)


def test_a_held_out_session_in_the_pool_is_a_leak_named_first_with_all_else(recipe, toy_store, tmp_path):
    wrong = make_tuning(
        recipe(data={"pool": ["sim-00", HELD, "nobody"]}, tuning={"single": ["sim-00", HELD], "set_size": 9})
    )
    with pytest.raises(Problems) as caught:
        run_tuning(wrong, tmp_path / "s", store=toy_store)
    assert isinstance(caught.value.problems[0], LeakageError) and caught.value.exit_code == 6
    for part in ("also in the pool", "searched on", "'nobody' is not in the store", "9 of"):
        assert part in str(caught.value), part
    assert not (tmp_path / "s").exists()


def test_a_leak_is_said_beside_a_misspelt_key(toy_store, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        f'[data]\nstore = "{toy_store}"\nheldout = ["{HELD}"]\npool = ["{HELD}", "sim-00"]\n'
        '[tuning]\nset_size = 0\nsingle = 1\nsedes = [1]\n[tuning.grid]\n"train.lr" = [1e-3]\n'
    )
    with pytest.raises(Problems) as caught:
        load_tuning(path)
    assert caught.value.exit_code == 6 and "unknown key 'tuning.sedes'" in str(caught.value)


def test_sessions_come_from_the_random_order_of_the_pool(recipe, toy_store, tmp_path):
    found = prepare(make_tuning(recipe()), tmp_path / "s", toy_store).chosen
    assert set(found.single) < set(found.together) < set(found.pool) == {f"sim-0{n}" for n in range(4)}
    other = prepare(make_tuning(recipe(split_seed=3)), tmp_path / "t", toy_store).chosen
    assert (other.single, other.together) != (found.single, found.together)
    named = prepare(make_tuning(recipe(tuning={"single": ["sim-02"]})), tmp_path / "u", toy_store).chosen
    assert named.single == ("sim-02",)
    filtered = recipe(data={"heldout": [], "pool": "n_trials > 0"})
    assert HELD in prepare(make_tuning(filtered), tmp_path / "v", toy_store).chosen.pool  # nothing is held out


def test_simulated_sessions_hold_theirs_out(recipe, tmp_path):
    sizes = {"n_sessions": 3, "n_trials": (60, 70), "n_units": (8, 10), "n_bins": 12, "bad_share": 0.0}
    value = recipe(data={"heldout": [], "simulate": sizes})
    found = prepare(make_tuning(value), tmp_path / "s").chosen
    assert found.heldout == ("sim-heldout-0", "sim-heldout-1") and len(found.pool) == 3
    assert prepare(make_tuning(value), tmp_path / "s").chosen == found


# The recipe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": {}, "models": {}}, "is empty"),
        ({"grid": {"train.lr": []}}, "train.lr: []; need at least one value"),
        ({"grid": {"train.lrr": [1e-3]}}, "unknown key 'train.lrr'; need model.* or train.*. Did you mean 'train.lr'?"),
        ({"grid": {"finetune.lr": [1e-3]}}, "unknown key 'finetune.lr'"),
        ({"grid": {"evaluation.folds": [4]}}, "unknown key 'evaluation.folds'"),
        ({"grid": {"train.lr": [-1.0]}}, "train.lr: -1"),
        ({"grid": {"train.lr": ["fast"]}}, "'fast'"),
        ({"grid": {"train.lr": [1e-3, 0.001]}}, "each setting once"),
        ({"grid": {"train.lr": 1e-3}}, "tuning.grid.train.lr: 0.001; need a valid array"),
        ({"grid": {"model.heads": [3]}}, "must divide width"),
        ({"models": {"big": {"blokcs": 9}}}, "unknown key 'blokcs'; need of [model]. Did you mean 'blocks'?"),
        ({"gird": {"train.lr": [1e-3]}}, "unknown key 'tuning.gird'"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"set_size": 1}, "0 or at least 2"),
        ({"single": 0, "set_size": 0}, "at least one of them"),
        ({"search": "all"}, "one-at-a-time"),
        ({"search": "grid", "grid": {"train.lr": [n / 1e4 for n in range(1, 1002)]}}, "1,001 combinations"),
        ({"search": "grid", "grid": {"model.blocks": [1]}}, "is changed by tuning.models too"),
    ],
)
def test_what_cannot_be_tried_is_refused(recipe, change, said):
    with pytest.raises(SessionwiseError) as caught:
        make_tuning(recipe(tuning=change))
    assert said in str(caught.value)


def test_a_section_of_a_scaling_study_has_no_place_in_a_search(recipe):
    with pytest.raises(UsageError, match="unknown key 'study'"):
        make_tuning(recipe(study={"sizes": [1]}))


@pytest.mark.parametrize("wrong", [3, {"grid": 3}, {"models": [1]}, {"grid": {"train": 3}}, {"models": {"a": 1}}])
def test_a_section_of_another_kind_is_refused(recipe, wrong):
    with pytest.raises(SessionwiseError, match="tuning"):
        make_tuning({**recipe(), "tuning": wrong})


def test_a_recipe_is_a_search_by_its_section(tmp_path):
    assert is_tuning(RECIPE)
    assert not is_tuning(ROOT / "recipes" / "paper.toml")


def test_settings_are_changed_for_one_call_in_either_form_of_a_key(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[tuning]\nsingle = 1\n[tuning.grid]\n"train.lr" = [1e-3]\n')
    grid = load_tuning(path, ["tuning.grid.train.lr=[2e-3, 3e-3]", "tuning.seeds=[7]"]).tuning
    assert grid.grid == {"train.lr": (2e-3, 3e-3)} and grid.seeds == (7,)
    path.write_text('[tuning.grid]\n"train.lr" = [1e-3]\n[tuning.grid.train]\nlr = [2e-3]\n')
    with pytest.raises(UsageError, match="named twice"):
        load_tuning(path)


def test_one_setting_at_a_time_or_all_combinations(recipe):
    values = {"train.lr": [1e-3, 5e-3], "train.batch_size": [8, 16]}  # the base has 5e-3 and 16
    one, axes = variants_of(make_tuning(recipe(tuning={"grid": values})))
    assert [v.name for v in one] == ["base", "model deep", "train.lr = 0.001", "train.batch_size = 8"]
    assert {a.name: [name for _, name in a.members].index("base") for a in axes} == {
        "model": 0,
        "train.lr": 1,
        "train.batch_size": 1,
    }
    every, (axis,) = variants_of(make_tuning(recipe(tuning={"grid": values, "search": "grid"})))
    assert len(every) == 1 + 4 and len(axis.members) == 1 + 4  # no combination has the base's model
    several = make_tuning(recipe(tuning={"grid": values, "search": "grid", "models": {"a": {"blocks": 1}}}))
    every, (axis,) = variants_of(several)
    pairs = {(v.settings.train.lr, v.settings.train.batch_size) for v in every}
    assert len(every) == len(axis.members) == 4 and pairs == {(r, b) for r in (1e-3, 5e-3) for b in (8, 16)}


# The paper's search ---------------------------------------------------------------------------------------------------


def test_the_named_models_have_the_papers_numbers_of_shared_parameters():
    models = {v.value: v.settings.model for v in variants_of(load_tuning(RECIPE))[0] if v.axis == "model"}
    models["12M"] = PAPER.model
    counts = {name: core_parameters(config, 150) for name, config in models.items()}
    assert {name: f"{count / 1e6:.0f}M" for name, count in counts.items()} == {
        name: name for name in ("8M", "12M", "24M", "38M")
    }
    for name, config in models.items():
        assert counts[name] == closed_form(config, 150)


def closed_form(c: NDTConfig, n_bins: int) -> int:
    """Weights and biases of the parts of protocol A6 and A7."""
    hidden = c.embedder_factor * c.token_width
    embedder = (c.token_width + 1) * hidden + (hidden + 1) * c.width
    attention = (c.width + 1) * 3 * c.width + (c.width + 1) * c.width
    feedforward = (c.width + 1) * c.feedforward + (c.feedforward + 1) * c.width
    norms = 2 * 2 * c.width
    rest = n_bins * c.width + c.width + 2 * c.width  # positions, masking-scheme token, last norm
    return embedder + c.blocks * (attention + feedforward + norms) + rest


def test_the_base_of_the_papers_search_is_table_a1():
    tuning = load_tuning(RECIPE)
    assert tuning.settings == PAPER.settled()
    for axis in variants_of(tuning)[1]:
        assert "base" in [name for _, name in axis.members] and len(axis.members) in (3, 4)
    models = variants_of(tuning)[1][0].members
    assert [name for name, _ in models] == ["8M", "12M", "24M", "38M"] and dict(models)["12M"] == "base"


def test_the_plan_of_the_papers_search_by_hand(monkeypatch):
    monkeypatch.setattr(tuning_plan, "measure", lambda *a, **k: Timing(1.0, 0.5, 0.1, 1, 150, 693))
    plan = plan_tuning(load_tuning(RECIPE), store="there is none", on="here")
    variants = 1 + 3 + 3 + 2 + 2 + 2  # base, models, lr, dropout, weight decay, batch size
    assert plan.total.most == plan.total.least == variants * (3 + 1) * 2
    assert plan.total.hours_paper == variants * (3 + 10) * 2
    assert [(row.purpose, row.most) for row in plan.rows] == [
        ("base", 8),
        ("model", 24),
        ("train.lr", 24),
        ("train.weight_decay", 16),
        ("train.batch_size", 16),
        ("model.dropout", 16),
    ]
    assert plan.row("train.lr").asked == 4 * 4 * 2
    assert plan.row("train.lr").steps == 3 * plan.row("base").steps  # the same epochs, the same batches
    chosen = 84
    assert f"a pool of {chosen} sessions, 5 held out" in plan.notes[0]
    assert plan.row("base").hours_here > plan.row("base").steps / 3600  # a second a step, and validations


def test_held_out_sessions_of_the_manifest_are_in_no_set():
    from sessionwise.study.tuning_sessions import draw_sessions

    pool = sorted(entry.eid for entry in manifest() if entry.usable and entry.eid not in default_heldout())
    problems = []
    drawn = draw_sessions(load_tuning(RECIPE), default_heldout(), pool, problems)
    assert not problems and len(drawn.together) == 10 and set(drawn.single) < set(drawn.together)
    assert not set(drawn.used) & set(default_heldout())


def test_steps_of_the_plan_are_those_of_the_runs(recipe, toy_store, tmp_path, monkeypatch):
    def absent(*a, **k):
        raise EnvironmentProblem("device cuda", "is not here", "a GPU")

    monkeypatch.setattr(tuning_plan, "measure", absent)
    value = recipe(tuning={"grid": {"train.batch_size": [8, 32]}})
    value["train"] = {"epochs": 5, "validations": 4}
    tuning = make_tuning(value)
    plan = plan_tuning(tuning, store=toy_store)
    search = prepare(tuning, tmp_path / "s", toy_store)
    assert plan.total.steps == sum(fit.spec.steps for fit in search.fits())
    assert plan.total.hours_here is None and any("is not here" in note for note in plan.notes)
    assert plan.notes[-1].startswith("Memory: about ")
    assert plan.row("train.batch_size").steps != 2 * plan.row("base").steps


# Scores and choices from hand-made arrays -----------------------------------------------------------------------------


def hand_made(variant_name, scope, ids, seed, gains):
    """A finished run: gains and spikes by session."""
    fit = Fit(Variant(variant_name, "x", 0, PAPER), scope, ids, seed, RunSpec("pretrain", {"n": variant_name}))
    return Fitted(fit, Outcome(fit.spec.key, "done"), gains, gains, {"steps": 1})


def test_each_session_counts_the_same_in_its_scope_and_each_scope_too():
    """Sessions of 100 and 10 spikes, singles (a) and the set (a, b): means worked out by hand, in bits."""
    ln2 = math.log(2)
    a, b = np.array([60.0, 40.0]), np.array([4.0, 4.0, 2.0])
    single = hand_made("v", "single", ("a",), 1, {"a": (np.array([12.0, 8.0]) * ln2, a)})  # 0.2 bits
    both = {"a": (np.array([10.0, 0.0]) * ln2, a), "b": (np.array([1.0, 1.0, 3.0]) * ln2, b)}  # 0.1 and 0.5
    together = hand_made("v", "set", ("a", "b"), 1, both)
    assert mean_bits(both) == pytest.approx(0.3)
    gain, weight = weighted([single, together], [1], {"a": 2, "b": 3})
    assert gain.shape == (1, 5) and weight.sum() == pytest.approx(1)
    assert bits_per_spike(gain, weight)[0] == pytest.approx((0.2 + 0.3) / 2)
    gain, weight = weighted([together], [1], {"a": 2, "b": 3})
    assert bits_per_spike(gain, weight)[0] == pytest.approx(0.3)
    assert weight == pytest.approx([0.3, 0.2, 0.2, 0.2, 0.1])


def scored(name, score, difference=None, state="done"):
    value = None if state != "done" else score
    return Scored({"name": name, "score": value, "difference": difference, "scopes": {}, "state": state}, None, None)


def interval(mean, sd):
    return {"mean": mean, "low": mean - 1.959964 * sd, "high": mean + 1.959964 * sd, "level": 0.95}


AXIS = Axis("train.lr", ((1, "base"), (2, "b"), (3, "c")))


@pytest.mark.parametrize(
    ("entries", "best", "verdict"),
    [
        ([scored("b", 0.3, interval(0.1, 0.02)), scored("c", 0.1, interval(-0.1, 0.02))], 2, "chosen"),
        ([scored("b", 0.3, interval(0.1, 0.08)), scored("c", 0.1, interval(-0.1, 0.02))], 2, "not told apart"),
        ([scored("b", 0.1, interval(-0.1, 0.02)), scored("c", 0.2, interval(0.0, 0.02))], 1, "base"),
        ([scored("b", 9.9, state="diverged"), scored("c", 0.25, interval(0.05, 0.01))], 3, "chosen"),
        # 2.1 standard errors: above zero alone, not as the better of two
        ([scored("b", 0.242, interval(0.042, 0.02)), scored("c", 0.1, interval(-0.1, 0.02))], 2, "not told apart"),
    ],
)
def test_the_best_mean_is_chosen_and_said_to_be_told_apart_or_not(entries, best, verdict):
    table = {"base": scored("base", 0.2), "b": entries[0], "c": entries[1]}
    found = choose(AXIS, table, n_seeds=2, n_trials=100)
    assert (found["best"], found["verdict"], found["told_apart"]) == (best, verdict, verdict == "chosen")
    assert "train.lr" in found["text"]
    for few in ({"n_seeds": 1, "n_trials": 100}, {"n_seeds": 2, "n_trials": 7}):
        assert not choose(AXIS, table, **few)["told_apart"]


def test_without_a_base_nothing_is_compared():
    table = {"base": scored("base", 0, state="failed"), "b": scored("b", 0.3), "c": scored("c", 0.1)}
    found = choose(AXIS, table, 2, 100)
    assert (found["best"], found["verdict"], found["told_apart"]) == (2, "no score", False)
    nothing = {name: scored(name, 0, state="diverged") for name in ("base", "b", "c")}
    assert choose(AXIS, nothing, 2, 100)["best"] is None


def test_the_interval_is_widened_for_several_comparisons():
    assert lower_bound(interval(1.0, 0.5), 1) == pytest.approx(1 - 1.959964 * 0.5, abs=1e-5)
    assert lower_bound(interval(1.0, 0.5), 2) == pytest.approx(1 - 2.241403 * 0.5, abs=1e-5)


def test_a_gap_that_every_seed_and_trial_shows_has_a_narrow_interval_and_noise_a_wide_one():
    rng = np.random.default_rng(0)
    spikes, start = np.full(40, 10.0), rng.normal(size=(3, 40))
    weight = spikes / spikes.sum()

    def made(name, gain):
        share = gain / spikes.sum()
        scores = [float(x) for x in bits_per_spike(share, weight)]
        return Scored({"name": name, "seed_scores": scores, "difference": None}, share, weight)

    table = {"base": made("base", start), "up": made("up", start + 1.0), "noise": made("noise", start[::-1].copy())}
    compare(table, 0)
    up, noise = (table[name].entry["difference"] for name in ("up", "noise"))
    assert up["mean"] == pytest.approx(40 / 400 / math.log(2))
    assert up["low"] > 0 and noise["low"] < 0 < noise["high"]
    assert table["base"].entry["difference"] is None


def test_the_page_on_tuning_names_every_key_with_its_default():
    page = (ROOT / "docs" / "tuning.md").read_text()
    rows = {name: cell.strip().strip("`") for name, cell in re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)}
    assert set(rows) == set(Search.model_fields)
    for name, field in Search.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert rows[name] == ("" if default == {} else json.dumps(default)), name
