"""A recommendation on a toy store: who is tried, what it costs, what is said, and that no test trial matters."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sessionwise.analysis.activity import Quality
from sessionwise.analysis.recommendation import check_recommendation
from sessionwise.analysis.summary import require_finite
from sessionwise.cli import main
from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import LeakageError, UsageError
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import choosing_half
from sessionwise.study import recommend as module
from sessionwise.study.recommend import recommend
from sessionwise.study.search import FULL, SMALL, clearly_bad, search
from sessionwise.training.presets import preset

HELDOUT, POOL = "sim-heldout-0", ["sim-00", "sim-01", "sim-02", "sim-03"]


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Pictures of held-out recordings take seconds, and no number depends on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "keep_picture", lambda *_: None)
        yield


def ask(store, study, settings, budget="400%", **more):
    options = {"preset": "tiny", "overrides": settings, "seeds": (10, 20), "on": "here", "to": study, "k": 2}
    return recommend(open_store(store), HELDOUT, budget=budget, **{**options, **more})


@pytest.fixture(scope="module")
def rich(toy_store, toy_settings, tmp_path_factory):
    """With a budget for everything, and the model."""
    return ask(toy_store, tmp_path_factory.mktemp("rich") / "study", toy_settings, deliver=True)


def test_the_document_is_whole_and_lies_beside_its_page(rich):
    stored = json.loads((rich.folder / "recommendation.json").read_text())
    check_recommendation(stored, "here")
    require_finite(stored, "here")
    assert stored == rich.document and (rich.folder / "index.html").stat().st_size > 10_000
    assert {row["session"] for row in stored["rows"]} == set(POOL)
    assert [row["session"] for row in stored["rows"] if row["chosen"]] == rich.sessions
    assert rich.kind in ("sessions", "unexplained", "size only", "no difference", "alone", "everything")
    assert stored["seeds"] == [10, 20]
    assert "taken as true" in stored["score_kind"] and "taken as true" in (rich.folder / "index.html").read_text()
    shrunk, measured = ([row[name] for row in stored["rows"]] for name in ("score", "measured"))
    assert shrunk == sorted(shrunk, reverse=True) and 0 < np.ptp(shrunk) < np.ptp(measured)


def test_gains_are_measured_when_they_can_be_paid(rich):
    alone, everything = rich.document["gains"]
    for entry in (alone, everything):
        assert entry["how"] == "measured" and entry["low"] < entry["mean"] < entry["high"]
        assert "full cores, seeds 10, 20" in entry["about"]
    assert alone["name"].endswith("the recording alone") and everything["name"].endswith("all of the pool")
    if alone["high"] < 0:
        assert rich.kind == "alone" and rich.sessions == []


def test_what_was_spent_is_the_sum_of_the_stages(rich):
    document = rich.document
    spent = sum(stage["cost"]["operations"] for stage in document["stages"])
    assert document["budget"]["spent_operations"] == pytest.approx(spent, rel=0.05)  # early ends, and the last epoch
    assert document["budget"]["operations"] == 4 * document["budget"]["full_operations"]
    small = next(stage for stage in document["stages"] if stage["name"] == SMALL)
    assert small["cost"]["runs"] == 2 * 2 * small["n_in"]


def test_the_model_is_delivered(rich):
    model = rich.document["delivered"]
    assert (rich.folder / "model" / "model.json").exists() and model["trained"] in {e["name"] for e in model["scores"]}


def test_a_budget_for_small_cores_alone_buys_an_order_and_says_so(toy_store, toy_settings, tmp_path):
    whole = ask(toy_store, tmp_path / "probe", toy_settings, "400%").document
    small = next(stage for stage in whole["stages"] if stage["name"] == SMALL)["cost"]["operations"]
    share = 100 * small / whole["budget"]["full_operations"]
    found = ask(toy_store, tmp_path / "study", toy_settings, f"{1.02 * share:.1f}%")
    assert {row["stage"] for row in found.document["rows"]} == {SMALL}
    assert all(entry["how"] == "not measured" and entry["mean"] is None for entry in found.document["gains"])
    one = ask(toy_store, tmp_path / "study", toy_settings, f"{0.6 * share:.1f}%")
    assert one.kind == "not judged" and one.document["seeds"] == [10] and len(one.sessions) == 2
    (stage,) = (stage for stage in one.document["stages"] if stage["name"] == SMALL)
    assert "noise between trainings unknown: the budget does not pay for it" in stage["about"]
    assert one.document["noise_guessed"] and not found.document["noise_guessed"]
    assert "in the intervals as a guess" in (one.folder / "index.html").read_text()
    with pytest.raises(UsageError, match=r"--budget.*small cores for 4 sessions"):
        ask(toy_store, tmp_path / "study", toy_settings, "1%")


def test_with_one_seed_a_few_second_ones_are_enough_to_be_judged(toy_store, toy_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("sessionwise.selection.rungs.PROBED", 2)  # of four sessions; two seeds for all are not paid
    whole = ask(toy_store, tmp_path / "study", toy_settings, "400%").document
    small = next(stage for stage in whole["stages"] if stage["name"] == SMALL)["cost"]["operations"]
    share = 100 * small / whole["budget"]["full_operations"]
    found = ask(toy_store, tmp_path / "study", toy_settings, f"{0.8 * share:.1f}%")
    (stage,) = (stage for stage in found.document["stages"] if stage["name"] == SMALL)
    assert stage["about"].startswith("cores of half the widths, seed 10; seed 20 too on 2 of them, for the noise")
    assert found.document["seeds"] == [10] and found.kind != "not judged"
    assert found.document["judgement"]["p_equal"] is not None
    page = (found.folder / "index.html").read_text()
    assert "One seed: the noise between trainings was measured on 2 sessions" in page


def test_again_computes_nothing_and_gives_the_same_bytes(rich, toy_store, toy_settings, tmp_path):
    study = rich.folder.parents[2]
    before = {p.name: p.read_bytes() for p in rich.folder.iterdir() if p.is_file() and p.name != "timing.json"}
    again = ask(toy_store, study, toy_settings, deliver=True)
    assert json.loads((again.folder / "timing.json").read_text())["added"]["runs"] == 0
    elsewhere = ask(toy_store, tmp_path / "new", toy_settings, deliver=True, pool=POOL[::-1])
    for folder in (again.folder, elsewhere.folder):
        for name, content in before.items():
            assert (folder / name).read_bytes() == content, name


def test_test_trials_play_no_part(rich, toy_store, toy_settings, tmp_path):
    """All test trials of all sessions replaced by garbage: the same recommendation."""
    source, garbled = open_store(toy_store), create_store(tmp_path / "store")
    for number, name in enumerate(source.ids):
        session = source.session(name)
        counts = np.array(session.counts)
        test = make_split(name, session.trial_ids).test
        counts[test] = np.random.default_rng(number).integers(0, 9, counts[test].shape)
        facts = {f: getattr(session, f) for f in ("bin_s", "window_s", "trial_ids", "areas", "unit_ids", "subject")}
        garbled.add(make_session(name, counts, **facts))
    found = ask(tmp_path / "store", tmp_path / "study", toy_settings)
    for part in ("answer", "gains", "judgement", "stages", "budget"):
        assert found.document[part] == rich.document[part], part


def test_leaks_and_unknown_budgets_are_refused_before_anything_is_trained(toy_store, toy_settings, tmp_path):
    with pytest.raises(LeakageError):
        ask(toy_store, tmp_path / "study", toy_settings, pool=[HELDOUT, *POOL])
    with pytest.raises(UsageError, match="--budget"):
        ask(toy_store, tmp_path / "study", toy_settings, "soon")
    assert not (tmp_path / "study" / "runs").exists()


def test_the_clearly_bad_are_left_out_but_never_half_of_the_pool():
    def one(trials, reliability):
        return Quality(trials, 50, float(np.log(trials)), 0.1, reliability, 0.2)

    usual = {name: one(200, 0.9) for name in "abcde"}
    assert clearly_bad("abcde", usual) == {}
    found = clearly_bad("abcde", {**usual, "a": one(40, 0.9), "b": one(200, 0.1)})
    assert found.keys() == {"a", "b"} and "40 trials" in found["a"] and "0.10" in found["b"]
    assert clearly_bad("abcd", {**usual, "a": one(40, 0.9), "b": one(200, 0.1)}) == {}


def test_contested_sessions_get_the_full_procedure(toy_store, toy_settings, tmp_path, monkeypatch):
    monkeypatch.setattr("sessionwise.analysis.rung_scores.NO_SPREAD", 0.0)  # nothing differs: everybody is contested
    sessions, settings = open_store(toy_store), preset("tiny", toy_settings)
    context = Context(sessions, settings, (10, 20), (HELDOUT,), tmp_path / "study", "here")
    whole = search(HELDOUT, POOL, 2, 10**15, context)
    assert set(whole.rung.values()) == {FULL} and [stage.name for stage in whole.stages] == [SMALL, FULL]
    small, full = (stage.operations for stage in whole.stages)
    monkeypatch.setattr("sessionwise.study.search._reserve", lambda *_: 0)
    some = search(HELDOUT, POOL, 2, int(small + 0.55 * full), context)
    assert sorted(some.rung.values()) == [FULL, FULL, SMALL, SMALL]
    # Choosing on halves uses the same scale: both together are the whole.
    spikes = sessions.load(HELDOUT).counts("validation").sum(axis=(1, 2))
    first = choosing_half(len(spikes))
    for name, value in some.values.items():
        halves = [some.on(half)[name] * spikes[half].sum() for half in (first, ~first)]
        if some.rung[name] == FULL:  # the shift of the others is a mean over sessions, not over trials
            assert sum(halves) / spikes.sum() == pytest.approx(value)
    assert some.on(np.ones(len(spikes), bool)) == pytest.approx(some.values)


def test_a_session_that_fails_is_a_row_and_not_recommended(toy_store, toy_settings, tmp_path, monkeypatch):
    real = Context.compute

    def broken(self, specs):
        found = real(self, specs)
        for key, spec in self.asked.items():
            if spec.kind == "pretrain" and list(spec.sessions) == ["sim-02"]:
                self.outcomes[key] = replace(self.outcomes[key], state="diverged", reason="loss is nan")
        return found

    monkeypatch.setattr(Context, "compute", broken)
    found = ask(toy_store, tmp_path / "study", toy_settings)
    (row,) = [row for row in found.document["rows"] if row["session"] == "sim-02"]
    assert row["state"] == "diverged" and "loss is nan" in row["reason"] and row["score"] is None
    assert "sim-02" not in found.sessions and found.document["rows"][-1] is row


def test_the_command_says_the_answer(rich, toy_store, toy_settings, capsys):
    study = rich.folder.parents[2]
    changes = [part for name, value in toy_settings.items() for part in ("--set", f"{name}={value}")]
    how = ["--heldout", HELDOUT, "--preset", "tiny", "--seeds", "10,20", "--k", "2", "--on", "here", *changes]
    try:
        main(["recommend", str(toy_store), *how, "--budget", "400%", "--to", str(study)])
    except SystemExit as stop:
        assert stop.code in (0, None)
    printed = capsys.readouterr().out
    assert f"{rich.kind}: " in printed and "Against the recording alone" in printed and "index.html" in printed
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(toy_store), *how, "--budget", "fast", "--to", str(study)])
    assert stop.value.code == 2 and "--budget" in capsys.readouterr().err


def _enough_for_two(document):
    """Share of the full cost that small cores and the sizes 1 and 2 take, and half of what size 3 takes."""
    stages = {stage["name"]: stage["cost"]["operations"] for stage in document["stages"]}
    return (stages[SMALL] + 0.75 * stages["how many"]) / document["budget"]["full_operations"]


def test_how_many_is_measured_when_asked_for_and_paid(toy_store, toy_settings, tmp_path):
    found = ask(toy_store, tmp_path / "study", toy_settings, "800%", k="auto").document
    sizes = found["sizes"]
    assert sizes["how"] == "predicted" and [row["k"] for row in sizes["rows"]] == [1, 2, 3]
    assert sizes["rows"][0]["gain"] == 0.0 and all(row["low"] <= row["gain"] <= row["high"] for row in sizes["rows"])
    assert sizes["k"] in (1, 2, 3) and found["answer"]["k"] in (0, sizes["k"], len(POOL))
    stage = next(stage for stage in found["stages"] if stage["name"] == "how many")
    assert 0 < stage["cost"]["runs"]
    spent = sum(stage["cost"]["operations"] for stage in found["stages"])
    assert found["budget"]["spent_operations"] == pytest.approx(spent, rel=0.05)
    small = next(stage for stage in found["stages"] if stage["name"] == SMALL)["cost"]["operations"]
    share = f"{100 * _enough_for_two(found):.1f}%"
    fewer = ask(toy_store, tmp_path / "study", toy_settings, share, k="auto").document
    assert [row["k"] for row in fewer["sizes"]["rows"]] == [1, 2] and fewer["budget"]["share"] <= _enough_for_two(found)
    poor = f"{105 * small / found['budget']['full_operations']:.1f}%"
    unpaid = ask(toy_store, tmp_path / "study", toy_settings, poor, k="auto").document
    assert unpaid["sizes"]["how"] == "not measured" and "budget" in unpaid["sizes"]["reason"]


@pytest.mark.parametrize(
    "budget, best, expected",
    [
        ("800%", 1, ("predicted", 1, "no larger size of 1, 2, 3 is better than 1")),
        ("800%", 3, ("predicted", 3, "no larger size of 1, 2, 3 is better than 3")),  # only all four are more
        ("some", 1, ("predicted", 1, "no larger size of 1, 2 is better than 1")),
        (
            "some",
            2,
            ("not measured", 4, "2 sessions do better than fewer, and more could not be tried"),
        ),  # the default of five, in a pool of four
    ],
)
def test_a_size_is_enough_only_when_a_larger_one_was_tried(
    toy_store, toy_settings, tmp_path_factory, monkeypatch, budget, best, expected
):
    study = tmp_path_factory.getbasetemp() / "sizes"  # what one case computed is there for the next
    if budget == "some":
        budget = f"{100 * _enough_for_two(ask(toy_store, study, toy_settings, '800%', k='auto').document):.1f}%"
    monkeypatch.setattr(module, "how_many", lambda sizes, differ: best)
    document = ask(toy_store, study, toy_settings, budget, k="auto").document
    sizes = document["sizes"]
    assert (sizes["how"], sizes["k"]) == expected[:2] and expected[2] in sizes["reason"]
    assert sizes["asked"] == "auto" and document["answer"]["k"] in (0, sizes["k"], len(POOL))


def test_sets_are_chosen_as_was_asked(toy_store, toy_settings, tmp_path):
    found = ask(toy_store, tmp_path / "study", toy_settings, "60%", choose="diverse")
    assert found.document["choose"] == "diverse" and len(found.sessions) == 2
    assert "Chosen by diverse: sessions that stand for all good ones" in found.document["answer"]["text"]
    for wrong, field in (({"choose": "best"}, "--choose"), ({"k": "all"}, "--k"), ({"k": 0}, "--k")):
        with pytest.raises(UsageError, match=field):
            ask(toy_store, tmp_path / "study", toy_settings, **wrong)
