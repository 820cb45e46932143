"""The model itself: pretrained on the chosen sessions, fitted to the recording in the way that validation prefers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sessionwise.errors import RunsFailed
from sessionwise.io.files import make_folder, sealed_files, write_json
from sessionwise.model.checkpoint import save_model
from sessionwise.runs.spec import RunSpec
from sessionwise.selection.context import Context
from sessionwise.selection.ranking import cost
from sessionwise.training.jobs import baseline_spec, finetune_spec, load_trained, pretrain_spec

MODEL, CARD = "model", "card.json"
FROZEN, THAWED, SCRATCH = "frozen core", "full finetuning", "from scratch"


def deliver(target: str, chosen: Sequence[str], context: Context, folder: Path) -> dict[str, Any]:
    """Train the variants with the first seed, and write the best one to ``folder/model``; returns what it says.

    frozen core: new stitchers around the core pretrained on ``chosen``. full finetuning: core and stitchers go on.
    from scratch: all weights on the recording alone (the only one without chosen sessions). Best is the cross-fitted
    score on validation trials; how good it is on new trials is for test trials to say, once.

    Raises RunsFailed when no variant could be trained.
    """
    variants = _variants(target, chosen, context)
    specs = list({spec.key: spec for each in variants.values() for spec in each}.values())
    context.compute(specs)
    scores = [_score(name, specs, context) for name, specs in variants.items()]
    known = [entry for entry in scores if entry["bps"] is not None]
    if not known:
        raise RunsFailed("--deliver", scores[0]["reason"], "one variant that trains", "Change the settings")
    best = max(known, key=lambda entry: entry["bps"])
    final = variants[best["name"]][-1]
    about = {
        "folder": MODEL,
        "trained": best["name"],
        "seed": final.seed,
        "scores": scores,
        "text": _text(best, scores, final.seed),
        "cost": cost(specs, context.store, context.sessions),
    }
    place = folder / MODEL
    make_folder(place)
    with sealed_files(folder, keep=True):
        save_model(place, load_trained(context.store, final.key))
        write_json(place / CARD, {**about, "heldout": target, "pretrained_on": list(chosen), "run": final.key})
    return about


def _variants(target: str, chosen: Sequence[str], context: Context) -> dict[str, list[RunSpec]]:
    """Name -> its runs, the one that is delivered last."""
    sessions, settings, seed = context.sessions, context.settings, context.seeds[0]
    scratch = {SCRATCH: [baseline_spec(sessions, target, settings, seed)]}
    if not chosen:
        return scratch
    thawed = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"freeze_core": False})})
    core = pretrain_spec(sessions, chosen, settings, seed)
    return {
        FROZEN: [core, finetune_spec(sessions, target, core, settings, seed)],
        THAWED: [core, finetune_spec(sessions, target, core, thawed, seed)],
        **scratch,
    }


def _score(name: str, specs: Sequence[RunSpec], context: Context) -> dict[str, Any]:
    ended = context.outcomes[specs[-1].key]
    done = ended.state == "done"
    bps = float(context.store.result(specs[-1].key)["bps"]) if done else None
    return {"name": name, "bps": bps, "state": ended.state, "reason": ended.reason}


def _text(best: dict[str, Any], scores: Sequence[dict[str, Any]], seed: int) -> str:
    others = ", ".join(f"{e['name']} {e['bps']:.4f}" for e in scores if e["bps"] is not None and e is not best)
    against = f" ({others})" if others else ""
    return f"{best['name']}: {best['bps']:.4f} bits per spike on validation trials{against}; one training, seed {seed}."
