"""The feature store: one folder per content key, and in it one per collection of clips.

    <backbone>-<key>/manifest.json           what the key stands for
    <backbone>-<key>/origins/<origin>.json   machines and software that computed entries, each entry naming its own
    <backbone>-<key>/<collection>/clips/     a safetensors file per clip, cells in it
    <backbone>-<key>/<collection>/packed/    the same by cell, once all clips are there (repro/features/packed.py)

A file is whole or absent (written under another name, then renamed), and says which video's bytes it came from and what
its own tensors hash to, so that neither another video nor a damaged file is taken for it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from repro.core.files import set_aside, write_json
from repro.core.hashing import FileHashes, content_key
from repro.core.signed import ArrayLibrary, DamagedFileError, read_about, read_arrays, write_arrays
from repro.core.workspace import Workspace
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError, Packed

VERSION = 2
"""Part of every key: raised if the same inputs would give other features or another layout."""

StoredAs = Literal["float32", "float16"]
Features = dict[str, Float[np.ndarray, "T _"]]
"""By cell name; widths differ between layers."""

NUMPY: ArrayLibrary[np.ndarray] = ArrayLibrary("np", save_file, np.ndarray.tobytes)

__all__ = ["DamagedFeaturesError", "Entry", "FeatureStore", "Features", "StoredAs"]


@dataclass(frozen=True, slots=True)
class Entry:
    features: Features
    video_sha256: str
    reader: str
    """Name of the reader that decoded the clip."""
    origins: tuple[str, ...] = ()
    """Software and machines that computed it: names of files in the store's origins/."""


@dataclass(frozen=True, slots=True)
class FeatureStore:
    folder: Path
    """Folder of the collection."""
    key: str
    identity: dict[str, Any]
    """All that the features depend on apart from video and cell."""
    hashes: FileHashes = field(repr=False)
    stored_as: StoredAs = "float32"

    @classmethod
    def open(
        cls,
        workspace: Workspace,
        backbone: str,
        identity: dict[str, Any],
        collection: str,
        stored_as: StoredAs = "float32",
    ) -> "FeatureStore":
        """Open the store of `identity` for a collection; create it if it does not exist."""
        store = cls.found(workspace, backbone, identity, collection, stored_as)
        manifest = store.folder.parent / "manifest.json"
        if not _says(manifest, store.key):
            if manifest.exists():
                set_aside(manifest)
            whole = _whole(identity, stored_as)
            write_json(manifest, {"key": store.key, "backbone": backbone, "identity": whole})
        return store

    @classmethod
    def found(
        cls,
        workspace: Workspace,
        backbone: str,
        identity: dict[str, Any],
        collection: str,
        stored_as: StoredAs = "float32",
    ) -> "FeatureStore":
        """Open the store without creating anything; its folder may not exist."""
        key = content_key(_whole(identity, stored_as))
        folder = workspace.features / f"{backbone}-{key}" / collection
        return cls(folder, key, identity, FileHashes(workspace.hashes), stored_as)

    def add_origin(self, about: dict[str, str]) -> str:
        """Store what computes, once; return the name that entries refer to."""
        name = content_key(about)
        path = self.folder.parent / "origins" / f"{name}.json"
        if not path.is_file():
            write_json(path, about)
        return name

    def path(self, clip_id: str) -> Path:
        """Return the path of a clip's file. Ids may contain any character; all but plain ones are escaped."""
        name = quote(clip_id, safe=" ()[]!+,=@")
        if len(name) > 200:
            # File systems allow 255 bytes per name; the complete id is stored in the file.
            name = f"{name[:160]}~{hashlib.sha256(clip_id.encode()).hexdigest()[:24]}"
        return self.folder / "clips" / f"{name}.safetensors"

    def write(self, clip_id: str, entry: Entry) -> None:
        """Store `entry`. Cells of the same video that the clip's file already holds are kept."""
        before = self.read_own(clip_id)
        if before is not None and before.video_sha256 == entry.video_sha256:
            entry = Entry(
                before.features | entry.features,
                entry.video_sha256,
                entry.reader,
                tuple(sorted({*before.origins, *entry.origins})),
            )
        about = {
            "clip": clip_id, "video_sha256": entry.video_sha256, "reader": entry.reader, "origins": list(entry.origins)
        }  # fmt: skip
        write_arrays(self.path(clip_id), entry.features, about, NUMPY)

    def read(self, clip_id: str, cells: Iterable[str] | None = None) -> Entry | None:
        """Read a clip's features, or those of some cells; None if the store has none.

        Raises:
            DamagedFeaturesError: with the reason in words.
        """
        features: Features = {}
        entry = None
        for cell in self._cells(clip_id) if cells is None else cells:
            part = self.cell_reader(cell)(clip_id)
            if part is not None and (entry is None or part.video_sha256 == entry.video_sha256):
                entry = part
                features |= part.features
        return None if entry is None else Entry(features, entry.video_sha256, entry.reader, entry.origins)

    def cell_reader(self, cell: str) -> Callable[[str], Entry | None]:
        """Return a function that reads `cell` of a clip: from the clip's own file, else from the pack, which is opened once.

        Raises:
            DamagedFeaturesError: with the reason in words; so does the reader.
        """
        packed = self.packed(cell)

        def read(clip_id: str) -> Entry | None:
            own = self.read_own(clip_id)
            if own is not None and cell in own.features:
                return Entry({cell: own.features[cell]}, own.video_sha256, own.reader, own.origins)
            place = None if packed is None else packed.places.get(clip_id)
            if packed is None or place is None or (own is not None and own.video_sha256 != place.video_sha256):
                return None
            values = np.array(packed.values(clip_id))  # out of the memory-mapped file
            return Entry({cell: values}, place.video_sha256, place.reader, place.origins)

        return read

    def _cells(self, clip_id: str) -> list[str]:
        own = self.read_own(clip_id)
        return sorted({*pack.cells(self.folder / "packed"), *(own.features if own else ())})

    def packed(self, cell: str) -> Packed | None:
        """Open a cell's packed features, verified against their hash; None if it is not packed.

        Raises:
            DamagedFeaturesError: with the reason in words.
        """
        return pack.read(self.folder / "packed", cell, self.hashes)

    def packed_or_aside(self, cell: str, warn: Callable[[str], None]) -> Packed | None:
        """As `packed`; a damaged pack is renamed, reported through `warn`, and counts as not packed."""
        try:
            return self.packed(cell)
        except DamagedFeaturesError as error:
            index = pack.index_path(self.folder / "packed", cell)
            aside = set_aside(index)
            warn(f"features {index}: damaged: {error}: kept as {aside.name}, extracting its clips again")
            return None

    def clip_files(self) -> list[Path]:
        return sorted((self.folder / "clips").glob("*.safetensors"))

    def held(self, cell: str) -> set[str]:
        """Return the ids of the clips whose `cell` is stored, according to indexes and file headers.

        Values are not read, which would take minutes for a large data set: damaged values count until they are read. A damaged
        index or header counts as nothing.
        """
        try:
            held = pack.clips(self.folder / "packed", cell)
        except DamagedFeaturesError:
            held = set()
        for path in self.clip_files():
            try:
                own = outline(path)
            except DamagedFeaturesError:
                continue
            if own is not None and cell in own.cells:
                held.add(own.clip)
        return held

    def read_own(self, clip_id: str) -> Entry | None:
        """Read a clip's own file; None if there is none.

        Raises:
            DamagedFeaturesError: with the reason in words.
        """
        entry = read_file(self.path(clip_id))
        if entry is not None and entry[0] != clip_id:
            raise DamagedFeaturesError(f"it holds clip '{entry[0]}'")
        return None if entry is None else entry[1]


