"""What one CUDA GPU does with this project's own code: `python benchmarks/gpu.py --json FILE`.

Needs no data and no checkpoint: weights are random numbers made on the device at the published sizes, pictures are
photographs that scikit-learn ships. Each section has a deadline; a part that fails is a row, and the others continue. Rows are
printed as they are measured, and FILE is written after each, so that a run that is stopped loses nothing. All
sections together end within --minutes.

`--tiny --device cpu` runs every section in less than a minute at the sizes of the tiny backbones, to see that it works.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from gpu_timing import (
    OutOfTimeError,
    Report,
    count_tflop,
    deadline,
    measure,
    measure_deviation,
    peak_memory,
    photographs,
    randomise,
    reset_peak_memory,
)
from torch import Tensor
from torch.nn import functional

# What a section measures is imported in that section: a package that is missing or too old ends one section, not all.

SEED = 20250911
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""Of the video transformers; fp32 first: the others are compared with it."""
BATCHES = (8, 1)
"""Windows at once."""


def measure_ceilings(report: Report) -> None:
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


@cache
def open_encoder(name: str, device: torch.device) -> tuple[Any, float]:
    """Build a video transformer with random weights; returned with the TFLOP of one window."""
    from repro.backbones.registry import family_of, load_backbone
    from repro.backbones.vit.checkpoint import expected_tensors
    from repro.backbones.vit.encoder import iterate_layers

    config: Any = load_backbone(name)
    family: Any = family_of(config)
    size, sizes, length = config.picture.size, config.encoder, config.frames.window
    patches = (size // sizes.patch) ** 2 * config.table_frames // sizes.tubelet

    def build(where: torch.device) -> tuple[Any, dict[str, Tensor]]:
        shapes = expected_tensors(sizes, config, family.layout, patches)
        tensors = {key: torch.empty(shape, device=where) for key, shape in shapes}
        return family.encoder_builder()(tensors, sizes, config.num_heads, config.table_frames), tensors

    hollow, _ = build(torch.device("meta"))
    seen = torch.empty(1, 3, length, size, size, device="meta")
    tflop = count_tflop(lambda: list(iterate_layers(hollow, seen, hollow.sizes.depth)))
    encoder, tensors = build(device)
    # The modules were given these very tensors (or thirds of them), so filling them fills the modules.
    generator = torch.Generator(device).manual_seed(SEED)
    for key, tensor in tensors.items():
        randomise(key, tensor, generator)
    return encoder, tflop


def open_vit(report: Report, name: str, precision: str, batch: int | None, *, compiled: bool = False) -> Any:
    """Return the project's extractor on such an encoder."""
    from repro.backbones.config import Cell
    from repro.backbones.registry import load_backbone
    from repro.backbones.vit.extractor import VitExtractor

    config: Any = load_backbone(name, {"precision": precision})
    encoder, _ = open_encoder(name, report.device)
    return VitExtractor(
        config, encoder, [Cell(layer="final")], str(report.device), batch, print,
        compiled=compiled, backend="eager" if report.tiny else "inductor",
    )  # fmt: skip


def transformer_names(report: Report) -> list[str]:
    return [f"{name}_tiny" if report.tiny else name for name in ("vjepa", "videomaev2")]


def measure_transformers(report: Report) -> None:
    """Windows/s of V-JEPA and VideoMAEv2, uint8 frames in and vectors out on the CPU, by precision and batch."""
    for name in transformer_names(report):
        for batch in (2,) if report.tiny else BATCHES:
            exact: list[Tensor] = []
            ways = ("fp32", "fp16, compiled") if report.tiny else PRECISIONS
            for way in (*ways, "fp16, compiled") if batch > 1 and not report.tiny else ways:
                precision, *compiled = way.split(", ")
                with report.attempt(f"{name} {way}, batch {batch}"):
                    extractor = open_vit(report, name, precision, batch, compiled=bool(compiled))
                    windows = [photographs(extractor.frames.window, start) for start in range(batch)]

                    def compute(extractor: Any = extractor, windows: Any = windows, name: str = name) -> Tensor:
                        return torch.from_numpy(extractor.features(windows, [])[name]["final"])

                    reset_peak_memory(report)
                    timed = measure(report, compute, seconds=1.0, most=5)
                    exact.append(timed.result)
                    report.row(
                        f"{name} {way}, batch {batch}", tflop=batch * open_encoder(name, report.device)[1], timed=timed,
                        windows_per_s=batch / timed.median, deviation=measure_deviation(timed.result, exact[0]),
                        first_s=timed.first, **peak_memory(report),
                    )  # fmt: skip


def write_clips(folder: Path, lengths: list[int]) -> list[Path]:
    """Encode clips of UCF101's size."""
    paths = []
    for number, length in enumerate(lengths):
        paths.append(folder / f"{number}.mp4")
        with av.open(str(paths[-1]), "w") as file:
            stream = file.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for frame in photographs(length, number):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    return paths


def measure_extraction(report: Report) -> None:
    """Clips of UCF101's lengths end to end: decoded in processes, computed, and stored, by what `repro extract` runs."""
    from gpu_svd import RandomSvd, open_bench
    from readout import SHAPES, sample_lengths

    from repro.backbones.extractor import Backbone, Execution
    from repro.core.console import QuietReporter
    from repro.core.workspace import Workspace
    from repro.datasets.split import Clip
    from repro.features import extract as extraction
    from repro.features.collection import Collection
    from repro.features.store import FeatureStore
    from repro.video.decoders import count_spare_cores

    def open_svd(precision: str, compiled: bool) -> Any:
        bench = open_bench(report)
        return RandomSvd(bench.name, bench.models[precision, compiled])

    vits = transformer_names(report)
    # 12 clips have about 24 windows of SVD, 44 of V-JEPA and 540 of VideoMAEv2. Starting the decoders counts, so the faster
    # networks take them more than once.
    jobs: tuple[tuple[str, int, Callable[[], Any]], ...] = (
        ("SVD-XT fast, compiled", 1, lambda: open_svd("fast", compiled=True)),
        *(
            (f"{name} fp16, compiled", times, lambda name=name: open_vit(report, name, "fp16", None, compiled=True))
            for name, times in zip(vits, (20, 2), strict=True)
        ),
        ("SVD-XT published, compiled", 1, lambda: open_svd("published", compiled=True)),
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # Native frames, of which every 4th is a token.
        lengths = [
            4 * n for n in sample_lengths(2 if report.tiny else 12, SHAPES["ucf_hmdb"][2], np.random.default_rng(SEED))
        ]
        paths = write_clips(place, [40, 12] if report.tiny else lengths)
        for number, (name, times, open_extractor) in enumerate(jobs[:1] if report.tiny else jobs):
            with report.attempt(name):
                extractor = open_extractor()
                clips = [Clip(f"{n}-{p.stem}", p, ()) for n in range(1 if report.tiny else times) for p in paths]
                (backbone,) = extractor.backbones
                store = FeatureStore.open(Workspace(place), backbone, {"job": number}, "clips")
                cells = (extractor.config.axes().usual,)
                request = extraction.FeatureRequest(Backbone(extractor.config, None, None, None), cells, store)
                # As in a long extraction, whose noise is compiled too.
                execution = Execution(str(report.device), workers=count_spare_cores(), compile=True)
                # No checkpoint is read: the extractor is there already.
                opened, extraction.open_extractors = extraction.open_extractors, lambda *_, one=extractor: [one]  # type: ignore[assignment]
                try:
                    done = extraction.extract_missing(
                        Collection("clips", tuple(clips)), [request], execution, {}, QuietReporter()
                    )
                finally:
                    extraction.open_extractors = opened
                assert not done.failed, done.failed
                report.row(
                    f"{name}, {len(clips)} clips", windows=done.windows, wall_s=done.seconds,
                    windows_per_s=done.windows / done.seconds, waiting_for_decoder=done.waits.decoder / done.seconds,
                    waiting_for_device=done.waits.device / done.seconds,
                )  # fmt: skip


def measure_noise(report: Report) -> None:
    """A window's 44.2 M normals: on one core of the CPU, and on the device."""
    from repro.backbones.noise import WindowNoise

    shape, window = (25, 3, *((64, 128) if report.tiny else (576, 1024))), WindowNoise(0, "0", 0, compiled=True)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        torch.set_num_threads(1)
        started = time.perf_counter()
        exact = window.sample("augmentation", shape)
        report.row("on one core", wall_s=time.perf_counter() - started, normals=int(np.prod(shape)))
        torch.set_num_threads(threads)
        timed = measure(report, lambda: window.sample("augmentation", shape, report.device))
        report.row("on the device", timed=timed, most_from_cpu=float((timed.result.cpu() - exact).abs().max()))


def measure_readouts(report: Report) -> None:
    """Steps/s of the project's own training at Animal Kingdom's lengths, batches of 16: a seed of a row, and several seeds or cells of
    a grid together, each cell with features of its own."""
    from readout import SHAPES, sample_lengths, sample_sequences

    from repro.readout.checkpoints import TrainingData
    from repro.readout.compute import Compute
    from repro.readout.train import Training, train_together
    from repro.table.rows import load_row

    # Width, precision, trainings, and whether each has its own features. A grid of SVD has 28 cells of width 320, 21 of 640, 42 of 1280.
    trials = (
        (1280, "fp32", 5, False), (1280, "tf32", 5, False), (1280, "tf32", 14, True), (640, "tf32", 21, True),
        (320, "tf32", 28, True), (1280, "fp32", 1, False), (1280, "tf32", 1, False), (1280, "bf16", 1, False),
    )  # fmt: skip
    for width, precision, count, apart in ((64, "fp32", 1, False), (64, "fp32", 2, True)) if report.tiny else trials:
        classes, clips = (7, 32) if report.tiny else (140, 480)
        recipe = load_row("ak_full").readout.model_copy(update={"epochs": 2 if report.tiny else 4})
        counts = sample_lengths(clips, SHAPES["ak"][2], np.random.default_rng(SEED))
        targets = functional.one_hot(torch.arange(clips) % classes, classes).float()
        made = [
            replace(sample_sequences(counts, width, recipe.max_length, SEED + number), targets=targets)
            for number in range(count if apart else 1)
        ]
        data = [TrainingData(one, one.select_clips(range(recipe.batch_size))) for one in made]
        steps = -(-clips // recipe.batch_size)
        what = f"width {width}, {precision}, {count} {'cells' if apart else 'seeds'} together"
        with report.attempt(what):
            reset_peak_memory(report)
            ends: list[float] = []
            train_together(
                [Training(data[number % len(data)], SEED + number) for number in range(count)], recipe,
                compute=Compute(str(report.device), precision, together=count),  # type: ignore[arg-type]
                after_epoch=lambda index, _, ends=ends: ends.append(time.perf_counter()) if index == 0 else None,
            )  # fmt: skip
            # The first epoch starts kernels. Each epoch ends with scores of one batch, which wait for the device.
            seconds = float(np.median(np.diff(ends)))
            report.row(
                f"{what}: an epoch of {steps} steps", wall_s=seconds, steps_per_s=steps / seconds,
                minutes_a_training_of_22515_steps=22_515 * seconds / steps / count / 60, **peak_memory(report),
            )  # fmt: skip


def measure_svd_stages(report: Report) -> None:
    """Stages of a window of SVD (gpu_svd.py)."""
    from gpu_svd import measure_svd

    measure_svd(report)


def measure_agreement(report: Report) -> None:
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
            smaller = {"frames.window": "3"} if "svd" in name or "sdv2" in name else {}
            for where, precision in (("cpu", "fp32"), *((device, precision) for precision in precisions)):
                what = f"{name}: {where} {precision}"
                with report.attempt(what):
                    config = load_backbone(name, {"precision": precision, **smaller})
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
    "ceilings": (measure_ceilings, 20),
    "svd": (measure_svd_stages, 200),
    "transformers": (measure_transformers, 60),
    "extraction": (measure_extraction, 100),
    "readouts": (measure_readouts, 100),
    "noise": (measure_noise, 10),
    "agreement": (measure_agreement, 40),
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="the tiny backbones' sizes, to see that everything runs")
    parser.add_argument("--json", type=Path, help="where to write every row")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all sections together")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny tries every section at small sizes")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu: at the published sizes this would take days: add --tiny")
    report = Report(torch.device(options.device), options.tiny, options.json)
    report.machine = describe_machine(report)
    if report.tiny:
        torch.set_num_threads(1)  # small products on shared cores: threads would wait for each other
    print(json.dumps(report.machine))
    print(
        "\n| section | what | TFLOP | s | TFLOP/s | share of bf16 matmul | |\n|---|---|---|---|---|---|---|", flush=True
    )
    unknown = set(options.sections.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--sections: no {', '.join(sorted(unknown))} among {', '.join(SECTIONS)}")
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
