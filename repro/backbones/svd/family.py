"""Stable Video Diffusion as a family of backbones. Imports no torch until networks are used."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from repro.backbones.extractor import Execution, Extractor, Requests
from repro.backbones.family import Comparison, Deviation, Family, Note, Skipped
from repro.backbones.svd.config import SvdConfig
from repro.core import LazyModule

if TYPE_CHECKING:
    from repro.backbones.svd import checkpoint as checkpoint_file
    from repro.backbones.svd import extractor, implementations, verify, with_diffusers
else:
    checkpoint_file = LazyModule("repro.backbones.svd.checkpoint")
    extractor = LazyModule("repro.backbones.svd.extractor")
    implementations = LazyModule("repro.backbones.svd.implementations")
    verify = LazyModule("repro.backbones.svd.verify")
    with_diffusers = LazyModule("repro.backbones.svd.with_diffusers")


class SvdFamily(Family[SvdConfig]):
    config_class = SvdConfig
    verifiable = True
    weights_depend_on = frozenset({"family", "architecture"})

    def open_extractors(self, requests: Requests[SvdConfig], execution: Execution) -> list[Extractor]:
        groups: dict[tuple[str, str | None], Requests[SvdConfig]] = {}
        for backbone, cells in requests:
            key = (self.sharing_key(backbone.config), backbone.checkpoint_sha256)
            groups[key] = [*groups.get(key, ()), (backbone, cells)]
        return [extractor.open_extractor(group, execution) for group in groups.values()]

    def sharing_key(self, config: SvdConfig) -> str:
        """Backbones that differ in temporal mixing alone are computed together."""
        # These keys change neither the weights nor the UNet's inputs, so backbones that differ in them share both.
        return repr(config.model_dump(mode="json", exclude={"title", "version", "temporal_mixing"}))

    def resolve_implementation(self, config: SvdConfig) -> str:
        likely = self.likely_implementation(config)
        # An installed sgm may be broken, so it is imported to see. Importing diffusers for its name would take seconds.
        return implementations.resolve_implementation(config.implementation) if likely == "sgm" else likely

    def likely_implementation(self, config: SvdConfig) -> str:
        if config.implementation == "auto":
            return "sgm" if find_spec("sgm") else "diffusers"
        return config.implementation

    def verify_against_golden(
        self, config: SvdConfig, checkpoint: Path, folder: Path, execution: Execution
    ) -> Iterator[Deviation | Note]:
        return verify.verify_against_golden(config, checkpoint, folder, execution)

    def compare_ways(
        self, config: SvdConfig, checkpoint: Path, execution: Execution, limit: float, video: Path | None = None
    ) -> Iterator[Comparison | Skipped | Note]:
        return verify.compare_ways(config, checkpoint, execution, limit, video)

    def write_random_weights(self, config: SvdConfig, path: Path, seed: int) -> None:
        shapes = with_diffusers.published_shapes(config.architecture)
        checkpoint_file.write_random_checkpoint(path, shapes, seed)
