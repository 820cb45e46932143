"""What a study's rankings say about the sessions of the pool: scores, overlap, closeness, metadata, transfer.

Rankings are those of the study's main split, one a held-out session. Scores here are transfer scores on validation
trials (Section 3.1), never test scores. C candidates, S seeds, H held-out sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from sessionwise.analysis import inference
from sessionwise.analysis.estimates import rng_of
from sessionwise.analysis.scaling import plain_of
from sessionwise.analysis.statistics import top_k_overlap
from sessionwise.analysis.summary import done_rows

Document = dict[str, Any]
Ranking = Mapping[str, Any]

# Differences of a ranking between two cores, judged on the same trials.
_BETWEEN_CORES = ("best core - median core", "best core - worst core")
# What a study knows about a session that is no property of the recording.
_NO_PREDICTOR = {"trainval_hash", "test_hash", "n_bins"}


def main_rankings(study: Mapping[str, Any], rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings of the main split, in the order of the held-out sessions, one each."""
    main = {r["heldout"]: r for r in rankings if r["split_seed"] == study["split_seeds"][0]}
    return [main[h] for h in study["heldout"] if h in main]


def single_scores(rankings: Sequence[Ranking]) -> list[Document]:
    """Sorted single-session scores beside the baseline, for each held-out session (Fig. A1; validation trials)."""
    names = ("session", "score", "sd", "rank", "rank_low", "rank_high", "low80", "high80", "seed_scores", "p_top")
    return [
        {
            "heldout": ranking["heldout"],
            "rows": [
                {**{name: row.get(name) for name in names}, "state": row["state"], "reason": row["reason"]}
                for row in ranking["rows"]
            ],
            "baseline": _control(ranking["baseline"]),
            "random_core": _control(ranking["random_core"]),
            "noise": dict(ranking["noise"]),
            "verdict": dict(ranking["verdict"]),
        }
        for ranking in rankings
    ]


def _control(control: Mapping[str, Any] | None) -> Document:
    if not control:
        return {"mean": None, "sd": None, "values": [], "reason": "was not run"}
    values = [value for value in control["seed_scores"] if value is not None]
    return {"mean": control["score"], "sd": control["sd"], "values": values, "reason": control["reason"]}


def training_curves(rankings: Sequence[Ranking]) -> list[Document]:
    """Validation score against steps of the trainings behind the rankings; a shared pretraining stands once."""
    curves, seen = [], set()
    for ranking in rankings:
        for curve in ranking["curves"]:
            heldout = None if curve["kind"] == "pretrain" else ranking["heldout"]
            if (curve["kind"], curve["name"], heldout) not in seen:
                seen.add((curve["kind"], curve["name"], heldout))
                curves.append({"heldout": heldout, **curve})
    return curves


# Agreement between held-out sessions ----------------------------------------------------------------------------------


def common_sessions(rankings: Sequence[Ranking]) -> list[str]:
    """The sessions that have a score for every held-out session, sorted."""
    scored = [{row["session"] for row in done_rows(ranking)} for ranking in rankings]
    return sorted(set.intersection(*scored)) if scored else []


def score_arrays(rankings: Sequence[Ranking], sessions: Sequence[str]) -> list[np.ndarray]:
    """Scores (C, S) of the sessions for each held-out session."""
    arrays = []
    for ranking in rankings:
        rows = {row["session"]: row for row in done_rows(ranking)}
        arrays.append(np.array([rows[session]["seed_scores"] for session in sessions], dtype=np.float64))
    return arrays


def overlap(rankings: Sequence[Ranking], n_boot: int) -> Document | None:
    """Fig. A2: sessions in all held-out sessions' top k, with the band of random orders and that of a shared quality.

    ``quality_*``: what rankings share that differ by noise alone around one quality, the same for every held-out
    session. None with fewer than two rankings or three sessions in common.
    """
    sessions = common_sessions(rankings)
    if len(rankings) < 2 or len(sessions) < 3:
        return None
    orders = [[row["session"] for row in done_rows(ranking) if row["session"] in sessions] for ranking in rankings]
    curve = vars(top_k_overlap(orders, rng_of("overlap", *sessions), n_boot))
    candidates = {row["session"] for ranking in rankings for row in ranking["rows"]}
    return {
        "heldout": [ranking["heldout"] for ranking in rankings],
        "n_common": len(sessions),
        "n_left_out": len(candidates) - len(sessions),
        **{name: values.tolist() for name, values in curve.items()},
        **_quality(score_arrays(rankings, sessions), trial_variance(rankings), sessions, n_boot),
    }


