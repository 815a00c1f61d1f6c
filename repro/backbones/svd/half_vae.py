"""The VAE encoders of precision `fast`: convolutions after GroupNorm and SiLU read fp16 and accumulate in fp32.

GroupNorm bounds what these convolutions read, so fp16, which has the mantissa of TF32, cannot overflow there unless the norm's
own weights are large. The residual stream, conv_in, downsamplers, 1x1 shortcuts and attention are computed as published. The
modules of diffusers and sgm have the same structure and, but for the shortcut, the same names.
"""

import copy
import shutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro.core.errors import state_reason

if TYPE_CHECKING:
    from repro.backbones.svd.networks import Networks

NormSilu = Callable[[Tensor, nn.GroupNorm], Tensor]
"""GroupNorm, then SiLU, rounded to fp16."""
COMPILED_SHAPES = 512
"""Limit on graphs that torch.compile makes of the norm, after which it would compile no more: one per shape of its input, about a
dozen for each number of frames at once."""


class HalfConvolution(nn.Module):
    """A convolution that reads fp16, accumulates in fp32 and returns fp16. The fp32 weights of `conv` are not kept."""

    def __init__(self, conv: nn.Conv2d, *, channels_last: bool) -> None:
        super().__init__()
        if conv.dilation != (1, 1) or conv.groups != 1:
            raise ValueError(f"{conv}: a VAE's convolutions have no dilation and no groups")
        self.stride, self.padding = conv.stride, conv.padding
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.weight = conv.weight.detach().half().contiguous(memory_format=layout)
        self.bias = None if conv.bias is None else conv.bias.detach().half()

    def forward(self, x: Tensor) -> Tensor:
        # Copies in fp16, made once: a cast at each call would read the fp32 weights again.
        weight, bias, x = self.weight, self.bias, x.half()
        if x.device.type == "cpu":
            # Products of fp16 numbers are exact in fp32, so these are the sums of a GPU; torch's own kernel is far slower.
            bias = None if bias is None else bias.float()
            return functional.conv2d(x.float(), weight.float(), bias, self.stride, self.padding).half()
        return functional.conv2d(x, weight, bias, self.stride, self.padding)


