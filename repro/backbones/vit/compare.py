"""Hold ways of computing the same vectors against each other, on this machine and a user's own weights.

Windows together against one by one; each precision against fp32. The windows are of a rendered clip, the last one short.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np

from repro.backbones.comparison import Comparison, Note, Skipped, compared
from repro.backbones.config import Cell
from repro.backbones.noise import DrawnNoise
from repro.backbones.vit.checkpoint import open_checkpoint
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.encoder import Build, Encoder
from repro.backbones.vit.extractor import VitExtractor
from repro.backbones.vit.families import Layout

WINDOWS = 3


def comparisons(
    config: VitConfig, layout: Layout, build: Build, checkpoint: Path, device: str, limit: float, batch: int | None
) -> Iterator[Comparison | Skipped | Note]:
    """Everything there is to compare, one after another."""
    opened = open_checkpoint(checkpoint, config, layout)
    if opened.said:
        yield Note(opened.said)
    encoder = build(opened.tensors, opened.sizes, config.num_heads, config.table_frames)
    depth = opened.sizes.depth
    cells = [Cell(layer=max(1, depth // 2)), Cell(layer="final")]
    windows = _windows(config)
    fp32 = config.model_copy(update={"precision": "fp32"})
    together, seconds = _features(fp32, encoder, cells, windows, device, WINDOWS)
    alone, apart = _features(fp32, encoder, cells, windows, device, 1)
    yield compared(f"{WINDOWS} windows together", f"one by one ({apart:.1f} s)", together, alone, seconds, limit)
    for precision in ("tf32", "fp16", "bf16"):
        if precision == "tf32" and not device.startswith("cuda"):
            yield Skipped("tf32", "on a CPU it is fp32")
            continue
        reduced = config.model_copy(update={"precision": precision})
        values, seconds = _features(reduced, encoder, cells, windows, device, WINDOWS)
        yield compared(precision, "fp32", values, together, seconds, None)


def _windows(config: VitConfig) -> list[np.ndarray]:
    """Two whole windows of a rendered clip, and three fifths of one."""
    from repro.video.synthetic import scenes

    length = config.frames.window
    scene = max(scenes.smoke_scenes(), key=lambda scene: scene.frames)
    moving = np.stack(list(islice(scenes.pictures(scene), 2 * length + max(1, length * 3 // 5))))
    return [moving[:length], moving[length : 2 * length], moving[2 * length :]]


def _features(
    config: VitConfig, encoder: Encoder, cells: list[Cell], windows: list[np.ndarray], device: str, at_once: int
) -> tuple[dict[str, np.ndarray], float]:
    extractor = VitExtractor("", config, encoder, cells, device, at_once)
    begun = perf_counter()
    parts = [
        extractor.features(windows[first : first + at_once], [DrawnNoise({})])[""]
        for first in range(0, len(windows), at_once)
    ]
    return {cell: np.concatenate([part[cell] for part in parts]) for cell in parts[0]}, perf_counter() - begun
