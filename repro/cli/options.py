"""Options that several commands share. Name, help and limits of each are written here, once.

A command takes a group as one keyword argument with its default (`common: CommonOptions = COMMON`); cyclopts shows the
group's fields as options of the command. Values outside the limits are refused before the command's body runs.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Parameter, Token

from repro.backbones.config import Layer, Precision
from repro.backbones.extractor import Execution
from repro.backbones.registry import backbone_names
from repro.core.console import Reporter
from repro.core.errors import UsageError
from repro.core.progress.stages import Work
from repro.core.workspace import (
    Workspace,
    array_task_from_environment,
    job_from_environment,
    keep_caches,
    open_workspace,
)
from repro.table.row import Row, SeedChoice
from repro.table.rows import command_for_row, extra_names, is_smoke_row, load_any_row, row_names

if TYPE_CHECKING:
    from repro.features.store import StoredAs
    from repro.readout.compute import Compute
    from repro.readout.recipe import TrainingPrecision

MOST_WORKERS = 1024
"""Upper limit of --workers for every command: beyond it, a typing error is likelier than a machine."""


def require_number(option: str, least: int, most: int | None = None) -> Callable[[type, Any], None]:
    """Return a cyclopts validator that refuses numbers outside `least`..`most`; None (not given) passes."""

    def validate(_: type, value: int | None) -> None:
        if value is not None and (value < least or (most is not None and value > most)):
            limits = f"a number from {least} on" if most is None else f"a number from {least} to {most}"
            raise UsageError(f"{option} {value}: expected {limits}")

    return validate


def _require_device(_: type, value: str | None) -> None:
    if value is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise UsageError(f"--device {value}: expected cpu, cuda or cuda:N")


def _require_new_file(_: type, value: Path | None) -> None:
    # Before hours of work, at whose end the file would be written.
    if value is not None and value.exists():
        raise UsageError(f"--profile {value}: exists already: name a new file")
    if value is not None and not os.access(value.absolute().parent, os.W_OK):
        raise UsageError(f"--profile {value}: {value.absolute().parent} is not a folder that can be written to")


def require_output(option: str, path: Path) -> None:
    """Refuse an output file that cannot be written, before the hours of work at whose end it would be.

    Raises:
        UsageError: a folder of that name, or the folder above it is a file or cannot be written to.
    """
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(
            f"{option} {path}: {path if path.is_dir() else place} is not a place for a file: name another one"
        )


def _complete_rows(_: object) -> list[str]:
    return [*row_names(), *extra_names()]


def _complete_datasets(_: object) -> tuple[str, ...]:
    from repro.datasets.registry import user_dataset_names

    return tuple(user_dataset_names())


def _complete_backbones(_: object) -> list[str]:
    return backbone_names()


RowName = Annotated[str, Parameter(completer=_complete_rows)]
DatasetName = Annotated[str, Parameter(completer=_complete_datasets)]
BackboneName = Annotated[str, Parameter(completer=_complete_backbones)]

STORED_AS: "dict[str, StoredAs]" = {"fp32": "float32", "fp16": "float16"}
"""The types of --stored-as, as stores and records spell them (NumPy's names)."""

FlagOption = Annotated[bool, Parameter(negative="", show_default=False)]
WorkspaceOption = Annotated[
    Path | None,
    Parameter(
        name="--workspace",
        help="Folder of data and results [default: REPRO_WORKSPACE, else ./workspace].",
    ),
]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON only.")]
MOST_COUNTED = 30
"""Upper limit of a count in --seeds: all published seeds are above it, so that a seed is never taken for a count."""


def parse_seeds(option: str, text: str) -> SeedChoice:
    """Parse 5 (the first 5 planned seeds) or 52,53, 52-56, 52, (the seeds themselves); after --seed a number is the seed.

    Raises:
        UsageError: no such choice, or a count that may be meant as a seed.
    """
    parts = text.removesuffix(",").split(",")
    bounds = [part.partition("-") for part in parts]
    if not all(
        first.isdecimal()
        and len(part) <= 21
        and (not dash or (last.isdecimal() and int(first) <= int(last) < int(first) + 1000))
        for part, (first, dash, last) in zip(parts, bounds, strict=True)
    ):
        raise UsageError(f"{option} '{text}': expected a number of seeds, as 5, or seeds, as 52,53, 52-56 or 52,")
    if option == "--seeds" and parts == [text] and not bounds[0][1]:
        if not 1 <= int(text) <= MOST_COUNTED:
            raise UsageError(
                f"--seeds {text}: a number alone says how many, from 1 to {MOST_COUNTED}: write --seed {text} for that seed alone"
            )
        return int(text)
    seeds = tuple(seed for first, _, last in bounds for seed in range(int(first), int(last or first) + 1))
    if option == "--seed" and len(seeds) > 1:
        raise UsageError(f"--seed {text}: expected one seed: several are --seeds {text}")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"{option} '{text}': expected different seeds")
    return seeds


