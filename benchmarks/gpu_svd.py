"""One window of SVD on a GPU: its stages by precision, and candidates for its VAE encoders that the project does not have
yet. What turns out to be worth it moves into the project, with tests.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpu_timing import (
    Report,
    counted,
    deviation,
    limited,
    measure,
    peak_memory,
    photographs,
    randomise,
    reset_peak_memory,
    synchronise,
)
from torch import Tensor, nn
from torch.nn import functional

from repro.backbones.noise import SampledNoise, WindowNoise
from repro.backbones.precision import autocast
from repro.backbones.registry import load_backbone
from repro.backbones.svd.model import Request, SvdModel, find_needs, input_scale, noise_level, time_input
from repro.backbones.svd.pictures import pad_window, to_pixels
from repro.backbones.svd.with_diffusers import DiffusersNetworks

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
    own = networks.latent_vae.encoder, networks.condition_vae.encoder
    if vae != Vae():
        adapted = vae.on(own[0].conv_in.weight.device)
        networks.latent_vae.encoder, networks.condition_vae.encoder = (VaeEncoder(encoder, adapted) for encoder in own)
    try:
        yield
    finally:
        networks.latent_vae.encoder, networks.condition_vae.encoder = own


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


class SvdBench:
    """SVD's networks with random weights on the device, one window's inputs, and what fp32 gives for it."""

    def __init__(self, report: Report) -> None:
        name = "svd_xt_tiny" if report.tiny else "svd_xt"
        smaller = {"frames.window": "3", "size": "[64, 64]"} if report.tiny else {}
        self.report = report
        self.configs: dict[str, Any] = {
            p: load_backbone(name, {"precision": p, **smaller}) for p in ("fp32", "tf32", "fp16", "bf16")
        }
        config = self.configs["fp32"]
        self.requests = {name: Request(mixing=True, places=frozenset({(20, 9)}))}
        needs = find_needs(config, self.requests.values())
        self.networks: Any = DiffusersNetworks(config.architecture, needs)
        self.hollow: Any = DiffusersNetworks(config.architecture, needs)  # on the meta device, to count work on
        self._fill()
        self.models = {
            p: SvdModel(c, self.networks, self.requests, str(report.device)) for p, c in self.configs.items()
        }
        frames = photographs(config.frames.window)
        noise = SampledNoise.of(WindowNoise(0, "0", 0), self.models["fp32"].noise_shapes(len(frames)))
        # A full window of 25, and one of a clip that ends after 19 frames: with one black frame, four batches of five.
        real = len(frames) - max(1, len(frames) // 4)
        self.windows = {
            "full": (frames, len(frames), noise),
            "padded": (pad_window(frames[:real], len(frames)), real, noise),
        }
        self.exact: dict[str, Tensor] = {}
        self.unet_inputs: tuple[Tensor, ...] | None = None

    def _fill(self) -> None:
        device = self.report.device
        generator = torch.Generator(device).manual_seed(23)
        for part in self.networks.parts:
            part.to_empty(device=device)
            for name, tensor in part.named_parameters():
                randomise(name, tensor.data, generator)
        embeddings = self.networks.image_tower.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
        self.hollow.to("meta")

    def features(self, precision: str, window: str) -> Tensor:
        """Layer 9's means, through the project's own computation of a window."""
        frames, real, noise = self.windows[window]
        (found,) = self.models[precision].compute_window(frames, real, noise).values()
        (means,) = found.values()
        return means[:real]

    def encode(self, networks: Any, picture: Tensor, noisy: Tensor, batch: int) -> list[Tensor]:
        """Both VAE encodings of all frames."""
        return [
            torch.cat([network(part) for part in frames.split(batch)])
            for network, frames in ((networks.moments, picture), (networks.condition_latent, noisy))
        ]

    def embed(self, networks: Any, picture: Tensor, batch: int, precision: str) -> Tensor:
        """The image tower."""
        with autocast(precision, self.report.device):  # type: ignore[arg-type]
            return torch.cat([networks.image_embeds(part) for part in picture.split(batch)])

    def pass_unet(self, networks: Any, inputs: Sequence[Tensor], precision: str) -> Tensor:
        """The UNet up to layer 9, the conditional half."""
        x, vector, context = inputs
        time = time_input(noise_level(self.configs[precision].schedule, 20))
        with autocast(precision, self.report.device):  # type: ignore[arg-type]
            *_, last = networks.layers(x, networks.embedding(time, vector), context, mixing=True)
        out: Tensor = last.float().mean(dim=(2, 3))
        return out

    def work(self) -> dict[str, float]:
        """TFLOP of each stage of a full window, counted on modules without values."""
        config, frames = self.configs["fp32"], len(self.windows["full"][0])
        height, width = config.size
        picture = torch.empty(frames, 3, height, width, device="meta")
        inputs = (
            torch.empty(frames, 8, height // 8, width // 8, device="meta"),
            torch.empty(frames, 3 * 256, device="meta"),
            torch.empty(frames, 1, config.architecture.unet.context_dim, device="meta"),
        )
        return {
            "vae": counted(lambda: self.encode(self.hollow, picture, picture, frames)),
            "tower": counted(lambda: self.embed(self.hollow, picture, frames, "fp32")),
            "unet": counted(lambda: self.pass_unet(self.hollow, inputs, "fp32")),
        }


_BENCH: list[SvdBench] = []
"""Made once: two sections use it."""


def bench(report: Report) -> SvdBench:
    if not _BENCH:
        _BENCH.append(SvdBench(report))
    return _BENCH[0]


VAES = {
    "published, channels last": Vae(channels_last=True),
    "fast": Vae(half=True),
    "fast, channels last": Vae(half=True, channels_last=True),
    "fast, half attention": Vae(half=True, half_attention=True),
    "fast, half attention, channels last": Vae(half=True, half_attention=True, channels_last=True),
    "fp16 autocast": Vae(autocast=True),
    "fp16 autocast, channels last": Vae(autocast=True, channels_last=True),
}
"""Candidates for the VAE encoders, beside UNet and image tower as published."""


def measure_svd(report: Report) -> None:
    """Stages of a window by precision, then candidates for the VAE, then windows one after another."""
    made = time.monotonic()
    own = bench(report)
    synchronise(report)
    report.row("networks made", wall_s=time.monotonic() - made)
    with torch.inference_mode():
        work = own.work()
    report.row(
        "counted work", **{key: round(value, 3) for key, value in work.items()}, sum=round(sum(work.values()), 3)
    )
    for name, precision in (("fp32, as rows today", "fp32"), ("published", "fp16"), ("tf32", "tf32"), ("bf16", "bf16")):
        with report.attempt(name):
            measure_precision(report, own, name, precision, work)
    for name, vae in VAES.items():
        with report.attempt(name):
            measure_vae(report, own, name, vae, work["vae"])
    with report.attempt("published, UNet channels last"):
        # The temporal convolutions have five dimensions, and stay as they are.
        convolutions = [part for part in own.networks.unet.modules() if isinstance(part, nn.Conv2d)]
        try:
            for part in convolutions:
                part.to(memory_format=torch.channels_last)
            measure_stage(report, own, "published, UNet channels last", "unet", "fp16", work["unet"])
        finally:
            for part in convolutions:
                part.to(memory_format=torch.contiguous_format)
    with report.attempt("attention of the VAE"):
        measure_attention(report, own)
    with report.attempt("windows in turn"):
        measure_windows_in_turn(report, own)


def stage(own: SvdBench, kind: str, precision: str, batch: int) -> Callable[[], Any]:
    """One stage on the full window's inputs, which are made here, in fp32."""
    config, device = own.configs["fp32"], own.report.device
    frames, _, noise = own.windows["full"]
    picture = to_pixels(frames, config.size, device)
    if kind == "tower":
        return lambda: own.embed(own.networks, picture, batch, precision)
    grain = torch.from_numpy(noise.sample("augmentation", tuple(picture.shape))).to(device)
    noisy = picture + config.conditioning.noise_augmentation * grain
    if kind == "vae":
        return lambda: own.encode(own.networks, picture, noisy, batch)
    if own.unet_inputs is None:
        own.unet_inputs = make_unet_inputs(own, picture)
    inputs = own.unet_inputs
    return lambda: own.pass_unet(own.networks, inputs, precision)


