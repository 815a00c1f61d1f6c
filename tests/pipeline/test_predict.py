"""Scores over time: a backbone's vectors are cut into the windows that they are of."""

import pytest

from repro.backbones.registry import load_backbone
from repro.pipeline.predict import locate_windows


@pytest.mark.parametrize(
    ("backbone", "vectors", "native"),
    [
        ("svd_xt", 25, 100),  # 25 of every 4th frame
        ("vjepa", 8, 64),  # 16 of every 4th frame are 8 tubelets
        ("videomaev2", 1, 16),  # a vector for 16 consecutive frames, of which windows share 12
        ("videomaev2_tubelet", 8, 64),
    ],
)
@pytest.mark.parametrize("sampled", [3, 25, 60, 110])
def test_every_window_has_its_vectors_and_frames(backbone: str, vectors: int, native: int, sampled: int) -> None:
    config = load_backbone(backbone)
    total = config.vectors(sampled)
    found = locate_windows(total, config)
    assert len(found) == config.frames.windows(sampled)
    assert [n for part, _, _ in found for n in range(part.start, part.stop)] == list(range(total))
    for number, (part, first, last) in enumerate(found):
        count = part.stop - part.start
        assert count == vectors or number == len(found) - 1
        assert first == number * config.frames.hop * config.frames.stride
        assert last - first == pytest.approx(native * count / vectors)
