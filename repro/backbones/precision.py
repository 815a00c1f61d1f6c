"""Running networks on a device: precisions by name, and moving to the device.

| name | UNet, image tower, video transformers | VAE encoders |
|---|---|---|
| fp32 | fp32 | fp32 |
| tf32 | fp32, products in TF32 | the same |
| published (SVD) | fp16 autocast | fp32, convolutions in TF32 |
| fast (SVD) | fp16 autocast | the same, except that products after GroupNorm read fp16 (svd/vae.py) |
| fp16 (video transformers) | fp16 autocast | |
| bf16 | bf16 autocast | fp32, convolutions in TF32 |

published is how the release ran SVD: autocast around UNet and image tower but not around the two VAE encoders, and torch's
defaults otherwise, which allow TF32 in convolutions. Only GPUs have TF32: elsewhere fp32 takes its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repro.backbones.config import Precision
from repro.core.errors import MissingError, state_reason

_AUTOCAST = {
    "published": torch.float16,
    "fast": torch.float16,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_PRODUCTS = frozenset(
    {
        "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "mm",
        "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    }
)  # fmt: skip
"""Names of torch's operations whose sums a GPU accumulates in fp32."""
TF32_FROM = (8, 0)
"""CUDA compute capability of the first GPUs with TF32 and bf16 (Ampere)."""
FP16_FROM = (7, 0)
"""That of the first GPUs with matrix units for fp16 (Volta)."""


@contextmanager
def fp32_products(precision: Precision) -> Iterator[None]:
    """Set how matrix products and convolutions of fp32 numbers are computed within the block."""
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    # Process-wide settings of torch: put back, since a training in this process has its own.
    before = matrices.fp32_precision, convolutions.fp32_precision
    # torch's defaults are "ieee" for matrices and "tf32" for convolutions; reduced precisions keep them, as the release did.
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
    if kind is None:
        return nullcontext()
    return _cpu_autocast(kind) if device.type == "cpu" else torch.autocast(device.type, dtype=kind)


@contextmanager
def _cpu_autocast(kind: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype=kind), _Fp32Accumulation():  # type: ignore[no-untyped-call]
        yield


class _Fp32Accumulation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute products of half-precision tensors on a CPU from the same rounded inputs in fp32, and round the result.

    That is what the matrix units of a GPU do. torch's own kernels for half precision are about 80 times slower than those for
    fp32 on a CPU without instructions for it.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        halves = {value.dtype for value in args if isinstance(value, Tensor)} & {torch.float16, torch.bfloat16}
        if not halves or func.overloadpacket.__name__ not in _PRODUCTS:
            return func(*args, **kwargs)
        (half,) = halves  # autocast gives all inputs of an operation the same type
        return _convert_tensors(
            func(
                *(_convert_tensors(value, half, torch.float32) for value in args),
                **{name: _convert_tensors(value, half, torch.float32) for name, value in kwargs.items()},
            ),
            torch.float32,
            half,
        )


def _convert_tensors(value: Any, before: torch.dtype, after: torch.dtype) -> Any:
    """Convert tensors of type `before`, also in a tuple, to `after`; return anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_convert_tensors(part, before, after) for part in value)
    return value.to(after) if isinstance(value, Tensor) and value.dtype == before else value


def explain_precision(precision: Precision, device: str) -> str:
    """Return in one line what `device` computes in another way than `precision` says; empty if nothing.

    Args:
        precision: A config's precision.
        device: cpu, cuda or cuda:N; a GPU that was named is visible.
    """
    if device == "cpu":
        return _CPU_NOTES.get(precision, "")
    capability, limits = torch.cuda.get_device_capability(device), []
    if precision not in ("fp32", "fp16") and capability < TF32_FROM:
        limits.append("no TF32, fp32 takes its place")
    if precision == "bf16" and capability < TF32_FROM:
        limits.append("no bf16 units, it is emulated")
    if _AUTOCAST.get(precision) is torch.float16 and capability < FP16_FROM:
        limits.append("no matrix units for fp16, which is slow")
    return f"precision {precision}: {torch.cuda.get_device_name(device)} has {'; '.join(limits)}" if limits else ""


_ON_CPU = "products read {half} and add in fp32, as on a GPU"
_CPU_NOTES: Mapping[Precision, str] = {
    "tf32": "precision tf32: the same as fp32 on a CPU",
    "published": f"precision published: a CPU has no TF32, the VAE computes in fp32; {_ON_CPU.format(half='fp16')}",
    "fast": f"precision fast: a CPU has no TF32, fp32 takes its place, and fast is no faster; {_ON_CPU.format(half='fp16')}",
    "fp16": f"precision fp16: {_ON_CPU.format(half='fp16')}",
    "bf16": f"precision bf16: {_ON_CPU.format(half='bf16')}",
}


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
        raise MissingError(f"device {device}: {state_reason(error)}") from error
