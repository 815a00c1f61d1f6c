"""Where MLflow's database says that files are, checked: a database may have come with a workspace that somebody else made."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from repro.core.errors import UsageError
from repro.core.workspace import Workspace

JOURNALS = ("-journal", "-wal", "-shm")
"""Endings of the files that SQLite keeps next to a database and applies to whatever database has its name."""


def require_own_files(workspace: Workspace) -> None:
    """Refuse a database or a folder of artifacts that is a link: MLflow and SQLite would write and delete at its target.

    Raises:
        UsageError: one of them is a link. The message names it.
    """
    database = workspace.mlflow_db
    journals = (database.with_name(database.name + ending) for ending in JOURNALS)
    artifacts = workspace.mlflow_artifacts
    for path in (database, *journals, artifacts, artifacts / "models"):
        if path.is_symlink():
            raise UsageError(
                f"{path}: a link to {path.readlink()}, which nothing is written through: delete it, and `repro track` logs the runs to "
                "the workspace; or name a server or another database with MLFLOW_TRACKING_URI"
            )


def local_path(uri: str) -> Path:
    """Return the path of a file: address; text that is no address as it is."""
    try:
        return Path(unquote(urlparse(uri).path))
    except ValueError:
        return Path(uri)


def find_folder(uri: str, within: Path) -> Path | None:
    """Return the folder of a file: address, links resolved; None if it is not below `within`, or of another machine."""
    try:
        address, path = urlparse(uri), local_path(uri).resolve()
        # By scheme and host too: that of a server may have the same path.
        is_below = (address.scheme, address.netloc) == ("file", "") and within.resolve() in path.parents
    except (ValueError, OSError, RuntimeError):  # no address, or links in a circle
        return None
    return path if is_below else None


def is_address_of(uri: str, folder: Path) -> bool:
    """Whether a file: address is that of a folder, which need not exist: directly or by links."""
    # A name below the folder is below what the address names as well.
    return find_folder(f"{uri}/x", folder) == folder.resolve() / "x"


def is_own_folder(uri: str, within: Path) -> bool:
    """Whether files may be written to an address: a folder below `within` that has no link which leads elsewhere."""
    folder = find_folder(uri, within)
    return folder is not None and not any(path.is_symlink() for path in folder.rglob("*"))


def delete_artifacts(uri: str, within: Path) -> None:
    """Delete the folder of a run or model, whose artifacts are at `uri`, if it is below `within`."""
    folder = find_folder(uri, within)
    # Not `within` itself, and nothing through links.
    if folder is not None and within.resolve() in folder.parent.parents:
        shutil.rmtree(folder.parent, ignore_errors=True)


def move_artifacts(path: Path, experiment_id: str, before: str, now: str) -> None:
    """Change the artifact folder of the experiment and of its runs: the workspace was moved, copied or mounted elsewhere.

    MLflow stores absolute paths and has no call to change them. Nothing may be written to the folder that a copied workspace
    came from, and in a container the old path does not exist.
    """
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        database.execute("update experiments set artifact_location = ? where experiment_id = ?", (now, experiment_id))
        database.execute(
            # Only of paths below the old folder: a user may have moved single runs elsewhere.
            "update runs set artifact_uri = ? || substr(artifact_uri, ?) "
            "where experiment_id = ? and substr(artifact_uri, 1, ?) = ?",
            (now, len(before) + 1, experiment_id, len(before) + 1, f"{before}/"),
        )
        database.execute(
            "update logged_models set artifact_location = ? || substr(artifact_location, ?) "
            "where experiment_id = ? and substr(artifact_location, 1, ?) = ?",
            (now, len(before) + 1, experiment_id, len(before) + 1, f"{before}/"),
        )
