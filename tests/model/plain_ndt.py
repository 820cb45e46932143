"""The slow twin of the model: every bin, every token, every key, with torch's own layers, in the order of the paper.

Its dropout uses the same random bytes as the fast path: `Recorder` writes down what the fast path drew, and `Plain`
spreads them over the dense tensors (where the fast path computed nothing, what is dropped cannot matter).
"""

import torch
from torch.nn import functional as F

import sessionwise.model.dropout as fast

PREFIX = 2


class Recorder:
    """Everything that the fast path draws while it is installed, as tensors of bytes."""

    def __init__(self, monkeypatch):
        self.drawn = []
        real = fast.random_bytes

        def record(shape, rng):
            drawn = real(shape, rng)
            self.drawn.append(drawn.clone())
            return drawn

        monkeypatch.setattr(fast, "random_bytes", record)


def dropped(x, drawn, p):
    """Inverted dropout with given bytes, written out."""
    share = round(p * 256) / 256
    return torch.where(drawn >= round(p * 256), x / (1 - share), torch.zeros(()))


def plain_log_rates(model, counts, masked, session_id, drawn=None, wanted=None):
    """(K, T, N) log rates. drawn: bytes of the fast path, or None without dropout; wanted: (K, T) its bins."""
    config, core, stitchers = model.config, model.core, model.stitchers_of(session_id)
    K, T, _ = counts.shape
    L, D, H = T + PREFIX, config.width, config.heads
    drawn = iter(drawn) if drawn is not None else None
    asked = torch.ones(K, T, dtype=torch.bool) if wanted is None else wanted
    asked = torch.cat([torch.zeros(K, PREFIX, dtype=torch.bool), asked], dim=1)

    def drop(x, rows=None):
        if drawn is None:
            return x
        kept = next(drawn)
        if kept.dim() == 2:  # rows alone
            full = torch.zeros(K, L, kept.shape[1], dtype=torch.uint8)
            full[asked] = kept
            kept = full
        return dropped(x, kept, config.dropout)

    def drop_weights(weights):
        if drawn is None:
            return weights
        full, first = torch.zeros(weights.shape, dtype=torch.uint8), 0
        while first < L:  # chunks of queries
            part = next(drawn)
            full[:, :, first : first + part.shape[2], : part.shape[3]] = part
            first += part.shape[2]
        return dropped(weights, full, config.dropout)

    seen = counts.float()
    if config.objective == "next_step":
        seen = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], dim=1)
    else:
        seen = torch.where(masked[..., None], 0.0, seen)
    x = core.embedder.out(F.softsign(core.embedder.into(stitchers.encode(seen)))) + core.positions
    session = model.embedding_of(session_id)
    x = drop(torch.cat([session.expand(K, 1, D), core.scheme.expand(K, 1, D), x], dim=1))
    visible = torch.ones(L, L, dtype=torch.bool).tril()
    visible[:PREFIX, :PREFIX] = True
    for block in core.blocks:
        h = block.norm_attention(x)
        q, k, v = (part.view(K, L, H, D // H).transpose(1, 2) for part in block.attention.qkv(h).chunk(3, dim=-1))
        scores = torch.where(visible, q @ k.transpose(2, 3) / (D // H) ** 0.5, -torch.inf)
        h = (drop_weights(scores.softmax(-1)) @ v).transpose(1, 2).reshape(K, L, D)
        x = x + drop(block.attention.out(h))
        x = x + drop(block.down(F.gelu(block.up(block.norm_feedforward(x)))))
    assert drawn is None or next(drawn, None) is None  # everything that was drawn was used
    return stitchers.decode(core.norm(x[:, PREFIX:]))
