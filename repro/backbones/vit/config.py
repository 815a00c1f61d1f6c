"""What the config of a video vision transformer says. Imports no torch.

The release says neither checkpoint nor clip length, stride, resolution, layer or pooling of its baselines
(docs/deviations.md 8), so every choice is a key here, and each default is ours.
"""

from typing import Literal

from pydantic import model_validator

from repro.backbones.config import Axes, BackboneConfig, Cell, Checkpoint, Frames, Positive, Precision
from repro.core.config import Config


class Encoder(Config):
    """Sizes the checkpoint must have; another size is refused."""

    width: Positive
    depth: Positive
    """Transformer blocks."""
    patch: Positive
    """Pixels a side."""
    tubelet: Positive
    """Frames a token spans."""
    mlp: Positive
    """Width of a block's hidden layer."""


class Picture(Config):
    """From a frame to the encoder's input (bilinear, without antialiasing, as the owners' loaders do it)."""

    fit: Literal["crop", "stretch"] = "crop"
    """crop: the short side resized to `short_side`, then a centre crop; stretch: the whole frame, whatever its shape."""
    short_side: Positive | None = None
    """Where `fit` is crop."""
    size: Positive = 224
    normalisation: Literal["imagenet", "unit"] = "imagenet"
    """imagenet: by its mean and standard deviation; unit: pixels in [0, 1], no more."""

    @model_validator(mode="after")
    def _can_be_cropped(self) -> "Picture":
        if (self.fit == "crop") != (self.short_side is not None):
            raise ValueError("short_side belongs to fit: crop, and to it alone")
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side {self.short_side} is below size {self.size}")
        return self


class VitConfig(BackboneConfig):
    checkpoint: Checkpoint
    encoder: Encoder | None = None
    """None: read off the weights, whatever they are."""
    num_heads: Positive
    """No tensor's shape says it."""
    stage: Literal["pretrained", "finetuned"] = "pretrained"
    """Of training: a pre-trained encoder ends in a LayerNorm of its tokens, a fine-tuned one in one of their mean."""
    frames: Frames = Frames(window=16)
    picture: Picture = Picture(short_side=256)
    norm: Literal["encoder", "fc_norm"] = "encoder"
    """encoder: each token normalised, then the mean; fc_norm: the mean, then normalised: by the weights of a fine-tuned
    encoder, without any for a pre-trained one, which has none for it. For the final cell alone."""
    pooling: Literal["tubelet", "window"] = "tubelet"
    """Mean over space: one vector a tubelet; or over time as well: one a window."""
    table_frames: Positive = 16
    """Frames that a table of positions in the checkpoint is for; another clip length interpolates it."""
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _norm_is_there(self) -> "VitConfig":
        if self.stage == "finetuned" and self.norm == "encoder":
            raise ValueError("a fine-tuned encoder has no norm of its tokens: norm: fc_norm")
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
        tubelet = self.encoder.tubelet if self.encoder else 2
        return (windows - 1) * (self.frames.window // tubelet) + -(-(sampled - (windows - 1) * hop) // tubelet)
