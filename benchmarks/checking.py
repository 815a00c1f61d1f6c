"""Time `repro check` of 24 rows x 5 seeds with predictions of the real sizes: `python benchmarks/checking.py [--folder FOLDER]`.

Scores are random. cold: nothing is kept of an earlier check; warm: what the check before it has kept.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from repro.core.hashing import file_sha256
from repro.core.workspace import open_workspace
from repro.datasets.config import load_dataset
from repro.readout.metrics import all_scores, chance_scores, constant_scores, count_at_least
from repro.readout.predictions import FORMAT, Predictions, to_probabilities, write_predictions
from repro.records.keys import compute_keys
from repro.records.record import RunRecord, Selection, stored_run
from repro.table.rows import load_row, row_names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from builders.records import record

LABELS = {"animal_kingdom": 2.2, "charades_ego": 6.8}
"""Mean number of classes of a clip; 1 for data sets of actions alone."""


def write_run(runs: Path, made: RunRecord, random: np.random.Generator) -> int:
    """Store a run with predictions of its data set's size; returns the bytes of the predictions."""
    dataset = made.test.name.split("/")[0]
    config = load_dataset(dataset)
    clips, classes = made.test.clips, len(config.classes) if not isinstance(config.classes, int) else config.classes
    split = np.random.default_rng(clips)  # the same targets for every run on a split
    targets = (split.random((clips, classes)) < (LABELS.get(dataset, 1) - 1) / classes).astype(np.int64)
    targets[np.arange(clips), split.integers(classes, size=clips)] = 1
    last = made.recipe.epochs
    logits = {
        epoch: (random.normal(size=(clips, classes)) + 2 * targets - 3).astype(np.float32)
        for epoch in range(1, last + 1)
    }
    by_epoch = {epoch: to_probabilities(values, made.recipe.activation) for epoch, values in logits.items()}
    found = {epoch: all_scores(scores, targets) for epoch, scores in by_epoch.items()}
    best = max(found, key=lambda epoch: found[epoch][made.metric])
    others = {epoch: scores for epoch, scores in by_epoch.items() if epoch not in (best, last)}
    top1 = made.metric == "top1"
    predictions = Predictions(
        tuple(f"clip{n:05}" for n in range(clips)),
        tuple(f"class{n}" for n in range(classes)),
        targets,
        {},
        predicted={epoch: scores.argmax(axis=1).astype(np.uint16) for epoch, scores in others.items() if top1},
        at_least={epoch: count_at_least(scores, targets) for epoch, scores in others.items() if not top1},
    )
    changes = {
        "classes": predictions.classes,
        "epochs": tuple(epoch.model_copy(update={"scores": found[epoch.epoch]}) for epoch in made.epochs),
        "best_epoch_on_test": Selection(epoch=best, scores=found[best]),
        "last_epoch": Selection(epoch=last, scores=found[last]),
        "chance": chance_scores(targets),
        "constant": constant_scores(targets),
        "predictions_format": FORMAT,
        "key_rest": {"training": 3, "store": 2, "segments": None},
    }
    made = made.model_copy(update=changes)
    features = made.features.model_copy(update={"key": compute_keys(made, made.key_rest)[3]})
    made = made.model_copy(update={"features": features})
    run, group, grid, _ = compute_keys(made, made.key_rest)
    stored = stored_run(runs, made.row, made.seed, run)
    kept = {epoch: logits[epoch] for epoch in (best, last)}
    write_predictions(stored.predictions_path, predictions, kept, made.recipe.activation)
    sha256 = file_sha256(stored.predictions_path)
    keys = {"run": run, "group": group, "grid": grid, "predictions_sha256": sha256}
    stored.write_record(made.model_copy(update=keys))
    return stored.predictions_path.stat().st_size


def main() -> None:
    """Make the workspace unless it is there, and check it four times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="workspace to make and keep")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    workspace = open_workspace(folder)
    if not workspace.runs.exists():
        size = 0
        for name in row_names():
            row = load_row(name)
            for seed in row.seeds.first(5):
                random = np.random.default_rng([seed, len(name), sum(name.encode())])
                size += write_run(workspace.runs, record(name, seed, 0.5), random)
        print(f"predictions of 24 x 5 runs: {size / 1e6:.0f} MB")
    # Imported here, so that the time of the first import is not that of the check.
    from repro.__main__ import run

    workspace.rescored.unlink(missing_ok=True)
    print(f"{len(os.sched_getaffinity(0))} cores")
    for what in ("cold", *["warm"] * 3):
        wall, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
            run(["check", "--workspace", str(folder)])
        counts = next(line for line in printed.getvalue().splitlines() if line.startswith("24 rows: "))
        print(f"{what}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU; {counts}")


if __name__ == "__main__":
    main()
