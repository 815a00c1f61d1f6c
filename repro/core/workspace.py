"""The workspace: the folder with the user's data, checkpoints, features and runs.

    workspace.json data/ checkpoints/ listings/ audits/ features/ runs/ reports/ smoke/ cache/ status/ spent/ mlflow.db rates.json
    rescored.jsonl computed.jsonl

REPRO_DATA and REPRO_CHECKPOINTS may name folders outside it, as in the container image, where they are mount points.
This is the only module that reads environment variables.
"""

import errno
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from repro.core import __version__
from repro.core.errors import UsageError, hide_logins
from repro.core.files import lock_file, write_json
from repro.core.locks import own_partial, remove_partials
from repro.core.reading import IrregularFileError, parse_json, read_text

WORKSPACE_FORMAT = 1
"""Version of the workspace's layout, stored in its workspace.json. Raised if older versions could not read the layout."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of a workspace. Creating one touches nothing on disk."""

    root: Path
    data_elsewhere: Path | None = None
    checkpoints_elsewhere: Path | None = None

    @property
    def data(self) -> Path:
        """The data sets as their publishers distribute them."""
        return self.data_elsewhere or self.root / "data"

    @property
    def checkpoints(self) -> Path:
        """Published weights."""
        return self.checkpoints_elsewhere or self.root / "checkpoints"

    @property
    def smoke(self) -> Path:
        """What the smoke job generates: clips, and random weights."""
        return self.root / "smoke"

    @property
    def listings(self) -> Path:
        """Parsed annotation files of the data sets; rebuilt if missing."""
        return self.root / "listings"

    @property
    def audits(self) -> Path:
        """Results of `repro data audit`, one folder per data set."""
        return self.root / "audits"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def status(self) -> Path:
        """What each command does now (repro/core/progress/status_files.py)."""
        return self.root / "status"

    @property
    def hashes(self) -> Path:
        """Cache of the sha256 of large files (repro/core/hashing.py)."""
        return self.root / "hashes.jsonl"

    @property
    def rescored(self) -> Path:
        """Scores and intervals that `repro check` has computed from predictions, by the sha256 of their file (repro/judge/kept.py)."""
        return self.root / "rescored.jsonl"

    @property
    def computed(self) -> Path:
        """As `rescored`, what `repro check --claims` and `repro report` have computed besides."""
        return self.root / "computed.jsonl"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def mlflow_lock(self) -> Path:
        """Held by the one process that writes to MLflow."""
        return self.root / ".mlflow.lock"

    @property
    def cache(self) -> Path:
        """What libraries keep to be faster the next time; may be deleted."""
        return self.root / "cache"

    @property
    def command_option(self) -> str:
        """The option that names this workspace in a printed command; empty for ./workspace, the default."""
        return "" if self.root == Path("workspace").absolute() else f" --workspace {shlex.quote(str(self.root))}"

    def require_writable(self) -> None:
        """Create the folder if it is missing, and check that files can be written in it.

        Raises:
            UsageError: it cannot be created or written.
        """
        try:
            # A real file, because permissions alone do not show a full disk or a read-only file system.
            self.root.mkdir(parents=True, exist_ok=True)
            with own_partial(self.root / "writable"):
                pass
        except OSError as error:
            reason = "no space left on the device" if error.errno == errno.ENOSPC else (error.strerror or str(error))
            raise UsageError(
                f"workspace {self.root} cannot be written ({reason}): "
                "name a folder of yours with --workspace DIR or REPRO_WORKSPACE"
            ) from error
        # Files written here by every kind of command; the folders of features, runs and audits are cleaned by their writers.
        for folder in (self.root, self.listings, self.reports, self.root / "spent"):
            remove_partials(folder)
        if not self.stamp.exists():
            write_json(self.stamp, {"format": WORKSPACE_FORMAT, "made_by": f"actiondiff-repro {__version__}"})

    @property
    def stamp(self) -> Path:
        """The file that states the layout, and which version created the workspace."""
        return self.root / "workspace.json"

    def require_readable(self) -> None:
        """Check that this version knows the workspace's layout; a new workspace passes.

        Raises:
            UsageError: it has another layout, or its stamp is damaged.
        """
        try:
            stamp = parse_json(read_text(self.stamp))
            found, maker = stamp["format"], stamp["made_by"]
        except IrregularFileError as error:
            raise UsageError(
                f"{self.stamp}: not a regular file: delete it if this version made the workspace"
            ) from error
        except OSError:  # missing; a folder that cannot be read is reported by the command that reads it
            return
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.stamp}: does not state the workspace's layout: restore it, or delete it if this version made the "
                "workspace"
            ) from error
        if found != WORKSPACE_FORMAT:
            raise UsageError(
                f"workspace {self.root} was made by {str(maker)[:80]} and has layout {str(found)[:80]}, this version reads layout {WORKSPACE_FORMAT}: use "
                "that version, or another --workspace"
            )

    def require_possible(self) -> None:
        """Check that the folders exist or can be created one day: nothing above them is a file.

        Raises:
            UsageError: something is.
        """
        for what, folder in (
            ("workspace", self.root),
            ("REPRO_DATA:", self.data_elsewhere),
            ("REPRO_CHECKPOINTS:", self.checkpoints_elsewhere),
        ):
            there = next((place for place in (folder, *folder.parents) if place.exists()), None) if folder else None
            if there is not None and not there.is_dir():
                raise UsageError(
                    f"{what} {folder} cannot be a folder: {there} is a file, not a folder: name another one"
                )

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the workspace's lock `name`.

        Raises:
            UsageError: another process holds it; the message names that process.
        """
        busy = f"workspace {self.root}: '{name}' is already running here"
        with lock_file(self.root / f".{name}.lock", busy, "wait for it to end, or use another --workspace"):
            yield


def open_workspace(option: Path | None) -> Workspace:
    """Return the workspace named by --workspace, else by REPRO_WORKSPACE, else ./workspace. Creates nothing on disk.

    Raises:
        UsageError: the path is a file, has a character that cannot be used, or the workspace has another layout.
    """
    root = _absolute(option or Path(os.environ.get("REPRO_WORKSPACE") or "workspace"))
    # MLflow is given the database's path inside a URL, where these characters have a meaning.
    unusable = [character for character in "?#%" if character in str(root)]
    if unusable:
        raise UsageError(
            f"workspace {root} has a '{unusable[0]}' in its path, which database addresses cannot hold: use another path"
        )
    if root.exists() and not root.is_dir():
        raise UsageError(f"workspace {root} is a file, not a folder: name a folder with --workspace DIR")
    workspace = Workspace(root, _folder_from("REPRO_DATA"), _folder_from("REPRO_CHECKPOINTS"))
    workspace.require_readable()
    return workspace


def open_scratch_workspace(option: Path | None) -> tuple[Workspace, str]:
    """Return a writable workspace for a job that needs no files of the user (the smoke job).

    If the workspace of the environment cannot be written and REPRO_SCRATCH is set, as in the container image, a folder in
    REPRO_SCRATCH is used instead. A workspace named by the option is never replaced.

    Returns:
        The workspace, and a note for the user, or "".

    Raises:
        UsageError: it cannot be written.
    """
    workspace = open_workspace(option)
    scratch = _folder_from("REPRO_SCRATCH")
    try:
        workspace.require_writable()
        return workspace, ""
    except UsageError:
        if option is not None or scratch is None:
            raise
    fallback = Workspace(scratch / f"actiondiff-{os.getuid()}")
    fallback.require_writable()
    return fallback, f"{workspace.root} cannot be written: working in {fallback.root}, which ends with the container"


def device_from_environment() -> str | None:
    """Return the device that REPRO_DEVICE names, as in the CUDA image; None if it is not set.

    Raises:
        UsageError: it is neither cpu nor cuda.
    """
    device = os.environ.get("REPRO_DEVICE") or None
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"REPRO_DEVICE is '{device}': expected cpu or cuda")
    return device


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where runs are logged to MLflow."""

    uri: str = ""
    """MLFLOW_TRACKING_URI; empty for the workspace's database."""
    experiment: str = ""
    """MLFLOW_EXPERIMENT_NAME; empty for an experiment for each table."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What no message may show."""

    @property
    def shown(self) -> str:
        """The address without user name, password and query, which may have them too."""
        return re.sub(r"[?#].*", "", hide_logins(self.uri))


