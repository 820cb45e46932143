"""Rankings that look real, without any training."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from sessionwise.analysis.statistics import paired_difference, rank_bootstrap, seed_to_seed_correlation, spearman

N_TRIALS, SPIKES = 43, 420


def _name(i: int) -> str:
    mice = ("Cori", "Forssmann", "Hench", "Lederberg", "Moniz", "Muller", "Radnitz", "Richards", "Tatum", "Theiler")
    return f"{i + 1:02d}_{mice[i % len(mice)]}_2017-{1 + i % 12:02d}-{1 + i % 28:02d}"


def _curve(rng: np.random.Generator, name: str, kind: str, end: float, steps: int) -> dict[str, Any]:
    at = np.linspace(steps / 12, steps, 12)
    bps = end * (1 - 1.4 * np.exp(-4 * at / steps)) + rng.normal(0, 0.002, 12)
    session = None if name.startswith(("random core", "baseline")) else name.rpartition(", seed ")[0]
    points = {"step": [int(s) for s in at], "bps": [float(b) for b in bps]}
    return {"name": name, "session": session, "kind": kind, **points}


def _control(gain: np.ndarray, spikes: np.ndarray, steps: int) -> dict[str, Any]:
    scores = gain.sum(axis=1) / (spikes.sum() * math.log(2))
    sd = float(scores.std(ddof=1)) if len(scores) > 1 else None
    each = [float(score) for score in scores]
    return {
        "score": float(scores.mean()),
        "sd": sd,
        "seed_scores": each,
        "steps": steps,
        "state": "done",
        "reason": None,
    }


def _differences(gains: dict[str, np.ndarray], spikes: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    names = [("best core", "baseline"), ("best", "median core"), ("best", "random core")]
    names += [("median", "random core"), ("best", "worst")]
    out = []
    for a, b in names:
        if a in gains and b in gains:
            d = paired_difference(gains[a], gains[b], spikes, rng=rng, n_boot=400)
            out.append({"name": f"{a} - {b}", "mean": d.mean, "low": d.low, "high": d.high, "level": d.level})
    return out


def fake_ranking(
    n: int = 12,
    seeds: tuple[int, ...] = (10, 20),
    *,
    ids: list[str] | None = None,
    diverged: int = 0,
    failed: int = 0,
    baseline: bool = True,
    truth: bool = False,
    heldout: str = "11_Hench_2017-06-18",
    spread: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """A ranking as ``ranking.json`` holds it: n sessions, the last ``diverged`` and ``failed`` without a score."""
    rng = np.random.default_rng(seed)
    ids = ids or [_name(i) for i in range(n)]
    n, n_done = len(ids), len(ids) - diverged - failed
    spikes = rng.integers(SPIKES // 2, SPIKES * 2, N_TRIALS)
    closeness, n_trials = rng.uniform(0, 1, n), rng.integers(140, 460, n)
    quality = 0.12 + spread * (1.6 * closeness + np.log(n_trials / 280))
    shared = rng.normal(0, 0.05, (1, N_TRIALS))

    def gain(level: float) -> np.ndarray:
        noise = rng.normal(0, 0.03, (1, N_TRIALS)) + rng.normal(0, 0.004, (len(seeds), 1))
        return (level + shared + noise + rng.normal(0, 0.01, (len(seeds), N_TRIALS))) * spikes * math.log(2)

    gains = np.stack([gain(level) for level in quality[:n_done]]) if n_done else np.zeros((0, len(seeds), N_TRIALS))
    base, random = gain(0.146), gain(0.07)
    rows: list[dict[str, Any]] = []
    noise: dict[str, Any] = {"seed_correlation": None, "seed_sd": None, "spread_sd": 0.0}
    found: dict[str, np.ndarray] = {"baseline": base, "random core": random}
    if n_done:
        u = rank_bootstrap(gains, spikes, 400, rng=rng)
        order = np.argsort(u.rank)
        rows = [{"session": ids[c], **u.row(int(c)), "state": "done", "reason": None} for c in order]
        corr = seed_to_seed_correlation(u.seed_scores)
        sd = None if u.seed_variance is None else math.sqrt(u.seed_variance)
        noise = {"seed_correlation": corr, "seed_sd": sd, "spread_sd": float(u.score.std()), "p_equal": u.p_equal}
        found |= {"best": gains[order[0]], "best core": gains[order[0]], "worst": gains[order[-1]]}
        if n_done > 1:
            found |= {"median": gains[order[(n_done - 1) // 2]], "median core": gains[order[(n_done - 1) // 2]]}
        else:
            found.pop("worst")
    if not baseline:
        found.pop("baseline")
    empty = {"rank": None, "score": None, "sd": None, "rank_low": None, "rank_high": None, "p_top": {}}
    for i in range(n_done, n):
        state, why = ("diverged", "loss is not finite at step 41") if i < n_done + diverged else ("failed", "lost")
        rows.append({"session": ids[i], **empty, "seed_scores": [None] * len(seeds), "state": state, "reason": why})
    for row in rows:
        i, score = ids.index(row["session"]), row["score"]
        row |= {"bps_unit_mean": score and score * 0.8, "bps_tail": score and score * 0.6, "units_left_out": 3}
        row |= {"n_trials": int(n_trials[i]), "n_units": 300 + 37 * (i * 7 % 23), "subject": f"mouse {i % 5}"}
        row |= {"runs": [f"{i:04x}{s:04x}" * 8 for s in seeds]}
    curves = [_curve(rng, f"{r['session']}, seed {s}", "pretrain", 0.3, 600) for r in rows[:n_done] for s in seeds]
    curves += [
        _curve(rng, f"{r['session']}, seed {s}", "finetune", r["score"], 400) for r in rows[:n_done] for s in seeds
    ]
    curves += [_curve(rng, f"random core, seed {s}", "finetune", 0.07, 400) for s in seeds]
    curves += [_curve(rng, f"baseline, seed {s}", "baseline", 0.146, 1200) for s in seeds] if baseline else []
    differences = _differences(found, spikes, rng)
    clear = bool(differences) and differences[-1]["low"] > 0
    steps = list(range(1, 11))
    fall = np.exp(-np.arange(10) / 6)
    known = {ids[i]: float(closeness[i]) for i in range(n)}
    done = [row for row in rows if row["score"] is not None]
    rho = spearman([known[row["session"]] for row in done], [row["score"] for row in done])
    return {
        "schema": 1,
        "heldout": heldout,
        "method": "full",
        "preset": "tiny",
        "score_kind": "bps on validation trials, cross-fitted",
        "seeds": list(seeds),
        "split_seed": 0,
        "n_validation_trials": N_TRIALS,
        "n_validation_spikes": int(spikes.sum()),
        "n_units": 698,
        "settings": {
            "model": {"width": 32, "blocks": 2, "heads": 2, "dropout": 0.2},
            "train": {"lr": 0.003, "weight_decay": 0.01, "steps": 600, "objective": "masked_causal"},
            "evaluation": {"bins": "kfold", "folds": 3, "null": "evaluated"},
        },
        "rows": rows,
        "baseline": _control(base, spikes, 1200) if baseline else None,
        "random_core": _control(random, spikes, 400),
        "differences": differences,
        "noise": noise,
        "horizon": {
            "steps_ahead": steps,
            "best": [float(v) for v in 0.17 * fall],
            "baseline": [float(v) for v in 0.15 * fall] if baseline else [],
            "random_core": [float(v) for v in 0.08 * fall],
        },
        "curves": curves,
        "cost": {
            "runs": n * len(seeds) * 2 + 4,
            "steps": 1000 * n * len(seeds) + 3200,
            "tokens": 160000 * n * len(seeds) + 51200,
            "by_kind": {
                "pretrain": {"runs": n * len(seeds), "steps": 600 * n * len(seeds), "tokens": 96000 * n * len(seeds)},
                "finetune": {
                    "runs": n * len(seeds) + 2,
                    "steps": 400 * n * len(seeds),
                    "tokens": 64000 * n * len(seeds),
                },
                "baseline": {"runs": 2, "steps": 2400, "tokens": 38400},
            },
        },
        "truth": {"closeness": known, "spearman": rho} if truth else None,
        "verdict": {
            "text": "The best core is better than the median core, and not distinguishable from the baseline."
            if clear
            else "No difference: the cores cannot be told apart with these trials and seeds.",
            "different": clear,
        },
        "provenance": {
            "sessions": {name: f"{i:02x}" * 32 for i, name in enumerate([*ids, heldout])},
            "split": {"seed": 0, "parts": "8:1:1", "test_overlap_share": None},
            "versions": {"sessionwise": "0.1.0", "python": "3.11.2", "numpy": "2.4.6", "torch": "2.13.0"},
            "warnings": ["03_Hench_2017-03-03: counts were integer floats"] if n > 2 else [],
        },
    }


def fake_comparison(ranking: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """A comparison as the demo writes it."""
    rng = np.random.default_rng(seed)
    names = [row["session"] for row in ranking["rows"]]
    base, arms = 0.148, []
    for name, sessions, level in (
        ("ranked 3", names[:3], 0.163),
        ("random 3", names[3:6], 0.139),
        ("reverse 3", names[-3:], 0.09),
        ("baseline", [ranking["heldout"]], base),
    ):
        each = [float(level + rng.normal(0, 0.004)) for _ in ranking["seeds"]]
        mean = float(np.mean(each))
        gain = {"mean": mean - base, "low": mean - base - 0.012, "high": mean - base + 0.012, "level": 0.95}
        arm = {"name": name, "sessions": sessions, "seed_scores": each, "bps": mean, "sd": 0.004, "steps": 1800}
        arm |= {"state": "done", "reason": None, "improvement_percent": 100 * (mean - base) / base, "difference": gain}
        arms.append(arm)
    arms[-1] |= {"improvement_percent": None, "difference": None}
    note = "Ranked beats reverse-ranked; ranked and random differ by less than their noise."
    return {"heldout": ranking["heldout"], "arms": arms, "note": note}


@pytest.fixture(scope="session")
def make_ranking():
    return fake_ranking


@pytest.fixture(scope="session")
def make_comparison():
    return fake_comparison


@pytest.fixture
def document() -> dict[str, Any]:
    """The document of a study of three held-out sessions, two runs of which have no score."""
    from study_documents import made

    return copy.deepcopy(made("whole")[0])


@pytest.fixture
def nothing() -> dict[str, Any]:
    """The document of a study in which everything failed."""
    from study_documents import without_scores

    return without_scores()
