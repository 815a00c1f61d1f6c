"""An owners' file opened: unwrapped, every tensor accounted for, its sizes read off.

Training frameworks wrap names (`module.`, `backbone.`) and put an encoder beside other things (`target_encoder`, `opt`): the
encoder is found by its patch embedding. A pickle is read for tensors and plain values alone: whatever else it would run
or make is refused.
"""

import argparse
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.backbones.tensors import account_for as all_accounted_for
from repro.backbones.vit.config import Encoder as Sizes
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.families import Layout
from repro.core.errors import MissingError
from repro.core.files import replacing_file

PATCHES = "patch_embed.proj.weight"
WRAPPERS = frozenset({"_orig_mod", "backbone", "encoder", "model", "module", "state_dict", "target_encoder"})
FINETUNED = ("fc_norm.weight", "fc_norm.bias")
CLASSIFIER = ("head.weight", "head.bias")


@dataclass(frozen=True, slots=True)
class Opened:
    """An encoder's tensors, in fp32, by plain names."""

    tensors: dict[str, Tensor]
    sizes: Sizes
    said: str
    """Where in the file it was, and what was left; "" where it was the file."""


def open_checkpoint(path: Path, config: VitConfig, layout: Layout) -> Opened:
    """The encoder `config` describes.

    Raises:
        MissingError: no such file, not a checkpoint, of another kind or size, or tensors missing, unknown, wrongly shaped.
    """
    found, beside, wrappers = _unwrapped(path, _flat(_read(path)), layout)
    sizes = account_for(found, config, layout, f"checkpoint {path}")
    kept = {name: values.float() for name, values in found.items() if name not in CLASSIFIER}
    left = sorted({*beside, *(["head"] if CLASSIFIER[0] in found else [])})
    said = ", ".join(
        part
        for part in (
            f"read from {wrappers}*" if wrappers else "",
            f"left: {', '.join(left)}" if left else "",
            _table_said(found.get("pos_embed"), sizes, config, path),
        )
        if part
    )
    return Opened(kept, sizes, f"checkpoint {path}: {said}" if said else "")


