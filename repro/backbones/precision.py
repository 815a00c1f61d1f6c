"""Running networks on a device: precisions by name, moving to the device, and recognising a lack of memory.

| name | UNet, image tower | VAE encoders |
|---|---|---|
| fp32 | fp32 | fp32 |
| tf32 | fp32, products in TF32 | the same |
| fp16 | fp16 autocast | fp32, convolutions in TF32 |
| bf16 | bf16 autocast | fp32, convolutions in TF32 |

fp16 is how the release ran: autocast around UNet and image tower but not around the two VAE encoders, and torch's defaults
otherwise, which allow TF32 in convolutions. Only GPUs have TF32; on a CPU tf32 is the same as fp32.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import torch

from repro.backbones.config import Precision
from repro.core.errors import MissingError

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def fp32_products(precision: Precision) -> Iterator[None]:
    """Set how matrix products and convolutions of fp32 numbers are computed within the block."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matrices.fp32_precision, convolutions.fp32_precision
    # torch's defaults are "ieee" for matrices and "tf32" for convolutions; fp16 and bf16 keep them, as the release did.
    matrices.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    convolutions.fp32_precision = "ieee" if precision == "fp32" else "tf32"
    try:
        yield
    finally:
        matrices.fp32_precision, convolutions.fp32_precision = before


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for UNet, image tower and encoders; SVD's VAE encoders run outside of it."""
    # fp32 and tf32 differ in fp32_products, not in the type of tensors, so both run without autocast.
    kind = _AUTOCAST.get(precision)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)


@runtime_checkable
class Movable(Protocol):
    def to(self, device: str) -> object: ...


def move_to_device(networks: Movable, device: str) -> None:
    """Move networks to a device.

    Raises:
        MissingError: there is no such device, or the networks do not fit into its memory.
    """
    try:
        networks.to(device)
    except RuntimeError as error:
        raise MissingError(f"device {device}: {' '.join(str(error).split())[:200]}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory: a GPU's has its own exception type, torch's CPU allocator raises a plain RuntimeError."""
    text = str(error)
    # The CPU allocator's message: "... can't allocate memory: you tried to allocate ...".
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ("alloc" in text and "memory" in text)
