"""`repro verify` for video vision transformers: golden tokens, and different ways of computing the same vectors.

A folder of golden values holds safetensors files with `input` [B, 3, T, H, W], normalised, `tokens` [B, N, C] after the final
norm, and the encoder's weights as `weights/<name in the published file>`; without weights, those of a checkpoint are used.

On this machine, with the user's own weights, several windows at once are compared with one at a time, and each precision with
fp32. This cannot detect a wrong number of heads. The windows are those of a rendered clip; the last one is short.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from repro.backbones.comparison import (
    Timed,
    compare_cells,
    compare_precision,
    read_first_frames,
    read_golden,
    relative_l2,
)
from repro.backbones.compilation import choose_compilation
from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.family import Comparison, Deviation, Note, Skipped
from repro.backbones.noise import SampledNoise
from repro.backbones.precision import fp32_products, move_to_device
from repro.backbones.vit.checkpoint import PATCHES, check_encoder, open_encoder
from repro.backbones.vit.config import EncoderSizes, Layout, VitConfig
from repro.backbones.vit.encoder import BuildEncoder, Encoder, iterate_layers
from repro.backbones.vit.extractor import VitExtractor
from repro.core.errors import MissingError
from repro.video.synthetic import scenes

WEIGHTS = "weights/"
WINDOWS = 3


def verify_against_golden(
    config: VitConfig, layout: Layout, build: BuildEncoder, checkpoint: Path, folder: Path, device: str
) -> Iterator[Deviation | Note]:
    """Compute the tokens of every file of `folder` and yield their deviation.

    Raises:
        UsageError: there is no such folder, or it has no golden files.
        MissingError: a golden file or the checkpoint is damaged or has another layout.
    """
    # The sizes of golden weights are read off them, whatever the config's.
    config = config.model_copy(update={"encoder": None})
    for path, golden in read_golden(folder):
        pixels, tokens = (golden.get(name, np.zeros(0)) for name in ("input", "tokens"))
        if pixels.ndim != 5 or pixels.shape[1] != 3 or tokens.ndim != 3:
            raise MissingError(f"golden file {path}: expected 'input' [B, 3, T, H, W] and 'tokens' [B, N, C]")
        weights = {n.removeprefix(WEIGHTS): torch.from_numpy(v) for n, v in golden.items() if n.startswith(WEIGHTS)}
        if not weights:
            opened = open_encoder(checkpoint, config, layout)
            weights, sizes, note = opened.tensors, opened.sizes, opened.note
        else:
            sizes, note = _check_golden_weights(path, weights, config, layout), ""
        if note:
            yield Note(note)
        # A table as long as the golden tokens is one for the golden frames.
        table = weights.get("pos_embed")
        same = table is not None and table.shape[1] == tokens.shape[1]
        frames = pixels.shape[2] if same else config.table_frames
        encoder = build({n: v.float() for n, v in weights.items()}, sizes, config.num_heads, frames)
        move_to_device(encoder, device)
        with torch.inference_mode(), fp32_products(config.precision):
            for layer in iterate_layers(encoder, torch.from_numpy(pixels).float().to(device), encoder.sizes.depth):
                last = layer
            ours = encoder.norm(last).cpu().numpy()
        # Unequal shapes would broadcast, or fail without the file's name.
        if ours.shape != tokens.shape:
            raise MissingError(
                f"golden file {path}: 'tokens' is {list(tokens.shape)}, this backbone gives {list(ours.shape)}"
            )
        yield Deviation(path.name, "tokens", relative_l2(ours, tokens))


def _check_golden_weights(
    path: Path, weights: dict[str, torch.Tensor], config: VitConfig, layout: Layout
) -> EncoderSizes:
    if PATCHES not in weights:
        raise MissingError(f"golden file {path}: its weights have no {PATCHES}: not those of a video transformer")
    return check_encoder(weights, config, layout, f"golden file {path}")


def compare_ways(
    config: VitConfig,
    layout: Layout,
    build: BuildEncoder,
    checkpoint: Path,
    execution: Execution,
    limit: float,
    windows: list[np.ndarray],
) -> Iterator[Comparison | Skipped | Note]:
    """Yield every comparison that this machine allows; `limit` is the bound on relative L2 for equal ones."""
    device = execution.device
    opened = open_encoder(checkpoint, config, layout)
    if opened.note:
        yield Note(opened.note)
    encoder = build(opened.tensors, opened.sizes, config.num_heads, config.table_frames)
    depth = opened.sizes.depth
    cells = [Cell(layer=max(1, depth // 2)), Cell(layer="final")]
    fp32 = config.model_copy(update={"precision": "fp32"})
    together, seconds = _compute(fp32, encoder, cells, windows, device, WINDOWS)
    alone, apart = _compute(fp32, encoder, cells, windows, device, 1)
    yield compare_cells(
        f"{len(windows)} windows together", f"one by one ({apart:.1f} s)", together, alone, seconds, limit
    )
    exact = Timed(together, seconds)
    for precision in config.precisions():
        if precision == "fp32":
            continue
        if precision == "tf32" and not device.startswith("cuda"):
            yield Skipped("tf32", "the same as fp32 on a CPU")
            continue
        reduced = config.model_copy(update={"precision": precision})
        # As an extraction computes it.
        compiled = choose_compilation(execution, precision)
        values, seconds = _compute(reduced, encoder, cells, windows, device, WINDOWS, execution.say, compiled=compiled)
        yield compare_precision(precision, precision, Timed(values, seconds), exact, config.axes().usual.name)


def read_windows(config: VitConfig, video: Path | None) -> list[np.ndarray]:
    """Return the first windows of a video, without overlap, the last one possibly short; of a rendered clip for None.

    Raises:
        VideoError: the video cannot be decoded.
    """
    if video is None:
        return _render_windows(config)
    length = config.frames.window
    frames = read_first_frames(video, config.frames, WINDOWS * length)
    return [frames[first : first + length] for first in range(0, len(frames), length)]


def _render_windows(config: VitConfig) -> list[np.ndarray]:
    """Render a clip of two complete windows and three fifths of another."""
    length = config.frames.window
    scene = max(scenes.smoke_scenes(), key=lambda scene: scene.frames)
    moving = np.stack(list(islice(scenes.pictures(scene), 2 * length + max(1, length * 3 // 5))))
    return [moving[:length], moving[length : 2 * length], moving[2 * length :]]


def _compute(
    config: VitConfig, encoder: Encoder, cells: list[Cell], windows: list[np.ndarray], device: str, at_once: int,
    say: Callable[[str], None] | None = None, *, compiled: bool = False,
) -> tuple[dict[str, np.ndarray], float]:  # fmt: skip
    """Return the vectors of `windows`, and the seconds that they took."""
    extractor = VitExtractor(config, encoder, cells, device, at_once, say, compiled=compiled)
    # A GPU's first pass starts kernels, and compiles some; a CPU has no such costs worth a second one.
    for _ in range(1 if device == "cpu" else 2):
        start = perf_counter()
        parts = [
            extractor.features(windows[first : first + at_once], [SampledNoise({})])[config.name]
            for first in range(0, len(windows), at_once)
        ]
        seconds = perf_counter() - start
    return {cell: np.concatenate([part[cell] for part in parts]) for cell in parts[0]}, seconds
