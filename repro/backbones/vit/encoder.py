"""What is asked of an encoder, and its tokens layer by layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repro.backbones.vit.config import Encoder as Sizes

Block = Callable[[Tensor], Tensor]


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder in eval mode. Tokens are frame-major: all patches of the first tubelet, then of the next."""

    sizes: Sizes

    @property
    def blocks(self) -> Sequence[Block]: ...

    def embed(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B N C"]:
        """Patches with their positions."""
        ...

    def norm(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Behind the last block, where pre-training has one."""
        ...

    def fc_norm(self, mean: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Of a mean of tokens, as fine-tuning has it; without learned weights where there are none."""
        ...

    def to(self, device: str) -> object: ...


Build = Callable[[Mapping[str, Tensor], Sizes, int, int], Encoder]
"""How a family makes its encoder: of tensors, sizes, heads, and the frames a table of positions is for."""


def layers(encoder: Encoder, pixels: Float[Tensor, "B 3 T H W"], last: int) -> Iterator[Float[Tensor, "B N C"]]:
    """The tokens behind blocks 1, 2, ... up to `last`, each computed when it is asked for."""
    tokens = encoder.embed(pixels)
    for block in encoder.blocks[:last]:
        tokens = block(tokens)
        yield tokens
