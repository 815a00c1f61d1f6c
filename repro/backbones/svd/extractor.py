"""Stable Video Diffusion as an Extractor: windows in, cells out, for one or more backbones that share a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Beside, Cell, Frames
from repro.backbones.devices import move
from repro.backbones.noise import Noise, Stream
from repro.backbones.svd import networks, text_files
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.model import Place, Request, SvdModel, needs, refuse_unfit
from repro.backbones.svd.networks import Implementation
from repro.backbones.svd.pictures import padded
from repro.core.errors import UsageError


class SvdExtractor:
    """Frozen networks asked for some (timestep, layer) cells.

    Args:
        asks: by backbone's name its config and cells; configs may differ in title, version and temporal mixing alone.
        beside: the texts and the text tower's files, where texts condition.

    Raises:
        UsageError: a cell without a timestep, or with one or a layer that does not exist.
        MissingError: the checkpoint is not the one the config describes, or the device's memory does not hold it.
    """

    def __init__(
        self,
        asks: Mapping[str, tuple[SvdConfig, Sequence[Cell]]],
        checkpoint: Path,
        implementation: Implementation,
        device: str = "cpu",
        batch: int | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.config = next(iter(asks.values()))[0]
        self.names = {name: _places(config, cells) for name, (config, cells) in asks.items()}
        requests = {
            name: Request(config.temporal_mixing == "learned", frozenset(self.names[name]))
            for name, (config, _) in asks.items()
        }
        text = None
        if self.config.conditioning.texts and beside is not None:
            from repro.backbones.svd.text import text_embeddings

            weights, merges = text_files.files(beside)
            texts = beside.identity["text"]["texts"]
            text = text_embeddings(text_files.load_text_encoder().tower, weights, merges, texts)
        refuse_unfit(self.config, text)
        loaded = networks.load(
            implementation, checkpoint, self.config.architecture, needs(self.config, requests.values())
        )
        move(loaded, device)
        self.model = SvdModel(self.config, loaded, requests, device, batch, text)

    @property
    def backbones(self) -> Sequence[str]:
        return tuple(self.names)

    @property
    def frames(self) -> Frames:
        return self.config.frames

    @property
    def noise_seed(self) -> int:
        return self.config.noise_seed

    @property
    def at_once(self) -> int:
        return 1

    @property
    def batch(self) -> str:
        window = "1 window with its padding" if self.model.mixes else "1 window's own frames"
        return f"{window}, {self.model.batch} frames in the VAE encoders"

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return self.model.noise_shapes(self.frames.window if self.model.mixes else real)

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        ((frames,), (noise,)) = windows, noises
        means = self.model.window(padded(frames, self.frames.window), len(frames), noise)
        return {
            name: {cell: means[name][place][: len(frames)].cpu().numpy() for place, cell in places.items()}
            for name, places in self.names.items()
        }


def _places(config: SvdConfig, cells: Sequence[Cell]) -> dict[Place, str]:
    places = {}
    for cell in cells:
        if cell.timestep is None or cell.layer == "final":
            raise UsageError(
                f"features {cell.name}: {config.title} needs a timestep and a layer: a number, or up_1 to up_12"
            )
        places[(cell.timestep, cell.layer)] = cell.name
    return places
