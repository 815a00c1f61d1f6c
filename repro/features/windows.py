"""Windows of sampled frames (the release's generate_svd_maps.py): consecutive, not overlapping, the last one padded."""

import numpy as np
from jaxtyping import UInt8


def padded(frames: UInt8[np.ndarray, "T H W 3"], window: int) -> UInt8[np.ndarray, "window H W 3"]:
    """A window's frames, with black ones behind them where the clip has ended. Their outputs are dropped, but in SVD
    they act on the real frames, through temporal attention and normalisation."""
    if len(frames) == window:
        return frames
    black = np.zeros((window - len(frames), *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, black])
