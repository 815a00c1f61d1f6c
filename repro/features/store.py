"""The feature store: one folder per content key, and in it one per collection of clips.

    <backbone>-<key>/manifest.json           what the key is made of
    <backbone>-<key>/origins/<origin>.json   machines and software that computed entries, each entry naming its own
    <backbone>-<key>/<collection>/clips/     a safetensors file per clip, cells in it
    <backbone>-<key>/<collection>/packed/    the same by cell, once all clips are extracted (repro/features/packed.py)

A file is either complete or missing (written under another name, then renamed). It records the sha256 of the video that it was
computed from and of its own tensors, so that features of another video and damaged files are recognised.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from repro.core.errors import state_reason
from repro.core.files import read_json_or_none, set_aside, write_json
from repro.core.hashing import FileHashes, FileStamp, content_key
from repro.core.reading import parse_json, read_bytes
from repro.core.signed import ArrayLibrary, DamagedFileError, read_about, read_arrays, write_arrays
from repro.core.workspace import Workspace
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError, Packed, Place

STORE_VERSION = 2
"""Part of every content key: raised if the same inputs would give other features or another layout of files."""

IMPORTED = "imported-"
"""Start of the name of an origin that is the card of imported features (shared.py), followed by their sha256."""

StoredAs = Literal["float32", "float16"]
PRECISION_NAMES: dict[StoredAs, str] = {"float32": "fp32", "float16": "fp16"}
"""How options, messages and reports spell the types that stores and records spell as NumPy does."""
Features = dict[str, Float[np.ndarray, "T _"]]
"""By cell name; widths differ between layers."""


NUMPY_ARRAYS: ArrayLibrary[np.ndarray] = ArrayLibrary("np", save_file, np.ndarray.tobytes)


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip's features, and how they were computed."""

    features: Features
    video_sha256: str
    reader: str
    """Name of the reader that decoded the clip."""
    origins: tuple[str, ...] = ()
    """Software and machines that computed the features: names of files in the store's origins/."""


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """The features of one collection under one content key."""

    folder: Path
    """Folder of the collection."""
    key: str
    """Content key of `identity`, the store's version and the stored type."""
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
        store = cls.locate(workspace, backbone, identity, collection, stored_as)
        manifest = store.folder.parent / "manifest.json"
        # The manifest is for readers: features are found by the folder's name, so a damaged one is simply written again.
        if not _has_key(manifest, store.key):
            if manifest.exists():
                set_aside(manifest)
            # The version too: a later one of this project has other keys, and leaves these files as they are.
            complete = _complete_identity(identity, stored_as)
            write_json(manifest, {"key": store.key, "backbone": backbone, "identity": complete})
        return store

    @classmethod
    def locate(
        cls,
        workspace: Workspace,
        backbone: str,
        identity: dict[str, Any],
        collection: str,
        stored_as: StoredAs = "float32",
    ) -> "FeatureStore":
        """As `open`, but create nothing; the store's folder may not exist."""
        key = content_key(_complete_identity(identity, stored_as))
        folder = workspace.features / f"{backbone}-{key}" / collection
        return cls(folder, key, identity, FileHashes(workspace.hashes), stored_as)

    def add_origin(self, about: dict[str, str]) -> str:
        """Store a description of software and machine, once; return the name that entries refer to."""
        # By a hash of its contents: the same machine and software is one file, whoever writes it.
        name = content_key(about)
        path = self.origin_path(name)
        if not path.is_file():
            write_json(path, about)
        return name

    def origin_path(self, name: str) -> Path:
        return self.folder.parent / "origins" / f"{name}.json"

    def read_origin(self, name: str) -> dict[str, Any]:
        """Return an origin's description; empty if it is missing or damaged, as no feature depends on it."""
        about = read_json_or_none(self.origin_path(name))
        return about if isinstance(about, dict) else {}

    @property
    def is_imported(self) -> bool:
        """Whether features were imported under this key."""
        return any((self.folder.parent / "origins").glob(f"{IMPORTED}*.json"))

    def has_cell(self, cell: str) -> bool:
        """Whether features of `cell` may be stored, judged by names of files alone."""
        return pack.index_path(self.folder / "packed", cell).is_file() or bool(self.own_file_names())

    def clip_path(self, clip_id: str) -> Path:
        """Return the path of a clip's file."""
        return self.folder / "clips" / self.file_name(clip_id)

    @staticmethod
    def file_name(clip_id: str) -> str:
        """Return the name of a clip's file. Ids may contain any character; unusual ones are escaped."""
        # An id such as a/../../b must not lead out of the folder. Ordinary names stay readable.
        name = quote(clip_id, safe=" ()[]!+,=@")
        if len(name) > 200:
            # File systems allow 255 bytes per name. The hash keeps apart long ids that begin alike; the file has the complete id.
            name = f"{name[:160]}~{hashlib.sha256(clip_id.encode()).hexdigest()[:24]}"
        return f"{name}.safetensors"

    def write_clip(self, clip_id: str, entry: Entry) -> None:
        """Store `entry` in the clip's file. Cells of the same video that the file already holds are kept."""
        before = self.read_own_file(clip_id)
        # Features of another video are dropped with the file: one file is always of one video.
        if before is not None and before.video_sha256 == entry.video_sha256:
            entry = Entry(
                before.features | entry.features,
                entry.video_sha256,
                entry.reader,
                # Cells of one clip may come from several machines.
                tuple(sorted({*before.origins, *entry.origins})),
            )
        about = {
            "clip": clip_id, "video_sha256": entry.video_sha256, "reader": entry.reader, "origins": list(entry.origins)
        }  # fmt: skip
        write_arrays(self.clip_path(clip_id), entry.features, about, NUMPY_ARRAYS)

    def read_clip(self, clip_id: str, cells: Iterable[str] | None = None) -> Entry | None:
        """Read a clip's features from its file and the packs.

        Args:
            clip_id: The clip.
            cells: Names of the cells to read; None: all that are stored.

        Returns:
            The features, or None if none of the cells is stored.

        Raises:
            DamagedFeaturesError: a file is damaged; the message gives the reason.
        """
        features: Features = {}
        entry = None
        for cell in self._stored_cells(clip_id) if cells is None else cells:
            part = self.cell_reader(cell).read(clip_id)
            # Cells of an older video may still be packed: only cells of one video belong together.
            if part is not None and (entry is None or part.video_sha256 == entry.video_sha256):
                entry = part
                features |= part.features
        return None if entry is None else Entry(features, entry.video_sha256, entry.reader, entry.origins)

    def cell_reader(self, cell: str) -> "CellReader":
        """Return a reader of `cell`. The pack is opened and verified once, for all clips.

        Raises:
            DamagedFeaturesError: the pack is damaged. The message names it and what it was renamed to.
        """
        reader = CellReader(self, cell)
        reader.open_latest()
        return reader

    def open_verified_pack(self, cell: str) -> Packed | None:
        """As `open_pack`, but read through whatever hash is cached. A damaged pack is renamed, so that the next extraction computes
        its clips again.

        Raises:
            DamagedFeaturesError: the pack is damaged. The message names it and what it was renamed to.
        """
        try:
            return pack.open_pack(self.folder / "packed", cell, self.hashes, reread=True)
        except DamagedFeaturesError as error:
            index = pack.index_path(self.folder / "packed", cell)
            try:
                kept = f"kept as {set_aside(index).name}"
            except OSError:  # a workspace that cannot be written to, or another process renamed it
                kept = "not renamed"
            raise DamagedFeaturesError(f"packed/{index.name}: {error}, {kept}") from error

    def _stored_cells(self, clip_id: str) -> list[str]:
        own = self.read_own_file(clip_id)
        return sorted({*pack.list_packed_cells(self.folder / "packed"), *(own.features if own else ())})

    def open_pack(self, cell: str) -> Packed | None:
        """Open a cell's packed features, verified against their hash; None if it is not packed.

        Raises:
            DamagedFeaturesError: index or array are damaged; the message gives the reason.
        """
        return pack.open_pack(self.folder / "packed", cell, self.hashes)

    def open_pack_or_set_aside(self, cell: str, warn: Callable[[str], None]) -> Packed | None:
        """As `open_pack`, but a damaged pack is renamed, reported through `warn`, and counts as not packed."""
        try:
            return self.open_pack(cell)
        except DamagedFeaturesError as error:
            # Without its index an array is no pack; the array itself is removed by the next packing.
            index = pack.index_path(self.folder / "packed", cell)
            aside = set_aside(index)
            warn(f"features {index}: damaged: {error}: kept as {aside.name}, extracting its clips again")
            return None

    def own_file_names(self) -> frozenset[str]:
        """Return the names of the clips' own files."""
        try:
            return frozenset(path.name for path in (self.folder / "clips").iterdir())
        except FileNotFoundError:
            return frozenset()

    def clip_files(self) -> list[Path]:
        return sorted((self.folder / "clips").glob("*.safetensors"))

    def stored_clips(self, cell: str) -> set[str]:
        """Return the ids of the clips whose `cell` is stored, according to indexes and file headers.

        Values are not read, which would take minutes for a large data set, so damaged values count as stored. Clips in a damaged
        index or with a damaged header do not.
        """
        try:
            stored = pack.list_packed_clips(self.folder / "packed", cell)
        except DamagedFeaturesError:
            stored = set()
        for path in self.clip_files():
            try:
                header = read_clip_header(path)
            except DamagedFeaturesError:
                continue
            if header is not None and cell in header.cells:
                # The id in the header, not the file's name, which may be escaped or cut.
                stored.add(header.clip)
        return stored

    def read_own_file(self, clip_id: str) -> Entry | None:
        """Read a clip's own file, without the packs; None if there is none.

        Raises:
            DamagedFeaturesError: the file is damaged; the message gives the reason.
        """
        entry = read_clip_file(self.clip_path(clip_id))
        if entry is None:
            return None
        require_clip(clip_id, entry[0])
        return entry[1]


