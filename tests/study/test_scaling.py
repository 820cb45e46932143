"""The engine of a study on a toy store: every cell is a row, nothing is computed twice, one study a folder."""

import json
import shutil

import numpy as np
import pytest

from sessionwise.analysis.results import open_results
from sessionwise.data.session import make_session
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import LeakageError, Problems, UsageError
from sessionwise.io.code import code_version
from sessionwise.io.files import read_json
from sessionwise.runs import launch
from sessionwise.runs.store import RunStore
from sessionwise.scoring.likelihood import pooled_bits
from sessionwise.selection import ranking
from sessionwise.study import scaling
from sessionwise.study.cells import Job
from sessionwise.study.recipe import make_recipe
from sessionwise.study.scaling import prepare, run_study

HELD = ("sim-heldout-0", "sim-03")
TABLES = ("study.json", "results.csv", "results.safetensors", "results.json", "transfer.csv")


@pytest.fixture(scope="module")
def recipe(toy_settings):
    """Two held-out sessions, a pool of three, one of everything."""

    def make(**more):
        value = {
            "name": "toy",
            "preset": "tiny",
            "data": {"heldout": list(HELD), **more.pop("data", {})},
            "study": {
                "seeds": [10, 20],
                "sizes": [1, 2, "all"],
                "top": 2,
                "shuffles": 2,
                "references": ["psth", "glm"],
            },
            "controls": {
                "own_core": True,
                "baseline_doubled": True,
                "step_matched": True,
                "trial_matched": [2],
                "other_targets": [2],
                "many_shuffles": {"size": 2, "n": 3},
                "fresh_seeds": [30],
                "full_finetune": [2, "all"],
                "minus_worst": [1],
                "transfer_matrix": True,
            },
        }
        for key, setting in toy_settings.items():
            section, name = key.split(".")
            value.setdefault(section, {})[name] = setting
        for key, part in more.items():
            value[key] = {**value.get(key, {}), **part} if isinstance(part, dict) else part
        return make_recipe(value)

    return make


