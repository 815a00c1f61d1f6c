"""What a row's readouts train on, from stored features alone. Imports no torch: what is missing is reported at once."""

import shlex

from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets.split import name_first_clips
from repro.features.imported import find_stored_identity
from repro.features.packed import DamagedFeaturesError
from repro.features.store import FeatureStore
from repro.pipeline.row_data import ReadoutInputs, RowData, dataset_of, list_row_data
from repro.table.row import Row, row_backbone
from repro.video.sampling import is_of_damaged_clip


def open_stored_row(
    row: Row, workspace: Workspace, *, allow_damaged: bool = False, data: RowData | None = None
) -> ReadoutInputs:
    """Return what a row's readouts train on, from stored features alone; nothing is written.

    Args:
        row: The row.
        workspace: Where features and annotation files are.
        allow_damaged: Take features of clips that do not decode completely.
        data: The row's splits [default: those of its annotation files].

    Raises:
        MissingError: features of some clips, or annotation files, are missing; or features are of damaged clips and that was
            not allowed.
    """
    config = row_backbone(row)
    identity = find_stored_identity(config, workspace, row.features, row.data.datasets)
    data = data or list_row_data(row, workspace)
    stores: dict[str, FeatureStore] = {}
    video_sha256: dict[str, str] = {}
    for part, split in data.splits.items():
        dataset = dataset_of(row, part)
        store = FeatureStore.locate(workspace, config.name, identity, dataset)
        try:
            reader = store.cell_reader(row.features.name)
            found = {clip.id: reader.find(clip.id) for clip in split.clips}
        except DamagedFeaturesError as error:
            raise MissingError(
                f"features {store.folder}: damaged: {error}: `{extract_command(row, dataset)}` extracts them again"
            ) from error
        missing = [clip for clip, entry in found.items() if entry is None]
        if missing:
            raise MissingError(
                f"row {row.name}: {len(missing)} of {len(found)} clips of {split.name} have no features "
                f"{row.features.name} in {store.folder} ({name_first_clips(missing)}): `{extract_command(row, dataset)}` extracts them"
            )
        entries = {clip: entry for clip, entry in found.items() if entry is not None}
        damaged = [clip for clip, entry in entries.items() if is_of_damaged_clip(entry.reader)]
        if damaged and not allow_damaged:
            raise MissingError(
                f"row {row.name}: {len(damaged)} of {len(found)} clips of {split.name} are damaged and were extracted as far as "
                f"they decode ({name_first_clips(damaged)}): fetch or copy them again, or pass --allow-damaged, which is recorded"
            )
        stores[part] = store
        video_sha256 |= {clip: entry.video_sha256 for clip, entry in entries.items()}
    return ReadoutInputs(row, data, stores, video_sha256)


def extract_command(row: Row, source: str) -> str:
    """Return the command that extracts the row's features of `source`, a data set or a split of one."""
    if source in row.own_datasets:
        return row.command
    words = ["repro", "extract", source, "--backbone", row.backbone]
    # The usual cell is the default of `repro extract`.
    if row.features != row_backbone(row).axes().usual:
        if row.features.timestep is not None:
            words += ["--timesteps", str(row.features.timestep)]
        words += ["--layers", str(row.features.layer)]
    # `precision` has an option of its own.
    if "precision" in row.changes:
        words += ["--precision", row.changes["precision"]]
    for key, value in row.changes.items():
        if key == "precision":
            continue
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)