def _quality(
    scores: Sequence[np.ndarray], variance: list[float] | None, sessions: Sequence[str], n_boot: int
) -> Document:
    rng = rng_of("quality", *sessions)
    band = inference.quality_band(scores, rng=rng, n_draws=n_boot, trial_variance=variance)
    named = ("expected", "low", "high", "reliability", "reason")
    return {f"quality_{name}": plain_of(getattr(band, name)) for name in named} | {"trial_variance": variance}


def trial_variance(rankings: Sequence[Ranking]) -> list[float] | None:
    """For each ranking the variance of a core's score, against other cores, by which trials it was measured on.

    From the intervals of the differences between cores that a ranking holds: these are normal, and the variance of such
    a difference is twice that of one core, trials and seeds together. None where a ranking has no such difference or
    one seed.
    """
    found = []
    for ranking in rankings:
        between = [d for d in ranking["differences"] if d["name"] in _BETWEEN_CORES]
        seed_sd = ranking["noise"].get("seed_sd")
        if not between or seed_sd is None:
            return None
        reach = [float(stats.norm.ppf((1 + d["level"]) / 2)) for d in between]
        each = [((d["high"] - d["low"]) / (2 * z)) ** 2 / 2 for d, z in zip(between, reach, strict=True)]
        found.append(max(0.0, float(np.mean(each)) - seed_sd**2 / len(ranking["seeds"])))
    return found


def closeness(rankings: Sequence[Ranking], n_boot: int) -> Document | None:
    """Does the ranking say which sessions are close, or which are good for everybody? See the decomposition's rule."""
    sessions = common_sessions(rankings)
    if len(rankings) < 2 or len(sessions) < 3:
        return None
    targets = []
    for ranking, scores in zip(rankings, score_arrays(rankings, sessions), strict=True):
        trials = {row["session"]: row["n_trials"] for row in ranking["rows"]}
        each = [float(trials[session]) for session in sessions]
        targets.append({"heldout": ranking["heldout"], "sessions": sessions, "seed_scores": scores, "trials": each})
    variance = trial_variance(rankings)
    for target, own in zip(targets, variance or [], strict=False):
        target["trial_variance"] = own
    found = inference.closeness_decomposition(targets, rng=rng_of("closeness", *sessions), n_boot=n_boot)
    truth = [
        {"heldout": ranking["heldout"], "rho": ranking["truth"]["spearman"]} for ranking in rankings if ranking["truth"]
    ]
    return {**plain_of(found), "trial_variance": variance, "truth": truth or None}


# Metadata (section 3.3) -----------------------------------------------------------------------------------------------


def metadata(study: Mapping[str, Any], rankings: Sequence[Ranking]) -> Document | None:
    """Can scores and ranks be told from metadata? The screen of single predictors, and a regression on all of them.

    columns: every number that is known of all ranked sessions and differs between them. screen: Spearman's correlation
    of each with the score, for each held-out session and (heldout None) for the mean of the scores over held-out
    sessions, each standardised; p raw as in the paper, and corrected for all predictors of the screen. regression: of
    score (standardised within each held-out session) and of rank; cross-validated by leaving out one session of the
    pool with all its scores.
    """
    points = metadata_points(study, rankings)
    if not points:
        return None
    columns = predictors(points)
    heldouts = [ranking["heldout"] for ranking in rankings]
    by_heldout = {h: [point for point in points if point["heldout"] == h] for h in heldouts}
    screen = []
    for heldout in (*heldouts, None):
        rows = by_heldout[heldout] if heldout is not None else _mean_points(by_heldout)
        found = _screen(rows, columns)
        screen += [{"heldout": heldout, **row} for row in found]
    return {
        "columns": columns,
        "tried": columns,
        "left_out": sorted(set(_numeric(points)) - set(columns)),
        "screen": screen,
        "regression": {name: _regress(by_heldout, name, columns) for name in ("score", "rank")},
        "paper": "trials, neurons and good neurons correlate (p < 0.05, uncorrected) and explain 24 % of the variance",
    }


