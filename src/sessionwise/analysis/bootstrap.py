"""The nested bootstrap of a study: held-out session, then seed or shuffle, then test trial.

Legend: H targets (held-out sessions), U units of a family (seeds, or shuffles with their seeds), K test trials,
B draws. In each draw and for each target

* trials are resampled with replacement, the same trials for every arm, so that what arms share cancels;
* units vary: ``+ sum_u c_u (score_u - mean)`` with Gaussian ``c_u`` of variance ``1 / (U (U - 1))``, the same for all
  arms of a family. The variance is the unbiased one, s^2 / U: resampling two or three units gives (U - 1) / U of it.
  It is itself an estimate from very few units, so the noise is scaled to Student's t. Without that, an interval from
  two seeds would hold the truth in 61 % of cases where the noise between trainings dominates; with it, in 95 %. What
  trials do to each unit by itself is in the spread of units too: where it dominates, intervals are too wide;
* targets vary when there are three or more, in the same way (t with H - 1 degrees of freedom). The part of the spread
  between targets that trials and units explain is taken out first, so that it is not counted twice.

The degrees of freedom are those of the statistic at hand (Satterthwaite, 1946): each family of each target gives U - 1,
weighted by what it contributes to the variance; a family whose units are the same things for all targets gives them
once. With U - 1 = 1 for a single family of two seeds the interval is wide: two seeds say little.

With one or two targets there is no variance between targets to speak of. They are taken as fixed: the interval is
about these held-out sessions, not about others (``targets_resampled`` says so, ``per_target_bootstrap`` gives each).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sessionwise.analysis.checks import DECIMALS, finite, limits, student_scale
from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Target = Mapping[str, Any]
Statistic = Callable[[Mapping[str, Floats]], Floats]
Key = tuple[Any, ...]

MIN_TARGETS = 3  # fewer are taken as fixed
_LN2 = math.log(2)


@dataclass(frozen=True)
class Estimate:
    """The mean of a statistic over targets with its interval.

    ``low``, ``high``: NaN, like ``mean``, with a ``reason`` where the statistic is not defined.
    ``targets_resampled``: whether the interval is about held-out sessions like these; with fewer than three it is about
    these alone. ``freedom``: degrees of freedom of the noise between units, None where there is no such noise;
    ``single``: arms with one unit, whose noise between trainings is unknown and not in the interval; with such an arm
    nothing may be concluded.
    """

    mean: float
    low: float
    high: float
    level: float
    n_targets: int
    targets_resampled: bool = False
    freedom: float | None = None
    single: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    """One target: scores (U,) of every arm, their mean on resampled trials (B,), and the key of the arm's units."""

    point: dict[str, Floats]
    drawn: dict[str, Floats]
    keys: dict[str, Key]


