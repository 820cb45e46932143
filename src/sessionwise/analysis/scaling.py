"""The scaling part of a study: curves, baselines, Table 1, Table A2, logarithmic fits, steps and cost.

Every function gives plain JSON values. A number that is missing is None beside its reason; a mean over an incomplete
cell is refused unless the grid allows it. "heldout": None stands for the average over held-out sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sessionwise.analysis import inference
from sessionwise.analysis.cells import ORDERS, Cell, Grid, best_size
from sessionwise.analysis.estimates import Estimator, Found, minus, percent_over, rng_of

Document = dict[str, Any]

BASELINES = ("baseline", "psth", "glm", "random_core", "own_core", "baseline_doubled")
PAIRS = (("random", "ranked"), ("random", "reverse_ranked"), ("ranked", "reverse_ranked"))
_STEPS = ("pretrain_steps", "finetune_steps")


# Fig. 3a and 3c -------------------------------------------------------------------------------------------------------


def curves(grid: Grid, estimator: Estimator) -> list[Document]:
    """Score against number of sessions for each order, each held-out session and their average (Fig. 3a, 3c)."""
    return [
        {
            "heldout": heldout,
            "arm": order,
            "sd_source": "shuffles" if order == "random" else "seeds",
            "points": [_point(grid, estimator, heldout, order, size) for size in grid.sizes],
        }
        for heldout in (*grid.heldout, None)
        for order in grid.orders
    ]


def _point(grid: Grid, estimator: Estimator, heldout: str | None, order: str, size: int) -> Document:
    cell = grid.cell(heldout, order, size)
    found = against_baseline(grid, estimator, heldout, order, size)
    return {
        "size": size,
        **cell.plain(),
        "improvement_percent": improvement(grid, heldout, order, size),
        "difference": found.plain,
        "difference_reason": found.reason,
        "over_one_percent": over_one(grid, heldout, order, size),
    }


def against_baseline(
    grid: Grid, estimator: Estimator, heldout: str | None, arm: str, size: int | None, variant: str = ""
) -> Found:
    """Score minus baseline in bits per spike; None for the average over held-out sessions."""
    return difference(grid, estimator, heldout, (arm, size, variant), ("baseline", None, ""))


Key = tuple[str, int | None, str]  # arm, size, variant


def difference(grid: Grid, estimator: Estimator, heldout: str | None, a: Key, b: Key) -> Found:
    """The mean of arm a minus the mean of arm b, with its interval (bits per spike)."""
    names = (heldout,) if heldout is not None else grid.heldout
    a, b = (("all", grid.n_pool, "") if key[0] in ORDERS and key[1] == grid.n_pool else key for key in (a, b))
    cells = {h: {"a": grid.cell(h, *a), "b": grid.cell(h, *b)} for h in names}
    return estimator.over_heldout(
        ("difference", *a, *b), cells, minus("a", "b"), allow_missing=grid.allow_missing and heldout is None
    )


def improvement(grid: Grid, heldout: str | None, arm: str, size: int | None, variant: str = "") -> float | None:
    """100 (bps - baseline) / baseline of means over runs; the average is that of the held-out sessions' percentages.

    None where the baseline is not above zero (protocol A19) or a mean is missing.
    """
    if heldout is None:
        each = [improvement(grid, h, arm, size, variant) for h in grid.heldout]
        return _average(each, grid.allow_missing)
    cell, baseline = grid.cell(heldout, arm, size, variant), grid.cell(heldout, "baseline")
    if cell.mean is None or baseline.mean is None:
        return None
    return inference.improvement_percent(cell.mean, baseline.mean)


def over_one(grid: Grid, heldout: str | None, order: str, size: int) -> float | None:
    """Percent over the same order's model of one session (Fig. 3c); the average is that of the percentages."""
    if heldout is None:
        return _average([over_one(grid, h, order, size) for h in grid.heldout], grid.allow_missing)
    cell, one = grid.cell(heldout, order, size), grid.cell(heldout, order, 1)
    if cell.mean is None or one.mean is None:
        return None
    return inference.improvement_percent(cell.mean, one.mean)


def _average(values: Sequence[float | None], allow_missing: bool) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and (allow_missing or len(known) == len(values)) else None


# Baselines ------------------------------------------------------------------------------------------------------------


