"""Pack a collection: from one file per clip to one array per cell (packed.py describes the layout).

Each clip's file is verified as its cells are copied to their arrays. A file is removed only when all of its cells are packed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from repro.core.disk import reserve_space
from repro.core.errors import UsageError
from repro.core.files import replacing_file, set_aside, try_lock_file
from repro.core.hashing import file_sha256
from repro.core.locks import remove_partials
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError, Place
from repro.features.store import ClipHeader, Entry, FeatureStore, read_clip_file, read_clip_header

LEAST_SHARE = 1 / 16
"""Size of the clips' files from which on they are packed, as a share of the arrays that are written again for them. A few clips added
to a large data set remain files, which are read as well: its arrays, one for each cell of a grid, can be hundreds of GB."""


class _ChangedError(Exception):
    """Another process wrote a clip's file while it was being packed."""


def pack_collection(store: FeatureStore, warn: Callable[[str], None]) -> int:
    """Pack the features in clips' files, together with those packed before.

    The arrays' space is reserved before anything is written, and they are written, not memory-mapped: on a full disk, writing to
    mapped memory would kill the process with SIGBUS.

    Does nothing while another process packs the same collection, or if one writes to it meanwhile: its clips are packed by the
    next call. Files that are few next to the arrays are not packed (LEAST_SHARE).

    Args:
        store: The collection to pack.
        warn: Called with a line for each damaged file, which is renamed and not packed.

    Returns:
        The number of files that were packed and removed.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    folder = store.folder / "packed"
    with try_lock_file(store.folder / ".pack.lock") as acquired:
        while acquired and (headers := _read_headers(store, warn)) and _are_worth_packing(headers, folder):
            folder.mkdir(exist_ok=True)
            remove_partials(folder)
            try:
                _write_arrays(store, headers, folder, warn)
            except DamagedFeaturesError:  # reported and renamed: the others are packed without it
                continue
            except _ChangedError:
                break
            # All indexes are written: only now may the files go.
            for header in headers.values():
                with suppress(FileNotFoundError):
                    if header.path.stat().st_mtime_ns == header.written:  # else cells were added to it meanwhile
                        header.path.unlink()
            _remove_superseded_arrays(folder)
            return len(headers)
        if acquired and folder.is_dir():
            # Those that another process was reading, or writing, when the last packing ended.
            _remove_superseded_arrays(folder)
            remove_partials(folder)
        return 0


def add_to_pack(store: FeatureStore, cell: str, entries: Mapping[str, Entry]) -> None:
    """Write an array and index of `cell` with the clips that are packed and those of `entries`, whose features it takes first.

    Raises:
        UsageError: another process packs the same collection.
        DamagedFeaturesError: the pack is damaged.
    """
    folder = store.folder / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    with try_lock_file(store.folder / ".pack.lock") as acquired:
        if not acquired:
            raise UsageError(f"{store.folder}: another process packs its features: wait for it to end")
        old = store.open_verified_pack(cell)
        places, first = {}, 0
        # Sorted, so that the same clips give the same array, and the same name.
        for clip in sorted({*(old.places if old else ()), *entries}):
            if clip in entries:
                entry = entries[clip]
                tokens = len(entry.features[cell])
                places[clip] = Place(first, tokens, entry.video_sha256, entry.reader, entry.origins)
            elif old is not None:
                places[clip] = replace(old.places[clip], first=first)
            first += places[clip].tokens
        # Named by its clips and their places: a rewritten pack never has the name of one that a training has mapped.
        path, sample = folder / pack.name_array(cell, places), next(iter(entries.values())).features[cell]
        with replacing_file(path) as partial, partial.open("wb") as file:
            array = _ArrayFile(file, sample.dtype, (first, sample.shape[1]))
            for clip, place in places.items():
                if clip in entries:
                    array.write_tokens(place.first, entries[clip].features[cell])
                elif old is not None:
                    array.write_tokens(place.first, old.clip_values(clip))
        pack.write_index(folder, cell, path, file_sha256(path), places)
        _remove_superseded_arrays(folder)


def _read_headers(store: FeatureStore, warn: Callable[[str], None]) -> dict[str, ClipHeader]:
    """Return the headers of all clips' files by clip id. Files with a damaged header are reported and renamed."""
    headers = {}
    for path in store.clip_files():
        with suppress(DamagedFeaturesError), _renaming_damaged(path, warn):
            # The header is read before the contents: if the file is replaced in between, its `written` is too old, and
            # the file is kept at the end.
            header = read_clip_header(path)
            if header is not None:
                headers[header.clip] = header
    return headers


