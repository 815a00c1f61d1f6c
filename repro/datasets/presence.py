"""Missing clips of a split, and the error if they were not allowed to be missing."""

import os
from dataclasses import replace
from pathlib import Path

from repro.core.errors import MissingError
from repro.datasets.manifest import Manifest
from repro.datasets.split import Split

Entries = dict[str, os.DirEntry[str]]


def find_missing(
    split: Split, folder: Path | None, manifest: Manifest | None = None, *, allow_damaged: bool = False
) -> dict[str, str]:
    """Find the clips that cannot be read. Only names and sizes are checked, one folder at a time.

    Args:
        split: The clips to look for.
        folder: The dataset's folder. A clip that a link in it places elsewhere counts as missing. None: of a user's own
            table, whose clips may be anywhere.
        manifest: Of an audit. Clips that did not decode in it completely, and still have the same size, count as missing.
        allow_damaged: Clips of which a part decoded count as present.

    Returns:
        By clip id, in the split's order: why the clip is missing, and where it is listed.
    """
    # By size as well: a clip that was replaced since the audit gets another chance.
    faults = {
        facts.id: facts
        for facts in (manifest.clips if manifest else ())
        if facts.error and not (allow_damaged and facts.frames)
    }
    folders: dict[str, Entries | str] = {}
    gone = {}
    for clip in split.clips:
        parent, name = os.path.split(clip.path)
        # One scan per folder: tens of thousands of single lookups would take minutes on a network disk.
        if parent not in folders:
            folders[parent] = _scan_folder(parent, folder)
        found = folders[parent]
        why, size = _check_file(found, name, folder) if isinstance(found, dict) else (found, 0)
        if not why and clip.id in faults and faults[clip.id].bytes == size:
            why = f"it did not decode completely when it was audited ({faults[clip.id].error})"
        if why:
            gone[clip.id] = f"{clip.path}: {why} (listed in {clip.listed})"
    return gone


def _scan_folder(parent: str, folder: Path | None) -> Entries | str:
    """Return the entries of a folder by name, or why the folder is not read."""
    real = os.path.realpath(parent)
    if folder is not None and not _is_within(real, _real_top(parent, folder)):
        return f"{parent} is a link that leads out of the data set, to {real}: not read"
    try:
        with os.scandir(parent) as entries:
            return {entry.name: entry for entry in entries}
    except OSError as error:
        return f"{(error.strerror or str(error)).lower()}"


def _check_file(entries: Entries, name: str, folder: Path | None) -> tuple[str, int]:
    """Return why a file cannot be read, an empty string if it can, and its size in bytes."""
    entry = entries.get(name)
    if entry is None:
        return "no such file", 0
    # A link is read only within the data set, so that an unpacked archive cannot make us read other files of the user.
    if folder is not None and entry.is_symlink():
        real = os.path.realpath(entry.path)
        if not _is_within(real, _real_top(entry.path, folder)):
            return f"a link that leads out of the data set, to {real}: not read", 0
    if not entry.is_file():
        return "a folder, expected a file" if entry.is_dir() else "not a regular file", 0
    # Empty files are what an interrupted copy leaves.
    size = entry.stat().st_size
    return ("" if size else "the file is empty (0 bytes)"), size


def _real_top(path: str, folder: Path) -> str:
    """Return the real path of the folder of all clips, which may itself be a link made by the user."""
    return os.path.realpath(folder / Path(path).relative_to(folder).parts[0])


def _is_within(real: str, top: str) -> bool:
    return real == top or real.startswith(f"{top}{os.sep}")


def without_missing(
    split: Split,
    folder: Path | None,
    *,
    allow_missing: bool = False,
    allow_damaged: bool = False,
    manifest: Manifest | None = None,
) -> tuple[Split, tuple[str, ...]]:
    """Return `split` without its missing clips, and their ids, which the run record stores.

    Raises:
        MissingError: clips are missing and allow_missing is False, or all clips are missing.
    """
    gone = find_missing(split, folder, manifest, allow_damaged=allow_damaged)
    # Missing clips change the score, so they are an error by default; a split without any clip has no score at all.
    if gone and (not allow_missing or len(gone) == len(split.clips)):
        # Three are enough to recognise what is missing.
        shown = "; ".join(list(gone.values())[:3]) + ("; ..." if len(gone) > 3 else "")
        name = split.name.dataset
        remedy = (
            f"get them (`repro data status {name}` lists what is present)"
            if allow_missing
            else f"get them (`repro data prepare {name}`), or pass --allow-missing, which is recorded and widens the interval"
        )
        if folder is None:
            remedy = "correct its table of clips" + (
                "" if allow_missing else ", or pass --allow-missing, which is recorded"
            )
        if any(": damaged: " in why or "(damaged: " in why for why in gone.values()):
            remedy += "; --allow-damaged uses what decodes of damaged ones"
        raise MissingError(f"{split.name}: {len(gone)} of {len(split.clips)} clips are missing: {shown}: {remedy}")
    left = tuple(clip for clip in split.clips if clip.id not in gone)
    return replace(split, clips=left), tuple(gone)
