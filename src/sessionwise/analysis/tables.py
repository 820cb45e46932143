"""A ranking as CSV that a spreadsheet opens and does not execute."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_FRONT = ("rank", "session", "score", "sd", "rank_low", "rank_high")
_TOP = (1, 3, 5, 10)
_BACK = ("state", "reason", "n_trials", "n_units", "subject")
_MORE = ("own_score", "bps_unit_mean", "bps_tail", "units_left_out", "low80", "high80", "low95", "high95")
# A spreadsheet takes text that begins so for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def ranking_csv(ranking: Mapping[str, Any]) -> str:
    """One line a session in the order of the ranking, diverged and failed ones included; empty = missing.

    Scores are in bits per spike. Text that a spreadsheet would take for a formula gets a leading ``'``.
    """
    seeds = list(ranking.get("seeds") or ())
    header = [*_FRONT, *(f"p_top{k}" for k in _TOP), *_BACK, *_MORE, *(f"score_seed_{seed}" for seed in seeds)]
    lines = [header, *(_line(row, len(seeds)) for row in ranking["rows"])]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[safe_cell(cell) for cell in line] for line in lines])
    return out.getvalue()


def safe_cell(value: Any) -> str:
    """A cell: numbers in full precision, None empty, text that no spreadsheet executes and any UTF-8 file holds."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def _line(row: Mapping[str, Any], n_seeds: int) -> list[Any]:
    p_top = row.get("p_top") or {}
    seeds: Sequence[Any] = row.get("seed_scores") or ()
    each = [seeds[i] if i < len(seeds) else None for i in range(n_seeds)]
    names = [row.get(name) for name in (*_BACK, *_MORE)]
    return [*(row.get(name) for name in _FRONT), *(p_top.get(str(k)) for k in _TOP), *names, *each]
