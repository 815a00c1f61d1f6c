"""Features of Animal Kingdom's size, packed, read and trained on: `python benchmarks/big_store.py --folder FOLDER`.

The store is synthetic: 24,004 clips of log-normal lengths (mean 37 tokens) and width 1280, 4.5 GB. It is written, packed and read
by the project's own code. Each step is a process of its own, whose memory is sampled: private memory, and pages of mapped files,
which are part of the page cache, shared by all processes and given back when memory is short. A reader that neither maps nor
copies a page does not count here, as it does not in any other program's memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split, SplitName
from repro.features.pack_collection import pack_collection
from repro.features.store import Entry, FeatureStore

CELL = "t20_layer09"
CLASSES = 140
ADDED = 40
"""Clips that are extracted after the others were packed."""
GB = 1e9


def sample_lengths(clips: int) -> list[int]:
    """Sample the number of tokens of each clip: log-normal with mean 37 and sigma 0.8, at most 150 as in the row's recipe."""
    lengths = np.random.default_rng(0).lognormal(np.log(37) - 0.8**2 / 2, 0.8, clips)
    return [int(length) for length in np.clip(np.ceil(lengths), 2, 1125)]


def open_store(folder: Path) -> FeatureStore:
    return FeatureStore.open(Workspace(folder), "big", {"family": "synthetic"}, "big")


def make_splits(clips: int) -> dict[str, Split]:
    """Divide the clips into four fifths to train on and a fifth to test on."""
    made = [Clip(f"clip{n:05}", Path("none"), (n % CLASSES, n % 7), f"video{n // 2}") for n in range(clips)]
    names = tuple(f"class {n}" for n in range(CLASSES))
    parts = {"train": [c for n, c in enumerate(made) if n % 5], "test": made[::5]}
    return {part: Split(SplitName("big", part), names, tuple(own)) for part, own in parts.items()}


def write_clips(store: FeatureStore, numbers: range, lengths: list[int], width: int) -> None:
    for n in numbers:
        values = np.random.default_rng(n).standard_normal((lengths[n], width), np.float32)
        store.write_clip(f"clip{n:05}", Entry({CELL: values}, f"{n:064x}", "pyav", ("0" * 16,)))


def read_memory() -> dict[str, float]:
    """Return private memory and mapped pages of files of this process, GB."""
    with Path("/proc/self/status").open() as status:
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 / GB for line in status if line.startswith("Rss")}
    return {"private": found["RssAnon"] + found["RssShmem"], "mapped": found["RssFile"]}


