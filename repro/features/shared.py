"""Features in a file to share: a data set's features and labels, and no video.

    NAME.safetensors   one array [tokens, C] a cell; the card in its header, with the sha256 of card and arrays
    NAME.parquet       where each clip is in the arrays, from which video and reader; the labels in its metadata

The card holds the sha256 of the parquet file's contents, so the sha256 in NAME.safetensors is of the pair. It shows that nothing
changed since it was written, and not who wrote it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError
from safetensors import safe_open

from repro.core.config import Config
from repro.core.errors import MissingError, UsageError, state_reason
from repro.core.files import replacing_file
from repro.core.hashing import content_sha256
from repro.core.locks import remove_partials
from repro.core.reading import check_regular, describe_absence, read_table
from repro.core.signed import DamagedFileError, read_about, read_arrays, write_arrays
from repro.datasets.labels import Labels
from repro.features.packed import Place
from repro.features.store import IMPORTED, NUMPY_ARRAYS, StoredAs

SharedName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_]{0,80}$")]
"""Of a data set, a backbone or a cell: it becomes part of paths."""
Key = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Origin = Annotated[str, Field(pattern=f"^([0-9a-f]{{16}}|{IMPORTED}[0-9a-f]{{64}})$")]
INDEX_COLUMNS = {
    "cell": pa.string(), "clip": pa.string(), "first": pa.int64(), "tokens": pa.int64(), "video_sha256": pa.string(),
    "reader": pa.string(), "origins": pa.list_(pa.string()),
}  # fmt: skip


class Card(Config):
    """What the features are, what they were computed with and from, and on what terms."""

    format: Literal[1] = 1
    what: str
    made_by: str
    """Project and version that wrote the file."""
    dataset: SharedName
    source: str
    """The data set, or the split of it, whose clips these are."""
    clips: int
    cells: tuple[SharedName, ...]
    backbone: SharedName
    precision: str
    key: Key
    """Content key of identity and stored type, as in the feature store."""
    identity: dict[str, Any]
    """All that the features depend on apart from video and cell: config, sha256 of the checkpoint, version of the reader."""
    stored_as: StoredAs
    checkpoint: dict[str, str | None]
    """File, source and licence of the weights; their sha256 is in `identity`. Empty for a backbone without weights."""
    readers: dict[str, int]
    """Number of clips by the reader that decoded them."""
    origins: dict[Origin, dict[str, Any]]
    """Machines and software that computed the features."""
    annotations: Key
    """Key of the annotation files that the labels were read from."""
    manifest: Sha256 | None
    """Content hash of the data set's audit, if there was one."""
    licence: str
    """Of the data set."""
    licence_url: str | None
    publisher: str
    """Address of the data set's publishers."""
    cite: tuple[str, ...]
    index_sha256: Sha256


@dataclass(frozen=True, slots=True)
class SharedFeatures:
    """The contents of a pair of files."""

    card: Card
    arrays: Mapping[str, np.ndarray]
    """By cell, `[tokens, C]` once `read_shared` has verified them."""
    places: Mapping[str, Mapping[str, Place]]
    """By cell and clip, in the order of the array."""
    labels: Labels
    sha256: str = ""
    """Of card and arrays, as the file states it."""


