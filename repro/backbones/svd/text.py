"""OpenCLIP's text embeddings, which can replace the image embedding (the release's generate_svd_maps.py with
--conditioning actions or empty_str, and sgm's FrozenOpenCLIPEmbedder2; docs/deviations.md 29).

Modules are transformers', filled from an OpenCLIP file; texts are tokenised as OpenCLIP does.
"""

import repro.backbones.torchvision_operators  # noqa: F401  # before transformers, which imports torchvision

# isort: split
import gzip
import html
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from repro.backbones.svd.checkpoint import BLOCK_OF_TOWER, TensorSource
from repro.backbones.svd.text_files import TextTower
from repro.core.errors import MissingError, UsageError
from repro.core.reading import open_regular

MOST_MERGES = 1 << 26
"""Bytes of the merges that are read, unpacked. CLIP's file has 3 MB."""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@torch.inference_mode()
def embed_texts(tower: TextTower, weights: Path, merges: Path, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Compute one vector per text: the normed last layer at the end token, projected, and not scaled to unit length.

    In fp32 on the CPU, so that they are the same on every machine.

    Args:
        tower: the text tower's sizes.
        weights: an OpenCLIP model, as safetensors or as a pickle.
        merges: the gzipped merges of its byte pair encoding.
        texts: the texts, N of them.

    Raises:
        MissingError: a file is not what `tower` describes.
        UsageError: a text has more tokens than the tower takes.
    """
    tokenizer = load_tokenizer(merges, tower.vocabulary)
    model = _load_model(tower, weights)
    found = []
    for text in texts:
        ids = tokenizer(clean_text(text))["input_ids"]
        if len(ids) > tower.context:
            raise UsageError(f"text '{text[:60]}': {len(ids)} tokens, expected at most {tower.context}")
        # Attention is causal and only the end token is read, so OpenCLIP's padding after it changes nothing and is left out.
        found.append(model(input_ids=torch.tensor([ids])).text_embeds[0])
    return torch.stack(found)


def clean_text(text: str) -> str:
    """Normalise a text as OpenCLIP does, except for its repair of wrongly decoded characters: no class name has any."""
    # Twice: web texts were often escaped twice ("&amp;amp;").
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()


def load_tokenizer(path: Path, vocabulary: int) -> CLIPTokenizer:
    """Load the tokenizer. Ids, in order: bytes, bytes that end a word, merges as in the file, start and end of text."""
    # 256 bytes, 256 bytes that end a word, and two marks are no merges. Line 0 of the file is a version header; the file
    # has more merges than CLIP uses.
    count = vocabulary - 2 * 256 - 2
    try:
        with open(path, "rb", opener=open_regular) as packed, gzip.GzipFile(fileobj=packed) as file:
            lines = file.read(MOST_MERGES).decode("utf-8").split("\n")[1 : count + 1]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise MissingError(f"{path}: not the gzipped merges of a tokenizer ({error}): fetch it again") from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != count or any(len(pair) != 2 for pair in merges):
        raise MissingError(f"{path}: not {count} merges of two parts each: fetch it again")
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    # As in GPT-2: bytes that are no visible character are represented by the characters from 256 on.
    letters = [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]
    # The order is the vocabulary: a token's id is its place in this list.
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)


def _load_model(tower: TextTower, path: Path) -> CLIPTextModelWithProjection:
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=tower.vocabulary,
                hidden_size=tower.width,
                intermediate_size=4 * tower.width,
                projection_dim=tower.embed_dim,
                num_hidden_layers=tower.layers,
                num_attention_heads=tower.heads,
                max_position_embeddings=tower.context,
                hidden_act="gelu",  # the exact one, as in open_clip's ViT-H/14
                layer_norm_eps=1e-5,
                # transformers reads the output at the end token, which it finds by this id.
                bos_token_id=tower.vocabulary - 2,
                eos_token_id=tower.vocabulary - 1,
            )
        )
    model.eval()
    tensors = _open_weights(path)
    state = {}
    for name, target in model.state_dict().items():
        origin = text_source(name)
        expected = origin.shape_in_file(tuple(target.shape))
        tensor = tensors(origin.name)
        if tensor is None or tuple(tensor.shape) != expected:
            found = "is missing" if tensor is None else f"is {list(tensor.shape)}, expected {list(expected)}"
            raise MissingError(f"{path}: tensor '{origin.name}' {found}: not the text tower that the config describes")
        state[name] = origin.convert(tensor.float())
    model.load_state_dict(state, strict=True, assign=True)
    # transformers computes this buffer when it builds the module, which on the meta device leaves it without values.
    model.text_model.embeddings.position_ids = torch.arange(tower.context)[None]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _open_weights(path: Path) -> Any:
    """Open a file of weights. Returns a function from a tensor's name to the tensor, or to None if there is none."""
    try:
        file = safe_open(path, framework="pt")
        names = set(file.keys())  # type: ignore[no-untyped-call]
        return lambda name: file.get_tensor(name) if name in names else None  # type: ignore[no-untyped-call]
    except SafetensorError:
        pass
    # weights_only: a pickle that would run code is refused. mmap: only the text tower's tensors are read from the disk.
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True).get
    except Exception as error:  # a damaged pickle may raise anything
        raise MissingError(
            f"{path}: neither safetensors nor a pickle of tensors ({type(error).__name__}): fetch it again"
        ) from error


_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def text_source(name: str) -> TensorSource:
    """Return the source of a tensor of CLIPTextModelWithProjection in an OpenCLIP file."""
    if name == "text_projection.weight":
        return TensorSource("text_projection", transposed=True)
    if name in _ENDS:
        return TensorSource(_ENDS[name])
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    block, layer, leaf = f"transformer.resblocks.{match[1]}.", match[2], match[3]
    stacked = re.fullmatch(r"self_attn\.([qkv])_proj", layer)
    if stacked:
        return TensorSource(f"{block}attn.in_proj_{leaf}", third="qkv".index(stacked[1]))
    return TensorSource(f"{block}{BLOCK_OF_TOWER[layer]}.{leaf}")
