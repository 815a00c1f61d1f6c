"""The workspace: the one folder a person's data, checkpoints, features and runs lie in.

    workspace.json data/ checkpoints/ listings/ audits/ features/ runs/ reports/ smoke/ mlflow.db rates.json

REPRO_DATA and REPRO_CHECKPOINTS may name folders elsewhere, as the image's mount points do.
The only module that reads the environment.
"""

import errno
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repro import __version__
from repro.core.errors import UsageError
from repro.core.files import lock_file, write_json

FORMAT = 1
"""Of the workspace's layout, in its workspace.json: raised when another version could not make sense of it."""


@dataclass(frozen=True, slots=True)
class Workspace:
    root: Path
    data_elsewhere: Path | None = None
    checkpoints_elsewhere: Path | None = None

    @property
    def data(self) -> Path:
        """What a user brings: the data sets as their owners distribute them."""
        return self.data_elsewhere or self.root / "data"

    @property
    def checkpoints(self) -> Path:
        """What a user brings: published weights."""
        return self.checkpoints_elsewhere or self.root / "checkpoints"

    @property
    def smoke(self) -> Path:
        """What the smoke job makes for itself: clips, and weights drawn from a seed."""
        return self.root / "smoke"

    @property
    def listings(self) -> Path:
        """What the annotation files of data sets say, parsed; made again where it is not there."""
        return self.root / "listings"

    @property
    def audits(self) -> Path:
        """What `repro data audit` found, a folder a data set."""
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
    def hashes(self) -> Path:
        """sha256 of large files, remembered (repro/core/hashing.py)."""
        return self.root / "hashes.jsonl"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def command_option(self) -> str:
        """What a command line adds to name this workspace; nothing for ./workspace."""
        return "" if self.root == Path("workspace").absolute() else f" --workspace {shlex.quote(str(self.root))}"

    def require_writable(self) -> None:
        """Make the folder where it is absent and try a file in it.

        Raises:
            UsageError: it cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".writable-"):
                pass
        except OSError as error:
            reason = "no space left on the device" if error.errno == errno.ENOSPC else (error.strerror or str(error))
            raise UsageError(
                f"workspace {self.root} cannot be written ({reason}): "
                "name a folder of yours with --workspace DIR or REPRO_WORKSPACE"
            ) from error
        if not self.stamp.exists():
            write_json(self.stamp, {"format": FORMAT, "made_by": f"actiondiff-repro {__version__}"})

    @property
    def stamp(self) -> Path:
        """Which layout it has, and which version made it."""
        return self.root / "workspace.json"

    def require_readable(self) -> None:
        """
        Raises:
            UsageError: another version's, of a layout this one does not know.
        """
        try:
            stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
            found, maker = stamp["format"], stamp["made_by"]
        except OSError:  # none there; what cannot be read or written is said where that is tried
            return
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.stamp}: does not say which layout the workspace has: restore it, or delete it if the workspace is of "
                "this version"
            ) from error
        if found != FORMAT:
            raise UsageError(
                f"workspace {self.root} was made by {maker} and has layout {found}, this version reads layout {FORMAT}: use "
                "that version, or another --workspace"
            )

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the workspace's lock `name`.

        Raises:
            UsageError: another process holds it; the message says which.
        """
        busy = f"workspace {self.root}: '{name}' is already running here"
        with lock_file(self.root / f".{name}.lock", busy, "wait for it to end, or use another --workspace"):
            yield


def open_workspace(option: Path | None) -> Workspace:
    """The workspace named by --workspace, else by REPRO_WORKSPACE, else ./workspace. Nothing is made on disk.

    Raises:
        UsageError: the path is there and is not a folder.
    """
    root = _absolute(option or Path(os.environ.get("REPRO_WORKSPACE") or "workspace"))
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
    """A workspace that can be written, for a job that needs nothing a user brings; and a line to say, or "".

    Where REPRO_SCRATCH is set, as in the image, and the workspace of the environment cannot be written, it is a folder
    in there. A workspace named by the option is taken at its word.

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
    """cpu or cuda where REPRO_DEVICE says so, as the CUDA image does.

    Raises:
        UsageError: it says something else.
    """
    device = os.environ.get("REPRO_DEVICE") or None
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"REPRO_DEVICE is '{device}': expected cpu or cuda")
    return device


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return _absolute(Path(value)) if value else None


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{path}: {str(error).rstrip('.').lower()}: write the folder's whole path") from error


def quiet_libraries() -> None:
    """Set what third-party libraries read from the environment: no telemetry, no look-ups of newer versions, no connections
    kept open by MLflow. Call it before importing them."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    # A pooled connection would go on writing to a database that has been renamed and replaced.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
