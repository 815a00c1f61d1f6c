"""Packed batches change nothing but the time: the plain published loop learns the same."""

from pathlib import Path

import numpy as np
import published_loop
import pytest
import torch
from builders.planted import planted, recipe
from torch.utils.data import DataLoader

from repro.readout.checkpoints import TrainingData
from repro.readout.heads import Head, build_head
from repro.readout.metrics import all_scores
from repro.readout.optimisation import open_optimizer
from repro.readout.recipe import CrossEntropy, Recipe
from repro.readout.sequences import BatchPlan, Sequences, derive_seed, plan_epoch
from repro.readout.stack import HeadStack
from repro.readout.train import predict_probabilities, train_one_epoch, train_readout

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_epoch(
    model: Head,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    files: list[Path],
    split: Sequences,
    asked: Recipe,
    draws: list[BatchPlan],
) -> float:
    clips = published_loop.PaddedClips(files, split.targets, asked.max_length)
    loader = DataLoader(clips, batch_sampler=[list(draw.clips) for draw in draws])
    mixed = (
        (draw.weight, torch.tensor(range(len(draw.clips)) if draw.partners is None else draw.partners))
        for draw in draws
    )
    return published_loop.train_padded_epoch(model, loader, asked, optimizer, scheduler, mixed)


@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.0, "loss": CrossEntropy(name="cross_entropy")}, {"head": "linear", "layers": 0}]
)
def test_the_loss_curve_equals_the_plain_loops(tmp_path: Path, changes: dict[str, object]) -> None:
    """With no dropout, and the same order and mixup: some clips longer than max_length, most shorter."""
    asked = recipe(dropout=0.0, max_length=11, epochs=6, **({"layers": 2} | changes))
    split = planted(44, 0.0, 1)
    files = published_loop.save_clips(split.features, tmp_path)
    cut = Sequences(split.clips, tuple(f[:11] for f in split.features), split.targets, split.readers)
    plain = build_head(asked, 16, 4)
    optimizer, scheduler = published_loop.build_optimizer(plain, asked, 6)
    stack = HeadStack.of_heads([plain], asked)
    fused = open_optimizer(stack, asked)
    curves = []
    for number in range(1, 7):
        draws = plan_epoch(5, number, 44, asked)
        theirs = plain_epoch(plain, optimizer, scheduler, files, split, asked, draws)
        losses = train_one_epoch(stack, fused, [cut], [5], asked, number)
        curves.append((float(np.mean(losses)), theirs))
    np.testing.assert_allclose(*zip(*curves, strict=True), rtol=2e-5)
    assert curves[-1][0] < 0.8 * curves[0][0]
    assert max(len(f) for f in split.features) > 11


def plain_score(folder: Path, split: Sequences, test: Sequences, asked: Recipe, seed: int) -> float:
    """Score of the plain loop with its own random numbers, from the same initial weights."""
    loaders = {}
    for part, clips in (("train", split), ("test", test)):
        padded = published_loop.PaddedClips(
            published_loop.save_clips(clips.features, folder / part), clips.targets, asked.max_length
        )
        loaders[part] = DataLoader(padded, batch_size=asked.batch_size, shuffle=part == "train")
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "init"))
        model = build_head(asked, 16, 4)
        torch.manual_seed(1000 + seed)
        optimizer, scheduler = published_loop.build_optimizer(model, asked, len(loaders["train"]))
        draw = np.random.default_rng(1000 + seed)
        for _ in range(asked.epochs):
            batches = [
                range(min(asked.batch_size, len(split.clips) - n)) for n in range(0, len(split.clips), asked.batch_size)
            ]
            mixed = published_loop.sample_mixup(asked.mixup, batches, draw)
            published_loop.train_padded_epoch(model, loaders["train"], asked, optimizer, scheduler, mixed)
        scores = published_loop.predict_padded(model, loaders["test"], asked)
    return all_scores(scores, test.targets.numpy().astype(np.int64))["map_micro"]


def paired(folder: Path, seeds: range, asked: Recipe) -> np.ndarray:
    """Our score minus the plain loop's for each seed: the same data and initial weights, different random numbers."""
    differences = []
    for seed in seeds:
        split, test = planted(96, 0.0, 10 + seed, signal=0.35), planted(96, 0.4, 50 + seed, signal=0.35)
        ours = train_readout(TrainingData(split, test), asked, seed).epochs[-1].scores["map_micro"]
        differences.append(ours - plain_score(folder / str(seed), split, test, asked, seed))
    return np.array(differences)


@pytest.mark.slow
def test_scores_across_a_domain_shift_match_the_plain_loops(tmp_path: Path) -> None:
    """On a task of medium difficulty, over 5 paired seeds, with dropout and mixup: at most 2 standard errors apart."""
    differences = paired(tmp_path, range(5), recipe())
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    print(f"{100 * differences.mean():+.2f} points, standard error {100 * error:.2f}")
    assert abs(differences.mean()) <= 2 * error
    assert error < 0.03


def test_both_loops_score_a_model_alike(tmp_path: Path) -> None:
    asked, split = recipe(), planted(12, 0.0, 1)
    model = build_head(asked, 16, 4)
    files = published_loop.save_clips(split.features, tmp_path)
    loader = DataLoader(published_loop.PaddedClips(files, split.targets, asked.max_length), batch_size=5)
    np.testing.assert_allclose(
        published_loop.predict_padded(model, loader, asked), predict_probabilities(model, split, asked), atol=1e-6
    )
