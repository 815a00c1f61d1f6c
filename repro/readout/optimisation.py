"""Loss, optimizer and learning rate of a training (the release's scripts/train.py), for one head or for each head of a stack.

Shapes: S heads, B clips of a batch, K classes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from repro.readout.recipe import Bce, CrossEntropy, Focal, Recipe
from repro.readout.stack import HeadStack


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


def open_optimizer(stack: HeadStack, recipe: Recipe) -> torch.optim.AdamW:
    """Return the optimizer of a stack's weights. It acts on each weight alone, so it serves all heads of the stack."""
    # The learning rate is set before every step. Fused: one kernel updates all parameters, on a CPU as well.
    return torch.optim.AdamW(stack.weights.values(), lr=0.0, weight_decay=recipe.weight_decay, fused=True)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, warmup_epochs: int, peak: float) -> float:
    """Learning rate of a step: linear warm-up from 0, then a cosine to 0 (the release's scripts/train.py).

    Args:
        step: Number of the step in the training, from 0.
        steps_per_epoch: Batches per epoch.
        epochs: All epochs, warm-up included.
        warmup_epochs: Epochs of warm-up.
        peak: Rate at the end of the warm-up.
    """
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        # The first step has rate 0 and changes no weight, as in the release.
        return peak * step / warmup
    # A scheduler also asks for the rate after the last step: max avoids 0 / 0 in a recipe of warm-up alone.
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
