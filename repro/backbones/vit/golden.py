"""Hold an encoder against golden tokens.

A folder of golden values holds safetensors files with `input` [B, 3, T, H, W], normalised, `tokens` [B, N, C] behind the
final norm, and the encoder's own weights as `weights/<the owners' name>`; without weights in it, those of a checkpoint.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from repro.backbones.comparison import Deviation, Note, read_golden, relative_l2
from repro.backbones.devices import move
from repro.backbones.precision import fp32_products
from repro.backbones.vit.checkpoint import PATCHES, account_for, open_checkpoint
from repro.backbones.vit.config import Encoder as Sizes
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.encoder import Build, layers
from repro.backbones.vit.families import Layout
from repro.core.errors import MissingError

WEIGHTS = "weights/"


def against_golden(
    config: VitConfig, layout: Layout, build: Build, checkpoint: Path, folder: Path, device: str
) -> Iterator[Deviation | Note]:
    """Compute the tokens of every file of `folder` and yield their deviation.

    Raises:
        UsageError: no such folder, or no golden files in it.
        MissingError: a golden file or the checkpoint is damaged or of another layout.
    """
    # What a golden file's weights are, they say themselves.
    config = config.model_copy(update={"encoder": None})
    for path, golden in read_golden(folder):
        pixels, tokens = (golden.get(name, np.zeros(0)) for name in ("input", "tokens"))
        if pixels.ndim != 5 or pixels.shape[1] != 3 or tokens.ndim != 3:
            raise MissingError(f"golden file {path}: expected 'input' [B, 3, T, H, W] and 'tokens' [B, N, C] in it")
        own = {n.removeprefix(WEIGHTS): torch.from_numpy(v) for n, v in golden.items() if n.startswith(WEIGHTS)}
        if not own:
            opened = open_checkpoint(checkpoint, config, layout)
            own, sizes, said = opened.tensors, opened.sizes, opened.said
        else:
            sizes, said = _account_for(path, own, config, layout), ""
        if said:
            yield Note(said)
        # A table as long as the golden tokens is of the golden frames.
        table = own.get("pos_embed")
        same = table is not None and table.shape[1] == tokens.shape[1]
        frames = pixels.shape[2] if same else config.table_frames
        encoder = build({n: v.float() for n, v in own.items()}, sizes, config.num_heads, frames)
        move(encoder, device)
        with torch.inference_mode(), fp32_products(config.precision):
            for behind in layers(encoder, torch.from_numpy(pixels).float().to(device), encoder.sizes.depth):
                last = behind
            ours = encoder.norm(last).cpu().numpy()
        if ours.shape != tokens.shape:
            raise MissingError(
                f"golden file {path}: 'tokens' is {list(tokens.shape)}, this backbone gives {list(ours.shape)}"
            )
        yield Deviation(path.name, "tokens", relative_l2(ours, tokens))


def _account_for(path: Path, own: dict[str, torch.Tensor], config: VitConfig, layout: Layout) -> Sizes:
    if PATCHES not in own:
        raise MissingError(f"golden file {path}: its weights have no {PATCHES}: not a video transformer's")
    return account_for(own, config, layout, f"golden file {path}")
