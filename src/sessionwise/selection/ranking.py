"""The paper's procedure: transfer scores of every pool session for a held-out session, and their ranking.

One model is pretrained on each session of the pool; on the held-out session new stitchers are trained around each
frozen core; the cores are ranked by bits per spike on the held-out session's validation trials (Section 3.1, Fig. 2).

Legend: C candidates (pool sessions), S seeds, K validation trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.analysis.judging import p_words
from sessionwise.analysis.pictures import keep_picture
from sessionwise.analysis.summary import SCHEMA, check_ranking
from sessionwise.analysis.tables import ranking_csv
from sessionwise.data.leakage import neighbours
from sessionwise.data.simulate import read_truth
from sessionwise.data.splits import shared_bins
from sessionwise.data.store import SessionStore
from sessionwise.errors import Problems, SessionwiseError, UsageError
from sessionwise.io.files import (
    canonical_json,
    folder_name,
    read_json,
    read_sealed,
    sealed_files,
    sha256_bytes,
    write_bytes,
    write_json,
)
from sessionwise.io.tensors import read_tensors
from sessionwise.model.streams import stream_seed
from sessionwise.runs.launch import Outcome
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.training.jobs import baseline_spec, finetune_spec, pretrain_spec
from sessionwise.training.operations import operations_per_token
from sessionwise.training.presets import Settings
from sessionwise.training.presets import preset as preset_settings

DEFAULT_SEEDS = (10, 20, 42)
METHOD = "full"
_BOOTSTRAP_DRAWS = 2000
MIN_TRIALS_TO_JUDGE = 8  # with fewer validation trials a ranking is shown, and nothing is concluded from it
COSTS = ("runs", "steps", "tokens", "operations")
_BESIDE = ("bps_unit_mean", "bps_tail")  # scores that are always reported beside the pooled one


@dataclass(frozen=True)
class Ranking:
    """A ranking of the pool for one held-out session; ``document`` is what ``ranking.json`` holds."""

    document: Mapping[str, Any]

    @property
    def heldout(self) -> str:
        """The session that the pool was ranked for."""
        return str(self.document["heldout"])

    @property
    def order(self) -> list[str]:
        """Pool sessions from best to worst; diverged or failed ones are not in it."""
        return [row["session"] for row in self.document["rows"] if row["state"] == "done"]

    @property
    def scores(self) -> dict[str, float]:
        """Transfer score of each ranked session, bits per spike."""
        return {row["session"]: row["score"] for row in self.document["rows"] if row["state"] == "done"}

    def top(self, k: int) -> list[str]:
        """The k best sessions."""
        if not 1 <= k <= len(self.order):
            raise UsageError("top", f"k={k} of {len(self.order)} ranked sessions", f"1 to {len(self.order)}")
        return self.order[:k]

    def bottom(self, k: int) -> list[str]:
        """The k worst sessions, worst first."""
        self.top(k)
        return self.order[::-1][:k]


@dataclass(frozen=True)
class Plan:
    """The runs that a ranking consists of; ``method`` is the name of the ranker that asks for them."""

    heldout: str
    pool: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Settings
    pretrain: dict[tuple[str, int], RunSpec]
    finetune: dict[tuple[str, int], RunSpec]
    baseline: dict[int, RunSpec]
    random_core: dict[int, RunSpec]
    method: str = METHOD

    @property
    def specs(self) -> list[RunSpec]:
        """All runs, each once."""
        groups = (self.pretrain, self.finetune, self.baseline, self.random_core)
        return [spec for group in groups for spec in group.values()]


def asked_settings(
    preset: str, overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[Settings, list[SessionwiseError]]:
    """The settings, or the paper's and what is wrong with those asked for: other problems may matter more."""
    try:
        return preset_settings(preset, overrides), []
    except Problems as error:
        return preset_settings("paper"), list(error.problems)
    except SessionwiseError as error:
        return preset_settings("paper"), [error]


