"""Packed features: per cell one array of all clips, one after the other, and an index of where each clip is in it.

    packed/<cell>-<key>.npy   [tokens, C], to be memory-mapped
    packed/<cell>.parquet     clip, first token, tokens, video's sha256, reader, origins; the array's name and sha256

An array is complete before the index that names it replaces an older index: a run killed in between loses nothing. A pack makes
one file out of thousands, which a training reads in one go and file systems copy quickly.
"""

import fcntl
import json
import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from repro.core.errors import state_reason
from repro.core.files import replacing_file
from repro.core.hashing import FileHashes, FileStamp, content_key
from repro.core.locks import take_lock
from repro.core.reading import check_regular, open_regular, parse_json, read_table


class DamagedFeaturesError(Exception):
    """A file of the store is not as it was written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a clip is in a packed array, and what its features were computed from.

    The fields are the columns of the index. Arrays are named by a hash of the text form of these objects (pack_collection.py), so
    that neither the class nor a field can be renamed without renaming files in existing workspaces.
    """

    first: int
    """Index of the clip's first token in the array."""
    tokens: int
    video_sha256: str
    reader: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """One cell of many clips."""

    array: Float[np.ndarray, "tokens C"]
    """Memory-mapped."""
    places: dict[str, Place]
    """By clip id, in the order of the array."""

    def clip_values(self, clip_id: str) -> Float[np.ndarray, "T C"]:
        """Return a clip's features: a view of the memory-mapped array."""
        # A slice, so that nothing is read from disk before a training touches it.
        place = self.places[clip_id]
        return self.array[place.first : place.first + place.tokens]


def index_path(folder: Path, cell: str) -> Path:
    return folder / f"{cell}.parquet"


def list_packed_cells(folder: Path) -> list[str]:
    """Return the cells with an index in `folder`."""
    return sorted(path.stem for path in folder.glob("*.parquet"))


def array_path(folder: Path, cell: str) -> Path:
    """Return the path of the array that the index of `cell` names.

    Raises:
        FileNotFoundError: the cell is not packed.
        DamagedFeaturesError: the index cannot be read; the message gives the reason.
    """
    try:
        check_regular(index_path(folder, cell))
        about = (pq.read_schema(index_path(folder, cell)).metadata or {})[b"about"]
        name: str = parse_json(about)["array"]
        return folder / name
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFeaturesError(f"its index cannot be read ({state_reason(error)})") from error


def name_array(cell: str, places: Mapping[str, Place]) -> str:
    """Return the file name of the array with these clips. It is a hash of the index, so it also verifies the index."""
    # str(p) spells out the class and its fields: see Place.
    return f"{cell}-{content_key([[clip, str(place)] for clip, place in places.items()])}.npy"


def open_pack(folder: Path, cell: str, hashes: FileHashes, *, reread: bool = False) -> Packed | None:
    """Open the pack of `cell` in `folder`, verified against the sha256 in its index; None if it is not packed.

    Args:
        folder: The collection's folder of packs.
        cell: Name of the cell.
        hashes: Cached hashes: an array that has not changed since it was last read is not read again.
        reread: Read the array through even so, once per process: bytes can change without a trace in the file's times.

    Raises:
        DamagedFeaturesError: index or array is not as it was written; the message gives the reason.
    """
    index = index_path(folder, cell)
    while index.is_file():
        stamp = FileStamp.of(index)
        try:
            return _open_index(index, cell, hashes, reread=reread)
        except DamagedFeaturesError:
            # Another process may have packed more clips meanwhile, and removed the array that the older index names.
            with suppress(FileNotFoundError):
                if FileStamp.of(index) != stamp:
                    continue
            raise
    return None


