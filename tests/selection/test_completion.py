"""Matrix completion on a toy store with four held-out sessions: what is measured, said, used again and refused."""

import json
import shutil

import numpy as np
import pytest

from sessionwise.analysis.summary import check_ranking, require_finite
from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.selection import ranking
from sessionwise.selection.completion import measured_cells
from sessionwise.selection.rankers import rank_many
from sessionwise.selection.ranking import ranking_folder

pytestmark = pytest.mark.usefixtures("no_pictures")

POOL, TARGETS = [f"sim-0{i}" for i in range(5)], [f"sim-heldout-{i}" for i in range(4)]
SEEDS = (10, 20)
CELLS = measured_cells(POOL, TARGETS, 0)


@pytest.fixture(scope="module")
def store(make_pool):
    return make_pool(5, 4)


def ask(store, study, settings, heldout=TARGETS, method="matrix_completion", pool=None):
    options = {"preset": "tiny", "overrides": settings, "seeds": SEEDS, "on": "here", "to": study, "pool": pool}
    return rank_many(open_store(store), list(heldout), method=method, **options)


def written(study, found):
    return (ranking_folder(study, found.document) / "ranking.json").read_bytes()


@pytest.fixture(scope="module")
def asked(store, toy_settings, tmp_path_factory):
    study = tmp_path_factory.mktemp("completed") / "study"
    return study, ask(store, study, toy_settings)


@pytest.fixture
def study(asked, tmp_path):
    """A copy of the study: what fails in a test is trained there, and nothing else."""
    return shutil.copytree(asked[0], tmp_path / "study")


@pytest.mark.parametrize(("n_pool", "n_targets"), [(2, 4), (3, 4), (5, 4), (20, 4), (21, 7)])
def test_a_third_is_measured_and_every_session_about_as_often(n_pool, n_targets):
    pool, targets = [f"p{i:02}" for i in range(n_pool)], [f"t{i}" for i in range(n_targets)]
    cells = measured_cells(pool, targets, 0)
    each = min(n_pool, max(3, -(-n_pool // 3)))
    assert all(len(set(chosen)) == each and set(chosen) <= set(pool) for chosen in cells.values())
    times = [sum(name in chosen for chosen in cells.values()) for name in pool]
    assert min(times) >= 1 and max(times) - min(times) <= 1
    assert measured_cells(pool[::-1], targets[::-1], 0) == cells  # names count, not their order
    if n_pool > 3:
        assert measured_cells(pool, targets, 1) != cells and measured_cells([*pool, "q"], targets, 0) != cells


def test_the_later_targets_share_candidates_with_the_earlier_ones():
    """Columns that share no candidate could not be compared: lots are cast anew once all have been taken."""
    cells = measured_cells([f"p{i:02}" for i in range(24)], ["a", "b", "c", "d"], 0)
    assert not set(cells["a"]) & set(cells["b"])
    assert sum(bool(set(cells["d"]) & set(cells[name])) for name in "abc") >= 2


def test_every_session_is_ranked_from_the_measured_cells(asked):
    study, found = asked
    for one, target in zip(found, TARGETS, strict=True):
        document = json.loads(written(study, one))
        check_ranking(document, "matrix_completion")
        require_finite(document, "matrix_completion")
        assert sorted(one.order) == POOL and document["heldout"] == target
        by_kind = document["cost"]["by_kind"]
        assert by_kind["pretrain"]["runs"] == 2 * 5 and by_kind["finetune"]["runs"] == 2 * 4 * 3  # all targets' runs
        assert "from 12 of 20 measured cells" in document["score_kind"]
        assert all(row["low95"] < row["score"] < row["high95"] for row in document["rows"])
        assert set(TARGETS) <= document["provenance"]["sessions"].keys()


def test_what_full_has_stored_is_used_and_the_bytes_are_the_same(asked, store, toy_settings, tmp_path):
    before, found = asked
    (full,) = ask(store, tmp_path, toy_settings, method="full", heldout=TARGETS[:1])
    again = ask(store, tmp_path, toy_settings, heldout=TARGETS[::-1])[::-1]  # asked in another order
    assert [written(tmp_path, one) for one in again] == [written(before, one) for one in found]
    added = json.loads((ranking_folder(tmp_path, again[-1].document) / "timing.json").read_text())["added"]
    assert added["by_kind"].keys() == {"finetune"} and added["runs"] == 2 * 3 * 3  # the cores and one target are there
    # The full procedure has the measured cells' scores: their mean is the level of what is predicted from them.
    spread, measured = np.std(list(full.scores.values())), [full.scores[name] for name in CELLS[TARGETS[0]]]
    level = np.mean([found[0].scores[name] for name in CELLS[TARGETS[0]]])
    assert level == pytest.approx(np.mean(measured), abs=spread)
    assert all(abs(score - np.mean(measured)) < 4 * spread for score in found[0].scores.values())


def test_too_few_held_out_sessions_are_refused(store, toy_settings, tmp_path):
    with pytest.raises(UsageError, match=r"3 held-out sessions.*four or more.*--heldout"):
        ask(store, tmp_path, toy_settings, TARGETS[:3])
    with pytest.raises(UsageError, match="1 held-out session;"):
        ask(store, tmp_path, toy_settings, TARGETS[:1])


def test_a_failed_pretraining_is_a_row_without_a_number(study, store, toy_settings, monkeypatch):
    real = ranking.pretrain_spec

    def poisoned(sessions, ids, settings, seed):
        if list(ids) == ["sim-01"]:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 1e12})})
        return real(sessions, ids, settings, seed)

    monkeypatch.setattr(ranking, "pretrain_spec", poisoned)
    for found in ask(store, study, toy_settings):
        (row,) = [row for row in found.document["rows"] if row["state"] != "done"]
        assert row["session"] == "sim-01" and row["score"] is None and row["reason"].startswith("seed 10: ")
        assert sorted(found.order) == [name for name in POOL if name != "sim-01"]
        assert "finetuning failed" not in found.document["score_kind"]


