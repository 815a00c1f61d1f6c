"""A checkpoint in an owners' layout with weights drawn from a seed: nothing is learnt, everything computes."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from repro.backbones.vit.checkpoint import wanted
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.families import Layout


def write(path: Path, config: VitConfig, layout: Layout, seed: int) -> None:
    """Norms near one, biases near zero, products that keep the size of what they are given."""
    sizes = config.encoder
    assert sizes is not None
    patches = (config.picture.size // sizes.patch) ** 2 * (config.table_frames // sizes.tubelet)
    draws = np.random.default_rng(seed)
    tensors = {}
    for name, shape in wanted(sizes, config, layout, patches):
        values = draws.standard_normal(shape, dtype=np.float32)
        if name.endswith("weight") and len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:], dtype=np.float32))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        tensors[name] = values
    save_file(tensors, path)
