"""Train readouts and score them after every epoch (the release's scripts/train.py).

Unlike the release, clips are not padded (stack.py), features are not read again every epoch, and a killed training resumes
(checkpoints.py). Trainings of one shape, as the seeds of a row or the cells of a grid, can be computed together: each samples
what it would sample alone and ends with the same weights up to rounding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from repro.backbones.device import describe_shortage, is_out_of_memory, upload
from repro.core.errors import MissingError, ReproError
from repro.readout import checkpoints
from repro.readout.checkpoints import CheckpointFolder, Epoch, TrainingData, TrainingState
from repro.readout.compute import ON_CPU, Compute
from repro.readout.heads import Head, build_head
from repro.readout.metrics import all_scores
from repro.readout.optimisation import compute_loss, learning_rate, open_optimizer
from repro.readout.recipe import Metric, Recipe
from repro.readout.sequences import BatchPlan, Sequences, derive_seed, plan_epoch
from repro.readout.stack import HeadStack, choose_stack_size


@dataclass(frozen=True, slots=True)
class Training:
    """What distinguishes one training from others of the same recipe."""

    data: TrainingData
    seed: int
    """Determines initial weights, order of clips, mixup and dropout."""
    folder: CheckpointFolder | None = None
    """Where to write checkpoints. An unfinished training found there is resumed."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training."""

    epochs: list[Epoch]
    predictions: list[Float64[np.ndarray, "N K"]]
    """Test probabilities after each epoch."""
    logits: list[Float32[np.ndarray, "N K"]]
    """What they are computed from."""
    model: Head
    """After the last epoch."""
    selected: Epoch
    """The best epoch on the held-out clips or, without them, on the test split (docs/deviations.md 2)."""
    together: int = 1
    """How many trainings were computed together with it, itself included."""


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
        after_epoch: Called after every epoch, once it is saved.

    Raises:
        MissingError: the splits do not fit together, their width does not fit the heads, or the loss is not finite.
        UsageError: the device or precision is not available, or the unfinished training in `folder` has other settings.
    """
    report = None if after_epoch is None else lambda _, epoch: after_epoch(epoch)
    (result,) = train_together(
        [Training(data, seed, folder)], recipe, metric=metric, compute=compute, after_epoch=report
    )
    if isinstance(result, ReproError):
        raise result
    return result


def group_trainings(trainings: Sequence[Training], recipe: Recipe, compute: Compute = ON_CPU) -> list[list[int]]:
    """Divide trainings of one recipe into groups for train_together: of one shape, as many as `compute` says.

    Returns:
        Indices of the trainings of each group.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, training in enumerate(trainings):
        splits = training.data.train, training.data.test
        # One step of a stack is a step of each: of one shape, at the same step of the same number of steps.
        # Not lengths of clips: packed batches of other lengths are padded to each other (HeadStack).
        shape = tuple(size for split in splits for size in (len(split.clips), *_shape(split)))
        alike.setdefault(shape, []).append(index)
    groups = []
    for shape, indices in alike.items():
        most = choose_stack_size(compute, recipe, *shape[1:3])
        groups += [indices[start : start + most] for start in range(0, len(indices), most)]
    return groups


def train_together(
    trainings: Sequence[Training],
    recipe: Recipe,
    *,
    metric: Metric = "map_micro",
    compute: Compute = ON_CPU,
    after_epoch: Callable[[int, Epoch], None] | None = None,
) -> list[TrainingResult | ReproError]:
    """Train a group of readouts (group_trainings) as one program.

    Args:
        trainings: Data, seed and checkpoints of each.
        recipe: Head, loss and optimisation of all.
        metric: Selects the epoch.
        compute: Device, precision and threads.
        after_epoch: Called with the index of the training after each of its epochs.

    Returns:
        For each training its result, or why it failed; the others are not affected.

    Raises:
        UsageError: the device or precision is not available.
    """
    with compute.require_available().apply_settings() as device:
        run = _Run(trainings, recipe, metric, compute, device, after_epoch)
        outcomes = run.train_members(range(len(trainings)))
    return [outcomes[index] for index in range(len(trainings))]


@dataclass(slots=True)
class _Member:
    """A training of a stack, with its results so far."""

    index: int
    training: Training
    asked: dict[str, Any]
    """What describe_training says of it."""
    state: TrainingState


