"""The families vjepa and videomaev2. Imports no torch until networks are used."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from repro.backbones.extractor import Execution, Extractor, Requests
from repro.backbones.family import Comparison, Deviation, Family, Note, Skipped
from repro.backbones.vit.config import Layout, Videomaev2Config, VitConfig, VjepaConfig
from repro.core import LazyModule

if TYPE_CHECKING:
    from repro.backbones.vit import checkpoint as checkpoint_file
    from repro.backbones.vit import extractor, verify, videomaev2, vjepa
    from repro.backbones.vit.encoder import BuildEncoder
else:
    checkpoint_file = LazyModule("repro.backbones.vit.checkpoint")
    extractor = LazyModule("repro.backbones.vit.extractor")
    verify = LazyModule("repro.backbones.vit.verify")
    videomaev2 = LazyModule("repro.backbones.vit.videomaev2")
    vjepa = LazyModule("repro.backbones.vit.vjepa")

VitConfigT = TypeVar("VitConfigT", bound=VitConfig)


class VitFamily(Family[VitConfigT]):
    """What both families share: everything but the layout of the publisher's file and the encoder's modules."""

    verifiable = True
    weights_depend_on = frozenset({"family", "encoder", "table_frames", "picture"})
    layout: ClassVar[Layout]

    @abstractmethod
    def encoder_builder(self) -> "BuildEncoder":
        """Return the encoder's class, which imports its modules."""

    def open_extractors(self, requests: Requests[VitConfigT], execution: Execution) -> list[Extractor]:
        build = self.encoder_builder()
        return [
            extractor.open_extractor(backbone, cells, self.layout, build, execution) for backbone, cells in requests
        ]

    def verify_against_golden(
        self, config: VitConfigT, checkpoint: Path, folder: Path, execution: Execution
    ) -> Iterator[Deviation | Note]:
        return verify.verify_against_golden(
            config, self.layout, self.encoder_builder(), checkpoint, folder, execution.device
        )

    def compare_ways(
        self, config: VitConfigT, checkpoint: Path, execution: Execution, limit: float, video: Path | None = None
    ) -> Iterator[Comparison | Skipped | Note]:
        windows = verify.read_windows(config, video)
        return verify.compare_ways(config, self.layout, self.encoder_builder(), checkpoint, execution, limit, windows)

    def cut_encoder(self, config: VitConfigT, original: Path, target: Path) -> str:
        return checkpoint_file.cut_encoder(config, self.layout, original, target)

    def write_random_weights(self, config: VitConfigT, path: Path, seed: int) -> None:
        checkpoint_file.write_random_encoder(path, config, self.layout, seed)


class VjepaFamily(VitFamily[VjepaConfig]):
    """V-JEPA (facebookresearch/jepa, arXiv 2404.08471): the target encoder, in a small model file of our own.

    No library can load these weights: transformers' V-JEPA 2 has rotary positions, V-JEPA a table of them.
    """

    config_class = VjepaConfig
    layout = Layout(
        # A training checkpoint has `encoder` and its exponential moving average, which the publisher's evaluations read.
        preferred="target_encoder",
        known_others=("encoder", "target_encoder", "predictor", "opt", "scaler"),
        attention=("qkv.weight", "qkv.bias", "proj.weight", "proj.bias"),
        table=True,
    )

    def encoder_builder(self) -> "BuildEncoder":
        return cast("BuildEncoder", vjepa.VjepaEncoder)  # torch's types hide that its modules fit the protocol


class Videomaev2Family(VitFamily[Videomaev2Config]):
    """VideoMAEv2 (OpenGVLab/VideoMAEv2, arXiv 2303.16727) in transformers' VideoMAE modules, which its weights fit exactly."""

    config_class = Videomaev2Config
    layout = Layout(
        preferred="encoder",
        # A pre-training checkpoint also has what reconstructs pixels; a training checkpoint what it resumes with.
        known_others=("decoder", "encoder_to_decoder", "mask_token", "optimizer", "scaler"),
        # Keys have no bias: it would add the same number to all of a query's scores, which softmax ignores.
        attention=("qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"),
        table=False,
    )

    def encoder_builder(self) -> "BuildEncoder":
        return videomaev2.Videomaev2Encoder
