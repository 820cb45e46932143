"""Weights and other named arrays as safetensors: numpy in, numpy out, no pickle anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sessionwise.errors import DataError
from sessionwise.io.files import write_bytes


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> None:
    """Write named arrays to one ``.safetensors`` file, whole or not at all. The same arrays give the same bytes."""
    contiguous = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    write_bytes(path, save(contiguous, metadata=dict(about) if about else None))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read every array of a ``.safetensors`` file; a broken file is a typed error."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", "a safetensors file") from error
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        found = f"is no safetensors file ({error})" if data else "is empty (0 bytes)"
        raise DataError(str(path), found, "a complete safetensors file", "Write or download it again") from error
