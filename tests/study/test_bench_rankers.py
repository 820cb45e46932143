"""bench-rankers on a toy study: a reference with seeds of its own, numbers that agree with rankings, real finals."""

import json

import pytest

from sessionwise.analysis.bench_rankers import (
    _final_summary,
    _recommended,
    bench_document,
    promising,
    questions,
    read_final,
)
from sessionwise.analysis.recommended import label
from sessionwise.analysis.statistics import spearman
from sessionwise.cli import main
from sessionwise.data.store import open_store
from sessionwise.errors import IntegrityError, UsageError
from sessionwise.selection import rankers
from sessionwise.selection.rankers import rank_many
from sessionwise.study import recommend as recommending
from sessionwise.study.bench_rankers import bench_rankers
from sessionwise.study.final_regret import _Plan, measure_final
from sessionwise.study.recommend import recommend

HELDOUT = ("sim-heldout-0", "sim-03")
ASKED = [("full", (42, 77)), ("full", (10, 20)), ("short", (10,)), ("small_proxy", (10,)), ("full", (42,))]
ASKED += [("trials", (10,)), ("random", (10,))]


@pytest.fixture(scope="module")
def study(toy_store, toy_settings, tmp_path_factory):
    """Rankings for two held-out sessions, recommendations for one; final scores of these and of the best ranker."""
    place = tmp_path_factory.mktemp("bench") / "study"
    sessions = open_store(toy_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankers, "save_picture", lambda *_: None)
        patch.setattr(recommending, "keep_picture", lambda *_: None)
        overrides = {**toy_settings, "finetune.steps": 40}
        how = {"preset": "tiny", "overrides": overrides, "on": "here", "to": place}
        for method, seeds in ASKED:
            rank_many(sessions, list(HELDOUT), method=method, seeds=seeds, **how)
        pool = [name for name in sessions.ids if name not in HELDOUT]
        for seeds, way in (((10,), {"k": 2}), ((10,), {"k": "auto", "choose": "diverse"}), ((10, 42), {"k": 1})):
            recommend(sessions, HELDOUT[0], pool=pool, budget="100%", seeds=seeds, **way, **how)
    measure_final(place, sessions, top=2, n_methods=1, seeds=(7,), on="here")
    return place


def test_the_reference_has_seeds_that_no_other_ranking_has(study):
    for question in questions(study):
        assert question.reference["seeds"] == [42, 77] and question.reference["method"] == "full"
        assert all(not {42, 77} & set(other["seeds"]) for other in question.others)
        assert [(d["method"], d["seeds"]) for d in question.left_out] == [("full", [42])]
    assert [question.heldout for question in questions(study)] == sorted(HELDOUT)


def test_another_reference_may_be_asked_for(study):
    assert questions(study, (10, 20))[0].reference["seeds"] == [10, 20]
    with pytest.raises(UsageError, match="with the seeds 1, 2"):
        questions(study, (1, 2))


def test_agreement_and_cost_are_those_of_the_rankings(study):
    document = bench_document([study])
    for question in questions(study):
        for other in question.others:
            (row,) = [
                row
                for row in document["rows"]
                if row["heldout"] == question.name
                and row["method"].partition(" ")[0] == other["method"]
                and (len(other["seeds"]) or 0) == int((row["method"].partition("×")[2]) or 0)
            ]
            names = sorted(question.scores)
            mine = {r["session"]: r["score"] for r in other["rows"]}
            expected = spearman([mine[n] for n in names], [question.scores[n] for n in names])
            assert row["spearman"] == pytest.approx(expected)
            assert row["cost_share"] == pytest.approx(
                other["cost"]["operations"] / question.reference["cost"]["operations"]
            )
    shares = {entry["method"]: entry["cost_share"] for entry in document["summary"]}
    assert shares["full ×2"] == pytest.approx(1, rel=0.01)  # which trials the last epoch holds depends on the seed
    assert shares["trials"] == 0 < shares["small_proxy ×1"] < shares["short ×1"] < 1


def test_final_scores_are_those_of_evaluations_on_test_trials(study):
    (final, *_), opened = read_final(study).values(), len(list((study / "test-openings").glob("*.json")))
    (method,) = final["methods"]
    assert method in ("short ×1", "small_proxy ×1")  # neither a control nor the full procedure
    assert final["methods"][method]["regret"] == pytest.approx(
        final["reference"]["bps"] - final["methods"][method]["bps"]
    )
    assert all(len(entry["sessions"]) == 2 for entry in (final["reference"], final["random"]))
    assert set(final["fresh"]) == {"sim-00", "sim-01", "sim-02"} and None not in final["fresh"].values()
    assert opened >= 2 * (3 * 2 + 1)  # every core of both references, and the sets


