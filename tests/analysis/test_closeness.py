"""Agreement between held-out sessions: planted pools, closed forms, and how often a verdict is wrong."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from sessionwise.analysis.inference import closeness_decomposition, quality_band, variance_split
from sessionwise.analysis.statistics import (
    partial_correlation,
    seed_to_seed_correlation,
    spearman,
    top_k_overlap,
)
from sessionwise.errors import DataError


def pool(
    seed: int,
    shared: float,
    specific: float,
    noise: float,
    *,
    n_targets: int = 3,
    n: int = 30,
    n_seeds: int = 2,
    by_size: float = 0.0,
) -> list[dict[str, Any]]:
    """Scores with given variances: shared by all targets (a share of it by size), of one target alone, of one seed."""
    rng = np.random.default_rng(seed)
    trials = rng.permutation(np.linspace(100, 400, n))
    size = (trials - trials.mean()) / trials.std()
    quality = math.sqrt(by_size) * size + math.sqrt(1 - by_size) * rng.normal(size=n)
    targets = []
    for h in range(n_targets):
        own = math.sqrt(shared) * quality + math.sqrt(specific) * rng.normal(size=n)
        scores = own[:, None] + math.sqrt(noise) * rng.normal(size=(n, n_seeds))
        targets.append(
            {
                "heldout": f"held-out {h}",
                "sessions": [f"session {i}" for i in range(n)],
                "seed_scores": 0.1 + 0.02 * (h + 1) * scores,
                "trials": trials,
            }
        )
    return targets


def decompose(targets: list[dict[str, Any]], seed: int = 0, n_boot: int = 300) -> dict[str, Any]:
    return closeness_decomposition(targets, rng=np.random.default_rng(seed), n_boot=n_boot)


def arrays(targets: list[dict[str, Any]]) -> list[np.ndarray]:
    return [t["seed_scores"] for t in targets]


def orders(targets: list[dict[str, Any]]) -> list[list[str]]:
    return [[t["sessions"][i] for i in np.argsort(-t["seed_scores"].mean(axis=1))] for t in targets]


# Closeness or size ----------------------------------------------------------------------------------------------------


def test_every_number_is_that_of_the_single_functions():
    targets = pool(1, 0.5, 0.5, 0.3, by_size=0.5)
    found = decompose(targets)
    means, trials = [x.mean(axis=1) for x in arrays(targets)], targets[0]["trials"]
    pairs = [(0, 1), (0, 2), (1, 2)]
    rho = np.mean([spearman(means[i], means[j]) for i, j in pairs])
    single = [seed_to_seed_correlation(x) for x in arrays(targets)]
    reliability = [2 * r / (1 + r) for r in single]
    ceiling = np.mean([math.sqrt(reliability[i] * reliability[j]) for i, j in pairs])
    assert found["cross_target_rho"]["mean"] == pytest.approx(rho)
    assert found["ceiling"]["mean"] == pytest.approx(ceiling)
    x = arrays(targets)  # single seeds of one target with other seeds of another
    unlike = np.mean([spearman(x[i][:, s], x[j][:, 1 - s]) for i, j in pairs for s in (0, 1)])
    top = np.mean([math.sqrt(single[i] * single[j]) for i, j in pairs])
    assert found["cross_seed_rho"]["mean"] == pytest.approx(unlike)
    assert found["shared"]["mean"] == pytest.approx(unlike / top)
    assert found["rho_trials"]["mean"] == pytest.approx(np.mean([spearman(m, trials) for m in means]))
    given = np.mean(
        [partial_correlation(x[i][:, s], x[j][:, 1 - s], trials) for i, j in pairs for s in (0, 1)],
    )
    assert found["partial_rho"]["mean"] == pytest.approx(given)
    for h, row in enumerate(found["per_heldout"]):
        assert row["heldout"] == f"held-out {h}"
        assert row["rho_trials"]["mean"] == pytest.approx(spearman(means[h], trials))
        assert row["reliability"]["mean"] == pytest.approx(reliability[h])
    assert (found["n_sessions"], found["n_targets"]) == (30, 3)
    for name in ("cross_target_rho", "ceiling", "shared", "rho_trials", "partial_rho", "partial_shared"):
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"], name


def test_planted_shares_of_variance_come_back():
    """Shared 0.3, specific 0.5, noise 0.4 / 2 of a total of 1."""
    found = decompose(pool(2, 0.3, 0.5, 0.4, n_targets=5, n=400), n_boot=50)["variance"]
    assert found["shared"]["mean"] == pytest.approx(0.3, abs=0.06)
    assert found["specific"]["mean"] == pytest.approx(0.5, abs=0.06)
    assert found["noise"]["mean"] == pytest.approx(0.2, abs=0.03)
    assert sum(found[name]["mean"] for name in found) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_size_is_told_from_closeness(seed: int):
    size = decompose(pool(seed, 1.0, 0.0, 0.15, by_size=0.8))
    assert size["verdict"] == "quality" and size["reason"] is None
    assert size["shared"]["mean"] == pytest.approx(1, abs=0.12)
    close = decompose(pool(seed, 0.15, 0.85, 0.15, by_size=0.8))
    assert close["verdict"] == "closeness" and close["reason"] is None
    assert close["shared"]["high"] < 0.75


def test_the_luck_of_a_core_is_not_shared_quality():
    """All targets use the same cores: noise that a core's seed brings to all of them is not what sessions are worth."""
    rng = np.random.default_rng(3)
    quality, cores = rng.normal(size=(400, 1)), rng.normal(size=(400, 2))
    targets = pool(3, 0.0, 0.4, 0.0, n_targets=4, n=400)
    for h, t in enumerate(targets):
        t["seed_scores"] = t["seed_scores"] + 0.02 * (h + 1) * (math.sqrt(0.6) * quality + math.sqrt(0.4) * cores)
    found = decompose(targets, n_boot=50)
    assert found["shared"]["mean"] == pytest.approx(0.6, abs=0.08)
    assert found["cross_target_rho"]["mean"] / found["ceiling"]["mean"] > 0.72  # what means over seeds would say
    assert found["variance"]["shared"]["mean"] == pytest.approx(0.6 / 1.2, abs=0.06)


