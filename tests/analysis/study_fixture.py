"""Results of a whole study made by hand: no training, and a known answer for every quantity.

The mean of a cell is what ``level`` says: its runs differ by offsets that add up to nothing, and the gains of its test
trials add up to its score. Rankings put the pool in an order that is the pool, rotated by one for each held-out
session.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sessionwise.analysis.results import Row, StudyResults
from sessionwise.analysis.statistics import rank_bootstrap

HELDOUT = ("09_Moniz", "07_Forssmann", "11_Hench")
SIZES = (1, 2, 3, 5, 8)
SEEDS = (10, 20)
BASELINE = 0.14
STEPS_A_SESSION, FINETUNE_STEPS, BASELINE_STEPS = 600, 400, 1200
VALIDATION_SHIFT = 0.002

# Test score of each order at 1, 2, 3, 5 and all 8 sessions; the same for every held-out session up to SHIFT.
LEVELS: dict[str, tuple[float, ...]] = {
    "ranked": (0.150, 0.158, 0.165, 0.163, 0.155),
    "random": (0.100, 0.120, 0.135, 0.150, 0.155),
    "reverse_ranked": (0.040, 0.060, 0.090, 0.120, 0.155),
}
CONTROL_LEVELS: dict[tuple[str, str], float] = {
    ("baseline", ""): BASELINE,
    ("psth", ""): 0.050,
    ("glm", ""): 0.100,
    ("random_core", ""): 0.070,
    ("own_core", ""): 0.142,
    ("baseline_doubled", ""): 0.141,
    ("step_matched", "steps of top"): 0.160,
    ("step_matched", "steps of all"): 0.166,
    ("trial_matched", ""): 0.140,
    ("other_targets", ""): 0.148,
    ("many_shuffles", ""): 0.135,
    ("fresh_seeds", ""): 0.147,
    ("full_finetune", "ranked"): 0.170,
    ("full_finetune", "reverse_ranked"): 0.160,
    ("minus_worst", "minus 2"): 0.159,
}
STEP_MATCHED_GAP = 0.003  # the top sessions minus all of them at equal steps
CORE_REACH = 0.006  # half the interval of a difference between two cores of a ranking
# What each held-out session adds to every level, so that sessions differ and all differences between arms stay.
SHIFT = (0.0, -0.02, 0.02, 0.01, -0.01)

# How far apart the runs of an arm are, in units of ``spread``; other arms: 1.
SPREADS = {"random": 2.0, "reverse_ranked": -1.5}

Level = Callable[[int, str, str, int | None], float]
Broken = Mapping[tuple[str, str, int | None, int], tuple[str, str]]


def pool_ids(n: int) -> list[str]:
    """Ids of the pool's n sessions."""
    mice = ("Cori", "Forssmann", "Hench", "Lederberg", "Moniz", "Muller", "Radnitz", "Richards", "Tatum", "Theiler")
    return [f"{20 + i:02d}_{mice[i % len(mice)]}" for i in range(n)]


def n_trials(i: int) -> int:
    """Trials of the i-th session of the pool."""
    return 200 + 30 * ((i * 5) % 8)


def true_order(pool: Sequence[str], h: int, rotate: int = 1) -> list[str]:
    """The order that the ranking of the h-th held-out session has: the pool, rotated by h."""
    turn = (h * rotate) % len(pool)
    return [*pool[turn:], *pool[:turn]]


def level_of(levels: Mapping[str, Sequence[float]], sizes: Sequence[int]) -> Level:
    """A level function from one row of numbers an order, the same for every held-out session up to its shift."""

    def level(h: int, arm: str, variant: str, size: int | None) -> float:
        base = levels[arm][list(sizes).index(int(size or 0))] if arm in levels else CONTROL_LEVELS[arm, variant]
        every = arm == "step_matched" and size == max(sizes)
        return base + SHIFT[h] - (STEP_MATCHED_GAP if every else 0.0)

    return level


