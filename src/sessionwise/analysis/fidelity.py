"""How well the order of a cheap ranker agrees with a reference, and what noise, chance and few seeds make of that.

The reference is the mean score of the full procedure over seeds that the ranker did not have: with a seed in common
both would share its noise, and agree for the wrong reason. Scores are better when higher; those of a reference are in
bits per spike, those of a ranker in any unit. The measures, by their keys:

    spearman, kendall   Spearman's rho and Kendall's tau-b with the reference
    pairwise            share of the pairs of sessions, untied in the reference, that are ordered alike; a pair that the
                        ranker ties counts half
    top<k>              how many sessions are among the k best of both
    regret1             score of the reference's best session minus that of the ranker's best, bits per spike, both
                        scores by the reference
    regret1_relative    the same as a share of the reference's best minus its mean: 0 = the best was found, 1 = as a
                        session drawn at random
    final_regret        test score of a model pretrained on the reference's top sessions minus on the ranker's, bits
                        per spike; measured elsewhere, only averaged here

Where scores are tied, ``top<k>`` and ``regret1`` are means over all ways to break the ties. A regret is measured with
noise in the reference: its best session is partly lucky, so even the true order has some. ``ceiling`` says how much.

Legend: C sessions of the pool, S seeds, B draws, n sessions that both lists have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.analysis.checks import DECIMALS, finite, limits, rounded
from sessionwise.analysis.statistics import seed_to_seed_correlation
from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Scores = Mapping[str, float | None]
Row = Mapping[str, Any]

KS = (1, 3, 5)
FEWEST_SESSIONS = 3
FEWEST_CLUSTERS = 3  # fewer have no spread to speak of
_FIXED = ("spearman", "kendall", "pairwise", "regret1", "regret1_relative", "final_regret")
_TOP = re.compile(r"top([1-9]\d*)")
_MOST_PAIRS = 2_000_000  # pairs of sessions times draws held in memory at once


def agreement(scores: Scores, reference: Scores, *, ks: Sequence[int] = KS) -> dict[str, Any]:
    """The measures of one ranker for one held-out session, over the sessions that both lists have.

    ``n`` sessions are in both; ``missing_in_scores`` of the reference have no score from the ranker (absent or None)
    and ``missing_in_reference`` the other way round: neither list is charged for them, so look at the numbers.
    ``chance`` holds for each ``top<k>`` the mean and the middle 95 % for a random order (hypergeometric, exact).
    Measures are None, with a ``reason``, for fewer than 3 common sessions or where all scores of a list are equal.

    Raises DataError for a score that is not finite or a k below 1.
    """
    known = [{name: v for name, v in side.items() if v is not None} for side in (scores, reference)]
    common = sorted(set(known[0]) & set(known[1]))
    x, y = (_even("agreement", [side[name] for name in common]) for side in known)
    found = _one_to_one(x, y, ks)
    missing = {
        "missing_in_scores": len(set(known[1]) - set(known[0])),
        "missing_in_reference": len(set(known[0]) - set(known[1])),
    }
    return {"n": len(common), **missing, **found, "chance": {f"top{k}": _chance(len(common), k) for k in ks}}


def ceiling(reference_seed_scores: ArrayLike, n_method_seeds: int, *, ks: Sequence[int] = KS) -> dict[str, Any]:
    """What the full procedure itself would reach with other seeds: no ranker can be expected to agree better.

    reference_seed_scores: (C, S), one column a seed; n_method_seeds: over how many seeds a ranker averages.

    ``seed_to_seed`` is the mean Spearman correlation r between two single seeds. Means over more seeds agree better.
    If a score is truth plus noise that is independent between seeds, r is the share of the truth in the variance of
    one seed (its reliability), that of a mean over m seeds is (Spearman, 1910; Brown, 1910)

        R(m) = m r / (1 + (m - 1) r)

    a mean correlates with the truth at sqrt(R(m)), and two means with each other at the product (attenuation, Spearman,
    1904). The reference is the mean over S seeds and the ranker's a mean over m others, so

        spearman = sqrt(R(S) * R(m))

    which is r itself for S = m = 1. Exact for Pearson's correlation, close for ranks of scores without outliers; 0
    where seeds agree no better than by chance (r <= 0). What validation trials do to all seeds alike counts as truth.

    The other measures have no such formula. They are measured on the seeds there are: the mean over
    ``split_method_seeds`` of them against the mean over the ``split_reference_seeds`` others, averaged over all ways
    to split; ``spearman_split`` is Spearman's rho of these, for comparison. Such means are over fewer seeds than the
    real ones, so these ceilings are somewhat too low (those of a regret too high).

    None with a ``reason`` for one seed, fewer than 3 sessions, or a seed in which all scores are equal.
    """
    x = _even("ceiling", reference_seed_scores, 2)
    if n_method_seeds < 1:
        raise DataError("ceiling", f"{n_method_seeds} seeds of the ranker", "one or more")
    n_seeds = x.shape[1]
    reason = "one seed: agreement between seeds is unknown" if n_seeds < 2 else None
    single = seed_to_seed_correlation(x) if reason is None else None
    if reason is None and single is None:
        reason = f"{len(x)} sessions" if len(x) < FEWEST_SESSIONS else "a seed in which all scores are equal"
    # The larger part stays with the reference.
    n_first = min(n_method_seeds, n_seeds // 2)
    splits = [] if reason else _splits(x, n_first, ks)
    split = {name: _mean([found[name] for found in splits]) for name in _names(ks)}
    return {
        "n_seeds": n_seeds,
        "n_method_seeds": n_method_seeds,
        "seed_to_seed": rounded(single),
        "split_method_seeds": None if reason else n_first,
        "split_reference_seeds": None if reason else n_seeds - n_first,
        "spearman_split": split["spearman"],
        **split,
        "spearman": None if single is None else rounded(attenuated(single, n_seeds, n_method_seeds)),
        "reason": reason,
    }


def attenuated(single: float, n_first: int, n_second: int) -> float:
    """Correlation between means over two sets of seeds, from that between single seeds (see ``ceiling``)."""
    r = max(single, 0.0)
    return math.sqrt(math.prod(n * r / (1 + (n - 1) * r) for n in (n_first, n_second)))


def random_line(
    reference: Scores | Sequence[Scores],
    rng: np.random.Generator,
    n_draws: int = 2000,
    *,
    ks: Sequence[int] = KS,
) -> dict[str, Any]:
    """The measures of a random order: ``{measure: {"mean", "low", "high"}}``, the middle 95 % of ``n_draws`` draws.

    reference: one reference, or several: then the distribution is that of the mean over them, each with a random order
    of its own, as is needed beside means over held-out sessions. References with fewer than 3 sessions or equal scores
    are left out; all measures are None with a ``reason`` if none is left.
    """
    if n_draws < 1:
        raise DataError("random_line", f"{n_draws} draws", "one or more")
    every = [reference] if isinstance(reference, Mapping) else list(reference)
    lists = [_even("random_line", [v for _, v in sorted(one.items()) if v is not None]) for one in every]
    lists = [y for y in lists if _unfit(y, "reference") is None]
    if not lists:
        reason = "no reference of 3 or more sessions whose scores differ"
        return {**dict.fromkeys(_names(ks)), "n": 0, "reason": reason}
    drawn = [_random_measures(y, rng, n_draws, ks) for y in lists]
    line: dict[str, Any] = {}
    for name in _names(ks):
        parts = [part[name] for part in drawn if name in part]
        line[name] = _distribution(np.mean(parts, axis=0)) if parts else None
    return {**line, "n": len(lists), "reason": None}


def mean_line(lines: Iterable[Row]) -> dict[str, Any]:
    """Agreements or ceilings of several held-out sessions as one line: the mean of each measure where it is known.

    ``{measure: number or None}`` and ``n``, the number of lines.
    """
    known = list(lines)
    return {**{name: _mean([line.get(name) for line in known]) for name in measures(known)}, "n": len(known)}


def summarise(
    rows: Iterable[Row], *, rng: np.random.Generator | None = None, n_boot: int = 2000, level: float = 0.95
) -> list[dict[str, Any]]:
    """Every method's measures averaged over held-out sessions, with intervals; cheapest first, unknown cost last.

    Parameters
    ----------
    rows: one for each method and held-out session: ``{"method", "heldout", "cost_share"}``, optionally ``generator``
        (of simulated sessions; or a pool), and the measures, such as the result of ``agreement``. ``cost_share`` is
        the cost as a share of the full procedure's, 0 without any training, None where unknown. Rows of the same
        method and held-out session (seeds of the method) are averaged first.
    rng: None for a fixed state; the same rows then give the same intervals.

    Each measure is ``{"mean", "low", "high", "n", "reason"}``, n held-out sessions having a value. The interval is a
    bootstrap over held-out sessions, or over generators (with all their held-out sessions) where they are given, since
    sessions of one generator share its fate. With few of them a plain bootstrap is too narrow: its deviations are
    widened by sqrt(c / (c - 1)) and from Gaussian to Student's t with c - 1 degrees of freedom, c the number of units
    resampled; values beyond what a measure can be are cut off. None with a ``reason`` for fewer than 3 units.

    Raises DataError for rows without a method or held-out session, a negative cost, values that are not finite, or a
    method that has a generator in some rows only.
    """
    known = [_checked_row(row) for row in rows]
    seed = int((np.random.default_rng(0) if rng is None else rng).integers(2**32))
    names = measures(known)
    summary = []
    for method in sorted({row["method"] for row in known}):
        mine = [row for row in known if row["method"] == method]
        groups = {row.get("generator") is not None for row in mine}
        if len(groups) > 1:
            raise DataError(f"rows of {method}", "a generator in some rows only", "one in all of them or in none")
        values = {name: _over_heldouts(mine, name, seed, n_boot, level) for name in names}
        summary.append(
            {
                "method": method,
                "cost_share": _mean([row.get("cost_share") for row in mine]),
                "n": len({_place(row) for row in mine}),
                "resampled": "generator" if groups == {True} else "heldout",
                "level": level,
                **values,
            }
        )
    return sorted(summary, key=lambda row: (row["cost_share"] is None, row["cost_share"] or 0.0, row["method"]))


def measures(rows: Iterable[Row]) -> list[str]:
    """The measures that rows have, in a fixed order: correlations, pairs, top-k by k, regrets."""
    named = {name for row in rows for name in row}
    top = sorted((name for name in named if _TOP.fullmatch(name)), key=lambda name: int(name[3:]))
    fixed = [name for name in _FIXED if name in named]
    return [*(n for n in fixed if "regret" not in n), *top, *(n for n in fixed if "regret" in n)]


def calibration(
    intervals: Iterable[tuple[int, int, int]], chances: Iterable[float] | None = None, *, level: float = 0.95
) -> dict[str, Any]:
    """How often rank intervals (rank_low, rank_high, true_rank), ends included, hold the true rank.

    ``share`` of ``n`` with the exact interval of Clopper and Pearson (1934). It takes the cases as independent; ranks
    of one ranking are not quite (one session's gain is another's loss), so it is somewhat too narrow.
    chances: what each interval promises (``rank_chance``); ``stated`` is their mean, which ``share`` has to equal. That
    of 80 % intervals is higher, for ranks are whole: ends that hold 80 % of the draws mostly hold 90 % or more.
    """
    cases = [tuple(case) for case in intervals]
    if any(len(case) != 3 or case[0] > case[1] for case in cases):
        raise DataError("calibration", "an interval that ends before it begins", "(rank_low, rank_high, true_rank)")
    finite("calibration", cases)
    promised = list(chances or ())
    stated = rounded(float(np.mean(promised))) if promised and len(promised) == len(cases) else None
    if not cases:
        return {"share": None, "stated": None, "n": 0, "inside": 0, "low": None, "high": None, "reason": "no intervals"}
    inside = sum(low <= rank <= high for low, high, rank in cases)
    ends = stats.binomtest(inside, len(cases)).proportion_ci(confidence_level=level, method="exact")
    share = rounded(inside / len(cases))
    return {
        "share": share,
        "stated": stated,
        "n": len(cases),
        "inside": inside,
        "low": rounded(ends.low),
        "high": rounded(ends.high),
        "reason": None,
    }


def fidelity_table(summary: Sequence[Row]) -> str:
    """The summary as a Markdown table: means and 95 % intervals, a line a method, and why numbers are missing."""
    return _rendered(summary, "md")


def fidelity_csv(summary: Sequence[Row]) -> str:
    """The summary as CSV, every number in full and an empty cell for a missing one: a line a method and measure."""
    return _rendered(summary, "csv")


# Measures -------------------------------------------------------------------------------------------------------------


def _names(ks: Sequence[int]) -> list[str]:
    bad = [k for k in ks if k < 1]
    if bad:
        raise DataError("top-k overlap", f"k = {bad[0]}", "one or more")
    return measures([dict.fromkeys([*(f"top{k}" for k in ks), *_FIXED[:-1]])])


def _even(where: str, values: Any, ndim: int = 1) -> Floats:
    """Scores in which ties are ties, whatever the last bits of a matrix product."""
    return np.round(finite(where, values, ndim), DECIMALS)


def _unfit(values: Floats, name: str) -> str | None:
    if len(values) < FEWEST_SESSIONS:
        return f"{len(values)} session{'s' if len(values) != 1 else ''} in both, {FEWEST_SESSIONS} needed"
    return f"all scores of the {name} are equal" if np.ptp(values) == 0 else None


def _one_to_one(x: Floats, y: Floats, ks: Sequence[int]) -> dict[str, Any]:
    """Every measure of scores x and y (n,) as a number or None, and the reason."""
    reason = _unfit(y, "reference") or _unfit(x, "ranker")
    found = _measures(x[None, :], y, ks) if reason is None else {}
    if reason is None and max(ks, default=0) > len(y):
        reason = f"{len(y)} sessions in both: too few for the top {max(ks)}"
    values = {name: rounded(float(found[name][0])) if name in found else None for name in _names(ks)}
    return {**values, "reason": reason}


def _measures(x: Floats, y: Floats, ks: Sequence[int]) -> dict[str, Floats]:
    """Measures (B,) of scores x (B, n) against y (n,), neither constant; without ``top<k>`` where k > n."""
    i, j = np.triu_indices(len(y), 1)
    signs, wanted = np.sign(x[:, i] - x[:, j]), np.sign(y[i] - y[j])
    balance, untied = signs @ wanted, float((wanted != 0).sum())
    rank_x, rank_y = stats.rankdata(x, axis=1), stats.rankdata(y)
    rank_x, rank_y = rank_x - rank_x.mean(axis=1, keepdims=True), rank_y - rank_y.mean()
    regret = y.max() - _in_top(x, 1) @ y
    found = {
        "spearman": (rank_x @ rank_y) / np.sqrt((rank_x**2).sum(axis=1) * (rank_y @ rank_y)),
        "kendall": balance / np.sqrt((signs != 0).sum(axis=1) * untied),
        "pairwise": (1 + balance / untied) / 2,
        "regret1": regret,
        "regret1_relative": regret / (y.max() - y.mean()),
    }
    overlaps = {f"top{k}": _in_top(x, k) @ _in_top(y[None, :], k)[0] for k in ks if k <= len(y)}
    return {**found, **overlaps}


def _in_top(x: Floats, k: int) -> Floats:
    """Probability (B, n) of being among the k best of scores (B, n) when ties are broken at random."""
    above = stats.rankdata(-x, method="min", axis=1) - 1
    tied = stats.rankdata(-x, method="max", axis=1) - above
    return np.asarray(np.clip((k - above) / tied, 0.0, 1.0), dtype=np.float64)


def _chance(n: int, k: int) -> dict[str, float | None] | None:
    """Overlap of two independent top-k lists of n: k draws without replacement, k of the n counting."""
    if n < max(k, FEWEST_SESSIONS):
        return None
    law = stats.hypergeom(n, k, k)
    return {"mean": rounded(k * k / n), "low": float(law.ppf(0.025)), "high": float(law.ppf(0.975))}


def _splits(x: Floats, n_first: int, ks: Sequence[int]) -> list[dict[str, Any]]:
    """Agreement of the mean over n_first seeds with the mean over the others, for each way to choose them."""
    seeds = range(x.shape[1])
    found = []
    for first in combinations(seeds, n_first):
        others = [seed for seed in seeds if seed not in first]
        one, other = (_even("ceiling", x[:, list(part)].mean(axis=1)) for part in (first, others))
        found.append(_one_to_one(one, other, ks))
    return found


def _random_measures(y: Floats, rng: np.random.Generator, n_draws: int, ks: Sequence[int]) -> dict[str, Floats]:
    n = len(y)
    step = max(1, _MOST_PAIRS // (n * n))
    parts = []
    for start in range(0, n_draws, step):
        orders = np.tile(np.arange(n, dtype=np.float64), (min(step, n_draws - start), 1))
        parts.append(_measures(rng.permuted(orders, axis=1), y, ks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _distribution(draws: Floats) -> dict[str, float | None]:
    low, high = limits(draws, 0.95)
    return {"mean": rounded(float(draws.mean())), "low": rounded(low), "high": rounded(high)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(float(np.mean(known))) if known else None


# Summary --------------------------------------------------------------------------------------------------------------


def _checked_row(row: Row) -> Row:
    for name in ("method", "heldout"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise DataError("a row of the comparison of rankers", f"{name}: {row.get(name)!r}", f"the {name}'s name")
    where = f"{row['method']} for {row['heldout']}"
    for name in ["cost_share", *measures([row])]:
        if row.get(name) is not None:
            finite(f"{where}: {name}", row[name], 0)
    if (row.get("cost_share") or 0) < 0:
        raise DataError(where, f"cost_share {row['cost_share']}", "0 or more, as a share of the full procedure's cost")
    return row


def _place(row: Row) -> tuple[str, str]:
    """A held-out session: ids may come again in another generator."""
    return str(row.get("generator")), row["heldout"]


def _over_heldouts(rows: Sequence[Row], name: str, seed: int, n_boot: int, level: float) -> dict[str, Any]:
    each: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get(name) is not None:
            each.setdefault(_place(row), []).append(row[name])
    if not each:
        reasons = dict.fromkeys(row["reason"] for row in rows if row.get("reason"))
        missing = "; ".join(reasons) or "not measured"
        return {"mean": None, "low": None, "high": None, "n": 0, "reason": missing}
    clustered = any(row.get("generator") is not None for row in rows)
    clusters: dict[str, list[float]] = {}
    for (generator, heldout), values in sorted(each.items()):
        clusters.setdefault(generator if clustered else heldout, []).append(float(np.mean(values)))
    mean = float(np.mean([value for cluster in clusters.values() for value in cluster]))
    low: float | None = None
    high: float | None = None
    reason = None
    if len(clusters) < FEWEST_CLUSTERS:
        word = "generator" if clustered else "held-out session"
        reason = f"{len(clusters)} {word}{'s' if len(clusters) > 1 else ''}: no interval"
    else:
        low, high = _cut(name, *_cluster_interval(list(clusters.values()), mean, seed, n_boot, level))
    return {"mean": rounded(mean), "low": rounded(low), "high": rounded(high), "n": len(each), "reason": reason}


def _cluster_interval(
    clusters: Sequence[Sequence[float]], mean: float, seed: int, n_boot: int, level: float
) -> tuple[float, float]:
    """Interval of the mean of all values; the same draws for every list of as many clusters."""
    n = len(clusters)
    weights = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=n_boot)
    sums, sizes = np.array([sum(c) for c in clusters]), np.array([len(c) for c in clusters])
    chance = (1 + level) / 2
    wider = math.sqrt(n / (n - 1)) * stats.t.ppf(chance, n - 1) / stats.norm.ppf(chance)
    low, high = limits((weights @ sums) / (weights @ sizes), level)
    return mean + (low - mean) * wider, mean + (high - mean) * wider


def _cut(name: str, low: float, high: float) -> tuple[float, float]:
    """The interval inside what the measure can be; a final regret can be anything."""
    top = _TOP.fullmatch(name)
    least, most = (0.0, float(top[1])) if top else _RANGES.get(name, (-math.inf, math.inf))
    return max(low, least), min(high, most)


_RANGES = {
    "spearman": (-1.0, 1.0),
    "kendall": (-1.0, 1.0),
    "pairwise": (0.0, 1.0),
    "regret1": (0.0, math.inf),
    "regret1_relative": (0.0, math.inf),
}

# Tables ---------------------------------------------------------------------------------------------------------------

_HEADINGS = {
    "spearman": ("Spearman", 2),
    "kendall": ("Kendall", 2),
    "pairwise": ("pairs alike", 2),
    "regret1": ("regret@1, bits/spike", 4),
    "regret1_relative": ("regret@1, relative", 2),
    "final_regret": ("final regret, bits/spike", 4),
}


def _rendered(summary: Sequence[Row], form: str) -> str:
    from sessionwise.analysis.pages import number  # with matplotlib: slow to load
    from sessionwise.analysis.study_tables import Table, render

    names = measures(summary)
    tidy: list[Sequence[Any]] = [["method", "cost_share", "measure", "mean", "low", "high", "n", "resampled", "reason"]]
    lines: list[list[str]] = []
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in summary:
        cells = [row["method"], _cost(row["cost_share"]), str(row["n"])]
        for name in names:
            value = row[name]
            ends = [value[end] for end in ("mean", "low", "high")]
            tidy.append([row["method"], row["cost_share"], name, *ends, value["n"], row["resampled"], value["reason"]])
            mean, low, high = (number(end, _heading(name)[1]) for end in ends)
            cells.append(mean if value["low"] is None else f"{mean} [{low}, {high}]")
            if value["reason"]:
                reasons.setdefault((row["method"], value["reason"]), []).append(_heading(name)[0])
        lines.append(cells)
    notes = _notes(reasons, [row["method"] for row in summary], [_heading(name)[0] for name in names])
    header = ["ranker", "cost / cost(full)", "held-out sessions", *(_heading(name)[0] for name in names)]
    text = (
        "Agreement of rankers with the full procedure under other seeds: means over held-out sessions, 95 % intervals."
    )
    table = Table("fidelity", text, header, [("", lines)], tidy, n_text=1, notes=notes)
    return render(table, form).decode()


def _notes(reasons: Mapping[tuple[str, str], list[str]], every: list[str], headings: list[str]) -> list[str]:
    """Why numbers are missing: rankers with the same gaps for the same reason in one sentence."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (method, reason), which in reasons.items():
        groups.setdefault((reason, tuple(which)), []).append(method)
    notes = []
    for (reason, gaps), methods in groups.items():
        who = "All rankers" if len(methods) == len(every) > 1 else ", ".join(methods)
        notes.append(f"{who}: {reason}" + ("." if list(gaps) == headings else f" ({', '.join(gaps)})."))
    return notes


def _heading(name: str) -> tuple[str, int]:
    return _HEADINGS.get(name) or (f"top-{name[3:]} overlap", 2)


def _cost(share: float | None) -> str:
    """Costs span powers of ten: two digits that count; a method without training has none."""
    if share is None:
        return "–"
    return "no training" if share == 0 else f"{float(f'{share:.2g}'):g}"
