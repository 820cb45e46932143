"""Complete a table of scores, pool x held-out sessions, of which only some cells were measured.

Legend: C candidates (pool sessions), T targets (held-out sessions), n measured cells, S seeds, F features, B draws.

With each target's scores in units of their spread, a candidate c scores for a target t

    z[c, t] = column[t] + row[c] + sum_f beta[f] x[f, c, t] + u[c]' W v[t] + cell[c, t]

where ``x`` are known numbers, ``u`` and ``v`` embed candidates and targets so that their inner products are known
similarities, and everything else is Gaussian. So the table is one Gaussian process over cells, in which

    row          is how good a candidate is for everybody,
    side         is what the features explain (``beta`` has independent entries),
    interaction  makes similar candidates alike for similar targets: W with independent entries gives the covariance
                 ``u[c]'u[c'] * v[t]'v[t']``, a kernel of each side multiplied (Stegle et al., 2011; bilinear models),
    cell         is what nothing else explains; it keeps predictions of cells that were not measured humble.

A measured score is that plus noise whose size is known: trials (correlated within a target: its candidates are measured
on the same ones) and seeds. All is closed form given the four variances. Those are not chosen but averaged over a fixed
grid, each point weighted by the likelihood of the measured cells: a few dozen cells do not single one out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from sessionwise.analysis.statistics import interaction_variance
from sessionwise.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS = ("row", "side", "interaction", "cell")

# Variances of the grid, in units of the spread of a target's measured scores: a total (far below 1 where that spread is
# noise), the share of ``cell``, and how the three others divide the rest.
TOTALS = (0.1, 0.5, 1.0, 2.0)
CELL_SHARES = (0.05, 0.2, 0.5, 0.8)
_THIRDS = [(i / 3, j / 3, (3 - i - j) / 3) for i in range(4) for j in range(4 - i)]
GRID: Floats = np.array(
    [
        [total * (1 - cell) * part for part in thirds] + [total * cell]
        for total in TOTALS
        for cell in CELL_SHARES
        for thirds in _THIRDS
    ]
)

COLUMN_VARIANCE = 10.0  # next to 1, the spread of a column: its mean is all but free
SPREAD_FREEDOM = 4.0  # a column's spread is pulled to that of all as if by this many more scores
_JITTER = 1e-9


@dataclass(frozen=True, eq=False)
class Column:
    """What was measured for one target: its position ``target``, positions ``candidates`` (m,), and in bits per spike
    ``seed_scores`` (m, S) and ``trial_covariance`` (m, m): the noise, from the trials, of their means over seeds."""

    target: int
    candidates: Ints
    seed_scores: Floats
    trial_covariance: Floats

    @property
    def score(self) -> Floats:
        """(m,) mean over seeds, bits per spike."""
        mean: Floats = self.seed_scores.mean(axis=1)
        return mean


@dataclass(frozen=True, eq=False)
class Side:
    """What is known without training: ``features`` (F, C, T), F >= 1, each with mean square 1; ``candidates`` (C, C)
    and ``targets`` (T, T), positive semidefinite covariances with mean diagonal 1."""

    features: Floats
    candidates: Floats
    targets: Floats


@dataclass(frozen=True, eq=False)
class Completed:
    """The column of one target: posterior ``mean`` (C,) and ``draws`` (B, C), bits per spike, of the score that
    infinitely many trials and seeds would give; ``shares``: expected share of each of PARTS in the variance."""

    mean: Floats
    draws: Floats
    shares: dict[str, float]


def complete(
    columns: Sequence[Column], side: Side, target: int, n_draws: int, *, rng: np.random.Generator
) -> Completed:
    """The scores of all candidates for a target from the measured cells of all targets.

    Measured cells are shrunk as the model says: less, the less noise they carry. With one seed the noise between
    trainings is unknown, and counts as ``cell``. Noise of a core's pretraining goes with it to all targets, and counts
    as ``row``.

    Raises DataError if nothing was measured for the target: its level would be made up.
    """
    if not any(column.target == target and len(column.candidates) for column in columns):
        raise DataError("completion of a table", f"no measured cell for target {target}", "at least one")
    measured = [column for column in columns if len(column.candidates)]
    level, spread = levels_and_spreads(measured)
    table = _Measured.of(measured, level, spread, side)
    log_likelihood = np.array([table.log_likelihood(variances) for variances in GRID])
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    chosen, normal = rng.choice(len(GRID), n_draws, p=weight), rng.standard_normal((n_draws, len(side.candidates)))
    mean, draws = np.zeros(len(side.candidates)), np.empty_like(normal)
    wanted = table.asked(target)
    for at, variances in enumerate(GRID):
        drawn = chosen == at
        if weight[at] > 1e-9 or drawn.any():
            centre, covariance = table.posterior(variances, wanted)
            mean += weight[at] * centre
            draws[drawn] = centre + normal[drawn] @ _root(covariance).T
    own = [column.target for column in measured].index(target)
    shares = weight @ (GRID / GRID.sum(axis=1, keepdims=True))
    return Completed(
        level[own] + spread[own] * mean,
        level[own] + spread[own] * draws,
        dict(zip(PARTS, map(float, shares), strict=True)),
    )


def side_of(similarity: Floats, quality: Floats) -> Side:
    """Side information from similarities (C + T, C + T) of all recordings, candidates first, and quality (C,).

    Features: the similarity of candidate and target, centred over each target's candidates, and quality. Similarities
    among candidates, and among targets, are centred on both sides, so that an interaction has no part in rows and
    columns. The similarities are cosines of vectors (``activity.similarity``), so both are covariances.
    """
    n_candidates = len(quality)
    across = similarity[:n_candidates, n_candidates:]
    features = [across - across.mean(axis=0), np.repeat((quality - quality.mean())[:, None], across.shape[1], axis=1)]
    return Side(
        np.array([_scaled(feature, float((feature**2).mean()) ** 0.5) for feature in features]),
        _centred(similarity[:n_candidates, :n_candidates]),
        _centred(similarity[n_candidates:, n_candidates:]),
    )


def levels_and_spreads(columns: Sequence[Column]) -> tuple[Floats, Floats]:
    """Mean and spread (SD) of each column's scores, bits per spike, in their order; none of them empty.

    A variance from a few scores is poor, so it is pulled to the pooled one: (v f + V F) / (f + F), its degrees of
    freedom f, the pooled variance V, and F fixed (Smyth, 2004). 1 where all scores are equal.
    """
    sums = np.array([((column.score - column.score.mean()) ** 2).sum() for column in columns])
    freedom = np.array([len(column.candidates) - 1 for column in columns])
    pooled = sums.sum() / max(1, freedom.sum())
    variance = (sums + SPREAD_FREEDOM * pooled) / (freedom + SPREAD_FREEDOM)
    return np.array([column.score.mean() for column in columns]), np.sqrt(np.where(variance > 0, variance, 1.0))


def pooled_seed_variance(columns: Sequence[Column], spread: Floats) -> float | None:
    """Variance of one training (``statistics.interaction_variance``) in units of each column's spread, pooled.

    None with one seed, or no column of two candidates.
    """
    found = [
        (interaction_variance(c.seed_scores), len(c.candidates) - 1, s) for c, s in zip(columns, spread, strict=True)
    ]
    known = [(variance / s**2, freedom) for variance, freedom, s in found if variance is not None]
    if not known:
        return None
    return float(np.average([v for v, _ in known], weights=[freedom for _, freedom in known]))


@dataclass(frozen=True, eq=False)
class _Asked:
    """The cells of one column: ``target`` (C,), ``parts`` (4, C, C) of their covariance, ``across`` (4, n, C) of that
    with the measured cells."""

    target: Ints
    parts: Floats
    across: Floats


@dataclass(frozen=True, eq=False)
class _Measured:
    """The n measured cells: positions ``candidate``, ``target``, scores ``z`` in units of spread, their ``noise``
    (n, n), and ``parts`` (4, n, n), the covariance of each part at variance 1."""

    side: Side
    candidate: Ints
    target: Ints
    z: Floats
    noise: Floats
    parts: Floats

    @classmethod
    def of(cls, columns: Sequence[Column], level: Floats, spread: Floats, side: Side) -> _Measured:
        """The cells of all columns, whose levels and spreads these are."""
        candidate = np.concatenate([column.candidates for column in columns])
        target = np.repeat([column.target for column in columns], [len(column.candidates) for column in columns])
        z = np.concatenate([(c.score - m) / s for c, m, s in zip(columns, level, spread, strict=True)])
        noise = np.eye(len(z)) * (pooled_seed_variance(columns, spread) or 0.0) / columns[0].seed_scores.shape[1]
        start = 0
        for column, s in zip(columns, spread, strict=True):
            block = slice(start, start := start + len(column.candidates))
            noise[block, block] += column.trial_covariance / s**2
        return cls(side, candidate, target, z, noise, _parts(side, (candidate, target), (candidate, target)))

    def log_likelihood(self, variances: Floats) -> float:
        """Of the measured cells, but for a constant."""
        factor, half = self._solved(variances)
        return float(-0.5 * half @ half - np.log(np.diag(factor)).sum())

    def asked(self, target: int) -> _Asked:
        """The cells of a target's column, all candidates."""
        candidate = np.arange(len(self.side.candidates))
        cells = candidate, np.full(len(candidate), target)
        measured = self.candidate, self.target
        return _Asked(cells[1], _parts(self.side, cells, cells), _parts(self.side, measured, cells))

    def posterior(self, variances: Floats, asked: _Asked) -> tuple[Floats, Floats]:
        """(C,) mean and (C, C) covariance of the cells asked for, without noise."""
        factor, half = self._solved(variances)
        prior = _covariance(asked.parts, variances, asked.target, asked.target)
        across = _covariance(asked.across, variances, self.target, asked.target)
        reach = solve_triangular(factor, across, lower=True)
        return reach.T @ half, prior - reach.T @ reach

    def _solved(self, variances: Floats) -> tuple[Floats, Floats]:
        """The lower Cholesky factor L of the covariance of ``z``, and L^-1 z."""
        covariance = _covariance(self.parts, variances, self.target, self.target) + self.noise
        factor = cholesky(covariance, lower=True)
        return factor, solve_triangular(factor, self.z, lower=True)


