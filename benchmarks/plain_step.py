"""The clean formulation that ``step.py`` compares with: the same model and step, as one would write them at first.

Counts in memory, every bin computed, one projection for queries, keys and values, a boolean mask made once, torch's
own attention and dropout, torch's own AdamW with its defaults. Nothing here is slow on purpose, and nothing is clever.

Axes: K trials, T bins, N units, S spike-token width, D embedding width, H heads, L = 2 + T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sessionwise.model.ndt import NDT, NDTConfig

PREFIX = 2  # session token, masking-scheme token


class PlainEmbedder(nn.Module):
    """Spike tokens to embeddings."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        hidden = config.embedder_factor * config.token_width
        self.into = nn.Linear(config.token_width, hidden)
        self.out = nn.Linear(hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.softsign(self.into(tokens)))  # (K, T, S) -> (K, T, D)


class PlainAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        K, L, D = x.shape
        q, k, v = self.qkv(x).view(K, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=p)
        return self.out(mixed.transpose(1, 2).reshape(K, L, D))


class PlainBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = PlainAttention(config)
        self.norm_feedforward = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        x = x + F.dropout(self.attention(self.norm_attention(x), visible), self.dropout, self.training)
        step = self.down(F.gelu(self.up(self.norm_feedforward(x))))
        return x + F.dropout(step, self.dropout, self.training)


class PlainNDT(nn.Module):
    """The model for one session. Its shared parts have the names that they have in ``NDT.core``."""

    visible: Tensor

    def __init__(self, config: NDTConfig, n_bins: int, n_units: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.embedder = PlainEmbedder(config)
        self.positions = nn.Parameter(torch.randn(n_bins, config.width))
        self.scheme = nn.Parameter(torch.randn(config.width))
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.encode = nn.Linear(n_units, config.token_width)
        self.decode = nn.Linear(config.width, n_units)
        self.session = nn.Parameter(torch.randn(config.width))
        visible = torch.ones(PREFIX + n_bins, PREFIX + n_bins, dtype=torch.bool).tril()
        visible[:PREFIX, :PREFIX] = True
        self.register_buffer("visible", visible, persistent=False)

    def forward(self, counts: Tensor, masked: Tensor) -> Tensor:
        """Log rates (K, T, N) of counts (K, T, N) with masked bins (K, T) hidden."""
        seen = counts.float().masked_fill(masked.unsqueeze(-1), 0.0)
        x = self.embedder(self.encode(seen)) + self.positions
        prefix = torch.stack([self.session, self.scheme]).expand(len(counts), -1, -1)
        x = F.dropout(torch.cat([prefix, x], dim=1), self.dropout, self.training)
        for block in self.blocks:
            x = block(x, self.visible)
        return self.decode(self.norm(x[:, PREFIX:]))

    def copy_from(self, model: NDT, session_id: str) -> None:
        """Take over the weights of a model and of one of its sessions."""
        stitchers = model.stitchers_of(session_id).state_dict()
        self.load_state_dict(model.core.state_dict() | stitchers | {"session": model.embedding_of(session_id)})


class PlainTraining:
    """Training steps of a ``PlainNDT`` on counts (trials, T, N) in memory, in float32 or under bf16 autocast."""

    def __init__(
        self, model: PlainNDT, counts: Tensor, batch_size: int, lr: float, mask_ratio: float, bf16: bool
    ) -> None:
        self.model, self.counts, self.batch_size = model, counts, batch_size
        self.mask_ratio, self.bf16 = mask_ratio, bf16
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)

    def advance(self) -> None:
        """One step: draw, loss of the masked bins, gradients, clipping, update."""
        counts = self.counts[torch.randperm(len(self.counts))[: self.batch_size]]
        masked = torch.rand(counts.shape[:2]) < self.mask_ratio
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            log_rates = self.model(counts, masked)
        log_rates, observed = log_rates.float()[masked], counts[masked].float()
        loss = (log_rates.exp() - observed * log_rates).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
