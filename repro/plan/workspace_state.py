"""What a workspace already has of what rows need; each thing is looked up once.

Nothing is written, no video or checkpoint is read.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.registry import likely_identity, load_backbone
from repro.core.errors import MissingError, ReproError
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.labels import labels_path
from repro.datasets.manifest import ClipFacts
from repro.datasets.presence import without_missing
from repro.datasets.registry import Dataset, list_dataset
from repro.datasets.split import SplitName
from repro.features.imported import find_likely_identity
from repro.features.rates import DamagedRatesError, DeviceKind, Rate, find_rate, load_rates
from repro.features.store import FeatureStore
from repro.judge.fitness import explain_mismatch
from repro.pipeline.row_data import matching_manifest
from repro.readout.recipe import Protocol
from repro.records.record import DamagedRecordError, RunRecord, StoredRun
from repro.table.requirements import MissingItem
from repro.table.row import Row


class WorkspaceState:
    """A workspace as it is now. Damaged files count as missing and are named in `problems`.

    Every lookup is cached, so that a plan of many rows reads each file once and reports each problem once.
    """

    def __init__(self, workspace: Workspace, rows: Sequence[Row] = ()) -> None:
        """`rows` are those that are looked up, of which some may bring their own data set."""
        self.workspace = workspace
        self.problems: list[str] = []
        self._own_datasets = {name: config for row in rows for name, config in row.own_datasets.items()}
        self._labelled: dict[str, tuple[str, dict[str, str]]] = {}
        """Name and changes of each backbone that has a label."""
        self.backbone: Callable[[str], BackboneConfig] = cache(self._load_backbone)
        self.dataset_config: Callable[[str], DatasetConfig] = cache(self._load_dataset)
        self.identity = cache(self._find_identity)
        self.listed_dataset = cache(self._list_dataset)
        self.audited_clips = cache(self._read_audit)
        self.stored_clips = cache(self._find_stored_clips)
        self.missing_clips = cache(self._find_missing_clips)
        try:
            self.rates: tuple[Rate, ...] = load_rates(workspace)
        except DamagedRatesError as error:
            self.rates = ()
            self.problems.append(str(error))

    def label_backbone(self, row: Row) -> str:
        """Return the label of the row's backbone with the row's changes, such as `svd_xt frames.window=16`.

        Other methods take this label as `backbone`; a backbone without changes may be given by its name.
        """
        label = " ".join([row.backbone, *(f"{key}={value}" for key, value in row.changes.items())])
        self._labelled[label] = (row.backbone, dict(row.changes))
        return label

    def backbone_name(self, backbone: str) -> str:
        """Return the name of a labelled backbone, without the changes."""
        return self._labelled.get(backbone, (backbone, {}))[0]

    def _load_backbone(self, backbone: str) -> BackboneConfig:
        return load_backbone(*self._labelled.get(backbone, (backbone, {})))

    def _load_dataset(self, name: str) -> DatasetConfig:
        return self._own_datasets.get(name) or load_dataset(name)

    def _find_identity(self, backbone: str) -> dict[str, Any] | None:
        return likely_identity(self.backbone(backbone), self.workspace)

    def _list_dataset(self, name: str) -> Dataset | None:
        """Return what the data set's annotation files list; None if they are missing, damaged or not parsed.

        Parsing takes seconds. Files that were never read are parsed only if it matters which clips they list, that is, if
        there is an audit or there are features.
        """
        config = self.dataset_config(name)
        folder = self.workspace.data / config.folder
        # The last part is the folder of the videos, which need not be present to list clips.
        absent = any(not part.find_name(folder) for part in config.parts[:-1])
        if absent and not labels_path(self.workspace, name).is_file():
            return None
        uses = (self.workspace.listings.glob(f"{name}-*.jsonl"), self._stores(name), [self.workspace.audits / name])
        if name not in self._own_datasets and not any(path.exists() for paths in uses for path in paths):
            self.problems.append(
                f"data {name}: its annotation files have not been read yet: run `repro data status {name}"
                f"{self.workspace.command_option}`, which also lists missing clips"
            )
            return None
        try:
            # keep=False: a plan changes nothing, so the parsed listing is not saved.
            dataset = list_dataset(config, self.workspace, keep=False)
        except ReproError as error:
            self.problems.append(str(error))
            return None
        self.problems += dataset.miscounted
        return None if dataset.miscounted else dataset

    def _read_audit(self, name: str) -> dict[str, ClipFacts]:
        """Return what decodes of each clip, by id; empty if the present annotation files have not been audited."""
        dataset = self.listed_dataset(name)
        try:
            manifest = matching_manifest(dataset, self.workspace) if dataset else None
        except ReproError as error:
            self.problems.append(str(error))
            return {}
        return {clip.id: clip for clip in manifest.clips} if manifest else {}

    def _find_missing_clips(self, name: SplitName) -> MissingItem | None:
        """Return the missing clips of a split; None if none is missing, or if the complete data set is."""
        dataset = self.listed_dataset(name.dataset)
        if dataset is None or dataset.config.missing_parts(dataset.folder):
            return None
        try:
            without_missing(dataset.split(name.split), dataset.boundary)
        except MissingError as error:
            return MissingItem(f"clips of {name}", str(error))
        return None

    def _stores(self, dataset: str) -> list[Path]:
        return sorted(self.workspace.features.glob(f"*/{dataset}"))

    def _find_store(self, dataset: str, backbone: str, cell: Cell) -> FeatureStore | None:
        identity = find_likely_identity(self.backbone(backbone), self.workspace, cell, (dataset,))
        if identity is None:
            return None
        return FeatureStore.locate(self.workspace, self.backbone_name(backbone), identity, dataset)

    def _find_stored_clips(self, dataset: str, backbone: str, cell: Cell) -> frozenset[str]:
        """Return the ids of the data set's clips whose features are stored."""
        # Without any store of the data set, the backbone's identity need not be known.
        store = self._find_store(dataset, backbone, cell) if self._stores(dataset) else None
        stored = frozenset(store.stored_clips(cell.name)) if store else frozenset()
        if stored and self.listed_dataset(dataset) is None:
            self.problems.append(
                f"features of {len(stored)} clips of {dataset} ({backbone} {cell.name}) are not counted: without the "
                "annotation files it is unknown which splits the clips are in"
            )
        return stored

    def measured_rate(self, backbone: str, cell: Cell, kind: DeviceKind) -> Rate | None:
        """Return the speed that was measured in this workspace for the backbone and cell on this kind of device."""
        identity = self.identity(backbone)
        return None if identity is None else find_rate(self.rates, identity, cell.name, kind)

    def matching_records(self, row: Row, protocol: Protocol) -> list[RunRecord]:
        """Return the runs of the row as it is configured now, on the features that would be read now."""
        store = self._find_store(row.data.test.dataset, self.label_backbone(row), row.features)
        matching = []
        for path in sorted(self.workspace.runs.glob(f"{row.name}/seed*/record.json")):
            try:
                record = StoredRun(path.parent).load_record()
            except DamagedRecordError as error:
                self.problems.append(str(error))
                continue
            if record is None or not record.complete or record.protocol != protocol or explain_mismatch(record, row):
                continue
            if store is None or record.features.key == store.key:
                matching.append(record)
        return matching
