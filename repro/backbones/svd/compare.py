"""Hold ways of computing the same features against each other, on this machine and a user's own weights.

The fast path against the plain one; one implementation against the other; each precision against fp32. The window is
one of a rendered clip, its end padded with black.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from repro.backbones.config import SvdConfig
from repro.backbones.noise import WindowNoise
from repro.backbones.svd import networks
from repro.backbones.svd.model import Place, Request, SvdModel, needs
from repro.backbones.svd.networks import IMPLEMENTATIONS, Implementation
from repro.backbones.svd.plain import NEEDS, plain_window
from repro.features.windows import padded

LAYERS = (1, 3, 6, 9, 12, 13)
NOISE = WindowNoise(23, "0" * 64, 0)

Means = dict[Place, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one way of computing lies from another, over all places compared."""

    what: str
    against: str
    worst: float
    """Relative L2 of the worst place."""
    place: Place
    seconds: float
    """A window, once, as it came: no measurement."""
    expected: float | None
    """The bound it must keep; None where nothing is promised."""


@dataclass(frozen=True, slots=True)
class Skipped:
    what: str
    why: str


def comparisons(
    config: SvdConfig, checkpoint: Path, device: str, limit: float, batch: int | None = None
) -> Iterator[Comparison | Skipped]:
    """Everything there is to compare, one after another."""
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
        networks.move(whole, device)
        begun = perf_counter()
        plain = plain_window(fp32, whole, request, frames, NOISE, device)
        del whole
        yield _compared(
            f"{name}, fast path", f"{name}, plain ({perf_counter() - begun:.1f} s)", means, plain, seconds, limit
        )
        if fast:
            first = next(iter(fast))
            yield _compared(name, first, means, fast[first], seconds, limit)
        fast[name] = means
    chosen = networks.resolve(config.implementation)
    for precision in ("tf32", "fp16", "bf16"):
        if precision == "tf32" and not device.startswith("cuda"):
            yield Skipped("tf32", "on a CPU it is fp32")
            continue
        reduced = config.model_copy(update={"precision": precision})
        means, seconds = _fast(reduced, chosen, checkpoint, request, frames, real, device, batch)
        yield _compared(f"{chosen}, {precision}", f"{chosen}, fp32", means, fast[chosen], seconds, None)


def _timesteps(config: SvdConfig) -> tuple[int, ...]:
    """The noisiest, the one rows read, the clearest."""
    last = config.schedule.steps - 1
    return tuple(sorted({0, round(last * 20 / 29), last}))


def _window(config: SvdConfig) -> tuple[np.ndarray, int]:
    """Three fifths of a window of a rendered clip, and black behind it."""
    from repro.smoke import scenes

    real = max(1, config.frames.window * 3 // 5)
    scene = max(scenes.smoke_scenes(), key=lambda scene: scene.frames)
    moving = np.stack(list(islice(scenes.pictures(scene), real)))
    return padded(moving, config.frames.window), real


def _fast(
    config: SvdConfig, name: Implementation, checkpoint: Path, request: Request, frames: np.ndarray, real: int,
    device: str, batch: int | None,
) -> tuple[Means, float]:  # fmt: skip
    loaded = networks.load(name, checkpoint, config.architecture, needs(config, [request]))
    networks.move(loaded, device)
    model = SvdModel(config, loaded, {"": request}, device, batch)
    begun = perf_counter()
    means = model.window(frames, real, NOISE)[""]
    return {place: mean[:real].cpu() for place, mean in means.items()}, perf_counter() - begun


def _compared(
    what: str, against: str, ours: Means, theirs: Means, seconds: float, expected: float | None
) -> Comparison:
    deviations = {}
    for place, mean in ours.items():
        other = theirs[place][: len(mean)].cpu().double()
        deviations[place] = float((mean.double() - other).norm() / other.norm())
    # NaN counts as worst.
    place = max(deviations, key=lambda p: deviations[p] if deviations[p] == deviations[p] else float("inf"))
    worst = deviations[place] if deviations[place] == deviations[place] else float("inf")
    return Comparison(what, against, worst, place, seconds, expected)
