"""`repro smoke`: the small end-to-end job, judged against golden values."""

import json
import platform
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.cli.options import COMMON, MOST_WORKERS, CommonOptions, FlagOption, SeedsOption, require_number
from repro.core.console import Reporter, print_line, print_sentence
from repro.core.errors import Exit
from repro.core.workspace import Workspace, open_scratch_workspace
from repro.smoke.golden import FEATURE_LIMIT
from repro.table.rows import load_row, smoke_row_names, smoke_rows

if TYPE_CHECKING:
    from repro.smoke.job import SmokeResult


def smoke(
    *,
    workers: Annotated[int, Parameter(validator=require_number("--workers", 1, MOST_WORKERS))] = 1,
    seeds: SeedsOption = 2,
    pretrained: FlagOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Run end to end on small clips that it generates: offline, on a CPU, in minutes.

    The scores are compared with golden values; seeds without one are not judged. The backbone's weights are random: this shows that numbers repeat, not
    that actions are recognised.

    Example: `repro smoke`

    Args:
        workers: Processes that decode videos; the numbers do not depend on it.
        pretrained: Also run an image network with ImageNet weights (needs the extra `efficientnet`); not judged.
    """
    chosen = load_row(smoke_row_names()[0]).seeds.choose(seeds)
    workspace, note = open_scratch_workspace(common.workspace)

    # Imports torch and more, which takes seconds: mistakes in the options are reported before.
    from repro.smoke import job

    reporter = Reporter(to_stderr=common.as_json)
    if note:
        reporter.line(note)
    result = job.run_smoke(workspace, chosen, workers, reporter, pretrained=pretrained)
    if common.as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        _print_result(result, workspace)
    return result.exit_code


def _print_result(result: "SmokeResult", workspace: Workspace) -> None:
    """Print features, scores and the verdict."""
    worst = result.worst_feature
    verdict = "REPEATED" if result.features_repeat else "DIFFERENT"
    print_line()
    print_sentence(
        f"features    {verdict:<10} worst relative L2 {worst.relative_l2:.1e} ({worst.clip}), limit {FEATURE_LIMIT:g}",
        indent=12,
    )
    if result.clips_changed:
        print_sentence(
            f"            {len(result.clips_changed)} generated clips differ from the golden ones "
            "(another video encoder?): their features cannot repeat"
        )
    if result.readers_differ:
        print_sentence(f"            decord returns other frames than PyAV of {', '.join(result.readers_differ)}")
    if result.checkpoint_changed:
        print_sentence("            the generated weights differ from the golden ones: the features cannot repeat")
    here = f"{platform.system()} {platform.machine()}"
    if here != result.golden_platform and result.exit_code is not Exit.OK:
        print_sentence(f"            the golden values were computed on {result.golden_platform}; this is {here}")
    chance = {name: 100 * value for name, value in result.records["smoke"][0].chance.items()}
    print_line()
    print_line(f"{'readout of':<26} {'seed':>4}  {'metric':<9} {'measured':>8} {'golden':>8} {'chance':>7}  verdict")
    for j in result.judgements:
        golden = f"{j.golden:8.2f}" if j.golden is not None else f"{'none':>8}"
        print_line(
            f"{smoke_rows()[j.row].label:<26} {j.seed:>4}  {j.metric:<9} {j.measured:8.2f} {golden} {chance[j.metric]:7.2f}  {j.outcome}"
        )
    print_line()
    print_sentence(
        "The tiny SVD's weights are random: this shows that numbers repeat, not that actions are recognised."
    )
    print_sentence(f"records in {workspace.runs}, MLflow: `repro ui{workspace.command_option}`")
    print_line(f"smoke: {'PASS' if result.exit_code is Exit.OK else 'FAIL'}")
