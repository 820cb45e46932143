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
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sessionwise.errors import UsageError
from sessionwise.io.files import folder_name, sha256_bytes
from sessionwise.model.dropout import Streams, add_dropped, dropout, keep_mask, rescaling, threshold
from sessionwise.model.streams import stream

PREFIX = 2  # session token, masking-scheme token
QUERIES = 64  # of a chunk of attention; small enough to leave most of the future out, large enough for a matrix product
Rng = Generator | Streams
Precision = Literal["fp32", "bf16"]


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

    def forward(self, x: Tensor, hidden: Tensor, rng: Rng | None) -> Tensor:
        """(K, L, D) -> (K, L, D), before the output projection ``out``: that one is a matter of single tokens."""
        K, L, D = x.shape
        q, k, v = self.qkv(x).view(K, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (K, H, L, D/H)
        return attend(q, k, v, hidden, self.dropout, rng).transpose(1, 2).reshape(K, L, D)


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

    def forward(self, x: Tensor, hidden: Tensor, rng: Rng | None, tokens: Tensor | None = None) -> Tensor:
        """(K, L, D) -> (K, L, D); with ``tokens``, (M,) positions in K * L: (M, D), those alone."""
        mixed = self.attention(self.norm_attention(x), hidden, rng)
        if tokens is not None:  # only attention mixes tokens: the rest of the block can leave out what nobody asks for
            x, mixed = rows_of(x, tokens), rows_of(mixed, tokens)
        x = add_dropped(x, self.attention.out(mixed), self.dropout, rng)
        step = self.down(F.gelu(self.up(self.norm_feedforward(x))))
        return add_dropped(x, step, self.dropout, rng)


def run_block(block: Block, x: Tensor, hidden: Tensor, rng: Rng | None, tokens: Tensor | None = None) -> Tensor:
    """One block, as a function that can be compiled (`compiling.py`)."""
    answer: Tensor = block(x, hidden, rng, tokens)
    return answer


class Core(nn.Module):
    """Everything shared between sessions; the part that is frozen when a held-out session gets new stitchers."""

    hidden: Tensor
    run: Callable[..., Tensor] = staticmethod(run_block)

    def __init__(self, config: NDTConfig, n_bins: int) -> None:
        super().__init__()
        self.config = config
        self.embedder = Embedder(config)
        self.positions = nn.Parameter(torch.empty(n_bins, config.width))
        self.scheme = nn.Parameter(torch.empty(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("hidden", hidden_tokens(n_bins), persistent=False)

    def forward(self, bins: Tensor, session: Tensor, rng: Rng | None, wanted: Tensor | None = None) -> Tensor:
        """Embedded bins (K, T, D) -> features (K, T, D); with ``wanted`` (K, T) bool: (M, D), those bins alone.

        session: (D,) embedding of the session, or (K, D) of each trial's.
        """
        K, _, D = bins.shape
        prefix = torch.stack([session.expand(K, D), self.scheme.expand(K, D)], dim=1)  # (K, 2, D)
        x = dropout(torch.cat([prefix, bins + self.positions], dim=1), self.config.dropout, rng)  # (K, L, D)
        *blocks, last = self.blocks
        for block in blocks:
            x = self.run(block, x, self.hidden, rng)
        if wanted is None:
            return self.norm(self.run(last, x, self.hidden, rng)[:, PREFIX:])
        return self.norm(self.run(last, x, self.hidden, rng, positions_of(F.pad(wanted, (PREFIX, 0)))))


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
        self.precision: Precision = "fp32"
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

    def forward(self, counts: Tensor, masked: Tensor, session_id: str, dropout_rng: Rng | None = None) -> Tensor:
        """Log rates (K, T, N), in log expected counts per bin.

        counts: (K, T, N) spike counts of one session; masked: (K, T) bool, bins whose counts the model may not see.
        Bin t is predicted from unmasked bins up to t (``masked_causal``: at or before t; ``next_step``: before t).
        Without ``dropout_rng`` the answer is deterministic.
        """
        with self.arithmetic():
            features = self.core(self.embed(counts, masked, session_id), self.embedding_of(session_id), dropout_rng)
            return self.stitchers_of(session_id).decode(features).float()

    def log_rates_at(
        self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str, dropout_rng: Rng | None = None
    ) -> Tensor:
        """``forward(...)[bins]`` for ``bins`` (K, T) bool: log rates (M, N) of those bins alone, in row order.

        The loss and the scores look at masked bins only, and masked bins enter as zeros: what concerns single bins is
        computed for the bins that need it. That is exact, and about a sixth of the paper's model's work.
        """
        with self.arithmetic():
            embedded, session = self.embed(counts, masked, session_id, sparse=True), self.embedding_of(session_id)
            return self.stitchers_of(session_id).decode(self.core(embedded, session, dropout_rng, bins)).float()

    def embed(self, counts: Tensor, masked: Tensor, session_id: str, sparse: bool = False) -> Tensor:
        """What enters the core's blocks: (K, T, D), the stitched and embedded counts, masked bins as zeros.

        sparse: embed unmasked bins alone, and what all masked bins have in common once.
        """
        stitchers = self.stitchers_of(session_id)
        if self.config.objective == "next_step":
            before = F.pad(counts[:, :-1], (0, 0, 1, 0))  # bin t sees counts up to t - 1, and nothing is masked
            return self.core.embedder(stitchers.encode(before.float()))
        if not sparse:
            seen = counts.float() * ~masked.unsqueeze(-1)  # (K, T, N)
            return self.core.embedder(stitchers.encode(seen))
        unmasked = positions_of(~masked)
        embedded = self.core.embedder(stitchers.encode(rows_of(counts, unmasked).float()))  # (unmasked bins, D)
        blank = self.core.embedder(stitchers.encode.bias)  # (D,)
        return blank.expand(masked.numel(), -1).index_copy(0, unmasked, embedded).unflatten(0, masked.shape)

    def arithmetic(self) -> torch.autocast:
        """Matrix products in bfloat16 where ``precision`` says so; weights, sums and the rest stay in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def embedding_of(self, session_id: str) -> Tensor:
        """(D,) embedding of a session."""
        return self.session_embeddings[folder_name(session_id)]

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


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, p: float, rng: Rng | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over visible keys, with dropout of the weights; q, k, v and answer (K, H, L, d).

    In chunks of queries, because a chunk needs no key after its last token: half of the matrix is never made.
    """
    if rng is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
    K, H, L, d = q.shape
    bias = torch.zeros(L, L, dtype=q.dtype, device=q.device).masked_fill(hidden, -math.inf)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1) * rescaling(p)
    edges = [L * i // max(1, L // QUERIES) for i in range(max(1, L // QUERIES) + 1)]
    mixed = []
    for first, end in pairwise(edges):
        visible = bias[first:end, :end].expand(K * H, -1, -1)
        weight = torch.baddbmm(visible, q[:, first:end], k[:, :, :end], alpha=d**-0.5).softmax(dim=-1)
        if threshold(p):
            weight = weight * keep_mask((K, H, end - first, end), p, rng, weight.dtype).flatten(0, 1)
        mixed.append(weight @ v[:, :end])
    return torch.cat(mixed, dim=1).unflatten(0, (K, H))


def positions_of(chosen: Tensor) -> Tensor:
    """(M,) positions of the True entries of (K, T) in K * T."""
    return chosen.flatten().nonzero().squeeze(1)


def rows_of(x: Tensor, positions: Tensor) -> Tensor:
    """(M, D): rows of (K, T, D) at positions in K * T."""
    return x.flatten(0, 1).index_select(0, positions)


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
