"""Choosing and loading an implementation of Stable Video Diffusion's networks."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from repro.backbones.config import OtherInputs
from repro.backbones.svd import text_files
from repro.backbones.svd.config import SvdArchitecture
from repro.backbones.svd.networks import Implementation, Needs, Networks
from repro.backbones.svd.text import embed_texts
from repro.backbones.svd.with_diffusers import DiffusersNetworks
from repro.core import LazyModule
from repro.core.errors import MissingError, state_reason

if TYPE_CHECKING:
    from repro.backbones.svd import with_sgm
else:
    # It imports sgm, which may be missing or broken.
    with_sgm = LazyModule("repro.backbones.svd.with_sgm")

IMPLEMENTATIONS: tuple[Implementation, ...] = ("sgm", "diffusers")


@cache
def explain_missing_sgm() -> str:
    """Return why sgm, or what the networks need of it, cannot be imported, in one line; an empty string if it can."""
    try:
        with _silence_sgm():
            import_module("sgm")
            import_module("repro.backbones.svd.with_sgm")
    except Exception as error:  # a broken installation may raise anything
        return f"sgm cannot be imported ({type(error).__name__}: {state_reason(error, 160)})"
    return ""


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
    if implementation == "sgm":
        with _silence_sgm():
            return with_sgm.SgmNetworks(path, architecture, needs)
    networks = DiffusersNetworks(architecture, needs)
    networks.fill(path)
    return networks


def load_text_embeddings(inputs: OtherInputs) -> Float[Tensor, "N D"]:
    """Compute the embeddings of the texts that `inputs` names (svd/text_files.py)."""
    texts: Sequence[str] = inputs.identity["text"]["texts"]
    tower = text_files.load_text_encoder().tower
    return embed_texts(tower, inputs.files["weights"], inputs.files["merges"], texts)


@contextlib.contextmanager
def _silence_sgm() -> Iterator[None]:
    """Silence sgm, which prints and logs while it is imported and while it builds, and warns of optional packages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