@dataclass(frozen=True, slots=True)
class ClipHeader:
    """The header of a clip's file, read without its values."""

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


@dataclass(slots=True)
class CellReader:
    """Reads one cell of a store's clips, in clips' own files or in the pack."""

    store: FeatureStore
    cell: str
    packed: Packed | None = None
    own_files: frozenset[str] | None = None
    """Names of the files in clips/: listed once, as asking for each of thousands takes long on a network disk."""
    _opened: FileStamp | None = None
    """Of the pack's index."""

    def open_latest(self) -> bool:
        """Open the pack as it is now; returns False if it is open already.

        Raises:
            DamagedFeaturesError: the pack is damaged. The message names it and what it was renamed to.
        """
        index = pack.index_path(self.store.folder / "packed", self.cell)
        stamp = FileStamp.of(index) if index.is_file() else None
        if self.own_files is not None and stamp == self._opened:
            return False
        # Listed before the pack is opened: a file that is packed and removed meanwhile is then in the pack.
        self.own_files, self._opened = self.store.own_file_names(), stamp
        self.packed = self.store.open_verified_pack(self.cell)
        return True

    def find(self, clip_id: str) -> ClipHeader | Place | None:
        """Return where a clip's features are stored, with video and reader; None if they are not. Values are not read.

        Raises:
            DamagedFeaturesError: a file is damaged; the message gives the reason.
        """
        own = None
        if self.own_files is None or self.store.file_name(clip_id) in self.own_files:
            own = read_clip_header(self.store.clip_path(clip_id))
            require_clip(clip_id, own.clip if own else clip_id)
        # The clip's own file is newer than the pack, or it would have been packed.
        if own is not None and self.cell in own.cells:
            return own
        place = None if self.packed is None else self.packed.places.get(clip_id)
        if place is not None and (own is None or own.video_sha256 == place.video_sha256):
            return place
        # Its file may have been packed and removed since it was listed.
        return self.find(clip_id) if self.open_latest() else None

    def read(self, clip_id: str) -> Entry | None:
        """Return a clip's features; None if they are not stored. Packed features are a read-only view of the mapped array.

        Raises:
            DamagedFeaturesError: a file is damaged; the message gives the reason.
        """
        found = self.find(clip_id)
        if found is None:
            return None
        if isinstance(found, ClipHeader):
            own = self.store.read_own_file(clip_id)
            if own is None or self.cell not in own.features:  # packed and removed, or replaced, since it was found
                return self.read(clip_id)
            return replace(own, features={self.cell: own.features[self.cell]})
        assert self.packed is not None
        values = self.packed.clip_values(clip_id)
        return Entry({self.cell: values}, found.video_sha256, found.reader, found.origins)


