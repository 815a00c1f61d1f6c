"""A row of a user's own clips: a small file outside the package that names them, a backbone and what of the recipe differs.

    data: my.yaml                  # written by `repro data new my.csv`
    backbone: svd_xt
    features: {timestep: 20, layer: 9}
    readout: {epochs: 30}

configs/own_rows.yaml has the values of what is left out. Such a row is never judged.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, model_validator

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.registry import load_backbone
from repro.core.config import Config, configs_folder, is_config_path, load_config, validate_config
from repro.core.errors import UsageError
from repro.core.files import write_bytes
from repro.datasets.config import DatasetConfig
from repro.datasets.own import OwnDataFile, OwnDataset, build_own_dataset, load_own_dataset, own_name
from repro.readout.recipe import Protocol
from repro.table.row import Row, check_references


class OwnRowFile(Config):
    """A row file as a user writes it."""

    data: str
    """The YAML file of the clips, relative to this file."""
    title: str = ""
    backbone: str | None = None
    changes: Mapping[str, str] = Field(default_factory=dict)
    """Changes of the backbone's config, as in Row."""
    features: Cell | None = None
    """[default: the backbone's usual cell]."""
    readout: Mapping[str, Any] = Field(default_factory=dict)
    """Keys of the recipe that differ from the defaults. The loss is chosen by the labels."""
    seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_file_of_clips(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "clips" in raw and "data" not in raw:
            raise ValueError("the file of the clips; expected the row file that `repro data new` wrote next to it")
        return raw


class OwnDefaults(Config):
    """configs/own_rows.yaml."""

    backbone: str
    seed: int
    readout: Mapping[str, Any]


class OwnRow(Row):
    """A row of a user's own clips."""

    file: Annotated[Path, Field(exclude=True)]
    """The row file."""
    _dataset: OwnDataset = PrivateAttr()

    @property
    def dataset(self) -> OwnDataset:
        return self._dataset

    @property
    def argument(self) -> str:
        return shlex.quote(str(self.file))

    @property
    def command(self) -> str:
        return f"repro run {self.argument}"

    @property
    def default_protocol(self) -> Protocol:
        return "held-out"

    @property
    def own_datasets(self) -> dict[str, DatasetConfig]:
        return {self.dataset.name: self.dataset}

    @property
    def own_identity(self) -> dict[str, str]:
        # Groups decide which clips are held out. Published data sets need no key for them: they follow from the clips' names.
        groups = {clip.id: clip.group for split in self.dataset.own_listing.splits.values() for clip in split.clips}
        return {"groups": hashlib.sha256(json.dumps(sorted(groups.items())).encode()).hexdigest()}


@cache
def own_defaults() -> OwnDefaults:
    """Read configs/own_rows.yaml."""
    return load_config(OwnDefaults, configs_folder() / "own_rows.yaml")


def load_own_row(path: Path) -> OwnRow:
    """Read a user's row file, and the table of clips that it names.

    Raises:
        UsageError: a file or a value in it is not valid, or the clips are too few.
    """
    file, defaults = load_config(OwnRowFile, path), own_defaults()
    dataset = load_own_dataset(path.parent / file.data)
    single = dataset.target == "single"
    try:
        backbone = load_backbone(file.backbone or defaults.backbone, file.changes)
    except UsageError as error:  # which does not know the file that names it
        raise UsageError(f"{path}: {error}") from error
    raw = {
        "name": own_name(path), "file": str(path), "version": 1, "kind": "own", "setting": "own",
        # Validated as a row's file would be, so that a wrong key of the recipe is reported by name.
        "title": file.title or f"{path.stem}: {dataset.title}", "backbone": backbone.name,
        "changes": dict(file.changes), "data": {part: f"{dataset.name}/{part}" for part in ("train", "test")},
        "metric": "top1" if single else "map_micro",
        "readout": {**defaults.readout, "loss": {"name": "cross_entropy" if single else "bce"}, **file.readout},
        "seeds": {"published": defaults.seed if file.seed is None else file.seed},
        "features": (file.features or backbone.axes().usual).model_dump(mode="json"),
    }  # fmt: skip
    row = validate_config(OwnRow, raw, str(path))
    # Private, and so no part of the row's dump: keys and records hold what of it counts (own_identity).
    row._dataset = dataset
    check_references(row, str(path))
    _require_dividing_heads(row, backbone)
    return row


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """What `write_own_files` wrote."""

    data: Path
    row: OwnRow


def write_own_files(table: Path, data: Path, backbone: str | None = None) -> OwnFiles:
    """Write the YAML file that describes a table of clips, and next to it a row file with every default spelled out.

    Raises:
        UsageError: the table is not valid, there is no such backbone, or a file exists already.
    """
    row = data.with_name(f"{data.stem}_row.yaml")
    if not is_config_path(str(data)):
        raise UsageError(f"--output {data}: expected a name that ends in .yaml")
    for path in (data, row):
        if path.exists():
            raise UsageError(f"{path} exists: edit it, or name another file with --output")
    clips = os.path.relpath(table, data.parent)
    # Before anything is written: a table with mistakes leaves no files.
    dataset = build_own_dataset(data, OwnDataFile(clips=clips))
    # Before anything is written, as above: a backbone that does not exist leaves no files.
    config = load_backbone(backbone or own_defaults().backbone)
    described: dict[str, Any] = {"clips": clips, "labels": dataset.target}
    if not dataset.has_split_column:
        file = OwnDataFile(clips=clips)
        described |= {"test_share": file.test_share, "split_seed": file.split_seed}
    write_config(data, "Clips and labels of your own", described)
    write_own_row(row, data.name, config.name, config.axes().usual)
    return OwnFiles(data, load_own_row(row))


def write_own_row(path: Path, data: str, backbone: str, cell: Cell, changes: Mapping[str, str] | None = None) -> None:
    """Write a row file with every default spelled out; the arguments are keys of OwnRowFile."""
    defaults = own_defaults()
    raw: dict[str, Any] = {"data": data, "backbone": backbone} | ({"changes": dict(changes)} if changes else {})
    raw |= {"features": cell.model_dump(mode="json", exclude_none=True), "readout": dict(defaults.readout)}
    write_config(path, "A readout of your own clips: `repro run` takes this file", raw | {"seed": defaults.seed})


def write_config(path: Path, title: str, content: Mapping[str, Any]) -> None:
    """Write a file that describes own clips, under a line that says what it is."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    write_bytes(path, f"# {title} (docs/own-videos.md).\n{text}".encode())


def _require_dividing_heads(row: OwnRow, backbone: BackboneConfig) -> None:
    """Raise UsageError if the transformer's heads do not divide the features' width."""
    width, heads = backbone.channels(row.features), row.readout.heads
    if row.readout.head == "transformer" and width is not None and width % heads:
        raise UsageError(
            f"{row.file}: readout.heads: {heads}: {backbone.name} has features of {width} channels, which {heads} heads do not "
            "divide: choose another number"
        )
