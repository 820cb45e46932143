"""Who may be in the pool: leaks by id and by content are refused before anything is trained (D35, S1)."""

import numpy as np
import pytest

from sessionwise.data.session import make_session
from sessionwise.data.store import create_store, open_store
from sessionwise.errors import EXIT_LEAKAGE, LeakageError, Problems, UsageError
from sessionwise.selection.pool import choose_pool, is_filter

HELDOUT = "sim-heldout-0"


@pytest.fixture
def sessions(toy_store):
    return open_store(toy_store)


def copy_with(sessions, tmp_path, new_id, counts):
    """The store plus one more session."""
    store = create_store(tmp_path / "store")
    for name in sessions:
        store.add(sessions.session(name))
    target = sessions.session(HELDOUT)
    store.add(make_session(new_id, counts, target.bin_s, target.window_s))
    return open_store(store.path)


def test_default_pool_is_everything_else(sessions):
    assert choose_pool(sessions, [HELDOUT], None) == ["sim-00", "sim-01", "sim-02", "sim-03"]
    assert choose_pool(sessions, [HELDOUT, "sim-01"], None) == ["sim-00", "sim-02", "sim-03"]


@pytest.mark.parametrize("pool", ["sim-02,sim-00", "sim-00, sim-02", ["sim-00", "sim-02"]])
def test_named_pool_has_no_order(sessions, pool):
    assert choose_pool(sessions, [HELDOUT], pool) == ["sim-00", "sim-02"]


def test_filter_keeps_the_held_out_session_out(sessions):
    subject = sessions.info("sim-00").subject
    wanted = [i for i in sessions if i != HELDOUT and sessions.info(i).subject == subject]
    assert choose_pool(sessions, [HELDOUT], f"subject == {subject}") == wanted
    assert is_filter("n_trials>=100") and is_filter("subject != Hench") and not is_filter("a-b_c,d.e")


def test_held_out_session_named_in_the_pool_is_a_leak(sessions):
    with pytest.raises(LeakageError, match="sim-heldout-0: LEAK: it is also in the pool") as caught:
        choose_pool(sessions, [HELDOUT], ["sim-00", HELDOUT])
    assert caught.value.exit_code == EXIT_LEAKAGE


@pytest.mark.parametrize("other", ["SIM-Heldout-0", "sim-heldout-0_aligned", "sim-heldout-0 "])
def test_same_id_but_for_case_form_or_suffix_is_a_leak(sessions, tmp_path, other):
    counts = np.random.default_rng(0).poisson(1.0, sessions.session(HELDOUT).counts.shape)
    store = copy_with(sessions, tmp_path, other, counts)
    with pytest.raises(LeakageError, match="but for case, Unicode form or suffix"):
        choose_pool(store, [HELDOUT], None)


def test_same_content_under_another_id_is_a_leak(sessions, tmp_path):
    """Some trials are enough, in any order and stored type."""
    counts = np.array(sessions.session(HELDOUT).counts)[::-1][:20].astype(np.uint16)
    store = copy_with(sessions, tmp_path, "innocent", counts)
    with pytest.raises(LeakageError, match="innocent holds 20 identical trials"):
        choose_pool(store, [HELDOUT], None)
    assert "innocent" not in choose_pool(store, [HELDOUT], ["sim-00"])


def test_leakage_is_named_first_among_several_problems(sessions):
    with pytest.raises(Problems) as caught:
        choose_pool(sessions, [HELDOUT, HELDOUT], ["sim-0", HELDOUT, "sim-00"])
    assert caught.value.exit_code == EXIT_LEAKAGE
    assert isinstance(caught.value.problems[0], LeakageError)
    assert "Did you mean 'sim-0" in str(caught.value) and "named twice" in str(caught.value)


@pytest.mark.parametrize("pool", [[], "subject == nobody"])
def test_empty_pool_is_refused(sessions, pool):
    with pytest.raises((UsageError, Problems), match=r"no session is left|names no session"):
        choose_pool(sessions, [HELDOUT], pool)
