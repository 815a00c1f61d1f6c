"""`repro readout ROW`: train a row's readout on stored features."""

from typing import Literal

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DeterministicOption,
    DeviceOption,
    ProtocolOption,
    SeedsOption,
)
from repro.core.errors import Exit
from repro.table.requirements import chosen_device
from repro.table.rows import load_row


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
    load_row(row)

    from repro.pipeline import running

    options = running.Options(seeds, protocol, chosen_device(device), deterministic, precision)
    return running.read_out_alone(row, options, common.open_workspace(), as_json=common.as_json)
