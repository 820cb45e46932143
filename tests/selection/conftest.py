"""What tests of rankers share: stores of any number of held-out sessions, and rankings without pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessionwise.selection import rankers


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Pictures of held-out recordings take half of the time, and no number depends on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankers, "save_picture", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def make_pool(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that simulates a small pool and held-out sessions into a store, with their truth; its path."""
    from sessionwise.data.simulate import simulate_pool, write_truth
    from sessionwise.data.store import create_store

    def make(n_sessions: int, n_heldout: int, **sizes: object) -> Path:
        usual = {"seed": 1, "bad_share": 0.0, "n_trials": (60, 90), "n_units": (6, 10), "rate_hz": 15.0, "n_bins": 12}
        pool = simulate_pool(n_sessions, n_heldout, **{**usual, **sizes})
        path = tmp_path_factory.mktemp("pool") / "store"
        store = create_store(path)
        for session in pool.sessions:
            store.add(session)
        write_truth(path, pool)
        return path

    return make
