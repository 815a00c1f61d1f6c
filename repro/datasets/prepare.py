"""Prepare a dataset's folder from the publishers' archives or from folders, in the layout that its adapter reads.

    <folder>/archives/           archives as the publishers distribute them (`repro fetch` stores them there)
    <folder>/.unpacking/<key>/   an archive being unpacked: tree/, nested/ for the archives in it, and done at the end
    <folder>/.prepared.json      the parts that each archive held, so that none is unpacked needlessly

A user's folder is linked, not copied. A part that is in a source that the user names replaces the one in place: a link is
removed, a folder is renamed. An archive is unpacked in `.unpacking` and moved to its place when it is complete. An
interrupted run resumes with the member it was writing (rar: with the archive). The archives are not changed.
"""

import fnmatch
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.files import set_aside, write_bytes, write_json
from repro.core.hashing import content_key
from repro.core.locks import remove_partials
from repro.core.reading import describe_absence, parse_json, read_text
from repro.core.workspace import Workspace
from repro.datasets.annotations import DataError
from repro.datasets.config import DatasetConfig, RequiredPath
from repro.datasets.unpack import archive_suffix, most_unpacked, unpack_archive

DEPTH = 5
"""Levels of folders below a source that are searched for parts."""


@dataclass(slots=True)
class Sources:
    links: list[Path] = field(default_factory=list)
    """The user's folders and files, which are linked."""
    archives: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Archives in the user's folders that by their names are not of the dataset; they are not unpacked."""


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

    Parts in place are kept, unless `given` has them in another folder or archive, which then replaces them.

    Raises:
        MissingError: a part is in none of the sources (those found are in place), or an archive is refused.
        UsageError: a source does not exist, two sources have the same part, or another process prepares the dataset.
    """
    folder = workspace.data / config.folder
    sources = _sort_sources(config, folder, given)
    remove_partials(folder)  # of killed runs; each has a lock of its own
    placed = {part: Placed(there, "there", "") for part in config.parts if (there := part.find_name(folder))}
    # Before anything is written: the folder may be read-only.
    if (
        len(placed) == len(config.parts)
        and not (folder / ".unpacking").exists()
        and not _has_other(config, folder, sources)
    ):
        if given:
            reporter.line(f"{config.name}: nothing in {', '.join(map(str, given))} that is not in place already")
        return list(placed.values())
    folder.mkdir(parents=True, exist_ok=True)
    # The lock is in the data set's folder, which workspaces may share.
    with Workspace(folder).lock("prepare"):
        # Looked up under the lock: another process may have placed parts meanwhile.
        wanted = list(config.parts if given else config.missing_parts(folder))
        if not wanted:
            shutil.rmtree(folder / ".unpacking", ignore_errors=True)
            return list(placed.values())
        for part in wanted:
            found = _link_part(part, folder, sources.links, reporter)
            if found:
                placed[part] = found
        wanted = [part for part in wanted if part not in placed or placed[part].how == "there"]
        if wanted and sources.archives:
            placed |= _unpack_parts(config, folder, wanted, sources.archives, reporter)
        missing = config.missing_parts(folder)
    if missing:
        raise MissingError(_explain_missing_parts(config, folder, missing, sources, workspace))
    return [placed[part] for part in config.parts]


def _explain_missing_parts(
    config: DatasetConfig, folder: Path, missing: Sequence[RequiredPath], sources: Sources, workspace: Workspace
) -> str:
    looked = (
        ", ".join(str(path) for path in [*sources.links, *sources.archives]) or f"{folder / 'archives'}, which is empty"
    )
    # Named, because a publisher's archive may have been renamed.
    others = ", ".join(path.name for path in sources.others[:5])
    return (
        f"data {config.name}: no {' and no '.join(map(str, missing))} in {looked}; pass the archive or folder with --from"
        + (f" (not unpacked, because of their names: {others})" if others else "")
        + f", or: {config.how_to_obtain(workspace)}"
    )


def _has_other(config: DatasetConfig, folder: Path, sources: Sources) -> bool:
    """Whether a source may hold a part that is not the one in place."""
    links = (_find_one(part, folder, source) for part in config.parts for source in [sources.links])
    known = _read_record(folder / ".prepared.json")
    return any(links) or any(_archive_key(archive) not in known for archive in sources.archives)


def _sort_sources(config: DatasetConfig, folder: Path, given: Sequence[Path]) -> Sources:
    sources = Sources()
    own = folder / "archives"
    for path in given or [own]:
        if not path.exists():
            if given:
                raise UsageError(f"--from {path}: {describe_absence(path, 'file or folder')}")
            continue
        if path.is_dir():
            archives = sorted(file.absolute() for file in path.iterdir() if file.is_file() and archive_suffix(file))
            # A folder of the user, such as ~/Downloads, has archives of other things too.
            everything = path.resolve() == own.resolve()
            sources.archives += [file for file in archives if everything or is_named_for(config, file)]
            sources.others += [file for file in archives if not (everything or is_named_for(config, file))]
            sources.links.append(path.absolute())
        elif archive_suffix(path):
            sources.archives.append(path.absolute())
        else:
            sources.links.append(path.absolute())
    return sources


def is_named_for(config: DatasetConfig, archive: Path) -> bool:
    """Whether an archive has the name of the dataset, of one of its parts or of a file that its publisher distributes."""
    names = [
        config.name,
        *(file.file for file in config.files),
        *(name for part in config.parts for name in part.names),
    ]
    return bool(archive_suffix(archive)) and _plain_name(archive.name) in map(_plain_name, names)


def is_in_place(config: DatasetConfig, folder: Path, archive: str) -> bool:
    """Whether the part that an archive has the name of is in place: UCF101.rar is not needed if UCF-101 is there."""
    there = (name for part in config.parts if part.find_name(folder) for name in part.names)
    return _plain_name(archive) in map(_plain_name, there)


def _plain_name(name: str) -> str:
    """A name in small letters and digits alone, without an archive's suffix."""
    suffix = archive_suffix(Path(name))
    return re.sub("[^a-z0-9]", "", name[: len(name) - len(suffix)].lower())


