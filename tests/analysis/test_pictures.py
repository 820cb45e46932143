"""Kept pictures of recordings: found by session and content, drawn once, and a gap where they cannot be trusted."""

import copy
import json

import numpy as np
import pytest

from sessionwise.analysis import figures, recording_figures
from sessionwise.analysis.pictures import ABOUT_FILE, PICTURE_FILE, find_picture, keep_picture
from sessionwise.analysis.report import report_of_study
from sessionwise.data.session import make_session
from sessionwise.data.splits import make_split
from sessionwise.io.files import folder_name, sha256_bytes, write_json

HELDOUT = "</script><img src=x onerror=alert(1)>"
HASH = "0" * 64


@pytest.fixture
def draws(monkeypatch):
    """Drawing replaced by a stand-in; the list of what was drawn."""
    drawn = []

    def stand_in(made, split):
        drawn.append(made.id)
        return b"\x89PNG, drawn"

    monkeypatch.setattr(recording_figures, "picture", stand_in)
    return drawn


@pytest.fixture
def recording():
    made = make_session(HELDOUT, np.random.default_rng(0).poisson(1, (20, 4, 3)).astype(np.uint8), 0.02)
    return made, make_split(made.id, made.trial_ids)


@pytest.fixture
def study(tmp_path, make_ranking):
    """A study's folder with one ranking, and the folder of that ranking."""
    ranking = make_ranking(4, heldout=HELDOUT)
    ranking["provenance"]["sessions"] = {HELDOUT: HASH}
    folder = tmp_path / "rankings" / folder_name(HELDOUT) / "full-1"
    folder.mkdir(parents=True)
    write_json(folder / "ranking.json", ranking)
    return tmp_path, folder, ranking


def test_a_kept_picture_is_found_by_its_ranking_alone(study, recording, draws):
    path, folder, ranking = study
    assert find_picture(path, ranking) is None
    kept = keep_picture(folder, *recording, HASH)
    found = find_picture(path, ranking)
    assert kept == folder / PICTURE_FILE and found["content"] == kept.read_bytes()
    assert "sealed" in found["caption"] and (found["width"], found["height"]) == (1056, 768)
    other = copy.deepcopy(ranking)
    other["provenance"]["sessions"][HELDOUT] = "1" * 64
    assert find_picture(path, other) is None
    assert find_picture(path, {**ranking, "heldout": "another"}) is None
    assert find_picture(path, {"heldout": HELDOUT}) is None


def test_it_is_drawn_once_and_again_for_other_content(study, recording, draws):
    _, folder, _ = study
    for content in (HASH, HASH, "1" * 64, "1" * 64):
        keep_picture(folder, *recording, content)
    assert len(draws) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / PICTURE_FILE).unlink(),
        lambda folder: (folder / PICTURE_FILE).write_bytes(b"\x89PNG, other"),
        lambda folder: (folder / ABOUT_FILE).write_text("[]"),
        lambda folder: (folder / ABOUT_FILE).write_text("{"),
        lambda folder: change(folder, schema=2),
        lambda folder: change(folder, width="1056"),
        lambda folder: change(folder, caption=None),
    ],
)
def test_a_damaged_picture_is_a_gap_and_drawn_again(study, recording, draws, damage):
    path, folder, ranking = study
    keep_picture(folder, *recording, HASH)
    damage(folder)
    assert find_picture(path, ranking) is None
    keep_picture(folder, *recording, HASH)
    assert find_picture(path, ranking) is not None and len(draws) == 2


def change(folder, **values):
    about = json.loads((folder / ABOUT_FILE).read_text())
    write_json(folder / ABOUT_FILE, {**about, **values})


def test_the_page_of_a_ranking_shows_it_and_drops_it(study, recording, draws, monkeypatch):
    path, folder, _ = study
    monkeypatch.setattr(figures, "draw", lambda name, result: None)  # the other figures have tests of their own
    without = report_of_study(path).read_text()
    keep_picture(folder, *recording, HASH)
    change(folder, caption="<script>alert(1)</script>")
    page = report_of_study(path).read_text()
    assert page.count("data:image/png;base64,") == 1 and "The held-out recording" in page
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert(1)") == 2
    copied = path / "report" / "figures" / "recording.png"
    assert sha256_bytes(copied.read_bytes()) == json.loads((folder / ABOUT_FILE).read_text())["sha256"]
    (folder / PICTURE_FILE).unlink()
    assert report_of_study(path).read_text() == without and not copied.exists()
