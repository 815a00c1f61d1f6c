"""A checkpoint in the published file's layout whose weights are drawn from a seed: nothing to download, nothing learnt."""

import hashlib
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import save_file

from repro.backbones.svd.config import SvdArchitecture
from repro.backbones.svd.with_diffusers import layout

VERSION = 1
"""Raised when the same seed would give other weights."""


def write(path: Path, architecture: SvdArchitecture, seed: int) -> None:
    """Write every tensor of `architecture`, drawn from `seed`, to `path`."""
    weights = {name: draw(name, shape, seed) for name, shape in layout(architecture).items()}
    # One entry: safetensors writes several in any order, and the file's bytes must repeat.
    save_file(weights, path, metadata={"drawn": f"from seed {seed}, version {VERSION}"})


def draw(name: str, shape: tuple[int, ...], seed: int) -> Float32[np.ndarray, "..."]:
    """One tensor, the same whichever others are drawn: scales near 1, biases near 0, the rest of unit gain."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
    if name.endswith("mix_factor"):
        return values
    if name.endswith("bias"):
        return np.float32(0.05) * values
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * values
    return values / np.float32(math.sqrt(math.prod(shape[1:])))
