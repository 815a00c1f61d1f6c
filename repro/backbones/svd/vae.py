"""The VAE encoders rewritten: for precision `fast`, and to be compiled on a GPU in any precision.

In `fast`, convolutions after GroupNorm and SiLU read fp16 and accumulate in fp32, and so do the products of the attention after its
GroupNorm. GroupNorm bounds what they read, so fp16, which has the mantissa of TF32, cannot overflow there unless the norm's own
weights are large. The residual stream, conv_in, downsamplers and 1x1 shortcuts are computed as published.

Compiled, an encoder is one program in channels-last layout, in which norms, additions and copies are fused. In the other precisions
it computes what the published modules do.

The modules of diffusers and sgm have the same structure and, but for the shortcut and the attention, the same names.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro.backbones.compilation import Compiled

if TYPE_CHECKING:
    from repro.backbones.svd.networks import Networks


class Convolution(nn.Module):
    """A convolution with its own copy of the weights.

    Args:
        conv: The convolution, which is not changed.
        half: Read fp16, accumulate in fp32 and return fp16.
        channels_last: The layout of the weights, and so of the result.
    """

    def __init__(self, conv: nn.Conv2d, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        if conv.dilation != (1, 1) or conv.groups != 1:
            raise ValueError(f"{conv}: a VAE's convolutions have no dilation and no groups")
        self.stride, self.padding, self.half_precision = conv.stride, conv.padding, half
        layout = torch.channels_last if channels_last else torch.contiguous_format
        kind = torch.float16 if half else conv.weight.dtype
        # Copies, made once: a cast or another layout at each call would read the fp32 weights again.
        self.weight = conv.weight.detach().to(kind).contiguous(memory_format=layout)
        self.bias = None if conv.bias is None else conv.bias.detach().to(kind)

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x.half() if self.half_precision else x, self.weight, self.bias, self.stride, self.padding)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0) -> Tensor:
    if x.dtype == torch.float16 and x.device.type == "cpu":
        # Products of fp16 numbers are exact in fp32, so these are the sums of a GPU; torch's own kernel is far slower.
        bias = None if bias is None else bias.float()
        return functional.conv2d(x.float(), weight.float(), bias, stride, padding).half()
    return functional.conv2d(x, weight, bias, stride, padding)


class Norm(nn.Module):
    """GroupNorm, with SiLU behind it or not, rounded to fp16 or not.

    Args:
        norm: The norm, whose weights are shared.
        silu: Apply SiLU to the result.
        half: Round the result to fp16.
        written_out: Compute from elementary operations, which torch.compile fuses; the result is channels last.
    """

    def __init__(self, norm: nn.GroupNorm, *, silu: bool, half: bool, written_out: bool) -> None:
        super().__init__()
        self.norm, self.silu, self.half_precision, self.written_out = norm, silu, half, written_out

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        # In fp32: torch's GroupNorm takes weights of its input's type only.
        out = (
            write_out_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
            if self.written_out
            else norm(x.float())
        )
        out = functional.silu(out) if self.silu else out
        return out.half() if self.half_precision else out


class Resnet(nn.Module):
    """A resnet of diffusers or sgm; its shortcut reads the residual stream."""

    def __init__(self, resnet: Any, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (
            Norm(norm, silu=True, half=half, written_out=channels_last) for norm in (resnet.norm1, resnet.norm2)
        )
        self.conv1, self.conv2 = (
            Convolution(conv, half=half, channels_last=channels_last) for conv in (resnet.conv1, resnet.conv2)
        )
        # diffusers' name, then sgm's; both leave it out or None where the width does not change.
        shortcut = getattr(resnet, "conv_shortcut", None) or getattr(resnet, "nin_shortcut", None)
        self.shortcut = shortcut and Convolution(shortcut, half=False, channels_last=channels_last)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        assert temb is None  # a VAE has no time
        hidden: Tensor = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        # The residual stream stays in fp32: its values are not bounded by a norm.
        kept: Tensor = x if self.shortcut is None else self.shortcut(x)
        return kept + hidden.float()


class Attention(nn.Module):
    """The attention at the lowest resolution, of one head: each pixel of a frame attends to all."""

    def __init__(self, attention: Any, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        if hasattr(attention, "to_q"):  # diffusers; else sgm
            norm, out = attention.group_norm, attention.to_out[0]
            parts = attention.to_q, attention.to_k, attention.to_v
        else:
            norm, out = attention.norm, attention.proj_out
            parts = attention.q, attention.k, attention.v
        self.norm = Norm(norm, silu=False, half=half, written_out=channels_last)
        self.half_precision = half
        kind = torch.float16 if half else torch.float32
        # Linear layers or 1x1 convolutions, which are the same. As one product for queries, keys and values.
        weights = [torch.cat([part.weight.detach().flatten(1) for part in parts]), out.weight.detach().flatten(1)]
        biases = [torch.cat([part.bias.detach() for part in parts]), out.bias.detach()]
        self.weights, self.biases = ([one.to(kind) for one in some] for some in (weights, biases))

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        assert temb is None
        frames, channels, height, width = x.shape
        queries, keys, values = (
            part.permute(0, 2, 3, 1).reshape(frames, height * width, channels)
            for part in self._project(self.norm(x), 0).chunk(3, dim=1)
        )
        mixed = attend_half(queries, keys, values) if self.half_precision else _attend(queries, keys, values)
        return x + self._project(mixed.reshape(frames, height, width, channels).permute(0, 3, 1, 2), 1).float()

    def _project(self, x: Tensor, number: int) -> Tensor:
        # A convolution, as published: in TF32 where convolutions are.
        return _convolve(x, self.weights[number][:, :, None, None], self.biases[number])


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    mixed: Tensor = functional.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])
    return mixed[:, 0]


def attend_half(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention of fp16 tensors `[frames, pixels, channels]`, whose scores and softmax are in fp32.

    torch's fused kernels for half precision take up to 256 channels a head; a VAE has 512, for which torch takes three times as
    long as these two products on an H200.
    """
    scale = queries.shape[2] ** -0.5
    if queries.device.type == "cpu":
        shares: Tensor = (queries.float() @ keys.float().transpose(1, 2) * scale).softmax(dim=2).half()
        return (shares.float() @ values.float()).half()
    scores: Tensor = torch.bmm(queries, keys.transpose(1, 2), out_dtype=torch.float32)
    mixed: Tensor = torch.bmm((scores * scale).softmax(dim=2).half(), values)
    return mixed


