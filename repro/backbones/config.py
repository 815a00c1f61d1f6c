"""What a backbone config may say. Imports no torch: `repro list` reads these."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from repro import shipped
from repro.assets import RemoteFile
from repro.config import Config, load_config
from repro.errors import UsageError

Positive = Annotated[int, Field(ge=1)]


class Cell(Config):
    """Which of a backbone's features a readout reads."""

    timestep: Annotated[int, Field(ge=0)] | None = None
    """Index into the noise schedule, 0 the noisiest; None for a backbone without one."""
    layer: Positive | Literal["final"]

    @property
    def name(self) -> str:
        layer = self.layer if isinstance(self.layer, str) else f"layer{self.layer:02d}"
        return layer if self.timestep is None else f"t{self.timestep:02d}_{layer}"


class Checkpoint(RemoteFile):
    """The weights: a file under the workspace's checkpoints/, which `repro fetch` brings."""

    source: str
    """Public address of the page."""
    licence: str
    licence_url: str | None = None
    """Where its text stands, or what its owners say of it."""
    assumed: bool = False
    """True where the release does not say which checkpoint was used."""
    drawn_from_seed: int | None = None
    """The project draws these weights itself, and fetches none: they recognise nothing."""

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> "Checkpoint":
        if self.is_remote == (self.drawn_from_seed is not None):
            raise ValueError("a checkpoint has one of hub, url and drawn_from_seed")
        if self.is_remote and self.licence_url is None:
            raise ValueError("what is fetched needs a licence_url")
        return self


class Frames(Config):
    """From a clip to windows (generate_svd_maps.py with the flags of scripts/extract_*)."""

    stride: Positive = 4
    """Every stride-th native frame; frame rate plays no part."""
    max_seconds: Annotated[float, Field(gt=0)] = 180.0
    window: Positive = 25
    """Sampled frames a window holds; windows do not overlap."""


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


Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""Of computing (repro/backbones/precision.py); fp16 is how the release ran."""


class SvdConfig(Config):
    """Stable Video Diffusion (reference: the release's configs and generate_svd_maps.py)."""

    family: Literal["svd"]
    title: str
    version: Positive
    """Raised whenever the same config would give other features; part of every content key."""
    checkpoint: Checkpoint
    architecture: SvdArchitecture
    temporal_mixing: Literal["learned", "off"] = "learned"
    """off: every temporal branch is weighted 0, the release's "SDv2" (docs/deviations.md 4)."""
    frames: Frames = Frames()
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


class MeanColourConfig(Config):
    """Mean red, green and blue of each frame: what a readout can do without seeing any action."""

    family: Literal["mean_colour"]
    title: str
    version: Positive
    width: Positive
    """The three values are spread over this many channels by a fixed linear map, as the readout has no input layer."""
    frames: Frames = Frames()
    noise_seed: Annotated[int, Field(ge=0)] = 23


class DeclaredConfig(Config):
    """A backbone whose extraction is not in this version: its rows are listed and cannot be run."""

    family: Literal["vjepa", "videomaev2"]
    title: str
    version: Positive
    checkpoint: Checkpoint


BackboneConfig = SvdConfig | MeanColourConfig | DeclaredConfig


class _Family(Config):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    family: Literal["svd", "mean_colour", "vjepa", "videomaev2"]


_MODELS: dict[str, type[SvdConfig] | type[MeanColourConfig] | type[DeclaredConfig]] = {
    "svd": SvdConfig,
    "mean_colour": MeanColourConfig,
    "vjepa": DeclaredConfig,
    "videomaev2": DeclaredConfig,
}


def backbone_names() -> list[str]:
    return sorted(path.stem for path in (shipped.configs() / "backbones").glob("*.yaml"))


def load_backbone(name: str, changes: Mapping[str, str] | None = None) -> BackboneConfig:
    """Read configs/backbones/<name>.yaml, with `changes` of its values by dotted key.

    Raises:
        UsageError: unknown name, or a config that is not valid.
    """
    if name not in backbone_names():
        raise UsageError(f"unknown backbone '{name}': configs/backbones has {', '.join(backbone_names())}")
    path = shipped.configs() / "backbones" / f"{name}.yaml"
    family = load_config(_Family, path).family
    return load_config(_MODELS[family], path, changes)
