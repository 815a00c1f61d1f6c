"""A publisher's file: finding the encoder in it, checking every tensor, reading off sizes; and writing one of random weights.

Training frameworks add prefixes to names (`module.`, `backbone.`) and store an encoder with other things (`target_encoder`,
`opt`), so the encoder is found by its patch embedding. Of a pickle only tensors and plain values are read: it is refused if
it contains anything else, which could run code.
"""

import argparse
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.backbones.vit.config import EncoderSizes, Layout, VitConfig
from repro.backbones.weights import check_tensors
from repro.core.errors import MissingError, state_reason
from repro.core.files import replacing_file
from repro.core.reading import describe_absence, open_regular

# Every encoder has it, and nothing else in a training checkpoint does: an encoder is where it is.
PATCHES = "patch_embed.proj.weight"
WRAPPERS = frozenset({"_orig_mod", "backbone", "encoder", "model", "module", "state_dict", "target_encoder"})
FINETUNED = ("fc_norm.weight", "fc_norm.bias")
CLASSIFIER = ("head.weight", "head.bias")


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """An encoder's tensors, in fp32, by name without prefixes."""

    tensors: dict[str, Tensor]
    sizes: EncoderSizes
    note: str
    """For the user: where in the file it was, what was ignored, whether positions are interpolated; may be empty."""


def open_encoder(path: Path, config: VitConfig, layout: Layout) -> OpenedEncoder:
    """Read the encoder that `config` describes.

    Raises:
        MissingError: the file is missing, is no checkpoint, or has an encoder of another kind or size; or tensors are
            missing, unknown or of another shape.
    """
    found, others, prefix = _find_encoder(path, _flatten_mappings(_read_file(path)), layout)
    sizes = check_encoder(found, config, layout, f"checkpoint {path}")
    kept = {name: values.float() for name, values in found.items() if name not in CLASSIFIER}
    ignored = sorted({*others, *(["head"] if CLASSIFIER[0] in found else [])})
    note = ", ".join(
        part
        for part in (
            f"read from {prefix}*" if prefix else "",
            f"ignored: {', '.join(ignored)}" if ignored else "",
            _describe_table(found.get("pos_embed"), sizes, config, path),
        )
        if part
    )
    return OpenedEncoder(kept, sizes, f"checkpoint {path}: {note}" if note else "")


