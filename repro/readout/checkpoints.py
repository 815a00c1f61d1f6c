"""Checkpoints of a training (safetensors): trained weights, and the state from which an interrupted training resumes.

    <folder>/training.safetensors        once a minute at most: weights, AdamW's moments, test logits so far; deleted once recorded
    <folder>/selected_epoch.safetensors  at the end: weights of the epoch that the protocol selects
    <folder>/last_epoch.safetensors      at the end: weights of the last epoch

At width 1280 the first is 1.2 to 1.6 GB, which would take more time than a short epoch. So a killed training trains its last minute
or so again, with the same random numbers: on a CPU, or with `deterministic`, with the same bits.

Each file's header holds JSON that says what the file belongs to, and the sha256 of that and of the tensors.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from repro.core.errors import UsageError
from repro.core.files import set_aside
from repro.core.hashing import content_key
from repro.core.reading import check_regular
from repro.core.signed import ArrayLibrary, DamagedFileError, read_about, read_arrays, write_arrays
from repro.readout.compute import Compute
from repro.readout.recipe import Metric, Recipe
from repro.readout.sequences import Sequences

READOUT_VERSION = 3
"""Part of a run's content key: raised if the same features and seed would give another readout."""

# Names of files in workspaces: another version must find them under the same names.
STATE = "training.safetensors"
SELECTED = "selected_epoch.safetensors"
LAST = "last_epoch.safetensors"

STATE_EVERY = 60.0
"""Seconds from one write of a training's state to the next; more, in proportion, where a write takes over `STATE_TAKES`."""
STATE_TAKES = 3.0
"""Seconds: 5 % of the above, the share of a training's time that goes into its state."""

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state of a parameter: running means of gradient and squared gradient, and the number of steps."""


def _raw_bytes(tensor: Tensor) -> memoryview:
    # Through uint8, since numpy has no bfloat16.
    view: memoryview = tensor.flatten().view(torch.uint8).numpy().data
    return view


TORCH: ArrayLibrary[Tensor] = ArrayLibrary("pt", save_file, _raw_bytes)


class DamagedCheckpointError(Exception):
    """A file is not as it was written; the message is one line."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Result of one pass over the training split."""

    number: int
    """Counted from 1."""
    train_loss: float
    """Mean loss of the batches."""
    scores: dict[str, float]
    """On the test split, by metric; shares of 1."""
    held_out: dict[str, float] | None = None
    """On the clips held out of the training split."""


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """Where a training writes its checkpoints."""

    path: Path
    about: Mapping[str, Any]
    """Stored in every header, such as the row and the names of the classes."""
    warn: Callable[[str], None]
    """Called with a message if a stored state is damaged."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The splits of a training."""

    train: Sequences
    test: Sequences
    """Scored after every epoch."""
    held_out: Sequences | None = None
    """Clips held out of the training split: if given, the epoch is selected on them."""
    segments: Mapping[str, Sequence[int]] | None = None
    """Label ids by segment, for scores within each."""


def describe_training(
    data: TrainingData, recipe: Recipe, seed: int, metric: Metric, compute: Compute
) -> dict[str, Any]:
    """Return everything a training depends on, except the values of the features (those are part of the run's content key)."""

    def hash_split(split: Sequences) -> str:
        lengths = [len(features) for features in split.features]
        # Lengths represent the features: their values are many gigabytes, and are part of the run's content key.
        return content_key([split.clips, lengths, split.targets.tolist()])

    return {
        "version": READOUT_VERSION,
        "seed": seed,
        "metric": metric,
        # The note explains the recipe to readers; rewording it must not make a training unusable.
        "recipe": recipe.model_dump(mode="json", exclude={"note"}),
        "compute": compute.as_stored(),
        "width": data.train.width,
        "classes": data.train.targets.shape[1],
        "train": hash_split(data.train),
        "test": hash_split(data.test),
        "held_out": None if data.held_out is None else hash_split(data.held_out),
    }


