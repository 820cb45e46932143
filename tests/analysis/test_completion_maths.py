"""Completing a table: the function-space posterior against one in weight space, and hundreds of synthetic tables."""

import numpy as np
import pytest

from sessionwise.analysis import completion
from sessionwise.analysis.completion import (
    GRID,
    PARTS,
    Column,
    Side,
    complete,
    levels_and_spreads,
    pooled_seed_variance,
    side_of,
)
from sessionwise.errors import DataError

C, T, DRAWS = 15, 6, 400
ALONE = {part: np.eye(len(PARTS))[at] for at, part in enumerate(PARTS)}


def similarities(rng, n=C + T, dim=4):
    """Cosines of random directions with a common part, as those of activity have."""
    vectors = rng.standard_normal((n, dim)) + 1.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def side(rng):
    return side_of(similarities(rng), rng.standard_normal(C))


def table(rng, known, variances):
    """(C, T) a table drawn from the model, in weight space, on a scale of about 0.02 bits per spike around 0.2."""
    row, beta, weights, cell = np.sqrt(variances)
    u, v = root(known.candidates), root(known.targets)
    z = row * rng.standard_normal((C, 1)) + cell * rng.standard_normal((C, T))
    z = z + np.tensordot(beta * rng.standard_normal(2) / np.sqrt(2), known.features, axes=1)
    z = z + u @ (weights * rng.standard_normal((u.shape[1], v.shape[1]))) @ v.T
    return 0.2 + 0.05 * rng.standard_normal(T) + 0.02 * z


