"""Cuts a clip's sampled frames, which arrive in chunks, into windows."""

from collections.abc import Iterator

import numpy as np

from repro.backbones.config import Frames as Sampling
from repro.video.readers import Frames


class Windows:
    """Windows of one length, each starting `hop` frames after the previous one.

    A clip's last window is shorter if the clip ends in it; it exists only if it holds frames that no other window has. The
    number of windows equals Frames.windows, which plans use.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.length, self.hop = sampling.window, sampling.hop
        self.held: list[Frames] = []
        self.whole = 0

    def add(self, chunk: Frames) -> Iterator[Frames]:
        """Yield the windows that `chunk` completes."""
        frames = np.concatenate([*self.held, chunk]) if self.held else chunk
        while len(frames) >= self.length:
            yield frames[: self.length]
            self.whole += 1
            frames = frames[self.hop :]
        self.held = [frames]

    def end(self) -> Iterator[Frames]:
        """Yield the last, shorter window, if there is one."""
        rest = self.held[0] if self.held else None
        shared = self.length - self.hop if self.whole else 0
        if rest is not None and len(rest) > shared:
            yield rest
        self.held, self.whole = [], 0
