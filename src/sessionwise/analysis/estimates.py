"""Estimates with their intervals from cells: one call for one question, with random numbers that belong to it alone.

Every interval of a study comes from the same nested bootstrap (target, then seed or shuffle, then test trial). Its
generator is derived from the name of the quantity, never from its place in a list: adding a control changes no other
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from sessionwise.analysis import inference
from sessionwise.analysis.cells import Cell
from sessionwise.io.files import canonical_json, sha256_bytes

Floats = NDArray[np.float64]
Draws = Mapping[str, Floats]
Statistic = Callable[[Draws], Floats]
Cells = Mapping[str, Cell]  # name in the statistic -> cell of one held-out session

LEVEL = 0.95
# Arms whose core is the same for every held-out session by construction; others may be the same by chance.
SHARED = ("random", "many_shuffles", "all", "random_core")
MIN_TRIALS = 8  # with fewer test trials nothing is concluded, as in rankings


def rng_of(*name: Any) -> np.random.Generator:
    """The generator of a quantity: the same name, the same numbers."""
    return np.random.default_rng(int(sha256_bytes(canonical_json([str(part) for part in name]))[:16], 16))


@dataclass(frozen=True)
class Found:
    """An estimate, or why there is none; ``doubt`` says why nothing may be concluded from it; ``general``: whether its
    interval also speaks about held-out sessions that were not chosen (three or more were resampled)."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    doubt: str | None = None
    n_heldout: int = 0
    general: bool = False

    @property
    def plain(self) -> dict[str, Any] | None:
        """mean, low, high as the document holds them; None without an estimate."""
        return None if self.mean is None else {"mean": self.mean, "low": self.low, "high": self.high}

    def over(self, value: float, unit: float = 0.0) -> int:
        """1 when the interval lies wholly above a value, -1 wholly below, 0 when it holds it or there is none."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > value + unit else -1 if self.high < value - unit else 0


class Estimator:
    """Runs the nested bootstrap for named questions; ``scope`` tells equal questions about different splits apart."""

    def __init__(self, n_boot: int = 2000, level: float = LEVEL, scope: Any = "") -> None:
        self.n_boot, self.level, self.scope = n_boot, level, scope

    def over_heldout(
        self, name: Sequence[Any], cells: Mapping[str, Cells], statistic: Statistic, *, allow_missing: bool = False
    ) -> Found:
        """The mean of a statistic over held-out sessions.

        cells: held-out -> name -> cell. A cell without a mean refuses the whole estimate; with ``allow_missing`` the
        held-out session is left out instead, and the reason says so.
        """
        bad = {h: why for h, named in cells.items() if (why := lacking(named.values()))}
        if bad and (not allow_missing or len(bad) == len(cells)):
            return Found(reason=joined(bad))
        used = {h: named for h, named in cells.items() if h not in bad}
        if not used:
            return Found(reason="no held-out session")
        common = common_cores(list(used.values()))
        estimate = inference.nested_bootstrap(
            [target_of(named, common) for named in used.values()],
            statistic,
            rng=rng_of(self.scope, *name, *sorted(used)),
            n_boot=self.n_boot,
            level=self.level,
        )
        left_out = f"left out: {joined(bad)}" if bad else None
        why = doubt(cell for named in used.values() for cell in named.values())
        if not np.all(np.isfinite([estimate.mean, estimate.low, estimate.high])):
            return Found(reason=estimate.reason or "not defined for these scores")
        numbers = float(estimate.mean), float(estimate.low), float(estimate.high)
        return Found(*numbers, left_out, why, len(used), estimate.targets_resampled)

    def ratio(self, name: Sequence[Any], cells: Mapping[str, Cells], a: Statistic, b: Statistic) -> Found:
        """The mean of statistic a over held-out sessions divided by the mean of b, which must be above zero.

        The interval holds every ratio r for which the interval of (a - r b) holds zero (Fieller's construction, with
        the nested bootstrap instead of the normal distribution); none where the interval of b is not above zero.
        """
        top, bottom = (self.over_heldout((*name, "ratio"), cells, statistic) for statistic in (a, b))
        if top.mean is None or bottom.mean is None or bottom.low is None:
            return top if top.mean is None else bottom
        if bottom.mean <= 0:
            return Found(reason="there is no gain to share")
        value = top.mean / bottom.mean
        if bottom.low <= 0:
            doubt = bottom.doubt or "the gain that is shared is not told apart from zero"
            return Found(value, reason=bottom.reason, doubt=doubt, n_heldout=bottom.n_heldout)

        def limit(ratio: float, side: str) -> float:
            rest = self.over_heldout((*name, "ratio"), cells, lambda draws: a(draws) - ratio * b(draws))
            return float(getattr(rest, side))

        low = _root(lambda ratio: limit(ratio, "low"), value)
        high = _root(lambda ratio: limit(ratio, "high"), value)
        return Found(value, low, high, bottom.reason, bottom.doubt, bottom.n_heldout, bottom.general)

    def one(self, name: Sequence[Any], heldout: str, cells: Cells, statistic: Statistic) -> Found:
        """The statistic for one held-out session."""
        return self.over_heldout(name, {heldout: cells}, statistic)


def _root(function: Callable[[float], float], start: float) -> float | None:
    """Where a decreasing function crosses zero, searched around ``start``; None when it is farther than 64 away."""
    for reach in (1.0, 4.0, 16.0, 64.0):
        below, above = function(start - reach), function(start + reach)
        if below >= 0 >= above:
            return float(optimize.brentq(function, start - reach, start + reach, xtol=1e-8)) if below > above else start
    return None


def common_cores(targets: Sequence[Cells]) -> frozenset[str]:
    """The names whose cores are one and the same for all held-out sessions: by construction, or by equal sets.

    Equal sets are one model, so the luck of its seed does not average out over held-out sessions.
    """
    names = set.intersection(*(set(cells) for cells in targets)) if targets else set()
    return frozenset(name for name in names if _is_common([cells[name] for cells in targets]))


def _is_common(cells: Sequence[Cell]) -> bool:
    cores = {cell.cores for cell in cells}
    pretrained = all(sessions for cell in cells for sessions, _ in cell.cores)
    return cells[0].arm in SHARED or (len(cores) == 1 and pretrained and bool(cells[0].cores))


def target_of(cells: Cells, common: frozenset[str] = frozenset()) -> dict[str, Any]:
    """One held-out session as the bootstrap wants it; ``common``: names whose cores all held-out sessions share.

    Cells whose runs have the same seeds are one family: their noise is drawn together. The noise of common cores is
    drawn once for all held-out sessions.
    """
    arms = {name: cell.gains for name, cell in cells.items()}
    spikes = next(cell.spikes for cell in cells.values())
    families = {name: _family(cell, name in common) for name, cell in cells.items()}
    shared = sorted({families[name] for name in cells if name in common})
    return {"spikes": spikes, "arms": arms, "families": families, "shared": shared}


def _family(cell: Cell, common: bool) -> str:
    return " ".join([*(["common"] if common else []), *cell.labels])


def joined(reasons: Mapping[str, str]) -> str:
    """Reasons of held-out sessions in one line; one that all share stands once."""
    if len(set(reasons.values())) == 1 and len(reasons) > 1:
        return f"{next(iter(reasons.values()))} (for {', '.join(reasons)})"
    return "; ".join(f"{heldout}: {why}" for heldout, why in reasons.items())


def lacking(cells: Any) -> str | None:
    """Why a bootstrap over these cells is refused; None when it is not."""
    for cell in cells:
        what = f"{cell.arm} at {cell.size}" if cell.size is not None else cell.arm
        if cell.mean is None:
            return f"{what}: {cell.reason}"
        if cell.gains is None:
            return f"{what}: the gains of its test trials are not stored"
        if float(np.sum(cell.spikes)) <= 0:
            return "no spike in the test trials"
    return None


def doubt(cells: Any) -> str | None:
    """Why nothing may be concluded from these cells: one seed, or too few test trials."""
    cells = list(cells)
    single = sorted({cell.arm for cell in cells if cell.n < 2 and cell.arm not in ("psth", "glm")})
    if single:
        return f"one run of {', '.join(single)}: the noise between trainings is unknown"
    fewest = min((len(cell.spikes) for cell in cells if cell.spikes is not None), default=0)
    return f"{fewest} test trials are too few to judge by" if fewest < MIN_TRIALS else None


def minus(a: str, b: str) -> Statistic:
    """The statistic a - b."""
    return lambda draws: draws[a] - draws[b]


def percent_over(a: str, b: str) -> Statistic:
    """The statistic 100 (a - b) / b; not a number where b is not positive."""
    return lambda draws: percent(draws[a], draws[b])


def percent(a: Floats, b: Floats) -> Floats:
    """100 (a - b) / b, not a number where b <= 0."""
    safe = np.where(b > 0, b, np.nan)
    return np.asarray(100 * (a - b) / safe, dtype=np.float64)
