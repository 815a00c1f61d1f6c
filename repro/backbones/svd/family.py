"""Stable Video Diffusion as a family of backbones. Imports no torch: networks are imported by the methods that need them."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from repro.backbones.comparison import Comparison, Deviation, Note, Skipped
from repro.backbones.extractor import Execution, Extractor, Requests
from repro.backbones.family import Family
from repro.backbones.svd.config import SvdConfig


class SvdFamily(Family[SvdConfig]):
    config_class = SvdConfig
    verifiable = True
    weights_depend_on = frozenset({"family", "architecture"})

    def open_extractors(self, requests: Requests[SvdConfig], execution: Execution) -> list[Extractor]:
        """Backbones that differ in temporal mixing alone are computed together."""
        from repro.backbones.svd.extractor import SvdExtractor

        groups: dict[str, Requests[SvdConfig]] = {}
        for backbone, cells in requests:
            config = backbone.config.model_dump(mode="json", exclude={"title", "version", "temporal_mixing"})
            key = repr((config, backbone.checkpoint_sha256))
            groups[key] = [*groups.get(key, ()), (backbone, cells)]
        return [SvdExtractor(group, execution.device, execution.batch) for group in groups.values()]

    def resolve_implementation(self, config: SvdConfig) -> str:
        # The environment's sgm may be broken, so it is imported to see; `diffusers` needs no look.
        if config.implementation == "diffusers":
            return "diffusers"
        from repro.backbones.svd import implementations

        return implementations.resolve_implementation(config.implementation)

    def likely_implementation(self, config: SvdConfig) -> str:
        if config.implementation == "auto":
            return "sgm" if find_spec("sgm") else "diffusers"
        return config.implementation

    def verify_against_golden(
        self, config: SvdConfig, checkpoint: Path, folder: Path, execution: Execution
    ) -> Iterator[Deviation | Note]:
        from repro.backbones.svd.verify import verify_against_golden

        return verify_against_golden(config, checkpoint, folder, execution)

    def compare_ways(
        self, config: SvdConfig, checkpoint: Path, execution: Execution, limit: float
    ) -> Iterator[Comparison | Skipped | Note]:
        from repro.backbones.svd.verify import compare_ways

        return compare_ways(config, checkpoint, execution, limit)

    def write_random_weights(self, config: SvdConfig, path: Path, seed: int) -> None:
        from repro.backbones.svd.checkpoint import write_random_checkpoint
        from repro.backbones.svd.implementations import published_shapes

        write_random_checkpoint(path, published_shapes(config.architecture), seed)
