"""`repro verify` for Stable Video Diffusion: golden features, and different ways of computing the same features.

A folder of golden values holds one safetensors file per window: `frames` (uint8 [T, h, w, 3]), `n_real`, the conditioning
(`crossattn`, `concat`, `vector`) and features `tTT_layerLL_mean` [T, C], for all frames of the window, padding included.
Their noise comes from numpy's default_rng([23, 0]) and ([23, 1]), the same for every window.

On this machine, with the user's own weights, the fast path is compared with the plain one, one implementation with the other,
and each precision with fp32, on a window of a rendered clip with black padding, or on the first window of a video.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from repro.backbones.comparison import (
    Timed,
    compare_cells,
    compare_precision,
    read_first_frames,
    read_golden,
    relative_l2,
)
from repro.backbones.compilation import choose_compilation
from repro.backbones.config import Cell, Layer, Precision
from repro.backbones.extractor import Execution, Stream
from repro.backbones.family import Comparison, Deviation, Note, Skipped
from repro.backbones.noise import CPU, WindowNoise
from repro.backbones.precision import move_to_device
from repro.backbones.svd.config import SIDE_MULTIPLE, SvdConfig
from repro.backbones.svd.implementations import (
    IMPLEMENTATIONS,
    explain_missing_sgm,
    load_networks,
    resolve_implementation,
)
from repro.backbones.svd.model import Request, SvdModel, TimestepLayer, check_text, find_needs
from repro.backbones.svd.networks import Implementation
from repro.backbones.svd.pictures import pad_window
from repro.backbones.svd.plain import NEEDS, compute_plain_window
from repro.core.errors import MissingError
from repro.video.synthetic import scenes

LAYERS: tuple[Layer, ...] = (1, 3, 6, 9, 12, 13, "up_3", "up_7", "up_12")
"""Layers that are compared: of every level of the UNet, and the middle block."""
NOISE = WindowNoise(23, "0" * 64, 0)

Means = dict[str, np.ndarray]
"""Feature means by cell name."""

_FEATURE = re.compile(r"t(\d+)_layer(\d+)_mean")


class GoldenNoise:
    """The noise that the golden windows were computed with."""

    def sample(self, stream: Stream, shape: tuple[int, ...], device: torch.device = CPU) -> Float32[Tensor, "..."]:
        streams: tuple[Stream, ...] = ("augmentation", "posterior", "latent")
        values = np.random.default_rng([23, streams.index(stream)]).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(values).to(device)


def verify_against_golden(
    config: SvdConfig, checkpoint: Path, folder: Path, execution: Execution
) -> Iterator[Deviation]:
    """Compute every window of `folder` and yield the deviation of each stored tensor.

    Raises:
        UsageError: there is no such folder, it has no golden files, or a cell in them does not exist; or `config`
            conditions on texts.
        MissingError: a golden file or the checkpoint is damaged or has another layout; or sgm is requested and missing.
    """
    check_text(config, None)
    windows = read_golden(folder)
    # All files are checked before the networks are loaded, which takes far longer.
    for path, golden in windows:
        _check_golden_file(path, golden)
    # A file may contain only the conditioning; then any place does.
    places = {
        path: frozenset((int(m[1]), int(m[2])) for name in golden if (m := _FEATURE.fullmatch(name)))
        or frozenset({(0, 1)})
        for path, golden in windows
    }

    mixing = config.temporal_mixing == "learned"
    everything = Request(mixing, frozenset().union(*places.values()))
    implementation = resolve_implementation(config.implementation)
    networks = load_networks(implementation, checkpoint, config.architecture, find_needs(config, [everything]))
    move_to_device(networks, execution.device)
    noise = GoldenNoise()
    for path, golden in windows:
        # Golden windows have sizes of their own; the VAE divides heights and widths by 8.
        height, width = (8 * n for n in golden["concat"].shape[-2:])
        sized = config.model_copy(update={"size": (height, width)})
        # Golden values are of all frames. Without mixing the model would leave out padding, so all frames count as real.
        real = int(golden["n_real"].item()) if mixing and "n_real" in golden else len(golden["frames"])
        model = SvdModel(sized, networks, {"": Request(mixing, places[path])}, execution.device, execution.batch)
        outputs = model.compute_outputs(golden["frames"], real, noise)
        ours = {
            "crossattn": outputs.conditioning.crossattn,
            "concat": outputs.conditioning.concat,
            "vector": outputs.conditioning.vector,
        } | {f"t{t:02d}_layer{n:02d}_mean": mean for (t, n), mean in outputs.features[""].items()}
        for name in sorted(set(golden) - {"frames", "n_real"}):
            if name not in ours:
                raise MissingError(f"golden file {path}: this backbone has no tensor '{name}'")
            computed = ours[name].cpu().numpy()
            if computed.shape != golden[name].shape:
                raise MissingError(
                    f"golden file {path}: '{name}' is {list(golden[name].shape)}, "
                    f"this backbone gives {list(computed.shape)}"
                )
            yield Deviation(path.name, name, relative_l2(computed, golden[name]))


def _check_golden_file(path: Path, golden: Mapping[str, np.ndarray]) -> None:
    for name, dimensions in (("frames", 4), ("concat", 4)):
        if name not in golden or golden[name].ndim != dimensions:
            raise MissingError(f"golden file {path}: '{name}' of {dimensions} dimensions is missing")
    height, width = (8 * n for n in golden["concat"].shape[-2:])
    if not height or not width or height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
        raise MissingError(
            f"golden file {path}: 'concat' is of frames of {height}x{width}, expected multiples of {SIDE_MULTIPLE}"
        )
    if golden["frames"].dtype != np.uint8 or golden["frames"].shape[-1] != 3:
        raise MissingError(f"golden file {path}: 'frames' is not uint8 [T, h, w, 3]")
    if "n_real" in golden and (golden["n_real"].size != 1 or not 1 <= golden["n_real"].item() <= len(golden["frames"])):
        raise MissingError(f"golden file {path}: 'n_real' is not a single number from 1 to {len(golden['frames'])}")


def compare_ways(
    config: SvdConfig, checkpoint: Path, execution: Execution, limit: float, video: Path | None = None
) -> Iterator[Comparison | Skipped | Note]:
    """Yield every comparison that this machine allows; `limit` is the bound on relative L2 for equal ones.

    The window is the first one of `video`, or of a rendered clip with black padding.

    Raises:
        UsageError: `config` conditions on texts.
    """
    check_text(config, None)
    places = frozenset((t, n) for t in _timesteps(config) for n in LAYERS)
    request = Request(config.temporal_mixing == "learned", places)
    frames, real = _render_window(config) if video is None else _read_window(config, video)
    fp32 = config.model_copy(update={"precision": "fp32"})
    fast: dict[Implementation, Means] = {}
    for name in IMPLEMENTATIONS:
        problem = explain_missing_sgm() if name == "sgm" else ""
        if problem:
            yield Skipped(name, problem)
            continue
        means, seconds = _compute_fast(fp32, name, checkpoint, request, frames, real, execution)
        complete = load_networks(name, checkpoint, config.architecture, NEEDS)
        move_to_device(complete, execution.device)
        start = perf_counter()
        plain = _by_cell(compute_plain_window(fp32, complete, request, frames, NOISE, execution.device), real)
        # Timed with everything that the release computes, and printed: what the fast path saves.
        del complete  # before the next implementation is loaded: both may not fit into memory
        yield compare_cells(
            f"{name}, fast path", f"{name}, plain ({perf_counter() - start:.1f} s)", means, plain, seconds, limit
        )
        # Both implementations, each equal to its own plain path, must also agree with each other.
        if fast:
            first = next(iter(fast))
            yield compare_cells(name, first, means, fast[first], seconds, limit)
        fast[name] = means
    yield from _compare_precisions(config, checkpoint, request, (frames, real), execution)


def _compare_precisions(
    config: SvdConfig, checkpoint: Path, request: Request, window: tuple[np.ndarray, int], execution: Execution
) -> Iterator[Comparison | Skipped | Note]:
    """Yield the deviation of each precision from fp32. The networks are loaded once: a precision changes no weights."""
    chosen, (frames, real) = resolve_implementation(config.implementation), window
    networks = load_networks(chosen, checkpoint, config.architecture, find_needs(config, [request]))
    move_to_device(networks, execution.device)
    cell = config.axes().usual
    assert cell.timestep is not None
    assert cell.layer != "final"
    alone = Request(request.mixing, frozenset({(cell.timestep, cell.layer)}))

    def compute(precision: Precision) -> tuple[Timed, int]:
        own = config.model_copy(update={"precision": precision})
        every = SvdModel(own, networks, {"": request}, execution.device, execution.batch)
        # As an extraction computes it; to compile all layers too would take minutes.
        compiled = choose_compilation(execution, precision)
        usual = SvdModel(
            own, networks, {"": alone}, execution.device, execution.batch, say=execution.say, compiled=compiled
        )
        cells = _by_cell(every.compute_window(frames, real, NOISE)[""], real)
        seconds = []
        # The first pass starts kernels, and compiles some; a CPU has no such costs worth a second window.
        for _ in range(1 if execution.device == "cpu" else 2):
            start = perf_counter()
            cells |= _by_cell(usual.compute_window(frames, real, NOISE)[""], real)
            seconds.append(perf_counter() - start)
        return Timed(cells, seconds[-1]), every.recomputed_frames

    exact, _ = compute("fp32")
    for precision in config.precisions():
        if precision == "fp32":
            continue
        if precision == "tf32" and not execution.device.startswith("cuda"):
            yield Skipped("tf32", "the same as fp32 on a CPU")
            continue
        found, again = compute(precision)
        if again:
            yield Note(f"{precision}: {again} encodings of frames overflowed and were computed again as published")
        yield compare_precision(f"{chosen}, {precision}", precision, found, exact, cell.name)


def _timesteps(config: SvdConfig) -> tuple[int, ...]:
    """The noisiest, the one that rows read (20 of 30), and the least noisy timestep."""
    last = config.schedule.steps - 1
    return tuple(sorted({0, round(last * 20 / 29), last}))


def _render_window(config: SvdConfig) -> tuple[np.ndarray, int]:
    """Render a window of which three fifths are frames of a clip and the rest is black; returns how many are real."""
    # Both kinds of frames in one window: padding has a path of its own (_repeating_black).
    real = max(1, config.frames.window * 3 // 5)
    scene = max(scenes.smoke_scenes(), key=lambda scene: scene.frames)
    moving = np.stack(list(islice(scenes.pictures(scene), real)))
    return pad_window(moving, config.frames.window), real


def _read_window(config: SvdConfig, video: Path) -> tuple[np.ndarray, int]:
    """Read the first window of a video, padded with black; returns how many of its frames are real."""
    frames = read_first_frames(video, config.frames, config.frames.window)
    return pad_window(frames, config.frames.window), len(frames)


def _compute_fast(
    config: SvdConfig, implementation: Implementation, checkpoint: Path, request: Request,
    frames: np.ndarray, real: int, execution: Execution,
) -> tuple[Means, float]:  # fmt: skip
    """Compute a window as extraction does; returns its means and the seconds it took."""
    networks = load_networks(implementation, checkpoint, config.architecture, find_needs(config, [request]))
    move_to_device(networks, execution.device)
    model = SvdModel(config, networks, {"": request}, execution.device, execution.batch)
    start = perf_counter()
    means = model.compute_window(frames, real, NOISE)[""]
    return _by_cell(means, real), perf_counter() - start


def _by_cell(means: Mapping[TimestepLayer, Tensor], real: int) -> Means:
    return {Cell(timestep=t, layer=n).name: mean[:real].cpu().numpy() for (t, n), mean in means.items()}
