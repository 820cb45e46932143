"""Orders of the pool and the sets they give: ranked, reverse_ranked, random."""

from __future__ import annotations

import numpy as np

from sessionwise.errors import UsageError
from sessionwise.model.streams import stream_seed
from sessionwise.selection.ranking import Ranking

ORDERS = ("ranked", "reverse_ranked", "random")


def ordered(ranking: Ranking, order: str, shuffle: int = 0) -> list[str]:
    """The ranked sessions in an order; sets of k are its first k, so they are nested (protocol A16).

    ``random``: shuffle i depends on (split seed, i) and the pool alone, so held-out sessions share it (A17); a
    session without a score is left out of its place.
    """
    if order == "ranked":
        return ranking.order
    if order == "reverse_ranked":
        return ranking.order[::-1]
    if order == "random":
        rng = np.random.default_rng(stream_seed(int(ranking.document["split_seed"]), "shuffle", shuffle))
        everything = sorted(row["session"] for row in ranking.document["rows"])
        return [str(name) for name in rng.permutation(everything) if name in ranking.scores]
    raise UsageError("order", f"{order!r}", f"one of {', '.join(ORDERS)}")
