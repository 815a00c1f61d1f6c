"""features.index: a hash of every clip's features, without the features.

A fingerprint is the sha256 of a clip's features, their norm and three projections. Features that are extracted again on another
device differ in rounding and so in their sha256; the projections show by how much. The root of a Merkle tree over all lines, in
bundle.json, commits to them before anybody draws the clips that are checked.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError

from repro.core.config import Config
from repro.core.console import Reporter
from repro.core.errors import MissingError, state_reason
from repro.core.hashing import FileHashes, canonical_json
from repro.core.reading import parse_json
from repro.core.workspace import Workspace
from repro.datasets.split import SplitName
from repro.features.packed import DamagedFeaturesError
from repro.features.shared import Sha256
from repro.features.store import FeatureStore
from repro.records.record import RunRecord

PROJECTIONS = 3
Fingerprint = Annotated[str, Field(pattern=f"^[0-9a-f]{{64}}:[0-9a-f]{{{8 * (1 + PROJECTIONS)}}}$")]


class IndexedCollection(Config):
    """The clips of one data set."""

    features: tuple[str, ...]
    """Backbone, key and cell of each column, as svd_xt-0123456789abcdef/t20_layer09."""
    videos: dict[str, Sha256]
    """sha256 of each clip's video."""
    fingerprints: dict[str, tuple[Fingerprint | None, ...]]
    """By clip, one a column; null for a clip that is missing in a column or is of another video there."""


class FeaturesIndex(Config):
    merkle_root: Sha256
    collections: dict[str, IndexedCollection]


def fingerprint(features: Float[np.ndarray, "T C"]) -> str:
    """Return the sha256 of features, and their norm and projections as hexadecimal little-endian float32."""
    # Type and shape first: the same bytes can be another array.
    digest = hashlib.sha256(f"{features.dtype} {features.shape}".encode())
    digest.update(features.tobytes())
    values = features.astype(np.float64).ravel()
    # The norm makes a projected difference relative.
    sketch = [np.linalg.norm(values)]
    for seed in range(PROJECTIONS):
        # Signs from the bits of a generator whose stream NumPy guarantees. A projection of a difference has, over the choice
        # of signs, the mean square of the difference's norm.
        words = np.random.PCG64(seed).random_raw((len(values) + 63) // 64)
        bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: len(values)]
        # The sum with the signs of the bits, without a second array of them.
        sketch.append(values.sum() - 2 * values[bits == 1].sum())
    return f"{digest.hexdigest()}:{struct.pack(f'<{1 + PROJECTIONS}f', *sketch).hex()}"


def estimate_deviation(ours: str, theirs: str) -> float:
    """Return the relative L2 between the features of two fingerprints: 0 if they are equal, else as their projections say."""
    if ours.split(":")[0] == theirs.split(":")[0]:
        return 0.0
    a, b = (np.array(struct.unpack(f"<{1 + PROJECTIONS}f", bytes.fromhex(one.split(":")[1]))) for one in (ours, theirs))
    # Features that differ in shape or values always differ here too, unless their projections agree by an accident of 1e-5.
    deviation = float(np.sqrt(np.mean((a - b)[1:] ** 2)) / max(float(a[0]), 1e-30))
    # A difference along the features themselves shows in the norm, whatever the projections make of it.
    return max(deviation, abs(float(a[0] - b[0])) / max(float(a[0]), 1e-30))


