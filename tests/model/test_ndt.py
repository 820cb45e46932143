"""The model against the paper's numbers, against causality, and against independent formulations."""

import math

import pytest
import torch
from plain_ndt import Recorder, plain_log_rates

from sessionwise.errors import UsageError
from sessionwise.model.dropout import Streams, dropout, random_bytes
from sessionwise.model.ndt import NDT, Attention, NDTConfig, hidden_tokens
from sessionwise.model.streams import stream

TOY = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=3, dropout=0.2)


def toy(n_bins=7, n_units=5, seed=0, **changes):
    model = NDT(TOY.model_copy(update=changes), n_bins, seed)
    model.add_session("a", n_units, torch.full((n_units,), 0.3))
    return model


def counts_and_mask(trials=3, bins=7, units=5, seed=1):
    rng = stream(seed, "test")
    counts = torch.poisson(torch.full((trials, bins, units), 1.5), generator=rng).to(torch.uint8)
    return counts, torch.rand(trials, bins, generator=rng) < 0.3


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_table_a1_has_12_million_shared_parameters():
    """Each term by hand: embedder, positions, scheme token, 5 blocks, final norm."""
    D, S, M, T = 512, 668, 1024, 150
    embedder = (S * 2 * S + 2 * S) + (2 * S * D + D)
    block = (3 * D * D + 3 * D) + (D * D + D) + (D * M + M) + (M * D + D) + 4 * D
    expected = embedder + T * D + D + 5 * block + 2 * D
    assert size(NDT(NDTConfig(), T, seed=0).core) == expected == 12_170_584


def test_three_blocks_are_the_papers_8_million():
    assert round(size(NDT(NDTConfig(blocks=3), 150, seed=0).core) / 1e6) == 8


@pytest.mark.parametrize("n_units", [1, 600, 1015])
def test_stitchers_have_1181_parameters_a_unit_and_668(n_units):
    model = NDT(NDTConfig(blocks=1), 150, seed=0)
    model.add_session("a", n_units)
    assert size(model.stitchers) == 1181 * n_units + 668


@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
def test_no_bin_sees_the_future(objective):
    """Protocol B6, S13: change the counts of one bin; no prediction before it moves, bit for bit."""
    model = toy(objective=objective)
    counts, _ = counts_and_mask()
    nothing = torch.zeros(counts.shape[:2], dtype=torch.bool)
    before = model(counts, nothing, "a")
    for t in range(counts.shape[1]):
        changed = counts.clone()
        changed[:, t] += 3
        after = model(changed, nothing, "a")
        first = t + 1 if objective == "next_step" else t  # the first bin that may see bin t
        assert torch.equal(before[:, :first], after[:, :first])
        if first < counts.shape[1]:
            assert not torch.equal(before[:, first:], after[:, first:])


def test_prefix_tokens_see_only_each_other():
    hidden = hidden_tokens(4)
    assert not hidden[:2, :2].any() and hidden[:2, 2:].all()
    for t in range(4):
        assert (~hidden[2 + t]).tolist() == [True, True] + [s <= t for s in range(4)]


def test_masked_counts_are_invisible():
    model = toy()
    counts, masked = counts_and_mask()
    assert masked.any()
    other = torch.where(masked.unsqueeze(-1), counts + 9, counts)
    assert torch.equal(model(counts, masked, "a"), model(other, masked, "a"))


