"""What a study needs on disk and in memory, from its jobs: also from those whose sessions wait for a ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from sessionwise.study.cells import UNKNOWN, Job, Orders
from sessionwise.study.layout import Layout
from sessionwise.study.plan import distinct_jobs
from sessionwise.study.tuning_recipe import Variant
from sessionwise.training.presets import Settings
from sessionwise.training.resources import Needs, Shape, needs, training_shape


def study_needs(
    layout: Layout,
    units: Mapping[str, int],
    n_bins: int,
    orders: Orders | None = None,
    stored: Callable[[Job], bool] | None = None,
) -> Needs:
    """What the runs of a study need that are not there.

    units: id -> units of the sessions; others are taken for the median. orders, stored: as of ``plan.plan``.
    """
    there = stored or (lambda job: False)
    jobs = [job for job in distinct_jobs(layout, orders) if not (job.known and there(job))]
    return needs(job_shapes(layout, units, n_bins, jobs), len(layout.heldout) * len(layout.split_seeds))


def unknown_shapes(layout: Layout, units: Mapping[str, int], n_bins: int) -> list[Shape]:
    """Shapes of the runs whose sessions are known with the rankings, at most."""
    return job_shapes(layout, units, n_bins, [job for job in distinct_jobs(layout) if not job.known])


def job_shapes(layout: Layout, units: Mapping[str, int], n_bins: int, jobs: Iterable[Job]) -> list[Shape]:
    """The shapes of jobs; a session that is not known yet is taken for the median one."""
    usual = int(median(units.values()))
    settings = layout.recipe.settings.model_dump()
    return [_shape(layout, settings, {**units, UNKNOWN: usual}, n_bins, job) for job in jobs]


def search_needs(
    runs: Iterable[tuple[Variant, Sequence[str]]],
    units: Mapping[str, int],
    trials: Mapping[str, tuple[int, int]],
    n_bins: int,
) -> Needs:
    """What the pretrainings of a search for settings need; trials: id -> (all, training)."""
    dumped: dict[int, dict[str, object]] = {}
    shapes = []
    for variant, ids in runs:
        settings = dumped.setdefault(id(variant.settings), _dump(variant.settings))
        sizes = tuple(sorted(units[i] for i in ids))
        shapes.append(_training("pretrain", settings, sizes, n_bins, _validation(trials[i] for i in ids)))
    return needs(shapes)


def _shape(layout: Layout, settings: Mapping[str, object], units: Mapping[str, int], n_bins: int, job: Job) -> Shape:
    sizes = tuple(sorted(units.get(name, units[UNKNOWN]) for name in job.sessions))
    trials = _validation(layout.trials.get(name, layout.mean_trials()) for name in job.sessions)
    if job.kind in ("evaluate", "psth", "glm"):
        return Shape(job.kind, None, sizes, n_bins, trials)
    shape = _training(job.kind, settings, sizes, n_bins, trials, has_core=job.input is not None)
    return shape._replace(whole=True, core=True) if job.full else shape


def _training(
    kind: str, settings: Mapping[str, object], sizes: tuple[int, ...], n_bins: int, trials: int, has_core: bool = False
) -> Shape:
    section = settings["train" if kind == "pretrain" else kind]
    assert isinstance(section, dict) and isinstance(settings["model"], dict)
    return training_shape(kind, settings["model"], section, sizes, n_bins, trials, has_core)


def _dump(settings: Settings) -> dict[str, object]:
    return settings.model_dump()


def _validation(trials: Iterable[tuple[float, float]]) -> int:
    """Validation trials, of which there are as many as test trials."""
    return round(sum(whole - training for whole, training in trials) / 2)
