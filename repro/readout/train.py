"""Train a readout and score it after every epoch (the release's scripts/train.py).

Clips are not padded (batches are packed), features are held in memory, and a killed training goes on from its last epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from repro.core.errors import MissingError
from repro.readout import checkpoints
from repro.readout.compute import ON_CPU, Compute
from repro.readout.draws import Draw, derived, epoch_draws
from repro.readout.heads import Head, new_head
from repro.readout.keeping import Epoch, Kept, asked_of, keep, resumed, write_weights
from repro.readout.losses import loss
from repro.readout.metrics import Segments, all_scores
from repro.readout.recipe import CrossEntropy, Metric, Recipe
from repro.readout.schedule import learning_rate
from repro.readout.sequences import Sequences


@dataclass(frozen=True, slots=True)
class Trained:
    epochs: list[Epoch]
    predictions: list[Float64[np.ndarray, "N K"]]
    """Test scores after each epoch."""
    model: Head
    """After the last epoch."""
    selected: Epoch
    """The best on the held-out part, or where there is none on the test split (docs/deviations.md 2)."""


def best(epochs: list[Epoch], metric: Metric) -> Epoch:
    """The best epoch on the test split, the first of equals."""
    return max(epochs, key=lambda epoch: epoch.scores[metric])


def train(
    train_split: Sequences,
    test_split: Sequences,
    recipe: Recipe,
    seed: int,
    *,
    metric: Metric = "map_micro",
    held_out: Sequences | None = None,
    segments: Segments | None = None,
    compute: Compute = ON_CPU,
    kept: Kept | None = None,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train on one split, score on the other after every epoch. Epochs already done in `kept` are not done again.

    Raises:
        MissingError: the splits do not go together, their width does not suit the heads, or the loss turns NaN.
        UsageError: a device or precision not to be had, or the unfinished training in `kept` began otherwise.
    """
    for what, other in (("test on", test_split), ("pick the epoch on", held_out)):
        if other is not None:
            _refuse_misfits(train_split, other, what)
    width, classes = train_split.width, train_split.targets.shape[1]
    if recipe.head == "transformer" and width % recipe.heads:
        raise MissingError(f"features of width {width} cannot be read by {recipe.heads} heads")
    asked = asked_of(train_split, test_split, held_out, recipe, seed, metric, compute)
    with compute.checked().settings() as device:
        torch.manual_seed(derived(seed, "init"))
        model = new_head(recipe, width, classes).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=recipe.weight_decay, fused=True)
        learned, tested = train_split.on(device), test_split.on(device)
        targets = test_split.targets.numpy().astype(np.int64)
        epochs, logits = ([], []) if kept is None else resumed(kept, asked, model, optimizer)
        for number in range(len(epochs) + 1, recipe.epochs + 1):
            torch.manual_seed(derived(seed, "dropout", number))
            draws = epoch_draws(seed, number, len(learned.clips), recipe)
            try:
                train_loss = one_epoch(model, optimizer, learned, recipe, number, draws, compute)
                logits.append(_finite(split_logits(model, tested, recipe, compute), number))
            except FloatingPointError as error:
                raise MissingError(_stopped(error, len(epochs), kept)) from error
            epoch = Epoch(
                number,
                train_loss,
                all_scores(probabilities(logits[-1], recipe), targets, segments),
                None if held_out is None else _held_out_scores(model, held_out, recipe, compute),
            )
            epochs.append(epoch)
            if kept is not None:
                keep(kept, asked, epochs, logits, _selected(epochs, metric), model, optimizer)
            if after_epoch is not None:
                after_epoch(epoch)
        selected = _selected(epochs, metric)
        if kept is not None:
            write_weights(kept, checkpoints.LAST, asked, epochs[-1].number, model)
    return Trained(epochs, [probabilities(values, recipe) for values in logits], model.eval(), selected)


