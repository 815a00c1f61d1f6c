"""Networks on a device, and what is said where its memory does not hold them."""

from typing import Protocol, runtime_checkable

import torch

from repro.core.errors import MissingError


@runtime_checkable
class Movable(Protocol):
    def to(self, device: str) -> object: ...


def move(networks: Movable, device: str) -> None:
    """
    Raises:
        MissingError: there is no such device, or its memory does not hold them.
    """
    try:
        networks.to(device)
    except RuntimeError as error:
        raise MissingError(f"device {device}: {' '.join(str(error).split())[:200]}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU's memory has a type of its own; a CPU's allocator raises a plain RuntimeError."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ("alloc" in words and "memory" in words)