def _read_seeds(_: Any, tokens: Sequence[Token]) -> SeedChoice:
    return parse_seeds(tokens[0].keyword or "--seeds", tokens[0].value)


SeedsOption = Annotated[
    SeedChoice,
    Parameter(
        name=("--seeds", "--seed"),
        converter=_read_seeds,
        n_tokens=1,
        negative="",
        metavar="SEEDS",
        help="--seeds 5: the published seed and the 4 after it; --seeds 52,53 or 52-56: these; --seed 52: this one.",
    ),
]


def read_protocol(type_: Any, tokens: Sequence[Token]) -> str:
    """Convert --protocol for cyclopts; "honest" is the name of "held-out" in versions up to 0.1.0.

    Raises:
        UsageError: no such protocol.
    """
    value = "held-out" if tokens[0].value == "honest" else tokens[0].value
    # Of `Literal[...] | None`, the words of the literal.
    known = [word for part in get_args(type_) for word in (get_args(part) or (part,)) if isinstance(word, str)]
    if value not in known:
        raise UsageError(f"--protocol {value}: expected {', '.join(known[:-1])} or {known[-1]}")
    return value


ProtocolOption = Annotated[
    Literal["published", "held-out"] | None,
    Parameter(
        name="--protocol",
        converter=read_protocol,
        show_choices=False,
        metavar="RULE",
        help="Selects the epoch: published, or held-out, which is not judged [default: published, for own clips held-out].",
    ),
]
DeterministicOption = Annotated[
    bool,
    Parameter(
        name="--deterministic",
        negative="",
        show_default=False,
        help="On a GPU, use repeatable operations only.",
    ),
]
TogetherOption = Annotated[
    int | None,
    Parameter(
        name="--together",
        validator=require_number("--together", 1),
        help="Readouts trained as one program [default: as many as a GPU's memory holds; 1 on a CPU].",
    ),
]
DamagedOption = Annotated[
    bool,
    Parameter(
        name="--allow-damaged",
        negative="",
        show_default=False,
        help="Use what decodes of damaged clips; recorded.",
    ),
]
DeviceOption = Annotated[
    str | None,
    Parameter(
        name="--device",
        validator=_require_device,
        help="cpu, cuda or cuda:N [default: REPRO_DEVICE or a GPU].",
    ),
]
PrecisionOption = Annotated[
    tuple[Precision, ...],
    Parameter(
        name="--precision",
        negative="",
        show_default=False,
        show_choices=False,
        metavar="NAME...",
        help="fp32, tf32, bf16, published (SVD as released), fast (SVD) or fp16 (transformers). May be repeated: a backbone takes "
        "the first that it has [default: its own].",
    ),
]
BatchOption = Annotated[
    int | None,
    Parameter(
        name="--batch",
        validator=require_number("--batch", 1),
        help="Frames or windows at once [default: by memory].",
    ),
]
CompileOption = Annotated[
    Literal["yes", "no"] | None,
    Parameter(
        name="--compile",
        show_choices=False,
        metavar="yes/no",
        help="Compile for a GPU [default: from 100 clips on].",
    ),
]