def test_what_is_shared_beyond_size_is_said():
    """All that is shared is size: given the trials, targets agree on nothing. With other qualities, they do."""
    only_size = decompose(pool(4, 0.6, 0.4, 0.1, by_size=1.0, n=200), n_boot=50)
    more = decompose(pool(4, 0.6, 0.4, 0.1, by_size=0.2, n=200), n_boot=50)
    assert only_size["cross_target_rho"]["mean"] > 0.45
    assert only_size["partial_rho"]["mean"] == pytest.approx(0, abs=0.12)
    assert more["partial_rho"]["mean"] > 0.35 and more["partial_shared"]["low"] > 0.3


def test_noise_is_undecided():
    verdicts = Counter(decompose(pool(seed, 0, 0, 1, n=15), n_boot=150)["verdict"] for seed in range(60))
    assert verdicts["undecided"] >= 57


def test_a_pool_on_the_threshold_is_undecided():
    """Three quarters in common: either verdict is wrong, and both together come in one of ten studies at most."""
    verdicts = Counter(decompose(pool(seed, 0.75, 0.25, 0.15, n=20), n_boot=150)["verdict"] for seed in range(80))
    assert verdicts["undecided"] >= 0.9 * 80


def test_trials_that_are_noise_are_no_closeness():
    """Each target measures sessions on its own trials. Told how much that adds, a shared quality is seen again."""
    targets = pool(5, 0.7, 0.3, 0.05, n=200)  # 0.3 from the trials: it comes back over seeds, not over targets
    for h, t in enumerate(targets):
        t["trial_variance"] = 0.3 * (0.02 * (h + 1)) ** 2
    blind = [{k: v for k, v in t.items() if k != "trial_variance"} for t in targets]
    assert decompose(targets, n_boot=100)["shared"]["mean"] == pytest.approx(1, abs=0.12)
    assert decompose(blind, n_boot=100)["shared"]["mean"] == pytest.approx(0.7, abs=0.1)


def test_scale_and_names_of_targets_do_not_matter():
    targets = pool(6, 0.5, 0.5, 0.3)
    scaled = [{**t, "seed_scores": 3 + 10 * (h + 1) * t["seed_scores"]} for h, t in enumerate(targets)]
    one, other = decompose(targets), decompose(scaled)
    for name in ("cross_target_rho", "shared", "partial_rho"):
        assert one[name] == pytest.approx(other[name])
    assert one["verdict"] == other["verdict"]


@pytest.mark.parametrize(
    "targets, words",
    (
        (pool(0, 0.5, 0.5, 0.1, n_targets=1), "fewer than two held-out"),
        (pool(0, 0.5, 0.5, 0.1, n=2), "fewer than three sessions"),
        (pool(0, 0.5, 0.5, 0.1, n_seeds=1), "one seed"),
        (pool(0, 0, 0, 0), "equal"),
        ([], "fewer than two held-out"),
    ),
)
def test_what_cannot_be_judged_says_why(targets: list[dict[str, Any]], words: str):
    found = decompose(targets, n_boot=20)
    assert found["verdict"] == "undecided" and words in found["reason"]
    assert (found["shared"], found["variance"], found["p_noise"]) == (None, None, None)