class Maker:
    """Collects rows and gains; ``add`` makes one cell."""

    def __init__(self, study: dict[str, Any], k: int, spread: float, noise: float, broken: Broken) -> None:
        self.study, self.spread, self.noise, self.broken = study, spread, noise, broken
        self.rows: list[Row] = []
        self.gains: dict[str, np.ndarray] = {}
        self.spikes: dict[str, np.ndarray] = {}
        self.counts = {h: np.random.default_rng([7, i]).integers(200, 800, k) for i, h in enumerate(study["heldout"])}

    def add(
        self,
        heldout: str,
        arm: str,
        level: float,
        units: Sequence[tuple[int, int]],
        *,
        variant: str = "",
        size: int | None = None,
        sessions: Callable[[int], Sequence[str]] = lambda draw: (),
        validation: float | None = None,
        steps: tuple[int | None, int | None] = (None, None),
        split_seed: int = 0,
        same_run: str | None = None,
    ) -> None:
        """Runs of one cell; units: (draw, seed) of each; the offsets of the runs add up to nothing."""
        for index, (draw, seed) in enumerate(units):
            offset = self.spread * SPREADS.get(same_run or arm, 1.0) * (index - (len(units) - 1) / 2)
            run = f"{same_run or arm}|{variant}|{size}|{0 if same_run else draw}|{seed}|{heldout}|{split_seed}"
            state, reason = self.broken.get((heldout, arm, size, index), ("done", None))
            chosen = tuple(sorted(sessions(draw)))
            known = self.study["sessions"]
            trials = sum(known[s]["n_trials"] for s in chosen) if chosen else None
            for part, value in (("test", level), ("validation", level if validation is None else validation)):
                number = value + offset if state == "done" else None
                tokens = ((steps[0] or 0) + (steps[1] or 0)) * 160 if any(steps) else None
                row = [split_seed, heldout, arm, variant, size, draw, seed, part, "bps", number, state, reason]
                self.rows.append(
                    Row(*row, len(chosen), trials, *steps, tokens, chosen, run if state == "done" else None, f"m{run}")  # type: ignore[arg-type]
                )
                if part == "test":
                    self.rows.append(self._tail(self.rows[-1]))
                if part == "test" and number is not None:
                    self._trials(run, heldout, number)

    def _tail(self, row: Row) -> Row:
        return Row(**{**vars(row), "metric": "bps_tail", "value": None if row.value is None else row.value * 0.6})

    def _trials(self, run: str, heldout: str, score: float) -> None:
        counts = self.counts[heldout]
        seed = [ord(c) for c in run]
        own = np.random.default_rng(seed).normal(0, self.noise, len(counts))
        own -= own.mean()
        self.spikes[run] = counts.astype(np.float64)
        self.gains[run] = math.log(2) * (score * counts + own * counts.mean())


def make_results(
    *,
    heldout: Sequence[str] = HELDOUT,
    n_pool: int = 8,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    shuffles: int = 3,
    top: int = 3,
    level: Level | None = None,
    validation: Level | None = None,
    spread: float = 0.002,
    noise: float = 0.01,
    k: int = 24,
    controls: bool = True,
    broken: Broken | None = None,
    rotate: int = 1,
    split_seeds: Sequence[int] = (0,),
    transfer: bool = False,
    rankings: bool = True,
    ids: Sequence[str] | None = None,
) -> StudyResults:
    """Results of a study whose every cell has the mean that ``level(held-out number, arm, variant, size)`` says.

    spread: between neighbouring runs of a cell; noise: of single trials, bits per spike; k: test trials;
    broken: (held-out, arm, size, number of the run) -> (state, reason) instead of a score; rotate: how far the order of
    the pool is turned from one held-out session to the next (0: all have the same ranking).
    """
    pool = list(ids) if ids is not None else pool_ids(n_pool)
    level = level or level_of(LEVELS, sizes)
    judged = validation or (lambda h, arm, variant, size: level(h, arm, variant, size) + VALIDATION_SHIFT)
    study = _study(heldout, pool, sizes, seeds, shuffles, top, split_seeds)
    maker = Maker(study, k, spread, noise, broken or {})
    for split_seed in split_seeds:
        for h, name in enumerate(heldout):
            _orders(maker, h, name, level, judged, rotate, split_seed)
            if controls and split_seed == split_seeds[0]:
                _controls(maker, h, name, level, judged, rotate)
    documents = [ranking_of(study, h, rotate) for h in range(len(heldout))] if rankings else []
    matrix = tuple(_transfer(pool, seeds)) if transfer else ()
    return StudyResults(study, tuple(maker.rows), maker.gains, maker.spikes, tuple(documents), matrix, _about(study))


