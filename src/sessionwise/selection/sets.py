"""Orders of the pool and the sets they give: ranked, reverse_ranked, random."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sessionwise.errors import UsageError
from sessionwise.model.streams import stream_seed
from sessionwise.selection.ranking import Ranking

ORDERS = ("ranked", "reverse_ranked", "random")


def ordered(ranking: Ranking, order: str, shuffle: int = 0) -> list[str]:
    """The ranked sessions in an order; sets of k are its first k, so they are nested (protocol A16).

    ``random`` holds every session of the pool, those without a score too: who draws lots has no ranking.
    """
    if order == "ranked":
        return ranking.order
    if order == "reverse_ranked":
        return ranking.order[::-1]
    if order == "random":
        pool = [row["session"] for row in ranking.document["rows"]]
        return random_order(pool, int(ranking.document["split_seed"]), shuffle)
    raise UsageError("order", f"{order!r}", f"one of {', '.join(ORDERS)}")


def random_order(pool: Iterable[str], split_seed: int, shuffle: int) -> list[str]:
    """Shuffle i of a pool: it depends on (split seed, i) and the pool alone, so held-out sessions share it (A17)."""
    rng = np.random.default_rng(stream_seed(split_seed, "shuffle", shuffle))
    return [str(name) for name in rng.permutation(sorted(pool))]
