import numpy as np
import pytest
import torch

from sessionwise.errors import DataError, UsageError
from sessionwise.io.files import read_json, write_json
from sessionwise.io.tensors import read_tensors, write_tensors
from sessionwise.model.checkpoint import load_model, mean_session_embedding, save_model
from sessionwise.model.ndt import NDT, NDTConfig

TOY = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=1)


@pytest.fixture
def stored(tmp_path):
    model = NDT(TOY, 7, seed=3)
    model.add_session("a", 5)
    model.add_session("b/../weird id", 5)
    save_model(tmp_path, model)
    return tmp_path, model


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip(stored):
    folder, model = stored
    assert same(load_model(folder), model)


def test_core_alone_and_one_session(stored):
    folder, model = stored
    assert load_model(folder, sessions=()).core_hash() == model.core_hash()
    assert list(load_model(folder, sessions=["a"]).session_ids) == ["a"]


def test_files_are_the_core_and_one_for_each_session(stored):
    folder, _ = stored
    assert len(list((folder / "sessions").glob("*.safetensors"))) == 2
    assert {p.name for p in folder.iterdir()} == {"core.safetensors", "model.json", "sessions"}


def test_stitchers_without_their_core_need_to_be_told_where_it_is(stored, tmp_path):
    folder, model = stored
    save_model(tmp_path / "tuned", model, core=False)
    assert same(load_model(tmp_path / "tuned", core_from=folder), model)
    with pytest.raises(UsageError, match="without their core"):
        load_model(tmp_path / "tuned")


def test_mean_session_embedding(stored):
    folder, model = stored
    expected = torch.stack(list(model.session_embeddings.values())).mean(dim=0)
    torch.testing.assert_close(mean_session_embedding(folder), expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("scheme"), "missing scheme"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "unexpected extra"),
        (lambda t: t.update(scheme=np.zeros(9, np.float32)), r"scheme has shape \(9,\), not \(8,\)"),
        (lambda t: t.update(scheme=np.full(8, np.nan, np.float32)), "scheme holds NaN"),
        (lambda t: t.update(scheme=np.zeros(8, np.float64)), "scheme is float64"),
    ],
)
def test_weights_that_do_not_fit_are_named(stored, change, says):
    """D52."""
    folder, _ = stored
    tensors = read_tensors(folder / "core.safetensors")
    change(tensors)
    write_tensors(folder / "core.safetensors", tensors)
    with pytest.raises(DataError, match=says):
        load_model(folder)


def test_another_architecture_newer_format_and_unknown_session(stored):
    folder, _ = stored
    about = read_json(folder / "model.json")
    with pytest.raises(UsageError, match="no stitchers for session c"):
        load_model(folder, sessions=["c"])
    write_json(folder / "model.json", {**about, "config": {**about["config"], "blocks": 2}})
    with pytest.raises(DataError, match=r"missing blocks\.1"):
        load_model(folder)
    write_json(folder / "model.json", {**about, "format": 99})
    with pytest.raises(DataError, match="format 99"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 40])
def test_broken_files_are_typed_errors(stored, content):
    folder, _ = stored
    (folder / "core.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="safetensors"):
        load_model(folder)
