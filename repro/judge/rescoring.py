"""What a file of predictions says by itself: the scores of every epoch, computed from it, and hashes of what must not repeat.

Results are kept in WORKSPACE/rescored.jsonl by the sha256 of the file (kept.py).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from repro.core.errors import MissingError
from repro.core.hashing import content_sha256
from repro.judge.kept import Computation, Memory, hash_code, stamp_file
from repro.readout import metrics, predictions
from repro.readout.metrics import Targets, all_scores, chance_scores, constant_scores, map_micro_of_counts
from repro.readout.predictions import Predictions, read_predictions
from repro.records.record import StoredRun

SATURATED = 1 - 1e-12
"""Probabilities beyond this have so few distinct values left that the library's rounding decides their order."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """Scores computed from a file of predictions."""

    problem: tuple[str, str] = ("", "")
    """Rule and reason if nothing can be computed from it; the other fields are then empty."""
    format: int = 0
    lines: int = 0
    clips: int = 0
    """Number of different clips; fewer than lines if some are listed twice."""
    labels: str = ""
    """`hash_labels` of the clips and their targets."""
    classes: str = ""
    """content_sha256 of the names of the classes."""
    whole: Mapping[str, Mapping[str, float]] | None = None
    """Every metric by epoch, of the epochs that are kept whole: none of most cells of a grid."""
    others: Mapping[str, Mapping[str, float]] | None = None
    """The row's metric by epoch, of the others."""
    saturated: bool = False
    chance: Mapping[str, float] | None = None
    constant: Mapping[str, float] | None = None
    outputs: str = ""
    """sha256 of the scores after the last whole epoch; empty if none is, as ranks and classes may repeat by chance."""


def hash_labels(labels: Mapping[str, Sequence[int]]) -> str:
    """Hash clips with their label ids, whatever their order."""
    return content_sha256(sorted([clip, sorted(found)] for clip, found in labels.items()))


def hash_test_split(found: Predictions, videos: Mapping[str, str]) -> str:
    """Return the sha256 of a test split as a record of these predictions states it (`describe_split` in pipeline/row_data.py).

    Args:
        found: The predictions, with the clips in the split's order.
        videos: sha256 of the video of every clip.
    """
    clips = [[clip, labels, videos[clip]] for clip, labels in labels_of(found).items()]
    return content_sha256({"classes": list(found.classes), "clips": clips})


def labels_of(found: Predictions) -> dict[str, list[int]]:
    """Return the label ids of every clip."""
    return _labels_by_clip(found.clips, found.targets)


def _labels_by_clip(clips: Sequence[str], targets: Targets) -> dict[str, list[int]]:
    return {clip: np.flatnonzero(row).tolist() for clip, row in zip(clips, targets, strict=True)}


def rescore(path: Path) -> Rescored:
    """Compute every score that the predictions at `path` give."""
    try:
        found = read_predictions(path)
    except MissingError as error:
        return Rescored(("R01", str(error)))
    if not (found.by_epoch or found.predicted or found.at_least):
        return Rescored(("R03", "no epoch in it"))
    try:
        whole = {str(epoch): all_scores(scores, found.targets) for epoch, scores in found.by_epoch.items()}
    except ValueError as error:
        return Rescored(("R06", f"{error}"))
    labels, chance, constant = _describe_targets(
        # As bits: the key of a cache has to be hashable, and bytes of 8-byte integers would be 64 times as many.
        found.clips,
        np.packbits(found.targets == 1).tobytes(),
        found.targets.shape,
    )
    every = np.arange(len(found.targets))
    others = {
        # Format 2 keeps of these epochs the predicted class of each clip, or of each positive how many pairs
        # score at least as high: no more is needed for accuracy or average precision.
        str(epoch): {"top1": float(found.targets[every, classes].mean())}
        for epoch, classes in found.predicted.items()
    }
    others |= {str(epoch): {"map_micro": map_micro_of_counts(counts)} for epoch, counts in found.at_least.items()}
    return Rescored(
        format=found.format,
        lines=len(found.clips),
        clips=len(set(found.clips)),
        labels=labels,
        classes=content_sha256(found.classes),
        whole=whole,
        others=others,
        saturated=any(bool(scores.max() > SATURATED) for scores in found.by_epoch.values()),
        chance=chance,
        constant=constant,
        outputs=hashlib.sha256(found.by_epoch[max(found.by_epoch)].tobytes()).hexdigest() if found.by_epoch else "",
    )


def read_run_predictions(run: StoredRun) -> Predictions:
    """Read the predictions of a run, with scores of every clip where they were kept; evidence.py verifies both files.

    Raises:
        MissingError: they are missing or damaged.
    """
    return read_predictions(_scores_of_every_clip(run))


def stamp_run(run: StoredRun) -> str:
    """Return the stamp (kept.py) of what `read_run_predictions` reads."""
    return stamp_file(_scores_of_every_clip(run))


def _scores_of_every_clip(run: StoredRun) -> Path:
    # A cell of a grid that was the best so far keeps the scores of every clip in a second file.
    return run.scores_path if run.scores_path.exists() else run.predictions_path


@lru_cache(maxsize=8)
def _describe_targets(
    clips: tuple[str, ...], bits: bytes, shape: tuple[int, int]
) -> tuple[str, dict[str, float], dict[str, float]]:
    """Return what clips and targets alone decide: their hash, and the scores of chance and of a constant."""
    # The same for all runs on a split, and as slow as the scores of two epochs.
    targets = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    return hash_labels(_labels_by_clip(clips, targets)), chance_scores(targets), constant_scores(targets)


def rescore_all(paths: Mapping[str, Path], kept: Path | None, warn: Callable[[str], None]) -> dict[str, Rescored]:
    """Compute the scores of files of predictions, on all cores, or read those that are kept.

    Args:
        paths: Files by their sha256.
        kept: Where results are kept; None keeps and reads none.
        warn: Called with a message if what is kept is wrong.
    """
    computation = Computation(
        code=hash_code(metrics.__file__, predictions.__file__, __file__),
        compute=rescore,
        verify=lambda path, known: _agree(rescore(path), known),
        dump=asdict,
        parse=lambda values: Rescored(**values | {"problem": tuple(values["problem"])}),
        stamp=stamp_file,
    )
    return Memory(computation, kept, warn).recall(paths)


def _agree(ours: Rescored, kept: Rescored) -> bool:
    """Whether two results are the same up to what processors round in other ways."""
    exact = ("problem", "format", "lines", "clips", "labels", "classes")
    if any(getattr(ours, name) != getattr(kept, name) for name in exact):
        return False
    pairs = [(getattr(ours, name) or {}, getattr(kept, name) or {}) for name in ("whole", "others")]
    return all(
        found.keys() == known.keys()
        and all(
            found[epoch].keys() == known[epoch].keys()
            and all(abs(found[epoch][name] - known[epoch][name]) <= 1e-6 for name in found[epoch])
            for epoch in found
        )
        for found, known in pairs
    )