def test_three_sessions_give_numbers_but_no_verdict():
    found = decompose(pool(1, 0.5, 0.5, 0.1, n=3))
    assert found["verdict"] == "undecided" and found["cross_target_rho"]["mean"] is not None


def test_equal_numbers_of_trials_leave_the_plain_correlation():
    targets = [{**t, "trials": np.full(30, 100.0)} for t in pool(1, 0.5, 0.5, 0.1)]
    found = decompose(targets)
    assert found["rho_trials"]["mean"] is None
    assert found["partial_rho"]["mean"] == pytest.approx(found["cross_seed_rho"]["mean"])


def test_a_seed_to_which_all_are_equal_decides_nothing():
    targets = pool(1, 0.5, 0.5, 0.1)
    targets[0]["seed_scores"][:, 1] = 0.1
    found = decompose(targets)
    assert found["verdict"] == "undecided" and found["ceiling"]["mean"] is None


def test_other_sessions_are_refused():
    targets = pool(1, 0.5, 0.5, 0.1)
    for change in (
        {"sessions": targets[0]["sessions"][::-1]},
        {"sessions": targets[0]["sessions"][:-1]},
        {"trials": [math.nan] * 30},
        {"seed_scores": np.full((30, 2), math.inf)},
        {"trial_variance": -1.0},
    ):
        with pytest.raises(DataError):
            decompose([*targets[:2], {**targets[2], **change}])


# The band under shared quality ----------------------------------------------------------------------------------------


def outside(targets: list[dict[str, Any]], seed: int) -> tuple[int, int]:
    """At how many k the overlap lies below and above the band."""
    band = quality_band(arrays(targets), rng=np.random.default_rng(seed), n_draws=400)
    size = top_k_overlap(orders(targets), np.random.default_rng(seed), 2).size
    return int((size < band.low).sum()), int((size > band.high).sum())


def test_the_band_holds_lists_of_one_quality():
    shares = [sum(outside(pool(seed, 1, 0, 0.3), seed)) / 30 for seed in range(40)]
    assert np.mean(shares) < 0.08


def test_specific_lists_lie_below_the_band():
    below = [outside(pool(seed, 0.3, 0.7, 0.1), seed)[0] for seed in range(20)]
    assert np.mean(np.array(below) >= 5) >= 0.95


def test_without_noise_all_lists_are_one():
    targets = pool(1, 1, 0, 0)
    band = quality_band(arrays(targets), rng=np.random.default_rng(0), n_draws=50)
    np.testing.assert_array_equal(band.low, np.arange(1, 31))
    np.testing.assert_allclose(band.reliability, 1)


def test_noise_alone_gives_random_orders():
    """Reliability 0: three random orders share 30 (k / 30)^3 sessions."""
    rng = np.random.default_rng(3)
    flat = [x - x.mean(axis=1, keepdims=True) + 1e-3 * rng.normal(size=(30, 1)) for x in arrays(pool(1, 0, 0, 1))]
    band = quality_band(flat, rng=rng, n_draws=4000)
    assert (band.reliability == 0).all()
    np.testing.assert_allclose(band.expected, 30 * (band.k / 30) ** 3, atol=0.25)
    assert band.low[-1] == band.high[-1] == 30


def test_the_noise_of_trials_lowers_the_band():
    scores = arrays(pool(1, 1, 0, 0.1))
    wide = quality_band(scores, rng=np.random.default_rng(0), trial_variance=[1e-4, 4e-4, 9e-4])
    plain = quality_band(scores, rng=np.random.default_rng(0))
    assert (wide.reliability < plain.reliability).all()
    assert wide.expected[10] < plain.expected[10] - 0.5


def test_no_band_without_seeds_or_targets():
    for scores in (arrays(pool(1, 1, 0, 1, n_seeds=1)), arrays(pool(1, 1, 0, 1, n_targets=1)), []):
        band = quality_band(scores, rng=np.random.default_rng(0))
        assert band.low is None and band.reason
    with pytest.raises(DataError):
        quality_band([np.zeros((3, 2)), np.zeros((4, 2))], rng=np.random.default_rng(0))
    with pytest.raises(DataError):
        quality_band([np.full((3, 2), math.nan)] * 2, rng=np.random.default_rng(0))
    with pytest.raises(DataError):
        quality_band(arrays(pool(1, 1, 0, 1)), rng=np.random.default_rng(0), trial_variance=[0.1])


