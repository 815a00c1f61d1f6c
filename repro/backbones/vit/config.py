"""What the config of a video vision transformer contains, and how its publisher's files are laid out. Imports no torch.

The release documents neither checkpoint nor clip length, stride, resolution, layer or pooling of its baselines
(docs/deviations.md 8), so every choice is a key here, and each default is ours.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from repro.backbones.config import Axes, BackboneConfig, Cell, Checkpoint, FrameSampling
from repro.core.config import Config, Positive


class EncoderSizes(Config):
    """Sizes of an encoder. A checkpoint with other sizes than its config's is refused."""

    width: Positive
    depth: Positive
    """Transformer blocks."""
    patch: Positive
    """Height and width of a patch in pixels."""
    tubelet: Positive
    """Frames per token."""
    mlp: Positive
    """Width of a block's hidden layer."""


class PictureConfig(Config):
    """From a frame to the encoder's input: bilinear, without antialiasing, as in the publishers' loaders."""

    fit: Literal["crop", "stretch"] = "crop"
    """crop: resize the short side to `short_side`, then crop the centre; stretch: resize the complete frame to a square."""
    short_side: Positive | None = None
    """Only with fit: crop."""
    size: Positive = 224
    normalisation: Literal["imagenet", "unit"] = "imagenet"
    """imagenet: subtract its mean and divide by its standard deviation; unit: leave pixels in [0, 1]."""

    @model_validator(mode="after")
    def _check_crop(self) -> "PictureConfig":
        # Not ignored: with another fit the key would have no effect, and the config would describe what is not done.
        if self.fit == "stretch" and self.short_side is not None:
            raise ValueError(
                f"picture.fit stretch has no use for picture.short_side {self.short_side}: "
                "add --set picture.short_side=null"
            )
        if self.fit == "crop" and self.short_side is None:
            raise ValueError(
                f"picture.fit crop needs picture.short_side, the pixels that the short side is resized to: "
                f"add --set picture.short_side={self.size} (or more)"
            )
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side {self.short_side} is below size {self.size}")
        return self


@dataclass(frozen=True, slots=True)
class Layout:
    """How a publisher's files hold an encoder."""

    preferred: str
    """Which encoder to read if a file has several."""
    known_others: tuple[str, ...]
    """What else such a file may hold, by the first part of the tensors' names; anything else is refused."""
    attention: tuple[str, ...]
    """Tensors of a block's attention."""
    table: bool
    """Whether the table of positions is a tensor of the file."""


class VitConfig(BackboneConfig):
    """What the families vjepa and videomaev2 share."""

    checkpoint: Checkpoint
    encoder: EncoderSizes | None = None
    """None: use the sizes that the checkpoint has."""
    num_heads: Positive
    """Cannot be read off the checkpoint: no tensor's shape depends on it."""
    stage: Literal["pretrained", "finetuned"] = "pretrained"
    """A pre-trained encoder ends in a LayerNorm of its tokens, a fine-tuned one in a LayerNorm of their mean."""
    # Both publishers trained on clips of 16 frames.
    frames: FrameSampling = FrameSampling(window=16)
    picture: PictureConfig = PictureConfig(short_side=256)
    norm: Literal["encoder", "fc_norm"] = "encoder"
    """Only for the cell `final`. encoder: normalise each token, then take the mean; fc_norm: take the mean, then normalise
    it, with the weights of a fine-tuned encoder; without weights for a pre-trained one, which has none."""
    pooling: Literal["tubelet", "window"] = "tubelet"
    """tubelet: mean over space, one vector per tubelet; window: mean over space and time, one vector per window."""
    # Left out of dumps if False, so that it does not enter the content keys of features made before the key existed.
    keep_padded_tubelets: bool = Field(default=False, exclude_if=lambda keep: keep is False)
    """Whether tubelets of a short window that hold only its repeated last frame count: in the mean with pooling: window, as
    vectors of their own with pooling: tubelet."""
    table_frames: Positive = 16
    """Frames that the checkpoint's table of positions was trained for; it is interpolated for other clip lengths."""
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    """What was published ran in fp32 as far as is known, hence the default."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "VitConfig":
        if self.stage == "finetuned" and self.norm == "encoder":
            raise ValueError("a fine-tuned encoder has no norm of its tokens: set norm: fc_norm")
        if self.encoder is not None:
            for name, length, step in (
                ("frames.window", self.frames.window, self.encoder.tubelet),
                ("picture.size", self.picture.size, self.encoder.patch),
            ):
                if length % step:
                    raise ValueError(f"{name} {length} is not a multiple of {step}")
        return self

    def axes(self) -> Axes:
        depth = self.encoder.depth if self.encoder else None
        return Axes(layers=depth, final=True, usual=Cell(layer="final"), words="transformer blocks")

    def channels(self, cell: Cell) -> int | None:
        return self.encoder.width if self.encoder else None

    def vectors(self, sampled: int) -> int:
        windows, hop = self.frames.windows(sampled), self.frames.hop
        if self.pooling == "window" or windows == 0:
            return windows
        # Every published encoder of the two families has tubelets of 2.
        tubelet = self.encoder.tubelet if self.encoder else 2
        if self.keep_padded_tubelets:
            return windows * (self.frames.window // tubelet)
        # All windows but the last are full; the last one has a vector for each tubelet that holds a real frame.
        last = self.frames.frames_in_windows(sampled) - (windows - 1) * hop
        return (windows - 1) * (self.frames.window // tubelet) + -(-last // tubelet)


class VjepaConfig(VitConfig):
    family: Literal["vjepa"]
    stage: Literal["pretrained"] = "pretrained"


class Videomaev2Config(VitConfig):
    family: Literal["videomaev2"]
