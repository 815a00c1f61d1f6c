"""From frames to the networks' inputs."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from repro.backbones.device import in_parts, upload, upload_constants

# The same as CLIP's own (Radford et al. 2021); open_clip's ViT-H/14 was trained with them.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenCLIP's mean and standard deviation of pixels in [0, 1]."""


def to_pixels(
    frames: UInt8[np.ndarray, "T h w 3"], size: tuple[int, int], device: torch.device | None = None
) -> Float[Tensor, "T 3 H W"]:
    """Return frames as pixels in [-1, 1], stretched to `size` (height, width) whatever their aspect ratio.

    Source: generate_svd_maps.py (bilinear, align_corners=True).
    """

    def stretch(part: np.ndarray) -> Tensor:
        # contiguous(): torch's CPU GroupNorm is inaccurate on channels-last tensors that are nearly constant, as black padding is.
        scaled = upload(part, device or "cpu").permute(0, 3, 1, 2).contiguous().float() / 255 * 2 - 1
        return functional.interpolate(scaled, size=size, mode="bilinear", align_corners=True)

    return in_parts(frames, stretch)


def pad_window(frames: UInt8[np.ndarray, "T H W 3"], window: int) -> UInt8[np.ndarray, "window H W 3"]:
    """Append black frames to a window that the clip's end cuts short (generate_svd_maps.py).

    Their outputs are dropped, but they affect the real frames, through temporal attention and normalisation.
    """
    if len(frames) == window:
        return frames
    black = np.zeros((window - len(frames), *frames.shape[1:]), np.uint8)
    return np.concatenate([frames, black])


def to_image_tower_input(picture: Float[Tensor, "T 3 H W"], side: int) -> Float[Tensor, "T 3 side side"]:
    """Turn pixels in [-1, 1] into OpenCLIP's input: blurred if they shrink, resized (bicubic, not clamped), normalised.

    Source: sgm's FrozenOpenCLIPImageEmbedder.preprocess, which calls kornia's resize with antialias=True.
    """
    height, width = picture.shape[-2:]
    if height > side or width > side:
        # As in kornia, both axes are blurred as soon as one of them shrinks.
        picture = _blur(picture, height / side, width / side)
    # align_corners=True as in sgm. Bicubic overshoots at edges, and values outside [-1, 1] are kept.
    resized = functional.interpolate(picture, size=(side, side), mode="bicubic", align_corners=True)
    mean, std = (upload_constants(values, picture.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


def _blur(picture: Float[Tensor, "T 3 H W"], down: float, across: float) -> Float[Tensor, "T 3 H W"]:
    """Blur with a Gaussian before shrinking by the factors `down` (rows) and `across` (columns), one axis at a time."""
    for axis, factor in ((2, down), (3, across)):
        # Width and length of the kernel are those of kornia.geometry.transform.resize: sigma = (factor - 1) / 2, and an odd
        # number of taps that reaches two sigmas to each side.
        sigma = max((factor - 1) / 2, 0.001)
        taps = int(max(4 * sigma, 3))
        taps += 1 - taps % 2
        # Distances of the taps from the centre, in pixels of the picture before it shrinks.
        at = torch.arange(taps, dtype=picture.dtype, device=picture.device) - taps // 2
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = kernel / kernel.sum()
        shape = [1, 1, 1, 1]
        shape[axis] = taps
        # functional.pad counts axes from the last: (left, right, top, bottom).
        edge = (0, 0, taps // 2, taps // 2) if axis == 2 else (taps // 2, taps // 2, 0, 0)
        reflected = functional.pad(picture, edge, mode="reflect")
        # groups=3: the same kernel for each colour channel, and none of them mixed.
        picture = functional.conv2d(reflected, kernel.view(shape).repeat(3, 1, 1, 1), groups=3)
    return picture
