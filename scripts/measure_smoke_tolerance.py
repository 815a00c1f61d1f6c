"""Measure how much the smoke job's scores change if its features change: `python scripts/measure_smoke_tolerance.py WORKSPACE`.

Trains each seed on the workspace's features with noise of the size of the feature limit added, and on another number of
threads. The tolerances in expected/smoke/golden.json are based on the output.
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from repro.core.hashing import FileHashes
from repro.core.workspace import Workspace
from repro.features.store import FeatureStore
from repro.readout.checkpoints import TrainingData
from repro.readout.sequences import Sequences, load_sequences
from repro.readout.train import train_readout
from repro.records.record import find_runs
from repro.smoke import clips
from repro.smoke.golden import FEATURE_LIMIT
from repro.table.row import Row
from repro.table.rows import load_row, smoke_row_names

TRIALS = 10
METRICS = ("top1", "map_micro")


def perturbed(split: Sequences, trial: int) -> Sequences:
    """Return the features of every clip changed by FEATURE_LIMIT in relative L2."""
    draw = torch.Generator().manual_seed(trial)
    moved = []
    for features in split.features:
        noise = torch.randn(features.shape, generator=draw)
        moved.append(features + FEATURE_LIMIT * features.norm() / noise.norm() * noise)
    return dataclasses.replace(split, features=tuple(moved))


def best(row: Row, train_split: Sequences, test_split: Sequences, seed: int) -> dict[str, float]:
    epoch = max(
        train_readout(TrainingData(train_split, test_split), row.readout, seed).epochs,
        key=lambda e: e.scores[row.metric],
    )
    return {metric: 100 * epoch.scores[metric] for metric in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path, help="folder with a smoke run")
    workspace = Workspace(parser.parse_args().workspace.absolute())
    splits = clips.rendered_splits(workspace.smoke / "clips")
    for name in smoke_row_names():
        row = load_row(name)
        records = [r for run in find_runs(workspace.runs) if (r := run.load_record()) and r.row == name]
        key, identity = records[0].features.key, records[0].features.identity
        store = FeatureStore(
            workspace.features / f"{row.backbone}-{key}" / "smoke", key, identity, FileHashes(workspace.hashes)
        )
        sequences = [
            load_sequences(store, splits[p], row.features.name, row.readout.max_length) for p in ("train", "test")
        ]
        for seed in sorted({record.seed for record in records}):
            torch.set_num_threads(1)
            plain = best(row, *sequences, seed)
            moved = [
                best(row, *(perturbed(s, 2 * t + n) for n, s in enumerate(sequences)), seed) for t in range(TRIALS)
            ]
            torch.set_num_threads(2)
            threads = best(row, *sequences, seed)
            for metric in METRICS:
                worst = max(abs(m[metric] - plain[metric]) for m in moved)
                print(
                    f"{name} seed {seed} {metric}: {plain[metric]:.3f}; worst of {TRIALS} with features moved by "
                    f"{FEATURE_LIMIT:g}: {worst:.3f}; on two threads: {abs(threads[metric] - plain[metric]):.3f}"
                )


if __name__ == "__main__":
    main()
