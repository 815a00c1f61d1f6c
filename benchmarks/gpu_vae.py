"""Candidates for SVD's VAE encoders that the project does not have yet, in place of diffusers' modules in a copy of them:
convolutions that read fp16, attention in fp16, channels last, torch.compile. What turns out to be worth it moves into the
project, with tests.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NormSilu = Callable[[Tensor, nn.GroupNorm], Tensor]
"""GroupNorm and SiLU in one, in the half precision that the convolution after it reads."""


@dataclass(frozen=True)
class Vae:
    """How the two VAE encoders are computed; the defaults are the project's own way."""

    channels_last: bool = False
    half: bool = False
    """Convolutions behind GroupNorm and SiLU read fp16 and accumulate in fp32; the residual stream stays fp32."""
    norm: str = "torch"
    """torch: torch's own GroupNorm, then SiLU; inline: written out for channels last, for torch.compile to fuse with what
    surrounds it; compiled: the same, compiled alone."""
    half_attention: bool = False
    """The middle block's attention in fp16 as well, its softmax accumulated in fp32."""
    autocast: bool = False
    """fp16 autocast over the complete encoder: the residual stream is stored in fp16, so large activations overflow."""
    compiled: bool = False
    """torch.compile over the complete encoder."""
    searched: bool = False
    """cuDNN times its kernels for each shape and takes the fastest (torch.backends.cudnn.benchmark)."""
    kind: torch.dtype = torch.float16
    backend: str = "inductor"
    """torch.compile's."""

    def on(self, device: torch.device) -> "Vae":
        """The same in fp32 for a CPU, which takes minutes to convolve fp16 or to compile: there the replaced modules must
        give what the original ones do, up to rounding."""
        return self if device.type == "cuda" else replace(self, kind=torch.float32, backend="aot_eager")


class HalfResnet(nn.Module):
    """A VAE's resnet whose two 3x3 convolutions read fp16. Its 1x1 shortcut reads the residual stream, and stays fp32."""

    def __init__(self, resnet: Any, norm_silu: NormSilu, kind: torch.dtype) -> None:
        super().__init__()
        assert resnet.time_emb_proj is None and resnet.output_scale_factor == 1  # noqa: PT018  # a VAE's has neither
        self.norm1, self.norm2, self.shortcut = resnet.norm1, resnet.norm2, resnet.conv_shortcut
        self.conv1, self.conv2 = resnet.conv1.to(kind), resnet.conv2.to(kind)
        self.norm_silu = norm_silu

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        # GroupNorm bounds what a convolution reads, so fp16 cannot overflow there unless the norm's own weights are huge.
        hidden = self.conv1(self.norm_silu(x, self.norm1))
        hidden = self.conv2(self.norm_silu(hidden, self.norm2))
        kept = x if self.shortcut is None else self.shortcut(x)
        return kept + hidden  # fp32 plus fp16 is fp32


class HalfAttention(nn.Module):
    """The middle block's attention: one head over all pixels, products in fp16. Scores are held explicitly, because no
    fused kernel takes a head of 512 channels at full speed."""

    def __init__(self, attention: Any, kind: torch.dtype) -> None:
        super().__init__()
        assert attention.heads == 1 and attention.rescale_output_factor == 1  # noqa: PT018
        self.norm = attention.group_norm
        self.q, self.k, self.v = (part.to(kind) for part in (attention.to_q, attention.to_k, attention.to_v))
        self.out, self.kind = attention.to_out[0].to(kind), kind

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels).to(self.kind)
        # Scaled before the product, which keeps the scores in fp16's range.
        scores = (self.q(tokens) / math.sqrt(channels)) @ self.k(tokens).transpose(1, 2)
        mixed = self.out(scores.softmax(dim=-1) @ self.v(tokens))
        return x + mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class HalfNorm(nn.Module):
    """The encoder's last GroupNorm with the SiLU after it."""

    def __init__(self, norm: nn.GroupNorm, norm_silu: NormSilu) -> None:
        super().__init__()
        self.norm, self.norm_silu = norm, norm_silu

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_silu(x, self.norm)


