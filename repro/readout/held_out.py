"""The held-out part of a training split, on which the held-out protocol selects the epoch."""

from repro.core.errors import MissingError
from repro.core.stratified import select_held_out
from repro.readout.sequences import Sequences, derive_seed

# The release holds nothing out; the share is this project's choice (docs/deviations.md 2).
HELD_OUT_SHARE = 0.2
"""Share of the training clips that is held out: every fifth."""


def split_held_out(split: Sequences, seed: int) -> tuple[Sequences, Sequences]:
    """Divide a training split into the clips to train on and the clips held out, each in the split's order.

    Raises:
        MissingError: there are too few clips or source videos to hold any out.
    """
    # A seed of its own: the part stays the same if other random numbers of a training change.
    held_out = select_held_out(split.targets.numpy(), split.groups, derive_seed(seed, "held out"), HELD_OUT_SHARE)
    kept = sorted(set(range(len(split.clips))) - set(held_out))
    if not held_out or not kept:
        raise MissingError(
            f"{len(split.clips)} training clips are too few to hold any out: --protocol held-out needs three clips or "
            "source videos of some class"
        )
    return split.select_clips(kept), split.select_clips(held_out)
