"""Weights on disk: one file for the core, one for each session's stitchers, safetensors and JSON, strict loading.

model.json             the configuration, number of bins, seed, and the sessions with their files
core.safetensors       everything shared, and the table of session embeddings (one row a session)
sessions/<name>.safetensors    encode.weight (S, N), encode.bias, decode.weight (N, D), decode.bias of one session
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sessionwise.errors import DataError, UsageError
from sessionwise.io.files import folder_name, read_json, write_json
from sessionwise.io.tensors import read_tensors, write_tensors
from sessionwise.model.ndt import NDT, NDTConfig

FORMAT = 1
_EMBEDDING = "session_embedding."


def save_model(folder: Path, model: NDT, core: bool = True) -> None:
    """Write a model into a folder. ``core=False`` leaves the shared weights out (stitchers around a stored core)."""
    (folder / "sessions").mkdir(parents=True, exist_ok=True)
    for session_id in model.session_ids:
        name = folder_name(session_id)
        write_tensors(folder / "sessions" / f"{name}.safetensors", arrays(model.stitchers[name].state_dict()))
    embeddings = {_EMBEDDING + name: value for name, value in model.session_embeddings.state_dict().items()}
    shared = {**(model.core.state_dict() if core else {}), **embeddings}
    write_tensors(folder / "core.safetensors", arrays(shared))
    write_json(folder / "model.json", _description(model, core))


def load_model(folder: Path, sessions: Collection[str] | None = None, core_from: Path | None = None) -> NDT:
    """Read a model; ``sessions`` names the sessions wanted (default all, ``()`` the core alone).

    ``core_from`` names the folder of the core when the model was saved without one. Missing, extra or mis-shaped
    tensors and NaN are errors that name the difference; nothing is loaded in part.
    """
    about = read_description(folder)
    if not about["core"] and core_from is None:
        raise UsageError(str(folder), "holds stitchers without their core", "core_from=", "Name the core's folder")
    model = NDT(about["config"], about["n_bins"], about["seed"])
    wanted = list(about["sessions"]) if sessions is None else list(sessions)
    for session_id in wanted:
        _add_stored_session(model, folder, session_id, about["sessions"])
    tables = read_tensors(folder / "core.safetensors")
    source = tables if about["core"] else read_tensors(Path(core_from or folder) / "core.safetensors")
    load_strict(model.core, {k: v for k, v in source.items() if not k.startswith(_EMBEDDING)}, folder)
    rows = {folder_name(s): tables.get(_EMBEDDING + folder_name(s), np.empty(0)) for s in wanted}
    load_strict(model.session_embeddings, rows, folder)
    return model


def read_description(folder: Path) -> dict[str, Any]:
    """``model.json`` as {config: NDTConfig, n_bins, seed, core, sessions: {id: n_units}}."""
    path = Path(folder) / "model.json"
    raw = read_json(path)
    try:
        if raw["format"] > FORMAT:
            raise DataError(str(path), f"has format {raw['format']}", f"format {FORMAT} or older", "Update sessionwise")
        return {**raw, "config": NDTConfig.model_validate(raw["config"])}
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(str(path), f"does not describe a model ({error})", "a folder written by sessionwise") from error


def mean_session_embedding(folder: Path) -> Tensor:
    """(D,) mean of the session embeddings that a core was pretrained with (protocol B7)."""
    tables = read_tensors(Path(folder) / "core.safetensors")
    rows = [value for name, value in sorted(tables.items()) if name.startswith(_EMBEDDING)]
    return torch.from_numpy(np.mean(rows, axis=0))


def arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as numpy arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def load_strict(module: nn.Module, values: Mapping[str, np.ndarray], where: Path | str) -> None:
    """Copy named arrays into a module whose names and shapes must agree exactly; the core's hash depends on it."""
    expected = module.state_dict()
    if problems := _differences(expected, values):
        found = "; ".join(problems[:5])
        raise DataError(str(where), f"weights do not fit: {found}", "the weights of this model", "Check model.json")
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()}, strict=True)


def _differences(expected: Mapping[str, Tensor], values: Mapping[str, np.ndarray]) -> list[str]:
    problems = [f"missing {name}" for name in expected if name not in values]
    problems += [f"unexpected {name}" for name in values if name not in expected]
    for name in sorted(set(expected) & set(values)):
        if tuple(expected[name].shape) != values[name].shape:
            problems.append(f"{name} has shape {values[name].shape}, not {tuple(expected[name].shape)}")
        elif values[name].dtype != np.float32:
            problems.append(f"{name} is {values[name].dtype}, not float32")
        elif not np.isfinite(values[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def _description(model: NDT, core: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": model.config.model_dump(),
        "n_bins": model.n_bins,
        "seed": model.seed,
        "core": core,
        "sessions": model.session_ids,
    }


def _add_stored_session(model: NDT, folder: Path, session_id: str, known: Mapping[str, int]) -> None:
    if session_id not in known:
        listed = ", ".join(sorted(known)[:5]) or "none"
        raise UsageError(str(folder), f"has no stitchers for session {session_id} (it has {listed})")
    model.add_session(session_id, known[session_id], torch.zeros(known[session_id]))
    name = folder_name(session_id)
    load_strict(model.stitchers[name], read_tensors(folder / "sessions" / f"{name}.safetensors"), folder)
