"""What a file of predictions says by itself: the scores of every epoch, computed from it, and hashes of what must not repeat.

Results are kept in WORKSPACE/rescored.jsonl by the sha256 of the file and of the code that computed them; each check computes
one of those it uses again, and uses none if that one is not what was kept.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from repro.core.errors import MissingError
from repro.core.files import set_aside
from repro.core.hashing import content_sha256, file_sha256
from repro.core.reading import read_bytes
from repro.core.signed import parse_signed_json
from repro.readout import metrics, predictions
from repro.readout.metrics import all_scores, chance_scores, constant_scores, map_micro_of_counts
from repro.readout.predictions import Predictions, read_predictions

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
    """Every metric by epoch, of the epochs that are kept whole."""
    others: Mapping[str, Mapping[str, float]] | None = None
    """The row's metric by epoch, of the others."""
    saturated: bool = False
    chance: Mapping[str, float] | None = None
    constant: Mapping[str, float] | None = None
    outputs: str = ""
    """sha256 of the scores after the last whole epoch."""


def hash_labels(labels: Mapping[str, Sequence[int]]) -> str:
    """Hash clips with their label ids, whatever their order."""
    return content_sha256(sorted([clip, sorted(found)] for clip, found in labels.items()))


def labels_of(found: Predictions) -> dict[str, list[int]]:
    """Return the label ids of every clip."""
    rows, labels = np.nonzero(found.targets)
    of_clips: list[list[int]] = [[] for _ in found.clips]
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        of_clips[row].append(label)
    return dict(zip(found.clips, of_clips, strict=True))


def rescore(path: Path) -> Rescored:
    """Compute every score that the predictions at `path` give."""
    try:
        found = read_predictions(path)
    except MissingError as error:
        return Rescored(("R01", str(error)))
    if not found.by_epoch:
        return Rescored(("R03", "no epoch is kept whole"))
    try:
        whole = {str(epoch): all_scores(scores, found.targets) for epoch, scores in found.by_epoch.items()}
    except ValueError as error:
        return Rescored(("R06", f"{error}"))
    every = np.arange(len(found.targets))
    others = {
        str(epoch): {"top1": float(found.targets[every, classes].mean())} for epoch, classes in found.predicted.items()
    }
    others |= {str(epoch): {"map_micro": map_micro_of_counts(counts)} for epoch, counts in found.at_least.items()}
    return Rescored(
        format=found.format,
        lines=len(found.clips),
        clips=len(set(found.clips)),
        labels=hash_labels(labels_of(found)),
        classes=content_sha256(found.classes),
        whole=whole,
        others=others,
        saturated=any(bool(scores.max() > SATURATED) for scores in found.by_epoch.values()),
        chance=chance_scores(found.targets),
        constant=_constant_scores(found.targets.tobytes(), found.targets.shape),
        outputs=hashlib.sha256(found.by_epoch[max(found.by_epoch)].tobytes()).hexdigest(),
    )


@lru_cache(maxsize=8)
def _constant_scores(targets: bytes, shape: tuple[int, int]) -> dict[str, float]:
    # The same for all runs of a row, and as slow as the scores of an epoch.
    return constant_scores(np.frombuffer(targets, np.int64).reshape(shape))


@cache
def _code_sha256() -> str:
    return hash_code(metrics.__file__, predictions.__file__, __file__)


def rescore_all(paths: Mapping[str, Path], kept: Path | None, warn: Callable[[str], None]) -> dict[str, Rescored]:
    """Compute the scores of files of predictions, on all cores, or read those that are kept.

    Args:
        paths: Files by their sha256.
        kept: Where results are kept; None keeps and reads none.
        warn: Called with a message if what is kept is wrong.
    """
    known = {} if kept is None else {sha: found for sha, found in _read_rescored(kept).items() if sha in paths}
    if known and kept is not None:
        # The file is signed, but by whoever wrote it: a copied workspace may bring one of its own.
        sample = random.choice(sorted(known))  # noqa: S311
        if not _agree(rescore(paths[sample]), known[sample]):
            warn(f"{kept}: not what its predictions give: kept as {set_aside(kept).name}, computing all scores again")
            known = {}
    missing = [sha for sha in paths if sha not in known]
    if missing:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # NumPy sorts without the interpreter's lock
            found = dict(zip(missing, pool.map(rescore, [paths[sha] for sha in missing]), strict=True))
        if kept is not None:
            keep_results(kept, _code_sha256(), {sha: asdict(rescored) for sha, rescored in found.items()})
        known |= found
    return known


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


def _read_rescored(path: Path) -> dict[str, Rescored]:
    found = {}
    for sha, values in read_kept(path, _code_sha256()).items():
        with suppress(ValueError, TypeError, KeyError):
            found[sha] = Rescored(**values | {"problem": tuple(values["problem"])})
    return found


def read_kept(path: Path, code: str) -> dict[str, dict[str, Any]]:
    """Return the results of the code with sha256 `code` that are kept at `path`, by what they were computed from."""
    try:
        lines = read_bytes(path).splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        # The last line of a killed writer, or one of another version.
        with suppress(ValueError, TypeError, KeyError):
            raw, intact = parse_signed_json(line)
            if intact and raw["code"] == code:
                found[str(raw["predictions"])] = dict(raw["found"])
    return found


def keep_results(path: Path, code: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add results to those that `read_kept` returns. A folder that cannot be written is left as it is."""
    lines = []
    for of, result in found.items():
        value = {"predictions": of, "code": code, "found": result}
        lines.append(json.dumps(value | {"sha256": content_sha256(value)}) + "\n")
    # A read-only workspace costs the next check its time, and nothing else. One write, in append mode: processes that share
    # the file do not mix their lines.
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, "".join(lines).encode())
        finally:
            os.close(handle)


def hash_code(*modules: str | None) -> str:
    """Return the sha256 of source files: results are kept under that of the code that computed them."""
    return content_sha256([file_sha256(Path(file or "")) for file in modules])