def metadata_points(study: Mapping[str, Any], rankings: Sequence[Ranking]) -> list[Document]:
    """(score, rank and metadata) of every ranked session for each held-out session."""
    points = []
    for ranking in rankings:
        for row in done_rows(ranking):
            facts = study["sessions"].get(row["session"], {})
            known = {name: value for name, value in facts.items() if name not in _NO_PREDICTOR}
            own = {"heldout": ranking["heldout"], "session": row["session"], "score": row["score"], "rank": row["rank"]}
            points.append({**known, **own})
    return points


def _numeric(points: Sequence[Document]) -> list[str]:
    """Columns that hold a number somewhere, sorted."""
    own = ("score", "rank")
    return sorted({k for point in points for k, v in point.items() if k not in own and _is_number(v)})


def predictors(points: Sequence[Document]) -> list[str]:
    """The columns with a number for every session, not all equal."""
    columns = []
    for name in _numeric(points):
        values = [point.get(name) for point in points]
        if all(_is_number(value) for value in values) and len(set(values)) > 1:
            columns.append(name)
    return columns


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _mean_points(by_heldout: Mapping[str, Sequence[Document]]) -> list[Document]:
    """One point a session that every held-out session has: the mean of its standardised scores."""
    scores = {
        h: dict(zip([p["session"] for p in ps], _standard(ps, "score"), strict=True)) for h, ps in by_heldout.items()
    }
    first = {point["session"]: point for point in next(iter(by_heldout.values()))}
    common = [session for session in first if all(session in known for known in scores.values())]
    return [{**first[s], "score": float(np.mean([known[s] for known in scores.values()]))} for s in sorted(common)]


def _standard(points: Sequence[Document], name: str) -> list[float]:
    values = np.array([point[name] for point in points], dtype=np.float64)
    spread = values.std()
    return list((values - values.mean()) / spread) if spread > 0 else [0.0] * len(values)


def _screen(rows: Sequence[Document], columns: Sequence[str]) -> list[Document]:
    scores = [row["score"] for row in rows]
    named = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in columns}
    return [plain_of(row) for row in inference.spearman_screen(scores, named)] if columns and len(rows) > 2 else []


def _regress(by_heldout: Mapping[str, Sequence[Document]], name: str, columns: Sequence[str]) -> Document | None:
    rows = [point for points in by_heldout.values() for point in points]
    y: list[float] = []
    for points in by_heldout.values():
        y += _standard(points, "score") if name == "score" else [float(point["rank"]) for point in points]
    if not columns:
        return None
    named = {column: np.array([row[column] for row in rows], dtype=np.float64) for column in columns}
    groups = [row["session"] for row in rows]
    rng = rng_of("regression", name, *columns)
    return dict(plain_of(inference.regression(np.array(y), named, groups=groups, rng=rng)))


# All to all -----------------------------------------------------------------------------------------------------------


def transfer(cells: Sequence[Mapping[str, Any]]) -> Document | None:
    """The all-to-all matrix of transfer scores (mean over seeds, validation trials) and its variance split.

    matrix: sources x targets, None where a source is its own target or a seed is missing; split: how much of the
    variance belongs to source, target, their pairing, and the seed.
    """
    if not cells:
        return None
    sources, targets = sorted({c["source"] for c in cells}), sorted({c["target"] for c in cells})
    seeds = sorted({c["seed"] for c in cells})
    values = np.full((len(sources), len(targets), len(seeds)), np.nan)
    for c in cells:
        if c["state"] == "done" and c["value"] is not None:
            values[sources.index(c["source"]), targets.index(c["target"]), seeds.index(c["seed"])] = c["value"]
    n = np.isfinite(values).sum(axis=2)
    mean = np.where(n == len(seeds), np.where(np.isfinite(values), values, 0.0).sum(axis=2) / len(seeds), np.nan)
    return {
        "sources": sources,
        "targets": targets,
        "seeds": seeds,
        "matrix": plain_of(mean),
        "n": n.tolist(),
        "split": plain_of(inference.variance_split(values)),
    }