@dataclass(frozen=True, slots=True)
class _Run:
    """What all trainings of a call share."""

    trainings: Sequence[Training]
    recipe: Recipe
    metric: Metric
    compute: Compute
    device: torch.device
    after_epoch: Callable[[int, Epoch], None] | None

    def train_members(self, indices: Sequence[int]) -> dict[int, TrainingResult | ReproError]:
        """Train as one program, or as several where trainings resume at several epochs or memory is short."""
        outcomes, groups = self.open_trainings(indices)
        while groups:
            members = groups.pop(0)
            own = [member.index for member in members]
            try:
                outcomes |= self.train_stack(members)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(own) == 1:
                    outcomes[own[0]] = MissingError(
                        f"training: out of memory on {self.device}{describe_shortage(error, self.device)}: its batches are part of "
                        "its result and are not made smaller: end other programs on the device, use fewer --jobs or another --device; "
                        "the same command resumes"
                    )
                    continue
            # Outside the handler, and without the members: the exception and their states would keep what fills the memory.
            del members
            torch.cuda.empty_cache()
            # Halves, as for windows of an extraction: what fits is found in a few tries.
            half = len(own) // 2
            for part in (own[:half], own[half:]):
                # Opened again: from the last saved states, or from the beginning.
                outcomes |= self.train_members(part)
        return outcomes

    def open_trainings(
        self, indices: Sequence[int]
    ) -> tuple[dict[int, TrainingResult | ReproError], list[list[_Member]]]:
        """Open trainings; returns why some failed, and the others in groups that continue with the same epoch."""
        failed: dict[int, TrainingResult | ReproError] = {}
        # A process killed while it saved them may have saved an epoch of some alone.
        alike: dict[int, list[_Member]] = {}
        for index in indices:
            try:
                member = self.open_training(index)
            except ReproError as error:
                failed[index] = error
            else:
                alike.setdefault(len(member.state.epochs), []).append(member)
        return failed, list(alike.values())

    def open_training(self, index: int) -> _Member:
        """Initialise a training, or read where it was interrupted.

        Raises:
            MissingError: the splits do not fit together, or their width does not fit the heads.
            UsageError: the unfinished training in its folder has other settings.
        """
        training, recipe = self.trainings[index], self.recipe
        data, folder = training.data, training.folder
        require_matching(data)
        width, classes = data.train.width, data.train.targets.shape[1]
        if recipe.head == "transformer" and width % recipe.heads:
            raise MissingError(f"features of width {width} cannot be read by {recipe.heads} heads")
        asked = checkpoints.describe_training(data, recipe, training.seed, self.metric, self.compute)
        state = None if folder is None else checkpoints.resume_training(folder, asked)
        if state is None:
            # Initial weights and each epoch's dropout have seeds of their own, so that resuming changes nothing.
            torch.manual_seed(derive_seed(training.seed, "init"))
            state = TrainingState.start(build_head(recipe, width, classes).state_dict())
        return _Member(index, training, asked, state)

    def train_stack(self, members: list[_Member]) -> dict[int, TrainingResult | ReproError]:
        """Train members as one program. One whose loss is not finite fails alone: its values enter no other's."""
        recipe, compute = self.recipe, self.compute
        stack = HeadStack(_stack_tensors([member.state.weights for member in members], self.device), recipe)
        optimizer = open_optimizer(stack, recipe)
        for kind in checkpoints.MOMENTS:
            moments = _stack_tensors([member.state.moments[kind] for member in members], self.device)
            for name, parameter in stack.weights.items():
                # The number of steps is one for all.
                optimizer.state[parameter][kind] = moments[name][0] if kind == "step" else moments[name]
        for place, member in enumerate(members):
            # From here on what the stack changes.
            member.state.weights = stack.state_of(place)
            member.state.moments = {
                kind: {
                    name: optimizer.state[parameter][kind]
                    if kind == "step"
                    else optimizer.state[parameter][kind][place]
                    for name, parameter in stack.weights.items()
                }
                for kind in checkpoints.MOMENTS
            }
        failed: dict[int, TrainingResult | ReproError] = {}
        train_splits = _copy_to_device([member.training.data.train for member in members], self.device)
        test_splits = _copy_to_device([member.training.data.test for member in members], self.device)
        seeds = [member.training.seed for member in members]
        for number in range(len(members[0].state.epochs) + 1, recipe.epochs + 1):
            losses = train_one_epoch(stack, optimizer, train_splits, seeds, recipe, number, compute)
            # Scoring samples no random numbers, so it changes nothing in the epochs that follow.
            test_logits = compute_logits(stack, test_splits, recipe, compute)
            for place, member in enumerate(members):
                if member.index in failed:
                    continue
                try:
                    train_loss = _average_losses([step[place] for step in losses], number)
                    _require_finite(test_logits[place], number)
                except FloatingPointError as error:
                    failed[member.index] = MissingError(_describe_stop(error, member))
                    continue
                self.finish_epoch(member, number, train_loss, test_logits[place], stack.select(place))
            if len(failed) == len(members):
                break
        return failed | {
            member.index: self.finish_training(
                member, stack.to_head(place, *_shape(member.training.data.train)), len(members)
            )
            for place, member in enumerate(members)
            if member.index not in failed
        }

    def finish_epoch(
        self, member: _Member, number: int, train_loss: float, logits: Float32[Tensor, "N K"], stack: HeadStack
    ) -> None:
        """Score and save an epoch of one training; `stack` holds its head alone."""
        data, state, folder = member.training.data, member.state, member.training.folder
        held_out = None
        if data.held_out is not None:
            (found,) = compute_logits(stack, [data.held_out], self.recipe, self.compute)
            held_out = _score_logits(found, data.held_out, self.recipe)
        # Segments are of the test split's classes alone: held-out clips select the epoch, and need the row's metric only.
        scores = _score_logits(logits, data.test, self.recipe, data.segments)
        state.epochs.append(Epoch(number, train_loss, scores, held_out))
        state.logits.append(logits)
        selected = _select_epoch(state.epochs, self.metric)
        if selected is state.epochs[-1]:
            # A copy on the weights' device: they change in place, and a GPU need not wait for it.
            state.selected = {name: tensor.clone() for name, tensor in state.weights.items()}
        if folder is not None:
            checkpoints.save_training(folder, member.asked, state, selected)
        if self.after_epoch is not None:
            self.after_epoch(member.index, state.epochs[-1])

    def finish_training(self, member: _Member, head: Head, together: int) -> TrainingResult:
        """Write the weights of a finished training and return its result."""
        state, folder = member.state, member.training.folder
        selected = _select_epoch(state.epochs, self.metric)
        if folder is not None:
            checkpoints.save_readouts(folder, member.asked, state, selected)
        predictions = [activate_logits(logits, self.recipe) for logits in state.logits]
        logits = [values.numpy() for values in state.logits]
        return TrainingResult(state.epochs, predictions, logits, head, selected, together)


