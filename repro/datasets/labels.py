"""Labels of a data set that came with imported features, in place of its annotation files.

WORKSPACE/listings/<dataset>-imported.jsonl, signed. It holds no paths: where a data set's videos would be is this workspace's to say.
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field

from repro.core.config import Config
from repro.core.signed import read_signed_text, write_signed_text
from repro.core.workspace import Workspace
from repro.datasets.annotations import Listing
from repro.datasets.config import DatasetConfig
from repro.datasets.split import Clip, Split, SplitName

Text = Annotated[str, Field(max_length=4000)]


class SplitLabels(Config):
    classes: tuple[Text, ...]
    """A class's index is its label id."""
    clips: tuple[tuple[Text, tuple[int, ...], Text, Text], ...]
    """Id, label ids, group, and where the publishers list it, as in `Clip`; the order is the split's."""


class Labels(Config):
    """The listing of a data set without its paths."""

    key: str
    """Key of the annotation files that it was read from (`Dataset.key`)."""
    notes: tuple[Text, ...]
    splits: dict[str, SplitLabels]
    # Left out of published data sets' labels, whose config states it.
    target: Literal["single", "multi"] | None = Field(default=None, exclude_if=lambda target: target is None)
    """Of own clips: whether a clip has one label or any number."""

    def list_splits(self, config: DatasetConfig, folder: Path) -> Listing:
        """Return the listing, with paths below `folder`, whether videos are there or not.

        Raises:
            ValueError: other splits than the config's, or a clip whose id or labels cannot be; the message gives the reason.
        """
        if set(self.splits) != set(config.splits):
            raise ValueError(f"it has the splits {', '.join(self.splits)}, expected {', '.join(config.splits)}")
        splits = {}
        for name, split in self.splits.items():
            clips = []
            for clip, target, group, listed in split.clips:
                if not clip or not clip.isprintable():
                    raise ValueError(f"split {name}: clip {clip[:80]!r}: its id is not a printable name")
                if not all(0 <= label < len(split.classes) for label in target):
                    raise ValueError(f"split {name}: clip {clip[:80]}: label outside 0 to {len(split.classes) - 1}")
                # Escaped: an id such as ../../x must not lead to a video outside the data set's folder.
                path = folder / config.videos_folder(folder) / quote(clip, safe="")
                clips.append(Clip(clip, path, target, group, listed))
            if len({clip.id for clip in clips}) < len(clips):
                raise ValueError(f"split {name}: a clip is listed twice")
            splits[name] = Split(SplitName(config.name, name), split.classes, tuple(clips))
        return Listing(splits, (*self.notes, "labels were imported with features; annotation files are missing"))


def labels_path(workspace: Workspace, dataset: str) -> Path:
    return workspace.listings / f"{dataset}-imported.jsonl"


def write_labels(workspace: Workspace, dataset: str, labels: Labels) -> None:
    write_signed_text(labels_path(workspace, dataset), labels.model_dump_json().encode())


def read_labels(workspace: Workspace, dataset: str) -> Labels | None:
    """Read imported labels; returns None if there are none, or if they are damaged."""
    text = read_signed_text(labels_path(workspace, dataset))
    try:
        return None if text is None else Labels.model_validate_json(text)
    except ValueError:
        return None
