"""V-JEPA (facebookresearch/jepa, arXiv 2404.08471): the target encoder, in one small model file of our own.

No well-kept library holds these weights: transformers' V-JEPA 2 has rotary positions, V-JEPA a table of them.
"""

from typing import Literal

from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.families import Layout, family


class VjepaConfig(VitConfig):
    family: Literal["vjepa"]
    stage: Literal["pretrained"] = "pretrained"


LAYOUT = Layout(
    # Of a training checkpoint: the exponential mean of `encoder`, and the one the owners' evaluations read.
    preferred="target_encoder",
    known_beside=("encoder", "target_encoder", "predictor", "opt", "scaler"),
    attention=("qkv.weight", "qkv.bias", "proj.weight", "proj.bias"),
    table=True,
)


FAMILY = family(VjepaConfig, LAYOUT, "repro.backbones.vit.vjepa")
