"""A clip's sampled frames, which come in chunks, cut into windows."""

from collections.abc import Iterator

import numpy as np

from repro.backbones.config import Frames as Sampling
from repro.video.readers import Frames


class Windows:
    """Windows of one length, each beginning `hop` frames after the one before it.

    A clip's last window is shorter where the clip has ended: it holds frames that no other window has. Repeats Frames.windows.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.length, self.hop = sampling.window, sampling.hop
        self.held: list[Frames] = []
        self.whole = 0

    def add(self, chunk: Frames) -> Iterator[Frames]:
        """The windows that `chunk` makes whole."""
        frames = np.concatenate([*self.held, chunk]) if self.held else chunk
        while len(frames) >= self.length:
            yield frames[: self.length]
            self.whole += 1
            frames = frames[self.hop :]
        self.held = [frames]

    def end(self) -> Iterator[Frames]:
        """What is left when the clip has ended."""
        rest = self.held[0] if self.held else None
        shared = self.length - self.hop if self.whole else 0
        if rest is not None and len(rest) > shared:
            yield rest
        self.held, self.whole = [], 0
