"""Train a readout and score it after every epoch (the release's scripts/train.py).

Unlike the release, clips are not padded (heads.py), features are not read again every epoch, and a killed training resumes
(checkpoints.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn import functional

from repro.core.errors import MissingError
from repro.readout import checkpoints
from repro.readout.checkpoints import CheckpointFolder, Epoch, TrainingData, TrainingState
from repro.readout.compute import ON_CPU, Compute
from repro.readout.heads import Head, build_head
from repro.readout.metrics import all_scores
from repro.readout.recipe import Bce, CrossEntropy, Focal, Metric, Recipe
from repro.readout.sequences import BatchPlan, Sequences, derive_seed, plan_epoch


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training."""

    epochs: list[Epoch]
    predictions: list[Float64[np.ndarray, "N K"]]
    """Test probabilities after each epoch."""
    model: Head
    """After the last epoch."""
    selected: Epoch
    """The best epoch on the held-out clips or, without them, on the test split (docs/deviations.md 2)."""


def train_readout(
    data: TrainingData,
    recipe: Recipe,
    seed: int,
    *,
    metric: Metric = "map_micro",
    compute: Compute = ON_CPU,
    folder: CheckpointFolder | None = None,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> TrainingResult:
    """Train on one split and score the other after every epoch.

    Args:
        data: The splits.
        recipe: Head, loss and optimisation.
        seed: Determines initial weights, order of clips, mixup and dropout.
        metric: Selects the epoch.
        compute: Device, precision and threads.
        folder: Where to write checkpoints. An unfinished training found there is resumed.
        after_epoch: Called after every epoch.

    Raises:
        MissingError: the splits do not fit together, their width does not fit the heads, or the loss is not finite.
        UsageError: the device or precision is not available, or the unfinished training in `folder` has other settings.
    """
    for purpose, split in (("test on", data.test), ("select the epoch on", data.held_out)):
        if split is not None:
            _require_same_shape(data.train, split, purpose)
    width, classes = data.train.width, data.train.targets.shape[1]
    if recipe.head == "transformer" and width % recipe.heads:
        raise MissingError(f"features of width {width} cannot be read by {recipe.heads} heads")
    asked = checkpoints.describe_training(data, recipe, seed, metric, compute)
    with compute.require_available().apply_settings() as device:
        # Initial weights and each epoch's dropout have seeds of their own, so that resuming changes nothing.
        torch.manual_seed(derive_seed(seed, "init"))
        model = build_head(recipe, width, classes).to(device)
        # The learning rate is set before every step. Fused: one kernel updates all parameters, on a CPU as well.
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=recipe.weight_decay, fused=True)
        state = TrainingState(model, optimizer, [], [])
        if folder is not None:
            checkpoints.resume_training(folder, asked, state)
        train_split, test_split = data.train.to_device(device), data.test.to_device(device)
        test_targets = data.test.targets.numpy().astype(np.int64)
        for number in range(len(state.epochs) + 1, recipe.epochs + 1):
            torch.manual_seed(derive_seed(seed, "dropout", number))
            plans = plan_epoch(seed, number, len(train_split.clips), recipe)
            try:
                train_loss = train_one_epoch(model, optimizer, train_split, recipe, number, plans, compute)
                # Scoring samples no random numbers, so it changes nothing in the epochs that follow.
                logits = _require_finite(compute_logits(model, test_split, recipe, compute), number)
            except FloatingPointError as error:
                raise MissingError(_describe_stop(error, state.saved, folder)) from error
            epoch = Epoch(
                number,
                train_loss,
                all_scores(to_probabilities(logits, recipe), test_targets, data.segments),
                None if data.held_out is None else _score_held_out(model, data.held_out, recipe, compute),
            )
            state.epochs.append(epoch)
            state.logits.append(logits)
            if folder is not None:
                checkpoints.save_training(folder, asked, state, _select_epoch(state.epochs, metric))
            if after_epoch is not None:
                after_epoch(epoch)
        selected = _select_epoch(state.epochs, metric)
        if folder is not None:
            checkpoints.save_readouts(folder, asked, state, selected)
    predictions = [to_probabilities(logits, recipe) for logits in state.logits]
    return TrainingResult(state.epochs, predictions, model.eval(), selected)


