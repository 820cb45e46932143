"""The evidence of docs/results/rankers.md: every ranker on simulated pools and on real recordings, beside ``full``.

    python benchmarks/rankers.py FOLDER strong realistic              two conditions, three generator seeds each
    python benchmarks/rankers.py FOLDER steinmetz --recordings DIR    each of eight real recordings held out in turn
    python benchmarks/rankers.py FOLDER strong realistic steinmetz --recordings DIR --budgets 15%    `recommend`
    sessionwise bench-rankers FOLDER/strong-0 --store FOLDER/stores/strong-0 --seeds 7      final scores; each pool
    sessionwise bench-rankers FOLDER/strong-0 FOLDER/strong-1 FOLDER/strong-2 --to FOLDER/strong
    python benchmarks/rankers.py FOLDER --show strong realistic steinmetz/bench-rankers     the tables of the page
    python benchmarks/rankers.py FOLDER --recommend none --budgets 50% 15%    what `recommend` says of small pools
    python benchmarks/rankers.py FOLDER --recommend none --generators $(seq 20 39)    of twenty others

Stores and studies lie in FOLDER; nothing that is there is computed again. Rankers have the seeds 10 and 20, and 10
alone; the reference has 42 and 77; `recommend` has 10, 20 and 30, with its defaults, with ``--choose diverse`` and with
``--k auto``.

Simulated held-out sessions have hundreds of trials for the final score alone ("fresh" trials: nothing is ranked or
trained with them), so that the true order of the cores is known well enough to count whether rank intervals hold it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sessionwise.data.importing import import_to
from sessionwise.data.session import Session
from sessionwise.data.simulate import simulate_pool, write_truth
from sessionwise.data.splits import PARTS, RECORDED_COLUMN, make_split
from sessionwise.data.store import SessionStore, create_store, open_store
from sessionwise.io.files import read_json
from sessionwise.runs.progress import make_progress
from sessionwise.selection.rankers import rank_many
from sessionwise.study.recommend import BUDGET, recommend

SHIFTS = {"strong": 5.0, "realistic": 3.5, "none": 0.0}
GENERATORS, FIRST_SEED = (0, 1, 2), 1000
SIZES = {"modulation": 1.5, "n_units": (40, 80), "n_bins": 40}  # those of recipes/demo.toml
TRIALS = (80, 240)
FRESH = 800
SMALL_POOLS, SMALL_K = 20, 3  # seven sessions and a held-out one each
SETTINGS = {"baseline.epochs": 60}  # the preset's 30 leave the baseline unfinished
ONE, TWO, THREE, REFERENCE = (10,), (10, 20), (10, 20, 30), (42, 77)
ALONE = ("latent_distance", "quality", "zero_training", "trials", "random")
TRAINED = ("full", "full_shrunk", "short", "small_proxy", "small_shrunk", "halving", "set_regression", "own_score")
SEVERAL = ("other_targets", "matrix_completion", "ensemble")  # they need several held-out sessions
WAYS: dict[str, dict[str, Any]] = {"default": {}, "diverse": {"choose": "diverse"}, "auto": {"k": "auto"}}
TUNED = ("01", "02", "03")  # recordings that settings were chosen on: never held out


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(SHIFTS)}, steinmetz")
    parser.add_argument("--generators", type=int, nargs="+", help="of pools [0 to 2, small ones 0 to 19]")
    parser.add_argument("--recordings", type=Path, help="folder of the Steinmetz recordings")
    parser.add_argument("--methods", nargs="+", default=[*TRAINED, *ALONE, *SEVERAL])
    parser.add_argument("--budgets", nargs="+", metavar="BUDGET", help="what `recommend` says with these; no rankers")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="with --budgets: how sets are chosen"
    )
    parser.add_argument("--show", nargs="+", metavar="BENCH", help="folders in FOLDER that bench-rankers wrote")
    parser.add_argument("--recommend", choices=SHIFTS, metavar="CONDITION", help="ask about small pools of a condition")
    options = parser.parse_args()
    if options.recommend:
        for budget in options.budgets or [BUDGET]:
            recommended(options.folder, options.recommend, budget, options.generators or range(SMALL_POOLS))
    if options.show:
        print(
            tables({name.partition("/")[0]: read_json(options.folder / name / "bench.json") for name in options.show})
        )
    for part in options.parts:
        if part == "steinmetz":
            real(options)
            continue
        for generator in options.generators or GENERATORS:
            store = simulated_store(options.folder / "stores" / f"{part}-{generator}", part, generator)
            heldout = [name for name in store.ids if "heldout" in name]
            settings = {**SETTINGS, "split": "recorded"}
            study = options.folder / f"{part}-{generator}"
            if options.budgets:
                recommendations(store, study, options, settings, heldout)
                continue
            methods = [m for m in options.methods if m not in ("matrix_completion", "ensemble")]  # too few held out
            everything(store, study, methods, settings, heldout)


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Spearman's rho, cost, rank intervals and final regret: a row a ranker, a column a condition."""
    names = list(dict.fromkeys(entry["method"] for document in found.values() for entry in document["summary"]))
    lines = [f"| ranker | {' | '.join(f'{name}: cost | rho [95 %] | regret@1' for name in found)} |"]
    lines.append("|---|" + "---:|" * 3 * len(found))
    for name in names:
        cells = [cell for document in found.values() for cell in _agreement(document, name)]
        lines.append(f"| `{name.replace(' ', '` ')}" + ("" if " " in name else "`") + f" | {' | '.join(cells)} |")
    lines += ["", "Noise ceiling of rho: " + ", ".join(f"{n} {d['ceiling']['spearman']:.2f}" for n, d in found.items())]
    for name, document in found.items():
        final = document["final"]
        if final:
            regrets = (
                f"{e['method']} {e['mean']:+.4f} (lots there {e['lots']:+.4f}, n = {e['n']})" for e in final["regrets"]
            )
            lines += ["", f"Final regret, {name} (reference {final['reference_bps']:.4f}): {', '.join(regrets)}"]
        lines += [f"\nRecommended sets, {name}: {_recommended(entry)}" for entry in document["recommended"]]
        for kind, entries in document["calibration"].items():
            shares = (
                f"{e['method']} {e['share']:.2f} [{e['low']:.2f}, {e['high']:.2f}] of {_stated(e)} (n = {e['n']})"
                for e in entries
            )
            lines += ["", f"80 % rank intervals, {name}, {kind}: {', '.join(shares)}"]
    return "\n".join(lines)


