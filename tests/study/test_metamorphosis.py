"""What must not reach what, by metamorphosis: change it, compute everything again, compare bytes.

S1  A held-out recording never reaches pretraining.
S2  Test trials never reach a ranking, a checkpoint, the choice of a set or of its size, but final evaluations alone.
S3  A candidate's score does not depend on the other candidates, the other held-out sessions, their order, the order of
    the runs or the number of workers.

Beside each stands what shows that the comparison can fail: a change that must be seen, or a library that leaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sessionwise.analysis.cells import Grid, best_size
from sessionwise.analysis.results import open_results
from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.errors import IntegrityError
from sessionwise.io.files import read_json
from sessionwise.runs import schedule
from sessionwise.runs.store import RunStore
from sessionwise.selection import rankers
from sessionwise.selection.rankers import rank, rank_many
from sessionwise.selection.ranking import Ranking, ranking_folder
from sessionwise.study import scaling
from sessionwise.study.recipe import make_recipe
from sessionwise.study.scaling import run_study
from sessionwise.training import jobs

HELDOUT = "sim-heldout-0"
POOL = ("sim-00", "sim-01", "sim-02")
Change = Callable[[str, np.ndarray], np.ndarray]
Bytes = dict[str, bytes]


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Pictures of held-out recordings take half of the time, and no number depends on them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (rankers, scaling):
            patch.setattr(module, "save_picture", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def world(toy_store: Path, toy_settings: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(open_store(toy_store), toy_settings, tmp_path_factory.mktemp("world"))


class World:
    """Recordings that can be changed, and what is found with them, always computed from nothing."""

    def __init__(self, sessions: SessionStore, settings: dict[str, int], folder: Path) -> None:
        self.sessions, self.settings, self.folder = sessions, settings, folder
        self._numbers = count()

    def place(self) -> Path:
        return self.folder / str(next(self._numbers))

    def store(self, change: Change = lambda name, counts: counts, ids: Sequence[str] = (*POOL, HELDOUT)) -> Path:
        """A store of these sessions, imported in this order; ``change(id, counts)`` gives the counts of each."""
        store = create_store(self.place() / "store")
        for name in ids:
            session = self.sessions.session(name)
            counts = change(name, np.array(session.counts))
            facts = {"subject": session.subject, "lab": session.lab, "date": session.date}
            store.add(make_session(name, counts, session.bin_s, session.window_s, **facts))
        return store.path

    def ranked(self, store: Path, pool: Sequence[str] | None = POOL, on: str = "here") -> Found:
        study = self.place()
        options = {"preset": "tiny", "overrides": self.settings, "seeds": (10,), "to": study, "on": on}
        return Found(study, rank(open_store(store), HELDOUT, pool=pool, **options))


class Found:
    """A ranking and the bytes of everything behind it."""

    def __init__(self, study: Path, ranking: Ranking) -> None:
        self.study, self.ranking = study, ranking
        folder = ranking_folder(study, ranking.document)
        self.files = {name: (folder / name).read_bytes() for name in ("ranking.json", "ranking.csv")}
        self.runs = run_bytes(study)
        self.opened = (study / "test-openings").exists()

    @property
    def scores(self) -> dict[str, tuple[Any, ...]]:
        """Session -> all of its scores, exactly."""
        names = ("score", "seed_scores", "bps_unit_mean", "bps_tail", "own_score", "runs")
        return {row["session"]: tuple(str(row[name]) for name in names) for row in self.ranking.document["rows"]}

    def artefacts(self, kind: str) -> dict[str, Bytes]:
        """Key -> every byte of the committed runs of one kind."""
        return {key: files for key, files in self.runs.items() if f'"kind": "{kind}"'.encode() in files["spec.json"]}


def run_bytes(study: Path) -> dict[str, Bytes]:
    store = RunStore(study / "runs")
    return {
        key: {p.relative_to(store.root / key).as_posix(): p.read_bytes() for p in _files(store.root / key)}
        for key in store.keys()
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def garbage(part: str, only: str | None = None) -> Change:
    """Other counts, at other rates, in the trials of one part: of all sessions or of one."""

    def change(name: str, counts: np.ndarray) -> np.ndarray:
        if only in (None, name):
            chosen = getattr(make_split(name, np.arange(len(counts)), 0), part)
            counts[chosen] = np.random.default_rng(list(name.encode())).poisson(3.0, counts[chosen].shape)
        return counts

    return change


@pytest.fixture(scope="module")
def found(world: World) -> Found:
    return world.ranked(world.store())


# -- S1: a held-out recording never reaches pretraining ---------------------------------------------------------------


def other_recording(name: str, counts: np.ndarray) -> np.ndarray:
    """Another recording under the held-out id: other trials, other units."""
    return np.random.default_rng(1).poisson(1.0, (70, counts.shape[1], 5)) if name == HELDOUT else counts


def test_s1_another_held_out_recording_leaves_every_pretraining_as_it_was(world, found):
    other = world.ranked(world.store(other_recording))
    assert other.artefacts("pretrain") == found.artefacts("pretrain") and len(found.artefacts("pretrain")) == 3
    for kind in ("finetune", "baseline"):  # whereas what is trained on it is all new
        assert not other.artefacts(kind).keys() & found.artefacts(kind).keys()
    assert other.files["ranking.json"] != found.files["ranking.json"]


def test_s1_can_fail_another_recording_in_the_pool_changes_its_own_pretraining_and_no_other(world, found):
    other = world.ranked(world.store(garbage("train", "sim-01")))
    same = {key for key, files in found.artefacts("pretrain").items() if other.runs.get(key) == files}
    changed = found.artefacts("pretrain").keys() - same
    assert len(same) == 2 and [read_spec(found, key)["sessions"].keys() for key in changed] == [{"sim-01"}]


def read_spec(found: Found, key: str) -> Any:
    return read_json(found.study / "runs" / key / "spec.json")


# -- S2: test trials reach final evaluations alone ---------------------------------------------------------------------


def test_s2_garbage_in_all_test_trials_leaves_every_byte_of_a_ranking(world, found):
    other = world.ranked(world.store(garbage("test")))
    assert other.files == found.files and other.runs == found.runs and len(found.runs) == 8
    assert not other.opened and not found.opened


@pytest.mark.parametrize(
    ("part", "session"), [("validation", HELDOUT), ("train", HELDOUT), ("validation", "sim-01"), ("train", "sim-01")]
)
def test_s2_can_fail_garbage_in_other_trials_is_seen(world, found, part, session):
    other = world.ranked(world.store(garbage(part, session)))
    changed = {name for name in POOL if other.scores[name] != found.scores[name]}
    assert changed == (set(POOL) if session == HELDOUT else {session})
    assert other.files["ranking.json"] != found.files["ranking.json"]


def test_s2_can_fail_a_ranking_on_test_trials_is_seen(world, monkeypatch):
    real, stores = jobs.scorer, [world.store(), world.store(garbage("test"))]
    found = []
    for store in stores:

        def leaky(data, part, settings, counts=None, store=store):
            return real(data, "test", settings, np.asarray(open_store(store).session(data.id).counts)[data.split.test])

        monkeypatch.setattr(jobs, "scorer", leaky)
        found.append(world.ranked(store))
    assert found[0].files != found[1].files


STUDY = {
    "preset": "tiny",
    "data": {"heldout": [HELDOUT], "pool": list(POOL)},
    "study": {"seeds": [10], "sizes": [1, 2, "all"], "top": 2, "shuffles": 2, "references": ["psth"]},
    "controls": {"step_matched": True, "trial_matched": [2], "many_shuffles": {"size": 2, "n": 2}},
}


@pytest.fixture(scope="module")
def studies(world: World) -> tuple[Path, Path]:
    """The same study with and without garbage in all test trials."""
    value: dict[str, Any] = {name: dict(part) if isinstance(part, dict) else part for name, part in STUDY.items()}
    for key, setting in world.settings.items():
        section, name = key.split(".")
        value.setdefault(section, {})[name] = setting
    recipe = make_recipe(value)
    stores = (world.store(), world.store(garbage("test")))
    clean, other = (run_study(recipe, world.place(), store=store, on="here") for store in stores)
    return clean, other


@pytest.mark.slow
def test_s2_in_a_study_only_final_evaluations_see_test_trials(studies):
    """The same trainings to the last bit: the same sets, sizes, steps, checkpoints; other final evaluations."""
    clean, other = (run_bytes(study) for study in studies)
    by_kind = Counter(read_json(studies[0] / "runs" / key / "spec.json")["kind"] for key in clean)
    evaluated = [{key for key, files in runs.items() if "test.safetensors" in files} for runs in (clean, other)]
    assert len(evaluated[0]) == by_kind["evaluate"] == len(evaluated[1]) > 5 and by_kind["pretrain"] > 6
    assert not evaluated[0] & evaluated[1]
    assert {k: f for k, f in clean.items() if k not in evaluated[0]} == {
        k: f for k, f in other.items() if k not in evaluated[1]
    }
    rankings = [{p.relative_to(s): p.read_bytes() for p in s.glob("rankings/*/*/ranking.*")} for s in studies]
    assert rankings[0] == rankings[1] and rankings[0]


@pytest.mark.slow
def test_s2_in_a_study_only_test_numbers_change_and_what_is_chosen_stays(studies):
    results = [open_results(study) for study in studies]
    clean, other = ([replace(row, run=None) for row in found.rows] for found in results)
    assert [row for row in clean if row.part == "validation"] == [row for row in other if row.part == "validation"]
    assert [replace(row, value=None) for row in clean] == [replace(row, value=None) for row in other]
    tested = [(a, b) for a, b in zip(clean, other, strict=True) if a.part == "test"]
    assert all(a.value != b.value for a, b in tested) and len(tested) > 20
    grids = [Grid(found) for found in results]
    for order in ("ranked", "reverse_ranked", "random"):
        chosen = {best_size(grid, HELDOUT, order, "validation") for grid in grids}
        assert len(chosen) == 1 and chosen != {None}


# -- S3: scores are independent ---------------------------------------------------------------------------------------


def test_s3_candidates_that_are_added_and_removed_change_no_score_of_others(world, found):
    ids = (*POOL, "sim-03", HELDOUT)
    more = world.ranked(world.store(ids=ids), pool=(*POOL, "sim-03"))
    fewer = world.ranked(world.store(ids=("sim-00", "sim-02", HELDOUT)), pool=None)
    assert {name: more.scores[name] for name in POOL} == found.scores and set(more.scores) == {*POOL, "sim-03"}
    assert fewer.scores == {name: found.scores[name] for name in ("sim-00", "sim-02")}
    assert fewer.runs.items() <= found.runs.items() <= more.runs.items()


def test_s3_candidates_imported_and_named_in_another_order_in_a_moved_store_give_the_same_bytes(world, found):
    store = world.store(ids=(HELDOUT, *POOL[::-1]))
    moved = store.with_name("moved somewhere else")
    store.rename(moved)
    assert world.ranked(moved, pool=POOL[::-1]).files == found.files


def test_s3_a_session_folder_that_was_renamed_is_refused_and_another_id_is_another_candidate(world, found):
    """The id is part of what a session is: splits and first weights follow from it. Others do not."""
    store = world.store()
    (folder,) = store.glob("sim-01-*")
    folder.rename(folder.with_name(folder.name.replace("sim-01", "sim-99")))
    with pytest.raises(IntegrityError, match="sim-01"):
        open_store(store)
    store, session = world.store(ids=("sim-00", "sim-02", HELDOUT)), world.sessions.session("sim-01")
    open_store(store).add(make_session("renamed", np.array(session.counts), session.bin_s, session.window_s))
    other = world.ranked(store, pool=None)
    assert {name: other.scores[name] for name in ("sim-00", "sim-02")} == {
        name: found.scores[name] for name in ("sim-00", "sim-02")
    }
    assert other.scores["renamed"] not in found.scores.values()


def test_s3_other_held_out_sessions_change_no_byte(world, found):
    study, sessions = world.place(), open_store(world.store(ids=(*POOL, "sim-03", HELDOUT)))
    options = {"preset": "tiny", "overrides": world.settings, "seeds": (10,), "to": study, "on": "here"}
    rankings = rank_many(sessions, ["sim-03", HELDOUT], pool=POOL, **options)
    assert Found(study, rankings[1]).files == found.files


def last_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs that are ready, the last one is next: the reverse of the usual order."""
    real = schedule.Schedule.put_back

    def put_back(self: Any, spec: Any) -> None:
        self._chain = {key: 0 for key in self.specs}
        self._order = {key: -position for position, key in enumerate(self.specs)}
        real(self, spec)

    monkeypatch.setattr(schedule.Schedule, "put_back", put_back)


