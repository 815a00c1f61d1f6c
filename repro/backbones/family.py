"""A family of backbones is a module of this package with a FAMILY in it; its name stands in the configs that are of it.

Imports no torch, and neither may the module of a family when it is imported: `repro list` reads all configs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from repro.backbones.comparison import Comparison, Deviation, Note, Skipped
from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone, Execution, Extractor
from repro.core.errors import UsageError

Asks = Sequence[tuple[Backbone, Sequence[Cell]]]


@dataclass(frozen=True, slots=True)
class Family:
    config: type[BackboneConfig]
    open: Callable[[Asks, Execution], Sequence[Extractor]]
    """Load what computes the cells asked for."""
    against_golden: Callable[[BackboneConfig, Path, Path, str, int | None], Iterator[Deviation | Note]] | None = None
    """`repro verify --golden`: config, checkpoint, folder of golden values, device, batch."""
    comparisons: (
        Callable[[BackboneConfig, Path, str, float, int | None], Iterator[Comparison | Skipped | Note]] | None
    ) = None
    """`repro verify`: config, checkpoint, device, limit, batch."""
    cut: Callable[[BackboneConfig, Path, Path], str] | None = None
    """Keep the encoder of an owners' file alone: config, the file, where to."""
    draw: Callable[[BackboneConfig, Path, int], None] | None = None
    """Write weights drawn from a seed in the owners' layout: config, where to, seed."""


def load_family(name: str, config: Path | None = None) -> Family:
    """The family of that name; `config` is where it was read, for the message.

    Raises:
        UsageError: there is none.
    """
    module = f"repro.backbones.{name}"
    found = getattr(import_module(module), "FAMILY", None) if find_spec(module) else None
    if not isinstance(found, Family):
        where = f"{config}: " if config else ""
        raise UsageError(f"{where}family {name}: repro/backbones has no module of that name with a FAMILY")
    return found
