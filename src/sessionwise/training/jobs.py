"""The jobs: a run's specification to its artefacts.

    pretrain   all weights, on a set of sessions of the pool
    baseline   all weights from scratch, on the held-out session's training trials
    finetune   new stitchers for the held-out session around a frozen core (of a pretraining, or untrained: "random")
    psth, glm  a reference predictor of the held-out session (`references.py`)
    evaluate   a trained model on the held-out session's *test* trials; the only job that opens them

A specification says what is trained on which content; `run` is what a worker calls. Test trials reach the last alone:
the keys of all others hold the hash of training and validation trials only.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from sessionwise import __version__
from sessionwise.data.splits import SessionData, TestSeal
from sessionwise.data.store import SessionStore, open_store
from sessionwise.errors import EnvironmentProblem, IntegrityError, UsageError
from sessionwise.io.files import write_json
from sessionwise.io.tensors import write_tensors
from sessionwise.model.checkpoint import load_model, mean_session_embedding, save_model
from sessionwise.model.compiling import compile_core
from sessionwise.model.frozen import frozen_core
from sessionwise.model.ndt import NDT, NDTConfig, run_block
from sessionwise.model.streams import stream
from sessionwise.runs.spec import RunSpec
from sessionwise.runs.store import Busy, RunStore
from sessionwise.runs.worker import Reporter
from sessionwise.scoring.evaluate import Evaluation, EvaluationSettings, Predictor, Scorer, horizon
from sessionwise.scoring.likelihood import mean_over_units, pooled_bits, training_null_rates, unit_bits
from sessionwise.training.batches import Batches
from sessionwise.training.loop import (
    Course,
    CrossFit,
    FinetuneSettings,
    Trained,
    Training,
    TrainSettings,
    total_steps,
    train,
)
from sessionwise.training.precision import bf16_units
from sessionwise.training.presets import Settings, without_default_split
from sessionwise.training.references import (
    Candidate,
    GLMSettings,
    PSTHSettings,
    candidates_of,
    glm_candidates,
    load_reference,
    psth_candidates,
    save_reference,
)
from sessionwise.training.together import train_until_one_ends

WORK = "sessionwise.training.jobs:run"
RANDOM_CORE = "random"
REFERENCES: dict[str, type[PSTHSettings] | type[GLMSettings]] = {"psth": PSTHSettings, "glm": GLMSettings}


# Specifications -------------------------------------------------------------------------------------------------------


def pretrain_spec(sessions: SessionStore, ids: Sequence[str], settings: Settings, seed: int) -> RunSpec:
    """Train all weights on a set of sessions. The set has no order: equal sets are one run."""
    ids = sorted(set(ids))
    label = f"pretrain {ids[0]}" if len(ids) == 1 else f"pretrain {len(ids)} sessions"
    return _spec("pretrain", sessions, ids, settings, "train", seed, label)


def baseline_spec(sessions: SessionStore, heldout: str, settings: Settings, seed: int) -> RunSpec:
    """Train all weights from scratch on the held-out session."""
    return _spec("baseline", sessions, [heldout], settings, "baseline", seed, f"baseline {heldout}")


def finetune_spec(sessions: SessionStore, heldout: str, core: RunSpec | None, settings: Settings, seed: int) -> RunSpec:
    """Train new stitchers for ``heldout`` around the core of a pretraining; ``core=None``: an untrained core."""
    what = core.label.removeprefix("pretrain ").rpartition(", seed")[0] if core else "random core"
    label = f"finetune {heldout} on {what}"
    spec = _spec("finetune", sessions, [heldout], settings, "finetune", seed, label)
    if core is None:
        return replace(spec, settings={**spec.settings, "core": RANDOM_CORE})
    return replace(spec, inputs={"core": core.key})


def evaluate_spec(sessions: SessionStore, heldout: str, model: RunSpec, settings: Settings) -> RunSpec:
    """Score a trained model on the test trials of ``heldout``."""
    data = sessions.load(heldout, settings.split_seed, settings.split)
    return RunSpec(
        kind="evaluate",
        settings={"evaluation": settings.evaluation.model_dump(), **_split(settings)},
        sessions={heldout: data.test_hash},
        inputs={"model": model.key},
        seed=model.seed,
        where={"store": str(sessions.path.absolute())},
        label=f"evaluate {model.label}",
        steps=1,
    )


def reference_spec(
    sessions: SessionStore,
    heldout: str,
    name: str,
    settings: Settings,
    seed: int = 0,
    options: PSTHSettings | GLMSettings | None = None,
) -> RunSpec:
    """A reference predictor of ``heldout``: ``name`` is "psth" or "glm", ``options`` are its own settings.

    The NDT's settings are not in its key, but for the objective (which bins are hidden) and the ratio of masked bins.
    """
    if name not in REFERENCES:
        raise UsageError("reference", f"{name!r}", f"one of {', '.join(REFERENCES)}")
    chosen = options or (PSTHSettings() if name == "psth" else GLMSettings(mask_ratio=settings.train.mask_ratio))
    if not isinstance(chosen, REFERENCES[name]):
        raise UsageError(f"options of {name}", type(chosen).__name__, REFERENCES[name].__name__)
    own: dict[str, Any] = {name: chosen.model_dump()}
    if name == "glm":
        own["objective"] = settings.model.objective
    data = sessions.load(heldout, settings.split_seed, settings.split)
    return RunSpec(
        kind=name,
        settings={**own, "evaluation": settings.evaluation.model_dump(), **_split(settings)},
        sessions={heldout: data.trainval_hash},
        seed=seed,
        where={"store": str(sessions.path.absolute())},
        label=f"{name} {heldout}",
        steps=candidates_of(chosen),
    )


def _spec(
    kind: str, sessions: SessionStore, ids: Sequence[str], settings: Settings, section: str, seed: int, label: str
) -> RunSpec:
    how: TrainSettings = getattr(settings.settled(), section)
    data = [sessions.load(i, settings.split_seed, settings.split) for i in ids]
    per_epoch = sum(-(-len(d.split.train) // how.batch_size) for d in data)
    return RunSpec(
        kind=kind,
        settings={
            "model": settings.model.model_dump(),
            "train": how.model_dump(),
            "evaluation": settings.evaluation.model_dump(exclude={"tail"} if kind == "pretrain" else None),
            **_split(settings),
        },
        sessions={d.id: d.trainval_hash for d in data},
        inputs={},
        seed=seed,
        where={"store": str(sessions.path.absolute())},
        label=f"{label}, seed {seed}",
        steps=total_steps(how, per_epoch),
    )


def _split(settings: Settings) -> dict[str, Any]:
    """The split as runs hold it: a random one by its seed alone."""
    return without_default_split({"split_seed": settings.split_seed, "split": settings.split})


# The work -------------------------------------------------------------------------------------------------------------


def run(spec: RunSpec, store: RunStore, report: Reporter) -> None:
    """Do one run and commit it. One thread, so that the same run gives the same bytes beside any number of others."""
    jobs: dict[str, Callable[[RunSpec, RunStore, Reporter], None]] = {
        "pretrain": _from_scratch,
        "baseline": _from_scratch,
        "finetune": _finetune,
        "evaluate": _evaluate,
        "psth": _reference,
        "glm": _reference,
    }
    with _one_thread():
        jobs[spec.kind](spec, store, report)


def run_together(
    specs: Sequence[RunSpec], store: RunStore, report: Callable[[RunSpec], Reporter]
) -> dict[str, Literal["done", "stored", "busy"]]:
    """Finetune around one frozen core on several sessions, computed side by side; each run is committed when it ends.

    What is stored is what ``run`` stores one by one, under the same keys: each training draws the same random numbers.
    Weights and scores differ by rounding, with how many trainings shared a batch; ``together`` in the result says how
    many began. Runs that are stored, or that another process holds, are left alone. For each key: what became of it.
    UsageError when the runs do not go together (``can_be_together``); Stopped when the command was asked to stop: the
    checkpoints are those of ``run``, so that either function can go on.
    """
    if not can_be_together(specs):
        raise UsageError("runs together", "differ in core, seed or settings", "finetunes around one frozen core")
    became: dict[str, Literal["done", "stored", "busy"]] = {}
    with ExitStack() as locks, _one_thread():
        for spec in specs:
            try:
                locks.enter_context(store.lock(spec.key))
                became[spec.key] = "stored" if store.committed(spec.key) else "done"
            except Busy:
                became[spec.key] = "busy"
        if mine := [spec for spec in specs if became[spec.key] == "done"]:
            _finetune_together(mine, store, report)
    return became


def can_be_together(specs: Sequence[RunSpec]) -> bool:
    """Whether runs are finetunes of different sessions around the same frozen core, with equal seed and settings."""
    first = specs[0]
    alike = all(
        (spec.kind, spec.seed, spec.settings, spec.inputs) == ("finetune", first.seed, first.settings, first.inputs)
        for spec in specs
    )
    sessions = {name for spec in specs for name in spec.sessions}
    return alike and len(sessions) == len(specs) and bool(first.settings["train"]["freeze_core"])


def _finetune_together(specs: Sequence[RunSpec], store: RunStore, report: Callable[[RunSpec], Reporter]) -> None:
    jobs: list[_Job] = []
    for spec in specs:
        jobs.append(_finetuning(spec, store, core_of=jobs[0].training.model if jobs else None))
    under_way = [(job, Course(job.training, report=report(job.spec), **_around(job, store))) for job in jobs]
    while under_way:
        with frozen_core(jobs[0].training.model):
            train_until_one_ends([course for _, course in under_way])
        for job, course in under_way:
            if course.ended:
                _commit(job, store, course.finish(), {"together": len(jobs)})
        under_way = [(job, course) for job, course in under_way if not course.ended]


_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")  # the last one is oneDNN's


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, and tell a lack of memory by its type."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    except RuntimeError as error:  # torch has no one type for it: a lost run is tried again, a raised one is not
        if any(words in str(error) for words in _NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Job:
    """A training that is set up. core: whether the core is stored with it; frozen: whether it is not trained."""

    spec: RunSpec
    training: Training
    scorers: Sequence[Scorer]
    core: bool
    frozen: bool = False


def _from_scratch(spec: RunSpec, store: RunStore, report: Reporter) -> None:
    data = load_sessions(spec)
    settings = TrainSettings.model_validate(spec.settings["train"])
    model = NDT(NDTConfig.model_validate(spec.settings["model"]), data[0].n_bins, spec.seed)
    for session in data:
        model.add_session(session.id, session.n_units, mean_counts(session, model.config))
    training = _training(spec, model, list(model.parameters()), data, settings)
    _train_and_commit(_Job(spec, training, _scorers(spec, data), core=True), store, report)


def _finetune(spec: RunSpec, store: RunStore, report: Reporter) -> None:
    _train_and_commit(_finetuning(spec, store), store, report)


def _finetuning(spec: RunSpec, store: RunStore, core_of: NDT | None = None) -> _Job:
    """A finetune; ``core_of`` is a model whose core is the one that is wanted, for it to be shared."""
    (data,) = load_sessions(spec)
    settings = FinetuneSettings.model_validate(spec.settings["train"])
    model, embedding = _core(spec, store, data.n_bins)
    model.add_session(data.id, data.n_units, mean_counts(data, model.config))
    if core_of is not None:
        model.core = core_of.core
    (session_embedding,) = model.session_embeddings.values()
    if settings.session_embedding != "fresh" and embedding is not None:
        session_embedding.data.copy_(embedding)
    parameters = list(model.stitcher_parameters())
    if settings.session_embedding == "trained":
        parameters.append(session_embedding)
    if not settings.freeze_core:
        parameters += list(model.core.parameters())
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    training = _training(spec, model, parameters, [data], settings)
    whole = not settings.freeze_core or "core" not in spec.inputs
    return _Job(spec, training, _scorers(spec, [data]), core=whole, frozen=settings.freeze_core)


def _training(
    spec: RunSpec, model: NDT, parameters: list[nn.Parameter], data: Sequence[SessionData], settings: TrainSettings
) -> Training:
    model.to(settings.device)
    model.precision = "bf16" if settings.precision == "bf16" else "fp32"
    if settings.compile and model.core.run is run_block:
        compile_core(model)
    batches = Batches(data, settings.batch_size, spec.seed, role_of(spec), device=settings.device)
    return Training(model, parameters, batches, settings, spec.seed)


def _scorers(spec: RunSpec, data: Sequence[SessionData]) -> list[Scorer]:
    evaluation = EvaluationSettings.model_validate(spec.settings["evaluation"])
    return [scorer(session, "validation", evaluation) for session in data]


def _around(job: _Job, store: RunStore) -> dict[str, Any]:
    """What surrounds a training: its validation and its checkpoints."""

    def validate(model: NDT) -> list[Evaluation]:
        return [scorer.forward_prediction(model) for scorer in job.scorers]

    every = {"checkpoint_steps": job.spec.where.get("checkpoint_steps"), "checkpoint_seconds": checkpoint_seconds()}
    return {"validate": validate, "work": store.work_folder(job.spec.key), **every}


def checkpoint_seconds() -> float:
    """How often a training writes a checkpoint, from ``$SESSIONWISE_CHECKPOINT_SECONDS``; no result depends on it.

    EnvironmentProblem for what is no number of seconds: it ends the command, and no run is on record as failed.
    """
    name = "SESSIONWISE_CHECKPOINT_SECONDS"
    text = os.environ.get(name, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise EnvironmentProblem(f"${name}", repr(text), "a number of seconds", "Leave it out: 30 is the default")
    return seconds


def _train_and_commit(job: _Job, store: RunStore, report: Reporter) -> None:
    with frozen_core(job.training.model) if job.frozen else nullcontext():
        trained = train(job.training, report=report, **_around(job, store))
    _commit(job, store, trained)


def _commit(job: _Job, store: RunStore, trained: Trained, how: Mapping[str, Any] | None = None) -> None:
    spec, training, model = job.spec, job.training, job.training.model
    about = {"core_hash": model.core_hash(), "train_trials": training.batches.trials, "environment": environment()}
    about |= how or {}
    if training.settings.compile:
        about["compiled"] = model.core.run is not run_block
    result = {**_outcome(trained), **about}
    arrays = {"gain": np.array(trained.history.gain), "spikes": trained.spikes}
    if trained.reason is None and len(job.scorers) == 1:
        gains = None if training.settings.keep == "last" else np.array(trained.history.gain)
        scores, chosen = _scores(gains, trained.crossfit, job.scorers[0], model, with_tail=spec.kind != "pretrain")
        result, arrays = {**result, **scores}, {**arrays, "crossfit_gain": chosen}

    def write(folder: Path) -> None:
        if trained.reason is None:
            save_model(folder, model, core=job.core)
        write_tensors(folder / "validation.safetensors", arrays)
        write_json(folder / "history.json", _curve(trained))

    store.commit(spec, result, write)


def _reference(spec: RunSpec, store: RunStore, report: Reporter) -> None:
    """Fit every candidate on the training trials, keep the best on validation, score it with the choice crossed."""
    (data,) = load_sessions(spec)
    scored = scorer(data, "validation", EvaluationSettings.model_validate(spec.settings["evaluation"]))
    found, crossfit = [], CrossFit()
    kept, best, reason = None, -np.inf, None
    for number, candidate in enumerate(_candidates(spec, data), start=1):
        evaluation = scored.forward_prediction(candidate.predictor)
        if not np.isfinite(evaluation.bps):
            reason = f"validation score {evaluation.bps:g} with {candidate.choice}"
            break
        found.append((candidate, evaluation))
        crossfit.offer(number, evaluation)
        if evaluation.bps > best:
            kept, best = candidate, evaluation.bps
        report({"step": number, "steps": max(spec.steps, number), "bps": evaluation.bps})
    gains = np.array([evaluation.gain for _, evaluation in found])
    about = {"train_trials": len(data.split.train), "environment": environment()}
    if kept is None or reason is not None:
        store.commit(spec, {"state": "diverged", "reason": reason, "steps": 0, "tokens": 0, "best_bps": None, **about})
        return
    scores, chosen = _scores(gains, crossfit, scored, kept.predictor)
    last = found[-1][0]  # costs are those of all candidates: each goes on from the one before
    cost = {"steps": last.steps, "tokens": last.tokens, "best_bps": best, "choice": kept.choice}
    arrays = {"gain": gains, "spikes": found[0][1].spikes, "crossfit_gain": chosen}

    def write(folder: Path) -> None:
        save_reference(folder, kept.predictor)
        write_tensors(folder / "validation.safetensors", arrays)
        write_json(folder / "candidates.json", [{**c.choice, "bps": evaluation.bps} for c, evaluation in found])

    store.commit(spec, {"state": "done", "reason": None, **cost, **about, **scores}, write)


def _candidates(spec: RunSpec, data: SessionData) -> Iterator[Candidate]:
    counts = data.counts("train")
    if spec.kind == "psth":
        return psth_candidates(data.id, counts, PSTHSettings.model_validate(spec.settings["psth"]))
    settings = GLMSettings.model_validate(spec.settings["glm"])
    rng = stream(spec.seed, *role_of(spec), "masks")
    return glm_candidates(data.id, counts, settings, spec.settings["objective"], rng)


def _evaluate(spec: RunSpec, store: RunStore, report: Reporter) -> None:
    ((heldout, expected),) = spec.sessions.items()
    data = _load(_sessions(spec), heldout, spec)
    if data.test_hash != expected:
        raise IntegrityError(f"session {heldout}", "test trials changed since the plan was made", expected[:12])
    settings = EvaluationSettings.model_validate(spec.settings["evaluation"])
    model = load_predictor(store, spec.inputs["model"])
    seal = TestSeal(ledger_folder(store), spec.key, f"final evaluation of {spec.label}")
    scored = scorer(data, "test", settings, data.open_test(seal))
    folds, tail = scored.forward_prediction(model), scored.tail(model)
    scores = {**_plain_scores(folds), **_tail_scores(tail, scored.tail_bins)}
    result = {"state": "done", "steps": 0, "tokens": 0, **scores, "environment": environment()}
    arrays = {"gain": folds.gain, "spikes": folds.spikes}
    store.commit(spec, result, lambda folder: write_tensors(folder / "test.safetensors", arrays))


# Parts ----------------------------------------------------------------------------------------------------------------


def load_sessions(spec: RunSpec) -> list[SessionData]:
    """The run's sessions in the order of their ids; content that changed since the plan was made is refused."""
    sessions = _sessions(spec)
    data = [_load(sessions, i, spec) for i in sorted(spec.sessions)]
    for session in data:
        if session.trainval_hash != spec.sessions[session.id]:
            raise IntegrityError(
                f"session {session.id}", "changed since the plan was made", spec.sessions[session.id][:12], "Run again"
            )
    return data


