"""Readouts on disk (safetensors): the trained weights, and the state that a killed training goes on from.

<folder>/training.safetensors        after every epoch: weights, AdamW's moments, test logits so far; gone when recorded
<folder>/selected_epoch.safetensors  weights of the epoch the protocol picks
<folder>/last_epoch.safetensors
A file says in its header what it belongs to and what its tensors hash to.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from repro.core.errors import UsageError
from repro.core.signed import ArrayLibrary, DamagedFileError, about_of, read_arrays, write_arrays

STATE = "training.safetensors"
SELECTED = "selected_epoch.safetensors"
LAST = "last_epoch.safetensors"


def _raw_bytes(tensor: Tensor) -> memoryview:
    # Through uint8, since numpy has no bfloat16.
    view: memoryview = tensor.flatten().view(torch.uint8).numpy().data
    return view


TORCH: ArrayLibrary[Tensor] = ArrayLibrary("pt", save_file, _raw_bytes)


class DamagedCheckpointError(Exception):
    """A file that is not what was written; the message is one line."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file that is whole or absent; `about` is anything JSON can hold."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_arrays(path, on_cpu, about, TORCH)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and what the file says of itself.

    Raises:
        FileNotFoundError: it is not there.
        DamagedCheckpointError: it is not what was written.
    """
    try:
        return read_arrays(path, TORCH)
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"{path}: damaged: {error}") from error


def read_about(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself, its tensors unread; None where it is not there or not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return about_of(file)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def head_weights(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moments(head: torch.nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """AdamW's running means by the names of what they belong to."""
    return {
        f"{kind}/{name}": optimizer.state[parameter][kind]
        for name, parameter in head.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }


def restore_moments(head: torch.nn.Module, optimizer: torch.optim.AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Give AdamW the running means it had."""
    for name, parameter in head.named_parameters():
        optimizer.state[parameter] = {
            kind: tensors[f"{kind}/{name}"].to(parameter.device) for kind in ("exp_avg", "exp_avg_sq", "step")
        }


def refuse_changed(path: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A training goes on with what it began with, or not at all.

    Raises:
        UsageError: what differs, and between what.
    """
    theirs, ours = _flat(began), _flat(now)
    differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if differing:
        shown = ", ".join(f"{name} was {theirs.get(name)} and is {ours.get(name)}" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UsageError(
            f"{path}: an unfinished training that began otherwise: {shown}{more}: go on as it began, or move the file "
            "away to begin anew"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat
