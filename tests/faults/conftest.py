"""The toy modules of ``tests/runs`` are importable, also by the processes that these tests start; one small ranking."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOYS = Path(__file__).parents[1] / "runs"
sys.path.append(str(TOYS))


@pytest.fixture(scope="session")
def small_rank(toy_store: Path, tmp_path_factory: pytest.TempPathFactory):
    """The command ``rank`` with short trainings, and the bytes that it makes undisturbed."""
    from small_rank import SmallRank

    rank = SmallRank(toy_store, tmp_path_factory.mktemp("small-rank"))
    yield rank
    rank.close()
