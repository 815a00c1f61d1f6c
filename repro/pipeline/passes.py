"""Passes over clips: which backbones compute which clips together. `repro run` computes these, `repro plan` prices them.

Imports no torch.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from repro.backbones.config import BackboneConfig, Cell
from repro.core.hashing import content_key


@dataclass(frozen=True, slots=True)
class UnstoredCell:
    """Clips of a data set of which a cell is read and not stored."""

    dataset: str
    backbone: BackboneConfig
    cell: Cell
    clips: Collection[str]
    """Ids."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Clips that several backbones compute together."""

    dataset: str
    backbones: tuple[tuple[BackboneConfig, tuple[Cell, ...]], ...]
    """Each with the cells of it that are read; no two have the same name."""
    clips: tuple[str, ...]
    """Ids."""

    @property
    def is_shared(self) -> bool:
        """Whether it computes more than a row by itself would: several backbones, or several cells."""
        return sum(len(cells) for _, cells in self.backbones) > 1


def plan_passes(unstored: Iterable[UnstoredCell]) -> list[Pass]:
    """Divide what is read into passes. Each clip's cells of a backbone are computed once, and no cell that nobody reads.

    Clips are grouped by what is needed of them. Backbones with different configs are different: rows may change one.
    """
    backbones: dict[str, BackboneConfig] = {}
    # By (backbone, cell), which are numbered as they are first found: needs of two clips compare whatever the order of rows.
    numbers: dict[tuple[str, Cell], int] = {}
    needs: dict[tuple[str, str], set[int]] = {}
    for one in unstored:
        config = one.backbone
        key = content_key([config.name, config.model_dump(mode="json")])
        backbones.setdefault(key, config)
        number = numbers.setdefault((key, one.cell), len(numbers))
        for clip in one.clips:
            needs.setdefault((one.dataset, clip), set()).add(number)
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (dataset, clip), own in needs.items():
        groups.setdefault((dataset, tuple(sorted(own))), []).append(clip)
    by_number = list(numbers)
    passes = []
    for (dataset, own_numbers), clips in groups.items():
        cells: dict[str, list[Cell]] = {}
        for number in own_numbers:
            key, cell = by_number[number]
            cells.setdefault(key, []).append(cell)
        while cells:
            # One extraction knows backbones by name, so of several with one name each takes part in a pass of its own.
            named = {backbones[key].name: key for key in reversed(cells)}
            chosen = tuple((backbones[key], tuple(cells.pop(key))) for key in reversed(named.values()))
            passes.append(Pass(dataset, chosen, tuple(clips)))
    return passes
