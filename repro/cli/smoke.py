"""What the smoke job says in the end."""

import platform

from repro.core.errors import Exit
from repro.core.workspace import Workspace
from repro.smoke.golden import FEATURE_LIMIT
from repro.smoke.job import SmokeResult

LABELS = {
    "smoke": "tiny SVD, random weights",
    "smoke_mean_colour": "mean colour over time",
    "smoke_efficientnet_lite0": "EfficientNet-Lite0",
}


def show(result: SmokeResult, workspace: Workspace) -> None:
    """Print features, scores and the verdict."""
    worst = result.worst_feature
    verdict = "REPEATED" if result.features_repeat else "DIFFERENT"
    print(
        f"\nfeatures    {verdict:<10} worst relative L2 {worst.relative_l2:.1e} ({worst.clip}), limit {FEATURE_LIMIT:g}"
    )
    if result.clips_changed:
        print(
            f"            {len(result.clips_changed)} rendered clips are not the golden ones byte for byte "
            "(another encoder?): their features cannot repeat"
        )
    if result.checkpoint_changed:
        print("            the weights drawn are not the golden ones: the features cannot repeat")
    here = f"{platform.system()} {platform.machine()}"
    if here != result.golden_platform and result.exit_code is not Exit.OK:
        print(f"            the golden values were made on {result.golden_platform}; this is {here}")
    chance = {name: 100 * value for name, value in result.records["smoke"][0].chance.items()}
    print(f"\n{'readout of':<26} {'seed':>4}  {'metric':<9} {'measured':>8} {'golden':>8} {'chance':>7}  verdict")
    for j in result.judgements:
        golden = f"{j.golden:8.2f}" if j.golden is not None else f"{'none':>8}"
        print(
            f"{LABELS[j.row]:<26} {j.seed:>4}  {j.metric:<9} {j.measured:8.2f} {golden} {chance[j.metric]:7.2f}  {j.outcome}"
        )
    print("\nThe tiny SVD's weights are random: this shows that numbers repeat, not that actions are recognised.")
    print(f"records in {workspace.runs}, MLflow in {workspace.mlflow_db}")
    print(f"smoke: {'PASS' if result.exit_code is Exit.OK else 'FAIL'}")
