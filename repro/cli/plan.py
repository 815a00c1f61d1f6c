"""The verb `repro plan`."""

from repro.cli.options import DeviceOption, JsonOption, ProtocolOption, SeedsOption, WorkspaceOption, at_least_one
from repro.core.errors import Exit
from repro.core.workspace import open_workspace


def plan(
    *rows: str,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = "published",
    device: DeviceOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """What rows would take: bytes, licences, clips, windows, hours and disk by stage, and what is there already.

    Args:
        rows: names from `repro list`, or all [default: all].
        seeds: readouts a row.
        protocol: whose runs that are there count.
        device: cuda reckons with a GPU where none was measured; cpu knows measured rates alone [default: REPRO_DEVICE, else cuda].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import planning

    count = at_least_one("--seeds", seeds) or 1
    return planning.show(rows, open_workspace(workspace), seeds=count, protocol=protocol, device=device, as_json=json_)
