"""What one CUDA GPU does with this project's own code today, and with candidates: `python benchmarks/gpu.py --json FILE`.

Needs no data and no checkpoint: weights are random numbers made on the device at the published sizes, pictures are
photographs that scikit-learn ships. Sections have deadlines, catch their own failures, and print as they measure; FILE is
written after every line, so that a run that is stopped loses nothing. All sections together end within --minutes.

`--tiny --device cpu` runs every section in a minute or two at the sizes of the tiny backbones, to see that it still works.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_timing import (
    OutOfTimeError,
    Report,
    Timed,
    counted,
    deadline,
    deviation,
    measure,
    peak_memory,
    photographs,
    randomise,
    reset_peak_memory,
)
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

# What a section measures is imported in that section: a package that is missing or too old ends one section, not all.

SEED = 20250911


def ceilings(report: Report) -> None:
    """The most that this card does: matrix products, copies, and convolutions of the VAE's two costliest shapes."""
    from repro.backbones.precision import fp32_products

    side = 256 if report.tiny else 8192
    for name, kind, precision in (
        ("bf16", torch.bfloat16, "fp32"), ("fp16", torch.float16, "fp32"), ("TF32", torch.float32, "tf32"),
        ("fp32", torch.float32, "fp32"),
    ):  # fmt: skip
        with report.attempt(f"matmul {name}"), fp32_products(precision):  # type: ignore[arg-type]
            a, b = (torch.randn(side, side, device=report.device).to(kind) for _ in range(2))
            timed = measure(report, lambda a=a, b=b: a @ b, seconds=0.5)
            tflop = 2 * side**3 / 1e12
            if name == "bf16":
                report.rate = tflop / timed.median
            report.row(f"matmul {name} {side}", tflop=tflop, timed=timed)
    with report.attempt("copy on the device"):
        values = torch.randn(2**20 if report.tiny else 2**30, device=report.device)
        room = torch.empty_like(values)
        timed = measure(report, lambda: room.copy_(values), seconds=0.5)
        report.row("copy on the device", timed=timed, tb_per_s=2 * values.nbytes / timed.median / 1e12)
    # A window's augmentation noise, from ordinary and from pinned memory.
    host = torch.randn(2**16 if report.tiny else 44_236_800)
    for name, source in (("pageable", host), ("pinned", host.pin_memory() if report.cuda else host)):
        with report.attempt(f"upload, {name}"):
            timed = measure(report, lambda source=source: source.to(report.device, non_blocking=True), seconds=0.5)
            report.row(f"upload, {name}", timed=timed, gb_per_s=host.nbytes / timed.median / 1e9)
    for channels, rows, columns in ((8, 16, 32),) if report.tiny else ((128, 576, 1024), (512, 144, 256)):
        picture = torch.randn(5, channels, rows, columns, device=report.device)
        weight = torch.randn(channels, channels, 3, 3, device=report.device)
        for name, kind, precision, last in (
            ("fp32", torch.float32, "fp32", False), ("TF32", torch.float32, "tf32", False),
            ("TF32, channels last", torch.float32, "tf32", True), ("fp16", torch.float16, "fp32", False),
            ("fp16, channels last", torch.float16, "fp32", True),
        ):  # fmt: skip
            layout = torch.channels_last if last else torch.contiguous_format
            with report.attempt(f"convolution {name}"), fp32_products(precision), torch.inference_mode():  # type: ignore[arg-type]
                x, w = (part.to(kind).contiguous(memory_format=layout) for part in (picture, weight))
                timed = measure(report, lambda x=x, w=w: functional.conv2d(x, w, padding=1), seconds=0.5)
                tflop = 2 * picture.numel() * channels * 9 / 1e12
                report.row(f"convolution {channels} at {rows}x{columns}, {name}", tflop=tflop, timed=timed)


