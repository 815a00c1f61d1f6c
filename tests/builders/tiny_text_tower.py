"""OpenCLIP's text tower, small: files in its layout, drawn here."""

import gzip
import math
from pathlib import Path

import torch

from repro.backbones.svd.text_files import TextTower

MERGES = ["e a", "t i", "ti n", "ea tin", "eatin g</w>", "s w", "i m</w>"]
TOWER = TextTower(width=24, layers=3, heads=4, context=9, vocabulary=514 + len(MERGES), embed_dim=64)


def write_merges(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join(["#version", *MERGES, "never read"]).encode(), mtime=0))


def weights(tower: TextTower = TOWER) -> dict[str, torch.Tensor]:
    """An OpenCLIP model's tensors by its own names, drawn here; of its image tower one."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    width = tower.width
    found = {
        "token_embedding.weight": drawn(tower.vocabulary, width) * 3,
        "positional_embedding": drawn(tower.context, width),
        "ln_final.weight": 1 + drawn(width),
        "ln_final.bias": drawn(width),
        "text_projection": drawn(width, tower.embed_dim),
        "logit_scale": torch.tensor(1.0),
        "visual.proj": drawn(2, 2),
    }
    for number in range(tower.layers):
        block = f"transformer.resblocks.{number}."
        found |= {f"{block}ln_{n}.weight": 1 + drawn(width) for n in (1, 2)}
        found |= {f"{block}ln_{n}.bias": drawn(width) for n in (1, 2)}
        shapes = {"attn.in_proj": 3 * width, "attn.out_proj": width, "mlp.c_fc": 4 * width, "mlp.c_proj": width}
        for name, rows in shapes.items():
            joint = "_" if name == "attn.in_proj" else "."
            found[f"{block}{name}{joint}weight"] = drawn(rows, 4 * width if name == "mlp.c_proj" else width)
            found[f"{block}{name}{joint}bias"] = drawn(rows)
    return found