# Variance of the all-to-all matrix ------------------------------------------------------------------------------------

NAMES = ("source", "target", "interaction", "seed")


def planted(seed: int, n: int, n_seeds: int, sds: tuple[float, ...], hole: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    source, target, pair, noise = sds
    x = source * rng.normal(size=(n, 1, 1)) + target * rng.normal(size=(1, n, 1)) + pair * rng.normal(size=(n, n, 1))
    x = x + noise * rng.normal(size=(n, n, n_seeds)) + 0.1
    if hole:
        x[np.arange(n), np.arange(n)] = np.nan
    return x


def test_a_complete_table_is_the_textbook_s():
    """Two-way random effects with replicates: expected mean squares, solved by hand."""
    x = planted(1, 6, 3, (0.3, 0.5, 0.2, 0.1), hole=False)
    n, r = 6, 3
    rows, columns, cells, grand = x.mean(axis=(1, 2)), x.mean(axis=(0, 2)), x.mean(axis=2), x.mean()
    ms_source = n * r * ((rows - grand) ** 2).sum() / (n - 1)
    ms_target = n * r * ((columns - grand) ** 2).sum() / (n - 1)
    rest = cells - rows[:, None] - columns[None] + grand
    ms_pair = r * (rest**2).sum() / (n - 1) ** 2
    ms_seed = ((x - cells[:, :, None]) ** 2).sum() / (n * n * (r - 1))
    found = variance_split(x)
    wanted = (ms_source - ms_pair) / (n * r), (ms_target - ms_pair) / (n * r), (ms_pair - ms_seed) / r, ms_seed
    for name, value in zip(NAMES, wanted, strict=True):
        assert found[name]["variance"] == pytest.approx(max(0, value)), name
        assert found[name]["share"] == pytest.approx(max(0, value) / sum(max(0, v) for v in wanted))
    assert found["reason"] is None and found["n"] == 108


def test_estimates_are_unbiased_with_holes():
    """Sources that are their own targets, and a tenth of the runs lost: the means of the estimates are the truth."""
    sds = (0.3, 0.5, 0.4, 0.2)
    estimates = []
    for seed in range(150):
        x = planted(seed, 9, 2, sds)
        x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
        found = variance_split(x)
        estimates.append([found[name]["variance"] for name in NAMES])
    error = np.std(estimates, axis=0) / math.sqrt(150)
    np.testing.assert_array_less(np.abs(np.mean(estimates, axis=0) - np.square(sds)), 3.5 * error)


def test_planted_variances_come_back():
    sds = (0.3, 0.5, 0.4, 0.2)
    found = variance_split(planted(3, 60, 2, sds))
    for name, sd in zip(NAMES, sds, strict=True):
        assert found[name]["variance"] == pytest.approx(sd**2, rel=0.35), name
    assert sum(found[name]["share"] for name in NAMES) == pytest.approx(1)


def test_one_seed_leaves_interaction_and_seed_together():
    found = variance_split(planted(3, 60, 1, (0.3, 0.5, 0.4, 0.2)))
    assert found["interaction"]["variance"] is found["seed"]["variance"] is None and found["reason"]
    assert found["interaction_and_seed"]["variance"] == pytest.approx(0.2, rel=0.1)
    assert found["target"]["variance"] == pytest.approx(0.25, rel=0.4)


def test_the_mean_and_the_order_of_a_table_do_not_matter():
    x = planted(4, 7, 2, (0.3, 0.5, 0.4, 0.2))
    one, other = variance_split(x), variance_split(100 + x[::-1, :, ::-1])
    for name in NAMES:
        assert one[name]["variance"] == pytest.approx(other[name]["variance"], abs=1e-9)


@pytest.mark.parametrize(
    "x",
    (
        np.full((3, 3, 2), np.nan),
        np.ones((1, 4, 2)),
        np.where(np.eye(3)[:, :, None] > 0, 0.1, np.nan) * np.ones(2),
        planted(1, 2, 2, (0.1,) * 4),
    ),
)
def test_a_table_that_tells_nothing_says_so(x: np.ndarray):
    found = variance_split(x)
    assert found["reason"] and all(found[name] == {"variance": None, "share": None} for name in NAMES)


def test_equal_scores_have_no_shares():
    found = variance_split(np.full((4, 4, 2), 0.1))
    assert [found[name]["variance"] for name in NAMES] == pytest.approx([0] * 4, abs=1e-12)


def test_only_nan_means_missing():
    with pytest.raises(DataError):
        variance_split(np.full((3, 3, 2), math.inf))
    with pytest.raises(DataError):
        variance_split(np.zeros((3, 3)))
