"""Random streams, one a role.

Every stream is derived from the seed and the name of what it is for, never from a global state, a position in a list
or a candidate: two trainings that share a seed and a role share their random numbers.
"""

from __future__ import annotations

import torch

from sessionwise.io.files import canonical_json, sha256_bytes


def stream_seed(seed: int, *role: str | int) -> int:
    """A 63-bit seed for one role, e.g. ``stream_seed(10, "stitchers", session_id)``."""
    return int(sha256_bytes(canonical_json([seed, *role]))[:16], 16) >> 1


def stream(seed: int, *role: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one role."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *role))
