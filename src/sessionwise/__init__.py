"""sessionwise: which earlier recordings should a Neural Data Transformer be pretrained on?

Names are loaded when they are first used, so that ``import sessionwise`` costs nothing and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessionwise.analysis.recording_figures import draw_session as draw_session
    from sessionwise.analysis.results import open_results as open_results
    from sessionwise.data.binning import session_from as session_from
    from sessionwise.data.exporting import export_store as export_store
    from sessionwise.data.importing import import_files as import_files
    from sessionwise.data.recording import Asked as Asked
    from sessionwise.data.recording import Recording as Recording
    from sessionwise.data.session import Session as Session
    from sessionwise.data.session import make_session as make_session
    from sessionwise.data.simulate import simulate_pool as simulate_pool
    from sessionwise.data.store import create_store as create_store
    from sessionwise.data.store import open_store as open_store
    from sessionwise.selection.rankers import rank as rank
    from sessionwise.selection.rankers import rank_many as rank_many
    from sessionwise.selection.ranking import Ranking as Ranking
    from sessionwise.selection.ranking import open_ranking as open_ranking
    from sessionwise.study.bench_rankers import bench_rankers as bench_rankers
    from sessionwise.study.recipe import load_recipe as load_recipe
    from sessionwise.study.recipe import make_recipe as make_recipe
    from sessionwise.study.recommend import recommend as recommend
    from sessionwise.study.scaling import run_study as run_study
    from sessionwise.training.api import evaluate as evaluate
    from sessionwise.training.api import finetune as finetune
    from sessionwise.training.api import pretrain as pretrain
    from sessionwise.training.api import train_baseline as train_baseline

__version__ = "0.1.0.dev0"

_PUBLIC = {  # name -> module that defines it
    "Session": "sessionwise.data.session",
    "make_session": "sessionwise.data.session",
    "Recording": "sessionwise.data.recording",
    "Asked": "sessionwise.data.recording",
    "session_from": "sessionwise.data.binning",
    "import_files": "sessionwise.data.importing",
    "export_store": "sessionwise.data.exporting",
    "draw_session": "sessionwise.analysis.recording_figures",
    "create_store": "sessionwise.data.store",
    "open_store": "sessionwise.data.store",
    "simulate_pool": "sessionwise.data.simulate",
    "Ranking": "sessionwise.selection.ranking",
    "open_ranking": "sessionwise.selection.ranking",
    "rank": "sessionwise.selection.rankers",
    "rank_many": "sessionwise.selection.rankers",
    "load_recipe": "sessionwise.study.recipe",
    "make_recipe": "sessionwise.study.recipe",
    "run_study": "sessionwise.study.scaling",
    "recommend": "sessionwise.study.recommend",
    "bench_rankers": "sessionwise.study.bench_rankers",
    "open_results": "sessionwise.analysis.results",
    "pretrain": "sessionwise.training.api",
    "finetune": "sessionwise.training.api",
    "train_baseline": "sessionwise.training.api",
    "evaluate": "sessionwise.training.api",
}

__all__ = [
    "Asked",
    "Ranking",
    "Recording",
    "Session",
    "__version__",
    "create_store",
    "draw_session",
    "evaluate",
    "export_store",
    "finetune",
    "import_files",
    "load_recipe",
    "make_recipe",
    "make_session",
    "open_ranking",
    "open_results",
    "open_store",
    "pretrain",
    "rank",
    "rank_many",
    "run_study",
    "session_from",
    "simulate_pool",
    "train_baseline",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sessionwise' has no attribute {name!r}; it has: {', '.join(sorted(_PUBLIC))}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
