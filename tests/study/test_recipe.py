"""Recipes: strict, every problem in one answer, and one study a folder."""

import pytest

from sessionwise.errors import Problems, SessionwiseError, UsageError
from sessionwise.study.recipe import changed, load_recipe, make_recipe


def problems(value):
    with pytest.raises(SessionwiseError) as caught:
        make_recipe(value)
    error = caught.value
    return [str(p) for p in (error.problems if isinstance(error, Problems) else [error])]


def test_a_recipe_holds_the_differences_from_the_defaults():
    recipe = make_recipe({"preset": "tiny", "train": {"lr": 1e-3}, "study": {"seeds": [1, 2]}, "split_seed": 4})
    assert recipe.settings.train.lr == 1e-3 and recipe.settings.model.width == 32
    assert recipe.settings.split_seed == recipe.split_seed == 4
    assert recipe.study.seeds == (1, 2) and recipe.study.sizes == (1, 2, 3, 4, 5, 10, 20, 30, 40, "all")


def test_every_misspelt_key_and_wrong_value_is_named_in_one_answer():
    found = problems(
        {
            "preset": "tinny",
            "contrls": {},
            "study": {"seds": [1], "sizes": [1, "2"]},
            "train": {"epocs": 3, "lr": "1e-4"},
            "data": {"heldout": "a"},
        }
    )
    for part in (
        "'tinny'; need one of tiny, small, paper. Did you mean 'tiny'",
        "unknown key 'contrls'",
        "unknown key 'study.seds'",
        "Did you mean 'seeds'",
        "study.sizes.1: '2'",
        "unknown key 'train.epocs'",
        "Did you mean 'epochs'",
        "train.lr: '1e-4'",
        "data.heldout: 'a'",
    ):
        assert any(part in line for line in found), (part, found)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "lr", -1.0),
        ("train", "epochs", 0),
        ("train", "epochs", True),
        ("model", "dropout", 1.0),
        ("model", "heads", 7),
        ("study", "seeds", [-1]),
        ("study", "seeds", [2**32]),
        ("study", "shuffles", 0),
        ("study", "orders", ["sideways"]),
        ("controls", "many_shuffles", {"size": 0}),
        ("controls", "random_core", "yes"),
        ("data", "simulate", {"n_sessions": 0}),
        ("data", "simulate", {"sead": 1}),
        ("train", "lr", float("nan")),
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(section, key, value):
    assert problems({section: {key: value}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"seeds = [1,,2]", "line 1"),
        (b"a = 1\na = 2", "no TOML"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a = " + b"[" * 100_000, "TOML|nested"),
        (b"#" * 1_000_001, "bytes"),
    ],
)
def test_what_is_no_toml_is_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "r.toml")


def test_a_byte_order_mark_is_no_problem_and_a_missing_file_is_one(tmp_path):
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbfname = "x"')
    assert load_recipe(tmp_path / "r.toml").name == "x"
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def test_keys_are_changed_by_their_path_and_the_original_stays():
    value = {"data": {"simulate": {"seed": 0}}}
    new = changed(value, ["data.simulate.seed=3", "study.sizes=[1, 'all']", "name=hello"])
    assert new["data"]["simulate"]["seed"] == 3 and value["data"]["simulate"]["seed"] == 0
    assert new["study"]["sizes"] == [1, "all"] and new["name"] == "hello"
    for bad in ("data.simulate.seed", "=1", "name.x=1"):
        with pytest.raises(UsageError):
            changed(new, [bad])


def test_the_name_and_the_place_of_the_store_make_no_other_study():
    one = make_recipe({"name": "a", "data": {"store": "here", "heldout": ["x"]}})
    two = make_recipe({"name": "b", "data": {"store": "there", "heldout": ["x"]}})
    other = make_recipe({"name": "a", "data": {"store": "here", "heldout": ["x"]}, "train": {"lr": 2e-3}})
    assert one.identity() == two.identity() != other.identity()


def test_the_kind_of_split_reaches_the_settings_and_an_unknown_one_is_named():
    recipe = make_recipe({"split": "blocked"})
    assert recipe.split == recipe.settings.split == "blocked"
    assert make_recipe(changed({}, ["split=blocked"])).split == "blocked"
    assert any("split: 'bloked'" in line and "'recorded'" in line for line in problems({"split": "bloked"}))


def test_a_random_split_makes_no_other_study():
    """Studies from before there were other splits go on."""
    plain, random, blocked = (make_recipe(value) for value in ({}, {"split": "random"}, {"split": "blocked"}))
    assert plain.identity() == random.identity() != blocked.identity()
    assert "split" not in plain.identity() and "split" not in plain.identity()["settings"]
    assert blocked.identity()["split"] == blocked.identity()["settings"]["split"] == "blocked"
