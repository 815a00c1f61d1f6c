"""From frames to an encoder's input."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from repro.backbones.vit.config import Picture

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of red, green and blue in [0, 1]."""


def to_encoder_input(
    windows: UInt8[np.ndarray, "B T H W 3"], picture: Picture, device: torch.device | str = "cpu"
) -> Float[Tensor, "B 3 T size size"]:
    """Resize, crop and normalise every frame."""
    batch, count, height, width = windows.shape[:4]
    size = resized_size((height, width), picture)
    top, left = (round((side - picture.size) / 2) for side in size)
    # One window at a time: as float32, frames take four times the memory of the uint8 ones.
    # interpolate without antialias takes the two nearest pixels, as cv2's INTER_LINEAR in the publishers' loaders.
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
    # Convolutions over tubelets take channels before time: [B, 3, T, H, W].
    return frames.reshape(batch, count, *frames.shape[1:]).transpose(1, 2).contiguous()


def resized_size(size: tuple[int, int] | torch.Size, picture: Picture) -> tuple[int, int]:
    """Return height and width that a frame is resized to, before the centre is cropped."""
    height, width = size
    short = picture.short_side
    if short is None:
        return picture.size, picture.size
    # int() truncates, as the publishers' loaders do.
    if height < width:
        return short, int(short * width / height)
    return int(short * height / width), short


def fill_window(frames: UInt8[np.ndarray, "T H W 3"], window: int) -> UInt8[np.ndarray, "window H W 3"]:
    """Repeat the last frame of a window that the clip's end cuts short. Unlike black frames, this adds no visible change."""
    rest = window - len(frames)
    return frames if rest == 0 else np.concatenate([frames, np.repeat(frames[-1:], rest, axis=0)])
