"""Dividing labelled examples into two parts in which labels are as frequent, without dividing a group of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num


def select_held_out(
    targets: Num[np.ndarray, "N K"], groups: Sequence[str | None] | None, seed: int, share: float
) -> list[int]:
    """Select about `share` of the clips of every class, without dividing any source video.

    Clips of one source video are nearly alike; held-out clips of a video that is trained on would overrate a readout.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"), with videos in place of
    examples: the rarest class is divided first, because the common ones can be balanced with what is left. Each of its videos
    goes to the side that still needs more clips of that class, and, if both need the same, to the training side. So a class
    with a single video stays in the training part.

    Args:
        targets: 1 for the classes of a clip, else 0.
        groups: Source video of each clip; a clip without one counts as a video of its own.
        seed: Decides the order in which the videos of a class are assigned.
        share: Share of the clips to hold out.

    Returns:
        Indices of the held-out clips, ascending.
    """
    generator = np.random.default_rng(seed)
    # The prefixes keep a clip without a video apart from a video whose name is that number.
    names = [f"clip {n}" if groups is None or groups[n] is None else f"video {groups[n]}" for n in range(len(targets))]
    members: dict[str, list[int]] = {}
    for n, name in enumerate(names):
        members.setdefault(name, []).append(n)
    videos = list(members.values())
    # The last column counts clips, so that clips without a label are divided too.
    counts = np.array([[*targets[video].sum(axis=0), len(video)] for video in videos])
    # Clips still needed per class (columns) by the training side (row 0) and the held-out side (row 1).
    # Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the rarest class first, since later
    # choices could not correct it.
    needed = np.stack([(1 - share) * counts.sum(axis=0), share * counts.sum(axis=0)])
    unassigned = set(range(len(videos)))
    held_out: list[int] = []
    while unassigned:
        left = counts[sorted(unassigned)].sum(axis=0)
        # The class with the fewest unassigned clips; the column of all clips comes last.
        rarest = int(min(np.flatnonzero(left), key=lambda label: (label == len(left) - 1, left[label])))
        # Sorted before they are permuted: a set has no order to rely on.
        carriers = [v for v in sorted(unassigned) if counts[v, rarest]]
        for video in generator.permutation(carriers).tolist():
            # Ties of the class are broken by the number of clips a side still needs in all (Sechidis et al., algorithm 1).
            train_needs, held_out_needs = ((float(side[rarest]), float(side[-1])) for side in needed)
            side = int(held_out_needs > train_needs)
            needed[side] -= counts[video]
            # All clips of a video go to one side: this is what prevents leakage, and why the shares are not exact.
            unassigned.remove(video)
            if side == 1:
                held_out += videos[video]
    return sorted(held_out)
