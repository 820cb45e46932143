"""What a training costs in floating-point operations, the one measure in which small cores are cheap.

A weight costs two operations a token forward, two for the gradient of what it reads, and two for its own gradient
(Kaplan et al., 2020): six where it is trained, four in a frozen core, whose input stitchers still want a gradient. A
token is a bin of a trial. Left out are attention's products of tokens (they grow with L, not with weights), the
validations in between, and everything about the machine: it is a measure for shares of a budget, not of seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sessionwise.data.info import SessionInfo
from sessionwise.data.splits import split_of
from sessionwise.runs.spec import RunSpec
from sessionwise.training.resources import core_weights, shape_of, stitcher_weights

TRAINED, FROZEN = 6, 4


def operations(spec: RunSpec, infos: Mapping[str, SessionInfo]) -> int:
    """Operations of a training that runs to its end, from its specification; ``infos`` knows its sessions.

    0 for runs that train no NDT.
    """
    each = operations_per_token(spec, infos)
    return round(each * tokens_of(spec, infos)) if each else 0


def operations_per_token(spec: RunSpec, infos: Mapping[str, SessionInfo]) -> float:
    """Operations a token; of several sessions the mean, weighted by their training trials."""
    shape = shape_of(spec, infos)
    if shape.model is None or not spec.steps or spec.kind == "evaluate":
        return 0.0
    weights = [stitcher_weights(shape.model, infos[name].n_units) for name in spec.sessions]
    stitchers = float(np.average(weights, weights=_train_trials(spec, infos)))
    return (TRAINED if shape.whole else FROZEN) * core_weights(shape.model, shape.bins) + TRAINED * stitchers


def tokens_of(spec: RunSpec, infos: Mapping[str, SessionInfo]) -> int:
    """Tokens that a training sees: all trials of each epoch, the last epoch in part."""
    how, trials = spec.settings["train"], _train_trials(spec, infos)
    batches = sum(-(-n // int(how["batch_size"])) for n in trials)
    bins = next(infos[name].n_bins for name in spec.sessions)
    return round(spec.steps / batches * sum(trials) * bins)


def _train_trials(spec: RunSpec, infos: Mapping[str, SessionInfo]) -> list[int]:
    settings = spec.settings
    how = settings["split_seed"], settings.get("split", "random")
    return [len(split_of(infos[name], *how).train) for name in spec.sessions]
