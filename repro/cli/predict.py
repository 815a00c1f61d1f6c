"""`repro predict ROW VIDEO...`: class scores of any videos."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.backbones.extractor import Execution
from repro.cli.options import (
    COMMON,
    MOST_WORKERS,
    CommonOptions,
    DamagedOption,
    DeviceOptions,
    FlagOption,
    PrecisionOption,
    RowName,
    require_number,
    require_output,
)
from repro.core.console import Reporter, format_csv, print_line
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.files import write_bytes
from repro.features.collection import folder_collection
from repro.table.requirements import chosen_device
from repro.table.rows import load_any_row, smoke_row_names

if TYPE_CHECKING:
    import numpy as np

    from repro.pipeline.predict import ScoredVideos, ScoredWindow
    from repro.readout.trained import Readout


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Which scores are written, and where."""

    csv: Annotated[
        Path | None,
        Parameter(help="Write a table for a spreadsheet to this file: a line per video, a column per class."),
    ] = None
    per_window: Annotated[
        FlagOption, Parameter(help="Also score each window of the backbone by itself: when in the video.")
    ] = False
    top: Annotated[
        int, Parameter(validator=require_number("--top", 1), help="Number of classes to print for each video.")
    ] = 5


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureComputeOptions(DeviceOptions):
    """How the features of the videos are computed."""

    workers: Annotated[
        int,
        Parameter(validator=require_number("--workers", 1, MOST_WORKERS), help="Processes that decode videos."),
    ] = 1
    allow_damaged: DamagedOption = False
    precision: PrecisionOption = ()


OUTPUT = OutputOptions()
FEATURE_COMPUTE = FeatureComputeOptions()


def predict(
    row: RowName,
    /,
    *videos: Path,
    seed: int | None = None,
    output: OutputOptions = OUTPUT,
    compute: FeatureComputeOptions = FEATURE_COMPUTE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Score any video files with a row's trained readout.

    Example: `repro predict ak_full clip.mp4 --top 3`

    Args:
        row: A row that was run in this workspace, the path of a row file of own clips, or `smoke`.
        videos: Video files, or folders of them; a file that cannot be decoded is reported, the others are scored.
        seed: Seed of the readout [default: that of the newest run].
    """
    found = load_any_row(row, *compute.precision)
    if output.csv is not None and output.csv.is_file():
        # It may be the table that the labels are in.
        raise UsageError(f"--csv {output.csv}: the file exists: name another one")
    if output.csv is not None:
        require_output("--csv", output.csv)
    if not videos:
        raise UsageError("predict: no video given: name one or more files")

    # Progress goes to stderr, so that stdout has the scores alone.
    reporter, files = Reporter(to_stderr=True), list[Path]()
    for path in videos:
        if not path.is_dir():
            files.append(path)
            continue
        below = folder_collection(path)
        files += [clip.path for clip in below.clips]
        for note in below.notes:
            reporter.warn(note)

    # Imports torch, which takes seconds: mistakes are reported before.
    from repro.pipeline.predict import predict_videos

    execution = Execution(
        chosen_device(compute.device),
        compute.batch,
        compute.workers,
        compute.allow_damaged,
        reporter.line,
        compile=compute.compiled,
    )
    scored = predict_videos(
        found, files, seed, common.open_workspace(), execution, reporter, per_window=output.per_window
    )
    if output.csv is not None:
        # With the mark by which spreadsheet programs know UTF-8.
        write_bytes(output.csv, _scores_as_csv(scored, single=found.metric == "top1").encode("utf-8-sig"), by_user=True)
    if common.as_json:
        print(json.dumps(_scores_as_json(scored), indent=1))
    elif scored.scores:
        _print_scores(scored, output.top)
    if scored.failed:
        count = len(scored.scores) + len(scored.failed)
        raise MissingError(f"{len(scored.failed)} of {count} videos could not be scored: each is named above")
    return Exit.OK


def _print_scores(scored: "ScoredVideos", top: int) -> None:
    readout = scored.readout
    print_line(f"{readout.row}, seed {readout.seed}, epoch {readout.epoch}: {readout.backbone} {readout.cell}")
    if readout.recipe.loss.name != "cross_entropy":
        print_line("each class is scored by itself: scores do not add up to 100 %")
    if readout.row in smoke_row_names():
        print_line("nothing in this backbone was learnt: these scores mean nothing")
    for path, scores in scored.scores.items():
        print_line(str(path))
        # A stable sort: ties keep the order of the classes.
        for label in (-scores).argsort(kind="stable")[:top]:
            print_line(f"  {100 * scores[label]:6.2f} %  {readout.classes[label]}")
        for window in scored.windows.get(path, ()):
            best = int(window.scores.argmax())
            print_line(f"  {_format_span(window)}  {100 * window.scores[best]:6.2f} %  {readout.classes[best]}")


def _format_span(window: "ScoredWindow") -> str:
    if window.start is None or window.end is None:
        return "time unknown"
    return f"{window.start:8.2f} to {window.end:.2f} s"


def _scores_as_json(scored: "ScoredVideos") -> dict[str, object]:
    readout = scored.readout
    return {
        "row": readout.row,
        "seed": readout.seed,
        "epoch": readout.epoch,
        "videos": [
            {"path": str(path), "scores": _scores_by_class(readout, scores)}
            | (
                {
                    "windows": [
                        {"start": one.start, "end": one.end, "scores": _scores_by_class(readout, one.scores)}
                        for one in scored.windows[path]
                    ]
                }
                if path in scored.windows
                else {}
            )
            for path, scores in scored.scores.items()
        ],
        "failed": dict(scored.failed),
    }


def _scores_by_class(readout: "Readout", scores: "np.ndarray") -> dict[str, float]:
    return dict(zip(readout.classes, (round(float(score), 6) for score in scores), strict=True))


def _scores_as_csv(scored: "ScoredVideos", *, single: bool) -> str:
    """Return a table: a line per video and, after it, per window; then the videos that could not be read."""
    readout = scored.readout
    lines: list[list[object]] = [["path", "start_s", "end_s", "predicted", *readout.classes, "error"]]

    def write_scores(path: Path, times: Sequence[float | None], scores: "np.ndarray") -> None:
        # Of clips with any number of labels, each class is predicted by its own score.
        chosen = [scores.argmax()] if single else (scores >= 0.5).nonzero()[0]
        cells: list[object] = [path, *("" if time is None else f"{time:.2f}" for time in times)]
        cells += [";".join(readout.classes[label] for label in chosen), *(f"{score:.6f}" for score in scores), ""]
        lines.append(cells)

    for path, scores in scored.scores.items():
        write_scores(path, (None, None), scores)
        for window in scored.windows.get(path, ()):
            write_scores(path, (window.start, window.end), window.scores)
    for name, why in scored.failed.items():
        lines.append([name, "", "", "", *("" for _ in readout.classes), why])
    return format_csv(lines)
