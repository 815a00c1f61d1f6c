"""Clips whose features are stored together: those of a data set, or of any folder of videos."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import UsageError
from repro.datasets.split import Clip

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"})


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    """Name of its folder in the feature store."""
    clips: tuple[Clip, ...]
    part: str = ""
    """Suffix of a shard, such as -2of4; empty for all clips."""

    def shard(self, number: int, of: int) -> "Collection":
        """Return every `of`-th clip starting at the `number`-th (from 1): shards are disjoint and together complete."""
        return Collection(self.name, self.clips[number - 1 :: of], f"-{number}of{of}")


def dataset_collection(dataset: str, clips: Sequence[Clip]) -> Collection:
    """Return the clips of one or more splits of a data set, without duplicates."""
    return Collection(dataset, tuple({clip.id: clip for clip in clips}.values()))


def folder_collection(folder: Path, skip: Path | None = None) -> Collection:
    """Return every video below `folder`, identified by its path relative to it; the folder `skip` is not entered.

    Raises:
        UsageError: no such folder, or no videos in it.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is a file: name the folder it lies in" if folder.exists() else f"{folder}: no such folder"
        )
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (skip and (Path(place) / name).samefile(skip))
        )
        found += [Path(place) / name for name in files if not name.startswith(".")]
    videos = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not videos:
        raise UsageError(f"folder {folder}: no videos in it: expected files ending in {', '.join(sorted(SUFFIXES))}")
    for path in videos:
        if not _is_text(str(path)):
            raise UsageError(f"{str(path)!r}: a name that is not UTF-8, which feature files cannot hold: rename it")
    whole = folder.resolve()
    # The hash of the path keeps folders of the same name apart.
    name = f"videos-{whole.name[:60] or 'root'}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:6]}"
    return Collection(name, tuple(Clip(str(path.relative_to(folder)), path, ()) for path in videos))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
