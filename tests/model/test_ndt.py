"""The model against the paper's numbers, against causality, and against independent formulations."""

import math

import pytest
import torch
from torch.nn import functional as F

from sessionwise.errors import UsageError
from sessionwise.model.ndt import NDT, Attention, NDTConfig, dropout, hidden_tokens
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
    torch.testing.assert_close(attention(x, hidden, None), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention(x, hidden, stream(0, "d")), expected, atol=1e-6, rtol=1e-5)


def test_whole_model_against_a_plain_formulation():
    """The forward pass written out once more with torch's own layers."""
    model = toy()
    counts, masked = counts_and_mask()
    core, stitchers = model.core, model.stitchers_of("a")
    x = (counts.float() * ~masked[..., None]) @ stitchers.encode.weight.T + stitchers.encode.bias
    x = F.softsign(x @ core.embedder.into.weight.T + core.embedder.into.bias)
    x = x @ core.embedder.out.weight.T + core.embedder.out.bias + core.positions
    (session,) = model.session_embeddings.values()
    x = torch.cat([session.expand(3, 1, 8), core.scheme.expand(3, 1, 8), x], dim=1)
    for block in core.blocks:
        h = F.layer_norm(x, (8,), block.norm_attention.weight, block.norm_attention.bias)
        q, k, v = (
            F.linear(h, w, b).view(3, 9, 2, 4).transpose(1, 2)
            for w, b in zip(block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3), strict=True)
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden_tokens(7)).transpose(1, 2).reshape(3, 9, 8)
        x = x + block.attention.out(h)
        h = F.layer_norm(x, (8,), block.norm_feedforward.weight, block.norm_feedforward.bias)
        x = x + block.down(F.gelu(block.up(h)))
    x = F.layer_norm(x[:, 2:], (8,), core.norm.weight, core.norm.bias)
    torch.testing.assert_close(model(counts, masked, "a"), stitchers.decode(x), atol=1e-5, rtol=1e-5)


def test_dropout_keeps_the_mean_and_the_rate():
    x = torch.ones(200_003)
    y = dropout(x, 0.2, stream(3, "dropout"))
    share = float((y == 0).float().mean())
    assert abs(share - 51 / 256) < 5 * math.sqrt(0.2 * 0.8 / x.numel())
    assert abs(float(y.mean()) - 1) < 0.01
    assert y.unique().tolist() == pytest.approx([0.0, 256 / 205])
    assert dropout(x, 0.2, None) is x


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


@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
def test_decoding_only_some_bins_is_exact(objective):
    """The fast path of the loss and the scores, in value and in every gradient."""
    counts, masked = counts_and_mask()
    found = {}
    for name in ("all", "some"):
        model = toy(objective=objective)
        rng = stream(1, "dropout")
        rates = model(counts, masked, "a", rng)[masked] if name == "all" else None
        rates = model.log_rates_at(masked, counts, masked, "a", rng) if rates is None else rates
        rates.exp().sum().backward()
        found[name] = [rates.detach()] + [p.grad for p in model.parameters()]
    for one, two in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
