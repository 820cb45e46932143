"""One immutable batch type; a batch holds trials of one session (protocol A10, B11).

Every epoch reshuffles which trials share a batch and the order of the batches over all sessions. Nothing is truncated:
the last batch of a session may be smaller. The order of an epoch is a function of (seed, role, epoch), so the state
to be kept for resuming is the epoch and the position in it. Counts stay where they are (a memory map); a batch is read
when it is drawn. For a GPU the training trials of all sessions are put there once, as the unsigned integers that they
are, and a batch is gathered on the card from an order that is sent once an epoch: a step waits for nothing.

Axes: K trials of a batch, T bins, N units of its session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from sessionwise.data.splits import SessionData
from sessionwise.model.masking import training_mask
from sessionwise.model.streams import stream_seed


@dataclass(frozen=True)
class Batch:
    """Trials of one session: counts (K, T, N) as stored (uint8 or uint16), and the bins masked now, (K, T) bool."""

    session_id: str
    counts: Tensor
    masked: Tensor


@dataclass
class Batches:
    """The endless stream of training batches of a set of sessions."""

    sessions: Sequence[SessionData]
    batch_size: int
    seed: int
    role: tuple[str, ...] = ()
    epoch: int = 0
    position: int = 0
    device: str = "cpu"
    _order: list[tuple[int, np.ndarray]] = field(default_factory=list, repr=False)
    _resident: dict[int, Tensor] = field(default_factory=dict, repr=False)  # session -> its training trials
    _sent: list[Tensor] = field(default_factory=list, repr=False)  # the epoch's order, on the device

    def __post_init__(self) -> None:
        self._sizes = [len(session.split.train) for session in self.sessions]
        if self.device != "cpu":
            self._reside()

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over all trials."""
        return sum(-(-size // self.batch_size) for size in self._sizes)

    @property
    def trials(self) -> int:
        """Training trials in one pass."""
        return sum(self._sizes)

    def draw(self, mask_ratio: float, mask_rng: Generator) -> Batch:
        """The next batch; ``mask_ratio`` of its bins are masked."""
        if not self._order:
            self._order = self._shuffled(self.epoch)
            self._sent = self._send() if self._resident else []
        index, rows = self._order[self.position]
        if self._sent:
            counts = self._resident[index].index_select(0, self._sent[self.position])
        else:
            counts = torch.from_numpy(self.sessions[index].take("train", rows))
        masked = training_mask(counts.shape[0], counts.shape[1], mask_ratio, mask_rng)
        self.position += 1
        if self.position == len(self._order):
            self.epoch, self.position, self._order = self.epoch + 1, 0, []
        return Batch(self.sessions[index].id, counts, masked)

    def state(self) -> dict[str, int]:
        """What resuming needs."""
        return {"epoch": self.epoch, "position": self.position}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken."""
        self.epoch, self.position, self._order = state["epoch"], state["position"], []

    def _reside(self) -> None:
        """Put the training trials where the model is (int16 or int32 for uint16, of which GPUs know little)."""
        for index, session in enumerate(self.sessions):
            counts = session.counts("train")
            if counts.dtype != np.uint8:
                counts = counts.astype(np.int16 if counts.max() < 2**15 else np.int32)
            self._resident[index] = torch.from_numpy(np.array(counts)).to(self.device)

    def _send(self) -> list[Tensor]:
        """The rows of each batch of the epoch, on the device, by one copy."""
        rows = torch.from_numpy(np.concatenate([rows for _, rows in self._order])).to(self.device)
        return list(rows.split([len(rows) for _, rows in self._order]))

    def _shuffled(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = np.random.default_rng(stream_seed(self.seed, *self.role, "order", epoch))
        order: list[tuple[int, np.ndarray]] = []
        for index, size in enumerate(self._sizes):
            trials = rng.permutation(size)
            order += [(index, trials[i : i + self.batch_size]) for i in range(0, size, self.batch_size)]
        return [order[i] for i in rng.permutation(len(order))]