def tracking_from_environment() -> Tracking:
    """Return where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say that runs are logged."""
    values = [
        os.environ.get(f"MLFLOW_{name}", "").strip()
        for name in ("TRACKING_URI", "EXPERIMENT_NAME", "TRACKING_TOKEN", "TRACKING_PASSWORD")
    ]
    uri = values[0]
    # What precedes the host, as a whole and the password alone, as it is written and as it is sent; and the values of the query.
    login = (re.match(r"[^:]*://([^/\s]*)@", uri) or ("", ""))[1]
    password = login.partition(":")[2]
    options = [value for _, value in parse_qsl(uri.partition("?")[2])]
    secrets = (*values[2:], login, password, unquote(password), *options)
    return Tracking(uri, values[1], tuple(text for text in secrets if len(text) > 3))


def build_from_environment() -> dict[str, str]:
    """Return what REPRO_IMAGE and REPRO_COMMIT say, which the container images set: the image, and the commit it was built from."""
    named = {name: os.environ.get(f"REPRO_{name.upper()}", "").strip() for name in ("commit", "image")}
    return {name: value for name, value in named.items() if value not in ("", "unknown")}


def job_from_environment() -> str:
    """Return the SLURM job that this process is part of, as 1234, or 1234_7 for a task of an array; empty if it is of none."""
    job, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    return f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID", "")


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """A task of a SLURM job array."""

    number: int
    first: int
    """Lowest number of the array."""
    last: int
    count: int
    """Number of tasks."""


