"""Simulated sessions whose closeness to a held-out session is known.

A session is a set of Poisson units in a few areas. Each trial carries hidden amplitudes of a few task variables
(stimulus on the left, on the right, choice, reward); every area re-expresses every variable as one bump in time:

    log rate[k, t, n] = log baseline[n] + sum_j loading[j, n] amplitude[k, v(j)] bump_j(t)
    bump_j(t) = exp(-(t - latency[j])^2 / (2 width[j]^2))

with j = (variable, area) and ``loading`` zero outside the unit's area. Early bumps tell the amplitudes, so the past of
a trial predicts its future, but only for a model that knows *when* each area answers. That is what sessions share or
not: ``latency[s, j] = centre[j] + shift * style[s] * sign[a(j)]`` in bins, with a style in [-1, 1] for each session.
The sign alternates along the path through the areas, so that styles change the delays between areas, not only the time
of all of them. New linear stitchers absorb every other difference (units, loadings, rates), also one between areas
that only trade places; hence all variables take the same path, and latencies belong to areas. ``shift = 0`` is the
negative control: all sessions have the same latencies and differ in trials and quality alone.

A share of the pool is bad: few trials, and units that do not follow the task at all.

Axes: K trials, T bins, N units, V task variables, A areas, J = V x A bumps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sessionwise.data.session import Session, make_session, trial_hashes
from sessionwise.data.store import open_store
from sessionwise.errors import UsageError
from sessionwise.io.files import canonical_json, read_json, sha256_bytes, write_json

TRUTH_FILE = "truth.json"
AREAS = ("VISp", "SCm", "CP", "MOs")
VARIABLES = ("stimulus_left", "stimulus_right", "choice", "reward")
CONTRASTS = (0.0, 0.0625, 0.125, 0.25, 1.0)
MIN_TRIALS = 10

_SCHEMA = 1
_MAX_RATE_HZ = 250.0
_MIN_RATE_HZ = 0.1
_CHUNK_ENTRIES = 1 << 21
_GOLDEN = (math.sqrt(5.0) - 1) / 2  # multiples modulo 1 cover the unit interval evenly, however many there are
_ROLES = {"world": 0, "pool": 1, "heldout": 2}

Choice = int | float | tuple[float, float] | None


class CalibratedCounts(NamedTuple):
    """Sizes of simulated sessions, one entry a session."""

    n_trials: np.ndarray
    n_units: np.ndarray
    rate_hz: np.ndarray


# Median, SD of the logarithm, and range over the 91 sessions of the IBL RepeatedSite data: trials; units of at least
# 0.1 Hz; mean rate of the good units of a session (the only rate that is published for all of them).
CALIBRATION: dict[str, tuple[float, float, float, float]] = {
    "n_trials": (571.0, 0.43, 50.0, 1146.0),
    "n_units": (693.0, 0.22, 418.0, 1127.0),
    "rate_hz": (6.5, 0.39, 1.3, 20.0),
}


def calibrated_counts(rng: np.random.Generator, n: int) -> CalibratedCounts:
    """Draw trials, units and mean rates (Hz) of ``n`` sessions like those of the IBL RepeatedSite data.

    Independent log-normal draws with the medians and log-SDs of ``CALIBRATION``; draws outside the range are drawn
    again (which lowers the median of the trials by 3 %, and the others by less).
    """
    trials, units, rates = (_log_normal(rng, n, *CALIBRATION[name]) for name in ("n_trials", "n_units", "rate_hz"))
    return CalibratedCounts(np.rint(trials).astype(np.int64), np.rint(units).astype(np.int64), rates)


def _log_normal(rng: np.random.Generator, n: int, median: float, log_sd: float, low: float, high: float) -> np.ndarray:
    values = median * np.exp(log_sd * rng.standard_normal(n))
    while (outside := (values < low) | (values > high)).any():
        values[outside] = median * np.exp(log_sd * rng.standard_normal(int(outside.sum())))
    return values


@dataclass(frozen=True)
class SimulationSettings:
    """What a simulated pool is made from, its sizes apart (see `simulate_pool` for the meaning of each)."""

    seed: int = 0
    shift: float = 5.0
    bad_share: float = 0.2
    n_trials: Choice = None
    n_units: Choice = None
    rate_hz: Choice = None
    n_bins: int = 50
    bin_s: float = 0.02
    window_start_s: float = -0.2
    modulation: float = 1.0
    amplitude_sd: float = 0.5
    jitter_bins: float = 0.25

    def __post_init__(self) -> None:
        _need(_whole(self.seed) and self.seed >= 0, "seed", self.seed, "a whole number >= 0")
        _need(0 <= self.shift <= 100, "shift", self.shift, "bins from 0 to 100")
        _need(0 <= self.bad_share < 1, "bad_share", self.bad_share, "a share from 0 up to, not including, 1")
        _need(_whole(self.n_bins) and self.n_bins >= 8, "n_bins", self.n_bins, "a whole number >= 8")
        _need(0.005 <= self.bin_s <= 0.5, "bin_s", self.bin_s, "seconds from 0.005 to 0.5")
        _need(math.isfinite(self.window_start_s), "window_start_s", self.window_start_s, "seconds")
        for name in ("modulation", "amplitude_sd", "jitter_bins"):
            _need(0 <= getattr(self, name) <= 5, name, getattr(self, name), "a number from 0 to 5")
        for name, least in (("n_trials", MIN_TRIALS), ("n_units", 1), ("rate_hz", _MIN_RATE_HZ)):
            _check_choice(name, getattr(self, name), least)

    @property
    def window_s(self) -> tuple[float, float]:
        """Start and stop of a trial's window, seconds from stimulus onset."""
        return (self.window_start_s, round(self.window_start_s + self.n_bins * self.bin_s, 9))


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _need(good: bool, name: str, found: Any, needed: str) -> None:
    if not good:
        raise UsageError(f"simulation setting {name}", f"is {found!r}", needed, f"Change {name}")