def baselines(grid: Grid, estimator: Estimator) -> list[Document]:
    """What training on the held-out session alone gives, and the other references that were asked for."""
    asked = {arm for arm, _, _ in grid.keys()}
    rows = []
    for arm in (arm for arm in BASELINES if arm in asked or arm == "baseline"):
        for heldout in (*grid.heldout, None):
            found = against_baseline(grid, estimator, heldout, arm, None) if arm != "baseline" else Found()
            plain = grid.cell(heldout, arm).plain()
            steps = _all_steps(grid.cell(heldout, arm))
            rows.append(
                {
                    "heldout": heldout,
                    "arm": arm,
                    **plain,
                    "pretrain_steps": plain["steps"],
                    "steps": steps,
                    "improvement_percent": improvement(grid, heldout, arm, None) if arm != "baseline" else None,
                    "difference": found.plain,
                    "difference_reason": found.reason,
                }
            )
    return rows


def _all_steps(cell: Cell) -> float | None:
    known = [cell.numbers[name] for name in _STEPS if cell.numbers.get(name) is not None]
    return float(sum(value for value in known if value is not None)) if known else None


# Table 1 --------------------------------------------------------------------------------------------------------------


def table1(grid: Grid, estimator: Estimator) -> Document:
    """Table 1: improvement over the baseline at each order's best size, and of the ranked top k.

    choice "test" picks the best size on the test scores that are printed, as the paper does; "validation" picks it on
    validation scores. Sizes without all sessions (protocol B14). Intervals are for the size as chosen: with "test" they
    do not count the choosing.
    """
    rows = []
    for choice in ("test", "validation"):
        sizes = {h: {order: best_size(grid, h, order, choice) for order in grid.orders} for h in grid.heldout}
        for unit in ("%", "bps"):
            for heldout in (*grid.heldout, None):
                entries = {o: _entry(grid, estimator, heldout, o, sizes, unit, choice) for o in grid.orders}
                top = {h: {"ranked": grid.top} for h in grid.heldout}
                entries["top"] = _entry(grid, estimator, heldout, "ranked", top, unit, "top")
                name = "mean" if heldout is None else heldout
                rows.append({"heldout": name, "choice": choice, "unit": unit, **entries})
    return {"top": grid.top, "n_looks": len(grid.below_all), "rows": rows}


def _entry(
    grid: Grid,
    estimator: Estimator,
    heldout: str | None,
    order: str,
    sizes: Mapping[str, Mapping[str, int | None]],
    unit: str,
    choice: str,
) -> Document:
    names = grid.heldout if heldout is None else (heldout,)
    known = [h for h in names if sizes[h].get(order) is not None]
    empty = {"value": None, "low": None, "high": None, "size": None, "n_heldout": 0}
    if not known or (len(known) < len(names) and not grid.allow_missing):
        lacking = next(h for h in names if h not in known)
        return {**empty, "reason": f"{lacking}: not every size of the {order} order has a score"}
    found = estimator.over_heldout(
        ("table1", order, unit, choice, heldout),
        {h: {"a": grid.cell(h, order, sizes[h][order]), "b": grid.cell(h, "baseline")} for h in known},
        percent_over("a", "b") if unit == "%" else minus("a", "b"),
        allow_missing=grid.allow_missing and heldout is None,
    )
    means = [_gain_of(grid, h, order, sizes[h][order], unit) for h in known]
    value = _average(means, grid.allow_missing)
    bases = [grid.cell(h, "baseline").mean for h in known]
    low = unit == "%" and any(base is not None and base <= 0 for base in bases)
    refused = "the baseline is not above zero: no percentage" if low else found.reason
    reason = None if value is not None else refused
    return {
        "value": value,
        "low": found.low,
        "high": found.high,
        "size": sizes[heldout][order] if heldout is not None else None,
        "n_heldout": sum(mean is not None for mean in means),
        "reason": reason,
    }


def _gain_of(grid: Grid, heldout: str, order: str, size: int | None, unit: str) -> float | None:
    if unit == "%":
        return improvement(grid, heldout, order, size)
    cell, baseline = grid.cell(heldout, order, size), grid.cell(heldout, "baseline")
    return None if cell.mean is None or baseline.mean is None else cell.mean - baseline.mean


# Table A2 -------------------------------------------------------------------------------------------------------------


