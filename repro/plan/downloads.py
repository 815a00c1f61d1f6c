"""What must be downloaded for rows, from where and under which licence; each thing once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.backbones.weights import checkpoint_path, explain_missing_checkpoint
from repro.core.remote_file import RemoteFile, fetch_command, parse_bytes
from repro.fetch.catalogue import list_assets
from repro.plan.amounts import Amount, counted, estimated, total
from repro.plan.workspace_state import Here
from repro.table.row import Row


@dataclass(frozen=True, slots=True)
class Download:
    name: str
    """Name of the data set, or of the backbone whose checkpoint it is."""
    kind: str
    """data or checkpoint."""
    rows: tuple[str, ...]
    size: str
    """Size as text, from its config."""
    whole: Amount | None
    """Total bytes of all files."""
    left: Amount | None
    """Bytes still to download."""
    unpacked: Amount | None
    """Bytes that unpacking takes."""
    licence: str
    licence_url: str
    ready: bool
    """True if it can be used as it is."""
    brings: str
    """What the user must do; empty if it is ready."""


def downloads(rows: Mapping[str, Row], here: Here) -> list[Download]:
    """Data sets, then checkpoints, in the order in which rows need them."""
    datasets: dict[str, list[str]] = {}
    checkpoints: dict[str, tuple[str, list[str]]] = {}
    beside: dict[str, list[str]] = {}
    for name, row in rows.items():
        for dataset in row.data.datasets:
            datasets.setdefault(dataset, []).append(name)
        checkpoint = here.backbone(row.backbone).checkpoint
        if checkpoint is not None and checkpoint.is_remote:
            checkpoints.setdefault(checkpoint.file, (row.backbone, []))[1].append(name)
        for asset in here.backbone(here.asks(row)).missing_inputs(here.workspace):
            beside.setdefault(asset, []).append(name)
    return [
        *(_data(dataset, here, tuple(users)) for dataset, users in datasets.items()),
        *(_checkpoint(backbone, here, tuple(users)) for backbone, users in checkpoints.values()),
        *(_beside(asset, here, tuple(users)) for asset, users in beside.items()),
    ]


def _beside(name: str, here: Here, rows: tuple[str, ...]) -> Download:
    """What a row's conditioning needs beside its checkpoint, and is not there."""
    asset = list_assets(here.workspace)[name]
    return Download(
        name, "checkpoint", rows, asset.size, total(_bytes(file) for file in asset.files),
        left=total(_left(file, asset.folder) for file in asset.files),
        unpacked=counted(0),
        licence=asset.licence,
        licence_url=asset.licence_url,
        ready=False,
        brings=fetch_command(name, here.workspace),
    )  # fmt: skip


def _data(name: str, here: Here, rows: tuple[str, ...]) -> Download:
    config, workspace = here.config(name), here.workspace
    folder = workspace.data / config.folder
    ready = not config.missing_parts(folder)
    if config.files:
        whole = total(_bytes(file) for file in config.files)
        left = total(_left(file, folder / "archives") for file in config.files)
    else:  # given on request alone, in words
        said = parse_bytes(config.size)
        whole = left = None if said is None else estimated(said)
    return Download(
        name, "data", rows, config.size, whole,
        left=counted(0) if ready else left,
        # Videos are compressed already, so unpacked ones take about as much as their archives.
        unpacked=counted(0) if ready else whole and estimated(whole.likely),
        licence=config.licence,
        licence_url=config.licence_url or config.source,
        ready=ready,
        brings="" if ready else config.how_to_obtain(workspace),
    )  # fmt: skip


def _checkpoint(backbone: str, here: Here, rows: tuple[str, ...]) -> Download:
    config = here.backbone(backbone)
    checkpoint = config.checkpoint
    assert checkpoint is not None
    ready = not explain_missing_checkpoint(config, here.workspace)
    folder = checkpoint_path(checkpoint, here.workspace).parent
    return Download(
        backbone, "checkpoint", rows, checkpoint.size, _bytes(checkpoint),
        left=counted(0) if ready else _left(checkpoint, folder),
        unpacked=counted(0),
        licence=checkpoint.licence,
        licence_url=checkpoint.licence_url or checkpoint.source,
        ready=ready,
        brings="" if ready else fetch_command(backbone, here.workspace),
    )  # fmt: skip


def _bytes(file: RemoteFile) -> Amount | None:
    if file.bytes is not None:
        return counted(file.bytes)
    return None if file.expected_bytes is None else estimated(file.expected_bytes)


def _left(file: RemoteFile, folder: Path) -> Amount | None:
    """Bytes still to download. A complete file counts as 0; `repro fetch` verifies it."""
    whole, begun = _bytes(file), folder / f"{file.file}.part"
    if (folder / file.file).is_file():
        return counted(0)
    if whole is None or not begun.is_file():
        return whole
    left = max(0.0, whole.likely - begun.stat().st_size)
    return Amount(left, left, left, whole.exact)