@dataclass(frozen=True, slots=True)
class Outline:
    """The header of a clip's file; its values are not read."""

    path: Path
    clip: str
    cells: dict[str, tuple[int, int]]
    """Tokens and channels, by cell."""
    dtype: np.dtype
    video_sha256: str
    reader: str
    origins: tuple[str, ...]
    written: int
    """Modification time in nanoseconds."""


def outline(path: Path) -> Outline | None:
    """Read the header of a clip's file; None if there is no file. `read_file` also verifies the values.

    Raises:
        DamagedFeaturesError: with the reason in words.
    """
    if not path.is_file():
        return None
    try:
        written = path.stat().st_mtime_ns
        with safe_open(path, framework="np") as file:
            about = read_about(file)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {part.get_dtype() for part in slices.values()}
        dtype = np.dtype({"F32": "float32", "F16": "float16"}[kinds.pop()])
        return Outline(
            path,
            about["clip"],
            {name: (tokens, channels) for name, (tokens, channels) in shapes.items()},
            dtype,
            about["video_sha256"],
            about["reader"],
            tuple(about["origins"]),
            written,
        )
    except FileNotFoundError:  # packed away meanwhile
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedFeaturesError(f"not a complete safetensors file ({error})") from error


def read_file(path: Path) -> tuple[str, Entry] | None:
    """Read and verify a clip's file: its id and entry; None if there is no file.

    Raises:
        DamagedFeaturesError: with the reason in words.
    """
    if not path.is_file():
        return None
    try:
        features, about = read_arrays(path, NUMPY)
    except FileNotFoundError:  # packed away meanwhile
        return None
    except DamagedFileError as error:
        raise DamagedFeaturesError(str(error)) from error
    return about["clip"], Entry(features, about["video_sha256"], about["reader"], tuple(about["origins"]))


def _whole(identity: dict[str, Any], stored_as: StoredAs) -> dict[str, Any]:
    return {"store": VERSION, "stored_as": stored_as} | identity


def _says(manifest: Path, key: str) -> bool:
    try:
        return bool(json.loads(manifest.read_bytes())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False
