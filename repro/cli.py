"""The command line: verbs, options and what they print. Verbs import what they need when they run."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from repro import __version__, cli_data, cli_features, rows
from repro.cli_options import (
    BatchOption,
    DeviceOption,
    FlagOption,
    JsonOption,
    ProtocolOption,
    SeedsOption,
    WorkspaceOption,
    at_least_one,
    only_with,
)
from repro.errors import Exit, UsageError
from repro.workspace import device_from_environment, open_scratch_workspace, open_workspace

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
    names = [*VERBS, *rows.row_names()]
    if word not in names:
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"unknown row or command '{word}'{hint} (`repro list` shows the rows, `repro --help` the commands)"
        )


@app.command(name="list")
def list_rows(*, workspace: WorkspaceOption = None, json_: JsonOption = False) -> Exit:
    """The 24 rows: setting, backbone, metric, published value, status, and what is missing to run each.

    Args:
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro import listing

    listing.show(open_workspace(workspace), as_json=json_)
    return Exit.OK


@app.command
def run(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: Literal["published", "honest", "both"] = "published",
    grid: FlagOption = False,
    timesteps: str | None = None,
    layers: str | None = None,
    head: Literal["transformer", "linear"] | None = None,
    jobs: int | None = None,
    stored_as: Literal["fp16", "fp32"] | None = None,
    allow_missing: FlagOption = False,
    workers: int | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    deterministic: FlagOption = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Run a row end to end: features, readout, run record. `repro ROW` is the same.

    Args:
        row: a name from `repro list`.
        seeds: how many readouts; the published seed first, then those that follow it.
        protocol: honest picks the epoch on clips held out of the training split; never judged against the table. A grid
            takes both.
        grid: a readout at each of 7 timesteps and 13 layers, and the best of them by the published and the honest rule.
        timesteps: with --grid: some of its timesteps, as 20 or 0,5,10 [default: all].
        layers: with --grid: some of its layers, as 9, 1,9 or 1-13 [default: all].
        head: with --grid: transformer, or linear as in the release's linear grids [default: the row's].
        jobs: with --grid: processes that train at the same time; they share the cores, and a GPU [default: 1].
        stored_as: with --grid: features on disk; fp16 takes half, but is not what the row itself reads [default: fp32].
        allow_missing: go on without clips that are not there; recorded, and widens an accuracy row's margin.
        workers: processes that decode [default: one fewer than there are cores].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        deterministic: on a GPU, only operations that repeat bit for bit.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    if row in (*rows.SMOKE_ROWS, *rows.PRETRAINED_SMOKE_ROWS):
        raise UsageError(f"{row} is part of the smoke job: run `repro smoke`")
    found, place = rows.load_row(row), open_workspace(workspace)
    count, processes = at_least_one("--seeds", seeds) or 1, at_least_one("--workers", workers)
    frames = at_least_one("--batch", batch)
    of_grid = {
        "--timesteps": timesteps, "--layers": layers, "--head": head, "--jobs": jobs, "--stored-as": stored_as,
        "--protocol both": protocol if protocol == "both" else None,
    }  # fmt: skip
    if not grid:
        only_with(of_grid, "--grid")
    else:
        from repro import grid as grids

        wish = grids.wish(timesteps, layers, head, protocol, stored_as, at_least_one("--jobs", jobs))
        grids.wished_row(row, wish)

    from repro import requirements

    # First what it lacks, which takes no time to find out; a device asked for is one of these things.
    named = device or device_from_environment()
    requirements.require(row, found, place, gpu=named is not None and named != "cpu")
    chosen = requirements.chosen_device(device)
    if grid:
        how = grids.Options(count, chosen, deterministic, processes, frames, allow_missing)
        return grids.run(row, wish, how, place, as_json_=json_)

    from repro import running

    assert protocol != "both"
    options = running.Options(
        count, protocol, chosen, deterministic, workers=processes, batch=frames, allow_missing=allow_missing
    )
    return running.run(row, options, place, as_json=json_)


@app.command
def readout(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = "published",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    device: DeviceOption = None,
    deterministic: FlagOption = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """The readout of a row alone, from features that are there already.

    Args:
        row: a name from `repro list`.
        seeds: how many readouts; the published seed first, then those that follow it.
        protocol: honest picks the epoch on clips held out of the training split; never judged against the table.
        precision: of matrix products; part of the run's key, and recorded.
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        deterministic: on a GPU, only operations that repeat bit for bit.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    rows.load_row(row)

    from repro import running
    from repro.requirements import chosen_device

    count = at_least_one("--seeds", seeds) or 1
    options = running.Options(count, protocol, chosen_device(device), deterministic, precision)
    return running.read_out_alone(row, options, open_workspace(workspace), as_json=json_)


@app.command
def predict(
    row: str,
    /,
    *videos: Path,
    seed: int | None = None,
    top: int = 5,
    workers: int = 1,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Score any video files with a row's trained readout.

    Args:
        row: a row that has been run here, also smoke.
        videos: files; one that cannot be decoded is named, the others are scored.
        seed: of the readout [default: the newest run's].
        top: classes shown for each video.
        workers: processes that decode.
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    rows.load_row(row)
    if not videos:
        raise UsageError("predict: no video named: give one or more files")
    shown, processes = at_least_one("--top", top) or 1, at_least_one("--workers", workers) or 1

    from repro import predicting
    from repro.backbones.extractor import Execution
    from repro.requirements import chosen_device

    execution = Execution(chosen_device(device), at_least_one("--batch", batch), processes)
    return predicting.show(row, videos, seed, shown, open_workspace(workspace), execution, as_json=json_)


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

    from repro.smoke import job, summary
    from repro.terminal import Reporter

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
    from repro import fetching

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
    from repro import checking

    return checking.show(open_workspace(workspace), expected, strict=strict, as_json=json_)


app.command(cli_features.extract)
app.command(cli_features.verify)
app.command(cli_data.data)

VERBS = ("list", "run", "fetch", "data", "extract", "readout", "predict", "smoke", "verify", "check")