def _recommended(entry: Mapping[str, Any]) -> str:
    regret = entry["regret"]
    span = f" [{regret['low']:+.4f}, {regret['high']:+.4f}]" if regret["low"] is not None else ""
    lots = f"lots there {entry['lots']:+.4f}, n = {regret['n']}"
    return f"{entry['method']}: cost {entry['cost_share']:.3f}, {regret['mean']:+.4f}{span} ({lots}), {entry['kinds']}"


def _stated(entry: Mapping[str, Any]) -> str:
    return "unknown" if entry["stated"] is None else f"{entry['stated']:.2f} stated"


def _agreement(document: Mapping[str, Any], method: str) -> list[str]:
    entry = next((entry for entry in document["summary"] if entry["method"] == method), None)
    if entry is None:
        return ["", "", ""]
    rho, regret = entry["spearman"], entry["regret1"]
    interval = f" [{rho['low']:.2f}, {rho['high']:.2f}]" if rho["low"] is not None else ""
    return [f"{entry['cost_share']:.2f}", f"{rho['mean']:.2f}{interval}", f"{regret['mean']:.3f}"]


def recommended(folder: Path, part: str, budget: str, generators: Sequence[int]) -> None:
    """`recommend` with a budget for the held-out session of each small pool: kinds, and what they are worth."""
    kinds, started = Counter[str](), time.monotonic()
    for generator in generators:
        name = f"{part}-small-{generator}"
        store = simulated_store(folder / "stores" / name, part, generator, n_pool=7, n_heldout=1)
        (target,) = (i for i in store.ids if "heldout" in i)
        how: dict[str, Any] = {"preset": "tiny", "overrides": {**SETTINGS, "split": "recorded"}, "k": SMALL_K}
        found = recommend(store, target, budget=budget, to=folder / name, progress=make_progress(), **how).document
        kinds[found["answer"]["kind"]] += 1
        chances = {key: found["judgement"][key] for key in ("p_equal", "p_residual", "similarity_p")}
        print(f"{name}: {found['answer']['kind']}, judged {found['judgement']['kind']}, {chances}", flush=True)
    print(f"{part}, {budget}: {dict(kinds)} of {len(generators)} pools in {time.monotonic() - started:.0f} s")


