"""Clips whose features are stored together: those of a data set, or of any folder of videos."""

import hashlib
import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.core.errors import UsageError
from repro.core.reading import describe_absence
from repro.datasets.split import Clip

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    }
)

LISTED = 8
"""Suffixes, or links, that a note names."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Clips whose features share a folder of the feature store."""

    name: str
    """The folder's name."""
    clips: tuple[Clip, ...]
    part: str = ""
    """Suffix of a shard, such as -2of4; empty for all clips."""
    notes: tuple[str, ...] = ()
    """What was left out of the collection, one line each."""

    def take_shard(self, number: int, of: int, lengths: Mapping[str, float]) -> "Collection":
        """Return part `number` (from 1) of `of` parts, which are disjoint, together complete and of similar length.

        Args:
            number: The part.
            of: Number of parts, at most that of the clips.
            lengths: A measure of every clip's work, by id. Processes that share the work must know the same lengths.
        """
        # The longest clip first, each to the part that has the least so far. The parts then differ by less than one clip;
        # every n-th clip differed by 20 % in parts of a hundred clips.
        totals = [(0.0, part) for part in range(1, of + 1)]
        chosen = set()
        # Ids decide between equal lengths: all machines of an array have to divide the clips alike.
        for clip in sorted(self.clips, key=lambda clip: (-lengths[clip.id], clip.id)):
            total, part = heapq.heappop(totals)
            heapq.heappush(totals, (total + lengths[clip.id], part))
            if part == number:
                chosen.add(clip.id)
        # In the collection's order again.
        clips = tuple(clip for clip in self.clips if clip.id in chosen)
        return replace(self, clips=clips, part=f"{self.part}-{number}of{of}")


def dataset_collection(dataset: str, clips: Sequence[Clip]) -> Collection:
    """Return the clips of one or more splits of a data set, without duplicates."""
    # A clip may be in several splits; its features are stored once.
    return Collection(dataset, tuple({clip.id: clip for clip in clips}.values()))


def folder_collection(folder: Path, skip: Path | None = None) -> Collection:
    """Return every video below `folder`, identified by its path relative to it; the folder `skip` is skipped.

    Raises:
        UsageError: no such folder, or no videos in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {describe_absence(folder, 'folder')} of videos")
    found, links = [], []
    for place, folders, files in os.walk(folder):
        # Sorted, and changed in place, which is how os.walk learns where to go. Hidden folders hold caches and thumbnails.
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (skip and (Path(place) / name).samefile(skip))
        )
        # os.walk does not follow links to folders: one to a folder above would be searched without end.
        links += [Path(place) / name for name in folders if (Path(place) / name).is_symlink()]
        found += [Path(place) / name for name in files if not name.startswith(".")]
    videos = sorted(path for path in found if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise UsageError(
            f"folder {folder}: no videos in it: expected files ending in {', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    for path in videos:
        _require_text_name(path)
    other = [path for path in found if path.suffix.lower() not in VIDEO_SUFFIXES]
    notes = []
    if other:
        suffixes = ", ".join(sorted({path.suffix.lower() or "none" for path in other})[:LISTED])
        notes.append(
            f"folder {folder}: files left out: {len(other)}, as their suffix ({suffixes}) is not one of a video: rename "
            "those that are videos"
        )
    if links:
        names = ", ".join(str(path.relative_to(folder)) for path in links[:LISTED])
        notes.append(
            f"folder {folder}: folders left out: {len(links)}, as they are links ({names}): name the folders themselves"
        )
    clips = tuple(Clip(str(path.relative_to(folder)), path, ()) for path in videos)
    return Collection(_name_folder(folder), clips, notes=tuple(notes))


def file_collection(video: Path) -> Collection:
    """Return a video by itself: a part of its folder's collection, so that an extraction of the folder reuses its features.

    Raises:
        UsageError: its name is not UTF-8.
    """
    _require_text_name(video)
    return Collection(_name_folder(video.parent), (Clip(video.name, video, ()),))


def _name_folder(folder: Path) -> str:
    resolved = folder.resolve()
    # The hash of the path keeps folders of the same name apart; the name is cut because file systems allow 255 bytes.
    return f"videos-{resolved.name[:60] or 'root'}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:6]}"


def _require_text_name(path: Path) -> None:
    # Python reads bytes of a name that are not UTF-8 as lone surrogates, which cannot be encoded again.
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{str(path)!r}: its name is not UTF-8, which feature files cannot store: rename it"
        ) from error
