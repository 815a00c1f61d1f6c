"""What the config of a Stable Video Diffusion says. Imports no torch."""

from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from repro.backbones.config import Axes, BackboneConfig, Beside, Cell, Checkpoint, Layer, Positive, Precision
from repro.backbones.svd import text_files
from repro.core.config import Config
from repro.core.errors import UsageError
from repro.core.workspace import Workspace

SVD_LAYERS = 13
"""Layers 1 to 12 are the UNet's input blocks, 13 its middle block."""
SVD_UPS = 12
"""up_1 to up_12 are the UNet's output blocks, behind the middle block."""
SVD_CELLS: tuple[Layer, ...] = (*range(1, SVD_LAYERS + 1), *(f"up_{n}" for n in range(1, SVD_UPS + 1)))
"""Every layer, in the order in which the UNet computes them."""
MULTIPLIERS = (1, 2, 4, 4)
"""Width of the four levels of the UNet and of the VAE encoders, in units of the first."""
_WIDTHS = (
    # conv_in; two resnets a level and, but for the last, what leads to the next level; the middle.
    MULTIPLIERS[0], *(m for level, m in enumerate(MULTIPLIERS) for _ in range(2 if level == 3 else 3)), MULTIPLIERS[-1],
    # Back through the levels, three resnets each; what leads to the next one is part of the third.
    *(m for m in reversed(MULTIPLIERS) for _ in range(3)),
)  # fmt: skip
"""Of every layer, in units of the first level's."""
SVD_GRID = 64
"""Pixels a side must be a multiple of: the VAE takes 8 of them to one, and the UNet halves three times."""


def depth(layer: Layer) -> int:
    """How many layers are computed to have `layer`: 1 for layer 1, 25 for up_12.

    Raises:
        UsageError: there is no such layer.
    """
    if layer not in SVD_CELLS:
        raise UsageError(
            f"layer {layer} does not exist: layers 1 to {SVD_LAYERS - 1} are the input blocks, {SVD_LAYERS} the middle block, "
            f"up_1 to up_{SVD_UPS} the output blocks"
        )
    return SVD_CELLS.index(layer) + 1


def _on_grid(side: int) -> int:
    if side % SVD_GRID:
        raise ValueError(f"not a multiple of {SVD_GRID}")
    return side


Side = Annotated[int, Field(ge=SVD_GRID), AfterValidator(_on_grid)]


class SvdUnet(Config):
    channels: Positive
    """Width of the first level; the four levels are 1, 2, 4 and 4 times as wide."""
    head_channels: Positive
    """Channels of an attention head, the same at every level."""
    context_dim: Positive
    """Width of the cross-attention's context, which is the image embedding."""


class SvdImageTower(Config):
    """OpenCLIP's vision transformer."""

    width: Positive
    layers: Positive
    heads: Positive
    patch: Positive
    image: Positive
    embed_dim: Positive


class SvdArchitecture(Config):
    unet: SvdUnet
    vae_channels: Positive
    """Width of the first level of both VAE encoders; the four levels are 1, 2, 4 and 4 times as wide."""
    image_tower: SvdImageTower


class SvdSchedule(Config):
    """EDM noise levels (Karras et al. 2022, eq. 5); timestep 0 is the noisiest."""

    steps: Positive
    sigma_max: Annotated[float, Field(gt=0)] = 700.0
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    rho: Annotated[float, Field(gt=0)] = 7.0


class SvdConditioning(Config):
    source: Literal["image", "none", "actions", "empty_text"] = "image"
    """none: image embedding and condition latent are zeros, the release's `no_cond`; the numbers stay.
    actions, empty_text: text embeddings stand where the image embedding does, of every class name or of "" (the release's
    `actions` and `empty_str`, docs/deviations.md 29); the condition latent stays."""
    actions_of: str | None = Field(default=None, exclude_if=lambda split: split is None)
    """<data set>/<split> whose class names they are; not said of the others, whose content keys know nothing of it."""
    fps_id: int = 6
    motion_bucket_id: int = 127
    noise_augmentation: Annotated[float, Field(ge=0)] = 0.02

    @model_validator(mode="after")
    def _actions_are_somebodys(self) -> "SvdConditioning":
        if (self.source == "actions") != (self.actions_of is not None):
            raise ValueError("actions_of belongs to source: actions, and to it alone")
        return self

    @property
    def texts(self) -> bool:
        return self.source in ("actions", "empty_text")


class SvdConfig(BackboneConfig):
    """Stable Video Diffusion (reference: the release's configs and generate_svd_maps.py)."""

    beside_features: ClassVar[frozenset[str]] = BackboneConfig.beside_features | {"implementation"}

    family: Literal["svd"]
    checkpoint: Checkpoint
    architecture: SvdArchitecture
    temporal_mixing: Literal["learned", "off"] = "learned"
    """off: every temporal branch is weighted 0, the release's "SDv2" (docs/deviations.md 4)."""
    size: tuple[Side, Side]
    """Height and width frames are resized to, whatever their aspect ratio."""
    schedule: SvdSchedule
    conditioning: SvdConditioning = SvdConditioning()
    latent_noise: bool = False
    """Add noise of the timestep's level to the latent. Off, as released (docs/deviations.md 3)."""
    noise_seed: Annotated[int, Field(ge=0)] = 23
    implementation: Literal["auto", "sgm", "diffusers"] = "auto"
    """Whose modules compute; auto: sgm where it can be imported."""
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _windows_do_not_overlap(self) -> "SvdConfig":
        if self.frames.overlap:
            raise ValueError("frames.overlap: one vector a frame: windows of SVD do not overlap")
        return self

    def axes(self) -> Axes:
        return Axes(
            timesteps=self.schedule.steps,
            layers=SVD_LAYERS,
            ups=SVD_UPS,
            usual=Cell(timestep=min(20, self.schedule.steps - 1), layer=9),
            words="12 input blocks and the middle block",
        )

    def channels(self, cell: Cell) -> int:
        return self.architecture.unet.channels * _WIDTHS[depth(cell.layer) - 1]

    def beside(self, workspace: Workspace, to_compute: bool) -> Beside:
        if not self.conditioning.texts:
            return Beside()
        return text_files.texts_and_files(self.conditioning.actions_of, workspace, to_compute)

    def absent_beside(self, workspace: Workspace) -> dict[str, str]:
        problem = text_files.absent(workspace) if self.conditioning.texts else ""
        return {text_files.NAME: problem} if problem else {}

    def resolved_implementation(self) -> str:
        from repro.backbones.svd import networks

        return networks.resolve(self.implementation)

    def likely_implementation(self) -> str:
        if self.implementation == "auto":
            return "sgm" if find_spec("sgm") else "diffusers"
        return self.implementation