def real(options: argparse.Namespace) -> None:
    """Eight recordings, each in turn against the ten others; and two fours together, for methods that need several."""
    folder, recordings, methods = options.folder, options.recordings, options.methods
    store, _ = import_to(folder / "stores" / "steinmetz", sorted(recordings.glob("*.npz")))
    later = [name for name in store.ids if name[:2] not in TUNED]
    if options.budgets:
        return recommendations(store, folder / "steinmetz", options, {}, later)
    for name in later:
        everything(store, folder / "steinmetz", [m for m in methods if m not in SEVERAL], {}, [name])
    for four in (later[::2], later[1::2]):
        everything(store, folder / "steinmetz", [m for m in methods if m in SEVERAL], {}, four)
    return None


def recommendations(
    store: SessionStore,
    study: Path,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    heldout: Sequence[str],
) -> None:
    """What `recommend` says for each held-out session, with each budget and in each way."""
    how: dict[str, Any] = {"preset": "tiny", "seeds": THREE, "overrides": settings, "to": study}
    pool = [name for name in store.ids if name not in heldout or study.name == "steinmetz"]
    for budget, way, target in product(options.budgets, options.ways, heldout):
        started, others = time.monotonic(), [name for name in pool if name != target]
        found = recommend(store, target, budget=budget, pool=others, progress=make_progress(), **WAYS[way], **how)
        share, seconds = found.document["budget"]["share"], time.monotonic() - started
        print(f"{study.name}: {target}: {budget} {way}: {found.kind}, {share:.3f} spent, {seconds:.0f} s", flush=True)


def everything(
    store: SessionStore, study: Path, methods: Sequence[str], settings: Mapping[str, Any], heldout: Sequence[str]
) -> None:
    """The reference, and every method with two seeds and with one."""
    asked = [("full", REFERENCE)] + [(m, s) for m in methods for s in ((TWO,) if m in ALONE else (TWO, ONE))]
    for method, seeds in asked:
        started = time.monotonic()
        how: dict[str, Any] = {"preset": "tiny", "seeds": seeds, "overrides": settings, "to": study}
        rank_many(store, heldout, method=method, progress=make_progress(), **how)
        names = ", ".join(heldout)
        print(f"{study.name}: {names}: {method} {list(seeds)}: {time.monotonic() - started:.0f} s", flush=True)


def simulated_store(place: Path, part: str, generator: int, n_pool: int = 14, n_heldout: int = 2) -> SessionStore:
    """Sessions of 80 to 240 trials; the held-out ones have FRESH more, which are test trials."""
    if (place / "truth.json").exists():
        return open_store(place)
    how: dict[str, Any] = {**SIZES, "seed": FIRST_SEED + generator, "shift": SHIFTS[part]}
    small = simulate_pool(n_pool, n_heldout, n_trials=TRIALS, **how)
    large = simulate_pool(
        n_pool, n_heldout, n_trials=TRIALS[1] + FRESH, **how
    )  # as close: times have no part in trials
    used = {s.id: s.n_trials for s in small.sessions}
    both = {s.id: s for s in small.sessions} | {s.id: s for s in large.sessions if s.id in large.heldout}
    sessions = tuple(_with_split(session, used[name]) for name, session in both.items())
    store = create_store(place)
    for session in sessions:
        store.add(session)
    write_truth(place, replace(large, sessions=sessions))
    return open_store(place)


def _with_split(session: Session, used: int) -> Session:
    """The usual split of the first ``used`` trials, on record; all later trials are test trials."""
    split = make_split(session.id, session.trial_ids[:used])
    parts = np.full(session.n_trials, "test", dtype="<U10")
    for name in PARTS:
        parts[split.part(name)] = name
    return replace(session, trial_columns={**session.trial_columns, RECORDED_COLUMN: parts})


if __name__ == "__main__":
    main()
