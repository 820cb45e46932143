"""Checkpoints: the newest two generations, and the one before when the newest is damaged."""

from __future__ import annotations

import random
import shutil
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


def test_no_flipped_bit_and_no_truncation_of_a_checkpoint_is_silent(tmp_path):
    """100 flips and 20 truncations: the one before is used, with a warning, or what is read is unchanged."""
    rng, noticed = random.Random(4), 0
    save_checkpoint(tmp_path / "good", 10, put("good" * 50))
    save_checkpoint(tmp_path / "good", 20, put("newest" * 50))
    for trial in range(120):
        work = shutil.copytree(tmp_path / "good", tmp_path / str(trial))
        path = rng.choice(sorted((work / "step-000000000020").iterdir()))
        data = bytearray(path.read_bytes())
        if trial >= 100:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            latest = latest_checkpoint(work)
        assert latest is not None
        if checkpoint_step(latest) == 10:
            noticed += 1
            assert ["the one before it is used" in str(one.message) for one in said] == [True]
        else:  # in the manifest: white space, or a size, which says no more than the hash
            assert (latest / "state.txt").read_text() == "newest" * 50 and not said
    assert noticed >= 100