def _study(
    heldout: Sequence[str],
    pool: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    shuffles: int,
    top: int,
    split_seeds: Sequence[int],
) -> dict[str, Any]:
    facts = {
        s: {
            "n_trials": n_trials(i),
            "n_units": 300 + 37 * ((i * 3) % 11),
            "n_good_units": 90 + 11 * ((i * 7) % 9),
            "mean_rate_hz": 3.0 + 0.25 * ((i * 2) % 7),
            "subject": s.split("_")[-1],
            "lab": "lab",
            "date": f"2017-01-{1 + i:02d}",
            "trainval_hash": f"{i:02x}" * 32,
            "test_hash": f"{i + 100:02x}" * 32,
        }
        for i, s in enumerate([*pool, *heldout])
    }
    return {
        "schema": 1,
        "name": "made by hand",
        "recipe": {"name": "made by hand", "top": top},
        "heldout": list(heldout),
        "pool": list(pool),
        "seeds": list(seeds),
        "orders": ["ranked", "reverse_ranked", "random"],
        "shuffles": shuffles,
        "sizes": list(sizes),
        "top": top,
        "n_pool": len(pool),
        "split_seeds": list(split_seeds),
        "settings": {"preset": "tiny", "model": {"width": 32}, "train": {"lr": 0.003}},
        "sessions": facts,
        "splits": {s: {"train": 160, "validation": 20, "test": 20} for s in facts},
        "truth": None,
        "versions": {"sessionwise": "0.1.0", "python": "3.11.2", "numpy": "2.4.6"},
    }


def _units(arm: str, study: Mapping[str, Any]) -> list[tuple[int, int]]:
    seeds = study["seeds"]
    if arm == "random":
        return [(i, seeds[i % len(seeds)]) for i in range(study["shuffles"])]
    return [(0, seed) for seed in seeds]


def _shuffle(pool: Sequence[str], draw: int) -> list[str]:
    return [pool[i] for i in np.random.default_rng([3, draw]).permutation(len(pool))]


def _orders(maker: Maker, h: int, name: str, level: Level, judged: Level, rotate: int, split_seed: int) -> None:
    study, order = maker.study, true_order(maker.study["pool"], h, rotate)
    chosen: dict[str, Callable[[int], list[str]]] = {
        "ranked": lambda draw: order,
        "reverse_ranked": lambda draw: order[::-1],
        "random": lambda draw: _shuffle(study["pool"], draw),
    }
    for arm in study["orders"]:
        for size in study["sizes"]:
            every = size == study["n_pool"]
            # All sessions are the same runs under every order; the shuffles beyond the seeds repeat them.
            units = [(i, study["seeds"][i % len(study["seeds"])]) for i, _ in enumerate(_units(arm, study))]
            units = units if arm == "random" else _units(arm, study)
            run_level, run_judged = level(h, arm, "", size), judged(h, arm, "", size)
            if every and arm == "random":
                units = units[: len(study["seeds"])]
            maker.add(
                name,
                arm,
                run_level,
                units,
                size=size,
                sessions=lambda draw, arm=arm, size=size: chosen[arm](draw)[:size],  # type: ignore[misc]
                validation=run_judged,
                steps=(STEPS_A_SESSION * size, FINETUNE_STEPS),
                split_seed=split_seed,
                same_run="all" if every else None,
            )
    maker.add(
        name,
        "baseline",
        level(h, "baseline", "", None),
        _units("baseline", study),
        validation=judged(h, "baseline", "", None),
        steps=(None, BASELINE_STEPS),
        split_seed=split_seed,
    )


