"""Whether bf16 changes what comes out: the same weights scored in both precisions, and paired trainings.

    python benchmarks/precision.py RECORDING.npz [...] [--seeds 5] [--steps 200] [--to FOLDER] [--json FILE]

Each recording is trained on alone, from scratch, by the model of preset `paper`, once in fp32 and once in bf16 with the
same seed: same start, same batches, masks and dropout. Trainings are stored in --to: an interrupted command goes on.
The paper's schedule would take days on a CPU; it is shortened to --steps with a peak learning rate that fits them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import t as student

import sessionwise as sw
from sessionwise.data.importing import import_to
from sessionwise.data.store import SessionStore
from sessionwise.training.api import TrainedModel
from sessionwise.training.jobs import scorer

SEED = 10
OVERRIDES = {"model.decoder_start": "null", "baseline.lr": 5e-4, "baseline.validations": 10}


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.to or temporary)
        sessions = _sessions(folder / "sessions", asked.recordings)
        pairs = [
            (i, seed, *(_trained(sessions, i, seed, precision, asked, folder) for precision in ("fp32", "bf16")))
            for seed in range(SEED, SEED + asked.seeds)
            for i in sessions.ids
        ]
        rows = [_row(i, seed, fp32, bf16) for i, seed, fp32, bf16 in pairs]
    found = summary(rows)
    print(report(rows, found, asked.steps))
    if asked.json:
        Path(asked.json).write_text(json.dumps({"rows": rows, **found, "steps": asked.steps}, indent=1) + "\n")


def summary(rows: list[dict]) -> dict[str, float]:
    """Mean paired difference with its 95 % interval, and the SD from seed to seed within a recording and precision."""
    differences = np.array([row["bf16"] - row["fp32"] for row in rows])
    n, mean, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    half = float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    groups = [
        np.array([row[precision] for row in rows if row["recording"] == name])
        for name in {row["recording"] for row in rows}
        for precision in ("fp32", "bf16")
    ]
    seed_sd = math.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / sum(len(g) - 1 for g in groups))
    same = max(abs(row[f"scored_{p}_in_bf16"] - row[f"scored_{p}_in_fp32"]) for row in rows for p in ("fp32", "bf16"))
    return {
        "pairs": n,
        "mean_difference": mean,
        "low": mean - half,
        "high": mean + half,
        "seed_sd": seed_sd,
        "fifth_of_seed_sd": seed_sd / 5,
        "largest_difference_same_weights": same,
    }


def report(rows: list[dict], found: dict[str, float], steps: int) -> str:
    """The tables as markdown."""
    lines = ["| recording | seed | fp32 | bf16 | difference |", "|---|---|---|---|---|"]
    for row in rows:
        difference = row["bf16"] - row["fp32"]
        lines.append(
            f"| {row['recording']} | {row['seed']} | {row['fp32']:.4f} | {row['bf16']:.4f} | {difference:+.4f} |"
        )
    lines += [
        "",
        f"{found['pairs']} pairs of {steps} steps, best validation bits per spike: bf16 - fp32 = "
        f"{found['mean_difference']:+.5f} [{found['low']:+.5f}, {found['high']:+.5f}] (95 %); "
        f"a fifth of the seed-to-seed SD ({found['seed_sd']:.4f}) is {found['fifth_of_seed_sd']:.5f}.",
        f"The same weights scored in both precisions differ by at most {found['largest_difference_same_weights']:.1e}.",
    ]
    return "\n".join(lines)


def _trained(
    sessions: SessionStore, name: str, seed: int, precision: str, asked: argparse.Namespace, folder: Path
) -> TrainedModel:
    overrides = {**OVERRIDES, "baseline.steps": asked.steps, "baseline.precision": precision}
    return sw.train_baseline(sessions, name, seed=seed, preset=asked.preset, overrides=overrides, to=folder / "study")


def _row(name: str, seed: int, fp32: TrainedModel, bf16: TrainedModel) -> dict:
    row: dict = {"recording": name, "seed": seed, "fp32": fp32.result["best_bps"], "bf16": bf16.result["best_bps"]}
    for trained_in, trained in (("fp32", fp32), ("bf16", bf16)):
        settings = trained.settings
        data = trained.sessions.load(name, settings.split_seed, settings.split)
        scored, model = scorer(data, "validation", settings.evaluation), trained.load()
        for model.precision in ("fp32", "bf16"):
            row[f"scored_{trained_in}_in_{model.precision}"] = scored.forward_prediction(model).bps
    return row


def _sessions(folder: Path, recordings: list[str]) -> SessionStore:
    return import_to(folder, recordings)[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each recording in each precision")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--to", help="keep sessions and trainings here")
    parser.add_argument("--json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
