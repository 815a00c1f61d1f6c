"""`repro status`: what runs in a workspace, on this machine and on others."""

import json

from repro.cli.options import COMMON, CommonOptions
from repro.core.console import describe_progress, format_duration, print_line, print_sentence
from repro.core.errors import Exit
from repro.core.progress.statuses import Status, read_statuses


def status(*, common: CommonOptions = COMMON) -> Exit:
    """Show what runs in a workspace, on this machine and on others, and how it ended.

    Running commands come first, then the latest that ended. One that was killed is lost; the same command resumes its work.

    Example: `repro status`
    """
    workspace = common.open_workspace()
    statuses = read_statuses(workspace.status)
    statuses.sort(key=lambda one: one.state != "running")
    if common.as_json:
        print(json.dumps([one.model_dump(mode="json") for one in statuses], indent=1))
        return Exit.OK
    for one in statuses:
        _print_status(one)
    if not statuses:
        print_sentence(f"no row, grid, extraction or readout has run in {workspace.root}")
    return Exit.OK


def _print_status(one: Status) -> None:
    place = ", ".join(filter(None, (one.host, one.device, one.job and f"job {one.job}")))
    time = f"since {one.started}" if one.state == "running" else f"at {one.updated}"
    notes = [f"{one.warnings} warning{'s' * (one.warnings > 1)}" if one.warnings else "", one.message]
    if one.state == "lost":
        notes.append("killed, or its machine cannot be seen: the same command resumes its work")
    print_sentence("; ".join(filter(None, (f"{one.state:<12}{one.command} ({place}) {time}", *notes))), indent=12)
    to_come = 0
    for stage in one.stages:
        to_come += stage.state == "to come"
        if stage.state in ("to come", "done", "skipped"):
            continue
        about = f"{stage.name}  {stage.about}, for {format_duration(stage.seconds)}"
        print_sentence("; ".join((f"{'':12}{about}", *describe_progress(stage.as_snapshot()))), indent=14)
    if to_come and one.state == "running":
        print_line(f"{'':12}{to_come} stage{'s' * (to_come > 1)} to come")