@contextmanager
def _renaming_damaged(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Rename the clip's file `path` if the block finds it damaged, report it through `warn` and raise the error."""
    try:
        yield
    except DamagedFeaturesError as error:
        warn(f"features {path}: damaged: {error}: kept as {set_aside(path).name}, to be extracted again")
        raise


def _are_worth_packing(headers: dict[str, ClipHeader], folder: Path) -> bool:
    """Whether a cell is not packed yet, or the files are at least LEAST_SHARE of the arrays of their cells."""
    try:
        cells = {cell for header in headers.values() for cell in header.cells}
        arrays = sum(pack.array_path(folder, cell).stat().st_size for cell in cells)
        return sum(header.path.stat().st_size for header in headers.values()) >= LEAST_SHARE * arrays
    except (FileNotFoundError, DamagedFeaturesError):
        return True


def _write_arrays(
    store: FeatureStore, headers: dict[str, ClipHeader], folder: Path, warn: Callable[[str], None]
) -> None:
    """Write a new array and index for every cell that the files have, with the clips that were packed before.

    Raises:
        DamagedFeaturesError: a clip's file is damaged; it was renamed and reported.
        _ChangedError: a file was replaced meanwhile; arrays and indexes are as before.
    """
    cells = sorted({cell for header in headers.values() for cell in header.cells})
    before = {cell: store.open_pack_or_set_aside(cell, warn) for cell in cells}
    with ExitStack() as written:
        arrays: dict[str, _ArrayFile] = {}
        places, paths = {}, {}
        for cell, old in before.items():
            places[cell] = _assign_places(cell, old.places if old else {}, headers)
            # Another content has another name: the array that the present index names stays until the index is replaced.
            paths[cell] = folder / pack.name_array(cell, places[cell])
            partial = written.enter_context(replacing_file(paths[cell]))
            tokens = sum(place.tokens for place in places[cell].values())
            arrays[cell] = written.enter_context(_create_array(partial, tokens, cell, headers))
            for clip, place in places[cell].items():
                if old is not None and (clip not in headers or cell not in headers[clip].cells):
                    arrays[cell].write_tokens(place.first, old.clip_values(clip))
        for clip, header in headers.items():
            # The file may have been replaced since its header was read: by features of another video, or with more cells.
            with _renaming_damaged(header.path, warn):
                entry = read_clip_file(header.path)
            if (
                entry is None
                or entry[1].video_sha256 != header.video_sha256
                or not set(header.cells) <= set(entry[1].features)
            ):
                raise _ChangedError
            for cell in header.cells:
                arrays[cell].write_tokens(places[cell][clip].first, entry[1].features[cell])
        # `written` closes each array before replacing_file renames it, so that the hashes below are of complete files.
    for cell, path in paths.items():
        pack.write_index(folder, cell, path, file_sha256(path), places[cell])


class _ArrayFile:
    """A .npy file of a known shape, written in pieces."""

    def __init__(self, file: BinaryIO, dtype: np.dtype, shape: tuple[int, int]) -> None:
        self._file = file
        self._dtype, self._channels = dtype, shape[1]
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        )
        file.flush()
        self._start = file.tell()
        size = self._start + shape[0] * shape[1] * self._dtype.itemsize
        reserve_space(file, size)
        file.truncate(size)

    def write_tokens(self, first: int, values: Float[np.ndarray, "T C"]) -> None:
        """Write `values` as the tokens from index `first` on."""
        if values.dtype != self._dtype or values.shape[1] != self._channels:
            raise ValueError(
                f"expected {self._channels} channels of {self._dtype}, found {values.shape} {values.dtype}"
            )
        self._file.seek(self._start + first * self._channels * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(values).tobytes())


@contextmanager
def _create_array(partial: Path, tokens: int, cell: str, headers: dict[str, ClipHeader]) -> Iterator[_ArrayFile]:
    # All files of a store have one dtype (part of its key), and all of a cell one number of channels.
    header = next(header for header in headers.values() if cell in header.cells)
    with partial.open("wb") as file:
        yield _ArrayFile(file, header.dtype, (tokens, header.cells[cell][1]))


def _assign_places(cell: str, old: dict[str, Place], headers: dict[str, ClipHeader]) -> dict[str, Place]:
    """Assign each clip of `cell` its place in the new array: clips packed before and clips in files, ordered by id.

    A clip's file takes precedence over what was packed of it.
    """
    first = 0
    places: dict[str, Place] = {}
    for clip in sorted({*old, *(clip for clip, header in headers.items() if cell in header.cells)}):
        header = headers.get(clip)
        if header is not None and cell in header.cells:
            place = Place(first, header.cells[cell][0], header.video_sha256, header.reader, header.origins)
        elif header is not None and header.video_sha256 != old[clip].video_sha256:
            continue  # packed from another video than the file's other cells: out of date
        else:
            was = old[clip]
            place = Place(first, was.tokens, was.video_sha256, was.reader, was.origins)
        places[clip] = place
        first += place.tokens
    return places


def _remove_superseded_arrays(folder: Path) -> None:
    """Remove arrays that no index names any more; those that are still read go with a later call."""
    try:
        named = {pack.array_path(folder, cell) for cell in pack.list_packed_cells(folder)}
    except DamagedFeaturesError:  # which array is its own is not known
        return
    for path in folder.glob("*.npy"):
        if path not in named:
            pack.remove_unmapped(path)
