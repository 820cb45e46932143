"""Where the profile puts an operator: by region, through the backward pass, by name; nothing twice."""

from types import SimpleNamespace

import pytest
import torch
from step_parts import (
    ATTEND,
    ATTENTION_PRODUCTS,
    BETWEEN,
    BITS,
    COPIES,
    DATA,
    DROPPING,
    ELEMENTWISE,
    LOSS,
    MARK,
    OPTIMISER,
    PARTS,
    PRODUCTS,
    SOFTMAX,
    attribute,
    parts_of_a_step,
)
from step_variants import Bench, Sessions, Variant

from sessionwise.model.ndt import NDTConfig
from sessionwise.training.loop import TrainSettings


def event(name, parent=None, sequence=-1, start=0, own=1.0):
    time_range = SimpleNamespace(start=start)
    return SimpleNamespace(
        name=name, cpu_parent=parent, sequence_nr=sequence, time_range=time_range, self_cpu_time_total=own
    )


@pytest.mark.parametrize(
    ("name", "region", "part"),
    [
        ("aten::addmm", None, PRODUCTS),
        ("aten::bmm", ATTEND, ATTENTION_PRODUCTS),
        ("aten::_softmax", ATTEND, SOFTMAX),
        ("aten::mul", ATTEND, DROPPING),
        ("aten::copy_", ATTEND, COPIES),
        ("aten::copy_", BITS, BITS),
        ("aten::random_", BITS, BITS),
        ("aten::add", DROPPING, DROPPING),
        ("aten::gelu", None, ELEMENTWISE),
        ("aten::_fused_adamw_", OPTIMISER, OPTIMISER),
        ("aten::exp", LOSS, LOSS),
        ("aten::rand", DATA, DATA),
        ("aten::view", LOSS, BETWEEN),
        ("AddmmBackward0", None, BETWEEN),
    ],
)
def test_an_operator_belongs_to_its_region_or_its_name_decides(name, region, part):
    around = event(MARK + region) if region else None
    assert {p: t for p, t in attribute([event(name, around)]).items() if t} == {part: 1.0}


def test_the_innermost_region_counts():
    bits = event(MARK + BITS, event(MARK + DROPPING))
    assert attribute([event("aten::ge_", bits)])[BITS] == 1.0


def test_an_operator_of_the_backward_pass_belongs_to_the_region_that_it_differentiates():
    early = event(
        "aten::ge_", event(MARK + BITS), sequence=7, start=1
    )  # made no node: it carries the next one's number
    forward = event("aten::mul", event(MARK + DROPPING), sequence=7, start=2)
    node = event("autograd::engine::evaluate_function: MulBackward0", event(MARK + LOSS), sequence=7, start=3)
    backward = event("aten::mul", event("MulBackward0", node, sequence=7, start=3), start=3)
    found = attribute([early, forward, backward])
    assert (found[DROPPING], found[BITS]) == (2.0, 1.0)


def test_shares_of_a_real_step_add_up_and_every_part_is_there(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(Sessions(tmp_path))
    config = NDTConfig(token_width=6, width=8, feedforward=16, heads=2, blocks=2)
    training = bench.ours(Variant("ours"), config, TrainSettings(batch_size=4), [bench.sessions.get(8, 20, 20)])
    shares = parts_of_a_step(training, steps=2)
    torch.set_num_threads(threads)
    assert tuple(shares) == PARTS and sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0


def test_regions_are_taken_away_again(tmp_path):
    from sessionwise.model import ndt

    attend = ndt.attend
    bench = Bench(Sessions(tmp_path))
    config = NDTConfig(token_width=6, width=8, feedforward=16, heads=2, blocks=1)
    parts_of_a_step(bench.ours(Variant("ours"), config, TrainSettings(), [bench.sessions.get(8, 20, 20)]), steps=1)
    assert ndt.attend is attend
