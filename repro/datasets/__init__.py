"""Which clips, with which labels."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clip:
    id: str
    """The owners' name of the clip, unique in its dataset."""
    path: Path
    target: tuple[int, ...]
    """Label ids: one for single-label datasets, any number for multi-label ones."""


@dataclass(frozen=True, slots=True)
class Split:
    name: str
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
