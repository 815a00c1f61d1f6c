"""The command line: verbs, options and what they print. Verbs import what they need when they run."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from repro import __version__, rows
from repro.errors import Exit, MissingError, UsageError
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

WorkspaceOption = Annotated[Path | None, Parameter(name="--workspace")]
SetOption = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
DeviceOption = Annotated[str | None, Parameter(name="--device")]
BatchOption = Annotated[int | None, Parameter(name="--batch")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="")]


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
def run(row: str, /, *, workspace: WorkspaceOption = None) -> Exit:
    """Run a row end to end: features, readout, run record. `repro ROW` is the same.

    Args:
        row: a name from `repro list`.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
    """
    if row in rows.SMOKE_ROWS:
        raise UsageError(f"{row} is part of the smoke job: run `repro smoke`")

    from repro import requirements

    requirements.require(row, rows.load_row(row), open_workspace(workspace), gpu=device_from_environment() == "cuda")
    raise MissingError(f"row {row}: its data and weights are here, but this version does not run published rows yet")


@app.command
def smoke(
    *,
    workspace: WorkspaceOption = None,
    workers: int = 1,
    seeds: str = "52,53",
    json_: JsonOption = False,
) -> Exit:
    """The whole way on clips rendered here: small, offline, on a CPU, in minutes; judged against golden values.

    The backbone's weights are random: the score shows that numbers repeat, not that actions are recognised.

    Args:
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        workers: processes that decode; the numbers do not depend on it.
        seeds: of the readout, separated by commas; those without a golden value are run and not judged.
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
    result = job.run_smoke(place, chosen, workers, reporter)
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
def verify(
    backbone: str,
    /,
    *,
    golden: Path | None = None,
    checkpoint: Path | None = None,
    implementation: str | None = None,
    set_: SetOption = (),
    limit: float | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Hold a backbone's features against golden ones; exits 1 where a tensor deviates by more than the limit.

    Without golden values, on this machine and these weights: the fast path against the plain one as released, one
    implementation against the other, each precision against fp32.

    Args:
        backbone: a name from configs/backbones.
        golden: folder of golden windows (repro/verify.py says what a file holds).
        checkpoint: weights in the published layout [default: the backbone's, in the workspace].
        implementation: whose modules compute: sgm, diffusers or auto [default: the backbone's].
        set_: another value for a key of the backbone's config, as frames.window=16; may be given again.
        limit: largest relative L2 allowed [default: 1e-5].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    changes = _changes(set_, implementation=implementation)

    from repro import verification
    from repro.requirements import chosen_device

    return verification.show(
        backbone,
        golden,
        checkpoint,
        changes,
        limit,
        chosen_device(device),
        _at_least_one("--batch", batch),
        open_workspace(workspace),
        as_json=json_,
    )


@app.command
def extract(
    source: str,
    /,
    *,
    backbone: str = "svd_xt",
    timesteps: str = "20",
    layers: str = "9",
    grid: Annotated[bool, Parameter(negative="")] = False,
    stored_as: Literal["fp16", "fp32"] | None = None,
    shard: str | None = None,
    implementation: str | None = None,
    precision: Literal["fp32", "tf32", "fp16", "bf16"] | None = None,
    set_: SetOption = (),
    workers: int | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Features of a data set or of any folder of videos; without options as the release's quick start.

    What is there already is kept; a clip that fails is named, the others go on, and it is tried again the next time.

    Args:
        source: a name from configs/datasets, or a folder of videos.
        backbone: names from configs/backbones, separated by commas; svd_xt,sdv2 share all but the UNet.
        timesteps: of a backbone that has them, as 20 or 0,5,10.
        layers: as 9, 1,9 or 1-13.
        grid: 7 timesteps and 13 layers in one pass, stored as fp16.
        stored_as: numbers on disk [default: fp32; fp16 for the grid].
        shard: i/n, the i-th of n parts; parts may run at the same time, on several machines.
        implementation: whose modules compute: sgm, diffusers or auto [default: the backbone's].
        precision: of computing: fp32, tf32, fp16 (as released) or bf16 [default: the backbone's].
        set_: another value for a key of the backbones' configs, as frames.window=16; may be given again.
        workers: processes that decode [default: one fewer than there are cores].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro import extraction

    wanted = extraction.Wanted(
        source=source,
        backbones=tuple(backbone.split(",")),
        timesteps=extraction.numbers("--timesteps", timesteps),
        layers=extraction.numbers("--layers", layers),
        grid=grid,
        stored_as=stored_as or ("fp16" if grid else "fp32"),
        shard=extraction.shard(shard),
        changes=_changes(set_, implementation=implementation, precision=precision),
    )

    from repro.requirements import chosen_device

    place = open_workspace(workspace)
    return extraction.run(
        wanted,
        place,
        workers=_at_least_one("--workers", workers),
        device=chosen_device(device),
        batch=_at_least_one("--batch", batch),
        as_json=json_,
    )


def _changes(pairs: Sequence[str], **named: str | None) -> dict[str, str]:
    """--set's KEY=VALUE pairs, and options that stand for one."""
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected KEY=VALUE, as frames.window=16")
        changes[key] = value
    return changes | {key: value for key, value in named.items() if value is not None}


def _at_least_one(option: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{option} {value}: expected a number from 1 on")
    return value


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


data = App(
    name="data",
    help="The data sets: what is there, bringing the owners' archives into place, decoding every clip, comparing.",
)
app.command(data)


@data.command(name="status")
def data_status(*names: str, workspace: WorkspaceOption = None, json_: JsonOption = False) -> Exit:
    """What is there of each data set, and what is missing.

    Args:
        names: from configs/datasets [default: all].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro import inventory

    return inventory.show_status(names, open_workspace(workspace), as_json=json_)


@data.command(name="prepare")
def data_prepare(
    name: str,
    /,
    *,
    from_: Annotated[list[Path] | None, Parameter(name="--from", consume_multiple=True, negative="")] = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Link or unpack a data set's videos and annotations into the layout that is read; exits 4 where clips are missing.

    Args:
        name: from configs/datasets.
        from_: archives, or folders that hold them or what was in them [default: the data set's folder archives].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro import inventory

    return inventory.show_prepare(name, from_ or [], open_workspace(workspace), as_json=json_)


@data.command(name="audit")
def data_audit(
    name: str, /, *, workers: int | None = None, workspace: WorkspaceOption = None, json_: JsonOption = False
) -> Exit:
    """Decode every clip and write a manifest of what is in it; goes on where it was killed; exits 4 on any fault.

    Args:
        name: from configs/datasets.
        workers: processes that decode [default: one a core].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro import inventory

    return inventory.show_audit(name, workers, open_workspace(workspace), as_json=json_)


@data.command(name="diff")
def data_diff(a: Path, b: Path, /, *, json_: JsonOption = False) -> Exit:
    """Which clips two manifests of `repro data audit` differ in, and how; exits 1 where they differ.

    Args:
        a: a manifest.parquet.
        b: another.
        json_: print JSON only.
    """
    from repro import inventory

    return inventory.show_diff(a, b, as_json=json_)


VERBS = ("list", "run", "fetch", "data", "extract", "smoke", "verify", "check")
