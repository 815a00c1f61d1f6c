"""VideoMAEv2 (OpenGVLab/VideoMAEv2, arXiv 2303.16727) through transformers' VideoMAE, which holds its weights exactly."""

from typing import Literal

from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.families import Layout, family


class Videomaev2Config(VitConfig):
    family: Literal["videomaev2"]


LAYOUT = Layout(
    preferred="encoder",
    # Of a pre-training checkpoint, what rebuilds pixels; of a training's, what it goes on with.
    known_beside=("decoder", "encoder_to_decoder", "mask_token", "optimizer", "scaler"),
    attention=("qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"),
    table=False,
)


FAMILY = family(Videomaev2Config, LAYOUT, "repro.backbones.vit.videomaev2")
