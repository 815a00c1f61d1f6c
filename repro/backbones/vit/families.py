"""A family made of these parts: how its backbones are opened, verified, and cut from their owners' files. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from repro.backbones.comparison import Comparison, Deviation, Note, Skipped
from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone, Execution, Extractor
from repro.backbones.family import Family
from repro.backbones.vit.config import VitConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """How the owners' files hold an encoder."""

    preferred: str
    """Which of several encoders in one file."""
    known_beside: tuple[str, ...]
    """What else such a file may hold, by the first part of its names; anything other is refused."""
    attention: tuple[str, ...]
    """Tensors of a block's attention."""
    table: bool
    """Whether positions are a tensor of the file."""


def family(config: type[VitConfig], layout: Layout, module: str) -> Family:
    """`module` has `build` (repro/backbones/vit/encoder.py), and is imported when it is needed."""

    def builder() -> Any:
        return import_module(module).build

    def open_(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> list[Extractor]:
        from repro.backbones.vit.extractor import open_extractor

        return [open_extractor(backbone, cells, layout, builder(), execution) for backbone, cells in asks]

    def against_golden(
        config: BackboneConfig, checkpoint: Path, folder: Path, device: str, batch: int | None
    ) -> Iterator[Deviation | Note]:
        from repro.backbones.vit.golden import against_golden

        assert isinstance(config, VitConfig)
        return against_golden(config, layout, builder(), checkpoint, folder, device)

    def comparisons(
        config: BackboneConfig, checkpoint: Path, device: str, limit: float, batch: int | None
    ) -> Iterator[Comparison | Skipped | Note]:
        from repro.backbones.vit.compare import comparisons

        assert isinstance(config, VitConfig)
        return comparisons(config, layout, builder(), checkpoint, device, limit, batch)

    def cut(config: BackboneConfig, original: Path, target: Path) -> str:
        from repro.backbones.vit.checkpoint import cut

        assert isinstance(config, VitConfig)
        return cut(config, layout, original, target)

    def draw(config: BackboneConfig, path: Path, seed: int) -> None:
        from repro.backbones.vit.random_weights import write

        assert isinstance(config, VitConfig)
        write(path, config, layout, seed)

    return Family(config, open_, against_golden, comparisons, cut, draw)