def _controls(maker: Maker, h: int, name: str, level: Level, judged: Level, rotate: int) -> None:
    study, order = maker.study, true_order(maker.study["pool"], h, rotate)
    seeds, top, n = study["seeds"], study["top"], study["n_pool"]
    by_seed = [(0, seed) for seed in seeds]
    draws = [(i, seeds[i % len(seeds)]) for i in range(3)]
    many = [(i, seeds[i % len(seeds)]) for i in range(20)]
    full = (STEPS_A_SESSION * top, FINETUNE_STEPS)
    asked: list[tuple[str, str, int | None, list[tuple[int, int]], tuple[int | None, int | None]]] = [
        ("psth", "", None, [(0, 0)], (None, None)),
        ("glm", "", None, [(0, 0)], (None, None)),
        ("random_core", "", None, by_seed, (None, FINETUNE_STEPS)),
        ("own_core", "", None, by_seed, (BASELINE_STEPS, FINETUNE_STEPS)),
        ("baseline_doubled", "", None, by_seed, (None, 2 * BASELINE_STEPS)),
        ("step_matched", "steps of top", top, by_seed, full),
        ("step_matched", "steps of all", top, by_seed, (STEPS_A_SESSION * n, FINETUNE_STEPS)),
        ("step_matched", "steps of top", n, by_seed, full),
        ("step_matched", "steps of all", n, by_seed, (STEPS_A_SESSION * n, FINETUNE_STEPS)),
        ("trial_matched", "", top, draws, full),
        ("other_targets", "", top, by_seed, full),
        ("many_shuffles", "", top, many, full),
        ("fresh_seeds", "", 1, [(0, seed + 1000) for seed in seeds], (STEPS_A_SESSION, FINETUNE_STEPS)),
        ("full_finetune", "ranked", top, by_seed, full),
        ("full_finetune", "reverse_ranked", top, by_seed, full),
        ("minus_worst", "minus 2", n - 2, by_seed, (STEPS_A_SESSION * (n - 2), FINETUNE_STEPS)),
    ]
    for arm, variant, size, units, steps in asked:
        maker.add(
            name,
            arm,
            level(h, arm, variant, size),
            units,
            variant=variant,
            size=size,
            sessions=lambda draw, size=size: order[: size or 0],  # type: ignore[misc]
            validation=judged(h, arm, variant, size),
            steps=steps,
        )


