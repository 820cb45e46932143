import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionwise.model.masking import fold_of_bins, tail_mask, training_mask
from sessionwise.model.streams import stream


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(2, 40), st.integers(2, 5))
def test_folds_cover_every_bin_once_and_evenly(trials, bins, folds):
    fold = fold_of_bins("a", trials, bins, folds, seed=0)
    sizes = np.stack([(fold == f).sum(axis=1) for f in range(folds)])
    assert sizes.sum(axis=0).tolist() == [bins] * trials
    assert sizes.max() - sizes.min() <= 1


def test_folds_of_a_trial_depend_on_session_and_seed_only():
    assert (fold_of_bins("a", 50, 20, 3, 0)[:7] == fold_of_bins("a", 7, 20, 3, 0)).all()
    assert (fold_of_bins("a", 50, 20, 3, 0) != fold_of_bins("b", 50, 20, 3, 0)).any()
    assert (fold_of_bins("a", 50, 20, 3, 0) != fold_of_bins("a", 50, 20, 3, 1)).any()


def test_training_mask_has_the_ratio_and_is_never_empty():
    share = training_mask(400, 50, 0.3, stream(0, "m")).float().mean()
    assert abs(float(share) - 0.3) < 0.015
    rng = stream(1, "m")
    assert all(training_mask(1, 2, 0.05, rng).any() for _ in range(200))


def test_tail_masks_the_last_bins():
    assert tail_mask(2, 5, 2).tolist() == [[False, False, False, True, True]] * 2
