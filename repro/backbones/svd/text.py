"""OpenCLIP's text embeddings, which may stand where the image embedding does (the release's generate_svd_maps.py with
--conditioning actions or empty_str, and sgm's FrozenOpenCLIPEmbedder2; docs/deviations.md 29).

Modules are transformers', filled from an OpenCLIP file; texts are cut into tokens as OpenCLIP does.
"""

import gzip
import html
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from repro.backbones.svd import torchvision_beside_cpu_torch

torchvision_beside_cpu_torch.declare()  # before the first of the imports that it is for

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from repro.backbones.svd.tensor_names import BLOCK_OF_TOWER, Source
from repro.backbones.svd.text_files import TextTower
from repro.core.errors import MissingError, UsageError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@torch.inference_mode()
def text_embeddings(tower: TextTower, weights: Path, merges: Path, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """One vector a text: the last layer, normed, at the text's end, through the projection; not of unit length. In fp32 on
    the CPU, so that every machine has the same.

    Raises:
        MissingError: a file is not what `tower` describes.
        UsageError: a text of more tokens than the tower takes.
    """
    tokenizer = _tokenizer(merges, tower.vocabulary)
    model = _model(tower, weights)
    found = []
    for text in texts:
        ids = tokenizer(_cleaned(text))["input_ids"]
        if len(ids) > tower.context:
            raise UsageError(f"text '{text[:60]}': {len(ids)} tokens, the text tower takes {tower.context} at most")
        # Attention looks back alone and the end is what is read: what OpenCLIP pads with behind it counts for nothing.
        found.append(model(input_ids=torch.tensor([ids])).text_embeds[0])
    return torch.stack(found)


def _cleaned(text: str) -> str:
    """As OpenCLIP, which also mends wrongly decoded characters (ftfy): no class name has any."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()


def _tokenizer(path: Path, vocabulary: int) -> CLIPTokenizer:
    """Ids: every byte, every byte as a word's end, every merge in the file's order, begin and end of a text."""
    count = vocabulary - 2 * 256 - 2
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : count + 1]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise MissingError(f"{path}: not the gzipped merges of a tokenizer ({error}): fetch it again") from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != count or any(len(pair) != 2 for pair in merges):
        raise MissingError(f"{path}: not {count} merges of two parts each: fetch it again")
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    # Bytes that are no visible character of their own stand for the first ones behind Latin-1.
    letters = [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)  # type: ignore[arg-type]


def _model(tower: TextTower, path: Path) -> CLIPTextModelWithProjection:
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
                hidden_act="gelu",
                layer_norm_eps=1e-5,
                bos_token_id=tower.vocabulary - 2,
                eos_token_id=tower.vocabulary - 1,
            )
        )
    model.eval()  # type: ignore[no-untyped-call]
    tensors = _opened(path)
    state = {}
    for name, target in model.state_dict().items():
        origin = text_source(name)
        expected = origin.shape_in_file(tuple(target.shape))
        tensor = tensors(origin.name)
        if tensor is None or tuple(tensor.shape) != expected:
            found = "is not there" if tensor is None else f"is {list(tensor.shape)}, expected {list(expected)}"
            raise MissingError(f"{path}: tensor '{origin.name}' {found}: not the text tower the config describes")
        state[name] = origin.taken_from(tensor.float())
    model.load_state_dict(state, strict=True, assign=True)
    # transformers computes this table when the module is made; on the meta device it stayed empty.
    model.text_model.embeddings.position_ids = torch.arange(tower.context)[None]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _opened(path: Path) -> Any:
    """What gives a tensor of the file by its name, None where there is none of it."""
    try:
        file = safe_open(path, framework="pt")
        names = set(file.keys())  # type: ignore[no-untyped-call]
        return lambda name: file.get_tensor(name) if name in names else None  # type: ignore[no-untyped-call]
    except SafetensorError:
        pass
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


def text_source(name: str) -> Source:
    """Source of a tensor of CLIPTextModelWithProjection in an OpenCLIP file."""
    if name == "text_projection.weight":
        return Source("text_projection", transposed=True)
    if name in _ENDS:
        return Source(_ENDS[name])
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    block, layer, leaf = f"transformer.resblocks.{match[1]}.", match[2], match[3]
    stacked = re.fullmatch(r"self_attn\.([qkv])_proj", layer)
    if stacked:
        return Source(f"{block}attn.in_proj_{leaf}", third="qkv".index(stacked[1]))
    return Source(f"{block}{BLOCK_OF_TOWER[layer]}.{leaf}")