def nested_bootstrap(
    targets: Sequence[Target],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """The mean over targets of a statistic of scores, with its interval (see the module).

    Parameters
    ----------
    targets: each ``{"spikes": (K,), "arms": {name: (U, K) gains in nats}, "families": {name: family}}``, and optionally
        ``"shared": [family, ...]``: families whose units are the same things for every target, like the shuffles of a
        random order that all held-out sessions share; their noise does not average out over targets.
    statistic: from the scores of one target, {name: (B,) bits per spike}, to (B,) numbers; called elementwise with
        other lengths too. It may give NaN where it is not defined.
    rng: the only source of randomness. What is drawn depends on the shapes alone, not on the statistic: with the same
        state two statistics see the same draws.

    Raises DataError without a target or an arm, for values that are not finite, trials without a spike, shapes that
    disagree, or an arm without a family.
    """
    _check_draws(n_boot, level)
    if not targets:
        raise DataError("nested_bootstrap", "no target", "one or more held-out sessions")
    opened = [_open(target, h, n_boot, rng) for h, target in enumerate(targets)]
    noise = {key: rng.standard_normal((n_boot, n)) for key, n in _unit_keys(opened).items()}
    chance, between, chance_between = rng.random(n_boot), rng.standard_normal((n_boot, len(opened))), rng.random(n_boot)
    points = np.array([float(statistic({a: _one(x.mean()) for a, x in t.point.items()})[0]) for t in opened])
    freedom = _freedom(opened, statistic)
    scale = student_scale(math.inf if freedom is None else freedom, chance)
    draws = np.column_stack([statistic(_vary(t, noise, scale)) for t in opened])
    total = draws.mean(axis=1)
    if len(opened) >= MIN_TARGETS:
        plain = np.column_stack([statistic(_vary(t, noise, np.ones(n_boot))) for t in opened])
        deviations = between @ (points - points.mean()) / math.sqrt(len(opened) * (len(opened) - 1))
        total = total + _own_spread(points, plain) * deviations * student_scale(len(opened) - 1, chance_between)
    low, high = limits(total, level)
    mean = float(np.round(points.mean(), DECIMALS))
    known = bool(np.isfinite([mean, low, high]).all())
    return Estimate(
        mean=mean,
        low=round(low, DECIMALS) if known else math.nan,
        high=round(high, DECIMALS) if known else math.nan,
        level=level,
        n_targets=len(opened),
        targets_resampled=len(opened) >= MIN_TARGETS,
        freedom=None if freedom is None else round(freedom, DECIMALS),
        single=tuple(sorted({arm for t in opened for arm, x in t.point.items() if len(x) == 1})),
        reason=None if known else "not defined for these scores",
    )


def per_target_bootstrap(
    targets: Sequence[Target],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    n_boot: int = 2000,
    level: float = 0.95,
) -> list[Estimate]:
    """``nested_bootstrap`` of each target by itself: what two held-out sessions can honestly be asked."""
    return [nested_bootstrap([target], statistic, rng=rng, n_boot=n_boot, level=level) for target in targets]


def _check_draws(n_boot: int, level: float) -> None:
    if n_boot < 1 or not 0 < level < 1:
        raise DataError("nested_bootstrap", f"{n_boot} draws, level {level}", "one draw or more, a level inside (0, 1)")


def _one(value: float) -> Floats:
    return np.array([value], dtype=np.float64)


def _open(target: Target, index: int, n_boot: int, rng: np.random.Generator) -> _Opened:
    spikes = finite("spikes of the trials", target["spikes"], 1)
    if spikes.min(initial=0.0) < 0 or spikes.sum() <= 0:
        raise DataError("spikes of the trials", f"sum {spikes.sum():g}", "counts with at least one spike", "Add trials")
    gains = {name: finite(f"gains of {name}", values, 2) for name, values in target["arms"].items()}
    families, shared = target["families"], set(target.get("shared", ()))
    keys: dict[str, Key] = {}
    for name, values in gains.items():
        if name not in families:
            raise DataError("nested_bootstrap", f"the arm {name} without a family", "a family for every arm")
        if values.shape[1] != len(spikes) or len(values) == 0:
            found = f"gains {values.shape} of {name} and spikes {spikes.shape}"
            raise DataError("nested_bootstrap", found, "one or more units, and one number a trial in both")
        family = families[name]
        keys[name] = (family,) if family in shared else (index, family)
    if not gains:
        raise DataError("nested_bootstrap", "a target without an arm", "one or more arms")
    point = {name: values.sum(axis=1) / (spikes.sum() * _LN2) for name, values in gains.items()}
    weights = trial_weights(spikes, n_boot, rng)
    means = np.stack([values.mean(axis=0) for values in gains.values()])
    drawn = (weights @ means.T) / (weights @ spikes * _LN2)[:, None]
    return _Opened(point, dict(zip(gains, drawn.T, strict=True)), keys)


def trial_weights(spikes: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    """How often each trial is in each draw, (B, K); a draw without any spike has no score and is drawn again."""
    chances = np.full(len(spikes), 1 / len(spikes))
    weights = rng.multinomial(len(spikes), chances, size=n_boot).astype(np.float64)
    while (empty := weights @ spikes == 0).any():
        weights[empty] = rng.multinomial(len(spikes), chances, size=int(empty.sum()))
    return weights


def _unit_keys(opened: Sequence[_Opened]) -> dict[Key, int]:
    """Number of units of each family that varies by itself, in the order in which they are met."""
    found: dict[Key, int] = {}
    for target in opened:
        for arm, key in target.keys.items():
            n = len(target.point[arm])
            if found.setdefault(key, n) != n:
                raise DataError(
                    "nested_bootstrap", f"{n} and {found[key]} units in the family {key[-1]}", "equal numbers"
                )
    return found


def _vary(target: _Opened, noise: Mapping[Key, Floats], scale: Floats) -> dict[str, Floats]:
    """Score (B,) of every arm with its units varied."""
    varied = {}
    for arm, drawn in target.drawn.items():
        point = target.point[arm]
        n = len(point)
        deviation = 0.0 if n == 1 else noise[target.keys[arm]] @ (point - point.mean()) / math.sqrt(n * (n - 1))
        varied[arm] = drawn + scale * deviation
    return varied


def _freedom(opened: Sequence[_Opened], statistic: Statistic) -> float | None:
    """Satterthwaite's degrees of freedom of the statistic's noise between units; None where there is none.

    A statistic that is not defined beside the scores found gets those of its smallest family.
    """
    units = {key: n for key, n in _unit_keys(opened).items() if n > 1}
    if not units:
        return None
    pull = {key: np.zeros(n) for key, n in units.items()}
    for target in opened:
        for key in sorted(set(target.keys.values()) & set(units), key=repr):
            arms = {
                arm: x if target.keys[arm] == key else np.full(units[key], x.mean()) for arm, x in target.point.items()
            }
            pull[key] = pull[key] + np.asarray(statistic(arms), dtype=np.float64)
    variance = np.array([((x - x.mean()) ** 2).sum() / (units[key] * (units[key] - 1)) for key, x in pull.items()])
    freedom = np.array([n - 1.0 for n in units.values()])
    if not np.isfinite(variance).all():
        return float(freedom.min())
    largest = variance.max()
    if largest == 0:
        return float(freedom.sum())
    variance = variance / largest
    return float(variance.sum() ** 2 / (variance**2 / freedom).sum())


def _own_spread(points: Floats, draws: Floats) -> float:
    """The share, as a standard deviation, of the spread between targets that noise within them does not explain.

    points (H,) estimates; draws (B, H) of them, with the noise of trials and units and without Student's t.
    """
    spread = float(np.var(points, ddof=1))
    noise = float(np.mean(np.var(draws, axis=1, ddof=1))) - spread
    if not np.isfinite([spread, noise]).all():
        return 1.0
    return math.sqrt(max(0.0, 1 - max(0.0, noise) / spread)) if spread > 0 else 0.0
