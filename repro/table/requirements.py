"""What a row needs on this machine before it can run. Imports nothing heavy."""

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass

from repro.backbones.weights import absence
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace, device_from_environment
from repro.datasets.remedy import remedy
from repro.table.rows import Row, row_backbone, row_datasets


@dataclass(frozen=True, slots=True)
class Missing:
    what: str
    """A few words, for a table."""
    sentence: str
    """What, where it was looked for, and what brings it."""


NO_GPU = Missing(
    "GPU",
    "no GPU is visible: start the container with --gpus all (docker) or --nv (apptainer) on a machine with an NVIDIA "
    "driver of 580 or newer, or set REPRO_DEVICE=cpu",
)


def gpus_visible() -> int:
    """How many devices the NVIDIA driver shows, 0 where there is none; asks the driver itself, which takes no torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def gpu_visible() -> bool:
    return gpus_visible() > 0


def check_device_name(option: str) -> None:
    """Raises UsageError where there is no such kind of device."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", option):
        raise UsageError(f"--device {option}: expected cpu, cuda or cuda:N")


def chosen_device(option: str | None) -> str:
    """The device named by --device, else by REPRO_DEVICE, else a GPU where one is visible, else the CPU.

    Raises:
        UsageError: no such kind of device.
        MissingError: a GPU is asked for and none is visible.
    """
    if option is not None:
        check_device_name(option)
    wish = option or device_from_environment()
    if wish is None:
        return "cuda" if gpu_visible() else "cpu"
    if wish != "cpu" and not gpu_visible():
        raise MissingError(NO_GPU.sentence)
    if wish.startswith("cuda:") and int(wish.removeprefix("cuda:")) >= gpus_visible():
        raise MissingError(f"device {wish}: there are {gpus_visible()} GPUs here, counted from 0")
    return wish


def missing(row: Row, workspace: Workspace) -> Iterator[Missing]:
    """Everything `row` needs and `workspace` does not hold, data first."""
    for name, dataset in row_datasets(row).items():
        folder = workspace.data / dataset.folder
        absent = [str(part) for part in dataset.absent(folder)]
        if absent:
            yield Missing(
                f"data {name}",
                f"data {name}: no {' and no '.join(absent)} in {folder} ({dataset.size}; licence: {dataset.licence}); "
                f"to bring it: {remedy(name, dataset, workspace)}",
            )
    backbone = row_backbone(row)
    checkpoint = backbone.checkpoint
    sentence = absence(row.backbone, checkpoint, workspace) if checkpoint else ""
    if checkpoint and sentence:
        yield Missing(f"checkpoint {checkpoint.file}", sentence)
    for name, sentence in backbone.absent_beside(workspace).items():
        yield Missing(f"checkpoint {name}", sentence)


def require(row: Row, workspace: Workspace, gpu: bool) -> None:
    """Raises MissingError, in one line, where anything is missing; `gpu` asks for one."""
    lacking = list(missing(row, workspace))
    if gpu and not gpu_visible():
        lacking.insert(0, NO_GPU)
    if lacking:
        raise MissingError(f"row {row.name} cannot run: " + "; ".join(m.sentence for m in lacking))
