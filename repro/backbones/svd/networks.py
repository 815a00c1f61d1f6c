"""What features need of Stable Video Diffusion's networks, whoever's modules compute them.

with_diffusers.py: modules of diffusers and transformers, from the package registry.
with_sgm.py: the published modules, where the fork or Stability-AI/generative-models is installed, as in the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repro.backbones.config import Layer
from repro.backbones.svd.config import SvdArchitecture, depth
from repro.core.errors import MissingError

Implementation = Literal["sgm", "diffusers"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("sgm", "diffusers")

EMBEDDED = 256
"""Width of the sinusoids of each of the vector's numbers."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Which parts are loaded; the rest of the checkpoint stays on disk."""

    last_layer: Layer
    """1 to 13 or up_1 to up_12; of the UNet, nothing behind it."""
    mixing: bool = True
    """The temporal branches."""
    image: bool = True
    """The condition's VAE encoder."""
    tower: bool = True
    """The image tower."""
    whole: bool = False
    """The UNet to its end, whatever the last layer; for comparisons with the published computation."""

    def __post_init__(self) -> None:
        depth(self.last_layer)


@runtime_checkable
class Networks(Protocol):
    """Frozen networks in fp32 and eval mode. `T` frames; each conditions itself."""

    @property
    def implementation(self) -> Implementation: ...

    def to(self, device: str) -> None: ...

    def image_embeds(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        """The image tower on pixels in [-1, 1], shrunk to its input size first."""
        ...

    def moments(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 8 h w"]:
        """Mean and log variance of the latent's posterior."""
        ...

    def condition_latent(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        """The mode of the condition's posterior, unscaled."""
        ...

    def vector(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " V"]:
        """Sinusoids of each number, one after the other."""
        ...

    def embedding(self, c_noise: float, vector: Float[Tensor, "T V"]) -> Float[Tensor, "T E"]:
        """What tells every block the time and the vector."""
        ...

    def layers(
        self, x: Float[Tensor, "T 8 h w"], emb: Float[Tensor, "T E"], context: Float[Tensor, "T N D"], mixing: bool
    ) -> Iterator[Float[Tensor, "T C _ _"]]:
        """Outputs of layers 1, 2, ..., up_1, ... up to the last one loaded, each computed when it is asked for.

        Without mixing, temporal branches are left out, and every frame is by itself.
        """
        ...

    def published_forward(
        self, x: Float[Tensor, "T2 8 h w"], c_noise: float, context: Float[Tensor, "T2 N D"],
        vector: Float[Tensor, "T2 V"], frames: int, mixing: bool,
    ) -> list[Float[Tensor, "T2 C _ _"]]:  # fmt: skip
        """The whole UNet on a doubled batch as released, temporal branches computed whether they count or not; outputs of
        all 25 layers. Needs `Needs.whole`."""
        ...


def importable_sgm() -> str:
    """ "" where sgm can be imported, else why not, in one line."""
    from repro.backbones.svd import with_sgm

    return with_sgm.why_not()


def resolve(wish: Literal["auto", "sgm", "diffusers"]) -> Implementation:
    """The implementation a config's wish comes to on this machine.

    Raises:
        MissingError: sgm is asked for and cannot be imported.
    """
    if wish == "diffusers":
        return "diffusers"
    problem = importable_sgm()
    if not problem:
        return "sgm"
    if wish == "sgm":
        raise MissingError(f"implementation sgm: {problem}: install it as docs/image.md says, or take diffusers")
    return "diffusers"


def load(implementation: Implementation, path: Path, architecture: SvdArchitecture, needs: Needs) -> Networks:
    """Read from `path`, a checkpoint in the published layout, what `needs` names; on the CPU.

    Raises:
        MissingError: not the checkpoint `architecture` describes.
    """
    if implementation == "sgm":
        from repro.backbones.svd.with_sgm import SgmNetworks

        return SgmNetworks(path, architecture, needs)
    from repro.backbones.svd.with_diffusers import DiffusersNetworks

    networks = DiffusersNetworks(architecture, needs)
    networks.fill(path)
    return networks
