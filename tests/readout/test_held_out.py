"""The held-out protocol's held-out part: a fifth of every class, no source video divided, the same for the same seed."""

import numpy as np
import pytest
from builders.planted import planted

from repro.core.errors import MissingError
from repro.core.stratified import select_held_out
from repro.readout.sequences import HELD_OUT_SHARE, split_held_out


@pytest.mark.parametrize("labels", ["single", "multi", "rare", "none"])
def test_a_fifth_of_every_class_is_held_out(labels: str) -> None:
    draw = np.random.default_rng(1)
    targets = np.eye(6)[draw.integers(0, 6, 400)]
    if labels == "multi":
        targets = (draw.random((400, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(float)
    elif labels == "rare":
        targets[:, 5] = 0
        targets[7, 5] = 1
    elif labels == "none":
        targets[:100] = 0
    held = select_held_out(targets, None, seed=3, share=HELD_OUT_SHARE)
    assert abs(len(held) - HELD_OUT_SHARE * 400) <= 6
    assert len(set(held)) == len(held)
    for k in range(6):
        assert abs(targets[held, k].sum() - HELD_OUT_SHARE * targets[:, k].sum()) <= 2
    if labels == "rare":
        assert targets[held, 5].sum() == 0  # what occurs once is learned


def test_source_videos_are_not_divided() -> None:
    draw = np.random.default_rng(2)
    videos = draw.integers(0, 60, 300)
    targets = np.eye(4)[videos % 4]
    groups: list[str | None] = [f"v{v}" for v in videos]
    groups[0] = groups[1] = None
    held = set(select_held_out(targets, groups, seed=3, share=HELD_OUT_SHARE))
    assert not {groups[n] for n in held} & {groups[n] for n in set(range(300)) - held if groups[n]} - {None}
    assert abs(len(held) - 60) <= 10
    for k in range(4):
        assert 0.1 < targets[sorted(held), k].sum() / targets[:, k].sum() < 0.3


def test_the_held_out_part_depends_on_the_seed_alone() -> None:
    targets = np.eye(4)[np.arange(100) % 4]
    assert select_held_out(targets, None, 1, HELD_OUT_SHARE) == select_held_out(targets, None, 1, HELD_OUT_SHARE)
    assert select_held_out(targets, None, 1, HELD_OUT_SHARE) != select_held_out(targets, None, 2, HELD_OUT_SHARE)


def test_every_clip_is_on_one_side() -> None:
    split = planted(40, 0.0, 1, video=2)
    learned, held = split_held_out(split, 7)
    assert sorted(learned.clips + held.clips) == sorted(split.clips)
    assert learned.groups is not None
    assert held.groups is not None
    assert not set(learned.groups) & set(held.groups)
    assert held.targets.shape == (len(held.clips), 4)
    number = int(held.clips[0])
    assert held.features[0] is split.features[number]


def test_too_few_clips_to_divide() -> None:
    with pytest.raises(MissingError, match="4 training clips are too few to hold any out"):
        split_held_out(planted(4, 0.0, 1), 7)
