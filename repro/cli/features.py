"""`repro features`: stored features to a file that others can read, and from such a file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from repro.backbones.config import choose_cells
from repro.backbones.registry import DEFAULT_BACKBONE, load_backbone
from repro.cli.options import (
    BACKBONE,
    COMMON,
    BackboneName,
    BackboneOptions,
    CommonOptions,
    DatasetName,
    LayersOption,
    PrecisionOption,
    TimestepsOption,
    parse_layers,
    parse_numbers,
    require_output,
)
from repro.core import LazyModule
from repro.core.console import Reporter, print_sentence
from repro.core.errors import Exit, UsageError
from repro.datasets.own import find_split

# Takes a while to import, and help needs none of it.
if TYPE_CHECKING:
    from repro.pipeline.sharing import share
else:
    share = LazyModule("repro.pipeline.sharing.share")

features = App(
    name="features",
    help="Write stored features to a file to share, or read such a file.\n\n"
    "Example: `repro features export hmdb51 hmdb51.safetensors`",
)


@features.command(name="export")
def features_export(
    dataset: DatasetName,
    file: Path,
    /,
    *,
    backbone: BackboneName = DEFAULT_BACKBONE,
    timesteps: TimestepsOption = None,
    layers: LayersOption = None,
    precision: PrecisionOption = (),
    config: BackboneOptions = BACKBONE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Write a data set's stored features and labels, without videos, to a safetensors and a parquet file with a card.

    The card states data set, checkpoint, precision, key, licence of the data and how to cite. Whether the licence lets you
    share them is yours to check.

    Example: `repro features export hmdb51 hmdb51.safetensors --backbone svd_xt`

    Args:
        dataset: A data set, a split of one (ucf101/train), or the YAML file of own clips.
        file: The safetensors file to write; NAME.parquet and NAME.md are written next to it.
        backbone: A name from configs/backbones.
    """
    settings = load_backbone(backbone, config.changes(), *precision)
    if timesteps and settings.axes().timesteps is None:
        raise UsageError(f"--timesteps: {backbone} has no timesteps")
    require_output("FILE", file)
    cells = choose_cells(settings, parse_numbers("--timesteps", timesteps), parse_layers(layers))
    card = share.export_features(*find_split(dataset), settings, cells, file, common.open_workspace())
    if common.as_json:
        print(json.dumps(card.model_dump(mode="json"), indent=1))
        return Exit.OK
    size = (file.stat().st_size + file.with_suffix(".parquet").stat().st_size) / 1e6
    print_sentence(
        f"{file}: {card.clips} clips of {card.source}, {', '.join(card.cells)} of {card.backbone}, {size:.1f} MB"
    )
    print_sentence(f"licence of the data: {card.licence}: share the files only where it allows")
    return Exit.OK


@features.command(name="import")
def features_import(file: Path, /, *, common: CommonOptions = COMMON) -> Exit:
    """Verify shared features and add them to the workspace, where `repro readout ROW` reads them.

    No videos, checkpoint or GPU are needed. Run records state that features were imported, with the sha256 of the file.

    Example: `repro features import hmdb51.safetensors`

    Args:
        file: The safetensors file that `repro features export` wrote; its parquet file is next to it.
    """
    reporter = Reporter(to_stderr=common.as_json)
    done = share.import_features(file, common.open_workspace(), reporter)
    if common.as_json:
        report = {
            "sha256": done.sha256, "store": str(done.store.folder), "added": done.added, "reused": done.reused,
            "row": None if done.row is None else str(done.row), "card": done.card.model_dump(mode="json"),
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        return Exit.OK
    card, checkpoint = done.card, done.card.identity.get("checkpoint_sha256")
    print_sentence(f"{card.what}; {card.made_by}; sha256 {done.sha256}")
    print_sentence(f"checkpoint: {f'sha256 {checkpoint}' if checkpoint else 'none'}; precision {card.precision}")
    print_sentence(
        f"licence of the data: {card.licence}; {done.added} features added, {done.reused} were stored already"
    )
    if done.row is not None:
        print_sentence(f"own clips, without their videos: `repro readout {done.row}` trains on their features")
    return Exit.OK