def _describe_table(table: Tensor | None, sizes: EncoderSizes, config: VitConfig, path: Path) -> str:
    """Return how the table of positions is interpolated; an empty string if it is for the config's clips, or is missing.

    Raises:
        MissingError: the table is not for square pictures.
    """
    if table is None:
        return ""
    # The table is [1, tubelets * side * side, width]; the file does not say how many of each, so squares are assumed.
    tubelets = config.table_frames // sizes.tubelet
    side = math.isqrt(table.shape[1] // tubelets)
    if tubelets * side * side != table.shape[1]:
        raise MissingError(
            f"checkpoint {path}: its {table.shape[1]} positions are not those of {config.table_frames} frames of a square picture: "
            "set the number of frames with --set table_frames=N"
        )
    pixels = side * sizes.patch
    if (pixels, config.table_frames) == (config.picture.size, config.frames.window):
        return ""
    return (
        f"positions for {config.table_frames} frames of {pixels} pixels are interpolated to {config.frames.window} frames of "
        f"{config.picture.size}"
    )


def cut_encoder(config: VitConfig, layout: Layout, original: Path, target: Path) -> str:
    """Write only the encoder of `original`, unchanged, to a safetensors file. Returns what was kept, for messages.

    Raises:
        MissingError: as open_encoder.
    """
    found, others, prefix = _find_encoder(original, _flatten_mappings(_read_file(original)), layout)
    check_encoder(found, config, layout, f"checkpoint {original}")
    # contiguous: safetensors refuses views, such as slices of one large buffer.
    # Sorted tensors and fixed metadata: the same encoder gives the same bytes, whatever file it was in.
    kept = {name: found[name].contiguous() for name in sorted(found)}
    with replacing_file(target) as partial:
        save_file(kept, partial, metadata={"format": "pt"})
    without = f", without {', '.join(sorted(others))}" if others else ""
    return f"{len(kept)} tensors of {prefix or 'it'}{'*' if prefix else ''}{without}"


def check_encoder(tensors: Mapping[str, Tensor], config: VitConfig, layout: Layout, where: str) -> EncoderSizes:
    """Check that an encoder has exactly the expected tensors. Returns its sizes.

    Args:
        tensors: the encoder's tensors by name.
        config: the backbone's config.
        layout: how its publisher's files hold an encoder.
        where: the file, for messages.

    Raises:
        MissingError: tensors are missing, unknown or of another shape; or its kind or size is not the config's.
    """
    _check_stage(tensors, config, where)
    sizes = _read_sizes(tensors, where)
    if config.encoder is not None and sizes != config.encoder:
        raise MissingError(
            f"{where}: the encoder has {_describe_sizes(sizes)}, expected {_describe_sizes(config.encoder)}"
        )
    # The only check of num_heads that tensors allow: any divisor of the width fits them.
    if sizes.width % config.num_heads:
        raise MissingError(
            f"{where}: num_heads {config.num_heads} does not divide its width {sizes.width}: set the number it was trained with"
        )
    table = tensors.get("pos_embed")
    expected = dict(
        expected_tensors(sizes, config, layout, table.shape[1] if table is not None and table.ndim == 3 else 0)
    )
    check_tensors(where, {name: tuple(values.shape) for name, values in tensors.items()}, expected, CLASSIFIER)
    return sizes


def _check_stage(tensors: Mapping[str, Tensor], config: VitConfig, where: str) -> None:
    # Swapping the two norms would give plausible features, so the stage is checked before any tensor.
    tuned = [name for name in (*FINETUNED, *CLASSIFIER) if name in tensors]
    if config.stage == "pretrained" and tuned and "norm.weight" not in tensors:
        raise MissingError(
            f"{where}: a fine-tuned encoder: it has {', '.join(tuned)} and no norm.weight; expected a pre-trained one, which "
            "ends in norm.weight: fetch that, or use this one with --set stage=finetuned --set norm=fc_norm"
        )
    if config.stage == "finetuned" and "norm.weight" in tensors and not tuned:
        raise MissingError(
            f"{where}: a pre-trained encoder: it ends in norm.weight; expected a fine-tuned one, which has fc_norm.weight: "
            "fetch that, or use this one with --set stage=pretrained --set norm=encoder"
        )


def _read_sizes(tensors: Mapping[str, Tensor], where: str) -> EncoderSizes:
    patches, hidden = tensors[PATCHES], tensors.get("blocks.0.mlp.fc1.weight")
    if patches.ndim != 5 or hidden is None or patches.shape[-1] != patches.shape[-2]:
        raise MissingError(f"{where}: {PATCHES} is {list(patches.shape)}: not the patches of a video transformer")
    # patches [width, 3, tubelet, patch, patch]; blocks are numbered from 0.
    numbers = [name.split(".")[1] for name in tensors if name.startswith("blocks.")]
    depth = 1 + max(int(number) for number in numbers if number.isdecimal())
    return EncoderSizes(
        width=patches.shape[0], depth=depth, patch=patches.shape[-1], tubelet=patches.shape[2], mlp=hidden.shape[0]
    )


def _describe_sizes(sizes: EncoderSizes) -> str:
    return f"width {sizes.width}, {sizes.depth} blocks, patches of {sizes.patch}, tubelets of {sizes.tubelet}, mlp {sizes.mlp}"


def expected_tensors(
    sizes: EncoderSizes, config: VitConfig, layout: Layout, patches: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of an encoder; `patches` is the length of its table of positions."""
    width, hidden = sizes.width, sizes.mlp
    attention = {
        "qkv.weight": (3 * width, width), "qkv.bias": (3 * width,), "q_bias": (width,), "v_bias": (width,),
        "proj.weight": (width, width), "proj.bias": (width,),
    }  # fmt: skip
    yield PATCHES, (width, 3, sizes.tubelet, sizes.patch, sizes.patch)
    yield "patch_embed.proj.bias", (width,)
    if layout.table:
        yield "pos_embed", (1, patches, width)
    for number in range(sizes.depth):
        block = f"blocks.{number}."
        for name in ("norm1", "norm2"):
            yield f"{block}{name}.weight", (width,)
            yield f"{block}{name}.bias", (width,)
        for name in layout.attention:
            yield f"{block}attn.{name}", attention[name]
        yield f"{block}mlp.fc1.weight", (hidden, width)
        yield f"{block}mlp.fc1.bias", (hidden,)
        yield f"{block}mlp.fc2.weight", (width, hidden)
        yield f"{block}mlp.fc2.bias", (width,)
    last = "norm" if config.stage == "pretrained" else "fc_norm"
    yield f"{last}.weight", (width,)
    yield f"{last}.bias", (width,)


def _read_file(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: {describe_absence(path, 'file')}")
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise MissingError(
                f"checkpoint {path}: not a complete safetensors file ({state_reason(error)}): fetch it again and compare its sha256"
            ) from error
    try:
        # torch has saved zip files since 1.6. Mapped into memory, only the tensors that are used are read.
        mapped = _is_zip(path)
        # Training scripts store their options in a Namespace, which holds values and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Of a pickle protocol that torch itself does not write: it can read the file, or raises.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # torch raises the same error for damaged pickles; in an intact archive it means a forbidden class or function.
        if _is_zip(path) or "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise MissingError(
                f"checkpoint {path}: refused: the pickle contains more than tensors and plain values and could run code: fetch "
                "the publisher's file, or save its tensors as .safetensors yourself"
            ) from error
        raise MissingError(f"checkpoint {path}: {_UNREADABLE}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise MissingError(f"checkpoint {path}: {_UNREADABLE}") from error
    if not isinstance(found, Mapping):
        raise MissingError(f"checkpoint {path}: contains a {type(found).__name__}, expected tensors by name")
    return found


_UNREADABLE = "neither a safetensors file nor a complete file of torch.save: fetch it again and compare its sha256"


def _is_safetensors(path: Path) -> bool:
    """Recognise a safetensors file by its header, as it may have any name: 8 bytes of header length, then JSON."""
    with open(path, "rb", opener=open_regular) as file:
        header = file.read(9)
    return path.suffix == ".safetensors" or (len(header) == 9 and header[8:] == b"{" and header[6:8] == b"\0\0")


def _is_zip(path: Path) -> bool:
    with open(path, "rb", opener=open_regular) as file:
        return file.read(4) == b"PK\x03\x04"


def _flatten_mappings(found: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """Return every tensor of nested mappings, by the dotted path of keys."""
    flat: dict[str, Tensor] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            flat |= _flatten_mappings(value, f"{prefix}{name}.")
    return flat


def _find_encoder(path: Path, flat: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], set[str], str]:
    """Find the encoder among a file's tensors.

    Returns:
        The encoder's tensors by name without prefix, what else the file contains, and the prefix.

    Raises:
        MissingError: the file contains no encoder, or something unknown besides it.
    """
    prefixes = [name.removesuffix(PATCHES) for name in flat if name.endswith(PATCHES)]
    prefixes = [prefix for prefix in prefixes if set(prefix.split(".")[:-1]) <= WRAPPERS]
    if not prefixes:
        some = ", ".join(list(flat)[:3])
        raise MissingError(
            f"checkpoint {path}: tensor {PATCHES} not found"
            + (f" among {some}{', ...' if len(flat) > 3 else ''}" if some else ": it contains no tensors")
            + ": not the checkpoint of a video transformer"
        )
    # The preferred encoder first, then the one with the fewest wrappers.
    prefix = min(prefixes, key=lambda p: (layout.preferred not in p.split("."), len(p)))
    encoder = {name.removeprefix(prefix): values for name, values in flat.items() if name.startswith(prefix)}
    others = {_group(name) for name in flat if not name.startswith(prefix)}
    if not prefix:
        # Without a prefix, known other contents are siblings of the encoder's own tensors.
        others = {name.split(".")[0] for name in encoder} & set(layout.known_others)
        encoder = {name: values for name, values in encoder.items() if name.split(".")[0] not in others}
    unknown = sorted(others - set(layout.known_others))
    if unknown:
        raise MissingError(
            f"checkpoint {path}: besides {prefix}* it contains unknown tensors of {', '.join(unknown[:3])}: this is not the "
            "checkpoint that the config describes"
        )
    return encoder, others, prefix


def _group(name: str) -> str:
    """Return what a tensor outside the encoder belongs to, by its name without wrappers."""
    parts = name.split(".")
    inner = [part for part in parts[:-1] if part not in WRAPPERS - {"encoder", "target_encoder"}]
    return (inner or parts[-1:])[0]


def write_random_encoder(path: Path, config: VitConfig, layout: Layout, seed: int) -> None:
    """Write an encoder generated from `seed`: norms near one, biases near zero, products that keep the scale of their input."""
    sizes = config.encoder
    assert sizes is not None
    patches = (config.picture.size // sizes.patch) ** 2 * (config.table_frames // sizes.tubelet)
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_tensors(sizes, config, layout, patches):
        values = random.standard_normal(shape, dtype=np.float32)
        # Divided by the square root of the number of inputs, so that outputs keep the scale of inputs.
        if name.endswith("weight") and len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:], dtype=np.float32))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        tensors[name] = values
    save_arrays(tensors, path)