def _check_choice(name: str, choice: Choice, least: float) -> None:
    if choice is None:
        return
    low, high = choice if isinstance(choice, Sequence) else (choice, choice)
    whole = name == "rate_hz" or (_whole(low) and _whole(high))
    needed = f"None, {'a' if name == 'rate_hz' else 'a whole'} number >= {least:g}, or a pair (low, high) of them"
    _need(whole and math.isfinite(high) and least <= low <= high, name, choice, needed)


class OracleRates(Mapping[str, np.ndarray]):
    """True rates by session id: (K, T, N) float32, expected counts per bin; computed when asked for, and not kept."""

    def __init__(self, recipes: Mapping[str, Recipe]) -> None:
        self._recipes = dict(recipes)

    def __getitem__(self, session: str) -> np.ndarray:
        recipe = self._recipes[session]
        rates = np.empty(recipe.shape, np.float32)
        for trials in recipe.chunks():
            rates[trials] = recipe.rates(trials)
        return rates

    def trials(self, session: str, trials: slice) -> np.ndarray:
        """The rates of some trials only, float32: for sessions that are too large to hold at once."""
        return self._recipes[session].rates(trials).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)


@dataclass(frozen=True, eq=False)
class SimulatedPool:
    """Simulated sessions and what is true about them.

    Attributes
    ----------
    sessions: the pool first, the held-out sessions after it.
    heldout: ids of the held-out sessions.
    closeness: held-out id -> pool id -> true closeness in bins (higher = closer, 0 = same latencies); see `closeness`.
    oracle: id -> true rates (K, T, N) float32, expected counts per bin, computed when asked for.
    bad: ids of the sessions that carry no signal.
    latency_bins: id -> (J,) time of each bump in bins from the start of the window.
    settings: what the pool was made from.
    """

    sessions: tuple[Session, ...]
    heldout: tuple[str, ...]
    closeness: dict[str, dict[str, float]]
    oracle: OracleRates
    bad: tuple[str, ...]
    latency_bins: dict[str, np.ndarray]
    settings: SimulationSettings


