"""Checkpoints: the newest two generations, and the one before when the newest is damaged."""

from __future__ import annotations

import warnings

import pytest

from sessionwise.errors import SessionwiseWarning
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint, save_checkpoint


def put(text: str):
    return lambda folder: (folder / "state.txt").write_text(text)


def test_the_newest_two_are_kept(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 100, 2000):
        save_checkpoint(tmp_path, step, put(f"at {step}"))
        latest = latest_checkpoint(tmp_path)
        assert latest and checkpoint_step(latest) == step and (latest / "state.txt").read_text() == f"at {step}"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("harm", ["flip", "truncate", "no manifest", "empty"])
def test_a_damaged_newest_gives_way_to_the_one_before(tmp_path, harm):
    save_checkpoint(tmp_path, 10, put("good"))
    newest = save_checkpoint(tmp_path, 20, put("will be damaged"))
    if harm == "flip":
        (newest / "state.txt").write_text("will be damageD")
    elif harm == "truncate":
        (newest / "state.txt").write_text("will")
    elif harm == "empty":
        [path.unlink() for path in newest.iterdir()]
    else:
        (newest / "manifest.json").unlink()
    with pytest.warns(SessionwiseWarning, match="the one before"):
        latest = latest_checkpoint(tmp_path)
    assert latest and checkpoint_step(latest) == 10
    again = save_checkpoint(tmp_path, 20, put("new"))
    assert (again / "state.txt").read_text() == "new" and latest_checkpoint(tmp_path) == again


def test_an_interrupted_save_is_never_read(tmp_path):
    save_checkpoint(tmp_path, 10, put("good"))

    def write(folder) -> None:
        (folder / "state.txt").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 20, write)
    (tmp_path / ".tmp-host-1-abc").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latest = latest_checkpoint(tmp_path)
    assert latest and checkpoint_step(latest) == 10
