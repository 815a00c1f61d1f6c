"""Trainings computed together give what each gives alone, up to rounding, and do not affect each other."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.planted import planted, recipe
from builders.waits import Waits
from torch.multiprocessing.reductions import StorageWeakRef

from repro.core.errors import MissingError, ReproError, UsageError
from repro.readout import checkpoints
from repro.readout.checkpoints import CheckpointFolder, Epoch, TrainingData
from repro.readout.compute import Compute
from repro.readout.heads import build_head
from repro.readout.optimisation import open_optimizer
from repro.readout.recipe import CrossEntropy, Recipe
from repro.readout.sequences import split_held_out
from repro.readout.stack import DropoutMasks, HeadStack, TokenLayout, choose_stack_size
from repro.readout.train import (
    Training,
    TrainingResult,
    group_trainings,
    train_one_epoch,
    train_readout,
    train_together,
)

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = recipe(epochs=3, layers=2, dropout=0.3)
TRAIN, TEST = planted(21, 0.0, 1), planted(10, 0.3, 2)
SEEDS = [Training(TrainingData(TRAIN, TEST), seed) for seed in (3, 4, 5)]
CELLS = [Training(TrainingData(planted(21, 0.0, n), planted(10, 0.3, n)), 3) for n in (1, 6)]


def require_results(outcomes: list[TrainingResult | ReproError]) -> list[TrainingResult]:
    results = [outcome for outcome in outcomes if isinstance(outcome, TrainingResult)]
    assert len(results) == len(outcomes), outcomes
    return results


def train_alone(training: Training, asked: Recipe = RECIPE) -> TrainingResult:
    return train_readout(training.data, asked, training.seed)


def assert_alike(ours: TrainingResult, theirs: TrainingResult) -> None:
    for a, b in zip(ours.epochs, theirs.epochs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5)
    for a, b in zip(ours.predictions, theirs.predictions, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # Not the weights: AdamW divides by a gradient's size, so rounding alone moves a weight whose gradient is 0, as keys' biases.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": CrossEntropy(name="cross_entropy"), "mixup": 0.0},
        {"layers": 1, "dropout": 0.0},
        {"head": "linear", "layers": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("trainings", [SEEDS, CELLS], ids=["seeds", "cells"])
def test_together_they_learn_what_each_learns_alone(trainings: list[Training], changes: dict[str, Any]) -> None:
    asked = recipe(**({"epochs": 3, "layers": 2, "dropout": 0.3} | changes))
    together = require_results(train_together(trainings, asked))
    assert {result.together for result in together} == {len(trainings)}
    for result, training in zip(together, trainings, strict=True):
        assert_alike(result, train_alone(training, asked))
    # Otherwise the comparison would not notice exchanged heads.
    assert np.abs(together[0].predictions[-1] - together[1].predictions[-1]).max() > 1e-3


def test_each_is_scored_on_its_own_held_out_clips() -> None:
    trainings = []
    for seed in (3, 4):
        train, held_out = split_held_out(TRAIN, seed)
        trainings.append(Training(TrainingData(train, TEST, held_out), seed))
    together = require_results(train_together(trainings, RECIPE))
    for result, training in zip(together, trainings, strict=True):
        alone = train_alone(training)
        assert [e.held_out for e in result.epochs] == [e.held_out for e in alone.epochs]
        assert result.selected.number == alone.selected.number


def test_masks_of_a_head_are_the_same_in_every_stack() -> None:
    """Also next to a batch with more and longer clips, bit for bit."""
    lengths, other = (3, 7, 2), (9, 4, 11)

    def sample(*batches: tuple[int, ...]) -> DropoutMasks:
        generators = [torch.Generator().manual_seed(5 + sum(own)) for own in batches]
        return DropoutMasks.sample(TokenLayout.of_clips(batches, torch.device("cpu")), RECIPE, 16, generators)

    alone, stacked = sample(lengths), sample(other, lengths)
    tokens = 3 + sum(lengths)
    assert torch.equal(stacked.by_token[1, :tokens], alone.by_token[0])
    assert torch.equal(stacked.by_cls_token[1], alone.by_cls_token[0])
    assert torch.equal(stacked.by_pair[1, ..., :8, :8], alone.by_pair[0])
    assert torch.equal(stacked.by_cls_pair[1, ..., :8], alone.by_cls_pair[0])
    assert alone.by_token.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((alone.by_token == 0).float().mean()) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("size", [1, 3])
def test_an_epoch_waits_for_the_device_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch, "readout.stack", "readout.train")
    heads = [build_head(RECIPE, TRAIN.width, TRAIN.targets.shape[1]) for _ in range(size)]
    stack = HeadStack.of_heads(heads, RECIPE)
    optimizer = open_optimizer(stack, RECIPE)
    # What is kept for all steps is copied by the first one.
    train_one_epoch(stack, optimizer, [TRAIN] * size, range(size), RECIPE, 1)
    waits.uploads = 0
    with waits:
        losses = train_one_epoch(stack, optimizer, [TRAIN] * size, range(size), RECIPE, 2)
    # Losses, after the last step.
    assert waits.found == ["tolist"]
    # At each step: features of each batch, where its clips' tokens are, and targets.
    assert waits.uploads == len(losses) * (size + 2)


def test_one_that_diverges_fails_alone() -> None:
    broken = Training(
        TrainingData(replace(TRAIN, features=(TRAIN.features[0] * math.nan, *TRAIN.features[1:])), TEST), 4
    )
    first, failed, last = train_together([SEEDS[0], broken, SEEDS[2]], RECIPE)
    assert isinstance(failed, MissingError)
    assert "training stopped in epoch 1, step" in str(failed)
    for result, training in zip(require_results([first, last]), (SEEDS[0], SEEDS[2]), strict=True):
        assert_alike(result, train_alone(training))


def test_one_that_cannot_start_fails_alone(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    changed = recipe(epochs=3, layers=2, learning_rate=0.1)
    leave_unfinished(changed, folder)
    refused, trained = train_together([replace(SEEDS[0], folder=folder), SEEDS[1]], RECIPE)
    assert isinstance(refused, UsageError)
    assert "recipe.learning_rate was 0.1" in str(refused)
    assert_alike(*require_results([trained]), train_alone(SEEDS[1]))


def open_folder(path: Path) -> CheckpointFolder:
    path.mkdir(exist_ok=True)
    return CheckpointFolder(path, {"row": "made up"}, pytest.fail)


def leave_unfinished(asked: Recipe, folder: CheckpointFolder, seed: int = 3, stop_after: int = 1) -> None:
    """Leave an unfinished training in `folder`."""

    def stop(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "STATE_EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train_readout(TrainingData(TRAIN, TEST), asked, seed, folder=folder, after_epoch=stop)


def test_trainings_that_stopped_at_several_epochs_resume(tmp_path: Path) -> None:
    trainings = [replace(one, folder=open_folder(tmp_path / str(one.seed))) for one in SEEDS]
    for training, epochs in zip(trainings, (1, 2), strict=False):
        assert training.folder is not None
        leave_unfinished(RECIPE, training.folder, training.seed, epochs)
    reported: list[tuple[int, int]] = []
    results = require_results(
        train_together(trainings, RECIPE, after_epoch=lambda index, epoch: reported.append((index, epoch.number)))
    )
    assert sorted(reported) == [(0, 2), (0, 3), (1, 3), (2, 1), (2, 2), (2, 3)]
    for result, training in zip(results, SEEDS, strict=True):
        assert_alike(result, train_alone(training))


def test_too_little_memory_halves_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a training, which continues from its saved state. Nothing of the larger group is kept in memory."""
    trainings = [replace(one, folder=open_folder(tmp_path / str(one.seed))) for one in SEEDS]
    real, sizes, failed = HeadStack.compute_logits, [], list[StorageWeakRef]()

    def fill(stack: HeadStack, *arguments: Any) -> Any:
        sizes.append(len(stack))
        if len(stack) > 1 and len(sizes) > 6:
            failed.append(StorageWeakRef(stack.weights["cls_token"].untyped_storage()))
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert all(storage.expired() for storage in failed)
        return real(stack, *arguments)

    monkeypatch.setattr(checkpoints, "STATE_EVERY", 0.0)
    monkeypatch.setattr(HeadStack, "compute_logits", fill)
    results = require_results(train_together(trainings, RECIPE))
    assert sizes[:7] == [3] * 7
    assert set(sizes[8:]) == {1, 2}
    monkeypatch.setattr(HeadStack, "compute_logits", real)
    for result, training in zip(results, SEEDS, strict=True):
        assert_alike(result, train_alone(training))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_a_lone_training_without_memory_is_refused(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fill(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(HeadStack, "compute_logits", fill)
    with pytest.raises(MissingError, match=r"^training: out of memory on cpu.*: its batches .* --device") as refused:
        train_alone(SEEDS[0])
    assert ("(2.50 GiB more needed)" in str(refused.value)) == isinstance(error, torch.OutOfMemoryError)
    monkeypatch.setattr(HeadStack, "compute_logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # no other error is taken for it
        train_alone(SEEDS[0])


def test_trainings_are_grouped_by_shape_and_number() -> None:
    wider = replace(TRAIN, features=tuple(torch.cat([f, f], dim=1) for f in TRAIN.features))
    other = Training(TrainingData(wider, replace(TEST, features=tuple(f.repeat(1, 2) for f in TEST.features))), 3)
    trainings = [SEEDS[0], other, *SEEDS[1:], replace(other, seed=4)]
    assert group_trainings(trainings, RECIPE) == [[0], [2], [3], [1], [4]]
    assert group_trainings(trainings, RECIPE, Compute(together=2)) == [[0, 2], [3], [1, 4]]
    assert group_trainings(trainings, RECIPE, Compute(together=9)) == [[0, 2, 3], [1, 4]]


def test_a_gpu_computes_together_what_half_of_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(layers=6, batch_size=16, max_length=150)
    parameters = sum(p.numel() for p in build_head(asked, 64, 12).parameters())
    found = []
    for free in (1e6, 2e9, 8e9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 80e9))
        found.append(choose_stack_size(Compute("cuda"), asked, 64, 12))
        assert found[-1] == 1 or found[-1] * 5 * 4 * parameters < free / 2
    assert found[0] == 1
    assert found[2] == pytest.approx(4 * found[1], abs=4)
    assert choose_stack_size(Compute("cuda", together=3), asked, 64, 12) == 3
    assert choose_stack_size(Compute("cpu"), asked, 64, 12) == 1
