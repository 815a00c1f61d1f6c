"""Epoch time of the readout against the plain published loop: `python benchmarks/readout.py ucf_hmdb` (or `ak`).

Both use the same model, features and machine in one process. Runs alternate, and the median of the ratios of neighbouring
runs is reported, so that other users of the machine slow both equally. An epoch is one training pass and one pass that
scores the test split. The ceiling is what packing alone could reach: padded tokens divided by the clips' own tokens.
"""

import argparse
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_loop
import torch
from ratios import Rounds, describe_ratio, median_seconds, time_call, time_in_turn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from repro.readout import train as training
from repro.readout.compute import ON_CPU
from repro.readout.heads import build_head
from repro.readout.recipe import Recipe
from repro.readout.sequences import BatchPlan, Sequences, plan_epoch
from repro.readout.stack import HeadStack
from repro.table.rows import load_row

# Row; test clips per training clip; native frames of training and test clips as a log-normal distribution: median, sigma,
# minimum and maximum. UCF101 and HMDB51: fitted to their lists (mean 193.4 and 100.6). Animal Kingdom: mean 146.6; the
# spread is assumed.
SHAPES = {
    "ucf_hmdb": ("ucf_hmdb", 1200 / 1438, (171, 0.496, 29, 641), (80, 0.68, 22, 727)),
    "ak": ("ak_full", 6096 / 24004, (106, 0.8, 8, 4500), (106, 0.8, 8, 4500)),
    # The smoke job: clips of 11 to 212 frames.
    "smoke": ("smoke", 16 / 24, (68, 0.9, 11, 212), (68, 0.9, 11, 212)),
}
CLASSES = 12


def sample_lengths(clips: int, shape: tuple[float, float, int, int], generator: np.random.Generator) -> list[int]:
    """Sample the number of tokens of each clip: every 4th frame."""
    median, sigma, least, most = shape
    # Even quantiles in random order: a few clips already have the mean and spread of the complete split.
    places = (np.arange(clips) + 0.5) / clips
    # The inverse of the normal distribution function: sqrt(2) erfinv(2p - 1).
    normal = np.sqrt(2) * torch.erfinv(torch.from_numpy(2 * places - 1)).numpy()
    frames = np.clip(median * np.exp(sigma * normal), least, most)
    return [int(n) for n in generator.permutation(np.ceil(frames / 4))]


def sample_sequences(counts: list[int], width: int, max_length: int, seed: int) -> Sequences:
    """Generate random features of clips with `counts` frames; values do not affect the time."""
    generator = torch.Generator().manual_seed(seed)
    features = tuple(torch.randn(count, width, generator=generator)[:max_length] for count in counts)
    labels = torch.arange(len(counts)) % CLASSES
    names = tuple(map(str, range(len(counts))))
    return Sequences(names, features, functional.one_hot(labels, CLASSES).float(), Counter())