def table_a2(grid: Grid, estimator: Estimator) -> list[Document]:
    """Table A2: t-tests between orders at every size below all, with Welch's, paired, exact and corrected p.

    p: two-sided, independent, equal variances, as in the paper; p_paired only where both cells have the same seeds;
    p_exact: all splits of the runs into two groups; p_holm and p_bh correct p for all tests of the table. An incomplete
    cell is not tested unless the grid allows it.
    """
    rows = [
        _test(grid, estimator, heldout, size, pair)
        for heldout in grid.heldout
        for size in grid.below_all
        for pair in PAIRS
        if set(pair) <= set(grid.orders)
    ]
    raw = [row["p"] for row in rows]
    for row, holm, bh in zip(rows, inference.holm(raw), inference.benjamini_hochberg(raw), strict=True):
        row |= {"p_holm": holm, "p_bh": bh}
    return rows


def _test(grid: Grid, estimator: Estimator, heldout: str, size: int, pair: tuple[str, str]) -> Document:
    a, b = (grid.cell(heldout, order, size) for order in pair)
    row: Document = {"heldout": heldout, "size": size, "pair": list(pair), "n": [a.n, b.n]}
    names = ("difference", "t", "df", "p", "p_welch", "p_paired", "p_exact", "p_holm", "p_bh", "low", "high")
    row |= dict.fromkeys(names)
    refused = [f"{cell.arm}: {cell.reason}" for cell in (a, b) if cell.mean is None]
    if refused:
        return {**row, "reason": "; ".join(refused)}
    found = difference(grid, estimator, heldout, (pair[0], size, ""), (pair[1], size, ""))
    tests = inference.t_tests(a.values, b.values)
    assert a.mean is not None and b.mean is not None
    row |= {"difference": a.mean - b.mean, "low": found.low, "high": found.high}
    row |= {name: plain_of(getattr(tests, name)) for name in ("t", "df", "p", "p_welch")}
    row["p_paired"] = plain_of(tests.p_paired) if a.labels == b.labels else None
    row["p_exact"] = inference.exact_permutation(a.values, b.values)
    few = "fewer than two runs in a cell" if min(a.n, b.n) < 2 else None
    return {**row, "reason": "; ".join(filter(None, [a.reason, b.reason, few, found.reason])) or None}


# Fig. 3b --------------------------------------------------------------------------------------------------------------


def fits(grid: Grid, n_boot: int) -> list[Document]:
    """Least squares of score on ln(trials) below all sessions, extrapolated to all of them (Fig. 3b).

    One point a run; trials: all trials of the sessions in its pretraining. Seeds and shuffles are resampled whole. In
    the average a point is the mean over held-out sessions of one seed or shuffle.
    """
    return [_fit(grid, heldout, order, n_boot) for heldout in (*grid.heldout, None) for order in grid.orders]


def _fit(grid: Grid, heldout: str | None, order: str, n_boot: int) -> Document:
    cells = [grid.cell(heldout, order, size) for size in grid.below_all]
    every = grid.cell(heldout, order, grid.n_pool)
    measured = {name: every.plain()[name] for name in ("mean", "sd", "n", "reason")}
    result: Document = {"heldout": heldout, "arm": order, "measured_all": measured}
    result |= {"trials_all": every.numbers.get("trials") or _pool_trials(grid)}
    names = ("slope", "intercept", "r2", "n", "predicted_all", "saturating")
    result |= {**dict.fromkeys(names), "line": [], "points": []}
    refused = [f"{cell.size}: {cell.reason}" for cell in cells if cell.mean is None]
    points = [point for cell in cells for point in run_points(cell)] if not refused else []
    if refused or len({trials for trials, _, _ in points}) < 3 or result["trials_all"] is None:
        reason = f"sizes without a mean: {'; '.join(refused)}" if refused else "fewer than three different sizes"
        return {**result, "reason": reason}
    trials, scores = [p[0] for p in points], [p[1] for p in points]
    at = float(result["trials_all"])
    rng = rng_of("fit", heldout, order)
    fit = inference.log_fit(trials, scores, rng=rng, at=at, groups=[p[2] for p in points], n_boot=n_boot)
    result |= _plain_fit(plain_of(fit), trials)
    saturating = inference.saturating_fit(trials, scores, at)
    result["saturating"] = plain_of(saturating)
    partial = "; ".join(f"{cell.size}: {cell.reason}" for cell in cells if cell.reason) or None
    return {**result, "points": [[p[0], p[1]] for p in points], "reason": partial}


