"""What the config of a Stable Video Diffusion says. Imports no torch."""

from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from repro.backbones.config import Axes, BackboneConfig, Cell, Checkpoint, Positive, Precision
from repro.config import Config

SVD_LAYERS = 13
"""Layers 1 to 12 are the UNet's input blocks, 13 its middle block."""
SVD_GRID = 64
"""Pixels a side must be a multiple of: the VAE takes 8 of them to one, and the UNet halves three times."""


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
    source: Literal["image", "none"] = "image"
    """none: image embedding and condition latent are zeros, the release's `no_cond`; the numbers stay."""
    fps_id: int = 6
    motion_bucket_id: int = 127
    noise_augmentation: Annotated[float, Field(ge=0)] = 0.02


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
            usual=Cell(timestep=min(20, self.schedule.steps - 1), layer=9),
            words="12 input blocks and the middle block",
        )

    def channels(self, cell: Cell) -> int:
        assert isinstance(cell.layer, int)
        return self.architecture.unet.channels * (1 if cell.layer <= 4 else 2 if cell.layer <= 7 else 4)

    def resolved_implementation(self) -> str:
        from repro.backbones.svd import networks

        return networks.resolve(self.implementation)

    def likely_implementation(self) -> str:
        if self.implementation == "auto":
            return "sgm" if find_spec("sgm") else "diffusers"
        return self.implementation
