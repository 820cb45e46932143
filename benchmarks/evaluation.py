"""What validation costs in a training, and what its formulation saves.

    python benchmarks/evaluation.py [--presets tiny small paper] [--units 200 600 1000] [--repeats 5] [--json PATH]

One validation is the k-fold score of 35 trials of 150 bins. Three things run in turn in one process with one thread: an
optimiser step at batch 16, the validation, and a plain formulation of it (mask after mask, boolean indexing, every
intermediate in 64 bits). Ratios of medians; the share is that of 25 validations in a whole training on 250 trials, with
all weights trained and, as "finetune", with stitchers alone. "in the model" is the part of a validation that the
forward passes take. The counts are random: dense arithmetic takes the same time at any rate.

Axes: K trials, T bins, N units, M scored bins.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from sessionwise.io.files import write_json
from sessionwise.model.masking import training_mask
from sessionwise.model.ndt import NDT
from sessionwise.scoring.evaluate import Scorer
from sessionwise.scoring.likelihood import RATE_FLOOR, null_rates
from sessionwise.training.batches import Batch, Batches
from sessionwise.training.loop import Training, TrainSettings, total_steps
from sessionwise.training.presets import PRESETS, Settings, preset

TRAINING_TRIALS, TRIALS, BINS, MEAN_COUNT = 250, 35, 150, 0.1
SESSION = "session"
PAPER_REPEATS = 1  # its steps take seconds
COLUMNS = (
    "preset",
    "units",
    "validation / step",
    "plain / step",
    "plain / validation",
    "in the model",
    "share of training",
    "plain share",
    "share of finetune",
    "plain share of finetune",
)


def main() -> None:
    """Print one row for each preset and number of units."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--units", type=int, nargs="+", default=[200, 600, 1000])
    parser.add_argument("--repeats", type=int, default=5, help=f"rounds; preset paper has {PAPER_REPEATS}")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write seconds and ratios there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * (len(COLUMNS) - 1))
    rows = []
    for name in options.presets:
        for n_units in options.units:
            repeats = min(PAPER_REPEATS, options.repeats) if name == "paper" else options.repeats
            rows.append(measured(preset(name), n_units, repeats))
            print(line(rows[-1]), flush=True)
    if options.json:
        about = {"torch": str(torch.__version__), "cpu": torch.backends.cpu.get_cpu_capability()}
        write_json(options.json, {**about, "trials": TRIALS, "bins": BINS, "rows": rows})


def measured(settings: Settings, n_units: int, repeats: int) -> dict[str, Any]:
    """Medians of seconds, and what follows from them."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(MEAN_COUNT, (TRIALS, BINS, n_units)).astype(np.uint8)
    training, finetune = (training_of(settings, how, n_units, rng) for how in ("train", "finetune"))
    scorer = Scorer(SESSION, counts, np.arange(TRIALS), TRIALS, settings.evaluation)
    model = Clocked(training.model)
    few = Scorer(SESSION, counts[:2], np.arange(2), TRIALS, settings.evaluation)
    checked = few.forward_prediction(model).bps, plain_bps(training.model, few)
    assert math.isclose(*checked, abs_tol=1e-2 if model.precision == "bf16" else 1e-4), checked
    training.advance()
    finetune.advance()
    model.seconds = 0.0
    tasks = {
        "step": training.advance,
        "frozen_step": finetune.advance,
        "validation": lambda: scorer.forward_prediction(model),
        "plain": lambda: plain_bps(training.model, scorer),
    }
    seconds = interleaved(tasks, repeats)
    return summary(settings, n_units, seconds, model.seconds / repeats)


class Clocked:
    """A model that counts the seconds of its forward passes."""

    def __init__(self, model: NDT) -> None:
        self.model, self.objective, self.device, self.precision = model, model.objective, model.device, model.precision
        self.seconds = 0.0

    def log_rates_at(self, bins: Tensor, counts: Tensor, masked: Tensor, session_id: str) -> Tensor:
        """The model's."""
        start = time.perf_counter()
        found = self.model.log_rates_at(bins, counts, masked, session_id)
        self.seconds += time.perf_counter() - start
        return found


