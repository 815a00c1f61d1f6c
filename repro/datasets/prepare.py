"""Prepare a dataset's folder from the publishers' archives or from folders, in the layout that its adapter reads.

    <folder>/archives/           archives as the publishers distribute them (`repro fetch` stores them there)
    <folder>/.unpacking/<key>/   an archive being unpacked: tree/, nested/ for the archives in it, and done at the end
    <folder>/.prepared.json      the parts that each archive held, so that none is unpacked needlessly

A user's folder is linked, not copied. An archive is unpacked in `.unpacking` and moved to its place when it is complete. An
interrupted run resumes with the member it was writing (rar: with the archive). The archives are not changed.
"""

import fnmatch
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.files import write_bytes, write_json
from repro.core.hashing import content_key
from repro.core.reading import describe_absence, parse_json, read_text
from repro.core.workspace import Workspace
from repro.datasets.annotations import DataError
from repro.datasets.config import DatasetConfig, Part
from repro.datasets.unpack import archive_suffix, unpack_archive

DEPTH = 5
"""Levels of folders below a source that are searched for parts."""


@dataclass(slots=True)
class Sources:
    links: list[Path] = field(default_factory=list)
    """The user's folders and files, which are linked."""
    archives: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Placed:
    part: str
    how: str
    """there, linked or unpacked."""
    source: str


def prepare_dataset(
    config: DatasetConfig, workspace: Workspace, given: Sequence[Path], reporter: Reporter
) -> list[Placed]:
    """Put each part of the dataset into its folder, from `given` or else from its folder of archives.

    Raises:
        MissingError: a part is in none of the sources (those found are in place), or an archive is refused.
        UsageError: a source does not exist, two sources have the same part, or another process prepares the dataset.
    """
    folder = workspace.data / config.folder
    placed = [Placed(there, "there", "") for part in config.parts if (there := part.find_name(folder))]
    if not config.missing_parts(folder) and not (folder / ".unpacking").exists():
        return placed  # Before anything is written: the folder may be read-only.
    folder.mkdir(parents=True, exist_ok=True)
    # The lock is in the data set's folder, which workspaces may share.
    with Workspace(folder).lock("prepare"):
        # Again under the lock: another process may have placed the rest meanwhile.
        missing = config.missing_parts(folder)
        if not missing:
            shutil.rmtree(folder / ".unpacking", ignore_errors=True)
            return placed
        sources = _sort_sources(folder, given)
        for part in missing:
            found = _link_part(part, folder, sources.links)
            if found:
                reporter.line(f"{found.part}: linked to {found.source}")
                placed.append(found)
        if config.missing_parts(folder):
            placed += _unpack_missing_parts(config, folder, sources.archives, reporter)
        missing = config.missing_parts(folder)
    if missing:
        looked = (
            ", ".join(str(path) for path in [*sources.links, *sources.archives])
            or f"{folder / 'archives'}, which is empty"
        )
        raise MissingError(
            f"data {config.name}: no {' and no '.join(map(str, missing))} in {looked}; pass the archive or folder with --from, "
            f"or: {config.how_to_obtain(workspace)}"
        )
    return placed


def _sort_sources(folder: Path, given: Sequence[Path]) -> Sources:
    sources = Sources()
    for path in given or [folder / "archives"]:
        if not path.exists():
            if given:
                raise UsageError(f"--from {path}: {describe_absence(path, 'file or folder')}")
            continue
        if path.is_dir():
            sources.archives += sorted(
                file.absolute() for file in path.iterdir() if file.is_file() and archive_suffix(file)
            )
            sources.links.append(path.absolute())
        elif archive_suffix(path):
            sources.archives.append(path.absolute())
        else:
            sources.links.append(path.absolute())
    return sources


def _link_part(part: Part, folder: Path, sources: Sequence[Path]) -> Placed | None:
    """Link the part to the user's folder or file if one of `sources` is it or contains it."""
    # By real path: the same folder given twice, or through a link, is one match.
    found = {os.path.realpath(path): path for source in sources for path in find_part(part, source)}
    if not found:
        return None
    if len(found) > 1:
        raise UsageError(
            f"{part} could be any of {', '.join(sorted(map(str, found.values()))[:4])}: pass one with --from"
        )
    (path,) = found.values()
    name = _name_for(part, path)
    target = folder / name
    if target.is_symlink():
        target.unlink()  # A broken link, or the part would not be missing.
    # A link within the folder is relative, so that it stays valid if the folder is mounted elsewhere.
    target.symlink_to(os.path.relpath(path, folder) if path.is_relative_to(folder) else path)
    return Placed(name, "linked", str(path))


def find_part(part: Part, source: Path) -> list[Path]:
    """Find a part in `source`, a file or a folder: all matches on the first level of folders that has any."""
    # A file that is no archive can only be a part itself, such as AR_metadata.xlsx.
    if not source.is_dir():
        return [source] if not part.holds and source.name in part.names else []
    # Level by level, so that a nested copy deeper down does not count as a second match.
    level = [source]
    for _ in range(DEPTH + 1):
        if part.holds:
            hits = [folder for folder in level if _matches_pattern(folder, part.holds)]
        else:
            hits = [folder / name for folder in level for name in part.names if (folder / name).is_file()]
        if hits:
            return hits
        level = [inner for folder in level for inner in _list_folders(folder)]
    return []


def _matches_pattern(folder: Path, pattern: str) -> bool:
    first, _, rest = pattern.partition("/")
    if rest:
        return any(
            _matches_pattern(inner, rest) for inner in _list_folders(folder) if fnmatch.fnmatchcase(inner.name, first)
        )
    with os.scandir(folder) as entries:
        return any(fnmatch.fnmatchcase(entry.name, first) for entry in entries)


