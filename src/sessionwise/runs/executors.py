"""``--on``: where the runs of a command are computed, by its name.

here               in this process
processes[:N]      in N local worker processes, as many as cores if not told
slurm[:PROFILE]    in jobs of a Slurm cluster
dask:ADDRESS       on a Dask cluster
"""

from __future__ import annotations

import os

from sessionwise.errors import UsageError
from sessionwise.runs.dask import DaskPool, dask_address, known_threads, threads
from sessionwise.runs.pool import Pool, Workers
from sessionwise.runs.profile import find_profile
from sessionwise.runs.slurm import SlurmPool
from sessionwise.runs.store import RunStore


def make_workers(on: str, store: RunStore, work: str) -> Workers:
    """The workers that ``on`` names, not started yet; "here" has none. UsageError for an unknown name."""
    if _name(on) == "dask":
        return DaskPool(dask_address(on), store, work)
    if _name(on) == "slurm":
        return SlurmPool(find_profile(on), store, work)
    return Pool(local_workers(on), store, work)


def local_workers(on: str) -> int:
    """How many worker processes of this machine compute runs: none for "here" and for clusters.

    UsageError for an unknown name. The profile of a Slurm cluster is read; no cluster is asked.
    """
    name, _, count = on.partition(":")
    if name == "dask":
        dask_address(on)
    if name == "slurm":
        find_profile(on)
    if on == "here" or name in ("dask", "slurm"):
        return 0
    if name == "processes" and (on == "processes" or (count.isdecimal() and int(count) > 0)):
        return int(count) if count else _cores()
    needed = "here, processes, processes:n, slurm, slurm:PROFILE.toml or dask:ADDRESS"
    raise UsageError("--on", repr(on), needed, "Leave it out to use all cores")


def runs_at_a_time(on: str, ask: bool = True) -> int:
    """How many runs are computed at a time; UsageError for an unknown name.

    ask: let a Dask cluster tell; else its size as last heard.
    """
    if _name(on) == "dask":
        return (threads if ask else known_threads)(dask_address(on))
    return find_profile(on).tasks if _name(on) == "slurm" else max(1, local_workers(on))


def _name(on: str) -> str:
    return on.partition(":")[0]


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