def _sessions(spec: RunSpec) -> SessionStore:
    """The run's store, opened; what this process knows of it from the run before and did not change is taken over."""
    path = Path(spec.where["store"])
    known = _known_store.get(path)
    _known_store.clear()  # one store: a process works for one study at a time
    _known_store[path] = open_store(path, known)
    return _known_store[path]


_known_store: dict[Path, SessionStore] = {}


def _load(sessions: SessionStore, session_id: str, spec: RunSpec) -> SessionData:
    """A session under the run's split."""
    return sessions.load(session_id, spec.settings["split_seed"], spec.settings.get("split", "random"))


def ledger_folder(store: RunStore) -> Path:
    """Where each opening of test trials is recorded."""
    return store.root.parent / "test-openings"


def load_predictor(store: RunStore, key: str) -> Predictor:
    """What a run left to be scored: a trained model or a reference predictor."""
    if store.spec(key).kind not in REFERENCES:
        return load_trained(store, key)
    return load_reference(_finished(store, key))


def load_trained(store: RunStore, key: str) -> NDT:
    """The trained model of a run, with its core from the run that it was built around."""
    _finished(store, key)
    spec = store.spec(key)
    if spec.kind in REFERENCES:
        raise UsageError(spec.name, "is a reference predictor", "a trained model", "Use load_predictor")
    core = store.folder(spec.inputs["core"]) if "core" in spec.inputs else None
    return load_model(store.folder(key), core_from=core)


