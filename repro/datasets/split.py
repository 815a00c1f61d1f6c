"""Clips and splits: which clips, with which labels."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clip:
    id: str
    """The owners' name of the clip, unique in its dataset."""
    path: Path
    target: tuple[int, ...]
    """Label ids: one for single-label datasets, any number for multi-label ones."""
    group: str = ""
    """What it was cut from or who is in it: clips of one group are not independent, and belong on one side of a
    held-out split. Each adapter says what its groups are."""
    listed: str = ""
    """The file, in the dataset's folder, and row that list it."""


@dataclass(frozen=True, slots=True)
class Split:
    name: str
    classes: tuple[str, ...]
    """Their places are the label ids."""
    clips: tuple[Clip, ...]

    @property
    def positives(self) -> tuple[int, ...]:
        """Clips of each class, by label id. The owners' mAP leaves out the classes with none."""
        counts = [0] * len(self.classes)
        for clip in self.clips:
            for label in clip.target:
                counts[label] += 1
        return tuple(counts)
