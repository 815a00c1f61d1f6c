"""Losses of a batch (the release's scripts/train.py), for one head or for each head of a stack.

Shapes: S heads, B clips of a batch, K classes.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from repro.readout.recipe import Bce, CrossEntropy, Focal


def compute_loss(
    kind: Focal | CrossEntropy | Bce, logits: Float[Tensor, "*S B K"], targets: Float[Tensor, "*S B K"]
) -> Float[Tensor, "*S"]:
    """Mean loss of a batch, for each head of a stack; targets may be soft (mixup)."""
    if isinstance(kind, CrossEntropy):
        # Targets are probabilities, not label ids, because mixup makes them soft.
        # Cross-entropy with soft targets: -sum_k y_k log softmax(z)_k, then the mean over clips.
        return -(targets * logits.log_softmax(-1)).sum(-1).mean(-1)
    if isinstance(kind, Bce):
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((-2, -1))
    return focal_loss(logits, targets, kind.alpha, kind.gamma)


def focal_loss(
    logits: Float[Tensor, "*S B K"], targets: Float[Tensor, "*S B K"], alpha: float, gamma: float
) -> Float[Tensor, "*S"]:
    """Mean over clips and classes of alpha (1 - pt)^gamma BCE with pt = exp(-BCE), as the release's scripts/train.py.

    Two differences from Lin et al. 2017 follow the release: alpha weighs positives and negatives alike, and soft targets go
    through the same formula, where exp(-BCE) is no longer a probability.
    """
    bce = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # For a hard target BCE is -log(pt), so exp(-BCE) is pt, the probability given to what is true. (1 - pt)^gamma makes
    # entries that are predicted well count less.
    return (alpha * (1 - (-bce).exp()) ** gamma * bce).mean((-2, -1))
