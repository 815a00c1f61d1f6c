"""What a training draws at random. All of it derives from the seed by name: the order of clips, mixup and dropout of an
epoch do not depend on what was drawn before them, so a resumed training draws what an unbroken one would."""

import hashlib
from dataclasses import dataclass

import numpy as np

from repro.readout.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Draw:
    """One batch."""

    chosen: tuple[int, ...]
    """Clips, by their place in the split."""
    share: float = 1.0
    """Mixup's lambda."""
    partner: tuple[int, ...] | None = None
    """Whom each is mixed with, by its place in the batch; None without mixup."""


def derived(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def epoch_draws(seed: int, number: int, clips: int, recipe: Recipe) -> list[Draw]:
    """The batches of epoch `number`: every clip once, one lambda a batch."""
    draw = np.random.default_rng(derived(seed, "epoch", number))
    order = draw.permutation(clips).tolist()
    draws = []
    for start in range(0, clips, recipe.batch_size):
        chosen = tuple(order[start : start + recipe.batch_size])
        if recipe.mixup > 0:
            share = float(draw.beta(recipe.mixup, recipe.mixup))
            draws.append(Draw(chosen, share, tuple(draw.permutation(len(chosen)).tolist())))
        else:
            draws.append(Draw(chosen))
    return draws
