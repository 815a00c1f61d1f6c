"""Learning rate per step: linear warm-up from 0, then a cosine to 0 (the release's scripts/train.py)."""

import math


def learning_rate(step: int, steps_per_epoch: int, epochs: int, warmup_epochs: int, base: float) -> float:
    """The rate step number `step` (from 0) is taken with."""
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return base * step / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