def require_clip(clip_id: str, found: str) -> None:
    """
    Raises:
        DamagedFeaturesError: a file holds the clip `found` instead.
    """
    # A file that was renamed or copied by hand carries another clip's features, with a sha256 that is right.
    if found != clip_id:
        raise DamagedFeaturesError(f"it holds clip '{found}'")


def read_clip_header(path: Path) -> ClipHeader | None:
    """Read the header of a clip's file; None if there is no file. Only `read_clip_file` verifies the values.

    Raises:
        DamagedFeaturesError: the header is damaged; the message gives the reason.
    """
    if not path.is_file():
        return None
    try:
        # Before the header: if the file is replaced in between, `written` is too old, which callers notice.
        written = path.stat().st_mtime_ns
        with safe_open(path, framework="np") as file:
            about = read_about(file)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            # From the header alone: a store has tens of thousands of files, and their values are many GB.
            kinds = {part.get_dtype() for part in slices.values()}
        dtype = np.dtype({"F32": "float32", "F16": "float16"}[kinds.pop()])
        clip, video, reader, origins = _read_about(about)
        cells = {name: (tokens, channels) for name, (tokens, channels) in shapes.items()}
        return ClipHeader(path, clip, cells, dtype, video, reader, origins, written)
    except FileNotFoundError:  # another process has packed it meanwhile
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedFeaturesError(f"not a complete safetensors file ({state_reason(error)})") from error


