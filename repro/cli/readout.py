"""`repro readout ROW`: train a row's readout on stored features."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DamagedOption,
    DeterministicOption,
    DeviceOption,
    PrecisionOption,
    ProtocolOption,
    RowName,
    SeedsOption,
    TogetherOption,
    follow_work,
    load_requested_row,
    open_compute,
)
from repro.core import LazyModule
from repro.core.console import Reporter, print_line, print_sentence
from repro.core.errors import Exit
from repro.core.workspace import Workspace
from repro.readout.recipe import Protocol
from repro.records.record import RunRecord, stored_run
from repro.table.requirements import chosen_device
from repro.table.row import Row, SeedChoice

# These import torch, NumPy and pyarrow: mistakes and missing features are reported before.
if TYPE_CHECKING:
    from repro.judge.scores import intervals
    from repro.pipeline import row as pipeline_row
    from repro.pipeline import stored_row
    from repro.readout import metrics
    from repro.readout import predictions as prediction_files
else:
    intervals = LazyModule("repro.judge.scores.intervals")
    pipeline_row = LazyModule("repro.pipeline.row")
    stored_row = LazyModule("repro.pipeline.stored_row")
    metrics = LazyModule("repro.readout.metrics")
    prediction_files = LazyModule("repro.readout.predictions")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutOptions:
    """Where and how a readout is trained."""

    training_precision: Annotated[
        Literal["fp32", "tf32", "bf16"],
        Parameter(help="Precision of the readout's matrix products; part of the run's key, and recorded."),
    ] = "fp32"
    device: DeviceOption = None
    deterministic: DeterministicOption = False
    together: TogetherOption = None


READOUT = ReadoutOptions()


def readout(
    row: RowName,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = None,
    precision: PrecisionOption = (),
    training: ReadoutOptions = READOUT,
    allow_damaged: DamagedOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Train a row's readout on stored features; no video is needed.

    Example: `repro readout ak_full --seeds 5`

    Args:
        row: A name from `repro list`, or the path of a row file of own clips.
    """
    return train_stored_row(
        load_requested_row(row, precision),
        common.open_workspace(),
        seeds=seeds,
        protocol=protocol,
        training=training,
        allow_damaged=allow_damaged,
        as_json=common.as_json,
    )


def train_stored_row(
    row: Row,
    workspace: Workspace,
    *,
    seeds: SeedChoice,
    protocol: Protocol | None,
    training: ReadoutOptions,
    allow_damaged: bool,
    as_json: bool,
) -> Exit:
    """Train a row's readouts on stored features, and print the scores.

    Raises:
        UsageError: the device or the precision is not available, or the row is running already.
        MissingError: features, annotation files or a GPU are missing.
    """
    device = chosen_device(training.device)
    workspace.require_writable()
    # Missing features are reported before torch is imported, which takes seconds.
    inputs = stored_row.open_stored_row(row, workspace, allow_damaged=allow_damaged)
    compute = open_compute(
        device, training.training_precision, deterministic=training.deterministic, together=training.together
    )
    reporter = Reporter(to_stderr=as_json)
    with follow_work(reporter, f"readout {row.name}", workspace, device):
        records = pipeline_row.train_readouts(
            inputs, pipeline_row.RowRequest(seeds, protocol), workspace, compute, reporter
        )
    print_records(row, records, workspace, as_json=as_json)
    return Exit.OK


def print_records(row: Row, records: Sequence[RunRecord], workspace: Workspace, *, as_json: bool) -> None:
    """Print the scores of a row's runs, and whether `repro check` judges them; with `as_json` the records instead."""
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    published = f", published {row.published.value:.{row.published.digits}f}" if row.published else ""
    print_line()
    for record in records:
        selected, rule = record.best_epoch_on_held_out, "best epoch on held-out clips"
        if selected is None:
            selected, rule = record.best_epoch_on_test, "best epoch on test"
        score, last = (100 * one.scores[row.metric] for one in (selected, record.last_epoch))
        print_sentence(
            f"{record.row} seed {record.seed}: {row.metric} {rule} {score:.2f}, last epoch {last:.2f}{published}"
        )
    for sha256, clips in records[0].features.imported.items():
        print_sentence(f"features of {clips} clips were imported and not extracted here: sha256 {sha256}")
    if row.kind == "own":
        for line in describe_own_scores(row, records[0], workspace):
            print_sentence(line, indent=2)
        print_sentence("a row of your own: there is no published value, and `repro check` does not judge it")
        print_sentence(f"to label videos with it: {row.command.replace(' run ', ' predict ', 1)} VIDEO...")
    elif row.kind == "extra":
        print_sentence("an extra: there is no published value to judge it by")
    elif not all(record.complete for record in records):
        print_sentence("a trial on fewer clips: never judged")
    elif any(record.protocol != "published" for record in records):
        print_sentence("the held-out protocol: not comparable with a published value, and not judged")
    else:
        print_sentence("`repro check` judges")


def describe_own_scores(row: Row, record: RunRecord, workspace: Workspace) -> list[str]:
    """Return what a score on few clips is worth: what guessing reaches, the score's interval, and the score of each class."""
    selected = record.best_epoch_on_held_out or record.best_epoch_on_test
    # Of a row's own cell: they have scores of every clip.
    predictions = prediction_files.read_predictions(
        stored_run(workspace.runs, row.name, record.seed, record.run).predictions_path
    )
    scores, targets = predictions.scores_after(selected.epoch), predictions.targets
    # The diagonal counts clips of a class that are predicted as it.
    right, clips = metrics.count_confusions(scores, targets).diagonal(), targets.sum(axis=0)
    guess = f"guessing {100 * record.chance[row.metric]:.2f}, the classes' frequencies {100 * record.class_prior[row.metric]:.2f}"
    lines = [f"seed {record.seed}, {row.metric} without looking at the videos: {guess}"]
    single = row.metric == "top1"
    if single:
        low, high = intervals.wilson_interval(right.sum() / len(targets), len(targets))
        lines.append(
            f"{right.sum()} of {len(targets)} test clips are right; 95 % interval of so few clips: {low:.0f} to "
            f"{high:.0f} %"
        )
    precisions = metrics.average_precision_by_class(scores, targets)
    for label, name in enumerate(predictions.classes):
        found = (
            f"{right[label]} of {clips[label]} test clips"
            if single
            else f"average precision {100 * precisions[label]:.1f}, {clips[label]} test clips"
        )
        lines.append(f"  {name:<24} {found}")
    return lines