def _finished(store: RunStore, key: str) -> Path:
    if (state := store.state(key)) != "done":
        raise UsageError(store.spec(key).name, f"is {state}", "a finished training", "Run the same command again")
    return store.folder(key)


def role_of(spec: RunSpec) -> tuple[str, ...]:
    """What a training's order, masks and dropout derive from, beside the seed: its kind, and its held-out session.

    Never the candidate or the core: all cores of a seed meet the same random numbers on a held-out session (A12).
    """
    return (spec.kind,) if spec.kind == "pretrain" else (spec.kind, *spec.sessions)


def mean_counts(session: SessionData, config: NDTConfig) -> torch.Tensor | None:
    """(N,) mean training count per bin of each unit, where the model's start needs it."""
    if config.decoder_start != "null":
        return None
    counts = session.counts("train")
    return torch.from_numpy(counts.mean(axis=(0, 1), dtype=np.float64)).float()


def scorer(session: SessionData, part: str, settings: EvaluationSettings, counts: np.ndarray | None = None) -> Scorer:
    """A scorer for the validation trials, or for test trials that were opened."""
    rows = getattr(session.split, part)
    counts = session.counts("validation") if counts is None else counts
    null = training_null_rates(session.counts("train")) if settings.null == "train" else None
    return Scorer(session.id, counts, rows, session.meta.n_trials, settings, null)


