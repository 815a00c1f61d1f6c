"""Stable Video Diffusion as a frozen feature extractor (facts: the release's generate_svd_maps.py and sgm).

config.py       what a config says
names.py        where each tensor lies in the published checkpoint file
checkpoint.py   that file opened, every tensor accounted for
networks.py     what is asked of the networks, and which implementation computes
with_diffusers.py, with_sgm.py  the two implementations
schedule.py     noise levels
text_files.py, text.py  texts in place of the conditioning image: the files it takes, and their embeddings
pictures.py     frames to pixels, and to the image tower's input
model.py        one window of frames to features, no work thrown away
extractor.py    the same for a clip's windows, for one backbone or two that share a checkpoint
plain.py        one window as the release computes it, nothing left out
golden.py, compare.py  held against golden values; ways of computing held against each other
random_weights.py  a checkpoint in the published layout with weights drawn from a seed
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.backbones.comparison import Comparison, Deviation, Note, Skipped
from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone, Execution, Extractor
from repro.backbones.family import Family
from repro.backbones.svd.config import SvdConfig


def _open(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> list[Extractor]:
    """Backbones that differ in temporal mixing alone are computed together."""
    from repro.backbones.svd.extractor import SvdExtractor
    from repro.backbones.svd.networks import IMPLEMENTATIONS

    shared: dict[str, list[tuple[Backbone, Sequence[Cell]]]] = {}
    for backbone, cells in asks:
        config = backbone.config.model_dump(mode="json", exclude={"title", "version", "temporal_mixing"})
        shared.setdefault(repr((config, backbone.checkpoint_sha256)), []).append((backbone, cells))
    extractors: list[Extractor] = []
    for group in shared.values():
        first = group[0][0]
        assert first.checkpoint is not None
        extractors.append(
            SvdExtractor(
                {b.name: (b.config, cells) for b, cells in group if isinstance(b.config, SvdConfig)},
                first.checkpoint,
                next(name for name in IMPLEMENTATIONS if name == first.implementation),
                execution.device,
                execution.batch,
                first.beside,
            )
        )
    return extractors


def _against_golden(
    config: BackboneConfig, checkpoint: Path, folder: Path, device: str, batch: int | None
) -> Iterator[Deviation | Note]:
    from repro.backbones.svd.golden import against_golden

    assert isinstance(config, SvdConfig)
    return against_golden(config, checkpoint, folder, device, batch)


def _comparisons(
    config: BackboneConfig, checkpoint: Path, device: str, limit: float, batch: int | None
) -> Iterator[Comparison | Skipped | Note]:
    from repro.backbones.svd.compare import comparisons

    assert isinstance(config, SvdConfig)
    return comparisons(config, checkpoint, device, limit, batch)


def _draw(config: BackboneConfig, path: Path, seed: int) -> None:
    from repro.backbones.svd import random_weights

    assert isinstance(config, SvdConfig)
    random_weights.write(path, config.architecture, seed)


FAMILY = Family(SvdConfig, _open, _against_golden, _comparisons, draw=_draw)