def simulate_pool(
    n_sessions: int = 10,
    n_heldout: int = 1,
    *,
    seed: int = 0,
    shift: float = 5.0,
    bad_share: float = 0.2,
    n_trials: Choice = None,
    n_units: Choice = None,
    rate_hz: Choice = None,
    n_bins: int = 50,
    bin_s: float = 0.02,
    window_start_s: float = -0.2,
    modulation: float = 1.0,
    amplitude_sd: float = 0.5,
    jitter_bins: float = 0.25,
) -> SimulatedPool:
    """Simulate a pool of sessions and held-out sessions with known closeness.

    The first sessions of a larger pool are those of a smaller one, byte for byte, and held-out sessions do not depend
    on the pool. Held-out sessions are never bad.

    Parameters
    ----------
    n_sessions, n_heldout: number of sessions in the pool and held out.
    seed: everything derives from it.
    shift: latency in bins per unit of style (styles lie in [-1, 1]); 5 is strong, 3.5 realistic, 0 = no closeness.
    bad_share: share of pool sessions with few trials and no modulation.
    n_trials, n_units, rate_hz: None draws them from `calibrated_counts`; a number fixes them; (low, high) draws them
        uniformly. ``rate_hz`` is the mean rate of a session, Hz. Bad sessions get a quarter of the trials.
    n_bins, bin_s, window_start_s: the window of a trial; the stimulus comes on at 0 s.
    modulation: scale of the loadings.
    amplitude_sd: SD of the logarithm of the hidden amplitudes, trial to trial.
    jitter_bins: SD of single-trial latency jitter, one a variable.

    Raises
    ------
    UsageError: for a setting that cannot be meant.
    """
    settings = SimulationSettings(
        seed=seed,
        shift=shift,
        bad_share=bad_share,
        n_trials=n_trials,
        n_units=n_units,
        rate_hz=rate_hz,
        n_bins=n_bins,
        bin_s=bin_s,
        window_start_s=window_start_s,
        modulation=modulation,
        amplitude_sd=amplitude_sd,
        jitter_bins=jitter_bins,
    )
    _need(_whole(n_sessions) and n_sessions >= 1, "n_sessions", n_sessions, "a whole number >= 1")
    _need(_whole(n_heldout) and n_heldout >= 0, "n_heldout", n_heldout, "a whole number >= 0")
    world = _World.draw(settings)
    pool = {f"sim-{i:02d}": _draw_recipe(settings, world, "pool", i) for i in range(n_sessions)}
    heldout = {f"sim-heldout-{i}": _draw_recipe(settings, world, "heldout", i) for i in range(n_heldout)}
    recipes = pool | heldout
    return SimulatedPool(
        sessions=tuple(_record(settings, name, recipe) for name, recipe in recipes.items()),
        heldout=tuple(heldout),
        closeness={h: {s: closeness(pool[s], heldout[h], shift) for s in pool} for h in heldout},
        oracle=OracleRates(recipes),
        bad=tuple(name for name, recipe in recipes.items() if recipe.quality == 0),
        latency_bins={name: recipe.latency for name, recipe in recipes.items()},
        settings=settings,
    )


def closeness(session: Recipe, heldout: Recipe, shift: float) -> float:
    """True closeness of a session to a held-out one, in bins: minus their distance in time (higher = closer).

    ``-(quality d + (1 - quality) far)`` with ``d^2 = sum_j m_j (latency_s[j] - latency_h[j])^2 / sum_j m_j``, the
    weights ``m_j`` being the power of bump j in the held-out session. ``far = 2 shift + 5`` is farther than any
    session with signal can be: a session that does not follow the task (quality 0) teaches nothing about time.
    The number of trials is not part of it: it is known beforehand, and a control of its own.
    """
    weights = heldout.modulation / heldout.modulation.sum() if heldout.modulation.any() else 1 / len(heldout.latency)
    distance = math.sqrt(float(np.sum(weights * (session.latency - heldout.latency) ** 2)))
    return 0.0 - (session.quality * distance + (1 - session.quality) * (2 * shift + 5))  # 0.0, never -0.0


