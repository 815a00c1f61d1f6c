"""A video vision transformer as an Extractor: a clip's windows in, one vector per tubelet or window out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from repro.backbones.compilation import Compiled, choose_compilation, describe_compiled, fill_batch
from repro.backbones.config import Cell, FrameSampling
from repro.backbones.device import BatchLimit, start_download
from repro.backbones.extractor import Backbone, Execution, Noise, Stream, WindowFeatures
from repro.backbones.precision import autocast, explain_precision, fp32_products, move_to_device
from repro.backbones.vit.checkpoint import open_encoder
from repro.backbones.vit.config import Layout, VitConfig
from repro.backbones.vit.encoder import BuildEncoder, Encoder, apply_block, iterate_layers
from repro.backbones.vit.pictures import FrameResizer, resize_frames
from repro.core.errors import UsageError

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
    compiled = choose_compilation(execution, config.precision)
    return VitExtractor(config, encoder, cells, execution.device, execution.batch, execution.say, compiled=compiled)


class VitExtractor:
    """A frozen encoder that computes some layers.

    A GPU takes windows of several clips at once; their features differ from those computed clip by clip by rounding. On a CPU,
    where more windows at once are not faster, no bit of a feature depends on which clips come before it.

    Args:
        batch: windows at once; None: AT_ONCE on a GPU, one on a CPU.
        say: called with a line when `batch` is halved for lack of memory; None: a lack of memory is an error.
        compiled: compile the blocks; batches are then filled up to one size.
        backend: torch.compile's.

    Raises:
        UsageError: a layer does not exist, or the checkpoint does not allow the config's sizes.
        MissingError: the encoder does not fit into the device's memory.
    """

    noise_seed = 0
    _maps: dict[str, Float[Tensor, "B S P C"]] | None = None
    """While maps are kept: tokens by cell."""

    def __init__(
        self,
        config: VitConfig,
        encoder: Encoder,
        cells: Sequence[Cell],
        device: str,
        batch: int | None = None,
        say: Callable[[str], None] | None = None,
        *,
        compiled: bool = False,
        backend: str | Callable[..., Any] = "inductor",
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
        on_cpu = self.device.type == "cpu"
        self.mixes_clips = not on_cpu
        self.limit = BatchLimit(
            batch or (1 if on_cpu else AT_ONCE),
            "at once",
            f"windows of {config.frames.window} frames at {config.picture.size} in {config.precision}",
            self.device,
            say,
        )
        self.compiled = compiled
        self._apply_block = Compiled(apply_block, say or (lambda line: None), backend) if compiled else apply_block
        move_to_device(encoder, device)

    @property
    def frames(self) -> FrameSampling:
        return self.config.frames

    @property
    def at_once(self) -> int:
        return self.limit.size

    @property
    def batch(self) -> str:
        whose = "windows" if self.mixes_clips else "a clip's windows"
        programs = [self._apply_block] if isinstance(self._apply_block, Compiled) else []
        return f"{whose} by {self.at_once}{describe_compiled(programs)}"

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(self, windows: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], noises: Sequence[Noise]) -> WindowFeatures:
        """Compute vectors of windows: of r real frames, ceil(r / tubelet) vectors, or one with pooling: window.

        With keep_padded_tubelets, as many vectors as of a complete window. Frames that a window shares with the one before it,
        in this call or the last one, are resized once.

        Raises:
            MissingError: a window does not fit into memory.
        """
        parts = self.launch(windows, noises)()
        return {
            name: {cell: np.concatenate([part[name][cell] for part in parts]) for cell in cells}
            for name, cells in parts[0].items()
        }

    def launch(
        self, windows: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], noises: Sequence[Noise]
    ) -> Callable[[], list[WindowFeatures]]:
        # Started at once: the copy to the host runs while the next windows are computed.
        at_once = self.limit.size if self.compiled else len(windows)  # filled up, and so never fewer
        wait = start_download(self.limit.compute(lambda: self._compute_in_batches(windows), at_once))
        one_each = self.config.pooling == "window"
        ends = np.cumsum([1 if one_each else self._count_tubelets(window) for window in windows])[:-1]

        def finish() -> list[WindowFeatures]:
            parts = {cell: np.split(values, ends) for cell, values in wait().items()}
            return [
                {self.config.name: {cell: part[number] for cell, part in parts.items()}}
                for number in range(len(windows))
            ]

        return finish

    def _compute_in_batches(self, windows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        step = self.limit.size
        with torch.inference_mode(), fp32_products(self.config.precision):
            parts = [self._compute_vectors(windows[first : first + step]) for first in range(0, len(windows), step)]
            return {cell: torch.cat([part[cell] for part in parts]) for cell in parts[0]}

    def _count_tubelets(self, window: np.ndarray) -> int:
        """Count the tubelets that hold a real frame. Those after them see only repeated frames, and may be kept by the config."""
        real = self.frames.window if self.config.keep_padded_tubelets else len(window)
        return -(-real // self.encoder.sizes.tubelet)

    def _compute_vectors(self, windows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        real = [self._count_tubelets(window) for window in windows]
        length = self.frames.window
        pixels = self.resizer.resize_windows(windows, length)
        if self.compiled:
            # A program is compiled for one number of windows.
            pixels = fill_batch(pixels, self.limit.size)
        depth = self.encoder.sizes.depth
        # `final` is the last block's output, with a norm that _pool adds; layerNN are outputs without one.
        numbers = {cell: cell.layer if isinstance(cell.layer, int) else depth for cell in self.cells}
        found: dict[str, Tensor] = {}
        with autocast(self.config.precision, self.device):
            layers = iterate_layers(self.encoder, pixels, max(numbers.values()), self._apply_block)
            for number, tokens in enumerate(layers, start=1):
                for cell in self.cells:
                    if numbers[cell] == number:
                        final = cell.layer == "final"
                        steps = self._arrange_tokens(tokens[: len(windows)], final)
                        if self._maps is not None:
                            self._maps[cell.name] = steps
                        found[cell.name] = self._pool(steps, real, final)
        return found

    def _arrange_tokens(self, tokens: Float[Tensor, "B N C"], final: bool) -> Float[Tensor, "B S P C"]:
        """Return tokens by tubelet and patch, normalised if the config says so, in fp32."""
        if final and self.config.norm == "encoder":
            tokens = self.encoder.norm(tokens)
        # Tokens are frame-major.
        return tokens.float().reshape(
            len(tokens), self.frames.window // self.encoder.sizes.tubelet, -1, tokens.shape[-1]
        )

    def _pool(self, tokens: Float[Tensor, "B S P C"], real: Sequence[int], final: bool) -> Float[Tensor, "_ C"]:
        """Average tokens over space, and over time if the config says so. In fp32: half precision is too coarse for means."""
        config, encoder = self.config, self.encoder
        steps = tokens.mean(dim=2)
        vectors = torch.cat(
            [
                values[:count] if config.pooling == "tubelet" else values[:count].mean(dim=0, keepdim=True)
                # Tubelets after `count` hold only repeated frames that the config does not keep.
                for values, count in zip(steps, real, strict=True)
            ]
        )
        return encoder.fc_norm(vectors).float() if final and config.norm == "fc_norm" else vectors

    def pictures(self, frames: UInt8[np.ndarray, "T _ _ 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        unit = self.config.picture.model_copy(update={"normalisation": "unit"})
        return (resize_frames(frames, unit) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def features_with_maps(
        self, frames: UInt8[np.ndarray, "T H W 3"], noise: Noise
    ) -> tuple[WindowFeatures, dict[str, dict[str, Float32[np.ndarray, "R h w C"]]]]:
        kept: dict[str, Tensor] = {}
        self._maps = kept
        try:
            features = self.features([frames], [noise])
        finally:
            self._maps = None
        side, maps = self.config.picture.size // self.encoder.sizes.patch, {}
        for cell, tokens in kept.items():
            steps = tokens[0, : self._count_tubelets(frames)]
            steps = steps.mean(dim=0, keepdim=True) if self.config.pooling == "window" else steps
            maps[cell] = steps.reshape(len(steps), side, side, -1).cpu().numpy()
        return features, {self.config.name: maps}