def _shape(split: Sequences) -> tuple[int, int]:
    """Width and number of classes; width 0 of a split without clips, which is refused later."""
    return split.width if split.clips else 0, split.targets.shape[1]


def _stack_tensors(groups: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.stack([group[name].to(device) for group in groups]) for name in groups[0]}


def _copy_to_device(splits: Sequence[Sequences], device: torch.device) -> list[Sequences]:
    """Copy splits to a GPU where they fit; one that several trainings share is copied once."""
    copies = {id(split): split.to_device(device) for split in splits}
    return [copies[id(split)] for split in splits]


def train_one_epoch(
    stack: HeadStack,
    optimizer: torch.optim.Optimizer,
    splits: Sequence[Sequences],
    seeds: Sequence[int],
    recipe: Recipe,
    number: int,
    compute: Compute = ON_CPU,
) -> list[list[float]]:
    """Take one optimizer step per batch; returns the loss of every step and head.

    Args:
        stack: Changed in place.
        optimizer: Of the stack's weights. Its learning rate is set before every step.
        splits: The clips that each head is trained on, equally many for all.
        seeds: Of each head: its batches, mixup and dropout.
        recipe: Loss and learning rate.
        number: Number of the epoch, from 1.
        compute: Precision of the matrix products.
    """
    plans = [plan_epoch(seed, number, len(split.clips), recipe) for seed, split in zip(seeds, splits, strict=True)]
    generators = [torch.Generator(stack.device).manual_seed(derive_seed(seed, "dropout", number)) for seed in seeds]
    losses, steps = [], len(plans[0])
    for step, chosen in enumerate(zip(*plans, strict=True)):
        batches = [split.make_batch(plan, stack.sees_padding) for split, plan in zip(splits, chosen, strict=True)]
        rate = learning_rate(
            (number - 1) * steps + step, steps, recipe.epochs, recipe.warmup_epochs, recipe.learning_rate
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with compute.autocast():
            # Generators sample dropout head by head, so a head's masks depend on its own seed and clips alone.
            logits = stack.compute_logits(batches, generators)
        targets = upload(torch.stack([batch.targets for batch in batches]), stack.device)
        # The losses are computed in fp32, also if the products above are not.
        loss = compute_loss(recipe.loss, logits.float(), targets)
        # The gradient of the sum: each head's is that of its own loss.
        loss.sum().backward()  # type: ignore[no-untyped-call]
        # AdamW acts on each element by itself: in a stack each head takes the step it would take alone.
        optimizer.step()
        losses.append(loss.detach())
    # Read once an epoch: reading each would make the host wait for a GPU at every step.
    read: list[list[float]] = torch.stack(losses).tolist()
    return read


def _average_losses(losses: Sequence[float], number: int) -> float:
    """Return the mean loss of an epoch's batches. As in the release, a smaller last batch counts as much as the others.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    total = 0.0
    for step, value in enumerate(losses, start=1):
        if not math.isfinite(value):
            raise FloatingPointError(f"epoch {number}, step {step}: the loss is {value}")
        # One by one: since Python 3.12, sum() rounds in another way.
        total += value
    return total / len(losses)


def predict_probabilities(
    model: Head, split: Sequences, recipe: Recipe, compute: Compute = ON_CPU
) -> Float64[np.ndarray, "N K"]:
    """Compute the class probabilities of every clip."""
    (logits,) = compute_logits(HeadStack.of_heads([model], recipe), [split], recipe, compute)
    return activate_logits(logits, recipe)


@torch.inference_mode()
def compute_logits(
    stack: HeadStack, splits: Sequence[Sequences], recipe: Recipe, compute: Compute
) -> list[Float32[Tensor, "N K"]]:
    """Compute the logits of every clip of each head's split, without dropout; returned on the CPU in fp32.

    The splits have equally many clips.
    """
    clips, logits = len(splits[0].clips), []
    for start in range(0, clips, recipe.batch_size):
        # In the split's order and without mixup. Clips do not affect each other, so the batch size only changes the speed.
        plan = BatchPlan(tuple(range(start, min(start + recipe.batch_size, clips))))
        # Heads that score the same split share its batch.
        batches = {id(split): split.make_batch(plan) for split in splits}
        with compute.autocast():
            logits.append(stack.compute_logits([batches[id(split)] for split in splits]))
    return list(torch.cat(logits, dim=1).float().cpu())


def activate_logits(logits: Float32[Tensor, "N K"], recipe: Recipe) -> Float64[np.ndarray, "N K"]:
    """Softmax over the classes if the loss is cross-entropy, else a sigmoid per class."""
    exact = logits.double()  # in fp32 a sigmoid of large logits rounds to 1, and ranks them as equal
    return (exact.softmax(1) if recipe.activation == "softmax" else exact.sigmoid()).numpy()


def best_epoch_on_test(epochs: Sequence[Epoch], metric: Metric) -> Epoch:
    """Return the epoch with the best test score, the rule of the published numbers; ties go to the earliest."""
    # max returns the first of equal items.
    return max(epochs, key=lambda epoch: epoch.scores[metric])


def _select_epoch(epochs: Sequence[Epoch], metric: Metric) -> Epoch:
    """Return the best epoch on held-out clips or, without them, on the test split; ties go to the earliest."""
    # With held-out clips, no choice is made on the test split.
    return max(epochs, key=lambda epoch: (epoch.scores if epoch.held_out is None else epoch.held_out)[metric])


def _score_logits(
    logits: Float32[Tensor, "N K"],
    split: Sequences,
    recipe: Recipe,
    segments: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    # Targets of a split are hard: mixup makes soft ones in batches alone.
    targets = split.targets.numpy().astype(np.int64)
    return all_scores(activate_logits(logits, recipe), targets, segments)


def _require_finite(logits: Float32[Tensor, "N K"], number: int) -> None:
    """Refuse test logits of epoch `number` that are not finite.

    The losses are those before each step, so only the last step of an epoch can leave weights that nothing has checked.

    Raises:
        FloatingPointError: some logits are not finite.
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"epoch {number}, its last step: the weights are not finite")


def require_matching(data: TrainingData) -> None:
    """Check that the splits of a training fit together.

    Raises:
        MissingError: a split is empty, or they differ in width or number of classes.
    """
    for purpose, split in (("test on", data.test), ("select the epoch on", data.held_out)):
        if split is not None:
            _require_same_shape(data.train, split, purpose)


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


def _describe_stop(error: FloatingPointError, member: _Member) -> str:
    kept, folder = "", member.training.folder
    if folder is not None and member.state.saved:
        kept = f"; the state after epoch {member.state.saved} is kept in {folder.path / checkpoints.STATE}"
    return (
        f"training stopped in {error}: look for a learning rate that is too high or features that are not finite{kept}"
    )
