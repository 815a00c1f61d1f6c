"""The interface between frozen backbones and the code that walks clips: windows of frames in, feature vectors out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, runtime_checkable

from typing_extensions import TypeVar

from repro.backbones.config import BackboneConfig, Cell, FrameSampling, OtherInputs
from repro.video.sampling import READER_VERSION

if TYPE_CHECKING:  # `repro list` imports this module, and needs no arrays
    import numpy as np
    import torch
    from jaxtyping import Float32, UInt8

ConfigT_co = TypeVar("ConfigT_co", bound=BackboneConfig, default=BackboneConfig, covariant=True)


Stream = Literal["augmentation", "posterior", "latent"]
"""Noise on the conditioning image, in sampling the VAE's posterior, and on the latent."""


WindowFeatures = dict[str, dict[str, "Float32[np.ndarray, '_ _']"]]
"""Feature vectors `[rows, C]` of one or more windows, by backbone and cell."""


@runtime_checkable
class Noise(Protocol):
    """A source of one window's noise (repro/backbones/noise.py)."""

    def sample(
        self, stream: Stream, shape: tuple[int, ...], device: "torch.device" = ...
    ) -> "Float32[torch.Tensor, '...']":
        """Return standard normals of `shape` on `device` [default: the CPU]."""
        ...


@runtime_checkable
class Extractor(Protocol):
    """One or more backbones that are computed together, as repro/features/extract.py uses them."""

    @property
    def backbones(self) -> Sequence[str]:
        """Names of the backbones whose features it computes."""
        ...

    @property
    def frames(self) -> FrameSampling:
        """How clips are sampled and cut into windows."""
        ...

    @property
    def at_once(self) -> int:
        """Maximal number of windows per call of `features`; may become smaller."""
        ...

    @property
    def batch(self) -> str:
        """How much is computed at once, and whether networks are compiled (describe_compiled), as text for the record."""
        ...

    @property
    def noise_seed(self) -> int:
        """Seed of the windows' noise (repro/backbones/noise.py)."""
        ...

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        """Return the shapes of the noise for a window with `real` frames, those that pad it not counted."""
        ...

    def features(self, windows: "Sequence[UInt8[np.ndarray, '_ H W 3']]", noises: Sequence[Noise]) -> "WindowFeatures":
        """Compute the feature vectors of consecutive windows of one clip.

        Args:
            windows: up to `at_once` windows. The clip's last window may be shorter; padding it is the backbone's business.
            noises: the noise of each window.

        Returns:
            By backbone and cell name, the vectors of all windows in order, `[rows, C]`.
        """
        ...


@runtime_checkable
class WatchesOverflow(Protocol):
    """An optional interface of an extractor that can report values that overflow in a reduced precision."""

    @property
    def recomputed_frames(self) -> int:
        """Pictures that overflowed and were computed again in a wider type, since the extractor was opened."""
        ...

    def explain_nonfinite(self, windows: "Sequence[UInt8[np.ndarray, '_ H W 3']]", noises: Sequence[Noise]) -> str:
        """Compute windows again and return which network gave NaN or infinity; an empty string if none did."""
        ...


@runtime_checkable
class Launches(Protocol):
    """An optional interface of an extractor that need not be waited for: a GPU gets the next windows before these are read."""

    @property
    def mixes_clips(self) -> bool:
        """Whether windows of several clips may be computed together."""
        ...

    def launch(
        self, windows: "Sequence[UInt8[np.ndarray, '_ _ _ 3']]", noises: Sequence[Noise]
    ) -> "Callable[[], list[WindowFeatures]]":
        """Start what `features` does; returns a function that waits for it and returns each window's features.

        Windows of several clips may differ in height and width.
        """
        ...


@runtime_checkable
class HasMaps(Protocol):
    """An optional interface of an extractor whose features are means of spatial maps."""

    def pictures(self, frames: "UInt8[np.ndarray, 'T _ _ 3']") -> "UInt8[np.ndarray, 'T H W 3']":
        """Return frames resized and cropped as the networks get them, not normalised."""
        ...

    def features_with_maps(
        self, frames: "UInt8[np.ndarray, 'T H W 3']", noise: Noise
    ) -> "tuple[WindowFeatures, dict[str, dict[str, Float32[np.ndarray, 'R h w C']]]]":
        """Compute the features of one window, and the maps whose means over positions `h w` they are.

        Returns:
            Features as of `features`, and maps, by backbone and cell name. Where the features are normalised means
            (norm: fc_norm), the maps are of before the norm.
        """
        ...


@dataclass(frozen=True, slots=True)
class Backbone(Generic[ConfigT_co]):
    """A backbone as this machine would compute it; nothing of it is loaded."""

    config: ConfigT_co
    checkpoint: Path | None
    """None if the backbone has no weights, as mean_colour."""
    checkpoint_sha256: str | None
    implementation: str | None
    """Whose modules compute, such as sgm or diffusers; None if there is only one way."""
    other_inputs: OtherInputs = field(default_factory=OtherInputs)
    """What the features depend on besides video and checkpoint: the texts that SVD is conditioned on."""

    @property
    def name(self) -> str:
        return self.config.name

    def identity(self) -> dict[str, Any]:
        """Return everything that its features depend on besides the video and the cell. Content keys are hashes of it."""
        identity = self.config.model_dump(mode="json", exclude=set(self.config.not_in_identity))
        identity["reader_version"] = READER_VERSION
        identity |= self.config.describe_arithmetic()
        # sgm and diffusers agree within rounding, not bit for bit, so each has its own key.
        if self.checkpoint is not None:
            identity |= {"checkpoint_sha256": self.checkpoint_sha256, "implementation": self.implementation}
        return identity | dict(self.other_inputs.identity)


Requests = Sequence[tuple[Backbone[ConfigT_co], Sequence[Cell]]]
"""Backbones, each with the cells to compute."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how features are computed. Changes features by nothing but rounding."""

    device: str = "cpu"
    batch: int | None = None
    """How much the largest networks take at once: frames for SVD, windows for the others; None: limited by a fixed bound on
    memory."""
    workers: int = 1
    """Processes that decode."""
    allow_damaged: bool = False
    """Use what decodes of damaged clips, as the release does, instead of refusing them."""
    say: Callable[[str], None] = lambda line: None
    """Called with each note on a checkpoint, or on a batch that is halved for lack of memory."""
    profile: Path | None = None
    """Where a trace of the first windows computed is written, unless there is a file."""
    compile: bool | None = None
    """Compile the networks (backbones/compilation.py); None: for an extraction of many clips on a GPU."""
