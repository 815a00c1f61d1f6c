"""Read stored features through and find what is damaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import state_reason
from repro.core.hashing import FileHashes
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError
from repro.features.store import FeatureStore, read_clip_file


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file of features that was read through."""

    path: Path
    """A clip's file or the index of a pack."""
    size: int
    """Bytes that were read."""
    damage: str = ""
    """Why it is damaged; empty if it is as it was written."""


def find_feature_files(folder: Path) -> list[Path]:
    """Return the files of clips and the indexes of packs in `folder` and its subfolders, in order of their paths.

    `folder` may be a workspace's features, one store, one collection, or a collection's clips/ or packed/.
    """
    # Matched by name alone, so that a folder or a pipe in a file's place is found too.
    files = [path for path in folder.rglob("*.safetensors") if path.parent.name == "clips"]
    files += [path for path in folder.rglob("*.parquet") if path.parent.name == "packed"]
    return sorted(files)


def check_feature_files(files: list[Path], hashes: FileHashes) -> Iterator[CheckedFile]:
    """Read each file through, a pack with its array, whatever cached hashes say."""
    for path in files:
        try:
            size = _read_pack(path, hashes) if path.suffix == ".parquet" else _read_clip(path)
        except FileNotFoundError:  # packed or replaced by another process meanwhile
            continue
        except (DamagedFeaturesError, OSError) as error:
            yield CheckedFile(path, 0, state_reason(error, most=None))
            continue
        yield CheckedFile(path, size)


def _read_clip(path: Path) -> int:
    size = path.stat().st_size
    entry = read_clip_file(path)
    if entry is None:
        raise DamagedFeaturesError("not a regular file")
    # A file that was renamed or copied by hand holds another clip, with a sha256 that is right.
    if FeatureStore.file_name(entry[0]) != path.name:
        raise DamagedFeaturesError(f"it holds clip '{entry[0]}'")
    return size


def _read_pack(index: Path, hashes: FileHashes) -> int:
    size = index.stat().st_size
    packed = pack.open_pack(index.parent, index.stem, hashes, reread=True)
    if packed is None:
        raise DamagedFeaturesError("not a regular file")
    return size + packed.array.nbytes
