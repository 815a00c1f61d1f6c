"""What a person does about data that are not there."""

from repro.core.config import fill_path
from repro.core.remote_file import fetch_command
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig


def remedy(name: str, dataset: DatasetConfig, workspace: Workspace) -> str:
    """The commands, or the way to the owners, that bring a data set."""
    if dataset.obtain is not None:
        return fill_path(dataset.obtain, workspace.data / dataset.folder)
    return f"{fetch_command(name, workspace)}, then repro data prepare {name}{workspace.option}"
