"""What a person does about data that are not there."""

from repro.assets import fetch_command
from repro.config import filled
from repro.datasets.config import DatasetConfig
from repro.workspace import Workspace


def remedy(name: str, dataset: DatasetConfig, workspace: Workspace) -> str:
    """The commands, or the way to the owners, that bring a data set."""
    if dataset.obtain is not None:
        return filled(dataset.obtain, workspace.data / dataset.folder)
    return f"{fetch_command(name, workspace)}, then repro data prepare {name}{workspace.option}"