# ---------------------------------------------------------------------------------------------------------------------
# What all sessions of a seed share
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _World:
    centre: np.ndarray  # (J,) bins
    width: np.ndarray  # (J,) bins
    sign: np.ndarray  # (J,) +1 or -1: where a positive style moves the bump
    style_start: np.ndarray  # (roles,) where the sequence of styles starts
    bad_start: float

    @staticmethod
    def draw(settings: SimulationSettings) -> _World:
        rng = _generator(settings.seed, "world", 0, 0)
        path = rng.permutation(len(AREAS))  # place of each area on the way of all variables
        return _World(
            centre=_centres(settings, path),
            width=rng.uniform(1.5, 2.5, len(VARIABLES) * len(AREAS)),
            sign=np.tile(np.where(path % 2, 1.0, -1.0), len(VARIABLES)),
            style_start=rng.random(len(_ROLES)),
            bad_start=float(rng.random()),
        )

    def style(self, role: str, number: int) -> float:
        """The style of a session: an even cover of [-1, 1], so that each target has near and far sessions."""
        return 2 * float((self.style_start[_ROLES[role]] + number * _GOLDEN) % 1.0) - 1

    def is_bad(self, share: float, number: int) -> bool:
        """Whether a pool session is bad: the exact share, evenly spread, whatever the size of the pool."""
        return math.floor((number + 1) * share + self.bad_start) > math.floor(number * share + self.bad_start)


def _centres(settings: SimulationSettings, path: np.ndarray) -> np.ndarray:
    """Mean time (J,) of each bump: the variables travel through the areas, from stimulus onset to the window's end.

    The stimulus starts, choice follows, reward comes last, each a fraction of a step later than the one before.
    """
    onset = min(max(-settings.window_start_s / settings.bin_s, 0.0), settings.n_bins / 2)
    delay = np.array([0.0, 0.0, 0.4, 0.8])[:, None]
    fraction = 0.15 + 0.7 * (path + delay) / (len(AREAS) - 1 + delay.max())
    return (onset + (settings.n_bins - onset) * fraction).ravel()


def _generator(seed: int, role: str, number: int, stream: int) -> np.random.Generator:
    """A generator of its own for each (seed, role, session number, use)."""
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(_ROLES[role], number, stream)))


