"""Stable Video Diffusion as an Extractor: windows in, cells out, for one or more backbones that share a checkpoint."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from repro.backbones.compilation import choose_compilation, describe_compiled
from repro.backbones.config import Cell, FrameSampling
from repro.backbones.device import start_download
from repro.backbones.extractor import Execution, Noise, Requests, Stream, WindowFeatures
from repro.backbones.precision import explain_precision, move_to_device
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.implementations import IMPLEMENTATIONS, load_networks, load_text_embeddings
from repro.backbones.svd.model import Request, SvdModel, TimestepLayer, check_text, find_needs
from repro.backbones.svd.pictures import pad_window, to_pixels
from repro.core.errors import UsageError


def open_extractor(requests: Requests[SvdConfig], execution: Execution) -> "SvdExtractor":
    """Load the networks of backbones that share them, and say what the device computes otherwise than their precision says.

    Raises:
        UsageError, MissingError: as SvdExtractor.
    """
    precision = requests[0][0].config.precision
    note = explain_precision(precision, execution.device)
    if note:
        execution.say(note)
    compiled = choose_compilation(execution, precision)
    return SvdExtractor(requests, execution.device, execution.batch, execution.say, compiled=compiled)


class SvdExtractor:
    """Frozen networks that compute some (timestep, layer) cells.

    Args:
        requests: backbones with their cells; their configs may differ only in title, version and temporal mixing.
        batch: frames that the VAE encoders take at once; None: limited by a fixed bound on memory.
        say: called with a line when `batch` is halved for lack of memory; None: a lack of memory is an error.
        compiled: compile VAE encoders and UNet.

    Raises:
        UsageError: a cell has no timestep, or its timestep or layer does not exist.
        MissingError: the checkpoint is not the one the config describes, or does not fit into the device's memory.
    """

    mixes_clips = False
    """One window's frames fill a GPU."""

    def __init__(
        self,
        requests: Requests[SvdConfig],
        device: str = "cpu",
        batch: int | None = None,
        say: Callable[[str], None] | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        first = requests[0][0]
        assert first.checkpoint is not None
        self.config = first.config
        self.names = {backbone.name: _cells_by_place(backbone.config, cells) for backbone, cells in requests}
        by_name = {
            backbone.name: Request(backbone.config.temporal_mixing == "learned", frozenset(self.names[backbone.name]))
            for backbone, _ in requests
        }
        inputs = first.other_inputs
        # Backbones of one extractor have equal conditioning, so the first one's texts are everyone's.
        text = load_text_embeddings(inputs) if self.config.conditioning.texts and inputs.files else None
        # Before the networks are loaded, which takes far longer.
        check_text(self.config, text)
        implementation = next(name for name in IMPLEMENTATIONS if name == first.implementation)
        # Of all backbones together: what one of them does not read another may.
        needs = find_needs(self.config, by_name.values())
        networks = load_networks(implementation, first.checkpoint, self.config.architecture, needs)
        move_to_device(networks, device)
        self.model = SvdModel(self.config, networks, by_name, device, batch, text, say, compiled=compiled)

    @property
    def backbones(self) -> Sequence[str]:
        return tuple(self.names)

    @property
    def frames(self) -> FrameSampling:
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
        return f"{window}, {self.model.batch.size} frames in the VAE encoders{describe_compiled(self.model.programs)}"

    @property
    def recomputed_frames(self) -> int:
        return self.model.recomputed_frames

    def explain_nonfinite(self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]) -> str:
        ((frames,), (noise,)) = windows, noises
        return self.model.explain_nonfinite(pad_window(frames, self.frames.window), len(frames), noise)

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return self.model.noise_shapes(self.frames.window if self.model.mixes else real)

    def features(self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]) -> WindowFeatures:
        (features,) = self.launch(windows, noises)()
        return features

    def launch(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> Callable[[], list[WindowFeatures]]:
        # A single window: at_once is 1.
        ((frames,), (noise,)) = windows, noises
        padded, real = pad_window(frames, self.frames.window), len(frames)
        wait = start_download(self._by_cell(self.model.launch_window(padded, real, noise), real))

        def finish() -> list[WindowFeatures]:
            found = wait()
            if self.config.precision == "fast" and not all(np.isfinite(values).all() for values in found.values()):
                # launch_window marks an overflow with NaN. compute_window, which may wait for the device,
                # encodes those pictures again as published.
                found = start_download(self._by_cell(self.model.compute_window(padded, real, noise), real))()
            return [
                {name: {cell: found[name, cell] for cell in places.values()} for name, places in self.names.items()}
            ]

        return finish

    def _by_cell(self, means: Mapping[str, Mapping[TimestepLayer, Tensor]], real: int) -> dict[tuple[str, str], Tensor]:
        # Rows after the real frames are those of black padding.
        return {
            (name, cell): means[name][place][:real]
            for name, places in self.names.items()
            for place, cell in places.items()
        }

    def pictures(self, frames: UInt8[np.ndarray, "T _ _ 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        # The networks' pixels are from -1 to 1.
        pixels = (to_pixels(frames, self.config.size) + 1) * 127.5
        return pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def features_with_maps(
        self, frames: UInt8[np.ndarray, "T H W 3"], noise: Noise
    ) -> tuple[WindowFeatures, dict[str, dict[str, Float32[np.ndarray, "T h w C"]]]]:
        with self.model.keeping_maps() as kept:
            features = self.features([frames], [noise])
        maps = {
            name: {
                cell: kept[self.model.requests[name].mixing, place][: len(frames)].permute(0, 2, 3, 1).cpu().numpy()
                for place, cell in places.items()
            }
            for name, places in self.names.items()
        }
        return features, maps


def _cells_by_place(config: SvdConfig, cells: Sequence[Cell]) -> dict[TimestepLayer, str]:
    places = {}
    for cell in cells:
        if cell.timestep is None or cell.layer == "final":
            raise UsageError(
                f"features {cell.name}: {config.title} needs a timestep and a layer: a number, or up_1 to up_12"
            )
        places[(cell.timestep, cell.layer)] = cell.name
    return places
