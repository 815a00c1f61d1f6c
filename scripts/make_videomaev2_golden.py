"""Write the golden values of VideoMAEv2's recipe with the author's fork: `python scripts/make_videomaev2_golden.py FORK`.

FORK is a checkout of github.com/frankyaoxiao/VideoMAEv2 at 093e977. Its extract_feature() runs unchanged on a CPU, on clips
that tests/builders/fork_clips.py computes and on small random weights. Needs timm, torchvision, opencv-python-headless and
decord besides this project. tests/backbones/vit/videomaev2_fork.md says with which versions the shipped values were made.
"""

import argparse
import importlib
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from repro.backbones import torchvision_operators  # noqa: F401  # before the fork imports torchvision
from repro.backbones.vit.checkpoint import expected_tensors
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.family import Videomaev2Family
from repro.core.files import replacing_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from builders import fork_clips

SEED = 21
COMMIT = "093e977"


class ComputedVideo:
    """What the fork needs of a decord.VideoReader, for a clip that is computed."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def get_batch(self, indices: np.ndarray) -> Any:
        return SimpleNamespace(asnumpy=lambda: self.frames[indices])


def draw_weights() -> dict[str, np.ndarray]:
    """Draw the encoder's weights, rounded to fp16 so that the file is small and exact."""
    generator = np.random.default_rng(SEED)
    config = VitConfig.model_construct(name="videomaev2", stage="pretrained", encoder=fork_clips.SIZES)
    weights = {}
    for name, shape in sorted(expected_tensors(fork_clips.SIZES, config, Videomaev2Family.layout, 0)):
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        # Norms' weights are around 1, biases around 0; matrices keep the size of what passes through them.
        values = generator.standard_normal(shape) * (fan_in**-0.5 if fan_in else 0.2)
        if "norm" in name and name.endswith("weight"):
            values += 1
        weights[name] = values.astype(np.float16)
    return weights


def run_fork(fork: Path, weights: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """Run the fork's extract_feature() with a small encoder; returns its features `[windows, C]` by clip."""
    sys.path.insert(0, str(fork))
    script = importlib.import_module("extract_tad_feature")
    modeling = importlib.import_module("models.modeling_pretrain")
    sizes = fork_clips.SIZES

    def create_small_model(name: str, pretrained: bool, **settings: Any) -> nn.Module:
        # The giant model's settings, but for its sizes; the decoder is never run.
        model: nn.Module = modeling.PretrainVisionTransformer(
            img_size=224,
            patch_size=sizes.patch,
            encoder_embed_dim=sizes.width,
            encoder_depth=sizes.depth,
            encoder_num_heads=fork_clips.NUM_HEADS,
            decoder_embed_dim=8,
            decoder_depth=1,
            decoder_num_heads=2,
            decoder_num_classes=3 * sizes.tubelet * sizes.patch**2,
            mlp_ratio=sizes.mlp / sizes.width,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **settings,
        )
        return model

    clips = {fork_clips.name_clip(*clip): fork_clips.draw_clip(*clip) for clip in fork_clips.CLIPS}
    patched: Any = script
    patched.create_model = create_small_model
    patched.get_video_loader = lambda: lambda path: ComputedVideo(clips[Path(path).stem])
    # The fork computes on a GPU; a CPU's fp32 is what the tests compare with.
    stay: Any = lambda self, *args, **kwargs: self  # noqa: E731
    nn.Module.cuda = torch.Tensor.cuda = stay  # type: ignore[method-assign]
    videos, features, checkpoint = folder / "videos", folder / "features", folder / "small.pth"
    videos.mkdir()
    for name in clips:
        (videos / f"{name}.mp4").touch()
    encoder = {f"encoder.{name}": torch.from_numpy(values).float() for name, values in weights.items()}
    torch.save({"model": encoder}, checkpoint)
    for part in range(8):  # the fork takes an eighth of the videos at a time
        script.extract_feature(
            SimpleNamespace(
                data_set="ANIMALKINGDOM",
                data_path=str(videos),
                save_path=str(features),
                ckpt_path=str(checkpoint),
                slice_id=part,
            )
        )
    found = {name: np.load(features / f"{name}_mean.npy") for name in clips}
    for name, values in found.items():
        # The fork writes zeros, 1408 wide, for what fails.
        if values.shape[1:] != (sizes.width,) or not values.any(axis=1).all():
            sys.exit(f"{name}: the fork failed: its features are {values.shape}, some of them zeros")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fork", type=Path, help=f"checkout of the author's fork at {COMMIT}")
    fork = parser.parse_args().fork.resolve()
    weights = draw_weights()
    with tempfile.TemporaryDirectory() as folder:
        features = run_fork(fork, weights, Path(folder))
    values = {f"weights/{name}": array for name, array in weights.items()}
    values |= {f"features/{name}": array for name, array in features.items()}
    with replacing_file(fork_clips.GOLDEN) as partial_file:
        save_file(values, partial_file, metadata={"fork": f"github.com/frankyaoxiao/VideoMAEv2 at {COMMIT}"})
    print(f"wrote {fork_clips.GOLDEN}: {len(features)} clips, {sum(map(len, features.values()))} windows")


if __name__ == "__main__":
    main()
