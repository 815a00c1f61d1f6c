"""What the smoke job must repeat: expected/smoke/golden.json and features.safetensors.

scripts/make_smoke_golden.py writes both. Features are kept of each clip's first, middle and last token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from repro.backbones.comparison import relative_l2
from repro.core.config import expected_folder
from repro.core.errors import UsageError
from repro.core.reading import read_bytes
from repro.features.store import FeatureStore
from repro.records.record import RunRecord
from repro.table.rows import smoke_row_names
from repro.video.synthetic.scenes import smoke_scenes

FEATURE_LIMIT = 1e-4
"""Limit of the relative L2 of a clip's features, on any machine of the golden values' platform."""


class GoldenScore(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    top1: float
    map_micro: float


class Golden(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    clips: dict[str, str]
    """sha256 of each rendered clip."""
    checkpoint_sha256: str
    scores: dict[str, dict[str, GoldenScore]]
    """By row and seed: the score of the best epoch on test, in points."""
    tolerance: GoldenScore
    """In points; expected/README.md describes how it was measured."""
    platform: str


@dataclass(frozen=True, slots=True)
class GoldenJudgement:
    """One number of the job, compared with its golden value."""

    row: str
    seed: int
    metric: str
    measured: float
    golden: float | None
    """None if there is no golden value for this seed."""
    tolerance: float

    @property
    def outcome(self) -> str:
        if self.golden is None:
            return "NOT JUDGED"
        # Processors add in different orders, so scores are compared with a tolerance (expected/README.md: how it was measured).
        if abs(self.measured - self.golden) <= self.tolerance:
            return "REPEATED"
        return "HIGHER" if self.measured > self.golden else "LOWER"


@dataclass(frozen=True, slots=True)
class FeatureDeviation:
    clip: str
    relative_l2: float


def golden_folder() -> Path:
    return expected_folder() / "smoke"


def load_golden() -> Golden:
    """Read the golden values.

    Raises:
        UsageError: they are missing, damaged, or do not cover every row and clip.
    """
    path = golden_folder() / "golden.json"
    # Incomplete golden values are an error: the job would pass without comparing what is missing.
    try:
        golden = Golden.model_validate_json(read_bytes(path))
    except (OSError, ValidationError) as error:
        raise UsageError(f"{path}: the smoke job's golden values cannot be read: check the files out again") from error
    if (
        set(golden.scores) != set(smoke_row_names())
        or not all(golden.scores.values())
        or set(golden.clips) != _clip_ids()
    ):
        raise UsageError(f"{path}: golden values of some rows or clips are missing: check the files out again")
    return golden


def load_golden_features() -> dict[str, Float32[np.ndarray, "3 C"]]:
    """Read the golden features of every clip.

    Raises:
        UsageError: they are missing, damaged, or do not cover every clip.
    """
    path = golden_folder() / "features.safetensors"
    try:
        features = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path}: the smoke job's golden features cannot be read: check the files out again"
        ) from error
    if set(features) != _clip_ids():
        raise UsageError(f"{path}: golden features of some clips are missing: check the files out again")
    return features


def _clip_ids() -> set[str]:
    return {scene.id for scene in smoke_scenes()}


def select_tokens(features: Float32[np.ndarray, "T C"]) -> Float32[np.ndarray, "3 C"]:
    """Select the tokens that golden features are stored for: the first, the middle and the last."""
    # Three tokens keep the shipped file small, and show a shift or a wrong length of a clip.
    return features[[0, len(features) // 2, len(features) - 1]]


def compare_features(
    store: FeatureStore, cell: str, golden: dict[str, Float32[np.ndarray, "3 C"]]
) -> list[FeatureDeviation]:
    """Return every golden clip's deviation; infinite if the store has no such clip or its width differs."""
    deviations = []
    reader = store.cell_reader(cell)
    for clip, expected in sorted(golden.items()):
        entry = reader.read(clip)
        ours = select_tokens(entry.features[cell]) if entry is not None else None
        # Without features of the right shape the deviation is infinite: the verdict is then DIFFERENT, not an error.
        same_shape = ours is not None and ours.shape == expected.shape
        deviations.append(
            FeatureDeviation(clip, relative_l2(ours, expected) if ours is not None and same_shape else np.inf)
        )
    return deviations


def judge_scores(records: Mapping[str, Sequence[RunRecord]], expected: Golden) -> list[GoldenJudgement]:
    """Compare the scores of runs, by row, with the golden values."""
    judgements = []
    for row, runs in records.items():
        for run in runs:
            scores = expected.scores.get(row, {}).get(str(run.seed))
            for metric in ("top1", "map_micro"):
                judgements.append(
                    GoldenJudgement(
                        row=row,
                        seed=run.seed,
                        metric=metric,
                        # Records have fractions, golden scores are in points (percent).
                        measured=100 * run.best_epoch_on_test.scores[metric],
                        golden=getattr(scores, metric) if scores else None,
                        tolerance=getattr(expected.tolerance, metric),
                    )
                )
    return judgements
