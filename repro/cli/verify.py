"""`repro verify`: run the comparisons and print them."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.backbones import comparison as verify
from repro.backbones.comparison import Comparison, Deviation, Note, Skipped
from repro.backbones.config import BackboneConfig, load_backbone
from repro.backbones.family import load_family
from repro.backbones.weights import absence, checkpoint_path
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace


def show(
    backbone: str,
    golden: Path | None,
    checkpoint: Path | None,
    changes: Mapping[str, str],
    limit: float | None,
    device: str,
    batch: int | None,
    workspace: Workspace,
    *,
    as_json: bool,
) -> Exit:
    """Against golden values where a folder of them is given, else fast against plain, implementation against
    implementation and each precision against fp32.

    Raises:
        UsageError: a backbone, folder or limit that does not exist.
        MissingError: a checkpoint, golden file or implementation that cannot be used.
    """
    config = load_backbone(backbone, changes)
    family, kept = load_family(config.family), config.checkpoint
    if kept is None or family.against_golden is None or family.comparisons is None:
        raise UsageError(
            f"backbone {backbone}: nothing to compare: it has no weights of its own, or no plain computation"
        )
    limit = verify.LIMIT if limit is None else limit
    if not limit > 0:
        raise UsageError(f"--limit {limit:g}: expected a number above 0")
    path = checkpoint or checkpoint_path(kept, workspace)
    if golden is not None:
        found = family.against_golden(config, path, golden, device, batch)
        return _against_golden(backbone, config, path, found, limit, as_json=as_json)
    lacking = "" if checkpoint else absence(backbone, kept, workspace)
    if lacking:
        raise MissingError(lacking)
    return _on_this_machine(
        backbone, config, family.comparisons(config, path, device, limit, batch), limit, device, as_json=as_json
    )


def _against_golden(
    backbone: str, config: BackboneConfig, path: Path, found: Iterator[Deviation | Note], limit: float, *, as_json: bool
) -> Exit:
    """Print every golden tensor's deviation and the worst."""
    deviations = []
    for deviation in found:
        if isinstance(deviation, Note):
            print(deviation.text, file=sys.stderr)
            continue
        deviations.append(deviation)
        if not as_json:
            mark = "" if deviation.relative_l2 <= limit else "  ABOVE THE LIMIT"
            print(f"{deviation.file:<28} {deviation.tensor:<20} {deviation.relative_l2:.2e}{mark}", flush=True)
    implementation = config.resolved_implementation()
    worst = max(deviations, key=lambda d: d.relative_l2)
    above = sum(d.relative_l2 > limit for d in deviations)
    if as_json:
        report = {
            "backbone": backbone,
            "implementation": implementation,
            "limit": limit,
            "above_limit": above,
            "deviations": [
                {"file": d.file, "tensor": d.tensor, "relative_l2": min(d.relative_l2, 1e9)} for d in deviations
            ],
        }
        print(json.dumps(report, indent=1))
    else:
        print(
            f"{', '.join(filter(None, (backbone, implementation)))}: {len(deviations)} tensors, worst {worst.relative_l2:.2e} "
            f"({worst.file} {worst.tensor}), {above} above {limit:g}"
        )
        if worst.relative_l2 > 0.1:
            print(
                f"so far off, these values were likely made with other weights than {path}, or other settings: name theirs with "
                "--checkpoint and --set"
            )
    return Exit.JUDGED_DIFFERENT if above else Exit.OK


def _on_this_machine(
    backbone: str, config: BackboneConfig, comparisons: Iterator[Comparison | Skipped | Note], limit: float, device: str,
    *, as_json: bool,
) -> Exit:  # fmt: skip
    """Print how far each way of computing lies from another; those that promise equality are held to `limit`."""
    if not as_json:
        print(f"{backbone} on {device}, a window of {config.frames.window} frames")
        print(f"{'what':<22} {'against':<26} {'worst relative L2':<28} {'seconds':>7}  verdict")
    rows: list[dict[str, str | float]] = []
    above = 0
    for found in comparisons:
        if isinstance(found, Note):
            print(found.text, file=sys.stderr)
            continue
        if not isinstance(found, Comparison):
            rows.append({"what": found.what, "skipped": found.why})
            if not as_json:
                print(f"{found.what:<22} skipped: {found.why}", flush=True)
            continue
        off = found.expected is not None and not found.worst <= found.expected
        above += off
        verdict = "not judged" if found.expected is None else "ABOVE THE LIMIT" if off else "equal"
        rows.append(
            {
                "what": found.what, "against": found.against, "worst_relative_l2": min(found.worst, 1e9),
                "worst_cell": found.cell, "seconds": round(found.seconds, 3), "verdict": verdict,
            }
        )  # fmt: skip
        if not as_json:
            worst = f"{found.worst:.1e} at {found.cell}"
            print(f"{found.what:<22} {found.against:<26} {worst:<28} {found.seconds:>7.1f}  {verdict}", flush=True)
    if as_json:
        print(json.dumps({"backbone": backbone, "device": device, "limit": limit, "comparisons": rows}, indent=1))
    return Exit.JUDGED_DIFFERENT if above else Exit.OK
