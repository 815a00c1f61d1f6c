"""Size of a bundle of the 24 rows with five seeds: `python benchmarks/bundle.py --folder FOLDER`.

Everything is made up at its true size: outputs of every test clip after two epochs, drawn at random, which nothing can compress more
than real ones; fingerprints of every clip of four backbones; the records of the example, which are as long as any.
"""

import argparse
import time
import zipfile
from pathlib import Path

import numpy as np

from repro.core.config import shipped_folder
from repro.datasets.config import load_dataset
from repro.pipeline.bundle.archive import write_zip
from repro.pipeline.bundle.features_index import FeaturesIndex, IndexedCollection, merkle_root, write_index
from repro.readout.predictions import Predictions, write_predictions
from repro.table.rows import load_row, row_names

SEEDS = 5
CELLS = ("svd_xt-{}/t20_layer09", "sdv2-{}/t20_layer09", "vjepa-{}/final", "videomaev2-{}/final")
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "evidence" / "smoke.zip"


def write_outputs(path: Path, row: str, seed: int) -> None:
    """Write predictions of the size of a row's, about as sure of themselves as a trained readout's."""
    config = load_row(row)
    dataset = load_dataset(config.data.test.dataset)
    clips, classes = dataset.splits[config.data.test.split].clips or 0, dataset.classes
    generator = np.random.default_rng([seed, *row.encode()])
    targets = np.zeros((clips, classes), np.int64)
    targets[np.arange(clips), generator.integers(0, classes, clips)] = 1
    last, top1 = config.readout.epochs, config.metric == "top1"
    logits = {n: (2 * generator.standard_normal((clips, classes)) - 4).astype(np.float32) for n in (7, last)}
    others = [n for n in range(1, last) if n != 7]
    counts = {n: np.sort(generator.integers(1, clips * classes, clips)).astype(np.uint32) for n in others if not top1}
    predicted = {n: generator.integers(0, classes, clips).astype(np.uint16) for n in others if top1}
    names = tuple(f"{row[:8].upper()}{number:05}" for number in range(clips))
    labels = tuple(f"class {n}" for n in range(classes))
    predictions = Predictions(names, labels, targets, {}, predicted=predicted, at_least=counts)
    write_predictions(path, predictions, logits, config.readout.activation)


def make_index() -> FeaturesIndex:
    """Return an index of every clip that the rows read."""
    generator = np.random.default_rng(0)
    collections = {}
    for name, clips in (("animal_kingdom", 30_100), ("charades_ego", 7_860), ("hmdb51", 1_200), ("ucf101", 2_009)):
        ids = [f"{name[:4].upper()}{number:06}" for number in range(clips)]
        collections[name] = IndexedCollection(
            features=tuple(cell.format("0123456789abcdef") for cell in CELLS),
            videos={clip: generator.bytes(32).hex() for clip in ids},
            fingerprints={
                clip: tuple(f"{generator.bytes(32).hex()}:{generator.bytes(16).hex()}" for _ in CELLS) for clip in ids
            },
        )
    return FeaturesIndex(merkle_root=merkle_root(collections), collections=collections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder with 1 GB")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(EXAMPLE) as example:
        record = next(example.read(name) for name in example.namelist() if name.endswith("record.json"))
    members: dict[str, bytes | Path] = {"features.index": write_index(make_index())}
    for row in row_names():
        for seed in range(SEEDS):
            path = folder / f"{row}-{seed}.parquet"
            write_outputs(path, row, seed)
            members[f"runs/{row}/seed{seed}/predictions.parquet"] = path
            # Not the same bytes twice, which a zip would still store twice.
            members[f"runs/{row}/seed{seed}/record.json"] = record + str(seed).encode()
    members |= {f"requirements/{path.name}": path for path in shipped_folder("requirements").glob("*.txt")}
    began = time.process_time()
    write_zip(folder / "bundle.zip", members)
    spent = time.process_time() - began
    parts: dict[str, int] = {}
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        for info in archive.infolist():
            kind = info.filename.rsplit("/", 1)[-1]
            kind = kind if kind in ("predictions.parquet", "record.json", "features.index") else "others"
            parts[kind] = parts.get(kind, 0) + info.compress_size
    for kind, size in parts.items():
        print(f"{kind:<20} {size / 1e6:8.1f} MB")
    print(f"{'bundle':<20} {(folder / 'bundle.zip').stat().st_size / 1e6:8.1f} MB, packed in {spent:.0f} s of CPU time")


if __name__ == "__main__":
    main()
