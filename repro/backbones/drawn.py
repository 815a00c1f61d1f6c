"""Weights drawn from a seed: made where they are not, known again where they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.backbones.config import BackboneConfig
from repro.backbones.family import load_family
from repro.backbones.weights import checkpoint_path
from repro.core.files import replacing_file, set_aside, write_json
from repro.core.hashing import content_key, file_sha256
from repro.core.workspace import Workspace


def draw(config: BackboneConfig, workspace: Workspace, warn: Callable[[str], None]) -> tuple[Path, str, bool]:
    """The file of a config whose checkpoint has a seed, its sha256, and whether it was there.

    What is there and not what was drawn is set aside and drawn again.
    """
    checkpoint, make = config.checkpoint, load_family(config.family).draw
    assert checkpoint is not None
    assert checkpoint.drawn_from_seed is not None
    assert make is not None
    seed, path = checkpoint.drawn_from_seed, checkpoint_path(checkpoint, workspace)
    stamp = path.with_name(path.name + ".drawn.json")
    described = config.model_dump(mode="json", include={"family", "architecture", "encoder", "table_frames", "picture"})
    key = content_key({"seed": seed, "version": VERSION} | described)
    found = file_sha256(path) if path.is_file() else None
    if found is not None and _read(stamp) == {"key": key, "sha256": found}:
        return path, found, True
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as partial:
        make(config, partial, seed)
        drawn = file_sha256(partial)
        if path.exists() and found != drawn:
            aside = set_aside(path)
            warn(f"checkpoint {path}: not what was drawn: kept as {aside.name}, drawn again")
    write_json(stamp, {"key": key, "sha256": drawn})
    return path, drawn, False


VERSION = 1
"""Raised when a seed would give other weights."""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
