"""The command line: verbs, options and what they print. Verbs import what they need when they run."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from repro import __version__
from repro.cli import data as cli_data
from repro.cli import features as cli_features
from repro.cli import plan as cli_plan
from repro.cli import rows as cli_rows
from repro.cli.options import FlagOption, JsonOption, WorkspaceOption
from repro.core.errors import Exit, UsageError
from repro.core.workspace import open_scratch_workspace, open_workspace
from repro.table import rows

app = App(
    name="repro",
    suppress_keyboard_interrupt=False,
    version=__version__,
    help=(
        "Repeat the results table of ActionDiff (arXiv 2509.08908): `repro ROW` turns a row into a measured number with "
        "its evidence, `repro check` says whether it reproduces the published one. `repro list` names the rows."
    ),
    help_epilogue=(
        "Exit codes: 0 all well; 1 judged higher or lower than published, or two manifests differ; 2 usage; 3 internal "
        "error; 4 something needed is missing; 5 nothing to check; 130 interrupted."
    ),
)


def dispatch(arguments: Sequence[str]) -> Exit:
    """Run one command line. `repro ROW` is `repro run ROW`.

    Raises:
        UsageError: the words make no command.
        ReproError: what the verb ended in.
    """
    words = list(arguments)
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        _refuse_unknown(words[0])
        words.insert(0, "run")
    try:
        return Exit(app(words, exit_on_error=False, print_error=False, result_action="return_value") or Exit.OK)
    except CycloptsError as error:
        raise UsageError(
            f"{' '.join(str(error).split())} (`repro {words[0] if words else ''} --help` shows what it takes)"
        ) from error


def _refuse_unknown(word: str) -> None:
    """A word that is neither a verb nor a row is refused here, where both can be suggested."""
    names = [*VERBS, *rows.row_names(), *rows.extra_names()]
    if word not in names:
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"unknown row or command '{word}'{hint} (`repro list` shows the rows, `repro list --all` more, `repro --help` the commands)"
        )


@app.command(name="list")
def list_rows(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """The 24 rows: setting, backbone, metric, published value, status, and what is missing to run each.

    Args:
        all_: also the extras: the release's other experiments, which have no published value.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import list_rows as listing

    listing.show(open_workspace(workspace), extras=all_, as_json=json_)
    return Exit.OK


@app.command
def smoke(
    *,
    workspace: WorkspaceOption = None,
    workers: int = 1,
    seeds: str = "52,53",
    pretrained: FlagOption = False,
    json_: JsonOption = False,
) -> Exit:
    """The whole way on clips rendered here: small, offline, on a CPU, in minutes; judged against golden values.

    The backbone's weights are random: the score shows that numbers repeat, not that actions are recognised.

    Args:
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        workers: processes that decode; the numbers do not depend on it.
        seeds: of the readout, separated by commas; those without a golden value are run and not judged.
        pretrained: also on an image network with ImageNet weights, which the extra `efficientnet` brings; not judged.
        json_: print JSON only.
    """
    chosen = _seeds(seeds)
    if not 1 <= workers <= 64:
        raise UsageError(f"--workers {workers}: expected a number from 1 to 64")
    place, note = open_scratch_workspace(workspace)

    from repro.cli import smoke as summary
    from repro.core.console import Reporter
    from repro.smoke import job

    reporter = Reporter(to_stderr=json_)
    if note:
        reporter.line(note)
    result = job.run_smoke(place, chosen, workers, reporter, pretrained=pretrained)
    if json_:
        print(json.dumps(result.as_json(), indent=1))
    else:
        summary.show(result, place)
    return result.exit_code


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds '{text}': expected whole numbers separated by commas, as 52,53") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds '{text}': seeds are not negative and each stands once")
    return seeds


@app.command
def fetch(
    *names: str,
    accept_license: Annotated[bool, Parameter(negative="")] = False,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Bring checkpoints and archives of data sets to the workspace, verified; without a name, say what can be fetched.

    Run again, it goes on where it was, and says what is there. HF_TOKEN is used where the Hub asks for one.

    Args:
        names: of backbones and data sets.
        accept_license: you have read the licence, which is named without this, and agree to it.
        from_: a file, a folder or an address that has the files, instead of their owners; verified all the same.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import fetch as fetching

    return fetching.show(names, from_, open_workspace(workspace), agreed=accept_license, as_json=json_)


@app.command
def check(
    *,
    expected: Path | None = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Judge the workspace's run records against the published table; exits 1 where one is judged higher or lower.

    Args:
        expected: another table than the shipped expected/results.csv.
        strict: exit 1 also for rows inconclusive or not run.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.cli import check as checking

    return checking.show(open_workspace(workspace), expected, strict=strict, as_json=json_)


app.command(cli_rows.run)
app.command(cli_rows.readout)
app.command(cli_rows.predict)
app.command(cli_features.extract)
app.command(cli_features.verify)
app.command(cli_data.data)
app.command(cli_plan.plan)

VERBS = ("list", "plan", "run", "fetch", "data", "extract", "readout", "predict", "smoke", "verify", "check")