@contextmanager
def sample_peak() -> Iterator[dict[str, float]]:
    """Yield a dict that holds the highest private memory, mapped pages and sum of both, once the block has ended."""
    peak, ended = {"private": 0.0, "mapped": 0.0, "both": 0.0}, threading.Event()

    def sample() -> None:
        while not ended.wait(0.01):
            now = read_memory()
            now["both"] = now["private"] + now["mapped"]
            for name, value in now.items():
                peak[name] = max(peak[name], value)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def time_call(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def drop_page_cache(folder: Path) -> None:
    """Drop the pages of all files in `folder` from the page cache, so that they are read from the disk."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def step_make(options: argparse.Namespace) -> dict[str, float]:
    write = lambda: write_clips(open_store(options.folder), range(options.clips), options.lengths, options.width)  # noqa: E731
    return {"write the clips' files, s": time_call(write)[0]}


def step_pack(options: argparse.Namespace) -> dict[str, float]:
    return {"pack, s": time_call(lambda: pack_collection(open_store(options.folder), print))[0]}


def step_add(options: argparse.Namespace) -> dict[str, float]:
    """Pack once more, after 40 further clips."""
    store = open_store(options.folder)
    write_clips(store, range(options.clips, options.clips + ADDED), options.lengths, options.width)
    return {f"pack {ADDED} more clips, s": time_call(lambda: pack_collection(store, print))[0]}


def step_load(options: argparse.Namespace) -> dict[str, float]:
    """Look for all clips as `repro readout` does, then load both splits."""
    from repro.readout.sequences import load_sequences

    store, splits = open_store(options.folder), make_splits(options.clips)
    opening, reader = time_call(lambda: store.cell_reader(CELL))
    finding, _ = time_call(lambda: [reader.find(clip.id) for split in splits.values() for clip in split.clips])
    loading, loaded = time_call(
        lambda: {part: load_sequences(store, split, CELL, 150) for part, split in splits.items()}
    )
    assert sum(len(split.features) for split in loaded.values()) == options.clips
    return {
        "open and verify, s": opening, "find all clips, s": finding, "load both splits, s": loading,
        "open, find and load, s": opening + finding + loading,
    }  # fmt: skip


def step_cold_load(options: argparse.Namespace) -> dict[str, float]:
    drop_page_cache(options.folder)
    return step_load(options)


def step_epoch(options: argparse.Namespace) -> dict[str, float]:
    """Make all batches of an epoch, and compare with the time of training: a few steps, extrapolated to the epoch."""
    import torch

    from repro.readout import checkpoints
    from repro.readout.compute import ON_CPU
    from repro.readout.heads import build_head
    from repro.readout.optimisation import open_optimizer
    from repro.readout.sequences import BatchPlan, load_sequences, plan_epoch, split_held_out
    from repro.readout.stack import HeadStack
    from repro.readout.train import compute_logits, train_one_epoch
    from repro.table.rows import load_row

    recipe = load_row("ak_full").readout
    store, splits = open_store(options.folder), make_splits(options.clips)
    train, test = (load_sequences(store, split, CELL, recipe.max_length) for split in splits.values())
    plans = plan_epoch(0, 1, len(train.clips), recipe)
    tests = [
        range(n, min(n + recipe.batch_size, len(test.clips))) for n in range(0, len(test.clips), recipe.batch_size)
    ]

    def make_batches() -> None:
        for plan in plans:
            train.make_batch(plan)
        for batch in tests:
            test.make_batch(BatchPlan(tuple(batch)))

    holding, _ = time_call(lambda: split_held_out(train, 0))
    data, _ = time_call(make_batches)
    memory = read_memory()
    stack = HeadStack.of_heads([build_head(recipe, train.width, CLASSES)], recipe)
    optimizer = open_optimizer(stack, recipe)
    # Clips of a few batches, evenly over the epoch's; the first step of a process takes longer, and is not timed.
    chosen, few = (
        split.select_clips(
            [n for batch in batches[:: max(1, len(batches) // options.steps)][: options.steps] for n in batch]
        )
        for split, batches in ((train, [plan.clips for plan in plans]), (test, tests))
    )
    train_one_epoch(stack, optimizer, [train.select_clips(plans[0].clips)], [0], recipe, 1)
    training, _ = time_call(lambda: train_one_epoch(stack, optimizer, [chosen], [0], recipe, 1))
    scoring, _ = time_call(lambda: compute_logits(stack, [few], recipe, ON_CPU))
    epoch = training / len(chosen.clips) * len(train.clips) + scoring / len(few.clips) * len(test.clips)
    checkpoints.STATE_EVERY = 0.0  # written at once
    state = checkpoints.TrainingState.start(stack.state_of(0))
    state.epochs.append(checkpoints.Epoch(1, 0.0, {}))
    state.logits.append(torch.zeros(len(test.clips), CLASSES))
    folder = checkpoints.CheckpointFolder(options.folder / "run", {}, print)
    folder.path.mkdir(exist_ok=True)
    saving, _ = time_call(lambda: checkpoints.save_training(folder, {}, state, state.epochs[0]))
    size = sum(path.stat().st_size for path in folder.path.iterdir())
    shutil.rmtree(folder.path)
    return {
        "divide for the held-out protocol, s": holding, "batches of an epoch, s": data, "epoch (extrapolated), s": epoch,
        "batches / epoch": data / epoch, "private when batches were made, GB": memory["private"],
        "save the training's state, s": saving, "its size, GB": size / GB,
    }  # fmt: skip


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "make": step_make, "pack": step_pack, "load, cold": step_cold_load, "load, warm": step_load, "epoch": step_epoch,
    "add": step_add,
}  # fmt: skip


def run_step(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one step in this process; returns its figures and its peak memory."""
    with sample_peak() as peak:
        started = time.process_time()
        figures = STEPS[name](options)
        figures["CPU, s"] = time.process_time() - started
    size = sum(options.lengths[: options.clips]) * options.width * 4 / GB
    # Training's memory is the model's: what its data take is among its figures.
    memory = {} if name == "epoch" else {f"peak {kind}, GB": value for kind, value in peak.items()}
    return figures | memory | ({"peak / features": peak["both"] / size} if "load" in name else {})


def parse_options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="does not exist yet; deleted at the end")
    parser.add_argument("--clips", type=int, default=24_004)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--steps", type=int, default=4, help="of training, from which an epoch is extrapolated")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.lengths = sample_lengths(options.clips + ADDED)
    return options


def main() -> None:
    options = parse_options()
    if options.step:
        print(json.dumps(run_step(options.step, options)))
        return
    tokens = sum(options.lengths[: options.clips])
    size = tokens * options.width * 4
    options.folder.mkdir(parents=True)
    try:
        # Files and packed array are there together for a while, and so are two arrays when clips are added.
        if shutil.disk_usage(options.folder).free < 2.5 * size:
            sys.exit(f"{options.folder}: {2.5 * size / GB:.1f} GB of disk are needed")
        print(f"{options.clips} clips, {tokens} tokens, width {options.width}: {size / GB:.2f} GB")
        for step in STEPS:
            words = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                print(f"{step:<11} {name:<36} {value:9.3f}", flush=True)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