def _find_one(part: RequiredPath, folder: Path, sources: Sequence[Path]) -> Path | None:
    """Find the part in the user's folders and files; None if it is in none of them, or is the one in place.

    Raises:
        UsageError: several of them have it.
    """
    # By real path: the same folder given twice, or through a link, is one match.
    found = {os.path.realpath(path): path for source in sources for path in find_part(part, source)}
    there = part.find_name(folder)
    if there and os.path.realpath(folder / there) in found:
        return None
    if len(found) > 1:
        raise UsageError(
            f"{part} could be any of {', '.join(sorted(map(str, found.values()))[:4])}: pass one with --from"
        )
    return next(iter(found.values()), None)


def _link_part(part: RequiredPath, folder: Path, sources: Sequence[Path], reporter: Reporter) -> Placed | None:
    """Link the part to the user's folder or file if one of `sources` is it or contains it, and is not the one in place."""
    path = _find_one(part, folder, sources)
    if path is None:
        return None
    name = _name_for(part, path)
    _clear_place(part, folder, reporter)
    # A link within the folder is relative, so that it stays valid if the folder is mounted elsewhere.
    (folder / name).symlink_to(os.path.relpath(path, folder) if path.is_relative_to(folder) else path)
    reporter.line(f"{name}: linked to {path}")
    _record_source(folder, part, ())
    return Placed(name, "linked", str(path))


def _clear_place(part: RequiredPath, folder: Path, reporter: Reporter) -> None:
    """Remove links with the part's names, broken ones too, and rename files and folders with them."""
    for name in part.names:
        target = folder / name
        if target.is_symlink():
            if target.exists():
                reporter.line(f"{name}: no longer linked to {os.path.realpath(target)}")
            target.unlink()
        elif target.exists():
            reporter.line(
                f"{name}: the one in place is kept as {set_aside(target, 'replaced').name}; delete it if you like"
            )


def find_part(part: RequiredPath, source: Path) -> list[Path]:
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
        # DEPTH bounds the search: --from may name a home folder.
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


def _name_for(part: RequiredPath, path: Path) -> str:
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


