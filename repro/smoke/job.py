"""The smoke job, stage by stage; run again, it goes on where it was."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import atomic, tracking
from repro.backbones.config import SvdConfig
from repro.backbones.extractor import checkpoint_path
from repro.backbones.svd import random_weights
from repro.errors import Exit
from repro.keys import content_key, file_sha256
from repro.pipeline import run_row
from repro.rows import SMOKE_ROWS, load_row, row_backbone
from repro.runs import RunRecord, stored_run
from repro.smoke import clips, golden
from repro.smoke.golden import Golden
from repro.terminal import Reporter
from repro.workspace import Workspace

READOUT_THREADS = 1
"""Training this small is quickest on one thread, and then does not depend on how many cores there are."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One number of the job against its golden value."""

    row: str
    seed: int
    metric: str
    measured: float
    golden: float | None
    """None: there is no golden value for this seed."""
    tolerance: float

    @property
    def outcome(self) -> str:
        if self.golden is None:
            return "NOT JUDGED"
        if abs(self.measured - self.golden) <= self.tolerance:
            return "REPEATED"
        return "HIGHER" if self.measured > self.golden else "LOWER"


@dataclass(frozen=True, slots=True)
class SmokeResult:
    records: dict[str, list[RunRecord]]
    """By row."""
    judgements: list[Judgement]
    worst_feature: golden.FeatureDeviation
    clips_changed: list[str]
    """Rendered clips whose bytes are not the golden ones: their noise, and so their features, differ."""

    @property
    def features_repeat(self) -> bool:
        return self.worst_feature.relative_l2 <= golden.FEATURE_LIMIT

    @property
    def exit_code(self) -> Exit:
        good = self.features_repeat and all(j.outcome in ("REPEATED", "NOT JUDGED") for j in self.judgements)
        return Exit.OK if good else Exit.JUDGED_DIFFERENT

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": "PASS" if self.exit_code is Exit.OK else "FAIL",
            "features": {
                "repeat": self.features_repeat,
                "worst_clip": self.worst_feature.clip,
                "worst_relative_l2": min(self.worst_feature.relative_l2, 1e9),
                "limit": golden.FEATURE_LIMIT,
                "clips_changed": self.clips_changed,
            },
            "scores": [
                {
                    "row": j.row, "seed": j.seed, "metric": j.metric, "measured": j.measured, "golden": j.golden,
                    "tolerance": j.tolerance, "verdict": j.outcome,
                }
                for j in self.judgements
            ],
            "chance": {name: 100 * value for name, value in self.records["smoke"][0].chance.items()},
            "records": [f"{r.row}/seed{r.seed}-{r.run}/record.json" for rs in self.records.values() for r in rs],
        }  # fmt: skip


def run_smoke(workspace: Workspace, seeds: Sequence[int], workers: int, reporter: Reporter) -> SmokeResult:
    """Render, extract, train and judge; every stage is reused where nothing it depends on has changed."""
    expected = golden.load_golden()
    workspace.require_writable()
    with workspace.lock("smoke"):
        reporter.line(f"smoke job in {workspace.root}")
        folder = workspace.smoke / "clips"
        hashes = clips.render(folder, reporter)
        splits = clips.splits(folder)
        _checkpoint(workspace, reporter)
        records = {}
        for name in SMOKE_ROWS:
            row = load_row(name)
            store, records[name] = run_row(
                name, row, splits, seeds, workspace, reporter, workers=workers, readout_threads=READOUT_THREADS
            )
            if name == "smoke":
                deviations = golden.feature_deviations(store, row.features.name, golden.load_golden_features())
        runs = [(stored_run(workspace.runs, r.row, r.seed, r.run), r) for rs in records.values() for r in rs]
        tracking.sync(runs, workspace, reporter)
    result = SmokeResult(
        records=records,
        judgements=_judgements(records, expected),
        worst_feature=max(
            deviations, key=lambda d: d.relative_l2, default=golden.FeatureDeviation("none", float("inf"))
        ),
        clips_changed=[clip for clip, sha256 in hashes.items() if expected.clips.get(clip) != sha256],
    )
    atomic.write_json(workspace.reports / "smoke.json", result.as_json())
    return result


def _checkpoint(workspace: Workspace, reporter: Reporter) -> None:
    """Draw the tiny backbone's weights where they are not there, or not what was drawn."""
    config = row_backbone(load_row("smoke"))
    assert isinstance(config, SvdConfig)
    seed = config.checkpoint.drawn_from_seed
    assert seed is not None
    path = checkpoint_path(config.checkpoint, workspace)
    stamp = path.with_name(path.name + ".drawn.json")
    key = content_key(
        {"seed": seed, "version": random_weights.VERSION, "architecture": config.architecture.model_dump(mode="json")}
    )
    reused = 0
    if path.is_file():
        # Killed between the two files, the weights are drawn again: the same ones.
        if _read_stamp(stamp) == {"key": key, "sha256": file_sha256(path)}:
            reused = 1
        elif stamp.is_file():
            aside = atomic.set_aside(path)
            reporter.warn(f"checkpoint {path}: not what was drawn: kept as {aside.name}, drawing it again")
    if not reused:
        random_weights.write(path, config.architecture, seed)
        atomic.write_json(stamp, {"key": key, "sha256": file_sha256(path)})
    reporter.stage("checkpoint", total=1, reused=reused, made="drawn from a seed", where=path)


def _read_stamp(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _judgements(records: dict[str, list[RunRecord]], expected: Golden) -> list[Judgement]:
    judgements = []
    for row, runs in records.items():
        for run in runs:
            scores = expected.scores.get(row, {}).get(str(run.seed))
            for metric in ("top1", "map_micro"):
                judgements.append(
                    Judgement(
                        row=row,
                        seed=run.seed,
                        metric=metric,
                        measured=100 * run.best_epoch_on_test.scores[metric],
                        golden=getattr(scores, metric) if scores else None,
                        tolerance=getattr(expected.tolerance, metric),
                    )
                )
    return judgements
