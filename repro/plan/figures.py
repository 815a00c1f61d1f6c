"""Sums over a plan, and the plan as JSON: the same facts the tables show, unrounded."""

from collections.abc import Sequence
from typing import Any

from repro.pipeline.assumptions import load_assumptions
from repro.plan.amounts import Amount, sum_amounts
from repro.plan.downloads import Download
from repro.plan.passes import PassPlan
from repro.plan.plan import ExtractionJob, Plan, ReadoutJob, RowPlan
from repro.plan.steps import list_steps
from repro.plan.windows import NO_CLIPS, Portion
from repro.readout.recipe import Protocol
from repro.table.row import SeedChoice


def plan_as_json(plan: Plan, seeds: SeedChoice = 1, protocol: Protocol | None = None) -> dict[str, Any]:
    """Return what `repro plan --json` prints; scripts read it, so its keys stay as they are.

    Args:
        plan: The plan.
        seeds: Those that it was made for.
        protocol: That of the runs that it was made for.
    """
    return {
        "workspace": str(plan.workspace.root),
        "device": plan.kind,
        "rows": [_row_plan_as_json(row) for row in plan.rows],
        "downloads": [_download_as_json(download) for download in plan.downloads],
        "clips": plan.clips.as_json(),
        "extractions": [_job_as_json(job) for job in plan.jobs],
        "passes": [_pass_as_json(one) for one in plan.passes],
        "savings": [
            {
                "dataset": one.dataset,
                "backbones": group.backbones,
                "tflop_per_window_together": round(group.work.total, 3),
                "tflop_per_window_apart": round(group.apart, 3),
            }
            for one in plan.passes
            for group in one.groups
            if len(group.backbones) > 1 and group.work is not None and group.apart is not None
        ],
        "stages": {
            stage: {"hours": _amount_as_json(hours), "bytes": _amount_as_json(disk)}
            for stage, (hours, disk) in sum_stages(plan).items()
        },
        "steps": [step.as_json() for step in list_steps(plan, seeds, protocol)],
        "assumed": load_assumptions().model_dump(mode="json"),
        "notes": plan.problems,
    }


def sum_stages(plan: Plan) -> dict[str, tuple[Amount | None, Amount | None]]:
    """Return hours and bytes by stage, shared work counted once."""
    return {
        "fetch": (None, sum_amounts(download.bytes_to_download for download in plan.downloads)),
        "prepare": (None, sum_amounts(download.bytes_unpacked for download in plan.downloads)),
        "extract": (sum_amounts(one.hours for one in plan.passes), sum_amounts(job.disk for job in plan.jobs)),
        "readout": (
            sum_amounts(row.readouts.hours for row in plan.rows),
            sum_amounts(row.readouts.disk for row in plan.rows),
        ),
    }


def sum_portions(jobs: Sequence[ExtractionJob]) -> Portion:
    """Return the clips, windows and vectors of all jobs together."""
    return sum((job.total for job in jobs), start=NO_CLIPS)


def describe_existing(row: RowPlan) -> str:
    """Return in a few words what the workspace already has of a row."""
    parts = []
    # "weights 1 of 2": a row with text conditioning needs two files.
    for kind, name in (("data", "data"), ("checkpoint", "weights")):
        downloads = [download for download in row.downloads if download.kind == kind]
        ready = sum(download.ready for download in downloads)
        if ready:
            parts.append(name if ready == len(downloads) else f"{name} {ready} of {len(downloads)}")
    stored_clips = sum(job.stored_clips for job in row.jobs)
    if stored_clips:
        parts.append(f"{'imported ' if row.imported else ''}features of {stored_clips:,} clips")
    if row.readouts.recorded:
        parts.append(f"{row.readouts.recorded} run{'s' if row.readouts.recorded > 1 else ''}")
    return ", ".join(parts) or "nothing"


def _amount_as_json(amount: Amount | None) -> dict[str, object] | None:
    return None if amount is None else amount.as_json()


def _row_plan_as_json(row: RowPlan) -> dict[str, Any]:
    return {
        "row": row.row.name,
        "title": row.row.title,
        "missing": [item.as_json() for item in row.missing],
        "features_imported": row.imported,
        "needs": [download.name for download in row.downloads],
        "download_bytes": _amount_as_json(sum_amounts(download.bytes_to_download for download in row.downloads)),
        "extractions": [_job_as_json(job) for job in row.jobs],
        "readout": _readouts_as_json(row.readouts),
        "hours": _amount_as_json(sum_amounts([*(job.hours for job in row.jobs), row.readouts.hours])),
        "here": describe_existing(row),
    }


def _download_as_json(download: Download) -> dict[str, Any]:
    return {
        "name": download.name,
        "kind": download.kind,
        "rows": download.rows,
        "size": download.size,
        "bytes": _amount_as_json(download.total_bytes),
        "bytes_to_download": _amount_as_json(download.bytes_to_download),
        "bytes_unpacked": _amount_as_json(download.bytes_unpacked),
        "licence": download.licence,
        "licence_url": download.licence_url,
        "ready": download.ready,
        "brings": download.remedy,
    }


def _job_as_json(job: ExtractionJob) -> dict[str, Any]:
    return {
        "dataset": job.dataset,
        "splits": job.splits,
        "backbone": job.backbone,
        "cell": job.cell,
        "clips": _amount_as_json(job.total.clips),
        "clips_reused": job.stored_clips,
        "windows": _amount_as_json(job.total.windows),
        "windows_to_compute": _amount_as_json(job.remaining.windows),
        "counts_rest_on": job.basis,
        "precision": job.precision,
        "tflop_per_window": job.tflop,
        "gpu_gigabytes_by_batch": dict(job.gpu_gigabytes) or None,
        # None also if a speed is assumed: "assumed" has that.
        "measured": None
        if job.rate is None
        else {
            "windows_per_second": round(job.rate.per_second, 4),
            "device": job.rate.device,
            "compiled": job.rate.compiled,
            "at": job.rate.at,
        },
        "hours": _amount_as_json(job.hours),
        "bytes": _amount_as_json(job.disk),
    }


def _pass_as_json(one: PassPlan) -> dict[str, Any]:
    return {
        "dataset": one.dataset,
        "backbones": {label: [cell.name for cell in cells] for label, cells in one.backbones.items()},
        "clips": one.clips.as_json(),
        "decodings_per_clip": one.decodings,
        "windows": one.windows.as_json(),
        "tflop": _amount_as_json(one.tflop),
        "hours": _amount_as_json(one.hours),
        "computed_together": [
            {
                "backbones": group.backbones,
                "windows": group.portion.windows.as_json(),
                "tflop": _amount_as_json(group.tflop),
                "hours": _amount_as_json(group.hours),
            }
            for group in one.groups
        ],
    }


def _readouts_as_json(readouts: ReadoutJob) -> dict[str, Any]:
    return {
        "runs": readouts.seeds,
        "runs_reused": readouts.recorded,
        "epochs": readouts.epochs,
        "training_clips": _amount_as_json(readouts.clips),
        "tflop_per_run": round(readouts.tflop, 1),
        "measured_on": readouts.measured_on or None,
        "hours": _amount_as_json(readouts.hours),
        "bytes": _amount_as_json(readouts.disk),
    }
