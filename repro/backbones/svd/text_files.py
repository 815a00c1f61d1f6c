"""What text conditioning takes beside SVD's own checkpoint: OpenCLIP's text tower and the texts. Imports no torch."""

from pathlib import Path

from repro.backbones.config import Beside, Positive
from repro.core.config import Config, configs_folder, load_config
from repro.core.errors import MissingError, UsageError
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace

NAME = "openclip_text"
"""By which `repro fetch` takes it."""


class TextTower(Config):
    """OpenCLIP's text transformer."""

    width: Positive
    layers: Positive
    heads: Positive
    context: Positive
    """Tokens a text may have, the two at its ends counted."""
    vocabulary: Positive
    embed_dim: Positive


class TextEncoder(Config):
    title: str
    source: str
    size: str
    licence: str
    licence_url: str
    weights: RemoteFile
    """An OpenCLIP model, as a pickle or as safetensors; its image tower is not read."""
    merges: RemoteFile
    """Of the byte pair encoding, gzipped."""
    tower: TextTower


def load_text_encoder() -> TextEncoder:
    return load_config(TextEncoder, configs_folder() / "assets" / f"{NAME}.yaml")


def absent(workspace: Workspace) -> str:
    """ "" where the text tower's files are there, else which are not, and what brings them."""
    encoder = load_text_encoder()
    gone = [
        file.file for file in (encoder.weights, encoder.merges) if not (workspace.checkpoints / file.file).is_file()
    ]
    if not gone:
        return ""
    return (
        f"text tower {NAME}: no {' and no '.join(gone)} in {workspace.checkpoints} ({encoder.size}; licence: "
        f"{encoder.licence}); to bring it: {fetch_command(NAME, workspace)}"
    )


def texts_and_files(actions_of: str | None, workspace: Workspace, to_compute: bool) -> Beside:
    """Texts and files: the class names of the split `actions_of`, <data set>/<split>, or the empty text alone.

    Not `to_compute`, the files need not be there.

    Raises:
        MissingError: they are not, or are others; the data set's annotation files are not there.
        UsageError: there is no such split.
    """
    encoder = load_text_encoder()
    problem = absent(workspace)
    if problem and to_compute:
        raise MissingError(problem)
    hashes, sha256, paths = FileHashes(workspace.hashes), {}, {}
    for part, file in (("weights", encoder.weights), ("merges", encoder.merges)):
        paths[part] = workspace.checkpoints / file.file
        sha256[part] = hashes.sha256(paths[part]) if paths[part].is_file() else file.sha256
        if file.sha256 not in (None, sha256[part]):
            raise MissingError(
                f"{paths[part]}: sha256 is {sha256[part]}, expected {file.sha256}: it is damaged or another file: fetch it "
                "again"
            )
    texts = _class_names(actions_of, workspace) if actions_of is not None else ("",)
    return Beside({"text": {"texts": list(texts), "tower": encoder.tower.model_dump(mode="json")} | sha256}, paths)


def _class_names(place: str, workspace: Workspace) -> tuple[str, ...]:
    from repro.datasets import registry

    dataset, _, split = place.partition("/")
    if dataset not in registry.brought_names():
        raise UsageError(
            f"conditioning.actions_of: {place}: expected <data set>/<split>, of {', '.join(registry.brought_names())}"
        )
    return registry.open_dataset(dataset, workspace).split(split).classes


def files(beside: Beside) -> tuple[Path, Path]:
    """Weights and merges."""
    return beside.files["weights"], beside.files["merges"]
