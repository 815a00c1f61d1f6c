"""Keeping a device busy: copies that do not wait for it, and batches that are halved when its memory is full."""

import gc
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from repro.core.errors import MissingError

T = TypeVar("T")
KeyT = TypeVar("KeyT")


LARGE_BYTES = 256 << 20
"""Bytes of uint8 frames beyond which they are converted one by one."""


def upload(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Copy an array or tensor to a device, on a GPU without waiting for what it is still computing.

    A tensor that is on a GPU already is returned.
    """
    host = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    device = torch.device(device)
    if device.type != "cuda" or host.is_cuda:
        return host.to(device)
    # CUDA copies pinned memory alone without waiting. torch keeps the pinned block until the copy is done.
    return host.pin_memory().to(device, non_blocking=True)


def in_parts(frames: np.ndarray, compute: Callable[[np.ndarray], Tensor]) -> Tensor:
    """Apply `compute` to frames `[T, H, W, 3]`: to all at once, or one by one if there are more than LARGE_BYTES of them.

    Each frame's result must not depend on the other frames. As float32 with a few intermediate results, a window of 4K would
    take 10 GB.
    """
    if frames.nbytes <= LARGE_BYTES:
        return compute(frames)
    return torch.cat([compute(frames[place : place + 1]) for place in range(len(frames))])


def start_download(tensors: Mapping[KeyT, Tensor]) -> Callable[[], dict[KeyT, np.ndarray]]:
    """Start copying tensors of one device to the CPU; returns a function that waits for the copies and returns them."""
    # From a GPU, torch copies to pinned memory if it need not block.
    copies = {key: tensor.to("cpu", non_blocking=True) for key, tensor in tensors.items()}
    device = next(iter(tensors.values())).device
    copied = None
    if device.type == "cuda":
        # Not the stream itself: by the time of reading, it also holds the work of later windows.
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(device))

    def wait() -> dict[KeyT, np.ndarray]:
        if copied is not None:
            copied.synchronize()
        return {key: copy.numpy() for key, copy in copies.items()}

    return wait


@cache
def upload_constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device; each copy of such a tensor would wait for the device, so there is one."""
    return torch.tensor(values, device=device)


class BatchLimit:
    """How much is computed at once: halved whenever memory is full, and never raised again.

    Args:
        size: initial maximum.
        unit: what `size` counts, for messages.
        what: what is computed, for messages.
        device: where.
        say: called with one line whenever `size` is halved; None: a lack of memory is an error.
    """

    def __init__(
        self, size: int, unit: str, what: str, device: torch.device, say: Callable[[str], None] | None = None
    ) -> None:
        self.size, self.unit, self.what, self.device, self.say = size, unit, what, device, say

    def compute(self, work: Callable[[], T], count: int) -> T:
        """Return what `work` returns, which computes at most `size` at once; if memory is full, halve `size` and call it again.

        Args:
            work: computes everything.
            count: how much there is to compute.

        Raises:
            MissingError: memory does not suffice for one at a time.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                used = min(self.size, count)
                failure = f"out of memory on {self.device}{describe_shortage(error, self.device)}: {self.what}"
                # Without anybody to report to, a size is not changed: the caller asked for exactly this one.
                if used == 1 or self.say is None:
                    smaller = "a smaller --batch, " if used > 1 else ""
                    raise MissingError(
                        f"{failure}, {used} {self.unit}: use {smaller}a device with more memory (`repro plan` lists what each "
                        "backbone takes), or end other programs on this one"
                    ) from error
            # Not within `except`: there the traceback keeps the tensors of the failed attempt.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.size = used // 2
            self.say(f"{failure}: from here on {self.size} {self.unit}, not {used}")


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory: a GPU's has its own exception type, torch's CPU allocator raises a plain RuntimeError."""
    text = str(error)
    # Of the CPU's allocator, of pinned memory, and of cuBLAS and cuDNN.
    others = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in others)


def describe_shortage(error: BaseException, device: torch.device) -> str:
    """Return, in brackets, how much memory was needed and free, as far as it is known."""
    tried = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    known = [f"{tried[1]} more needed"] if tried else []
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        known += [
            f"{torch.cuda.memory_allocated(device) / 1e9:.1f} GB in use here",
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free",
        ]
    return f" ({', '.join(known)})" if known else ""
