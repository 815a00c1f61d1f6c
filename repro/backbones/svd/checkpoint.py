"""A published SVD checkpoint file: opened, and every tensor in it accounted for. Names are names.py's."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from repro.backbones.svd import tensor_names as names
from repro.backbones.tensors import Layout, account_for
from repro.core.errors import MissingError


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
    account_for(f"checkpoint {path}", found, wanted, names.UNUSED)
    return file
