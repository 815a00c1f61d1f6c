"""One window of SVD on a GPU: its networks with random weights, and its stages by precision."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gpu_timing import (
    Report,
    count_tflop,
    measure,
    measure_deviation,
    peak_memory,
    photographs,
    randomise,
    reset_peak_memory,
)
from torch import Tensor

from repro.backbones.config import Cell, Precision
from repro.backbones.noise import SampledNoise, WindowNoise
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.registry import load_backbone
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import Request, SvdModel, find_needs, input_scale, noise_level, time_input
from repro.backbones.svd.pictures import pad_window, to_pixels
from repro.backbones.svd.with_diffusers import DiffusersNetworks

TIMESTEP, LAYER = 20, 9
STAGES = ("vae", "tower", "unet")
PRECISIONS = ("fp32", "published", "fast", "tf32")
"""fp32 first: the others are compared with it."""


class RandomSvd(SvdExtractor):
    """The project's extractor on networks that no checkpoint was read for."""

    def __init__(self, name: str, model: SvdModel) -> None:
        self.config, self.model = model.config, model
        self.names = {name: {(TIMESTEP, LAYER): Cell(timestep=TIMESTEP, layer=LAYER).name}}


class SvdBench:
    """SVD's networks with random weights on the device, and one window's inputs."""

    def __init__(self, report: Report) -> None:
        self.name = "svd_xt_tiny" if report.tiny else "svd_xt"
        smaller = {"frames.window": "3", "size": "[64, 64]"} if report.tiny else {}
        self.report, self.device = report, report.device
        configs: dict[str, Any] = {p: load_backbone(self.name, {"precision": p, **smaller}) for p in PRECISIONS}
        self.config = config = configs["fp32"]
        requests = {self.name: Request(mixing=True, places=frozenset({(TIMESTEP, LAYER)}))}
        needs = find_needs(config, requests.values())
        self.networks: Any = DiffusersNetworks(config.architecture, needs)
        self.hollow: Any = DiffusersNetworks(config.architecture, needs)  # without values, to count work on
        self.hollow.to("meta")
        self._fill()
        self.models = {p: SvdModel(c, self.networks, requests, str(self.device)) for p, c in configs.items()}
        self.frames = photographs(config.frames.window)
        self.noise = SampledNoise.of(WindowNoise(0, "0", 0), self.models["fp32"].noise_shapes(len(self.frames)))
        with self.models["fp32"].computing():
            self.inputs = self._make_inputs()

    def _fill(self) -> None:
        generator = torch.Generator(self.device).manual_seed(23)
        for part in self.networks.parts:
            part.to_empty(device=self.device)
            for name, tensor in part.named_parameters():
                randomise(name, tensor.data, generator)
        embeddings = self.networks.image_tower.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=self.device)[None]

    def _make_inputs(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each stage, in fp32, so that every precision is compared on the same."""
        model, count = self.models["fp32"], len(self.frames)
        picture = to_pixels(self.frames, self.config.size, self.device)
        grain = self.noise.sample("augmentation", tuple(picture.shape), self.device)
        noisy = picture + self.config.conditioning.noise_augmentation * grain
        conditioning = model.condition(picture, count, self.noise)
        scaled = model.latent(picture, count, self.noise) * input_scale(noise_level(self.config.schedule, TIMESTEP))
        x = torch.cat([scaled, conditioning.concat], dim=1)
        return {"vae": (picture, noisy), "tower": (picture,), "unet": (x, conditioning.vector, conditioning.crossattn)}

    def compute_stage(self, stage: str, networks: Any, inputs: Sequence[Tensor], precision: Any) -> Tensor:
        """Compute both VAE encodings of all frames, the image tower, or the UNet's conditional half up to layer 9."""
        if stage == "vae":
            batch = self.models[precision].batch.size
            encoders = (networks.moments, networks.condition_latent)
            parts = [
                [encode(part)[:, :4] for part in p.split(batch)] for encode, p in zip(encoders, inputs, strict=True)
            ]
            return torch.cat([part for both in parts for part in both])
        with autocast(precision, inputs[0].device):
            if stage == "tower":
                found: Tensor = networks.image_embeds(*inputs)
                return found.float()
            x, vector, context = inputs
            time_embedding = networks.embedding(time_input(noise_level(self.config.schedule, TIMESTEP)), vector)
            *_, last = networks.layers(x, time_embedding, context, mixing=True)
            return last.float().mean(dim=(2, 3))

    def count_work(self) -> dict[str, float]:
        """TFLOP of each stage."""
        inputs = {stage: [torch.empty_like(one, device="meta") for one in own] for stage, own in self.inputs.items()}
        return {s: count_tflop(lambda s=s: self.compute_stage(s, self.hollow, inputs[s], "fp32")) for s in STAGES}  # type: ignore[misc]


_BENCH: list[SvdBench] = []
"""Made once: two sections use it."""


def open_bench(report: Report) -> SvdBench:
    if not _BENCH:
        started = time.monotonic()
        _BENCH.append(SvdBench(report))
        report.row("networks made", wall_s=time.monotonic() - started)
    return _BENCH[0]


def measure_svd(report: Report) -> None:
    """Stages and a window of SVD by precision, with their deviation from fp32."""
    bench = open_bench(report)
    with torch.inference_mode():
        work = bench.count_work()
    exact: dict[str, Tensor] = {}

    def measure_row(name: str, key: str, compute: Callable[[], Tensor], tflop: float) -> None:
        reset_peak_memory(report)
        timed = measure(report, compute)
        reference = exact.setdefault(key, timed.result.clone())
        deviation = measure_deviation(timed.result, reference)
        report.row(name, tflop=tflop, timed=timed, deviation=deviation, **peak_memory(report))

    count = len(bench.frames)
    short = pad_window(bench.frames[: count - max(1, count // 4)], count)
    for precision in ("fp32", "fast") if report.tiny else PRECISIONS:
        model = bench.models[precision]
        for stage in STAGES:
            networks = model.vae if stage == "vae" else bench.networks
            with report.attempt(f"{precision}: {stage}"), model.computing():
                measure_row(
                    f"{precision}: {stage}", stage,
                    lambda s=stage, n=networks, p=precision: bench.compute_stage(s, n, bench.inputs[s], p), work[stage],
                )  # fmt: skip
        # With uploads, through the project's own path; also a window that ends in black frames.
        for window, frames, real in (
            ("window", bench.frames, count),
            ("padded window", short, count - max(1, count // 4)),
        ):
            with report.attempt(f"{precision}: {window}"):
                measure_row(
                    f"{precision}: {window}", window,
                    lambda m=model, f=frames, r=real: m.compute_window(f, r, bench.noise)[bench.name][TIMESTEP, LAYER][:r],
                    sum(work.values()),
                )  # fmt: skip

    # Ways of `fast` that are not the project's: whether they should be is decided by what they gain and by how far they deviate.
    fast = bench.models["fast"]
    compiled = compile_encoders(fast.vae, "eager" if report.tiny else "inductor")
    ways: tuple[tuple[str, Precision], ...] = (("", "fast"), (", attention in TF32", "tf32"))
    for name, products in ways:
        with report.attempt(f"encoders compiled whole{name}"), torch.inference_mode(), fp32_products(products):
            measure_row(
                f"fast: vae, encoders compiled whole{name}", "vae",
                lambda: bench.compute_stage("vae", compiled, bench.inputs["vae"], "fast"), work["vae"],
            )  # fmt: skip


def compile_encoders(networks: Any, backend: str) -> Any:
    """Return networks that share all weights with `networks`, and whose VAE encoders torch.compile makes into one program each."""
    own = copy.copy(networks)
    for name in ("latent_encoder", "condition_encoder"):
        setattr(own, name, torch.compile(getattr(networks, name), dynamic=False, backend=backend))
    return own
