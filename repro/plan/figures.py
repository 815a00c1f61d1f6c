"""A plan as JSON: the same facts the tables show, unrounded."""

from typing import Any

from repro.plan.amounts import Amount, total
from repro.plan.assumptions import reckoning
from repro.plan.downloads import Download
from repro.plan.lengths import Portion
from repro.plan.plan import Job, Plan, Readouts, RowPlan


def as_json(plan: Plan) -> dict[str, Any]:
    return {
        "workspace": str(plan.workspace.root),
        "device": plan.kind,
        "rows": [_row(row) for row in plan.rows],
        "downloads": [_download(one) for one in plan.downloads],
        "clips": plan.clips.as_json(),
        "extractions": [_job(job) for job in plan.jobs],
        "savings": [
            {
                "dataset": saving.dataset,
                "backbones": saving.together.backbones,
                "tflop_per_window_together": saving.together.tflop,
                "tflop_per_window_apart": saving.tflop_apart,
            }
            for saving in plan.savings
        ],
        "stages": {name: _stage(*figures) for name, figures in stages(plan).items()},
        "assumed": reckoning().model_dump(mode="json", exclude={"together"}),
        "notes": plan.problems,
    }


def stages(plan: Plan) -> dict[str, tuple[Amount | None, Amount | None]]:
    """Hours and bytes by stage, shared work counted once. Bytes stay, but for the archives that are unpacked."""
    return {
        "fetch": (None, total(one.left for one in plan.downloads)),
        "prepare": (None, total(one.unpacked for one in plan.downloads)),
        "extract": (total(job.hours for job in plan.jobs), total(job.disk for job in plan.jobs)),
        "readout": (
            total(row.readouts.hours for row in plan.rows),
            total(row.readouts.disk for row in plan.rows),
        ),
    }


def portion(jobs: tuple[Job, ...], left: bool = False) -> Portion:
    first, *others = [job.left if left else job.whole for job in jobs]
    for other in others:
        first += other
    return first


def here_in_words(row: RowPlan) -> str:
    """What of a row is there already, shortly."""
    words = []
    for kind, name in (("data", "data"), ("checkpoint", "weights")):
        own = [one for one in row.downloads if one.kind == kind]
        ready = sum(one.ready for one in own)
        if ready:
            words.append(name if ready == len(own) else f"{name} {ready} of {len(own)}")
    held = sum(job.held for job in row.jobs)
    if held:
        words.append(f"features of {held:,} clips")
    if row.readouts.recorded:
        words.append(f"{row.readouts.recorded} run{'s' if row.readouts.recorded > 1 else ''}")
    return ", ".join(words) or "nothing"


def _amount(amount: Amount | None) -> dict[str, object] | None:
    return None if amount is None else amount.as_json()


def _stage(hours: Amount | None, disk: Amount | None) -> dict[str, object]:
    return {"hours": _amount(hours), "bytes": _amount(disk)}


def _row(row: RowPlan) -> dict[str, Any]:
    return {
        "row": row.name,
        "title": row.row.title,
        "missing": [{"what": one.what, "remedy": one.sentence} for one in row.missing],
        "needs": [one.name for one in row.downloads],
        "download_bytes": _amount(total(one.left for one in row.downloads)),
        "extractions": [_job(job) for job in row.jobs],
        "readout": _readouts(row.readouts),
        "hours": _amount(total([*(job.hours for job in row.jobs), row.readouts.hours])),
        "here": here_in_words(row),
    }


def _download(one: Download) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "rows": one.rows,
        "size": one.size,
        "bytes": _amount(one.whole),
        "bytes_to_download": _amount(one.left),
        "bytes_unpacked": _amount(one.unpacked),
        "licence": one.licence,
        "licence_url": one.licence_url,
        "ready": one.ready,
        "brings": one.brings,
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.dataset,
        "splits": job.splits,
        "backbone": job.backbone,
        "cell": job.cell,
        "clips": _amount(job.whole.clips),
        "clips_reused": job.held,
        "windows": _amount(job.whole.windows),
        "windows_to_compute": _amount(job.left.windows),
        "counts_rest_on": job.basis,
        "precision": job.precision,
        "tflop_per_window": job.tflop,
        "measured": None
        if job.rate is None
        else {"windows_per_second": round(job.rate.per_second, 4), "device": job.rate.device, "at": job.rate.at},
        "hours": _amount(job.hours),
        "bytes": _amount(job.disk),
    }


def _readouts(readouts: Readouts) -> dict[str, Any]:
    return {
        "runs": readouts.seeds,
        "runs_reused": readouts.recorded,
        "epochs": readouts.epochs,
        "training_clips": _amount(readouts.clips),
        "tflop_per_run": round(readouts.tflop, 1),
        "measured_on": readouts.measured_on or None,
        "hours": _amount(readouts.hours),
        "bytes": _amount(readouts.disk),
    }
