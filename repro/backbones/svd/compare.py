"""Hold ways of computing the same features against each other, on this machine and a user's own weights.

The fast path against the plain one; one implementation against the other; each precision against fp32. The window is
one of a rendered clip, its end padded with black.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import Tensor

from repro.backbones.comparison import Comparison, Skipped, compared
from repro.backbones.config import Cell, Layer
from repro.backbones.devices import move
from repro.backbones.noise import WindowNoise
from repro.backbones.svd import networks
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import Place, Request, SvdModel, needs, refuse_unfit
from repro.backbones.svd.networks import IMPLEMENTATIONS, Implementation
from repro.backbones.svd.pictures import padded
from repro.backbones.svd.plain import NEEDS, plain_window

LAYERS: tuple[Layer, ...] = (1, 3, 6, 9, 12, 13, "up_3", "up_7", "up_12")
NOISE = WindowNoise(23, "0" * 64, 0)

Means = dict[str, np.ndarray]
"""By cell."""


def comparisons(
    config: SvdConfig, checkpoint: Path, device: str, limit: float, batch: int | None = None
) -> Iterator[Comparison | Skipped]:
    """Everything there is to compare, one after another.

    Raises:
        UsageError: texts condition, of which there are none here.
    """
    refuse_unfit(config, None)
    places = frozenset((t, n) for t in _timesteps(config) for n in LAYERS)
    request = Request(config.temporal_mixing == "learned", places)
    frames, real = _window(config)
    fp32 = config.model_copy(update={"precision": "fp32"})
    fast: dict[Implementation, Means] = {}
    for name in IMPLEMENTATIONS:
        problem = networks.importable_sgm() if name == "sgm" else ""
        if problem:
            yield Skipped(name, problem)
            continue
        means, seconds = _fast(fp32, name, checkpoint, request, frames, real, device, batch)
        whole = networks.load(name, checkpoint, config.architecture, NEEDS)
        move(whole, device)
        begun = perf_counter()
        plain = _named(plain_window(fp32, whole, request, frames, NOISE, device), real)
        del whole
        yield compared(
            f"{name}, fast path", f"{name}, plain ({perf_counter() - begun:.1f} s)", means, plain, seconds, limit
        )
        if fast:
            first = next(iter(fast))
            yield compared(name, first, means, fast[first], seconds, limit)
        fast[name] = means
    chosen = networks.resolve(config.implementation)
    for precision in ("tf32", "fp16", "bf16"):
        if precision == "tf32" and not device.startswith("cuda"):
            yield Skipped("tf32", "on a CPU it is fp32")
            continue
        reduced = config.model_copy(update={"precision": precision})
        means, seconds = _fast(reduced, chosen, checkpoint, request, frames, real, device, batch)
        yield compared(f"{chosen}, {precision}", f"{chosen}, fp32", means, fast[chosen], seconds, None)


def _timesteps(config: SvdConfig) -> tuple[int, ...]:
    """The noisiest, the one rows read, the clearest."""
    last = config.schedule.steps - 1
    return tuple(sorted({0, round(last * 20 / 29), last}))


def _window(config: SvdConfig) -> tuple[np.ndarray, int]:
    """Three fifths of a window of a rendered clip, and black behind it."""
    from repro.video.synthetic import scenes

    real = max(1, config.frames.window * 3 // 5)
    scene = max(scenes.smoke_scenes(), key=lambda scene: scene.frames)
    moving = np.stack(list(islice(scenes.pictures(scene), real)))
    return padded(moving, config.frames.window), real


def _fast(
    config: SvdConfig, name: Implementation, checkpoint: Path, request: Request, frames: np.ndarray, real: int,
    device: str, batch: int | None,
) -> tuple[Means, float]:  # fmt: skip
    loaded = networks.load(name, checkpoint, config.architecture, needs(config, [request]))
    move(loaded, device)
    model = SvdModel(config, loaded, {"": request}, device, batch)
    begun = perf_counter()
    means = model.window(frames, real, NOISE)[""]
    return _named(means, real), perf_counter() - begun


def _named(means: Mapping[Place, Tensor], real: int) -> Means:
    return {Cell(timestep=t, layer=n).name: mean[:real].cpu().numpy() for (t, n), mean in means.items()}
