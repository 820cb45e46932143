"""Halving and the climb under it: who goes on, what the budget pays, what is used again; on a toy store."""

import json
import math
import re

import numpy as np
import pytest

from sessionwise.analysis.summary import check_ranking, require_finite
from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.runs.launch import Outcome
from sessionwise.selection import ranking, rungs
from sessionwise.selection.context import Context
from sessionwise.selection.halving import Halving, shortened
from sessionwise.selection.rankers import rank_many
from sessionwise.selection.ranking import make_plan, ranking_folder
from sessionwise.selection.rungs import Rung, climb, first_runs
from sessionwise.training.loop import MIN_STEPS
from sessionwise.training.presets import preset

pytestmark = pytest.mark.usefixtures("no_pictures")

HELDOUT, POOL = "sim-heldout-0", ["sim-00", "sim-01", "sim-02", "sim-03"]
SEEDS = (10, 20)
HALF, WHOLE, FULL = (rung.name for rung in Halving().rungs(preset("tiny"), SEEDS))


# The climb, without a training: who goes on follows from made-up gains ------------------------------------------------


@pytest.fixture(scope="module")
def many(make_pool):
    """A store of eight sessions and a held-out one; nothing is trained on them."""
    return open_store(make_pool(8, 1, seed=2, n_trials=(40, 60), n_units=(5, 8)))


class Made(Context):
    """A context in which all runs end at once; ``bad``: labels of those that diverge."""

    bad: tuple[str, ...] = ()

    def compute(self, specs):
        """Settled, untrained."""
        for spec in specs:
            self.asked[spec.key] = spec
            state = "diverged" if any(label in spec.label for label in self.bad) else "done"
            self.outcomes[spec.key] = Outcome(spec.key, state, "loss is not finite" if state == "diverged" else None)
        return self.outcomes


@pytest.fixture
def made(many, tmp_path, monkeypatch):
    """The context, and a table ``scores[session]`` that gains follow with little noise."""
    context = Made(many, preset("tiny"), SEEDS, (HELDOUT,), tmp_path, on="here")
    scores = {f"sim-0{i}": 0.02 * (8 - i) for i in range(8)}

    def gains_of(plan, store, done):
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 0.001, (len(done), len(plan.seeds), 20))
        return (np.array([scores[name] for name in done])[:, None, None] + noise) * 50 * math.log(2), np.full(20, 50.0)

    monkeypatch.setattr(rungs, "gains_of", gains_of)
    return context, scores


def ladder(settings, n=2, seeds=SEEDS):
    steps = [{"train": settings.train.model_copy(update={"epochs": 10 * (i + 1)})} for i in range(n)]
    return [Rung(f"rung {i}", settings.model_copy(update=step), seeds) for i, step in enumerate(steps)]


def up(context, n=2, **options):
    asked = {"top": 2, "budget": None, "method": "test", **options}
    return climb(HELDOUT, sorted(f"sim-0{i}" for i in range(8)), ladder(context.settings, n), context, **asked)


def test_those_hardly_among_the_best_leave_and_half_stays(made):
    context, scores = made
    first, second = up(context).stages
    assert first.on == second.sessions == ("sim-00", "sim-01", "sim-02", "sim-03")
    assert list(first.left) == ["sim-04", "sim-05", "sim-06", "sim-07"]
    assert first.left["sim-07"] == "among the 2 best with probability less than 0.001" and first.p_equal < 0.05
    assert second.on == () and second.left == {} and first.stop is second.stop is None
    assert up(context, stay=0.1).stages[0].on == ("sim-00", "sim-01")
    scores.update(dict.fromkeys(scores, 0.1))
    assert len(up(context).stages[1].sessions) == 8  # nothing differs, nobody leaves


def test_what_rungs_share_is_counted_once(made):
    context, _ = made
    found = up(context)
    twice = 2 * ladder(context.settings, 1)
    same = climb(HELDOUT, POOL[:2], twice, context, top=1, budget=None, method="test", stay=1.0)
    assert len(found.stages[0].specs) == 8 * 2 * 2 and len(found.stages[1].specs) == 4 * 2 * 2
    assert same.stages[1].specs == () and same.stages[1].operations == 0
    assert found.stages[0].operations == context.price(found.stages[0].specs)