def one_epoch(
    model: Head,
    optimizer: torch.optim.Optimizer,
    split: Sequences,
    recipe: Recipe,
    number: int,
    draws: list[Draw],
    compute: Compute = ON_CPU,
) -> float:
    """Take a step a draw; the mean loss of the batches.

    Raises:
        FloatingPointError: the loss is no number; where, and what it is.
    """
    model.train()
    device = next(model.parameters()).device
    total = 0.0
    for step, draw in enumerate(draws):
        batch = split.batch(draw, model.sees_padding)
        rate = learning_rate(
            (number - 1) * len(draws) + step, len(draws), recipe.epochs, recipe.warmup_epochs, recipe.learning_rate
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with compute.autocast():
            logits = model.packed(batch.features.to(device), batch.lengths)
        value = loss(recipe.loss, logits.float(), batch.targets.to(device))
        if not torch.isfinite(value):
            raise FloatingPointError(f"epoch {number}, step {step + 1}: the loss is {value.item()}")
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += value.item()
    return total / len(draws)


def predict(
    model: Head,
    split: Sequences,
    recipe: Recipe,
    compute: Compute = ON_CPU,
) -> Float64[np.ndarray, "N K"]:
    """Probabilities of every clip."""
    return probabilities(split_logits(model, split, recipe, compute), recipe)


@torch.inference_mode()
def split_logits(model: Head, split: Sequences, recipe: Recipe, compute: Compute) -> Float32[Tensor, "N K"]:
    """Logits of every clip, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for start in range(0, len(split.clips), recipe.batch_size):
        batch = split.batch(Draw(tuple(range(start, min(start + recipe.batch_size, len(split.clips))))))
        with compute.autocast():
            logits.append(model.packed(batch.features.to(device), batch.lengths))
    return torch.cat(logits).float().cpu()


def probabilities(logits: Float32[Tensor, "N K"], recipe: Recipe) -> Float64[np.ndarray, "N K"]:
    """Softmax where the loss is cross-entropy, else a sigmoid a class."""
    exact = logits.double()
    return (exact.softmax(1) if isinstance(recipe.loss, CrossEntropy) else exact.sigmoid()).numpy()


def _held_out_scores(model: Head, held_out: Sequences, recipe: Recipe, compute: Compute) -> dict[str, float]:
    targets: Int64[np.ndarray, "N K"] = held_out.targets.numpy().astype(np.int64)
    return all_scores(predict(model, held_out, recipe, compute), targets)


def _finite(logits: Float32[Tensor, "N K"], number: int) -> Float32[Tensor, "N K"]:
    """`logits`, which the last step of an epoch may have spoilt after its loss was computed.

    Raises:
        FloatingPointError: some are no numbers.
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"epoch {number}, its last step: the weights are no numbers any more")
    return logits


def _selected(epochs: list[Epoch], metric: Metric) -> Epoch:
    """The first of equals."""
    return max(epochs, key=lambda epoch: (epoch.scores if epoch.held_out is None else epoch.held_out)[metric])


def _refuse_misfits(train_split: Sequences, other: Sequences, what: str) -> None:
    if not train_split.clips or not other.clips:
        raise MissingError(
            f"{len(train_split.clips)} clips to learn from, {len(other.clips)} to {what}: none is too few"
        )
    if train_split.width != other.width:
        raise MissingError(f"features of two widths: {train_split.width} to learn from, {other.width} to {what}")
    classes, others = train_split.targets.shape[1], other.targets.shape[1]
    if classes != others:
        raise MissingError(
            f"two class counts: {classes} to learn from, {others} to {what}: the splits do not belong together"
        )


def _stopped(error: FloatingPointError, done: int, kept: Kept | None) -> str:
    good = f"; the state after epoch {done} is kept in {kept.folder / checkpoints.STATE}" if kept and done else ""
    return (
        f"training stopped in {error}: look for a learning rate that is too high or features that are not finite{good}"
    )
