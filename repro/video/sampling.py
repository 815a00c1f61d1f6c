"""How clips are read: part of every backbone's config and of the key of its features. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

ReaderName = Literal["pyav", "decord"]
"""pyav reads every clip as the release does; decord is faster and refuses clips of which it would return other frames."""

READER_VERSION = 2
"""Raised when the frames of any clip change; part of the key of features. 1: decord where it was thought to give PyAV's
frames, in decoding order. 2: the published frames (repro/video/published.py)."""

_DAMAGED = ", damaged clip"


def label_reader(reader: ReaderName, *, damaged: bool) -> str:
    """Return what stored features and records call a clip's reader: its name, and whether the clip is damaged."""
    return f"{reader}{_DAMAGED}" if damaged else reader


def is_of_damaged_clip(label: str) -> bool:
    """Whether a label of `label_reader` is that of a damaged clip."""
    return label.endswith(_DAMAGED)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a clip is read.

    Attributes:
        stride: Every how many native frames one is sampled.
        max_seconds: Frames presented later are not read; may be infinite.
        chunk: Sampled frames returned at a time.
        reader: What decodes.
        allow_damaged: Whether what decodes of a damaged clip is used.
    """

    stride: int
    max_seconds: float
    chunk: int
    reader: ReaderName = "pyav"
    allow_damaged: bool = False