def test_attention_is_softmax_over_visible_tokens():
    """The fast path, and the path with dropout at p near 0, against a loop over heads and queries."""
    attention = Attention(TOY.model_copy(update={"dropout": 1 / 1024}))
    x, hidden = torch.randn(2, 6, 8), hidden_tokens(4)
    q, k, v = (part.view(2, 6, 2, 4) for part in attention.qkv(x).chunk(3, dim=-1))
    mixed = torch.zeros(2, 6, 2, 4)
    for trial in range(2):
        for head in range(2):
            for i in range(6):
                seen = [j for j in range(6) if not hidden[i, j]]
                score = torch.stack([q[trial, i, head] @ k[trial, j, head] / math.sqrt(4) for j in seen])
                mixed[trial, i, head] = score.softmax(0) @ v[trial, seen, head]
    expected = attention.out(mixed.reshape(2, 6, 8))
    for rng in (None, stream(0, "d")):
        torch.testing.assert_close(attention.out(attention(x, hidden, rng)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n_bins", [7, 150, 1])
@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
def test_whole_model_against_a_plain_formulation(objective, n_bins):
    model = toy(objective=objective, n_bins=n_bins)
    counts, masked = counts_and_mask(bins=n_bins)
    expected = plain_log_rates(model, counts, masked, "a")
    torch.testing.assert_close(model(counts, masked, "a"), expected, atol=1e-5, rtol=1e-5)
    bins = torch.rand(masked.shape, generator=stream(3, "bins")) < 0.5
    torch.testing.assert_close(model.log_rates_at(bins, counts, masked, "a"), expected[bins], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.2])
@pytest.mark.parametrize("n_bins", [7, 150])
@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
def test_only_some_bins_and_visible_keys_are_exact_in_value_and_every_gradient(objective, n_bins, p, monkeypatch):
    """The training step's fast path against the dense twin, with the very same elements dropped."""
    counts, masked = counts_and_mask(bins=n_bins)
    model, twin = (toy(objective=objective, n_bins=n_bins, dropout=p) for _ in range(2))
    recorder = Recorder(monkeypatch)
    rates = model.log_rates_at(masked, counts, masked, "a", stream(1, "dropout"))
    drawn = recorder.drawn if p else None
    expected = plain_log_rates(twin, counts, masked, "a", drawn, wanted=masked)[masked]
    assert bool(recorder.drawn) == bool(p)
    torch.testing.assert_close(rates, expected, atol=1e-5, rtol=1e-5)
    for found in (rates, expected):
        (found.exp() - counts[masked] * found).mean().backward()
    for (name, one), two in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_batches_without_a_masked_or_with_no_unmasked_bin(share):
    model = toy()
    counts, _ = counts_and_mask()
    masked = torch.full(counts.shape[:2], share == 1.0)
    everything = torch.ones_like(masked)
    expected = plain_log_rates(model, counts, masked, "a").flatten(0, 1)
    torch.testing.assert_close(model.log_rates_at(everything, counts, masked, "a"), expected, atol=1e-5, rtol=1e-5)


def test_bf16_rounds_matrix_products_and_nothing_else():
    """Log rates and gradients stay float32 and near; the weights are untouched."""
    counts, masked = counts_and_mask()
    exact, rounded = toy(), toy()
    rounded.precision = "bf16"
    one, two = (m.log_rates_at(masked, counts, masked, "a", stream(1, "dropout")) for m in (exact, rounded))
    assert two.dtype == torch.float32 and not torch.equal(one, two)
    torch.testing.assert_close(one, two, atol=0.05, rtol=0.05)
    two.mean().backward()
    assert all(p.grad is None or p.grad.dtype == p.dtype == torch.float32 for p in rounded.parameters())
    assert exact.core_hash() == rounded.core_hash()


def test_dropout_keeps_the_mean_and_the_rate():
    x = torch.ones(200_003)
    y = dropout(x, 0.2, stream(3, "dropout"))
    share = float((y == 0).float().mean())
    assert abs(share - 51 / 256) < 5 * math.sqrt(0.2 * 0.8 / x.numel())
    assert abs(float(y.mean()) - 1) < 0.01
    assert y.unique().tolist() == pytest.approx([0.0, 256 / 205])
    assert dropout(x, 0.2, None) is x


def test_trainings_that_share_a_batch_draw_what_they_draw_alone():
    alone = [random_bytes((trials, 4, 3), stream(seed, "d")) for seed, trials in ((1, 5), (2, 2))]
    together = random_bytes((7, 4, 3), Streams([(stream(1, "d"), 5), (stream(2, "d"), 2)]))
    assert torch.equal(together, torch.cat(alone))


def test_dropout_is_the_generators_alone():
    model = toy()
    counts, masked = counts_and_mask()
    first = model(counts, masked, "a", stream(1, "dropout"))
    torch.manual_seed(5)
    assert torch.equal(first, model(counts, masked, "a", stream(1, "dropout")))
    assert not torch.equal(first, model(counts, masked, "a", stream(2, "dropout")))


def test_initial_core_does_not_depend_on_sessions_or_global_state():
    one, two = NDT(TOY, 7, seed=4), NDT(TOY, 7, seed=4)
    one.add_session("a", 3)
    torch.manual_seed(99)
    two.add_session("b", 300)
    two.add_session("a", 3)
    assert one.core_hash() == two.core_hash() != NDT(TOY, 7, seed=5).core_hash()
    assert torch.equal(one.stitchers_of("a").encode.weight, two.stitchers_of("a").encode.weight)


def test_two_sessions_of_equal_size_do_not_share_stitchers():
    """Protocol B10, D42."""
    model = toy()
    model.add_session("b", 5)
    assert model.stitchers_of("a") is not model.stitchers_of("b")
    assert not torch.equal(model.stitchers_of("a").encode.weight, model.stitchers_of("b").encode.weight)


def test_null_start_is_the_null_model():
    rates = torch.tensor([0.5, 0.01, 0.0, 2.0, 0.1])
    model = NDT(TOY.model_copy(update={"decoder_start": "null"}), 7, seed=0)
    model.add_session("a", 5, rates)
    counts, masked = counts_and_mask()
    expected = rates.clamp_min(5e-4).expand(3, 7, 5)
    torch.testing.assert_close(model(counts, masked, "a").exp(), expected)


@pytest.mark.parametrize("make", [lambda m: m.add_session("a", 5), lambda m: m(*counts_and_mask(), "unknown")])
def test_known_and_unknown_sessions_are_named(make):
    with pytest.raises(UsageError, match=r"session (a|unknown)"):
        make(toy())


def test_heads_must_divide_width():
    with pytest.raises(ValueError, match=r"heads \(3\) must divide width \(8\)"):
        NDTConfig(width=8, heads=3)
