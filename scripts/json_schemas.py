"""Write docs/schemas/*.json, the schemas of what --json prints: `python scripts/json_schemas.py`. Tests check that they are up
to date, and that what commands print in tests is described: there, a key that no model has is an error."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from repro.core.progress.statuses import Status
from repro.features.shared import Card
from repro.pipeline.bundle.contents import BundleManifest
from repro.records.record import RunRecord

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Json(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Missing(Json):
    """Something that is not here, and how to get it."""

    what: str
    remedy: str
    size: str = ""
    licence: str = ""
    licence_url: str = ""
    command: str = ""
    asset: str = ""
    path: str = Field(default="", description="where it belongs")


class Failure(Json):
    exit_code: int = Field(description="docs/commands.md lists them")
    kind: Literal["usage", "internal", "missing", "nothing_to_check", "interrupted", "judged_different"]
    message: str = Field(description="the line on stderr")
    missing: list[Missing]


class Error(Json):
    """What --json prints in place of a result if a command fails; results that are printed with a failure stay as they are."""

    error: Failure


class ListedRow(Json):
    row: str
    kind: Literal["published", "extra"]
    title: str
    setting: str
    backbone: str
    metric: str
    version: int
    missing: list[Missing]
    features_imported: bool
    published: float | None = Field(description="in percent")
    source: str
    note: str
    digits: int = 0
    selection: str = ""
    status: str = ""
    cell: str = ""
    changes: dict[str, str] = {}


class Amount(Json):
    likely: float
    least: float
    most: float
    exact: bool


class Measured(Json):
    windows_per_second: float
    device: str
    compiled: bool
    at: str


class PlannedExtraction(Json):
    dataset: str
    splits: list[str]
    backbone: str
    cell: str
    clips: Amount
    clips_reused: int
    windows: Amount
    windows_to_compute: Amount
    counts_rest_on: str
    precision: str
    tflop_per_window: float | None
    gpu_gigabytes_by_batch: dict[str, float] | None
    measured: Measured | None
    hours: Amount | None
    bytes: Amount | None


class PlannedReadouts(Json):
    runs: int
    runs_reused: int
    epochs: int
    training_clips: Amount
    tflop_per_run: float
    measured_on: str | None
    hours: Amount | None
    bytes: Amount


class PlannedRow(Json):
    row: str
    title: str
    missing: list[Missing]
    features_imported: bool
    needs: list[str]
    download_bytes: Amount | None
    extractions: list[PlannedExtraction]
    readout: PlannedReadouts
    hours: Amount | None
    here: str


class Download(Json):
    name: str
    kind: Literal["data", "checkpoint"]
    rows: list[str]
    size: str
    bytes: Amount | None
    bytes_to_download: Amount | None
    bytes_unpacked: Amount | None
    licence: str
    licence_url: str
    ready: bool
    brings: str


class Group(Json):
    backbones: list[str]
    windows: Amount
    tflop: Amount | None
    hours: Amount | None


class Pass(Json):
    dataset: str
    backbones: dict[str, list[str]]
    clips: Amount
    decodings_per_clip: int
    windows: Amount
    tflop: Amount | None
    hours: Amount | None
    computed_together: list[Group]


class Saving(Json):
    dataset: str
    backbones: list[str]
    tflop_per_window_together: float
    tflop_per_window_apart: float


class Stage(Json):
    hours: Amount | None
    bytes: Amount | None


class Step(Json):
    """A command of the plan, as workflow/ runs it; repro/plan/steps.py."""

    rule: Literal["fetch", "prepare", "audit", "extract", "readout", "grid", "check", "report"]
    name: str
    command: list[str] = Field(description="words after repro, without --workspace and --device")
    after: list[str] = Field(description="the data set and extractions that come before")
    gpus: int
    cpus: int
    memory_gb: float = Field(description="of the machine, at most")
    clips: int = Field(description="of an extraction, at least")
    hours: float | None = Field(description="at most; null: not known")


class Plan(Json):
    workspace: str
    device: str
    rows: list[PlannedRow]
    downloads: list[Download]
    clips: Amount
    extractions: list[PlannedExtraction]
    passes: list[Pass]
    savings: list[Saving]
    stages: dict[str, Stage]
    steps: list[Step]
    assumed: dict[str, Any] = Field(description="configs/plan.yaml")
    notes: list[str]


class Submitted(Json):
    """`repro submit`: what ran, or with --dry-run what would."""

    config: dict[str, Any] = Field(description="the workflow's, workflow/schemas/config.schema.yaml")
    jobs: list[Step] = Field([], description="with --dry-run")
    written: str = Field("", description="the report, or the folder of the readouts")


class Selected(Json):
    """A cell and an epoch that a rule selects; scores in percent."""

    seed: int
    cell: str
    epoch: int
    chosen_on: float
    test: float
    last_epoch: float
    equals: int


class GridProtocol(Json):
    rule: str
    cells: int
    whole: bool
    selected: list[Selected]
    test: float
    spread: float | None


class CellScore(Json):
    row: str
    head: str
    protocol: str
    seed: int
    timestep: int
    layer: int
    cell: str
    epoch: int
    chosen_on: float
    test: float
    last_epoch: float
    run: str


class GridFeatures(Json):
    backbone: str
    key: str
    stored_as: str


class Grid(Json):
    row: str
    metric: str
    published: float | None
    train: str
    test: str
    recipe: dict[str, Any]
    features: GridFeatures
    seeds: list[int]
    timesteps: list[int]
    layers: list[int]
    cells_of_grid: int
    note: str
    protocols: dict[str, GridProtocol]
    scores: list[CellScore]


class SmokeFeatures(Json):
    repeat: bool
    worst_clip: str
    worst_relative_l2: float
    limit: float
    clips_changed: list[str]
    checkpoint_changed: bool
    golden_platform: str


class SmokeScore(Json):
    row: str
    seed: int
    metric: str
    measured: float
    golden: float | None
    tolerance: float | None
    verdict: str


class Smoke(Json):
    verdict: Literal["PASS", "FAIL"]
    features: SmokeFeatures
    readers_differ: list[str] | None
    scores: list[SmokeScore]
    chance: dict[str, float]
    records: list[str]


class AssetFile(Json):
    file: str
    hub: dict[str, str] | None = Field(default=None, description="repository of a hub, and path in it")
    url: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    size: str | None = None
    path: str


class Asset(Json):
    name: str
    title: str
    size: str
    licence: str
    licence_url: str
    source: str
    on_request: str | None
    here: str
    files: list[AssetFile]


class FetchedFile(Json):
    """A file that is here and verified."""

    name: str
    path: str
    bytes: int
    sha256: str | None
    published: bool
    means: str


class Placed(Json):
    part: str
    how: str
    source: str


class FetchedAudit(Json):
    clips: int
    decode: int
    decoded_now: int
    manifest: str
    sha256: str


class Fetch(Json):
    files: list[FetchedFile]
    prepared: dict[str, list[Placed]]
    audits: dict[str, FetchedAudit]


class SplitState(Json):
    listed: int
    expected: int | None
    there: int
    classes_without_clips: list[int]


class Audited(Json):
    sha256: str
    clips: int
    faults: int
    of_these_files: bool


class DatasetState(Json):
    dataset: str
    title: str
    licence: str
    folder: str
    parts: dict[str, str]
    official_metric: str | None
    splits: dict[str, SplitState]
    notes: list[str]
    problem: str
    audit: Audited | None
    ready: bool
    missing: list[str] = []


class OwnFiles(Json):
    data: str
    row: str
    notes: list[str]
    command: str


class Prepared(Json):
    placed: list[Placed]
    status: DatasetState


class AuditedSplit(Json):
    listed: int
    expected: int | None
    decode: int


class Audit(Json):
    dataset: str
    manifest: str
    sha256: str
    decoded: int
    reused: int
    clips: int
    frames: int
    bytes: int
    splits: dict[str, AuditedSplit]
    faults: dict[str, str]
    still_pictures: list[str]


class ComparedManifest(Json):
    path: str
    sha256: str
    clips: int


class Difference(Json):
    clip: str
    what: str
    a: Any
    b: Any


class ManifestDifferences(Json):
    a: ComparedManifest
    b: ComparedManifest
    differences: list[Difference]


class Waits(Json):
    decoder: float
    device: float


class Extraction(Json):
    collection: str
    stores: dict[str, str]
    cells: dict[str, list[str]]
    clips: int
    extracted: int
    reused: int
    failed: dict[str, str]
    recomputed_frames: int
    windows: int
    seconds: float
    waiting_seconds: Waits


class Imported(Json):
    sha256: str
    store: str
    added: int
    reused: int
    row: str | None
    card: Card


class ScoredWindow(Json):
    start: float | None
    end: float | None
    scores: dict[str, float]


class ScoredVideo(Json):
    path: str
    scores: dict[str, float]
    windows: list[ScoredWindow] = []


class Predictions(Json):
    row: str
    seed: int
    epoch: int
    videos: list[ScoredVideo]
    failed: dict[str, str]


class Refused(Json):
    """A run that does not count."""

    rule: str = Field(description="id of the rule that it breaks")
    row: str
    seed: int
    run: str
    why: str


class ClipCounts(Json):
    train: int
    test: int


class BestCell(Json):
    """What the published rule selects in a seed's complete grid; scores in percent."""

    seed: int
    cell: str
    epoch: int
    chosen_on: float
    test: float
    last_epoch: float
    equals: int