def seed_problems(seeds: Sequence[int]) -> list[SessionwiseError]:
    """Seeds are distinct whole numbers from 0 to 2^32 - 1."""
    if seeds and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds):
        return []
    needed = "distinct numbers from 0 to 4294967295"
    return [UsageError("--seeds", f"{list(seeds)}", needed, "For example 10,20,42")]


def study_problems(study: Path, sessions: SessionStore) -> list[SessionwiseError]:
    """Runs do not go into a folder of recordings (D51)."""
    store, study = sessions.path.resolve(), study.resolve()
    if study == store or store in study.parents or (study / "store.json").exists():
        return [UsageError("--to", f"{study} is (in) a store of sessions", "another folder", "For example my-study")]
    return []


def make_plan(
    sessions: SessionStore,
    heldout: str,
    pool: Sequence[str],
    settings: Settings,
    seeds: Sequence[int],
    method: str = METHOD,
    *,
    controls: bool = True,
) -> Plan:
    """Name every run of a ranking without running any; ``controls``: also the baseline and the random frozen core."""
    pretrain = {(c, s): pretrain_spec(sessions, [c], settings, s) for c in pool for s in seeds}
    finetune = {key: finetune_spec(sessions, heldout, core, settings, key[1]) for key, core in pretrain.items()}
    return Plan(
        heldout,
        tuple(pool),
        tuple(seeds),
        settings,
        pretrain,
        finetune,
        {s: baseline_spec(sessions, heldout, settings, s) for s in seeds if controls},
        {s: finetune_spec(sessions, heldout, None, settings, s) for s in seeds if controls},
        method,
    )


def collect(plan: Plan, sessions: SessionStore, store: RunStore, outcomes: Mapping[str, Outcome]) -> Ranking:
    """Stored runs to a ranking: a pure function of the runs, so the same runs give the same bytes."""
    bad = missing(plan, outcomes)
    done = [c for c in plan.pool if c not in bad]
    baseline = _arm(plan.baseline, plan, store, outcomes)
    random_core = _arm(plan.random_core, plan, store, outcomes)
    gains, spikes = gains_of(plan, store, done)
    rng = np.random.default_rng(int(folder_name(plan.heldout)[-12:], 16))
    uncertainty = statistics.rank_bootstrap(gains, spikes, _BOOTSTRAP_DRAWS, rng=rng) if done else None
    rows = [_done_row(plan, sessions, store, c, uncertainty.row(i)) for i, c in enumerate(done)] if uncertainty else []
    rows.sort(key=lambda row: row["rank"])
    rows += [_failed_row(plan, sessions, c, *bad[c]) for c in plan.pool if c in bad]
    enough = _enough_trials(spikes)
    controls = {
        "baseline": _arm_gains(plan.baseline, store, baseline),
        "random core": _arm_gains(plan.random_core, store, random_core),
    }
    differences = _differences(gains, spikes, controls, uncertainty) if uncertainty and enough else []
    data = sessions.load(plan.heldout, plan.settings.split_seed, plan.settings.split)
    document = {
        "schema": SCHEMA,
        "heldout": plan.heldout,
        "method": plan.method,
        "preset": plan.settings.preset,
        "score_kind": _score_kind(plan, store, done),
        "seeds": list(plan.seeds),
        "split_seed": plan.settings.split_seed,
        "split": plan.settings.split,
        "n_validation_trials": len(data.split.validation),
        "n_validation_spikes": int(spikes.sum()) if done else None,
        "n_units": data.n_units,
        "settings": plan.settings.model_dump(),
        "rows": rows,
        "baseline": baseline,
        "random_core": random_core,
        "differences": differences,
        "noise": _noise(uncertainty, enough),
        "horizon": _horizon(plan, store, rows, baseline, random_core),
        "curves": _curves(plan, store),
        "cost": cost(plan.specs, store, sessions),
        "truth": truth_of(plan.heldout, sessions, rows),
        "provenance": provenance_of(plan.heldout, plan.pool, plan.settings, plan.specs, sessions, store),
    }
    return Ranking({**document, "verdict": verdict(document)})