def transformers(report: Report) -> None:
    """Windows/s of V-JEPA and VideoMAEv2 through VitExtractor, uint8 frames in and vectors out on the CPU."""
    from repro.backbones.config import Cell
    from repro.backbones.registry import load_backbone
    from repro.backbones.vit.checkpoint import expected_tensors
    from repro.backbones.vit.encoder import iterate_layers
    from repro.backbones.vit.extractor import VitExtractor
    from repro.backbones.vit.family import Videomaev2Family, VjepaFamily

    families: tuple[tuple[str, Any], ...] = (("vjepa", VjepaFamily()), ("videomaev2", Videomaev2Family()))
    for published, family in families:
        name = f"{published}_tiny" if report.tiny else published
        with report.attempt(name):
            configs: dict[str, Any] = {
                p: load_backbone(name, {"precision": p}) for p in ("fp32", "tf32", "fp16", "bf16")
            }
            config = configs["fp32"]
            size, sizes, length = config.picture.size, config.encoder, config.frames.window
            patches = (size // sizes.patch) ** 2 * config.table_frames // sizes.tubelet
            generator = torch.Generator(report.device).manual_seed(SEED)

            def build(device: torch.device, config: Any = config, family: Any = family, patches: int = patches) -> Any:
                tensors = {
                    key: torch.empty(shape, device=device)
                    for key, shape in expected_tensors(config.encoder, config, family.layout, patches)
                }
                return family.encoder_builder()(tensors, config.encoder, config.num_heads, config.table_frames), tensors

            hollow, _ = build(torch.device("meta"))
            seen = torch.empty(1, 3, length, size, size, device="meta")
            tflop = counted(lambda hollow=hollow, seen=seen: list(iterate_layers(hollow, seen, hollow.sizes.depth)))  # type: ignore[misc]
            encoder, tensors = build(report.device)
            # The modules were given these very tensors (or thirds of them), so filling them fills the modules.
            for key, tensor in tensors.items():
                randomise(key, tensor, generator)
            exact: dict[int, Tensor] = {}
            for batch in (1, 2) if report.tiny else (8, 1, 32):
                windows = [photographs(length, start) for start in range(batch)]
                for precision in ("fp32", "tf32", "fp16", "bf16"):
                    extractor = VitExtractor(
                        configs[precision], encoder, [Cell(layer="final")], str(report.device), batch
                    )

                    def run(extractor: Any = extractor, windows: Any = windows) -> Tensor:
                        ((found,),) = (cells.values() for cells in extractor.features(windows, []).values())
                        return torch.from_numpy(found)

                    with report.attempt(f"{name} {precision}, {batch}"):
                        reset_peak_memory(report)
                        timed = measure(report, run, seconds=1.0, most=5)
                        found = timed.result
                        reference = exact.setdefault(batch, found)
                        report.row(
                            f"{name} {precision}, batch {batch}", tflop=batch * tflop, timed=timed,
                            windows_per_s=batch / timed.median, deviation=deviation(found, reference), **peak_memory(report),
                        )  # fmt: skip


def noise(report: Report) -> None:
    """A window's 44.2 M normals: on one core of the CPU, and on the device."""
    from repro.backbones.noise import WindowNoise

    frames, (height, width) = 25, ((64, 128) if report.tiny else (576, 1024))
    shape, window = (frames, 3, height, width), WindowNoise(0, "0", 0)
    with report.attempt("on one core"), torch.inference_mode():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        runs = []
        for _ in range(2):
            started = time.perf_counter()
            exact = window.sample("augmentation", shape)
            runs.append(time.perf_counter() - started)
        torch.set_num_threads(threads)
        report.row("on one core", timed=Timed(runs), normals=int(np.prod(shape)))
    with report.attempt("on the device"), torch.inference_mode():
        timed = measure(report, lambda: window.sample("augmentation", shape, report.device))
        values = timed.result
        report.row(
            "on the device", timed=timed, mean=float(values.double().mean()), variance=float(values.double().var()),
            kurtosis=float((values.double() ** 4).mean()), most_from_cpu=float((values.cpu() - exact).abs().max()),
        )  # fmt: skip


def readouts(report: Report) -> None:
    """Steps/s of the project's own training epoch at Animal Kingdom's lengths, width 1280, batches of 16."""
    from readout import SHAPES, sample_lengths, sample_sequences

    from repro.readout.compute import Compute
    from repro.readout.heads import build_head
    from repro.readout.sequences import plan_epoch
    from repro.readout.train import compute_logits, train_one_epoch
    from repro.table.rows import load_row

    width, classes, clips = (64, 7, 32) if report.tiny else (1280, 140, 1600)
    recipe = load_row("ak_full").readout
    counts = sample_lengths(clips, SHAPES["ak"][2], np.random.default_rng(SEED))
    labels = torch.arange(clips) % classes
    split = replace(
        sample_sequences(counts, width, recipe.max_length, SEED), targets=functional.one_hot(labels, classes).float()
    )
    plans = plan_epoch(0, 1, clips, recipe)
    with torch.device("meta"):
        hollow = build_head(recipe, width, classes)
    tokens = [len(split.features[clip]) for plan in plans[:10] for clip in plan.clips]
    # Backward costs twice the forward pass.
    forward = counted(lambda: hollow.forward_packed(torch.empty(sum(tokens), width, device="meta"), tokens))
    tflop = 3 * forward * len(plans) / len(plans[:10])
    report.row("clips", clips=clips, tokens_per_clip=statistics.mean(tokens), tflop_per_step=tflop / len(plans))
    losses: dict[str, float] = {}
    for precision in ("fp32", "tf32", "bf16"):
        if precision == "tf32" and not report.cuda:
            continue
        with report.attempt(precision):
            reset_peak_memory(report)
            compute = Compute(str(report.device), precision).require_available()  # type: ignore[arg-type]
            with compute.apply_settings() as device:
                torch.manual_seed(SEED)
                model = build_head(recipe, width, classes).to(device)
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=recipe.weight_decay, fused=True)
                on_device = split.to_device(device)

                def epoch(
                    number: int, some: Any = plans, model: Any = model, optimizer: Any = optimizer,
                    on_device: Any = on_device, compute: Any = compute,
                ) -> float:  # fmt: skip
                    return train_one_epoch(model, optimizer, on_device, recipe, number, some, compute)

                losses[precision] = epoch(1)
                timed = measure(report, lambda epoch=epoch: epoch(2), seconds=6.0, most=3)
                scoring = measure(
                    report, lambda m=model, s=on_device, c=compute: compute_logits(m, s, recipe, c), seconds=1.0
                )
            report.row(
                f"{precision}: {len(plans)} steps", tflop=tflop, timed=timed, steps_per_s=len(plans) / timed.median,
                minutes_for_22515_steps=22_515 * timed.median / len(plans) / 60, clips_scored_per_s=clips / scoring.median,
                first_loss=losses[precision], **peak_memory(report),
            )  # fmt: skip
            if report.cuda:
                with report.attempt(f"{precision}: busy"), compute.apply_settings():
                    report.row(f"{precision}: busy", share_of_time=busy_share(lambda epoch=epoch: epoch(3, plans[:20])))