class Verdict(Json):
    """A row's verdict; scores in percent."""

    row: str
    verdict: str
    verdict_by_number: str | None
    verdict_by_spread_ratio: dict[str, str]
    at_equal_spread_alone: bool
    reason: str
    metric: str
    selection: str
    published: float
    margin: float
    interval_widened_by: float
    planned_seeds: list[int]
    seeds: list[int]
    measured: float | None
    difference: float | None
    spread: float | None
    last_epoch: float | None
    cells: int
    best_of_grid: list[BestCell]
    checkpoint_assumed: bool
    precision: str | None
    targets: Literal["annotations", "recorded"] | None
    selection_recomputed: bool
    runs: list[str]
    clips: ClipCounts | None
    versions: dict[str, str] | None
    devices: dict[str, int] = Field(description="number of judged runs by the device that trained them")
    edited_configs: list[str]
    refused: list[Refused]
    rules: str
    status: str
    note: str


class RuleSet(Json):
    name: str
    sha256: str
    rules: dict[str, str]


class Interval(Json):
    low: float
    high: float
    method: str


class DamagedRecord(Json):
    rule: str
    folder: str
    why: str


class RunName(Json):
    row: str
    seed: int
    run: str


class Claim(Json):
    """Whether one row scores above another; differences in points."""

    family: str
    above: str
    below: str
    verdict: str
    reason: str
    published: float
    near_tie: str
    compared_at: str
    seeds: list[list[int]]
    difference: float | None
    interval: list[float] | None
    interval_on_seeds: list[float] | None
    interval_on_clips: list[float] | None
    interval_on_seeds_in_pairs: list[float] | None
    p: float | None
    p_holm: float | None
    seeds_needed: str
    not_judged: dict[str, float]