def train_one_epoch(
    model: Head,
    optimizer: torch.optim.Optimizer,
    split: Sequences,
    recipe: Recipe,
    number: int,
    plans: Sequence[BatchPlan],
    compute: Compute = ON_CPU,
) -> float:
    """Take one optimizer step per batch plan; returns the mean loss of the batches.

    Args:
        model: Changed in place.
        optimizer: Its learning rate is set before every step.
        split: The clips to train on.
        recipe: Loss and learning rate.
        number: Number of the epoch, from 1.
        plans: The batches.
        compute: Precision of the matrix products.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    losses = []
    for index, plan in enumerate(plans):
        batch = split.make_batch(plan, model.sees_padding)
        rate = learning_rate(
            (number - 1) * len(plans) + index, len(plans), recipe.epochs, recipe.warmup_epochs, recipe.learning_rate
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with compute.autocast():
            logits = model.forward_packed(batch.features.to(device), batch.lengths)
        # The loss is computed in fp32, also if the products above are not.
        loss = compute_loss(recipe.loss, logits.float(), batch.targets.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    # Read once an epoch: reading each would make the host wait for a GPU at every step.
    total = 0.0
    for step, value in enumerate(torch.stack(losses).tolist(), start=1):
        if not math.isfinite(value):
            raise FloatingPointError(f"epoch {number}, step {step}: the loss is {value}")
        # One by one: since Python 3.12, sum() rounds in another way.
        total += value
    # As the release: the mean of batches, in which a smaller last batch counts as much as the others.
    return total / len(plans)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, warmup_epochs: int, peak: float) -> float:
    """Learning rate of a step: linear warm-up from 0, then a cosine to 0 (the release's scripts/train.py).

    Args:
        step: Number of the step in the training, from 0.
        steps_per_epoch: Batches per epoch.
        epochs: All epochs, warm-up included.
        warmup_epochs: Epochs of warm-up.
        peak: Rate at the end of the warm-up.
    """
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        # The first step has rate 0 and changes no weight, as in the release.
        return peak * step / warmup
    # A scheduler also asks for the rate after the last step: max avoids 0 / 0 in a recipe of warm-up alone.
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def compute_loss(
    kind: Focal | CrossEntropy | Bce, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean loss of a batch; targets may be soft (mixup)."""
    if isinstance(kind, CrossEntropy):
        # Targets are probabilities, not label ids, because mixup makes them soft.
        return functional.cross_entropy(logits, targets)
    if isinstance(kind, Bce):
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return focal_loss(logits, targets, kind.alpha, kind.gamma)


def focal_loss(
    logits: Float[Tensor, "B K"], targets: Float[Tensor, "B K"], alpha: float, gamma: float
) -> Float[Tensor, ""]:
    """Mean over all entries of alpha (1 - pt)^gamma BCE with pt = exp(-BCE), as the release's scripts/train.py.

    Two differences from Lin et al. 2017 follow the release: alpha weighs positives and negatives alike, and soft targets go
    through the same formula, where exp(-BCE) is no longer a probability.
    """
    bce = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # For a hard target BCE is -log(pt), so exp(-BCE) is pt, the probability given to what is true. (1 - pt)^gamma makes
    # entries that are predicted well count less.
    return (alpha * (1 - (-bce).exp()) ** gamma * bce).mean()


def predict_probabilities(
    model: Head, split: Sequences, recipe: Recipe, compute: Compute = ON_CPU
) -> Float64[np.ndarray, "N K"]:
    """Compute the class probabilities of every clip."""
    return to_probabilities(compute_logits(model, split, recipe, compute), recipe)


@torch.inference_mode()
def compute_logits(model: Head, split: Sequences, recipe: Recipe, compute: Compute) -> Float32[Tensor, "N K"]:
    """Compute the logits of every clip, without dropout; returned on the CPU in fp32."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for start in range(0, len(split.clips), recipe.batch_size):
        # In the split's order and without mixup. Clips do not affect each other, so the batch size only changes the speed.
        batch = split.make_batch(BatchPlan(tuple(range(start, min(start + recipe.batch_size, len(split.clips))))))
        with compute.autocast():
            logits.append(model.forward_packed(batch.features.to(device), batch.lengths))
    return torch.cat(logits).float().cpu()


def to_probabilities(logits: Float32[Tensor, "N K"], recipe: Recipe) -> Float64[np.ndarray, "N K"]:
    """Softmax over the classes if the loss is cross-entropy, else a sigmoid per class."""
    exact = logits.double()  # in fp32 a sigmoid of large logits rounds to 1, and ranks them as equal
    return (exact.softmax(1) if isinstance(recipe.loss, CrossEntropy) else exact.sigmoid()).numpy()


def best_epoch_on_test(epochs: Sequence[Epoch], metric: Metric) -> Epoch:
    """Return the epoch with the best test score, the rule of the published numbers; ties go to the earliest."""
    # max returns the first of equal items.
    return max(epochs, key=lambda epoch: epoch.scores[metric])


def _select_epoch(epochs: Sequence[Epoch], metric: Metric) -> Epoch:
    """Return the best epoch on held-out clips or, without them, on the test split; ties go to the earliest."""
    # With held-out clips, no choice is made on the test split.
    return max(epochs, key=lambda epoch: (epoch.scores if epoch.held_out is None else epoch.held_out)[metric])


def _score_held_out(model: Head, held_out: Sequences, recipe: Recipe, compute: Compute) -> dict[str, float]:
    targets = held_out.targets.numpy().astype(np.int64)
    return all_scores(predict_probabilities(model, held_out, recipe, compute), targets)


def _require_finite(logits: Float32[Tensor, "N K"], number: int) -> Float32[Tensor, "N K"]:
    """Return the test logits of epoch `number`.

    The loss is checked before each step, so only the last step of an epoch can leave weights that nothing has checked.

    Raises:
        FloatingPointError: some logits are not finite.
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"epoch {number}, its last step: the weights are not finite")
    return logits


def _require_same_shape(train: Sequences, other: Sequences, purpose: str) -> None:
    """
    Raises:
        MissingError: a split is empty, or the two differ in width or number of classes.
    """
    if not train.clips or not other.clips:
        raise MissingError(f"{len(train.clips)} clips to train on, {len(other.clips)} to {purpose}: both need clips")
    if train.width != other.width:
        raise MissingError(f"features of two widths: {train.width} to train on, {other.width} to {purpose}")
    classes, others = train.targets.shape[1], other.targets.shape[1]
    if classes != others:
        raise MissingError(
            f"two class counts: {classes} to train on, {others} to {purpose}: the splits do not belong together"
        )


def _describe_stop(error: FloatingPointError, saved: int, folder: CheckpointFolder | None) -> str:
    kept = ""
    if folder is not None and saved:
        kept = f"; the state after epoch {saved} is kept in {folder.path / checkpoints.STATE}"
    return (
        f"training stopped in {error}: look for a learning rate that is too high or features that are not finite{kept}"
    )
