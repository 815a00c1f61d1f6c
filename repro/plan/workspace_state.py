"""What a workspace already has of what rows need; each thing is looked up once. Nothing is written, no video or checkpoint
is read."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.registry import likely_identity, load_backbone
from repro.core.errors import MissingError, ReproError
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.manifest import ClipFacts
from repro.datasets.presence import without_missing
from repro.datasets.registry import Dataset, list_dataset
from repro.datasets.split import SplitName
from repro.features.rates import DamagedRatesError, Kind, Rate, find, read
from repro.features.store import FeatureStore
from repro.judge.verdict import explain_mismatch
from repro.pipeline.row_data import matching_manifest
from repro.readout.recipe import Protocol
from repro.records.record import DamagedRecordError, RunRecord, StoredRun
from repro.table.requirements import MissingItem
from repro.table.row import Row


class Here:
    """A workspace as it is now. Damaged files count as missing and are named in `problems`."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.problems: list[str] = []
        self.asked: dict[str, tuple[str, dict[str, str]]] = {}
        self.backbone: Callable[[str], BackboneConfig] = cache(self._backbone)
        self.config: Callable[[str], DatasetConfig] = cache(load_dataset)
        self.identity = cache(self._identity)
        self.dataset = cache(self._dataset)
        self.audit = cache(self._audit)
        self.held = cache(self._held)
        self.lacking = cache(self._lacking)
        try:
            self.rates: tuple[Rate, ...] = read(workspace)
        except DamagedRatesError as error:
            self.rates = ()
            self.problems.append(str(error))

    def asks(self, row: Row) -> str:
        """What stands in this plan for the row's backbone as the row configures it."""
        label = " ".join([row.backbone, *(f"{key}={value}" for key, value in row.changes.items())])
        self.asked[label] = (row.backbone, dict(row.changes))
        return label

    def name(self, asked: str) -> str:
        """The backbone's own name."""
        return self.asked.get(asked, (asked, {}))[0]

    def _backbone(self, asked: str) -> BackboneConfig:
        return load_backbone(*self.asked.get(asked, (asked, {})))

    def _identity(self, backbone: str) -> dict[str, Any] | None:
        return likely_identity(self.backbone(backbone), self.workspace)

    def _dataset(self, name: str) -> Dataset | None:
        """What its annotation files list. Files that were never read are parsed only where it matters which clips they
        list: for an audit or features."""
        config = self.config(name)
        folder = self.workspace.data / config.folder
        if any(not part.find_name(folder) for part in config.parts[:-1]):
            return None
        places = (self.workspace.listings.glob(f"{name}-*.jsonl"), self._stores(name), [self.workspace.audits / name])
        if not any(path.exists() for paths in places for path in paths):
            self.problems.append(
                f"data {name}: its annotation files have not been read here: `repro data status {name}"
                f"{self.workspace.command_option}` reads them, and says which clips are missing"
            )
            return None
        try:
            found = list_dataset(config, self.workspace, keep=False)
        except ReproError as error:
            self.problems.append(str(error))
            return None
        self.problems += found.miscounted
        return None if found.miscounted else found

    def _audit(self, name: str) -> dict[str, ClipFacts]:
        """What decodes of each clip, by id; empty where the annotation files that lie here were not audited."""
        dataset = self.dataset(name)
        try:
            manifest = matching_manifest(dataset, self.workspace) if dataset else None
        except ReproError as error:
            self.problems.append(str(error))
            return {}
        return {clip.id: clip for clip in manifest.clips} if manifest else {}

    def _lacking(self, place: SplitName) -> MissingItem | None:
        """What to say of clips of a split, as ucf101/train, that are not there although its data set's folders are."""
        dataset = self.dataset(place.dataset)
        if dataset is None or dataset.config.missing_parts(dataset.folder):
            return None
        try:
            without_missing(dataset.split(place.split), dataset.folder)
        except MissingError as error:
            return MissingItem(f"clips of {place}", str(error))
        return None

    def _stores(self, dataset: str) -> list[Path]:
        return sorted(self.workspace.features.glob(f"*/{dataset}"))

    def _store(self, dataset: str, backbone: str) -> FeatureStore | None:
        identity = self.identity(backbone)
        return None if identity is None else FeatureStore.found(self.workspace, self.name(backbone), identity, dataset)

    def _held(self, dataset: str, backbone: str, cell: Cell) -> frozenset[str]:
        """Ids of the data set's clips whose features are stored."""
        store = self._store(dataset, backbone) if self._stores(dataset) else None
        held = frozenset(store.held(cell.name)) if store else frozenset()
        if held and self.dataset(dataset) is None:
            self.problems.append(
                f"features of {len(held)} clips of {dataset} ({backbone} {cell.name}) are there, of which splits is not "
                "known without its annotation files: not counted"
            )
        return held

    def rate(self, backbone: str, cell: Cell, kind: Kind) -> Rate | None:
        identity = self.identity(backbone)
        return None if identity is None else find(self.rates, identity, cell.name, kind)

    def records(self, name: str, row: Row, protocol: Protocol) -> list[RunRecord]:
        """Return the runs of the row as it is configured now, on the features that would be read now."""
        store = self._store(row.data.test.dataset, self.asks(row))
        found = []
        for path in sorted(self.workspace.runs.glob(f"{name}/seed*/record.json")):
            try:
                record = StoredRun(path.parent).load_record()
            except DamagedRecordError as error:
                self.problems.append(str(error))
                continue
            if record is None or not record.complete or record.protocol != protocol or explain_mismatch(record, row):
                continue
            if store is None or record.features.key == store.key:
                found.append(record)
        return found