# ---------------------------------------------------------------------------------------------------------------------
# One session
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that determines a session's rates; the counts are Poisson draws from them.

    ``baseline`` (N,) counts per bin; ``loadings`` (J, N); ``amplitude`` and ``jitter`` (K, V); ``latency`` and
    ``width`` (J,) bins; ``modulation`` (J,) power of each bump; ``quality`` 1 with signal, 0 without.
    """

    role: str
    number: int
    n_bins: int
    cap: float
    quality: float
    baseline: np.ndarray
    loadings: np.ndarray
    amplitude: np.ndarray
    jitter: np.ndarray
    latency: np.ndarray
    width: np.ndarray
    areas: tuple[str, ...]
    columns: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, T, N)."""
        return (len(self.amplitude), self.n_bins, len(self.baseline))

    @property
    def modulation(self) -> np.ndarray:
        """Power (J,) of each bump: squared loadings weighted by the units' rates, times the mean squared amplitude."""
        power: np.ndarray = (self.loadings**2) @ self.baseline
        return power * np.repeat((self.amplitude**2).mean(axis=0), len(AREAS))

    def chunks(self) -> Iterator[slice]:
        """Slices of trials of a few million entries each, so that a large session needs little memory."""
        step = max(1, _CHUNK_ENTRIES // (self.n_bins * len(self.baseline)))
        return (slice(start, start + step) for start in range(0, len(self.amplitude), step))

    def gain(self, trials: slice) -> np.ndarray:
        """What the task multiplies the baseline with, (K', T, N) float64."""
        amplitude = np.repeat(self.amplitude[trials], len(AREAS), axis=1)[:, None, :]
        time = np.arange(self.n_bins)[:, None] - np.repeat(self.jitter[trials], len(AREAS), axis=1)[:, None, :]
        drive = amplitude * np.exp(-0.5 * ((time - self.latency) / self.width) ** 2)
        return np.exp(np.clip(drive @ self.loadings, -3.0, 3.0))

    def rates(self, trials: slice) -> np.ndarray:
        """Expected counts per bin, (K', T, N) float64."""
        return np.minimum(self.baseline * self.gain(trials), self.cap)


def _draw_recipe(settings: SimulationSettings, world: _World, role: str, number: int) -> Recipe:
    rng = _generator(settings.seed, role, number, 0)
    bad = role == "pool" and world.is_bad(settings.bad_share, number)
    n_trials, n_units, rate_hz = _sizes(settings, rng, bad)
    columns, values = _task(settings, rng, n_trials)
    area = np.sort(rng.choice(len(AREAS), n_units, p=rng.dirichlet(np.full(len(AREAS), 20.0))))
    rates = _unit_rates(rng, n_units, rate_hz)
    moved = world.centre + settings.shift * world.style(role, number) * world.sign
    recipe = Recipe(
        role=role,
        number=number,
        n_bins=settings.n_bins,
        cap=_MAX_RATE_HZ * settings.bin_s,
        quality=0.0 if bad else 1.0,
        baseline=rates * settings.bin_s,
        loadings=_loadings(rng, area) * (0.0 if bad else settings.modulation),
        amplitude=values * _amplitudes(rng, n_trials, settings.amplitude_sd),
        jitter=settings.jitter_bins * rng.standard_normal((n_trials, len(VARIABLES))),
        latency=np.clip(moved, 1.0, settings.n_bins - 2.0),
        width=world.width,
        areas=tuple(AREAS[a] for a in area),
        columns=columns,
    )
    return _with_mean_rates(recipe)


def _sizes(settings: SimulationSettings, rng: np.random.Generator, bad: bool) -> tuple[int, int, float]:
    """Trials, units and mean rate; the generator moves by the same amount whatever is fixed."""
    calibrated = calibrated_counts(np.random.default_rng(rng.integers(2**63)), 1)
    uniform = rng.random(3)
    n_trials = _choose(settings.n_trials, float(calibrated.n_trials[0]), uniform[0], whole=True)
    n_units = _choose(settings.n_units, float(calibrated.n_units[0]), uniform[1], whole=True)
    rate_hz = _choose(settings.rate_hz, float(calibrated.rate_hz[0]), uniform[2], whole=False)
    few = min(int(n_trials), max(2 * MIN_TRIALS, int(n_trials) // 4))
    return (few if bad else int(n_trials)), int(n_units), rate_hz


def _choose(choice: Choice, calibrated: float, uniform: float, *, whole: bool) -> float:
    if choice is None:
        return calibrated
    low, high = choice if isinstance(choice, tuple | list) else (choice, choice)
    return low + (math.floor(uniform * (high - low + 1)) if whole else uniform * (high - low))


def _task(settings: SimulationSettings, rng: np.random.Generator, n_trials: int) -> tuple[dict[str, Any], np.ndarray]:
    """Per-trial columns of a visual discrimination task, and the values (K, V) of the task variables."""
    side = rng.choice(np.array([-1, 1], np.int8), n_trials)
    contrast = rng.choice(CONTRASTS, n_trials)
    strength = contrast / (contrast + 0.125) * 1.125
    rewarded = rng.random(n_trials) < 0.5 + 0.45 * strength
    choice = np.where(rewarded, side, -side).astype(np.int8)
    length_s = settings.n_bins * settings.bin_s
    start = np.cumsum(length_s + 1.0 + rng.exponential(1.0, n_trials)).round(4)
    columns = {
        "stimulus_side": side,
        "contrast": contrast,
        "choice": choice,
        "reward": rewarded.astype(np.int8),
        "trial_start_s": start,
    }
    return columns, np.stack([strength * (side < 0), strength * (side > 0), choice, rewarded], axis=1).astype(float)


def _amplitudes(rng: np.random.Generator, n_trials: int, log_sd: float) -> np.ndarray:
    """Hidden amplitudes (K, V) of mean 1: one number for all areas, so that one area tells about the next."""
    return np.exp(log_sd * rng.standard_normal((n_trials, len(VARIABLES))) - log_sd**2 / 2)


def _unit_rates(rng: np.random.Generator, n_units: int, mean_hz: float) -> np.ndarray:
    """Mean rates (N,) in Hz, log-normal over units, with the session's mean."""
    rates = np.exp(0.8 * rng.standard_normal(n_units))
    return np.clip(rates * (mean_hz / rates.mean()), _MIN_RATE_HZ, _MAX_RATE_HZ / 5)


def _loadings(rng: np.random.Generator, area: np.ndarray) -> np.ndarray:
    """Loadings (J, N): gamma sizes of mean 1, three in four positive, zero outside the unit's area."""
    shape = (len(VARIABLES), len(AREAS), len(area))
    signs = np.where(rng.random(shape) < 0.75, 1.0, -1.0)
    inside = np.arange(len(AREAS))[:, None] == area
    return (rng.gamma(3.0, 1 / 3, shape) * signs * inside).reshape(-1, len(area))


def _with_mean_rates(recipe: Recipe) -> Recipe:
    """The same recipe with the baseline lowered so that the mean rate, not the baseline, is the one asked for.

    The mean gain of a unit is estimated on the first 64 trials; trials are exchangeable.
    """
    mean_gain = recipe.gain(slice(0, 64)).mean(axis=(0, 1))
    return replace(recipe, baseline=recipe.baseline / mean_gain)


def _record(settings: SimulationSettings, name: str, recipe: Recipe) -> Session:
    """Draw the counts of a session; the draws do not depend on the size of the chunks."""
    rng = _generator(settings.seed, recipe.role, recipe.number, 1)
    counts = np.empty(recipe.shape, np.uint8 if recipe.cap <= 100 else np.uint16)
    for trials in recipe.chunks():
        counts[trials] = rng.poisson(recipe.rates(trials))
    subject = f"sim-mouse-{recipe.number // 3}" if recipe.role == "pool" else f"sim-mouse-heldout-{recipe.number}"
    counts.setflags(write=False)  # taken as it is, without a copy
    return make_session(
        name,
        counts,
        settings.bin_s,
        window_s=settings.window_s,
        align="stimulus onset",
        unit_ids=tuple(f"{area}-{i}" for i, area in enumerate(recipe.areas)),
        areas=recipe.areas,
        subject=subject,
        lab="simulated",
        trial_columns=recipe.columns,
        source={"simulated": _SCHEMA, "seed": int(settings.seed), "shift": float(settings.shift)},
    )


# ---------------------------------------------------------------------------------------------------------------------
# The truth beside the store
# ---------------------------------------------------------------------------------------------------------------------


def write_truth(store_path: Path | str, pool: SimulatedPool) -> Path:
    """Write the true closeness as ``truth.json`` into a store's folder, bound to the content of the sessions."""
    path = Path(store_path) / TRUTH_FILE
    truth = {
        "schema": _SCHEMA,
        "seed": int(pool.settings.seed),
        "shift": float(pool.settings.shift),
        "bad": list(pool.bad),
        "closeness": pool.closeness,
        "content": {s.id: _content(s.trial_ids, trial_hashes(s.counts)) for s in pool.sessions},
    }
    write_json(path, truth)
    return path


def read_truth(store_path: Path | str) -> dict[str, Any] | None:
    """What `write_truth` wrote, for those sessions of the store whose content is still the same.

    Returns ``{"closeness": {held-out id: {pool id: bins}}, "bad": [ids], "seed": .., "shift": ..}``, or None where the
    store has no truth of this version, or none of it holds any more. A session that was changed, removed or never
    simulated has none.
    """
    path = Path(store_path) / TRUTH_FILE
    if not path.is_file():
        return None
    truth = read_json(path)
    if not isinstance(truth, dict) or truth.get("schema") != _SCHEMA:
        return None
    store = open_store(Path(store_path))
    infos = {name: store.info(name) for name in truth["content"] if name in store}
    same = {n for n, info in infos.items() if _content(info.trial_ids, info.trial_hashes) == truth["content"][n]}
    kept = {h: {s: v for s, v in row.items() if s in same} for h, row in truth["closeness"].items() if h in same}
    kept = {h: row for h, row in kept.items() if row}
    if not kept:
        return None
    bad = [name for name in truth["bad"] if name in same]
    return {"closeness": kept, "bad": bad, "seed": truth["seed"], "shift": truth["shift"]}


def _content(trial_ids: Sequence[int] | np.ndarray, hashes: Sequence[str]) -> str:
    """One hash of a session's counts: independent of the stored type and of the order of the trials."""
    return sha256_bytes(canonical_json(sorted([int(i), h] for i, h in zip(trial_ids, hashes, strict=True))))
