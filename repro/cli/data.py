"""The verbs of `repro data`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from repro.cli.options import JsonOption, WorkspaceOption
from repro.core.errors import Exit
from repro.core.workspace import open_workspace

data = App(
    name="data",
    help="The data sets: what is there, bringing the owners' archives into place, decoding every clip, comparing.",
)


@data.command(name="status")
def data_status(*names: str, workspace: WorkspaceOption = None, json_: JsonOption = False) -> Exit:
    """What is there of each data set, and what is missing.

    Args:
        names: from configs/datasets [default: all].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import inventory

    return inventory.show_status(names, open_workspace(workspace), as_json=json_)


@data.command(name="prepare")
def data_prepare(
    name: str,
    /,
    *,
    from_: Annotated[list[Path] | None, Parameter(name="--from", consume_multiple=True, negative="")] = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Link or unpack a data set's videos and annotations into the layout that is read; exits 4 where clips are missing.

    Args:
        name: from configs/datasets.
        from_: archives, or folders that hold them or what was in them [default: the data set's folder archives].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import inventory

    return inventory.show_prepare(name, from_ or [], open_workspace(workspace), as_json=json_)


@data.command(name="audit")
def data_audit(
    name: str, /, *, workers: int | None = None, workspace: WorkspaceOption = None, json_: JsonOption = False
) -> Exit:
    """Decode every clip and write a manifest of what is in it; goes on where it was killed; exits 4 on any fault.

    Args:
        name: from configs/datasets.
        workers: processes that decode [default: one a core].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import inventory

    return inventory.show_audit(name, workers, open_workspace(workspace), as_json=json_)


@data.command(name="diff")
def data_diff(a: Path, b: Path, /, *, json_: JsonOption = False) -> Exit:
    """Which clips two manifests of `repro data audit` differ in, and how; exits 1 where they differ.

    Args:
        a: a manifest.parquet.
        b: another.
        json_: print JSON only.
    """
    from repro.cli import inventory

    return inventory.show_diff(a, b, as_json=json_)
