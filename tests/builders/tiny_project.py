"""The project with everything small: its own configs, with the published rows on backbones and data sets that fit a test.

Rows, recipes' losses, splits, files and layouts are the shipped ones; networks, clips, epochs and depth are less.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from builders import tiny_datasets, tiny_text_tower
from builders.commands import ROOT
from builders.shipped import use_shipped
from repro.backbones.registry import family_of, load_backbone
from repro.core.workspace import Workspace
from repro.datasets.config import SplitFacts
from repro.records.record import RunRecord, find_runs

TINY = {"svd_xt": "svd_xt_tiny", "svd": "svd_xt_tiny", "vjepa": "vjepa_tiny", "videomaev2": "videomaev2_tiny"}
"""The replacement of each; sdv2 follows svd_xt."""
EPOCHS = 2


def make(
    folder: Path, datasets: Sequence[str] = tuple(tiny_datasets.MAKERS), backbones: Sequence[str] = tuple(TINY)
) -> Workspace:
    """A copy of the package and of its configs in `folder`, and a workspace in it with these data sets and weights."""
    # With its compiled modules, which dozens of processes would compile again.
    shutil.copytree(ROOT / "repro", folder / "repro")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "expected", folder / "expected")
    workspace = Workspace(folder / "workspace")
    for name in backbones:
        _shrink_backbone(folder / "configs" / "backbones", name, TINY[name], workspace)
    for path in (folder / "configs" / "backbones").glob("*.yaml"):
        # Other sizes and readings of what is small now.
        if path.stem not in TINY and any(f"extends: {name}" in path.read_text() for name in ("vjepa", "videomaev2")):
            path.unlink()
    for name in datasets:
        place = workspace.data / name
        # One group of UCF101's clips is enough here, where each clip passes through SVD's networks.
        made = tiny_datasets.ucf101(place, val_groups=(1,)) if name == "ucf101" else tiny_datasets.MAKERS[name](place)
        _shrink_dataset(folder / "configs" / "datasets" / f"{name}.yaml", made.splits)
    _shrink_text_tower(folder / "configs", workspace)
    for path in (folder / "configs" / "rows").glob("*.yaml"):
        row = yaml.safe_load(path.read_text())
        row["readout"] |= {"epochs": EPOCHS, "layers": 1}
        path.write_text(yaml.safe_dump(row))
    return workspace


def _shrink_backbone(folder: Path, name: str, tiny: str, workspace: Workspace) -> None:
    """Weights drawn as for `tiny`, as if `repro fetch` had brought them."""
    config = load_backbone(tiny)
    assert config.checkpoint is not None
    assert config.checkpoint.drawn_from_seed is not None
    whole = yaml.safe_load((folder / f"{name}.yaml").read_text())
    small = yaml.safe_load((folder / f"{tiny}.yaml").read_text())
    small["checkpoint"] = {
        "file": config.checkpoint.file, "size": "small", "source": whole["checkpoint"]["source"],
        "url": f"https://localhost/{config.checkpoint.file}", "licence": whole["checkpoint"]["licence"],
        "licence_url": whole["checkpoint"]["licence_url"], "assumed": whole["checkpoint"].get("assumed", False),
    }  # fmt: skip
    if config.family == "svd":
        small |= {"size": [64, 64], "frames": {"window": 3}, "schedule": whole["schedule"]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(small))
    path = workspace.checkpoints / config.checkpoint.file
    path.parent.mkdir(parents=True, exist_ok=True)
    family_of(config).write_random_weights(config, path, config.checkpoint.drawn_from_seed)


def _shrink_text_tower(configs: Path, workspace: Workspace) -> None:
    path = configs / "assets" / "openclip_text.yaml"
    config = yaml.safe_load(path.read_text())
    tower = tiny_text_tower.TOWER.model_copy(update={"context": 77})
    torch.save(tiny_text_tower.weights(tower), workspace.checkpoints / config["weights"]["file"])
    tiny_text_tower.write_merges(workspace.checkpoints / config["merges"]["file"])
    for file in (config["weights"], config["merges"]):
        for key in ("hub", "url", "bytes", "sha256"):
            file.pop(key, None)
        file["url"] = f"https://localhost/{file['file']}"
    path.write_text(yaml.safe_dump(config | {"tower": tower.model_dump()}))


def _shrink_dataset(path: Path, splits: dict[str, SplitFacts]) -> None:
    config = yaml.safe_load(path.read_text())
    config["splits"] = {name: facts.model_dump(exclude_none=True) for name, facts in splits.items()}
    path.write_text(yaml.safe_dump(config))


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read configs and expected values of the copy in this process."""
    use_shipped(monkeypatch, configs=folder / "configs", expected=folder / "expected")


def load_records(workspace: Workspace) -> dict[str, RunRecord]:
    """The workspace's records, by row; one of each row."""
    found = {run.folder.parent.name: run.load_record() for run in find_runs(workspace.runs)}
    return {name: record for name, record in found.items() if record is not None}
