"""One window of SVD on a GPU: its networks with random weights, and its stages by precision."""

import time
from collections.abc import Callable
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

from repro.backbones.config import Cell
from repro.backbones.noise import WindowNoise
from repro.backbones.precision import autocast
from repro.backbones.registry import load_backbone
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import Conditioning, Request, SvdModel, find_needs
from repro.backbones.svd.pictures import pad_window, to_pixels
from repro.backbones.svd.with_diffusers import DiffusersNetworks

TIMESTEP, LAYER = 20, 9
STAGES = ("vae", "tower", "unet")
WAYS = (
    ("fp32", False), ("published", False), ("published", True), ("fast", True), ("fast", False), ("tf32", False),
)  # fmt: skip
"""Precisions, compiled or not. fp32 first: the others are compared with it."""


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
        configs: dict[str, Any] = {p: load_backbone(self.name, {"precision": p, **smaller}) for p, _ in WAYS}
        self.config = config = configs["fp32"]
        self.request = Request(mixing=True, places=frozenset({(TIMESTEP, LAYER)}))
        needs = find_needs(config, [self.request])
        self.networks: Any = DiffusersNetworks(config.architecture, needs)
        self.hollow: Any = DiffusersNetworks(config.architecture, needs)  # without values, to count work on
        self.hollow.to("meta")
        self._fill()
        backend = "eager" if report.tiny else "inductor"
        self.models = {
            (p, compiled): SvdModel(
                configs[p], self.networks, {self.name: self.request}, str(self.device), say=print, compiled=compiled,
                backend=backend,
            )
            for p, compiled in WAYS
        }  # fmt: skip
        self.frames = photographs(config.frames.window)
        self.noise = WindowNoise(0, "0", 0, compiled=True)
        with self.models["fp32", False].computing():
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
        model, count = self.models["fp32", False], len(self.frames)
        picture = to_pixels(self.frames, self.config.size, self.device)
        grain = self.noise.sample("augmentation", tuple(picture.shape), self.device)
        noisy = picture + self.config.conditioning.noise_augmentation * grain
        conditioning = model.condition(picture, count, self.noise)
        latent = model.latent(picture, count, self.noise)
        unet = latent, conditioning.crossattn, conditioning.concat, conditioning.vector
        return {"vae": (picture, noisy), "tower": (picture,), "unet": unet}

    def compute_stage(self, stage: str, model: SvdModel, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute both VAE encodings of all frames, the image tower, or the UNet's conditional half up to layer 9."""
        if stage == "vae":
            encoders = (model.vae.moments, model.vae.condition_latent)
            parts = [
                [encode(part)[:, :4] for part in p.split(model.batch.size)]
                for encode, p in zip(encoders, inputs, strict=True)
            ]
            return torch.cat([part for both in parts for part in both])
        if stage == "tower":
            with autocast(model.config.precision, inputs[0].device):
                return model.networks.image_embeds(*inputs).float()
        latent, *others = inputs
        return model.layer_means(latent, Conditioning(*others), TIMESTEP, self.request)[TIMESTEP, LAYER]

    def count_work(self) -> dict[str, float]:
        """TFLOP of each stage."""
        inputs = {
            stage: tuple(torch.empty_like(one, device="meta") for one in own) for stage, own in self.inputs.items()
        }
        hollow = SvdModel(self.config, self.hollow, {self.name: self.request}, "meta")
        return {s: count_tflop(lambda s=s: self.compute_stage(s, hollow, inputs[s])) for s in STAGES}  # type: ignore[misc]


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

    def measure_row(name: str, key: str, compute: Callable[[], Tensor], tflop: float, precision: str) -> None:
        reset_peak_memory(report)
        # fp32 takes longest, and is what others are compared with rather than what anybody waits for.
        timed = measure(report, compute, least=1 if precision == "fp32" else 3)
        reference = exact.setdefault(key, timed.result.clone())
        deviation = measure_deviation(timed.result, reference)
        report.row(name, tflop=tflop, timed=timed, deviation=deviation, first_s=timed.first, **peak_memory(report))

    count = len(bench.frames)
    short = pad_window(bench.frames[: count - max(1, count // 4)], count)
    for precision, compiled in (WAYS[0], WAYS[3]) if report.tiny else WAYS:
        model, what = bench.models[precision, compiled], f"{precision}{', compiled' if compiled else ''}"
        for stage in STAGES:
            with report.attempt(f"{what}: {stage}"), model.computing():
                measure_row(
                    f"{what}: {stage}", stage,
                    lambda s=stage, m=model: bench.compute_stage(s, m, bench.inputs[s]), work[stage], precision,
                )  # fmt: skip
        # With uploads and noise, through the project's own path; also a window that ends in black frames.
        for window, frames, real in (
            ("window", bench.frames, count),
            ("padded window", short, count - max(1, count // 4)),
        ):
            with report.attempt(f"{what}: {window}"):
                measure_row(
                    f"{what}: {window}", window,
                    lambda m=model, f=frames, r=real: m.compute_window(f, r, bench.noise)[bench.name][TIMESTEP, LAYER][:r],
                    sum(work.values()), precision,
                )  # fmt: skip