def _core(spec: RunSpec, store: RunStore, n_bins: int) -> tuple[NDT, torch.Tensor | None]:
    """A model without sessions around the wanted core, and the mean session embedding of its pretraining."""
    model = NDT(NDTConfig.model_validate(spec.settings["model"]), n_bins, spec.seed)
    if "core" not in spec.inputs:
        return model, None
    folder = store.folder(spec.inputs["core"])
    pretrained = load_model(folder, sessions=())
    if (pretrained.config, pretrained.n_bins) != (model.config, model.n_bins):
        raise UsageError(spec.label, "the core has another shape or number of bins", f"{model.config}, {n_bins} bins")
    model.core.load_state_dict(pretrained.core.state_dict())
    return model, mean_session_embedding(folder)


def environment() -> dict[str, str]:
    """What the bytes of a training depend on beside its key; stored with each."""
    return {
        "sessionwise": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16_units": bf16_units(),
    }


def _outcome(trained: Trained) -> dict[str, Any]:
    return {
        "state": "done" if trained.reason is None else "diverged",
        "reason": trained.reason,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "best_step": trained.best_step,
        "best_bps": trained.best_bps if trained.reason is None else None,
    }


def _curve(trained: Trained) -> dict[str, Any]:
    spikes = float(trained.spikes.sum())
    bps = [pooled_bits(float(gain.sum()), spikes) for gain in trained.history.gain]
    return {"step": trained.history.step, "loss": trained.history.loss, "bps": bps}


