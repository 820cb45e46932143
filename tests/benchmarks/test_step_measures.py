"""What the step's benchmark measures with: turns, ratios, operations, kept activations."""

import pytest
import torch
from step_measures import Peak, executed_flops, interleave, kept_activations, ratio, summary
from torch.nn import functional as F


def test_steps_run_in_turn_and_the_order_turns():
    ran = []
    times = interleave({name: lambda name=name: ran.append(name) for name in "abc"}, seconds=0.0, least=3)
    assert "".join(ran) == "abc" + "bca" + "cab" + "abc"  # the first round is not counted
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_more_time_means_more_rounds():
    times = interleave({"a": lambda: None}, seconds=0.05, least=2)
    assert len(times["a"]) > 2


def test_a_ratio_is_taken_round_by_round():
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_a_summary():
    found = summary([4.0, 1.0, 2.0, 3.0, 2.0])
    assert found == {"median_s": 2.0, "fastest_s": 1.0, "spread": 1.0, "repetitions": 5}


@pytest.mark.parametrize("dropped", [0.0, 0.1])
def test_attention_counts_its_two_products_on_either_path(dropped):
    q, k, v = torch.ones(3, 2, 4, 7, 8).unbind()  # (2, 4, 7, 8) each
    flops = executed_flops(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=dropped))
    assert flops == 2 * (2 * 4 * 7 * 7 * 8) * 2


def test_operations_are_a_mean_over_repetitions():
    sizes = iter([1, 3])
    assert executed_flops(lambda: torch.ones(next(sizes), 4) @ torch.ones(4, 5), repetitions=2) == 2 * 2 * 4 * 5


def test_kept_activations_count_each_storage_once_and_no_weights():
    weight = torch.nn.Parameter(torch.ones(10, 10))

    def step():
        x = torch.ones(6, 10)
        hidden = x @ weight  # keeps x and the weight
        (hidden * hidden).sum().backward()  # keeps hidden twice

    assert kept_activations(step, [weight]) == 2 * 6 * 10 * 4


def test_the_peak_is_the_best_of_all_takes():
    peak = Peak([16], seconds=0.01)
    peak.takes = {"fp32": [8.0, 10.0], "bf16": [30.0, 15.0]}
    assert peak.of("fp32") == 10.0
    assert peak.document()["bf16"] == {"peak": 30.0, "takes": [30.0, 15.0], "spread": 0.5}
    peak.take()
    assert len(peak.takes["fp32"]) == 3 and peak.of("fp32") > 1e6
