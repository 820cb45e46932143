"""Reference predictors: what simpler models than the NDT reach on the same masks and trials.

    psth   each unit's mean count per bin over the training trials, smoothed over bins, shrunk toward the unit's mean
    glm    the same times an exponential of what was seen before: Poisson regression on past population activity

Both see what the NDT sees: training trials for their values, validation trials for a few choices, no test trial.
Axes: K trials, T bins, N units, P principal components, L lags, F covariates, R rows (bins of trials) of a regression.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Smoothing = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Annotated[float, Field(gt=0, le=1e12)]


class PSTHSettings(BaseModel):
    """The grid that validation trials choose from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smoothing: tuple[Smoothing, ...] = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), min_length=1, description="SD of the Gaussian in bins; 0 does not smooth"
    )
    shrinkage: tuple[Share, ...] = Field(
        (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0), min_length=1, description="weight of the unit's mean rate"
    )


class GLMSettings(BaseModel):
    """A Poisson regression on past activity around a PSTH. ``smoothing`` and ``shrinkage`` are the PSTH's grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lags: int = Field(10, ge=1, le=1000, description="bins of the past; at most T - 1 are used")
    components: int = Field(10, ge=1, le=1000, description="principal components of the population; at most N")
    l2: tuple[Precision, ...] = Field(
        (1e5, 1e4, 3e3, 1e3, 3e2, 1e2), min_length=1, description="grid of penalties: precisions of a Gaussian prior"
    )
    mask_ratio: float = Field(0.3, gt=0, lt=1)
    draws: int = Field(4, ge=1, le=100, description="draws of masks of every training trial, fewer where ``rows`` are")
    rows: int = Field(40_000, ge=1, description="masked bins that are enough: no further draw once they are there")
    iterations: int = Field(40, ge=1, le=10_000, description="at most, for each penalty")
    smoothing: tuple[Smoothing, ...] = Field(PSTHSettings().smoothing, min_length=1)
    shrinkage: tuple[Share, ...] = Field(PSTHSettings().shrinkage, min_length=1)


def candidates_of(settings: PSTHSettings | GLMSettings) -> int:
    """How many fits validation trials choose between."""
    if isinstance(settings, GLMSettings):
        return len(settings.l2)
    return len(settings.smoothing) * len(settings.shrinkage)
