"""`repro doctor`: whether this machine can run a row, as a line for each thing that was checked."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import COMMON, CommonOptions, DeviceOption, RowName
from repro.core.console import print_line, print_sentence
from repro.core.errors import Exit
from repro.table.rows import load_any_row

STATE_WIDTH = 5
"""Columns of ok, warn or fail, and a space."""


def doctor(
    row: Annotated[RowName, Parameter(show_default=False)] = "",
    /,
    *,
    device: DeviceOption = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Check whether this machine can run a row, or any: software, GPU, disk, locks, data, checkpoints.

    Prints a line for each thing: ok, warn or fail, and what to do. Exits 4 if a line says fail. Takes a few seconds, leaves
    nothing in the workspace and opens no connection.

    Example: `repro doctor ak_full`

    Args:
        row: A name from `repro list`, or the path of a row file of own clips [default: the machine alone].
    """
    # Imported here: these modules import most of the project.
    from repro.plan.doctor.examine import examine
    from repro.plan.doctor.finding import Subject

    chosen = load_any_row(row) if row else None
    findings = []
    for finding in examine(Subject(common.open_workspace(), chosen, device)):
        findings.append(finding)
        if not common.as_json:
            print_sentence(f"{finding.state:<{STATE_WIDTH}}{finding.name}: {finding.what}", indent=STATE_WIDTH)
            if finding.remedy:
                print_sentence(f"{'':<{STATE_WIDTH}}-> {finding.remedy}", indent=STATE_WIDTH + 3)
    states = Counter(finding.state for finding in findings)
    able = not states["fail"]
    if common.as_json:
        print(json.dumps({"row": row or None, "able": able, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        print_line()
        verdict = (
            f"{row or 'this machine'}: {'can run' if row else 'can run rows'}"
            if able
            else f"{row or 'rows'} cannot run here"
        )
        print_sentence(f"{verdict}: {states['ok']} ok, {states['warn']} warn, {states['fail']} fail")
    return Exit.OK if able else Exit.MISSING
