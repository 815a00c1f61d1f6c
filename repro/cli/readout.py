"""`repro readout ROW`: train a row's readout on stored features."""

from typing import Literal

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DeterministicOption,
    DeviceOption,
    ProtocolOption,
    SeedsOption,
    load_requested_row,
)
from repro.core.errors import Exit
from repro.table.requirements import chosen_device


def readout(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = "published",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    device: DeviceOption = None,
    deterministic: DeterministicOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Train a row's readout on stored features; no video is needed.

    Example: `repro readout ak_full --seeds 5`

    Args:
        row: A name from `repro list`.
        precision: Precision of matrix products; part of the run's key, and recorded.
    """
    found, workspace = load_requested_row(row), common.open_workspace()

    from repro.cli.run import print_records
    from repro.core.console import Reporter
    from repro.pipeline.row import RowRequest, train_readouts
    from repro.readout.compute import Compute

    compute = Compute(chosen_device(device), precision, deterministic).checked()
    reporter = Reporter(to_stderr=common.as_json)
    records = train_readouts(found, RowRequest(seeds, protocol), workspace, compute, reporter)
    print_records(found, records, as_json=common.as_json)
    return Exit.OK