def root(gram):
    """(n, d) embedding with these inner products."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.clip(values, 0, None))


def measure(rng, truth, n_seeds=3, noise=0.004, each=5, taken=None):
    """Columns of balanced measured cells; noise of each training, none from trials unless asked for."""
    taken, columns = np.zeros(C), []
    for t in range(T):
        chosen = np.sort(np.lexsort((rng.random(C), taken))[:each])
        taken[chosen] += 1
        scores = truth[chosen, t, None] + noise * rng.standard_normal((each, n_seeds))
        columns.append(Column(t, chosen, scores, np.zeros((each, each))))
    return columns


def row_means(columns):
    """(C,) mean over the targets of a candidate's scores less their target's mean, pulled to 0 as by one more score."""
    total, count = np.zeros(C), np.zeros(C)
    for column in columns:
        total[column.candidates] += column.score - column.score.mean()
        count[column.candidates] += 1
    return total / (count + 1)


def error_of(estimate, truth):
    """What matters for an order: the error of a column but for its level."""
    difference = estimate - truth
    return float(((difference - difference.mean()) ** 2).mean())


def test_the_grid_is_of_variances_with_some_for_each_part():
    assert GRID.shape == (160, 4) and (GRID[:, :3] >= 0).all() and (GRID[:, 3] > 0).all()
    assert sorted({float(total) for total in GRID.sum(axis=1).round(12)}) == [0.1, 0.5, 1.0, 2.0]
    assert all((GRID[:, at] > 0).any() for at in range(4))


@pytest.mark.parametrize("target", [0, 4])
def test_the_posterior_is_that_of_a_regression_on_weights(monkeypatch, target):
    """Columns, rows, betas, W and cells as coefficients of a linear regression with Gaussian priors."""
    rng, variances = np.random.default_rng(1), np.array([0.5, 0.3, 0.7, 0.2])
    known = side(rng)
    columns = measure(rng, table(rng, known, variances))
    for column in columns:
        mixing = rng.standard_normal((len(column.candidates), 8)) * 0.002
        column.trial_covariance[:] = mixing @ mixing.T
    monkeypatch.setattr(completion, "GRID", variances[None])
    found = complete(columns, known, target, 20_000, rng=rng)

    u, v = root(known.candidates), root(known.targets)
    cells = [(c, t) for t in range(T) for c in range(C)]
    design = np.array(
        [
            np.concatenate(
                [np.eye(T)[t], np.eye(C)[c], known.features[:, c, t], np.outer(u[c], v[t]).ravel(), np.eye(C * T)[at]]
            )
            for at, (c, t) in enumerate(cells)
        ]
    )
    blocks = (T, 10.0), (C, 0.5), (2, 0.3 / 2), (u.size // C * v.shape[1], 0.7), (C * T, 0.2)
    prior = np.concatenate([np.full(size, variance) for size, variance in blocks])
    level, spread = levels_and_spreads(columns)
    at = [cells.index((c, column.target)) for column in columns for c in column.candidates]
    z = np.concatenate([(c.score - m) / s for c, m, s in zip(columns, level, spread, strict=True)])
    noise = np.eye(len(z)) * pooled_seed_variance(columns, spread) / 3
    for i, column in enumerate(columns):
        noise[5 * i : 5 * i + 5, 5 * i : 5 * i + 5] += column.trial_covariance / spread[i] ** 2
    seen, precision = design[at], np.linalg.inv(noise)
    covariance = np.linalg.inv(np.diag(1 / prior) + seen.T @ precision @ seen)
    column = design[[cells.index((c, target)) for c in range(C)]]
    mean = column @ covariance @ seen.T @ precision @ z
    sd = np.sqrt(np.diag(column @ covariance @ column.T))
    assert found.mean == pytest.approx(level[target] + spread[target] * mean, abs=1e-9)
    assert found.draws.mean(axis=0) == pytest.approx(found.mean, abs=5 * spread[target] / np.sqrt(20_000))
    assert found.draws.std(axis=0) == pytest.approx(spread[target] * sd, rel=0.05)


def test_without_side_information_it_is_the_shrunk_mean_of_a_row(monkeypatch):
    """Columns at their level, variances v of rows and e of cells: a row of k scores is v sum / (k v + e)."""
    rng, (v, e) = np.random.default_rng(2), (0.6, 0.4)
    nothing = Side(np.zeros((1, C, T)), np.zeros((C, C)), np.zeros((T, T)))
    columns = measure(rng, rng.standard_normal((C, T)), n_seeds=1)
    monkeypatch.setattr(completion, "GRID", np.array([[v, 0, 0, e]]))
    monkeypatch.setattr(completion, "COLUMN_VARIANCE", 0.0)
    level, spread = levels_and_spreads(columns)
    total, count = np.zeros(C), np.zeros(C)
    for column in columns:
        total[column.candidates] += (column.score - level[column.target]) / spread[column.target]
        count[column.candidates] += 1
    expected = level[0] + spread[0] * v * total / (count * v + e)
    found = complete(columns, nothing, 0, DRAWS, rng=rng).mean
    unseen = np.setdiff1d(np.arange(C), columns[0].candidates)
    assert found[unseen] == pytest.approx(expected[unseen])
    assert found[columns[0].candidates] == pytest.approx(columns[0].score)  # one seed, no trials: nothing to shrink by


def errors(variances, n_tables=60, **how):
    """(n, 2) mean errors over tables, of the completion and of shrunk row means."""
    found = []
    for seed in range(n_tables):
        rng = np.random.default_rng([3, seed])
        known = side(rng)
        truth = table(rng, known, np.array(variances))
        columns = measure(rng, truth, **how)
        target = seed % T
        predicted = complete(columns, known, target, 1, rng=rng).mean
        found.append([error_of(predicted, truth[:, target]), error_of(row_means(columns), truth[:, target])])
    return np.array(found)


def test_it_beats_row_means_where_side_information_explains_the_interaction():
    completed, rows = errors([0.3, 0.5, 0.3, 0.05]).mean(axis=0)
    assert completed < 0.6 * rows


def test_it_is_no_worse_than_row_means_where_there_is_nothing_but_rows():
    """Unseen cells only count alike: row means do not use that a cell itself was measured."""
    completed, rows = errors([0.8, 0.0, 0.0, 0.05]).mean(axis=0)
    assert completed < 1.05 * rows


@pytest.mark.parametrize("trials", [0.0, 0.01])
def test_the_intervals_are_calibrated(trials):
    """80 % intervals of differences within a column (its level aside) hold 70 to 90 %, measured cells and others."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(60):
        rng = np.random.default_rng([4, seed])
        known = side(rng)
        truth = table(rng, known, GRID[rng.integers(len(GRID))])
        columns = measure(rng, truth)
        for column in columns:  # noise that the candidates of a target share in part
            mixing = trials * rng.standard_normal((len(column.candidates), 20)) / np.sqrt(20)
            column.trial_covariance[:] = mixing @ mixing.T
            column.seed_scores[:] += (mixing @ rng.standard_normal(20))[:, None]
        found = complete(columns, known, 0, DRAWS, rng=rng)
        centred = found.draws - found.draws.mean(axis=1, keepdims=True)
        low, high = np.quantile(centred, [0.1, 0.9], axis=0)
        inside = (low < truth[:, 0] - truth[:, 0].mean()) & (truth[:, 0] - truth[:, 0].mean() < high)
        for candidate in range(C):
            hits[candidate in columns[0].candidates].append(bool(inside[candidate]))
    assert 0.7 < np.mean(hits[True]) < 0.9 and 0.7 < np.mean(hits[False]) < 0.9


def test_the_likelihood_finds_the_part_that_made_the_table():
    for part in PARTS:
        shares = []
        for seed in range(10):
            rng = np.random.default_rng([5, seed])
            known = side(rng)
            truth = table(rng, known, ALONE[part])
            shares.append(complete(measure(rng, truth, each=10), known, 0, 1, rng=rng).shares[part])
        assert np.mean(shares) > 0.5, part