def _scores(
    gains: np.ndarray | None, crossfit: CrossFit, scored: Scorer, model: Predictor, with_tail: bool = True
) -> tuple[dict[str, Any], np.ndarray]:
    """Validation scores of one session, cross-fitted when its own trials chose the checkpoint (protocol B8).

    gains: (E, K) of what was chosen from, one row a checkpoint or candidate; None when nothing was chosen.
    """
    folds = scored.forward_prediction(model)
    scores = _plain_scores(folds)
    if with_tail:
        scores |= _tail_scores(scored.tail(model), scored.tail_bins)
    if gains is None or min(folds.spikes[0::2].sum(), folds.spikes[1::2].sum()) == 0:
        return {**scores, "cross_fitted": False}, folds.gain
    gain = crossfit_gain(gains, folds.spikes)
    unit_gain = np.sum([part for part in crossfit.unit_gain if part is not None], axis=0)
    unit_mean, left_out = mean_over_units(unit_bits(unit_gain, folds.unit_spikes.sum(axis=0)))
    crossed = {
        "bps": pooled_bits(float(gain.sum()), float(folds.spikes.sum())),
        "bps_unit_mean": unit_mean,
        "units_left_out": left_out,
        "cross_fitted": True,
    }
    return {**scores, **crossed}, gain


def crossfit_gain(gain: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """(K,) gain of each trial under the checkpoint chosen on the *other* half of the trials.

    gain: (E, K), one row a validation; spikes: (K,). The halves are the even and the odd trials.
    """
    chosen = np.empty(gain.shape[1])
    for half in (0, 1):
        best = int(np.argmax(gain[:, half::2].sum(axis=1)))
        chosen[1 - half :: 2] = gain[best, 1 - half :: 2]
    return chosen


def _plain_scores(folds: Evaluation) -> dict[str, Any]:
    return {"bps": folds.bps, "bps_unit_mean": folds.bps_unit_mean, "units_left_out": folds.units_left_out}


def _tail_scores(tail: Evaluation, k: int) -> dict[str, Any]:
    return {
        "bps_tail": _finite(tail.bps),
        "bps_tail_unit_mean": _finite(tail.bps_unit_mean),
        "tail_bins": k,
        "horizon": [_finite(value) for value in horizon(tail, k)],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
