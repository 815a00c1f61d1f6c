"""rar archives, by an installed unar (with lsar) or bsdtar: there is no free reader to ship.

The members are listed and looked at first; what was written is looked at again afterwards, as these programs decide for
themselves what they write. unar is taken where both are there: bsdtar does not check a rar's sums.
"""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

from repro.core.errors import MissingError
from repro.datasets.annotations import DataError
from repro.datasets.unpack import member_path, refuse_kind


def unpack(path: Path, into: Path) -> None:
    """Write the archive's files below `into`, which is emptied first.

    Raises:
        DataError: damaged, cut off, or a member's name is hostile.
        MissingError: neither program is installed.
    """
    shutil.rmtree(into)
    into.mkdir(parents=True)
    # Seen alone under a plain name: unar takes files beside it, named alike, for further volumes.
    alone = into.with_name(f"{into.name}.archive")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    link = alone / "archive.rar"
    link.symlink_to(path.absolute())
    try:
        if shutil.which("unar") and shutil.which("lsar"):
            _check_lsar(link, path)
            _run(["unar", "-quiet", "-no-directory", "-no-recursion", "-output-directory", str(into), str(link)], path)
        elif shutil.which("bsdtar"):
            _check_bsdtar(link, path)
            _run(["bsdtar", "-x", "-f", str(link), "-C", str(into)], path)
        else:
            raise MissingError(
                f"{path}: a rar archive, and neither unar nor bsdtar is installed: install one (Debian: unar or "
                "libarchive-tools), or unpack it yourself and pass the folder with --from"
            )
    finally:
        shutil.rmtree(alone)
    _check_tree(into, path)


def _check_lsar(link: Path, archive: Path) -> None:
    try:
        listing = json.loads(_run(["lsar", "-json", str(link)], archive))
        if listing.get("lsarError"):
            raise DataError(f"{archive}: damaged or cut off (lsar: error {listing['lsarError']}): fetch it again")
        members = listing["lsarContents"]
        for member in members:
            name = str(member["XADFileName"])
            member_path(name, archive)
            mode = stat.S_IFMT(int(member.get("XADPosixPermissions", 0)))
            if member.get("XADIsLink") or mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refuse_kind(name, archive)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{archive}: lsar cannot list it: damaged or not a rar archive: fetch it again") from error


def _check_bsdtar(link: Path, archive: Path) -> None:
    names = _run(["bsdtar", "-t", "-f", str(link)], archive).splitlines()
    kinds = [line[:1] for line in _run(["bsdtar", "-t", "-v", "-f", str(link)], archive).splitlines()]
    if len(names) != len(kinds):
        raise DataError(f"{archive}: bsdtar lists it in two ways: damaged: fetch it again")
    for name, kind in zip(names, kinds, strict=True):
        member_path(name, archive)
        if kind not in "-d":
            raise refuse_kind(name, archive)


def _check_tree(folder: Path, archive: Path) -> None:
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = Path(parent, name).lstat()
            plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if not plain:
                raise refuse_kind(str(Path(parent, name).relative_to(folder)), archive)


def _run(words: list[str], archive: Path) -> str:
    done = subprocess.run(  # noqa: S603  # one of three programs, and paths that begin with /
        words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        reason = said[-1][:160] if said else f"exit code {done.returncode}"
        raise DataError(
            f"{archive}: {words[0]} cannot unpack it ({reason}): damaged, cut off or encrypted: fetch it again"
        )
    return done.stdout