def _plain_fit(fit: Document, trials: Sequence[float]) -> Document:
    names = ("slope", "intercept", "r2", "n")
    intercept, slope = fit["intercept"]["mean"], fit["slope"]["mean"]
    at = np.geomspace(min(trials), max(trials), 20)
    line = [[float(x), float(intercept + slope * np.log(x))] for x in at]
    return {**{name: fit[name] for name in names}, "predicted_all": fit["predicted"], "line": line}


def run_points(cell: Cell) -> list[tuple[float, float, str]]:
    """(trials, score, seed or shuffle) of each run of a cell; in an average, of its mean over held-out sessions."""
    each = zip(cell.run_trials, cell.values, cell.labels, strict=True)
    return [(float(trials), value, label) for trials, value, label in each if trials is not None]


def _pool_trials(grid: Grid) -> float | None:
    known = [grid.study["sessions"].get(i, {}).get("n_trials") for i in grid.study["pool"]]
    return float(sum(known)) if known and all(value is not None for value in known) else None


def plain_of(value: Any) -> Any:
    """A result of the statistics as plain JSON values: numbers that are not finite become None."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain_of(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(name): plain_of(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_of(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain_of(item) for item in value]
    if isinstance(value, np.generic):
        return plain_of(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


# Steps and cost -------------------------------------------------------------------------------------------------------


def steps_by_arm(grid: Grid) -> list[Document]:
    """Optimiser steps of pretraining and finetuning of every arm: mean, smallest and largest over its runs."""
    rows = []
    for arm, variant, size in grid.keys():
        row: Document = {"arm": arm, "variant": variant, "size": size}
        found = grid.test_rows(arm, size, variant)
        for name in _STEPS:
            known = [value for value in (getattr(run, name) for run in found) if value is not None]
            short = name.removesuffix("_steps")
            row |= {name: float(np.mean(known)) if known else None}
            row |= {f"{short}_low": min(known, default=None), f"{short}_high": max(known, default=None)}
        rows.append(row)
    return rows


def cost(grid: Grid, rankings: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Runs, steps and tokens of every arm from scratch, and of the rankings.

    A pretraining that serves several held-out sessions counts once within an arm; what arms share (one session of the
    ranked order is a run of the ranking) counts in each.
    """
    rows: list[Document] = []
    for arm, variant, size in grid.keys():
        found = grid.test_rows(arm, size, variant)
        cores = {
            (tuple(sorted(run.sessions)), run.seed): run.pretrain_steps or 0
            for run in found
            if run.pretrain_steps is not None
        }
        finetunes = {run.model or (run.heldout, run.draw, run.seed): run.finetune_steps or 0 for run in found}
        pretraining, finetuning = sum(cores.values()), sum(finetunes.values())
        rows.append(
            {
                "arm": arm,
                "variant": variant,
                "size": size,
                "runs": len(finetunes),
                "models": len(cores),
                "pretrain_steps": pretraining,
                "finetune_steps": finetuning,
                "steps": pretraining + finetuning,
                "tokens": sum(run.tokens or 0 for run in found),
            }
        )
    return rows + [_ranking_cost(ranking) for ranking in rankings]


def _ranking_cost(ranking: Mapping[str, Any]) -> Document:
    kinds = ranking["cost"].get("by_kind", {})
    pretraining, finetuning = (kinds.get(kind, {}) for kind in ("pretrain", "finetune"))
    return {
        "arm": "ranking",
        "variant": ranking["heldout"],
        "size": None,
        "runs": ranking["cost"].get("runs"),
        "models": pretraining.get("runs"),
        "pretrain_steps": pretraining.get("steps"),
        "finetune_steps": finetuning.get("steps"),
        "steps": ranking["cost"].get("steps"),
        "tokens": ranking["cost"].get("tokens"),
    }


def cost_vs_score(grid: Grid) -> list[Document]:
    """Mean test score against the optimiser steps of one pretraining and finetuning, and of one baseline."""
    asked: list[tuple[str, int | None]] = [(order, size) for order in grid.orders for size in grid.sizes]
    asked.append(("baseline", None))
    return [
        {"heldout": heldout, "arm": arm, "size": size, "steps": _all_steps(cell), "mean": cell.mean, "sd": cell.sd}
        for heldout in (*grid.heldout, None)
        for arm, size in asked
        for cell in (grid.cell(heldout, arm, size),)
    ]
