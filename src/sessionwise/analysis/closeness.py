"""Do rankings of different held-out sessions agree, and is what they share size or quality?

A ranking "works" without any closeness: sessions with many trials are good for every held-out session. Closeness shows
in what is specific to the held-out session *and* comes back with other seeds. Legend: H targets (held-out sessions),
C sessions of the pool, S seeds, B draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.analysis.checks import Floats, finite, interval, limits, rounded, same_length
from sessionwise.analysis.statistics import interaction_variance
from sessionwise.errors import DataError

Ints = NDArray[np.int64]
Draws = Mapping[str, Floats]

# The share of the reproducible order that targets have in common: below it the order is about closeness, above it about
# size or quality. Set beforehand: simulated pools with strong closeness had .45, without any .96.
SHARED = 0.75
_LEVEL = 0.95
_LOW_CEILING = 0.05  # below it seeds agree so little that a share of what they agree on says nothing
_TINY = 1e-12


# Fig. A2 under a shared quality ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class QualityBand:
    """Size of the intersection of all top-k lists under "shared quality plus noise".

    ``k`` 1 to C; ``expected`` mean and ``low``, ``high`` the 95 % band at each k; ``reliability`` (H,) of each target's
    scores. All None with a ``reason`` when the noise is unknown.
    """

    k: Ints | None
    expected: Floats | None
    low: Ints | None
    high: Ints | None
    reliability: Floats | None
    reason: str | None = None


def quality_band(
    seed_scores: Sequence[ArrayLike],
    *,
    rng: np.random.Generator,
    n_draws: int = 2000,
    trial_variance: Sequence[float] | None = None,
) -> QualityBand:
    """What Fig. A2 would look like if sessions were good or bad for everybody alike.

    seed_scores: H arrays (C, S), the same sessions in the same order. Under this hypothesis all that comes back over
    seeds is one quality, the same for every target; whatever else differs between targets is noise. In each draw the
    scores of target h are ``sqrt(r_h) quality + sqrt(1 - r_h) noise`` with independent Gaussian noise; ``1 - r_h`` is
    the share of noise in the variance of the target's scores (mean over S seeds): the variance between seeds that
    does not move all sessions alike, redrawn each time from its scaled inverse chi-squared distribution. The quality
    has the shape of the targets' mean standardised score, rescaled to the variance of what comes back.

    trial_variance: for each target the variance of a session's score that comes from which trials it was measured on.
    Seeds share those trials, so without it their noise counts as coming back: the band is then too high rather than too
    low, and a curve just below it is no proof of closeness.

    None with one seed, fewer than two targets or three sessions, or scores that are all equal.
    """
    scores = [finite("quality_band", x, 2) for x in seed_scores]
    same_length("quality_band", *scores)
    extra = _trial_variance("quality_band", trial_variance, len(scores))
    reason = _unfit(scores)
    if reason:
        return QualityBand(None, None, None, None, None, reason)
    n = len(scores[0])
    quality = np.mean([_standard(x.mean(axis=1)) for x in scores], axis=0)
    quality = _standard(quality) if float(quality.std()) > _TINY else quality
    worst = np.zeros((n_draws, n), dtype=np.int64)
    reliability = []
    for x, more in zip(scores, extra, strict=True):
        total, noise = float(x.mean(axis=1).var(ddof=1)), float(interaction_variance(x) or 0.0) / x.shape[1]
        freedom = (n - 1) * (x.shape[1] - 1)
        drawn = (noise * freedom / rng.chisquare(freedom, n_draws) + more) / total
        share = np.clip(1 - drawn, 0.0, 1.0)[:, None]
        values = np.sqrt(share) * quality + np.sqrt(1 - share) * rng.standard_normal((n_draws, n))
        worst = np.maximum(worst, np.argsort(np.argsort(-values, axis=1), axis=1))
        reliability.append(min(1.0, max(0.0, 1 - (noise + more) / total)))
    sizes = np.stack([(worst <= k).sum(axis=1) for k in range(n)], axis=1)
    return QualityBand(
        k=np.arange(1, n + 1),
        expected=sizes.mean(axis=0),
        low=np.quantile(sizes, 0.025, axis=0, method="lower"),
        high=np.quantile(sizes, 0.975, axis=0, method="higher"),
        reliability=np.round(np.array(reliability), 12),
    )


def _trial_variance(where: str, values: Sequence[float] | None, n: int) -> Floats:
    extra = np.zeros(n) if values is None else finite(f"{where}: variance by trials", values, 1)
    if len(extra) != n or (extra < 0).any():
        raise DataError(where, f"{len(extra)} variances by trials", f"{n}, none below 0")
    return extra


def _unfit(scores: Sequence[Floats]) -> str | None:
    """Why agreement between targets cannot be judged; None when it can."""
    if len(scores) < 2:
        return "fewer than two held-out sessions"
    if len(scores[0]) < 3:
        return "fewer than three sessions in common"
    if min(x.shape[1] for x in scores) < 2:
        return "one seed: the noise between trainings is unknown"
    if any(float(np.ptp(x.mean(axis=1))) <= _TINY * float(np.abs(x).max()) for x in scores):
        return "all scores of a held-out session are equal"
    return None


def _standard(x: Floats) -> Floats:
    return np.asarray((x - x.mean()) / x.std(), dtype=np.float64)


# Variance of the all-to-all matrix ------------------------------------------------------------------------------------


def variance_split(matrix: ArrayLike) -> dict[str, Any]:
    """How much of the variance of transfer scores (T sources, T' targets, S seeds) belongs to whom.

    NaN where there is no score (a source that is its own target, a run without a result). Two-way random effects
    ``score = mean + source + target + interaction + seed`` by Henderson's method 3 (1953): sums of squares of fits with
    and without each effect, set equal to what they are on average; in a complete table the usual analysis of variance.
    Gives {source, target, interaction, seed: {variance, share}, n, reason}. An estimate below zero is reported as 0
    (the usual truncation). With one score a cell interaction and seed cannot be told apart: both are None, and
    ``interaction_and_seed`` holds their sum; a component that the table cannot tell is None with a ``reason``.

    Raises DataError for infinities or another number of dimensions.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 3 or np.isinf(values).any():
        raise DataError("variance_split", f"an array {values.shape}", "(sources, targets, seeds), NaN where missing")
    known = np.isfinite(values)
    count = known.sum(axis=2)
    source, target = np.nonzero(count)
    n = count[source, target].astype(np.float64)
    sums = np.where(known, values, 0.0).sum(axis=2)[source, target]
    names = ("source", "target", "interaction", "seed", "interaction_and_seed")
    if len(set(source)) < 2 or len(set(target)) < 2:
        return {**_shares(dict.fromkeys(names)), "n": int(n.sum()), "reason": "fewer than two sources or targets"}
    means = sums / n
    deviation = np.where(known, values, 0.0)[source, target] - means[:, None]
    within = float((deviation**2)[known[source, target]].sum())
    found, reason = _henderson(source, target, n, means, within)
    return {**_shares(found), "n": int(n.sum()), "reason": reason}


def _henderson(
    source: Ints, target: Ints, n: Floats, means: Floats, within: float
) -> tuple[dict[str, float | None], str | None]:
    """Variance components of cell means with n scores each; ``within``: squared deviations inside cells."""
    freedom = float((n - 1).sum())
    root = np.sqrt(n)
    y = root * (means - np.average(means, weights=n))
    a, b = root[:, None] * _indicator(source), root[:, None] * _indicator(target)
    both, only_a, only_b = _basis(np.column_stack([a, b])), _basis(a), _basis(b)
    seed = within / freedom if freedom else 0.0
    spare = len(y) - both.shape[1]
    empty: dict[str, float | None] = dict.fromkeys(("source", "target", "interaction", "seed", "interaction_and_seed"))
    if spare < 1:
        return empty, "no cell is left to judge by: more sources or targets are needed"
    leverage = (both**2).sum(axis=1)
    # With one score a cell everything that is left is interaction and seed together.
    rest = float(y @ y - ((both.T @ y) ** 2).sum())
    mixed = (rest - spare * seed) / float(n @ (1 - leverage))
    parts = {}
    for name, other, own in (("source", only_b, a), ("target", only_a, b)):
        gained = float(((both.T @ y) ** 2).sum() - ((other.T @ y) ** 2).sum())
        weight = float((own**2).sum() - ((other.T @ own) ** 2).sum())
        cells = float(n @ (leverage - (other**2).sum(axis=1)))
        if weight <= _TINY * float(n.sum()):
            return empty, f"the {name} cannot be told from the other effects"
        parts[name] = (gained - cells * mixed - (both.shape[1] - other.shape[1]) * seed) / weight
    if freedom:
        return {**parts, "interaction": mixed, "seed": seed, "interaction_and_seed": None}, None
    together = {"interaction": None, "seed": None, "interaction_and_seed": mixed}
    return {**parts, **together}, "one score a cell: interaction and seed cannot be told apart"


def _indicator(labels: Ints) -> Floats:
    _, place = np.unique(labels, return_inverse=True)
    return np.eye(int(place.max()) + 1)[place]


def _basis(columns: Floats) -> Floats:
    """Orthonormal columns that span the same space."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9 * sizes[0]], dtype=np.float64)


def _shares(found: Mapping[str, float | None]) -> dict[str, Any]:
    """Components from 0 with their shares of the sum; None where there is none."""
    kept = {name: None if value is None else max(0.0, value) for name, value in found.items()}
    total = sum(value for value in kept.values() if value is not None)
    return {
        name: {
            "variance": rounded(value),
            "share": rounded(value / total) if value is not None and total > 0 else None,
        }
        for name, value in kept.items()
    }


# Closeness or size ----------------------------------------------------------------------------------------------------


def closeness_decomposition(
    targets: Sequence[Mapping[str, Any]],
    *,
    rng: np.random.Generator,
    n_boot: int = 2000,
) -> dict[str, Any]:
    """Does the order of sessions belong to the held-out session (closeness), or to the sessions (size, quality)?

    targets: each ``{"heldout", "sessions": [C ids], "seed_scores": (C, S), "trials": (C,)}``, the same sessions in the
    same order, and optionally ``"trial_variance"``: variance of a session's score that comes from which trials it was
    measured on (see ``quality_band``; without it that noise counts as specific to the target, so that "closeness" is
    said a little too easily).

    Every number that is uncertain is {mean, low, high} with a 95 % bootstrap interval over sessions, drawn for all
    targets together:

    cross_target_rho: mean Spearman correlation of the scores (mean over seeds) over pairs of targets;
    ceiling: what it would be at most, given the noise between seeds: for each target the mean Spearman correlation of
    pairs of seeds, raised to that of means of S seeds (Spearman and Brown), then the geometric mean over the pair;
    cross_seed_rho: as cross_target_rho, but of single seeds, and never of the same one: the cores are the same for all
    targets, so the luck of a core's seed would count as shared; seed_ceiling: the ceiling of single seeds;
    shared: cross_seed_rho / seed_ceiling, the share of the reproducible order that targets have in common;
    rho_trials: mean Spearman correlation of score and number of trials (per_heldout has each);
    partial_rho: cross_seed_rho given the number of trials, and partial_shared: that over its own ceiling, the
    correlation of seeds given trials: do targets agree on more than size?
    variance: shares of the variance between sessions, scores standardised for each target: {shared, specific, noise}
    (correlation between targets; what comes back with other seeds but not for other targets; the rest).

    p_noise: chance that seeds agree as well as they do if each ordered the sessions at random (permutation).

    verdict: "closeness" when the share in common is below 0.75 (the interval of cross_seed_rho - 0.75 seed_ceiling lies
    below 0): at least a quarter of what comes back belongs to the held-out session; "quality" when it is above: targets
    agree on what is a good session, be it its size (see partial_shared) or another quality; "undecided" when that
    interval holds 0, when p_noise is above 0.025 or the interval of the ceiling reaches 0.05 (the order does not come
    back with other seeds), with one seed, one target, or fewer than three sessions (``reason``).
    """
    scores = [finite(f"scores for {t['heldout']}", t["seed_scores"], 2) for t in targets]
    trials = [finite(f"trials for {t['heldout']}", t["trials"], 1) for t in targets]
    _same_sessions(targets, scores, trials)
    extra = _trial_variance("closeness_decomposition", [t.get("trial_variance", 0.0) for t in targets], len(targets))
    numbers = ["cross_target_rho", "ceiling", "cross_seed_rho", "seed_ceiling", "shared"]
    numbers += ["rho_trials", "partial_rho", "partial_shared"]
    result: dict[str, Any] = {"verdict": "undecided", "reason": None, "p_noise": None}
    result |= {"threshold": SHARED, "level": _LEVEL}
    result |= {**dict.fromkeys(numbers), "variance": None, "per_heldout": [], "n_targets": len(targets)}
    result["n_sessions"] = len(scores[0]) if scores else 0
    reason = _unfit(scores)
    if reason:
        return {**result, "reason": reason}
    n = len(scores[0])
    chosen = np.concatenate([np.arange(n)[None], rng.integers(n, size=(n_boot, n))])
    measured = _agreement(scores, trials, extra, chosen)
    found = {name: interval(float(draws[0]), draws[1:], _LEVEL) for name, draws in measured.items()}
    parts = {name.removeprefix("variance_"): found.pop(name) for name in list(found) if name.startswith("variance_")}
    each = [
        {
            "heldout": t["heldout"],
            "rho_trials": found.pop(f"rho_trials {i}"),
            "reliability": found.pop(f"reliability {i}"),
        }
        for i, t in enumerate(targets)
    ]
    result |= {**found, "variance": parts, "per_heldout": each}
    p_noise = _p_noise(scores, rng, n_boot)
    verdict, reason = _verdict(measured, p_noise)
    return {**result, "p_noise": p_noise, "verdict": verdict, "reason": reason}


def _same_sessions(targets: Sequence[Mapping[str, Any]], scores: Sequence[Floats], trials: Sequence[Floats]) -> None:
    for t, x, number in zip(targets, scores, trials, strict=True):
        same_length(f"closeness for {t['heldout']}", t["sessions"], x, number)
        if list(t["sessions"]) != list(targets[0]["sessions"]) or len(set(t["sessions"])) < len(t["sessions"]):
            found = f"other sessions for {t['heldout']} than for {targets[0]['heldout']}"
            raise DataError("closeness_decomposition", found, "the same distinct sessions in the same order")


def _agreement(scores: Sequence[Floats], trials: Sequence[Floats], extra: Floats, chosen: Ints) -> dict[str, Floats]:
    """Every number of the decomposition for rows of chosen sessions (1 + B, C); the first row is the sample itself."""
    means = [x.mean(axis=1)[chosen] for x in scores]
    ranks = [_ranked(x) for x in means]
    sizes = [_ranked(x[chosen]) for x in trials]
    seeds = [[_ranked(x[:, s][chosen]) for s in range(x.shape[1])] for x in scores]
    lost = [_lost(x[chosen], mean, v) for x, mean, v in zip(scores, means, extra, strict=True)]
    noise = [_noise(x[chosen], mean, v) for x, mean, v in zip(scores, means, extra, strict=True)]
    single = [_over_pairs(s, _correlation)[0] * left for s, left in zip(seeds, lost, strict=True)]
    reliability = [_brown(_over_pairs(s, _correlation)) * left for s, left in zip(seeds, lost, strict=True)]
    given = [
        np.maximum(_over_pairs(s, lambda a, b, size=size: _partial(a, b, size))[0], 0.0) * left
        for s, size, left in zip(seeds, sizes, lost, strict=True)
    ]
    pairs = list(combinations(range(len(scores)), 2))
    rho = np.mean([_correlation(ranks[i], ranks[j]) for i, j in pairs], axis=0)
    unlike = np.mean([_unlike(seeds[i], seeds[j], _correlation) for i, j in pairs], axis=0)
    partial = np.mean(
        [_unlike(seeds[i], seeds[j], lambda a, b, size=sizes[i]: _partial(a, b, size)) for i, j in pairs], axis=0
    )
    ceiling = np.mean([_geometric(reliability[i], reliability[j]) for i, j in pairs], axis=0)
    top = np.mean([_geometric(np.maximum(single[i], 0), np.maximum(single[j], 0)) for i, j in pairs], axis=0)
    own = np.mean([_geometric(given[i], given[j]) for i, j in pairs], axis=0)
    with_trials = [_correlation(rank, size) for rank, size in zip(ranks, sizes, strict=True)]
    linear = np.mean(
        [_common_share(scores[i][chosen], scores[j][chosen], means[i], means[j]) for i, j in pairs], axis=0
    )
    unknown = np.mean(noise, axis=0)
    shared = np.clip(linear, 0.0, 1 - unknown)
    found = {"cross_target_rho": rho, "ceiling": ceiling}
    found |= {"cross_seed_rho": unlike, "seed_ceiling": top, "shared": _ratio(unlike, top)}
    found |= {
        "rho_trials": np.mean(with_trials, axis=0),
        "partial_rho": partial,
        "partial_shared": _ratio(partial, own),
    }
    found |= {"variance_shared": shared, "variance_specific": 1 - unknown - shared, "variance_noise": unknown}
    found |= {f"rho_trials {i}": values for i, values in enumerate(with_trials)}
    return found | {f"reliability {i}": values for i, values in enumerate(reliability)}


def _p_noise(scores: Sequence[Floats], rng: np.random.Generator, n_draws: int) -> float:
    """Chance that seeds agree as well as they do, mean over targets, when each orders the sessions at random."""
    ranks = [stats.rankdata(x, axis=0).T for x in scores]
    found = float(np.mean([_over_pairs([row[None] for row in _centred(x)], _correlation)[0] for x in ranks]))
    n = len(scores[0])
    drawn = np.zeros(n_draws)
    for x in ranks:
        dealt = [rng.permuted(np.tile(row, (n_draws, 1)), axis=1) for row in _centred(x)]
        drawn += _over_pairs(dealt, _correlation)[0] / len(ranks)
    if not np.isfinite(found):  # a seed to which all sessions are equal
        return 1.0
    return float((1 + (drawn >= found - 1e-9 * n).sum()) / (1 + n_draws))


def _verdict(measured: Draws, p_noise: float) -> tuple[str, str | None]:
    if not p_noise <= (1 - _LEVEL) / 2:
        return "undecided", "the order does not come back with other seeds"
    if not limits(measured["seed_ceiling"][1:], _LEVEL)[0] > _LOW_CEILING:
        return "undecided", "how far the order comes back with other seeds is not known well enough"
    # The same question as whether the ratio is above or below, without dividing by a ceiling that may be small.
    low, high = limits((measured["cross_seed_rho"] - SHARED * measured["seed_ceiling"])[1:], _LEVEL)
    if high < 0:
        return "closeness", None
    if low > 0:
        return "quality", None
    return "undecided", f"the share in common may lie on either side of {SHARED}"


def _ranked(values: Floats) -> Floats:
    """Ranks of each row (B, C), centred; ties share their mean rank."""
    return _centred(stats.rankdata(values, axis=1))


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean(axis=1, keepdims=True), dtype=np.float64)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Correlation of each row of two centred arrays (B, C); NaN where a side does not vary."""
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(size > _TINY, (a * b).sum(axis=1) / np.where(size > _TINY, size, 1.0), np.nan)


def _partial(a: Floats, b: Floats, given: Floats) -> Floats:
    """Partial correlation of each row; without variation in ``given``, the plain one."""
    ab, ac, bc = _correlation(a, b), _correlation(a, given), _correlation(b, given)
    left = (1 - ac**2) * (1 - bc**2)
    known = left > 1e-9
    partial = np.where(known, (ab - ac * bc) / np.sqrt(np.where(known, left, 1.0)), np.nan)
    return np.where(np.isnan(ac) | np.isnan(bc), ab, partial)


def _over_pairs(seeds: Sequence[Floats], correlation: Any) -> tuple[Floats, int]:
    """Mean correlation over pairs of seeds, and how many seeds there are."""
    return np.mean([correlation(a, b) for a, b in combinations(seeds, 2)], axis=0), len(seeds)


def _unlike(a: Sequence[Floats], b: Sequence[Floats], correlation: Any) -> Floats:
    """Mean correlation of seed s for one target with another seed for the other target."""
    pairs = [(x, y) for s, x in enumerate(a) for z, y in enumerate(b) if s != z]
    return np.asarray(np.mean([correlation(x, y) for x, y in pairs], axis=0), dtype=np.float64)


def _common_share(a: Floats, b: Floats, mean_a: Floats, mean_b: Floats) -> Floats:
    """Covariance of unlike seeds of two targets over the size of their means' variances; scores (B, C, S)."""
    between = _unlike(
        [_centred(a[:, :, s]) for s in range(a.shape[2])],
        [_centred(b[:, :, s]) for s in range(b.shape[2])],
        lambda x, y: (x * y).mean(axis=1),
    )
    size = mean_a.std(axis=1) * mean_b.std(axis=1)
    return np.where(size > _TINY, between / np.where(size > _TINY, size, 1.0), np.nan)


def _brown(pairs: tuple[Floats, int]) -> Floats:
    """Reliability of means of S seeds from that of single ones (Spearman and Brown); 0 when single ones disagree."""
    single, n = pairs
    positive = np.maximum(single, 0.0)
    return np.asarray(n * positive / (1 + (n - 1) * positive), dtype=np.float64)


def _geometric(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.sqrt(a * b), dtype=np.float64)


def _ratio(rho: Floats, ceiling: Floats) -> Floats:
    """rho / ceiling; NaN where the ceiling is so low that it says nothing."""
    known = ceiling > _LOW_CEILING
    return np.where(known, rho / np.where(known, ceiling, 1.0), np.nan)


def _noise(seed_scores: Floats, mean: Floats, extra: float) -> Floats:
    """Share of noise in the variance between sessions of the mean over seeds; scores (B, C, S), mean (B, C)."""
    n, n_seeds = seed_scores.shape[1:]
    rest = seed_scores - mean[:, :, None] - seed_scores.mean(axis=1, keepdims=True) + mean.mean(axis=1)[:, None, None]
    seed = (rest**2).sum(axis=(1, 2)) / ((n - 1) * (n_seeds - 1)) / n_seeds
    total = mean.var(axis=1, ddof=1)
    known = total > _TINY**2
    return np.where(known, np.minimum(1.0, (seed + extra) / np.where(known, total, 1.0)), np.nan)


def _lost(seed_scores: Floats, mean: Floats, extra: float) -> Floats:
    """What the noise of trials leaves of the reliability between seeds, which share their trials."""
    if extra == 0:
        return np.ones(len(mean))
    with_trials, without = 1 - _noise(seed_scores, mean, extra), 1 - _noise(seed_scores, mean, 0.0)
    return np.where(without > _TINY, with_trials / np.where(without > _TINY, without, 1.0), 0.0)
