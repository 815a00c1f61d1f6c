"""Run records: one JSON file per row and seed holds all that a number rests on. JSON is the truth, MLflow a view of it.

runs/<row>/seed<seed>-<run>/record.json          written last: with it the run is whole
runs/<row>/seed<seed>-<run>/predictions.parquet  scores of every test clip after the selected epochs
runs/<row>/seed<seed>-<run>/*.safetensors        the trained readout (repro/readout/checkpoints.py)
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repro.core.files import write_json
from repro.core.hashing import canonical_json, file_sha256
from repro.readout.recipe import Metric, Precision, Protocol, Recipe
from repro.table.row import Kind

FORMAT: Literal[1] = 1
PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "scikit-learn", "av", "mlflow")


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, le=1)]


class SplitRecord(Record):
    name: str
    clips: int
    """That were read."""
    sha256: str
    """Of the clips' ids, targets and video hashes."""
    missing_clips: tuple[str, ...] = ()
    """Ids of clips that the split lists and that were not there; only a run with --allow-missing has any."""


class FeaturesRecord(Record):
    key: str
    cell: str
    width: int
    identity: dict[str, Any]
    """All the features depend on beside the videos."""
    stored_as: str = "float32"
    readers: dict[str, int]
    """What decoded how many clips."""


class EpochRecord(Record):
    epoch: int
    train_loss: float
    scores: dict[str, Share]
    """Of the test split, shares of 1."""
    held_out: dict[str, Share] | None = None
    """Of the part held out of the training split."""


class Selection(Record):
    epoch: int
    scores: dict[str, Share]
    """Of the test split."""


class SubsetRecord(Record):
    """Scores of a part of the test split, as if it had been the test split."""

    name: str
    clips: int
    best_epoch_on_test: Selection
    last_epoch: Selection


class Made(Record):
    at: str
    """UTC, ISO 8601."""
    seconds: float
    """Of training."""
    by: dict[str, str]
    """Versions of the project, Python and the packages that compute."""
    on: dict[str, str]
    """Platform, device and threads."""


class RunRecord(Record):
    format: Literal[1] = FORMAT
    run: str
    """Content key of the run: the same key means the same inputs, recipe and seed."""
    group: str
    """The run's key without its seed: runs of one group are repetitions."""
    grid: str = ""
    """The group's key without its cell: runs of one grid differ in cell and seed alone."""
    row: str
    row_version: int
    kind: Kind
    seed: int
    protocol: Protocol = "published"
    complete: bool = True
    """False for a trial on fewer clips: never judged."""
    checkpoint_assumed: bool
    metric: Metric
    recipe: Recipe
    features: FeaturesRecord
    train: SplitRecord
    test: SplitRecord
    held_out: SplitRecord | None = None
    """The part of the training split that was not learned from (honest protocol)."""
    classes: tuple[str, ...]
    epochs: tuple[EpochRecord, ...]
    best_epoch_on_test: Selection
    """The published rule (docs/deviations.md 2)."""
    last_epoch: Selection
    best_epoch_on_held_out: Selection | None = None
    """The honest rule: nothing was picked on the test split."""
    subsets: tuple[SubsetRecord, ...] = ()
    """Of the splits a row's `data.also` names."""
    manifests: dict[str, str] = {}
    """Content hash of the audit's manifest by data set; none where a data set was not audited."""
    chance: dict[str, float]
    """Expected scores of a guesser."""
    class_prior: dict[str, Share] = {}
    """Scores of a predictor that knows how common each class is in the training split, and no more."""
    constant: dict[str, Share] = {}
    """Scores of a predictor that gives every class of every clip the same score."""
    precision: Precision = "fp32"
    """Of the readout's matrix products."""
    checkpoints: dict[str, str] = {}
    """sha256 of the weights beside the record, by file name."""
    predictions_sha256: str
    made: Made

    @model_validator(mode="after")
    def _has_its_metric(self) -> "RunRecord":
        if (self.protocol == "honest") != (self.held_out is not None and self.best_epoch_on_held_out is not None):
            raise ValueError(f"protocol {self.protocol}, and {'no' if self.held_out is None else 'a'} part held out")
        for selection in (self.best_epoch_on_test, self.last_epoch, self.best_epoch_on_held_out):
            if selection is not None and self.metric not in selection.scores:
                raise ValueError(f"no score '{self.metric}' in it")
        return self


class DamagedRecordError(Exception):
    """A record file that is not what was written; the message is one line."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    folder: Path

    @property
    def record_path(self) -> Path:
        return self.folder / "record.json"

    @property
    def predictions_path(self) -> Path:
        return self.folder / "predictions.parquet"

    def read(self) -> RunRecord | None:
        """The run's record, None where the run did not end.

        Raises:
            DamagedRecordError: the record, or the predictions beside it, are not what was written.
        """
        try:
            text = self.record_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedRecordError(f"{self.record_path}: cannot be read ({error.strerror})") from error
        try:
            raw = json.loads(text, parse_constant=_refuse)
            digest = raw.pop("sha256")
            record = RunRecord.model_validate_json(json.dumps(raw))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DamagedRecordError(
                f"{self.record_path}: damaged or of another version: {where}: {first['msg']}"
            ) from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DamagedRecordError(f"{self.record_path}: damaged: not a run record ({error})") from error
        if digest != _digest(raw):
            raise DamagedRecordError(f"{self.record_path}: damaged or edited: it does not match its own sha256")
        try:
            if file_sha256(self.predictions_path) != record.predictions_sha256:
                raise DamagedRecordError(
                    f"{self.predictions_path}: damaged: it does not match the sha256 in the record"
                )
        except OSError as error:
            raise DamagedRecordError(f"{self.predictions_path}: cannot be read ({error.strerror})") from error
        return record

    def write(self, record: RunRecord) -> None:
        raw = record.model_dump(mode="json")
        write_json(self.record_path, raw | {"sha256": _digest(raw)})


def stored_run(runs: Path, row: str, seed: int, run: str) -> StoredRun:
    return StoredRun(runs / row / f"seed{seed}-{run}")


def all_runs(runs: Path) -> Iterator[StoredRun]:
    """Every run folder with a record in it, in the order of their names."""
    for path in sorted(runs.glob("*/seed*/record.json")):
        yield StoredRun(path.parent)


def versions() -> dict[str, str]:
    from repro import __version__

    return {"actiondiff-repro": __version__, "python": platform.python_version()} | {p: version(p) for p in PACKAGES}


def machine(device: str = "cpu") -> dict[str, str]:
    """What numbers are computed on."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": name,
        "torch_threads": str(torch.get_num_threads()),
    }


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _digest(raw: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(raw)).hexdigest()
