"""Batches: every trial once an epoch, one session a batch, membership and order reshuffled, exact continuation."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionwise.model.streams import stream
from sessionwise.training.batches import Batches


def fake(name, trials, units):
    """A session whose counts name their trial."""
    counts = np.broadcast_to(np.arange(trials, dtype=np.uint16)[:, None, None], (trials, 4, units)).copy()
    split = SimpleNamespace(train=np.arange(trials))
    return SimpleNamespace(id=name, split=split, take=lambda part, rows: counts[rows])


def epoch(batches, rng):
    return [batches.draw(0.3, rng) for _ in range(batches.per_epoch)]


def trials_of(batch):
    return batch.counts[:, 0, 0].tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 17), st.integers(0, 5))
def test_an_epoch_holds_every_trial_of_every_session_once(sizes, batch_size, seed):
    sessions = [fake(f"s{i}", n, units=3 + i) for i, n in enumerate(sizes)]
    batches = Batches(sessions, batch_size, seed)
    for _ in range(2):
        seen = {session.id: [] for session in sessions}
        for batch in epoch(batches, stream(0, "m")):
            assert 1 <= len(batch.counts) <= batch_size
            seen[batch.session_id] += trials_of(batch)
        assert seen == {f"s{i}": sorted(seen[f"s{i}"]) and seen[f"s{i}"] for i in range(len(sizes))}
        assert all(sorted(seen[f"s{i}"]) == list(range(n)) for i, n in enumerate(sizes))


def test_membership_and_order_change_every_epoch():
    """Protocol A10: the inherited pipeline fixes which trials share a batch."""
    batches = Batches([fake("a", 40, 3), fake("b", 40, 3)], 8, seed=0)
    first, second = (epoch(batches, stream(0, "m")) for _ in range(2))
    groups = [{(b.session_id, frozenset(trials_of(b))) for b in batch} for batch in (first, second)]
    assert not groups[0] & groups[1]
    assert [b.session_id for b in first] != [b.session_id for b in second]


def test_continuing_from_a_state_gives_the_same_batches():
    batches, rng = Batches([fake("a", 23, 3)], 5, seed=1), stream(0, "m")
    for _ in range(7):
        batches.draw(0.3, rng)
    other = Batches([fake("a", 23, 3)], 5, seed=1)
    other.restore(batches.state())
    assert [trials_of(batches.draw(0.3, rng)) for _ in range(9)] == [trials_of(other.draw(0.3, rng)) for _ in range(9)]


def test_order_depends_on_seed_and_role_not_on_the_candidate():
    one, two = Batches([fake("a", 23, 3)], 5, 1, ("pretrain",)), Batches([fake("z", 23, 9)], 5, 1, ("pretrain",))
    other = Batches([fake("a", 23, 3)], 5, 1, ("finetune", "a"))
    rng = stream(0, "m")
    orders = [[trials_of(b) for b in epoch(batches, rng)] for batches in (one, two, other)]
    assert orders[0] == orders[1] != orders[2]
    assert [trials_of(b) for b in epoch(Batches([fake("a", 23, 3)], 5, seed=2), rng)] != [
        trials_of(b) for b in epoch(Batches([fake("a", 23, 3)], 5, seed=1), rng)
    ]
