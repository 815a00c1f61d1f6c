"""Sizes of Stable Video Diffusion's networks, and how the UNet's layers are numbered. Imports no torch."""

from repro.backbones.config import Layer, Positive
from repro.core.config import Config
from repro.core.errors import UsageError

SVD_LAYERS = 13
"""Layers 1 to 12 are the UNet's input blocks, 13 its middle block."""
SVD_UPS = 12
"""up_1 to up_12 are the UNet's output blocks, after the middle block."""
SVD_CELLS: tuple[Layer, ...] = (*range(1, SVD_LAYERS + 1), *(f"up_{n}" for n in range(1, SVD_UPS + 1)))
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
SVD_GRID = 64
"""Heights and widths must be multiples of it: the VAE halves three times, and the UNet another three."""
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
    if layer not in SVD_CELLS:
        raise UsageError(
            f"layer {layer} does not exist: layers 1 to {SVD_LAYERS - 1} are the input blocks, {SVD_LAYERS} the middle block, "
            f"up_1 to up_{SVD_UPS} the output blocks"
        )
    return SVD_CELLS.index(layer) + 1


def layer_width(layer: Layer, unet: SvdUnet) -> int:
    """Return the number of channels of a layer's output."""
    return unet.channels * _WIDTHS[layer_depth(layer) - 1]
