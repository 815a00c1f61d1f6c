"""The smoke job, stage by stage; an interrupted job resumes where it was."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np

from repro.backbones.extractor import Execution
from repro.backbones.registry import family_of
from repro.backbones.weights import ensure_random_weights
from repro.core.console import Reporter
from repro.core.errors import Exit
from repro.core.files import write_json
from repro.core.locks import remove_partials
from repro.core.workspace import Workspace
from repro.features.store import FeatureStore
from repro.pipeline.row import extract_row
from repro.pipeline.row_data import RowData
from repro.pipeline.runs.train import run_readouts
from repro.readout.compute import Compute
from repro.records import mlflow_view
from repro.records.record import RunRecord
from repro.smoke import clips, golden
from repro.smoke.golden import GoldenJudgement, judge_scores
from repro.table.row import row_backbone
from repro.table.rows import load_row, smoke_row_names
from repro.video.readers import read_clip
from repro.video.sampling import ReaderName, Sampling

READERS: tuple[ReaderName, ...] = get_args(ReaderName)
READOUT_THREADS = 1
"""Training this small is fastest on one thread; its results then do not depend on the number of cores."""


@dataclass(frozen=True, slots=True)
class SmokeResult:
    records: dict[str, list[RunRecord]]
    """By row."""
    judgements: list[GoldenJudgement]
    worst_feature: golden.FeatureDeviation
    clips_changed: list[str]
    """Rendered clips whose bytes differ from the golden ones. The noise is keyed by the bytes, so their features differ too."""
    checkpoint_changed: bool
    readers_differ: tuple[str, ...] | None
    """Clips of which decord returns other frames than PyAV; None if decord has no build for this platform."""
    golden_platform: str
    """The platform on which the golden values were computed."""

    @property
    def features_repeat(self) -> bool:
        return self.worst_feature.relative_l2 <= golden.FEATURE_LIMIT

    @property
    def exit_code(self) -> Exit:
        good = (
            self.features_repeat
            and not self.readers_differ
            and all(j.outcome in ("REPEATED", "NOT JUDGED") for j in self.judgements)
        )
        return Exit.OK if good else Exit.JUDGED_DIFFERENT

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": "PASS" if self.exit_code is Exit.OK else "FAIL",
            "features": {
                "repeat": self.features_repeat,
                "worst_clip": self.worst_feature.clip,
                # JSON has no infinity, which the deviation is if a clip has no features.
                "worst_relative_l2": min(self.worst_feature.relative_l2, 1e9),
                "limit": golden.FEATURE_LIMIT,
                "clips_changed": self.clips_changed,
                "checkpoint_changed": self.checkpoint_changed,
                "golden_platform": self.golden_platform,
            },
            "readers_differ": None if self.readers_differ is None else list(self.readers_differ),
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


@dataclass(frozen=True, slots=True)
class StageResults:
    """Results of the job's stages, before they are compared with the golden values."""

    clips: dict[str, str]
    """sha256 of each rendered clip."""
    checkpoint_sha256: str
    features: FeatureStore
    """Of the smoke row."""
    records: dict[str, list[RunRecord]]
    """By row."""


def run_stages(
    workspace: Workspace, seeds: Sequence[int], workers: int, reporter: Reporter, *, pretrained: bool = False
) -> StageResults:
    """Render, generate weights, extract, train and log. A stage is reused if nothing it depends on has changed."""
    workspace.require_writable()
    # Two jobs in one workspace would write the same clips and features.
    with workspace.lock("smoke"):
        reporter.line(f"smoke job in {workspace.root}")
        for folder in (workspace.root, workspace.smoke, workspace.reports):
            remove_partials(folder)
        folder = workspace.smoke / "clips"
        hashes = clips.render_clips(folder, reporter)
        checkpoint_sha256 = _generate_checkpoint(workspace, reporter)
        stores, records = {}, {}
        data = RowData(clips.rendered_splits(folder))
        compute = Compute(threads=READOUT_THREADS)
        for name in smoke_row_names(pretrained=pretrained):
            inputs = extract_row(load_row(name), data, workspace, Execution(workers=workers), reporter)
            stores[name] = inputs.store
            records[name] = run_readouts(inputs, seeds, workspace, reporter, compute=compute)
        # Last, because the view is built from the records, which are complete without it.
        mlflow_view.log_runs(workspace, reporter)
    return StageResults(hashes, checkpoint_sha256, stores["smoke"], records)


def run_smoke(
    workspace: Workspace, seeds: Sequence[int], workers: int, reporter: Reporter, *, pretrained: bool = False
) -> SmokeResult:
    """Run the job and compare its results with the golden values."""
    # Read first, so that damaged golden files are reported before minutes of computing.
    expected, expected_features = golden.load_golden(), golden.load_golden_features()
    results = run_stages(workspace, seeds, workers, reporter, pretrained=pretrained)
    deviations = golden.compare_features(results.features, load_row("smoke").features.name, expected_features)
    readers_differ = compare_readers(workspace.smoke / "clips", results.clips, reporter)
    result = SmokeResult(
        records=results.records,
        judgements=judge_scores(results.records, expected),
        worst_feature=max(deviations, key=lambda d: d.relative_l2),
        clips_changed=[clip for clip, sha256 in results.clips.items() if expected.clips[clip] != sha256],
        checkpoint_changed=results.checkpoint_sha256 != expected.checkpoint_sha256,
        readers_differ=readers_differ,
        golden_platform=expected.platform,
    )
    write_json(workspace.reports / "smoke.json", result.as_json())
    return result


def compare_readers(folder: Path, names: Iterable[str], reporter: Reporter) -> tuple[str, ...] | None:
    """Read every rendered clip with both readers.

    Returns:
        The clips of which they return different frames; None if decord is not installed.
    """
    # Said, not passed over: on such a platform this part of the job shows nothing.
    if find_spec("decord") is None:
        reporter.line(f"{'readers':<11} pyav alone: decord has no build for this platform")
        return None
    paths = [folder / f"{name}.mp4" for name in names]
    differ = tuple(path.name for path in paths if not _frames_equal(path))
    agree = f"decord returns other frames of {len(differ)}" if differ else "pyav and decord return the same frames"
    reporter.line(f"{'readers':<11} {len(paths)} clips read with both: {agree}")
    return differ


def _frames_equal(path: Path) -> bool:
    ours, theirs = (np.concatenate([*read_clip(path, Sampling(4, 180.0, 25, name))]) for name in READERS)
    return np.array_equal(ours, theirs)


def _generate_checkpoint(workspace: Workspace, reporter: Reporter) -> str:
    """Generate the tiny backbone's weights unless they are present; returns their sha256."""
    config = row_backbone(load_row("smoke"))
    path, sha256, there = ensure_random_weights(config, family_of(config), workspace, reporter.warn)
    reporter.stage("checkpoint", total=1, reused=int(there), made="generated from a seed", where=path)
    return sha256
