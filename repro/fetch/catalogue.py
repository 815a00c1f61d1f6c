"""What the rows need from others: which files, under which licence, and where they belong in the workspace."""

from dataclasses import dataclass
from pathlib import Path

from repro.backbones.registry import backbone_names, load_backbone
from repro.backbones.svd.text_files import TEXT_ENCODER, load_text_encoder
from repro.backbones.weights import checkpoint_path
from repro.core.config import fill_path
from repro.core.remote_file import RemoteFile
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig, dataset_names, load_dataset


@dataclass(frozen=True, slots=True)
class Asset:
    """A checkpoint, the text encoder or a data set."""

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    """Empty if the publisher gives the data only on request."""
    folder: Path
    """Where the files belong."""
    size: str
    licence: str
    licence_url: str
    source: str
    on_request: str = ""
    """How to request the data from its publisher; empty if it can be downloaded."""
    unpacked: Path | None = None
    """Folder of a data set that is unpacked; None if it is not."""
    encoder: Path | None = None
    """File that is kept instead of a training checkpoint: its encoder."""
    dataset: DatasetConfig | None = None
    """Config of a data set."""

    def path(self, file: RemoteFile) -> Path:
        return self.folder / file.file


def list_assets(workspace: Workspace) -> dict[str, Asset]:
    """Return everything that is fetched, by name: checkpoints, the text encoder, then data sets."""
    found = {}
    for name in backbone_names():
        backbone = load_backbone(name)
        c = backbone.checkpoint
        # Backbones without weights and those whose weights are generated have nothing to fetch.
        if c is None or not c.is_remote:
            continue
        path = checkpoint_path(c, workspace)
        found[name] = Asset(
            name, backbone.title, (c,), path.parent, c.size, c.licence, c.licence_url or c.source, c.source,
            encoder=path if c.encoder_file else None,
        )  # fmt: skip
    text = load_text_encoder()
    found[TEXT_ENCODER] = Asset(
        TEXT_ENCODER, text.title, (text.weights, text.merges), workspace.checkpoints, text.size, text.licence,
        text.licence_url, text.source,
    )  # fmt: skip
    for name in dataset_names():
        d = load_dataset(name)
        if d.adapter == "smoke":  # its clips are generated
            continue
        folder = workspace.data / d.folder
        found[name] = Asset(
            name, d.title, d.files, folder / "archives", d.size, d.licence, d.licence_url or d.source, d.source,
            on_request=fill_path(d.obtain, folder) if d.obtain else "",
            unpacked=None if d.missing_parts(folder) else folder,
            dataset=d,
        )  # fmt: skip
    return found