def busy_share(work: Callable[[], object]) -> float:
    """Share of the time in which the device computes, from the sum of its kernels' times; profiling slows launches a little."""
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    wall = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    # The optimizer's own annotation spans kernels that are events themselves.
    kernels = [event for event in profiler.key_averages() if not getattr(event, "is_user_annotation", False)]
    return sum(event.self_device_time_total for event in kernels) / 1e6 / wall


def compiled(report: Report) -> None:
    """What torch.compile makes of the candidates, each within a deadline of its own."""
    from gpu_svd import measure_compiled_vaes

    measure_compiled_vaes(report)


def svd(report: Report) -> None:
    """Stages of a window of SVD (gpu_svd.py)."""
    from gpu_svd import measure_svd

    measure_svd(report)


def agreement(report: Report) -> None:
    """Features of the small backbones on the device against those on the CPU in fp32, through the project's extractors."""
    from repro.backbones.extractor import Execution
    from repro.backbones.noise import WindowNoise
    from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
    from repro.core.workspace import Workspace

    device = str(report.device)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("svd_xt_tiny", "sdv2_tiny", "videomaev2_tiny", "vjepa_tiny"):
            found: dict[str, dict[str, np.ndarray]] = {}
            precisions = load_backbone(name).precisions()
            for where, precision in (("cpu", "fp32"), *((device, precision) for precision in precisions)):
                what = f"{name}: {where} {precision}"
                with report.attempt(what):
                    config = load_backbone(name, {"precision": precision})
                    backbone = describe_backbone(config, Workspace(Path(folder)))
                    cells = (config.axes().usual,)
                    (extractor,) = open_extractors([(backbone, cells)], Execution(where))
                    pictures = np.random.default_rng(SEED).integers(
                        0, 256, (1, extractor.frames.window, 120, 160, 3), np.uint8
                    )
                    noise = WindowNoise(extractor.noise_seed, "0" * 64, 0)
                    found[what] = extractor.features(pictures, [noise])[name]
                    reference = found[f"{name}: cpu fp32"]
                    report.row(what, deviation=max(relative(found[what][cell], reference[cell]) for cell in reference))


def relative(values: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2 deviation."""
    return float(np.linalg.norm(values.astype(np.float64) - reference) / np.linalg.norm(reference))


SECTIONS: dict[str, tuple[Callable[[Report], None], float]] = {
    "ceilings": (ceilings, 30),
    "agreement": (agreement, 60),
    "svd": (svd, 180),
    "transformers": (transformers, 80),
    "noise": (noise, 20),
    "readouts": (readouts, 60),
    "compiled": (compiled, 240),
}
"""Each with the seconds it may take."""


def describe_machine(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "diffusers", "transformers", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    if report.cuda:
        properties = torch.cuda.get_device_properties(report.device)
        found |= {
            "gpu": properties.name, "gb": round(properties.total_memory / 1e9, 1), "sms": properties.multi_processor_count,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="the tiny backbones' sizes, to see that everything runs")
    parser.add_argument("--json", type=Path, help="where to write every row")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all sections together")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny tries every section at small sizes")
    report = Report(torch.device(options.device), options.tiny, options.json)
    report.machine = describe_machine(report)
    if report.tiny:
        torch.set_num_threads(1)  # small products on shared cores: threads would wait for each other
    print(json.dumps(report.machine))
    print(
        "\n| section | what | TFLOP | s | TFLOP/s | share of bf16 matmul | |\n|---|---|---|---|---|---|---|", flush=True
    )
    for name in options.sections.split(","):
        section, seconds = SECTIONS[name]
        left = 60 * options.minutes - report.elapsed()
        report.section = name
        if left < 5:
            report.row("section", failed="no time left")
            continue
        started = report.elapsed()
        try:
            with report.attempt("section"), deadline(min(seconds, left)):
                section(report)
        except OutOfTimeError:
            report.row("section", failed=f"stopped after {report.elapsed() - started:.0f} s")
        report.row("section done", wall_s=report.elapsed() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
