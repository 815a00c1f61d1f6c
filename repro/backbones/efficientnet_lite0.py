"""EfficientNet-Lite0 (Tan and Le 2019) frame by frame: an image network with ImageNet weights from a Python package."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Axes, BackboneConfig, Cell, Checkpoint
from repro.backbones.extractor import Backbone, Execution, Noise, Requests, Stream
from repro.backbones.family import Family
from repro.core import LazyModule

torch, efficientnet = LazyModule("torch"), LazyModule("efficientnet_lite_pytorch")
precision = LazyModule("repro.backbones.precision")


class EfficientNetLite0Config(BackboneConfig):
    family: Literal["efficientnet_lite0"]
    checkpoint: Checkpoint

    def axes(self) -> Axes:
        return Axes(final=True, usual=Cell(layer="final"))

    def channels(self, cell: Cell) -> int:
        return 1280


class EfficientNetLite0:
    at_once, batch, noise_seed = 1, "1 window", 0

    def __init__(self, backbone: Backbone, device: str) -> None:
        self.backbones, self.frames, self.device = (backbone.name,), backbone.config.frames, device
        self.network = efficientnet.EfficientNet.from_name("efficientnet-lite0").eval().to(device)
        self.network.load_state_dict(torch.load(str(backbone.checkpoint), map_location=device, weights_only=True))

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        # The network was trained on pixels in [-1, 1].
        frames = torch.from_numpy(np.concatenate(windows)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode(), precision.fp32_products("fp32"):
            resized = torch.nn.functional.interpolate(frames, size=(224, 224), mode="bilinear", antialias=True)
            means = self.network.extract_features(resized).mean(dim=(2, 3))
        return {self.backbones[0]: {"final": means.cpu().numpy()}}


class EfficientNetLite0Family(Family[EfficientNetLite0Config]):
    config_class = EfficientNetLite0Config

    def open_extractors(self, requests: Requests, execution: Execution) -> list[EfficientNetLite0]:
        return [EfficientNetLite0(backbone, execution.device) for backbone, _ in requests]