def measure_shape(name: str, clips: int, width: int, repeats: int, folder: Path) -> None:
    row, share, train_shape, test_shape = SHAPES[name]
    recipe = load_row(row).readout
    generator = np.random.default_rng(0)
    train = sample_sequences(sample_lengths(clips, train_shape, generator), width, recipe.max_length, 1)
    test = sample_sequences(
        sample_lengths(max(1, round(share * clips)), test_shape, generator), width, recipe.max_length, 2
    )
    workers = min(10, os.cpu_count() or 1)
    loaders = [
        DataLoader(
            published_loop.PaddedClips(
                published_loop.save_clips(split.features, folder / part), split.targets, recipe.max_length
            ),
            batch_size=recipe.batch_size,
            shuffle=part == "train",
            num_workers=workers,
        )
        for part, split in (("train", train), ("test", test))
    ]
    plans = plan_epoch(0, 1, clips, recipe)
    plain = build_head(recipe, width, CLASSES)
    # The same weights, so that both compute the same numbers.
    ours = HeadStack.of_heads([plain], recipe)
    fused = training.open_optimizer(ours, recipe)
    optimizer, scheduler = published_loop.build_optimizer(plain, recipe, len(plans))

    def plain_training() -> None:
        mixed = published_loop.sample_mixup(recipe.mixup, [plan.clips for plan in plans], generator)
        published_loop.train_padded_epoch(plain, loaders[0], recipe, optimizer, scheduler, mixed)

    passes: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "training": (plain_training, lambda: training.train_one_epoch(ours, fused, [train], [0], recipe, 1)),
        "scoring": (
            lambda: published_loop.predict_padded(plain, loaders[1], recipe),
            lambda: training.compute_logits(ours, [test], recipe, ON_CPU),
        ),
    }
    # Before anything is timed.
    warm_up(recipe, width)
    rounds: dict[str, Rounds] = {what: [] for what in passes}
    for _ in range(repeats):
        for what, works in passes.items():
            rounds[what].append(tuple(time_call(work) for work in works))
    both = zip(rounds["training"], rounds["scoring"], strict=True)
    rounds["epoch"] = [(a + c, b + d) for (a, b), (c, d) in both]
    own_tokens = sum(len(f) + 1 for f in train.features)
    print(f"{name}: C {width}, {recipe.layers} layers, max_len {recipe.max_length}, {clips} clips, {len(test.clips)} to test on; "
          f"{torch.get_num_threads()} threads, {workers} loader workers, {repeats} repeats, torch {torch.__version__}, "
          f"{platform.machine()}")  # fmt: skip
    for what, own_rounds in rounds.items():
        plain_seconds, own_seconds = median_seconds(own_rounds)
        print(
            f"  {what:<9} plain {plain_seconds:7.2f} s   ours {own_seconds:6.2f} s   ratio {describe_ratio(own_rounds, digits=1)}"
        )
    print(f"  ceiling of packing (training): {clips * (recipe.max_length + 1) / own_tokens:.1f}")


def warm_up(recipe: Recipe, width: int) -> None:
    """Run both forms of the model once: the first products of a process take longer than later ones."""
    model, clip = build_head(recipe, width, CLASSES), sample_sequences([64], width, recipe.max_length, 0)
    batch = clip.make_batch(BatchPlan((0,)))
    HeadStack.of_heads([model], recipe).compute_logits([batch]).sum().backward()
    model(batch.features[None], torch.ones(1, len(batch.features), dtype=torch.bool)).sum().backward()


class CountOperations(TorchDispatchMode):
    """Counts operations, views included: starting them is what a lone training on a GPU takes its time for."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += 1
        return func(*args, **(kwargs or {}))


def measure_together(name: str, clips: int, width: int, repeats: int, most: int) -> None:
    """Print the time of an epoch of several seeds trained together against that of one seed."""
    row, _, shape, _ = SHAPES[name]
    recipe = load_row(row).readout
    lengths = sample_lengths(clips, shape, np.random.default_rng(0))
    split = sample_sequences(lengths, width, recipe.max_length, 1)
    stacks = {
        size: HeadStack.of_heads([build_head(recipe, width, split.targets.shape[1]) for _ in range(size)], recipe)
        for size in (1, most)
    }
    optimizers = {size: training.open_optimizer(stack, recipe) for size, stack in stacks.items()}

    def run_epoch(size: int) -> None:
        training.train_one_epoch(stacks[size], optimizers[size], [split] * size, range(size), recipe, 1)
        training.compute_logits(stacks[size], [split] * size, recipe, ON_CPU)

    rounds = time_in_turn([lambda size=size: run_epoch(size) for size in (most, 1)], repeats, time.process_time)
    print(f"  {most} seeds together: {describe_ratio(rounds)} times one, batches of {recipe.batch_size}")
    steps = -(-clips // recipe.batch_size)
    for size, stack in stacks.items():
        with CountOperations() as counted:
            training.train_one_epoch(stack, optimizers[size], [split] * size, range(size), recipe, 1)
        print(f"  operations a step of {size}: {counted.found / steps:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--together", type=int, default=1, help="seeds that are trained together, against one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure_shape(options.shape, options.clips, options.width, options.repeats, Path(folder))
    if options.together > 1:
        measure_together(options.shape, options.clips, options.width, options.repeats, options.together)


if __name__ == "__main__":
    main()
