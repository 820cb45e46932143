"""Choosing sessions by what is known about them: ``subject != Hench and n_trials >= 100``. No code is evaluated."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from sessionwise.data.info import SessionInfo
from sessionwise.errors import UsageError

NUMBERS = ("n_trials", "n_units", "n_units_good", "n_bins", "mean_rate_hz", "spikes")
TEXTS = ("id", "subject", "lab", "date", "align")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CLAUSE = re.compile(r"\s*(\w+)\s*(==|!=|>=|<=|=|>|<|\bnot in\b|\bin\b)\s*(.*?)\s*", re.DOTALL)


def parse_filter(expression: str) -> Callable[[SessionInfo], bool]:
    """A test of sessions from clauses joined by ``and``: ``field = value``, ``!=``, ``<``, ``>=``, ``in A,B``.

    Texts compare as text (dates in ISO form so sort by day), numbers as numbers; values may stand in quotes. A session
    that lacks the field passes ``!=`` and ``not in`` only.
    """
    tests = [_clause(text, expression) for text in _split_and(expression)]
    return lambda info: all(test(info) for test in tests)


def _split_and(expression: str) -> list[str]:
    quoted = r"'[^']*'|\"[^\"]*\"|[^'\"]"
    parts: list[str] = [""]
    for token in re.findall(rf"\s+and\s+|{quoted}", expression):
        if token.strip() == "and" and token != "and":
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _clause(text: str, expression: str) -> Callable[[SessionInfo], bool]:
    match = _CLAUSE.fullmatch(text)
    if not match or not match[3]:
        needed = "FIELD OP VALUE, joined by 'and', for example: subject != Hench and n_trials >= 100"
        raise UsageError(f"filter {expression!r}", f"{text.strip()!r} is no condition", needed)
    field, sign, value = match[1], match[2], match[3]
    if field not in NUMBERS + TEXTS:
        raise UsageError(f"filter {expression!r}", f"field {field!r}", " | ".join(TEXTS + NUMBERS))
    if sign in ("in", "not in"):
        values = [_value(field, part.strip(), expression) for part in value.strip("()[]").split(",")]
        wanted = sign == "in"
        return lambda info: (getattr(info, field) in values) is wanted
    compare, right = _COMPARE[sign], _value(field, value, expression)
    return lambda info: _holds(getattr(info, field), compare, right)


def _holds(left: Any, compare: Callable[[Any, Any], bool], right: Any) -> bool:
    return compare is operator.ne if left is None else bool(compare(left, right))


def _value(field: str, text: str, expression: str) -> Any:
    bare = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if field in TEXTS:
        return bare
    try:
        return float(bare)
    except ValueError as error:
        raise UsageError(f"filter {expression!r}", f"{field} against {bare!r}", "a number") from error
