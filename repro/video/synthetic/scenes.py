"""Synthetic scenes, described by a few numbers (species, action, place, duration), and their pictures.

Pictures have the same bits on every machine: joints are rounded to 1/16 pixel before anything is painted, and painting is
integer arithmetic.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from repro.video.synthetic.figures import ACTIONS, PLANS, SPECIES, TRAIN_SPECIES, Bone, pose

Picture = UInt8[np.ndarray, "H W 3"]

SCENES_VERSION = 1
"""Raised if the same scene gives other pictures."""
SUB = 16
"""Joints are rounded to a grid of 1/16 pixel."""
SIZES = ((120, 160), (144, 176), (108, 192), (128, 128), (160, 120))
RATES = (10, 15, 24, 25, 30)
CLIP_FRAMES = (11, 23, 40, 58, 97, 104, 150, 212)
"""Native frames of a clip: from 3 sampled frames, a fraction of a window, to 53, over two windows."""


@dataclass(frozen=True, slots=True)
class Scene:
    id: str
    species: str
    action: str
    split: str
    height: int
    width: int
    rate: int
    """Frames per second."""
    frames: int
    period: float
    """Seconds per repetition of the action."""
    facing: int
    drift: tuple[float, float]
    """Movement of the camera over the clip, in pixels."""
    seed: int
    """Seed of the background and the colours."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def smoke_scenes() -> list[Scene]:
    """Return the smoke job's 40 scenes: 4 actions by 3 training and 2 test species, 2 takes each."""
    scenes = []
    for species_number, species in enumerate(SPECIES):
        for action_number, action in enumerate(ACTIONS):
            for take in range(2):
                number = (species_number * len(ACTIONS) + action_number) * 2 + take
                # The order of the calls below is part of the scenes: another order gives other clips and golden values.
                draw = np.random.default_rng([20250913, number])
                height, width = SIZES[int(draw.integers(len(SIZES)))]
                scenes.append(
                    Scene(
                        id=f"{species}_{action}_{take}",
                        species=species,
                        action=action,
                        split="train" if species in TRAIN_SPECIES else "test",
                        height=height,
                        width=width,
                        rate=RATES[int(draw.integers(len(RATES)))],
                        frames=CLIP_FRAMES[(number * 3 + species_number) % len(CLIP_FRAMES)],
                        period=int(draw.integers(60, 120)) / 100,
                        facing=1 if draw.integers(2) else -1,
                        drift=(float(draw.integers(-24, 25)), float(draw.integers(-6, 7))),
                        seed=number,
                    )
                )
    return scenes


def pictures(scene: Scene) -> Iterator[Picture]:
    """Yield every frame of a scene, in order."""
    draw = np.random.default_rng([7, scene.seed])
    world = _background(scene, draw)
    colours = _generate_coat(draw)
    # Pixels of one body unit, the torso's length.
    unit = PLANS[scene.species].scale * scene.height
    for number in range(scene.frames):
        share = number / max(scene.frames - 1, 1)
        # The camera starts in the middle of the world's margin (32 and 16 pixels), which the drift never exceeds.
        left = 32 + round(scene.drift[0] * share)
        top = 16 + round(scene.drift[1] * share)
        picture = world[top : top + scene.height, left : left + scene.width].copy()
        bones = pose(scene.species, scene.action, number / scene.rate / scene.period)
        _draw(picture, bones, scene, unit, (left - 32, top - 16), colours)
        yield picture


def _background(scene: Scene, draw: np.random.Generator) -> Picture:
    """Generate a world a little larger than the picture: sky, ground, boxes of any colour, and grain."""
    height, width = scene.height + 32, scene.width + 64
    sky, ground = draw.integers(60, 200, 3), draw.integers(40, 160, 3)
    horizon = int(0.78 * scene.height) + 16
    world = np.empty((height, width, 3), np.int64)
    world[:horizon], world[horizon:] = sky, ground
    for _ in range(int(draw.integers(6, 14))):
        tall, wide = draw.integers(6, height // 3), draw.integers(6, width // 4)
        y, x = draw.integers(0, height - tall), draw.integers(0, width - wide)
        world[y : y + tall, x : x + wide] = draw.integers(20, 230, 3)
    # The same grain in all three colours: it changes brightness alone.
    world += draw.integers(-10, 11, (height, width, 1))
    return np.clip(world, 0, 255).astype(np.uint8)


def _generate_coat(draw: np.random.Generator) -> np.ndarray:
    """Generate four shades of one coat, `[4, 3]`: torso, near limb, far limb, head."""
    coat = draw.integers(30, 226, 3)
    shades: np.ndarray = np.clip(coat + np.array([[0], [-25], [-50], [25]]), 0, 255).astype(np.uint8)
    return shades


def _draw(
    picture: Picture, bones: list[Bone], scene: Scene, unit: float, camera: tuple[int, int], colours: np.ndarray
) -> None:
    # Body units have y up, pictures down.
    ground = 0.9 * scene.height
    span = scene.width * 1.3
    for bone in bones:
        ends = []
        for x, y in (bone.start, bone.end):
            across = scene.facing * x * unit + (0.5 if scene.action != "walk" else 0.35) * scene.width
            ends.append((across - camera[0], ground - y * unit - camera[1]))
        # A walker that leaves the picture on one side returns on the other.
        shift = -span * np.floor((ends[0][0] + 0.15 * scene.width) / span) if scene.action == "walk" else 0.0
        points = [(round((x + shift) * SUB), round(y * SUB)) for x, y in ends]
        capsule(picture, points[0], points[1], max(round(bone.width * unit * SUB / 2), SUB), colours[bone.shade])


def capsule(picture: Picture, start: tuple[int, int], end: tuple[int, int], radius: int, colour: np.ndarray) -> None:
    """Fill all pixels within `radius` of the line from `start` to `end` (x, y; all in 1/16 pixel), in integer arithmetic."""
    height, width = picture.shape[:2]
    # Only the pixels of the bounding box are tested.
    low_x = max((min(start[0], end[0]) - radius) // SUB, 0)
    high_x = min((max(start[0], end[0]) + radius) // SUB + 1, width)
    low_y = max((min(start[1], end[1]) - radius) // SUB, 0)
    high_y = min((max(start[1], end[1]) + radius) // SUB + 1, height)
    if low_x >= high_x or low_y >= high_y:
        return
    x = np.arange(low_x, high_x, dtype=np.int64)[None, :] * SUB + SUB // 2 - start[0]
    y = np.arange(low_y, high_y, dtype=np.int64)[:, None] * SUB + SUB // 2 - start[1]
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    # A pixel's centre is inside if it is within `radius` of either end, or its projection falls between the ends and its
    # distance to the line, |cross| / length, is at most `radius`: squared and multiplied out, so that all is integer.
    length2 = along_x**2 + along_y**2
    dot = x * along_x + y * along_y
    near_start = x**2 + y**2 <= radius**2
    near_end = (x - along_x) ** 2 + (y - along_y) ** 2 <= radius**2
    between = (dot > 0) & (dot < length2) & ((x * along_y - y * along_x) ** 2 <= radius**2 * length2)
    inside: Bool[np.ndarray, "h w"] = near_start | near_end | between
    picture[low_y:high_y, low_x:high_x][inside] = colour
