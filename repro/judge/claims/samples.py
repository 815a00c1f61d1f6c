"""The score of a run on every sample of source videos, computed from its predictions once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from repro.core.hashing import content_sha256
from repro.judge import grid_selection
from repro.judge.claims import resampling
from repro.judge.claims.resampling import index_groups, resample_score, sample_groups
from repro.judge.grid_selection import selection_of
from repro.judge.kept import Computation, Memory, dump_arrays, hash_code, parse_arrays
from repro.readout import metrics, predictions
from repro.readout.predictions import Predictions
from repro.records.record import RunRecord

VERIFIED = 100
"""Samples by which a kept result is verified."""


@dataclass(frozen=True, slots=True)
class RunSamples:
    """A run's score on every sample of source videos."""

    scores: Float[np.ndarray, " R"]
    videos: int
    """Number of source videos."""
    clips: str
    """sha256 of the clip ids in order, their source videos and targets: what runs must share to be compared in pairs."""


def remember_samples(
    load_predictions: Callable[[RunRecord], Predictions],
    kept: Path | None = None,
    warn: Callable[[str], None] = lambda line: None,
    stamp: Callable[[RunRecord], str] = lambda record: "",
) -> Memory[RunRecord, RunSamples]:
    """Return the memory of the samples of runs, at the epoch that each run's protocol selects.

    Args:
        load_predictions: Returns the per-clip scores of a run.
        kept: Where results are kept between commands; None keeps none.
        warn: Called with a message if a kept result is wrong.
        stamp: Returns the stamp of a run's predictions (kept.py).
    """
    weights: dict[int, Float32[np.ndarray, "G R"]] = {}
    lock = Lock()

    def compute(record: RunRecord, most: int = resampling.CLAIM_RESAMPLES) -> RunSamples:
        found = load_predictions(record)
        # In the order of their ids, so that rows which list the same clips otherwise get the same samples.
        order = sorted(range(len(found.clips)), key=lambda place: found.clips[place])
        clips = tuple(found.clips[place] for place in order)
        # Source videos keep the clips of one of them together in every sample (repro/judge/claims/resampling.py).
        owners = None if found.groups is None else [found.groups[place] for place in order]
        groups, targets = index_groups(clips, owners), found.targets[order]
        videos = int(groups.max()) + 1
        with lock:
            if videos not in weights:
                weights[videos] = sample_groups(videos)
        scores = found.scores_after(selection_of(record).epoch)[order]
        digests = [hashlib.sha256(part).hexdigest() for part in (groups.tobytes(), targets.tobytes())]
        return RunSamples(
            resample_score(record.metric, scores, targets, groups, weights[videos][:, :most]),
            videos,
            content_sha256([clips, targets.shape[1], *digests]),
        )

    def verify(record: RunRecord, known: RunSamples) -> bool:
        # The first of the samples are the same whatever their number: a part is enough to find a wrong result.
        ours = compute(record, VERIFIED)
        same = (ours.videos, ours.clips) == (known.videos, known.clips)
        return same and np.allclose(ours.scores, known.scores[:VERIFIED], rtol=0, atol=1e-6)

    modules = (metrics, predictions, resampling, grid_selection)
    computation = Computation(
        hash_code(*(module.__file__ for module in modules), __file__),
        compute,
        verify,
        _dump_samples,
        _parse_samples,
        stamp,
    )
    return Memory(computation, kept, warn)


def name_samples(record: RunRecord) -> str:
    """Return the key of a run's samples."""
    return f"{record.row} {record.protocol} {record.run} {record.predictions_sha256} {record.metric} after epoch {selection_of(record).epoch}"


def _dump_samples(samples: RunSamples) -> dict[str, Any]:
    return {"videos": samples.videos, "clips": samples.clips, "arrays": dump_arrays({"scores": samples.scores})}


def _parse_samples(values: dict[str, Any]) -> RunSamples:
    return RunSamples(parse_arrays(values["arrays"])["scores"], values["videos"], values["clips"])