@pytest.fixture(scope="module")
def done(recipe, toy_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling") / "study"
    run_study(recipe(), folder, store=toy_store, on="here")
    return folder, open_results(folder)


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.mark.slow
def test_every_cell_is_a_row_with_its_score_from_its_run(done, toy_store):
    folder, found = done
    store = RunStore(folder / "runs")
    rows = [row for row in found.rows if row.metric == "bps"]
    assert all(row.state == "done" and row.reason is None for row in rows)
    arms = {row.arm for row in rows}
    assert arms == {
        *("ranked", "reverse_ranked", "random", "baseline", "random_core", "own_core", "baseline_doubled", "psth"),
        *("glm", "step_matched", "trial_matched", "other_targets", "many_shuffles", "fresh_seeds", "full_finetune"),
        "minus_worst",
    }
    for row in rows:
        if row.part == "test":
            assert row.value == store.result(row.run)["bps"]
            gain, spikes = found.gains[row.run], found.spikes[row.run]
            assert row.value == pytest.approx(pooled_bits(float(gain.sum()), float(spikes.sum())), abs=1e-9)
        else:
            assert row.value == store.result(row.model)["bps"]
    sessions, some = open_store(toy_store), next(row for row in rows if row.arm == "ranked" and row.size == 2)
    assert some.trials == sum(sessions.info(i).n_trials for i in some.sessions)


@pytest.mark.slow
def test_prefixes_follow_the_rankings(done):
    _, found = done
    order = {r["heldout"]: [row["session"] for row in r["rows"]] for r in found.rankings}
    for row in found.rows:
        if row.arm in ("ranked", "minus_worst", "fresh_seeds"):
            assert set(row.sessions) == set(order[row.heldout][: row.size])
        if row.arm == "reverse_ranked":
            assert set(row.sessions) == set(order[row.heldout][::-1][: row.size])
        if row.arm == "other_targets":
            (other,) = set(HELD) - {row.heldout}
            assert set(row.sessions) == set(order[other][: row.size])
        assert not set(row.sessions) & set(HELD)


@pytest.mark.slow
def test_one_session_models_are_the_ranking_s_own_and_equal_sets_one_run(done):
    _, found = done
    best = {r["heldout"]: r["rows"][0] for r in found.rankings}
    for row in found.rows:
        if row.arm == "ranked" and row.size == 1:
            assert row.model in best[row.heldout]["runs"]
    all_runs = {(row.arm, row.heldout, row.seed): row.run for row in found.rows if row.size == 3 and row.variant == ""}
    for h in HELD:
        for seed in (10, 20):
            assert len({run for (arm, where, s), run in all_runs.items() if (where, s) == (h, seed)}) == 1


@pytest.mark.slow
def test_steps_are_matched_and_the_last_checkpoint_is_kept(done):
    folder, found = done
    store = RunStore(folder / "runs")
    rows = [r for r in found.rows if r.arm == "step_matched" and r.metric == "bps" and r.part == "test"]
    for row in rows:
        spec = store.spec(store.spec(row.model).inputs["core"])
        assert spec.settings["train"]["keep"] == "last"
        assert row.pretrain_steps == spec.settings["train"]["steps"] == store.result(spec.key)["steps"]
    by = {(r.heldout, r.seed, r.size, r.variant): r.pretrain_steps for r in rows}
    for (h, seed, _, variant), steps in by.items():
        assert steps == by[h, seed, 2, variant] == by[h, seed, 3, variant]
    twice = {r.arm: r.finetune_steps for r in found.rows if r.arm.startswith("baseline")}
    assert twice["baseline_doubled"] == 2 * twice["baseline"]


@pytest.mark.slow
def test_test_trials_are_opened_once_for_each_final_evaluation_and_by_nothing_else(done):
    folder, found = done
    records = {path.stem: read_json(path) for path in (folder / "test-openings").glob("*.json")}
    assert set(records) == {row.run for row in found.rows}
    assert all(record["attempts"] == 1 for record in records.values())
    assert found.about["openings"] == found.about["final_evaluations"] == len(records)
    assert set().union(*(record["sessions"] for record in records.values())) == set(HELD)


@pytest.mark.slow
def test_again_it_computes_nothing_and_writes_the_same_bytes(done, recipe, toy_store, monkeypatch):
    folder, _ = done
    before = tables(folder)
    monkeypatch.setattr(launch, "perform", lambda *a, **k: pytest.fail("computed again"))
    run_study(recipe(), folder, store=toy_store, on="here")
    assert tables(folder) == before


@pytest.mark.slow
def test_the_order_of_held_out_sessions_changes_no_number(done, recipe, toy_store, tmp_path):
    """Common random numbers by target: the same rows, in another order; runs are found by their content."""
    folder, found = done
    shutil.copytree(folder / "runs", tmp_path / "s" / "runs")
    run_study(recipe(data={"heldout": list(HELD[::-1])}), tmp_path / "s", store=toy_store, on="here")
    again = open_results(tmp_path / "s")
    key = lambda row: (row.heldout, row.arm, row.variant, row.size or 0, row.draw, row.seed, row.part, row.metric)  # noqa: E731
    assert sorted(found.rows, key=key) == sorted(again.rows, key=key)


@pytest.mark.slow
def test_a_diverged_core_is_a_row_with_its_reason_and_the_rest_goes_on(recipe, toy_store, tmp_path, monkeypatch):
    real = scaling.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if tuple(ids) == ("sim-01",):
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e30})})
        return real(sessions, ids, settings, seed)

    for module in (scaling, ranking):
        monkeypatch.setattr(module, "pretrain_spec", poisoned)
    off = {key: [] for key in ("trial_matched", "other_targets", "fresh_seeds", "full_finetune", "minus_worst")}
    off |= dict.fromkeys(("own_core", "baseline_doubled", "step_matched", "transfer_matrix"), False)
    off["many_shuffles"] = {"size": 1, "n": 3}
    small = recipe(controls=off, study={"references": []})
    run_study(small, tmp_path / "s", store=toy_store, on="here")
    found = open_results(tmp_path / "s")
    bad = [row for row in found.rows if row.state == "diverged"]
    assert bad and all(row.value is None and row.reason for row in bad)
    assert {row.sessions for row in bad} == {("sim-01",)}
    assert {row.arm for row in bad} <= {"random", "many_shuffles"}  # it has no rank
    assert all(
        "sim-01" not in row.sessions for row in found.rows if row.arm in ("ranked", "reverse_ranked") and row.size < 3
    )
    whole = [row for row in found.rows if row.size == 3 and row.metric == "bps"]
    assert whole and all(row.state == "done" for row in whole)