def make_unet_inputs(own: SvdBench, picture: Tensor) -> tuple[Tensor, ...]:
    """Latent with condition, vector and context. Made once, so that every precision is compared on the same."""
    frames, _, noise = own.windows["full"]
    conditioning = own.models["fp16"].condition(picture, len(frames), noise)
    latent = own.models["fp16"].latent(picture, len(frames), noise)
    scale = input_scale(noise_level(own.configs["fp32"].schedule, 20))
    x = torch.cat([latent * scale, conditioning.concat], dim=1)
    return x, conditioning.vector, conditioning.crossattn


def measure_stage(
    report: Report, own: SvdBench, name: str, kind: str, precision: str, tflop: float, batch: int | None = None
) -> None:
    model = own.models[precision]
    count = batch or model.batch
    with model.computing(len(own.windows["full"][0])):
        reset_peak_memory(report)
        timed = measure(report, stage(own, kind, precision, count))
    found = timed.result
    # Against fp32, stage by stage: every stage's inputs are the same at every precision.
    flat = torch.cat([part[:, :4].flatten() for part in found]) if kind == "vae" else found.float().flatten()
    exact = own.exact.setdefault(kind, flat.clone())
    at_once = {} if kind == "unet" else {"batch": count}
    report.row(
        f"{name}: {kind}", tflop=tflop, timed=timed, deviation=deviation(flat, exact), **at_once, **peak_memory(report)
    )


def measure_precision(report: Report, own: SvdBench, name: str, precision: str, work: dict[str, float]) -> None:
    for kind in ("vae", "tower", "unet"):
        if kind == "vae" and precision == "bf16":
            continue  # computed as in `published`
        with report.attempt(f"{name}: {kind}"):
            measure_stage(report, own, name, kind, precision, work[kind])
    measure_window(report, own, f"{name}: window", precision, sum(work.values()))
    if precision == "fp16":
        frames = len(own.windows["full"][0])
        for kind in ("vae", "tower"):
            with report.attempt(f"{name}: {kind}"):
                measure_stage(report, own, name, kind, precision, work[kind], batch=frames)


