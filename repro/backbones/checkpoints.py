"""Where a backbone's weights lie on this machine, and what to say where they do not. Imports nothing heavy."""

from pathlib import Path

from repro.assets import fetch_command
from repro.backbones.config import Checkpoint
from repro.workspace import Workspace


def checkpoint_path(checkpoint: Checkpoint, workspace: Workspace) -> Path:
    """Where a checkpoint lies, or would: weights drawn from a seed are the smoke job's own."""
    folder = workspace.checkpoints if checkpoint.drawn_from_seed is None else workspace.smoke
    return folder / checkpoint.file


def absence(name: str, checkpoint: Checkpoint, workspace: Workspace) -> str:
    """ "" where the file is there; else what is missing, where it was looked for and what brings it."""
    path = checkpoint_path(checkpoint, workspace)
    if path.is_file():
        return ""
    remedy = fetch_command(name, workspace) if checkpoint.is_remote else f"repro smoke{workspace.option}"
    return f"checkpoint {name}: not at {path} ({checkpoint.size}; licence: {checkpoint.licence}); to bring it: {remedy}"