def _parts(side: Side, a: tuple[Ints, Ints], b: tuple[Ints, Ints]) -> Floats:
    """(4, n, m) covariance of each of PARTS, at variance 1, between cells (candidates (n,), targets (n,)) and (m,)."""
    row = (a[0][:, None] == b[0]).astype(np.float64)
    first, second = side.features[:, a[0], a[1]], side.features[:, b[0], b[1]]
    interaction = side.candidates[np.ix_(a[0], b[0])] * side.targets[np.ix_(a[1], b[1])]
    return np.stack([row, first.T @ second / len(side.features), interaction, row * (a[1][:, None] == b[1])])


def _covariance(parts: Floats, variances: Floats, targets: Ints, others: Ints) -> Floats:
    """The parts with their variances, and columns."""
    covariance: Floats = np.tensordot(variances, parts, axes=1) + COLUMN_VARIANCE * (targets[:, None] == others)
    return covariance


def _root(covariance: Floats) -> Floats:
    """A lower triangular root; rounding may have left a variance of zero a little below."""
    scale = np.diag(covariance).max()
    factor: Floats = cholesky(covariance + _JITTER * scale * np.eye(len(covariance)), lower=True)
    return factor


def _centred(gram: Floats) -> Floats:
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1, keepdims=True) + gram.mean()
    return _scaled(centred, float(np.diag(centred).mean()))


def _scaled(values: Floats, size: float) -> Floats:
    """Values over their size; 0 where there is nothing but rounding."""
    return values / size if size > 1e-9 else np.zeros_like(values)
