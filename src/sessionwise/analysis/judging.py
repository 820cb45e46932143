"""Do the scores of a pool differ, and is it closeness? Noise, facts about each session, and likeness, in that order.

Scores (C,) of C sessions of a pool for one held-out session are judged in three steps, each with its own null:

1. *Do they differ at all?* Chance of their spread under noise alone. If they may be equal: ``no difference``.
2. *More than size and quality explain?* Facts that do not look at the held-out session (log trials, quality, scores for
   others) are regressed out of the scores and of their noise alike; chance of what spread is left. If noise leaves as
   much: ``size only`` - the best sessions are the large or good ones, for anybody.
3. *Is the rest closeness?* Rank correlation of the rest with likeness to the held-out session, on the degrees of
   freedom that the facts leave. If they go together: ``close``; else ``unexplained``.

The noise is given as draws (B, C) of the scores: resampled validation trials, jointly for all sessions, plus the noise
of trainings (``statistics.score_draws``). All tests are one-sided at 5 %; nothing was tuned on recordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sessionwise.analysis.checks import finite, same_length
from sessionwise.errors import DataError

Floats = NDArray[np.float64]

ALPHA = 0.05
FEWEST_LEFT = 2  # degrees of freedom that facts must leave, for a spread to be judged
FEWEST_FREE = 5  # of fewer values that may vary even the best order is no rarer than 1 in 24
KINDS = ("no difference", "size only", "close", "unexplained", "not judged")


@dataclass(frozen=True)
class Judgement:
    """What tells the sessions of a pool apart.

    kind: one of ``KINDS``. p_equal: chance of the spread of the scores under noise alone; p_residual: of what facts
    leave; likeness_rho, likeness_p: rank correlation of that rest with likeness, and its one-sided chance.
    facts: names of what was regressed out. None: not asked, since the step before settled it, or not possible.
    """

    kind: str
    text: str
    p_equal: float | None = None
    p_residual: float | None = None
    likeness_rho: float | None = None
    likeness_p: float | None = None
    facts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {**asdict(self), "facts": list(self.facts)}


def judge(
    scores: ArrayLike,
    draws: ArrayLike,
    facts: Mapping[str, ArrayLike],
    likeness: ArrayLike | None = None,
    *,
    noise_known: bool = True,
) -> Judgement:
    """Judge scores (C,) with noise draws (B, C), facts of each session (name -> (C,)) and likeness (C,), if known.

    noise_known: False when the noise of trainings is not in the draws (one seed): then nothing is judged.
    Raises DataError for shapes that disagree and numbers that are not finite.
    """
    x, noise = finite("scores", scores, 1), finite("draws of scores", draws, 2)
    columns = {name: finite(name, values, 1) for name, values in facts.items()}
    same_length("scores and facts", x, *columns.values())
    if noise.shape[1:] != x.shape:
        raise DataError("draws of scores", f"shape {noise.shape}", f"(draws, {len(x)})")
    if not noise_known:
        return Judgement("not judged", "One seed: the noise between trainings is unknown, so nothing is told apart.")
    if len(x) < 3:
        return Judgement("not judged", f"{len(x)} sessions have a score: too few to tell apart.")
    noise = noise - noise.mean(axis=0)
    p_equal = chance_of_spread(x, noise, np.ones((len(x), 1)))
    if p_equal >= ALPHA:
        text = f"The scores spread no more than noise does (p = {p_equal:.2f}): any of these sessions may do as well."
        return Judgement("no difference", text, p_equal)
    return _explained(x, noise, columns, likeness, p_equal)


def chance_of_spread(scores: Floats, noise: Floats, design: Floats) -> float:
    """P(noise leaves as large a sum of squares after regression on ``design`` (C, q) as the scores (C,) do).

    The draws (B, C), centred, are what scores of equal sessions would be; (1 + hits) / (1 + B).
    """
    rest = _rest(design)
    found, drawn = float(((rest @ scores) ** 2).sum()), ((noise @ rest.T) ** 2).sum(axis=1)
    return float((1 + (drawn >= found * (1 - 1e-12)).sum()) / (1 + len(drawn)))


def p_words(p: float) -> str:
    """``p = 0.023``, ``p < 0.001``: nothing drawn at random has a chance of zero."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def likeness_test(rest: Floats, likeness: Floats, n_facts: int = 0) -> tuple[float | None, float | None]:
    """Spearman's rho of (C,) and (C,), and its one-sided chance; None where nothing varies or too few values are free.

    n_facts: how many independent facts were regressed out of both. What is left of C values then has C - 1 - n_facts
    degrees of freedom, and correlations by chance have the variance 1 / (C - 1 - n_facts): by Student's t with one
    degree less, as for a partial correlation (Fisher, 1924). As if all C values were free, twice as many unrelated
    pools of seven would be called alike (`tests/analysis/test_judging.py`). No chance is given as rarer than the best
    order of the free values, which is what t makes of a perfect correlation.
    """
    a, b = stats.rankdata(np.round(rest, 12)), stats.rankdata(likeness)
    a, b = a - a.mean(), b - b.mean()
    size, n_free = math.sqrt(float(a @ a) * float(b @ b)), len(a) - n_facts
    if n_free < FEWEST_FREE or size == 0:
        return None, None
    rho = min(1.0, max(-1.0, float(a @ b) / size))
    t = math.copysign(math.inf, rho) if abs(rho) == 1 else rho * math.sqrt((n_free - 2) / (1 - rho**2))
    return rho, max(float(stats.t.sf(t, n_free - 2)), 1 / math.factorial(n_free))