def ranking_folder(study: Path, document: Mapping[str, Any]) -> Path:
    """``rankings/<held-out>/<method>-<8 hex of what was asked>`` in a study."""
    asked = {name: document[name] for name in ("method", "settings", "seeds")}
    if document.get("budget"):
        asked["budget"] = document["budget"]["operations"]
    asked["content"] = document["provenance"]["sessions"]
    tag = sha256_bytes(canonical_json(asked))[:8]
    return Path(study) / "rankings" / folder_name(document["heldout"]) / f"{document['method']}-{tag}"


def save_ranking(ranking: Ranking, study: Path, timing: Mapping[str, Any]) -> Path:
    """Write ranking.json, ranking.csv and timing.json; the first two depend on the runs alone."""
    folder = ranking_folder(study, ranking.document)
    with sealed_files(folder, keep=True):
        write_json(folder / "ranking.json", ranking.document)
        write_bytes(folder / "ranking.csv", ranking_csv(dict(ranking.document)).encode())
    write_json(folder / "timing.json", timing)
    return folder


def save_picture(settings: Settings, ranking: Ranking, sessions: SessionStore, study: Path) -> Path:
    """Keep the picture of the held-out recording beside its ranking, for the report; no number depends on it."""
    data = sessions.load(ranking.heldout, settings.split_seed, settings.split)
    folder = ranking_folder(study, ranking.document)
    with sealed_files(folder, keep=True):
        return keep_picture(folder, sessions.session(ranking.heldout), data.split, data.trainval_hash)


def open_ranking(path: str | Path) -> Ranking:
    """Read a ``ranking.json`` (or the folder that holds it)."""
    path = Path(path)
    file = path / "ranking.json" if path.is_dir() else path
    return Ranking(check_ranking(read_sealed(file), str(file)))


def cost(specs: Sequence[RunSpec], store: RunStore, sessions: SessionStore) -> dict[str, Any]:
    """Cost from scratch of finished runs, by kind and in all.

    In runs, optimiser steps, tokens (trials x bins), and estimated floating-point operations
    (``training.operations``), which alone tell what a smaller core saves.
    """
    by_kind: dict[str, dict[str, int]] = {}
    for spec in specs:
        if store.state(spec.key) in ("done", "diverged"):
            result = store.result(spec.key)
            infos = {name: sessions.info(name) for name in spec.sessions}
            spent = round(operations_per_token(spec, infos) * result["tokens"])
            kind = by_kind.setdefault(spec.kind, dict.fromkeys(COSTS, 0))
            for name, amount in zip(COSTS, (1, result["steps"], result["tokens"], spent), strict=True):
                kind[name] += amount
    total = {name: sum(kind[name] for kind in by_kind.values()) for name in COSTS}
    return {**total, "by_kind": by_kind}


def failures(specs: Mapping[tuple[str, int], RunSpec], outcomes: Mapping[str, Outcome]) -> dict[str, tuple[str, str]]:
    """State and cause of the candidates with a run that did not end well, of its first such seed."""
    found: dict[str, tuple[str, str]] = {}
    for (candidate, seed), spec in specs.items():
        ended = outcomes[spec.key]
        if ended.state != "done":
            found.setdefault(candidate, (ended.state, f"seed {seed}: {ended.reason}"))
    return found