def test_all_problems_come_in_one_answer_leakage_first(recipe, toy_store, tmp_path):
    wrong = recipe(
        data={"heldout": [*HELD, "sim-03", "nobody"], "pool": ["sim-00", "sim-01", "sim-03"]},
        study={"sizes": [2, 1, 40], "top": 7},
        controls={"minus_worst": [9]},
    )
    with pytest.raises(Problems) as caught:
        run_study(wrong, tmp_path / "s", store=toy_store)
    assert isinstance(caught.value.problems[0], LeakageError) and caught.value.exit_code == 6
    said = str(caught.value)
    for part in (
        "named twice",
        "'nobody' is not in the store",
        "k=40 but 3 candidates",
        "ascending",
        "study.top",
        "minus",
    ):
        assert part in said, said
    assert not (tmp_path / "s").exists()


def test_another_recipe_in_the_same_folder_is_refused_by_its_first_difference(recipe, toy_store, tmp_path):
    prepare(recipe(), tmp_path / "s", toy_store)
    before = (tmp_path / "s" / "study.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds study 'toy' with train\.lr = .*; need train\.lr = 0\.5"):
        prepare(recipe(train={"lr": 0.5}), tmp_path / "s", toy_store)
    with pytest.raises(UsageError, match=r"study\.seeds"):
        prepare(recipe(study={"seeds": [1, 2]}), tmp_path / "s", toy_store)
    prepare(recipe(name="another name"), tmp_path / "s", toy_store)
    assert (tmp_path / "s" / "study.json").read_bytes() == before


def test_changed_recordings_in_the_same_folder_are_refused(recipe, toy_store, tmp_path):
    prepare(recipe(), tmp_path / "s", toy_store)
    document = read_json(tmp_path / "s" / "study.json")
    document["sessions"]["sim-01"]["test_hash"] = "0" * 64
    (tmp_path / "s" / "study.json").write_text(json.dumps(document))
    (tmp_path / "s" / "manifest.json").unlink()  # else the edited file is refused for its hash (exit 5)
    with pytest.raises(UsageError, match="other content of sim-01"):
        prepare(recipe(), tmp_path / "s", toy_store)


