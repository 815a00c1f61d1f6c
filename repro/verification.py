"""`repro verify`: run the comparison and print it."""

import json
from pathlib import Path

from repro import verify
from repro.backbones.checkpoints import checkpoint_path
from repro.backbones.config import SvdConfig, load_backbone
from repro.errors import Exit, UsageError
from repro.workspace import Workspace


def show(
    backbone: str,
    golden: Path,
    checkpoint: Path | None,
    implementation: str,
    limit: float | None,
    workspace: Workspace,
    *,
    as_json: bool,
) -> Exit:
    """Print every golden tensor's deviation and the worst.

    Raises:
        UsageError: a backbone, folder, implementation or limit that does not exist.
        MissingError: a checkpoint or golden file that cannot be used.
    """
    config = load_backbone(backbone)
    if not isinstance(config, SvdConfig):
        raise UsageError(f"backbone {backbone} has no golden comparison in this version")
    if implementation not in verify.IMPLEMENTATIONS:
        raise UsageError(f"--implementation {implementation}: there is {', '.join(verify.IMPLEMENTATIONS)}")
    limit = verify.LIMIT if limit is None else limit
    if not limit > 0:
        raise UsageError(f"--limit {limit:g}: expected a number above 0")
    path = checkpoint or checkpoint_path(config.checkpoint, workspace)
    deviations = []
    for deviation in verify.against_golden(config, path, golden):
        deviations.append(deviation)
        if not as_json:
            mark = "" if deviation.relative_l2 <= limit else "  ABOVE THE LIMIT"
            print(f"{deviation.file:<28} {deviation.tensor:<20} {deviation.relative_l2:.2e}{mark}", flush=True)
    worst = max(deviations, key=lambda d: d.relative_l2)
    above = sum(d.relative_l2 > limit for d in deviations)
    if as_json:
        print(
            json.dumps(
                {
                    "backbone": backbone,
                    "implementation": implementation,
                    "limit": limit,
                    "above_limit": above,
                    "deviations": [
                        {"file": d.file, "tensor": d.tensor, "relative_l2": min(d.relative_l2, 1e9)} for d in deviations
                    ],
                },
                indent=1,
            )
        )
    else:
        print(
            f"{backbone}, {implementation}: {len(deviations)} tensors, worst {worst.relative_l2:.2e} "
            f"({worst.file} {worst.tensor}), {above} above {limit:g}"
        )
        if worst.relative_l2 > 0.1:
            print(
                f"so far off, these values were likely made with other weights than {path}: name theirs with --checkpoint"
            )
    return Exit.JUDGED_DIFFERENT if above else Exit.OK