class TableFamily(Json):
    rows: int
    expected_by_chance: float
    judged: int
    outside: list[str]
    outside_after_holm: list[str]


class Check(Json):
    rule_set: RuleSet
    verdicts: list[Verdict]
    counts: dict[str, int]
    intervals_over_test_clips: dict[str, Interval]
    targets_compared_with_annotations: list[str]
    damaged_records: list[DamagedRecord]
    records_not_judged: list[Refused]
    extras_not_judged: list[RunName]
    own_rows_not_judged: list[RunName]
    claims: list[Claim] = Field(default=[], description="with --claims")
    table: TableFamily | None = Field(default=None, description="with --claims")


class ConfusionCounts(Json):
    counts: Literal["predicted", "scored at least as high"]
    runs: int
    classes: list[str]
    matrix: list[list[int]]


class Scores(Json):
    """Scores of a row by class or by group of clips; in percent."""

    row: str
    metric: str
    by: str
    score: str
    test: str
    clips: int
    rules: dict[str, list[dict[str, str | int | float]]]
    interval_over_clips: Interval | None
    items: list[dict[str, Any]]
    confusion: ConfusionCounts
    not_shown: list[str]


class Bundle(BundleManifest):
    """The bundle that was written, and its manifest."""

    file: str
    bytes: int


class CheckedRules(Json):
    name: str
    expected_sha256: str


class Level(Json):
    level: str
    done: bool
    how: list[str]


class SpotCheck(Json):
    dataset: str
    features: str
    indexed: int
    present: int
    deviations: dict[str, float]
    failed: dict[str, str]
    nonce: str
    wrong: list[str]


