"""Sizes of Stable Video Diffusion's networks, how the UNet's layers are numbered, and what a backbone's config contains.

Imports no torch.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from repro.backbones.config import Axes, BackboneConfig, Cell, Checkpoint, Layer, OtherInputs
from repro.backbones.svd import text_files
from repro.core.config import Config, Positive
from repro.core.errors import UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import SplitName

SVD_LAYERS = 13
"""Layers 1 to 12 are the UNet's input blocks, 13 its middle block."""
SVD_UPS = 12
"""up_1 to up_12 are the UNet's output blocks, after the middle block."""
SVD_LAYER_ORDER: tuple[Layer, ...] = (*range(1, SVD_LAYERS + 1), *(f"up_{n}" for n in range(1, SVD_UPS + 1)))
"""Every layer, in the order in which the UNet computes them."""
MULTIPLIERS = (1, 2, 4, 4)
"""Width of the four levels of the UNet and of the VAE encoders, in units of the first."""
_WIDTHS = (
    # conv_in; per level two resnets and, except at the last level, the downsampler; the middle block.
    MULTIPLIERS[0], *(m for level, m in enumerate(MULTIPLIERS) for _ in range(2 if level == 3 else 3)), MULTIPLIERS[-1],
    # Back up through the levels, three resnets each; an upsampler belongs to the layer of the third resnet.
    *(m for m in reversed(MULTIPLIERS) for _ in range(3)),
)  # fmt: skip
"""Width of every layer, in units of the first level's."""
SIDE_MULTIPLE = 64
"""Heights and widths must be multiples of this number: the VAE halves three times, and the UNet another three."""
EMBEDDED = 256
"""Width of the sinusoids of each of the vector's numbers (fps id, motion bucket id, noise augmentation)."""


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
    """Height and width of its input."""
    embed_dim: Positive


class SvdArchitecture(Config):
    unet: SvdUnet
    vae_channels: Positive
    """Width of the first level of both VAE encoders; the four levels are 1, 2, 4 and 4 times as wide."""
    image_tower: SvdImageTower


def layer_depth(layer: Layer) -> int:
    """Return how many layers must be computed to get `layer`: 1 for layer 1, 25 for up_12.

    Raises:
        UsageError: there is no such layer.
    """
    # Layer n up to 12 is input_blocks[n - 1] of sgm's UNet, up_n is output_blocks[n - 1].
    if layer not in SVD_LAYER_ORDER:
        raise UsageError(
            f"layer {layer} does not exist: layers 1 to {SVD_LAYERS - 1} are the input blocks, {SVD_LAYERS} the middle block, "
            f"up_1 to up_{SVD_UPS} the output blocks"
        )
    return SVD_LAYER_ORDER.index(layer) + 1


def layer_width(layer: Layer, unet: SvdUnet) -> int:
    """Return the number of channels of a layer's output."""
    return unet.channels * _WIDTHS[layer_depth(layer) - 1]


def _check_side(side: int) -> int:
    if side % SIDE_MULTIPLE:
        raise ValueError(f"not a multiple of {SIDE_MULTIPLE}")
    return side


Side = Annotated[int, Field(ge=SIDE_MULTIPLE), AfterValidator(_check_side)]


class SvdSchedule(Config):
    """EDM noise levels (Karras et al. 2022, eq. 5); timestep 0 is the noisiest."""

    steps: Positive
    # The published config's sigma_max of 700 is that of SVD; Karras et al. use 80 for pixels.
    sigma_max: Annotated[float, Field(gt=0)] = 700.0
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    rho: Annotated[float, Field(gt=0)] = 7.0


class SvdConditioning(Config):
    source: Literal["image", "none", "actions", "empty_text"] = "image"
    """none: image embedding and condition latent are zeros, the release's `no_cond`; the vector's numbers stay.
    actions, empty_text: text embeddings replace the image embedding, of every class name or of "" (the release's `actions`
    and `empty_str`, docs/deviations.md 29); the condition latent stays."""
    # Left out of dumps if None, so that it does not enter the content keys of features made before the key existed.
    actions_of: SplitName | None = Field(default=None, exclude_if=lambda split: split is None)
    """<data set>/<split> whose class names the texts are."""
    # Defaults of sgm's scripts/sampling/simple_video_sample.py, like the noise seed 23 below. 6 means 7 frames per second.
    fps_id: int = 6
    motion_bucket_id: int = 127
    noise_augmentation: Annotated[float, Field(ge=0)] = 0.02

    @model_validator(mode="after")
    def _check_actions_of(self) -> "SvdConditioning":
        if (self.source == "actions") != (self.actions_of is not None):
            raise ValueError("actions_of belongs to source: actions, and to no other source")
        return self

    @property
    def texts(self) -> bool:
        """Whether texts take the image embedding's place."""
        return self.source in ("actions", "empty_text")


class SvdConfig(BackboneConfig):
    """Stable Video Diffusion (source: the release's configs and generate_svd_maps.py)."""

    not_in_identity: ClassVar[frozenset[str]] = BackboneConfig.not_in_identity | {"implementation"}

    family: Literal["svd"]
    checkpoint: Checkpoint
    architecture: SvdArchitecture
    temporal_mixing: Literal["learned", "off"] = "learned"
    """off: every temporal branch has weight 0, the release's "SDv2" (docs/deviations.md 4)."""
    size: tuple[Side, Side]
    """Height and width that frames are resized to, whatever their aspect ratio."""
    schedule: SvdSchedule
    conditioning: SvdConditioning = SvdConditioning()
    latent_noise: bool = False
    """Add noise of the timestep's level to the latent. Off, as released (docs/deviations.md 3)."""
    noise_seed: Annotated[int, Field(ge=0)] = 23
    implementation: Literal["auto", "sgm", "diffusers"] = "auto"
    """Whose modules compute; auto: sgm if it can be imported."""
    precision: Literal["fp32", "tf32", "published", "fast", "bf16"] = "fp32"
    """published: as the release ran on a GPU (docs/deviations.md 14); fast: with products of the VAE in fp16 as well."""

    @model_validator(mode="after")
    def _check_frames(self) -> "SvdConfig":
        if self.frames.overlap:
            raise ValueError("frames.overlap: one vector per frame: windows of SVD do not overlap")
        return self

    def describe_arithmetic(self) -> dict[str, int]:
        # Version 2: the VAE's attention in fp16 too. The other precisions have not changed.
        return {"fast_version": 2} if self.precision == "fast" else {}

    def axes(self) -> Axes:
        return Axes(
            timesteps=self.schedule.steps,
            layers=SVD_LAYERS,
            ups=SVD_UPS,
            # The cell that the release's rows read; a shorter schedule ends before timestep 20.
            usual=Cell(timestep=min(20, self.schedule.steps - 1), layer=9),
            words="12 input blocks and the middle block",
        )

    def channels(self, cell: Cell) -> int:
        return layer_width(cell.layer, self.architecture.unet)

    def other_inputs(self, workspace: Workspace, to_compute: bool) -> OtherInputs:
        if not self.conditioning.texts:
            return OtherInputs()
        return text_files.find_texts_and_files(self.conditioning.actions_of, workspace, to_compute)

    def missing_inputs(self, workspace: Workspace) -> dict[str, str]:
        problem = text_files.explain_missing_files(workspace) if self.conditioning.texts else ""
        return {text_files.TEXT_ENCODER: problem} if problem else {}