def index_of(path: Path) -> Path:
    """Return the parquet file that belongs to a safetensors file of features.

    Raises:
        UsageError: `path` does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: expected a file name that ends in .safetensors; its .parquet is next to it")
    return path.with_suffix(".parquet")


def hash_index(places: Mapping[str, Mapping[str, Place]], labels: Labels) -> str:
    """Hash the contents of the parquet file, whose bytes differ between versions of pyarrow."""
    # In the order of the file: it is the order of the arrays.
    rows = [[cell, clip, *asdict(place).values()] for cell, clips in places.items() for clip, place in clips.items()]
    return content_sha256({"rows": rows, "labels": labels.model_dump(mode="json")})


def write_shared(path: Path, shared: SharedFeatures) -> None:
    """Write the pair of files, the one that the other is verified by last.

    Raises:
        DiskError: the disk is full or cannot be written.
        MissingError: features are not what a reader of the files would accept.
    """
    _check(shared)
    rows = [
        {"cell": cell, "clip": clip} | asdict(place)
        for cell, clips in shared.places.items()
        for clip, place in clips.items()
    ]
    schema = pa.schema(INDEX_COLUMNS, metadata={"labels": shared.labels.model_dump_json()})
    with replacing_file(index_of(path), by_user=True) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
    remove_partials(path.parent, path.name)
    write_arrays(path, shared.arrays, shared.card.model_dump(mode="json"), NUMPY_ARRAYS)


def read_shared(path: Path) -> SharedFeatures:
    """Read and verify a pair of files: both hashes, shapes, types, ids, and that every value is finite.

    Raises:
        MissingError: a file is missing, damaged or edited, or is of another version; the message is one line.
    """
    index = index_of(path)
    for one in (path, index):
        if not one.is_file():
            raise MissingError(f"{one}: {describe_absence(one, 'file')}: features are shared as a pair of files")
    try:
        arrays, about = read_arrays(path, NUMPY_ARRAYS)
        card = Card.model_validate_json(json.dumps(about))
        check_regular(index)
        table = read_table(index)
        labels = Labels.model_validate_json((table.schema.metadata or {})[b"labels"])
        places: dict[str, dict[str, Place]] = {}
        for row in table.select(list(INDEX_COLUMNS)).to_pylist():
            cell, clip = row.pop("cell"), row.pop("clip")
            places.setdefault(cell, {})[clip] = Place(**row | {"origins": tuple(row["origins"])})
        if hash_index(places, labels) != card.index_sha256:
            raise DamagedFileError(f"{index.name} is not the one it was written with, or was edited")
        # The file's own sha256 was verified as it was read; the records of trainings name it.
        shared = SharedFeatures(card, arrays, places, labels, _read_sha256(path))
        _check(shared)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:120]
        raise MissingError(
            f"{path}: not shared features of this version: {where}: {state_reason(first['msg'])}"
        ) from error
    except MissingError as error:
        raise MissingError(f"{path}: {error}") from error
    except (DamagedFileError, pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise MissingError(
            f"{path}: damaged or not shared features ({state_reason(error)}): get both files again"
        ) from error
    return shared


def _read_sha256(path: Path) -> str:
    with safe_open(path, framework="np") as file:
        return str(read_about(file)["sha256"])


def _check(shared: SharedFeatures) -> None:
    """Check that card, arrays, places and labels belong together.

    Raises:
        MissingError: they do not; the message is the reason alone.
    """
    card = shared.card
    if not (set(card.cells) == set(shared.arrays) == set(shared.places)):
        raise MissingError("card, arrays and index are of different cells")
    listed = {clip[0] for split in shared.labels.splits.values() for clip in split.clips}
    for cell, places in shared.places.items():
        array, first = shared.arrays[cell], 0
        if array.ndim != 2 or array.dtype != card.stored_as:
            raise MissingError(f"{cell}: {array.ndim} dimensions of {array.dtype}, expected 2 of {card.stored_as}")
        if len(places) != card.clips:
            raise MissingError(f"{cell}: {len(places)} clips, its card has {card.clips}")
        for clip, place in places.items():
            if clip not in listed:
                raise MissingError(f"{cell}: clip {clip[:80]!r} is not among those with labels")
            # Clips follow one another without gap or overlap: nothing in an array belongs to no clip.
            if place.first != first or place.tokens < 1:
                raise MissingError(f"{cell}: clip {clip[:80]}: not where the clip before it ends")
            if not (re.fullmatch("[0-9a-f]{64}", place.video_sha256) and place.reader.isprintable()):
                raise MissingError(f"{cell}: clip {clip[:80]}: sha256 of its video or name of its reader cannot be")
            if not set(place.origins) <= set(card.origins):
                raise MissingError(f"{cell}: clip {clip[:80]}: its card does not state where it was computed")
            # A training would only find it after hours, as a loss that is not finite.
            if not np.isfinite(array[first : first + place.tokens]).all():
                raise MissingError(f"{cell}: clip {clip[:80]}: features are not finite")
            first += place.tokens
        if first != len(array):
            raise MissingError(f"{cell}: {len(array)} vectors, its clips have {first}")
