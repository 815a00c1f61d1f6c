"""What text conditioning needs besides SVD's checkpoint: OpenCLIP's text tower and the texts. Imports no torch.

The readers of annotation files are imported where texts are class names: `repro list` reads no annotations.
"""

from typing import TYPE_CHECKING

from repro.backbones.config import OtherInputs
from repro.core import LazyModule
from repro.core.config import Config, Positive, configs_folder, load_config
from repro.core.errors import MissingError, UsageError
from repro.core.hashing import FileHashes
from repro.core.remote_file import Address, RemoteFile, fetch_command
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.split import SplitName

if TYPE_CHECKING:
    from repro.datasets import registry
else:
    registry = LazyModule("repro.datasets.registry")

TEXT_ENCODER = "openclip_text"
"""The asset's name for `repro fetch`."""


class TextTower(Config):
    """OpenCLIP's text transformer."""

    width: Positive
    layers: Positive
    heads: Positive
    context: Positive
    """Maximal number of tokens of a text, including the start and end tokens."""
    vocabulary: Positive
    embed_dim: Positive


class TextEncoder(Config):
    title: str
    source: str
    size: str
    licence: str
    licence_url: Address
    weights: RemoteFile
    """An OpenCLIP model, as a pickle or as safetensors; its image side is not read."""
    merges: RemoteFile
    """The gzipped merges of its byte pair encoding."""
    tower: TextTower


def load_text_encoder() -> TextEncoder:
    return load_config(TextEncoder, configs_folder() / "assets" / f"{TEXT_ENCODER}.yaml")


def explain_missing_files(workspace: Workspace) -> str:
    """Return which of the text tower's files are missing and the command that helps; an empty string if none is."""
    encoder = load_text_encoder()
    missing = [
        file.file for file in (encoder.weights, encoder.merges) if not (workspace.checkpoints / file.file).is_file()
    ]
    if not missing:
        return ""
    return (
        f"text tower {TEXT_ENCODER}: {' and '.join(missing)} missing in {workspace.checkpoints} ({encoder.size}; licence: "
        f"{encoder.licence}); to bring it: {fetch_command(TEXT_ENCODER, workspace)}"
    )


def find_texts_and_files(actions_of: SplitName | None, workspace: Workspace, to_compute: bool) -> OtherInputs:
    """Find the text tower's files, and the texts: the class names of the split `actions_of`, or only the empty text.

    Args:
        actions_of: the split; None for the empty text.
        workspace: where checkpoints and annotation files are.
        to_compute: False if the features exist, so that the files may be missing.

    Raises:
        MissingError: a file is missing or is not the expected one, or the data set's annotation files are missing.
        UsageError: there is no such split.
    """
    encoder = load_text_encoder()
    problem = explain_missing_files(workspace)
    if problem and to_compute:
        raise MissingError(problem)
    hashes, sha256, paths = FileHashes(workspace.hashes), {}, {}
    for part, file in (("weights", encoder.weights), ("merges", encoder.merges)):
        paths[part] = workspace.checkpoints / file.file
        # For stored features a missing file may be named by its published sha256.
        sha256[part] = hashes.sha256(paths[part]) if paths[part].is_file() else file.sha256
        if file.sha256 not in (None, sha256[part]):
            raise MissingError(
                f"{paths[part]}: sha256 is {sha256[part]}, expected {file.sha256}: it is damaged or another file: fetch it "
                "again"
            )
    # Without class names, a single empty text: repeating it for each class would not change attention's result.
    texts = _class_names(actions_of, workspace) if actions_of is not None else ("",)
    return OtherInputs({"text": {"texts": list(texts), "tower": encoder.tower.model_dump(mode="json")} | sha256}, paths)


def _class_names(name: SplitName, workspace: Workspace) -> tuple[str, ...]:
    if name.dataset not in registry.user_dataset_names():
        raise UsageError(
            f"conditioning.actions_of: {name}: expected <data set>/<split>, of {', '.join(registry.user_dataset_names())}"
        )
    return registry.open_dataset(load_dataset(name.dataset), workspace).split(name.split).classes