def measure_window(report: Report, own: SvdBench, name: str, precision: str, tflop: float) -> None:
    """A window with its uploads, through SvdModel.compute_window; deviations of layer 9, of the padded window as well."""
    reset_peak_memory(report)
    timed = measure(report, lambda: own.features(precision, "full"))
    deviations = {}
    for window in own.windows:
        found = timed.result if window == "full" else own.features(precision, window)
        deviations[f"layer9_{window}"] = deviation(found, own.exact.setdefault(window, found.clone()))
    report.row(name, tflop=tflop, timed=timed, **deviations, **peak_memory(report))


def measure_vae(report: Report, own: SvdBench, name: str, vae: Vae, tflop: float) -> None:
    with replaced_encoders(own.networks, vae):
        measure_stage(report, own, name, "vae", "fp16", tflop)
        reset_peak_memory(report)
        found = {window: own.features("fp16", window) for window in own.windows}
        more = {f"layer9_{window}": deviation(value, own.exact[window]) for window, value in found.items()}
        report.row(f"{name}: window", **more, **peak_memory(report))


def measure_attention(report: Report, own: SvdBench) -> None:
    """The middle block's attention alone: as diffusers computes it, and in fp16 with explicit scores."""
    attention = own.networks.latent_vae.encoder.mid_block.attentions[0]
    config = own.configs["fp32"]
    height, width = (side // 8 for side in config.size)
    generator = torch.Generator(report.device).manual_seed(24)
    channels = 4 * config.architecture.vae_channels
    x = torch.randn(5, channels, height, width, device=report.device, generator=generator)
    tflop = 5 * (4 * (height * width) ** 2 * channels + 8 * height * width * channels**2) / 1e12
    half = HalfAttention(copy.deepcopy(attention), Vae().on(report.device).kind)
    for name, precision, module in (("fp32", "fp32", attention), ("tf32", "tf32", attention), ("fp16", "fp32", half)):
        with report.attempt(f"attention {name}"), own.models[precision].computing(5):
            timed = measure(report, lambda module=module: module(x), seconds=0.5)
            found = timed.result - x
            exact = own.exact.setdefault("attention", found.clone())
            report.row(f"VAE attention, 5 frames, {name}", tflop=tflop, timed=timed, deviation=deviation(found, exact))


def measure_windows_in_turn(report: Report, own: SvdBench) -> None:
    """Windows one after another as published, each with noise that a thread samples one window ahead, as extraction does."""
    model, count = own.models["fp16"], 2 if report.tiny else 8
    frames = own.windows["full"][0]
    shapes = model.noise_shapes(len(frames))

    def sample(number: int) -> SampledNoise:
        return SampledNoise.of(WindowNoise(0, "1", number), shapes)

    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(sample, 0)
        model.compute_window(frames, len(frames), ahead.result())
        ahead = thread.submit(sample, 1)
        waited, started = 0.0, time.perf_counter()
        for number in range(count):
            asked = time.perf_counter()
            noise = ahead.result()
            waited += time.perf_counter() - asked
            ahead = thread.submit(sample, number + 2)
            for places in model.compute_window(frames, len(frames), noise).values():
                for means in places.values():
                    means.cpu().numpy()
        wall = time.perf_counter() - started
    report.row(f"published, {count} windows in turn", s_per_window=wall / count, waiting_for_noise_s=waited / count)


def measure_compiled_vaes(report: Report) -> None:
    """What torch.compile makes of the candidates, each within a deadline of its own."""
    own = bench(report)
    with torch.inference_mode():
        tflop = own.work()["vae"]
    fast = {"channels_last": True, "half": True, "half_attention": True}
    for name, seconds, vae in (
        ("fast, half attention, channels last, norms compiled", 90, Vae(**fast, norm="compiled")),
        ("fast, half attention, channels last, compiled", 90, Vae(**fast, norm="inline", compiled=True)),
        ("published, compiled", 90, Vae(compiled=True)),
        ("published, channels last, compiled", 90, Vae(channels_last=True, compiled=True)),
    ):
        with report.attempt(name), limited(report, name, seconds):
            torch._dynamo.reset()
            with replaced_encoders(own.networks, vae):
                frames, _, _ = own.windows["full"]
                with own.models["fp16"].computing(len(frames)):
                    work = stage(own, "vae", "fp16", own.models["fp16"].batch)
                    started = time.perf_counter()
                    work()
                    synchronise(report)
                    took = time.perf_counter() - started
                report.row(f"{name}: first call", compiling_s=took)
                measure_compiled(report, own, name, tflop)


def measure_compiled(report: Report, own: SvdBench, name: str, tflop: float) -> None:
    measure_stage(report, own, name, "vae", "fp16", tflop)
    for window in own.windows:
        if window in own.exact:
            report.row(f"{name}: {window}", layer9=deviation(own.features("fp16", window), own.exact[window]))