@dataclass(slots=True)
class TrainingState:
    """What a training changes from epoch to epoch."""

    weights: dict[str, Tensor]
    """By the names of the head's state_dict."""
    moments: dict[str, dict[str, Tensor]]
    """AdamW's state: by kind, then as `weights`."""
    epochs: list[Epoch] = field(default_factory=list)
    """Epochs finished so far."""
    logits: list[Float32[Tensor, "N K"]] = field(default_factory=list)
    """Test logits after each of them, on the CPU."""
    selected: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the epoch that is selected so far."""
    saved: int = 0
    """Number of epochs that the state on disk holds."""
    due: float = field(default_factory=lambda: time.monotonic() + STATE_EVERY)
    """Value of time.monotonic() from which on the state is written again."""

    @classmethod
    def start(cls, weights: dict[str, Tensor]) -> "TrainingState":
        """Return the state before the first step."""
        return cls(
            weights,
            {
                kind: {name: torch.zeros(() if kind == "step" else value.shape) for name, value in weights.items()}
                for kind in MOMENTS
            },
        )


def resume_training(folder: CheckpointFolder, asked: Mapping[str, Any]) -> TrainingState | None:
    """Read the state from which an interrupted training resumes; None if the folder has none.

    A damaged state is renamed, with a warning, and the training starts from the first epoch.

    Args:
        folder: Where the checkpoints are.
        asked: What describe_training returns for this training.

    Raises:
        UsageError: the stored training differs from `asked`.
    """
    path = folder.path / STATE
    try:
        tensors, about = read_tensors(path)
        if "selected" not in about:
            raise DamagedCheckpointError(f"{path}: written by an earlier version, without the selected epoch's weights")
    except FileNotFoundError:
        return None
    except DamagedCheckpointError as error:
        aside = set_aside(path)
        folder.warn(f"{error}: the training's state is kept as {aside.name}, training from the first epoch")
        return None
    refuse_changed(path, about["asked"], asked)
    # Threads divide a sum in other places, and sums of floats depend on the order: a warning, since scores hardly change.
    if about["threads"] != torch.get_num_threads():
        folder.warn(
            f"{path}: began on {about['threads']} threads and resumes with {torch.get_num_threads()}: the weights' last "
            "bits may differ from those of an uninterrupted training"
        )
    # Names are group/tensor, as save_training writes them.
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, own = name.partition("/")
        groups.setdefault(group, {})[own] = tensor
    epochs = [Epoch(**epoch) for epoch in about["epochs"]]
    return TrainingState(
        groups["weights"],
        {kind: groups[kind] for kind in MOMENTS},
        epochs,
        # Stored, because the weights of earlier epochs are gone: scores of a part of the test split need the logits of every
        # epoch.
        [groups["logits"][str(epoch.number)] for epoch in epochs],
        groups.get("selected", groups["weights"]),
        len(epochs),
    )


def save_training(folder: CheckpointFolder, asked: Mapping[str, Any], state: TrainingState, selected: Epoch) -> None:
    """Save all that is needed to resume after the last of `state.epochs`, if it is time to; `selected` is the best of them."""
    started = time.monotonic()
    if started < state.due:
        return
    groups: dict[str, Mapping[str, Tensor]] = {
        "weights": state.weights,
        **state.moments,
        "logits": {str(epoch.number): values for epoch, values in zip(state.epochs, state.logits, strict=True)},
    }
    if selected is not state.epochs[-1]:
        # In the same file, so that the two cannot be of two moments. Not twice where they are the same.
        groups["selected"] = state.selected
    tensors = {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}
    about = {
        "asked": asked, "threads": torch.get_num_threads(), "epochs": [asdict(epoch) for epoch in state.epochs],
        "selected": selected.number,
    }  # fmt: skip
    write_tensors(folder.path / STATE, tensors, {**folder.about, **about})
    state.saved = len(state.epochs)
    ended = time.monotonic()
    # A slow disk must not take more than its share of the training's time.
    state.due = ended + STATE_EVERY * max(1.0, (ended - started) / STATE_TAKES)


def save_readouts(folder: CheckpointFolder, asked: Mapping[str, Any], state: TrainingState, selected: Epoch) -> None:
    """Write the weights of a finished training: of its selected epoch and of its last one."""
    for name, epoch, weights in ((SELECTED, selected, state.selected), (LAST, state.epochs[-1], state.weights)):
        write_tensors(folder.path / name, weights, {**folder.about, "asked": asked, "epoch": epoch.number})


def refuse_changed(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to resume a training with other settings than it was started with.

    Raises:
        UsageError: what differs, with both values.
    """
    before, now = _flatten_settings(stored), _flatten_settings(current)
    # The keys of both: a setting that one of the two does not have also differs.
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        # Three are enough to recognise the change, and fit in one line.
        shown = ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UsageError(
            f"{path}: an unfinished training was started with other settings: {shown}{more}: restore these settings, or "
            "move the file away to train from the first epoch"
        )


def _flatten_settings(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flatten_settings(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; `about` is anything JSON can hold."""
    # The file's sha256 is of the bytes in memory order, so the tensors must be contiguous and on the CPU.
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_arrays(path, on_cpu, about, TORCH)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and header, and verify them.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCheckpointError: it is not as it was written.
    """
    try:
        # Verifies the sha256 in the header: a flipped bit would otherwise become a plausible score.
        return read_arrays(path, TORCH)
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"{path}: damaged: {error}") from error


def read_header(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint's header without reading or verifying its tensors; None if the file is missing or incomplete."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return read_about(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