def missing(plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[str, tuple[str, str]]:
    """State and cause of the candidates without a score; a failed pretraining is the cause of what it stopped."""
    return failures(plan.finetune, outcomes) | failures(plan.pretrain, outcomes)


def selected_gain(gains: np.ndarray, position: int) -> np.ndarray:
    """(S, K) gains of the candidate at a rank position (0 = best, -1 = worst), corrected for having chosen it.

    gains: (C, S, K). Trials are split in two, and for each seed and half the candidate is chosen on the other half and
    the other seeds (with one seed: on the other half alone), so no trial judges a choice that it took part in.
    """
    chosen = np.empty(gains.shape[1:])
    n_seeds, n_trials = gains.shape[1:]
    first = choosing_half(n_trials)
    for seed in range(n_seeds):
        others = [s for s in range(n_seeds) if s != seed] or [seed]
        for half in (first, ~first):
            scores = gains[:, others][:, :, ~half].sum(axis=(1, 2))
            candidate = np.argsort(-scores, kind="stable")[position]
            chosen[seed, half] = gains[candidate, seed, half]
    return chosen


def choosing_half(n_trials: int) -> np.ndarray:
    """(K,) bool, trials in pairs: cross-fitting of checkpoints alternates trial by trial, choosing cuts across it."""
    return (np.arange(n_trials) // 2) % 2 == 0


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """One sentence: is the best core told apart from the median core, and from training on the recording alone?"""
    rows, p_equal, n_seeds = document["rows"], document["noise"]["p_equal"], len(document["seeds"])
    if not rows or rows[0]["state"] != "done":
        return {"text": "No core could be ranked: every run failed or diverged.", "different": False}
    different = p_equal is not None and p_equal < 0.05
    counted = f"{document['n_validation_trials']} validation trials and {n_seeds} seeds"
    found = {entry["name"]: entry for entry in document["differences"]}
    median, baseline = found.get("best core - median core"), found.get("best core - baseline")
    if n_seeds < 2:
        text = "One seed: the noise between trainings is unknown, so no core is called better. Use two or more seeds."
        return {"text": text, "different": False}
    if different:
        text = f"The cores differ by more than noise ({p_words(p_equal)}); {rows[0]['session']} ranks first."
    elif p_equal is None:
        text = f"Not judged: too little to compare ({counted}, {sum(r['state'] == 'done' for r in rows)} cores)."
    elif median and median["low"] > 0:
        text = f"Undecided with {counted}: best core above median core by {_interval(median)}, p = {p_equal:.2f}."
    else:
        text = f"Best and median core are not told apart with {counted} (p = {p_equal:.2f})."
    if baseline:
        word = "above" if baseline["low"] > 0 else "below" if baseline["high"] < 0 else "not told apart from"
        text += f" The best frozen core is {word} training on the recording alone ({_interval(baseline)})."
    return {"text": text, "different": different}


def _interval(entry: Mapping[str, Any]) -> str:
    return f"{entry['mean']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}] bits per spike"


# Parts of the document ------------------------------------------------------------------------------------------------


def _score_kind(plan: Plan, store: RunStore, done: Sequence[str]) -> str:
    crossed = [store.result(plan.finetune[c, s].key)["cross_fitted"] for c in done for s in plan.seeds]
    how = "cross-fitted" if crossed and all(crossed) else "not cross-fitted"
    return f"pooled bits per spike on validation trials, {plan.settings.evaluation.folds} folds of masked bins, {how}"


def _enough_trials(spikes: np.ndarray) -> bool:
    """Whether validation trials can be halved for choosing and judging."""
    half = choosing_half(len(spikes))
    return len(spikes) >= MIN_TRIALS_TO_JUDGE and bool(spikes[half].sum() and spikes[~half].sum())


def gain_of(spec: RunSpec, store: RunStore) -> tuple[np.ndarray, np.ndarray]:
    """(K,) gain in log likelihood of a finished run on its validation trials, nats, and their spikes."""
    store.result(spec.key)  # verifies the folder
    stored = read_tensors(store.folder(spec.key) / "validation.safetensors")
    return stored["crossfit_gain"], stored["spikes"]


def gains_of(plan: Plan, store: RunStore, done: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(C, S, K) gains of the finished candidates, and (K,) spikes."""
    pairs = [[gain_of(plan.finetune[c, s], store) for s in plan.seeds] for c in done]
    spikes = pairs[0][0][1] if pairs else np.zeros(0)
    return np.array([[gain for gain, _ in row] for row in pairs]), spikes


def _arm(
    specs: Mapping[int, RunSpec], plan: Plan, store: RunStore, outcomes: Mapping[str, Outcome]
) -> dict[str, Any] | None:
    """Scores of a control over the seeds; one failed seed leaves the mean out and says why. None: it was not asked."""
    if not specs:
        return None
    ended = {s: outcomes[specs[s].key] for s in plan.seeds}
    results = {s: store.result(specs[s].key) for s in plan.seeds if ended[s].state == "done"}
    values = [float(results[s]["bps"]) if s in results else None for s in plan.seeds]
    known = [value for value in values if value is not None]
    bad = next((f"seed {s}: {ended[s].reason}" for s in plan.seeds if ended[s].state != "done"), None)
    state = next((ended[s].state for s in plan.seeds if ended[s].state != "done"), "done")
    means = {name: None if bad else _mean_or_none([r[name] for r in results.values()]) for name in _BESIDE}
    return {
        **means,
        "score": None if bad else float(np.mean(known)),
        "sd": None if bad or len(known) < 2 else float(np.std(known, ddof=1)),
        "seed_scores": values,
        "steps": max((int(result["steps"]) for result in results.values()), default=0),
        "state": state,
        "reason": bad,
        "runs": [specs[s].key for s in plan.seeds],
    }


def _arm_gains(specs: Mapping[int, RunSpec], store: RunStore, arm: Mapping[str, Any] | None) -> np.ndarray | None:
    if arm is None or arm["state"] != "done":
        return None
    return np.array([gain_of(spec, store)[0] for spec in specs.values()])


def _done_row(
    plan: Plan, sessions: SessionStore, store: RunStore, candidate: str, row: dict[str, Any]
) -> dict[str, Any]:
    specs = [plan.finetune[candidate, s] for s in plan.seeds]
    results = [store.result(spec.key) for spec in specs]
    return {
        **facts_of(sessions, candidate),
        **row,
        "state": "done",
        "reason": None,
        **{name: _mean_or_none([result[name] for result in results]) for name in _BESIDE},
        "units_left_out": int(results[0]["units_left_out"]),
        "own_score": _mean_or_none([store.result(plan.pretrain[candidate, s].key).get("bps") for s in plan.seeds]),
        "runs": [spec.key for spec in specs],
    }


def _failed_row(plan: Plan, sessions: SessionStore, candidate: str, state: str, reason: str) -> dict[str, Any]:
    nothing = (
        "rank",
        "score",
        "sd",
        "rank_low",
        "rank_high",
        "rank_chance",
        "bps_unit_mean",
        "bps_tail",
        "units_left_out",
        "own_score",
    )
    return {
        **facts_of(sessions, candidate),
        **dict.fromkeys(nothing),
        "p_top": {},
        "seed_scores": [None] * len(plan.seeds),
        "state": state,
        "reason": reason,
        "runs": [plan.finetune[candidate, s].key for s in plan.seeds],
    }


def facts_of(sessions: SessionStore, candidate: str) -> dict[str, Any]:
    """What a row says about a session of the pool."""
    info = sessions.info(candidate)
    names = ("n_trials", "n_units", "subject", "lab", "date")
    return {"session": candidate, **{name: getattr(info, name) for name in names}}


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _differences(
    gains: np.ndarray,
    spikes: np.ndarray,
    controls: Mapping[str, np.ndarray | None],
    uncertainty: statistics.RankUncertainty,
) -> list[dict[str, Any]]:
    """Differences in bits per spike with 95 % intervals; chosen cores are corrected for the choosing."""
    middle = (len(gains) - 1) // 2
    arms = {
        name: selected_gain(gains, at) for name, at in (("best core", 0), ("median core", middle), ("worst core", -1))
    }
    arms |= {name: gain for name, gain in controls.items() if gain is not None}
    wanted = [("best core", other) for other in ("median core", "worst core", "random core", "baseline")]
    wanted += [("median core", "random core"), ("median core", "baseline")]
    entries = []
    for a, b in wanted:
        if a in arms and b in arms and (len(gains) > 1 or "core" not in b or b == "random core"):
            pooled = uncertainty.seed_variance if b in ("median core", "worst core") else None
            rng = np.random.default_rng(stream_seed(0, "difference", a, b))
            interval = statistics.paired_difference(arms[a], arms[b], spikes, rng=rng, seed_variance=pooled)
            numbers = {"mean": interval.mean, "low": interval.low, "high": interval.high, "level": interval.level}
            entries.append({"name": f"{a} - {b}", **numbers})
    return entries


def _noise(uncertainty: statistics.RankUncertainty | None, enough: bool) -> dict[str, Any]:
    if uncertainty is None:
        return {"seed_correlation": None, "seed_sd": None, "spread_sd": None, "p_equal": None}
    scores, variance = uncertainty.seed_scores, uncertainty.seed_variance
    return {
        "seed_correlation": statistics.seed_to_seed_correlation(scores),
        "seed_sd": None if variance is None else float(np.sqrt(variance)),
        "spread_sd": float(np.std(uncertainty.score, ddof=1)) if len(scores) > 1 else None,
        "p_equal": uncertainty.p_equal if enough and variance is not None else None,
    }


def _horizon(
    plan: Plan, store: RunStore, rows: Sequence[Mapping[str, Any]], *arms: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Bits per spike against steps ahead (1 .. k), mean over seeds, for the best core and the two controls."""
    named = {name: arm for name, arm in zip(("baseline", "random_core"), arms, strict=True) if arm is not None}
    if rows and rows[0]["state"] == "done":
        named["best"] = rows[0]
    curves = {}
    for name, arm in named.items():
        if arm["state"] == "done":
            seeds = [store.result(key)["horizon"] for key in arm["runs"]]
            curves[name] = [_mean_or_none(column) for column in zip(*seeds, strict=True)]
    return {"steps_ahead": list(range(1, 1 + max((len(c) for c in curves.values()), default=0))), **curves}


def _curves(plan: Plan, store: RunStore) -> list[dict[str, Any]]:
    """Validation against steps of every finished training; ``session`` is the core's, None without one."""
    named: list[tuple[str | None, RunSpec]] = [
        (key[0], spec) for group in (plan.pretrain, plan.finetune) for key, spec in group.items()
    ]
    named += [(None, spec) for group in (plan.random_core, plan.baseline) for spec in group.values()]
    curves = []
    for session, spec in named:
        if store.state(spec.key) == "done":
            history = read_json(store.folder(spec.key) / "history.json")
            points = {"step": history["step"], "bps": history["bps"]}
            curves.append({"name": spec.label, "session": session, "kind": spec.kind, **points})
    return curves


def truth_of(heldout: str, sessions: SessionStore, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The true closeness of simulated sessions and its rank correlation with the scores."""
    truth = (read_truth(sessions.path) or {"closeness": {}})["closeness"].get(heldout)
    ranked = [row for row in rows if row["state"] == "done"]
    if truth is None or not all(row["session"] in truth for row in ranked):
        return None
    closeness = {row["session"]: float(truth[row["session"]]) for row in ranked}
    rho = statistics.spearman([row["score"] for row in ranked], list(closeness.values())) if len(ranked) > 2 else None
    return {"closeness": closeness, "spearman": rho}


def provenance_of(
    heldout: str,
    pool: Sequence[str],
    settings: Settings,
    specs: Sequence[RunSpec],
    sessions: SessionStore,
    store: RunStore,
) -> dict[str, Any]:
    """Content, split and environments that a ranking comes from, and what to know about its recordings."""
    data = {i: sessions.load(i, settings.split_seed, settings.split) for i in (*pool, heldout)}
    target = data[heldout]
    finished = [spec.key for spec in specs if store.state(spec.key) in ("done", "diverged")]
    environments = {canonical_json(e): e for e in (store.result(key)["environment"] for key in finished)}
    warnings = neighbours(target.meta, {i: data[i].meta for i in pool})
    warnings += ["the runs were computed in more than one environment"] if len(environments) > 1 else []
    return {
        "sessions": {i: d.trainval_hash for i, d in data.items()},
        "split": {name: getattr(target.split, name).tolist() for name in target.split.sizes},
        "overlap": shared_bins(target.meta, target.split),
        "environments": [environments[name] for name in sorted(environments)],
        "warnings": warnings + [f"{i}: {note}" for i, d in data.items() for note in d.notes],
    }