class HalfResnet(nn.Module):
    """A resnet whose two 3x3 convolutions read fp16; its shortcut reads the residual stream and stays as it was."""

    def __init__(self, resnet: Any, norm_silu: NormSilu, *, channels_last: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm_silu = resnet.norm1, resnet.norm2, norm_silu
        # diffusers' name, then sgm's; both leave it out or None where the width does not change.
        self.shortcut = getattr(resnet, "conv_shortcut", None) or getattr(resnet, "nin_shortcut", None)
        self.conv1, self.conv2 = (
            HalfConvolution(conv, channels_last=channels_last) for conv in (resnet.conv1, resnet.conv2)
        )

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        assert temb is None  # a VAE has no time
        hidden: Tensor = self.conv1(self.norm_silu(x, self.norm1))
        hidden = self.conv2(self.norm_silu(hidden, self.norm2))
        # The residual stream stays in fp32: its values are not bounded by a norm.
        kept: Tensor = x if self.shortcut is None else self.shortcut(x)
        return kept + hidden.float()


class _Encoder(nn.Module):
    """An encoder in channels-last layout that takes and returns fp32 in the plain layout."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, picture: Tensor) -> Tensor:
        moments: Tensor = self.encoder(picture.contiguous(memory_format=torch.channels_last))
        return moments.float().contiguous()


class _Output(nn.Module):
    def __init__(self, conv: nn.Conv2d, *, channels_last: bool) -> None:
        super().__init__()
        self.conv = HalfConvolution(conv, channels_last=channels_last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out.float()


def with_half_vae(networks: "Networks", device: torch.device) -> "Networks":
    """Return networks that share all weights with `networks` except those of the VAE encoders' fp16 convolutions.

    `networks`, which must be on `device`, is not changed.
    """
    own = copy.copy(networks)
    fused = not explain_eager_norm(device)
    own.latent_encoder = make_half_encoder(networks.latent_encoder, fused=fused)
    if networks.condition_encoder is not None:
        own.condition_encoder = make_half_encoder(networks.condition_encoder, fused=fused)
    return own


def make_half_encoder(encoder: nn.Module, *, fused: bool) -> nn.Module:
    """Return a copy of a VAE encoder, of diffusers or sgm, whose convolutions after GroupNorm and SiLU read fp16.

    Args:
        encoder: The encoder; it is not changed, and shares its other weights with the copy.
        fused: Channels last, with GroupNorm and SiLU compiled into one kernel.

    Raises:
        ValueError: the encoder has another structure.
    """
    # With its tensors in deepcopy's memo, the modules are copied and their weights are shared.
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    own = copy.deepcopy(encoder, shared)
    norm_silu = compile_norm_silu() if fused else _norm_silu
    found = 0
    # A list, because modules are replaced while it is read.
    for parent in list(own.modules()):
        for name, module in list(parent.named_children()):
            if all(hasattr(module, part) for part in ("norm1", "conv1", "norm2", "conv2")):
                setattr(parent, name, HalfResnet(module, norm_silu, channels_last=fused))
                found += 1
    output = getattr(own, "conv_out", None)
    if not found or not isinstance(output, nn.Conv2d):
        raise ValueError(f"{type(encoder).__name__}: no resnets of two convolutions, or no conv_out")
    own.conv_out = _Output(output, channels_last=fused)
    return _Encoder(own) if fused else own


def explain_eager_norm(device: torch.device) -> str:
    """Return why GroupNorm and SiLU are not compiled into one kernel on `device`; an empty string if they are.

    Without it channels last does not pay: torch's own GroupNorm returns the plain layout on a GPU.
    """
    if device.type != "cuda":
        return "a CPU computes them apart"
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return "torch.compile needs a C compiler, none of cc, gcc and clang is installed"
    return _explain_failed_compilation(str(device))


@cache
def _explain_failed_compilation(device: str) -> str:
    """Compile for a small input and compute it; return in one line why that failed, empty if it did not."""
    norm = nn.GroupNorm(2, 4, device=device)
    x = torch.ones(1, 4, 8, 8, device=device).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            compile_norm_silu()(x, norm)
            torch.cuda.synchronize(device)
    except Exception as error:  # torch.compile passes on whatever its parts raise
        return f"torch.compile fails here ({type(error).__name__}: {state_reason(error, 120)})"
    return ""


@cache
def compile_norm_silu(backend: str = "inductor") -> NormSilu:
    """Return GroupNorm and SiLU as one compiled function; its result is channels last."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, COMPILED_SHAPES)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, COMPILED_SHAPES)
    compiled: Callable[..., Tensor] = torch.compile(write_out_norm_silu, dynamic=False, backend=backend)
    return lambda x, norm: compiled(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    # In fp32: torch's GroupNorm takes weights of its input's type only.
    return functional.silu(norm(x.float())).half()


def write_out_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Compute GroupNorm and SiLU from elementary operations, which torch.compile fuses.

    Args:
        x: [B, C, H, W], channels last.
        weight: [C]
        bias: [C]
        groups: Number of groups.
        eps: Added to the variance.

    Returns:
        [B, C, H, W] in fp16, channels last.
    """
    batch, channels, height, width = x.shape
    grouped = x.permute(0, 2, 3, 1).reshape(batch, height * width, groups, channels // groups).float()
    # var_mean is Welford's: black frames are nearly constant, where a sum of squares would cancel.
    # correction=0: GroupNorm divides by the number of values, not by one less.
    variance, mean = torch.var_mean(grouped, dim=(1, 3), keepdim=True, correction=0)
    scaled = ((grouped - mean) * torch.rsqrt(variance + eps)).reshape(batch, height, width, channels) * weight + bias
    return functional.silu(scaled).half().permute(0, 3, 1, 2)