def lose(monkeypatch, lost):
    """Make the finetunings of these cells (candidate, held-out session) diverge."""
    real = ranking.finetune_spec

    def poisoned(sessions, heldout, core, settings, seed):
        if core is not None and (*core.sessions, heldout) in lost:
            settings = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"lr": 1e12})})
        return real(sessions, heldout, core, settings, seed)

    monkeypatch.setattr(ranking, "finetune_spec", poisoned)


def test_a_failed_cell_is_unmeasured_and_said(study, store, toy_settings, monkeypatch):
    often = next(name for name in POOL if sum(name in chosen for chosen in CELLS.values()) > 1)
    target = next(target for target in TARGETS if often in CELLS[target])
    lose(monkeypatch, {(often, target)})
    for found in ask(store, study, toy_settings):
        kind = found.document["score_kind"]
        assert sorted(found.order) == POOL and "from 11 of 20 measured cells" in kind
        assert kind.endswith(f"not measured because the finetuning failed: {often} for {target}")


def test_what_was_measured_nowhere_has_no_number(study, store, toy_settings, monkeypatch):
    """A candidate that lost all its cells, and a held-out session that lost all of its own."""
    lost = {("sim-02", target) for target in TARGETS} | {(name, TARGETS[1]) for name in POOL}
    lose(monkeypatch, lost)
    for found in ask(store, study, toy_settings):
        check_ranking(found.document, "matrix_completion")
        rows = {row["session"]: row for row in found.document["rows"]}
        assert rows["sim-02"]["score"] is None and rows["sim-02"]["state"] == "diverged"
        assert found.order == [] if found.heldout == TARGETS[1] else "sim-02" not in found.order
        assert all(row["reason"] for row in rows.values() if row["score"] is None)
