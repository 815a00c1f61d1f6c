"""How clips are read: part of every backbone's config and of the key of its features. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

ReaderName = Literal["pyav", "decord"]
"""pyav reads every clip as the release does; decord, another library, refuses clips of which it returns other frames."""

READER_VERSION = 2
"""Raised when the frames of any clip change; part of the key of features. 1: decord where it was thought to give PyAV's
frames, in decoding order. 2: the published frames (repro/video/published.py)."""

_STILL = ", still picture"
_DAMAGED = ", damaged clip"


def label_reader(reader: ReaderName, *, still: bool, damaged: bool) -> str:
    """Return what stored features, manifests and records call a clip's reader.

    Args:
        reader: Its name.
        still: Whether what it reads is a still picture next to the video, such as cover art.
        damaged: Whether the clip is damaged.
    """
    return f"{reader}{_STILL if still else ''}{_DAMAGED if damaged else ''}"


def is_of_still_picture(label: str) -> bool:
    """Whether a label of `label_reader` is that of a clip of which a still picture was read."""
    return _STILL in label


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
