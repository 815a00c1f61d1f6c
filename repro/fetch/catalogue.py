"""What the rows need and this project does not hold: who owns it, under which licence, and where it belongs here."""

from dataclasses import dataclass
from pathlib import Path

from repro.backbones.registry import backbone_names, load_backbone
from repro.backbones.svd.text_files import NAME as TEXT
from repro.backbones.svd.text_files import load_text_encoder
from repro.backbones.weights import checkpoint_path
from repro.core.config import fill_path
from repro.core.remote_file import RemoteFile
from repro.core.workspace import Workspace
from repro.datasets.config import dataset_names, load_dataset


@dataclass(frozen=True, slots=True)
class Asset:
    """A checkpoint, the text tower or a data set."""

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    """Empty where the owners give it on request alone."""
    folder: Path
    """Where the files belong."""
    size: str
    licence: str
    licence_url: str
    source: str
    on_request: str = ""
    """What to do instead of fetching."""
    unpacked: Path | None = None
    """Where a data set lies ready to be read."""
    encoder: Path | None = None
    """What is kept of a training checkpoint, in place of its file."""
    then: str = ""
    """The command that makes use of the files."""

    def path(self, file: RemoteFile) -> Path:
        return self.folder / file.file


def assets(workspace: Workspace) -> dict[str, Asset]:
    """Everything with an owner: checkpoints, the text tower, then data sets."""
    found = {}
    for name in backbone_names():
        backbone = load_backbone(name)
        c = backbone.checkpoint
        if c is None or not c.is_remote:
            continue
        path = checkpoint_path(c, workspace)
        found[name] = Asset(
            name, backbone.title, (c,), path.parent, c.size, c.licence, c.licence_url or c.source, c.source,
            encoder=path if c.encoder_file else None,
        )  # fmt: skip
    text = load_text_encoder()
    found[TEXT] = Asset(
        TEXT, text.title, (text.weights, text.merges), workspace.checkpoints, text.size, text.licence, text.licence_url,
        text.source,
    )  # fmt: skip
    for name in dataset_names():
        d = load_dataset(name)
        if d.adapter == "smoke":
            continue
        place = workspace.data / d.folder
        ready = not d.missing_parts(place)
        found[name] = Asset(
            name, d.title, d.files, place / "archives", d.size, d.licence, d.licence_url or d.source, d.source,
            on_request=fill_path(d.obtain, place) if d.obtain else "",
            unpacked=place if ready else None,
            then=f"repro data prepare {name}{workspace.command_option}",
        )  # fmt: skip
    return found