def _unpack_parts(
    config: DatasetConfig, folder: Path, wanted: Sequence[RequiredPath], archives: Sequence[Path], reporter: Reporter
) -> dict[RequiredPath, Placed]:
    """Unpack archives that may hold a part of `wanted`, unless that part came from them, and put the parts into their place."""
    staging = folder / ".unpacking"
    record = folder / ".prepared.json"
    parts_of = _read_record(record)
    missing = {str(part) for part in config.missing_parts(folder)}
    homes: dict[Path, Path] = {}
    for archive in archives:
        key = _archive_key(archive)
        # The path contains the archive's name, from which `_name_for` recognises the two sizes of Charades-Ego.
        home = staging / key / archive.name
        # A part that is in place came from this archive, or the archive would not be in the record.
        if key in parts_of and not home.exists() and missing.isdisjoint(parts_of[key]):
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
        # Also those that an earlier run unpacked: a part may be in place only after the last archive.
        homes[home] = archive
    placed = {}
    for part in wanted:
        found = {path: archive for home, archive in homes.items() for path in _find_unpacked(part, home)}
        # The two sizes of Charades-Ego are one part with two names; clips of both must not be mixed.
        names = {_name_for(part, path.relative_to(staging)) for path in found}
        names |= {name for name in part.names if _merged_folder(staging, name).exists()}
        if len(names) > 1:
            raise UsageError(f"archives of {' and of '.join(sorted(names))}: pass those of one with --from")
        for name in names:
            origin = ", ".join(sorted({archive.name for archive in found.values()}))
            _move_to_place(part, folder / name, list(found), _merged_folder(staging, name), reporter)
            _record_source(folder, part, [_archive_key(archive) for archive in homes.values()])
            reporter.line(f"{name}: unpacked from {origin}")
            placed[part] = Placed(name, "unpacked", origin)
    # Last: until every part is in its place, a killed run can resume from what is unpacked.
    if staging.exists():
        shutil.rmtree(staging)
    return placed


def _archive_key(archive: Path) -> str:
    stat = archive.stat()
    # Name, size and time, since hashing an archive of 15 GB takes minutes.
    return content_key([archive.name, stat.st_size, stat.st_mtime_ns])


def _find_unpacked(part: RequiredPath, home: Path) -> list[Path]:
    """Find a part in an unpacked archive and in the archives that were inside it."""
    return [path for tree in (home / "tree", home / "nested") if tree.is_dir() for path in find_part(part, tree)]


def _unpack_all(archive: Path, home: Path) -> None:
    """Unpack an archive to home/tree, and each archive inside it to the same path below home/nested, without its suffix.

    An inner archive is deleted once it is unpacked, so that a resumed run does not unpack it again.
    """
    tree = home / "tree"
    if not (home / "unpacked").exists():
        _unpack_synced(archive, tree)
        write_bytes(home / "unpacked", b"")
    inner = sorted(path for path in tree.rglob("*") if path.is_file() and archive_suffix(path))
    targets = [home / "nested" / str(path.relative_to(tree))[: -len(archive_suffix(path))] for path in inner]
    if len(set(targets)) < len(targets):
        raise DataError(f"{archive}: two archives in it have the same name but for their type: unpack it yourself")
    # Archives in archives multiply: together they may be as large as one archive.
    most = most_unpacked(archive)
    for path, target in zip(inner, targets, strict=True):
        if not target.exists():
            # Renamed when complete, so that a target that exists needs no second look.
            partial = target.with_name(f".{target.name}")
            most -= _unpack_synced(path, partial, most)
            partial.rename(target)
        path.unlink()


def _unpack_synced(archive: Path, into: Path, most: int | None = None) -> int:
    size = unpack_archive(archive, into, most)
    # Else a power cut could leave empty files that count as unpacked. All at once: a sync of each of 30,000 files takes minutes.
    os.sync()
    return size


def _merged_folder(staging: Path, name: str) -> Path:
    return staging / f"merged-{name}"


def _move_to_place(part: RequiredPath, target: Path, found: Sequence[Path], merged: Path, reporter: Reporter) -> None:
    """Move what was found of `part` to `target`, in place of what is there.

    The contents of several folders (HMDB51 has an archive per class) are first moved into `merged`, where an interrupted
    run may have left some of them.
    """
    if len(found) == 1 and not merged.exists():
        _clear_place(part, target.parent, reporter)
        # A rename within one file system: the part appears complete or not at all.
        # From `.unpacking` in the same folder, which is why archives are unpacked there.
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
    _clear_place(part, target.parent, reporter)
    merged.rename(target)


def _record_source(folder: Path, part: RequiredPath, keys: Sequence[str]) -> None:
    """Remove archives other than `keys` that held `part` from the record: given again, they replace what is in place now."""
    record = folder / ".prepared.json"
    parts_of = _read_record(record)
    kept = {key: names for key, names in parts_of.items() if key in keys or str(part) not in names}
    if kept != parts_of:
        write_json(record, kept)


def _read_record(path: Path) -> dict[str, list[str]]:
    try:
        return {str(key): [str(name) for name in names] for key, names in parse_json(read_text(path)).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
