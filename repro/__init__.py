"""ActionDiff (arXiv 2509.08908), reproduced: the names below are the public Python API, the rest may change.

Names are imported when they are first used (PEP 562): `import repro` takes milliseconds and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.core.errors import MissingError, NothingToCheckError, ReproError, UsageError
    from repro.judge.api import judge_records, load_records
    from repro.table.rows import extra_names, load_row, row_names

__version__ = "0.1.0"

_PLACES = {
    "MissingError": "repro.core.errors",
    "NothingToCheckError": "repro.core.errors",
    "ReproError": "repro.core.errors",
    "UsageError": "repro.core.errors",
    "extra_names": "repro.table.rows",
    "judge_records": "repro.judge.api",
    "load_records": "repro.judge.api",
    "load_row": "repro.table.rows",
    "row_names": "repro.table.rows",
}
"""The module of each public name."""

__all__ = [
    "MissingError",
    "NothingToCheckError",
    "ReproError",
    "UsageError",
    "__version__",
    "extra_names",
    "judge_records",
    "load_records",
    "load_row",
    "row_names",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'repro' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
