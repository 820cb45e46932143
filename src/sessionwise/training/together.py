"""Trainings around one frozen core, computed in one batch: the same steps, in larger matrix products.

New stitchers of several sessions around the same core share everything but the stitchers. Their embedded trials go
through the core side by side; each training keeps its own batches, masks, dropout, loss, optimiser and schedule, and
the gradients of the sum of the losses are those of the single ones. A training draws the random numbers that it draws
alone, and weights are those from alone up to the rounding of products of another size. A small model's step alone
leaves most of a GPU idle; on a CPU there is nothing to win.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sessionwise.errors import Stopped, UsageError
from sessionwise.model.dropout import Streams
from sessionwise.training.batches import Batch
from sessionwise.training.graphs import Graphs
from sessionwise.training.loop import Course, Training, dense_loss, hidden_and_scored


class Together:
    """Trainings whose steps are computed side by side.

    Each has a model of its own, with one session or more; all models hold the same ``core``, a frozen one. Parameters
    that two trainings have in common, another core or a trained one are a UsageError.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = list(trainings)
        self.core = self.trainings[0].model.core
        _check(self.trainings)
        self.parameters = [parameter for training in self.trainings for parameter in training.parameters]
        on_gpu = self.core.positions.device.type == "cuda"
        self.graphs = Graphs(self.losses, self.parameters) if on_gpu else None

    def advance(self) -> list[str | None]:
        """One step of each training; for each, as ``Training.advance`` does, the reason when it is not finite."""
        batches = [t.batches.draw(t.settings.mask_ratio, t.mask_rng) for t in self.trainings]
        rngs = [training.dropout_rng for training in self.trainings]
        if self.graphs:
            losses = self.graphs(batches, rngs)
        else:
            losses = self.losses(batches, rngs)
            losses.sum().backward()
        each = zip(self.trainings, losses.detach(), batches, strict=True)
        return [training.update(loss, batch.masked.numel()) for training, loss, batch in each]

    def losses(self, batches: Sequence[Batch], rngs: Sequence[Generator]) -> Tensor:
        """(n,) loss of each training on its batch."""
        models, trials = [training.model for training in self.trainings], [len(batch.counts) for batch in batches]
        seen = [hidden_and_scored(model, batch.masked) for model, batch in zip(models, batches, strict=True)]
        with models[0].arithmetic():
            bins, sessions = [], []
            for model, batch, (masked, _) in zip(models, batches, seen, strict=True):
                bins.append(model.embed(batch.counts, masked, batch.session_id))  # (K, T, D)
                sessions.append(model.embedding_of(batch.session_id).expand(len(batch.counts), -1))  # (K, D)
            dropout = Streams(list(zip(rngs, trials, strict=True)))
            features = self.core(torch.cat(bins), torch.cat(sessions), dropout).split(trials)
            log_rates = [
                model.stitchers_of(batch.session_id).decode(part).float()
                for model, batch, part in zip(models, batches, features, strict=True)
            ]
        each = zip(log_rates, batches, seen, self.trainings, strict=True)
        return torch.stack(
            [dense_loss(found, batch.counts, scored, t.settings) for found, batch, (_, scored), t in each]
        )


def train_until_one_ends(courses: Sequence[Course]) -> None:
    """Train side by side until at least one of the trainings has ended; the others can be gone on with.

    A training that diverges has ended, and has not touched the others. Stopped when the command was asked to stop:
    all have written a checkpoint then.
    """
    together = Together([course.training for course in courses])
    while not any(course.ended for course in courses):
        reasons, stopped = together.advance(), {}
        for number, (course, reason) in enumerate(zip(courses, reasons, strict=True)):
            try:
                course.follow(reason)
            except Stopped as asked:
                stopped[number] = asked
        if stopped:
            for number, course in enumerate(courses):
                if number not in stopped and course.reason is None:
                    course.save()
            raise next(iter(stopped.values()))


def _check(trainings: Sequence[Training]) -> None:
    first = trainings[0]
    parameters = [id(parameter) for training in trainings for parameter in training.parameters]
    core = {id(parameter) for parameter in first.model.core.parameters()}
    problems = {
        "do not share one core": any(training.model.core is not first.model.core for training in trainings),
        "train the core": not core.isdisjoint(parameters),
        "have parameters in common": len(set(parameters)) < len(parameters),
        "differ in precision": any(training.model.precision != first.model.precision for training in trainings),
    }
    for found, is_so in problems.items():
        if is_so:
            raise UsageError("trainings together", found, "trainings around one frozen core", "Train them alone")
