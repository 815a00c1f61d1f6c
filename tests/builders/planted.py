"""Feature sequences with a known answer, and a recipe that finds it in seconds."""

from collections import Counter

import torch
from torch.nn import functional

from repro.readout.recipe import Focal, Recipe
from repro.readout.sequences import Sequences


def recipe(**changes: object) -> Recipe:
    values: dict[str, object] = {
        "loss": Focal(name="focal", alpha=0.25, gamma=2.0),
        "epochs": 8,
        "warmup_epochs": 2,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "mixup": 0.2,
        "batch_size": 8,
        "max_length": 20,
        "layers": 1,
    }
    return Recipe(**(values | changes))  # type: ignore[arg-type]


def planted(
    clips: int, shift: float, seed: int, permuted: bool = False, signal: float = 2.0, video: int | None = None
) -> Sequences:
    """Sequences of different lengths whose class is a direction in feature space, moved by a domain shift; `video` clips
    are of one source."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(clips) % 4
    features = []
    for label in labels:
        length = int(torch.randint(2, 15, (1,), generator=draw))
        features.append(signal * directions[label] + shift + torch.randn(length, 16, generator=draw))
    if permuted:
        labels = labels[torch.randperm(clips, generator=draw)]
    return Sequences(
        tuple(str(n) for n in range(clips)),
        tuple(features),
        functional.one_hot(labels, 4).float(),
        Counter(),
        None if video is None else tuple(f"video{n // video}" for n in range(clips)),
    )
