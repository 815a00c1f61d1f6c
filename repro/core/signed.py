"""Files that carry their own sha256, so that a damaged or edited file is never mistaken for what was written.

The kinds differ in where the sha256 is stored. Each layout is part of the workspace's format: existing files must stay valid.

    safetensors  key `sha256` of the JSON in the header entry `about`, over that JSON and all tensors
    JSON         key `sha256` of the object, over its other keys
    text lines   a first line with the sha256 of the rest
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from safetensors import SafetensorError, safe_open

from repro.core.errors import state_reason
from repro.core.files import replacing_file, write_bytes, write_json
from repro.core.hashing import content_sha256
from repro.core.reading import check_regular, parse_json, read_bytes

Array = TypeVar("Array")


class NotFiniteError(ValueError):
    """A JSON file has NaN or infinity, which are not JSON."""


class DamagedFileError(Exception):
    """A file is not what was written. The message says why, without the file's path."""


@dataclass(frozen=True, slots=True)
class ArrayLibrary(Generic[Array]):
    """How one library's arrays are stored: numpy and torch files differ in nothing but the spelling of their dtypes.

    The caller passes the functions, so that reading numpy features does not import torch.
    """

    framework: Literal["np", "pt"]
    save_file: Callable[[dict[str, Array], Path, dict[str, str]], None]
    """Of `safetensors.numpy` or `safetensors.torch`."""
    raw_bytes: Callable[[Array], bytes | memoryview]
    """The values of an array in C order."""


def write_arrays(
    path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any], library: ArrayLibrary[Array]
) -> None:
    """Write a safetensors file atomically.

    Args:
        path: The file.
        arrays: By name.
        about: What the file belongs to; anything JSON can hold.
        library: The library that the arrays belong to.
    """
    text = json.dumps({**about, "sha256": _arrays_sha256(about, arrays, library)}, allow_nan=False)
    with replacing_file(path) as partial:
        # All of `about` is one metadata entry: safetensors writes several in any order, and the same contents must
        # give the same bytes.
        library.save_file(dict(arrays), partial, {"about": text})


def read_arrays(path: Path, library: ArrayLibrary[Array]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a safetensors file that `write_arrays` wrote, and verify it.

    Returns:
        The arrays by name, and `about` as it was written.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not what was written.
    """
    try:
        check_regular(path)
        with safe_open(path, framework=library.framework) as file:
            about = read_about(file)
            arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    # MemoryError, because a damaged header can state any size.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedFileError(f"not a complete safetensors file ({state_reason(error)})") from error
    if about.pop("sha256", None) != _arrays_sha256(about, arrays, library):
        raise DamagedFileError("its contents do not match the sha256 stored in it")
    return arrays, about


def read_about(file: Any) -> dict[str, Any]:
    """Return the `about` of an open safetensors file, unverified and with its `sha256`.

    Raises:
        KeyError, TypeError, ValueError: it has none, or it is not a JSON object.
    """
    about = parse_json((file.metadata() or {})["about"])
    if not isinstance(about, dict):
        raise TypeError(f"'about' is {type(about).__name__}, expected an object")
    return about


def _arrays_sha256(about: Mapping[str, Any], arrays: Mapping[str, Any], library: ArrayLibrary[Any]) -> str:
    # Sorted keys and names: a library may return both in any order.
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        # Name, dtype and shape too: the same bytes under another shape are another array.
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(library.raw_bytes(array))
    return digest.hexdigest()


def write_signed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its sha256 as the last key."""
    write_json(path, {**value, "sha256": content_sha256(value)})


def parse_signed_json(text: bytes) -> tuple[dict[str, Any], bool]:
    """Parse what `write_signed_json` wrote.

    Returns:
        The object without its `sha256`, and whether that matches. A caller can so validate the object first: an unknown
        key says more than a wrong hash.

    Raises:
        ValueError: not a JSON object with a sha256; NaN or infinity in it.
    """
    value = parse_json(text, _refuse_constant)
    digest = value.pop("sha256", None) if isinstance(value, dict) else None
    if digest is None:
        raise ValueError("expected a JSON object with a sha256")
    try:
        return value, digest == content_sha256(value)
    except UnicodeEncodeError as error:  # half of a pair of surrogates, as \ud800
        raise ValueError(f"text that is not Unicode ({error.reason})") from error
    except ValueError as error:  # 1e999 is a number to the parser
        raise NotFiniteError(f"a number is infinite ({error})") from error


def _refuse_constant(constant: str) -> float:
    # Python's parser accepts NaN and Infinity, which are not JSON.
    raise NotFiniteError(f"{constant} is not a number")


def write_signed_text(path: Path, text: bytes) -> None:
    """Write `text` atomically, below a line with its sha256."""
    write_bytes(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text + b"\n")


def read_signed_text(path: Path) -> bytes | None:
    """Read what `write_signed_text` wrote; returns None if it is missing or damaged."""
    try:
        # The first line end only: the text may have others.
        digest, text = read_bytes(path).split(b"\n", 1)
    except (OSError, ValueError):
        return None
    text = text.removesuffix(b"\n")
    return text if hashlib.sha256(text).hexdigest().encode() == digest else None
