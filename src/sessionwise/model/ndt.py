"""The Neural Data Transformer of the paper (Section 2, Appendix A.1, Table A1). Read this file first.

    counts (K, T, N) --encoding stitcher--> spike tokens (K, T, S) --embedder--> (K, T, D) + positions
      --> [session token, scheme token, bin tokens] (K, L, D) --causal blocks--> bins (K, T, D)
      --decoding stitcher--> log rates (K, T, N)

The stitchers belong to a session (a string id); everything else is the *core*, shared by all sessions and frozen when
new stitchers are trained around it.

Axes: K trials, T bins, N units of one session, S spike-token width, D embedding width, H heads, L = 2 + T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sessionwise.errors import UsageError
from sessionwise.io.files import folder_name, sha256_bytes
from sessionwise.model.streams import stream

PREFIX = 2  # session token, masking-scheme token


class NDTConfig(BaseModel):
    """The model's shape. The defaults are Table A1 of the paper: 12.2 M shared parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_width: int = Field(668, ge=1, description="S, width of a spike token (output of the encoding stitcher)")
    embedder_factor: int = Field(2, ge=1, description="hidden width of the shared embedder, in spike-token widths")
    width: int = Field(512, ge=1, description="D, embedding width")
    feedforward: int = Field(1024, ge=1)
    heads: int = Field(8, ge=1)
    blocks: int = Field(5, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    objective: Literal["masked_causal", "next_step"] = "masked_causal"
    decoder_start: Literal["default", "null"] = Field(
        "default",
        description="'null' starts new decoding stitchers at the units' mean training rates (0 bits per spike)",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> NDTConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class Embedder(nn.Module):
    """Spike tokens to embeddings, shared by all sessions: Linear, softsign, Linear (protocol A7)."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        hidden = config.embedder_factor * config.token_width
        self.into = nn.Linear(config.token_width, hidden)
        self.out = nn.Linear(hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.softsign(self.into(tokens)))  # (K, T, S) -> (K, T, D)


class Attention(nn.Module):
    """Multi-head self-attention under a fixed visibility mask."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, hidden: Tensor, rng: Generator | None) -> Tensor:
        K, L, D = x.shape
        q, k, v = self.qkv(x).view(K, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (K, H, L, D/H)
        if rng is None or self.dropout == 0:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
        else:
            score = (q * (D // self.heads) ** -0.5) @ k.transpose(-2, -1)  # (K, H, L, L)
            weight = score.masked_fill(hidden, -math.inf).softmax(dim=-1)
            mixed = dropout(weight, self.dropout, rng) @ v
        return self.out(mixed.transpose(1, 2).reshape(K, L, D))


class Block(nn.Module):
    """One pre-norm transformer block: attention and a GELU feed-forward, each with a residual path."""

    def __init__(self, config: NDTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm_feedforward = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)

    def forward(self, x: Tensor, hidden: Tensor, rng: Generator | None) -> Tensor:
        x = x + dropout(self.attention(self.norm_attention(x), hidden, rng), self.dropout, rng)
        step = self.down(F.gelu(self.up(self.norm_feedforward(x))))
        return x + dropout(step, self.dropout, rng)


class Core(nn.Module):
    """Everything shared between sessions; the part that is frozen when a held-out session gets new stitchers."""

    hidden: Tensor

    def __init__(self, config: NDTConfig, n_bins: int) -> None:
        super().__init__()
        self.config = config
        self.embedder = Embedder(config)
        self.positions = nn.Parameter(torch.empty(n_bins, config.width))
        self.scheme = nn.Parameter(torch.empty(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("hidden", hidden_tokens(n_bins), persistent=False)

    def forward(self, tokens: Tensor, session: Tensor, rng: Generator | None) -> Tensor:
        K = len(tokens)
        bins = self.embedder(tokens) + self.positions  # (K, T, D)
        prefix = torch.stack([session, self.scheme]).expand(K, -1, -1)  # (K, 2, D)
        x = dropout(torch.cat([prefix, bins], dim=1), self.config.dropout, rng)  # (K, L, D)
        for block in self.blocks:
            x = block(x, self.hidden, rng)
        return self.norm(x[:, PREFIX:])  # (K, T, D)


class Stitchers(nn.Module):
    """The linear maps of one session: into the core's spike tokens and out to the units' log rates."""

    def __init__(self, config: NDTConfig, n_units: int) -> None:
        super().__init__()
        self.encode = nn.Linear(n_units, config.token_width)
        self.decode = nn.Linear(config.width, n_units)


class NDT(nn.Module):
    """A Neural Data Transformer with stitchers for any number of sessions.

    Parameters
    ----------
    config: the model's shape.
    n_bins: T, bins in a trial (150 for the paper's 3 s at 20 ms).
    seed: every initial value derives from it; the core's do not depend on which sessions are added.
    """

    def __init__(self, config: NDTConfig, n_bins: int, seed: int) -> None:
        super().__init__()
        self.config, self.n_bins, self.seed = config, n_bins, seed
        self.core = Core(config, n_bins)
        initialise(self.core, stream(seed, "core"))
        self.stitchers = nn.ModuleDict()
        self.session_embeddings = nn.ParameterDict()
        self.session_ids: dict[str, int] = {}  # id -> number of units

    @property
    def objective(self) -> str:
        """Which bins are hidden when a bin is predicted (protocol B1)."""
        return self.config.objective

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.core.positions.device

    def add_session(self, session_id: str, n_units: int, mean_counts: Tensor | None = None) -> None:
        """Give a session fresh stitchers and a fresh session embedding.

        ``mean_counts`` (N,), mean training counts per bin, is needed when ``config.decoder_start`` is ``"null"``.
        A session that the model knows is refused: stitchers belong to an id, never to a number of units.
        """
        if session_id in self.session_ids:
            raise UsageError(f"session {session_id}", "has stitchers already", "a new session id", "Use another model")
        stitchers = Stitchers(self.config, n_units)
        initialise(stitchers, stream(self.seed, "stitchers", session_id))
        if self.config.decoder_start == "null":
            start_at_mean_rates(stitchers.decode, mean_counts)
        embedding = torch.empty(self.config.width)
        embedding.normal_(generator=stream(self.seed, "session embedding", session_id))
        self.session_ids[session_id] = n_units
        self.stitchers[folder_name(session_id)] = stitchers
        self.session_embeddings[folder_name(session_id)] = nn.Parameter(embedding)

    def forward(self, counts: Tensor, masked: Tensor, session_id: str, dropout_rng: Generator | None = None) -> Tensor:
        """Log rates (K, T, N), in log expected counts per bin.

        counts: (K, T, N) spike counts of one session; masked: (K, T) bool, bins whose counts the model may not see.
        Bin t is predicted from unmasked bins up to t (``masked_causal``: at or before t; ``next_step``: before t).
        Without ``dropout_rng`` the answer is deterministic.
        """
        return self.stitchers_of(session_id).decode(self.features(counts, masked, session_id, dropout_rng))

    def log_rates_at(
        self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str, dropout_rng: Generator | None = None
    ) -> Tensor:
        """``forward(...)[bins]`` for ``bins`` (K, T) bool: log rates (M, N) of those bins alone, in row order.

        The loss and the scores look at masked bins only; decoding the others is most of a small model's work.
        """
        return self.stitchers_of(session_id).decode(self.features(counts, masked, session_id, dropout_rng)[bins])

    def features(self, counts: Tensor, masked: Tensor, session_id: str, dropout_rng: Generator | None = None) -> Tensor:
        """What the core makes of the counts: (K, T, D), before the decoding stitcher."""
        stitchers, session = self.stitchers_of(session_id), self.session_embeddings[folder_name(session_id)]
        seen = counts.to(session.dtype).masked_fill(masked.unsqueeze(-1), 0)  # (K, T, N)
        if self.config.objective == "next_step":
            seen = F.pad(seen[:, :-1], (0, 0, 1, 0))  # bin t sees counts up to t - 1
        features: Tensor = self.core(stitchers.encode(seen), session, dropout_rng)
        return features

    def stitchers_of(self, session_id: str) -> Stitchers:
        """The stitchers of a session; an unknown session is an error that names the known ones."""
        if session_id not in self.session_ids:
            known = ", ".join(sorted(self.session_ids)[:5]) or "none"
            raise UsageError(f"session {session_id}", f"has no stitchers in this model (known: {known})")
        stitchers = self.stitchers[folder_name(session_id)]
        assert isinstance(stitchers, Stitchers)
        return stitchers

    def stitcher_parameters(self) -> Iterator[nn.Parameter]:
        """What is trained around a frozen core."""
        return self.stitchers.parameters()

    def core_hash(self) -> str:
        """SHA-256 over the core's tensors, bit for bit: equal before and after anything that leaves the core frozen."""
        parts = [name.encode() + tensor.cpu().numpy().tobytes() for name, tensor in self.core.state_dict().items()]
        return sha256_bytes(b"".join(parts))


def hidden_tokens(n_bins: int) -> Tensor:
    """(L, L) bool, True where query i may not see key j.

    Prefix tokens see prefix tokens only (else they would carry the future to every bin from the second block on);
    bins see the prefix and earlier-or-equal bins (protocol B6).
    """
    visible = torch.ones(PREFIX + n_bins, PREFIX + n_bins, dtype=torch.bool).tril()
    visible[:PREFIX, :PREFIX] = True
    return ~visible


def dropout(x: Tensor, p: float, rng: Generator | None) -> Tensor:
    """Inverted dropout from an explicit generator; p is rounded to 1/256, one random byte an element.

    Bytes cut from 64-bit draws cost a fraction of one Bernoulli draw an element.
    """
    threshold = round(p * 256)
    if rng is None or threshold == 0:
        return x
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None, generator=rng)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * keep * (256 / (256 - threshold))


def initialise(module: nn.Module, rng: Generator) -> None:
    """torch's default initial values, drawn from one generator in the order in which the parts are defined."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            bound = 1 / math.sqrt(part.in_features)
            nn.init.uniform_(part.weight, -bound, bound, generator=rng)
            nn.init.uniform_(part.bias, -bound, bound, generator=rng)
        elif isinstance(part, Core):
            nn.init.normal_(part.positions, generator=rng)
            nn.init.normal_(part.scheme, generator=rng)


def start_at_mean_rates(decode: nn.Linear, mean_counts: Tensor | None) -> None:
    """Start a decoding stitcher at the null model: weight 0, bias the log of the mean training counts per bin.

    A unit without a training spike starts at the rate of half a spike in a thousand bins, not at log 0.
    """
    if mean_counts is None:
        raise UsageError("model.decoder_start", "is 'null' without mean counts", "mean training counts of each unit")
    with torch.no_grad():
        decode.weight.zero_()
        decode.bias.copy_(mean_counts.clamp_min(5e-4).log())
