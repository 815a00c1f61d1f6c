"""`repro predict ROW VIDEO...`: class scores of any videos."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    MOST_WORKERS,
    ON_DEVICE,
    CommonOptions,
    DeviceOptions,
    require_number,
)
from repro.core.errors import Exit, UsageError
from repro.table.requirements import chosen_device
from repro.table.rows import load_row


def predict(
    row: str,
    /,
    *videos: Path,
    seed: int | None = None,
    top: Annotated[int, Parameter(validator=require_number("--top", 1))] = 5,
    workers: Annotated[int, Parameter(validator=require_number("--workers", 1, MOST_WORKERS))] = 1,
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
    load_row(row)
    if not videos:
        raise UsageError("predict: no video given: name one or more files")

    from repro.backbones.extractor import Execution
    from repro.pipeline import predict as predicting

    execution = Execution(chosen_device(compute.device), compute.batch, workers)
    return predicting.show(row, videos, seed, top, common.open_workspace(), execution, as_json=common.as_json)
