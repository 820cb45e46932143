"""What all tests share: one thread a process, slow tests last, and the real recordings where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports numpy or torch; processes that tests start inherit it. Competing threads are slower than one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands and whole rankings come after everything that fails in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings that SESSIONWISE_DATA names; a test that needs it is skipped where it is absent."""
    folder = os.environ.get("SESSIONWISE_DATA", "")
    if not folder:
        pytest.skip("SESSIONWISE_DATA is not set: no real recordings")
    if not Path(folder).is_dir():
        pytest.skip(f"SESSIONWISE_DATA names {folder}, which is no folder")
    return Path(folder)
