"""Verdicts on the paper's claims, from studies made so that each claim holds, fails, or cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from study_fixture import BASELINE, HELDOUT, LEVELS, SHIFT, SIZES, level_of, make_results

from sessionwise.analysis.cells import Grid
from sessionwise.analysis.claim_judging import both, verdict
from sessionwise.analysis.claims import ORDER, claims, extrapolation, session_specific
from sessionwise.analysis.estimates import Estimator, Found, percent
from sessionwise.analysis.scaling import fits

N_BOOT = 200


def judged(name: str | None = None, *, allow_missing: bool = False, **made: Any) -> Any:
    """The claims about a study without controls and rankings, or one of them."""
    made = {"spread": 5e-4, "noise": 0.003, **made}
    grid = Grid(make_results(controls=False, rankings=False, **made), allow_missing=allow_missing)
    found = {claim["id"]: claim for claim in claims(grid, Estimator(N_BOOT), fits(grid, N_BOOT), None)}
    return found if name is None else found[name]


def levels(**changes: Sequence[float]) -> Callable[[int, str, str, int | None], float]:
    return level_of({**LEVELS, **changes}, SIZES)


# The rule -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "threshold", "word"),
    [
        (Found(0.02, 0.01, 0.03), 0.0, "supported"),
        (Found(-0.02, -0.03, -0.01), 0.0, "not supported"),
        (Found(0.02, -0.01, 0.05), 0.0, "undecided"),
        (Found(0.02, 0.0, 0.05), 0.0, "undecided"),
        (Found(60.0, 40.0, 80.0), 50.0, "undecided"),
        (Found(60.0, 55.0, 65.0), 50.0, "supported"),
        (Found(40.0, 35.0, 45.0), 50.0, "not supported"),
        (Found(0.02, 0.01, 0.03, doubt="one seed"), 0.0, "undecided"),
        (Found(0.02, None, None), 0.0, "undecided"),
        (Found(reason="a run is missing"), 0.0, "not measured"),
    ],
)
def test_the_rule(found: Found, threshold: float, word: str) -> None:
    assert verdict(found, threshold) == word


def test_two_claims_together() -> None:
    words = ("supported", "undecided", "not supported", "not measured")
    expected = {(a, b): words[max(words.index(a), words.index(b))] for a in words for b in words}
    assert {(a, b): both(a, b) for a in words for b in words} == expected


def test_percentages_need_a_positive_base() -> None:
    found = percent(np.array([0.2, 0.2, 0.2]), np.array([0.1, 0.0, -0.1]))
    assert found[0] == pytest.approx(100.0) and np.isnan(found[1:]).all()


# A study in which the paper's claims hold -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def holds() -> dict[str, Any]:
    ranked, random = (0.150, 0.158, 0.165, 0.169, 0.150), (0.100, 0.120, 0.135, 0.158, 0.150)
    return judged(level=levels(random=random, ranked=ranked, reverse_ranked=(0.080, 0.090, 0.100, 0.120, 0.150)))


def test_every_claim_is_judged_in_the_paper_s_order(holds: dict[str, Any]) -> None:
    assert tuple(holds) == ORDER
    for claim in holds.values():
        assert claim["text"] and claim["paper"] and claim["rule"]
        assert claim["verdict"] in ("supported", "not supported", "undecided", "not measured")
        assert (claim["value"] is None) == (claim["verdict"] == "not measured")
        assert claim["note"] or claim["verdict"] != "not measured"


def test_the_values_are_those_of_the_fixture(holds: dict[str, Any]) -> None:
    ranked, random = np.array([0.150, 0.158, 0.165, 0.169]), np.array([0.100, 0.120, 0.135, 0.158])
    reverse = np.array([0.080, 0.090, 0.100, 0.120])
    bases = [BASELINE + shift for shift in SHIFT[:3]]
    ones = [[level + shift for shift in SHIFT[:3]] for level in (0.100, 0.150)]
    expected = {
        "ranked_above_random": float(np.mean(ranked - random)),
        "random_above_reverse": float(np.mean(random - reverse)),
        "top_above_best_random": 0.165 - 0.158,
        "top_above_all": 0.165 - 0.150,
        "best_random_above_all": 0.158 - 0.150,
        "points_gain": float(np.mean([100 * (0.169 - 0.158) / base for base in bases])),
        "data_efficiency": 5 / 3,
        "top_share": 100 * (0.165 - BASELINE) / (0.169 - BASELINE),
        "weaker_scaling_ranked": float(
            np.mean([100 * np.mean(random[1:] - 0.100) / one for one in ones[0]])
            - np.mean([100 * np.mean(ranked[1:] - 0.150) / one for one in ones[1]])
        ),
    }
    for name, value in expected.items():
        claim = holds[name]
        assert claim["value"]["mean"] == pytest.approx(value, abs=1e-9), name
        assert claim["value"]["low"] <= value + 1e-9 and claim["value"]["high"] >= value - 1e-9, name
        assert claim["n_heldout"] == 3
        assert [entry["heldout"] for entry in claim["per_heldout"]] == list(HELDOUT)


@pytest.mark.parametrize(
    "name",
    [name for name in ORDER if name not in ("gaps_below_ten", "extrapolation_above_measured", "session_specific")],
)
def test_what_holds_is_supported_and_its_opposite_is_not(holds: dict[str, Any], name: str) -> None:
    assert holds[name]["verdict"] == "supported"
    opposite = {
        "random": (0.150, 0.158, 0.165, 0.175, 0.190),
        "ranked": (0.040, 0.100, 0.145, 0.165, 0.190),
        "reverse_ranked": (0.160, 0.168, 0.176, 0.180, 0.190),
    }
    assert judged(name, level=levels(**opposite))["verdict"] == "not supported"


def test_the_gap_at_each_size_stands_beside(holds: dict[str, Any]) -> None:
    beside = holds["ranked_above_random"]["beside"]
    assert [entry["name"] for entry in beside] == [
        "at 1 session",
        "at 2 sessions",
        "at 3 sessions",
        "at 5 sessions",
    ]
    assert [entry["mean"] for entry in beside] == pytest.approx([0.050, 0.038, 0.030, 0.011])


# What cannot be told --------------------------------------------------------------------------------------------------


def test_equal_orders_are_undecided() -> None:
    same = LEVELS["random"]
    found = judged(level=levels(ranked=same, reverse_ranked=same), spread=0.004)
    for name in ("ranked_above_random", "random_above_reverse", "weaker_scaling_ranked", "points_gain"):
        assert found[name]["verdict"] == "undecided", name
        assert found[name]["value"]["low"] < 0 < found[name]["value"]["high"]


def test_one_seed_decides_nothing() -> None:
    claim = judged("top_above_all", seeds=(10,))
    assert claim["verdict"] == "undecided" and claim["value"]["low"] > 0
    assert "the noise between trainings is unknown" in claim["note"]
    assert {entry["verdict"] for entry in claim["per_heldout"]} == {"undecided"}


def test_one_shuffle_decides_nothing() -> None:
    found = judged(shuffles=1)
    assert found["ranked_above_random"]["verdict"] == "undecided"
    assert found["extrapolation_above_measured"]["verdict"] in ("undecided", "not measured")
    assert found["top_above_all"]["verdict"] == "supported"


def test_few_trials_decide_nothing() -> None:
    claim = judged("top_above_all", k=7)
    assert claim["verdict"] == "undecided" and "7 test trials" in claim["note"]
    assert judged("top_above_all", k=8)["verdict"] == "supported"


def test_one_heldout_session_says_nothing_about_others() -> None:
    claim = judged("top_above_all", heldout=HELDOUT[:1], spread=1e-4)
    assert claim["per_heldout"][0]["verdict"] == "supported"
    assert claim["verdict"] == "undecided" and "one held-out session" in claim["note"].lower()


def test_two_heldout_sessions_speak_for_themselves_only() -> None:
    two, three = judged("top_above_all", heldout=HELDOUT[:2]), judged("top_above_all")
    assert (two["general"], three["general"]) == (False, True)
    assert two["verdict"] == "supported" and "not about others" in two["note"]
    assert three["note"] == ""


def test_missing_runs_block_the_claims_that_need_them() -> None:
    broken = {(HELDOUT[1], "random", 2, 1): ("diverged", "loss is not finite")}
    found = judged(broken=broken)
    for name in ("ranked_above_random", "top_above_best_random", "best_random_above_all", "data_efficiency"):
        assert found[name]["verdict"] == "not measured" and found[name]["value"] is None, name
        assert HELDOUT[1] in found[name]["note"] and "diverged" in found[name]["note"], name
        words = {entry["heldout"]: entry["verdict"] for entry in found[name]["per_heldout"]}
        assert words[HELDOUT[1]] == "not measured" and words[HELDOUT[0]] != "not measured", name
    assert found["top_above_all"]["verdict"] == "supported"
    share = found["top_share"]  # the top is the best ranked size here: a share of itself says nothing
    assert share["verdict"] == "undecided" and share["value"]["mean"] == 100 and "itself" in share["note"]


def test_allowed_missing_runs_do_not_block() -> None:
    broken = {(HELDOUT[1], "random", 2, i): ("failed", "killed") for i in range(3)}
    claim = judged("ranked_above_random", broken=broken, allow_missing=True)
    assert claim["n_heldout"] == 2 and claim["verdict"] == "supported"
    assert HELDOUT[1] in claim["note"]


def test_orders_that_were_not_asked_are_not_measured() -> None:
    results = make_results(controls=False, rankings=False)
    study = {**results.study, "orders": ["ranked"]}
    rows = tuple(row for row in results.rows if row.arm in ("ranked", "baseline"))
    grid = Grid(type(results)(**{**vars(results), "study": study, "rows": rows}))
    found = {claim["id"]: claim for claim in claims(grid, Estimator(N_BOOT), fits(grid, N_BOOT), None)}
    for name in ("ranked_above_random", "random_above_reverse", "data_efficiency", "extrapolation_above_measured"):
        assert found[name]["verdict"] == "not measured" and "random" in found[name]["note"], name
    assert found["top_above_all"]["verdict"] == "supported"
    assert "no reverse_ranked order" in found["gaps_below_ten"]["note"]


# Best sizes -----------------------------------------------------------------------------------------------------------


def test_the_verdict_uses_the_size_that_validation_chose() -> None:
    """Random looks best at 2 sessions on validation, and is best at 5 on test: the verdict is about 2."""

    def validation(h: int, arm: str, variant: str, size: int | None) -> float:
        return 0.3 if (arm, size) == ("random", 2) else levels()(h, arm, variant, size)

    claim = judged("best_random_above_all", validation=validation)
    assert claim["value"]["mean"] == pytest.approx(0.120 - 0.155)
    assert claim["verdict"] == "not supported"
    assert {entry["sizes"]["random"] for entry in claim["per_heldout"]} == {2}
    assert claim["paper_choice"]["mean"] == pytest.approx(0.150 - 0.155)
    assert claim["paper_choice"]["sizes"][HELDOUT[0]] == {"random": 5}


def test_an_efficient_top_that_is_no_better_is_no_gain() -> None:
    better = judged("data_efficiency", level=levels(random=(0.10, 0.12, 0.135, 0.175, 0.155)))
    assert better["value"]["mean"] == pytest.approx(5 / 3)
    assert better["verdict"] == "not supported"
    assert "best random sizes: not supported" in better["note"]


def test_the_efficiency_s_interval_holds_both_choices() -> None:
    def validation(h: int, arm: str, variant: str, size: int | None) -> float:
        return 0.3 if (arm, size) == ("random", 1) else levels()(h, arm, variant, size)

    claim = judged("data_efficiency", validation=validation)
    assert claim["value"] == {
        "mean": pytest.approx(1 / 3),
        "low": pytest.approx(1 / 3),
        "high": pytest.approx(5 / 3),
        "unit": "x",
    }
    assert claim["verdict"] == "undecided"
    assert claim["paper_choice"]["mean"] == pytest.approx(5 / 3)


def test_random_that_is_best_at_the_end_is_a_lower_bound(holds: dict[str, Any]) -> None:
    assert "the ratio may be larger" in holds["data_efficiency"]["note"]


def test_without_a_gain_there_is_nothing_to_share() -> None:
    below = (0.080, 0.090, 0.100, 0.110, 0.120)
    claim = judged("top_share", level=levels(ranked=below, random=below, reverse_ranked=below))
    assert claim["verdict"] == "not measured" and "no gain to share" in claim["note"]


def test_the_share_of_a_gain_that_may_be_none_is_undecided() -> None:
    little = (0.1401, 0.1402, 0.1404, 0.1405, 0.1401)
    claim = judged("top_share", level=levels(ranked=little, random=little, reverse_ranked=little), spread=0.004)
    assert claim["verdict"] == "undecided" and claim["value"]["mean"] == pytest.approx(80.0)
    assert "not told apart from zero" in claim["note"]


def test_the_share_s_interval_is_that_of_what_is_not_excluded() -> None:
    claim = judged("top_share", level=levels(ranked=(0.150, 0.158, 0.160, 0.180, 0.155)))
    value = claim["value"]
    assert value["mean"] == pytest.approx(50.0)
    assert value["low"] < 50.0 < value["high"] and claim["verdict"] == "undecided"
    # Trainings that repeat exactly, and no noise of trials: nothing is uncertain.
    sharp = judged("top_share", level=levels(ranked=(0.150, 0.158, 0.160, 0.180, 0.155)), spread=0.0, noise=0.0)
    assert (sharp["value"]["low"], sharp["value"]["high"]) == (pytest.approx(50.0), pytest.approx(50.0))


# Ten sessions ---------------------------------------------------------------------------------------------------------


def test_gaps_below_and_above_ten_sessions() -> None:
    sizes = (1, 5, 10, 11, 12)
    made = {"ranked": (0.15, 0.16, 0.16, 0.16, 0.16), "random": (0.10, 0.12, 0.15, 0.15, 0.16)}
    made["reverse_ranked"] = (0.05, 0.08, 0.14, 0.15, 0.16)
    claim = judged("gaps_below_ten", n_pool=12, sizes=sizes, top=5, level=level_of(made, sizes))
    assert claim["value"]["mean"] == pytest.approx((0.10 + 0.08) / 2 - (0.02 + 0.01) / 2)
    assert claim["verdict"] == "supported"
    assert claim["beside"][0]["mean"] == pytest.approx((0.05 + 0.04) / 2 - (0.01 + 0.01) / 2)


def test_without_ten_sessions_the_gap_is_not_measured(holds: dict[str, Any]) -> None:
    assert holds["gaps_below_ten"]["verdict"] == "not measured"
    assert "no size from ten on" in holds["gaps_below_ten"]["note"].lower()


# Scaling --------------------------------------------------------------------------------------------------------------


def test_scaling_must_be_weaker_than_in_both_orders() -> None:
    steep = judged("weaker_scaling_ranked", level=levels(reverse_ranked=(0.100, 0.090, 0.080, 0.070, 0.155)))
    assert steep["value"]["low"] > 0 and steep["beside"][0]["high"] < 0
    assert steep["verdict"] == "not supported" and "reverse-ranked order: not supported" in steep["note"]


def test_below_zero_scaling_is_in_bits_per_spike() -> None:
    claim = judged("weaker_scaling_ranked", level=levels(reverse_ranked=(-0.04, 0.06, 0.09, 0.12, 0.155)))
    assert claim["value"]["unit"] == "bps"
    gains = np.mean([0.02, 0.035, 0.05]) - np.mean([0.008, 0.015, 0.013])
    assert claim["value"]["mean"] == pytest.approx(gains)


def fit(
    arm: str, heldout: str | None, predicted: float, reach: float, measured: float | None = 0.15, n: int = 2
) -> Any:
    value = {"mean": predicted, "low": predicted - reach / 2, "high": predicted + reach / 2}
    value |= {"prediction_low": predicted - reach, "prediction_high": predicted + reach}
    every = {"mean": measured, "sd": None, "n": n, "reason": None if measured else "was not run"}
    return {"heldout": heldout, "arm": arm, "predicted_all": value, "measured_all": every, "reason": None}


@pytest.mark.parametrize(
    ("predicted", "reach", "word"),
    [(0.17, 0.01, "supported"), (0.17, 0.03, "undecided"), (0.13, 0.01, "not supported")],
)
def test_the_extrapolation_is_judged_on_the_random_order(predicted: float, reach: float, word: str) -> None:
    grid = Grid(make_results(controls=False, rankings=False))
    documents = [fit("random", h, predicted, reach) for h in (*HELDOUT, None)]
    documents += [fit("ranked", h, 0.30, 0.001) for h in (*HELDOUT, None)]
    claim = extrapolation(grid, documents)
    assert claim["verdict"] == word
    expected = {"mean": predicted - 0.15, "low": predicted - reach - 0.15, "high": predicted + reach - 0.15}
    assert {name: claim["value"][name] for name in expected} == pytest.approx(expected)
    assert {entry["verdict"] for entry in claim["per_heldout"]} == {word}


def test_without_all_sessions_the_extrapolation_is_not_measured() -> None:
    grid = Grid(make_results(controls=False, rankings=False))
    claim = extrapolation(grid, [fit("random", h, 0.2, 0.01, measured=None) for h in (*HELDOUT, None)])
    assert claim["verdict"] == "not measured" and "was not run" in claim["note"]


# Session-specific rankings --------------------------------------------------------------------------------------------


def band(size: int, low: int, high: int) -> dict[str, Any]:
    curve = {"k": [1, 2, 3], "size": [0, 0, size], "quality_expected": [0.5, 1.0, (low + high) / 2]}
    return {"heldout": list(HELDOUT), **curve, "quality_low": [0, 0, low], "quality_high": [1, 2, high]}


@pytest.mark.parametrize(
    ("size", "low", "high", "word"),
    [(0, 1, 3, "supported"), (1, 1, 3, "undecided"), (3, 0, 2, "not supported")],
)
def test_overlap_against_the_band_of_a_shared_quality(size: int, low: int, high: int, word: str) -> None:
    grid = Grid(make_results(controls=False, rankings=False))
    claim = session_specific(grid, band(size, low, high))
    assert claim["verdict"] == word
    assert claim["value"]["mean"] == pytest.approx((low + high) / 2 - size)
    assert ("at k = 3" in claim["note"]) == (size < low)


def test_one_ranking_cannot_be_specific() -> None:
    grid = Grid(make_results(controls=False, rankings=False))
    assert session_specific(grid, None)["verdict"] == "not measured"
