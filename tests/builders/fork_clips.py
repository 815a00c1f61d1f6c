"""Clips of the golden values made with the fork of VideoMAEv2 by one of the paper's authors.

The clips are computed from whole numbers, so that they are the same on every machine and need not be stored.
"""

import numpy as np

from builders.commands import TESTS
from repro.backbones.vit.config import EncoderSizes

GOLDEN = TESTS / "backbones" / "vit" / "videomaev2_fork.safetensors"
"""Weights, and the features of CLIPS. How they were made: videomaev2_fork.md in the same folder."""

SIZES = EncoderSizes(width=16, depth=2, patch=14, tubelet=2, mlp=48)
NUM_HEADS = 2

CLIPS = (
    (1, 48, 64), (2, 48, 64), (10, 48, 64), (15, 48, 64), (16, 240, 320), (17, 51, 37), (18, 48, 64), (19, 64, 48),
    (20, 48, 64), (23, 225, 224), (24, 48, 64), (50, 48, 64), (51, 120, 91), (100, 36, 48),
)  # fmt: skip
"""Frames, height and width of each clip: fewer frames than a window, one window, and every remainder of the step of 4."""


def name_clip(frames: int, height: int, width: int) -> str:
    """Return what the golden values call a clip."""
    return f"n{frames:03d}_{height}x{width}"


def draw_clip(frames: int, height: int, width: int) -> np.ndarray:
    """Compute a clip's frames, uint8 `[T, H, W, 3]`: gradients that move and change with time."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    values: np.ndarray = (x + 2 * t) * (c + 2) * 3 + (y + t * t) * 5 + 40 * (t % 5) * c
    return (values % 256).astype(np.uint8)
