"""What reports say about the split of trials: its kind, and the share of scored bins that training has seen.

Windows of trials that follow each other closely overlap, so bins of a test trial can also lie in a training trial.
Shares are those that rankings and studies hold; None is a share that is not known, for want of trial times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Shares = Mapping[str, float | None]

WORDS = {"random": "at random", "blocked": "into blocks of time", "recorded": "as recorded in the files"}
REMEDY = "--set split=blocked"


def ranking_split(ranking: Mapping[str, Any]) -> dict[str, Any]:
    """The split of a ranking: kind, words, seed, shared bins of the held-out session, remedy where there are any."""
    shares = ranking["provenance"].get("overlap")
    known = {ranking["heldout"]: dict(shares)} if shares else {}
    return _split(ranking.get("split", "random"), ranking["split_seed"], known)


def study_split(study: Mapping[str, Any], rankings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The main split of a study: as ``ranking_split``, of all its sessions.

    A study from before shared bins stood in ``study.json`` has those of its rankings, for held-out sessions alone.
    """
    known: dict[str, Shares] = {r["heldout"]: dict(r["provenance"].get("overlap") or {}) for r in rankings}
    known |= study.get("shared_bins") or {}
    ids = [i for i in (*study["heldout"], *study["pool"]) if known.get(i)]
    return _split(study.get("split", "random"), study["split_seeds"][0], {i: known[i] for i in ids})


def share(value: float | None) -> str:
    """A share as a percentage that does not hide a small one."""
    if value is None:
        return "unknown (no trial times)"
    return "0 %" if value == 0 else "less than 0.1 %" if value < 0.001 else f"{100 * value:.1f} %"


def _split(kind: str, seed: int, shared: Mapping[str, Shares]) -> dict[str, Any]:
    found = any(value for shares in shared.values() for value in shares.values())
    return {
        "kind": kind,
        "words": f"{WORDS[kind]}, split seed {seed}" if kind != "recorded" else WORDS[kind],
        "seed": seed,
        "shared_bins": dict(shared),
        "remedy": REMEDY if found else None,
    }