def test_the_settled_are_not_trained_again_if_so_wanted(made):
    context, scores = made
    scores.update({"sim-00": 0.5} | dict.fromkeys(["sim-01", "sim-02", "sim-03", "sim-04"], 0.16))
    first, second = up(context, top=3, settled_in=True, stay=0.0).stages
    assert first.settled == ("sim-00",) and "sim-00" not in second.sessions and "sim-01" in second.sessions
    assert not {"sim-05", "sim-06", "sim-07"} & set(second.sessions)
    assert sum(second.p_top.values()) == pytest.approx(2)  # one of the three places is taken
    assert up(context, top=3, stay=0.0).stages[0].settled == ()
    clear = up(context, n=3, top=1, settled_in=True, stay=0.0)
    assert clear.stages[0].settled == ("sim-00",) and len(clear.stages) == 1
    assert clear.stages[0].stop == "0 contested: nothing more to compare" and clear.rung["sim-00"] == "rung 0"


def test_the_budget_admits_the_most_probable_first(made):
    context, _ = made
    first, second = up(context).stages
    price = {
        name: context.price(
            s
            for s in second.specs
            if (s.kind == "pretrain" and name in s.sessions) or (s.kind == "finetune" and f"on {name}," in s.label)
        )
        for name in second.sessions
    }
    enough = first.operations + price["sim-00"] + price["sim-01"] + price["sim-02"]
    some = up(context, budget=enough).stages
    assert some[1].sessions == ("sim-00", "sim-01", "sim-02") and some[0].left["sim-03"] == "budget"
    assert sum(stage.operations for stage in some) == enough
    fewer = up(context, budget=enough - 1).stages
    assert fewer[1].sessions == ("sim-00", "sim-01")
    (only,) = up(context, budget=first.operations + price["sim-00"]).stages
    assert only.stop == "budget: it pays for 1 of 4 contested on the next rung (rung 1)" and only.on == ()


def test_what_an_earlier_rung_trained_is_not_paid_again(made):
    context, _ = made
    pool = [f"sim-0{i}" for i in range(8)]
    longer = context.settings.finetune.model_copy(update={"epochs": 40})
    settings = {"short": context.settings, "long": context.settings.model_copy(update={"finetune": longer})}
    ladder = [Rung(name, how, SEEDS) for name, how in settings.items()]
    free = climb(HELDOUT, pool, ladder, context, top=2, budget=None, method="test")
    assert {spec.kind for spec in free.stages[1].specs} == {"finetune"}  # the cores are those of the first rung
    enough = sum(stage.operations for stage in free.stages)
    paid = climb(HELDOUT, pool, ladder, context, top=2, budget=enough, method="test")
    assert paid.stages[1].sessions == free.stages[1].sessions


