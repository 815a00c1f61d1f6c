"""Run records: one JSON file per row and seed with everything a number depends on. MLflow is a view of these files.

runs/<row>/seed<seed>-<run>/record.json          written last: a run with a record is complete
runs/<row>/seed<seed>-<run>/predictions.parquet  what every epoch's scores are computed from (repro/readout/predictions.py)
runs/<row>/seed<seed>-<run>/*.safetensors        the trained readout (repro/readout/checkpoints.py)
runs/<row>/seed<seed>-<run>/training.jsonl       times of the training (repro/records/training_log.py)
"""

import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from repro.backbones.config import Cell
from repro.core import __version__
from repro.core.errors import UsageError, state_reason
from repro.core.hashing import file_sha256
from repro.core.reading import read_bytes
from repro.core.signed import NotFiniteError, parse_signed_json, write_signed_json
from repro.core.workspace import build_from_environment
from repro.datasets.split import SplitName
from repro.readout.recipe import Metric, Protocol, Recipe, TrainingPrecision
from repro.table.row import RowKind

RECORD_FORMAT: Literal[1] = 1
PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "scikit-learn", "av", "mlflow")


class Record(BaseModel):
    """Base of everything in a record file. Field names and their order are the file's format: they must not change."""

    # Strict: a file whose values have other types was not written by this code, and is reported as damaged.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _readable(parse: Callable[[str], object]) -> AfterValidator:
    """Check that a text, which is kept as it is, can be parsed as whoever reads it will."""

    def check(text: str) -> str:
        try:
            parse(text)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time") from error


Share = Annotated[float, Field(ge=0, le=1)]
"""A score as a fraction of 1."""
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]{0,99}$")]
"""Of a score, a package or a file: it becomes a name in MLflow and in tables."""


class SplitRecord(Record):
    """The clips of a split, or of the part of it that a run read."""

    name: Annotated[str, _readable(SplitName.parse)]
    clips: int
    """Number of clips read."""
    sha256: str
    """Hash of the clips' ids, targets and video hashes."""
    missing_clips: tuple[str, ...] = ()
    """Ids of listed clips that were missing; only a run with --allow-missing has any."""


class FeaturesRecord(Record):
    """The features that a readout was trained on."""

    key: str
    cell: Annotated[str, _readable(Cell.parse)]
    width: int
    identity: dict[str, Any]
    """All that the features depend on apart from the videos."""
    stored_as: str = "float32"
    readers: dict[Annotated[str, Field(pattern=r"^\w[\w ,.+-]{0,99}$")], int]
    """Number of clips decoded, by reader."""
    # Left out of records of features that were extracted here, which stay as they are.
    imported: dict[str, int] = Field(default={}, exclude_if=lambda found: not found)
    """Number of clips whose features were imported and not extracted here, by the sha256 of what was imported."""


class EpochRecord(Record):
    """Loss and scores after one epoch."""

    epoch: int
    train_loss: float
    scores: dict[Name, Share]
    """Scores on the test split, as fractions of 1."""
    held_out: dict[Name, Share] | None = None
    """Scores on the clips held out of the training split."""


class Selection(Record):
    """The epoch that a rule selects."""

    epoch: int
    scores: dict[Name, Share]
    """Scores on the test split after that epoch, whatever it was selected on."""


class SubsetRecord(Record):
    """Scores on a part of the test split, as if it were the test split."""

    name: Annotated[str, _readable(SplitName.parse)]
    clips: int
    best_epoch_on_test: Selection
    last_epoch: Selection


class Provenance(Record):
    """When, by which software and on which machine a run was trained. No content key depends on it."""

    at: Annotated[str, _readable(_parse_time)]
    """Time of completion: UTC, ISO 8601."""
    # Bounded, as MLflow's times are whole numbers of 64 bits.
    seconds: Annotated[float, Field(ge=-1e10, le=1e10)]
    """Duration of training."""
    by: dict[Name, str]
    """Versions of the project, Python and the packages that compute."""
    on: dict[Name, str]
    """Platform, device and threads."""
    # Left out where neither is known, and in records of versions up to 0.1.0.
    source: dict[Name, str] = Field(default={}, exclude_if=lambda found: not found)
    """Commit of the code, with -changed if files differed from it, and the container image."""