TimestepsOption = Annotated[
    str | None,
    Parameter(name="--timesteps", help="Timesteps of a diffusion backbone, as 20 or 0,5,10 [default: 20]."),
]
LayersOption = Annotated[
    str | None, Parameter(name="--layers", help="Layers: 9; 1,9; 1-13; or up_1-up_12 [default: 9].")
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """Options of nearly every command."""

    workspace: WorkspaceOption = None
    as_json: JsonOption = False

    def open_workspace(self) -> Workspace:
        """Return the workspace that --workspace or the environment names; nothing is written."""
        workspace = open_workspace(self.workspace)
        workspace.require_possible()
        keep_caches(workspace)
        return workspace


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """Where networks compute."""

    device: DeviceOption = None
    batch: BatchOption = None
    compile_: CompileOption = None

    @property
    def compiled(self) -> bool | None:
        """Whether networks are compiled for a GPU; None: where it pays."""
        return None if self.compile_ is None else self.compile_ == "yes"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeOptions(DeviceOptions):
    """Where networks compute, and how many processes feed them."""

    workers: Annotated[
        int | None,
        Parameter(
            validator=require_number("--workers", 1, MOST_WORKERS),
            help="Processes that decode videos [default: cores - 1].",
        ),
    ] = None
    allow_damaged: DamagedOption = False
    precision: PrecisionOption = ()
    profile: Annotated[
        Path | None,
        Parameter(
            validator=_require_new_file,
            help="New file for a trace of the first 4 batches.",
        ),
    ] = None

    def execution(self, device: str, say: Callable[[str], None] = lambda line: None) -> Execution:
        """Return how features are computed on `device`; `say` receives notes about checkpoints."""
        # Imported here, because every command imports this module and few decode videos.
        from repro.video.decoders import count_spare_cores

        workers = self.workers or count_spare_cores()
        return Execution(device, self.batch, workers, self.allow_damaged, say, self.profile, self.compiled)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions(ComputeOptions):
    """Where features are computed and readouts are trained."""

    deterministic: DeterministicOption = False
    together: TogetherOption = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneOptions:
    """What of a backbone's config is changed."""

    implementation: Annotated[
        str | None,
        Parameter(help="Library that computes: sgm, diffusers or auto [default: the backbone's]."),
    ] = None
    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            negative="",
            show_default=False,
            help="Override a key of its config, as frames.window=16; repeatable.",
        ),
    ] = ()

    def changes(self) -> dict[str, str]:
        """Return the changes as YAML text by dotted key.

        Raises:
            UsageError: a --set without `=` or without a key.
        """
        found = {}
        for pair in self.set_:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise UsageError(f"--set {pair}: expected KEY=VALUE, as frames.window=16")
            found[key] = value
        return found if self.implementation is None else found | {"implementation": self.implementation}


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """How far a bundle is checked beyond its own evidence."""

    sample: Annotated[
        int | None,
        Parameter(
            validator=require_number("--sample", 1),
            help="With --bundle, number of random clips of each data set to extract again and compare.",
        ),
    ] = None
    nonce: Annotated[
        str | None, Parameter(help="With --sample, text that decides which clips [default: a new one, printed].")
    ] = None
    repeat_readout: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="With --bundle, train every readout again on features here and compare scores.",
        ),
    ] = False
    features: Annotated[
        tuple[Path, ...],
        Parameter(
            negative="",
            show_default=False,
            help="With --repeat-readout, files of `repro features export` to train on; may be repeated "
            "[default: the workspace's features].",
        ),
    ] = ()
    device: DeviceOption = None


# Frozen, so that one instance serves as every command's default.
COMMON = CommonOptions()
ON_DEVICE = DeviceOptions()
COMPUTE = ComputeOptions()
TRAINING = TrainingOptions()
BUNDLE = BundleOptions()
BACKBONE = BackboneOptions()


def follow_work(reporter: Reporter, what: str, workspace: Workspace, device: str) -> AbstractContextManager[Work]:
    """Return a block in which the stages of long work are shown, and described in the workspace's status files."""
    # Imported here, because few of the commands that import this module follow work.
    from repro.core.progress.status_files import StatusFile

    work = Work(what)
    return reporter.follow(work, StatusFile(workspace.status, work, device, job_from_environment()))


def open_compute(
    device: str, precision: "TrainingPrecision" = "fp32", *, deterministic: bool = False, together: int | None = None
) -> "Compute":
    """Return how readouts are trained on `device`.

    Raises:
        UsageError: the device or the precision is not available on this machine.
    """
    # Imports torch, which takes seconds: commands call this after everything that can be refused without it.
    from repro.readout.compute import Compute

    return Compute(device, precision, deterministic, together=together).require_available()