def write_out_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Compute GroupNorm from elementary operations.

    Args:
        x: [B, C, H, W], channels last.
        weight: [C]
        bias: [C]
        groups: Number of groups.
        eps: Added to the variance.

    Returns:
        [B, C, H, W] in fp32, channels last.
    """
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()
    # var_mean is Welford's: black frames are nearly constant, where a sum of squares would cancel.
    # correction=0: GroupNorm divides by the number of values, not by one less.
    # By channel, whose values a GPU reads in the order of memory; channels of a group are joined afterwards: their means and
    # variances are of equally many values.
    variances, means = (
        part.reshape(batch, groups, channels // groups) for part in torch.var_mean(rows, dim=1, correction=0)
    )
    mean = means.mean(dim=2, keepdim=True)
    variance = (variances + (means - mean).square()).mean(dim=2, keepdim=True)
    deviation = torch.rsqrt(variance + eps)
    mean, deviation = (part.expand_as(means).reshape(batch, 1, channels) for part in (mean, deviation))
    scaled = (rows - mean) * deviation * weight + bias
    return scaled.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class _Output(nn.Module):
    def __init__(self, conv: nn.Conv2d, *, half: bool, channels_last: bool) -> None:
        super().__init__()
        self.conv = Convolution(conv, half=half, channels_last=channels_last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out.float()


class CompiledEncoder(nn.Module):
    """A compiled encoder in channels-last layout that takes and returns the plain layout."""

    def __init__(self, encoder: nn.Module, say: Callable[[str], None], backend: str | Callable[..., Any]) -> None:
        super().__init__()

        # Not a method: object and program would refer to each other, and the weights stay in memory until Python looks for cycles.
        def compute(picture: Tensor) -> Tensor:
            moments: Tensor = encoder(picture.contiguous(memory_format=torch.channels_last))
            return moments.contiguous()

        # The means and variances of a norm's groups are of the few channels of each. Inductor would compute such short sums
        # again for every pixel, which made the kernels that read them take twice as long on an H200.
        self.compute = Compiled(compute, say, backend, {"unroll_reductions_threshold": 1})

    def forward(self, picture: Tensor) -> Tensor:
        return self.compute(picture)


def with_rewritten_vae(
    networks: "Networks",
    *,
    half: bool,
    compiled: bool,
    say: Callable[[str], None] = lambda line: None,
    backend: str | Callable[..., Any] = "inductor",
) -> "Networks":
    """Return networks that share all weights with `networks` except those of the VAE encoders' convolutions and attention.

    Args:
        networks: On the device on which they compute; not changed.
        half: For precision fast.
        compiled: Compile each encoder as a whole.
        say: Called with a line if an encoder cannot be compiled.
        backend: torch.compile's.
    """
    own = copy.copy(networks)
    for name in ("latent_encoder", "condition_encoder"):
        encoder = getattr(networks, name)
        if encoder is not None:
            rewritten = rewrite_encoder(encoder, half=half, channels_last=compiled)
            setattr(own, name, CompiledEncoder(rewritten, say, backend) if compiled else rewritten)
    return own


def rewrite_encoder(encoder: nn.Module, *, half: bool, channels_last: bool) -> nn.Module:
    """Return a copy of a VAE encoder, of diffusers or sgm, made of the modules above.

    Args:
        encoder: The encoder; it is not changed, and shares its other weights with the copy.
        half: Products after GroupNorm read fp16.
        channels_last: Norms are written out, for torch.compile; pictures must then come in that layout. Without it, torch's own
            GroupNorm is used, which on a GPU would return the plain layout.

    Raises:
        ValueError: the encoder has another structure.
    """
    # With its tensors in deepcopy's memo, the modules are copied and their weights are shared.
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    own = copy.deepcopy(encoder, shared)
    found = 0
    # A list, because modules are replaced while it is read.
    for parent in list(own.modules()):
        for name, module in list(parent.named_children()):
            if all(hasattr(module, part) for part in ("norm1", "conv1", "norm2", "conv2")):
                setattr(parent, name, Resnet(module, half=half, channels_last=channels_last))
                found += 1
            elif any(hasattr(module, part) for part in ("to_q", "q")):
                setattr(parent, name, Attention(module, half=half, channels_last=channels_last))
    output = getattr(own, "conv_out", None)
    if not found or not isinstance(output, nn.Conv2d):
        raise ValueError(f"{type(encoder).__name__}: no resnets of two convolutions, or no conv_out")
    own.conv_out = _Output(output, half=half, channels_last=channels_last)
    if channels_last:
        # conv_in and the downsamplers, so that no layout changes between them.
        for parent in list(own.modules()):
            for name, module in list(parent.named_children()):
                if isinstance(module, nn.Conv2d):
                    setattr(parent, name, Convolution(module, half=False, channels_last=True))
    return own
