"""One window of SVD on a GPU: its stages by precision, and with the candidates for its VAE encoders (gpu_vae.py)."""

import copy
import time
from collections.abc import Callable, Sequence
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
from gpu_vae import HalfAttention, Vae, replaced_encoders
from torch import Tensor, nn

from repro.backbones.noise import SampledNoise, WindowNoise
from repro.backbones.precision import autocast
from repro.backbones.registry import load_backbone
from repro.backbones.svd.model import Request, SvdModel, find_needs, input_scale, noise_level, time_input
from repro.backbones.svd.pictures import pad_window, to_pixels
from repro.backbones.svd.with_diffusers import DiffusersNetworks


class SvdBench:
    """SVD's networks with random weights on the device, one window's inputs, and what fp32 gives for it."""

    def __init__(self, report: Report) -> None:
        name = "svd_xt_tiny" if report.tiny else "svd_xt"
        smaller = {"frames.window": "3", "size": "[64, 64]"} if report.tiny else {}
        self.report = report
        self.configs: dict[str, Any] = {
            p: load_backbone(name, {"precision": p, **smaller}) for p in ("fp32", "tf32", "published", "fast", "bf16")
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
    "published, searched": Vae(searched=True),
    "fast, half attention, channels last, searched": Vae(
        half=True, half_attention=True, channels_last=True, searched=True
    ),
    "fp16 autocast": Vae(autocast=True),
    "fp16 autocast, channels last": Vae(autocast=True, channels_last=True),
}
"""Candidates for the VAE encoders, with UNet and image tower as published."""


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
    # fp32 first: all others are compared with it. What decides most comes next, in case the section is stopped.
    for name, precision in (("fp32, as rows today", "fp32"), ("published", "published")):
        with report.attempt(name):
            measure_precision(report, own, name, precision, work)
    with report.attempt("fast"):
        measure_window(report, own, "precision fast: window", "fast", sum(work.values()))
    for name, vae in VAES.items():
        with report.attempt(name):
            measure_vae(report, own, name, vae, work["vae"])
    with report.attempt("attention of the VAE"):
        measure_attention(report, own)
    with report.attempt("windows in turn"):
        measure_windows_in_turn(report, own)
    for name, precision in (("tf32", "tf32"), ("bf16", "bf16")):
        with report.attempt(name):
            measure_precision(report, own, name, precision, work)
    with report.attempt("published, UNet channels last"):
        # The temporal convolutions have five dimensions, and stay as they are.
        convolutions = [part for part in own.networks.unet.modules() if isinstance(part, nn.Conv2d)]
        try:
            for part in convolutions:
                part.to(memory_format=torch.channels_last)
            measure_stage(report, own, "published, UNet channels last", "unet", "published", work["unet"])
        finally:
            for part in convolutions:
                part.to(memory_format=torch.contiguous_format)


def stage(own: SvdBench, kind: str, precision: str, batch: int) -> Callable[[], Any]:
    """One stage on the full window's inputs, which are made here, in fp32."""
    config, device = own.configs["fp32"], own.report.device
    frames, _, noise = own.windows["full"]
    picture = to_pixels(frames, config.size, device)
    if kind == "tower":
        return lambda: own.embed(own.networks, picture, batch, precision)
    grain = noise.sample("augmentation", tuple(picture.shape), device)
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
    conditioning = own.models["published"].condition(picture, len(frames), noise)
    latent = own.models["published"].latent(picture, len(frames), noise)
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
    if precision == "published":
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
        measure_stage(report, own, name, "vae", "published", tflop)
        reset_peak_memory(report)
        found = {window: own.features("published", window) for window in own.windows}
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
    """Windows one after another as published, with noise sampled on the device, as extraction does."""
    model, count = own.models["published"], 2 if report.tiny else 8
    frames = own.windows["full"][0]
    model.compute_window(frames, len(frames), WindowNoise(0, "1", 0))
    started = time.perf_counter()
    for number in range(count):
        for places in model.compute_window(frames, len(frames), WindowNoise(0, "1", number + 1)).values():
            for means in places.values():
                means.cpu().numpy()
    wall = time.perf_counter() - started
    report.row(f"published, {count} windows in turn", s_per_window=wall / count)


def measure_compiled_vaes(report: Report) -> None:
    """What torch.compile makes of the candidates, each within a deadline of its own."""
    own = bench(report)
    with torch.inference_mode():
        tflop = own.work()["vae"]
    fast = {"channels_last": True, "half": True, "half_attention": True}
    for name, seconds, vae in (
        ("fast, half attention, channels last, norms compiled", 90, Vae(**fast, norm="compiled", searched=True)),
        ("fast, half attention, channels last, compiled", 90, Vae(**fast, norm="inline", compiled=True, searched=True)),
        ("published, compiled", 90, Vae(compiled=True)),
        ("published, channels last, compiled", 90, Vae(channels_last=True, compiled=True)),
    ):
        with report.attempt(name), limited(report, name, seconds):
            torch._dynamo.reset()
            with replaced_encoders(own.networks, vae):
                frames, _, _ = own.windows["full"]
                with own.models["published"].computing(len(frames)):
                    work = stage(own, "vae", "published", own.models["published"].batch)
                    started = time.perf_counter()
                    work()
                    synchronise(report)
                    took = time.perf_counter() - started
                report.row(f"{name}: first call", compiling_s=took)
                measure_compiled(report, own, name, tflop)


def measure_compiled(report: Report, own: SvdBench, name: str, tflop: float) -> None:
    measure_stage(report, own, name, "vae", "published", tflop)
    for window in own.windows:
        if window in own.exact:
            report.row(f"{name}: {window}", layer9=deviation(own.features("published", window), own.exact[window]))
