"""From frames to what an encoder sees."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from repro.backbones.vit.config import Picture

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue in [0, 1]."""


def pixels(
    windows: UInt8[np.ndarray, "B T H W 3"], picture: Picture, device: torch.device | str = "cpu"
) -> Float[Tensor, "B 3 T size size"]:
    """Resized, cut and normalised; frame by frame."""
    batch, count, height, width = windows.shape[:4]
    size = resized((height, width), picture)
    top, left = (round((side - picture.size) / 2) for side in size)
    # Window by window: large frames are large, and four times as large as numbers of four bytes.
    frames = torch.cat(
        [
            functional.interpolate(
                torch.from_numpy(np.ascontiguousarray(window)).to(device).permute(0, 3, 1, 2).float() / 255,
                size=size,
                mode="bilinear",
            )[..., top : top + picture.size, left : left + picture.size]
            for window in windows
        ]
    )
    if picture.normalisation == "imagenet":
        mean, std = (torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (MEAN, STD))
        frames = (frames - mean) / std
    return frames.reshape(batch, count, *frames.shape[1:]).transpose(1, 2).contiguous()


def resized(size: tuple[int, int] | torch.Size, picture: Picture) -> tuple[int, int]:
    """Height and width a frame is brought to, before the centre is cut out."""
    height, width = size
    short = picture.short_side
    if short is None:
        return picture.size, picture.size
    if height < width:
        return short, int(short * width / height)
    return int(short * height / width), short


def filled(frames: UInt8[np.ndarray, "T H W 3"], window: int) -> UInt8[np.ndarray, "window H W 3"]:
    """A window's frames, the last one repeated where the clip has ended: it moves no more, and nothing black appears."""
    rest = window - len(frames)
    return frames if rest == 0 else np.concatenate([frames, np.repeat(frames[-1:], rest, axis=0)])
