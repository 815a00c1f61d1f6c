"""`repro readout ROW`: train a row's readout on stored features."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DamagedOption,
    DeterministicOption,
    DeviceOption,
    PrecisionOption,
    ProtocolOption,
    SeedsOption,
    TogetherOption,
    load_requested_row,
    open_compute,
)
from repro.core.console import Reporter, print_line
from repro.core.errors import Exit
from repro.table.requirements import chosen_device
from repro.table.row import Row

if TYPE_CHECKING:
    from repro.records.record import RunRecord


def readout(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = "published",
    precision: PrecisionOption = (),
    training_precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    device: DeviceOption = None,
    deterministic: DeterministicOption = False,
    together: TogetherOption = None,
    allow_damaged: DamagedOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Train a row's readout on stored features; no video is needed.

    Example: `repro readout ak_full --seeds 5`

    Args:
        row: A name from `repro list`.
        training_precision: Precision of the readout's matrix products; part of the run's key, and recorded.
    """
    found, workspace = load_requested_row(row, precision), common.open_workspace()
    device = chosen_device(device)

    from repro.pipeline.stored_row import open_stored_row

    workspace.require_writable()
    # Missing features are reported before torch is imported, which takes seconds.
    inputs = open_stored_row(found, workspace, allow_damaged=allow_damaged)
    compute = open_compute(device, training_precision, deterministic=deterministic, together=together)

    from repro.pipeline.row import RowRequest, train_readouts

    reporter = Reporter(to_stderr=common.as_json)
    records = train_readouts(inputs, RowRequest(seeds, protocol), workspace, compute, reporter)
    print_records(found, records, as_json=common.as_json)
    return Exit.OK


def print_records(row: Row, records: "Sequence[RunRecord]", *, as_json: bool) -> None:
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
        print_line(
            f"{record.row} seed {record.seed}: {row.metric} {rule} {score:.2f}, last epoch {last:.2f}{published}"
        )
    for sha256, clips in records[0].features.imported.items():
        print_line(f"features of {clips} clips were imported and not extracted here: sha256 {sha256}")
    if row.kind == "extra":
        print_line("an extra: there is no published value to judge it by")
    elif not all(record.complete for record in records):
        print_line("a trial on fewer clips: never judged")
    elif any(record.protocol != "published" for record in records):
        print_line("the held-out protocol: not comparable with a published value, and not judged")
    else:
        print_line("`repro check` judges")