class RunRecord(Record):
    """One trained readout: its inputs, recipe, seed and scores."""

    format: Literal[1] = RECORD_FORMAT
    run: str
    """Content key of the run: equal keys mean equal inputs, recipe and seed."""
    group: str
    """The run's key without the seed: runs of one group are repetitions."""
    grid: str = ""
    """The group's key without the cell: runs of one grid differ only in cell and seed."""
    row: str
    row_version: int
    kind: RowKind
    seed: Annotated[int, Field(ge=0)]
    protocol: Protocol = "published"
    complete: bool = True
    """False for a trial on fewer clips, which is never judged."""
    checkpoint_assumed: bool
    metric: Metric
    recipe: Recipe
    features: FeaturesRecord
    train: SplitRecord
    test: SplitRecord
    held_out: SplitRecord | None = None
    """The held-out part of the training split (protocol "held-out")."""
    classes: tuple[str, ...]
    epochs: tuple[EpochRecord, ...]
    best_epoch_on_test: Selection
    """The published rule (docs/deviations.md 2)."""
    last_epoch: Selection
    best_epoch_on_held_out: Selection | None = None
    """The rule of the held-out protocol: nothing was selected on the test split."""
    subsets: tuple[SubsetRecord, ...] = ()
    """Scores on the splits that the row's `data.also` names."""
    manifests: dict[Name, str] = {}
    """Content hash of the audit's manifest, by data set; data sets that were not audited are left out."""
    chance: dict[Name, float]
    """Expected scores of random guessing."""
    class_prior: dict[Name, Share] = {}
    """Scores of predicting each class's frequency in the training split for every clip."""
    constant: dict[Name, Share] = {}
    """Scores of predicting the same value for every class and clip."""
    precision: TrainingPrecision = "fp32"
    """Precision of the readout's matrix products."""
    checkpoints: dict[Name, str] = {}
    """sha256 of the weights next to the record, by file name."""
    predictions_sha256: str
    # Neither is in records of versions up to 0.1.0, which stay as they are.
    predictions_format: int = Field(default=1, exclude_if=lambda number: number == 1)
    """1: test scores after the selected epochs; 2: also what those after all other epochs are computed from."""
    key_rest: dict[str, Any] = Field(default={}, exclude_if=lambda found: not found)
    """What the keys of run, group and grid are made of besides what a record has (repro/records/keys.py)."""
    made: Provenance

    @field_validator("protocol", mode="before")
    @classmethod
    def _read_former_name(cls, value: object) -> object:
        # Records of versions up to 0.1.0 call the held-out protocol so.
        return "held-out" if value == "honest" else value

    @model_validator(mode="after")
    def _has_its_metric(self) -> "RunRecord":
        if (self.protocol == "held-out") != (self.held_out is not None and self.best_epoch_on_held_out is not None):
            # A record of the held-out protocol without its selection would be selected by the published rule.
            raise ValueError(f"protocol {self.protocol}, and {'no' if self.held_out is None else 'a'} part held out")
        for selection in (self.best_epoch_on_test, self.last_epoch, self.best_epoch_on_held_out):
            if selection is not None and self.metric not in selection.scores:
                raise ValueError(f"no score '{self.metric}' in it")
        return self


