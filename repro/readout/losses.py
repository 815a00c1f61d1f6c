"""Losses of the release's scripts/train.py, on logits and soft targets `[B, K]`."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from repro.readout.recipe import Bce, CrossEntropy, Focal


def loss(
    kind: Focal | CrossEntropy | Bce, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """The mean loss of a batch."""
    if isinstance(kind, CrossEntropy):
        return functional.cross_entropy(logits, targets)
    if isinstance(kind, Bce):
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return focal(logits, targets, kind.alpha, kind.gamma)


def focal(logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"], alpha: float, gamma: float) -> Float[Tensor, ""]:
    """alpha (1 - pt)^gamma BCE, mean over all entries, with pt = exp(-BCE); alpha weighs both classes alike.

    Soft targets (mixup) go through the same formula (Lin et al. 2017 with the release's uniform alpha).
    """
    bce = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (alpha * (1 - (-bce).exp()) ** gamma * bce).mean()
