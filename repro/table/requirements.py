"""What a row needs before it can run on this machine: data, weights, a device. Imports no torch."""

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass

from repro.backbones.weights import explain_missing_checkpoint
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace, device_from_environment
from repro.table.row import Row, row_backbone, row_datasets


@dataclass(frozen=True, slots=True)
class MissingItem:
    """Something a row needs that this machine does not have."""

    what: str
    """A few words, for a table."""
    sentence: str
    """What is missing, where it was expected, and the command that gets it."""


NO_GPU = MissingItem(
    "GPU",
    "no GPU is visible: start the container with --gpus all (docker) or --nv (apptainer) on a machine with an NVIDIA "
    "driver of 580 or newer, or set REPRO_DEVICE=cpu",
)


def gpus_visible() -> int:
    """Number of GPUs the NVIDIA driver reports; 0 without a driver. Calls the driver directly, as importing torch takes seconds."""
    # The driver's own library; neither the CUDA toolkit nor torch needs to be installed. Both calls return 0 for success.
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def gpu_visible() -> bool:
    return gpus_visible() > 0


def check_device_name(option: str) -> None:
    """Raise UsageError unless `option` is cpu, cuda or cuda:N."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", option):
        raise UsageError(f"--device {option}: expected cpu, cuda or cuda:N")


def chosen_device(option: str | None) -> str:
    """The device named by --device, else by REPRO_DEVICE, else a GPU if one is visible, else the CPU.

    Raises:
        UsageError: no such kind of device.
        MissingError: a GPU is requested and none is visible.
    """
    if option is not None:
        check_device_name(option)
    # Only the default falls back to the CPU: a GPU that was named and is missing is an error, not a run of weeks on a CPU.
    named = option or device_from_environment()
    if named is None:
        return "cuda" if gpu_visible() else "cpu"
    if named != "cpu" and not gpu_visible():
        raise MissingError(NO_GPU.sentence)
    if named.startswith("cuda:") and int(named.removeprefix("cuda:")) >= gpus_visible():
        raise MissingError(f"device {named}: this machine has {gpus_visible()} GPUs, numbered from 0")
    return named


def missing_items(row: Row, workspace: Workspace) -> Iterator[MissingItem]:
    """Everything `row` needs that `workspace` does not have, data first."""
    for name, dataset in row_datasets(row).items():
        folder = workspace.data / dataset.folder
        absent = [str(part) for part in dataset.missing_parts(folder)]
        if absent:
            yield MissingItem(
                f"data {name}",
                f"data {name}: no {' and no '.join(absent)} in {folder} ({dataset.size}; licence: {dataset.licence}); "
                f"to bring it: {dataset.how_to_obtain(workspace)}",
            )
    backbone = row_backbone(row)
    checkpoint = backbone.checkpoint
    sentence = explain_missing_checkpoint(backbone, workspace)
    if checkpoint and sentence:
        yield MissingItem(f"checkpoint {checkpoint.file}", sentence)
    for name, sentence in backbone.missing_inputs(workspace).items():
        yield MissingItem(f"checkpoint {name}", sentence)


def require_all(row: Row, workspace: Workspace, gpu: bool) -> None:
    """Raise MissingError, in one line that lists everything, if anything is missing; with `gpu` also a missing GPU."""
    missing = list(missing_items(row, workspace))
    if gpu and not gpu_visible():
        # First, because the rest of the line may be long.
        missing.insert(0, NO_GPU)
    if missing:
        raise MissingError(f"row {row.name} cannot run: " + "; ".join(m.sentence for m in missing))