def test_noisy_measurements_are_shrunk_more():
    rng = np.random.default_rng(6)
    known = side(rng)
    truth = table(rng, known, np.array([0.5, 0.2, 0.2, 0.2]))
    columns = measure(rng, truth, noise=0.0)
    moved = []
    for size in (1e-8, 0.01, 0.03):
        noisy = [Column(c.target, c.candidates, c.seed_scores, size**2 * np.eye(len(c.candidates))) for c in columns]
        found = complete(noisy, known, 0, 1, rng=rng)
        moved.append(np.abs(found.mean[columns[0].candidates] - columns[0].score).mean())
    assert moved[0] < 1e-6 < moved[1] < moved[2]


def test_noise_alone_is_not_taken_for_differences():
    """Scores that differ by seeds only: what is left of their spread is small, and no part stands out."""
    left, shares = [], []
    for seed in range(20):
        rng = np.random.default_rng([11, seed])
        columns = measure(rng, np.full((C, T), 0.2), noise=0.02)
        found = complete(columns, side(rng), 0, 1, rng=rng)
        left.append(found.mean.std() / columns[0].score.std())
        shares.append([found.shares[part] for part in PARTS])
    assert np.mean(left) < 0.4 and np.mean(shares, axis=0).max() < 0.5


def test_scores_of_the_other_scale_and_level_are_the_same_order():
    """A target with twice the spread and another level changes nothing but its own scale."""
    rng = np.random.default_rng(7)
    known = side(rng)
    columns = measure(rng, table(rng, known, np.array([0.5, 0.5, 0.5, 0.2])))
    one = complete(columns, known, 0, 5, rng=np.random.default_rng(0))
    other = [Column(c.target, c.candidates, 3 + 2 * c.seed_scores, c.trial_covariance) for c in columns]
    two = complete(other, known, 0, 5, rng=np.random.default_rng(0))
    assert two.mean == pytest.approx(3 + 2 * one.mean) and two.draws == pytest.approx(3 + 2 * one.draws)


def test_the_spread_of_few_scores_is_pulled_to_that_of_all():
    columns = [
        Column(0, np.arange(3), np.array([[0.0], [1.0], [2.0]]), np.zeros((3, 3))),
        Column(1, np.arange(2), np.array([[5.0], [5.0]]), np.zeros((2, 2))),
    ]
    level, spread = levels_and_spreads(columns)
    pooled = 2 / 3  # sums of squares 2 and 0, with 2 and 1 degrees of freedom
    assert level == pytest.approx([1, 5])
    assert spread**2 == pytest.approx([(2 + 4 * pooled) / 6, 4 * pooled / 5])
    flat = [Column(0, np.arange(2), np.ones((2, 2)), np.zeros((2, 2)))]
    assert levels_and_spreads(flat)[1] == pytest.approx([1.0])


def test_seed_noise_is_pooled_over_targets():
    rng = np.random.default_rng(8)
    scores = 0.3 * rng.standard_normal((2, 200, 3))
    columns = [Column(t, np.arange(200), scores[t] * (t + 1), np.zeros((200, 200))) for t in range(2)]
    assert pooled_seed_variance(columns, np.array([1.0, 2.0])) == pytest.approx(0.09, rel=0.1)
    one_seed = [Column(0, np.arange(3), np.zeros((3, 1)), np.zeros((3, 3)))]
    assert pooled_seed_variance(one_seed, np.ones(1)) is None


def test_the_side_information_has_no_part_in_columns_and_interactions_none_in_rows():
    rng = np.random.default_rng(9)
    known = side(rng)
    assert known.features.mean(axis=1) == pytest.approx(np.zeros((2, T)), abs=1e-12)
    assert (known.features**2).mean(axis=(1, 2)) == pytest.approx([1, 1])
    for gram in (known.candidates, known.targets):
        assert gram.sum(axis=0) == pytest.approx(np.zeros(len(gram)), abs=1e-9)
        assert np.diag(gram).mean() == pytest.approx(1) and np.linalg.eigvalsh(gram).min() > -1e-9
    alike = side_of(np.ones((5, 5)), np.zeros(3))
    assert not alike.features.any() and not alike.candidates.any() and not alike.targets.any()


def test_nothing_is_made_up_for_a_target_without_a_measured_cell():
    rng = np.random.default_rng(10)
    known = side(rng)
    columns = measure(rng, table(rng, known, np.full(4, 0.3)))
    empty = Column(5, np.zeros(0, dtype=int), np.zeros((0, 3)), np.zeros((0, 0)))
    with pytest.raises(DataError, match="no measured cell for target 5"):
        complete([*columns[:5], empty], known, 5, 10, rng=rng)
    assert np.isfinite(complete([*columns[:5], empty], known, 0, 10, rng=rng).draws).all()
