"""ActionDiff (arXiv 2509.08908), reproduced: the names below are the public Python API, the rest may change.

Names are imported when they are first used (PEP 562): `import repro` takes milliseconds and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repro.core import __version__

if TYPE_CHECKING:
    from repro.core.errors import MissingError, NothingToCheckError, ReproError, UsageError
    from repro.judge.api import judge_claims, judge_records, load_predictions, load_records
    from repro.judge.scores.row_scores import load_scores
    from repro.pipeline.api import extract_video_features as extract_features
    from repro.pipeline.api import extract_video_layers as extract_layers
    from repro.pipeline.api import load_features, score_video
    from repro.pipeline.api import run_any_row as run_row
    from repro.pipeline.api import train_split_features as train_readout
    from repro.readout.trained import load_readout
    from repro.table.rows import extra_names, row_names
    from repro.table.rows import load_any_row as load_row

_PLACES = {
    "MissingError": ("repro.core.errors", "MissingError"),
    "NothingToCheckError": ("repro.core.errors", "NothingToCheckError"),
    "ReproError": ("repro.core.errors", "ReproError"),
    "UsageError": ("repro.core.errors", "UsageError"),
    "extra_names": ("repro.table.rows", "extra_names"),
    "extract_features": ("repro.pipeline.api", "extract_video_features"),
    "extract_layers": ("repro.pipeline.api", "extract_video_layers"),
    "judge_claims": ("repro.judge.api", "judge_claims"),
    "judge_records": ("repro.judge.api", "judge_records"),
    "load_features": ("repro.pipeline.api", "load_features"),
    "load_predictions": ("repro.judge.api", "load_predictions"),
    "load_readout": ("repro.readout.trained", "load_readout"),
    "load_records": ("repro.judge.api", "load_records"),
    "load_row": ("repro.table.rows", "load_any_row"),
    "load_scores": ("repro.judge.scores.row_scores", "load_scores"),
    "row_names": ("repro.table.rows", "row_names"),
    "run_row": ("repro.pipeline.api", "run_any_row"),
    "score_video": ("repro.pipeline.api", "score_video"),
    "train_readout": ("repro.pipeline.api", "train_split_features"),
}
"""The module of each public name, and its name there."""

__all__ = [
    "MissingError",
    "NothingToCheckError",
    "ReproError",
    "UsageError",
    "__version__",
    "extra_names",
    "extract_features",
    "extract_layers",
    "judge_claims",
    "judge_records",
    "load_features",
    "load_predictions",
    "load_readout",
    "load_records",
    "load_row",
    "load_scores",
    "row_names",
    "run_row",
    "score_video",
    "train_readout",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'repro' has no attribute '{name}'")
    module, there = _PLACES[name]
    return getattr(import_module(module), there)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
