"""`repro predict ROW VIDEO...`: class scores of any videos."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.backbones.extractor import Execution
from repro.cli.options import (
    COMMON,
    MOST_WORKERS,
    ON_DEVICE,
    CommonOptions,
    DamagedOption,
    DeviceOptions,
    PrecisionOption,
    require_number,
)
from repro.core.console import Reporter, print_line
from repro.core.errors import Exit, MissingError, UsageError
from repro.table.requirements import chosen_device
from repro.table.row import with_precision
from repro.table.rows import load_row, smoke_row_names

if TYPE_CHECKING:
    from repro.pipeline.predict import ScoredVideos


def predict(
    row: str,
    /,
    *videos: Path,
    seed: int | None = None,
    top: Annotated[int, Parameter(validator=require_number("--top", 1))] = 5,
    workers: Annotated[int, Parameter(validator=require_number("--workers", 1, MOST_WORKERS))] = 1,
    allow_damaged: DamagedOption = False,
    precision: PrecisionOption = (),
    compute: DeviceOptions = ON_DEVICE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Score any video files with a row's trained readout.

    Example: `repro predict ak_full clip.mp4 --top 3`

    Args:
        row: A row that was run in this workspace, or `smoke`.
        videos: Video files; a file that cannot be decoded is reported, the others are scored.
        seed: Seed of the readout [default: that of the newest run].
        top: Number of classes to print for each video.
        workers: Processes that decode videos.
    """
    found = with_precision(load_row(row), *precision)
    if not videos:
        raise UsageError("predict: no video given: name one or more files")

    # Imports torch, which takes seconds: mistakes are reported before.
    from repro.pipeline.predict import predict_videos

    execution = Execution(chosen_device(compute.device), compute.batch, workers, allow_damaged)
    # Progress goes to stderr, so that stdout has the scores alone.
    scored = predict_videos(found, videos, seed, common.open_workspace(), execution, Reporter(to_stderr=True))
    if common.as_json:
        print(json.dumps(_scores_as_json(scored), indent=1))
    elif scored.scores:
        _print_scores(scored, top)
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


def _scores_as_json(scored: "ScoredVideos") -> dict[str, object]:
    readout = scored.readout
    return {
        "row": readout.row,
        "seed": readout.seed,
        "epoch": readout.epoch,
        "videos": [
            {"path": str(path), "scores": dict(zip(readout.classes, (round(float(s), 6) for s in scores), strict=True))}
            for path, scores in scored.scores.items()
        ],
        "failed": dict(scored.failed),
    }
