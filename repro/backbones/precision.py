"""What a precision's name means, and setting it for a block of code.

| name | UNet, image tower | VAE encoders |
|---|---|---|
| fp32 | fp32 | fp32 |
| tf32 | fp32, products in TF32 | the same |
| fp16 | fp16 autocast | fp32, convolutions in TF32 |
| bf16 | bf16 autocast | fp32, convolutions in TF32 |

fp16 is how the release ran: autocast over UNet and image tower, both VAE encoders kept out of it, and torch's defaults
otherwise, which let convolutions use TF32. TF32 is a GPU's; on a CPU tf32 is fp32.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from repro.backbones.config import Precision

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def fp32_products(precision: Precision) -> Iterator[None]:
    """How products of fp32 numbers are computed within the block, for matrices and for convolutions."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matrices.fp32_precision, convolutions.fp32_precision
    matrices.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    convolutions.fp32_precision = "ieee" if precision == "fp32" else "tf32"
    try:
        yield
    finally:
        matrices.fp32_precision, convolutions.fp32_precision = before


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For UNet and image tower; the VAE encoders run outside of it."""
    kind = _AUTOCAST.get(precision)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