@torch.no_grad()
def plain_bps(model: NDT, scorer: Scorer) -> float:
    """The k-fold score as one would write it first: a mask after the other, every intermediate of all its bins."""
    counts, null = torch.from_numpy(scorer.counts), torch.from_numpy(null_rates(scorer.counts))
    floor = null.clamp_min(RATE_FLOOR).float()
    K, T, N = counts.shape
    sums = {name: (np.zeros(K), np.zeros(T), np.zeros((2, N))) for name in ("gain", "spikes")}
    for mask in scorer.fold_masks:
        bins = torch.from_numpy(mask)
        log_rates = model.log_rates_at(bins, counts, bins, SESSION).clamp_min(math.log(RATE_FLOOR))
        seen = counts[bins].float()
        gain = ((log_rates - floor.log()) * seen - (log_rates.exp() - floor)).double()
        trial, when = (index.numpy() for index in bins.nonzero(as_tuple=True))
        even = torch.from_numpy(trial % 2 == 0)
        for name, values in (("gain", gain), ("spikes", seen.double())):
            by_trial, by_time, by_unit = sums[name]
            by_bin = values.sum(dim=1).numpy()
            np.add.at(by_trial, trial, by_bin)
            np.add.at(by_time, when, by_bin)
            by_unit += torch.stack([values[even].sum(dim=0), values[~even].sum(dim=0)]).numpy()
    return float(sums["gain"][0].sum() / (sums["spikes"][0].sum() * math.log(2)))


class SameBatch(Batches):
    """One batch again and again; masks are drawn as in a training."""

    def __init__(self, counts: np.ndarray) -> None:
        super().__init__((), len(counts), 0)
        self.counts = torch.from_numpy(counts)

    @property
    def per_epoch(self) -> int:
        """As many as there are in an epoch of the training trials."""
        return math.ceil(TRAINING_TRIALS / len(self.counts))

    def draw(self, mask_ratio: float, mask_rng: Generator) -> Batch:
        """The batch under a new mask."""
        K, T, _ = self.counts.shape
        return Batch(SESSION, self.counts, training_mask(K, T, mask_ratio, mask_rng))


def training_of(settings: Settings, arm: str, n_units: int, rng: np.random.Generator) -> Training:
    """A training that has just begun; of the stitchers alone when the arm is "finetune"."""
    how: TrainSettings = getattr(settings, arm)
    model = NDT(settings.model, BINS, 0)
    model.add_session(SESSION, n_units, torch.full((n_units,), MEAN_COUNT))
    model.precision = "bf16" if how.precision == "bf16" else "fp32"
    if arm == "finetune":
        model.requires_grad_(False)
        model.stitchers.requires_grad_(True)
    counts = rng.poisson(MEAN_COUNT, (how.batch_size, BINS, n_units)).astype(np.uint8)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Training(model, parameters, SameBatch(counts), how, 0)


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one of each in turn."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, do in tasks.items():
            start = time.perf_counter()
            do()
            taken[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in taken.items()}


def summary(settings: Settings, n_units: int, seconds: Mapping[str, float], in_model: float) -> dict[str, Any]:
    """Ratios, and shares of whole trainings."""
    row: dict[str, Any] = {"preset": settings.preset, "units": n_units, "precision": settings.train.precision}
    row |= {"seconds": {**seconds, "in_model": in_model}}
    row |= {f"{name}_per_step": seconds[name] / seconds["step"] for name in ("validation", "plain")}
    row |= {"plain_per_validation": seconds["plain"] / seconds["validation"]}
    for arm, step in (("train", "step"), ("finetune", "frozen_step")):
        how: TrainSettings = getattr(settings, arm)
        stepping = total_steps(how, math.ceil(TRAINING_TRIALS / how.batch_size)) * seconds[step]
        for name in ("validation", "plain"):
            validating = how.validations * seconds[name]
            row[f"{name}_share_of_{arm}"] = validating / (validating + stepping)
    return row


def line(row: Mapping[str, Any]) -> str:
    """One line of the table."""
    ratios = [row[name] for name in ("validation_per_step", "plain_per_step", "plain_per_validation")]
    names = [f"{name}_share_of_{arm}" for arm in ("train", "finetune") for name in ("validation", "plain")]
    shares = [row["seconds"]["in_model"] / row["seconds"]["validation"], *(row[name] for name in names)]
    numbers = [f"{ratio:.2f}" for ratio in ratios] + [f"{100 * share:.1f} %" for share in shares]
    return f"| {row['preset']}, {row['precision']} | {row['units']} | " + " | ".join(numbers) + " |"


if __name__ == "__main__":
    main()
