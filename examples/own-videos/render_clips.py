"""Render short labelled clips, as a stand-in for one's own: `python render_clips.py FOLDER` writes them and labels.csv."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from repro.smoke.clips import encode_scene
from repro.video.synthetic.scenes import smoke_scenes

ACTIONS, INDIVIDUALS, TAKES = ("walk", "jump"), 4, 2


def render_clips(
    folder: Path,
    actions: Sequence[str] = ACTIONS,
    individuals: int = INDIVIDUALS,
    frames: int = 40,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """Render two takes of each action (walk, jump, eat or shake) by each individual to `folder`; return the table of their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "group"])
        for label in actions:
            scene = next(scene for scene in smoke_scenes() if scene.action == label)
            for individual in range(individuals):
                for take in range(TAKES):
                    name = f"{label} {individual}-{take}.mp4"
                    # The seed decides background and colours, which the takes of an individual share.
                    height, width = size
                    changed = dataclasses.replace(
                        scene, seed=individual, facing=1 - 2 * take, frames=frames, height=height, width=width, rate=10
                    )
                    encode_scene(folder / name, changed)
                    # Takes of one individual look alike, so they are one group: all train, or all test.
                    lines.writerow([name, label, f"individual {individual}"])
    return table


if __name__ == "__main__":
    sys.stdout.write(f"{render_clips(Path(sys.argv[1]))}\n")
