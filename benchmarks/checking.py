"""Time `repro check` of 24 rows x 5 seeds with predictions of the real sizes, and measure and time their bundle:
`python benchmarks/checking.py [--folder FOLDER]`.

Scores are random, which nothing can compress more than real ones. cold: nothing is kept of an earlier check; warm: what the check before
it has kept. The bundle is what `repro bundle all` writes, its page included. There are no features: their index is made up at its
true size, of every clip of four backbones, and packed by itself.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from repro.core.hashing import file_sha256
from repro.core.workspace import open_workspace
from repro.datasets.config import load_dataset
from repro.pipeline.bundle.archive import write_zip
from repro.pipeline.bundle.contents import FEATURES_INDEX, PAGE
from repro.pipeline.bundle.features_index import FeaturesIndex, IndexedCollection, format_index, merkle_root
from repro.readout.metrics import all_scores, chance_scores, constant_scores, count_at_least
from repro.readout.predictions import PREDICTIONS_FORMAT, Predictions, to_probabilities, write_predictions
from repro.records.keys import compute_keys
from repro.records.record import RunRecord, Selection, stored_run
from repro.table.rows import load_row, row_names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from builders.records import record

CELLS = ("svd_xt-{}/t20_layer09", "sdv2-{}/t20_layer09", "vjepa-{}/final", "videomaev2-{}/final")
CLIPS = {"animal_kingdom": 30_100, "charades_ego": 7_860, "hmdb51": 1_200, "ucf101": 2_009}
"""Of all splits that the rows read."""
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
        "predictions_format": PREDICTIONS_FORMAT,
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


def make_index() -> FeaturesIndex:
    """Return an index of the features of every clip that the rows read."""
    random = np.random.default_rng(0)
    collections = {}
    for name, clips in CLIPS.items():
        ids = [f"{name[:4].upper()}{number:06}" for number in range(clips)]
        collections[name] = IndexedCollection(
            features=tuple(cell.format("0123456789abcdef") for cell in CELLS),
            videos={clip: random.bytes(32).hex() for clip in ids},
            fingerprints={
                clip: tuple(f"{random.bytes(32).hex()}:{random.bytes(16).hex()}" for _ in CELLS) for clip in ids
            },
        )
    return FeaturesIndex(merkle_root=merkle_root(collections), collections=collections)


def time_command(what: str, *arguments: str) -> None:
    """Run a command of `repro` in this process, and print what it took and what it found."""
    # Imported here, so that the time of the first import is not that of the command.
    from repro.__main__ import run

    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        run([*arguments])
    found = next(
        (line for line in printed.getvalue().splitlines() if "24 rows" in line or line.startswith("level")), ""
    )
    print(f"{what}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU; {found}")


def measure_sizes(bundle: Path, index: Path) -> None:
    """Print the packed sizes of what a bundle has."""
    parts: dict[str, int] = {}
    for path in (bundle, index):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = info.filename.rsplit("/", 1)[-1]
                kind = kind if kind in ("predictions.parquet", "record.json", FEATURES_INDEX, PAGE) else "others"
                parts[kind] = parts.get(kind, 0) + info.compress_size
    for kind, size in parts.items():
        print(f"{kind:<20} {size / 1e6:8.1f} MB")
    print(f"{'in all':<20} {(bundle.stat().st_size + index.stat().st_size) / 1e6:8.1f} MB")


def main() -> None:
    """Make the workspace unless it is there, check it four times, write its bundle, and check that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="workspace to make and keep; it takes 1 GB")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    workspace = open_workspace(folder)
    if not workspace.runs.exists():
        size = 0
        for name in row_names():
            row = load_row(name)
            for seed in row.seeds.first(5):
                random = np.random.default_rng([seed, *name.encode()])
                size += write_run(workspace.runs, record(name, seed, 0.5), random)
        print(f"predictions of 24 x 5 runs: {size / 1e6:.0f} MB")
    print(f"{len(os.sched_getaffinity(0))} cores")
    workspace.rescored.unlink(missing_ok=True)
    for what in ("check, cold", *["check, warm"] * 3):
        time_command(what, "check", "--workspace", str(folder))
    bundle, index = folder / "bundle.zip", folder / "index.zip"
    bundle.unlink(missing_ok=True)
    time_command("bundle", "bundle", "all", "-o", str(bundle), "--workspace", str(folder))
    write_zip(index, {FEATURES_INDEX: format_index(make_index())})
    measure_sizes(bundle, index)
    time_command("check of the bundle", "check", "--bundle", str(bundle), "--workspace", str(folder))


if __name__ == "__main__":
    main()