def _explained(
    x: Floats, noise: Floats, columns: Mapping[str, Floats], likeness: ArrayLike | None, p_equal: float
) -> Judgement:
    """The second and third step, for scores that differ."""
    used = [name for name, column in columns.items() if np.ptp(column) > 0]
    design = np.column_stack([np.ones(len(x)), *(stats.zscore(columns[name]) for name in used)])
    facts = tuple(used)
    if len(x) - np.linalg.matrix_rank(design) < FEWEST_LEFT:
        text = f"The scores differ ({p_words(p_equal)}), but {len(x)} sessions are too few to ask why."
        return Judgement("unexplained", text, p_equal, facts=facts)
    p_rest = chance_of_spread(x, noise, design)
    names = " and ".join(used)
    if p_rest >= ALPHA:
        text = (
            f"The scores differ ({p_words(p_equal)}), but no more than {names} and noise explain (p = {p_rest:.2f}): "
            "these sessions are large or good for any recording, not close to this one."
        )
        return Judgement("size only", text, p_equal, p_rest, facts=facts)
    differ = f"The scores differ by more than noise{f' and {names}' if used else ''} explain ({p_words(p_rest)})"
    if likeness is None:
        return Judgement("unexplained", f"{differ}; likeness is unknown.", p_equal, p_rest, facts=facts)
    near = finite("likeness", likeness, 1)
    same_length("scores and likeness", x, near)
    # What facts explain of likeness is taken out as well: large sessions look alike because they are less noisy.
    rest = _rest(design)
    rho, p_near = likeness_test(rest @ x, rest @ near, int(np.linalg.matrix_rank(design)) - 1)
    numbers = p_equal, p_rest, rho, p_near, facts
    if rho is not None and p_near is not None and p_near < ALPHA:
        text = f"{differ}, and the rest goes with likeness of activity (rho = {rho:.2f}, {p_words(p_near)})."
        return Judgement("close", text, *numbers)
    shown = "too few sessions to test" if rho is None or p_near is None else f"rho = {rho:.2f}, p = {p_near:.2f}"
    text = f"{differ}, but the rest does not go with likeness of activity ({shown}): why these are better is not known."
    return Judgement("unexplained", text, *numbers)


def _rest(design: Floats) -> Floats:
    """(C, C) projection onto what a regression on ``design`` leaves."""
    q, r = np.linalg.qr(design)
    kept = q[:, np.abs(np.diag(r)) > 1e-9 * max(1.0, float(np.abs(r).max()))]
    return np.eye(len(design)) - kept @ kept.T