def parse_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Parse 20, 0,5,10 or 1-13 as ascending numbers without duplicates; None (not given) stays None.

    Raises:
        UsageError: not such numbers.
    """
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        is_range = not dash or (last.isdecimal() and first.isdecimal() and int(first) <= int(last))
        # Seven characters hold any timestep or layer: a longer range would only fill memory.
        if not first.isdecimal() or not is_range or len(part) > 7:
            raise UsageError(f"{option} {text}: expected numbers, as 20, 0,5,10 or 1-13")
        numbers |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def parse_layers(text: str | None) -> tuple[Layer, ...] | None:
    """Parse layers: numbers as parse_numbers, then up_1 or up_1-up_12 for a decoder's, then final.

    Raises:
        UsageError: not such layers.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    ups = [part.replace("up_", "") for part in parts if part.startswith("up_")]
    numbered = [part for part in parts if not part.startswith("up_") and part != "final"]
    try:
        numbers = (parse_numbers("--layers", ",".join(numbered)) or ()) if numbered else ()
        up_numbers = (parse_numbers("--layers", ",".join(ups)) or ()) if ups else ()
    except UsageError as error:
        raise UsageError(f"--layers {text}: expected layers, as 9, 1,9, 1-13, up_1, up_1-up_12 or final") from error
    return (*numbers, *(f"up_{n}" for n in up_numbers), *(("final",) if "final" in parts else ()))


def parse_shards(text: str | None) -> tuple[tuple[int, int], ...]:
    """Parse i/n as a pair with 1 <= i <= n; i/n,j/m is part j of m of that part; slurm is the task of a SLURM job array.

    Raises:
        UsageError: not such pairs, or no such task.
    """
    shards = []
    for part in text.split(",") if text is not None else ():
        number, _, of = part.partition("/")
        if number == "slurm":
            number, of = _find_array_task(part, of or None)
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"--shard {part}: expected i/n with i from 1 to n, as 1/4, or slurm in a job array")
        shards.append((int(number), int(of)))
    return tuple(shards)


def _find_array_task(option: str, count: str | None) -> tuple[str, str]:
    """Return the number of the part that this task of a SLURM job array is, and the count of parts.

    Raises:
        UsageError: there is no job array, or it is not 1 to n.
    """
    task = array_task_from_environment()
    if task is None:
        raise UsageError(
            f"--shard {option}: no SLURM job array (SLURM_ARRAY_TASK_ID is not set): submit it with --array=1-8"
        )
    # Tasks that are submitted again by themselves know the count of their own array alone, and would divide the clips otherwise.
    if count is None and (task.first, task.last) != (1, task.count):
        raise UsageError(
            f"--shard slurm: the job array is {task.first} to {task.last}, {task.count} tasks, and not 1 to n: for some tasks of "
            "an array of 8 write --shard slurm/8"
        )
    of = str(task.count) if count is None else count
    if not (of.isdecimal() and 1 <= task.number <= int(of)):
        raise UsageError(
            f"--shard {option}: task {task.number} of the job array is no part of {of}: expected --array=1-{of}"
        )
    return str(task.number), of


def load_requested_rows(names: Sequence[str], precisions: Sequence[Precision] = ()) -> list[Row]:
    """Return the rows that a command was asked to run or plan, each once; if `names` has `all`, all 24 and own rows.

    Raises:
        UsageError: as load_requested_row, also for names that `all` makes superfluous.
    """
    rows = [load_requested_row(name, precisions) for name in dict.fromkeys(names) if name != "all"]
    if "all" not in names:
        return rows
    return [*(load_requested_row(name, precisions) for name in row_names()), *(row for row in rows if row.own_datasets)]


def load_requested_row(name: str, precisions: Sequence[Precision] = ()) -> Row:
    """Return the row that a command was asked to run or plan, with its features in the first of `precisions` that it has [default: the row's].

    Raises:
        UsageError: no such row, a row of the smoke job, a config that is not valid, or none of the precisions.
    """
    if is_smoke_row(name):
        raise UsageError(f"{name} is part of the smoke job: run `{command_for_row(name)}`")
    return load_any_row(name, *precisions)