def explain_disagreements(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield where a record contradicts itself, as no record that this code writes does: rule (repro/judge/rules.py) and reason.

    A record's sha256 shows that nothing changed after it was written, and not who wrote it: these are the rules of the code
    that writes records.
    """
    numbers = [epoch.epoch for epoch in record.epochs]
    # Their number first: a record that somebody else wrote may state billions.
    if len(numbers) != record.recipe.epochs or numbers != list(range(1, len(numbers) + 1)):
        yield "R03", f"{len(numbers)} epochs, its recipe has {record.recipe.epochs}"
        return
    if any(record.metric not in epoch.scores for epoch in record.epochs):
        yield "R03", f"an epoch without the score '{record.metric}'"
        return
    # max returns the first of equal epochs, as the rules do (repro/readout/train.py).
    best = max(record.epochs, key=lambda epoch: epoch.scores[record.metric])
    selections = [
        ("best_epoch_on_test", record.best_epoch_on_test, best),
        ("last_epoch", record.last_epoch, record.epochs[-1]),
    ]
    if record.best_epoch_on_held_out is not None:
        if any(record.metric not in (epoch.held_out or {}) for epoch in record.epochs):
            yield "R03", f"an epoch without the held-out score '{record.metric}'"
            return
        held_out = max(record.epochs, key=lambda epoch: (epoch.held_out or {})[record.metric])
        selections.append(("best_epoch_on_held_out", record.best_epoch_on_held_out, held_out))
    for name, selection, epoch in selections:
        if selection.epoch != epoch.epoch or selection.scores != epoch.scores:
            by_epochs = f"by its epochs it is epoch {epoch.epoch} with {epoch.scores[record.metric]:.6g}"
            yield "R04", f"{name} is epoch {selection.epoch} with {selection.scores[record.metric]:.6g}, {by_epochs}"
    read = sum(record.features.readers.values())
    if read != record.train.clips + record.test.clips:
        yield "R07", f"{read} clips were read, its splits have {record.train.clips} + {record.test.clips}"
    parts = [(part.name, part.clips, record.test.clips) for part in record.subsets]
    if record.held_out is not None:
        parts.append((f"held out of {record.held_out.name}", record.held_out.clips, record.train.clips))
    for name, clips, most in parts:
        if not 0 <= clips <= most:
            yield "R07", f"{clips} clips {name}, of a split of {most}"


class DamagedRecordError(Exception):
    """A record or its predictions are not as they were written. The message is one line.

    Args:
        message: What is wrong.
        rule: Which of the rules of repro/judge/rules.py it breaks.
    """

    def __init__(self, message: str, rule: str = "R01") -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's folder in the workspace."""

    folder: Path

    @property
    def record_path(self) -> Path:
        return self.folder / "record.json"

    @property
    def predictions_path(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def selected_path(self) -> Path:
        """The readout of the epoch that the protocol selects."""
        return self.folder / "selected_epoch.safetensors"

    @property
    def log_path(self) -> Path:
        """The log of its training (repro/records/training_log.py)."""
        return self.folder / "training.jsonl"

    @property
    def scores_path(self) -> Path:
        """Scores of every clip of a grid cell that was the best so far; its predictions have ranks alone."""
        return self.folder / "scores.parquet"

    def load_record(self) -> RunRecord | None:
        """Read and verify the run's record; None if the run did not finish.

        Raises:
            DamagedRecordError: the record or its predictions are not as they were written.
        """
        try:
            text = read_bytes(self.record_path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedRecordError(f"{self.record_path}: cannot be read ({error.strerror})") from error
        try:
            raw, intact = parse_signed_json(text)
            record = RunRecord.model_validate_json(json.dumps(raw))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(state_reason(part, 80) for part in first["loc"])
            raise DamagedRecordError(
                f"{self.record_path}: damaged or of another version: {where}: {state_reason(first['msg'])}",
                "R06" if first["type"] == "finite_number" else "R11" if first["loc"] == ("made", "at") else "R01",
            ) from error
        except NotFiniteError as error:
            raise DamagedRecordError(f"{self.record_path}: {error}", "R06") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedRecordError(f"{self.record_path}: damaged: not a run record ({error})") from error
        # Checked after the model: for a record of another version, the key that differs says more than a wrong hash.
        if not intact:
            raise DamagedRecordError(f"{self.record_path}: damaged or edited: it does not match its own sha256")
        # A record that was copied into another run's folder would count as another run.
        stored = (self.folder.parent.name, self.folder.name)
        if stored != (record.row, f"seed{record.seed}-{record.run}"):
            raise DamagedRecordError(
                f"{self.record_path}: it is of row {record.row}, seed {record.seed}, run {record.run}: not the run of its folder",
                "R02",
            )
        for rule, why in explain_disagreements(record):
            raise DamagedRecordError(f"{self.record_path}: it contradicts itself: {why}", rule)
        try:
            if file_sha256(self.predictions_path) != record.predictions_sha256:
                raise DamagedRecordError(
                    f"{self.predictions_path}: damaged: it does not match the sha256 in the record"
                )
        except OSError as error:
            raise DamagedRecordError(f"{self.predictions_path}: cannot be read ({error.strerror})") from error
        return record

    def write_record(self, record: RunRecord) -> None:
        """Write the record atomically. Call it last: it marks the run as complete."""
        write_signed_json(self.record_path, record.model_dump(mode="json"))


def stored_run(runs: Path, row: str, seed: int, run: str) -> StoredRun:
    """Return the run with content key `run`, which need not exist."""
    return StoredRun(runs / row / f"seed{seed}-{run}")


def find_runs(runs: Path, row: str = "*") -> Iterator[StoredRun]:
    """Yield every run folder that has a record, or those of a row, ordered by name."""
    for path in sorted(runs.glob(f"{row}/seed*/record.json")):
        yield StoredRun(path.parent)


def software_versions() -> dict[str, str]:
    """Return the versions of this project, Python and the packages that compute, for records and origins."""
    return {"actiondiff-repro": __version__, "python": platform.python_version(), **_installed_versions()}


@cache
def _installed_versions() -> Mapping[str, str]:
    # Looked up in every folder of packages, which takes a tenth of a second a run.
    return MappingProxyType({package: version(package) for package in PACKAGES})


@cache
def describe_source() -> dict[str, str]:
    """Return the commit of the code and the container image, as far as they are known.

    In a checkout git names the commit, in a container image the environment does.
    """
    found, checkout = build_from_environment(), Path(__file__).parents[2]
    if "commit" not in found and (checkout / ".git").exists():
        # Nothing but a question: no lock of the user's checkout is taken, and a git that fails names no commit.
        git = ["git", "--no-optional-locks", "-C", str(checkout)]
        try:
            commit, changed = (
                subprocess.run(  # noqa: S603  # No shell; whichever git the user has.
                    [*git, *words], capture_output=True, check=True, text=True, timeout=10, stdin=subprocess.DEVNULL
                ).stdout.strip()
                for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
            )
        except (OSError, subprocess.SubprocessError):
            return found
        found["commit"] = commit + ("-changed" if changed else "")
    return found


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Describe the machine and device that numbers are computed on, for records and origins."""
    # Here, because `repro list` and `repro check` read records and must start without torch.
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": name,
        "torch_threads": str(torch.get_num_threads()),
    }