def _transfer(pool: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A matrix that is source plus target, exactly: no interaction and no seed."""
    return [
        {
            "source": a,
            "target": b,
            "seed": seed,
            "value": 0.1 + 0.01 * i + 0.003 * j,
            "state": "done",
            "reason": None,
        }
        for i, a in enumerate(pool)
        for j, b in enumerate(pool)
        if a != b
        for seed in seeds
    ]


def _about(study: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "openings": {},
        "cost": {"runs": 10, "steps": 1000, "tokens": 16000},
        "environments": [{"python": "3.11.2", "torch": "2.13.0"}],
        "rankings": [f"rankings/{h}/full-00000000" for h in study["heldout"]],
    }


def ranking_of(study: Mapping[str, Any], h: int, rotate: int = 1, step: float = 0.01) -> dict[str, Any]:
    """The ranking of the h-th held-out session: score 0.15 - step x place, and every key that a ranking has."""
    pool, seeds, n = study["pool"], study["seeds"], len(study["pool"])
    order, k = true_order(pool, h, rotate), 20
    rng = np.random.default_rng([11, h])
    spikes = rng.integers(200, 800, k)
    noise = rng.normal(0, 0.004, (n, len(seeds), k))
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    place = np.array([order.index(s) for s in pool])
    gain = ((0.15 + SHIFT[h] - step * place)[:, None, None] + noise) * math.log(2) * spikes.mean()
    spikes = np.full(k, spikes.mean())
    found = rank_bootstrap(gain, spikes, 300, rng=rng, ks=(1, study["top"], 5))
    rows = []
    for c in np.argsort(found.rank):
        facts = study["sessions"][pool[c]]
        rows.append(
            {
                "session": pool[c],
                **{name: facts[name] for name in ("n_trials", "n_units", "subject", "lab", "date")},
                **found.row(int(c)),
                "state": "done",
                "reason": None,
                "bps_unit_mean": float(found.score[c]) * 0.8,
                "bps_tail": float(found.score[c]) * 0.6,
                "units_left_out": 0,
                "own_score": 0.2,
                "runs": [f"{c:04x}{s:04x}" * 8 for s in seeds],
            }
        )
    return {
        "schema": 1,
        "heldout": study["heldout"][h],
        "method": "full",
        "preset": "tiny",
        "score_kind": "pooled bits per spike on validation trials, 3 folds of masked bins, cross-fitted",
        "seeds": list(seeds),
        "split_seed": study["split_seeds"][0],
        "n_validation_trials": k,
        "n_validation_spikes": int(spikes.sum()),
        "n_units": 400,
        "settings": study["settings"],
        "rows": rows,
        "baseline": _control(BASELINE + SHIFT[h], seeds, BASELINE_STEPS),
        "random_core": _control(0.07 + SHIFT[h], seeds, FINETUNE_STEPS),
        "differences": [
            {"name": "best core - baseline", "mean": 0.01, "low": 0.005, "high": 0.015, "level": 0.95},
            {
                "name": "best core - median core",
                "mean": 0.03,
                "low": 0.03 - CORE_REACH,
                "high": 0.03 + CORE_REACH,
                "level": 0.95,
            },
        ],
        "noise": {"seed_correlation": 0.9, "seed_sd": 0.002, "spread_sd": 0.024, "p_equal": found.p_equal},
        "horizon": {"steps_ahead": [1, 2], "best": [0.15, 0.12], "baseline": [0.14, 0.11], "random_core": [0.07, 0.06]},
        "curves": _curves(pool, seeds, study["heldout"][h]),
        "cost": {
            "runs": 4 * n,
            "steps": 2000 * n,
            "tokens": 320000 * n,
            "by_kind": {
                "pretrain": {"runs": 2 * n, "steps": 1200 * n, "tokens": 192000 * n},
                "finetune": {"runs": 2 * n + 2, "steps": 800 * n, "tokens": 128000 * n},
                "baseline": {"runs": 2, "steps": 2400, "tokens": 38400},
            },
        },
        "truth": None,
        "verdict": {"text": "The cores differ by more than noise (p = 0.003).", "different": True},
        "provenance": {
            "sessions": {s: study["sessions"][s]["trainval_hash"] for s in [*pool, study["heldout"][h]]},
            "split": {"train": [0, 1], "validation": [2], "test": [3]},
            "overlap": {"validation": None, "test": None},
            "environments": [{"python": "3.11.2"}],
            "warnings": [],
        },
    }


def _control(score: float, seeds: Sequence[int], steps: int) -> dict[str, Any]:
    each = [score + 0.001 * (i - (len(seeds) - 1) / 2) for i in range(len(seeds))]
    sd = float(np.std(each, ddof=1)) if len(each) > 1 else None
    return {
        "score": score,
        "sd": sd,
        "seed_scores": each,
        "steps": steps,
        "state": "done",
        "reason": None,
        "bps_unit_mean": score * 0.8,
        "bps_tail": score * 0.6,
        "runs": [f"{seed:08x}" * 8 for seed in seeds],
    }


def _curves(pool: Sequence[str], seeds: Sequence[int], heldout: str) -> list[dict[str, Any]]:
    points = {"step": [100, 200, 300, 400], "bps": [0.05, 0.09, 0.11, 0.12]}
    curves = [
        {"name": f"{s}, seed {seed}", "session": s, "kind": kind, **points}
        for kind in ("pretrain", "finetune")
        for s in pool
        for seed in seeds
    ]
    return curves + [
        {"name": f"baseline of {heldout}, seed {seed}", "session": None, "kind": "baseline", **points} for seed in seeds
    ]
