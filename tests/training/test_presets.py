import pytest

from sessionwise.errors import Problems, UsageError
from sessionwise.training.presets import PAPER, PRESETS, Settings, known_keys, preset


def test_paper_is_table_a1():
    model, train = PAPER.model, PAPER.train
    assert (model.token_width, model.width, model.feedforward, model.heads, model.blocks) == (668, 512, 1024, 8, 5)
    assert (model.dropout, model.objective, model.decoder_start) == (0.2, "masked_causal", "default")
    assert (train.lr, train.weight_decay, train.batch_size, train.clip) == (1e-4, 0.01, 16, 1.0)
    assert (train.epochs, train.mask_ratio, train.pct_start, train.div_factor) == (1000, 0.3, 0.15, 10)
    for arm in (PAPER.finetune, PAPER.baseline):
        assert arm.model_dump(include=set(type(train).model_fields)) == train.model_dump()
    assert PAPER.finetune.freeze_core and PAPER.finetune.session_embedding == "mean"


def test_overrides_as_text_and_as_values():
    changed = preset("tiny", ["train.lr=3e-4", "train.epochs=7", "split_seed=3", "train.steps=none"])
    assert (changed.train.lr, changed.train.epochs, changed.split_seed, changed.train.steps) == (3e-4, 7, 3, None)
    assert changed == preset("tiny", {"train.lr": 3e-4, "train.epochs": 7, "split_seed": 3, "train.steps": None})
    assert PRESETS["tiny"].settled() == preset("tiny")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.leraning_rate=1"], "unknown key 'train.leraning_rate'.*"),
        (["train.epoch=5"], "Did you mean 'train.epochs'"),
        (["train.lr"], "has no '='"),
        (["train.lr=-1"], r"setting train.lr: '-1'; need greater than 0"),
        (["model.dropout=1.0"], "setting model.dropout: '1.0'; need less than 1"),
        (["model.heads=3"], r"heads \(3\) must divide width"),
        (["finetune.keep=worst"], "'best' or 'last'"),
        (["train.epochs=2.5"], "setting train.epochs"),
        (["split=blokced"], r"setting split: 'blokced'; need 'random', 'blocked' or 'recorded'"),
        (["preset=paper"], "unknown key 'preset'"),
    ],
)
def test_what_cannot_be_meant_is_named(overrides, says):
    """D46, D47."""
    with pytest.raises(UsageError, match=says):
        preset("tiny", overrides)


def test_all_problems_in_one_answer():
    with pytest.raises(Problems) as caught:
        preset("tiny", ["train.lr=-1", "train.epochs=0"])
    assert len(caught.value.problems) == 2


def test_unknown_preset_and_every_key_is_settable():
    with pytest.raises(UsageError, match="Did you mean 'small'"):
        preset("smal")
    for key in known_keys():
        section, _, name = key.partition(".")
        value = getattr(PAPER, section)
        assert preset("paper", {key: getattr(value, name) if name else value}) == PAPER.settled()
    assert {"split", "split_seed", "train.lr"} <= set(known_keys())


def test_a_dump_names_the_split_where_it_is_not_random():
    """Settings from before there were other splits are those of today: they name folders and studies."""
    blocked, usual = preset("tiny", ["split=blocked"]), preset("tiny")
    assert blocked.split == "blocked" and blocked != usual == preset("tiny", ["split=random"])
    assert blocked.model_dump() == {**usual.model_dump(), "split": "blocked"}
    for settings in (blocked, usual):
        assert Settings.model_validate_json(settings.model_dump_json()) == settings
