"""The cells of a study's table: the runs that answer one question, their mean, and why there is none.

A cell is one held-out session under one arm at one size: S seeds, or the shuffles of the random order. All sessions are
one cell whatever the order, since every order ends in the same set: the same runs, counted once. Legend: U runs of a
cell, K test trials, H held-out sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sessionwise.analysis.results import Row, StudyResults
from sessionwise.errors import DataError

ORDERS = ("ranked", "random", "reverse_ranked")
SHUFFLED = ("random", "many_shuffles", "trial_matched")
METRIC = "bps"
# Gains are stored trial by trial and scores summed over trials: they agree to rounding.
_AGREE = 1e-4
_AGAIN = "Run the same study command again"
_NUMBERS = ("trials", "pretrain_steps", "finetune_steps", "tokens")


@dataclass(frozen=True)
class Cell:
    """The runs of one held-out session (None: the average of H), arm, variant and size.

    ``values`` (n,) test scores in bits per spike of the ``n`` of ``asked`` runs that have one, ``labels`` (n,) their
    seeds or shuffles; ``mean`` is None with a ``reason`` where it is refused; ``sd`` over the runs, None with fewer
    than two; ``numbers``: means over the runs of trials, steps and tokens, ``run_trials`` (n,) the trials of each;
    ``cores`` (n,): sessions and steps of each run's pretraining; ``gains`` (n, K) nats and ``spikes`` (K,) of the test
    trials, None where they are not stored or for an average.
    """

    heldout: str | None
    arm: str
    variant: str
    size: int | None
    asked: int
    values: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None
    reason: str | None = None
    validation: float | None = None
    validation_values: tuple[float, ...] = ()
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    run_trials: tuple[float | None, ...] = ()
    runs: tuple[str, ...] = ()
    cores: tuple[tuple[Any, ...], ...] = ()
    n_heldout: int = 1
    gains: NDArray[np.float64] | None = None
    spikes: NDArray[np.float64] | None = None

    @property
    def n(self) -> int:
        """How many runs have a score."""
        return len(self.values)

    @property
    def source(self) -> str | None:
        """What the runs of the cell differ by: "seeds" or "shuffles"; None for a single run."""
        if self.asked < 2:
            return None
        return "shuffles" if any(label.startswith("shuffle") for label in self.labels) else "seeds"

    def plain(self) -> dict[str, Any]:
        """What the document says of every cell."""
        return {
            "n": self.n,
            "n_asked": self.asked,
            "n_heldout": self.n_heldout,
            "mean": self.mean,
            "sd": self.sd,
            "sd_source": self.source,
            "values": list(self.values),
            "labels": list(self.labels),
            "trials": self.numbers.get("trials"),
            "steps": self.numbers.get("pretrain_steps"),
            "finetune_steps": self.numbers.get("finetune_steps"),
            "tokens": self.numbers.get("tokens"),
            "validation_mean": self.validation,
            "runs": list(self.runs),
            "reason": self.reason,
        }


class Grid:
    """All cells of a study under one split of trials.

    allow_missing: means over the runs that are there, where some are not (``n`` < ``asked`` says so); otherwise a mean
    over an incomplete cell, or over incomplete held-out sessions, is refused.
    """

    def __init__(self, results: StudyResults, *, split_seed: int | None = None, allow_missing: bool = False) -> None:
        self.study, self.allow_missing = results.study, allow_missing
        self.split_seed = results.study["split_seeds"][0] if split_seed is None else split_seed
        self.heldout: tuple[str, ...] = tuple(results.study["heldout"])
        self.n_pool, self.top = int(results.study["n_pool"]), int(results.study["top"])
        self.sizes: tuple[int, ...] = tuple(sorted(set(results.study["sizes"])))
        self.orders = tuple(order for order in ORDERS if order in results.study["orders"])
        self._results = results
        self._cells: dict[tuple[str | None, str, str, int | None], Cell] = {}
        self._rows: dict[tuple[str, str, str, int | None], list[Row]] = {}
        for row in results.rows:
            if row.split_seed == self.split_seed and row.metric == METRIC:
                arm = "all" if row.arm in ORDERS and row.size == self.n_pool else row.arm
                self._rows.setdefault((row.heldout, arm, row.variant if arm != "all" else "", row.size), []).append(row)

    @property
    def below_all(self) -> tuple[int, ...]:
        """The sizes without all sessions: "best" is chosen among these."""
        return tuple(size for size in self.sizes if size < self.n_pool)

    def keys(self) -> list[tuple[str, str, int | None]]:
        """(arm, variant, size) of everything that has a row, in a fixed order; all sessions are the arm "all"."""
        found = {(arm, variant, size) for _, arm, variant, size in self._rows}
        return sorted(found, key=lambda key: (key[0], key[1], -1 if key[2] is None else key[2]))

    def cell(self, heldout: str | None, arm: str, size: int | None = None, variant: str = "") -> Cell:
        """One cell, or with held-out None the average over held-out sessions; one without a run has no mean."""
        if size == self.n_pool and arm in (*ORDERS, "all"):
            arm, variant = "all", ""
        key = (heldout, arm, variant, size)
        if key not in self._cells:
            self._cells[key] = (
                self._average(arm, variant, size) if heldout is None else self._one(heldout, arm, variant, size)
            )
        return self._cells[key]

    def cells(self, arm: str, size: int | None = None, variant: str = "") -> dict[str, Cell]:
        """The cells of all held-out sessions."""
        return {heldout: self.cell(heldout, arm, size, variant) for heldout in self.heldout}

    def test_rows(self, arm: str, size: int | None = None, variant: str = "") -> list[Row]:
        """The test rows of an arm, all held-out sessions one after the other, each run once."""
        found = []
        for heldout in self.heldout:
            rows = self._rows.get((heldout, arm, variant, size), [])
            found += _once((row for row in rows if row.part == "test"), by_seed=arm == "all")
        return found

    def _one(self, heldout: str, arm: str, variant: str, size: int | None) -> Cell:
        rows = self._rows.get((heldout, arm, variant, size), [])
        test = _once((row for row in rows if row.part == "test"), by_seed=arm == "all")
        asked = max(len(test), self._expected(arm))
        done = [row for row in test if row.state == "done" and row.value is not None]
        values = tuple(float(row.value) for row in done if row.value is not None)
        whole = len(done) == asked or (self.allow_missing and bool(done))
        validation = self._validation(rows, arm)
        judged = whole and bool(validation) and len(validation) == len(done)
        gains, spikes = self._gains(done)
        return Cell(
            heldout,
            arm,
            variant,
            size,
            asked,
            values,
            tuple(_label(row, arm) for row in done),
            mean=math.fsum(values) / len(values) if whole and values else None,
            sd=sd_of(values) if whole else None,
            reason=None if len(done) == asked else _why(test, len(done), asked, arm),
            validation=math.fsum(validation) / len(validation) if judged else None,
            validation_values=tuple(validation),
            numbers={name: _mean_of_known([getattr(row, name) for row in test]) for name in _NUMBERS},
            run_trials=tuple(row.trials for row in done),
            runs=tuple(row.run for row in done if row.run),
            cores=tuple((row.sessions, row.pretrain_steps) for row in done),
            gains=gains,
            spikes=spikes,
        )

    def _validation(self, rows: Iterable[Row], arm: str) -> list[float]:
        once = _once((row for row in rows if row.part == "validation"), by_seed=arm == "all")
        return [float(row.value) for row in once if row.state == "done" and row.value is not None]

    def _expected(self, arm: str) -> int:
        if arm in ("ranked", "reverse_ranked", "baseline", "all"):
            return len(self.study["seeds"])
        return int(self.study["shuffles"]) if arm == "random" else 0

    def _gains(self, done: Sequence[Row]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        keys = [row.run for row in done]
        known = self._results.gains
        if not keys or any(key is None or key not in known for key in keys):
            return None, None
        spikes = np.asarray(self._results.spikes[str(keys[0])], dtype=np.float64)
        for row in done:
            _require_agreement(row, self._results.gains[str(row.run)], self._results.spikes[str(row.run)], spikes)
        return np.stack([np.asarray(known[str(key)], dtype=np.float64) for key in keys]), spikes

    def _average(self, arm: str, variant: str, size: int | None) -> Cell:
        cells = [self.cell(heldout, arm, size, variant) for heldout in self.heldout]
        with_mean = [cell for cell in cells if cell.mean is not None]
        used = cells if len(with_mean) == len(cells) else with_mean if self.allow_missing else []
        by_run = [dict(zip(cell.labels, cell.values, strict=True)) for cell in used]
        # An average value belongs to one seed or shuffle that every held-out session has.
        labels = tuple(label for label in (by_run[0] if by_run else ()) if all(label in known for known in by_run))
        values = tuple(math.fsum(known[label] for known in by_run) / len(by_run) for label in labels)
        lacking = [f"{cell.heldout}: {cell.reason}" for cell in cells if cell.reason]
        return Cell(
            None,
            arm,
            variant,
            size,
            max((cell.asked for cell in cells), default=0),
            values,
            labels,
            mean=_mean([cell.mean for cell in used]),
            sd=sd_of(values),
            reason="; ".join(lacking) or None,
            validation=_mean([cell.validation for cell in used]),
            numbers={name: _mean_of_known([cell.numbers.get(name) for cell in cells]) for name in _NUMBERS},
            run_trials=tuple(
                _mean([dict(zip(c.labels, c.run_trials, strict=True))[label] for c in used]) for label in labels
            ),
            runs=tuple(run for cell in used for run in cell.runs),
            n_heldout=len(used),
        )


def sd_of(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None with fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def best_size(grid: Grid, heldout: str, order: str, choice: str) -> int | None:
    """The size, all sessions left out, at which an order is best for a held-out session.

    choice: "validation" (the honest one: test trials take no part in it) or "test" (the paper's, optimistic). The
    smaller of two equal sizes. None where any size lacks its mean (unless missing runs are allowed).
    """
    cells = {size: grid.cell(heldout, order, size) for size in grid.below_all}
    pick: Callable[[Cell], float | None] = (lambda cell: cell.validation) if choice == "validation" else _test_mean
    scores = {size: pick(cell) for size, cell in cells.items()}
    known = {size: score for size, score in scores.items() if score is not None}
    if not known or (len(known) < len(scores) and not grid.allow_missing):
        return None
    return max(sorted(known), key=lambda size: known[size])


def _test_mean(cell: Cell) -> float | None:
    return cell.mean


def _once(rows: Iterable[Row], *, by_seed: bool) -> list[Row]:
    """Each run once, in the order of its draw and seed; one that is done before one that is not."""
    kept: dict[tuple[int, int], Row] = {}
    for row in sorted(rows, key=lambda row: (row.draw, row.seed, row.state != "done", row.arm)):
        kept.setdefault((0 if by_seed else row.draw, row.seed), row)
    return [kept[key] for key in sorted(kept)]


def _label(row: Row, arm: str) -> str:
    return f"shuffle {row.draw + 1}" if arm in SHUFFLED else f"seed {row.seed}"


def _why(rows: Sequence[Row], done: int, asked: int, arm: str) -> str:
    if not rows:
        return "was not run"
    bad = [row for row in rows if row.state != "done" or row.value is None]
    words = [f"{_label(row, arm)} {row.state}" + (f" ({row.reason})" if row.reason else "") for row in bad]
    words += [f"{asked - len(rows)} without a row"] if len(rows) < asked else []
    return f"{done} of {asked} runs have a score: {', '.join(words)}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    return _mean([value for value in values if value is not None])


def _require_agreement(row: Row, gain: Any, spikes: Any, first: Any) -> None:
    """The score of the table is that of the stored trials, and all runs of a cell were tested on the same trials."""
    total, where = float(np.sum(spikes)), f"test trials of {row.heldout}, {row.arm} {row.size or ''}".rstrip()
    if np.shape(gain) != np.shape(spikes) or not np.array_equal(np.asarray(spikes, dtype=np.float64), first):
        raise DataError(where, "differ between runs", "the same trials in every run", _AGAIN)
    score = float(np.sum(gain)) / (total * math.log(2)) if total > 0 else math.nan
    if row.value is None or not abs(score - row.value) <= _AGREE * max(1.0, abs(score)):
        found = f"give {score:.6f} bits per spike, the table of results {row.value}"
        raise DataError(where, found, "the same number", _AGAIN)