def test_s3_the_order_of_runs_changes_no_byte(world, found, monkeypatch):
    begun = []
    real = jobs.run
    monkeypatch.setattr(jobs, "run", lambda spec, *rest: (begun.append(spec.kind), real(spec, *rest)))
    assert world.ranked(world.store()).files == found.files
    usual, begun[:] = list(begun), []
    last_runs_first(monkeypatch)
    other = world.ranked(world.store())
    assert begun != usual and sorted(begun) == sorted(usual)
    assert other.files == found.files and other.runs == found.runs


@pytest.mark.slow
def test_s3_the_number_of_workers_changes_no_byte(world, found):
    other = world.ranked(world.store(), on="processes:2")
    assert other.files == found.files and other.runs == found.runs


def test_s3_can_fail_random_numbers_that_follow_the_order_of_runs_are_seen(world, found, monkeypatch):
    """A library whose streams count the runs of their process: all that was the same above is different."""
    numbers, real = count(), jobs.role_of
    monkeypatch.setattr(jobs, "role_of", lambda spec: (*real(spec), str(next(numbers))))
    first = world.ranked(world.store())
    last_runs_first(monkeypatch)
    numbers = count()
    assert world.ranked(world.store()).files != first.files
    numbers = count()
    more = world.ranked(world.store(ids=(*POOL, "sim-03", HELDOUT)), pool=None)
    assert all(more.scores[name] != first.scores[name] for name in POOL)
