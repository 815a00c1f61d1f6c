"""The interface to an encoder, and its tokens layer by layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repro.backbones.vit.config import EncoderSizes

BlockFunction = Callable[[Tensor], Tensor]


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder in eval mode. Tokens are frame-major: all patches of the first tubelet, then of the next."""

    sizes: EncoderSizes

    @property
    def blocks(self) -> Sequence[BlockFunction]: ...

    def embed(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B N C"]:
        """Embed patches and add their positions."""
        ...

    def norm(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Normalise tokens after the last block, as a pre-trained encoder does; a fine-tuned one returns them unchanged."""
        ...

    def fc_norm(self, mean: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Normalise a mean of tokens, as a fine-tuned encoder does; without learned weights if there are none."""
        ...

    def to(self, device: str) -> object: ...


BuildEncoder = Callable[[Mapping[str, Tensor], EncoderSizes, int, int], Encoder]
"""Builds a family's encoder from tensors, sizes, number of heads, and the frames its table of positions is for."""


def apply_block(block: BlockFunction, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
    """Apply a block. Blocks have one structure, so that one program, compiled from this function, serves all of them."""
    return block(tokens)


def iterate_layers(
    encoder: Encoder,
    pixels: Float[Tensor, "B 3 T H W"],
    last: int,
    apply: Callable[[BlockFunction, Tensor], Tensor] = apply_block,
) -> Iterator[Float[Tensor, "B N C"]]:
    """Yield the tokens after blocks 1, 2, ... up to `last`, each computed when it is requested."""
    tokens = encoder.embed(pixels)
    # Blocks after `last` are never computed.
    for block in encoder.blocks[:last]:
        tokens = apply(block, tokens)
        yield tokens