TWO, AUTO = "recommend --budget 100% --k 2", "recommend --budget 100% --k auto --choose diverse"


def test_recommended_sets_are_scored_like_those_of_rankers(study):
    finals = {final["heldout"]: final for final in read_final(study).values()}
    final = finals[HELDOUT[0]]
    assert set(final["recommended"]) == {TWO, AUTO} and final["left_out"] == ["recommend --budget 100% --k 1"]
    assert finals[HELDOUT[1]]["recommended"] == {} and finals[HELDOUT[1]]["left_out"] == []
    sets = [final["reference"], final["random"], *final["methods"].values(), *final["recommended"].values()]
    for document in (json.loads(path.read_text()) for path in study.glob("recommendations/*/*/recommendation.json")):
        entry = final["recommended"].get({2: TWO, "auto": AUTO}.get(document["sizes"]["asked"]))
        if entry is None:
            continue
        assert entry["sessions"] == sorted(document["answer"]["sessions"])
        assert (entry["kind"], entry["share"]) == (document["answer"]["kind"], document["budget"]["share"])
        assert entry["regret"] == final["reference"]["bps"] - entry["bps"]
        assert all(entry["bps"] == other["bps"] for other in sets if other["sessions"] == entry["sessions"])
    document = bench_document([study])
    asked = {entry["method"]: entry for entry in document["recommended"]}
    assert set(asked) == {TWO, AUTO} and asked[TWO]["values"] == [final["recommended"][TWO]["regret"]]
    assert asked[TWO]["lots"] == final["random"]["regret"] and sum(asked[TWO]["kinds"].values()) == 1
    assert asked[TWO]["cost_share"] == pytest.approx(final["recommended"][TWO]["share"])
    assert asked[TWO]["regret"]["low"] is None  # one held-out session
    left_out = {entry["method"] for entry in document["left_out"]}
    assert left_out == {"full ×1", "recommend --budget 100% --k 1"}


def test_a_recommendation_is_called_by_what_was_asked():
    document = {"budget": {"asked": "2h"}, "sizes": {"asked": "auto", "k": 3}, "choose": "diverse", "answer": {"k": 3}}
    assert label(document) == "recommend --budget 2h --k auto --choose diverse"
    assert label({**document, "sizes": {"k": 3}, "choose": "top_k"}) == "recommend --budget 2h --k 3"
    first = {"budget": {"asked": "50%"}, "sizes": None, "answer": {"k": 4}}  # before there were choosers
    assert label(first) == "recommend --budget 50% --k 4"


def test_the_recording_alone_is_a_model_of_the_recording_alone(study, toy_store):
    (question,) = [q for q in questions(study) if q.heldout == HELDOUT[0]]
    alone = {"answer": {"sessions": [], "kind": "alone"}, "budget": {"share": 0.5}}
    plan = _Plan(question, ({"alone": alone}, []), open_store(toy_store), 2, [], (7,))
    trained, final = plan.chains[(), 7]
    assert trained.kind == "baseline" and list(trained.sessions) == [HELDOUT[0]]
    assert final.kind == "evaluate" and final.inputs == {"model": trained.key}


def test_a_recommendation_whose_model_failed_has_no_regret_and_is_counted():
    lost, won = ({"kind": "sessions", "share": 0.1, "regret": regret} for regret in (None, 0.02))
    finals = {
        str(i): {"heldout": f"h{i}", "random": {"regret": 0.1 * i}, "recommended": {"recommend": entry}}
        for i, entry in enumerate((won, lost, won, won))
    }
    (entry,) = _recommended({None: finals})
    assert entry["values"] == [0.02, None, 0.02, 0.02] and entry["regret"]["n"] == 3 and entry["n"] == 4
    assert entry["lots"] == pytest.approx(0.5 / 3) and entry["kinds"] == {"sessions": 4}  # lots not where it failed


