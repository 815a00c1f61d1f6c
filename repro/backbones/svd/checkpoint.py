"""A published SVD checkpoint file: opened, and every tensor in it accounted for. Names are names.py's."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from repro.backbones.svd import names
from repro.errors import MissingError

Layout = dict[str, tuple[int, ...]]
"""Tensor names and shapes as the published file has them."""


def open_checkpoint(path: Path, wanted: Layout) -> safe_open:
    """`path`, whose tensors are those `wanted`, and beside them only such as are known to be of no use.

    Raises:
        MissingError: no such file, not a whole safetensors file, or tensors missing, unknown or of another shape.
    """
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: no such file")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MissingError(
            f"checkpoint {path}: not a whole safetensors file ({error}): fetch it again and compare its sha256"
        ) from error
    found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
    _account_for(path, found, wanted)
    return file


def _account_for(path: Path, found: Layout, wanted: Layout) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted and not name.startswith(names.UNUSED)]
    misshapen = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    for problem, culprits in (("missing", missing), ("unknown", unknown), ("wrongly shaped", misshapen)):
        if culprits:
            more = f" and {len(culprits) - 3} more" if len(culprits) > 3 else ""
            raise MissingError(
                f"checkpoint {path}: {len(culprits)} tensors {problem}: {', '.join(culprits[:3])}{more}: "
                "this is not the checkpoint the config describes"
            )
