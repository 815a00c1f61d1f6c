"""The part of a training split that the honest protocol picks the epoch on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from repro.core.errors import MissingError
from repro.readout.draws import derived
from repro.readout.sequences import Sequences

SHARE = 0.2
"""Of the training clips: every fifth."""


def hold_out(split: Sequences, seed: int) -> tuple[Sequences, Sequences]:
    """What is learned from, and what is held out.

    Raises:
        MissingError: too few clips or source videos to hold any out.
    """
    held = held_out(split.targets.numpy(), split.groups, derived(seed, "held out"))
    learned = sorted(set(range(len(split.clips))) - set(held))
    if not held or not learned:
        raise MissingError(
            f"{len(split.clips)} training clips are too few to hold any out: --protocol honest needs three clips or "
            "source videos of some class"
        )
    return split.part(learned), split.part(held)


def held_out(
    targets: Num[np.ndarray, "N K"], groups: Sequence[str | None] | None, seed: int, share: float = SHARE
) -> list[int]:
    """Which clips are held out: about `share` of every class, source videos whole (a clip whose source is not known is
    one of its own).

    Iterative stratification (Sechidis et al. 2011): the rarest class is divided first, each of its videos going to the
    side that still lacks most of it. A class with a single video stays where it can be learned.
    """
    draw = np.random.default_rng(seed)
    names = [f"clip {n}" if groups is None or groups[n] is None else f"video {groups[n]}" for n in range(len(targets))]
    members: dict[str, list[int]] = {}
    for n, name in enumerate(names):
        members.setdefault(name, []).append(n)
    videos = list(members.values())
    # A last column counts clips, so that clips without a label are divided too.
    counts = np.array([[*targets[video].sum(axis=0), len(video)] for video in videos])
    lacking = np.stack([(1 - share) * counts.sum(axis=0), share * counts.sum(axis=0)])
    open_videos = set(range(len(videos)))
    held: list[int] = []
    while open_videos:
        left = counts[sorted(open_videos)].sum(axis=0)
        rarest = int(min(np.flatnonzero(left), key=lambda label: (label == len(left) - 1, left[label])))
        carriers = [v for v in sorted(open_videos) if counts[v, rarest]]
        for video in draw.permutation(carriers).tolist():
            learning, holding = ((float(side[rarest]), float(side[-1])) for side in lacking)
            side = int(holding > learning)
            lacking[side] -= counts[video]
            open_videos.remove(video)
            if side == 1:
                held += videos[video]
    return sorted(held)