def _list_folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            # Links are not followed: a link to a folder above would be searched without end.
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        )


def _name_for(part: Part, path: Path) -> str:
    """Return which of the part's names `path` has, in its own name or in that of the archive it came from.

    Raises:
        UsageError: the part may have several names, and `path` has none of them.
    """
    if len(part.names) == 1:
        return part.names[0]
    for piece in reversed(path.parts):
        for name in sorted(part.names, key=len, reverse=True):
            if piece == name or piece.startswith(f"{name}."):
                return name
    raise UsageError(f"{path}: cannot tell which of {', '.join(part.names)} it is: give it that name")


def _unpack_missing_parts(
    config: DatasetConfig, folder: Path, archives: Sequence[Path], reporter: Reporter
) -> Iterator[Placed]:
    staging = folder / ".unpacking"
    record = folder / ".prepared.json"
    parts_of = _read_record(record)
    homes: dict[Path, Path] = {}
    for archive in archives:
        stat = archive.stat()
        # Name, size and time, since hashing an archive of 15 GB takes minutes.
        key = content_key([archive.name, stat.st_size, stat.st_mtime_ns])
        # The path contains the archive's name, from which `_name_for` recognises the two sizes of Charades-Ego.
        home = staging / key / archive.name
        if (
            key in parts_of
            and not home.exists()
            and not any(str(part) in parts_of[key] for part in config.missing_parts(folder))
        ):
            continue
        if not (home / "done").exists():
            reporter.line(f"unpacking {archive}")
            try:
                _unpack_all(archive, home)
            except DataError:
                # Nothing of a damaged or hostile archive is used. One whose first bytes are wrong left no folder.
                shutil.rmtree(staging / key, ignore_errors=True)
                if staging.is_dir() and not any(staging.iterdir()):
                    staging.rmdir()
                raise
            # Recorded before `done`: once `done` exists, the archive is not unpacked again.
            parts_of[key] = [str(part) for part in config.parts if _find_unpacked(part, home)]
            write_json(record, parts_of)
            write_bytes(home / "done", b"")
        homes[home] = archive
    for part in config.missing_parts(folder):
        found = {path: archive for home, archive in homes.items() for path in _find_unpacked(part, home)}
        # The two sizes of Charades-Ego are one part with two names; clips of both must not be mixed.
        names = {_name_for(part, path.relative_to(staging)) for path in found}
        names |= {name for name in part.names if _merged_folder(staging, name).exists()}
        if len(names) > 1:
            raise UsageError(f"archives of {' and of '.join(sorted(names))}: pass those of one with --from")
        for name in names:
            origin = ", ".join(sorted({archive.name for archive in found.values()}))
            _move_to_place(folder / name, list(found), _merged_folder(staging, name))
            reporter.line(f"{name}: unpacked from {origin}")
            yield Placed(name, "unpacked", origin)
    # Last: until every part is in its place, a killed run can resume from what is unpacked.
    if staging.exists():
        shutil.rmtree(staging)


def _find_unpacked(part: Part, home: Path) -> list[Path]:
    """Find a part in an unpacked archive and in the archives that were inside it."""
    return [path for tree in (home / "tree", home / "nested") if tree.is_dir() for path in find_part(part, tree)]


def _unpack_all(archive: Path, home: Path) -> None:
    """Unpack an archive to home/tree, and each archive inside it to the same path below home/nested, without its suffix.

    An inner archive is deleted once it is unpacked, so that a resumed run does not unpack it again.
    """
    tree = home / "tree"
    if not (home / "unpacked").exists():
        unpack_archive(archive, tree)
        write_bytes(home / "unpacked", b"")
    inner = sorted(path for path in tree.rglob("*") if path.is_file() and archive_suffix(path))
    targets = [home / "nested" / str(path.relative_to(tree))[: -len(archive_suffix(path))] for path in inner]
    if len(set(targets)) < len(targets):
        raise DataError(f"{archive}: two archives in it have the same name but for their type: unpack it yourself")
    for path, target in zip(inner, targets, strict=True):
        if not target.exists():
            # Renamed when complete, so that a target that exists needs no second look.
            partial = target.with_name(f".{target.name}")
            unpack_archive(path, partial)
            partial.rename(target)
        path.unlink()


def _merged_folder(staging: Path, name: str) -> Path:
    return staging / f"merged-{name}"


def _move_to_place(target: Path, found: Sequence[Path], merged: Path) -> None:
    """Move what was found to `target`.

    The contents of several folders (HMDB51 has an archive per class) are first moved into `merged`, where an interrupted
    run may have left some of them.
    """
    if target.is_symlink():
        target.unlink()  # A broken link, or the part would not be missing.
    if len(found) == 1 and not merged.exists():
        # A rename within one file system: the part appears complete or not at all.
        found[0].rename(target)
        return
    merged.mkdir(exist_ok=True)
    for folder in found:
        for inner in sorted(folder.iterdir()):
            # Two archives with the same class folder may be of different versions: neither is overwritten.
            if (merged / inner.name).exists():
                raise DataError(
                    f"{target.name}: '{inner.name}' is in two of the archives: pass one of them with --from"
                )
            inner.rename(merged / inner.name)
    merged.rename(target)


def _read_record(path: Path) -> dict[str, list[str]]:
    try:
        return {str(key): [str(name) for name in names] for key, names in parse_json(read_text(path)).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
