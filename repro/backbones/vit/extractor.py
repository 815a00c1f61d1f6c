"""A video vision transformer as an Extractor: a clip's windows in, one vector a tubelet or a window out."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from repro.backbones.config import Cell, Frames
from repro.backbones.devices import is_out_of_memory, move
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import Noise, Stream
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.vit.checkpoint import open_checkpoint
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.encoder import Build, Encoder, layers
from repro.backbones.vit.families import Layout
from repro.backbones.vit.pictures import filled, pixels
from repro.core.errors import MissingError, UsageError

AT_ONCE = 8
"""Windows a GPU takes at once where nothing else is said: 8 of 16 frames at 224 fit one of 16 GB. A CPU takes one: more
together are no faster there (benchmarks/README.md)."""


def open_extractor(
    backbone: Backbone, cells: Sequence[Cell], layout: Layout, build: Build, execution: Execution
) -> "VitExtractor":
    """
    Raises:
        UsageError: a layer that does not exist.
        MissingError: the checkpoint is not the one the config describes, or the device's memory does not hold it.
    """
    config = backbone.config
    assert isinstance(config, VitConfig)
    assert backbone.checkpoint is not None
    opened = open_checkpoint(backbone.checkpoint, config, layout)
    if opened.said:
        execution.say(opened.said)
    encoder = build(opened.tensors, opened.sizes, config.num_heads, config.table_frames)
    return VitExtractor(backbone.name, config, encoder, cells, execution.device, execution.batch)


class VitExtractor:
    """A frozen encoder asked for some layers; windows of one clip are computed together, whatever clips come before it."""

    noise_seed = 0

    def __init__(
        self,
        name: str,
        config: VitConfig,
        encoder: Encoder,
        cells: Sequence[Cell],
        device: str,
        batch: int | None = None,
    ) -> None:
        sizes = encoder.sizes
        for what, length, step in (
            ("frames.window", config.frames.window, sizes.tubelet),
            ("picture.size", config.picture.size, sizes.patch),
        ):
            if length % step:
                raise UsageError(f"{name}: {what} {length} is not a multiple of {step}, which its checkpoint goes by")
        for cell in cells:
            if isinstance(cell.layer, int) and cell.layer > sizes.depth:
                raise UsageError(f"layer {cell.layer} does not exist: {name} has 1 to {sizes.depth} and 'final'")
        self.name, self.config, self.encoder, self.cells = name, config, encoder, tuple(cells)
        self.backbones = (name,)
        self.device = torch.device(device)
        self.at_once = batch or (1 if self.device.type == "cpu" else AT_ONCE)
        move(encoder, device)

    @property
    def frames(self) -> Frames:
        return self.config.frames

    @property
    def batch(self) -> str:
        return f"a clip's windows by {self.at_once}"

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        """A window of r real frames gives a vector for each tubelet with one in it, ceil(r / tubelet); or one in all.

        Raises:
            MissingError: memory does not hold it.
        """
        try:
            with torch.inference_mode(), fp32_products(self.config.precision):
                return {self.name: self._features(windows)}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MissingError(
                f"out of memory on {self.device}: {len(windows)} windows of {self.frames.window} frames at "
                f"{self.config.picture.size} in {self.config.precision}: try --batch {max(1, len(windows) // 2)}, or a device "
                "with more memory"
            ) from error

    def _features(self, windows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        real = [-(-len(frames) // self.encoder.sizes.tubelet) for frames in windows]
        length = self.frames.window
        seen = pixels(np.stack([filled(frames, length) for frames in windows]), self.config.picture, self.device)
        depth = self.encoder.sizes.depth
        numbers = {cell: cell.layer if isinstance(cell.layer, int) else depth for cell in self.cells}
        found: dict[str, Tensor] = {}
        with autocast(self.config.precision, self.device):
            for number, tokens in enumerate(layers(self.encoder, seen, max(numbers.values())), start=1):
                for cell in self.cells:
                    if numbers[cell] == number:
                        found[cell.name] = self._pooled(tokens, real, final=cell.layer == "final")
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _pooled(self, tokens: Float[Tensor, "B N C"], real: Sequence[int], final: bool) -> Float[Tensor, "_ C"]:
        """In fp32, as means of many half-precision numbers are not to be taken."""
        config, encoder = self.config, self.encoder
        if final and config.norm == "encoder":
            tokens = encoder.norm(tokens)
        tubelets = self.frames.window // encoder.sizes.tubelet
        steps = tokens.float().reshape(len(tokens), tubelets, -1, tokens.shape[-1]).mean(dim=2)
        vectors = torch.cat(
            [
                own[:count] if config.pooling == "tubelet" else own[:count].mean(dim=0, keepdim=True)
                for own, count in zip(steps, real, strict=True)
            ]
        )
        return encoder.fc_norm(vectors).float() if final and config.norm == "fc_norm" else vectors
