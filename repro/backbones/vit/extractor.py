"""A video vision transformer as an Extractor: a clip's windows in, one vector per tubelet or window out."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from repro.backbones.config import Cell, Frames
from repro.backbones.extractor import Backbone, Execution, Noise, Stream
from repro.backbones.precision import autocast, explain_precision, fp32_products, is_out_of_memory, move_to_device
from repro.backbones.vit.checkpoint import open_encoder
from repro.backbones.vit.config import Layout, VitConfig
from repro.backbones.vit.encoder import BuildEncoder, Encoder, iterate_layers
from repro.backbones.vit.pictures import FrameResizer
from repro.core.errors import MissingError, UsageError

AT_ONCE = 8
"""Windows that a GPU takes at once by default: 8 of 16 frames at 224 fit into 16 GB. A CPU takes one: more at once are not
faster there (benchmarks/README.md)."""


def open_extractor(
    backbone: Backbone[VitConfig], cells: Sequence[Cell], layout: Layout, build: BuildEncoder, execution: Execution
) -> "VitExtractor":
    """Load a backbone's checkpoint and encoder.

    Raises:
        UsageError: a layer does not exist.
        MissingError: the checkpoint is not the one the config describes, or does not fit into the device's memory.
    """
    config = backbone.config
    assert backbone.checkpoint is not None
    opened = open_encoder(backbone.checkpoint, config, layout)
    for note in (opened.note, explain_precision(config.precision, execution.device)):
        if note:
            execution.say(note)
    encoder = build(opened.tensors, opened.sizes, config.num_heads, config.table_frames)
    return VitExtractor(config, encoder, cells, execution.device, execution.batch)


class VitExtractor:
    """A frozen encoder that computes some layers. Only windows of the same clip are computed together, so that no feature
    depends on which clips come before it."""

    noise_seed = 0

    def __init__(
        self,
        config: VitConfig,
        encoder: Encoder,
        cells: Sequence[Cell],
        device: str,
        batch: int | None = None,
    ) -> None:
        sizes, name = encoder.sizes, config.name
        for what, length, step in (
            ("frames.window", config.frames.window, sizes.tubelet),
            ("picture.size", config.picture.size, sizes.patch),
        ):
            if length % step:
                raise UsageError(f"{name}: {what} {length} is not a multiple of {step}, as its checkpoint requires")
        for cell in cells:
            if isinstance(cell.layer, int) and cell.layer > sizes.depth:
                raise UsageError(f"layer {cell.layer} does not exist: {name} has 1 to {sizes.depth} and 'final'")
        self.config, self.encoder, self.cells = config, encoder, tuple(cells)
        self.backbones = (name,)
        self.device = torch.device(device)
        self.resizer = FrameResizer(config.picture, config.frames.hop, self.device)
        self.at_once = batch or (1 if self.device.type == "cpu" else AT_ONCE)
        move_to_device(encoder, device)

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
        """Compute vectors of windows: of r real frames, ceil(r / tubelet) vectors, or one with pooling: window.

        With keep_padded_tubelets, as many vectors as of a complete window. Frames that a window shares with the one before it,
        in this call or the last one, are resized once.

        Raises:
            MissingError: it does not fit into memory.
        """
        try:
            with torch.inference_mode(), fp32_products(self.config.precision):
                return {self.config.name: self._compute_features(windows)}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MissingError(
                f"out of memory on {self.device}: {len(windows)} windows of {self.frames.window} frames at "
                f"{self.config.picture.size} in {self.config.precision}: use --batch {max(1, len(windows) // 2)}, or a device "
                "with more memory"
            ) from error

    def _compute_features(self, windows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        length, tubelet = self.frames.window, self.encoder.sizes.tubelet
        # Tubelets that hold a real frame: those after them see only repeated frames, and are dropped unless the config keeps
        # them.
        counts = [length if self.config.keep_padded_tubelets else len(frames) for frames in windows]
        real = [-(-count // tubelet) for count in counts]
        pixels = self.resizer.resize_windows(windows, length)
        depth = self.encoder.sizes.depth
        # `final` is the last block's output, with a norm that _pool adds; layerNN are outputs without one.
        numbers = {cell: cell.layer if isinstance(cell.layer, int) else depth for cell in self.cells}
        found: dict[str, Tensor] = {}
        with autocast(self.config.precision, self.device):
            for number, tokens in enumerate(iterate_layers(self.encoder, pixels, max(numbers.values())), start=1):
                for cell in self.cells:
                    if numbers[cell] == number:
                        found[cell.name] = self._pool(tokens, real, final=cell.layer == "final")
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _pool(self, tokens: Float[Tensor, "B N C"], real: Sequence[int], final: bool) -> Float[Tensor, "_ C"]:
        """Average tokens over space, and over time if the config says so. In fp32: half precision is too coarse for means."""
        config, encoder = self.config, self.encoder
        if final and config.norm == "encoder":
            tokens = encoder.norm(tokens)
        tubelets = self.frames.window // encoder.sizes.tubelet
        # Tokens are frame-major: [B, tubelets * patches, C] to [B, tubelets, patches, C], then the mean over patches.
        steps = tokens.float().reshape(len(tokens), tubelets, -1, tokens.shape[-1]).mean(dim=2)
        vectors = torch.cat(
            [
                values[:count] if config.pooling == "tubelet" else values[:count].mean(dim=0, keepdim=True)
                # Tubelets after `count` hold only repeated frames that the config does not keep.
                for values, count in zip(steps, real, strict=True)
            ]
        )
        return encoder.fc_norm(vectors).float() if final and config.norm == "fc_norm" else vectors
