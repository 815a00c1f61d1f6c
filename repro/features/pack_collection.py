"""Pack a collection: from one file per clip to one array per cell (packed.py describes the layout).

Each clip's file is read and checked once, its cells copied to their arrays; files whose cells are all packed go then.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from repro.core.files import remove_partials, replacing_file, set_aside, try_lock_file
from repro.core.hashing import content_key, file_sha256
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError, Place
from repro.features.store import FeatureStore, Outline, outline, read_file


class _ChangedError(Exception):
    """Another process wrote a clip's file while it was being packed."""


def pack_collection(store: FeatureStore, warn: Callable[[str], None]) -> int:
    """Pack what clips' files hold, beside what is packed already; returns how many files were packed away.

    Does nothing while another process packs the same collection, or writes to it: the next to end packs. A damaged file
    is set aside, said through `warn`, and not packed.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with try_lock_file(store.folder / ".pack.lock") as alone:
        files = _whole_files(store, warn) if alone else {}
        if not files:
            return 0
        folder = store.folder / "packed"
        folder.mkdir(exist_ok=True)
        remove_partials(folder)
        try:
            _write_arrays(store, files, folder, warn)
        except _ChangedError:
            return 0
        for found in files.values():
            with suppress(FileNotFoundError):
                if found.path.stat().st_mtime_ns == found.written:  # else cells were added to it meanwhile
                    found.path.unlink()
        _remove_superseded(folder)
        return len(files)


def _whole_files(store: FeatureStore, warn: Callable[[str], None]) -> dict[str, Outline]:
    """What clips' files say of themselves, each read through and checked."""
    files = {}
    for path in store.clip_files():
        try:
            found = outline(path)
            if found is not None and read_file(path) is not None:
                files[found.clip] = found
        except DamagedFeaturesError as error:
            warn(f"features {path}: damaged: {error}: kept as {set_aside(path).name}, to be extracted again")
    return files


def _write_arrays(store: FeatureStore, files: dict[str, Outline], folder: Path, warn: Callable[[str], None]) -> None:
    cells = sorted({cell for found in files.values() for cell in found.cells})
    before = {cell: store.packed_or_aside(cell, warn) for cell in cells}
    with ExitStack() as written:
        arrays, places, paths = {}, {}, {}
        for cell, old in before.items():
            places[cell] = _places(cell, old.places if old else {}, files)
            paths[cell] = pack.array_path(folder, cell, content_key([[c, str(p)] for c, p in places[cell].items()]))
            partial = written.enter_context(replacing_file(paths[cell]))
            arrays[cell] = _made(partial, sum(place.tokens for place in places[cell].values()), cell, files)
            for clip, place in places[cell].items():
                if old is not None and (clip not in files or cell not in files[clip].cells):
                    arrays[cell][place.first : place.first + place.tokens] = old.values(clip)
        for clip, found in files.items():
            entry = read_file(found.path)
            if (
                entry is None
                or entry[1].video_sha256 != found.video_sha256
                or not set(found.cells) <= set(entry[1].features)
            ):
                raise _ChangedError
            for cell in found.cells:
                place = places[cell][clip]
                arrays[cell][place.first : place.first + place.tokens] = entry[1].features[cell]
        for array in arrays.values():
            array.flush()
        arrays.clear()
    for cell, path in paths.items():
        pack.write_index(folder, cell, path, file_sha256(path), places[cell])


def _made(partial: Path, tokens: int, cell: str, files: dict[str, Outline]) -> np.memmap:
    found = next(found for found in files.values() if cell in found.cells)
    array: np.memmap = np.lib.format.open_memmap(
        partial, mode="w+", dtype=found.dtype, shape=(tokens, found.cells[cell][1])
    )
    return array


def _places(cell: str, old: dict[str, Place], files: dict[str, Outline]) -> dict[str, Place]:
    """Where each clip of `cell` will lie: those packed before, those in files, a file's own in the place of an older one."""
    first = 0
    places: dict[str, Place] = {}
    for clip in sorted({*old, *(clip for clip, found in files.items() if cell in found.cells)}):
        found = files.get(clip)
        if found is not None and cell in found.cells:
            place = Place(first, found.cells[cell][0], found.video_sha256, found.reader, found.origins)
        elif found is not None and found.video_sha256 != old[clip].video_sha256:
            continue  # of another video than the clip is now
        else:
            was = old[clip]
            place = Place(first, was.tokens, was.video_sha256, was.reader, was.origins)
        places[clip] = place
        first += place.tokens
    return places


def _remove_superseded(folder: Path) -> None:
    """Arrays that no index names any more."""
    named = {
        json.loads(pq.read_schema(pack.index_path(folder, cell)).metadata[b"about"])["array"]
        for cell in pack.cells(folder)
    }
    for path in folder.glob("*.npy"):
        if path.name not in named:
            path.unlink()


__all__ = ["DamagedFeaturesError", "pack_collection"]