def test_a_budget_below_the_first_rung_is_refused_before_anything_is_trained(made):
    context, _ = made
    price = context.price(first_runs(HELDOUT, POOL, ladder(context.settings)[0], context, budget=None, method="x"))
    told = re.escape(f"budget of {price // 2:.3g} operations; need {price:.3g} for the first rung (rung 0, 4 sessions)")
    for asked in (climb, lambda *a, **k: first_runs(a[0], a[1], a[2][0], a[3], budget=k["budget"], method="x")):
        with pytest.raises(UsageError, match=told):
            asked(HELDOUT, POOL, ladder(context.settings), context, top=1, budget=price // 2, method="x")
    assert not context.asked
    context.budget = 10
    with pytest.raises(UsageError, match="half of the pretraining"):
        Halving().runs(HELDOUT, POOL, context)


def test_who_fails_on_a_rung_has_no_number_and_the_others_go_on(made):
    context, _ = made
    context.bad = ("pretrain sim-01,", "finetune sim-heldout-0 on sim-06,")
    found = up(context)
    assert found.values["sim-01"] is None and found.values["sim-06"] is None
    assert found.reasons["sim-01"] == ("diverged", "rung 0: seed 10: loss is not finite")
    assert found.stages[0].left["sim-01"].startswith("rung 0: seed 10") and "sim-01" not in found.rung
    assert found.draws.shape[1] == 6 and "sim-01" not in found.stages[1].sessions


def test_who_fails_later_has_no_number_either(made, monkeypatch):
    context, _ = made
    compute = Made.compute

    def later(self, specs):
        specs = list(specs)
        self.bad = (
            ("pretrain sim-01,",)
            if any(s.kind == "pretrain" and s.settings["train"]["epochs"] == 20 for s in specs)
            else ()
        )
        return compute(self, specs)

    monkeypatch.setattr(Made, "compute", later)
    found = up(context)
    assert found.values["sim-01"] is None and found.reasons["sim-01"][1].startswith("rung 1: seed 10")
    assert [name for name, value in found.values.items() if value is None] == ["sim-01"]
    assert found.rung["sim-00"] == "rung 1" and found.rung["sim-07"] == "rung 0"


def test_where_everything_fails_there_is_a_document_that_says_so(made):
    context, _ = made
    context.bad = ("pretrain",)
    found = up(context)
    assert found.draws is None and set(found.values.values()) == {None} and found.stages[0].stop == "no training ended"


def probed(context, budget=None, seeds=(10,), second=20):
    first, last = ladder(context.settings, 2, seeds)
    rungs_asked = [Rung(first.name, first.settings, first.seeds, second), last]
    pool = sorted(f"sim-0{i}" for i in range(8))
    return climb(HELDOUT, pool, rungs_asked, context, top=2, budget=budget, method="test")


def test_with_one_seed_a_few_sessions_have_a_second_one(made):
    context, _ = made
    found = probed(context)
    probe, (first, second) = found.stages[0].probe, found.stages
    assert probe["sessions"] == ["sim-00", "sim-02", "sim-05", "sim-07"] and probe["seed"] == 20
    assert probe["freedom"] == 3 and 0 < probe["variance"] < 1e-6 and probe["reason"] is None and probe["failed"] == {}
    assert sorted(spec.seed for spec in first.specs) == [10] * 16 + [20] * 8
    assert first.operations == context.price(first.specs) and {spec.seed for spec in second.specs} == {10}
    assert second.probe is None and found.noise_known and found.seeds == (10,)
    assert all(len(keys) == 1 for keys in found.runs.values())  # the second one has no say in the scores
    assert up(context).stages[0].probe is None


def test_a_second_seed_that_is_not_paid_or_fails_is_said(made):
    context, _ = made
    whole = probed(context).stages[0]
    alone = context.price(spec for spec in whole.specs if spec.seed == 10)
    unpaid = probed(context, budget=whole.operations - 1)
    assert unpaid.stages[0].probe["reason"] == "the budget does not pay for it" and not unpaid.noise_known
    assert unpaid.stages[0].operations == alone
    context.bad = ("pretrain sim-02, seed 20", "pretrain sim-05, seed 20")
    some = probed(context)
    assert some.stages[0].probe["sessions"] == ["sim-00", "sim-07"] and some.stages[0].probe["freedom"] == 1
    assert some.stages[0].probe["failed"] == dict.fromkeys(("sim-02", "sim-05"), "seed 20: loss is not finite")
    assert None not in some.values.values()  # their scores are of the first seed
    context.bad = ("seed 20",)
    none = probed(context)
    assert none.stages[0].probe["reason"] == "too few of its trainings ended" and not none.noise_known


# Halving --------------------------------------------------------------------------------------------------------------


def test_the_rungs_grow_to_the_full_procedure_and_none_is_shorter_than_the_grace():
    settings = preset("small")
    first, second, last = Halving().rungs(settings, (10, 20, 42))
    assert (first.settings.train.epochs, first.settings.finetune.epochs) == (25, round(30 / 4))
    assert (second.settings.train, second.settings.finetune) == (settings.train, first.settings.finetune)
    assert last.settings == settings and last.seeds == (10, 20, 42) and first.seeds == second.seeds == (10,)


def test_a_training_is_shortened_by_what_it_is_measured_in():
    how = preset("tiny").train
    assert shortened(how, 0.5).epochs == 15 and shortened(how.model_copy(update={"epochs": 1}), 0.25).epochs == 1
    steps = how.model_copy(update={"steps": 100})
    assert shortened(steps, 0.25).steps == 25 and shortened(steps, 0.25).epochs == how.epochs
    assert shortened(steps, 0.01).steps == MIN_STEPS
    assert shortened(how.model_copy(update={"steps": 10}), 0.5).steps == 10


def test_by_itself_it_costs_at_most_what_the_procedure_costs(made):
    context, scores = made
    pool = sorted(scores)
    whole = make_plan(context.sessions, HELDOUT, pool, context.settings, SEEDS, controls=False)
    assert Halving().budget(HELDOUT, pool, context) == context.price(whole.specs)
    scores.update(dict.fromkeys(scores, 0.1))  # nothing differs, so that nobody leaves by noise
    found = climb(
        *(HELDOUT, pool, Halving().rungs(context.settings, SEEDS), context),
        top=2,
        budget=Halving().budget(HELDOUT, pool, context),
        method="halving",
    )
    assert len(found.stages) == 3 and "budget" in found.stages[1].left.values()
    assert sum(stage.operations for stage in found.stages) <= context.price(whole.specs)


def test_an_own_number_wins_over_the_default(made):
    context, _ = made
    context.budget = 123
    assert Halving().budget(HELDOUT, POOL, context) == 123


# Trained on the toy store ---------------------------------------------------------------------------------------------


def ask(store, study, settings, method="halving", seeds=SEEDS):
    options = {"preset": "tiny", "overrides": settings, "seeds": seeds, "on": "here", "to": study}
    (found,) = rank_many(open_store(store), [HELDOUT], method=method, **options)
    return found


@pytest.fixture(scope="module")
def settings(toy_settings):
    return {**toy_settings, "train.steps": 24, "finetune.steps": 40}


@pytest.fixture(scope="module")
def asked(toy_store, settings, tmp_path_factory):
    """A study with halving, and the full procedure after it."""
    study = tmp_path_factory.mktemp("halved") / "study"
    return study, ask(toy_store, study, settings), ask(toy_store, study, settings, method="full")


def test_the_document_says_who_reached_what(asked):
    study, found, _ = asked
    document = json.loads((ranking_folder(study, found.document) / "ranking.json").read_text())
    check_ranking(document, "halving")
    require_finite(document, "halving")
    assert sorted(found.order) == POOL and document["seeds"] == list(SEEDS)
    assert [stage["name"] for stage in document["stages"]] == [HALF, WHOLE, FULL][: len(document["stages"])]
    assert document["stages"][0]["n_in"] == 4
    for name in ("runs", "steps", "operations"):
        assert sum(stage["cost"][name] for stage in document["stages"]) == document["cost"][name]
    last = document["stages"][-1]["name"]
    n_last = sum(row["stage"] == last for row in document["rows"])
    assert n_last == document["stages"][-1]["n_in"] >= 2
    assert (
        f"{n_last} scores of '{last}'" in document["score_kind"]
        or f"all scores are of '{last}'" in document["score_kind"]
    )
    assert all(row["low95"] < row["score"] < row["high95"] for row in document["rows"])
    assert document["rows"][0]["session"] in document["verdict"]["text"]


def test_the_last_rung_is_the_full_procedure_and_its_runs_are_shared(asked):
    study, found, full = asked
    stages = {stage["name"]: stage for stage in found.document["stages"]}
    added = json.loads((ranking_folder(study, full.document) / "timing.json").read_text())["added"]
    # The first seed's whole cores of those on the second rung, and all that the last rung trained.
    last = stages[FULL]["n_in"]
    assert added["by_kind"]["pretrain"]["runs"] == 8 - stages[WHOLE]["n_in"] - last
    assert added["by_kind"]["finetune"]["runs"] == 8 + 2 - 2 * last  # with the random core
    assert [row["score"] for row in found.document["rows"] if row["stage"] == FULL] == [
        pytest.approx(full.scores[row["session"]]) for row in found.document["rows"] if row["stage"] == FULL
    ]
    assert all(row["runs"] for row in found.document["rows"]) and last >= 2


def test_stored_runs_are_used_and_the_bytes_are_the_same(asked, toy_store, settings):
    study, found, _ = asked
    folder = ranking_folder(study, found.document)
    before = {name: (folder / name).read_bytes() for name in ("ranking.json", "ranking.csv")}
    ask(toy_store, study, settings)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert json.loads((folder / "timing.json").read_text())["added"]["runs"] == 0


def test_a_failed_pretraining_is_a_row(toy_store, settings, tmp_path, monkeypatch):
    real = ranking.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if list(ids) == ["sim-01"]:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e12})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(ranking, "pretrain_spec", poisoned)
    found = ask(toy_store, tmp_path, settings, seeds=(10,))
    (row,) = [row for row in found.document["rows"] if row["state"] != "done"]
    assert row["session"] == "sim-01" and row["score"] is None and row["stage"] is None
    assert row["reason"].startswith(f"{HALF}: seed 10: ")
    assert sorted(found.order) == ["sim-00", "sim-02", "sim-03"]