def read_clip_file(path: Path) -> tuple[str, Entry] | None:
    """Read and verify a clip's file: the clip's id and its entry; None if there is no file.

    Raises:
        DamagedFeaturesError: the file is damaged; the message gives the reason.
    """
    if not path.is_file():
        return None
    try:
        features, about = read_arrays(path, NUMPY_ARRAYS)
        clip, video, reader, origins = _read_about(about)
        return clip, Entry(features, video, reader, origins)
    except FileNotFoundError:  # another process has packed it meanwhile
        return None
    except DamagedFileError as error:
        raise DamagedFeaturesError(str(error)) from error
    except (KeyError, TypeError) as error:  # another kind of file that carries its own sha256, as weights do
        raise DamagedFeaturesError(f"not the features of a clip ({error} is missing or of another type)") from error


def _read_about(about: dict[str, Any]) -> tuple[str, str, str, tuple[str, ...]]:
    """Return clip, sha256 of the video, reader and origins as the header of a clip's file states them.

    Raises:
        KeyError, TypeError: one is missing or no text.
    """
    # Header entries are text that anybody may have written: their types are checked before they are used.
    texts = [about[name] for name in ("clip", "video_sha256", "reader")]
    if not all(isinstance(text, str) for text in (*texts, *about["origins"])):
        raise TypeError("a text")
    clip, video, reader = texts
    return clip, video, reader, tuple(about["origins"])


def _complete_identity(identity: dict[str, Any], stored_as: StoredAs) -> dict[str, Any]:
    return {"store": STORE_VERSION, "stored_as": stored_as} | identity


def _has_key(manifest: Path, key: str) -> bool:
    try:
        return bool(parse_json(read_bytes(manifest))["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False