def index_features(
    records: Iterable[RunRecord], workspace: Workspace, reporter: Reporter
) -> tuple[FeaturesIndex, list[str]]:
    """Index the stored features that records were trained on.

    Returns:
        The index, and a line for each record's features that are not in the workspace.

    Raises:
        MissingError: stored features are damaged.
    """
    # Runs that differ in seed read the same features: each column once.
    wanted = {
        (dataset, record.features.key, record.features.cell, record.features.stored_as)
        for record in records
        for dataset in (SplitName.parse(record.train.name).dataset, SplitName.parse(record.test.name).dataset)
    }
    # By data set, then by column, the fingerprint of each clip.
    columns: dict[str, dict[str, dict[str, str]]] = {}
    videos: dict[str, dict[str, str]] = {}
    missing = []
    with reporter.progress("hash features", len(wanted)) as advance:
        for dataset, key, cell, stored_as in sorted(wanted):
            found = [path for path in sorted(workspace.features.glob(f"*-{key}")) if (path / dataset).is_dir()]
            clips = {}
            if found:
                store = FeatureStore(
                    found[0] / dataset,
                    key,
                    {},
                    FileHashes(workspace.hashes),
                    "float16" if stored_as == "float16" else "float32",
                )
                clips = dict(_fingerprint_clips(store, cell, videos.setdefault(dataset, {})))
            if clips:
                columns.setdefault(dataset, {})[f"{found[0].name}/{cell}"] = clips
            else:
                missing.append(f"features {key}/{cell} of {dataset}: not in the workspace, so not in {dataset}'s index")
            advance("")
    collections = {}
    for dataset, stores in columns.items():
        listed = sorted({clip for one in stores.values() for clip in one})
        collections[dataset] = IndexedCollection(
            features=tuple(stores),
            videos={clip: videos[dataset][clip] for clip in listed},
            fingerprints={clip: tuple(one.get(clip) for one in stores.values()) for clip in listed},
        )
    return FeaturesIndex(merkle_root=merkle_root(collections), collections=collections), missing


def _fingerprint_clips(store: FeatureStore, cell: str, videos: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield clips with their fingerprints, and add their videos to `videos`; clips of another video than there are left out."""
    try:
        reader = store.cell_reader(cell)
        for clip in sorted(store.stored_clips(cell)):
            entry = reader.read(clip)
            if entry is not None and videos.setdefault(clip, entry.video_sha256) == entry.video_sha256:
                yield clip, fingerprint(entry.features[cell])
    except DamagedFeaturesError as error:
        raise MissingError(f"features {store.folder}: damaged: {error}: extract them again") from error


def merkle_root(collections: Mapping[str, IndexedCollection]) -> str:
    """Return the root over every (data set, features, clip, video, fingerprint), in their order."""
    lines = [
        [name, column, clip, collection.videos.get(clip), value]
        for name, collection in sorted(collections.items())
        for clip, values in sorted(collection.fingerprints.items())
        for column, value in zip(collection.features, values, strict=True)
        if value is not None
    ]
    # Leaves and inner nodes begin with different bytes (RFC 6962), so that none can pass for the other.
    level = [hashlib.sha256(b"\0" + canonical_json(line)).digest() for line in lines]
    return _reduce(level).hex() if level else hashlib.sha256(b"").hexdigest()


def _reduce(level: Sequence[bytes]) -> bytes:
    while len(level) > 1:
        # An odd node moves up unchanged; it is never hashed with itself, which would let two lists have one root.
        pairs = [level[n : n + 2] for n in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\1" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def format_index(index: FeaturesIndex) -> bytes:
    """Return the index as JSON, a clip a line."""
    return (json.dumps(index.model_dump(mode="json"), indent=0, ensure_ascii=False) + "\n").encode()


def parse_index(text: bytes) -> FeaturesIndex:
    """Read an index and check its root.

    Raises:
        ValueError: it is not one, or its root is another.
    """
    try:
        index = FeaturesIndex.model_validate_json(json.dumps(parse_json(text)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:120]}: {state_reason(first['msg'])}") from error
    for name, collection in index.collections.items():
        lengths = {len(values) for values in collection.fingerprints.values()}
        # The root is over what is there: a line without its column would not be in it, and not be missed.
        if lengths - {len(collection.features)} or set(collection.videos) != set(collection.fingerprints):
            raise ValueError(f"{name}: clips without a video or a column")
    if merkle_root(index.collections) != index.merkle_root:
        raise ValueError("its Merkle root is not that of its lines")
    return index
