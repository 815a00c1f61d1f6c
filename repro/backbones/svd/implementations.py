"""Choosing and loading an implementation of Stable Video Diffusion's networks.

with_diffusers.py, with_sgm.py and text.py import diffusers, open_clip and transformers, and these import torchvision if it
is installed. They are therefore imported here, after `declare_torchvision_operators`, and by no other module of the package.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repro.backbones.config import OtherInputs
from repro.backbones.svd import text_files
from repro.backbones.svd.architecture import SvdArchitecture
from repro.backbones.svd.networks import Implementation, Needs, Networks
from repro.backbones.weights import Shapes
from repro.core.errors import MissingError

IMPLEMENTATIONS: tuple[Implementation, ...] = ("sgm", "diffusers")

_DECLARED: list[torch.library.Library] = []
"""Keeps the declarations alive: they last as long as these objects."""


def explain_missing_sgm() -> str:
    """Return why sgm cannot be imported, in one line; an empty string if it can."""
    declare_torchvision_operators()
    from repro.backbones.svd import with_sgm

    return with_sgm.explain_import_error()


def resolve_implementation(requested: Literal["auto", "sgm", "diffusers"]) -> Implementation:
    """Return the implementation that computes on this machine if a config says `requested`.

    Raises:
        MissingError: sgm is requested and cannot be imported.
    """
    if requested == "diffusers":
        return "diffusers"
    problem = explain_missing_sgm()
    if not problem:
        return "sgm"
    if requested == "sgm":
        raise MissingError(f"implementation sgm: {problem}: install it as docs/image.md says, or use diffusers")
    return "diffusers"


def load_networks(implementation: Implementation, path: Path, architecture: SvdArchitecture, needs: Needs) -> Networks:
    """Load the parts that `needs` names, on the CPU, from a checkpoint in the published layout.

    Raises:
        MissingError: the file is not a checkpoint of `architecture`.
    """
    declare_torchvision_operators()
    if implementation == "sgm":
        from repro.backbones.svd.with_sgm import SgmNetworks

        return SgmNetworks(path, architecture, needs)
    from repro.backbones.svd.with_diffusers import DiffusersNetworks

    networks = DiffusersNetworks(architecture, needs)
    networks.fill(path)
    return networks


def published_shapes(architecture: SvdArchitecture) -> Shapes:
    """Return name and shape of every tensor of the published file that features could depend on."""
    declare_torchvision_operators()
    from repro.backbones.svd.with_diffusers import published_shapes

    return published_shapes(architecture)


def load_text_embeddings(inputs: OtherInputs) -> Float[Tensor, "N D"]:
    """Compute the embeddings of the texts that `inputs` names (svd/text_files.py)."""
    declare_torchvision_operators()
    from repro.backbones.svd.text import embed_texts

    texts: Sequence[str] = inputs.identity["text"]["texts"]
    tower = text_files.load_text_encoder().tower
    return embed_texts(tower, inputs.files["weights"], inputs.files["merges"], texts)


def declare_torchvision_operators() -> None:
    """Let torchvision be imported if it was built for CUDA and torch for the CPU.

    Alongside a CPU torch the operators of a CUDA torchvision do not load, and its import ends at the first of them. None of
    the networks calls any, so declaring them is enough. Does nothing if torchvision is not installed, or loads.
    """
    if _DECLARED or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # Forget the half-imported modules, so that the next import starts anew.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _DECLARED.append(library)