def _table_said(table: Tensor | None, sizes: Sizes, config: VitConfig, path: Path) -> str:
    """What is to be said of a table of positions: nothing where it is for the config's clips.

    Raises:
        MissingError: it is for no square picture.
    """
    if table is None:
        return ""
    tubelets = config.table_frames // sizes.tubelet
    side = math.isqrt(table.shape[1] // tubelets)
    if tubelets * side * side != table.shape[1]:
        raise MissingError(
            f"checkpoint {path}: positions of {table.shape[1]} tokens are none of {config.table_frames} frames of a square: name "
            "theirs with --set table_frames=N"
        )
    pixels = side * sizes.patch
    if (pixels, config.table_frames) == (config.picture.size, config.frames.window):
        return ""
    return (
        f"positions for {config.table_frames} frames of {pixels} pixels are interpolated to {config.frames.window} frames of "
        f"{config.picture.size}"
    )


def cut(config: VitConfig, layout: Layout, original: Path, target: Path) -> str:
    """Keep the encoder of `original` alone, as it is, in a safetensors file; what was read and left, in words.

    Raises:
        MissingError: as open_checkpoint.
    """
    found, beside, wrappers = _unwrapped(original, _flat(_read(original)), layout)
    account_for(found, config, layout, f"checkpoint {original}")
    # Tensors in order and nothing beside them: the same encoder gives the same bytes, whatever it was wrapped in.
    kept = {name: found[name].contiguous() for name in sorted(found)}
    with replacing_file(target) as partial:
        save_file(kept, partial, metadata={"format": "pt"})
    left = f", without {', '.join(sorted(beside))}" if beside else ""
    return f"{len(kept)} tensors of {wrappers or 'it'}{'*' if wrappers else ''}{left}"


def account_for(tensors: Mapping[str, Tensor], config: VitConfig, layout: Layout, where: str) -> Sizes:
    """The sizes of an encoder whose every tensor is one there should be, and none is missing.

    Raises:
        MissingError: not so; or another size, or kind, than the config's.
    """
    _refuse_other_stage(tensors, config, where)
    sizes = _sizes(tensors, where)
    if config.encoder is not None and sizes != config.encoder:
        raise MissingError(f"{where}: an encoder of {_words(sizes)}, expected {_words(config.encoder)}: another size")
    if sizes.width % config.num_heads:
        raise MissingError(
            f"{where}: num_heads {config.num_heads} does not divide its width {sizes.width}: name theirs"
        )
    table = tensors.get("pos_embed")
    expected = dict(wanted(sizes, config, layout, table.shape[1] if table is not None and table.ndim == 3 else 0))
    all_accounted_for(where, {name: tuple(values.shape) for name, values in tensors.items()}, expected, CLASSIFIER)
    return sizes


def _refuse_other_stage(tensors: Mapping[str, Tensor], config: VitConfig, where: str) -> None:
    tuned = [name for name in (*FINETUNED, *CLASSIFIER) if name in tensors]
    if config.stage == "pretrained" and tuned and "norm.weight" not in tensors:
        raise MissingError(
            f"{where}: a fine-tuned encoder: it has {', '.join(tuned)} and no norm.weight; expected a pre-trained one, which "
            "ends in norm.weight: fetch that, or take this one with --set stage=finetuned --set norm=fc_norm"
        )
    if config.stage == "finetuned" and "norm.weight" in tensors and not tuned:
        raise MissingError(
            f"{where}: a pre-trained encoder: it ends in norm.weight; expected a fine-tuned one, which has fc_norm.weight: "
            "fetch that, or take this one with --set stage=pretrained --set norm=encoder"
        )


def _sizes(tensors: Mapping[str, Tensor], where: str) -> Sizes:
    patches, hidden = tensors[PATCHES], tensors.get("blocks.0.mlp.fc1.weight")
    if patches.ndim != 5 or hidden is None or patches.shape[-1] != patches.shape[-2]:
        raise MissingError(f"{where}: {PATCHES} is {list(patches.shape)}: not the patches of a video transformer")
    numbers = [name.split(".")[1] for name in tensors if name.startswith("blocks.")]
    depth = 1 + max(int(number) for number in numbers if number.isdecimal())
    return Sizes(
        width=patches.shape[0], depth=depth, patch=patches.shape[-1], tubelet=patches.shape[2], mlp=hidden.shape[0]
    )


def _words(sizes: Sizes) -> str:
    return f"width {sizes.width}, {sizes.depth} blocks, patches of {sizes.patch}, tubelets of {sizes.tubelet}, mlp {sizes.mlp}"


def wanted(sizes: Sizes, config: VitConfig, layout: Layout, patches: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of an encoder and its shape; `patches` are those its table of positions is for."""
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


def _read(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: no such file")
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise MissingError(
                f"checkpoint {path}: not a whole safetensors file ({error}): fetch it again and compare its sha256"
            ) from error
    try:
        mapped = _is_zip(path)  # as torch has saved since 1.6; only what is used is then read
        # Training scripts leave their options in a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of a pickle protocol torch would not have chosen: it reads it or it does not
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # A whole archive of torch.save whose pickle is refused has something in it that is neither.
        if _is_zip(path) or "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise MissingError(
                f"checkpoint {path}: a pickle that holds more than tensors and plain values, which could run code: not "
                "read: fetch the owners' file, or save its tensors as .safetensors yourself"
            ) from error
        raise MissingError(f"checkpoint {path}: {_UNREADABLE}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise MissingError(f"checkpoint {path}: {_UNREADABLE}") from error
    if not isinstance(found, Mapping):
        raise MissingError(f"checkpoint {path}: holds a {type(found).__name__}, expected tensors by name")
    return found


_UNREADABLE = "neither safetensors nor a whole file of torch.save: fetch it again and compare its sha256"


def _is_safetensors(path: Path) -> bool:
    """By what it says, as a file may have come under any name."""
    with path.open("rb") as file:
        begin = file.read(9)
    return path.suffix == ".safetensors" or (len(begin) == 9 and begin[8:] == b"{" and begin[6:8] == b"\0\0")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _flat(found: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """Every tensor by the names on the way to it."""
    flat: dict[str, Tensor] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
    return flat


def _unwrapped(path: Path, flat: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], set[str], str]:
    """The encoder's tensors by plain names, what lies beside them, and what their names began with.

    Raises:
        MissingError: there is no encoder in it, or beside it something unknown.
    """
    places = [name.removesuffix(PATCHES) for name in flat if name.endswith(PATCHES)]
    places = [place for place in places if set(place.split(".")[:-1]) <= WRAPPERS]
    if not places:
        some = ", ".join(list(flat)[:3])
        raise MissingError(
            f"checkpoint {path}: no {PATCHES} in it"
            + (f", but {some}{', ...' if len(flat) > 3 else ''}" if some else " and no tensors at all")
            + ": not a video transformer's"
        )
    place = min(places, key=lambda p: (layout.preferred not in p.split("."), len(p)))
    own = {name.removeprefix(place): values for name, values in flat.items() if name.startswith(place)}
    beside = {_group(name) for name in flat if not name.startswith(place)}
    if not place:
        # Names are bare: what is known to lie beside an encoder does so among its own.
        beside = {name.split(".")[0] for name in own} & set(layout.known_beside)
        own = {name: values for name, values in own.items() if name.split(".")[0] not in beside}
    unknown = sorted(beside - set(layout.known_beside))
    if unknown:
        raise MissingError(
            f"checkpoint {path}: beside {place}* it holds {', '.join(unknown[:3])}, which is nothing known: this is not the "
            "checkpoint the config describes"
        )
    return own, beside, place


def _group(name: str) -> str:
    """What a tensor beside the encoder belongs to."""
    parts = name.split(".")
    inner = [part for part in parts[:-1] if part not in WRAPPERS - {"encoder", "target_encoder"}]
    return (inner or parts[-1:])[0]
