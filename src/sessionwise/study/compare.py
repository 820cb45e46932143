"""Sets of sessions compared on the held-out session's test trials: pretrain, finetune, evaluate, against the baseline.

Legend: S seeds, K test trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.analysis import statistics
from sessionwise.data.store import SessionStore
from sessionwise.io.tensors import read_tensors
from sessionwise.model.streams import stream_seed
from sessionwise.runs.launch import Outcome, execute
from sessionwise.runs.progress import Progress
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import RunStore
from sessionwise.selection.pool import choose_pool
from sessionwise.training.jobs import WORK, baseline_spec, evaluate_spec, finetune_spec, pretrain_spec
from sessionwise.training.presets import Settings

BASELINE = "baseline"


def compare_sets(
    sessions: SessionStore,
    heldout: str,
    sets: Mapping[str, Sequence[str]],
    settings: Settings,
    seeds: Sequence[int],
    to: str | Path,
    *,
    on: str = "processes",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pretrain on each named set, finetune on ``heldout``, score on its test trials; ``comparison.json`` as a value.

    A set that failed or diverged on any seed is an arm with its reason and no score. Differences are to the baseline
    (trained from scratch on the held-out session), with 95 % intervals over trials and seeds.
    """
    for names in sets.values():
        choose_pool(sessions, [heldout], list(names))
    trained = _training_specs(sessions, heldout, sets, settings, seeds)
    finals = {
        name: [evaluate_spec(sessions, heldout, chain[-1], settings) for chain in arm] for name, arm in trained.items()
    }
    store = RunStore(Path(to) / "runs")
    specs = [spec for arm in trained.values() for chain in arm for spec in chain] + [
        s for arm in finals.values() for s in arm
    ]
    outcomes = execute(specs, store, WORK, on=on, progress=progress)
    arms = {name: _arm(name, sets.get(name, ()), trained[name], finals[name], store, outcomes) for name in trained}
    gains = {name: _test_gains(finals[name], store) for name, arm in arms.items() if arm["state"] == "done"}
    for name, arm in arms.items():
        _against_baseline(name, arm, arms[BASELINE], gains)
    return {"heldout": heldout, "seeds": list(seeds), "arms": list(arms.values()), "note": _note(arms)}


def _training_specs(
    sessions: SessionStore, heldout: str, sets: Mapping[str, Sequence[str]], settings: Settings, seeds: Sequence[int]
) -> dict[str, list[list[RunSpec]]]:
    """For each arm and seed the trainings in order; the last one is what is evaluated."""
    arms: dict[str, list[list[RunSpec]]] = {}
    for name, ids in sets.items():
        cores = [pretrain_spec(sessions, ids, settings, seed) for seed in seeds]
        arms[name] = [[core, finetune_spec(sessions, heldout, core, settings, core.seed)] for core in cores]
    arms[BASELINE] = [[baseline_spec(sessions, heldout, settings, seed)] for seed in seeds]
    return arms


def _arm(
    name: str,
    ids: Sequence[str],
    trained: Sequence[Sequence[RunSpec]],
    finals: Sequence[RunSpec],
    store: RunStore,
    outcomes: Mapping[str, Outcome],
) -> dict[str, Any]:
    scores = [_score(spec, store, outcomes) for spec in finals]
    known = [score for score in scores if score is not None]
    whole = len(known) == len(scores)
    failed = next(
        (outcomes[spec.key] for chain in trained for spec in chain if outcomes[spec.key].state != "done"), None
    )
    failed = failed or next((outcomes[spec.key] for spec in finals if outcomes[spec.key].state != "done"), None)
    done = [store.result(spec.key) for chain in trained for spec in chain if outcomes[spec.key].state == "done"]
    return {
        "name": name,
        "sessions": sorted(ids),
        "seed_scores": scores,
        "bps": float(np.mean(known)) if whole else None,
        "bps_unit_mean": _mean_of(finals, store, "bps_unit_mean") if whole else None,
        "bps_tail": _mean_of(finals, store, "bps_tail") if whole else None,
        "sd": float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
        "steps": sum(int(result["steps"]) for result in done) // len(finals) if whole else None,
        "state": failed.state if failed else "done",
        "reason": failed.reason if failed else None,
        "runs": [spec.key for spec in finals],
    }


def _score(spec: RunSpec, store: RunStore, outcomes: Mapping[str, Outcome]) -> float | None:
    return float(store.result(spec.key)["bps"]) if outcomes[spec.key].state == "done" else None


def _mean_of(finals: Sequence[RunSpec], store: RunStore, name: str) -> float | None:
    values = [store.result(spec.key)[name] for spec in finals]
    return None if None in values else float(np.mean(values))


def _test_gains(finals: Sequence[RunSpec], store: RunStore) -> tuple[np.ndarray, np.ndarray]:
    """(S, K) gains of an arm on the test trials, and (K,) spikes."""
    stored = [read_tensors(store.folder(spec.key) / "test.safetensors") for spec in finals]
    return np.array([part["gain"] for part in stored]), stored[0]["spikes"]


def _against_baseline(
    name: str,
    arm: dict[str, Any],
    baseline: Mapping[str, Any],
    gains: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Add the difference to the baseline with its interval; in percent only where the baseline is positive (A19)."""
    arm["difference"] = arm["improvement_percent"] = None
    if name == BASELINE or name not in gains or BASELINE not in gains:
        return
    (gain, spikes), (reference, _) = gains[name], gains[BASELINE]
    rng = np.random.default_rng(stream_seed(0, "against baseline", name))
    interval = statistics.paired_difference(gain, reference, spikes, rng=rng)
    arm["difference"] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "level": interval.level}
    if baseline["bps"] > 0:
        arm["improvement_percent"] = 100 * (arm["bps"] - baseline["bps"]) / baseline["bps"]


def _note(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found, in the order that was found."""
    known = sorted((arm for arm in arms.values() if arm["state"] == "done"), key=lambda arm: -arm["bps"])
    missing = [f"{arm['name']} {arm['state']}" for arm in arms.values() if arm["state"] != "done"]
    text = "Test bits per spike, best first: " + ", ".join(f"{arm['name']} {arm['bps']:.4f}" for arm in known) + "."
    return text + (f" Without a score: {', '.join(missing)}." if missing else "")
