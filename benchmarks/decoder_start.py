"""How fast a single-session training leaves the null model, by where its decoding stitcher starts.

    python benchmarks/decoder_start.py RECORDING.npz

Prints validation bits per spike after 0 .. 800 steps for both values of ``model.decoder_start``, with the
model of preset tiny, at peak learning rates of 4e-3 and 1e-4 (the paper's). Axes: K trials, T bins, N units.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from sessionwise.io.arrays import read_npz
from sessionwise.model.masking import training_mask
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.model.streams import stream
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer

SHOWN = (0, 50, 100, 200, 400, 800)


def scores(counts: np.ndarray, start: str, lr: float, seed: int = 10) -> list[float]:
    """Validation bits per spike after each number of steps in SHOWN; counts (K, T, N), trials split 8:1:1 at random."""
    K, T, N = counts.shape
    shuffled = np.random.default_rng(0).permutation(K)
    training, rows = counts[shuffled[: 8 * K // 10]], shuffled[8 * K // 10 : 9 * K // 10]
    model = NDT(NDTConfig(token_width=32, width=32, feedforward=64, heads=4, blocks=2, decoder_start=start), T, seed)
    model.add_session("recording", N, torch.from_numpy(training.mean(axis=(0, 1))).float())
    scorer = Scorer("recording", counts[rows], rows, K, EvaluationSettings())
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=SHOWN[-1], pct_start=0.15, div_factor=10)
    masks, dropout, order = stream(seed, "masks"), stream(seed, "dropout"), np.random.default_rng(seed)
    found = []
    for step in range(SHOWN[-1] + 1):
        if step in SHOWN:
            found.append(scorer.forward_prediction(model).bps)
        if step == SHOWN[-1]:
            return found
        batch = torch.from_numpy(training[order.choice(len(training), 16, replace=False)])
        masked = training_mask(16, T, 0.3, masks)
        log_rates = model(batch, masked, "recording", dropout)[masked]
        optimiser.zero_grad()
        (log_rates.exp() - batch[masked] * log_rates).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return found


def main() -> None:
    torch.set_num_threads(1)
    counts = read_npz(Path(sys.argv[1]), ["counts"])["counts"]
    print(f"{counts.shape} counts, mean {counts.mean():.3f} a bin; validation bps after steps {SHOWN}")
    for lr in (4e-3, 1e-4):
        for start in ("default", "null"):
            print(f"lr {lr:g}  {start:8}", "".join(f"{bps:9.3f}" for bps in scores(counts, start, lr)))


if __name__ == "__main__":
    main()
