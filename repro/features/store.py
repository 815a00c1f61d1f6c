"""The feature store: one folder per content key, one safetensors file per clip.

A file is whole or absent (written under another name, then renamed), and says which video's bytes it came from and what
its own tensors hash to, so that neither another video nor a damaged file is taken for it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from repro import atomic
from repro.keys import content_key

VERSION = 1
"""Part of every key: raised when the same inputs would give other features."""

Features = dict[str, Float32[np.ndarray, "T C"]]


class DamagedFeaturesError(Exception):
    """A file of the store that is not what was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    features: Features
    """By cell name."""
    video_sha256: str
    reader: str


@dataclass(frozen=True, slots=True)
class FeatureStore:
    folder: Path
    key: str
    identity: dict[str, Any]
    """All the features depend on beside the videos."""

    @classmethod
    def open(cls, features: Path, backbone: str, identity: dict[str, Any], origin: dict[str, Any]) -> "FeatureStore":
        """The store of `identity`, in the folder `features`; made where it is not there.

        `identity` is all the features depend on; `origin` (versions, threads) is written beside it for a reader.
        """
        key = content_key({"store": VERSION} | identity)
        store = cls(features / f"{backbone}-{key}", key, identity)
        manifest = store.folder / "manifest.json"
        if not _says(manifest, key):
            if manifest.exists():
                atomic.set_aside(manifest)
            atomic.write_json(manifest, {"key": key, "identity": identity, "first_made_with": origin})
        return store

    def path(self, clip_id: str) -> Path:
        """A clip's file. Ids may hold any character: all but plain ones are escaped."""
        return self.folder / "clips" / f"{quote(clip_id, safe=' ()[]!+,=@')}.safetensors"

    def write(self, clip_id: str, entry: Entry) -> None:
        about = {"clip": clip_id, "video_sha256": entry.video_sha256, "reader": entry.reader}
        about["sha256"] = _digest(about, entry.features)
        path = self.path(clip_id)
        with atomic.replacing(path) as partial:
            # One entry: safetensors writes several in any order, and the file's bytes must repeat.
            save_file(entry.features, partial, metadata={"about": json.dumps(about)})

    def read(self, clip_id: str) -> Entry | None:
        """What the store has of a clip; None where it has nothing.

        Raises:
            DamagedFeaturesError: with the reason in words.
        """
        path = self.path(clip_id)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                about: dict[str, str] = json.loads((file.metadata() or {})["about"])
                features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise DamagedFeaturesError(f"not a whole safetensors file ({error})") from error
        if not isinstance(about, dict):
            raise DamagedFeaturesError("it does not say which clip it holds")
        digest = about.pop("sha256", "")
        if digest != _digest(about, features):
            raise DamagedFeaturesError("its contents do not match the sha256 written with them")
        if about["clip"] != clip_id:
            raise DamagedFeaturesError(f"it holds clip '{about['clip']}'")
        return Entry(features, about["video_sha256"], about["reader"])


def _says(manifest: Path, key: str) -> bool:
    try:
        return bool(json.loads(manifest.read_bytes())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(about: dict[str, str], features: Features) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(features):
        values = np.ascontiguousarray(features[name])
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
