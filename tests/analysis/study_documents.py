"""Documents of studies made by hand, for the tests of tables, figures and the page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from study_fixture import HELDOUT, make_results

from sessionwise.analysis.study import analyse

HOSTILE_HELDOUT = ("<script>alert(1)</script>", '=HYPERLINK("http://x",1)')
HOSTILE_POOL = (
    "{{7*7}}{% raw %}",
    "\\input{/etc/passwd}",
    "%s%n",
    "a|b|c",
    "</script><img src=x onerror=alert(1)>",
    "\u202egnp.exe",
    "x" * 300,
    "$x^2$ & [1] *b*",
)
DIVERGED = ("diverged", "loss <is> not finite at step 41")


@cache
def made(name: str) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """(document, rankings) of a study; never change them."""
    results = {
        "whole": lambda: make_results(
            transfer=True,
            split_seeds=(0, 1),
            broken={(HELDOUT[1], "ranked", 2, 1): DIVERGED, (HELDOUT[1], "glm", None, 0): ("failed", "lost")},
        ),
        "hostile": lambda: make_results(
            heldout=HOSTILE_HELDOUT,
            ids=HOSTILE_POOL,
            transfer=True,
            broken={(HOSTILE_HELDOUT[0], "ranked", 2, 1): DIVERGED},
        ),
        "one seed": lambda: make_results(heldout=HELDOUT[:1], seeds=(10,), shuffles=1),
        "bare": lambda: make_results(heldout=HELDOUT[:1], controls=False, rankings=False),
    }[name]()
    return analyse(results, n_boot=40), results.rankings


def without_scores() -> dict[str, Any]:
    """The document of a study in which everything failed."""
    results = make_results(heldout=HELDOUT[:2], rankings=False)
    lost = {"value": None, "state": DIVERGED[0], "reason": DIVERGED[1], "run": None}
    rows = tuple(replace(row, **lost) for row in results.rows)
    return analyse(replace(results, rows=rows, gains={}, spikes={}), n_boot=10)
