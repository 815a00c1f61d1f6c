"""The interface to Stable Video Diffusion's networks, whichever implementation computes them.

with_diffusers.py: modules of diffusers and transformers, from PyPI.
with_sgm.py: the published modules, if the release's fork or Stability-AI/generative-models is installed, as in the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from repro.backbones.config import Layer
from repro.backbones.svd.config import layer_depth

Implementation = Literal["sgm", "diffusers"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Which parts are loaded; the rest of the checkpoint is not read."""

    last_layer: Layer
    """1 to 13 or up_1 to up_12; later layers of the UNet are not loaded."""
    mixing: bool = True
    """The temporal branches."""
    image: bool = True
    """The condition's VAE encoder."""
    tower: bool = True
    """The image tower."""
    complete: bool = False
    """The complete UNet, whatever the last layer; for comparisons with the published computation."""

    def __post_init__(self) -> None:
        layer_depth(self.last_layer)  # raises if there is no such layer


@runtime_checkable
class Networks(Protocol):
    """Frozen networks in fp32 and eval mode. `T` frames; each has its own conditioning."""

    latent_encoder: nn.Module
    """VAE encoder of `moments`."""
    condition_encoder: nn.Module | None
    """VAE encoder of `condition_latent`; None if it was not loaded."""

    @property
    def implementation(self) -> Implementation: ...

    def to(self, device: str) -> None: ...

    def image_embeds(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        """Image embedding of pixels in [-1, 1], which are resized to the image tower's input first."""
        ...

    def moments(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 8 h w"]:
        """Mean and log variance of the latent's posterior, 4 channels each."""
        ...

    def condition_latent(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        """The mode of the condition's posterior, unscaled."""
        ...

    def vector(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " V"]:
        """Sinusoids of each number, concatenated."""
        ...

    def embedding(self, c_noise: float, vector: Float[Tensor, "T V"]) -> Float[Tensor, "T E"]:
        """The embedding of time and vector that every resnet adds."""
        ...

    def layers(
        self, x: Float[Tensor, "T 8 h w"], emb: Float[Tensor, "T E"], context: Float[Tensor, "T N D"], mixing: bool
    ) -> Iterator[Float[Tensor, "T C _ _"]]:
        """Yield the outputs of layers 1, 2, ..., up_1, ... up to the last one loaded, each computed when it is requested.

        Without mixing the temporal branches are skipped, and no frame depends on another.
        """
        ...

    def published_forward(
        self, x: Float[Tensor, "T2 8 h w"], c_noise: float, context: Float[Tensor, "T2 N D"],
        vector: Float[Tensor, "T2 V"], frames: int, mixing: bool,
    ) -> list[Float[Tensor, "T2 C _ _"]]:  # fmt: skip
        """Outputs of all 25 layers, computed as the release does: the complete UNet on a doubled batch, temporal branches
        also if their weight is 0. Requires `Needs.complete`."""
        ...
