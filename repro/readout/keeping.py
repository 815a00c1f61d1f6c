"""What a training leaves behind after every epoch, and how a killed one goes on from it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from repro.core.files import set_aside
from repro.core.hashing import canonical_json
from repro.readout import checkpoints
from repro.readout.compute import Compute
from repro.readout.heads import Head
from repro.readout.recipe import Metric, Recipe
from repro.readout.sequences import Sequences

VERSION = 2
"""Part of a run's key: raised when the same features and seed would give another readout."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split. Epochs count from 1."""

    number: int
    train_loss: float
    scores: dict[str, float]
    """On the test split, shares of 1."""
    held_out: dict[str, float] | None = None
    """On the part held out of the training split."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a training leaves its checkpoints."""

    folder: Path
    about: Mapping[str, Any]
    """Said in their headers, for a reader: the names of the classes, the row."""
    warn: Callable[[str], None]
    """Told of a damaged state, which is set aside."""


def asked_of(
    train_split: Sequences,
    test_split: Sequences,
    held_out: Sequences | None,
    recipe: Recipe,
    seed: int,
    metric: Metric,
    compute: Compute,
) -> dict[str, Any]:
    """All that a training rests on, short of the features' values: those are in a run's key."""

    def of(split: Sequences) -> str:
        lengths = [len(features) for features in split.features]
        return hashlib.sha256(canonical_json([split.clips, lengths, split.targets.tolist()])).hexdigest()[:16]

    return {
        "version": VERSION,
        "seed": seed,
        "metric": metric,
        "recipe": recipe.model_dump(mode="json", exclude={"note"}),
        "compute": compute.as_stored(),
        "width": train_split.width,
        "classes": train_split.targets.shape[1],
        "train": of(train_split),
        "test": of(test_split),
        "held_out": None if held_out is None else of(held_out),
    }


def resumed(
    kept: Kept, asked: dict[str, Any], model: Head, optimizer: torch.optim.AdamW
) -> tuple[list[Epoch], list[Float32[Tensor, "N K"]]]:
    """Give model and optimizer the state they were left in; the epochs done, and their test logits."""
    path = kept.folder / checkpoints.STATE
    try:
        tensors, about = checkpoints.read_tensors(path)
        checkpoints.read_tensors(kept.folder / checkpoints.SELECTED)
    except FileNotFoundError:
        return [], []
    except checkpoints.DamagedCheckpointError as error:
        aside = set_aside(path)
        kept.warn(f"{error}: the training's state is kept as {aside.name}, training from the first epoch")
        return [], []
    checkpoints.refuse_changed(path, about["asked"], asked)
    if about["threads"] != torch.get_num_threads():
        kept.warn(
            f"{path}: began on {about['threads']} threads and goes on with {torch.get_num_threads()}: the weights' last "
            "bits may differ from those of an unbroken training"
        )
    model.load_state_dict(checkpoints.head_weights(tensors, "weights/"))
    checkpoints.restore_moments(model, optimizer, tensors)
    epochs = [Epoch(**epoch) for epoch in about["epochs"]]
    return epochs, [tensors[f"logits/{epoch.number}"] for epoch in epochs]


def keep(
    kept: Kept,
    asked: dict[str, Any],
    epochs: list[Epoch],
    logits: list[Float32[Tensor, "N K"]],
    selected: Epoch,
    model: Head,
    optimizer: torch.optim.AdamW,
) -> None:
    """Leave what a killed training needs. The weights go first: were it killed between the two, it would do this epoch
    again, and write the same."""
    if selected is epochs[-1]:
        write_weights(kept, checkpoints.SELECTED, asked, selected.number, model)
    tensors = (
        {f"weights/{name}": tensor for name, tensor in model.state_dict().items()}
        | checkpoints.moments(model, optimizer)
        | {f"logits/{epoch.number}": values for epoch, values in zip(epochs, logits, strict=True)}
    )
    about = {"asked": asked, "threads": torch.get_num_threads(), "epochs": [asdict(epoch) for epoch in epochs]}
    checkpoints.write_tensors(kept.folder / checkpoints.STATE, tensors, {**kept.about, **about})


def write_weights(kept: Kept, name: str, asked: dict[str, Any], epoch: int, model: Head) -> None:
    checkpoints.write_tensors(kept.folder / name, model.state_dict(), {**kept.about, "asked": asked, "epoch": epoch})
