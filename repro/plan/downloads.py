"""What must be downloaded for rows, from where and under which licence; each thing once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.backbones.weights import checkpoint_path, explain_missing_checkpoint
from repro.core.remote_file import RemoteFile, fetch_command, parse_bytes
from repro.fetch.catalogue import list_assets
from repro.plan.amounts import Amount, counted, estimated, sum_amounts
from repro.plan.workspace_state import WorkspaceState
from repro.table.row import Row


@dataclass(frozen=True, slots=True)
class Download:
    """A data set, or a checkpoint."""

    name: str
    """Name of the data set, or of the backbone whose checkpoint it is."""
    kind: str
    """data or checkpoint."""
    rows: tuple[str, ...]
    """Names of the rows that need it."""
    size: str
    """Size as text, from its config."""
    total_bytes: Amount | None
    """Bytes of all files."""
    bytes_to_download: Amount | None
    """Bytes that are not in the workspace yet."""
    bytes_unpacked: Amount | None
    """Bytes that unpacking takes."""
    licence: str
    licence_url: str
    ready: bool
    """True if it can be used as it is."""
    remedy: str
    """What the user must do; empty if it is ready."""


def list_downloads(rows: Sequence[Row], state: WorkspaceState) -> list[Download]:
    """Return data sets, then checkpoints, in the order in which rows need them."""
    datasets: dict[str, list[str]] = {}
    # By file, not by backbone: svd_xt and sdv2 share one checkpoint, which is downloaded once.
    checkpoints: dict[str, tuple[str, list[str]]] = {}
    conditioning: dict[str, list[str]] = {}
    for row in rows:
        for dataset in row.data.datasets:
            datasets.setdefault(dataset, []).append(row.name)
        checkpoint = state.backbone(row.backbone).checkpoint
        if checkpoint is not None and checkpoint.is_remote:
            checkpoints.setdefault(checkpoint.file, (row.backbone, []))[1].append(row.name)
        for asset in state.backbone(state.label_backbone(row)).missing_inputs(state.workspace):
            conditioning.setdefault(asset, []).append(row.name)
    return [
        *(_dataset_download(dataset, state, tuple(users)) for dataset, users in datasets.items()),
        *(_checkpoint_download(backbone, state, tuple(users)) for backbone, users in checkpoints.values()),
        *(_conditioning_download(asset, state, tuple(users)) for asset, users in conditioning.items()),
    ]


def _dataset_download(name: str, state: WorkspaceState, rows: tuple[str, ...]) -> Download:
    config, workspace = state.dataset_config(name), state.workspace
    folder = workspace.data / config.folder
    ready = not config.missing_parts(folder)
    if config.files:
        total = sum_amounts(_file_bytes(file) for file in config.files)
        remaining = sum_amounts(_remaining_bytes(file, folder / "archives") for file in config.files)
    else:
        # A data set that is only sent on request has no list of files; its config states the size as text.
        stated = parse_bytes(config.size)
        total = remaining = None if stated is None else estimated(stated)
    return Download(
        name=name,
        kind="data",
        rows=rows,
        size=config.size,
        total_bytes=total,
        bytes_to_download=counted(0) if ready else remaining,
        # Videos are compressed already, so unpacked ones take about as much as their archives.
        bytes_unpacked=counted(0) if ready else total and estimated(total.likely),
        licence=config.licence,
        licence_url=config.licence_url or config.source,
        ready=ready,
        remedy="" if ready else config.how_to_obtain(workspace),
    )


def _checkpoint_download(backbone: str, state: WorkspaceState, rows: tuple[str, ...]) -> Download:
    config = state.backbone(backbone)
    checkpoint = config.checkpoint
    assert checkpoint is not None
    ready = not explain_missing_checkpoint(config, state.workspace)
    folder = checkpoint_path(checkpoint, state.workspace).parent
    return Download(
        name=backbone,
        kind="checkpoint",
        rows=rows,
        size=checkpoint.size,
        total_bytes=_file_bytes(checkpoint),
        bytes_to_download=counted(0) if ready else _remaining_bytes(checkpoint, folder),
        bytes_unpacked=counted(0),
        licence=checkpoint.licence,
        licence_url=checkpoint.licence_url or checkpoint.source,
        ready=ready,
        remedy="" if ready else fetch_command(backbone, state.workspace),
    )


def _conditioning_download(name: str, state: WorkspaceState, rows: tuple[str, ...]) -> Download:
    """Return the asset `name`, which a row's conditioning needs besides its checkpoint, and which is missing."""
    asset = list_assets(state.workspace)[name]
    return Download(
        name=name,
        kind="checkpoint",
        rows=rows,
        size=asset.size,
        total_bytes=sum_amounts(_file_bytes(file) for file in asset.files),
        bytes_to_download=sum_amounts(_remaining_bytes(file, asset.folder) for file in asset.files),
        bytes_unpacked=counted(0),
        licence=asset.licence,
        licence_url=asset.licence_url,
        ready=False,
        remedy=fetch_command(name, state.workspace),
    )


def _file_bytes(file: RemoteFile) -> Amount | None:
    if file.bytes is not None:
        return counted(file.bytes)
    return None if file.expected_bytes is None else estimated(file.expected_bytes)


def _remaining_bytes(file: RemoteFile, folder: Path) -> Amount | None:
    """Bytes still to download. A complete file counts as 0; `repro fetch` verifies it."""
    total, partial = _file_bytes(file), folder / f"{file.file}.part"
    if (folder / file.file).is_file():
        return counted(0)
    if total is None or not partial.is_file():
        return total
    # `repro fetch` resumes from the partial file. It may be longer than an estimated size, hence the max.
    remaining = max(0.0, total.likely - partial.stat().st_size)
    return Amount(remaining, remaining, remaining, total.exact)