def _open_index(index: Path, cell: str, hashes: FileHashes, *, reread: bool) -> Packed:
    try:
        table = read_table(index)
        about = parse_json((table.schema.metadata or {})[b"about"])
        places = {row.pop("clip"): Place(**row | {"origins": tuple(row["origins"])}) for row in table.to_pylist()}
        # Before the array is opened: the name comes from the index.
        if about["array"] != name_array(cell, places):
            raise DamagedFeaturesError(f"{index.name} does not match the name of its array")
        path = index.parent / about["array"]
        array = map_array(path)
        unchanged = (hashes.reread_sha256(path) if reread else hashes.sha256(path)) == about["sha256"]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFeaturesError(f"its index or array cannot be read ({state_reason(error)})") from error
    if not unchanged:
        raise DamagedFeaturesError(f"{path.name} does not match the sha256 in its index")
    return Packed(array, places)


_MAPPED: WeakValueDictionary[FileStamp, mmap.mmap] = WeakValueDictionary()
"""Arrays that are mapped now: once, also for several splits, as pages count for each mapping."""


def map_array(path: Path) -> Float[np.ndarray, "tokens C"]:
    """Map an array into memory, as one cell of a large data set is many GB. As long as it is, `remove_unmapped` keeps the file.

    Raises:
        OSError, ValueError, TypeError: it cannot be read, or is not such an array.
    """
    with open(path, "rb", opener=open_regular) as file:
        # Not np.load, which opens the file by itself: the lock is one of this open file, which the mapping keeps open.
        shape, dtype = _read_array_header(file)
        if dtype.hasobject:
            raise ValueError(f"its type is {dtype}, expected numbers")  # pointers, which reading would follow
        stamp = FileStamp.of(path)
        mapped = _MAPPED.get(stamp)
        if mapped is None:
            # On a network disk, reading from a mapped file that another machine has deleted kills the process. The mapping
            # holds a copy of the file's descriptor, and so the lock.
            with suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            mapped = _MAPPED[stamp] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return np.ndarray(shape, dtype, mapped, file.tell())
        except (OverflowError, MemoryError) as error:
            raise ValueError(f"its shape is {str(shape)[:80]}") from error


def _read_array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    np.lib.format.read_magic(file)
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except OSError:
        raise
    except Exception as error:  # The header is a Python literal, which numpy's parser can fail on anywhere.
        raise ValueError(f"its header is damaged ({state_reason(error, 120)})") from error
    return shape, dtype


def remove_unmapped(path: Path) -> None:
    """Delete an array, unless a process has it mapped."""
    # Network disks lock only what is opened for writing; another user's file stays for that user's next packing.
    with suppress(PermissionError), path.open("r+b") as file:
        if take_lock(file.fileno(), path):
            path.unlink()


def list_packed_clips(folder: Path, cell: str) -> set[str]:
    """Return the ids of the clips that the index of `cell` lists, without reading the array; empty if it is not packed.

    Raises:
        DamagedFeaturesError: the index is not as it was written, or the array is missing.
    """
    index = index_path(folder, cell)
    if not index.is_file():
        return set()
    try:
        table = read_table(index, ["clip"])
        path = array_path(folder, cell)
        listed = set(table.column("clip").to_pylist())
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFeaturesError(f"its index cannot be read ({state_reason(error)})") from error
    # Whoever deletes an array to free disk leaves its index behind, and no features.
    if not path.is_file():
        raise DamagedFeaturesError(f"{path.name} is missing")
    return listed


def write_index(folder: Path, cell: str, array: Path, sha256: str, places: Mapping[str, Place]) -> None:
    """Write the index that makes `array` the pack of `cell`. The array is complete and in `folder` already."""
    rows: list[dict[str, Any]] = [
        {
            "clip": clip, "first": place.first, "tokens": place.tokens, "video_sha256": place.video_sha256,
            "reader": place.reader, "origins": list(place.origins),
        }
        for clip, place in places.items()
    ]  # fmt: skip
    schema = pa.schema(
        {
            "clip": pa.string(), "first": pa.int64(), "tokens": pa.int64(), "video_sha256": pa.string(),
            "reader": pa.string(), "origins": pa.list_(pa.string()),
        },
        metadata={"about": json.dumps({"array": array.name, "sha256": sha256})},
    )  # fmt: skip
    # The rename of the index is the moment from which the new array counts.
    with replacing_file(index_path(folder, cell)) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)