def array_task_from_environment() -> ArrayTask | None:
    """Return the task of the SLURM job array that this process is part of; None outside of one.

    Raises:
        UsageError: SLURM's variables are incomplete or not numbers.
    """
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
    values = [os.environ.get(name, "") for name in names]
    if not values[0]:
        return None
    if not all(value.isdecimal() for value in values):
        found = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UsageError(f"{found}: expected numbers, as SLURM sets them: write --shard i/n in place of --shard slurm")
    return ArrayTask(*map(int, values))


def environment_values() -> dict[str, str]:
    """Return the environment's variables, for keeping what is private out of files that are shared."""
    return dict(os.environ)


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return _absolute(Path(value)) if value else None


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{path}: {str(error).rstrip('.').lower()}: write its absolute path") from error


LIBRARY_CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "HF_ASSETS_CACHE": "huggingface/assets",
    "HF_MODULES_CACHE": "huggingface/modules",
    "HF_XET_CACHE": "huggingface/xet",
}
"""Folder in the workspace's cache by the variable that names it to a library. Not HF_HOME: there are the user's login and the
files that other programs have downloaded, which `repro fetch` links rather than download them again."""


COMPILER_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Those without which nothing is compiled. torch creates the first when it is imported, also where nothing will be."""


def keep_caches(workspace: Workspace) -> None:
    """Have libraries keep their caches in the workspace rather than in the home, which may be read-only or small, unless a
    variable of the user names another folder. Call it before importing them; nothing is created here.

    COMPILER_CACHES that cannot be written, as in a workspace that others published, are where torch has them by default: in the
    folder for temporary files.
    """
    for variable, folder in LIBRARY_CACHES.items():
        os.environ.setdefault(variable, str(workspace.cache / folder))
    for variable in COMPILER_CACHES:
        place = Path(os.environ[variable]).absolute()
        there = next(folder for folder in (place, *place.parents) if os.access(folder, os.F_OK))
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            del os.environ[variable]


def find_c_compiler() -> str | None:
    """Return the C compiler that Triton would call, with which torch.compile computes on a GPU; None if there is none."""
    return os.environ.get("CC") or next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def quiet_libraries() -> None:
    """Set what third-party libraries read from the environment: no telemetry, no look-ups of newer versions, no connections
    kept open by MLflow. Call it before importing them."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    # A pooled connection would continue writing to a database that has been renamed and replaced.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # `repro ui` starts no workers for jobs that nothing here has.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # MLflow would wait for a server for up to 16 minutes a call. What a server does not take now, `repro track` logs later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