def test_a_folder_with_something_else_in_it_is_left_alone(recipe, toy_store, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds 'thesis\.txt'"):
        prepare(recipe(), tmp_path, toy_store)
    with pytest.raises(UsageError, match=r"is \(in\) a store"):
        prepare(recipe(), toy_store / "study", toy_store)


def test_simulated_sessions_are_made_once_and_their_held_out_ids_are_known(recipe, tmp_path, toy_settings):
    sizes = {"n_sessions": 3, "n_trials": (60, 70), "n_units": (8, 10), "n_bins": 12, "bad_share": 0.0}
    value = {"preset": "tiny", "data": {"simulate": sizes}, "study": {"sizes": [1, 2, "all"], "top": 2}}
    study = prepare(make_recipe(value), tmp_path / "s")
    assert study.layout.heldout == ("sim-heldout-0", "sim-heldout-1") and len(study.layout.pool) == 3
    assert set(study.sessions.ids) == {*study.layout.heldout, *study.layout.pool}
    assert read_json(tmp_path / "s" / "study.json")["truth"]["closeness"].keys() == set(study.layout.heldout)
    again = prepare(make_recipe(value), tmp_path / "s")
    assert again.layout.pool == study.layout.pool
    with pytest.raises(UsageError, match=r"simulate\.seed"):
        prepare(make_recipe({**value, "data": {"simulate": {**sizes, "seed": 5}}}), tmp_path / "s")


def test_a_size_beyond_the_simulated_pool_is_refused_before_anything_is_simulated(tmp_path):
    value = {"preset": "tiny", "data": {"simulate": {"n_sessions": 3}}, "study": {"sizes": [1, 40], "top": 1}}
    with pytest.raises(UsageError, match="k=40 but 3 candidates"):
        prepare(make_recipe(value), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def close_store(toy_store, tmp_path_factory):
    """The toy store with trials 0.2 s apart, whose windows of 0.24 s overlap, and a split of their own in most."""
    store, sessions = create_store(tmp_path_factory.mktemp("close") / "store"), open_store(toy_store)
    for name in sessions:
        counts = np.array(sessions.session(name).counts)
        columns = {"align_time_s": np.arange(len(counts)) * 0.2}
        if name != "sim-01":
            columns["recorded_split"] = np.array(["train"] * 60 + ["validation"] * 15 + ["test"] * (len(counts) - 75))
        store.add(make_session(name, counts, 0.02, trial_columns=columns))
    return store.path


def trials_in(text):
    ends = [[int(end) for end in run.split("-")] for run in text.split()]
    return [number for run in ends for number in range(run[0], run[-1] + 1)]


def test_a_study_in_blocks_says_what_is_left_and_what_is_shared(recipe, close_store, tmp_path):
    studies = {kind: prepare(recipe(split=kind), tmp_path / kind, close_store) for kind in ("random", "blocked")}
    documents = {kind: read_json(tmp_path / kind / "study.json") for kind in studies}
    random, blocked = documents["random"], documents["blocked"]
    assert (random["split"], blocked["split"]) == ("random", "blocked") and "split" not in random["settings"]
    for name in studies["blocked"].sessions:
        assert random["shared_bins"][name]["test"] > 0.1 and "purged" not in random["splits"][name]
        assert blocked["shared_bins"][name] == {"validation": 0.0, "test": 0.0}
        sizes, found = blocked["splits"][name], studies["blocked"].sessions.load(name, 0, "blocked").split
        assert sizes["purged"] == len(found.purged) > 0 and sizes["train"] == len(found.train)
        assert sum(sizes.values()) == sum(random["splits"][name].values())
        assert studies["blocked"].layout.trials[name][1] == sizes["train"]
        listed = {part: trials_in(text) for part, text in blocked["trials"]["0"][name].items()}
        own = studies["blocked"].sessions.info(name).trial_ids
        assert listed == {part: sorted(own[found.part(part)].tolist()) for part in ("train", "validation", "test")}
    assert "split into blocks of time" in studies["blocked"].layout.notes[0] and not studies["random"].layout.notes
    for kind, study in studies.items():
        plan = study.plan(0, HELD[0])
        assert {spec.settings.get("split", "random") for spec in plan.specs} == {kind}
        job = Job("evaluate", (HELD[0],), 10, 0, Job("baseline", (HELD[0],), 10, 0, doubled=True))
        assert {spec.settings.get("split", "random") for spec in study.chain(job)} == {kind}
    with pytest.raises(UsageError, match="split = blocked"):
        prepare(recipe(split="blocked"), tmp_path / "random", close_store)


def test_what_no_recorded_split_can_do_is_named_with_everything_else(recipe, close_store, tmp_path):
    with pytest.raises(Problems) as caught:
        prepare(recipe(split="recorded", study={"split_seeds": [1], "top": 9}), tmp_path / "s", close_store)
    said = str(caught.value)
    for part in ("session 'sim-01'", "no trial column 'recorded_split'", "split_seeds", "study.top"):
        assert part in said, said
    pool = {"pool": ["sim-00", "sim-02"]}
    off = {key: [] for key in ("trial_matched", "other_targets", "full_finetune")} | {"many_shuffles": None}
    small = {"study": {"sizes": [1, "all"], "top": 1}, "controls": off}
    study = prepare(recipe(split="recorded", data=pool, **small), tmp_path / "s", close_store)
    assert study.layout.trials[HELD[0]][1] == 60
    assert read_json(tmp_path / "s" / "study.json")["splits"]["sim-00"]["validation"] == 15


def test_metadata_of_a_table_reach_the_study(recipe, toy_store, tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("session,good_units,note\nsim-00,12,=1+1\nsim-01,,x\nother,3,y\n")
    prepare(recipe(data={"metadata": str(table)}), tmp_path / "s", toy_store)
    facts = read_json(tmp_path / "s" / "study.json")["sessions"]
    assert facts["sim-00"]["good_units"] == 12 and facts["sim-01"]["good_units"] is None
    assert "good_units" not in facts["sim-02"]
    prepare(recipe(data={"metadata": str(table)}), tmp_path / "s", toy_store)
    table.write_text("session,good_units,note\nsim-00,13,=1+1\nsim-01,,x\n")
    with pytest.raises(UsageError, match=r"was made with good_units = 12.* of session sim-00; need .*not 13"):
        prepare(recipe(data={"metadata": str(table)}), tmp_path / "s", toy_store)


def test_a_study_says_which_code_asked_for_it_and_where_its_recordings_are_from(recipe, toy_store, tmp_path):
    prepare(recipe(), tmp_path / "s", toy_store)
    document, sessions = read_json(tmp_path / "s" / "study.json"), open_store(toy_store)
    assert document["code"] == code_version()
    assert document["sources"] == {name: dict(sessions.info(name).source) for name in document["sessions"]}
    assert all(document["sources"].values())