class VaeEncoder(nn.Module):
    """A copy of an encoder, computed as `vae` says. Takes and returns fp32 in the plain layout."""

    def __init__(self, encoder: nn.Module, vae: Vae) -> None:
        super().__init__()
        self.vae = vae
        own: Any = copy.deepcopy(encoder)
        if vae.half:
            use_half_convolutions(own, _norm_silu(vae), vae.kind)
        if vae.half_attention:
            own.mid_block.attentions[0] = HalfAttention(own.mid_block.attentions[0], vae.kind)
        if vae.channels_last:
            own.to(memory_format=torch.channels_last)
        self.encoder = torch.compile(own, dynamic=False, backend=vae.backend) if vae.compiled else own

    def forward(self, picture: Tensor) -> Tensor:
        if self.vae.channels_last:
            picture = picture.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            picture.device.type, self.vae.kind, enabled=self.vae.autocast and self.vae.kind != torch.float32
        ):
            moments: Tensor = self.encoder(picture)
        return moments.float().contiguous()


def use_half_convolutions(encoder: Any, norm_silu: NormSilu, kind: torch.dtype) -> None:
    """Replace, in place, every resnet of a VAE encoder and its output; conv_in and the downsamplers stay fp32."""
    for block in (*encoder.down_blocks, encoder.mid_block):
        block.resnets = nn.ModuleList(HalfResnet(resnet, norm_silu, kind) for resnet in block.resnets)
    encoder.conv_norm_out, encoder.conv_act = HalfNorm(encoder.conv_norm_out, norm_silu), nn.Identity()
    encoder.conv_out = encoder.conv_out.to(kind)


@contextmanager
def replaced_encoders(networks: Any, vae: Vae) -> Iterator[None]:
    """Compute the encoders of SVD's networks (with_diffusers.py) as `vae` says within the block."""
    own = networks.latent_encoder, networks.condition_encoder
    if vae != Vae():
        adapted = vae.on(own[0].conv_in.weight.device)
        networks.latent_encoder, networks.condition_encoder = (VaeEncoder(encoder, adapted) for encoder in own)
    searched, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, vae.searched
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = searched
        networks.latent_encoder, networks.condition_encoder = own


def _norm_silu(vae: Vae) -> NormSilu:
    if vae.norm == "torch":
        return lambda x, norm: _separate_norm_silu(x, norm, vae.kind)
    written_out = _written_out
    if vae.norm == "compiled":
        # One graph per shape and type of input: about a dozen, more than dynamo allows by default.
        torch._dynamo.config.recompile_limit = 64
        written_out = torch.compile(_written_out, dynamic=False, backend=vae.backend)
    return lambda x, norm: written_out(x, norm.weight, norm.bias, norm.num_groups, norm.eps, vae.kind)


def _separate_norm_silu(x: Tensor, norm: nn.GroupNorm, kind: torch.dtype) -> Tensor:
    # torch's GroupNorm takes weights of its input's type only; its statistics are accumulated in fp32 either way.
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return functional.silu(functional.group_norm(x, norm.num_groups, weight, bias, norm.eps)).to(kind)


def _written_out(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, kind: torch.dtype) -> Tensor:
    """GroupNorm and SiLU of a channels-last tensor, whose result is channels last too (torch's own GroupNorm's is not)."""
    batch, channels, height, width = x.shape
    grouped = x.permute(0, 2, 3, 1).reshape(batch, height * width, groups, channels // groups).float()
    # var_mean is Welford's: black frames are nearly constant, where a sum of squares would cancel.
    variance, mean = torch.var_mean(grouped, dim=(1, 3), keepdim=True, correction=0)
    scaled = ((grouped - mean) * torch.rsqrt(variance + eps)).reshape(batch, height, width, channels) * weight + bias
    return functional.silu(scaled).to(kind).permute(0, 3, 1, 2)
