"""What all tests share: one thread a process, slow tests last, and the real recordings where they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before anything imports numpy or torch; processes that tests start inherit it. Competing threads are slower than one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A suite started in the background inherits an ignored SIGINT, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared store of four small simulated pool sessions, ``sim-00`` to ``sim-03``, and ``sim-heldout-0``."""
    from sessionwise.data.simulate import simulate_pool, write_truth
    from sessionwise.data.store import create_store

    pool = simulate_pool(4, 1, seed=1, bad_share=0.0, n_trials=(90, 100), n_units=(8, 12), rate_hz=15.0, n_bins=12)
    path = tmp_path_factory.mktemp("toy") / "store"
    store = create_store(path)
    for session in pool.sessions:
        store.add(session)
    write_truth(path, pool)
    return path


@pytest.fixture(scope="session")
def toy_settings() -> dict[str, int]:
    """Overrides that make a training of the toy store a matter of a fraction of a second."""
    small = {"model.token_width": 8, "model.width": 8, "model.feedforward": 8, "model.heads": 2, "model.blocks": 1}
    steps = {f"{kind}.steps": 16 for kind in ("train", "finetune", "baseline")}
    return {**small, **steps, **{f"{kind}.validations": 4 for kind in ("train", "finetune", "baseline")}}