def test_a_rankers_regret_stands_beside_that_of_lots_at_its_own_questions():
    def final(lots, methods):
        regrets = {name: {"regret": value} for name, value in methods.items()}
        return {"top": 2, "seeds": [7], "reference": {"bps": 0.5}, "random": {"regret": lots}, "methods": regrets}

    finals = [final(0.03, {"a": 0.01, "b": 0.0}), final(0.01, {"a": 0.02}), final(None, {"a": None, "b": 0.04})]
    a, b, lots = _final_summary(finals)["regrets"]
    assert (a["mean"], a["lots"], a["n"]) == (
        pytest.approx(0.015),
        pytest.approx(0.02),
        2,
    )  # not the third, which failed
    assert (b["mean"], b["lots"], b["n"]) == (pytest.approx(0.02), 0.03, 2)  # lots failed where b has its second
    assert (lots["method"], lots["mean"], lots["lots"], lots["n"]) == ("random", *2 * [pytest.approx(0.02)], 2)


def test_rank_intervals_are_counted_against_the_rank_on_test_trials(study):
    document = bench_document([study])
    final, (question, *_) = read_final(study), questions(study)
    fresh = final[question.key]["fresh"]
    true = sorted(fresh, key=lambda name: -fresh[name])
    (full,) = [d for d in question.others if d["method"] == "full"]
    inside = sum(r["rank_low"] <= true.index(r["session"]) + 1 <= r["rank_high"] for r in full["rows"])
    (row,) = [r for r in document["rows"] if r["heldout"] == question.name and r["method"] == "full ×2"]
    assert sum(low <= rank <= high for low, high, rank, _ in row["inside_fresh"]) == inside
    (entry,) = [e for e in document["calibration"]["fresh"] if e["method"] == "full ×2"]
    assert entry["n"] == 6
    fulls = [d for q in questions(study) for d in q.others if d["method"] == "full" and len(d["seeds"]) == 2]
    chances = [row["rank_chance"] for d in fulls for row in d["rows"]]
    assert len(chances) == 6 and entry["stated"] == pytest.approx(sum(chances) / 6)
    assert "trials" not in {e["method"] for e in document["calibration"]["fresh"]}  # it has no intervals


def test_the_same_rankings_give_the_same_files(study, tmp_path):
    for name in ("a", "b"):
        bench_rankers([study], tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*") if p.is_file())
    assert len(files) == 7  # JSON, page, table, the figure in three forms, and the manifest that seals them
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    page = (tmp_path / "a" / "bench.md").read_text()
    assert "42, 77" in page and "Final regret" in page and "full ×1" in page  # named among those left out
    assert f"| `{TWO}` |" in page and "## Recommended sets" in page


def test_promising_are_the_best_of_those_that_are_no_control():
    measured = {"short ×1": 0.5, "short ×2": 0.7, "quality": 0.6, "trials": 0.9, "full ×1": 0.95, "random": 0.1}
    rows = [{"method": m, "heldout": "h", "cost_share": 0.1, "spearman": rho} for m, rho in measured.items()]
    assert promising(rows, 2) == ["short ×2", "quality"]
    assert promising(rows, 5) == ["short ×2", "quality"]


def test_the_command_prints_a_table_and_verify_knows_the_folder(study, capsys):
    main_ok(["bench-rankers", str(study)])
    printed = capsys.readouterr().out
    assert "small_proxy ×1" in printed and "noise ceiling" in printed and str(study) in printed
    assert json.loads((study / "bench-rankers" / "bench.json").read_text())["studies"] == ["study"]
    main_ok(["verify", str(study)])
    assert "bench-rankers" not in capsys.readouterr().err
    final = study / "bench-rankers" / "final.json"
    content = final.read_text()
    final.write_text(content.replace("0", "1", 1))
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(study)])
    assert stop.value.code == 5 and "final.json" in capsys.readouterr().err
    final.write_text(content)


def test_what_cannot_be_compared_is_refused(study, tmp_path, toy_store, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench-rankers", str(tmp_path)])
    assert stop.value.code == 2 and "none to compare with" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["bench-rankers", str(study), str(study)])
    assert stop.value.code == 2 and "--to" in capsys.readouterr().err
    with pytest.raises(UsageError, match="lacks session"):
        measure_final(study, open_store(toy_store).subset(["sim-heldout-0", "sim-03", "sim-00"]))


def test_another_recording_under_the_same_name_is_refused(study, toy_store, monkeypatch):
    sessions = open_store(toy_store)
    load = type(sessions).load

    def other(self, name, *how):
        return load(self, "sim-01" if name == "sim-00" else name, *how)

    monkeypatch.setattr(type(sessions), "load", other)
    with pytest.raises(IntegrityError, match="sim-00"):
        measure_final(study, sessions)


def main_ok(arguments):
    """The command ends without an exit code, or with 0."""
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code in (0, None)
