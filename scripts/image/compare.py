"""Compare the files of two images: `python compare.py A.tar B.tar`, archives that `podman export` or `docker export` wrote.

    podman create --name a actiondiff:cpu && podman export -o a.tar a

Prints what differs, one path a line with how (missing, type, mode, owner, link, content, time), and the counts. Exit code 1 if
anything differs, 2 if an archive cannot be read.
"""

import hashlib
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MOST_LINES = 100
"""Paths that are printed of each kind of difference; all are counted."""
Entry = dict[str, object]


def read_files(archive: Path) -> dict[str, Entry]:
    """Return what an archive says of every path, with the sha256 of the content of each file."""
    found: dict[str, Entry] = {}
    with tarfile.open(archive) as files:
        for one in files:
            content = files.extractfile(one) if one.isreg() else None
            found[one.name.removeprefix("./")] = {
                "type": one.type,
                "mode": one.mode,
                "owner": (one.uid, one.gid),
                "link": one.linkname,
                "content": hashlib.file_digest(content, "sha256").hexdigest() if content else "",
                "time": int(one.mtime),
            }
    return found


def list_differences(first: dict[str, Entry], second: dict[str, Entry]) -> Iterator[tuple[str, str]]:
    """Yield each path that differs and how, as "content, time"; a path that only one has is "missing from" the other."""
    for path in sorted(first.keys() | second.keys()):
        if path not in first or path not in second:
            yield path, f"missing from the {'second' if path in first else 'first'}"
        elif how := [name for name, value in first[path].items() if second[path][name] != value]:
            yield path, ", ".join(how)


def main(first: Path, second: Path) -> int:
    one, other = read_files(first), read_files(second)
    counts: Counter[str] = Counter()
    for path, how in list_differences(one, other):
        counts[how] += 1
        if counts[how] <= MOST_LINES:
            print(f"{how}: /{path}")
    print(f"{len(one)} and {len(other)} files and folders, {sum(counts.values())} differ")
    for how, count in counts.most_common():
        print(f"  {how}: {count}")
    return 1 if counts else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: compare.py A.tar B.tar")
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except (OSError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        print(
            f"compare.py: an archive cannot be read ({reason}): expected two that `podman export` wrote",
            file=sys.stderr,
        )
        sys.exit(2)