class RepeatedRun(Json):
    row: str
    seed: int
    run: str
    recorded: list[float] = Field(description="score of the selected and of the last epoch, in percent")
    repeated: list[float]
    tolerance: float
    equal_losses: bool
    deviation: float
    wrong: bool


class Repetition(Json):
    runs: list[RepeatedRun]
    failed: dict[str, str]
    features_of_the_index: int


class CheckedBundle(Json):
    """With --bundle."""

    bundle: str
    made_by: str
    rules: CheckedRules
    notes: list[str]
    verdicts: list[Verdict]
    lines: list[str]
    targets: dict[str, str]
    levels: list[Level]
    spot_checks: list[SpotCheck]
    readouts: Repetition | None
    features_root: str | None


class Page(Json):
    page: str
    bytes: int
    vectors: dict[str, list[int]]


class Report(Json):
    files: list[str] = []
    rows: list[str] = Field(default=[], description="rows on the page that have runs")
    comparison: dict[str, Any] = Field(default={}, description="with --compare, and then nothing else")


class Checked(Json):
    name: str
    state: Literal["ok", "warn", "fail"]
    what: str
    remedy: str


class Examination(Json):
    row: str | None
    able: bool = Field(description="false if any finding says fail; the exit code is then 4")
    findings: list[Checked]


class ComparedWays(Json):
    what: str
    skipped: str = ""
    against: str = ""
    worst_relative_l2: float = 0
    worst_cell: str = ""
    seconds: float = 0
    verdict: str = ""
    usual_relative_l2: float | None = None


class Ways(Json):
    backbone: str
    device: str
    limit: float
    comparisons: list[ComparedWays]
    fastest: str


class Deviation(Json):
    file: str
    tensor: str
    relative_l2: float


class Golden(Json):
    """With --golden."""

    backbone: str
    implementation: str | None
    limit: float
    above_limit: int
    deviations: list[Deviation]


class DamagedFile(Json):
    path: str
    why: str


class Store(Json):
    """With --store."""

    folder: str
    files: int
    bytes: int
    damaged: list[DamagedFile]


class SampleCheck(Json):
    backbone: str
    dataset: str
    stored: int
    sampled: int
    compiled: int
    deviations: dict[str, float]
    above_limit: list[str]
    failed: dict[str, str]
    most_missed: int
    missed: dict[str, float]


class Sample(Json):
    """With --sample."""

    device: str
    limit: float
    checks: list[SampleCheck]


OUTPUTS: dict[str, Any] = {
    "error": Error,
    "list": list[ListedRow],
    "plan": Plan,
    "submit": Submitted,
    "run": list[RunRecord],
    "grid": Grid,
    "smoke": Smoke,
    "status": list[Status],
    "fetch": list[Asset] | Fetch,
    "data status": list[DatasetState],
    "data new": OwnFiles,
    "data prepare": Prepared,
    "data audit": Audit,
    "data diff": ManifestDifferences,
    "extract": Extraction | list[Extraction],
    "features export": Card,
    "features import": Imported,
    "readout": list[RunRecord],
    "predict": Predictions,
    "check": Check | CheckedBundle,
    "scores": Scores,
    "bundle": Bundle,
    "report": Report,
    "show": Page,
    "verify": Ways | Golden | Store | Sample,
    "doctor": Examination,
}
"""What each command prints with --json; `repro ROW --dry-run` prints what `repro plan` does."""


def check_output(command: str, value: Any) -> None:
    """Raise pydantic's ValidationError if `value` is not what the schema of `command` describes."""
    model = Error if isinstance(value, dict) and set(value) == {"error"} else OUTPUTS[command]
    TypeAdapter(model).validate_json(json.dumps(value))


def build_schema(command: str) -> dict[str, Any]:
    """Return the schema of a command's output. Later versions may add keys, so none is excluded."""

    def open_up(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: open_up(value) for key, value in part.items() if (key, value) != ("additionalProperties", False)
            }
        return [open_up(one) for one in part] if isinstance(part, list) else part

    schema = open_up(TypeAdapter(OUTPUTS[command]).json_schema())
    title = "An error with --json" if command == "error" else f"repro {command} --json"
    return {"$schema": DIALECT, **schema, "title": title}


def schema_path(command: str) -> Path:
    return FOLDER / f"{command.replace(' ', '-')}.json"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for command in OUTPUTS:
        schema_path(command).write_text(json.dumps(build_schema(command), indent=1) + "\n")


if __name__ == "__main__":
    main()
