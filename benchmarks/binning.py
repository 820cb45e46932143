"""Binning against one ``np.bincount`` of as many spikes, side by side.

    python benchmarks/binning.py [--repeats 5] [--quick]

A recording of an hour with 1,000 units is cut into 600 trials of 3 s and 20 ms bins. Each repetition times, one after
the other in the same process, ``bin_spikes`` of all spikes, the same with the spikes in no order, and ``np.bincount``
of flat places into as many counts, with as many spikes as lie in the windows: places at random, and the same ascending.
Prints Markdown: medians in milliseconds, the ratio of ``bin_spikes`` to each ``bincount``, and the peak of memory
allocated beside the spikes. --quick: 0.2 and 2 million spikes only.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

from sessionwise.data.binning import bin_spikes

HOUR_S, UNITS, TRIALS, BIN_S, BINS = 3600.0, 1000, 600, 0.02, 150
SPIKES, QUICK = (200_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000), (200_000, 2_000_000)
COLUMNS = (
    "spikes",
    "in windows",
    "bin_spikes ms",
    "unsorted ms",
    "bincount ms",
    "ascending ms",
    "ratios",
    "ns a spike",
    "bin_spikes MB",
    "bincount MB",
)


def main() -> None:
    """Print one row for each number of spikes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---:|" * len(COLUMNS))
    for n_spikes in QUICK if options.quick else SPIKES:
        print(row(n_spikes, options.repeats), flush=True)
    print(f"\nCounts of {TRIALS} x {BINS} x {UNITS}: {TRIALS * BINS * UNITS / 1e6:.0f} MB as uint8; {np.__version__=}")


def row(n_spikes: int, repeats: int) -> str:
    """One line of the table; a first repetition warms up and is left out."""
    random = np.random.default_rng(0)
    spike_s = np.sort(random.uniform(0, HOUR_S, n_spikes))
    spike_unit = random.integers(0, UNITS, n_spikes, dtype=np.int32)
    starts_s = np.linspace(0, HOUR_S - BINS * BIN_S, TRIALS)
    shuffled = random.permutation(n_spikes)
    given = (UNITS, starts_s, BIN_S, BINS)
    n_inside = int(bin_spikes(spike_s, spike_unit, *given).sum(dtype=np.int64))
    places = random.integers(0, TRIALS * BINS * UNITS, n_inside)
    ways = {
        "own": partial(bin_spikes, spike_s, spike_unit, *given),
        "unsorted": partial(bin_spikes, spike_s[shuffled], spike_unit[shuffled], *given),
        "numpy": partial(np.bincount, places, minlength=TRIALS * BINS * UNITS),
        "ascending": partial(np.bincount, np.sort(places), minlength=TRIALS * BINS * UNITS),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    medians = {name: median(times[1:]) for name, times in taken.items()}
    own = medians["own"]
    cells = [f"{n_spikes:,}", f"{n_inside:,}", *(f"{1000 * s:.0f}" for s in medians.values())]
    cells.append(" / ".join(f"{own / medians[name]:.2f}" for name in ("numpy", "ascending")))
    cells += [f"{1e9 * own / n_spikes:.0f}", *(f"{peak_mb(ways[name]):.0f}" for name in ("own", "numpy"))]
    return "| " + " | ".join(cells) + " |"


def seconds(way: Callable[[], np.ndarray]) -> float:
    """Time of one call; its result is freed outside the time."""
    start = time.perf_counter()
    result = way()
    taken = time.perf_counter() - start
    del result
    return taken


def peak_mb(way: Callable[[], np.ndarray]) -> float:
    """Most memory that one call holds at once, its result included, in MB."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


if __name__ == "__main__":
    main()
