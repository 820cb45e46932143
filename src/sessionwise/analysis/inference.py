"""The door to the statistics of a scaling study.

Comparisons and tests (``comparisons``), the nested bootstrap (``bootstrap``), fits and regressions (``regression``),
agreement between held-out sessions (``closeness``). Everything is a pure function of numbers; what is undefined is None
with a reason, randomness comes from a generator that is passed, and a value that is not finite is refused.
"""

from __future__ import annotations

from sessionwise.analysis.bootstrap import Estimate, Statistic, Target, nested_bootstrap, per_target_bootstrap
from sessionwise.analysis.closeness import QualityBand, closeness_decomposition, quality_band, variance_split
from sessionwise.analysis.comparisons import (
    TTests,
    benjamini_hochberg,
    best_over_sizes,
    data_efficiency,
    exact_permutation,
    holm,
    improvement_percent,
    percentile_among,
    t_tests,
)
from sessionwise.analysis.regression import (
    LogFit,
    Regression,
    SaturatingFit,
    log_fit,
    regression,
    saturating_fit,
    spearman_screen,
)

__all__ = [
    "Estimate",
    "LogFit",
    "QualityBand",
    "Regression",
    "SaturatingFit",
    "Statistic",
    "TTests",
    "Target",
    "benjamini_hochberg",
    "best_over_sizes",
    "closeness_decomposition",
    "data_efficiency",
    "exact_permutation",
    "holm",
    "improvement_percent",
    "log_fit",
    "nested_bootstrap",
    "per_target_bootstrap",
    "percentile_among",
    "quality_band",
    "regression",
    "saturating_fit",
    "spearman_screen",
    "t_tests",
    "variance_split",
]
