"""From frames to an encoder's input."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from repro.backbones.device import in_parts, upload, upload_constants
from repro.backbones.vit.config import PictureConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of red, green and blue in [0, 1]."""


class FrameResizer:
    """Resizes, crops and normalises the frames of windows; a frame that consecutive windows share is resized once.

    Shared frames are recognised by their pixels: nothing is shared with a window of another clip, and the result depends on
    the windows alone, whatever was resized before.

    Args:
        picture: How frames are resized.
        hop: Frames between the starts of consecutive windows.
        device: Where they are resized.
    """

    def __init__(self, picture: PictureConfig, hop: int, device: torch.device | str = "cpu") -> None:
        self.picture, self.hop, self.device = picture, hop, device
        self._frames: UInt8[np.ndarray, "_ H W 3"] | None = None
        """The last window's frames from `hop` on, which the next window may begin with."""
        self._pixels = torch.empty(0)
        """The same frames, resized."""

    def resize_windows(
        self, windows: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], length: int
    ) -> Float[Tensor, "B 3 length size size"]:
        """Resize the frames of windows, and repeat the last frame of a window that has less than `length`.

        Unlike black frames, repeated ones add no visible change.
        """
        filled = []
        for window in windows:
            pixels = self._resize_window(window)
            rest = length - len(pixels)
            # A short window is filled with its last frame, where SVD's have black ones.
            filled.append(pixels if rest == 0 else torch.cat([pixels, pixels[-1:].expand(rest, -1, -1, -1)]))
        if self._frames is not None:
            # Copied, as the caller may overwrite its arrays between two calls, and as views would keep complete windows.
            self._frames, self._pixels = self._frames.copy(), self._pixels.clone()
        # Convolutions over tubelets take channels before time: [B, T, 3, H, W] to [B, 3, T, H, W].
        return torch.stack(filled).transpose(1, 2).contiguous()

    def _resize_window(self, window: UInt8[np.ndarray, "T H W 3"]) -> Float[Tensor, "T 3 size size"]:
        shared = self._count_shared_frames(window)
        parts = [self._pixels[:shared]] if shared else []
        if shared < len(window):
            parts.append(resize_frames(window[shared:], self.picture, self.device))
        pixels = torch.cat(parts)
        self._frames, self._pixels = window[self.hop :], pixels[self.hop :]
        return pixels

    def _count_shared_frames(self, window: UInt8[np.ndarray, "T H W 3"]) -> int:
        """Return how many frames at the start of `window` were resized with the window before it."""
        if self._frames is None:
            return 0
        start, before = window[: len(self._frames)], self._frames[: len(window)]
        # Windows cut from one chunk of frames are views of one array; comparing addresses first takes no time.
        same = start.shape == before.shape and start.ctypes.data == before.ctypes.data
        return len(start) if same or np.array_equal(start, before) else 0


def resize_frames(
    frames: UInt8[np.ndarray, "T H W 3"], picture: PictureConfig, device: torch.device | str = "cpu"
) -> Float[Tensor, "T 3 size size"]:
    """Resize, crop and normalise every frame."""
    size = resized_size(frames.shape[1:3], picture)
    top, left = (round((side - picture.size) / 2) for side in size)

    def resize(part: np.ndarray) -> Tensor:
        scaled = upload(part, device).permute(0, 3, 1, 2).float() / 255
        # interpolate without antialias takes the two nearest pixels, as cv2's INTER_LINEAR in the publishers' loaders.
        return functional.interpolate(scaled, size=size, mode="bilinear")

    pixels = in_parts(frames, resize)[..., top : top + picture.size, left : left + picture.size]
    if picture.normalisation == "imagenet":
        mean, std = (upload_constants(values, pixels.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = (pixels - mean) / std
    return pixels


def resized_size(size: tuple[int, ...], picture: PictureConfig) -> tuple[int, int]:
    """Return height and width that a frame is resized to, before the centre is cropped."""
    height, width = size
    short = picture.short_side
    if short is None:
        return picture.size, picture.size
    # int() truncates, as the publishers' loaders do.
    if height < width:
        return short, int(short * width / height)
    return int(short * height / width), short
